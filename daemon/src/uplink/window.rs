//! How much is under way: sent, and not acknowledged.

use std::collections::VecDeque;

use picket_model::Seq;
use picket_proto::limits;

/// An acknowledgement of something that was never sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the collector acknowledged event {acknowledged}, but nothing after {sent} was sent")]
pub struct NeverSent {
    /// What it acknowledged.
    pub acknowledged: Seq,
    /// The last number sent.
    pub sent: Seq,
}

/// What an acknowledgement meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acked {
    /// Everything up to here is durable now.
    Through(Seq),
    /// It said less than one before it: nothing follows from it.
    Backwards,
}

/// The window of one stream.
#[derive(Debug)]
pub struct Window {
    limit: usize,
    /// Last number of each batch under way, and how many events it held.
    batches: VecDeque<(Seq, usize)>,
    acknowledged: Seq,
    sent: Seq,
}

impl Window {
    /// A stream that begins after `acknowledged`, with at most `limit` events under way. The collector's limit is
    /// held between 1 and what the contract allows.
    pub fn new(acknowledged: Seq, limit: u32) -> Self {
        let limit = limit.clamp(1, limits::WINDOW_EVENTS) as usize;
        Self { limit, batches: VecDeque::new(), acknowledged, sent: acknowledged }
    }

    /// How many events may be sent now.
    pub fn room(&self) -> usize {
        self.limit.saturating_sub(self.under_way())
    }

    /// How many events are under way.
    pub fn under_way(&self) -> usize {
        self.batches.iter().map(|(_, events)| events).sum()
    }

    /// The last number sent.
    pub const fn sent(&self) -> Seq {
        self.sent
    }

    /// A batch went out whose last number (of an event, or given up) is `through`.
    pub fn send(&mut self, through: Seq, events: usize) {
        self.sent = self.sent.max(through);
        self.batches.push_back((through, events));
    }

    /// An acknowledgement came.
    ///
    /// # Errors
    /// [`NeverSent`]; nothing is changed then.
    pub fn acknowledge(&mut self, seq: Seq) -> Result<Acked, NeverSent> {
        if seq > self.sent {
            return Err(NeverSent { acknowledged: seq, sent: self.sent });
        }
        if seq < self.acknowledged {
            return Ok(Acked::Backwards);
        }
        self.acknowledged = seq;
        while self.batches.front().is_some_and(|(through, _)| *through <= seq) {
            self.batches.pop_front();
        }
        Ok(Acked::Through(seq))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_acknowledgement_of_the_unsent_is_refused_and_of_the_past_ignored() {
        let mut window = Window::new(Seq(10), 100);
        window.send(Seq(30), 20);
        assert_eq!(window.acknowledge(Seq(31)), Err(NeverSent { acknowledged: Seq(31), sent: Seq(30) }));
        assert_eq!(window.acknowledge(Seq(20)), Ok(Acked::Through(Seq(20))));
        assert_eq!(window.room(), 80, "a batch counts until all of it is durable");
        assert_eq!(window.acknowledge(Seq(15)), Ok(Acked::Backwards));
        assert_eq!(window.acknowledge(Seq(30)), Ok(Acked::Through(Seq(30))));
        assert_eq!(window.room(), 100);
    }

    #[test]
    fn a_senseless_limit_is_held_in_bounds() {
        assert_eq!(Window::new(Seq(0), 0).room(), 1);
        assert_eq!(Window::new(Seq(0), u32::MAX).room(), limits::WINDOW_EVENTS as usize);
    }

    proptest! {
        #[test]
        fn never_more_than_the_limit_is_under_way(limit in 1u32..300, steps in prop::collection::vec((1usize..400, 0u64..2000), 1..60)) {
            let mut window = Window::new(Seq(0), limit);
            for (want, ack) in steps {
                let events = want.min(window.room());
                if events > 0 {
                    let through = Seq(window.sent().0 + events as u64);
                    window.send(through, events);
                }
                prop_assert!(window.under_way() <= limit as usize);
                let _ = window.acknowledge(Seq(ack));
                prop_assert!(window.under_way() as u64 <= window.sent().0);
            }
            window.acknowledge(window.sent()).unwrap();
            prop_assert_eq!(window.under_way(), 0);
        }
    }
}
