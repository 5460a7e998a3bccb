//! Opening a store on disk, and what to do when it cannot be opened.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::kv::{Format, format_of};
use crate::{DiskSettings, KvStore, OpenError, SledEngine, SledStore, StoreError};

/// A store that was set aside.
#[derive(Debug)]
pub struct SetAside {
    /// Where it is now.
    pub moved_to: PathBuf,
    /// Why.
    pub reason: OpenError,
}

/// Opens the store in a folder, or makes one there. One that was closed a moment before is waited for.
///
/// # Errors
/// [`OpenError`]; for [`OpenError::Damaged`] see [`set_aside`].
pub fn open(path: &Path, settings: DiskSettings) -> Result<SledStore, OpenError> {
    let attempts = Attempts::begin(path)?;
    let opened = open_once(path, settings);
    attempts.end();
    opened
}

/// How long a store that was just closed may still hold its lock: sled lets go of it in a thread of its own.
const CLOSING: Duration = Duration::from_secs(2);
/// How long to wait before it is asked for again.
const CLOSING_PAUSE: Duration = Duration::from_millis(20);

fn open_engine(path: &Path, settings: DiskSettings) -> Result<SledEngine, OpenError> {
    let until = Instant::now() + CLOSING;
    loop {
        let opened = match SledEngine::open(path, settings) {
            // A snapshot that was cut off while being written makes sled refuse. It is not needed: the log holds it all.
            Err(sled::Error::Corruption { .. }) if drop_unfinished_snapshots(path)? => SledEngine::open(path, settings),
            opened => opened,
        };
        match opened.map_err(|error| classify(path, error)) {
            Err(OpenError::InUse { .. }) if Instant::now() < until => std::thread::sleep(CLOSING_PAUSE),
            opened => return opened,
        }
    }
}

fn open_once(path: &Path, settings: DiskSettings) -> Result<SledStore, OpenError> {
    let engine = open_engine(path, settings)?;
    let damaged = |source: StoreError| OpenError::Damaged { path: path.to_owned(), source: Box::new(source) };
    match format_of(&engine).map_err(damaged)? {
        Format::Known => {}
        Format::Missing if engine.is_empty() => {}
        Format::Missing => return Err(OpenError::Foreign { path: path.to_owned() }),
        Format::Newer(found) => {
            return Err(OpenError::Newer { path: path.to_owned(), found, known: crate::kv::FORMAT });
        }
    }
    KvStore::new(engine).map_err(damaged)
}

/// Opens the store; a damaged one is set aside and a new one is made. Nodes send again what they still have.
///
/// # Errors
/// [`OpenError`] for everything that a new store does not mend.
pub fn open_or_set_aside(
    path: &Path,
    settings: DiskSettings,
    now: Timestamp,
) -> Result<(SledStore, Option<SetAside>), OpenError> {
    match open(path, settings) {
        Ok(store) => Ok((store, None)),
        Err(reason) if reason.is_damage() => {
            let moved_to = set_aside(path, now).map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
            Attempts::of(path).end();
            Ok((open(path, settings)?, Some(SetAside { moved_to, reason })))
        }
        Err(other) => Err(other),
    }
}

/// Renames a store's folder to `<folder>.damaged-<time>` and returns the new name.
///
/// # Errors
/// What the file system says.
pub fn set_aside(path: &Path, now: Timestamp) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path has no name"))?;
    for attempt in 0u32.. {
        let mut aside = name.to_owned();
        aside.push(format!(".damaged-{}", now.strftime("%Y%m%dT%H%M%SZ")));
        if attempt > 0 {
            aside.push(format!("-{attempt}"));
        }
        let aside = path.with_file_name(aside);
        if !aside.try_exists()? {
            std::fs::rename(path, &aside)?;
            return Ok(aside);
        }
    }
    Err(io::Error::other("no free name for the damaged store"))
}

/// Openings that did not come to an end. sled may abort the process on a damaged file; the service manager starts it
/// again, and without a count that would go on for ever.
struct Attempts {
    file: PathBuf,
}

impl Attempts {
    /// So many openings in a row may be cut off, by a kill or a power loss, before the store counts as damaged.
    const MOST: u32 = 3;

    fn of(path: &Path) -> Self {
        let mut file = path.as_os_str().to_owned();
        file.push(".opening");
        Self { file: file.into() }
    }

    fn begin(path: &Path) -> Result<Self, OpenError> {
        let attempts = Self::of(path);
        let before =
            std::fs::read_to_string(&attempts.file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        if before >= Self::MOST {
            let source = format!("{before} attempts to open it did not come to an end").into();
            return Err(OpenError::Damaged { path: path.to_owned(), source });
        }
        let failed = |source| OpenError::Io { path: path.to_owned(), source };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        std::fs::write(&attempts.file, (before + 1).to_string()).map_err(failed)?;
        Ok(attempts)
    }

    fn end(self) {
        // A file that stays counts one attempt too many, and the next opening that succeeds removes it.
        drop(std::fs::remove_file(self.file));
    }
}

/// Sets `snap.*.generating` aside. True if there was one.
fn drop_unfinished_snapshots(path: &Path) -> Result<bool, OpenError> {
    let failed = |source| OpenError::Io { path: path.to_owned(), source };
    let mut found = false;
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.starts_with("snap.") && name.ends_with(".generating") {
            std::fs::rename(entry.path(), path.join(format!("unfinished-{name}"))).map_err(failed)?;
            found = true;
        }
    }
    Ok(found)
}

fn classify(path: &Path, error: sled::Error) -> OpenError {
    let path = path.to_owned();
    match error {
        // sled wraps the refused lock into an error of its own; only its words tell it apart.
        sled::Error::Io(source) if source.to_string().contains("could not acquire lock") => OpenError::InUse { path },
        sled::Error::Io(source) => OpenError::Io { path, source },
        other => OpenError::Damaged { path, source: Box::new(other) },
    }
}
