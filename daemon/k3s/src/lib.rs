//! How K3s reads its configuration: what a node's files, unit and environment will give at the next start.
//!
//! Pure: all input comes through [`NodeFiles`] and [`Ask`], and nothing here looks at a clock, a process or the network.
//! [`effective`] is the one entry.

mod across;
mod argv;
mod components;
mod effective;
mod envfile;
mod files;
mod flag_names;
mod journal;
mod kubelet_config;
mod merge;
mod options;
mod refusals;
mod resolve;
mod traps;
mod unit;
mod version;
mod words;
mod yaml;

pub use effective::{
    AcrossVersions, EffectiveConfig, FlagValue, Flags, Layer, OptionValue, Problem, REDACTED, Trap, Warning,
};
pub use files::{DirEntry, EntryKind, MemoryFiles, NodeFiles, Unreadable};
pub use journal::{running_flags, started_version};
pub use kubelet_config::{KubeletFolder, without_secrets};
pub use options::OLD_NAMES;
pub use resolve::effective;
pub use version::{K3sVersion, NotAVersion};

use picket_model::Role;

/// What the caller knows besides the files.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ask<'a> {
    /// The role, where a person gave it; otherwise it is found out.
    pub role: Option<Role>,
    /// The version, where it is known (of the running process); otherwise it is looked for in `journal`.
    pub version: Option<K3sVersion>,
    /// What only the running host can tell. `None` (a folder standing for a node): what depends on it is left out.
    pub host: Option<&'a HostFacts>,
    /// Lines of K3s' log, for the version (`Starting k3s v…`).
    pub journal: Option<&'a str>,
}

/// What only the running host can tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// The host name, which is the node's name unless `node-name` is set.
    pub hostname: Option<String>,
    /// The node's internal addresses, as K3s would find them.
    pub node_ips: Vec<String>,
}
