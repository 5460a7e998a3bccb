//! The only place that writes to a node, and only when a person asks: `picketd fix`.
//!
//! A plan is made from the verdicts, shown, carried out, and checked by looking at the node again. What did not help,
//! or broke something else, is taken back.

mod foresee;
mod step;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use picket_checks::{Control, DEFAULT_DATA_DIR, Modifier, Op, Source};
use picket_host::{Host, Kind};
use picket_model::{Status, Verdict};
use serde_json::Value;

pub use foresee::foresee;
pub use step::{RepairError, Step};

use step::own_file;

use crate::advice::{self, DropIn};
use crate::report::text::printable;
use crate::source::config::Configuration;
use crate::source::sysctls::as_path;

/// Where kernel parameters are written.
pub const SYSCTLS: &str = "/etc/sysctl.d/90-picket.conf";
/// The name of picket's own file in `config.yaml.d`.
const DROP_IN: &str = "90-picket.yaml";

/// Controls on K3s' configuration that one setting decides and that cannot keep a cluster from starting. Encryption,
/// datastores, networks and what needs a file beside the setting are a person's work.
const BY_SETTING: [&str; 25] = [
    "apiserver-always-pull-images",
    "apiserver-audit-log-maxage",
    "apiserver-audit-log-maxbackup",
    "apiserver-audit-log-maxsize",
    "apiserver-deny-service-external-ips",
    "apiserver-node-restriction",
    "apiserver-profiling-off",
    "apiserver-request-timeout",
    "apiserver-sa-token-no-extension",
    "apiserver-service-account-lookup",
    "ccm-bind-loopback",
    "ccm-profiling-off",
    "k3s-write-kubeconfig-mode",
    "kcm-bind-loopback",
    "kcm-profiling-off",
    "kcm-terminated-pod-gc",
    "kcm-use-service-account-credentials",
    "kubelet-iptables-util-chains",
    "kubelet-pod-pids-limit",
    "kubelet-read-only-port",
    "kubelet-seccomp-default",
    "kubelet-streaming-timeout",
    "kubelet-tls-ciphers",
    "scheduler-bind-loopback",
    "scheduler-profiling-off",
];

/// Files below `<data-dir>/server` that K3s compares with its datastore at start: a newer one keeps it from starting.
const COMPARED: [&str; 15] = [
    "tls/client-ca.crt",
    "tls/client-ca.key",
    "tls/server-ca.crt",
    "tls/server-ca.key",
    "tls/request-header-ca.crt",
    "tls/request-header-ca.key",
    "tls/etcd/server-ca.crt",
    "tls/etcd/server-ca.key",
    "tls/etcd/peer-ca.crt",
    "tls/etcd/peer-ca.key",
    "tls/service.key",
    "cred/passwd",
    "cred/ipsec.psk",
    "cred/encryption-config.json",
    "cred/encryption-state.json",
];

/// What is not done, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The control.
    pub control: String,
    /// What it is about.
    pub subject: String,
    /// Why, and what a person can do.
    pub reason: String,
}

impl Refused {
    /// As a person reads it.
    pub fn line(&self) -> String {
        format!("{} {}: not changed: {}", self.control, printable(&self.subject), printable(&self.reason))
    }
}

/// All changes for some controls.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Changes, in order.
    pub steps: Vec<Step>,
    /// What is left to a person.
    pub refused: Vec<Refused>,
    /// Controls that fail and are dealt with by the steps.
    pub controls: Vec<String>,
    /// Those of them that a file of picket's own deals with: what something stronger undoes is no help.
    pub written: Vec<String>,
}

/// Whether picket can repair what a control finds.
pub fn can(control: &Control) -> bool {
    by_setting(control)
        || match control.expected.op {
            Op::ModeAtMost | Op::OwnerIs => control.what.first().is_some_and(|w| w.starts_with(['/', '<'])),
            _ => !kernel_parameters(control).is_empty(),
        }
}

fn by_setting(control: &Control) -> bool {
    BY_SETTING.contains(&control.id.as_str()) && advice::plain(control, DEFAULT_DATA_DIR).is_some()
}

/// The kernel parameters a control asks for; none where it asks for something else.
pub fn kernel_parameters(control: &Control) -> BTreeMap<String, String> {
    let expected = &control.expected;
    if control.source != Source::Sysctl {
        return BTreeMap::new();
    }
    match expected.op {
        Op::Eq => control.what.iter().map(|key| (key.clone(), expected.text())).collect(),
        Op::PersistedEquals => {
            let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            expected.value.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), text(value))).collect()
        }
        _ => BTreeMap::new(),
    }
}

/// The path of picket's own file beside the configuration file K3s reads; none where K3s reads none.
pub fn drop_in_path(configuration: &Configuration) -> Option<String> {
    let sources = configuration.sources();
    let folder = sources.iter().find_map(|main| {
        let folder = format!("{main}.d");
        (!main.contains("/systemd/") && sources.contains(&folder)).then_some(folder)
    })?;
    Some(format!("{folder}/{DROP_IN}"))
}

/// Makes a plan for the failing rows of some controls.
pub fn plan(host: &Host, configuration: &Configuration, data_dir: &str, wanted: &[(&Control, Vec<&Verdict>)]) -> Plan {
    let mut plan = Plan::default();
    let mut settings = DropIn::default();
    let mut sysctls: BTreeMap<String, String> = BTreeMap::new();
    let (mut by_setting_of, mut by_sysctl_of) = (Vec::new(), Vec::new());
    for (control, rows) in wanted {
        let failing: Vec<&&Verdict> = rows.iter().filter(|v| v.status == Status::Fail).collect();
        if failing.is_empty() {
            continue;
        }
        let (steps, refused) = (plan.steps.len(), plan.refused.len());
        let mut by_text = None;
        match control.expected.op {
            _ if !can(control) => {
                let remedy = &control.remedy;
                let reason =
                    format!("picket does not repair this. What to do: {remedy} (`picketd explain {}`)", control.id);
                plan.refuse(control, &control.id, &reason);
            }
            Op::ModeAtMost | Op::OwnerIs if !by_setting(control) => {
                for row in failing {
                    plan.file(host, control, &row.subject, data_dir);
                }
            }
            _ if control.source == Source::Sysctl => {
                sysctls.extend(kernel_parameters(control));
                by_text = Some(&mut by_sysctl_of);
            }
            _ => {
                let in_use = |name: &str| configuration.options.contains_key(name);
                for (key, setting) in advice::plain(control, data_dir).unwrap_or_default().named_as(in_use).0 {
                    settings.add(&key, setting);
                    by_text = Some(&mut by_setting_of);
                }
            }
        }
        if let Some(controls) = by_text {
            controls.push(control.id.clone());
        } else if plan.steps.len() > steps {
            plan.controls.push(control.id.clone());
        } else if plan.refused.len() == refused {
            plan.refuse(control, &control.id, "nothing of it can be changed by a mode or an owner");
        }
    }
    let done = plan.settings(host, configuration, &settings);
    plan.by_text(by_setting_of, "configuration of K3s", done);
    let done = plan.sysctls(host, &sysctls);
    plan.by_text(by_sysctl_of, SYSCTLS, done);
    plan
}

/// The file a link leads to, where that stands in the link's own folder, as with the links K3s makes. What lies
/// elsewhere may be in use for something else.
fn end_beside(host: &Host, link: &str) -> Option<String> {
    let trail = host.trail(link.as_ref());
    let folder = host.trail(Path::new(link).parent()?).end;
    let beside = trail.outcome == Ok(Kind::File) && trail.end.parent() == Some(&folder);
    trail.end.to_str().filter(|_| beside).map(str::to_owned)
}

impl Plan {
    fn refuse(&mut self, control: &Control, subject: &str, reason: &str) {
        let (control, subject) = (control.id.clone(), subject.to_owned());
        self.refused.push(Refused { control, subject, reason: reason.to_owned() });
    }

    /// Mode and owner of one file or folder.
    fn file(&mut self, host: &Host, control: &Control, path: &str, data_dir: &str) {
        let server = format!("{data_dir}/server/");
        if path.strip_prefix(&server).is_some_and(|rest| COMPARED.contains(&rest)) {
            let reason = "K3s compares this file with its datastore and may refuse to start after a change; stop K3s \
                          first and use chmod or chown, which leave its content and time alone";
            return self.refuse(control, path, reason);
        }
        let meta = match host.lstat(path.as_ref()) {
            Ok(meta) if meta.kind == Kind::Link => {
                return match end_beside(host, path).filter(|_| control.expected.is(Modifier::FollowSymlink)) {
                    Some(end) => self.file(host, control, &end, data_dir),
                    None => self.refuse(control, path, "a link: change what it leads to by hand"),
                };
            }
            Ok(meta) => meta,
            Err(reason) => return self.refuse(control, path, &reason.to_string()),
        };
        if meta.kind == Kind::File && meta.links > 1 {
            return self.refuse(control, path, "it has a second name somewhere (hard link); look at both first");
        }
        if !matches!(meta.kind, Kind::File | Kind::Folder) {
            return self.refuse(control, path, "neither file nor folder");
        }
        let owner = control.expected.op == Op::OwnerIs || control.expected.get(Modifier::AndOwner).is_some();
        if owner && (meta.uid, meta.gid) != (0, 0) {
            self.push(Step::Owner { path: path.to_owned(), old: (meta.uid, meta.gid) });
        }
        if control.expected.op == Op::ModeAtMost
            && let Some(limit) = control.expected.mode()
            && meta.mode & !limit != 0
        {
            // A limit for files may leave a folder without the bit that lets one enter it.
            let limit = if meta.kind == Kind::Folder { limit | 0o100 } else { limit };
            self.push(Step::Mode { path: path.to_owned(), old: meta.mode, new: meta.mode & limit });
        }
    }

    fn push(&mut self, step: Step) {
        if !self.steps.contains(&step) {
            self.steps.push(step);
        }
    }

    /// What became of the controls a file of picket's own was to deal with.
    fn by_text(&mut self, controls: Vec<String>, subject: &str, done: Result<(), String>) {
        match done {
            _ if controls.is_empty() => {}
            Ok(()) => {
                self.controls.extend(controls.iter().cloned());
                self.written.extend(controls);
            }
            Err(reason) => {
                self.refused.push(Refused { control: controls.join(" "), subject: subject.to_owned(), reason });
            }
        }
    }

    fn settings(&mut self, host: &Host, configuration: &Configuration, settings: &DropIn) -> Result<(), String> {
        if settings.0.is_empty() {
            return Ok(());
        }
        if let Some(problem) = configuration.problems.first() {
            let unread = problem.is_blindness();
            let words =
                if unread { "what is on disk is not known" } else { "K3s would not start with what is on disk now" };
            return Err(format!("{words}; first: {}", problem.detail));
        }
        let path = drop_in_path(configuration).ok_or("K3s reads no configuration file here")?;
        let old = own_file(host, &path).map_err(|reason| format!("{path}: {reason}"))?;
        let read = old.as_deref().map(DropIn::parse).transpose();
        let mut all = read.map_err(|reason| format!("{path}: {reason}"))?.unwrap_or_default();
        for (key, setting) in &settings.0 {
            all.add(key, setting.clone());
        }
        let new = all.print();
        if old.as_ref() == Some(&new) {
            return Err(format!(
                "{path} says so already, and something stronger undoes it (`picketd explain` names it)"
            ));
        }
        self.push(Step::write(host, path, old, new, 0o600));
        Ok(())
    }

    fn sysctls(&mut self, host: &Host, wanted: &BTreeMap<String, String>) -> Result<(), String> {
        if wanted.is_empty() {
            return Ok(());
        }
        let old = own_file(host, SYSCTLS)?;
        // Lines of other keys stay as they are.
        let is_ours = |line: &&str| {
            let key = line.split('=').next().unwrap_or_default().trim().trim_start_matches('-');
            line.trim_start().starts_with(['#', ';']) || !wanted.contains_key(key)
        };
        let mut new: String = match &old {
            Some(old) => old.lines().filter(is_ours).fold(String::new(), |all, line| all + line + "\n"),
            None => "# Written by `picketd fix`.\n".to_owned(),
        };
        for (key, value) in wanted {
            // Writing into a text cannot fail.
            let _ = writeln!(new, "{key} = {value}");
        }
        let before = self.steps.len();
        if old.as_ref() != Some(&new) {
            self.push(Step::write(host, SYSCTLS.to_owned(), old, new, 0o644));
        }
        for (key, value) in wanted.iter().filter(|_| host.is_live()) {
            if let Ok(now) = host.sysctl(&as_path(key))
                && now != *value
            {
                self.push(Step::Live { key: key.clone(), old: now, new: value.clone() });
            }
        }
        if self.steps.len() == before {
            return Err("it says so already, and something stronger undoes it (`picketd explain` names it)".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_in_the_list_of_settings_can_be_written() {
        let catalogue = picket_checks::Catalogue::built_in().unwrap();
        for id in BY_SETTING {
            assert!(can(catalogue.get(id).unwrap_or_else(|| panic!("{id}"))), "{id}");
        }
        for id in ["k3s-secrets-encryption-flag", "apiserver-event-rate-limit", "k3s-flannel-encrypted", "trap-refused"]
        {
            assert!(!can(catalogue.get(id).unwrap()), "{id}");
        }
    }
}
