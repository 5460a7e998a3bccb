//! The journal: segments on disk, appended to, read from, removed from the front.

use std::io;

use picket_model::{Epoch, Event, GapReason, Seq};

use crate::disk::{Disk, DiskFile, replace};
use crate::record::{self, Header, SEGMENT_HEADER, SegmentHeader, Unit};
use crate::tally::Tally;

/// How much is read from disk at a time, bytes.
const WINDOW: usize = 256 * 1024;
/// Largest segment that is read, bytes: a full segment plus one record.
const SEGMENT_MAX: usize = 64 * 1024 * 1024;

/// A segment on disk. The file's name is `first`.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) first: Seq,
    /// The last number covered; `first - 1` when there is none.
    pub(crate) last: Seq,
    pub(crate) bytes: u64,
}

pub(crate) fn file_name(first: Seq) -> String {
    format!("{:020}.seg", first.0)
}

pub(crate) fn first_of(name: &str) -> Option<Seq> {
    let digits = name.strip_suffix(".seg")?;
    (digits.len() == 20).then(|| digits.parse().ok().map(Seq)).flatten()
}

/// Events read for sending.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Events up to this number that are not in this batch (or were in an earlier one) will never come. 0: none were
    /// given up here.
    pub given_up_through: Seq,
    /// Ascending; contiguous beyond `given_up_through`.
    pub events: Vec<Event>,
}

/// Why reading stopped.
#[derive(Debug)]
pub(crate) enum ReadFault {
    Io(io::Error),
    /// The segment with this first number is damaged.
    Damaged(Seq),
}

/// The segments of one epoch.
#[derive(Debug)]
pub(crate) struct Journal {
    pub(crate) disk: Box<dyn Disk>,
    pub(crate) epoch: Epoch,
    pub(crate) segments: Vec<Segment>,
    segment_bytes: u64,
    active: Option<Box<dyn DiskFile>>,
    next: Seq,
    /// A segment's file was begun, and it is not known whether it is there: it would overrule its predecessor.
    stray: Option<Seq>,
    /// Where reading goes on: the number wanted, its segment, the offset of its record.
    reader: Option<(Seq, Seq, u64)>,
}

impl Journal {
    pub(crate) fn new(
        disk: Box<dyn Disk>,
        epoch: Epoch,
        segments: Vec<Segment>,
        segment_bytes: u64,
        next: Seq,
    ) -> Self {
        Self { disk, epoch, segments, segment_bytes, active: None, next, stray: None, reader: None }
    }

    pub(crate) fn next(&self) -> Seq {
        self.next
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.bytes).sum()
    }

    /// Begins again with another epoch; the segments must be removed.
    pub(crate) fn restart(&mut self, epoch: Epoch) {
        (self.active, self.reader) = (None, None);
        self.segments.clear();
        self.epoch = epoch;
        self.next = Seq(1);
    }

    /// Closes the segment that is written to; the next append begins another.
    pub(crate) fn seal(&mut self) {
        self.active = None;
    }

    /// Appends one record that covers `span` numbers, and returns when it is durable. After an error nothing of it is
    /// part of the journal.
    pub(crate) fn append(&mut self, record: &[u8], span: u64) -> io::Result<()> {
        let full = self.segments.last().is_none_or(|s| s.bytes >= self.segment_bytes);
        if full || self.active.is_none() {
            self.roll()?;
        }
        let (Some(file), Some(segment)) = (self.active.as_mut(), self.segments.last_mut()) else {
            return Err(io::Error::other("no segment is open"));
        };
        if let Err(error) = file.append(record).and_then(|()| file.sync()) {
            // Nothing is known of the bytes behind the last success. Cut them off if that is possible; if not, they
            // are left behind in a segment that is never written again, and the next segment's name overrules them.
            if let Err(also) = file.truncate(segment.bytes) {
                tracing::debug!(error = %also, "a record that failed could not be cut off");
            }
            self.active = None;
            return Err(error);
        }
        segment.bytes += record.len() as u64;
        self.next = Seq(self.next.0 + span);
        segment.last = Seq(self.next.0 - 1);
        Ok(())
    }

    fn roll(&mut self) -> io::Result<()> {
        let first = self.next;
        self.active = None;
        if let Some(stray) = self.stray {
            self.disk.remove(&file_name(stray))?;
            self.disk.sync_names()?;
            self.stray = None;
        }
        if let Some(last) = self.segments.last().filter(|s| s.bytes < self.segment_bytes) {
            // Go on with a segment that has room: after a start, or after a write that failed.
            let reopened = self.disk.open(&file_name(last.first)).and_then(|mut file| {
                file.truncate(last.bytes)?;
                Ok(file)
            });
            match reopened {
                Ok(file) => {
                    self.active = Some(file);
                    return Ok(());
                }
                // It may hold marks, so a new file must not take its name.
                Err(error) if last.first == first => return Err(error),
                Err(_) => {}
            }
        }
        self.stray = Some(first);
        let mut file = self.disk.create(&file_name(first))?;
        file.append(&record::segment_header(self.epoch, first))?;
        file.sync()?;
        self.disk.sync_names()?;
        let segment = Segment { first, last: Seq(first.0 - 1), bytes: SEGMENT_HEADER as u64 };
        self.segments.push(segment);
        self.stray = None;
        self.active = Some(file);
        Ok(())
    }

    /// Reads events after `after`, at most `max_events` of about `max_bytes` of JSON; one event at least.
    pub(crate) fn read(&mut self, after: Seq, max_events: usize, max_bytes: usize) -> Result<Batch, ReadFault> {
        let mut batch = Batch::default();
        let mut want = after.next();
        let mut bytes = 0;
        let Some(oldest) = self.segments.first() else { return Ok(batch) };
        if want < oldest.first {
            batch.given_up_through = Seq(oldest.first.0 - 1);
            want = oldest.first;
        }
        let mut index = self.segments.partition_point(|s| s.last < want);
        let mut offset = SEGMENT_HEADER as u64;
        if let Some((at, first, place)) = self.reader
            && at == want
            && self.segments.get(index).is_some_and(|s| s.first == first)
        {
            offset = place;
        }
        while let Some(segment) = self.segments.get(index) {
            let mut window = Window::new(&*self.disk, segment);
            while offset < segment.bytes {
                let record = window.record(offset).map_err(ReadFault::Io)?;
                let Some((header, size)) = record else { return Err(ReadFault::Damaged(segment.first)) };
                let whole = window.slice(offset, header.size()).map_err(ReadFault::Io)?;
                if !record::is_sound(whole, &header) {
                    return Err(ReadFault::Damaged(segment.first));
                }
                // Records behind the segment's last number are overruled by the segment after it.
                if header.span == 0 || header.last() < want || header.first > segment.last {
                    offset += size;
                    continue;
                }
                let Some(unit) = record::decode(whole, &header) else {
                    return Err(ReadFault::Damaged(segment.first));
                };
                let each = header.length / (header.events.max(1) as usize);
                let (last, from) = (unit.last(), want);
                for event in unit.events.into_iter().filter(|e| e.seq >= from) {
                    let full = batch.events.len() >= max_events || bytes + each > max_bytes;
                    if full && !batch.events.is_empty() {
                        self.reader = Some((want, segment.first, offset));
                        return Ok(batch);
                    }
                    if event.seq > want {
                        batch.given_up_through = Seq(event.seq.0 - 1);
                    }
                    want = event.seq.next();
                    bytes += each;
                    batch.events.push(event);
                }
                if last >= want {
                    batch.given_up_through = last;
                    want = last.next();
                }
                offset += size;
                self.reader = Some((want, segment.first, offset));
            }
            index += 1;
            offset = SEGMENT_HEADER as u64;
        }
        Ok(batch)
    }

    /// Removes segments from the front that hold nothing above `through`, except the last one.
    pub(crate) fn remove_through(&mut self, through: Seq) -> io::Result<()> {
        let mut removed = false;
        while self.segments.len() > 1
            && let Some(front) = self.segments.first()
            && front.last <= through
        {
            self.disk.remove(&file_name(front.first))?;
            self.segments.remove(0);
            removed = true;
        }
        if removed { self.disk.sync_names() } else { Ok(()) }
    }

    /// The bytes of a segment.
    pub(crate) fn load(&self, index: usize) -> io::Result<Vec<u8>> {
        let Some(segment) = self.segments.get(index) else { return Ok(Vec::new()) };
        let length = usize::try_from(segment.bytes).unwrap_or(SEGMENT_MAX).min(SEGMENT_MAX);
        self.disk.read(&file_name(segment.first), 0, length)
    }

    /// Puts `units` in the place of the segments `from..to`.
    pub(crate) fn rewrite(&mut self, from: usize, to: usize, records: &[u8]) -> io::Result<()> {
        let (Some(front), Some(back)) = (self.segments.get(from).cloned(), self.segments.get(to - 1).cloned()) else {
            return Ok(());
        };
        self.reader = None;
        if to == self.segments.len() {
            self.active = None;
        }
        let header = record::segment_header(self.epoch, front.first);
        replace(&*self.disk, &file_name(front.first), &[&header, records])?;
        let bytes = (header.len() + records.len()) as u64;
        let merged = Segment { first: front.first, last: back.last, bytes };
        let gone: Vec<Segment> = self.segments.splice(from..to, [merged]).skip(1).collect();
        // Until they are gone, these overrule the merged segment record by record: a crash in between costs nothing.
        // One that cannot be removed brings back what was given up at the next start, and loses nothing.
        for segment in gone {
            if let Err(error) = self.disk.remove(&file_name(segment.first)) {
                tracing::warn!(%error, "a merged segment of the outbox could not be removed");
            }
        }
        if let Err(error) = self.disk.sync_names() {
            tracing::warn!(%error, "the removal of merged segments could not be synced");
        }
        Ok(())
    }
}

/// A part of a segment in memory.
struct Window<'a> {
    disk: &'a dyn Disk,
    name: String,
    end: u64,
    at: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    fn new(disk: &'a dyn Disk, segment: &Segment) -> Self {
        Self { disk, name: file_name(segment.first), end: segment.bytes, at: 0, bytes: Vec::new() }
    }

    fn slice(&mut self, offset: u64, length: usize) -> io::Result<&[u8]> {
        let there = offset >= self.at && offset + length as u64 <= self.at + self.bytes.len() as u64;
        if !there {
            let left = usize::try_from(self.end.saturating_sub(offset)).unwrap_or(usize::MAX);
            self.bytes = self.disk.read(&self.name, offset, length.max(WINDOW).min(left))?;
            self.at = offset;
        }
        let start = usize::try_from(offset - self.at).unwrap_or(usize::MAX);
        let rest = self.bytes.get(start..).unwrap_or_default();
        Ok(rest.get(..length).unwrap_or(rest))
    }

    fn record(&mut self, offset: u64) -> io::Result<Option<(Header, u64)>> {
        let head = self.slice(offset, record::RECORD_HEADER)?;
        Ok(Header::read(head).map(|h| (h, h.size() as u64)))
    }
}

/// What becomes of an event when its segment is rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Keep,
    /// The collector has it.
    Delivered,
    /// Given up, and told.
    GivenUp,
}

/// The units of a segment without what is given up, and what that was. Coverage that is missing, up to `end`, was
/// damaged: it is filled and counted. `next` is the number that the gap event will get.
pub(crate) fn thin(bytes: &[u8], segment: &Segment, next: Seq, fate: &dyn Fn(&Event) -> Fate) -> (Vec<Unit>, Tally) {
    let mut units: Vec<Unit> = Vec::new();
    let mut lost = Tally::default();
    let mut expect = segment.first;
    let mut owed = Vec::new();
    for found in record::scan(bytes).records {
        let header = found.header;
        if header.first > segment.last || (header.span > 0 && header.first < expect) {
            continue;
        }
        let decoded = bytes.get(found.range.clone()).and_then(|r| record::decode(r, &header));
        let Some(mut unit) = decoded else { continue };
        owed.extend(unit.owed.drain(..).filter(|o| o.at >= next));
        if unit.span > 0 {
            if unit.first > expect {
                fill(&mut units, &mut lost, expect, Seq(unit.first.0 - 1));
            }
            expect = unit.last().next();
        }
        unit.events.retain(|event| match fate(event) {
            Fate::Keep => true,
            Fate::Delivered => false,
            Fate::GivenUp => {
                match &event.body {
                    picket_model::EventBody::Gap { gap } => lost.gap(gap.clone()),
                    _ => lost.event(GapReason::OutboxFull, event.seq),
                }
                false
            }
        });
        push(&mut units, unit);
    }
    if expect <= segment.last {
        fill(&mut units, &mut lost, expect, segment.last);
    }
    for gap in lost.iter() {
        owed.push(record::Owed { at: next, gap: gap.clone() });
    }
    if !owed.is_empty() {
        units.push(Unit { first: segment.last, owed, ..Unit::default() });
    }
    (units, lost)
}

fn fill(units: &mut Vec<Unit>, lost: &mut Tally, first: Seq, last: Seq) {
    lost.range(GapReason::Damaged, first, last);
    push(units, Unit { first, span: last.0 + 1 - first.0, ..Unit::default() });
}

/// Adds a unit; runs of units without events become one.
fn push(units: &mut Vec<Unit>, unit: Unit) {
    if unit.events.is_empty()
        && let Some(before) = units.last_mut()
        && before.events.is_empty()
        && before.owed.is_empty()
        && unit.owed.is_empty()
        // A detector state belongs to its own cursor, so a mark that has one is not overwritten by one without.
        && unit.mark.as_ref().is_none_or(|m| m.detector.is_some() || before.mark.as_ref().is_none_or(|b| b.detector.is_none()))
    {
        if unit.span > 0 {
            before.first = if before.span == 0 { unit.first } else { before.first };
            before.span += unit.span;
        }
        before.mark = unit.mark.or(before.mark.take());
        return;
    }
    units.push(unit);
}

/// What a segment's file says of itself.
pub(crate) fn epoch_of(bytes: &[u8]) -> SegmentHeader {
    record::read_segment_header(bytes)
}
