//! The store over any ordered map with atomic batches.

mod commit;
mod index;
mod list;
mod records;
mod retain;
mod state;
mod unit;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use picket_model::{Epoch, NodeId};
use uuid::Uuid;

use crate::codec::DecodeError;
use crate::query::{EventPage, EventQuery, FindingPage, FindingQuery};
use crate::{
    Batch, Change, Counts, Cursor, Delivery, Durability, Engine, MemoryEngine, Order, Position, RawRecord, Receipt,
    Refused, Retained, Retention, Stats, Store, StoreError, StoredEvent, Table, event, key,
};

/// The format that this version writes and reads.
pub(crate) const FORMAT: u32 = 1;

const FORMAT_NAME: &str = "format";
const OWN_EPOCH_NAME: &str = "own-epoch";
const MARK_NAME: &str = "retained-through";

/// What only the writer knows.
#[derive(Debug)]
struct WriteState {
    /// The next event's position.
    next: Position,
    /// When the last event became durable: time in the history never goes back.
    received_ms: i64,
}

/// A store over an [`Engine`].
#[derive(Debug)]
pub struct KvStore<E> {
    engine: E,
    own_epoch: Epoch,
    write: Mutex<WriteState>,
    /// Last position given out; for readers.
    last: AtomicU64,
    /// History begins after this position; for readers.
    mark: AtomicU64,
}

/// What the format record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// There is none.
    Missing,
    /// It can be read.
    Known,
    /// A newer version wrote it.
    Newer(u32),
}

pub(crate) fn format_of(engine: &impl Engine) -> Result<Format, StoreError> {
    let key = key::meta(FORMAT_NAME);
    let Some(value) = engine.get(&key)? else { return Ok(Format::Missing) };
    match <[u8; 4]>::try_from(value.as_slice()).map(u32::from_be_bytes) {
        Ok(FORMAT) => Ok(Format::Known),
        Ok(newer) if newer > FORMAT => Ok(Format::Newer(newer)),
        _ => Err(StoreError::damaged("format record", &key, "it is no format this version knows")),
    }
}

impl KvStore<MemoryEngine> {
    /// An empty store in memory.
    pub fn in_memory() -> Self {
        Self {
            engine: MemoryEngine::default(),
            own_epoch: Epoch::from_uuid(Uuid::now_v7()),
            write: Mutex::new(WriteState { next: Position(1), received_ms: i64::MIN }),
            last: AtomicU64::new(0),
            mark: AtomicU64::new(0),
        }
    }
}

impl<E: Engine> KvStore<E> {
    /// The store in an engine of one's own, which must be empty or hold a store of this format.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn new(engine: E) -> Result<Self, StoreError> {
        let own_epoch = match engine.get(&key::meta(OWN_EPOCH_NAME))? {
            Some(value) => <[u8; 16]>::try_from(value.as_slice()).map(Epoch::from_bytes).map_err(|_| {
                StoreError::damaged("own epoch", &key::meta(OWN_EPOCH_NAME), "it does not have 16 bytes")
            })?,
            None => {
                let epoch = Epoch::from_uuid(Uuid::now_v7());
                let mut batch = Batch::default();
                batch.put(key::meta(FORMAT_NAME), FORMAT.to_be_bytes().to_vec());
                batch.put(key::meta(OWN_EPOCH_NAME), epoch.as_bytes().to_vec());
                engine.apply(batch)?;
                engine.sync()?;
                epoch
            }
        };
        let mark = match engine.get(&key::meta(MARK_NAME))? {
            None => 0,
            Some(value) => <[u8; 8]>::try_from(value.as_slice()).map(u64::from_be_bytes).map_err(|_| {
                StoreError::damaged("retention mark", &key::meta(MARK_NAME), "it does not have 8 bytes")
            })?,
        };
        let mut newest = None;
        let (from, to) = key::all(key::Kind::Event);
        engine.scan(&from, &to, Order::Falling, &mut |key, value| {
            newest = Some((key.to_vec(), value.to_vec()));
            std::ops::ControlFlow::Break(())
        })?;
        let (mut last, mut received_ms) = (mark, i64::MIN);
        if let Some((key, value)) = newest {
            let position = key::position_of(&key).ok_or_else(|| damaged_event(&key, DecodeError::Short))?;
            last = last.max(position.0);
            received_ms = event::head(&value).map_err(|e| damaged_event(&key, e))?.0.mark.received_ms;
        }
        Ok(Self {
            engine,
            own_epoch,
            write: Mutex::new(WriteState { next: Position(last + 1), received_ms }),
            last: AtomicU64::new(last),
            mark: AtomicU64::new(mark),
        })
    }

    fn writing(&self) -> MutexGuard<'_, WriteState> {
        // A panic elsewhere leaves two plain numbers; they are still good, since positions may be left out.
        self.write.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mark(&self) -> Position {
        Position(self.mark.load(Ordering::Acquire))
    }

    /// Reads the rest of an event whose first record is at hand. None when it was dropped meanwhile.
    fn finish_event(&self, position: Position, first: &[u8]) -> Result<Option<StoredEvent>, StoreError> {
        let damaged = |e| damaged_event(&key::event(position), e);
        let (head, content) = event::head(first).map_err(damaged)?;
        if head.parts == 0 {
            return event::decode(head, position, content).map(Some).map_err(damaged);
        }
        let mut whole = content.to_vec();
        for part in 0..head.parts {
            match self.engine.get(&key::event_part(position, part))? {
                Some(bytes) => whole.extend_from_slice(&bytes),
                None if self.engine.get(&key::event(position))?.is_none() => return Ok(None),
                None => return Err(damaged(DecodeError::Part)),
            }
        }
        event::decode(head, position, &whole).map(Some).map_err(damaged)
    }

    /// An event by its position. None when it was dropped.
    fn event_at(&self, position: Position) -> Result<Option<StoredEvent>, StoreError> {
        match self.engine.get(&key::event(position))? {
            Some(first) => self.finish_event(position, &first),
            None => Ok(None),
        }
    }
}

fn damaged_event(key: &[u8], error: DecodeError) -> StoreError {
    StoreError::damaged("event", key, error.to_string())
}

impl<E: Engine> Store for KvStore<E> {
    fn commit(
        &self,
        received: Timestamp,
        deliveries: Vec<Delivery>,
    ) -> Result<Vec<Result<Receipt, Refused>>, StoreError> {
        self.commit_all(received, deliveries)
    }

    fn cursor(&self, node: NodeId, epoch: Epoch) -> Result<Option<Cursor>, StoreError> {
        self.read_cursor(node, epoch)
    }

    fn cursors(&self, node: NodeId) -> Result<Vec<(Epoch, Cursor)>, StoreError> {
        self.read_cursors(node)
    }

    fn own_epoch(&self) -> Epoch {
        self.own_epoch
    }

    fn findings(&self, query: &FindingQuery) -> Result<FindingPage, StoreError> {
        self.list_findings(query)
    }

    fn events(&self, query: &EventQuery) -> Result<EventPage, StoreError> {
        self.list_events(query)
    }

    fn counts(&self, node: NodeId) -> Result<Counts, StoreError> {
        self.read_counts(node)
    }

    fn record(&self, table: Table, name: &str) -> Result<Option<RawRecord>, StoreError> {
        self.read_record(table, name)
    }

    fn records(&self, table: Table) -> Result<Vec<(String, RawRecord)>, StoreError> {
        self.read_records(table)
    }

    fn change(&self, changes: &[Change], durability: Durability) -> Result<(), StoreError> {
        self.change_records(changes, durability)
    }

    fn retain(&self, now: Timestamp, retention: Retention) -> Result<Retained, StoreError> {
        self.retain_step(now, retention)
    }

    fn stats(&self) -> Stats {
        let last = self.last.load(Ordering::Acquire);
        Stats { events: last.saturating_sub(self.mark().0), disk_bytes: self.engine.disk_bytes() }
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.engine.sync()
    }
}
