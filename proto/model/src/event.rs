//! A numbered change on a node.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Detection, Epoch, Finding, NodeInfo, Seq};

/// SHA-256 that ties an event to the one before it, so that a removed, altered or reordered event shows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ChainHash(pub [u8; 32]);

impl ChainHash {
    /// What the first event of an epoch follows.
    pub const START: Self = Self([0; 32]);
}

impl fmt::Debug for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Display for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl Serialize for ChainHash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(self.0))
    }
}

impl<'de> Deserialize<'de> for ChainHash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(text.as_bytes(), &mut bytes).map_err(serde::de::Error::custom)?;
        Ok(Self(bytes))
    }
}

/// Why events were given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// The outbox reached its limit.
    OutboxFull,
    /// The disk took no more.
    DiskFull,
    /// A segment of the outbox could not be read back.
    Damaged,
    /// The audit log lost lines: rotated away before they could be read, too long, or not readable as events.
    AuditLog,
}

/// What was given up under pressure. Loss is never silent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Why.
    pub reason: GapReason,
    /// How many events (or lines) were given up.
    pub count: u64,
    /// First sequence number given up, where events were numbered already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<Seq>,
    /// Last sequence number given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Seq>,
    /// What happened, in words.
    pub detail: String,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "nearly all events are findings or detections, the large ones")]
pub enum EventBody {
    /// A finding appeared or came back.
    FindingOpened {
        /// The finding from now on.
        finding: Finding,
    },
    /// A finding looks different.
    FindingChanged {
        /// The finding from now on.
        finding: Finding,
    },
    /// A finding is gone.
    FindingResolved {
        /// The finding as it ended.
        finding: Finding,
    },
    /// A rule matched the audit log.
    Detection {
        /// The match.
        detection: Detection,
    },
    /// The node says something new of itself.
    Inventory {
        /// What it is now.
        node: NodeInfo,
    },
    /// Something was given up.
    Gap {
        /// What.
        gap: Gap,
    },
}

/// The kind of an event, for filters and indexes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A finding appeared or came back.
    FindingOpened,
    /// A finding looks different.
    FindingChanged,
    /// A finding is gone.
    FindingResolved,
    /// A rule matched the audit log.
    Detection,
    /// The node says something new of itself.
    Inventory,
    /// Something was given up.
    Gap,
}

impl EventKind {
    /// The name as it stands in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FindingOpened => "finding_opened",
            Self::FindingChanged => "finding_changed",
            Self::FindingResolved => "finding_resolved",
            Self::Detection => "detection",
            Self::Inventory => "inventory",
            Self::Gap => "gap",
        }
    }
}

impl EventBody {
    /// The kind of this change.
    pub const fn kind(&self) -> EventKind {
        match self {
            Self::FindingOpened { .. } => EventKind::FindingOpened,
            Self::FindingChanged { .. } => EventKind::FindingChanged,
            Self::FindingResolved { .. } => EventKind::FindingResolved,
            Self::Detection { .. } => EventKind::Detection,
            Self::Inventory { .. } => EventKind::Inventory,
            Self::Gap { .. } => EventKind::Gap,
        }
    }

    /// The finding, where this is a change of one.
    pub const fn finding(&self) -> Option<&Finding> {
        match self {
            Self::FindingOpened { finding } | Self::FindingChanged { finding } | Self::FindingResolved { finding } => {
                Some(finding)
            }
            Self::Detection { .. } | Self::Inventory { .. } | Self::Gap { .. } => None,
        }
    }
}

/// A numbered change on a node. (node, epoch, seq) is unique for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The life of the node's state folder.
    pub epoch: Epoch,
    /// The number within the epoch, from 1.
    pub seq: Seq,
    /// When the node noticed, by the node's clock.
    pub time: Timestamp,
    /// What changed.
    #[serde(flatten)]
    pub body: EventBody,
    /// [`Event::chain`] of this event over the one before it.
    pub hash: ChainHash,
}

impl Event {
    /// Makes the event that follows `previous`.
    pub fn new(epoch: Epoch, seq: Seq, time: Timestamp, body: EventBody, previous: ChainHash) -> Self {
        let hash = Self::chain(previous, epoch, seq, time, &body);
        Self { epoch, seq, time, body, hash }
    }

    /// SHA-256 over the previous hash, the epoch (16 bytes), the sequence number (8 bytes, big endian), the time
    /// (nanoseconds since 1970, 16 bytes, big endian) and the body's JSON with fields in the order of their
    /// declaration. New optional fields are left out of the JSON when absent, so old hashes stay valid.
    pub fn chain(previous: ChainHash, epoch: Epoch, seq: Seq, time: Timestamp, body: &EventBody) -> ChainHash {
        let mut hash = Sha256::new();
        hash.update(previous.0);
        hash.update(epoch.as_bytes());
        hash.update(seq.0.to_be_bytes());
        hash.update(time.as_nanosecond().to_be_bytes());
        // Serialising to a Vec fails only for maps with keys that are not text; the domain has none.
        hash.update(serde_json::to_vec(body).unwrap_or_default());
        ChainHash(hash.finalize().into())
    }

    /// Does this event follow `previous` unaltered?
    pub fn follows(&self, previous: ChainHash) -> bool {
        self.hash == Self::chain(previous, self.epoch, self.seq, self.time, &self.body)
    }
}
