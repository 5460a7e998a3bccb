//! What the host side has to look at so that every control can be judged.

use crate::catalogue::{Catalogue, Op, Source};
use crate::node_config::NodeConfig;
use crate::places::{Places, elsewhere, registries_file};
use crate::snapshot::DEFAULT_DATA_DIR;

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

    /// Whether everything below the base is meant, at any depth.
    pub fn is_deep(&self) -> bool {
        self.0.split('/').any(|part| part == "**")
    }

    /// Whether a path is meant.
    pub fn matches(&self, path: &str) -> bool {
        let Some(star) = self.0.find('*') else { return self.0 == path };
        // Names before the first wildcard are compared as one text.
        let fixed = self.0.get(..star).and_then(|head| head.rfind('/')).map_or(0, |slash| slash + 1);
        let (head, tail) = self.0.split_at(fixed);
        path.strip_prefix(head).is_some_and(|rest| parts_match(Some(tail), Some(rest)))
    }

    /// Whether a folder has to be listed to find all matches.
    pub fn passes(&self, folder: &str) -> bool {
        if self.is_plain() {
            return folder == self.base();
        }
        let base = self.base();
        if folder == base {
            return true;
        }
        let below = if base == "/" { folder.starts_with('/') } else { is_below(folder, base) };
        if !below {
            return false;
        }
        if self.is_deep() {
            return true;
        }
        let mut names = self.0.split('/');
        let fits = folder.split('/').all(|name| names.next().is_some_and(|pattern| name_matches(pattern, name)));
        fits && names.next().is_some()
    }
}

/// Whether a path lies below a folder.
pub(crate) fn is_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

/// Whether the rest of a path, if there is one, fits the rest of a pattern.
fn parts_match(pattern: Option<&str>, path: Option<&str>) -> bool {
    let Some((first, rest)) = pattern.map(next_name) else { return path.is_none() };
    match (first, rest) {
        ("**", None) => path.is_some(),
        ("**", rest) => std::iter::successors(path, |tail| next_name(tail).1).any(|tail| parts_match(rest, Some(tail))),
        (first, rest) => {
            path.map(next_name).is_some_and(|(name, tail)| name_matches(first, name) && parts_match(rest, tail))
        }
    }
}

/// The first name of a path, and what follows it.
fn next_name(path: &str) -> (&str, Option<&str>) {
    path.split_once('/').map_or((path, None), |(name, rest)| (name, Some(rest)))
}

/// A name against a pattern in which `*` stands for any run of characters.
fn name_matches(pattern: &str, name: &str) -> bool {
    let Some((head, mut rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(head) else { return false };
    while let Some((middle, tail)) = rest.split_once('*') {
        match name.find(middle) {
            Some(at) => name = name.get(at + middle.len()..).unwrap_or(""),
            None => return false,
        }
        rest = tail;
    }
    name.len() >= rest.len() && name.ends_with(rest)
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
    /// An audit log goes to K3s' standard output: there is no file to read.
    pub audit_log_printed: bool,
    /// Admission configurations.
    pub admission_configs: Vec<String>,
    /// Authentication configurations.
    pub authentication_configs: Vec<String>,
    /// Authorization configurations.
    pub authorization_configs: Vec<String>,
    /// The configuration of embedded etcd.
    pub etcd_config: String,
    /// Configurations of the kubelet.
    pub kubelet_configs: Vec<String>,
    /// The folder of the kubelet's drop-ins.
    pub kubelet_dropins: String,
    /// `registries.yaml`, or what `private-registry` names.
    pub registries: String,
    /// Databases of kine, for [`crate::Snapshot::datastores`].
    pub datastores: Vec<String>,
}

impl Needs {
    /// What the controls of a catalogue need on a node with this data dir and these configurations (declared, running;
    /// none where no configuration could be read).
    pub fn of(catalogue: &Catalogue, data_dir: &str, configs: &[&NodeConfig], places: &Places) -> Self {
        let server = format!("{data_dir}/server");
        let tls = format!("{server}/tls");
        let agent = format!("{data_dir}/agent");
        let named = |flag: &str| named(configs, flag);
        let mut encryption_configs = named("encryption-provider-config");
        let own = format!("{server}/cred/encryption-config.json");
        if !encryption_configs.contains(&own) {
            encryption_configs.push(own);
        }
        let mut certificates: Vec<FilePattern> = [
            format!("{tls}/*.crt"),
            format!("{tls}/etcd/*.crt"),
            format!("{tls}/kube-scheduler/*.crt"),
            format!("{tls}/kube-controller-manager/*.crt"),
            format!("{tls}/dynamic-cert.json"),
            format!("{agent}/*.crt"),
            "/etc/rancher/k3s/k3s.yaml".to_owned(),
        ]
        .map(FilePattern::new)
        .into();
        // Controls of administrators may name others.
        for what in catalogue.controls().iter().filter(|c| c.source == Source::X509).flat_map(|c| &c.what) {
            let path = in_data_dir(what, data_dir);
            if path.starts_with('/') && !certificates.iter().any(|known| known.as_str() == path || known.matches(&path))
            {
                certificates.push(FilePattern::new(path));
            }
        }
        let mut files = of_controls(catalogue, data_dir, configs, places);
        files.extend(certificates.iter().cloned());
        files.extend(encryption_configs.iter().map(FilePattern::new));
        files.extend(
            [
                // Preconditions look at these, whatever the controls need.
                format!("{server}/db/etcd"),
                format!("{server}/db/etcd/member"),
                format!("{server}/db/state.db"),
                format!("{server}/cred/encryption-state.json"),
                format!("{server}/cred/passwd"),
                format!("{agent}/etc/kubelet.conf.d"),
                format!("{agent}/etc/kubelet.conf.d/**"),
                "/var/lib/cni/networks".to_owned(),
            ]
            .map(FilePattern::new),
        );
        files.sort();
        files.dedup();
        let mut sysctls: Vec<String> = catalogue
            .controls()
            .iter()
            .filter(|c| c.source == Source::Sysctl && c.expected.op != Op::PersistedEquals)
            .flat_map(|c| c.what.iter().cloned())
            .collect();
        sysctls.sort();
        sysctls.dedup();
        Self {
            files,
            certificates,
            tokens: vec![format!("{server}/token"), format!("{server}/agent-token")],
            sysctls,
            units: ["k3s", "k3s-agent"].map(|name| format!("/etc/systemd/system/{name}.service")).into(),
            encryption_configs,
            encryption_state: format!("{server}/cred/encryption-state.json"),
            audit_policies: named("audit-policy-file"),
            audit_logs: audit_logs(configs, &server),
            audit_log_printed: values(configs, API_SERVER, "audit-log-path").any(|path| path == "-"),
            admission_configs: named("admission-control-config-file"),
            authentication_configs: named("authentication-config"),
            authorization_configs: named("authorization-config"),
            etcd_config: format!("{server}/db/etcd/config"),
            kubelet_configs: absolute(values(configs, "kubelet", "config")),
            kubelet_dropins: format!("{agent}/etc/kubelet.conf.d"),
            registries: registries_file(configs),
            datastores: ["state.db", "state.db.migrated"].map(|name| format!("{server}/db/{name}")).into(),
        }
    }
}

/// A path of the catalogue with the node's own data dir.
fn in_data_dir(path: &str, data_dir: &str) -> String {
    match path.strip_prefix("<data-dir>").or_else(|| path.strip_prefix(DEFAULT_DATA_DIR)) {
        Some(rest) => format!("{data_dir}{rest}"),
        None => path.to_owned(),
    }
}

/// Absolute paths a flag of the API server names in any of the configurations.
fn named(configs: &[&NodeConfig], flag: &str) -> Vec<String> {
    absolute(values(configs, API_SERVER, flag))
}

fn absolute<'c>(paths: impl Iterator<Item = &'c str>) -> Vec<String> {
    let mut paths: Vec<String> = paths.filter(|path| path.starts_with('/')).map(str::to_owned).collect();
    paths.sort();
    paths.dedup();
    paths
}

/// A server changes into its data dir, and from there a relative path leads.
fn audit_logs(configs: &[&NodeConfig], server: &str) -> Vec<String> {
    let mut paths: Vec<String> = values(configs, API_SERVER, "audit-log-path")
        .filter(|path| !path.is_empty() && *path != "-")
        .map(|path| match path.strip_prefix("./").unwrap_or(path) {
            absolute if absolute.starts_with('/') => absolute.to_owned(),
            relative => format!("{server}/{relative}"),
        })
        .collect();
    paths.sort();
    paths.dedup();
    paths
}

const API_SERVER: &str = "kube-apiserver";

fn values<'c>(
    configs: &'c [&NodeConfig],
    component: &'c str,
    flag: &'c str,
) -> impl Iterator<Item = &'c str> + use<'c> {
    configs
        .iter()
        .filter_map(move |c| c.components.get(component)?.get(flag))
        .flat_map(|f| f.possible.iter().flatten())
        .map(|s| s.value.as_str())
}

/// The files controls speak of.
fn of_controls(catalogue: &Catalogue, data_dir: &str, configs: &[&NodeConfig], places: &Places) -> Vec<FilePattern> {
    let mut out = Vec::new();
    for control in catalogue.controls() {
        // `PATH: key` and `PATH: words` name a file too, but one that is read, not judged by its metadata.
        for what in &control.what {
            match what.as_str() {
                "dirname(--audit-log-path)" => {
                    for log in named(configs, "audit-log-path") {
                        out.push(FilePattern::new(FilePattern::new(log).base()));
                    }
                }
                "<audit-log-path>" => out.extend(named(configs, "audit-log-path").iter().map(FilePattern::new)),
                "rotated siblings" => {
                    for log in named(configs, "audit-log-path") {
                        out.extend(crate::judge_files::rotated(&log).map(FilePattern::new));
                    }
                }
                "<admission-control-config-file>" => {
                    out.extend(named(configs, "admission-control-config-file").iter().map(FilePattern::new));
                }
                "<audit policy file>" => {
                    out.extend(named(configs, "audit-policy-file").iter().map(FilePattern::new));
                }
                path => {
                    out.extend(elsewhere(path, data_dir, places, configs));
                    let path = in_data_dir(path, data_dir);
                    if path.starts_with('/') && !path.contains([' ', ':', '(']) {
                        out.push(FilePattern::new(path));
                    }
                }
            }
        }
    }
    out
}
