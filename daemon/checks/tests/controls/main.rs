//! The catalogue and the evaluator, from the outside: what a user of the crate relies on.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

mod at_start;
mod audit;
mod audit_policies;
mod catalogue;
mod cert_files;
mod chains;
mod evidence;
mod good;
mod ops;
mod parsers;
mod stored;
mod sysctls;
mod traps;
