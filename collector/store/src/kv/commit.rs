//! Making deliveries durable.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use picket_model::{Event, Seq};

use super::unit::Unit;
use super::{KvStore, WriteState};
use crate::{Cursor, Delivery, Engine, Position, Receipt, Refused, StoreError, StoredEvent};

impl<E: Engine> KvStore<E> {
    pub(super) fn commit_all(
        &self,
        received: Timestamp,
        deliveries: Vec<Delivery>,
    ) -> Result<Vec<Result<Receipt, Refused>>, StoreError> {
        let mut state = self.writing();
        let received_ms = received.as_millisecond().max(state.received_ms);
        let received = Timestamp::from_millisecond(received_ms).unwrap_or(received);
        state.received_ms = received_ms;
        let mut unit = Unit::default();
        let mut outcomes = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            let cursor = unit.cursor(self, delivery.node, delivery.epoch)?;
            outcomes.push(match check(&delivery, cursor.through) {
                Ok(()) => Ok(self.take(&mut state, &mut unit, received, cursor, delivery)?),
                Err(refused) => Err(refused),
            });
        }
        self.seal(&state, unit)?;
        self.engine.sync()?;
        Ok(outcomes)
    }

    /// Takes a checked delivery into units; full ones are applied, the last is left to others.
    fn take(
        &self,
        state: &mut WriteState,
        unit: &mut Unit,
        received: Timestamp,
        mut cursor: Cursor,
        delivery: Delivery,
    ) -> Result<Receipt, StoreError> {
        let Delivery { node, epoch, events, given_up_through } = delivery;
        let given_up_before = cursor.given_up;
        let stored = Vec::with_capacity(events.len());
        let mut receipt = Receipt { through: cursor.through, duplicates: 0, given_up: 0, stored };
        for event in events {
            if event.seq <= cursor.through {
                receipt.duplicates += 1;
                continue;
            }
            if unit.is_full() {
                self.seal(state, std::mem::take(unit))?;
            }
            let position = state.next;
            state.next = Position(position.0 + 1);
            unit.add(self, node, position, state.received_ms, &event)?;
            cursor = Cursor {
                through: event.seq,
                hash: Some(event.hash),
                given_up: cursor.given_up.saturating_add(event.seq.0 - cursor.through.0 - 1),
                moved: received,
            };
            unit.set_cursor(node, epoch, cursor);
            receipt.stored.push(StoredEvent { position, node, received, event: Arc::new(event) });
        }
        // What was given up and did not come with this delivery will never come.
        if given_up_through > cursor.through {
            cursor = Cursor {
                through: given_up_through,
                hash: None,
                given_up: cursor.given_up.saturating_add(given_up_through.0 - cursor.through.0),
                moved: received,
            };
            unit.set_cursor(node, epoch, cursor);
        }
        receipt.through = cursor.through;
        receipt.given_up = cursor.given_up.saturating_sub(given_up_before);
        Ok(receipt)
    }

    fn seal(&self, state: &WriteState, unit: Unit) -> Result<(), StoreError> {
        let batch = unit.seal();
        if !batch.is_empty() {
            self.engine.apply(batch)?;
            self.last.store(state.next.0 - 1, Ordering::Release);
        }
        Ok(())
    }
}

/// May this delivery be taken after number `through`?
fn check(delivery: &Delivery, through: Seq) -> Result<(), Refused> {
    let (mut done, mut before): (Seq, Option<&Event>) = (through, None);
    for event in &delivery.events {
        if event.epoch != delivery.epoch {
            return Err(Refused::ForeignEpoch { seq: event.seq });
        }
        if let Some(before) = before
            && event.seq <= before.seq
        {
            return Err(Refused::Disorder { before: before.seq, got: event.seq });
        }
        before = Some(event);
        if event.seq <= done {
            continue;
        }
        // No overflow: it is larger than another number.
        if event.seq.0 - 1 > done.max(delivery.given_up_through).0 {
            return Err(Refused::Hole { expected: Seq(done.0 + 1), got: event.seq });
        }
        done = event.seq;
    }
    Ok(())
}
