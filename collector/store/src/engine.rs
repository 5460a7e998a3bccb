//! What a store asks of the map beneath it.

use std::ops::ControlFlow;

use crate::StoreError;

/// Which way to go through a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Smallest key first.
    Rising,
    /// Largest key first.
    Falling,
}

/// Writes that become visible, and durable, together or not at all. Of two writes to one key the later counts.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    pub(crate) writes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Batch {
    /// Sets a key.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.writes.push((key, Some(value)));
    }

    /// Removes a key, if it is there.
    pub fn remove(&mut self, key: Vec<u8>) {
        self.writes.push((key, None));
    }

    /// All writes, in order; none as a value removes the key.
    pub fn writes(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.writes.iter().map(|(key, value)| (key.as_slice(), value.as_deref()))
    }

    /// Nothing to write?
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }
}

/// Is shown entries of a range, key and value, until it breaks.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// An ordered map from bytes to bytes with atomic batches. One thread writes, many read.
pub trait Engine: Send + Sync + std::fmt::Debug + 'static {
    /// The value of a key.
    ///
    /// # Errors
    /// [`StoreError::Engine`].
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Goes through the keys from `from` (included) to `to` (excluded) until `visit` breaks. `visit` must not call the
    /// engine.
    ///
    /// # Errors
    /// [`StoreError::Engine`].
    fn scan(&self, from: &[u8], to: &[u8], order: Order, visit: &mut Visit<'_>) -> Result<(), StoreError>;

    /// Applies a batch: readers see all of it or nothing, and so does the next start. Durable after [`Self::sync`].
    ///
    /// # Errors
    /// [`StoreError::Engine`].
    fn apply(&self, batch: Batch) -> Result<(), StoreError>;

    /// Returns when everything applied before is on the disk.
    ///
    /// # Errors
    /// [`StoreError::Engine`].
    fn sync(&self) -> Result<(), StoreError>;

    /// Bytes on the disk; 0 where there is none.
    fn disk_bytes(&self) -> u64;
}
