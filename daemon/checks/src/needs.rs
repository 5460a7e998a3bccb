//! What the host side has to look at so that every control can be judged.

use crate::node_config::NodeConfig;

/// A path, perhaps with wildcards, whose metadata is needed.
///
/// `*` stands for any run of characters within one name, in any part of the path. `**` as the last part means all
/// files and folders below, at any depth; `**/NAME` the entries named NAME (which may hold `*`) at any depth.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilePattern(String);

impl FilePattern {
    /// A pattern from its text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is a path without wildcards.
    pub fn is_plain(&self) -> bool {
        !self.0.contains('*')
    }

    /// The folder whose state must be recorded in [`crate::Snapshot::folders`]: the parent of a plain path, or the
    /// longest leading part without a wildcard.
    pub fn base(&self) -> &str {
        let end = match self.0.find('*') {
            Some(star) => self.0.get(..star).and_then(|head| head.rfind('/')),
            None => self.0.rfind('/'),
        };
        match end {
            Some(0) | None => "/",
            Some(end) => self.0.get(..end).unwrap_or("/"),
        }
    }
}

/// Everything to be looked at on a node, with the data dir and the paths of its configuration filled in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Needs {
    /// Metadata of files and folders, for [`crate::Snapshot::files`] and [`crate::Snapshot::folders`].
    pub files: Vec<FilePattern>,
    /// Files with certificates (PEM, and `dynamic-cert.json`), for [`crate::Snapshot::certificates`].
    pub certificates: Vec<FilePattern>,
    /// Token files, for [`crate::Snapshot::tokens`].
    pub tokens: Vec<String>,
    /// Live kernel parameters by dotted name.
    pub sysctls: Vec<String>,
    /// systemd units, for [`crate::Snapshot::units`].
    pub units: Vec<String>,
    /// Encryption configurations.
    pub encryption_configs: Vec<String>,
    /// The encryption state file.
    pub encryption_state: String,
    /// Audit policies.
    pub audit_policies: Vec<String>,
    /// Audit logs.
    pub audit_logs: Vec<String>,
    /// Admission configurations.
    pub admission_configs: Vec<String>,
    /// Authentication configurations.
    pub authentication_configs: Vec<String>,
    /// Authorization configurations.
    pub authorization_configs: Vec<String>,
    /// The configuration of embedded etcd.
    pub etcd_config: String,
    /// The folder of the kubelet's drop-ins.
    pub kubelet_dropins: String,
    /// `registries.yaml`.
    pub registries: String,
}

impl Needs {
    /// What is needed on a node with this data dir and configuration (none: no configuration could be read).
    pub fn of(data_dir: &str, configs: &[&NodeConfig]) -> Self {
        let server = format!("{data_dir}/server");
        let tls = format!("{server}/tls");
        let agent = format!("{data_dir}/agent");
        let named = |flag: &str| -> Vec<String> {
            let mut paths: Vec<String> = configs
                .iter()
                .filter_map(|c| c.components.get("kube-apiserver")?.get(flag))
                .flat_map(|f| f.possible.iter().flatten())
                .map(|s| s.value.clone())
                .filter(|path| path.starts_with('/'))
                .collect();
            paths.sort();
            paths.dedup();
            paths
        };
        let mut encryption_configs = named("encryption-provider-config");
        let own = format!("{server}/cred/encryption-config.json");
        if !encryption_configs.contains(&own) {
            encryption_configs.push(own);
        }
        Self {
            files: crate::needs::files(data_dir, &named("audit-policy-file"), &named("audit-log-path"), &named("admission-control-config-file")),
            certificates: [
                format!("{tls}/*.crt"),
                format!("{tls}/etcd/*.crt"),
                format!("{tls}/kube-scheduler/*.crt"),
                format!("{tls}/kube-controller-manager/*.crt"),
                format!("{tls}/dynamic-cert.json"),
                format!("{agent}/*.crt"),
            ]
            .map(FilePattern::new)
            .into(),
            tokens: vec![format!("{server}/token"), format!("{server}/agent-token")],
            sysctls: Vec::new(),
            units: ["k3s", "k3s-agent"].map(|name| format!("/etc/systemd/system/{name}.service")).into(),
            encryption_configs,
            encryption_state: format!("{server}/cred/encryption-state.json"),
            audit_policies: named("audit-policy-file"),
            audit_logs: named("audit-log-path"),
            admission_configs: named("admission-control-config-file"),
            authentication_configs: named("authentication-config"),
            authorization_configs: named("authorization-config"),
            etcd_config: format!("{server}/db/etcd/config"),
            kubelet_dropins: format!("{agent}/etc/kubelet.conf.d"),
            registries: "/etc/rancher/k3s/registries.yaml".to_owned(),
        }
    }
}

fn files(data_dir: &str, _policies: &[String], _logs: &[String], _admission: &[String]) -> Vec<FilePattern> {
    // What the preconditions look at, whatever the controls need.
    [
        format!("{data_dir}/server/db/etcd"),
        format!("{data_dir}/server/db/etcd/member"),
        format!("{data_dir}/server/db/state.db"),
        format!("{data_dir}/server/cred/encryption-config.json"),
        format!("{data_dir}/agent/etc/kubelet.conf.d"),
        "/var/lib/cni/networks".to_owned(),
    ]
    .map(FilePattern::new)
    .into()
}
