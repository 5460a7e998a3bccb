//! Batches from the wire become checked events, or are refused with the place that is wrong.
//!
//! One [`Ingest`] lives as long as a node's stream. It knows what was taken before, so that order, holes and the chain
//! of hashes are checked before anything reaches the writer. The store checks order and holes once more.

use jiff::Timestamp;
use picket_model::{ChainHash, Epoch, Event, EventBody, Evidence, Finding, FindingState, Seq, Severity};
use picket_proto::convert::{FieldError, event_from_wire};
use picket_proto::{limits, v1};
use picket_store::Cursor;

/// A batch that was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IngestError {
    /// A field is wrong.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// More events than a batch may hold.
    #[error("field batch.events: {got} entries, at most {most} are taken; send smaller batches")]
    TooMany {
        /// How many came.
        got: usize,
        /// How many may.
        most: usize,
    },
    /// Numbers do not rise.
    #[error("field batch.events[{index}].seq: {got} stands after {before}; numbers must rise")]
    Disorder {
        /// Where in the batch.
        index: usize,
        /// The number before.
        before: Seq,
        /// The number there.
        got: Seq,
    },
    /// Events are missing.
    #[error(
        "field batch.events[{index}].seq: {got} came where {expected} is due; events may be left out only up to given_up_through"
    )]
    Hole {
        /// Where in the batch.
        index: usize,
        /// The number that is due.
        expected: Seq,
        /// The number there.
        got: Seq,
    },
}

impl From<IngestError> for tonic::Status {
    fn from(error: IngestError) -> Self {
        match error {
            // The two sides disagree on where they stand: a new hello settles it.
            IngestError::Hole { .. } => Self::failed_precondition(error.to_string()),
            IngestError::Field(_) | IngestError::TooMany { .. } | IngestError::Disorder { .. } => {
                Self::invalid_argument(error.to_string())
            }
        }
    }
}

/// A batch that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// New events, ascending.
    pub events: Vec<Event>,
    /// For the store: numbers up to this one may be missing.
    pub given_up_through: Seq,
    /// Events of the batch that had been taken before.
    pub duplicates: u64,
    /// Events that do not follow from the one before them: the history was altered on its way. They are stored all the
    /// same, since they are all there is; the caller counts them and raises [`altered`].
    pub altered: Vec<Seq>,
}

/// What a stream has handed over so far.
#[derive(Debug, Clone)]
pub struct Ingest {
    epoch: Epoch,
    taken: Seq,
    hash: Option<ChainHash>,
    given_up_through: Seq,
}

impl Ingest {
    /// Goes on where the history stands; `cursor` is none for an epoch that was never heard of.
    pub fn new(epoch: Epoch, cursor: Option<&Cursor>) -> Self {
        let (taken, hash) = cursor.map_or((Seq::ZERO, Some(ChainHash::START)), |c| (c.through, c.hash));
        Self { epoch, taken, hash, given_up_through: Seq::ZERO }
    }

    /// The epoch of the stream.
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The last number taken; not yet durable.
    pub const fn taken(&self) -> Seq {
        self.taken
    }

    /// Checks a batch. After an error nothing of it was taken.
    ///
    /// # Errors
    /// [`IngestError`].
    pub fn check(&mut self, batch: v1::EventBatch) -> Result<Checked, IngestError> {
        if batch.events.len() > limits::BATCH_EVENTS {
            return Err(IngestError::TooMany { got: batch.events.len(), most: limits::BATCH_EVENTS });
        }
        let given_up_through = self.given_up_through.max(Seq(batch.given_up_through));
        let mut checked = Checked {
            events: Vec::with_capacity(batch.events.len()),
            given_up_through,
            duplicates: 0,
            altered: vec![],
        };
        let (mut taken, mut hash, mut before) = (self.taken, self.hash, Seq::ZERO);
        for (index, wire) in batch.events.into_iter().enumerate() {
            let event = event_from_wire(wire, self.epoch)
                .and_then(of_a_node)
                .map_err(|e| e.within(&format!("batch.events[{index}]")))?;
            let got = event.seq;
            if got <= before {
                return Err(IngestError::Disorder { index, before, got });
            }
            before = got;
            if got <= taken {
                checked.duplicates += 1;
                continue;
            }
            // No overflow: it is larger than another number.
            if got.0 - 1 > taken.max(given_up_through).0 {
                return Err(IngestError::Hole { index, expected: Seq(taken.0 + 1), got });
            }
            // What follows numbers given up follows an event that is not here.
            if got.0 - 1 == taken.0
                && let Some(hash) = hash
                && !event.follows(hash)
            {
                checked.altered.push(got);
            }
            (taken, hash) = (got, Some(event.hash));
            checked.events.push(event);
        }
        // What was given up and did not come with this batch will never come.
        if given_up_through > taken {
            (taken, hash) = (given_up_through, None);
        }
        (self.taken, self.hash, self.given_up_through) = (taken, hash, given_up_through);
        Ok(checked)
    }
}

/// What the ids of the collector's own findings begin with.
pub const OWN_CONTROLS: &str = "collector-";

/// A node must not speak for the collector: it could settle what the collector found on it.
fn of_a_node(event: Event) -> Result<Event, FieldError> {
    match event.body.finding() {
        Some(finding) if finding.control.starts_with(OWN_CONTROLS) => Err(FieldError::new(
            "finding.control",
            format!("ids that begin with {OWN_CONTROLS} belong to the collector; nodes may not use them"),
        )),
        Some(_) | None => Ok(event),
    }
}

/// The control under which the collector reports a broken chain.
pub const ALTERED_CONTROL: &str = "collector-history-altered";

/// What the collector says of a node whose events do not follow from each other.
pub fn altered(epoch: Epoch, first: Seq, count: usize, now: Timestamp) -> EventBody {
    let finding = Finding {
        control: ALTERED_CONTROL.to_owned(),
        subject: epoch.to_string(),
        state: FindingState::Open,
        severity: Severity::Critical,
        title: "A node's reports do not follow from each other".to_owned(),
        observed: format!("{count} events from number {first} on do not carry the hash of the event before them"),
        expected: "each event carries the hash of the one before it".to_owned(),
        config_state: None,
        evidence: vec![Evidence::note(format!("epoch {epoch}, event {first}"))],
        remedy: "Find out who could write to the node's state folder or use its certificate. Then revoke the node and \
                 enrol it again with an empty state folder."
            .to_owned(),
        opened_at: now,
        changed_at: now,
        reopened: 0,
        stale: false,
    };
    EventBody::FindingOpened { finding }
}

#[cfg(test)]
mod tests {
    use super::*;
    use picket_model::{Gap, GapReason};
    use picket_proto::convert::event_to_wire;

    fn epoch() -> Epoch {
        Epoch::from_bytes([7; 16])
    }

    fn chain(count: u64) -> Vec<v1::Event> {
        let mut previous = ChainHash::START;
        (1..=count)
            .map(|seq| {
                let gap =
                    Gap { reason: GapReason::AuditLog, count: seq, first: None, last: None, detail: String::new() };
                let event = Event::new(epoch(), Seq(seq), Timestamp::UNIX_EPOCH, EventBody::Gap { gap }, previous);
                previous = event.hash;
                event_to_wire(&event)
            })
            .collect()
    }

    fn batch(events: Vec<v1::Event>) -> v1::EventBatch {
        v1::EventBatch { given_up_through: 0, events }
    }

    fn fresh() -> Ingest {
        Ingest::new(epoch(), None)
    }

    #[test]
    fn a_good_batch_is_taken_and_its_repetition_ignored() {
        let mut ingest = fresh();
        let checked = ingest.check(batch(chain(3))).unwrap();
        assert_eq!((checked.events.len(), checked.duplicates, checked.altered), (3, 0, vec![]));
        let checked = ingest.check(batch(chain(5))).unwrap();
        assert_eq!((checked.events.len(), checked.duplicates, checked.altered), (2, 3, vec![]));
        assert_eq!(ingest.taken(), Seq(5));
    }

    #[test]
    fn a_stream_goes_on_where_the_history_stands() {
        let events = chain(4);
        let hash = <[u8; 32]>::try_from(events[2].hash.as_slice()).map(ChainHash).ok();
        let cursor = Cursor { through: Seq(3), hash, given_up: 0, moved: Timestamp::UNIX_EPOCH };
        let mut ingest = Ingest::new(epoch(), Some(&cursor));
        let checked = ingest.check(batch(events)).unwrap();
        assert_eq!((checked.events.len(), checked.duplicates, checked.altered), (1, 3, vec![]));
    }

    #[test]
    fn altered_removed_and_swapped_events_show() {
        let mut altered = chain(4);
        altered[1].time_unix_ns += 1;
        assert_eq!(fresh().check(batch(altered)).unwrap().altered, [Seq(2)]);
        // Someone cut out event 2 and numbered the rest anew.
        let mut cut = chain(4);
        cut.remove(1);
        for (event, seq) in cut.iter_mut().zip(1..) {
            event.seq = seq;
        }
        assert_eq!(fresh().check(batch(cut)).unwrap().altered, [Seq(2), Seq(3)]);
    }

    #[test]
    fn what_follows_numbers_given_up_cannot_be_checked_but_what_follows_that_can() {
        let mut events = chain(6);
        events.drain(1..3);
        let mut ingest = fresh();
        let checked = ingest.check(v1::EventBatch { given_up_through: 3, events: events.clone() }).unwrap();
        assert_eq!((checked.events.len(), checked.altered), (4, vec![]));
        events[3].hash[0] ^= 1;
        let checked = fresh().check(v1::EventBatch { given_up_through: 3, events }).unwrap();
        assert_eq!(checked.altered, [Seq(6)]);
    }

    #[test]
    fn what_is_wrong_is_named_and_leaves_the_stream_where_it_was() {
        let mut ingest = fresh();
        let mut holed = chain(3);
        holed.remove(1);
        let error = ingest.check(batch(holed)).unwrap_err();
        assert_eq!(error, IngestError::Hole { index: 1, expected: Seq(2), got: Seq(3) });
        assert_eq!(tonic::Status::from(error).code(), tonic::Code::FailedPrecondition);

        let mut swapped = chain(3);
        swapped.swap(0, 1);
        let error = ingest.check(v1::EventBatch { given_up_through: 9, events: swapped }).unwrap_err();
        assert_eq!(error, IngestError::Disorder { index: 1, before: Seq(2), got: Seq(1) });

        let mut bodiless = chain(2);
        bodiless[1].body = None;
        let status = tonic::Status::from(ingest.check(batch(bodiless)).unwrap_err());
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message().starts_with("field batch.events[1].body:"), "{}", status.message());

        let error = ingest.check(batch(vec![v1::Event::default(); 257])).unwrap_err();
        assert_eq!(error, IngestError::TooMany { got: 257, most: 256 });

        assert_eq!(ingest.taken(), Seq::ZERO);
        assert_eq!(ingest.check(batch(chain(1))).unwrap().events.len(), 1);
    }

    #[test]
    fn numbers_at_the_end_of_their_range_are_no_trouble() {
        let mut last = chain(1);
        last[0].seq = u64::MAX;
        let mut ingest = fresh();
        let taken = ingest.check(v1::EventBatch { given_up_through: u64::MAX, events: last.clone() }).unwrap();
        assert_eq!(taken.events.len(), 1);
        assert_eq!(ingest.check(batch(last)).unwrap().duplicates, 1);
    }
}
