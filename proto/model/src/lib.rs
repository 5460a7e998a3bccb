//! The words of Picket: what a node observes, how it is judged, and what is reported.
//!
//! | word | type |
//! |---|---|
//! | observation: what a source saw, without judgement | [`Observation`] |
//! | evidence: where it was seen | [`Evidence`] |
//! | verdict: a control judged on a subject | [`Verdict`] |
//! | finding: a failing or blind control with an identity that stays | [`Finding`] |
//! | detection: something in the audit log that matched a rule | [`Detection`] |
//! | need: what a detection looks for in the audit log | [`DetectionNeed`] |
//! | event: a numbered change on the node | [`Event`] |
//!
//! [`name`] writes names of files as text; [`flag_value`] reads values of flags.
//!
//! Invariants: nothing here does I/O, waits, looks at a clock or logs. No type here holds a secret.

mod detection;
mod event;
mod finding;
pub mod flag_value;
mod ids;
pub mod name;
mod need;
mod node;
mod observation;
mod severity;
mod verdict;

pub use detection::{Detection, ObjectRef};
pub use event::{ChainHash, Event, EventBody, EventKind, Gap, GapReason};
pub use finding::{Finding, FindingKey, FindingState, Transition, transition};
pub use ids::{Epoch, IdError, NodeId, Seq};
pub use need::DetectionNeed;
pub use node::{Labels, NodeInfo, Role};
pub use observation::{Evidence, Observation};
pub use severity::{Severity, UnknownSeverity};
pub use verdict::{State, Status, UnknownStatus, Verdict};
