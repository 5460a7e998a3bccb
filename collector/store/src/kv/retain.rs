//! Dropping old history, a little at a time.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use picket_model::{EventBody, EventKind, FindingState};

use super::unit::UNIT_EVENTS;
use super::{KvStore, MARK_NAME, damaged_event};
use crate::codec::DecodeError;
use crate::{Batch, Engine, Order, Position, Retained, Retention, StoreError, event, key};

impl<E: Engine> KvStore<E> {
    pub(super) fn retain_step(&self, now: Timestamp, retention: Retention) -> Result<Retained, StoreError> {
        // Holds off commits for one unit's time: what is current must not change meanwhile.
        let state = self.writing();
        let mark = self.mark();
        let oldest_ms = now.checked_sub(retention.max_age).map_or(i64::MIN, Timestamp::as_millisecond);
        let first_kept = state.next.0.saturating_sub(retention.max_events.max(1));
        let (mut due, mut done) = (Vec::new(), true);
        let from = key::event(Position(mark.0 + 1));
        let (_, to) = key::all(key::Kind::Event);
        self.engine.scan(&from, &to, Order::Rising, &mut |key, value| {
            let entry = event::head(value)
                .and_then(|(head, _)| Ok((key::position_of(key).ok_or(DecodeError::Short)?, head)))
                .map_err(|e| damaged_event(key, e));
            match entry {
                Ok((position, head)) if position.0 >= first_kept && head.mark.received_ms >= oldest_ms => {
                    return ControlFlow::Break(());
                }
                _ if due.len() >= UNIT_EVENTS => {
                    done = false;
                    return ControlFlow::Break(());
                }
                Ok((position, head)) => due.push(Ok((position, head, value.to_vec()))),
                Err(error) => due.push(Err(error)),
            }
            ControlFlow::Continue(())
        })?;
        let mut retained = Retained { done, ..Retained::default() };
        let (mut batch, mut last) = (Batch::default(), None);
        for entry in due {
            let (position, head, first) = entry?;
            last = Some(position);
            // These exist only where the event is the last of its unit.
            batch.remove(key::node_index(head.node, position));
            if head.mark.kind == EventKind::Detection {
                batch.remove(key::detection_index(position));
                if let Some(stored) = self.finish_event(position, &first)?
                    && let EventBody::Detection { detection } = &stored.event.body
                    && self.is_latest(&stored, detection)?
                {
                    batch.remove(key::latest(head.node, detection));
                }
            }
            if head.mark.state.is_some()
                && let Some(stored) = self.finish_event(position, &first)?
                && let Some(finding) = stored.event.body.finding()
            {
                let key = key::current(head.node, &finding.control, &finding.subject);
                if let Some(current) = self.read_current(&key)?
                    && current.position == position
                {
                    if current.state != FindingState::Resolved {
                        retained.kept += 1;
                        continue;
                    }
                    batch.remove(key);
                }
            }
            self.remove_event(&mut batch, position)?;
            retained.dropped += 1;
        }
        if let Some(last) = last {
            batch.put(key::meta(MARK_NAME), last.0.to_be_bytes().to_vec());
            self.engine.apply(batch)?;
            self.mark.store(last.0, Ordering::Release);
        }
        drop(state);
        Ok(retained)
    }

    /// Removes an event with its parts.
    pub(super) fn remove_event(&self, batch: &mut Batch, position: Position) -> Result<(), StoreError> {
        let key = key::event(position);
        if let Some(first) = self.engine.get(&key)? {
            let (head, _) = event::head(&first).map_err(|e| damaged_event(&key, e))?;
            for part in 0..head.parts {
                batch.remove(key::event_part(position, part));
            }
            batch.remove(key);
        }
        Ok(())
    }
}
