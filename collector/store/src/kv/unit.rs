//! One atomic unit: events with all that follows from them.

use std::collections::HashMap;

use picket_model::{Epoch, Event, EventBody, NodeId};

use super::state::Current;
use super::{KvStore, index};
use crate::event::{Mark, encode};
use crate::{Batch, Counts, Cursor, Engine, Position, StoreError, key};

/// Most events in a unit. sled holds a lock for all readers while it applies one.
pub(super) const UNIT_EVENTS: usize = 64;
/// Most bytes of events in a unit, roughly.
const UNIT_BYTES: usize = 512 * 1024;

/// A unit in the making. What it will change is read through it, so that the events of one unit see each other.
#[derive(Debug, Default)]
pub(super) struct Unit {
    batch: Batch,
    events: usize,
    bytes: usize,
    cursors: HashMap<(NodeId, Epoch), Cursor>,
    current: HashMap<Vec<u8>, Current>,
    counts: HashMap<NodeId, Counts>,
    nodes: HashMap<NodeId, Vec<index::Entry>>,
    detections: Vec<index::Entry>,
}

impl Unit {
    pub(super) fn is_full(&self) -> bool {
        self.events >= UNIT_EVENTS || self.bytes >= UNIT_BYTES
    }

    pub(super) fn cursor<E: Engine>(
        &self,
        store: &KvStore<E>,
        node: NodeId,
        epoch: Epoch,
    ) -> Result<Cursor, StoreError> {
        match self.cursors.get(&(node, epoch)) {
            Some(cursor) => Ok(*cursor),
            None => Ok(store.read_cursor(node, epoch)?.unwrap_or_else(Cursor::start)),
        }
    }

    pub(super) fn set_cursor(&mut self, node: NodeId, epoch: Epoch, cursor: Cursor) {
        self.cursors.insert((node, epoch), cursor);
    }

    /// Takes an event in at a position.
    pub(super) fn add<E: Engine>(
        &mut self,
        store: &KvStore<E>,
        node: NodeId,
        position: Position,
        received_ms: i64,
        event: &Event,
    ) -> Result<(), StoreError> {
        let mark = Mark::of(&event.body, received_ms);
        if let Some(finding) = event.body.finding() {
            let key = key::current(node, &finding.control, &finding.subject);
            let before = match self.current.get(&key) {
                Some(current) => Some(*current),
                None => store.read_current(&key)?,
            };
            let now = Current { position, received_ms, state: finding.state, severity: finding.severity };
            let same = before.is_some_and(|b| (b.state, b.severity) == (now.state, now.severity));
            if !same {
                let counts = match self.counts.entry(node) {
                    std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
                    std::collections::hash_map::Entry::Vacant(entry) => entry.insert(store.read_counts(node)?),
                };
                if let Some(before) = before {
                    counts.add(before.state, before.severity, -1);
                }
                counts.add(now.state, now.severity, 1);
            }
            // The event that said it before was kept beyond its time only for this.
            if let Some(before) = before
                && before.position <= store.mark()
            {
                store.remove_event(&mut self.batch, before.position)?;
            }
            self.current.insert(key, now);
        }
        let entry = index::Entry { position, node, mark };
        self.nodes.entry(node).or_default().push(entry);
        if let EventBody::Detection { detection } = &event.body {
            self.detections.push(entry);
            self.batch.put(key::latest(node, detection), position.0.to_be_bytes().to_vec());
        }
        let (first, parts) = encode(node, mark, event);
        self.bytes += first.len() + parts.iter().map(Vec::len).sum::<usize>();
        self.events += 1;
        self.batch.put(key::event(position), first);
        for (number, part) in (0u16..).zip(parts) {
            self.batch.put(key::event_part(position, number), part);
        }
        Ok(())
    }

    /// All of it as one batch.
    pub(super) fn seal(self) -> Batch {
        let mut batch = self.batch;
        for (node, entries) in self.nodes {
            if let Some(last) = entries.last() {
                batch.put(key::node_index(node, last.position), index::encode(&entries));
            }
        }
        if let Some(last) = self.detections.last() {
            batch.put(key::detection_index(last.position), index::encode(&self.detections));
        }
        for (key, current) in self.current {
            batch.put(key, current.encode());
        }
        for (node, counts) in self.counts {
            batch.put(key::counts(node), counts.encode());
        }
        for ((node, epoch), cursor) in self.cursors {
            batch.put(key::cursor(node, epoch), cursor.encode());
        }
        batch
    }
}
