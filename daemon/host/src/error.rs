//! What can go wrong at the door.

use std::path::PathBuf;

use rustix::io::Errno;

use crate::Kind;

/// A host that cannot be had at all.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The root is no folder, or is not ours to read.
    #[error("cannot use {path} as a root: {reason}; give a folder that exists and can be read")]
    Root {
        /// The folder that was asked for.
        path: PathBuf,
        /// Why it cannot be used.
        reason: ReadError,
    },
}

/// Why a file or folder could not be read. The path is the caller's: it stands in the evidence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// There is nothing of that name, or no folder that could hold it.
    #[error("no such file")]
    Absent,
    /// The kernel refused.
    #[error("permission denied; run as root")]
    Denied,
    /// Larger than the caller is willing to read.
    #[error("larger than {limit} bytes; not read")]
    TooLarge {
        /// The limit, in bytes.
        limit: u64,
    },
    /// More names than the caller is willing to look at.
    #[error("holds more than {limit} entries; the rest was not looked at")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// Deeper than a pattern goes.
    #[error("lies more than {limit} folders deep; not looked into")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// Something that is not what was asked for; reading it could block or never end.
    #[error("is a {0}, not what is expected there")]
    NotRegular(Kind),
    /// Links in a circle, or more than 40 in a row.
    #[error("symbolic links in a circle")]
    Loop,
    /// Not text, where text is needed.
    #[error("not UTF-8 text (byte {offset})")]
    NotText {
        /// The first byte that is no text, from 0.
        offset: usize,
    },
    /// The file was written to during each of several attempts.
    #[error("changed while it was read, several times in a row")]
    ChangedWhileReading,
    /// The host does not have this at all, such as `/proc` under `--root`.
    #[error("{0} is not part of this host")]
    NotHere(&'static str),
    /// Any other refusal of the kernel.
    #[error("{0}")]
    Io(String),
}

impl ReadError {
    /// Whether this says that nothing is there, rather than that it could not be seen.
    pub const fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

impl From<Errno> for ReadError {
    fn from(errno: Errno) -> Self {
        match errno {
            // ENOTDIR: a file stands where a folder is looked for, so the name below it does not exist.
            Errno::NOENT | Errno::NOTDIR => Self::Absent,
            Errno::ACCESS | Errno::PERM => Self::Denied,
            Errno::LOOP => Self::Loop,
            other => Self::Io(std::io::Error::from(other).to_string()),
        }
    }
}
