//! Sources: each re-reads its whole place through the host and puts what it saw into a snapshot. No judgement here,
//! and no secret leaves a source: tokens become keyed fingerprints, private and encryption keys are dropped unread.

pub mod at_start;
pub mod audit_log;
pub mod certificates;
pub mod config;
pub mod datastore;
pub mod documents;
pub mod files;
mod fresh;
pub mod keys;
pub mod kubelet;
pub mod memory;
pub mod program;
pub mod served;
mod signatures;
pub mod start;
pub mod sysctls;
pub mod tokens;
pub mod traps;
pub mod watches;

use jiff::Timestamp;
use picket_checks::{Catalogue, Needs, Snapshot};
use picket_host::{Host, ReadError};
use picket_model::{Observation, Role};

pub use config::Configuration;
pub use fresh::observe_settled;
pub use memory::{Fingerprinter, Memory};
pub use watches::{Watches, watches};

/// What the caller knows besides the node itself.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// The role a person gave; otherwise it is found out.
    pub role: Option<Role>,
    /// What picket remembers of this node, and the key of its fingerprints.
    pub memory: &'a Memory,
    /// The controls that will be judged: what they need is looked at.
    pub catalogue: &'a Catalogue,
}

/// Everything that was seen of a node at one moment, and what was needed for it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// What the controls judge.
    pub snapshot: Snapshot,
    /// The configuration as K3s reads it, for `picketd config`.
    pub configuration: Configuration,
    /// What was read of the datastore, for the next look.
    pub datastores: datastore::Kept,
    /// What was counted of the audit logs, for the next look.
    pub audit_logs: audit_log::Kept,
}

impl Seen {
    /// The token that joins servers, and agents too unless they have one of their own; none where it was not read.
    pub fn server_token(&self) -> Option<&picket_checks::TokenFacts> {
        self.snapshot.tokens.get(&format!("{}/server/token", self.snapshot.data_dir))?.value()
    }
}

/// The sources, each with a name that stands in logs and in `picketd status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// K3s' configuration, and with it role, data dir and the paths the configuration names. All others depend on it.
    Config,
    /// Modes, owners and links of files.
    Files,
    /// Certificates.
    Certificates,
    /// Node, server and agent tokens.
    Tokens,
    /// Live kernel parameters.
    Sysctls,
    /// Kernel parameters that will be set at the next boot.
    PersistedSysctls,
    /// Encryption, admission, authentication configurations, audit policy, etcd, kubelet drop-ins, registries.
    Documents,
    /// The audit log: its age and rotation, and totals over its entries (what happened in them is the tail's affair).
    AuditLog,
    /// Secrets in the datastore.
    Datastore,
    /// SELinux.
    Selinux,
}

impl Source {
    /// All sources, in the order in which they are read.
    pub const ALL: [Self; 10] = [
        Self::Config,
        Self::Files,
        Self::Certificates,
        Self::Tokens,
        Self::Sysctls,
        Self::PersistedSysctls,
        Self::Documents,
        Self::AuditLog,
        Self::Datastore,
        Self::Selinux,
    ];

    /// The name in logs, metrics and `picketd status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Files => "files",
            Self::Certificates => "certificates",
            Self::Tokens => "tokens",
            Self::Sysctls => "sysctls",
            Self::PersistedSysctls => "persisted-sysctls",
            Self::Documents => "documents",
            Self::AuditLog => "audit-log",
            Self::Datastore => "datastore",
            Self::Selinux => "selinux",
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// Looks at everything.
pub fn observe(host: &Host, ask: &Ask<'_>) -> Seen {
    let mut snapshot = Snapshot::blank(host.now());
    snapshot.rooted = !host.is_live();
    let configuration = config::observe(host, ask, &mut snapshot);
    let (datastores, audit_logs) = (datastore::Kept::default(), audit_log::Kept::default());
    let mut seen = Seen { snapshot, configuration, datastores, audit_logs };
    refresh(host, ask, &mut seen, Source::ALL.into_iter().filter(|source| *source != Source::Config));
    seen
}

/// Looks at sources again, each whole. [`Source::Config`] decides where the others look, so it re-reads them all.
pub fn refresh(host: &Host, ask: &Ask<'_>, seen: &mut Seen, sources: impl IntoIterator<Item = Source>) {
    // None of the others changes what is needed.
    let mut needs = needs(ask.catalogue, &seen.snapshot);
    for source in sources {
        seen.snapshot.at = host.now();
        let snapshot = &mut seen.snapshot;
        match source {
            Source::Config => {
                *seen = observe(host, ask);
                needs = self::needs(ask.catalogue, &seen.snapshot);
            }
            Source::Files => files::observe(host, &needs, snapshot),
            Source::Certificates => certificates::observe(host, &needs, snapshot),
            Source::Tokens => tokens::observe(host, &needs, &seen.configuration, ask.memory, snapshot),
            Source::Sysctls => sysctls::observe_live(host, &needs, snapshot),
            Source::PersistedSysctls => sysctls::observe_persisted(host, snapshot),
            Source::Documents => documents::observe(host, &needs, &seen.configuration, ask.memory, snapshot),
            Source::AuditLog => audit_log::observe(host, &needs, ask.memory, &mut seen.audit_logs, snapshot),
            Source::Datastore => datastore::observe(host, &needs, &mut seen.datastores, snapshot),
            Source::Selinux => snapshot.selinux_enforcing = selinux(host),
        }
    }
}

/// What has to be looked at on a node with the configurations of this snapshot.
pub fn needs(catalogue: &Catalogue, snapshot: &Snapshot) -> Needs {
    Needs::of(catalogue, &snapshot.data_dir, &snapshot.configs(), &snapshot.places)
}

fn selinux(host: &Host) -> Observation<bool> {
    match host.special("/sys/fs/selinux/enforce".as_ref(), 16) {
        Ok(text) => Observation::from(text.trim() == "1"),
        Err(ReadError::Absent) => match host.list("/sys/fs".as_ref(), 1024) {
            Ok(_) => Observation::Absent,
            Err(reason) => Observation::unreadable(format!("/sys/fs: {reason}")),
        },
        Err(reason) => Observation::unreadable(format!("/sys/fs/selinux/enforce: {reason}")),
    }
}

/// What was read, or absent, or the reason. The path is not repeated in it: whoever judges names it.
pub(crate) fn observation<T>(result: Result<T, ReadError>) -> Observation<T> {
    match result {
        Ok(value) => Observation::from(value),
        Err(ReadError::Absent) => Observation::Absent,
        Err(reason) => Observation::unreadable(reason.to_string()),
    }
}

/// Reads a file and understands it; a file that cannot be understood is unreadable, with the reason.
pub(crate) fn parsed<T, E: std::fmt::Display>(
    host: &Host,
    path: &str,
    limit: u64,
    parse: impl FnOnce(&[u8], Timestamp) -> Result<T, E>,
) -> Observation<T> {
    match host.read(path.as_ref(), limit) {
        Ok(content) => {
            let bytes = zeroize::Zeroizing::new(content.bytes);
            match parse(&bytes, content.meta.mtime) {
                Ok(value) => Observation::from(value),
                Err(reason) => Observation::unreadable(reason.to_string()),
            }
        }
        Err(reason) => observation(Err(reason)),
    }
}
