//! The collector's parts, one per stage of the flow.

pub mod bus;
pub mod ingest;
pub mod query;
pub mod writer;
