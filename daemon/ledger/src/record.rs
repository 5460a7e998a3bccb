//! The bytes of a segment: one header, then records. A record is one unit: what one append commits, whole or not
//! at all. Numbers are little endian.
//!
//! ```text
//! segment   "PICKETOB"  format u32  flags u32  epoch 16  first seq u64  crc32c u32  0 u32        48 bytes
//! record    "pkr1"  crc32c u32  payload length u32  events u32  first seq u64  span u64          32 bytes, then the
//! payload   JSON length u32, JSON {"events":[…],"owed":[…],"mark":{…}}, cursor, detector state
//! ```
//!
//! A record covers the numbers `first .. first + span`. Events that were given up later are missing from it, the
//! coverage stays: so missing coverage means damage, and nothing else. A record with span 0 only carries a mark (or
//! owed gaps) and hangs on the number `first` before it.

use std::ops::Range;

use picket_model::{Epoch, Event, Gap, Seq};
use serde::{Deserialize, Serialize};

use crate::AuditMark;

/// Version of the format.
pub(crate) const FORMAT: u32 = 1;
/// Bytes of a segment's header.
pub(crate) const SEGMENT_HEADER: usize = 48;
/// Bytes of a record's header.
pub(crate) const RECORD_HEADER: usize = 32;
/// Largest payload, bytes. Anything above is damage.
pub(crate) const PAYLOAD_MAX: usize = 16 * 1024 * 1024;

const SEGMENT_MAGIC: &[u8; 8] = b"PICKETOB";
const RECORD_MAGIC: &[u8; 4] = b"pkr1";

/// A gap that must be told with the number `at`. When that number was given out already, it was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owed {
    pub(crate) at: Seq,
    pub(crate) gap: Gap,
}

/// What one record holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unit {
    pub(crate) first: Seq,
    pub(crate) span: u64,
    pub(crate) events: Vec<Event>,
    pub(crate) owed: Vec<Owed>,
    pub(crate) mark: Option<AuditMark>,
}

impl Unit {
    /// The last number covered, or the one the record hangs on.
    pub(crate) fn last(&self) -> Seq {
        Seq((self.first.0 + self.span).saturating_sub(u64::from(self.span > 0)))
    }
}

#[derive(Serialize, Deserialize)]
struct MarkLengths {
    cursor: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    detector: Option<usize>,
}

#[derive(Serialize)]
struct BodyOut<'a> {
    events: &'a [Event],
    #[serde(skip_serializing_if = "<[Owed]>::is_empty")]
    owed: &'a [Owed],
    #[serde(skip_serializing_if = "Option::is_none")]
    mark: Option<MarkLengths>,
}

#[derive(Deserialize)]
struct BodyIn {
    events: Vec<Event>,
    #[serde(default)]
    owed: Vec<Owed>,
    #[serde(default)]
    mark: Option<MarkLengths>,
}

/// A record's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    crc: u32,
    pub(crate) length: usize,
    pub(crate) events: u32,
    pub(crate) first: Seq,
    pub(crate) span: u64,
}

impl Header {
    /// The last number covered, or the one the record hangs on.
    pub(crate) fn last(&self) -> Seq {
        Seq((self.first.0 + self.span).saturating_sub(u64::from(self.span > 0)))
    }

    /// Bytes of the whole record.
    pub(crate) fn size(&self) -> usize {
        RECORD_HEADER + self.length
    }

    /// Reads a header; none where no record begins.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let (head, _) = bytes.split_at_checked(RECORD_HEADER)?;
        if head.get(..4)? != RECORD_MAGIC {
            return None;
        }
        let length = usize::try_from(u32_at(head, 8)?).ok().filter(|n| *n <= PAYLOAD_MAX)?;
        let (first, span) = (u64_at(head, 16)?, u64_at(head, 24)?);
        first.checked_add(span)?;
        Some(Self { crc: u32_at(head, 4)?, length, events: u32_at(head, 12)?, first: Seq(first), span })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The header of a segment.
pub(crate) fn segment_header(epoch: Epoch, first: Seq) -> Vec<u8> {
    let mut out = Vec::with_capacity(SEGMENT_HEADER);
    out.extend_from_slice(SEGMENT_MAGIC);
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&0_u32.to_le_bytes());
    out.extend_from_slice(epoch.as_bytes());
    out.extend_from_slice(&first.0.to_le_bytes());
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out
}

/// What the header of a segment says.
pub(crate) enum SegmentHeader {
    /// A segment of this epoch.
    Good(Epoch),
    /// A segment written by a version that came after this one.
    Newer(u32),
    /// Not a header.
    Bad,
}

/// Reads the header of a segment.
pub(crate) fn read_segment_header(bytes: &[u8]) -> SegmentHeader {
    let read = || {
        let head = bytes.get(..SEGMENT_HEADER)?;
        let sound = head.get(..8)? == SEGMENT_MAGIC && crc32c::crc32c(head.get(..40)?) == u32_at(head, 40)?;
        let epoch: [u8; 16] = head.get(16..32)?.try_into().ok()?;
        sound.then_some((u32_at(head, 8)?, Epoch::from_bytes(epoch)))
    };
    match read() {
        Some((FORMAT, epoch)) => SegmentHeader::Good(epoch),
        Some((newer, _)) => SegmentHeader::Newer(newer),
        None => SegmentHeader::Bad,
    }
}

/// A unit that is larger than a record may be.
#[derive(Debug)]
pub(crate) struct UnitTooLarge(pub(crate) usize);

/// Appends a unit to `out` as a record.
pub(crate) fn encode(unit: &Unit, out: &mut Vec<u8>) -> Result<(), UnitTooLarge> {
    let start = out.len();
    out.resize(start + RECORD_HEADER + 4, 0);
    let mark =
        unit.mark.as_ref().map(|m| MarkLengths { cursor: m.cursor.len(), detector: m.detector.as_ref().map(Vec::len) });
    let body = BodyOut { events: &unit.events, owed: &unit.owed, mark };
    // Writing JSON to a Vec fails only for maps with keys that are not text; there are none.
    let _ = serde_json::to_writer(&mut *out, &body);
    let json = out.len() - start - RECORD_HEADER - 4;
    if let Some(mark) = &unit.mark {
        out.extend_from_slice(&mark.cursor);
        out.extend_from_slice(mark.detector.as_deref().unwrap_or_default());
    }
    let length = out.len() - start - RECORD_HEADER;
    if length > PAYLOAD_MAX {
        out.truncate(start);
        return Err(UnitTooLarge(length));
    }
    let mut head = [0_u8; RECORD_HEADER];
    head[..4].copy_from_slice(RECORD_MAGIC);
    // Lengths are below PAYLOAD_MAX, so the casts lose nothing.
    head[8..12].copy_from_slice(&(length as u32).to_le_bytes());
    head[12..16].copy_from_slice(&(unit.events.len() as u32).to_le_bytes());
    head[16..24].copy_from_slice(&unit.first.0.to_le_bytes());
    head[24..32].copy_from_slice(&unit.span.to_le_bytes());
    let payload = start + RECORD_HEADER;
    out[payload..payload + 4].copy_from_slice(&(json as u32).to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&head[8..]), &out[payload..]);
    head[4..8].copy_from_slice(&crc.to_le_bytes());
    out[start..payload].copy_from_slice(&head);
    Ok(())
}

/// Is this whole record as it was written?
pub(crate) fn is_sound(record: &[u8], header: &Header) -> bool {
    match (record.get(8..RECORD_HEADER), record.get(RECORD_HEADER..header.size())) {
        (Some(head), Some(payload)) => crc32c::crc32c_append(crc32c::crc32c(head), payload) == header.crc,
        _ => false,
    }
}

/// Reads a record that is sound. None when its content is not what this version writes.
pub(crate) fn decode(record: &[u8], header: &Header) -> Option<Unit> {
    let payload = record.get(RECORD_HEADER..header.size())?;
    let json = usize::try_from(u32_at(payload, 0)?).ok()?;
    let (json, mut rest) = payload.get(4..)?.split_at_checked(json)?;
    let body: BodyIn = serde_json::from_slice(json).ok()?;
    let mut take = |length: usize| {
        let (taken, left) = rest.split_at_checked(length)?;
        rest = left;
        Some(taken.to_vec())
    };
    let mark = match body.mark {
        Some(lengths) => Some(AuditMark {
            cursor: take(lengths.cursor)?,
            detector: match lengths.detector {
                Some(length) => Some(take(length)?),
                None => None,
            },
        }),
        None => None,
    };
    Some(Unit { first: header.first, span: header.span, events: body.events, owed: body.owed, mark })
}

/// A sound record in a segment's bytes.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) header: Header,
    pub(crate) range: Range<usize>,
}

/// What a segment's bytes hold.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Sound records in order.
    pub(crate) records: Vec<Found>,
    /// Bytes between sound records that are none.
    pub(crate) damage: Vec<Range<usize>>,
    /// Bytes after the last sound record: a write that was cut off, or damage.
    pub(crate) tail: Range<usize>,
}

/// Finds all sound records after a segment's header, also those behind damage.
pub(crate) fn scan(bytes: &[u8]) -> Scan {
    let mut scan = Scan::default();
    let mut at = SEGMENT_HEADER.min(bytes.len());
    while at < bytes.len() {
        let bad_from = at;
        let found = loop {
            let Some(rest) = bytes.get(at..).filter(|r| !r.is_empty()) else { break None };
            if let Some(header) = Header::read(rest)
                && is_sound(rest, &header)
            {
                break Some(Found { range: at..at + header.size(), header });
            }
            let skip = rest.get(1..).and_then(|r| r.windows(RECORD_MAGIC.len()).position(|w| w == RECORD_MAGIC));
            match skip {
                Some(skip) => at += 1 + skip,
                None => break None,
            }
        };
        match found {
            Some(found) => {
                if bad_from < at {
                    scan.damage.push(bad_from..at);
                }
                at = found.range.end;
                scan.records.push(found);
            }
            None => {
                scan.tail = bad_from..bytes.len();
                return scan;
            }
        }
    }
    scan.tail = at..bytes.len();
    scan
}
