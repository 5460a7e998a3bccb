//! Opening: newest checkpoint, replay, repair.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use picket_model::{ChainHash, Epoch, Event, GapReason, Seq};
use uuid::{NoContext, Uuid};

use crate::book::Book;
use crate::checkpoint::{self, Checkpoint};
use crate::disk::{Disk, Folder};
use crate::journal::{self, Journal, Segment};
use crate::record::{self, Owed, SEGMENT_HEADER, SegmentHeader};
use crate::{Ledger, Limits};

/// Most bytes of a segment that are looked at.
const SEGMENT_MAX: usize = 64 * 1024 * 1024;

/// Why the ledger could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Another daemon has it.
    #[error("{} is in use by another picketd; stop that one first, or name another state folder", .path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// A later version wrote it.
    #[error(
        "{} holds an outbox of format {found}, this picketd knows format {}; install the version that wrote it",
        .path.display(), record::FORMAT
    )]
    Newer {
        /// The folder.
        path: PathBuf,
        /// The format found.
        found: u32,
    },
    /// The folder cannot be used.
    #[error("{} cannot be used as state folder; it must be a folder this user can read and write", .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
}

/// What opening found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The folder was new, or nothing in it could be used: numbering began at 1 under a new epoch.
    pub new_epoch: bool,
    /// Events replayed on top of the checkpoint.
    pub replayed: u64,
    /// Bytes of a record that was cut off by a crash, and were cut away.
    pub torn_bytes: u64,
    /// Events that could not be read back; a gap event tells of them.
    pub damaged_events: u64,
    /// Checkpoints that could not be read.
    pub damaged_checkpoints: u64,
}

/// A new epoch: UUID version 7.
pub(crate) fn new_epoch(now: Timestamp) -> Epoch {
    let nanos = now.as_nanosecond().max(0);
    let seconds = u64::try_from(nanos / 1_000_000_000).unwrap_or(0);
    // The remainder of a division by 10^9 fits into u32.
    let subsec = (nanos % 1_000_000_000) as u32;
    Epoch::from_uuid(Uuid::new_v7(uuid::Timestamp::from_unix(NoContext, seconds, subsec)))
}

/// A segment as it lies on disk.
struct Lying {
    first: Seq,
    bytes: Vec<u8>,
    header: SegmentHeader,
}

impl Ledger {
    /// Opens the ledger in a folder, which is made if it is not there.
    ///
    /// # Errors
    /// [`LedgerError`]. Damaged content is no error: see [`Recovery`].
    pub fn open(path: &Path, limits: Limits, now: Timestamp) -> Result<(Self, Recovery), LedgerError> {
        let folder = Folder::open(path).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => LedgerError::Locked { path: path.to_owned() },
            _ => LedgerError::Folder { path: path.to_owned(), source },
        })?;
        Self::open_on(Box::new(folder), path, limits, now)
    }

    /// Opens the ledger on a file layer; `path` is for messages.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn open_on(
        disk: Box<dyn Disk>,
        path: &Path,
        limits: Limits,
        now: Timestamp,
    ) -> Result<(Self, Recovery), LedgerError> {
        open(disk, limits, now).map_err(|error| match error {
            Fault::Newer(found) => LedgerError::Newer { path: path.to_owned(), found },
            Fault::Io(source) => LedgerError::Folder { path: path.to_owned(), source },
        })
    }
}

enum Fault {
    Newer(u32),
    Io(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What replaying gathers.
struct Replay {
    book: Book,
    through: Seq,
    hash: ChainHash,
    owed: Vec<Owed>,
    segments: Vec<Segment>,
    repair: Vec<Seq>,
    recovery: Recovery,
}

fn open(disk: Box<dyn Disk>, limits: Limits, now: Timestamp) -> Result<(Ledger, Recovery), Fault> {
    let mut names = disk.list()?;
    names.sort_unstable();
    for draft in names.iter().filter(|n| n.ends_with(".new")) {
        disk.remove(draft)?;
    }
    let loaded = checkpoint::load(&*disk, &names)?;
    let mut recovery = Recovery { damaged_checkpoints: loaded.damaged, ..Recovery::default() };

    // Headers first: they say which segments count.
    let mut firsts = Vec::new();
    let mut newest = loaded.checkpoint.as_ref().map(|c| c.epoch);
    for first in names.iter().filter_map(|n| journal::first_of(n)) {
        let name = journal::file_name(first);
        match journal::epoch_of(&disk.read(&name, 0, SEGMENT_HEADER)?) {
            SegmentHeader::Newer(found) => return Err(Fault::Newer(found)),
            SegmentHeader::Good(epoch) => {
                if loaded.checkpoint.is_none() {
                    newest = newest.max(Some(epoch));
                }
                firsts.push((first, Some(epoch)));
            }
            SegmentHeader::Bad => {
                let bytes = disk.read(&name, 0, SEGMENT_MAX)?;
                if record::scan(&bytes).records.is_empty() {
                    // Cut off while it was made, or nothing readable in it: what is missing shows in the coverage.
                    recovery.torn_bytes += bytes.len() as u64;
                    disk.remove(&name)?;
                } else {
                    firsts.push((first, None));
                }
            }
        }
    }
    let Some(epoch) = newest else {
        return begin(disk, limits, now, recovery);
    };
    let mut kept = Vec::new();
    for (first, of) in firsts {
        // An epoch that was begun anew leaves segments of the old one if the power went in between.
        if of.is_some_and(|of| of != epoch) { disk.remove(&journal::file_name(first))? } else { kept.push(first) }
    }

    let checkpoint = loaded.checkpoint.unwrap_or(Checkpoint {
        epoch,
        through: Seq::ZERO,
        hash: ChainHash::START,
        acknowledged: Seq::ZERO,
        book: Book::default(),
    });
    let mut replay = Replay {
        book: checkpoint.book.clone(),
        through: checkpoint.through,
        hash: checkpoint.hash,
        owed: Vec::new(),
        segments: Vec::new(),
        repair: Vec::new(),
        recovery,
    };
    for (index, first) in kept.iter().enumerate() {
        let bytes = disk.read(&journal::file_name(*first), 0, SEGMENT_MAX)?;
        let lying = Lying { first: *first, header: journal::epoch_of(&bytes), bytes };
        replay.segment(&lying, kept.get(index + 1).copied(), &checkpoint, &*disk);
    }
    let Replay { book, hash, owed, mut segments, mut repair, recovery, .. } = replay;
    let end = segments.last().map_or(Seq::ZERO, |s| s.last);
    let known = checkpoint.through.max(checkpoint.acknowledged);
    if end < known
        && let Some(last) = segments.last_mut()
    {
        // The end of the journal is gone, although the checkpoint knows of it.
        last.last = known;
        repair.push(last.first);
    }
    let next = end.max(known).next();
    let no_segments = segments.is_empty();
    let journal = Journal::new(disk, epoch, segments, limits.segment_bytes, next);
    let (checkpoint_through, acknowledged) = (checkpoint.through, checkpoint.acknowledged);
    let checkpoint = Checkpoint { book, ..checkpoint };
    let mut ledger = Ledger::assemble(journal, checkpoint, loaded.previous_through, hash, limits, now);
    let mut recovery = recovery;
    for owed in owed.into_iter().filter(|o| o.at >= next) {
        ledger.owed.gap(owed.gap);
    }
    let told_before = std::mem::take(&mut ledger.owed);
    if no_segments && checkpoint_through > acknowledged {
        // The checkpoint knows of events whose segments are all gone.
        ledger.owed.range(GapReason::Damaged, acknowledged.next(), checkpoint_through);
    }
    for first in repair {
        if let Err(error) = ledger.repair(first) {
            tracing::error!(%error, "a damaged segment of the outbox could not be rewritten");
        }
    }
    recovery.damaged_events = ledger.owed.iter().filter(|g| g.reason == GapReason::Damaged).map(|g| g.count).sum();
    ledger.owed.merge(told_before);
    ledger.retry(now);
    Ok((ledger, recovery))
}

/// A folder that is new, or in which nothing can be used.
fn begin(disk: Box<dyn Disk>, limits: Limits, now: Timestamp, recovery: Recovery) -> Result<(Ledger, Recovery), Fault> {
    let epoch = new_epoch(now);
    let checkpoint = Checkpoint {
        epoch,
        through: Seq::ZERO,
        hash: ChainHash::START,
        acknowledged: Seq::ZERO,
        book: Book::default(),
    };
    if let Err(error) = checkpoint::store(&*disk, &checkpoint, false) {
        tracing::error!(%error, "the state folder takes nothing yet; events wait in memory");
    }
    let journal = Journal::new(disk, epoch, Vec::new(), limits.segment_bytes, Seq(1));
    let ledger = Ledger::assemble(journal, checkpoint, Seq::ZERO, ChainHash::START, limits, now);
    Ok((ledger, Recovery { new_epoch: true, ..recovery }))
}

impl Replay {
    fn segment(&mut self, lying: &Lying, next: Option<Seq>, checkpoint: &Checkpoint, disk: &dyn Disk) {
        let scan = record::scan(&lying.bytes);
        let mut expect = lying.first;
        let mut hole = !scan.damage.is_empty() || matches!(lying.header, SegmentHeader::Bad);
        for found in &scan.records {
            let header = found.header;
            if next.is_some_and(|next| header.first >= next) || (header.span > 0 && header.first < expect) {
                continue;
            }
            if header.span > 0 {
                hole |= header.first > expect;
                expect = header.last().next();
                if let Some(next) = next {
                    expect = expect.min(next);
                }
            }
            let bytes = lying.bytes.get(found.range.clone()).unwrap_or_default();
            let old = header.last() < checkpoint.through || (header.span > 0 && header.last() == checkpoint.through);
            match record::decode(bytes, &header) {
                Some(mut unit) => {
                    self.owed.append(&mut unit.owed);
                    if !old {
                        unit.events.iter().for_each(|event| self.event(event));
                        if let Some(mark) = &unit.mark {
                            self.book.mark(mark);
                        }
                    }
                }
                None => hole = true,
            }
        }
        let mut bytes = lying.bytes.len() as u64;
        if scan.tail.is_empty() {
        } else if next.is_some() {
            bytes = scan.tail.start as u64;
        } else {
            bytes = scan.tail.start as u64;
            self.recovery.torn_bytes += scan.tail.len() as u64;
        }
        if next.is_none() {
            // What a process that was killed had written, but not synced, was read from memory: it must be durable
            // before it is sent.
            let settled = disk.open(&journal::file_name(lying.first)).and_then(|mut file| {
                file.truncate(bytes)?;
                file.sync()?;
                disk.sync_names()
            });
            if let Err(error) = settled {
                tracing::error!(%error, "the end of the outbox cannot be synced; events may be sent that a power cut loses");
            }
        }
        if let Some(next) = next
            && expect < next
        {
            hole = true;
            expect = next;
        }
        if hole {
            self.repair.push(lying.first);
        }
        self.segments.push(Segment { first: lying.first, last: Seq(expect.0 - 1), bytes });
    }

    fn event(&mut self, event: &Event) {
        if event.seq > self.through {
            self.through = event.seq;
            self.hash = event.hash;
            self.book.apply(&event.body);
            self.recovery.replayed += 1;
        }
    }
}
