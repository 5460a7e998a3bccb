//! The audit log, followed through everything that happens to log files.
//!
//! K3s writes its audit log through lumberjack: `audit.log` is renamed to `audit-<UTC stamp>.log` and made anew, the
//! old ones are gzipped and removed in the background. Others rotate it too: `logrotate` renames, or copies and
//! truncates (and then the API server, which no longer appends, leaves a hole of NUL bytes at the start). The
//! [`Reader`] delivers every complete line once, in order, across all of that and across any time it was not running,
//! and says as a [`Gap`](picket_model::Gap) what it could not deliver.
//!
//! It is synchronous, has no thread, looks when asked ([`Reader::poll`]), and holds at most one line beside the budget
//! of a poll. Where it stands is a [`Cursor`]; whoever commits the lines of a [`Batch`] commits its cursor with them.
//!
//! What leaves no trace cannot be told: a rotated log that came and was removed between two looks.
//!
//! Several events glued into one line by a crash are one line here: that is for the parser to judge.

mod backup;
mod cursor;
mod marks;
mod orphan;
mod reader;
mod resume;
mod source;
mod splitter;

pub use backup::Follow;
pub use cursor::{Cursor, FileMark, Fingerprint};
pub use marks::KeptMark;
pub use reader::{Batch, Config, Line, Oddity, Reader, Sign, StartAt, TailError};
