//! The field taxonomy: an audit event as Sigma rules see it. FIELDS.md lists the names.
//!
//! Raw fields carry their audit names (`objectRef.resource`), so that public rules load unchanged. Derived fields
//! (`actor`, `ok`, `final`, …) say once, in code, what every rule would have to say again. Cheap ones are computed
//! when the view is made, the others when a rule asks.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::net::IpAddr;

use rsigma_eval::EventValue;
use serde_json::Value;

use crate::body;
use crate::event::{Event, Text};
use crate::identity::{KUBE_SYSTEM, is_controller_account, is_core, is_packaged_account, is_system_namespace};
use crate::known::Before;
use crate::site::Site;

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
}

impl Flags {
    fn set(&mut self, bit: u32, on: bool) {
        if on {
            self.0 |= bit;
        }
    }
}

/// An event with what is derived from it.
pub(crate) struct View<'e> {
    pub(crate) event: &'e Event<'e>,
    site: &'e Site,
    pub(crate) flags: Flags,
    /// What is known from earlier events.
    pub(crate) before: Before,
    user: Option<&'e str>,
    request: OnceCell<Option<Value>>,
    response: OnceCell<Option<Value>>,
    command: OnceCell<Option<String>>,
}

fn some<'e>(text: &'e Option<Text<'_>>) -> Option<&'e str> {
    text.as_deref().filter(|text| !text.is_empty())
}

impl<'e> View<'e> {
    /// `first_final` is false for a ResponseComplete whose ResponseStarted was seen (E2).
    pub(crate) fn new(event: &'e Event<'e>, site: &'e Site, first_final: bool) -> Self {
        let mut view = Self {
            event,
            site,
            flags: Flags::default(),
            before: Before::default(),
            user: event.user.as_ref().and_then(|user| user.username.as_deref()),
            request: OnceCell::new(),
            response: OnceCell::new(),
            command: OnceCell::new(),
        };
        view.flags = view.derive(first_final);
        view
    }

    fn derive(&self, first_final: bool) -> Flags {
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
        flags.set(Flags::CORE, imp.is_none() && is_core(user));
        if let Some(account) = actor.strip_prefix(KUBE_SYSTEM) {
            flags.set(Flags::PACKAGED, is_packaged_account(account));
            flags.set(Flags::HELM_JOB, account.starts_with("helm-"));
            // The controller manager appends the account to its user agent. A token of such an account used with
            // kubectl is not the controller manager.
            let agent = some(&self.event.user_agent);
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

    fn is_dry_run(&self, verb: &str) -> bool {
        let query = self.query().unwrap_or("");
        if query.contains("dryRun=") && query_values(query, "dryRun").any(|value| value == "All") {
            return true;
        }
        matches!(verb, "delete" | "deletecollection")
            && self.event.request_object.is_some_and(|raw| raw.get().contains("\"dryRun\""))
            && self
                .request()
                .and_then(|request| request.get("dryRun")?.as_array())
                .is_some_and(|list| list.iter().any(|item| item == "All"))
    }

    /// Whether any of these bits is set.
    pub(crate) fn flag(&self, bits: u32) -> bool {
        self.flags.0 & bits != 0
    }

    pub(crate) fn stage(&self) -> Option<&'e str> {
        some(&self.event.stage)
    }

    pub(crate) fn verb(&self) -> Option<&'e str> {
        some(&self.event.verb)
    }

    pub(crate) fn code(&self) -> Option<i64> {
        self.event.response_status.as_ref()?.code.filter(|code| *code != 0)
    }

    pub(crate) fn user(&self) -> Option<&'e str> {
        self.user
    }

    pub(crate) fn impersonated(&self) -> Option<&'e str> {
        let user = self.event.impersonated_user.as_ref()?;
        Some(user.username.as_deref().unwrap_or(""))
    }

    pub(crate) fn actor(&self) -> Option<&'e str> {
        self.impersonated().or(self.user)
    }

    pub(crate) fn ip(&self) -> Option<&'e str> {
        self.event.source_ips.as_ref()?.last().map(|ip| &**ip)
    }

    pub(crate) fn res(&self) -> Option<&'e str> {
        some(&self.event.object_ref.as_ref()?.resource)
    }

    pub(crate) fn group(&self) -> Option<&'e str> {
        Some(self.event.object_ref.as_ref()?.api_group.as_deref().unwrap_or(""))
    }

    pub(crate) fn sub(&self) -> Option<&'e str> {
        some(&self.event.object_ref.as_ref()?.subresource)
    }

    pub(crate) fn ns(&self) -> Option<&'e str> {
        some(&self.event.object_ref.as_ref()?.namespace)
    }

    pub(crate) fn object_name(&self) -> Option<&'e str> {
        some(&self.event.object_ref.as_ref()?.name)
    }

    /// The object's name; of an object created with `generateName` the one it got (E8).
    pub(crate) fn name(&self) -> Option<Cow<'_, str>> {
        if let Some(name) = self.object_name() {
            return Some(Cow::Borrowed(name));
        }
        if self.verb() != Some("create") || self.sub().is_some() || self.event.response_object.is_none() {
            return None;
        }
        let response = self.response()?;
        if response.get("kind").and_then(Value::as_str) == Some("Status") {
            return None;
        }
        response.pointer("/metadata/name")?.as_str().filter(|name| !name.is_empty()).map(Cow::Borrowed)
    }

    pub(crate) fn annotation(&self, key: &str) -> Option<&str> {
        self.event.annotations.as_ref()?.get(key).map(|value| &**value)
    }

    pub(crate) fn message(&self) -> Option<&'e str> {
        some(&self.event.response_status.as_ref()?.message)
    }

    pub(crate) fn uri(&self) -> Option<&'e str> {
        some(&self.event.request_uri)
    }

    fn query(&self) -> Option<&'e str> {
        self.uri()?.split_once('?').map(|(_, query)| query)
    }

    pub(crate) fn path(&self) -> Option<&'e str> {
        self.uri().map(|uri| uri.split_once('?').map_or(uri, |(path, _)| path))
    }

    fn decode(raw: Option<&serde_json::value::RawValue>) -> Option<Value> {
        let text = raw?.get();
        if text.len() > body::MAX_BODY {
            return None;
        }
        serde_json::from_str(text).ok().filter(|value: &Value| !value.is_null())
    }

    pub(crate) fn request(&self) -> Option<&Value> {
        self.request.get_or_init(|| Self::decode(self.event.request_object)).as_ref()
    }

    pub(crate) fn response(&self) -> Option<&Value> {
        self.response.get_or_init(|| Self::decode(self.event.response_object)).as_ref()
    }

    /// The object that the request was about: what was sent, or for a patch what it produced.
    pub(crate) fn body(&self) -> Option<&Value> {
        if self.event.request_object.is_none() && self.event.response_object.is_none() {
            return None;
        }
        let produced =
            || self.response().filter(|response| response.get("kind").and_then(Value::as_str) != Some("Status"));
        match self.request() {
            Some(request) if self.verb() == Some("patch") => {
                produced().or_else(|| request.is_object().then_some(request))
            }
            Some(request) => Some(request),
            None => produced(),
        }
    }

    pub(crate) fn podspec(&self) -> Option<&Value> {
        body::podspec(self.res()?, self.body()?)
    }

    /// The command line of an exec, from the query (at every level) or the body.
    pub(crate) fn command(&self) -> Option<&str> {
        self.command
            .get_or_init(|| {
                let from_query = self.query().map(|query| {
                    query_values(query, "command").map(Cow::into_owned).take(1024).collect::<Vec<_>>().join(" ")
                });
                from_query.filter(|command| !command.is_empty()).or_else(|| {
                    let words = self.request()?.get("command")?.as_array()?;
                    Some(words.iter().filter_map(Value::as_str).take(1024).collect::<Vec<_>>().join(" "))
                })
            })
            .as_deref()
    }

    /// A pod of a packaged component: made in kube-system by K3s itself, and only from rancher's images.
    fn packaged_pod(&self) -> bool {
        let by_k3s = self.flag(Flags::CORE | Flags::KCM | Flags::PACKAGED | Flags::HELM_JOB);
        self.ns() == Some("kube-system")
            && by_k3s
            && self.images().is_some_and(|images| {
                images.iter().all(|image| {
                    image.starts_with("rancher/")
                        || image.strip_prefix("docker.io/").is_some_and(|image| image.starts_with("rancher/"))
                })
            })
    }

    fn images(&self) -> Option<Vec<&str>> {
        let images: Vec<&str> =
            body::containers(self.podspec()?).filter_map(|container| container.get("image")?.as_str()).collect();
        (!images.is_empty()).then_some(images)
    }

    /// The workload behind the object.
    pub(crate) fn owner(&self) -> Option<String> {
        self.body().and_then(body::owner).or_else(|| self.name().map(Cow::into_owned))
    }

    /// The value of a key field of a rule's `by` or `distinct`, as text.
    pub(crate) fn key_part(&self, field: &str) -> Cow<'_, str> {
        match field {
            "owner" => return Cow::Owned(self.owner().unwrap_or_default()),
            "responseStatus.code" => return self.key_part("code"),
            "name" => return self.name().unwrap_or_default(),
            _ => {}
        }
        match self.field(field) {
            EventValue::Str(text) => text,
            EventValue::Int(number) => Cow::Owned(number.to_string()),
            EventValue::Bool(yes) => Cow::Owned(yes.to_string()),
            EventValue::Array(items) => {
                let texts: Vec<_> = items.iter().filter_map(EventValue::as_str).collect();
                Cow::Owned(texts.join(","))
            }
            _ => Cow::Borrowed(""),
        }
    }

    /// A field by name; absent is null.
    pub(crate) fn field(&self, field: &str) -> EventValue<'_> {
        if let Some(bit) = Flags::bit(field) {
            return EventValue::Bool(self.flags.0 & bit != 0);
        }
        let text = |value: Option<&'e str>| value.map_or(EventValue::Null, |v| EventValue::Str(Cow::Borrowed(v)));
        let event = self.event;
        match field {
            "kind" => text(some(&event.kind)),
            "apiVersion" => text(some(&event.api_version)),
            "stage" => text(self.stage()),
            "level" => text(some(&event.level)),
            "audit_id" | "auditID" => text(some(&event.audit_id)),
            "verb" => text(self.verb()),
            "uri" | "requestURI" => text(self.uri()),
            "path" => text(self.path()),
            "user" | "user.username" => text(self.user),
            "has_user" => EventValue::Bool(event.user.is_some()),
            "uid" | "user.uid" => text(event.user.as_ref().and_then(|user| some(&user.uid))),
            "groups" | "user.groups" => list(event.user.as_ref().and_then(|user| user.groups.as_ref())),
            "imp" | "impersonatedUser.username" => text(self.impersonated()),
            "imp_groups" | "impersonatedUser.groups" => {
                list(event.impersonated_user.as_ref().and_then(|user| user.groups.as_ref()))
            }
            "actor" => text(self.actor()),
            "actor_groups" => {
                list(event.impersonated_user.as_ref().or(event.user.as_ref()).and_then(|user| user.groups.as_ref()))
            }
            "ip" => text(self.ip()),
            "ips" | "sourceIPs" => list(event.source_ips.as_ref()),
            "ip_24" => self.ip().map_or(EventValue::Null, |ip| EventValue::Str(Cow::Owned(network_of(ip)))),
            "ip_family" => EventValue::Str(Cow::Borrowed(match self.ip().map(str::parse::<IpAddr>) {
                Some(Ok(IpAddr::V4(_))) => "4",
                Some(Ok(IpAddr::V6(_))) => "6",
                _ => "",
            })),
            "loopback" => {
                EventValue::Bool(self.ip().is_some_and(|ip| ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())))
            }
            "public_ip" => EventValue::Bool(self.is_from_public_ip()),
            "outside_cluster" => EventValue::Bool(self.ip().is_some_and(|ip| self.is_outside_cluster(ip))),
            "ua" | "userAgent" => text(some(&event.user_agent)),
            "ua_prefix" => text(some(&event.user_agent).map(product)),
            "group" | "objectRef.apiGroup" | "apiGroup" => text(self.group()),
            "res" | "objectRef.resource" | "resource" => text(self.res()),
            "sub" | "objectRef.subresource" | "subresource" => text(self.sub()),
            "ns" | "objectRef.namespace" | "namespace" => text(self.ns()),
            "objectRef.name" => text(self.object_name()),
            "objectRef.apiVersion" => text(event.object_ref.as_ref().and_then(|object| some(&object.api_version))),
            "name" => self.name().map_or(EventValue::Null, EventValue::Str),
            "uri_gvr" => EventValue::Str(Cow::Owned(format!(
                "{}/{}/{}",
                self.group().unwrap_or(""),
                event.object_ref.as_ref().and_then(|object| some(&object.api_version)).unwrap_or(""),
                self.res().unwrap_or("")
            ))),
            "code" => self.code().map_or(EventValue::Null, EventValue::Int),
            "responseStatus.code" => self.code().map_or(EventValue::Null, |code| self.code_and_decision(code)),
            "reason" | "responseStatus.reason" => {
                text(event.response_status.as_ref().and_then(|status| some(&status.reason)))
            }
            "responseStatus.status" => text(event.response_status.as_ref().and_then(|status| some(&status.status))),
            "msg" | "responseStatus.message" => text(self.message()),
            "msg_webhook" => text(self.message().and_then(|message| message.split('"').nth(1))),
            "decision" => self.borrowed(self.annotation("authorization.k8s.io/decision")),
            "annotation_keys" => event.annotations.as_ref().map_or(EventValue::Null, |pairs| {
                EventValue::Array(pairs.iter().map(|(key, _)| EventValue::Str(Cow::Borrowed(key))).collect())
            }),
            "failed_open" => self.borrowed(event.annotations.as_ref().and_then(|pairs| {
                pairs.iter().find(|(key, _)| key.starts_with("failed-open.")).map(|(_, value)| &**value)
            })),
            "cmd" => self.borrowed(self.command()),
            "allowed_user" => EventValue::Bool(self.user.is_some_and(|user| self.site.allows_user(user))),
            "allowed_node" => EventValue::Bool(self.name().is_some_and(|name| self.site.allows_node(&name))),
            "allowed_namespace" => EventValue::Bool(self.name().is_some_and(|name| self.site.allows_namespace(&name))),
            "has_podspec" => EventValue::Bool(self.podspec().is_some()),
            "packaged_pod" => EventValue::Bool(self.packaged_pod()),
            "podspec.controller_sa" => EventValue::Bool(
                self.podspec()
                    .and_then(|spec| spec.get("serviceAccountName")?.as_str())
                    .is_some_and(is_controller_account),
            ),
            "controller_sa" => EventValue::Bool(self.name().is_some_and(|name| is_controller_account(&name))),
            "hostpaths" | "hostPath" => owned_list(self.podspec().map(body::hostpaths)),
            "caps" | "capabilities" => owned_list(self.podspec().map(body::capabilities)),
            "images" => owned_list(self.images().map(|images| images.into_iter().map(str::to_owned).collect())),
            "images.outside_allowed" => owned_list(self.images().map(|images| {
                images
                    .into_iter()
                    .map(body::full_image)
                    .filter(|image| self.site.refuses_image(image))
                    .map(Cow::into_owned)
                    .collect()
            })),
            "pv_hostpath" => self
                .body()
                .and_then(|body| body.pointer("/spec/hostPath/path")?.as_str())
                .map_or(EventValue::Null, |path| EventValue::Str(Cow::Owned(body::normal_path(path)))),
            "subjects" => owned_list(self.body().map(body::subjects)),
            "grants" => owned_list(self.body().and_then(|body| body.get("rules")).map(body::grants)),
            "pss_enforce" => self
                .request()
                .and_then(body::pss_enforce)
                .map_or(EventValue::Null, |level| EventValue::Str(Cow::Owned(level))),
            "pss_weakened" => self.before.pss_weakened.map_or(EventValue::Null, EventValue::Bool),
            "template_changed" => self.before.template_changed.map_or(EventValue::Null, EventValue::Bool),
            "denied_elsewhere" => EventValue::Bool(self.before.denied_elsewhere),
            "pod_gone" => EventValue::Bool(self.before.pod_gone),
            "node_pods" => EventValue::Int(self.before.node_pods),
            "wildcard" => self
                .body()
                .and_then(|body| body::wildcard(body.get("rules")?))
                .map_or(EventValue::Null, |reach| EventValue::Str(Cow::Borrowed(reach))),
            "patched" => owned_list(
                (self.verb() == Some("patch")).then(|| self.request().map(body::patched).unwrap_or_default()),
            ),
            "csr.user" => owned_list(self.body().and_then(body::csr_subject).map(|(names, _)| names)),
            "csr.groups" => owned_list(self.body().and_then(body::csr_subject).map(|(_, groups)| groups)),
            "chart.outside_allowed" => owned_list(self.body().map(|body| self.refused_chart(body))),
            "netpol.allow_all" => EventValue::Bool(self.request().is_some_and(body::allows_all)),
            "data.keys" | "data.values" => self.config_data(field == "data.keys"),
            _ => self.path_field(field),
        }
    }

    /// The code, and whether the request was allowed: a public rule asks for the word.
    fn code_and_decision(&self, code: i64) -> EventValue<'_> {
        let word = if self.flag(Flags::DENIED) { "FORBID" } else { "ALLOW" };
        EventValue::Array(vec![EventValue::Int(code), EventValue::Str(Cow::Borrowed(word))])
    }

    /// Whether the address is one the whole world can reach, and none of the cluster's own.
    pub(crate) fn is_from_public_ip(&self) -> bool {
        self.ip().is_some_and(|ip| is_public(ip) && !self.site.is_of_cluster(ip))
    }

    fn is_outside_cluster(&self, ip: &str) -> bool {
        if self.site.cluster_networks.is_empty() {
            return is_public(ip);
        }
        ip.parse::<IpAddr>().is_ok_and(|address| !address.is_loopback()) && !self.site.is_of_cluster(ip)
    }

    /// What a HelmChart runs or fetches from elsewhere than the allowed registries.
    fn refused_chart(&self, body: &Value) -> Vec<String> {
        let text = |field: &str| body.get("spec")?.get(field)?.as_str();
        let fetched = ["repo", "chart"]
            .into_iter()
            .filter_map(|field| text(field)?.split_once("://").map(|(_, rest)| rest.to_owned()));
        let image = text("jobImage").map(|image| body::full_image(image).into_owned());
        fetched.chain(image).filter(|from| self.site.refuses_image(from)).collect()
    }

    fn borrowed<'v>(&self, value: Option<&'v str>) -> EventValue<'v> {
        value.map_or(EventValue::Null, |value| EventValue::Str(Cow::Borrowed(value)))
    }

    /// Keys or values of a ConfigMap; never of a Secret (E11).
    fn config_data(&self, keys: bool) -> EventValue<'_> {
        let data = (self.res() == Some("configmaps"))
            .then(|| self.body().and_then(|body| body.get("data")?.as_object()))
            .flatten();
        let Some(data) = data else { return EventValue::Null };
        EventValue::Array(if keys {
            data.keys().map(|key| EventValue::Str(Cow::Borrowed(key.as_str()))).collect()
        } else {
            data.values().filter_map(Value::as_str).map(|value| EventValue::Str(Cow::Borrowed(value))).collect()
        })
    }

    /// `annotations.<key>`, `extra.<key>`, `q.<key>`, and paths into bodies.
    fn path_field(&self, field: &str) -> EventValue<'_> {
        let Some((head, rest)) = field.split_once('.') else {
            return match field {
                "requestObject" | "req" => exists(self.request()),
                "responseObject" | "resp" => exists(self.response()),
                "body" => exists(self.body()),
                "podspec" => exists(self.podspec()),
                "containers" => self.each_container(""),
                _ => EventValue::Null,
            };
        };
        match head {
            "annotations" => self.borrowed(self.annotation(rest)),
            "extra" => {
                list(self.event.user.as_ref().and_then(|user| user.extra.as_ref()).and_then(|extra| extra.get(rest)))
            }
            "user" => rest.strip_prefix("extra.").map_or(EventValue::Null, |key| {
                list(self.event.user.as_ref().and_then(|user| user.extra.as_ref()).and_then(|extra| extra.get(key)))
            }),
            "q" => self
                .query()
                .and_then(|query| query_values(query, rest).next())
                .map_or(EventValue::Null, EventValue::Str),
            "req" | "requestObject" => at(self.request(), rest),
            "resp" | "responseObject" => at(self.response(), rest),
            "body" => at(self.body(), rest),
            "podspec" => at(self.podspec(), rest),
            "containers" => self.each_container(rest),
            "rules" | "roleref" | "subjects" => {
                let name = if head == "roleref" { "roleRef" } else { head };
                at(self.body().and_then(|body| body.get(name)), rest)
            }
            _ => EventValue::Null,
        }
    }

    fn each_container(&self, path: &str) -> EventValue<'_> {
        let Some(spec) = self.podspec() else { return EventValue::Null };
        let mut found = Vec::new();
        for container in body::containers(spec) {
            body::collect(container, path, &mut found);
        }
        values(found)
    }
}

/// Whether a rule may ask for a field of this name.
pub(crate) fn is_field(field: &str) -> bool {
    const PATHS: [&str; 13] = [
        "annotations",
        "extra",
        "q",
        "req",
        "requestObject",
        "resp",
        "responseObject",
        "body",
        "podspec",
        "containers",
        "rules",
        "roleref",
        "subjects",
    ];
    const NAMES: &str = " kind apiVersion stage level audit_id auditID verb uri requestURI path user user.username uid \
        user.uid groups user.groups imp impersonatedUser.username imp_groups impersonatedUser.groups actor \
        actor_groups ip ips sourceIPs ip_24 ip_family loopback public_ip ua userAgent ua_prefix group \
        objectRef.apiGroup apiGroup res objectRef.resource resource sub objectRef.subresource subresource ns \
        objectRef.namespace namespace objectRef.name objectRef.apiVersion name uri_gvr code responseStatus.code \
        reason responseStatus.reason responseStatus.status msg responseStatus.message msg_webhook decision \
        annotation_keys failed_open cmd allowed_user allowed_node allowed_namespace has_podspec packaged_pod hostpaths \
        hostPath caps capabilities images images.outside_allowed pv_hostpath grants pss_enforce netpol.allow_all \
        has_user controller_sa pss_weakened template_changed denied_elsewhere node_pods pod_gone wildcard patched csr.user csr.groups \
        chart.outside_allowed outside_cluster \
        data.keys data.values owner ";
    let head = field.split('.').next().unwrap_or(field);
    Flags::bit(field).is_some()
        || PATHS.contains(&head)
        || field.starts_with("user.extra.")
        || NAMES.split_ascii_whitespace().any(|name| name == field)
}

impl rsigma_eval::Event for View<'_> {
    fn get_field(&self, path: &str) -> Option<EventValue<'_>> {
        // Absent is null: `field: null` and lists holding null then match either.
        Some(self.field(path))
    }

    fn any_string_value(&self, pred: &dyn Fn(&str) -> bool) -> bool {
        self.all_string_values().iter().any(|value| pred(value))
    }

    fn all_string_values(&self) -> Vec<Cow<'_, str>> {
        ["verb", "uri", "user", "imp", "ua", "res", "sub", "ns", "name", "msg", "cmd", "ip"]
            .iter()
            .filter_map(|field| match self.field(field) {
                EventValue::Str(text) => Some(text),
                _ => None,
            })
            .collect()
    }

    fn to_json(&self) -> Value {
        // Asked for only by rules that want the whole event in their result. Ours never carry a body.
        serde_json::json!({ "auditID": self.event.audit_id.as_deref() })
    }
}

fn exists(value: Option<&Value>) -> EventValue<'_> {
    if value.is_some() { EventValue::Map(Vec::new()) } else { EventValue::Null }
}

fn at<'v>(value: Option<&'v Value>, path: &str) -> EventValue<'v> {
    let Some(value) = value else { return EventValue::Null };
    let mut found = Vec::new();
    body::collect(value, path, &mut found);
    values(found)
}

fn values(found: Vec<&Value>) -> EventValue<'_> {
    let mut out: Vec<EventValue<'_>> = found
        .into_iter()
        .filter_map(|value| match value {
            Value::Null => None,
            Value::Bool(yes) => Some(EventValue::Bool(*yes)),
            Value::Number(number) => Some(
                number.as_i64().map_or_else(|| EventValue::Float(number.as_f64().unwrap_or(f64::NAN)), EventValue::Int),
            ),
            Value::String(text) => Some(EventValue::Str(Cow::Borrowed(text))),
            Value::Array(_) | Value::Object(_) => Some(EventValue::Map(Vec::new())),
        })
        .collect();
    match out.len() {
        0 => EventValue::Null,
        1 => out.pop().unwrap_or(EventValue::Null),
        _ => EventValue::Array(out),
    }
}

fn list<'v>(texts: Option<&'v Vec<Text<'_>>>) -> EventValue<'v> {
    match texts {
        Some(texts) if !texts.is_empty() => {
            EventValue::Array(texts.iter().map(|text| EventValue::Str(Cow::Borrowed(&**text))).collect())
        }
        _ => EventValue::Null,
    }
}

fn owned_list<'v>(texts: Option<Vec<String>>) -> EventValue<'v> {
    match texts {
        Some(texts) if !texts.is_empty() => {
            EventValue::Array(texts.into_iter().map(|text| EventValue::Str(Cow::Owned(text))).collect())
        }
        _ => EventValue::Null,
    }
}

/// A user agent's product, without its version.
pub(crate) fn product(agent: &str) -> &str {
    agent.split(['/', ' ', '@']).next().unwrap_or(agent)
}

/// Values of one query parameter, decoded.
fn query_values<'q, 'k>(query: &'q str, key: &'k str) -> impl Iterator<Item = Cow<'q, str>> + use<'q, 'k> {
    query.split('&').filter_map(move |pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (percent_decode(name) == key).then(|| percent_decode(value))
    })
}

fn percent_decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.as_bytes();
    while let [first, rest @ ..] = bytes {
        bytes = rest;
        match first {
            b'+' => out.push(b' '),
            b'%' => match rest {
                [high, low, tail @ ..] => match (hex(*high), hex(*low)) {
                    (Some(high), Some(low)) => {
                        out.push(high << 4 | low);
                        bytes = tail;
                    }
                    _ => out.push(b'%'),
                },
                _ => out.push(b'%'),
            },
            byte => out.push(*byte),
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// An address the whole world can reach.
fn is_public(ip: &str) -> bool {
    match ip.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => is_public_v4(ip),
        Ok(IpAddr::V6(ip)) => match ip.to_ipv4_mapped() {
            Some(ip) => is_public_v4(ip),
            None => !(ip.is_loopback() || ip.is_unspecified() || ip.is_unique_local() || ip.is_unicast_link_local()),
        },
        Err(_) => false,
    }
}

fn is_public_v4(ip: std::net::Ipv4Addr) -> bool {
    let [a, b, ..] = ip.octets();
    // 100.64.0.0/10 is shared between carriers and their customers (RFC 6598).
    !(ip.is_loopback() || ip.is_private() || ip.is_link_local() || ip.is_unspecified() || (a == 100 && b & 0xc0 == 64))
}

/// The /24 or /64 an address is in.
fn network_of(ip: &str) -> String {
    match ip.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => {
            let [a, b, c, _] = ip.octets();
            format!("{a}.{b}.{c}.0/24")
        }
        Ok(IpAddr::V6(ip)) => {
            let [a, b, c, d, ..] = ip.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
        Err(_) => ip.to_owned(),
    }
}
