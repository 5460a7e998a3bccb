//! The nodes as queries see them: one picture of the fleet, made anew when something changes.

use std::collections::{BTreeMap, BTreeSet};

use picket_model::NodeId;
use picket_proto::v1;
use picket_store::{NodeRecord, Records, Store, StoreError};

use super::{QueryError, Selector};

/// A node with what only the running collector knows of it.
#[derive(Debug, Clone)]
pub struct NodeView {
    /// What is kept of it.
    pub record: NodeRecord,
    /// Whether it is heard of.
    pub presence: v1::Presence,
}

/// All nodes of one moment.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    nodes: BTreeMap<NodeId, NodeView>,
    /// Host names are attributes: several nodes may have one.
    names: BTreeMap<String, BTreeSet<NodeId>>,
}

impl Directory {
    /// A directory of these nodes.
    pub fn new(nodes: impl IntoIterator<Item = NodeView>) -> Self {
        let nodes: BTreeMap<_, _> = nodes.into_iter().map(|view| (view.record.id, view)).collect();
        let mut names: BTreeMap<String, BTreeSet<NodeId>> = BTreeMap::new();
        for (id, view) in &nodes {
            names.entry(view.record.hostname.clone()).or_default().insert(*id);
        }
        Self { nodes, names }
    }

    /// A directory of all nodes in a store.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn read(store: &dyn Store, presence: impl Fn(&NodeRecord) -> v1::Presence) -> Result<Self, StoreError> {
        let records = store.load_all::<NodeRecord>()?;
        Ok(Self::new(records.into_iter().map(|r| NodeView { presence: presence(&r.record), record: r.record })))
    }

    /// A node.
    pub fn get(&self, id: NodeId) -> Option<&NodeView> {
        self.nodes.get(&id)
    }

    /// A node's host name when last heard of; empty for a node that is not known.
    pub fn hostname(&self, id: NodeId) -> &str {
        self.get(id).map_or("", |view| view.record.hostname.as_str())
    }

    /// All nodes with a host name, or the node with this id.
    pub fn named(&self, name: &str) -> BTreeSet<NodeId> {
        match name.parse::<NodeId>() {
            Ok(id) if self.nodes.contains_key(&id) => BTreeSet::from([id]),
            _ => self.names.get(name).cloned().unwrap_or_default(),
        }
    }

    /// The one node with an id or host name.
    ///
    /// # Errors
    /// [`QueryError::UnknownNode`], or [`QueryError::Ambiguous`] with the ids.
    pub fn one(&self, name: &str) -> Result<&NodeView, QueryError> {
        let found = self.named(name);
        let mut views = found.iter().filter_map(|id| self.get(*id));
        match (views.next(), views.next()) {
            (Some(view), None) => Ok(view),
            (Some(_), Some(_)) => {
                Err(QueryError::Ambiguous { name: name.to_owned(), ids: found.into_iter().collect() })
            }
            (None, _) => Err(QueryError::UnknownNode { name: name.chars().take(253).collect() }),
        }
    }

    /// Nodes with labels that a selector means.
    pub fn selected(&self, selector: &Selector) -> BTreeSet<NodeId> {
        self.nodes.values().filter(|view| selector.matches(&view.record.labels)).map(|view| view.record.id).collect()
    }

    /// Nodes by host name, then id, after a place.
    pub fn by_name(&self, after: Option<&(String, NodeId)>) -> impl Iterator<Item = &NodeView> {
        use std::ops::Bound;
        let from = after.map_or(Bound::Unbounded, |(name, _)| Bound::Included(name.clone()));
        self.names
            .range((from, Bound::Unbounded))
            .flat_map(|(name, ids)| ids.iter().map(move |id| (name, *id)))
            .filter(move |(name, id)| after.is_none_or(|(n, i)| (*name, *id) > (n, *i)))
            .filter_map(|(_, id)| self.get(id))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
}
