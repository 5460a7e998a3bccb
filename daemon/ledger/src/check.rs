//! A look at an outbox from outside: reads everything, changes nothing, takes no lock.

use std::path::Path;

use picket_model::{Epoch, Seq};

use crate::checkpoint;
use crate::disk::{Disk, Folder};
use crate::journal;
use crate::open::LedgerError;
use crate::record::{self, SegmentHeader};

/// Largest segment that is read, bytes.
const SEGMENT_MAX: usize = 64 * 1024 * 1024;

/// What an outbox holds and whether it is sound.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The epoch; none for an empty folder.
    pub epoch: Option<Epoch>,
    /// The newest checkpoint holds the state after this number.
    pub checkpoint: Option<Seq>,
    /// Acknowledged through this number, as far as the checkpoint knows.
    pub acknowledged: Seq,
    /// The number that the next event will get.
    pub next_seq: Seq,
    /// Segments on disk and their bytes.
    pub segments: usize,
    /// Bytes of all segments.
    pub bytes: u64,
    /// Events on disk.
    pub events: u64,
    /// Events on disk that are not acknowledged.
    pub unacknowledged: u64,
    /// Numbers whose events were given up under pressure.
    pub given_up: u64,
    /// Numbers that cannot be read back.
    pub damaged: u64,
    /// Events whose hash does not follow from the event before.
    pub broken_chain: u64,
    /// Bytes at the end that belong to no whole record: a write cut off, or under way now.
    pub torn_bytes: u64,
    /// Checkpoints that cannot be read.
    pub damaged_checkpoints: u64,
}

impl Report {
    /// Is everything there that should be?
    pub const fn is_sound(&self) -> bool {
        self.damaged == 0 && self.broken_chain == 0 && self.damaged_checkpoints == 0
    }
}

/// Verifies the outbox in a folder. A daemon may be running meanwhile; what it writes in that moment may show as
/// torn bytes.
///
/// # Errors
/// [`LedgerError`] when the folder cannot be read, or a later version wrote it.
pub fn check(path: &Path) -> Result<Report, LedgerError> {
    let fail = |source| LedgerError::Folder { path: path.to_owned(), source };
    let folder = Folder::look(path);
    let names = folder.list().map_err(fail)?;
    let mut report = Report::default();
    let (checkpoint, damaged) = checkpoint::peek(&folder, &names).map_err(fail)?;
    report.damaged_checkpoints = damaged;
    if let Some(checkpoint) = &checkpoint {
        report.epoch = Some(checkpoint.epoch);
        report.checkpoint = Some(checkpoint.through);
        report.acknowledged = checkpoint.acknowledged;
    }
    let mut firsts: Vec<Seq> = names.iter().filter_map(|n| journal::first_of(n)).collect();
    firsts.sort_unstable();
    let mut expect = firsts.first().copied().unwrap_or_default();
    let mut before = None;
    for (index, first) in firsts.iter().enumerate() {
        let bytes = match folder.read(&journal::file_name(*first), 0, SEGMENT_MAX) {
            // The running daemon let it go in this moment.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                expect = firsts.get(index + 1).copied().unwrap_or(expect);
                continue;
            }
            other => other.map_err(fail)?,
        };
        let epoch = match journal::epoch_of(&bytes) {
            SegmentHeader::Newer(found) => return Err(LedgerError::Newer { path: path.to_owned(), found }),
            SegmentHeader::Good(epoch) => Some(epoch),
            SegmentHeader::Bad => None,
        };
        if epoch.is_some() && report.epoch.is_some() && epoch != report.epoch {
            continue;
        }
        report.epoch = report.epoch.or(epoch);
        report.segments += 1;
        report.bytes += bytes.len() as u64;
        let next = firsts.get(index + 1).copied();
        let scan = record::scan(&bytes);
        for found in &scan.records {
            let header = found.header;
            if header.span == 0 || next.is_some_and(|n| header.first >= n) || header.first < expect {
                continue;
            }
            report.damaged += header.first.0 - expect.0;
            expect = header.last().next();
            let unit = bytes.get(found.range.clone()).and_then(|r| record::decode(r, &header));
            let Some(unit) = unit else {
                report.damaged += header.span;
                continue;
            };
            report.given_up += header.span - (unit.events.len() as u64).min(header.span);
            for event in unit.events {
                report.events += 1;
                report.unacknowledged += u64::from(event.seq > report.acknowledged);
                if let Some((seq, hash)) = before
                    && event.seq == Seq::next(seq)
                    && !event.follows(hash)
                {
                    report.broken_chain += 1;
                }
                before = Some((event.seq, event.hash));
            }
        }
        match next {
            Some(next) => {
                report.damaged += next.0.saturating_sub(expect.0);
                expect = next;
            }
            None => report.torn_bytes = scan.tail.len() as u64,
        }
    }
    let known = report.checkpoint.unwrap_or_default();
    report.damaged += (known.0 + 1).saturating_sub(expect.0.max(report.acknowledged.0 + 1));
    report.next_seq = Seq(expect.0.max(known.0 + 1).max(1));
    Ok(report)
}
