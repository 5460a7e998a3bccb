//! What differs between two snapshots, so that only what depends on it is judged again.

use std::collections::{BTreeMap, BTreeSet};

use picket_model::{Observation, Verdict};

use crate::evaluate::verdicts;
use crate::policy::Policy;
use crate::snapshot::Snapshot;
use crate::sources::{SourceKey, depends};

/// What differs between two snapshots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    keys: BTreeSet<SourceKey>,
    /// Files and folders whose metadata differ.
    paths: BTreeSet<String>,
}

impl Changes {
    /// Compares two snapshots, source by source.
    pub fn between(before: &Snapshot, after: &Snapshot) -> Self {
        let mut changes = Self::default();
        changes.paths.extend(differing(&before.files, &after.files));
        changes.paths.extend(differing(&before.folders, &after.folders));
        macro_rules! compare {
            ($($key:ident: $($field:ident),+;)+) => {
                $(if $(before.$field != after.$field)||+ { changes.keys.insert(SourceKey::$key); })+
            };
        }
        compare! {
            Process: role, data_dir, k3s_version, k3s_started_at, rooted;
            Clock: at;
            Configuration: declared, running, traps, places;
            KubeletDropins: kubelet_dropins, kubelet_next, kubelet_copied_from, kubelet_configs, read_at_start;
            EtcdConfig: etcd_config;
            Sysctls: sysctls;
            PersistedSysctls: persisted_sysctls;
            Certificates: certificates, keys;
            Served: served;
            Datastore: datastores;
            Tokens: tokens, join_token;
            Units: units;
            Encryption: encryption_configs, encryption_state;
            AuditPolicy: audit_policies, read_at_start;
            AuditLog: audit_logs;
            ApiServerFiles: admission_configs, authentication_configs, authorization_configs, read_at_start;
            Registries: registries, read_at_start;
            Selinux: selinux_enforcing;
        }
        changes
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.paths.is_empty()
    }

    /// Whether a source differs.
    pub fn touch(&self, key: &SourceKey) -> bool {
        match key {
            SourceKey::Files(pattern) => {
                let base = pattern.base();
                // The folder that holds it, and those above: a folder that went away took it along.
                self.paths.iter().any(|path| {
                    pattern.matches(path) || pattern.passes(path) || path == base || crate::needs::is_below(base, path)
                })
            }
            other => self.keys.contains(other),
        }
    }
}

fn differing<T: PartialEq>(
    before: &BTreeMap<String, Observation<T>>,
    after: &BTreeMap<String, Observation<T>>,
) -> BTreeSet<String> {
    let mut paths: BTreeSet<String> =
        after.iter().filter(|(path, seen)| before.get(*path) != Some(*seen)).map(|(path, _)| path.clone()).collect();
    paths.extend(before.keys().filter(|path| !after.contains_key(*path)).cloned());
    paths
}

/// What was judged again after a change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rejudged {
    /// The controls that depend on what changed. Whatever was said of them before no longer holds.
    pub controls: BTreeSet<String>,
    /// Their verdicts, in the order of the catalogue; a control may have none any more.
    pub verdicts: Vec<Verdict>,
}

/// Judges the controls that depend on what changed, and no others: the verdicts on those are what they were, as long as
/// the policy is the same.
pub fn evaluate_changes(snapshot: &Snapshot, policy: &Policy, changes: &Changes) -> Rejudged {
    let mut again = Rejudged::default();
    for control in policy.catalogue.controls() {
        if depends(snapshot, policy, control).iter().any(|key| changes.touch(key)) {
            again.controls.insert(control.id.clone());
            again.verdicts.extend(verdicts(snapshot, policy, control));
        }
    }
    again
}
