//! The ledger and the outbox: the node's durable memory.
//!
//! # Constraints
//!
//! 1. **One commit.** Appending a unit to the outbox and syncing it is the only commit there is. The open findings,
//!    the audit cursor and the next number are derived from what was appended, and from nothing else.
//! 2. **A unit is whole or absent.** What one append brings (events, the audit mark that accounts for them) is one
//!    record with one checksum. After `kill -9` or a power cut at any byte the record is there or it is not.
//! 3. **Numbers are for ever.** (epoch, seq) is given out once. A number is given out when its unit is durable;
//!    nothing that is not durable is ever sent.
//! 4. **Bounded.** The outbox on disk has a limit (32 MiB by default), and so has what waits in memory while the disk
//!    takes nothing. Under pressure the changes of one finding are collapsed to the latest, then the oldest
//!    detections of the lowest severity are given up; the last word on a finding never is.
//! 5. **Loss is told.** What was given up or damaged becomes a gap event: exactly once, also when the power is cut
//!    between giving up and telling.
//! 6. **A disk never stops the daemon.** When it takes no more, units wait in memory, numbered only when they are
//!    written; a crash forgets them together with the audit cursor that accounts for them, so they are found again.
//!    A damaged byte costs its record, and is told.
//! 7. The folder is 0700, its files 0600, and it is locked against a second daemon.
//!
//! # Format
//!
//! ```text
//! lock                        held for as long as the ledger is open
//! 00000000000000000001.seg    a segment: the name is the number its first event has (or would have)
//! checkpoint.json             state at one number: checksum line, then JSON
//! checkpoint.previous.json    the checkpoint before it
//! ```
//!
//! A segment is a header and records (`record.rs`). A record covers a range of numbers without holes; events that
//! were given up are missing from it while their numbers stay covered. So coverage that is missing is damage, and
//! opening needs no list of what was given up. A record of segment A whose first number is not below the name of the
//! segment after A is overruled by that segment: this makes merging segments, and going on after a failed write,
//! safe at every step. A segment that was thinned out holds the gap it *owes* and the number that the gap event will
//! get; when that number was given out, the debt is paid.
//!
//! # Operations
//!
//! - [`Ledger::open`]: newest checkpoint + replay. A record cut off at the end of the last segment is cut away and
//!   counted; damage elsewhere becomes a gap.
//! - [`Ledger::apply`]: verdicts become changes of findings, appended in units.
//! - [`Ledger::append`]: anything else, with the audit mark that accounts for it.
//! - [`Ledger::read_after`]: what to send next. [`Ledger::acknowledge`]: what need not be kept; whole segments go
//!   when the older checkpoint contains them.
//! - [`Ledger::begin_epoch`]: for the day the collector knows numbers that this folder has not given out (the folder
//!   was restored from a backup or lost its end): numbering begins anew under a new epoch.
//!
//! Waiting for the next event is a matter of [`LedgerHandle`], which several tasks share.

mod book;
pub mod check;
mod checkpoint;
pub mod disk;
mod fit;
mod handle;
mod journal;
mod ledger;
mod open;
mod pressure;
mod record;
mod tally;

pub use book::DetectorState;
pub use handle::LedgerHandle;
pub use journal::Batch;
pub use ledger::{AckError, AppendError, Appended, Applied, AuditMark, Ledger, Limits, ReadError, Stats};
pub use open::{LedgerError, Recovery};

#[cfg(test)]
mod tests;
