//! Everything that was seen of a node at one moment. The host side fills it, [`crate::evaluate`] judges it.
//!
//! Rules for whoever fills it:
//!
//! - A place that was not looked at is simply not in its map; the evaluator takes that for "cannot be read".
//! - [`Observation::Absent`] means: the place was read and the thing is not there. Anything doubtful is `Unreadable`
//!   with a reason a person understands.
//! - Paths are the node's own, without the injected root, and symlinks are *not* resolved in the keys.
//! - No secret enters. Tokens become keyed fingerprints, private keys and encryption keys are dropped while parsing.
//!
//! What has to be looked at is computed from the catalogue: see [`crate::Needs`].

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use picket_model::{Observation, Role};

use crate::admission::AdmissionConfig;
use crate::apiserver_auth::{AuthenticationConfig, AuthorizationConfig};
use crate::at_start::ReadAtStart;
use crate::audit_entries::AuditEntries;
use crate::audit_policy::AuditPolicy;
use crate::encryption::{EncryptionConfig, EncryptionState};
use crate::node_config::{NodeConfig, Traps};
use crate::places::Places;
use crate::registries::Registries;
use crate::stored::StoredSecrets;
use crate::sysctl::PersistedSysctls;

/// All observations of one moment, immutable once built.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The moment of judging: the host's clock, or what `--at` says. Everything that depends on time uses this.
    pub at: Timestamp,
    /// What K3s does here. None: no K3s was found, or its role cannot be told.
    pub role: Option<Role>,
    /// The data dir in force (`/var/lib/rancher/k3s` unless set), without a slash at the end.
    pub data_dir: String,
    /// K3s version such as `v1.36.2+k3s1`; none where it is not known.
    pub k3s_version: Option<String>,
    /// When the running K3s process started. `Absent`: it does not run. `Unreadable`: cannot be told (a `--root` tree).
    pub k3s_started_at: Observation<Timestamp>,
    /// Whether a folder stands in for the node (`--root`): no `/proc`, no `/sys`, no state of picket.
    pub rooted: bool,

    /// Metadata of every file, folder, link or socket that [`crate::Needs::files`] asks for, by path. For a pattern
    /// without wildcards the path itself must be there (`Absent` when it does not exist); matches of a pattern with
    /// wildcards are there when they exist.
    pub files: BTreeMap<String, Observation<FileMeta>>,
    /// State of every folder that had to be listed or looked into for [`Snapshot::files`]: the parent of each plain
    /// path, the base of each pattern, and each folder below a `**`. `Absent`: the folder does not exist.
    pub folders: BTreeMap<String, Observation<Folder>>,

    /// Live kernel parameters by dotted name, text trimmed. `Absent`: `/proc/sys` is readable and has no such key.
    pub sysctls: BTreeMap<String, Observation<String>>,
    /// What the sysctl folders will set at the next boot. `Absent`: none of the folders exists.
    pub persisted_sysctls: Observation<PersistedSysctls>,

    /// The effective configuration on disk. `Absent`: no unit, no environment file, no config.yaml, no drop-in.
    pub declared: Observation<Arc<NodeConfig>>,
    /// The configuration remembered from the start of the running process; `Absent` while nothing was remembered.
    pub running: Observation<Arc<NodeConfig>>,

    /// Where K3s' own files lie by the configuration on disk, besides the usual places.
    pub places: Arc<Places>,

    /// Traps in the configuration on disk, known as far as they show even where its values are not. `Absent`: no
    /// unit, no environment file, no config.yaml, no drop-in.
    pub traps: Observation<Arc<Traps>>,

    /// Certificates by file: each PEM block in its order. Includes certificates embedded in kubeconfigs and in
    /// `dynamic-cert.json`.
    pub certificates: BTreeMap<String, Observation<Vec<CertFacts>>>,
    /// Private keys by file, as the public key that belongs to them: every `*.key` beside a certificate.
    pub keys: BTreeMap<String, Observation<KeyFacts>>,
    /// What listens on this node by loopback address and port: the certificate it serves. `Absent`: nothing listens
    /// there.
    pub served: BTreeMap<u16, Observation<ServedFacts>>,
    /// Secrets in the datastore by file (`state.db`, and `state.db.migrated`), counted by how they are stored.
    pub datastores: BTreeMap<String, Observation<StoredSecrets>>,
    /// Token files by path (`<data-dir>/server/token`, `agent-token`): what is in them, as fingerprints.
    pub tokens: BTreeMap<String, Observation<TokenFacts>>,
    /// The token this node joins with (option `token`, `K3S_TOKEN`, or the file of `token-file`).
    pub join_token: Observation<JoinToken>,
    /// systemd units of K3s by path: token options on their command lines.
    pub units: BTreeMap<String, Observation<UnitFacts>>,

    /// Encryption configurations by path: K3s's own, and the one `--encryption-provider-config` names.
    pub encryption_configs: BTreeMap<String, Observation<EncryptionConfig>>,
    /// `<data-dir>/server/cred/encryption-state.json`.
    pub encryption_state: Observation<EncryptionState>,

    /// Audit policies by path (what `--audit-policy-file` names).
    pub audit_policies: BTreeMap<String, Observation<AuditPolicy>>,
    /// Audit logs by path (what `--audit-log-path` names).
    pub audit_logs: BTreeMap<String, Observation<AuditLogFacts>>,
    /// Admission configurations by path (what `--admission-control-config-file` names).
    pub admission_configs: BTreeMap<String, Observation<AdmissionConfig>>,
    /// Authentication configurations by path (what `--authentication-config` names).
    pub authentication_configs: BTreeMap<String, Observation<AuthenticationConfig>>,
    /// Authorization configurations by path (what `--authorization-config` names).
    pub authorization_configs: BTreeMap<String, Observation<AuthorizationConfig>>,

    /// `<data-dir>/server/db/etcd/config` as JSON (it is YAML on disk; [`crate::parse_yaml_map`]).
    pub etcd_config: Observation<serde_json::Value>,
    /// Drop-ins of the kubelet by path, in the order the kubelet walks them, as JSON.
    pub kubelet_dropins: BTreeMap<String, Observation<serde_json::Value>>,
    /// Those of them that the next start of K3s will write, by the path they get: its own file, and copies.
    pub kubelet_next: BTreeMap<String, Observation<serde_json::Value>>,
    /// Where those copies come from, by the path they get.
    pub kubelet_copied_from: BTreeMap<String, String>,
    /// Configurations of the kubelet by path (what its flag `--config` names), as JSON.
    pub kubelet_configs: BTreeMap<String, Observation<serde_json::Value>>,
    /// `registries.yaml`, or the file that [`Snapshot::registries_file`] names.
    pub registries: Observation<Registries>,
    /// Those of the files above that are read at start only, as the running process read them; belongs to
    /// [`Snapshot::running`].
    pub read_at_start: Arc<ReadAtStart>,
    /// Whether SELinux enforces: `/sys/fs/selinux/enforce` is 1. `Absent`: `/sys/fs` is readable and has no selinux
    /// below it. `Unreadable`: no `/sys`.
    pub selinux_enforcing: Observation<bool>,
}

impl Snapshot {
    /// A snapshot in which nothing was seen yet: every control is `unknown` or does not apply.
    pub fn blank(at: Timestamp) -> Self {
        fn nothing<T>() -> Observation<T> {
            Observation::unreadable("not looked at")
        }
        Self {
            at,
            role: None,
            data_dir: DEFAULT_DATA_DIR.to_owned(),
            k3s_version: None,
            k3s_started_at: nothing(),
            rooted: false,
            files: BTreeMap::new(),
            folders: BTreeMap::new(),
            sysctls: BTreeMap::new(),
            persisted_sysctls: nothing(),
            declared: nothing(),
            running: Observation::Absent,
            places: Arc::new(Places { blind: Some("not looked at".to_owned()), ..Places::default() }),
            traps: nothing(),
            certificates: BTreeMap::new(),
            keys: BTreeMap::new(),
            served: BTreeMap::new(),
            datastores: BTreeMap::new(),
            tokens: BTreeMap::new(),
            join_token: nothing(),
            units: BTreeMap::new(),
            encryption_configs: BTreeMap::new(),
            encryption_state: nothing(),
            audit_policies: BTreeMap::new(),
            audit_logs: BTreeMap::new(),
            admission_configs: BTreeMap::new(),
            authentication_configs: BTreeMap::new(),
            authorization_configs: BTreeMap::new(),
            etcd_config: nothing(),
            kubelet_dropins: BTreeMap::new(),
            kubelet_next: BTreeMap::new(),
            kubelet_copied_from: BTreeMap::new(),
            kubelet_configs: BTreeMap::new(),
            registries: nothing(),
            read_at_start: Arc::default(),
            selinux_enforcing: nothing(),
        }
    }

    /// The configurations that are known: on disk, in force.
    pub fn configs(&self) -> Vec<&NodeConfig> {
        [&self.declared, &self.running].into_iter().filter_map(|c| c.value()).map(AsRef::as_ref).collect()
    }

    /// The file registries are taken from.
    pub fn registries_file(&self) -> String {
        crate::places::registries_file(&self.configs())
    }
}

/// Where K3s keeps its data unless told otherwise.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/rancher/k3s";

/// What a directory entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Folder,
    /// A symbolic link.
    Link,
    /// A socket.
    Socket,
    /// A pipe or device.
    Other,
}

/// Metadata of one directory entry, from `lstat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileMeta {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits (`mode & 0o7777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Time of the last change of its content.
    pub mtime: Timestamp,
    /// For a link: where it leads. None for everything else.
    pub link: Option<LinkTarget>,
}

impl FileMeta {
    /// The file itself, or what a link finally leads to. None when the link dangles or cannot be followed.
    pub fn resolved(&self) -> Option<&FileMeta> {
        match &self.link {
            None => Some(self),
            Some(link) => link.meta.value().map(Box::as_ref),
        }
    }
}

/// Where a symbolic link leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkTarget {
    /// The text of the link.
    pub text: String,
    /// The path it finally leads to after every hop, in the node's own terms; none when it cannot be followed.
    pub path: Option<String>,
    /// Metadata of the end of the chain; `Absent` for a dangling link.
    pub meta: Observation<Box<FileMeta>>,
}

/// A folder that was listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Folder {
    /// Whether every entry is in the snapshot. False when a limit cut the listing short.
    pub complete: bool,
}

/// Where a certificate was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CertSource {
    /// A block of a PEM file.
    File,
    /// Embedded in a kubeconfig.
    Kubeconfig,
    /// `data["tls.crt"]` of `dynamic-cert.json`.
    DynamicCert,
}

/// Kind and strength of a public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKeyKind {
    /// RSA with a modulus of so many bits.
    Rsa {
        /// Bits of the modulus.
        bits: u32,
    },
    /// A prime-field elliptic curve of so many bits.
    Ec {
        /// Bits of the curve's order.
        bits: u32,
    },
    /// Ed25519.
    Ed25519,
    /// Something else, by its object identifier.
    Other(String),
}

/// What matters of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertFacts {
    /// Position in its file, from 0. The first block of a K3s leaf file is the leaf, the rest are CAs.
    pub index: u32,
    /// Where it was found.
    pub source: CertSource,
    /// Subject, in the usual text form.
    pub subject: String,
    /// Issuer, likewise.
    pub issuer: String,
    /// Serial number in hex. K3s's own CAs have 0.
    pub serial: String,
    /// Start of validity.
    pub not_before: Timestamp,
    /// End of validity.
    pub not_after: Timestamp,
    /// Whether it is a CA (basic constraints).
    pub is_ca: bool,
    /// Kind and strength of the key.
    pub key: PublicKeyKind,
    /// Name of the signature algorithm, such as `ecdsa-with-SHA256` or `sha1WithRSAEncryption`.
    pub signature: String,
    /// SHA-256 of the subject public key info (DER), lower-case hex.
    pub key_sha256: String,
    /// SHA-256 of the certificate (DER), lower-case hex.
    pub sha256: String,
    /// Subject alternative names.
    pub sans: Vec<String>,
    /// The keys that could have made its signature: those of the node's certificates that bear its issuer's name.
    pub signers: Vec<Signer>,
}

/// A key under the name of a certificate's issuer. The name alone proves nothing: a CA made anew may bear the old name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// The key, as in [`CertFacts::key_sha256`].
    pub key_sha256: String,
    /// Whether the signature was made with it; none where the algorithm cannot be checked.
    pub made_it: Option<bool>,
}

impl CertFacts {
    /// Whether the key of a CA made this certificate's signature; none where that is not known.
    pub fn is_signed_by(&self, ca: &Self) -> Option<bool> {
        if self.issuer != ca.subject {
            return Some(false);
        }
        self.signers.iter().find(|signer| signer.key_sha256 == ca.key_sha256).and_then(|signer| signer.made_it)
    }
}

/// A private key, without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFacts {
    /// SHA-256 of the public key that belongs to it (subject public key info, DER), lower-case hex: that of
    /// [`CertFacts::key_sha256`].
    pub key_sha256: String,
}

/// A certificate as it is served, not as it lies on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedFacts {
    /// SHA-256 of the first certificate sent (DER), lower-case hex.
    pub sha256: String,
    /// Its subject.
    pub subject: String,
    /// Start of its validity.
    pub not_before: Timestamp,
    /// End of its validity.
    pub not_after: Timestamp,
}

/// The form of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenForm {
    /// `K10<hash>::<user>:<password>`: pins the CA.
    Full {
        /// `server` or `node`.
        user: String,
    },
    /// `K10<hash>::<id>.<secret>`: a bootstrap token that pins the CA.
    PinnedBootstrap,
    /// `<id>.<secret>`: a bootstrap token without the CA hash.
    Bootstrap,
    /// Only a password: whoever joins with it trusts any server.
    Short,
}

impl TokenForm {
    /// Whether the token begins with `K10` and so pins the cluster's CA.
    pub const fn pins_ca(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::PinnedBootstrap)
    }
}

/// A token file, without the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenFacts {
    /// Its form.
    pub form: TokenForm,
    /// Keyed fingerprint (hex) of the *password part*; equal passwords have equal fingerprints on this node.
    pub fingerprint: String,
    /// When picket first saw this fingerprint in this file. None without picket's own state (a `--root` tree).
    pub first_seen: Option<Timestamp>,
    /// Whether `first_seen` is the true moment of the change (a change was witnessed), or only the moment picket began
    /// to look, before which the token may have been in use for any time.
    pub change_witnessed: bool,
}

/// The token a node joins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Its form.
    pub form: TokenForm,
    /// Where it stands: path, line and layer.
    pub evidence: picket_model::Evidence,
}

/// What a systemd unit says that matters beyond its options.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnitFacts {
    /// Token options on its command line after joining lines and unquoting: (option such as `--token`, line).
    pub token_options: Vec<(String, u32)>,
}

/// What is known of an audit log without reading all of it at the moment of judging: running totals of the tail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditLogFacts {
    /// When the log was last written.
    pub mtime: Timestamp,
    /// Paths of rotated siblings that exist now.
    pub rotated: Vec<String>,
    /// Time of the oldest entry in the oldest file that still exists; none when no entry could be read.
    pub oldest_entry: Option<Timestamp>,
    /// When picket first saw this log. None without picket's own state.
    pub first_seen: Option<Timestamp>,
    /// What the entries read so far say. None: the entries were not read.
    pub entries: Option<AuditEntries>,
}
