//! Small records.

use super::KvStore;
use crate::codec::{DecodeError, Reader, Writer};
use crate::{Batch, Change, Durability, Engine, Expect, Order, RawRecord, StoreError, Table, key};

const VERSION: u8 = 1;
/// Longest key, bytes.
const KEY_BYTES: usize = 256;
/// Longest value, bytes. sled slows down beyond it.
const VALUE_BYTES: usize = 16 * 1024;

fn encode(revision: u64, value: &[u8]) -> Vec<u8> {
    let mut w = Writer::version(VERSION);
    w.number(revision);
    w.raw(value);
    w.bytes
}

fn decode(bytes: &[u8]) -> Result<RawRecord, DecodeError> {
    let mut r = Reader::version(bytes, VERSION)?;
    Ok(RawRecord { revision: r.number()?, value: r.rest().to_vec() })
}

impl<E: Engine> KvStore<E> {
    pub(super) fn read_record(&self, table: Table, name: &str) -> Result<Option<RawRecord>, StoreError> {
        let key = key::record(table, name);
        let Some(value) = self.engine.get(&key)? else { return Ok(None) };
        decode(&value).map(Some).map_err(|e| StoreError::damaged("record", &key, e.to_string()))
    }

    pub(super) fn read_records(&self, table: Table) -> Result<Vec<(String, RawRecord)>, StoreError> {
        let (from, to) = key::table(table);
        let mut found = Vec::new();
        self.engine.scan(&from, &to, Order::Rising, &mut |key, value| {
            let record = decode(value)
                .and_then(|raw| Ok((key::record_name(key).ok_or(DecodeError::Text)?.to_owned(), raw)))
                .map_err(|e| StoreError::damaged("record", key, e.to_string()));
            found.push(record);
            std::ops::ControlFlow::Continue(())
        })?;
        found.into_iter().collect()
    }

    pub(super) fn change_records(&self, changes: &[Change], durability: Durability) -> Result<(), StoreError> {
        // One writer at a time: what was expected stays so until it is written.
        let guard = self.writing();
        let mut batch = Batch::default();
        for Change { table, key, expect, value } in changes {
            let too_large = |bytes, limit| StoreError::TooLarge {
                table: *table,
                key: key.chars().take(64).collect(),
                bytes,
                limit,
            };
            if key.len() > KEY_BYTES {
                return Err(too_large(key.len(), KEY_BYTES));
            }
            let found = self.read_record(*table, key)?.map(|raw| raw.revision);
            let fits = match expect {
                Expect::Anything => true,
                Expect::Nothing => found.is_none(),
                Expect::Revision(revision) => found == Some(*revision),
            };
            if !fits {
                return Err(StoreError::Conflict { table: *table, key: key.clone() });
            }
            match value {
                Some(value) if value.len() > VALUE_BYTES => return Err(too_large(value.len(), VALUE_BYTES)),
                Some(value) => batch.put(key::record(*table, key), encode(found.unwrap_or(0) + 1, value)),
                None => batch.remove(key::record(*table, key)),
            }
        }
        self.engine.apply(batch)?;
        // The sync needs no lock: commits may go on.
        drop(guard);
        match durability {
            Durability::Synced => self.engine.sync(),
            Durability::Soon => Ok(()),
        }
    }
}
