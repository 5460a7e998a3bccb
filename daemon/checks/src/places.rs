//! Where K3s' own files lie: the catalogue names the usual places, and unit, environment and options may name others.

use crate::needs::FilePattern;
use crate::node_config::NodeConfig;

/// `registries.yaml` where `private-registry` names no other file.
pub const REGISTRIES_FILE: &str = "/etc/rancher/k3s/registries.yaml";

/// The files the unit and the reader of K3s' configuration lead to, beside the usual places.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Places {
    /// Configuration files with their drop-ins.
    pub config: Vec<String>,
    /// The systemd unit and its drop-ins.
    pub units: Vec<String>,
    /// Files with the service's environment.
    pub environment: Vec<String>,
    /// The program the unit starts.
    pub program: Option<String>,
    /// Why there may be more: something that could name other places could not be read.
    pub blind: Option<String>,
}

/// What of K3s can lie elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Config,
    Unit,
    Environment,
    Program,
    Registries,
    Snapshots,
    BelowSnapshots,
}

/// The kind that a path of the catalogue stands for.
fn kind(path: &str) -> Option<Kind> {
    Some(match path {
        "/etc/rancher/k3s/config.yaml" => Kind::Config,
        "/etc/systemd/system/k3s.service" => Kind::Unit,
        "/etc/systemd/system/k3s.service.env" => Kind::Environment,
        "/usr/local/bin/k3s" => Kind::Program,
        REGISTRIES_FILE => Kind::Registries,
        _ => match path.strip_suffix("/server/db/snapshots") {
            Some(_) => Kind::Snapshots,
            None if path.ends_with("/server/db/snapshots/**") => Kind::BelowSnapshots,
            None => return None,
        },
    })
}

/// Whether a path of the catalogue depends on the configuration.
pub(crate) fn may_move(path: &str) -> bool {
    kind(path).is_some()
}

/// Whether an option, rather than the unit, says where a path of the catalogue lies.
pub(crate) fn moved_by_option(path: &str) -> bool {
    matches!(kind(path), Some(Kind::Registries | Kind::Snapshots | Kind::BelowSnapshots))
}

/// Where else than at this path of the catalogue the same lies. `configs`: declared and running, as far as known.
pub(crate) fn elsewhere(path: &str, data_dir: &str, places: &Places, configs: &[&NodeConfig]) -> Vec<FilePattern> {
    let options = |name: &str| -> Vec<String> {
        configs.iter().filter_map(|c| c.option(name)).map(|s| s.value.clone()).filter(|v| !v.is_empty()).collect()
    };
    // A server changes into its data dir, and from there a relative path leads.
    let snapshots = |below: &str| -> Vec<String> {
        let folder = |dir: String| match dir.trim_end_matches('/') {
            "" => None,
            dir if dir.starts_with('/') => Some(format!("{dir}{below}")),
            dir => Some(format!("{data_dir}/server/{}{below}", dir.trim_start_matches("./"))),
        };
        options("etcd-snapshot-dir").into_iter().filter_map(folder).collect()
    };
    let found = match kind(path) {
        None => Vec::new(),
        Some(Kind::Config) => places.config.clone(),
        Some(Kind::Unit) => places.units.clone(),
        Some(Kind::Environment) => places.environment.clone(),
        Some(Kind::Program) => places.program.iter().cloned().collect(),
        Some(Kind::Registries) => options("private-registry"),
        Some(Kind::Snapshots) => snapshots(""),
        Some(Kind::BelowSnapshots) => snapshots("/**"),
    };
    found.into_iter().filter(|p| p.starts_with('/') && p != path).map(FilePattern::new).collect()
}

/// The file the first of these configurations takes registries from.
pub(crate) fn registries_file(configs: &[&NodeConfig]) -> String {
    let named = configs.first().and_then(|c| c.option("private-registry"));
    named.map_or_else(|| REGISTRIES_FILE.to_owned(), |s| s.value.clone())
}
