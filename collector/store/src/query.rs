//! Questions and answers.

use std::collections::BTreeSet;

use jiff::Timestamp;
use picket_model::{Epoch, EventKind, Finding, FindingState, NodeId, Severity};

use crate::{Position, StoredEvent};

/// Which nodes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Scope {
    /// All of them.
    #[default]
    All,
    /// These.
    Nodes(BTreeSet<NodeId>),
}

impl Scope {
    /// Is a node meant?
    pub fn contains(&self, node: NodeId) -> bool {
        match self {
            Self::All => true,
            Self::Nodes(nodes) => nodes.contains(&node),
        }
    }
}

/// Which findings. Empty fields do not restrict.
#[derive(Debug, Clone, Default)]
pub struct FindingQuery {
    /// On which nodes.
    pub scope: Scope,
    /// At least this bad.
    pub min_severity: Option<Severity>,
    /// In which states.
    pub states: Vec<FindingState>,
    /// Of which controls.
    pub controls: BTreeSet<String>,
    /// Whose last change became durable at this time or later.
    pub since: Option<Timestamp>,
    /// Goes on after this place.
    pub after: Option<FindingsAfter>,
    /// At most so many.
    pub limit: usize,
}

/// A place in the list of findings, for the next page. Its bytes are the store's own business.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FindingsAfter(pub Vec<u8>);

/// A finding as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CurrentFinding {
    /// The node it is on.
    pub node: NodeId,
    /// The epoch of its last change.
    pub epoch: Epoch,
    /// When its last change became durable.
    pub received: Timestamp,
    /// The finding.
    pub finding: Finding,
    /// Its place in the list: a page that ends with it goes on after this.
    pub place: FindingsAfter,
}

/// One page of findings. A page may be short, even empty, and still not be the last: a query looks at a bounded number
/// of records.
#[derive(Debug, Clone, Default)]
pub struct FindingPage {
    /// The findings.
    pub findings: Vec<CurrentFinding>,
    /// Where the next page begins; none after the last.
    pub next: Option<FindingsAfter>,
}

/// Which events. Empty fields do not restrict.
#[derive(Debug, Clone, Default)]
pub struct EventQuery {
    /// Of which nodes.
    pub scope: Scope,
    /// Of which kinds.
    pub kinds: Vec<EventKind>,
    /// At least this bad; inventory and gaps have no severity and are left out when this is set.
    pub min_severity: Option<Severity>,
    /// In which states the finding is after the event; other events are left out when this is set.
    pub states: Vec<FindingState>,
    /// Of which controls or rules; other events are left out when this is set.
    pub controls: BTreeSet<String>,
    /// Of a detection that was counted on, only the newest event.
    pub latest: bool,
    /// That became durable at this time or later.
    pub since: Option<Timestamp>,
    /// Older than this place.
    pub before: Option<Position>,
    /// At most so many.
    pub limit: usize,
}

/// One page of events, newest first. May be short like [`FindingPage`].
#[derive(Debug, Clone, Default)]
pub struct EventPage {
    /// The events.
    pub events: Vec<StoredEvent>,
    /// The next page is what is older than this; none after the last.
    pub next: Option<Position>,
}
