//! Audit log: events and detections.
//!
//! A line becomes a borrowed [`Event`]; a [`Detector`] judges it by Sigma rules and hands out
//! [`picket_model::Detection`]s. [`Replay`] runs whole files through one. Nothing here opens a file
//! or touches a clock, the network or a log.
//!
//! Invariants: no body, command line or URL reaches a detection; memory is bounded whatever the log holds; the same
//! events give the same detections, also across [`Detector::state`] and [`Detector::restore`].

/// What rules may ask for, in words: FIELDS.md.
pub const FIELDS: &str = include_str!("../FIELDS.md");

mod body;
mod clock;
mod correlation;
mod decode;
mod detector;
mod event;
mod fields;
mod fingerprint;
mod footprint;
mod identity;
mod index;
mod keywords;
mod known;
mod library;
mod needs;
mod patch;
mod placeholder;
mod replay;
mod rule;
mod site;
mod told;
mod trail;
mod window;

pub use detector::{Counters, Detector, MAX_AUDIT_IDS, Mode, Position, Reason, Settings, StateError};
pub use event::{Event, LineError, MAX_LINE, ObjectReference, Pairs, ResponseStatus, Text, User, each_event};
pub use library::{Library, Notice};
pub use needs::{builtin_needs, needs};
pub use replay::{MAX_NAMED, Replay, Unreadable, first_time};
pub use rule::{Kind, Rule, RuleError, builtin};
pub use site::Site;
