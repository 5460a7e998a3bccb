//! Where a reader stands: what is needed to go on after any time away.

use serde::{Deserialize, Serialize};

use crate::marks::KeptMark;

/// Longest part of a file that a fingerprint covers, in bytes. The first audit event's id lies well within it.
pub(crate) const PRINT_BYTES: usize = 1024;

/// What a file is recognised by when its name and inode have changed (a gzipped backup) or been given to another
/// (inodes are used again): the first bytes that were read of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Where the part begins: the first byte that is not NUL.
    pub at: u64,
    /// How long it is; 0 when nothing was read yet.
    pub len: u32,
    /// FNV-1a (64 bits) of the part.
    pub hash: u64,
}

impl Fingerprint {
    pub(crate) fn of(at: u64, bytes: &[u8]) -> Self {
        let hash = bytes
            .iter()
            .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
        // At most PRINT_BYTES.
        Self { at, len: u32::try_from(bytes.len()).unwrap_or(u32::MAX), hash }
    }
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMark {
    /// The stamp of the rotated log being read; none for the log itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamp: Option<String>,
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// What the file is recognised by.
    pub print: Fingerprint,
    /// Bytes of it that are done with (of its content, where it is gzipped): nearly always the start of the next line.
    pub offset: u64,
    /// The bytes just before the offset: a file that was cut and has grown again begins as it did. None in a cursor of
    /// before there was this, and where they are not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<Fingerprint>,
    /// The offset is within a line of which nothing is delivered: it is too long, which was told, or its start is unknown.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub passing: bool,
    /// Ends of lines before the offset, to go back to when the file was cut. None in a cursor of before there were these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub marks: Vec<KeptMark>,
    /// Lines before the offset; none when reading began in the middle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<u64>,
}

/// Where a reader stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// The log followed. A cursor of another log is not used.
    pub path: String,
    /// The newest rotated log that is done with: all with this stamp or an older one are, but for the one in `file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<String>,
    /// Rotated logs that are done with and were still there, the newest [`Cursor::MOST_NAMED`]. None in a cursor of
    /// before there was this list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<Vec<String>>,
    /// How many more were there, all with older stamps. None in a cursor of before this was counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub more: Option<usize>,
    /// Rotated logs that were seen and not begun, the newest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<String>,
    /// The file being read; none before the log existed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileMark>,
    /// A file that lost the log's name while its writer held it, and whether it is known to be written to still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orphan: Option<(FileMark, bool)>,
    /// Earlier ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orphans: Vec<(FileMark, bool)>,
}

impl Cursor {
    /// Most rotated logs that a cursor names.
    pub const MOST_NAMED: usize = 64;
}
