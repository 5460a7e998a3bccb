//! The only place that writes to a node, and only when a person asks: `picketd fix`.
//!
//! A plan is made from the verdicts, shown, carried out, and checked by looking at the node again. What did not help,
//! or broke something else, is taken back.

mod step;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use picket_checks::{Control, DEFAULT_DATA_DIR, Modifier, Op, Source};
use picket_host::{Host, Kind};
use picket_model::{Status, Verdict};

pub use step::{RepairError, Step};

use step::own_file;

use crate::advice::{self, DropIn};
use crate::source::config::Configuration;
use crate::source::sysctls::as_path;

/// Where kernel parameters are written.
const SYSCTLS: &str = "/etc/sysctl.d/90-picket.conf";
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

/// All changes for some controls.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Changes, in order.
    pub steps: Vec<Step>,
    /// What is left to a person.
    pub refused: Vec<Refused>,
    /// Controls that fail and are dealt with by the steps.
    pub controls: Vec<String>,
}

/// Whether picket can repair what a control finds.
pub fn can(control: &Control) -> bool {
    by_setting(control)
        || match control.expected.op {
            Op::ModeAtMost | Op::OwnerIs => control.what.first().is_some_and(|w| w.starts_with(['/', '<'])),
            Op::Eq | Op::PersistedEquals => control.source == Source::Sysctl,
            _ => false,
        }
}

fn by_setting(control: &Control) -> bool {
    BY_SETTING.contains(&control.id.as_str()) && advice::plain(control, DEFAULT_DATA_DIR).is_some()
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
    for (control, rows) in wanted {
        let failing: Vec<&&Verdict> = rows.iter().filter(|v| v.status == Status::Fail).collect();
        if failing.is_empty() {
            continue;
        }
        let (steps, refused) = (plan.steps.len(), plan.refused.len());
        let mut planned = false;
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
            Op::Eq if control.source == Source::Sysctl => {
                for (key, value) in control.what.iter().zip(std::iter::repeat(control.expected.text())) {
                    sysctls.insert(key.clone(), value);
                    planned = true;
                }
            }
            Op::PersistedEquals => {
                for (key, value) in control.expected.value.as_object().into_iter().flatten() {
                    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    sysctls.insert(key.clone(), value);
                    planned = true;
                }
            }
            _ => {
                for (key, setting) in advice::plain(control, data_dir).unwrap_or_default().0 {
                    settings.add(&key, setting);
                    planned = true;
                }
            }
        }
        if planned || plan.steps.len() > steps {
            plan.controls.push(control.id.clone());
        } else if plan.refused.len() == refused {
            plan.refuse(control, &control.id, "nothing of it can be changed by a mode or an owner");
        }
    }
    plan.settings(host, configuration, &settings);
    plan.sysctls(host, &sysctls);
    plan
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
                return self.refuse(control, path, "a link: change what it leads to by hand");
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

    fn settings(&mut self, host: &Host, configuration: &Configuration, settings: &DropIn) {
        if settings.0.is_empty() {
            return;
        }
        let refused = |reason: String| Refused {
            control: self.controls.join(" "),
            subject: "configuration of K3s".to_owned(),
            reason,
        };
        if let Some(problem) = configuration.problems.first() {
            let reason = format!("K3s would not start with what is on disk now; first: {}", problem.detail);
            return self.refused.push(refused(reason));
        }
        let Some(path) = drop_in_path(configuration) else {
            return self.refused.push(refused("K3s reads no configuration file here".to_owned()));
        };
        let old = match own_file(host, &path) {
            Ok(old) => old,
            Err(reason) => return self.refused.push(refused(format!("{path}: {reason}"))),
        };
        let mut all = match old.as_deref().map(DropIn::parse).transpose() {
            Ok(all) => all.unwrap_or_default(),
            Err(reason) => return self.refused.push(refused(format!("{path}: {reason}"))),
        };
        for (key, setting) in &settings.0 {
            all.add(key, setting.clone());
        }
        let new = all.print();
        if old.as_ref() != Some(&new) {
            self.push(Step::Write { path, old, new, mode: 0o600 });
        }
    }

    fn sysctls(&mut self, host: &Host, wanted: &BTreeMap<String, String>) {
        if wanted.is_empty() {
            return;
        }
        let old = match own_file(host, SYSCTLS) {
            Ok(old) => old,
            Err(reason) => {
                let control = self.controls.join(" ");
                return self.refused.push(Refused { control, subject: SYSCTLS.to_owned(), reason });
            }
        };
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
        if old.as_ref() != Some(&new) {
            self.push(Step::Write { path: SYSCTLS.to_owned(), old, new, mode: 0o644 });
        }
        if !host.is_live() {
            return;
        }
        for (key, value) in wanted {
            if let Ok(now) = host.sysctl(&as_path(key))
                && now != *value
            {
                self.push(Step::Live { key: key.clone(), old: now, new: value.clone() });
            }
        }
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
