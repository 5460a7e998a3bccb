//! Answers to operators: which nodes, findings and events, page by page.
//!
//! Everything here is pure or reads the [`picket_store::Store`]; calls block and belong on a blocking thread.

mod answer;
mod directory;
mod filter;
mod page;
mod selector;
#[cfg(test)]
mod tests;

pub use answer::{event_to_wire, list_detections, list_findings, list_history, list_nodes};
pub use directory::{Directory, NodeView};
pub use filter::{Filter, QueryError};
pub use page::{List, Paging};
pub use selector::{Selector, SelectorError};
