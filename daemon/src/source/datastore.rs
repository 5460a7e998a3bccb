//! The datastore's own word on encryption at rest: Secrets in kine's SQLite database, counted by how they are stored.
//!
//! The database belongs to a running K3s, so reading it leaves no trace and holds nobody up:
//!
//! - It is opened read-only, with `query_only`, and with `readonly_shm`: SQLite then neither writes into nor makes
//!   `-wal` and `-shm`. A plain `mode=ro` would make both where there are none, and leave them.
//! - Without a WAL nothing is in flight: the file is read as `immutable`, without any lock. Whether that was right is
//!   checked afterwards: a WAL that came up or a file that changed means reading again.
//! - One short transaction, bounded in time and rows: while a reader reads, the WAL cannot be checkpointed past it.
//! - Only the first 64 bytes of a value are looked at, and only counts are kept: no names, no values.
//!
//! SQLite wants a path. It gets the one the host resolved, which has no links, and refuses links on the way
//! (`SQLITE_OPEN_NOFOLLOW`): nothing leads out of a root folder.

mod copy;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use picket_checks::{Needs, STORED_PREFIX, Snapshot, StoredForm, StoredSecrets};
use picket_host::{Host, Kind, Meta, ReadError};
use picket_model::Observation;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::observation;

/// How long one reading may take.
const LONGEST: Duration = Duration::from_secs(2);
/// How long to wait for a lock: only a checkpoint that restarts the WAL, or a recovery, ever holds one against readers.
const BUSY: Duration = Duration::from_millis(200);
/// The most rows that are counted. A cluster with ten thousand Secrets has some thirty thousand.
const MOST_ROWS: u64 = 500_000;
/// The largest value whose beginning is looked at: SQLite reads a value whole, and the API server takes none larger.
const LARGEST: u64 = 3 * 1024 * 1024;
/// How long to wait between two looks at the WAL's index: its user writes it within microseconds.
const INDEX_PAUSE: Duration = Duration::from_millis(1);
/// How often a database that changes under the reader is read anew.
const ATTEMPTS: u32 = 3;
/// The first bytes of every database (<https://www.sqlite.org/fileformat.html>, 1.3).
const HEADER: &[u8; 16] = b"SQLite format 3\0";
/// A database in use changes with every lease: it is read again no sooner than this, whatever changed, as long as it is
/// a database and the same one.
const PAUSE: Duration = Duration::from_secs(60);
/// Nor sooner than so many times what the last reading took: it stays below a thousandth of the time.
const PAUSE_FACTOR: u32 = 1000;

/// What was read before, so that an unchanged database is not read again.
#[derive(Debug, Clone, Default)]
pub struct Kept(std::collections::BTreeMap<String, Reading>);

#[derive(Debug, Clone)]
struct Reading {
    files: Files,
    known: Vec<String>,
    at: Instant,
    took: Duration,
    stored: StoredSecrets,
}

impl Reading {
    fn counts(&self, host: &Host, files: &Files, known: &[String], now: Instant) -> bool {
        let young = now.saturating_duration_since(self.at) < PAUSE.max(self.took.saturating_mul(PAUSE_FACTOR));
        self.known == known
            && (self.files == *files
                || (young && self.files.is_of_one_database(files) && files.begin_like_a_database(host)))
    }
}

/// Reads every database the controls speak of, if it changed and enough time went by.
pub fn observe(host: &Host, needs: &Needs, kept: &mut Kept, snapshot: &mut Snapshot) {
    let known = key_names(snapshot);
    snapshot.datastores.clear();
    for path in &needs.datastores {
        let seen = look(host, path, &known, kept);
        snapshot.datastores.insert(path.clone(), seen);
    }
}

/// Names of keys in the encryption configurations.
fn key_names(snapshot: &Snapshot) -> Vec<String> {
    let configs = snapshot.encryption_configs.values().filter_map(Observation::value);
    let providers = configs.flat_map(|config| &config.groups).flat_map(|group| &group.providers);
    let mut names: Vec<String> = providers.flat_map(|provider| provider.key_names.iter().cloned()).collect();
    names.sort();
    names.dedup();
    names
}

fn look(host: &Host, path: &str, known: &[String], kept: &mut Kept) -> Observation<StoredSecrets> {
    let started = Instant::now();
    let outcome = (0..ATTEMPTS).find_map(|_| {
        let files = match Files::of(host, path) {
            Ok(files) => files,
            Err(Refused::Host(reason)) => return Some(observation(Err(reason))),
            Err(other) => return Some(Observation::unreadable(other.to_string())),
        };
        if let Some(reading) = kept.0.get(path).filter(|reading| reading.counts(host, &files, known, started)) {
            return Some(Observation::from(reading.stored.clone()));
        }
        let read = match files.read(known, started + LONGEST) {
            Err(Refused::NoAccess) => match copy::Copy::of(host, &files.inside, &files.wal_inside()) {
                Ok(Some(copy)) => count_in(&copy.path(), Way::Copy, known, started + LONGEST),
                Ok(None) => return None,
                Err(reason) => Err(reason),
            },
            read => read,
        };
        // Nothing but the WAL protects a reader from a writer: without it the files must be the same afterwards.
        if files.way == Way::Immutable && Files::of(host, path).ok().as_ref() != Some(&files) {
            return None;
        }
        Some(match read {
            Ok(stored) => {
                let took = started.elapsed();
                let reading = Reading { files, known: known.to_vec(), at: started, took, stored: stored.clone() };
                kept.0.insert(path.to_owned(), reading);
                Observation::from(stored)
            }
            Err(reason) => Observation::unreadable(reason.to_string()),
        })
    });
    outcome.unwrap_or_else(|| observation(Err(ReadError::ChangedWhileReading)))
}

/// Why a database gives nothing. Never anything of its content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Refused {
    #[error("{0}")]
    Host(#[from] ReadError),
    #[error("an empty file, no SQLite database")]
    Empty,
    #[error("its path is no text")]
    NoText,
    #[error("{0} is no regular file")]
    Sibling(&'static str),
    #[error(
        "the last writes are in {name}, which cannot be read without its -shm file: copy both, or look where K3s runs"
    )]
    NoShm { name: &'static str },
    #[error("a rollback journal lies beside it: a transaction was interrupted, and K3s undoes it at its next start")]
    Journal,
    #[error("not an SQLite database")]
    NotADatabase,
    #[error("a damaged SQLite database")]
    Damaged,
    #[error("locked by its user; it is looked at again later")]
    Busy,
    #[error("the index of its WAL is half written; it is looked at again later")]
    TornIndex,
    #[error("has no table kine, so it is not a datastore of K3s")]
    NotKine,
    #[error("its WAL cannot be opened with read access alone")]
    NoAccess,
    #[error("can only be read as a copy in memory, and /dev/shm is no tmpfs to write to: use picketd scan as root")]
    NoMemory,
    #[error("can only be read as a copy in memory, and is larger than {} MiB: use picketd scan as root", copy::LARGEST >> 20)]
    TooLargeToCopy,
    #[error("could not be copied into memory to be read ({0})")]
    Copy(std::io::ErrorKind),
    #[error("cannot be read as SQLite database (code {0})")]
    Sqlite(i32),
}

/// How a database can be read without touching it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Nobody can be writing: there is no WAL.
    Immutable,
    /// Through the WAL, beside its user.
    Wal,
    /// A copy of our own.
    Copy,
}

/// The files of a database and what the kernel says of them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Files {
    /// Outside, without links.
    path: PathBuf,
    /// In the node's terms, without links.
    inside: PathBuf,
    main: Meta,
    wal: Option<Meta>,
    way: Way,
}

impl Files {
    fn of(host: &Host, path: &str) -> Result<Self, Refused> {
        let trail = host.trail(path.as_ref());
        match trail.outcome {
            Ok(Kind::File) => {}
            Ok(kind) => return Err(ReadError::NotRegular(kind).into()),
            Err(reason) => return Err(reason.into()),
        }
        let main = host.lstat(&trail.end)?;
        if main.size == 0 {
            return Err(Refused::Empty);
        }
        let sibling = |suffix: &'static str| -> Result<Option<Meta>, Refused> {
            let mut name = trail.end.clone().into_os_string();
            name.push(suffix);
            match host.lstat(Path::new(&name)) {
                Ok(meta) if meta.kind == Kind::File => Ok(Some(meta)),
                Ok(_) => Err(Refused::Sibling(suffix)),
                Err(ReadError::Absent) => Ok(None),
                Err(reason) => Err(reason.into()),
            }
        };
        if sibling("-journal")?.is_some_and(|journal| journal.size > 0) {
            return Err(Refused::Journal);
        }
        let wal = sibling("-wal")?;
        let way = match (&wal, sibling("-shm")?.is_some()) {
            (None, _) => Way::Immutable,
            (Some(_), true) => Way::Wal,
            (Some(wal), false) if wal.size == 0 => Way::Immutable,
            (Some(_), false) => return Err(Refused::NoShm { name: "-wal" }),
        };
        Ok(Self { path: host.outside(&trail.end), inside: trail.end, main, wal, way })
    }

    /// Whether two looks show one database, be it written to in between.
    fn is_of_one_database(&self, other: &Self) -> bool {
        self.path == other.path && self.main.ino == other.main.ino && self.main.dev == other.main.dev
    }

    /// Whether the file begins as every SQLite database does: its user may have put something else in its place.
    fn begin_like_a_database(&self, host: &Host) -> bool {
        let mut begin = [0; HEADER.len()];
        let read = host.open_file(&self.inside).is_ok_and(|mut file| file.read_exact(&mut begin).is_ok());
        read && begin == *HEADER
    }

    fn wal_inside(&self) -> PathBuf {
        let mut name = self.inside.clone().into_os_string();
        name.push("-wal");
        PathBuf::from(name)
    }

    fn read(&self, known: &[String], until: Instant) -> Result<StoredSecrets, Refused> {
        let patient = until.min(Instant::now() + BUSY);
        self.read_pausing(known, until, || {
            std::thread::sleep(INDEX_PAUSE);
            Instant::now() < patient
        })
    }

    /// SQLite answers a torn index with a wish to recover it, which a reader that may not write cannot; its busy
    /// handler is not asked. Mostly the writer was met in the middle of a commit, so it is read again while `pause`
    /// says that there is time.
    fn read_pausing(
        &self,
        known: &[String],
        until: Instant,
        mut pause: impl FnMut() -> bool,
    ) -> Result<StoredSecrets, Refused> {
        loop {
            match count_in(&self.path, self.way, known, until) {
                Err(Refused::TornIndex) if pause() => {}
                read => return read,
            }
        }
    }
}

/// Opens a database without changing it.
fn open(path: &Path, way: Way) -> Result<Connection, Refused> {
    let path = path.to_str().ok_or(Refused::NoText)?;
    let mut uri = String::from("file:");
    for byte in path.bytes() {
        match byte {
            b'/' | b'-' | b'_' | b'.' => uri.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => uri.push(char::from(byte)),
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri.push_str(match way {
        Way::Immutable => "?mode=ro&immutable=1",
        Way::Wal => "?mode=ro&readonly_shm=1",
        Way::Copy => "?mode=rw",
    });
    // The WAL of a copy has no index yet: SQLite makes one beside it.
    let access = if way == Way::Copy { OpenFlags::SQLITE_OPEN_READ_WRITE } else { OpenFlags::SQLITE_OPEN_READ_ONLY };
    let flags = access | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(uri, flags).map_err(|e| refused(&e))?;
    connection.busy_timeout(BUSY).map_err(|e| refused(&e))?;
    // A small cache and nothing on disk; a schema from who knows where runs no code.
    connection
        .execute_batch(
            "PRAGMA query_only=1; PRAGMA trusted_schema=0; PRAGMA cell_size_check=1; PRAGMA mmap_size=0; \
                 PRAGMA temp_store=2; PRAGMA cache_size=-256;",
        )
        .map_err(|e| refused(&e))?;
    Ok(connection)
}

/// Counts what a database holds.
fn count_in(path: &Path, way: Way, known: &[String], until: Instant) -> Result<StoredSecrets, Refused> {
    let connection = open(path, way)?;
    connection.progress_handler(4096, Some(move || Instant::now() >= until));
    let table = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'kine'";
    let tables: i64 = connection.query_row(table, [], |row| row.get(0)).map_err(|e| refused(&e))?;
    if tables == 0 {
        return Err(Refused::NotKine);
    }
    let stored = count(&connection, known);
    // Errors of closing a connection that only read are of no interest.
    drop(connection);
    stored
}

/// Counts in one statement, which is one transaction. Rows of one name follow each other in the order of their making.
fn count(connection: &Connection, known: &[String]) -> Result<StoredSecrets, Refused> {
    let prefix = |column: &str| {
        format!(
            "CASE WHEN length({column}) <= {LARGEST} THEN substr({column}, 1, {STORED_PREFIX}) END, length({column})"
        )
    };
    // `name` is declared INTEGER and holds text: compared with text it stays text.
    let sql = format!(
        "SELECT name, deleted, {}, {} FROM kine WHERE name > '/registry/secrets/' AND name < '/registry/secrets0' \
         ORDER BY name, id",
        prefix("value"),
        prefix("old_value")
    );
    let mut statement = connection.prepare(&sql).map_err(|e| refused(&e))?;
    let mut rows = statement.query([]).map_err(|e| refused(&e))?;
    let mut stored = StoredSecrets { complete: true, ..StoredSecrets::default() };
    let mut last: Option<Row> = None;
    let mut read = 0_u64;
    loop {
        let row = match rows.next() {
            Ok(Some(row)) => row,
            Ok(None) => break,
            Err(error) if is_interrupt(&error) => {
                stored.complete = false;
                break;
            }
            Err(error) => return Err(refused(&error)),
        };
        read += 1;
        if read > MOST_ROWS {
            stored.complete = false;
            break;
        }
        let row = Row {
            name: bytes(row.get_ref(0)).to_vec(),
            deleted: matches!(row.get_ref(1), Ok(ValueRef::Integer(n)) if n != 0),
            value: form(row, 2, known),
            old: form(row, 4, known),
        };
        if let Some(before) = last.take() {
            if before.name == row.name {
                before.superseded(&mut stored);
            } else {
                before.newest(&mut stored);
            }
        }
        last = Some(row);
    }
    if let Some(row) = last {
        // When the reading was cut short, a newer row may follow.
        if stored.complete { row.newest(&mut stored) } else { row.superseded(&mut stored) }
    }
    Ok(stored)
}

struct Row {
    name: Vec<u8>,
    deleted: bool,
    value: StoredForm,
    old: StoredForm,
}

impl Row {
    fn newest(self, stored: &mut StoredSecrets) {
        if self.deleted {
            stored.deleted.count(&self.value);
            stored.deleted.count(&self.old);
        } else {
            // An object without a value would be none the API server wrote.
            let value = if self.value == StoredForm::Empty { StoredForm::Unclear } else { self.value };
            stored.live.count(&value);
            stored.history.count(&self.old);
        }
    }

    fn superseded(self, stored: &mut StoredSecrets) {
        stored.history.count(&self.value);
        stored.history.count(&self.old);
    }
}

fn bytes(value: rusqlite::Result<ValueRef<'_>>) -> &[u8] {
    match value {
        Ok(ValueRef::Text(bytes) | ValueRef::Blob(bytes)) => bytes,
        _ => &[],
    }
}

/// The form of the value whose prefix and length stand in two columns.
fn form(row: &rusqlite::Row<'_>, column: usize, known: &[String]) -> StoredForm {
    let length = match row.get_ref(column + 1) {
        Ok(ValueRef::Integer(length)) => length,
        _ => 0,
    };
    match row.get_ref(column) {
        Ok(ValueRef::Text(prefix) | ValueRef::Blob(prefix)) => StoredForm::of(prefix, known),
        Ok(ValueRef::Null) if length == 0 => StoredForm::Empty,
        _ => StoredForm::Unclear,
    }
}

fn is_interrupt(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted)
}

/// SQLite's messages are not repeated: they may quote what a file's schema says.
fn refused(error: &rusqlite::Error) -> Refused {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => Refused::NotADatabase,
        Some(ErrorCode::DatabaseCorrupt) => Refused::Damaged,
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::OperationInterrupted,
        ) => Refused::Busy,
        _ if error.sqlite_error().is_some_and(|e| e.extended_code == rusqlite::ffi::SQLITE_READONLY_DIRECTORY) => {
            Refused::NoAccess
        }
        _ if error.sqlite_error().is_some_and(|e| e.extended_code == rusqlite::ffi::SQLITE_READONLY_RECOVERY) => {
            Refused::TornIndex
        }
        _ => Refused::Sqlite(error.sqlite_error().map_or(0, |e| e.extended_code)),
    }
}

#[cfg(test)]
#[path = "datastore/tests.rs"]
mod tests;
