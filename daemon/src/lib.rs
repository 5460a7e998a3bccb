//! picketd: watches what decides a K3s node's security, judges it, remembers, reports.
//!
//! | module | part in the flow |
//! |---|---|
//! | [`app`] | builds the daemon from its parts and runs it |
//! | [`settings`] | what the daemon was told: file, environment, flags |
//! | [`watch`] | hints: folders under watch |
//! | [`source`] | re-reads each source whole, contributes to a snapshot |
//! | [`engine`] | looks, judges, appends what changed |
//! | [`said`] | how many verdicts of each status there are |
//! | [`settle`] | nothing counts that was caught in the middle of a write |
//! | [`remembered`] | what outlives a restart beside the ledger |
//! | [`audit_task`] | audit log to detections |
//! | [`rules`] | the site's own rules for the audit log |
//! | [`status`] | what `picketd status` says |
//! | [`enrol`] | a one-time token becomes the node's identity |
//! | [`identity`] | key, certificate, authorities and the collector's address on disk |
//! | [`uplink`] | the one stream to the collector |
//! | [`advice`] | what to write so that a control passes |
//! | [`repair`] | the only place that writes to a node, for `picketd fix` |
//! | [`report`] | the outputs of the one-shot commands |
//! | [`cmd`] | one file for each command |
//! | [`cli`] | the command line |

pub mod advice;
pub mod app;
pub mod audit_task;
pub mod cli;
pub mod cmd;
pub mod engine;
pub mod enrol;
pub mod identity;
pub mod local;
pub mod remembered;
pub mod repair;
pub mod report;
pub mod rules;
pub mod said;
pub mod settings;
pub mod settle;
pub mod source;
pub mod status;
pub mod uplink;
pub mod watch;
