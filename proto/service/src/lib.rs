//! What both services need in order to run, and what is not particular to either: clock, supervision, TLS,
//! identities, settings values, logging to the journal, systemd.

pub mod clock;
