//! The only door to the machine: files below a root, `/proc`, the clock, names. Everything picketd knows of a node
//! comes through a [`Host`], so that a folder of files can stand in for a node and a test owns the clock.
//!
//! Invariants:
//! - Nothing outside the root is ever opened. Absolute links and `..` are resolved inside it, by the kernel
//!   (`openat2` with `RESOLVE_IN_ROOT`) or, where that call is refused, step by step on descriptors; never by string
//!   arithmetic that could race.
//! - A read never blocks and never grows without bound: only regular files are read, up to a limit the caller gives.
//! - Names are text, in and out, written as [`picket_model::name`] does it: a name that is no UTF-8 is seen and opened
//!   like any other.
//! - A rooted host never reads the live machine: no `/proc`, no host name, no user names, unless told to.
//! - This crate judges nothing and writes nothing.

mod error;
mod folder;
mod hops;
mod host;
mod journal;
mod meta;
mod process;
mod root;
mod walk;

pub use error::{HostError, ReadError};
pub use folder::{Entry, Matches, Problem};
pub use hops::Trail;
pub use host::{Content, Host};
pub use meta::{Kind, Meta};
pub use process::{K3sProcess, ProcessRole};
