//! picketd: watches what decides a K3s node's security, judges it, remembers, reports.
//!
//! | module | part in the flow |
//! |---|---|
//! | [`source`] | re-reads each source whole, contributes to a snapshot |
//! | [`enrol`] | a one-time token becomes the node's identity |
//! | [`identity`] | key, certificate, authorities and the collector's address on disk |
//! | [`uplink`] | the one stream to the collector |
//! | [`report`] | the outputs of the one-shot commands |
//! | [`cmd`] | one file for each command |
//! | [`cli`] | the command line |

pub mod cli;
pub mod cmd;
pub mod enrol;
pub mod identity;
pub mod report;
pub mod source;
pub mod uplink;
