//! A private copy of a live database, for a reader that may read everything and write nothing.
//!
//! SQLite opens a WAL for writing before it settles for reading, and asks `access(2)` in between, which does not count
//! capabilities: a daemon that reads by `CAP_DAC_READ_SEARCH` alone is refused there. It copies the files instead, into
//! memory (a tmpfs) and for the length of one reading: what is in them must not reach a disk.
//!
//! The copy is consistent without any lock. The database is copied first and its WAL after it: whatever a checkpoint
//! wrote into the database meanwhile stands in the WAL too, as long as that was not begun anew, and replaying it
//! repairs every page that was caught half written. Whether it was begun anew shows in its header.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use picket_host::Host;
use rand::RngCore;

use super::Refused;

/// The largest database, WAL included, that is copied.
pub(super) const LARGEST: u64 = 48 * 1024 * 1024;
/// Where copies live: memory on every Linux with systemd.
const MEMORY: &str = "/dev/shm";
/// The magic number of a tmpfs, see statfs(2).
const TMPFS: u64 = 0x0102_1994;
/// The header of a WAL: magic, version, page size, checkpoint number, two salts, two checksums.
const HEADER: usize = 32;

/// A folder in memory that is gone when this is dropped.
#[derive(Debug)]
pub(super) struct Copy {
    folder: PathBuf,
}

impl Copy {
    /// Copies a database and its WAL, given by their paths on the node. None when the WAL was begun anew meanwhile.
    pub(super) fn of(host: &Host, main: &Path, wal: &Path) -> Result<Option<Self>, Refused> {
        let memory = fs::canonicalize(MEMORY).map_err(|_| Refused::NoMemory)?;
        let kind = rustix::fs::statfs(&memory).map_err(|_| Refused::NoMemory)?.f_type;
        if u64::try_from(kind).ok() != Some(TMPFS) {
            return Err(Refused::NoMemory);
        }
        let mut random = [0; 8];
        rand::rng().fill_bytes(&mut random);
        let folder = memory.join(format!("picket-{}", hex::encode(random)));
        DirBuilder::new().mode(0o700).create(&folder).map_err(|_| Refused::NoMemory)?;
        let copy = Self { folder };
        let before = header(&host.open_file(wal)?)?;
        let rest = copy.take(host.open_file(main)?, "state.db", LARGEST)?;
        let source = host.open_file(wal)?;
        copy.take(source.try_clone().map_err(|e| failed(&e))?, "state.db-wal", rest)?;
        Ok((header(&source)? == before).then_some(copy))
    }

    /// The copied database.
    pub(super) fn path(&self) -> PathBuf {
        self.folder.join("state.db")
    }

    /// Copies a file of at most so many bytes; says how many are left.
    fn take(&self, from: File, name: &str, limit: u64) -> Result<u64, Refused> {
        let mut to = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.folder.join(name))
            .map_err(|e| failed(&e))?;
        let mut from = from.take(limit + 1);
        let copied = io::copy(&mut from, &mut to).map_err(|e| failed(&e))?;
        to.flush().map_err(|e| failed(&e))?;
        limit.checked_sub(copied).ok_or(Refused::TooLargeToCopy)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(folder = %self.folder.display(), %error, "a private copy of the datastore could not be removed: remove it");
        }
    }
}

fn header(wal: &File) -> Result<[u8; HEADER], Refused> {
    let mut header = [0; HEADER];
    match wal.read_exact_at(&mut header, 0) {
        Ok(()) => Ok(header),
        // Empty: a fresh one.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok([0; HEADER]),
        Err(error) => Err(failed(&error)),
    }
}

fn failed(error: &io::Error) -> Refused {
    Refused::Copy(error.kind())
}
