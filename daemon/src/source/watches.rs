//! Where a change would show: the folders to be watched, along every hop of every link.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use picket_checks::{Catalogue, SYSCTL_FOLDERS};
use picket_host::{Host, Kind};

use super::{Seen, Source, certificates, needs, traps};

/// Folders to be watched. Files are not: a watch on a file is deaf after the first rename.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Watches {
    /// Folder in the node's terms, without links in it, to the sources a change in it concerns.
    pub folders: BTreeMap<PathBuf, BTreeSet<Source>>,
}

/// What to watch on a node that looks as it was seen. To be asked again after each look: links and paths may have
/// changed.
pub fn watches(host: &Host, catalogue: &Catalogue, seen: &Seen) -> Watches {
    let needs = needs(catalogue, &seen.snapshot);
    let snapshot = &seen.snapshot;
    let mut watches = Watches::default();
    let mut add = |source: Source, path: &str| watches.add(host, source, path.as_ref());

    for path in seen.configuration.sources() {
        add(Source::Config, path);
    }
    for path in traps::also(&seen.configuration) {
        add(Source::Config, &path);
    }
    for path in snapshot.files.keys().chain(snapshot.folders.keys()) {
        add(Source::Files, path);
    }
    let also = certificates::also(&snapshot.data_dir);
    for pattern in needs.certificates.iter().map(|p| p.as_str()).chain(also.iter().map(String::as_str)) {
        // Folders below, of `**`, are those of the files found in them.
        let folder = pattern.rsplit_once('/').map_or("/", |(folder, _)| folder);
        add(Source::Certificates, folder.strip_suffix("/**").unwrap_or(folder));
    }
    for path in snapshot.certificates.keys() {
        add(Source::Certificates, path);
    }
    for path in snapshot.tokens.keys().chain(snapshot.units.keys()) {
        add(Source::Tokens, path);
    }
    if let Some(evidence) = snapshot.join_token.value().and_then(|t| t.evidence.path.as_deref()) {
        add(Source::Tokens, evidence);
    }
    for folder in SYSCTL_FOLDERS {
        add(Source::PersistedSysctls, folder);
        // Drop-ins may be links, such as Debian's 99-sysctl.conf.
        for entry in host.list(folder.as_ref(), 1024).unwrap_or_default() {
            if entry.kind == Kind::Link {
                add(Source::PersistedSysctls, &format!("{folder}/{}", entry.name));
            }
        }
    }
    let documents = needs
        .encryption_configs
        .iter()
        .chain(&needs.audit_policies)
        .chain(&needs.admission_configs)
        .chain(&needs.authentication_configs)
        .chain(&needs.authorization_configs)
        .chain(&needs.kubelet_configs)
        .chain(snapshot.kubelet_copied_from.values())
        .chain([&needs.encryption_state, &needs.etcd_config, &needs.kubelet_dropins, &needs.registries])
        .chain(snapshot.kubelet_dropins.keys());
    for path in documents {
        add(Source::Documents, path);
    }
    for path in &needs.datastores {
        add(Source::Datastore, path);
    }
    // A change of the encryption is followed by one of what is stored.
    for path in &needs.encryption_configs {
        add(Source::Datastore, path);
    }
    for path in &needs.audit_logs {
        add(Source::AuditLog, path);
    }
    watches
}

impl Watches {
    fn add(&mut self, host: &Host, source: Source, path: &Path) {
        let trail = host.trail(path);
        let end = matches!(trail.outcome, Ok(Kind::Folder)).then_some(trail.end);
        for folder in trail.folders.into_iter().chain(end) {
            self.folders.entry(folder).or_default().insert(source);
        }
    }
}
