//! What both services need in order to run, and what is not particular to either: clock, supervision, TLS,
//! identities, settings values, logging to the journal, systemd.

pub mod atomic;
pub mod backoff;
pub mod chain;
pub mod clock;
pub mod journal;
pub mod operator_file;
pub mod private;
pub mod resident;
pub mod signal;
pub mod supervise;
pub mod systemd;
pub mod tls;
pub mod value;
