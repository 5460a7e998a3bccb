//! A folder nothing that is opened below it leads out of.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use picket_model::name;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::walk::open_by_steps;
use crate::{HostError, Kind, Meta, ReadError};

/// How often the kernel's "try again" is obeyed: it comes when anything was renamed or mounted on the whole machine
/// during a look-up with `..`, so on a busy one as often as it is asked.
const AGAIN: u32 = 16;

/// Who keeps a look-up inside the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// The kernel: one `openat2`.
    Kernel,
    /// This crate, step by step: before Linux 5.6, and in sandboxes that refuse `openat2` since its arguments lie out of
    /// the reach of seccomp (systemd's `RestrictSUIDSGID=`, some container runtimes).
    Steps,
}

/// A folder that is looked into.
#[derive(Debug)]
pub(crate) struct Root {
    fd: OwnedFd,
    way: Way,
}

impl Root {
    /// Opens a folder of the machine itself as a root.
    pub(crate) fn open(dir: &Path) -> Result<Self, HostError> {
        let refuse = |errno: Errno| HostError::Root {
            path: dir.to_path_buf(),
            reason: if errno == Errno::NOTDIR { ReadError::NotRegular(Kind::File) } else { errno.into() },
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, dir, flags, Mode::empty()).map_err(refuse)?;
        let way = match open_by_kernel(fd.as_fd(), Path::new("."), flags) {
            Ok(_) => Way::Kernel,
            // EPERM is what seccomp filters say that do not know the call.
            Err(Errno::NOSYS | Errno::PERM) => Way::Steps,
            Err(errno) => return Err(refuse(errno)),
        };
        Ok(Self { fd, way })
    }

    /// The same folder, looked into the other way.
    pub(crate) fn by(mut self, way: Way) -> Self {
        self.way = way;
        self
    }

    /// A folder below this root, as a root of its own.
    pub(crate) fn below(&self, path: &Path) -> Result<Self, ReadError> {
        Ok(Self { fd: self.at(path, OFlags::PATH | OFlags::DIRECTORY)?, way: self.way })
    }

    /// Opens a path below the root, in its text; links, absolute ones too, stay inside.
    pub(crate) fn at(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, ReadError> {
        let flags = flags | OFlags::CLOEXEC;
        let path = named(path);
        Ok(match self.way {
            Way::Kernel => match open_by_kernel(self.fd.as_fd(), &path, flags) {
                // A machine that renames without pause must not make its files unreadable.
                Err(Errno::AGAIN) => open_by_steps(self.fd.as_fd(), &path, flags),
                done => done,
            },
            Way::Steps => open_by_steps(self.fd.as_fd(), &path, flags),
        }?)
    }

    /// Opens a regular file for reading. The kind is asked first through a descriptor that opens nothing, since the mere
    /// opening of a device can have an effect; and once more afterwards, since the name may have changed hands.
    pub(crate) fn regular(&self, path: &Path) -> Result<File, ReadError> {
        let look = Meta::of(&rustix::fs::fstat(self.at(path, OFlags::PATH)?)?);
        if look.kind != Kind::File {
            return Err(ReadError::NotRegular(look.kind));
        }
        let fd = self.at(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        let kind = Meta::of(&rustix::fs::fstat(&fd)?).kind;
        if kind != Kind::File {
            return Err(ReadError::NotRegular(kind));
        }
        Ok(File::from(fd))
    }
}

/// The path a text stands for.
pub(crate) fn named(text: &Path) -> Cow<'_, Path> {
    match name::bytes(text.as_os_str().as_bytes()) {
        Cow::Borrowed(_) => Cow::Borrowed(text),
        Cow::Owned(bytes) => Cow::Owned(OsString::from_vec(bytes).into()),
    }
}

/// A path as text.
pub(crate) fn shown(path: &Path) -> String {
    name::text(path.as_os_str().as_bytes()).into_owned()
}

/// One call of the kernel that keeps all of the look-up inside.
pub(crate) fn open_by_kernel(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut tries = AGAIN;
    loop {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if tries > 0 => tries -= 1,
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

/// Where the link a descriptor stands for leads, byte for byte.
pub(crate) fn link_text(fd: BorrowedFd<'_>) -> Result<PathBuf, Errno> {
    let text = rustix::fs::readlinkat(fd, "", Vec::new())?;
    Ok(PathBuf::from(OsString::from_vec(text.into_bytes())))
}
