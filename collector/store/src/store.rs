//! The contract.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use picket_model::{ChainHash, Epoch, Event, FindingState, NodeId, Seq, Severity};

use crate::StoreError;
use crate::query::{EventPage, EventQuery, FindingPage, FindingQuery};
use crate::record::{Change, Durability, RawRecord, Table};

/// Where an event stands in the order in which events became durable. Never used twice; there may be gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

/// An event in the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its place in the history.
    pub position: Position,
    /// Where it happened.
    pub node: NodeId,
    /// When it became durable, by the collector's clock; never earlier than that of the event before it.
    pub received: Timestamp,
    /// What happened.
    pub event: Arc<Event>,
}

/// What one node hands over.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The node.
    pub node: NodeId,
    /// The life of its state folder.
    pub epoch: Epoch,
    /// Events of that epoch, ascending by number.
    pub events: Vec<Event>,
    /// Numbers up to this one that do not come with this delivery never will: the node gave them up. Zero: none.
    pub given_up_through: Seq,
}

/// What became of a delivery.
#[derive(Debug, Clone)]
pub struct Receipt {
    /// Everything up to this number is durable.
    pub through: Seq,
    /// Events that were there before.
    pub duplicates: u64,
    /// Numbers that were passed over: the node gave them up.
    pub given_up: u64,
    /// Events that are new, in their order.
    pub stored: Vec<StoredEvent>,
}

/// A delivery of which nothing was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Events are missing that were not declared given up.
    #[error("events from {expected} on are missing: got {got}")]
    Hole {
        /// The number that should come next.
        expected: Seq,
        /// The number that came.
        got: Seq,
    },
    /// Numbers do not rise.
    #[error("event {got} stands after event {before}: numbers must rise")]
    Disorder {
        /// A number.
        before: Seq,
        /// The one after it.
        got: Seq,
    },
    /// An event of another epoch than the delivery's.
    #[error("event {seq} belongs to another epoch than its batch")]
    ForeignEpoch {
        /// Its number.
        seq: Seq,
    },
}

/// How far a node's history has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Everything up to this number is durable.
    pub through: Seq,
    /// Hash of the last event; none when the last numbers were given up.
    pub hash: Option<ChainHash>,
    /// How many numbers were given up.
    pub given_up: u64,
    /// When it last moved, by the collector's clock.
    pub moved: Timestamp,
}

/// Findings of a node, by severity, mildest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub(crate) open: [u32; 5],
    pub(crate) blind: [u32; 5],
}

const fn slot(severity: Severity) -> usize {
    match severity {
        Severity::Info => 0,
        Severity::Low => 1,
        Severity::Medium => 2,
        Severity::High => 3,
        Severity::Critical => 4,
    }
}

impl Counts {
    /// Findings in a state. Resolved ones are not counted: 0.
    pub fn in_state(&self, state: FindingState, severity: Severity) -> u32 {
        match state {
            FindingState::Open => self.open.get(slot(severity)).copied().unwrap_or(0),
            FindingState::Blind => self.blind.get(slot(severity)).copied().unwrap_or(0),
            FindingState::Resolved => 0,
        }
    }

    /// Findings open or blind.
    pub fn unresolved(&self, severity: Severity) -> u32 {
        self.in_state(FindingState::Open, severity).saturating_add(self.in_state(FindingState::Blind, severity))
    }

    /// Findings open or blind of all severities.
    pub fn total(&self) -> u32 {
        Severity::ALL.into_iter().fold(0, |sum, severity| sum.saturating_add(self.unresolved(severity)))
    }

    pub(crate) fn add(&mut self, state: FindingState, severity: Severity, by: i64) {
        let row = match state {
            FindingState::Open => &mut self.open,
            FindingState::Blind => &mut self.blind,
            FindingState::Resolved => return,
        };
        if let Some(count) = row.get_mut(slot(severity)) {
            let sum = i64::from(*count).saturating_add(by).clamp(0, i64::from(u32::MAX));
            *count = u32::try_from(sum).unwrap_or(u32::MAX);
        }
    }
}

/// How much history is kept. What says how a finding is now is kept for as long as the finding is open or blind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Events that became durable longer ago than this are dropped.
    pub max_age: SignedDuration,
    /// Events beyond this number are dropped, oldest first.
    pub max_events: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self { max_age: SignedDuration::from_hours(24 * 90), max_events: 10_000_000 }
    }
}

/// What one step of retention did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retained {
    /// Events dropped.
    pub dropped: u64,
    /// Events out of the history that are kept because they say how a finding is now.
    pub kept: u64,
    /// Nothing more is due.
    pub done: bool,
}

/// Size of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Events in the history, at most: numbers that were never used count too.
    pub events: u64,
    /// Bytes on the disk.
    pub disk_bytes: u64,
}

/// The collector's history. Calls block; the writer has a thread of its own and readers are called from blocking ones.
pub trait Store: Send + Sync + std::fmt::Debug + 'static {
    /// Makes deliveries durable: each event with all that follows from it in one atomic unit, one sync for all of them.
    /// A refused delivery leaves nothing behind and does not touch the others; there is one outcome per delivery, in
    /// order. `received` is the collector's time now.
    ///
    /// # Errors
    /// [`StoreError`]: nothing may be acknowledged; some of it may be stored all the same, and is a duplicate next time.
    fn commit(
        &self,
        received: Timestamp,
        deliveries: Vec<Delivery>,
    ) -> Result<Vec<Result<Receipt, Refused>>, StoreError>;

    /// How far a node's history has come in an epoch; none before its first event.
    ///
    /// # Errors
    /// [`StoreError`].
    fn cursor(&self, node: NodeId, epoch: Epoch) -> Result<Option<Cursor>, StoreError>;

    /// All epochs of a node, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    fn cursors(&self, node: NodeId) -> Result<Vec<(Epoch, Cursor)>, StoreError>;

    /// The epoch under which the collector itself reports on nodes: made with the store, never changed.
    fn own_epoch(&self) -> Epoch;

    /// Findings as they are now, ordered by node, then control.
    ///
    /// # Errors
    /// [`StoreError`].
    fn findings(&self, query: &FindingQuery) -> Result<FindingPage, StoreError>;

    /// Events, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    fn events(&self, query: &EventQuery) -> Result<EventPage, StoreError>;

    /// Findings of a node that are open or blind, counted.
    ///
    /// # Errors
    /// [`StoreError`].
    fn counts(&self, node: NodeId) -> Result<Counts, StoreError>;

    /// A small record.
    ///
    /// # Errors
    /// [`StoreError`].
    fn record(&self, table: Table, key: &str) -> Result<Option<RawRecord>, StoreError>;

    /// All records of a table, in the order of their keys.
    ///
    /// # Errors
    /// [`StoreError`].
    fn records(&self, table: Table) -> Result<Vec<(String, RawRecord)>, StoreError>;

    /// Changes small records: all or none.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when a record is not what the change expects: nothing was changed.
    fn change(&self, changes: &[Change], durability: Durability) -> Result<(), StoreError>;

    /// One small step of dropping old history; call until `done`.
    ///
    /// # Errors
    /// [`StoreError`].
    fn retain(&self, now: Timestamp, retention: Retention) -> Result<Retained, StoreError>;

    /// Size of the store.
    fn stats(&self) -> Stats;

    /// Returns when all that was written is on the disk.
    ///
    /// # Errors
    /// [`StoreError`].
    fn sync(&self) -> Result<(), StoreError>;
}
