//! The collector's history: events in the order in which they became durable, what follows from them (findings as
//! they are now, counts, cursors), and the small records of the collector (nodes, tokens, operators).
//!
//! [`Store`] is the contract. [`KvStore`] keeps it over any ordered map with atomic batches ([`Engine`]); there are two
//! such maps, sled on disk ([`open`]) and one in memory ([`MemoryStore`]). One conformance suite runs against both.
//!
//! Invariants:
//! - An event, what it does to the findings, its index entries and the node's cursor are one atomic unit. After a crash
//!   all of them are there or none.
//! - [`Store::commit`] returns after the unit is on the disk. Only then may a node be told.
//! - (node, epoch, seq) is stored at most once, and nothing is left out unless the node declared it given up.
//! - Key kinds and record versions are never given a second meaning.

mod codec;
mod disk;
mod engine;
mod error;
mod event;
mod key;
mod kv;
mod memory;
mod open;
mod query;
mod record;
mod store;

pub use disk::{DiskSettings, SledEngine};
pub use engine::{Batch, Engine, Order, Visit};
pub use error::{OpenError, StoreError};
pub use kv::KvStore;
pub use memory::MemoryEngine;
pub use open::{SetAside, open, open_or_set_aside, set_aside};
pub use query::{CurrentFinding, EventPage, EventQuery, FindingPage, FindingQuery, FindingsAfter, Scope};
pub use record::{
    CertificateRecord, Change, Durability, Expect, NodeRecord, OperatorRecord, OperatorRole, RawRecord, Record,
    Records, Revocation, SettingRecord, Table, TokenRecord, Versioned,
};
pub use store::{Counts, Cursor, Delivery, Position, Receipt, Refused, Retained, Retention, Stats, Store, StoredEvent};

/// History in memory: for `picket-collector dev` and for tests. Gone when dropped.
pub type MemoryStore = KvStore<MemoryEngine>;
/// History in a sled database.
pub type SledStore = KvStore<SledEngine>;
