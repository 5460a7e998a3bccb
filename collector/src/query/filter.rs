//! Filters: from the wire to what the store understands.

use std::collections::BTreeSet;

use jiff::Timestamp;
use picket_model::{EventBody, EventKind, FindingState, NodeId, Severity};
use picket_proto::convert::{FieldError, severity_from_wire, state_from_wire};
use picket_proto::{limits, v1};
use picket_store::{EventQuery, FindingQuery, Scope, StoreError, StoredEvent};

use super::{Directory, Selector, SelectorError};

/// A question that cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// A field is wrong.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The selector is wrong.
    #[error("field filter.selector: {0}")]
    Selector(#[from] SelectorError),
    /// The page token is none of ours, or was made for another question.
    #[error("field page.token: {0}; leave it empty to start again")]
    Token(&'static str),
    /// No such node.
    #[error("no node has the id or host name {name:?}: see picketctl get nodes")]
    UnknownNode {
        /// What was asked for.
        name: String,
    },
    /// Several nodes have that host name.
    #[error("several nodes have the host name {name:?}: say which by id: {}", join(ids))]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// The nodes.
        ids: Vec<NodeId>,
    },
    /// The store failed.
    #[error("the collector's store failed; the cause stands in its log")]
    Store(#[from] StoreError),
}

fn join(ids: &[NodeId]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl From<QueryError> for tonic::Status {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Field(_) | QueryError::Selector(_) | QueryError::Token(_) => {
                Self::invalid_argument(error.to_string())
            }
            QueryError::UnknownNode { .. } => Self::not_found(error.to_string()),
            QueryError::Ambiguous { .. } => Self::failed_precondition(error.to_string()),
            QueryError::Store(_) => Self::internal(error.to_string()),
        }
    }
}

/// Which nodes, findings and events. Empty fields do not restrict.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    nodes: Vec<String>,
    selector: Selector,
    min_severity: Option<Severity>,
    states: Vec<FindingState>,
    controls: BTreeSet<String>,
    since: Option<Timestamp>,
}

impl Filter {
    /// Reads a filter; a missing one restricts nothing.
    ///
    /// # Errors
    /// [`QueryError`] with the field that is wrong.
    pub fn from_wire(wire: Option<v1::Filter>) -> Result<Self, QueryError> {
        let wire = wire.unwrap_or_default();
        let field = |name: &str, problem: String| FieldError::new(format!("filter.{name}"), problem);
        for (name, values, bytes) in [("nodes", &wire.nodes, 253), ("controls", &wire.controls, 128)] {
            if values.len() > limits::FILTER_VALUES {
                let problem = format!("{} entries, at most {} are taken", values.len(), limits::FILTER_VALUES);
                return Err(field(name, problem).into());
            }
            if let Some(i) = values.iter().position(|value| value.is_empty() || value.len() > bytes) {
                return Err(field(&format!("{name}[{i}]"), format!("must have 1 to {bytes} bytes")).into());
            }
        }
        let min_severity = match wire.min_severity {
            0 => None,
            number => {
                let unknown = || field("min_severity", format!("unknown value {number}"));
                Some(severity_from_wire(number).ok_or_else(unknown)?)
            }
        };
        let mut states = Vec::new();
        for (i, number) in wire.states.iter().enumerate() {
            let unknown = || field(&format!("states[{i}]"), format!("unknown value {number}"));
            let state = state_from_wire(*number).ok_or_else(unknown)?;
            // At most three remain, however often each is named.
            if !states.contains(&state) {
                states.push(state);
            }
        }
        let since = match wire.since_unix_ms {
            0 => None,
            ms => {
                Some(Timestamp::from_millisecond(ms).map_err(|_| field("since_unix_ms", format!("{ms} is no time")))?)
            }
        };
        Ok(Self {
            nodes: wire.nodes,
            selector: wire.selector.parse()?,
            min_severity,
            states,
            controls: wire.controls.into_iter().collect(),
            since,
        })
    }

    /// The nodes that are meant.
    ///
    /// # Errors
    /// [`QueryError::UnknownNode`] for a name that no node has: an empty answer would look like a clean node.
    pub fn scope(&self, directory: &Directory) -> Result<Scope, QueryError> {
        let mut named = BTreeSet::new();
        for name in &self.nodes {
            let found = directory.named(name);
            if found.is_empty() {
                return Err(QueryError::UnknownNode { name: name.clone() });
            }
            named.extend(found);
        }
        Ok(match (self.nodes.is_empty(), self.selector.is_empty()) {
            (true, true) => Scope::All,
            (false, true) => Scope::Nodes(named),
            (true, false) => Scope::Nodes(directory.selected(&self.selector)),
            (false, false) => {
                let chosen =
                    |id: &NodeId| directory.get(*id).is_some_and(|view| self.selector.matches(&view.record.labels));
                Scope::Nodes(named.into_iter().filter(chosen).collect())
            }
        })
    }

    /// The same question about findings; without states, those that are open or blind.
    ///
    /// # Errors
    /// [`QueryError`] for nodes that are not known.
    pub fn findings(&self, directory: &Directory, limit: usize) -> Result<FindingQuery, QueryError> {
        let states =
            if self.states.is_empty() { vec![FindingState::Open, FindingState::Blind] } else { self.states.clone() };
        Ok(FindingQuery {
            scope: self.scope(directory)?,
            min_severity: self.min_severity,
            states,
            controls: self.controls.clone(),
            since: self.since,
            after: None,
            limit,
        })
    }

    /// The same question about events of some kinds; of all without any.
    ///
    /// # Errors
    /// [`QueryError`] for nodes that are not known.
    pub fn events(&self, directory: &Directory, kinds: Vec<EventKind>, limit: usize) -> Result<EventQuery, QueryError> {
        Ok(EventQuery {
            scope: self.scope(directory)?,
            kinds,
            min_severity: self.min_severity,
            states: self.states.clone(),
            controls: self.controls.clone(),
            latest: false,
            since: self.since,
            before: None,
            limit,
        })
    }

    /// Is this event meant? For watching: nodes and labels are looked up as they are now, so that a node that is taken
    /// in later is heard too.
    pub fn matches(&self, stored: &StoredEvent, directory: &Directory) -> bool {
        let (severity, state, topic) = match &stored.event.body {
            EventBody::FindingOpened { finding }
            | EventBody::FindingChanged { finding }
            | EventBody::FindingResolved { finding } => {
                (Some(finding.severity), Some(finding.state), Some(&finding.control))
            }
            EventBody::Detection { detection } => (Some(detection.severity), None, Some(&detection.rule)),
            EventBody::Inventory { .. } | EventBody::Gap { .. } => (None, None, None),
        };
        self.min_severity.is_none_or(|min| severity.is_some_and(|s| s >= min))
            && (self.states.is_empty() || state.is_some_and(|s| self.states.contains(&s)))
            && (self.controls.is_empty() || topic.is_some_and(|t| self.controls.contains(t)))
            && self.since.is_none_or(|since| stored.received >= since)
            && self.matches_node(stored.node, directory)
    }

    fn matches_node(&self, node: NodeId, directory: &Directory) -> bool {
        if self.nodes.is_empty() && self.selector.is_empty() {
            return true;
        }
        let Some(view) = directory.get(node) else {
            return self.selector.is_empty() && self.nodes.iter().any(|name| name.parse() == Ok(node));
        };
        let named = || self.nodes.iter().any(|name| *name == view.record.hostname || name.parse() == Ok(node));
        (self.nodes.is_empty() || named()) && self.selector.matches(&view.record.labels)
    }
}
