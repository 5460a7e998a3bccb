//! Small files that are either the old or the new one, also after a power cut.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A file or folder that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct AtomicError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn fail(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AtomicError {
    move |source| AtomicError { action, path: path.to_owned(), source }
}

/// Replaces `path` by a file with these bytes and this mode: written beside it, synced, renamed, folder synced.
/// The mode holds from the first moment; the umask can only narrow it until the file is complete.
///
/// One writer per path is assumed, as it is for everything in a state folder.
///
/// # Errors
/// When any step fails. The old file is then still there.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), AtomicError> {
    let name = path
        .file_name()
        .ok_or_else(|| fail("write", path)(io::Error::new(io::ErrorKind::InvalidInput, "not the path of a file")))?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".new");
    let beside = folder.join(hidden);
    match fs::remove_file(&beside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if fs::symlink_metadata(&beside).is_ok() => return Err(fail("remove", &beside)(error)),
        // A read-only file system answers so even where there is nothing to remove.
        Err(error) => return Err(fail("write", path)(error)),
        Ok(()) => {}
    }
    let done = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&beside)
            .map_err(fail("create", &beside))?;
        file.write_all(bytes).map_err(fail("write", &beside))?;
        file.set_permissions(fs::Permissions::from_mode(mode)).map_err(fail("set the mode of", &beside))?;
        file.sync_all().map_err(fail("sync", &beside))?;
        fs::rename(&beside, path).map_err(fail("replace", path))?;
        sync_folder(folder)
    })();
    if done.is_err() {
        // The error above is the one to tell; a leftover is removed at the next try.
        fs::remove_file(&beside).ok();
    }
    done
}

/// Makes what was created, renamed or removed in a folder durable.
///
/// # Errors
/// When the folder cannot be opened or synced.
pub fn sync_folder(folder: &Path) -> Result<(), AtomicError> {
    File::open(folder).and_then(|f| f.sync_all()).map_err(fail("sync", folder))
}

/// Makes a folder and those above it, with this mode; one that is there already keeps its mode.
///
/// # Errors
/// When it cannot be made, or something else has its name.
pub fn folder(path: &Path, mode: u32) -> Result<(), AtomicError> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(fail("make the folder", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_with_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        write(&path, b"one", 0o644).unwrap();
        write(&path, b"second", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_leftover_of_a_crash_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".a.new"), b"half").unwrap();
        write(&dir.path().join("a"), b"whole", 0o600).unwrap();
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"whole");
    }

    #[test]
    fn what_cannot_be_written_is_not_said_to_be_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), b"x").unwrap();
        let error = write(&dir.path().join("file/a"), b"x", 0o600).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot write {}", dir.path().join("file/a").display()));
    }

    #[test]
    fn the_old_file_stays_when_the_new_one_cannot_be_made() {
        let dir = tempfile::tempdir().unwrap();
        let error = write(&dir.path().join("missing/a"), b"x", 0o600).unwrap_err();
        assert!(error.to_string().contains("missing/.a.new"), "{error}");
    }
}
