//! Controls and their evaluation.
//!
//! ```text
//! Catalogue ──► Needs ──► (the host side looks) ──► Snapshot ──► evaluate ──► Vec<Verdict>
//! ```
//!
//! Judging is pure: nothing here opens a file, looks at a clock, talks to anybody or logs, and [`evaluate`] cannot
//! fail. The first rule of judging: no evidence, no pass.

mod admission;
mod apiserver_auth;
mod audit_policy;
mod document;
mod encryption;
mod needs;
mod node_config;
mod registries;
mod snapshot;
mod sysctl;

pub use admission::{AdmissionConfig, PodSecurity};
pub use apiserver_auth::{Anonymous, AuthenticationConfig, AuthorizationConfig};
pub use audit_policy::{AuditPolicy, AuditRule, GroupResources, Level};
pub use document::{DocumentError, MAX_DOCUMENT, parse_yaml_map};
pub use encryption::{EncryptionConfig, EncryptionGroup, EncryptionState, Provider};
pub use needs::{FilePattern, Needs};
pub use node_config::{Flag, NodeConfig, Setting};
pub use registries::Registries;
pub use snapshot::*;
pub use sysctl::{PersistedSysctls, PersistedValue, SYSCTL_FOLDERS};
