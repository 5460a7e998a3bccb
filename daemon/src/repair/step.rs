//! One change to a node: shown, made, taken back.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use picket_host::{Host, Kind, ReadError};
use picket_service::atomic::{self, AtomicError};

use crate::report::text::printable;
use crate::source::sysctls::as_path;

/// The largest file of its own that picket reads back.
const LARGEST: u64 = 256 * 1024;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A file of picket's own gets another content.
    Write {
        /// Path in the node's terms.
        path: String,
        /// Its content now; none if it does not exist.
        old: Option<String>,
        /// Its content afterwards.
        new: String,
        /// Its mode.
        mode: u32,
        /// Folders above it that do not exist yet, the innermost first.
        missing: Vec<String>,
    },
    /// A file or folder gets another mode.
    Mode {
        /// Path in the node's terms.
        path: String,
        /// Mode now.
        old: u32,
        /// Mode afterwards.
        new: u32,
    },
    /// A file or folder goes to root.
    Owner {
        /// Path in the node's terms.
        path: String,
        /// User and group now.
        old: (u32, u32),
    },
    /// A kernel parameter of the running kernel.
    Live {
        /// Its dotted name.
        key: String,
        /// Its value now.
        old: String,
        /// Its value afterwards.
        new: String,
    },
}

/// A change that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] AtomicError),
    /// A mode, owner or kernel parameter could not be set.
    #[error("cannot change {path}")]
    Change {
        /// What.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not what it was when the plan was made.
    #[error("{path} was changed by somebody else meanwhile; try again")]
    Raced {
        /// What.
        path: String,
    },
}

/// The content of a file of picket's own; none if it does not exist. A link in its place is somebody else's.
pub(super) fn own_file(host: &Host, path: &str) -> Result<Option<String>, String> {
    match host.lstat(path.as_ref()) {
        Err(ReadError::Absent) => return Ok(None),
        Err(reason) => return Err(reason.to_string()),
        Ok(meta) if meta.kind != Kind::File => return Err("no ordinary file".to_owned()),
        Ok(_) => {}
    }
    let content = host.read(path.as_ref(), LARGEST).map_err(|e| e.to_string())?;
    content.text().map(|text| Some(text.to_owned())).map_err(|e| e.to_string())
}

impl Step {
    /// The change that gives a file of picket's own a content.
    pub(super) fn write(host: &Host, path: String, old: Option<String>, new: String, mode: u32) -> Self {
        let above = Path::new(&path).ancestors().skip(1);
        let missing = above.take_while(|folder| host.stat(folder).is_err_and(|e| e.is_absent()));
        let missing = missing.map(|folder| folder.to_string_lossy().into_owned()).collect();
        Self::Write { path, old, new, mode, missing }
    }

    /// The change as a person reads it: a diff, or one line.
    pub fn diff(&self) -> String {
        let mut out = String::new();
        // Writing into a text cannot fail.
        let _ = match self {
            Self::Write { path, old, new, mode, .. } => {
                let from = if old.is_some() { path.as_str() } else { "/dev/null" };
                let _ = writeln!(out, "--- {}\n+++ {} ({mode:04o})", printable(from), printable(path));
                let old: Vec<&str> = old.iter().flat_map(|text| text.lines()).collect();
                let new: Vec<&str> = new.lines().collect();
                let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
                let rest = (old.len().min(new.len())).saturating_sub(head);
                let tail = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
                let middle = |lines: &[&str], sign: char| {
                    let lines = lines.iter().take(lines.len().saturating_sub(tail)).skip(head);
                    lines.fold(String::new(), |all, line| all + &format!("{sign}{}\n", printable(line)))
                };
                let context = |lines: &[&str], from: usize, count: usize| {
                    lines
                        .iter()
                        .skip(from)
                        .take(count)
                        .fold(String::new(), |all, l| all + &format!(" {}\n", printable(l)))
                };
                out.push_str(&context(&new, 0, head));
                out.push_str(&middle(&old, '-'));
                out.push_str(&middle(&new, '+'));
                out.push_str(&context(&new, new.len().saturating_sub(tail), tail));
                Ok(())
            }
            Self::Mode { path, old, new } => writeln!(out, "chmod {}: {old:04o} -> {new:04o}", printable(path)),
            Self::Owner { path, old: (uid, gid) } => writeln!(out, "chown {}: {uid}:{gid} -> 0:0", printable(path)),
            Self::Live { key, old, new } => writeln!(out, "sysctl {key}: {} -> {new}", printable(old)),
        };
        out
    }

    /// Makes the change.
    ///
    /// # Errors
    /// [`RepairError`].
    pub fn apply(&self, host: &Host) -> Result<(), RepairError> {
        match self {
            Self::Write { path, old, new, mode, missing } => {
                if own_file(host, path).ok().as_ref() != Some(old) {
                    return Err(RepairError::Raced { path: path.clone() });
                }
                write(host, path, new, *mode).inspect_err(|_| remove_empty(host, missing))
            }
            Self::Mode { path, old, new } => {
                let file = open(host, path)?;
                change(path, || {
                    if file.metadata()?.mode() & 0o7777 != *old {
                        return Err(io::Error::other("its mode is another one meanwhile"));
                    }
                    file.set_permissions(fs::Permissions::from_mode(*new))
                })
            }
            Self::Owner { path, .. } => {
                let file = open(host, path)?;
                change(path, || fchown(file.as_fd(), Some(0), Some(0)))
            }
            Self::Live { key, new, .. } => live(key, new),
        }
    }

    /// Takes the change back.
    ///
    /// # Errors
    /// [`RepairError`].
    pub fn undo(&self, host: &Host) -> Result<(), RepairError> {
        match self {
            Self::Write { path, old: Some(old), mode, .. } => write(host, path, old, *mode),
            Self::Write { path, old: None, missing, .. } => {
                let outside = outside(host, path);
                change(path, || fs::remove_file(&outside))?;
                remove_empty(host, missing);
                Ok(())
            }
            Self::Mode { path, old, .. } => {
                let file = open(host, path)?;
                change(path, || file.set_permissions(fs::Permissions::from_mode(*old)))
            }
            Self::Owner { path, old: (uid, gid) } => {
                let file = open(host, path)?;
                change(path, || fchown(file.as_fd(), Some(*uid), Some(*gid)))
            }
            Self::Live { key, old, .. } => live(key, old),
        }
    }
}

fn change<T>(path: &str, change: impl FnOnce() -> io::Result<T>) -> Result<T, RepairError> {
    change().map_err(|source| RepairError::Change { path: path.to_owned(), source })
}

/// The path on this machine, with every link before the last name resolved inside the root.
fn outside(host: &Host, path: &str) -> PathBuf {
    let path = Path::new(path);
    let folder = host.trail(path.parent().unwrap_or(Path::new("/"))).end;
    host.outside(&folder.join(path.file_name().unwrap_or_default()))
}

fn open(host: &Host, path: &str) -> Result<File, RepairError> {
    let outside = outside(host, path);
    let flags = nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK;
    change(path, || {
        let file = fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(outside)?;
        let meta = file.metadata()?;
        // As when the plan was made: nobody put another file's second name here meanwhile.
        if meta.is_file() && meta.nlink() > 1 {
            return Err(io::Error::other("it has a second name somewhere (hard link) meanwhile"));
        }
        Ok(file)
    })
}

fn write(host: &Host, path: &str, text: &str, mode: u32) -> Result<(), RepairError> {
    let folder = Path::new(path).parent().unwrap_or(Path::new("/"));
    if host.stat(folder).is_err_and(|e| e.is_absent()) {
        // Folders that hold what K3s and systemd read are readable by all as a rule.
        atomic::folder(&outside(host, &folder.to_string_lossy()), 0o755)?;
    }
    Ok(atomic::write(&outside(host, path), text.as_bytes(), mode)?)
}

/// Removes folders that were made for a file. One in which somebody has put something meanwhile stays.
fn remove_empty(host: &Host, made: &[String]) {
    for folder in made {
        if fs::remove_dir(outside(host, folder)).is_err() {
            return;
        }
    }
}

fn live(key: &str, value: &str) -> Result<(), RepairError> {
    let path = format!("/proc/sys/{}", as_path(key));
    change(&path, || fs::write(&path, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diff_shows_what_changes_and_what_stays() {
        let write = |old: Option<&str>, new: &str, mode| Step::Write {
            path: "/a".into(),
            old: old.map(str::to_owned),
            new: new.into(),
            mode,
            missing: Vec::new(),
        };
        let step = write(Some("x\ny\nz\n"), "x\nY\nz\n", 0o600);
        assert_eq!(step.diff(), "--- /a\n+++ /a (0600)\n x\n-y\n+Y\n z\n");
        let new = write(None, "x\n", 0o644);
        assert_eq!(new.diff(), "--- /dev/null\n+++ /a (0644)\n+x\n");
        let same = write(Some("x\nx\n"), "x\nx\nx\n", 0o644);
        assert_eq!(same.diff(), "--- /a\n+++ /a (0644)\n x\n x\n+x\n");
    }
}
