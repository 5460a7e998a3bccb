//! Yes-or-no fields, derived once for each event.

use super::{View, some};
use crate::event::Text;
use crate::identity::{
    KUBE_SYSTEM, is_component, is_controller_account, is_core, is_packaged_account, is_system_namespace,
};

/// Yes-or-no fields that cost nothing to ask again, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Flags(pub(crate) u32);

macro_rules! flags {
    ($($name:ident = $text:literal, $at:literal;)*) => {
        impl Flags {
            $(pub(crate) const $name: u32 = 1 << $at;)*

            /// The bit of the field with this name.
            pub(crate) fn bit(name: &str) -> Option<u32> {
                match name {
                    $($text => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

flags! {
    DONE = "done", 0;
    FINAL = "final", 1;
    OK = "ok", 2;
    DENIED = "denied", 3;
    MODIFY = "modify", 4;
    WRITE = "write", 5;
    CREATED = "created", 6;
    IS_SA = "is_sa", 7;
    IS_NODE = "is_node", 8;
    HUMAN = "human", 9;
    CORE = "core", 10;
    KCM = "kcm", 11;
    PACKAGED = "packaged", 12;
    HELM_JOB = "helm_job", 13;
    SYSTEM_NS = "system_ns", 14;
    OWN_NAMESPACE = "own_namespace", 15;
    OWN_NODE = "own_node", 16;
    IMPERSONATED = "impersonated", 17;
    FORWARDED = "forwarded", 18;
    DRY_RUN = "dry_run", 19;
    ANNOTATED = "annotated", 20;
    ERROR = "error", 21;
    BLOCKED = "blocked_address", 22;
    COMPONENT = "component", 23;
}

impl Flags {
    fn set(&mut self, bit: u32, on: bool) {
        if on {
            self.0 |= bit;
        }
    }
}

impl View<'_> {
    pub(super) fn derive(&self, first_final: bool) -> Flags {
        let mut flags = Flags::default();
        // A hand-made line without a stage is a whole request.
        let stage = self.stage().unwrap_or("ResponseComplete");
        let done = stage == "ResponseComplete";
        let is_final = (done || stage == "ResponseStarted" || stage == "Panic") && first_final;
        flags.set(Flags::DONE, done);
        flags.set(Flags::FINAL, is_final);
        let blocked = |ips: &Vec<Text<'_>>| ips.iter().any(|ip| self.site.is_blocked(ip));
        flags.set(Flags::BLOCKED, self.event.source_ips.as_ref().is_some_and(blocked));
        if !(done || is_final) {
            return flags;
        }
        let verb = self.verb().unwrap_or("");
        let modify = matches!(verb, "create" | "update" | "patch");
        let write = modify || matches!(verb, "delete" | "deletecollection");
        let code = self.code();
        let decision = self.annotation("authorization.k8s.io/decision");
        let dry_run = write && self.is_dry_run(verb);
        let ok = !dry_run
            && match code {
                Some(code) => (200..300).contains(&code) || code == 101,
                None => decision == Some("allow"),
            };
        let denied = match decision {
            Some(decision) => decision == "forbid",
            None => code == Some(403),
        };
        let imp = self.impersonated();
        let actor = self.actor().unwrap_or("");
        let is_sa = actor.starts_with("system:serviceaccount:");
        let user = self.user.unwrap_or("");
        flags.set(Flags::OK, ok);
        flags.set(Flags::DENIED, denied);
        flags.set(Flags::DRY_RUN, dry_run);
        flags.set(Flags::ERROR, code.is_some_and(|code| code >= 400));
        flags.set(Flags::MODIFY, modify);
        flags.set(Flags::WRITE, write);
        flags.set(Flags::CREATED, verb == "create" || (modify && code == Some(201)));
        flags.set(Flags::IS_SA, is_sa);
        flags.set(Flags::IS_NODE, actor.starts_with("system:node:"));
        flags.set(Flags::HUMAN, !actor.is_empty() && (!actor.starts_with("system:") || actor == "system:admin"));
        flags.set(Flags::IMPERSONATED, imp.is_some());
        let agent = some(&self.event.user_agent);
        // A certificate of K3s used by another program is not K3s.
        let component = agent.is_some_and(is_component);
        flags.set(Flags::COMPONENT, component);
        flags.set(Flags::CORE, imp.is_none() && is_core(user) && (component || agent.is_none()));
        if let Some(account) = actor.strip_prefix(KUBE_SYSTEM) {
            flags.set(Flags::PACKAGED, is_packaged_account(account));
            flags.set(Flags::HELM_JOB, account.starts_with("helm-"));
            // The controller manager appends the account to its user agent. A token of such an account used with
            // kubectl is not the controller manager.
            flags.set(
                Flags::KCM,
                imp.is_none()
                    && is_controller_account(account)
                    && agent.is_none_or(|agent| agent.strip_suffix(user).is_some_and(|head| head.ends_with('/'))),
            );
        }
        if let Some(ns) = self.ns() {
            flags.set(Flags::SYSTEM_NS, is_system_namespace(ns));
            flags.set(
                Flags::OWN_NAMESPACE,
                actor
                    .strip_prefix("system:serviceaccount:")
                    .and_then(|rest| rest.split_once(':'))
                    .is_some_and(|(own, _)| own == ns),
            );
        }
        flags.set(
            Flags::OWN_NODE,
            user.strip_prefix("system:node:").is_some_and(|node| Some(node) == self.object_name()),
        );
        flags.set(Flags::FORWARDED, self.event.source_ips.as_ref().is_some_and(|ips| ips.len() > 1));
        flags.set(Flags::ANNOTATED, self.event.annotations.is_some());
        flags
    }
}
