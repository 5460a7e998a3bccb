//! Opening and reading files below the root.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use picket_service::clock::Clock;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::root::{Root, Way, link_text, named, shown};
use crate::{HostError, Kind, Meta, ReadError};

/// How often a file that changes under the reader is read anew before the reader gives up.
const ATTEMPTS: u32 = 3;

/// A machine, or a folder that stands for one.
#[derive(Debug)]
pub struct Host {
    root: Root,
    root_path: PathBuf,
    /// The proc file system whose `sys` folder holds the kernel parameters; none where it is not known.
    proc: Option<Root>,
    live: bool,
    clock: Arc<dyn Clock>,
}

/// A file's content and what the kernel said of it when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Metadata at the moment after the last byte was read.
    pub meta: Meta,
}

impl Content {
    /// The content as text.
    ///
    /// # Errors
    /// [`ReadError::NotText`] where it is not UTF-8.
    pub fn text(&self) -> Result<&str, ReadError> {
        std::str::from_utf8(&self.bytes).map_err(|e| ReadError::NotText { offset: e.valid_up_to() })
    }
}

impl Host {
    /// This machine.
    ///
    /// # Errors
    /// When `/` or `/proc` cannot be opened.
    pub fn live(clock: Arc<dyn Clock>) -> Result<Self, HostError> {
        let root = Root::open(Path::new("/"))?;
        let proc = Root::open(Path::new("/proc"))?;
        Ok(Self { root, root_path: PathBuf::from("/"), proc: Some(proc), live: true, clock })
    }

    /// A folder that stands for a node. It has the kernel parameters of its own `proc/sys`, if there is such a
    /// folder, and none otherwise.
    ///
    /// # Errors
    /// When the folder cannot be opened.
    pub fn rooted(dir: &Path, clock: Arc<dyn Clock>) -> Result<Self, HostError> {
        let root = Root::open(dir)?;
        let root_path = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
        let proc = root.below(Path::new("proc")).ok();
        Ok(Self { root, root_path, proc, live: false, clock })
    }

    /// The same host with the kernel parameters of another proc file system: a sample node that is shown together
    /// with a real machine's sysctls. Processes are not looked up there.
    ///
    /// # Errors
    /// When the folder cannot be opened.
    pub fn with_proc(mut self, dir: &Path) -> Result<Self, HostError> {
        self.proc = Some(Root::open(dir)?);
        Ok(self)
    }

    /// The same host without the kernel's help in keeping look-ups inside the root, as before Linux 5.6 and in sandboxes
    /// that refuse `openat2`. It is found out by itself where that is so.
    #[must_use]
    pub fn step_by_step(mut self) -> Self {
        self.root = self.root.by(Way::Steps);
        self.proc = self.proc.map(|proc| proc.by(Way::Steps));
        self
    }

    /// Whether this is the machine itself, with processes, sockets and a present.
    pub const fn is_live(&self) -> bool {
        self.live
    }

    /// Whether kernel parameters can be read at all.
    pub const fn has_proc(&self) -> bool {
        self.proc.is_some()
    }

    /// The root folder on the machine picketd runs on.
    pub fn root(&self) -> &Path {
        &self.root_path
    }

    /// Wall-clock time of this host.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The clock of this host.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Where a path of the node lies on the machine picketd runs on. For watchers, which need a path: only for paths
    /// without links in them, as [`Host::trail`] gives them.
    pub fn outside(&self, path: &Path) -> PathBuf {
        self.root_path.join(named(path.strip_prefix("/").unwrap_or(path)))
    }

    /// The host name: this machine's, or what `/etc/hostname` below the root says.
    pub fn hostname(&self) -> Option<String> {
        if self.live {
            return nix::unistd::gethostname().ok()?.into_string().ok();
        }
        let content = self.read(Path::new("/etc/hostname"), 4096).ok()?;
        let name = content.text().ok()?.trim();
        (!name.is_empty()).then(|| name.to_owned())
    }

    /// The kernel release; none for a rooted host.
    pub fn kernel(&self) -> Option<String> {
        if !self.live {
            return None;
        }
        nix::sys::utsname::uname().ok()?.release().to_str().map(str::to_owned)
    }

    /// Metadata of what a path leads to, links followed.
    ///
    /// # Errors
    /// [`ReadError`], `Absent` for a link that leads nowhere too.
    pub fn stat(&self, path: &Path) -> Result<Meta, ReadError> {
        let fd = self.open_at(path, OFlags::PATH)?;
        Ok(Meta::of(&rustix::fs::fstat(&fd)?))
    }

    /// Metadata of the path itself: a last link is not followed.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn lstat(&self, path: &Path) -> Result<Meta, ReadError> {
        let fd = self.open_at(path, OFlags::PATH | OFlags::NOFOLLOW)?;
        Ok(Meta::of(&rustix::fs::fstat(&fd)?))
    }

    /// The text of a symbolic link, as it stands in the link.
    ///
    /// # Errors
    /// [`ReadError::NotRegular`] if it is no link.
    pub fn read_link(&self, path: &Path) -> Result<PathBuf, ReadError> {
        let fd = self.open_at(path, OFlags::PATH | OFlags::NOFOLLOW)?;
        let kind = Meta::of(&rustix::fs::fstat(&fd)?).kind;
        if kind != Kind::Link {
            return Err(ReadError::NotRegular(kind));
        }
        Ok(PathBuf::from(shown(&link_text(fd.as_fd())?)))
    }

    /// The whole of a regular file, if it is not larger than `limit` bytes. A file that changes meanwhile is read
    /// again, three times at most.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read(&self, path: &Path, limit: u64) -> Result<Content, ReadError> {
        for _ in 0..ATTEMPTS {
            let file = self.open_file(path)?;
            let before = Meta::of(&rustix::fs::fstat(&file)?);
            if before.size > limit {
                return Err(ReadError::TooLarge { limit });
            }
            let bytes = read_bounded(&file, before.size, limit)?;
            let after = Meta::of(&rustix::fs::fstat(&file)?);
            if before.same_content(&after) && after.size == bytes.len() as u64 {
                return Ok(Content { bytes, meta: after });
            }
        }
        Err(ReadError::ChangedWhileReading)
    }

    /// A regular file, open for reading, that can never block. For what is too large to be read whole, or followed.
    ///
    /// # Errors
    /// [`ReadError::NotRegular`] for anything that is no regular file.
    pub fn open_file(&self, path: &Path) -> Result<File, ReadError> {
        self.root.regular(path)
    }

    /// A small text file of a pseudo file system below the root, such as `/sys`, whose size the kernel does not tell.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn special(&self, path: &Path, limit: u64) -> Result<String, ReadError> {
        read_unsized(&self.root, path, limit)
    }

    /// A kernel parameter's value, trimmed; `key` in the form of its path (`net/ipv4/ip_forward`).
    ///
    /// # Errors
    /// [`ReadError::NotHere`] where this host has no `/proc`; `Absent` where the kernel does not know the parameter.
    pub fn sysctl(&self, key: &str) -> Result<String, ReadError> {
        let proc = self.proc.as_ref().ok_or(ReadError::NotHere("/proc/sys"))?;
        read_unsized(proc, &Path::new("sys").join(key.trim_start_matches('/')), 64 * 1024)
            .map(|text| text.trim().to_owned())
    }

    /// A text file of this machine's `/proc` (not of a rooted host), at most `limit` bytes.
    pub(crate) fn proc_text(&self, path: &Path, limit: u64) -> Result<String, ReadError> {
        read_unsized(self.live_proc()?, path, limit)
    }

    /// This machine's `/proc`, for processes.
    pub(crate) fn live_proc(&self) -> Result<&Root, ReadError> {
        match (&self.proc, self.live) {
            (Some(proc), true) => Ok(proc),
            _ => Err(ReadError::NotHere("the process table")),
        }
    }

    /// Opens a path below the root.
    pub(crate) fn open_at(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, ReadError> {
        self.root.at(path, flags)
    }
}

fn read_bounded(file: &File, expected: u64, limit: u64) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::with_capacity(usize::try_from(expected.min(limit)).unwrap_or(0));
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| from_io(&e))?;
    if bytes.len() as u64 > limit {
        return Err(ReadError::TooLarge { limit });
    }
    Ok(bytes)
}

/// Reads a file whose size the kernel does not tell in advance, as those of `/proc`.
fn read_unsized(root: &Root, path: &Path, limit: u64) -> Result<String, ReadError> {
    let file = root.regular(path)?;
    let bytes = read_bounded(&file, 0, limit)?;
    String::from_utf8(bytes).map_err(|e| ReadError::NotText { offset: e.utf8_error().valid_up_to() })
}

pub(crate) fn from_io(error: &io::Error) -> ReadError {
    error.raw_os_error().map_or_else(|| ReadError::Io(error.to_string()), |n| Errno::from_raw_os_error(n).into())
}
