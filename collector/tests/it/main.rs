//! The collector as a whole: real sockets, real TLS, real sled, in a folder of its own and on a port of its own.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod access;
mod admin;
mod enrolment;
mod hostile;
mod support;
mod uplink;
