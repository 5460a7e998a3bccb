//! The engine on disk: sled 0.34.7, used as its weaknesses ask for.
//!
//! - `flush()` writes without an fsync on Linux, so the log file is synced through a handle of our own after it.
//! - A batch leaves garbage in the epoch collector that only later activity would free; it is pumped after each batch.
//! - The cache has a size of our choice; the default of 1 GB fits no small host.

use std::fs::File;
use std::ops::Bound;
use std::path::Path;
use std::time::Duration;

use crate::engine::Visit;
use crate::{Batch, Engine, Order, StoreError};

/// How the database is used.
#[derive(Debug, Clone, Copy)]
pub struct DiskSettings {
    /// Bytes of pages kept in memory.
    pub cache_bytes: u64,
    /// What was written without a sync is written out after this time.
    pub flush_every: Duration,
}

impl Default for DiskSettings {
    fn default() -> Self {
        Self { cache_bytes: 64 * 1024 * 1024, flush_every: Duration::from_millis(500) }
    }
}

/// A sled database.
#[derive(Debug)]
pub struct SledEngine {
    db: sled::Db,
    log: File,
}

/// How often the epoch collector is asked to go on after a batch. Eight keeps memory flat at full load.
const PUMPS: usize = 8;

impl SledEngine {
    /// Opens or makes the database in a folder.
    pub(crate) fn open(path: &Path, settings: DiskSettings) -> Result<Self, sled::Error> {
        let db = sled::Config::new()
            .path(path)
            .cache_capacity(settings.cache_bytes)
            .flush_every_ms(Some(u64::try_from(settings.flush_every.as_millis()).unwrap_or(500)))
            .open()?;
        let log = File::open(path.join("db")).map_err(sled::Error::Io)?;
        Ok(Self { db, log })
    }

    /// Nothing in it, not even a format record?
    pub(crate) fn is_empty(&self) -> bool {
        self.db.is_empty()
    }
}

fn failed(doing: &'static str) -> impl Fn(sled::Error) -> StoreError {
    move |source| StoreError::Engine { doing, source: Box::new(source) }
}

impl Engine for SledEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.db.get(key).map_err(failed("read"))?.map(|value| value.to_vec()))
    }

    fn scan(&self, from: &[u8], to: &[u8], order: Order, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        if from >= to {
            return Ok(());
        }
        let mut range = self.db.range::<&[u8], _>((Bound::Included(from), Bound::Excluded(to)));
        loop {
            let next = match order {
                Order::Rising => range.next(),
                Order::Falling => range.next_back(),
            };
            let Some(entry) = next else { return Ok(()) };
            let (key, value) = entry.map_err(failed("read a range"))?;
            if visit(&key, &value).is_break() {
                return Ok(());
            }
        }
    }

    fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        let mut writes = sled::Batch::default();
        for (key, value) in batch.writes {
            match value {
                Some(value) => writes.insert(key, value),
                None => writes.remove(key),
            }
        }
        self.db.apply_batch(writes).map_err(failed("write"))?;
        for _ in 0..PUMPS {
            crossbeam_epoch::pin().flush();
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(failed("flush"))?;
        self.log.sync_data().map_err(|source| StoreError::Engine { doing: "sync", source: Box::new(source) })
    }

    fn disk_bytes(&self) -> u64 {
        self.db.size_on_disk().unwrap_or(0)
    }
}
