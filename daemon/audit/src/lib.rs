//! Audit log: events and detections.
//!
//! A line becomes a borrowed [`Event`]; a [`Detector`] judges it by Sigma rules and hands out
//! [`picket_model::Detection`]s. Nothing here touches a file, a clock, the network or a log.
//!
//! Invariants: no body, command line or URL reaches a detection; memory is bounded whatever the log holds; the same
//! events give the same detections, also across [`Detector::state`] and [`Detector::restore`].

mod body;
mod detector;
mod event;
mod fields;
mod identity;
mod index;
mod rule;
mod site;
mod window;

pub use detector::{Counters, Detector, MAX_AUDIT_IDS, Mode, Position, Settings, StateError};
pub use event::{Event, LineError, MAX_LINE, ObjectReference, Pairs, ResponseStatus, Text, User, each_event};
pub use rule::{Kind, Rule, RuleError, builtin};
pub use site::Site;
