//! The checkpoint: the ledger's state at one number, so that opening replays two segments and not the whole journal.
//! Two are kept, the newest and the one before; a segment goes only when the older of them contains it. So one
//! checkpoint that cannot be read costs nothing.

use std::io;

use picket_model::{ChainHash, Epoch, Finding, Seq};
use serde::{Deserialize, Serialize};

use crate::book::{Book, DetectorState};
use crate::disk::{self, Disk};

const CURRENT: &str = "checkpoint.json";
const PREVIOUS: &str = "checkpoint.previous.json";
/// Largest file read as a checkpoint, bytes.
const SIZE_MAX: usize = 256 * 1024 * 1024;

/// The ledger after the event `through`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) epoch: Epoch,
    pub(crate) through: Seq,
    pub(crate) hash: ChainHash,
    pub(crate) acknowledged: Seq,
    pub(crate) book: Book,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    epoch: Epoch,
    through: Seq,
    hash: ChainHash,
    acknowledged: Seq,
    findings: Vec<Finding>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    detector: Option<StoredDetector>,
}

#[derive(Serialize, Deserialize)]
struct StoredDetector {
    cursor: String,
    state: String,
}

/// What reading the checkpoints gave.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    /// The newest that can be read.
    pub(crate) checkpoint: Option<Checkpoint>,
    /// `through` of the older one, as far as segments must be kept for it.
    pub(crate) previous_through: Seq,
    /// Files that are there and cannot be read.
    pub(crate) damaged: u64,
}

/// Reads both checkpoints.
pub(crate) fn load(disk: &dyn Disk, names: &[String]) -> io::Result<Loaded> {
    let mut loaded = Loaded::default();
    let mut read = |name: &str| -> io::Result<Option<Checkpoint>> {
        if !names.iter().any(|n| n == name) {
            return Ok(None);
        }
        let parsed = parse(&disk.read(name, 0, SIZE_MAX)?);
        if parsed.is_none() {
            // Set aside, so that it never takes the place of a good one.
            loaded.damaged += 1;
            disk.rename(name, &format!("{name}.damaged"))?;
        }
        Ok(parsed)
    };
    let (current, previous) = (read(CURRENT)?, read(PREVIOUS)?);
    loaded.previous_through = previous.as_ref().map_or(Seq::ZERO, |p| p.through);
    loaded.checkpoint = match (current, previous) {
        // An epoch that was begun anew leaves a previous checkpoint of the old one.
        (Some(current), Some(previous)) if previous.epoch != current.epoch => {
            loaded.previous_through = Seq::ZERO;
            Some(current)
        }
        (Some(current), _) => Some(current),
        (None, previous) => previous,
    };
    Ok(loaded)
}

/// The newest checkpoint and how many cannot be read, without touching anything.
pub(crate) fn peek(disk: &dyn Disk, names: &[String]) -> io::Result<(Option<Checkpoint>, u64)> {
    let mut damaged = 0;
    for name in [CURRENT, PREVIOUS] {
        if names.iter().any(|n| n == name) {
            match parse(&disk.read(name, 0, SIZE_MAX)?) {
                Some(checkpoint) => return Ok((Some(checkpoint), damaged)),
                None => damaged += 1,
            }
        }
    }
    Ok((None, damaged))
}

fn parse(bytes: &[u8]) -> Option<Checkpoint> {
    let (sum, json) = bytes.split_at_checked(9)?;
    let sum = u32::from_str_radix(std::str::from_utf8(sum.get(..8)?).ok()?, 16).ok()?;
    if crc32c::crc32c(json) != sum {
        return None;
    }
    let stored: Stored = serde_json::from_slice(json).ok()?;
    if stored.format != crate::record::FORMAT {
        return None;
    }
    let cursor = match stored.cursor {
        Some(text) => Some(hex::decode(text).ok()?),
        None => None,
    };
    let detector = match stored.detector {
        Some(d) => Some(DetectorState { cursor: hex::decode(d.cursor).ok()?, state: hex::decode(d.state).ok()? }),
        None => None,
    };
    Some(Checkpoint {
        epoch: stored.epoch,
        through: stored.through,
        hash: stored.hash,
        acknowledged: stored.acknowledged,
        book: Book::from_parts(stored.findings, cursor, detector),
    })
}

/// Writes a checkpoint; the one before it stays as the previous one, if it is of the same epoch.
pub(crate) fn store(disk: &dyn Disk, checkpoint: &Checkpoint, keep_previous: bool) -> io::Result<()> {
    let stored = Stored {
        format: crate::record::FORMAT,
        epoch: checkpoint.epoch,
        through: checkpoint.through,
        hash: checkpoint.hash,
        acknowledged: checkpoint.acknowledged,
        findings: checkpoint.book.findings.values().cloned().collect(),
        cursor: checkpoint.book.cursor.as_ref().map(hex::encode),
        detector: checkpoint
            .book
            .detector
            .as_ref()
            .map(|d| StoredDetector { cursor: hex::encode(&d.cursor), state: hex::encode(&d.state) }),
    };
    let json = serde_json::to_vec(&stored).map_err(io::Error::other)?;
    let sum = format!("{:08x}\n", crc32c::crc32c(&json));
    disk::replace_after(disk, CURRENT, &[sum.as_bytes(), &json], || {
        if !keep_previous {
            return Ok(());
        }
        // Between the two renames only the previous one is there: it and its segments are enough.
        match disk.rename(CURRENT, PREVIOUS) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    })
}
