//! The file layer under the journal: a folder of files that are appended to, replaced whole, or removed.
//! A trait, so that tests can cut the power, fill the disk and flip bits.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// An open file that only grows at its end.
pub trait DiskFile: Send + std::fmt::Debug {
    /// Writes at the end. After an error some of the bytes may be there.
    ///
    /// # Errors
    /// What the disk says.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Returns when everything written is durable.
    ///
    /// # Errors
    /// What the disk says; then nothing is known of what was written since the last success.
    fn sync(&mut self) -> io::Result<()>;

    /// Cuts the file to `length` bytes.
    ///
    /// # Errors
    /// What the disk says.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
}

/// A folder.
pub trait Disk: Send + std::fmt::Debug {
    /// Names of the files in the folder, in no order.
    ///
    /// # Errors
    /// What the disk says.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Up to `length` bytes from `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// What the disk says.
    fn read(&self, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>>;

    /// Makes an empty file, in place of one that may be there.
    ///
    /// # Errors
    /// What the disk says.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file to append to it.
    ///
    /// # Errors
    /// What the disk says.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name, in place of one that may be there. Atomic.
    ///
    /// # Errors
    /// What the disk says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file; one that is not there is no error.
    ///
    /// # Errors
    /// What the disk says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Returns when names made, changed and removed are durable.
    ///
    /// # Errors
    /// What the disk says.
    fn sync_names(&self) -> io::Result<()>;
}

/// A real folder, mode 0700, files 0600, locked against a second daemon for as long as this value lives.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _lock: Option<File>,
}

/// Name of the lock file.
const LOCK: &str = "lock";

impl Folder {
    /// Opens or makes the folder and takes its lock.
    ///
    /// # Errors
    /// `WouldBlock` when another process holds the lock; otherwise what the file system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let mode = fs::metadata(path)?.permissions().mode();
        if mode & 0o077 != 0 {
            fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
        }
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path.join(LOCK))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: Some(lock) }),
            Err(fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    /// A folder to look at without its lock; nothing may be written through this value.
    pub(crate) fn look(path: &Path) -> Self {
        Self { path: path.to_owned(), _lock: None }
    }
}

#[derive(Debug)]
struct FolderFile(File);

impl DiskFile for FolderFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.0.set_len(length)?;
        self.0.seek(SeekFrom::Start(length))?;
        self.0.sync_data()
    }
}

impl Disk for Folder {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
                && name != LOCK
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn read(&self, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut file = File::open(self.path.join(name))?;
        let left = file.metadata()?.len().saturating_sub(offset);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(length);
        let mut bytes = vec![0; length];
        match file.read_exact_at(&mut bytes, offset) {
            Ok(()) => Ok(bytes),
            // The file became shorter between the two calls: hand out what there is.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                file.seek(SeekFrom::Start(offset))?;
                bytes.clear();
                file.take(length as u64).read_to_end(&mut bytes)?;
                Ok(bytes)
            }
            Err(error) => Err(error),
        }
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(self.path.join(name))?;
        Ok(Box::new(FolderFile(file)))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(FolderFile(OpenOptions::new().append(true).open(self.path.join(name))?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

/// Replaces a file whole: a reader finds the old content or the new, also after a power cut.
///
/// # Errors
/// What the disk says; the old content is then still there.
pub(crate) fn replace(disk: &dyn Disk, name: &str, content: &[&[u8]]) -> io::Result<()> {
    replace_after(disk, name, content, || Ok(()))
}

/// The same; `between` runs when the new content is durable under its draft's name.
///
/// # Errors
/// What the disk says.
pub(crate) fn replace_after(
    disk: &dyn Disk,
    name: &str,
    content: &[&[u8]],
    between: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    let draft = format!("{name}.new");
    let written = (|| {
        let mut file = disk.create(&draft)?;
        for part in content {
            file.append(part)?;
        }
        file.sync()?;
        between()?;
        disk.rename(&draft, name)
    })();
    if written.is_err() {
        // Best effort: a draft left behind is removed at the next start.
        let _ = disk.remove(&draft);
        return written;
    }
    // The new content is in place, whatever comes now; a power cut before the name is durable brings back the old one.
    if let Err(error) = disk.sync_names() {
        tracing::warn!(%error, name, "the new name of a file could not be synced");
    }
    Ok(())
}
