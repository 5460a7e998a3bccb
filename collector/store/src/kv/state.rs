//! The records that follow from events: cursors, what a finding is now, counts.

use jiff::Timestamp;
use picket_model::{ChainHash, Detection, Epoch, FindingState, NodeId, Seq, Severity};

use super::KvStore;
use crate::codec::{DecodeError, Reader, Writer};
use crate::event::{severity_code, severity_from, state_code, state_from};
use crate::key::{self, Kind};
use crate::{Counts, Cursor, Engine, Order, Position, StoreError, StoredEvent};

const CURSOR_VERSION: u8 = 1;
const CURRENT_VERSION: u8 = 1;
const COUNTS_VERSION: u8 = 1;

impl Cursor {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::version(CURSOR_VERSION);
        w.number(self.through.0);
        w.number(self.given_up);
        w.time(self.moved);
        match self.hash {
            None => w.byte(0),
            Some(hash) => {
                w.byte(1);
                w.raw(&hash.0);
            }
        }
        w.bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::version(bytes, CURSOR_VERSION)?;
        let (through, given_up, moved) = (Seq(r.number()?), r.number()?, r.time()?);
        let hash = if r.flag()? { Some(ChainHash(r.array()?)) } else { None };
        r.end()?;
        Ok(Self { through, hash, given_up, moved })
    }

    /// Before the first event.
    pub(super) const fn start() -> Self {
        Self { through: Seq::ZERO, hash: Some(ChainHash::START), given_up: 0, moved: Timestamp::UNIX_EPOCH }
    }
}

/// Which event says how a finding is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Current {
    pub(super) position: Position,
    pub(super) received_ms: i64,
    pub(super) state: FindingState,
    pub(super) severity: Severity,
}

impl Current {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::version(CURRENT_VERSION);
        w.byte(state_code(self.state));
        w.byte(severity_code(self.severity));
        w.raw(&self.received_ms.to_be_bytes());
        w.raw(&self.position.0.to_be_bytes());
        w.bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::version(bytes, CURRENT_VERSION)?;
        let (state, severity) = (state_from(r.byte()?)?, severity_from(r.byte()?)?);
        let received_ms = i64::from_be_bytes(r.array()?);
        let position = Position(u64::from_be_bytes(r.array()?));
        r.end()?;
        Ok(Self { position, received_ms, state, severity })
    }
}

impl Counts {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::version(COUNTS_VERSION);
        for count in self.open.iter().chain(&self.blind) {
            w.number((*count).into());
        }
        w.bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::version(bytes, COUNTS_VERSION)?;
        let mut counts = Self::default();
        for count in counts.open.iter_mut().chain(&mut counts.blind) {
            *count = r.small()?;
        }
        r.end()?;
        Ok(counts)
    }
}

impl<E: Engine> KvStore<E> {
    pub(super) fn read_cursor(&self, node: NodeId, epoch: Epoch) -> Result<Option<Cursor>, StoreError> {
        let key = key::cursor(node, epoch);
        let Some(value) = self.engine.get(&key)? else { return Ok(None) };
        Cursor::decode(&value).map(Some).map_err(|e| StoreError::damaged("cursor", &key, e.to_string()))
    }

    pub(super) fn read_cursors(&self, node: NodeId) -> Result<Vec<(Epoch, Cursor)>, StoreError> {
        let (from, to) = key::of_node(Kind::Cursor, node);
        let mut found = Vec::new();
        self.engine.scan(&from, &to, Order::Rising, &mut |key, value| {
            let cursor = Cursor::decode(value)
                .and_then(|cursor| Ok((key::epoch_of(key).ok_or(DecodeError::Short)?, cursor)))
                .map_err(|e| StoreError::damaged("cursor", key, e.to_string()));
            found.push(cursor);
            std::ops::ControlFlow::Continue(())
        })?;
        found.into_iter().collect()
    }

    pub(super) fn read_current(&self, key: &[u8]) -> Result<Option<Current>, StoreError> {
        let Some(value) = self.engine.get(key)? else { return Ok(None) };
        Current::decode(&value).map(Some).map_err(|e| StoreError::damaged("current finding", key, e.to_string()))
    }

    /// Is there no newer event that tells of the same detection? Histories from before this was noted say nothing of
    /// it: there each counts as the newest.
    pub(super) fn is_latest(&self, stored: &StoredEvent, detection: &Detection) -> Result<bool, StoreError> {
        let key = key::latest(stored.node, detection);
        let Some(value) = self.engine.get(&key)? else { return Ok(true) };
        let position = <[u8; 8]>::try_from(value.as_slice())
            .map_err(|_| StoreError::damaged("newest event of a detection", &key, "it does not have 8 bytes"))?;
        Ok(u64::from_be_bytes(position) <= stored.position.0)
    }

    pub(super) fn read_counts(&self, node: NodeId) -> Result<Counts, StoreError> {
        let key = key::counts(node);
        let Some(value) = self.engine.get(&key)? else { return Ok(Counts::default()) };
        Counts::decode(&value).map_err(|e| StoreError::damaged("count", &key, e.to_string()))
    }
}
