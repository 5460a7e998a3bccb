//! The ledger: one owner of journal, state and what waits in memory.

use std::collections::{BTreeSet, VecDeque};
use std::io;

use jiff::Timestamp;
use picket_model::{ChainHash, Epoch, Event, EventBody, Finding, GapReason, Seq, Transition, Verdict};

use crate::book::{Book, DetectorState};
use crate::checkpoint::{self, Checkpoint};
use crate::journal::{self, Batch, Fate, Journal, ReadFault};
use crate::record::{self, Unit};
use crate::tally::Tally;
use crate::{fit, open, pressure};

/// Bounds of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The outbox on disk, bytes.
    pub outbox_bytes: u64,
    /// A segment is closed when it has so many bytes.
    pub segment_bytes: u64,
    /// What waits in memory while the disk takes nothing, bytes.
    pub waiting_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { outbox_bytes: 32 * 1024 * 1024, segment_bytes: 1024 * 1024, waiting_bytes: 4 * 1024 * 1024 }
    }
}

/// How far the audit log is accounted for. Committed together with the events of the same append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditMark {
    /// Where to read on, opaque; at most [`AuditMark::CURSOR_MAX`] bytes.
    pub cursor: Vec<u8>,
    /// State of the detections at this cursor, opaque; at most [`AuditMark::DETECTOR_MAX`] bytes. None keeps the
    /// state last given together with the cursor it came with: give a state from time to time, not each time.
    pub detector: Option<Vec<u8>>,
}

impl AuditMark {
    /// Longest cursor, bytes.
    pub const CURSOR_MAX: usize = 64 * 1024;
    /// Largest detector state, bytes.
    pub const DETECTOR_MAX: usize = 1024 * 1024;
}

/// What an append did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// It is on disk.
    Durable,
    /// The disk takes nothing; it waits in memory and is written with the next append or [`Ledger::retry`].
    Waiting,
}

/// What verdicts changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// Findings that appeared or came back.
    pub opened: Vec<Finding>,
    /// Findings that look different.
    pub changed: Vec<Finding>,
    /// Findings that are gone.
    pub resolved: Vec<Finding>,
}

/// An append that can never succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The mark is larger than the ledger takes.
    #[error("audit mark: {what} of {bytes} bytes, at most {limit} are taken; write a smaller one")]
    MarkTooLarge {
        /// Cursor or detector state.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The events of one append are larger than a record may be.
    #[error("{events} events of one append need {bytes} bytes, a record takes at most 16 MiB; append fewer at a time")]
    UnitTooLarge {
        /// How many events.
        events: usize,
        /// Their encoded size.
        bytes: usize,
    },
}

/// An acknowledgement that cannot be true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("event {acknowledged} was acknowledged, but the last number given out is {last}")]
pub struct AckError {
    /// What was acknowledged.
    pub acknowledged: Seq,
    /// The last number given out.
    pub last: Seq,
}

/// Reading the outbox failed.
#[derive(Debug, thiserror::Error)]
#[error("the outbox could not be read; check the disk below the state folder")]
pub struct ReadError(#[source] io::Error);

/// Counters of the ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Numbers given out that are not acknowledged.
    pub unacknowledged: u64,
    /// Bytes of all segments on disk.
    pub outbox_bytes: u64,
    /// Segments on disk.
    pub segments: usize,
    /// Events that wait in memory for the disk.
    pub waiting_events: usize,
    /// Events given up since the ledger was opened, by pressure or damage.
    pub given_up: u64,
    /// Findings open or blind.
    pub findings_live: usize,
    /// Why the disk takes nothing, while that is so.
    pub disk_error: Option<String>,
}

/// A unit that waits in memory for the disk. Its state is applied, its numbers are not given out.
#[derive(Debug)]
struct Waiting {
    bodies: Vec<EventBody>,
    mark: Option<AuditMark>,
    time: Timestamp,
    bytes: usize,
}

/// Most events of one unit that carries no mark. Verdicts of a whole node are split into such units.
const UNIT_EVENTS: usize = 256;

/// The node's durable memory. See the crate's documentation.
#[derive(Debug)]
pub struct Ledger {
    pub(crate) journal: Journal,
    pub(crate) book: Book,
    pub(crate) limits: Limits,
    pub(crate) hash: ChainHash,
    pub(crate) acknowledged: Seq,
    /// What the newest checkpoint says of it.
    acknowledged_stored: Seq,
    /// `through` of the newest checkpoint and of the one before.
    pub(crate) checkpoints: (Seq, Seq),
    pub(crate) since_checkpoint: u64,
    /// Gaps to tell with the next numbers.
    pub(crate) owed: Tally,
    waiting: VecDeque<Waiting>,
    /// Size at which the outbox is relieved.
    relief_at: u64,
    given_up: u64,
    disk_error: Option<String>,
    /// Time of the last append, for gaps found while reading.
    last_time: Timestamp,
}

impl Ledger {
    pub(crate) fn assemble(
        journal: Journal,
        checkpoint: Checkpoint,
        previous_through: Seq,
        hash: ChainHash,
        limits: Limits,
        now: Timestamp,
    ) -> Self {
        Self {
            journal,
            book: checkpoint.book,
            hash,
            acknowledged: checkpoint.acknowledged,
            acknowledged_stored: checkpoint.acknowledged,
            checkpoints: (checkpoint.through, previous_through),
            since_checkpoint: 0,
            owed: Tally::default(),
            waiting: VecDeque::new(),
            relief_at: limits.outbox_bytes,
            given_up: 0,
            disk_error: None,
            last_time: now,
            limits,
        }
    }

    /// The life of this state folder.
    pub fn epoch(&self) -> Epoch {
        self.journal.epoch
    }

    /// The number that the next event will get.
    pub fn next_seq(&self) -> Seq {
        self.journal.next()
    }

    /// The smallest number the outbox still covers; the next number when it covers none. Acknowledged events stay
    /// until their whole segment goes, so that a collector that lost them can have them again.
    pub fn first_seq(&self) -> Seq {
        self.journal.segments.first().map_or(self.next_seq(), |s| s.first)
    }

    /// The highest number that was acknowledged.
    pub const fn acknowledged(&self) -> Seq {
        self.acknowledged
    }

    /// Findings open or blind, by identity.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.book.live()
    }

    /// Where to read the audit log on: the cursor of the last mark. The detector state, if there is one, may belong
    /// to an earlier cursor; it is in [`Ledger::detector_state`].
    pub fn audit_cursor(&self) -> Option<&[u8]> {
        self.book.cursor.as_deref()
    }

    /// The detector state last given, with its cursor.
    pub const fn detector_state(&self) -> Option<&DetectorState> {
        self.book.detector.as_ref()
    }

    /// The last mark: its cursor, and the detector state if it belongs to the same cursor.
    pub fn audit_mark(&self) -> Option<AuditMark> {
        let cursor = self.book.cursor.clone()?;
        let detector = self.book.detector.as_ref().filter(|d| d.cursor == cursor).map(|d| d.state.clone());
        Some(AuditMark { cursor, detector })
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        Stats {
            unacknowledged: (self.next_seq().0 - 1).saturating_sub(self.acknowledged.0),
            outbox_bytes: self.journal.bytes(),
            segments: self.journal.segments.len(),
            waiting_events: self.waiting.iter().map(|w| w.bodies.len()).sum(),
            given_up: self.given_up,
            findings_live: self.book.live().count(),
            disk_error: self.disk_error.clone(),
        }
    }

    /// Turns verdicts into changes of findings and appends them. Of several verdicts on one identity the weightiest
    /// counts. With `complete` the verdicts are all there are: a live finding without one no longer applies.
    ///
    /// # Errors
    /// [`AppendError`], which verdicts within their usual sizes never cause.
    pub fn apply(&mut self, verdicts: &[Verdict], complete: bool, now: Timestamp) -> Result<Applied, AppendError> {
        let changes = self.book.changes(verdicts, |_| complete, now);
        self.append_changes(changes, now)
    }

    /// Like [`Ledger::apply`], where the verdicts are all there are of these controls, and nothing is said of others.
    ///
    /// # Errors
    /// As [`Ledger::apply`].
    pub fn apply_of(
        &mut self,
        controls: &BTreeSet<String>,
        verdicts: &[Verdict],
        now: Timestamp,
    ) -> Result<Applied, AppendError> {
        let changes = self.book.changes(verdicts, |control| controls.contains(control), now);
        self.append_changes(changes, now)
    }

    fn append_changes(&mut self, changes: Vec<Transition>, now: Timestamp) -> Result<Applied, AppendError> {
        let mut applied = Applied::default();
        let mut bodies = Vec::new();
        for change in changes {
            bodies.push(match change {
                Transition::Opened(finding) => {
                    applied.opened.push(finding.clone());
                    EventBody::FindingOpened { finding }
                }
                Transition::Changed(finding) => {
                    applied.changed.push(finding.clone());
                    EventBody::FindingChanged { finding }
                }
                Transition::Resolved(finding) => {
                    applied.resolved.push(finding.clone());
                    EventBody::FindingResolved { finding }
                }
            });
        }
        let mut bodies = bodies.into_iter();
        loop {
            let unit: Vec<_> = bodies.by_ref().take(UNIT_EVENTS).collect();
            if unit.is_empty() {
                return Ok(applied);
            }
            self.append(unit, None, now)?;
        }
    }

    /// Appends events and the mark that accounts for them as one unit: both become durable, or neither.
    ///
    /// Texts over the limits of the wire are cut. A disk that takes nothing is no error: see [`Appended`].
    ///
    /// # Errors
    /// [`AppendError`] when the unit is too large ever to be written; nothing is changed then.
    pub fn append(
        &mut self,
        mut bodies: Vec<EventBody>,
        audit: Option<AuditMark>,
        now: Timestamp,
    ) -> Result<Appended, AppendError> {
        if let Some(mark) = &audit {
            let detector = mark.detector.as_ref().map_or(0, Vec::len);
            for (what, bytes, limit) in [
                ("cursor", mark.cursor.len(), AuditMark::CURSOR_MAX),
                ("detector state", detector, AuditMark::DETECTOR_MAX),
            ] {
                if bytes > limit {
                    return Err(AppendError::MarkTooLarge { what, bytes, limit });
                }
            }
        }
        if bodies.is_empty() && audit.is_none() {
            return Ok(self.retry(now));
        }
        bodies.iter_mut().for_each(fit::body);
        let count = bodies.len();
        let mut unit = Waiting { bytes: 0, bodies, mark: audit, time: now };
        unit.bytes = unit.bodies.iter().map(size_of_body).sum();
        if unit.bytes > record::PAYLOAD_MAX - 2 * AuditMark::DETECTOR_MAX {
            return Err(AppendError::UnitTooLarge { events: count, bytes: unit.bytes });
        }
        // The state follows the unit whether it is on disk or waits: a crash forgets both alike.
        self.waiting.push_back(unit);
        Ok(self.write_waiting(true, now))
    }

    /// Tries again to write what waits in memory. [`Stats::disk_error`] says whether that is due.
    pub fn retry(&mut self, now: Timestamp) -> Appended {
        self.write_waiting(false, now)
    }

    fn write_waiting(&mut self, newest_is_fresh: bool, now: Timestamp) -> Appended {
        let mut fresh_applied = !newest_is_fresh;
        self.last_time = now;
        if !self.owed.is_empty() && self.waiting.is_empty() {
            self.waiting.push_back(Waiting { bodies: Vec::new(), mark: None, time: now, bytes: 0 });
        }
        while let Some(unit) = self.waiting.pop_front() {
            match self.write(unit) {
                Ok(unit) => {
                    if self.waiting.is_empty() && !fresh_applied {
                        fresh_applied = true;
                        self.apply_to_book(&unit);
                    }
                }
                Err((unit, error)) => {
                    self.waiting.push_front(unit);
                    self.note_disk_error(&error);
                    break;
                }
            }
        }
        if self.waiting.is_empty() {
            if self.disk_error.take().is_some() {
                tracing::info!("the disk takes events again");
            }
            self.care(now);
            return if self.waiting.is_empty() && self.owed.is_empty() { Appended::Durable } else { Appended::Waiting };
        }
        if !fresh_applied && let Some(unit) = self.waiting.pop_back() {
            self.apply_to_book(&unit);
            self.waiting.push_back(unit);
        }
        self.bound_waiting();
        Appended::Waiting
    }

    fn apply_to_book(&mut self, unit: &Waiting) {
        for body in &unit.bodies {
            self.book.apply(body);
        }
        if let Some(mark) = &unit.mark {
            self.book.mark(mark);
        }
    }

    /// Numbers a unit and writes it, what is owed first.
    fn write(&mut self, unit: Waiting) -> Result<Waiting, (Waiting, io::Error)> {
        let first = self.next_seq();
        let mut hash = self.hash;
        let gaps: Vec<_> = self.owed.told().map(|gap| EventBody::Gap { gap }).collect();
        let owed = gaps.len();
        let mut seq = first;
        let mut events = Vec::with_capacity(owed + unit.bodies.len());
        for body in gaps.into_iter().chain(unit.bodies) {
            let event = Event::new(self.epoch(), seq, unit.time, body, hash);
            hash = event.hash;
            seq = seq.next();
            events.push(event);
        }
        let span = events.len() as u64;
        let first = if span == 0 { Seq(first.0 - 1) } else { first };
        let written = Unit { first, span, events, owed: Vec::new(), mark: unit.mark };
        let mut bytes = Vec::new();
        let result = record::encode(&written, &mut bytes)
            .map_err(|e| io::Error::other(format!("a record of {} bytes", e.0)))
            .and_then(|()| self.journal.append(&bytes, span));
        let bodies = written.events.into_iter().skip(owed).map(|e| e.body).collect();
        let unit = Waiting { bodies, mark: written.mark, ..unit };
        match result {
            Ok(()) => {
                self.hash = hash;
                self.owed = Tally::default();
                self.since_checkpoint += bytes.len() as u64;
                Ok(unit)
            }
            Err(error) => Err((unit, error)),
        }
    }

    fn note_disk_error(&mut self, error: &io::Error) {
        if self.disk_error.is_none() {
            tracing::error!(
                %error,
                waiting_bytes = self.limits.waiting_bytes,
                "the disk takes no events; they wait in memory, make room below the state folder"
            );
        }
        self.disk_error = Some(error.to_string());
    }

    /// Keeps what waits in memory within its limit.
    fn bound_waiting(&mut self) {
        let bytes: usize = self.waiting.iter().map(|w| w.bytes).sum();
        if bytes <= self.limits.waiting_bytes {
            return;
        }
        let time = self.waiting.back().map(|w| w.time);
        let mut merged =
            Waiting { bodies: Vec::new(), mark: None, time: time.unwrap_or(Timestamp::UNIX_EPOCH), bytes: 0 };
        for mut unit in self.waiting.drain(..) {
            merged.bodies.append(&mut unit.bodies);
            merged.mark = unit.mark.or(merged.mark);
        }
        // The state of the detections may have come with an earlier mark than the last.
        if let (Some(mark), Some(detector)) = (&mut merged.mark, &self.book.detector)
            && mark.detector.is_none()
            && mark.cursor == detector.cursor
        {
            mark.detector = Some(detector.state.clone());
        }
        let lost = pressure::thin_waiting(&mut merged.bodies, self.limits.waiting_bytes / 4 * 3, &mut self.owed);
        self.given_up += lost;
        merged.bytes = merged.bodies.iter().map(size_of_body).sum();
        self.waiting.push_back(merged);
    }

    /// What a journal needs now and then: a checkpoint, and relief when it is over its limit.
    fn care(&mut self, now: Timestamp) {
        if self.since_checkpoint >= self.limits.segment_bytes
            && let Err(error) = self.checkpoint()
        {
            self.note_disk_error(&error);
            return;
        }
        if self.journal.bytes() > self.relief_at
            && let Err(error) = self.relieve(now)
        {
            self.note_disk_error(&error);
        }
    }

    /// Writes a checkpoint of the state now, unless units wait in memory: the state is ahead of the journal then.
    ///
    /// # Errors
    /// What the disk says; the checkpoints before it are still good.
    pub fn checkpoint(&mut self) -> io::Result<()> {
        if !self.waiting.is_empty() {
            return Ok(());
        }
        let checkpoint = self.snapshot();
        checkpoint::store(&*self.journal.disk, &checkpoint, true)?;
        self.checkpoints = (checkpoint.through, self.checkpoints.0);
        self.since_checkpoint = 0;
        self.acknowledged_stored = checkpoint.acknowledged;
        self.drop_acknowledged()
    }

    fn snapshot(&self) -> Checkpoint {
        Checkpoint {
            epoch: self.epoch(),
            through: Seq(self.next_seq().0 - 1),
            hash: self.hash,
            acknowledged: self.acknowledged,
            book: self.book.clone(),
        }
    }

    fn drop_acknowledged(&mut self) -> io::Result<()> {
        self.journal.remove_through(self.acknowledged.min(self.checkpoints.1))
    }

    /// Everything up to `seq` is durable at the collector. Whole segments below it go. Going backwards is no news.
    ///
    /// # Errors
    /// [`AckError`] for a number that was never given out; nothing is changed then.
    pub fn acknowledge(&mut self, seq: Seq) -> Result<(), AckError> {
        if seq >= self.next_seq() {
            return Err(AckError { acknowledged: seq, last: Seq(self.next_seq().0 - 1) });
        }
        if seq > self.acknowledged {
            self.acknowledged = seq;
            if let Err(error) = self.drop_acknowledged() {
                // They are removed with a later acknowledgement.
                tracing::warn!(%error, "acknowledged segments of the outbox could not be removed");
            }
        }
        Ok(())
    }

    /// Durable events after `after`, at most `max_events`, of about `max_bytes` (at least one event).
    ///
    /// # Errors
    /// [`ReadError`] when the disk cannot be read. Damage is no error: it is cut out and told as a gap.
    pub fn read_after(&mut self, after: Seq, max_events: usize, max_bytes: usize) -> Result<Batch, ReadError> {
        // Each repair makes one segment sound, so this ends.
        for _ in 0..=self.journal.segments.len() {
            match self.journal.read(after, max_events, max_bytes) {
                Ok(batch) => return Ok(batch),
                Err(ReadFault::Io(error)) => return Err(ReadError(error)),
                Err(ReadFault::Damaged(first)) => {
                    self.repair(first).map_err(ReadError)?;
                    self.retry(self.last_time);
                }
            }
        }
        Err(ReadError(io::Error::other("segments are damaged faster than they are repaired")))
    }

    /// Rewrites a damaged segment with what is sound in it; the rest is owed as a gap.
    pub(crate) fn repair(&mut self, first: Seq) -> io::Result<()> {
        let Some(index) = self.journal.segments.iter().position(|s| s.first == first) else { return Ok(()) };
        let Some(segment) = self.journal.segments.get(index).cloned() else { return Ok(()) };
        let bytes = self.journal.load(index)?;
        let (units, mut lost) = journal::thin(&bytes, &segment, self.next_seq(), &|_| Fate::Keep);
        let records = encode_all(&units)?;
        self.journal.rewrite(index, index + 1, &records)?;
        lost.forget_through(GapReason::Damaged, self.acknowledged);
        tracing::error!(
            segment = %journal::file_name(first),
            events = lost.count(),
            "a segment of the outbox was damaged; what could be read was kept"
        );
        self.given_up += lost.fresh();
        self.owed.merge(lost);
        Ok(())
    }

    /// Brings the outbox below three quarters of its limit, as far as that is allowed.
    fn relieve(&mut self, now: Timestamp) -> io::Result<()> {
        self.checkpoint()?;
        if self.checkpoints.1 < self.acknowledged {
            self.checkpoint()?;
        }
        if self.journal.bytes() > self.limits.outbox_bytes / 4 * 3 {
            self.journal.seal();
            let target = self.limits.outbox_bytes / 4 * 3;
            let plan = pressure::Plan::make(&self.journal, self.acknowledged, target)?;
            let mut lost = Tally::default();
            let done = plan.carry_out(&mut self.journal, self.limits.segment_bytes, &mut lost);
            lost.forget_through(GapReason::Damaged, self.acknowledged);
            if !lost.is_empty() {
                tracing::warn!(
                    events = lost.count(),
                    limit_bytes = self.limits.outbox_bytes,
                    "the outbox reached its limit; superseded changes and old detections were given up"
                );
            }
            self.given_up += lost.fresh();
            // Told with the next number, whatever else fails: the segments name that number.
            self.owed.merge(lost);
            done?;
        }
        // What may not be given up can be more than the limit: do not try again with each append.
        self.relief_at = self.limits.outbox_bytes.max(self.journal.bytes() + self.limits.outbox_bytes / 8);
        if !self.owed.is_empty() {
            let gap = Waiting { bodies: Vec::new(), mark: None, time: now, bytes: 0 };
            if let Err((_, error)) = self.write(gap) {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Begins a new epoch: what was not acknowledged of the old one is numbered again from 1, after a gap event that
    /// says why and before the findings as they are. For a collector that acknowledges numbers this folder never gave
    /// out, because the folder was restored from a backup or lost its end.
    ///
    /// # Errors
    /// What the disk says; the old epoch may be gone then, its findings are not.
    pub fn begin_epoch(&mut self, why: &str, now: Timestamp) -> io::Result<Epoch> {
        let mut bodies = vec![EventBody::Gap {
            gap: picket_model::Gap {
                reason: GapReason::Damaged,
                count: 0,
                first: None,
                last: None,
                detail: why.to_owned(),
            },
        }];
        let mut after = self.acknowledged;
        while let Ok(batch) = self.read_after(after, UNIT_EVENTS, 4 * 1024 * 1024) {
            let Some(last) = batch.events.last() else { break };
            after = last.seq;
            // Findings are restated below; what happened in the log or to the outbox is not found again.
            bodies.extend(batch.events.into_iter().map(|e| e.body).filter(|b| b.finding().is_none()));
        }
        bodies.extend(self.book.live().map(|finding| EventBody::FindingOpened { finding: finding.clone() }));
        let epoch = open::new_epoch(now);
        let fresh = Checkpoint {
            epoch,
            through: Seq::ZERO,
            hash: ChainHash::START,
            acknowledged: Seq::ZERO,
            book: self.book.clone(),
        };
        checkpoint::store(&*self.journal.disk, &fresh, false)?;
        for segment in &self.journal.segments {
            self.journal.disk.remove(&journal::file_name(segment.first))?;
        }
        self.journal.disk.sync_names()?;
        self.journal.restart(epoch);
        (self.hash, self.acknowledged, self.checkpoints) = (ChainHash::START, Seq::ZERO, (Seq::ZERO, Seq::ZERO));
        let mut bodies = bodies.into_iter();
        loop {
            let unit: Vec<_> = bodies.by_ref().take(UNIT_EVENTS).collect();
            if unit.is_empty() {
                return Ok(epoch);
            }
            self.append(unit, None, now).map_err(io::Error::other)?;
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if (self.since_checkpoint > 0 || self.acknowledged != self.acknowledged_stored)
            && let Err(error) = self.checkpoint()
        {
            tracing::debug!(%error, "no checkpoint at the end; the next start replays a little more");
        }
    }
}

pub(crate) fn size_of_body(body: &EventBody) -> usize {
    // Writing JSON to a counter cannot fail.
    let mut counter = Counter(0);
    let _ = serde_json::to_writer(&mut counter, body);
    counter.0 + 200
}

struct Counter(usize);

impl io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) fn encode_all(units: &[Unit]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    for unit in units {
        record::encode(unit, &mut out).map_err(|e| io::Error::other(format!("a record of {} bytes", e.0)))?;
    }
    Ok(out)
}
