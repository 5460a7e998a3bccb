//! The collector: takes nodes in, takes their reports, keeps their history, answers operators.
//!
//! The way of the data: [`picket_service::tls::accept`] → [`authz`] → [`session`] → [`ingest`] → [`writer`] →
//! [`bus`] and [`query`]. Beside it: [`ca`] and [`registry`] (who belongs to the fleet), [`fleet`] (who is silent),
//! [`notice`] (what the collector itself finds), [`grpc`] (the services), [`http`] and [`metrics`].
//!
//! Invariants: nothing is acknowledged that is not durable; every call is checked by [`authz`] before a service sees
//! it; the collector never sends a node anything to execute; [`app`] is the only module that knows all others.

pub mod admin;
pub mod app;
pub mod authz;
pub mod bus;
pub mod ca;
pub mod cli;
pub mod fleet;
pub mod grpc;
pub mod http;
pub mod ingest;
pub mod members;
pub mod metrics;
pub mod notice;
pub mod query;
pub mod registry;
pub mod session;
pub mod settings;
pub mod writer;
