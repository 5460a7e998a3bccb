//! What to write where, so that a control passes: lines for K3s' configuration in the form that keeps K3s' own
//! defaults, files that go with them, and what has to be restarted.

mod drop_in;

use picket_checks::{Control, DEFAULT_DATA_DIR, Modifier, NodeConfig, Op, Source};
use picket_model::Role;

pub use drop_in::{DropIn, NotOurs, Setting};

/// What becomes of a file that a setting names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Make,
    /// The node's configuration names it already: the text is to be added to its list of plugins.
    AddPlugin,
    /// The node's configuration names it already: the text is a whole that does what is asked.
    Replace,
}

/// A file that a setting names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Companion {
    /// Its path.
    pub path: String,
    /// What becomes of it.
    pub change: Change,
    /// What it has to hold, or what has to be added.
    pub text: String,
}

/// What makes a control pass.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Advice {
    /// Settings.
    pub settings: DropIn,
    /// A file without which they do nothing, or keep the API server from starting.
    pub file: Option<Companion>,
}

/// An audit policy that every control on policies passes: bodies of what may hold a secret are never logged, and those
/// that detections look into are.
const AUDIT_POLICY: &str = include_str!("advice/audit.yaml");
/// The head of an admission configuration.
const ADMISSION: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n";
/// Its section on pods.
const POD_SECURITY: &str = include_str!("advice/pod-security.yaml");
/// Its section on floods of events.
const EVENT_RATE_LIMIT: &str = include_str!("advice/event-rate-limit.yaml");

/// What makes a control pass; none where that is not a matter of settings. `config` is what is set now.
pub fn of(control: &Control, data_dir: &str, config: Option<&NodeConfig>) -> Option<Advice> {
    let set = |flag: &str| -> Option<String> {
        let values = config?.components.get("kube-apiserver")?.get(flag)?.possible.first()?;
        values.last().map(|setting| setting.value.clone()).filter(|value| !value.is_empty())
    };
    let mut advice = Advice::default();
    let mut items: Vec<String> = Vec::new();
    let admission = |section: &str, items: &mut Vec<String>| {
        let flag = "admission-control-config-file";
        let current = set(flag);
        let path = current.clone().unwrap_or_else(|| format!("{data_dir}/server/psa.yaml"));
        let (change, text) = match current {
            Some(_) => (Change::AddPlugin, section.to_owned()),
            None => {
                items.push(format!("{flag}={path}"));
                (Change::Make, format!("{ADMISSION}{section}"))
            }
        };
        Some(Companion { path, change, text })
    };
    let policy_path = set("audit-policy-file");
    match control.id.as_str() {
        // K3s makes the file and passes the flag itself.
        "apiserver-encryption-provider-config" => {
            advice.settings.add("secrets-encryption", Setting::Value("true".to_owned()));
        }
        "psa-defaults-enforced" => advice.file = admission(POD_SECURITY, &mut items),
        "apiserver-event-rate-limit" => {
            items.push("enable-admission-plugins+=EventRateLimit".to_owned());
            advice.file = admission(EVENT_RATE_LIMIT, &mut items);
        }
        // A log without a policy stays empty, and so does a policy without a log.
        "apiserver-audit-log-path" | "audit-policy-file-set" => {
            if set("audit-log-path").is_none() {
                items.push(format!("audit-log-path={data_dir}/server/logs/audit.log"));
            }
            if policy_path.is_none() || control.id == "audit-policy-file-set" {
                let path = policy_path.unwrap_or_else(|| format!("{data_dir}/server/audit.yaml"));
                items.push(format!("audit-policy-file={path}"));
                advice.file = Some(Companion { path, change: Change::Make, text: AUDIT_POLICY.to_owned() });
            }
        }
        // Which of its rules are amiss is in the verdict; without a policy there is nothing to judge.
        _ if control.source == Source::AuditPolicy => {
            let path = policy_path?;
            advice.file = Some(Companion { path, change: Change::Replace, text: AUDIT_POLICY.to_owned() });
        }
        // Values of a list add up: what somebody allowed goes away only where they wrote it.
        _ if control.expected.op == Op::SubsetOf && is_set_by_somebody(control, config) => return None,
        _ => {
            let in_use = |name: &str| config.is_some_and(|config| config.options.contains_key(name));
            let settings = plain(control, data_dir)?.named_as(in_use);
            return Some(Advice { settings, file: None });
        }
    }
    if !items.is_empty() {
        advice.settings.add("kube-apiserver-arg", Setting::Items(items));
    }
    Some(advice)
}

fn is_set_by_somebody(control: &Control, config: Option<&NodeConfig>) -> bool {
    let flags = config.zip(control.source.component()).and_then(|(config, name)| config.components.get(name));
    let flag = control.what.first().and_then(|name| flags?.get(name.strip_prefix("--")?));
    flag.into_iter()
        .flat_map(|flag| flag.possible.iter().flatten())
        .any(|setting| setting.evidence.layer.as_deref() != Some("k3s-default"))
}

/// The settings that make a control pass whatever else is set; none where that is not a matter of settings alone.
pub fn plain(control: &Control, data_dir: &str) -> Option<DropIn> {
    let name = control.what.first()?;
    let mut out = DropIn::default();
    if name.starts_with("--") {
        let key = format!("{}-arg", argument_option(control.source)?);
        out.add(&key, Setting::Items(flags(control, data_dir)?));
        return Some(out);
    }
    let option = matches!(control.source, Source::K3s | Source::Kubelet) && !name.contains([' ', '.', '/', ':']);
    if !option {
        return None;
    }
    let setting = match control.expected.op {
        Op::Has => Setting::Items(vec![value(control)?]),
        Op::SubsetOf => return None,
        _ => Setting::Value(value(control)?),
    };
    out.add(name, setting);
    Some(out)
}

/// `name=value` for each flag a control asks for.
fn flags(control: &Control, data_dir: &str) -> Option<Vec<String>> {
    let values = if control.expected.is(Modifier::All) {
        control.expected.list(Modifier::Suggested)
    } else {
        vec![value(control)?]
    };
    let names = control.what.iter().map_while(|name| name.strip_prefix("--"));
    let items: Vec<String> = names
        .zip(values)
        .map(|(name, value)| {
            let value = value.replace(DEFAULT_DATA_DIR, data_dir);
            // A list of K3s' own or of the user stays as it is: `+=`.
            if control.expected.op == Op::Has { format!("{name}+={value}") } else { format!("{name}={value}") }
        })
        .collect();
    (!items.is_empty()).then_some(items)
}

/// The value to write: one that the control's op takes.
fn value(control: &Control) -> Option<String> {
    let expected = &control.expected;
    let suggested = || expected.list(Modifier::Suggested).into_iter().next();
    match expected.op {
        // What is judged is the inside of the file the flag names.
        _ if expected.get(Modifier::AndConfigSection).is_some() => None,
        Op::Eq | Op::In | Op::Has | Op::ModeAtMost => expected.values().into_iter().next(),
        Op::Ge => suggested().or_else(|| expected.values().into_iter().next()),
        Op::Gt | Op::Set => suggested(),
        Op::SubsetOf => Some(expected.values().join(",")),
        Op::Ne => suggested().or_else(|| (expected.text() == "false").then(|| "true".to_owned())),
        Op::DurationBetween => expected.list(Modifier::Default).into_iter().next(),
        _ => None,
    }
}

/// K3s' option that hands arguments to a component.
const fn argument_option(source: Source) -> Option<&'static str> {
    match source {
        Source::ApiServer => Some("kube-apiserver"),
        Source::ControllerManager => Some("kube-controller-manager"),
        Source::Scheduler => Some("kube-scheduler"),
        Source::CloudController => Some("kube-cloud-controller-manager"),
        Source::Kubelet => Some("kubelet"),
        Source::Etcd => Some("etcd"),
        _ => None,
    }
}

/// What has to be restarted before a change counts, in words.
pub fn restart(control: &Control, role: Option<Role>) -> String {
    let unit = if role == Some(Role::Agent) { "k3s-agent" } else { "k3s" };
    let at_once = || "nothing: it counts at once".to_owned();
    match control.source {
        // Files are read at a start, and whom they belong to counts now.
        Source::Token | Source::AuditPolicy
            if matches!(control.expected.op, Op::ModeAtMost | Op::OwnerIs | Op::SymlinkTo) =>
        {
            at_once()
        }
        Source::Sysctl if control.expected.op == Op::PersistedEquals => {
            "nothing, but such files count only after sysctl --system or a reboot".to_owned()
        }
        // The others of this kind look at what is stored.
        Source::Datastore if control.expected.op == Op::DatastoreTls => {
            format!("K3s, which reads its configuration only at start: systemctl restart {unit}")
        }
        Source::FileMode | Source::FileOwner | Source::Sysctl | Source::Datastore | Source::ClusterApi => at_once(),
        // What systemd holds of a unit is as old as its last reload.
        Source::Token if control.expected.op == Op::NotMatches => {
            format!("systemctl daemon-reload, then systemctl restart {unit}")
        }
        Source::AuditLog => "nothing, unless options of K3s change".to_owned(),
        Source::Token => format!("K3s on every node that uses the token: systemctl restart {unit}"),
        Source::Trap if control.what.iter().any(|kind| kind == "unit-not-understood" || kind == "options-ignored") => {
            format!("systemctl daemon-reload, then systemctl restart {unit}")
        }
        _ => format!("K3s, which reads its configuration only at start: systemctl restart {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use picket_checks::Catalogue;

    use super::*;

    fn lines(id: &str) -> Vec<String> {
        let catalogue = Catalogue::built_in().unwrap();
        of(catalogue.get(id).unwrap(), "/data", None).map(|a| a.settings.lines()).unwrap_or_default()
    }

    #[test]
    fn only_what_is_read_at_a_start_needs_one() {
        let catalogue = Catalogue::built_in().unwrap();
        let says = |id: &str| restart(catalogue.get(id).unwrap(), None);
        for id in [
            "token-server-file-mode",
            "token-agent-token-file-mode",
            "token-node-token-link",
            "audit-policy-file-protected",
            "k3s-config-file-mode",
            "sysctl-kernel-panic",
        ] {
            assert_eq!(says(id), "nothing: it counts at once", "{id}");
        }
        for id in ["k3s-datastore-tls", "audit-policy-catch-all", "k3s-write-kubeconfig-mode"] {
            assert!(says(id).ends_with(": systemctl restart k3s"), "{id}: {}", says(id));
        }
        assert!(says("token-not-in-unit-file").contains("daemon-reload"));
        assert!(says("sysctl-persisted").contains("sysctl --system"));
        assert!(says("token-secure-format").contains("every node"));
    }

    #[test]
    fn lines_keep_what_k3s_and_earlier_files_set() {
        let table: [(&str, &[&str]); 15] = [
            (
                "apiserver-deny-service-external-ips",
                &["kube-apiserver-arg+:", "- \"enable-admission-plugins+=DenyServiceExternalIPs\""],
            ),
            ("apiserver-audit-log-maxage", &["kube-apiserver-arg+:", "- \"audit-log-maxage=30\""]),
            ("kcm-bind-loopback", &["kube-controller-manager-arg+:", "- \"bind-address=127.0.0.1\""]),
            ("ccm-profiling-off", &["kube-cloud-controller-manager-arg+:", "- \"profiling=false\""]),
            ("kubelet-pod-pids-limit", &["kubelet-arg+:", "- \"pod-max-pids=4096\""]),
            ("kubelet-protect-kernel-defaults", &["protect-kernel-defaults: \"true\""]),
            ("k3s-write-kubeconfig-mode", &["write-kubeconfig-mode: \"0600\""]),
            ("k3s-disable-traefik", &["disable+:", "- \"traefik\""]),
            (
                "apiserver-audit-log-path",
                &[
                    "kube-apiserver-arg+:",
                    "- \"audit-log-path=/data/server/logs/audit.log\"",
                    "- \"audit-policy-file=/data/server/audit.yaml\"",
                ],
            ),
            ("apiserver-encryption-provider-config", &["secrets-encryption: \"true\""]),
            (
                "psa-defaults-enforced",
                &["kube-apiserver-arg+:", "- \"admission-control-config-file=/data/server/psa.yaml\""],
            ),
            (
                "apiserver-kubelet-client-cert",
                &[
                    "kube-apiserver-arg+:",
                    "- \"kubelet-client-certificate=/data/server/tls/client-kube-apiserver.crt\"",
                    "- \"kubelet-client-key=/data/server/tls/client-kube-apiserver.key\"",
                ],
            ),
            ("kcm-terminated-pod-gc", &["kube-controller-manager-arg+:", "- \"terminated-pod-gc-threshold=10\""]),
            ("apiserver-token-auth-file-unset", &[]),
            ("apiserver-request-timeout", &["kube-apiserver-arg+:", "- \"request-timeout=60s\""]),
        ];
        for (id, wanted) in table {
            assert_eq!(lines(id), wanted, "{id}");
        }
    }
}
