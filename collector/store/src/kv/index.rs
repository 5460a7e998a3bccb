//! Index entries. One record holds those of one unit, under the position of its last event.

use picket_model::NodeId;

use crate::Position;
use crate::codec::{DecodeError, Reader, Writer};
use crate::event::Mark;

const VERSION: u8 = 1;

/// Where an event is and what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) position: Position,
    pub(super) node: NodeId,
    pub(super) mark: Mark,
}

/// Entries in rising order. Neighbours of one node share its id.
pub(super) fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut w = Writer::version(VERSION);
    let (mut node, mut position) = (None, 0);
    for entry in entries {
        let same = node == Some(entry.node);
        w.byte(same.into());
        if !same {
            w.raw(entry.node.as_bytes());
        }
        w.number(entry.position.0 - position);
        entry.mark.write(&mut w);
        (node, position) = (Some(entry.node), entry.position.0);
    }
    w.bytes
}

pub(super) fn decode(bytes: &[u8]) -> Result<Vec<Entry>, DecodeError> {
    let mut r = Reader::version(bytes, VERSION)?;
    let mut entries: Vec<Entry> = Vec::new();
    while !r.is_empty() {
        let before = entries.last().copied();
        let node = match (r.flag()?, before) {
            (true, Some(before)) => before.node,
            (true, None) => return Err(DecodeError::Short),
            (false, _) => NodeId::from_bytes(r.array()?),
        };
        let position = before.map_or(0, |b| b.position.0).checked_add(r.number()?).ok_or(DecodeError::Number)?;
        entries.push(Entry { position: Position(position), node, mark: Mark::read(&mut r)? });
    }
    Ok(entries)
}
