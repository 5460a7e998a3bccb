//! What the kernel says of a file without opening it.

use std::fmt;

use jiff::Timestamp;
use rustix::fs::{FileType, Stat};

/// The kind of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A named pipe.
    Pipe,
    /// A socket.
    Socket,
    /// A character or block device.
    Device,
    /// Something else.
    Other,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::File => "file",
            Self::Folder => "folder",
            Self::Link => "symbolic link",
            Self::Pipe => "named pipe",
            Self::Socket => "socket",
            Self::Device => "device",
            Self::Other => "special file",
        })
    }
}

impl From<FileType> for Kind {
    fn from(kind: FileType) -> Self {
        match kind {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Folder,
            FileType::Symlink => Self::Link,
            FileType::Fifo => Self::Pipe,
            FileType::Socket => Self::Socket,
            FileType::CharacterDevice | FileType::BlockDevice => Self::Device,
            _ => Self::Other,
        }
    }
}

/// What the kernel says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// The kind of file.
    pub kind: Kind,
    /// The permission bits, with set-uid, set-gid and sticky: `0o7777` at most.
    pub mode: u32,
    /// Owner, as a number: names are the node's own affair.
    pub uid: u32,
    /// Group, as a number.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Time of the last write to the content.
    pub mtime: Timestamp,
    /// Time of the last change to content, name, mode or owner. Unlike [`Meta::mtime`] nobody can set it.
    pub ctime: Timestamp,
    /// Inode number.
    pub ino: u64,
    /// Device number.
    pub dev: u64,
    /// Number of names of this file.
    pub links: u64,
}

impl Meta {
    pub(crate) fn of(stat: &Stat) -> Self {
        let nanos = i32::try_from(stat.st_mtime_nsec).unwrap_or(0);
        let changed = i32::try_from(stat.st_ctime_nsec).unwrap_or(0);
        Self {
            kind: FileType::from_raw_mode(stat.st_mode).into(),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: Timestamp::new(stat.st_mtime, nanos).unwrap_or_default(),
            ctime: Timestamp::new(stat.st_ctime, changed).unwrap_or_default(),
            ino: stat.st_ino,
            dev: stat.st_dev,
            links: stat.st_nlink,
        }
    }

    /// Whether two looks at a file show the same content: same inode, size and time of the last write.
    pub fn same_content(&self, later: &Self) -> bool {
        self.ino == later.ino && self.dev == later.dev && self.size == later.size && self.mtime == later.mtime
    }
}
