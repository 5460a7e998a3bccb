//! Which sources a control depends on, so that a change re-judges only what it can affect.

use crate::catalogue::{Control, Op, Source, Term};
use crate::context::Context;
use crate::judge_cert_files::KUBECONFIG;
use crate::judge_files::patterns;
use crate::needs::FilePattern;
use crate::places::may_move;
use crate::policy::Policy;
use crate::snapshot::Snapshot;

/// A source as a whole: what changes together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SourceKey {
    /// Metadata of the files of a pattern.
    Files(FilePattern),
    /// Unit, environment files, config.yaml and its drop-ins.
    Configuration,
    /// Drop-ins of the kubelet.
    KubeletDropins,
    /// The configuration file of embedded etcd.
    EtcdConfig,
    /// Live kernel parameters.
    Sysctls,
    /// The sysctl folders.
    PersistedSysctls,
    /// Certificates.
    Certificates,
    /// Token files and the join token.
    Tokens,
    /// Units of K3s.
    Units,
    /// Encryption configuration and state.
    Encryption,
    /// Audit policy.
    AuditPolicy,
    /// Audit log.
    AuditLog,
    /// Admission, authentication and authorization configurations.
    ApiServerFiles,
    /// `registries.yaml`.
    Registries,
    /// SELinux.
    Selinux,
    /// What the datastore holds.
    Datastore,
    /// What listens, and the certificates it serves.
    Served,
    /// The running process: its start, version, role.
    Process,
    /// The moment of judging: expiry and ages change without any event.
    Clock,
}

/// The sources a control depends on, preconditions included.
pub fn depends(snapshot: &Snapshot, policy: &Policy, control: &Control) -> Vec<SourceKey> {
    let mut keys = vec![SourceKey::Process];
    let data = &snapshot.data_dir;
    let file = |path: &str| SourceKey::Files(FilePattern::new(format!("{data}{path}")));
    for term in &control.applies_when.0 {
        match term {
            Term::Always | Term::NeverOnK3s | Term::MultiNode => {}
            Term::FlannelOrHostLocalCni => keys.push(SourceKey::Files(FilePattern::new("/var/lib/cni/networks"))),
            Term::K3sAtLeast132 => keys.push(file("/agent/etc/kubelet.conf.d")),
            Term::SecretsEncryptionOn => keys.push(file("/server/cred/encryption-config.json")),
            Term::SelinuxEnforcing => keys.push(SourceKey::Selinux),
            Term::EmbeddedEtcd | Term::Sqlite | Term::ExternalDatastore => {
                keys.extend(["/server/db/etcd", "/server/db/etcd/member", "/server/db/state.db"].map(file));
                keys.push(SourceKey::Configuration);
            }
            _ => keys.push(SourceKey::Configuration),
        }
    }
    if let Ok(found) = patterns(Context::in_force(snapshot, policy), control) {
        keys.extend(found.into_iter().filter(|p| p.as_str().starts_with('/')).map(SourceKey::Files));
    }
    match control.source {
        Source::FileMode | Source::FileOwner => {
            if control.what.iter().any(|what| what.contains("audit") || what.starts_with('<') || may_move(what)) {
                keys.push(SourceKey::Configuration);
            }
        }
        Source::K3s => keys.extend([SourceKey::Configuration, SourceKey::Registries, SourceKey::EtcdConfig]),
        Source::ApiServer => keys.extend([SourceKey::Configuration, SourceKey::ApiServerFiles, SourceKey::Encryption]),
        Source::ControllerManager | Source::Scheduler | Source::CloudController => keys.push(SourceKey::Configuration),
        Source::Kubelet => {
            // Without the folder there are no drop-ins to judge.
            keys.extend([SourceKey::Configuration, SourceKey::KubeletDropins, file("/agent/etc/kubelet.conf.d/*")]);
        }
        Source::Etcd => keys.extend([SourceKey::EtcdConfig, SourceKey::Certificates, SourceKey::Configuration]),
        Source::Sysctl if control.expected.op == Op::PersistedEquals => {
            keys.extend([SourceKey::PersistedSysctls, SourceKey::Configuration]);
        }
        Source::Sysctl => keys.push(SourceKey::Sysctls),
        Source::SecretsEncryption => {
            keys.extend([SourceKey::Encryption, SourceKey::Configuration, SourceKey::Clock]);
        }
        Source::Token => {
            keys.extend([SourceKey::Tokens, SourceKey::Units, SourceKey::Configuration, SourceKey::Clock]);
            // Whether it is a link, and the time of the passwords behind it.
            keys.extend(
                ["/server/cred/passwd", "/server/token", "/server/agent-token", "/server/node-token"].map(file),
            );
        }
        Source::X509 => {
            keys.extend([SourceKey::Certificates, SourceKey::Clock, SourceKey::Served]);
            if !control.what.iter().any(|what| what.starts_with('/')) {
                // All certificates of the node: which files there are is asked of the folders.
                keys.extend(["/server/tls/**", "/agent/*.crt"].map(file));
            }
            if matches!(control.expected.op, Op::SignedByCa | Op::MatchesKey) {
                keys.push(SourceKey::Files(FilePattern::new(KUBECONFIG)));
            }
        }
        Source::AuditPolicy => keys.extend([SourceKey::AuditPolicy, SourceKey::Configuration]),
        // Certificates name the servers' addresses.
        Source::AuditLog => {
            keys.extend([SourceKey::AuditLog, SourceKey::Configuration, SourceKey::Clock, SourceKey::Certificates])
        }
        Source::Datastore => {
            keys.extend([SourceKey::Configuration, SourceKey::Datastore, SourceKey::Encryption]);
            // Which engine it is shows in what lies there.
            keys.extend(["/server/db/*", "/server/db/etcd/member"].map(file));
        }
        Source::Trap => {
            keys.extend([SourceKey::Configuration, SourceKey::KubeletDropins, SourceKey::ApiServerFiles]);
        }
        Source::ClusterApi => {}
    }
    if matches!(control.source, Source::AuditPolicy | Source::AuditLog) {
        // Times and modes of the files that the flags name.
        for flag in ["audit-policy-file", "audit-log-path"] {
            if let Ok(Some(file)) = Context::in_force(snapshot, policy).file_flag(flag) {
                keys.push(SourceKey::Files(FilePattern::new(file.value.clone())));
            }
        }
    }
    if keys.contains(&SourceKey::Encryption) {
        // Whether the file is there says whether anything is encrypted at all.
        keys.extend(["/server/cred/encryption-config.json", "/server/cred/encryption-state.json"].map(file));
    }
    for id in crate::evaluate::part_ids(control) {
        // One level is enough: the combinations of the catalogue name plain controls.
        if let Some(part) = policy.catalogue.get(&id).filter(|part| part.id != control.id)
            && crate::evaluate::part_ids(part).is_empty()
        {
            keys.extend(depends(snapshot, policy, part));
        }
    }
    keys.sort();
    keys.dedup();
    keys
}
