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
mod at_start;
mod audit_entries;
mod audit_policy;
mod audit_requests;
mod background;
mod catalogue;
mod changes;
mod context;
mod dead_rules;
mod document;
mod encryption;
mod evaluate;
mod judge_audit;
mod judge_cert_files;
mod judge_chains;
mod judge_datastore;
mod judge_detections;
mod judge_dropins;
mod judge_etcd;
mod judge_files;
mod judge_flags;
mod judge_keys;
mod judge_stored;
mod judge_sysctl;
mod judge_traps;
mod judge_x509;
mod needs;
mod node_config;
mod packed;
mod places;
mod policy;
mod registries;
mod row;
mod snapshot;
mod sources;
mod stored;
mod sysctl;
mod values;
mod words;

pub use admission::{AdmissionConfig, PodSecurity};
pub use apiserver_auth::{Anonymous, AuthenticationConfig, AuthorizationConfig};
pub use at_start::ReadAtStart;
pub use audit_entries::{AuditEntries, Counted};
pub use audit_policy::{AuditPolicy, AuditRule, GroupResources, Level};
pub use background::Background;
pub use catalogue::{
    Assessment, Catalogue, CatalogueError, Control, CustomControls, CustomProblem, Expected, IfAbsent, Modifier, Op,
    Scope, Source, Standing, Term, Terms,
};
pub use changes::{Changes, Rejudged, evaluate_changes};
pub use document::{DocumentError, MAX_DOCUMENT, parse_yaml_map};
pub use encryption::{EncryptionConfig, EncryptionGroup, EncryptionState, Provider};
pub use evaluate::{evaluate, evaluate_some, worst_status};
pub use judge_cert_files::{compare_served, serving_ports};
pub use needs::{FilePattern, Needs};
pub use node_config::{Flag, NodeConfig, Setting, Trapped, Traps};
pub use places::{Places, REGISTRIES_FILE};
pub use policy::Policy;
pub use registries::Registries;
pub use snapshot::*;
pub use sources::{SourceKey, depends};
pub use stored::{STORED_PREFIX, StoredForm, StoredSecrets, Tally};
pub use sysctl::{PersistedSysctls, PersistedValue, SYSCTL_FOLDERS};
