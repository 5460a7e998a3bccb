//! picketd: watches what decides a K3s node's security, judges it, remembers, reports.
//!
//! | module | part in the flow |
//! |---|---|
//! | [`source`] | re-reads each source whole, contributes to a snapshot |
//! | [`report`] | the outputs of the one-shot commands |
//! | [`cmd`] | one file for each command |
//! | [`cli`] | the command line |

pub mod cli;
pub mod cmd;
pub mod report;
pub mod source;
