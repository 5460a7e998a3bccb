//! Small records of the collector: nodes, tokens, operators, settings.

use std::fmt;

use jiff::Timestamp;
use picket_model::{Epoch, Labels, NodeId, NodeInfo};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Store, StoreError};

/// Where small records are kept. Numbers are never used again for something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// [`NodeRecord`], by node id.
    Nodes = 1,
    /// [`TokenRecord`], by token id.
    Tokens = 2,
    /// [`OperatorRecord`], by name.
    Operators = 3,
    /// [`SettingRecord`], by name: what the collector must remember of itself.
    Settings = 4,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nodes => "node",
            Self::Tokens => "token",
            Self::Operators => "operator",
            Self::Settings => "setting",
        })
    }
}

/// A record's bytes and how often they were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRecord {
    /// 1 for a new record, one more with each change.
    pub revision: u64,
    /// Its content.
    pub value: Vec<u8>,
}

/// What a change expects to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Whatever.
    Anything,
    /// No record.
    Nothing,
    /// A record with this revision.
    Revision(u64),
}

/// A change of one record.
#[derive(Debug, Clone)]
pub struct Change {
    /// Where.
    pub table: Table,
    /// Which; at most 256 bytes.
    pub key: String,
    /// What must be there.
    pub expect: Expect,
    /// Its content from now on, at most 16 KiB; none removes it.
    pub value: Option<Vec<u8>>,
}

/// When a change is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When the call returns.
    Synced,
    /// Soon: with the next commit, or within a second. For what may be lost, such as when a node was last heard of.
    Soon,
}

/// A type that is kept as a record.
pub trait Record: Serialize + DeserializeOwned {
    /// Where it is kept.
    const TABLE: Table;
    /// What tells it from others.
    fn key(&self) -> String;
}

/// A record with its revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<R> {
    /// For [`Change::replace`].
    pub revision: u64,
    /// The record.
    pub record: R,
}

impl Change {
    fn with<R: Record>(record: &R, expect: Expect) -> Self {
        // Serialising to a Vec fails only for maps with keys that are not text; records have none.
        let value = serde_json::to_vec(record).unwrap_or_default();
        Self { table: R::TABLE, key: record.key(), expect, value: Some(value) }
    }

    /// Writes a record, whatever was there.
    pub fn put<R: Record>(record: &R) -> Self {
        Self::with(record, Expect::Anything)
    }

    /// Writes a record that must not be there yet.
    pub fn insert<R: Record>(record: &R) -> Self {
        Self::with(record, Expect::Nothing)
    }

    /// Writes a record that must still be the one that was read.
    pub fn replace<R: Record>(record: &R, revision: u64) -> Self {
        Self::with(record, Expect::Revision(revision))
    }

    /// Removes a record, if it is there.
    pub fn delete<R: Record>(key: impl Into<String>) -> Self {
        Self { table: R::TABLE, key: key.into(), expect: Expect::Anything, value: None }
    }
}

/// Typed reading of records; for every [`Store`].
pub trait Records: Store {
    /// A record by its key.
    ///
    /// # Errors
    /// [`StoreError`], also when the record cannot be read as what it should be.
    fn load<R: Record>(&self, key: &str) -> Result<Option<Versioned<R>>, StoreError> {
        self.record(R::TABLE, key)?.map(|raw| parse(key, &raw)).transpose()
    }

    /// All records of a type, in the order of their keys.
    ///
    /// # Errors
    /// [`StoreError`], also when a record cannot be read as what it should be.
    fn load_all<R: Record>(&self) -> Result<Vec<Versioned<R>>, StoreError> {
        self.records(R::TABLE)?.iter().map(|(key, raw)| parse(key, raw)).collect()
    }
}

impl<S: Store + ?Sized> Records for S {}

fn parse<R: Record>(key: &str, raw: &RawRecord) -> Result<Versioned<R>, StoreError> {
    match serde_json::from_slice(&raw.value) {
        Ok(record) => Ok(Versioned { revision: raw.revision, record }),
        Err(error) => Err(StoreError::damaged("record", key.as_bytes(), format!("{} record: {error}", R::TABLE))),
    }
}

/// A certificate that was made for a node or operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRecord {
    /// Serial number: the content of its DER integer, in hexadecimal.
    pub serial: String,
    /// When it was made.
    pub issued_at: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
}

/// Why and when a certificate became worthless.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub by: String,
    /// Why, in words.
    pub reason: String,
}

/// A node that was taken in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its identity.
    pub id: NodeId,
    /// Host name when last heard of.
    pub hostname: String,
    /// Labels bound to its enrolment token.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// When it was taken in.
    pub enrolled_at: Timestamp,
    /// The certificate in use.
    pub active: Option<CertificateRecord>,
    /// The certificate that was made and has not been used yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<CertificateRecord>,
    /// Certificates of the past, newest last, at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub past: Vec<CertificateRecord>,
    /// Set when its certificates are worthless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Revocation>,
    /// When it was last heard of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    /// What it last said of itself.
    #[serde(default)]
    pub info: NodeInfo,
    /// Its current epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// Events that it holds and has not delivered, as of its last heartbeat.
    #[serde(default)]
    pub behind_events: u64,
    /// Its clock minus the collector's, milliseconds.
    #[serde(default)]
    pub clock_offset_ms: i64,
}

impl Record for NodeRecord {
    const TABLE: Table = Table::Nodes;

    fn key(&self) -> String {
        self.id.to_string()
    }
}

/// An enrolment token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Its public part.
    pub id: String,
    /// SHA-256 of its secret, in hexadecimal.
    pub secret_sha256: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// By whom.
    pub created_by: String,
    /// When it becomes worthless.
    pub expires_at: Timestamp,
    /// How many more nodes may enrol with it.
    pub uses_left: u32,
    /// Labels that nodes get.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

impl Record for TokenRecord {
    const TABLE: Table = Table::Tokens;

    fn key(&self) -> String {
        self.id.clone()
    }
}

/// What an operator may do. Each role may do what the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperatorRole {
    /// Ask.
    Viewer,
    /// Take nodes in.
    Operator,
    /// Everything.
    Admin,
}

/// An operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorRecord {
    /// Name, unique.
    pub name: String,
    /// What the operator may do.
    pub role: OperatorRole,
    /// When the operator was made.
    pub created_at: Timestamp,
    /// The certificate.
    pub certificate: CertificateRecord,
    /// Set when the certificate is worthless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Revocation>,
}

impl Record for OperatorRecord {
    const TABLE: Table = Table::Operators;

    fn key(&self) -> String {
        self.name.clone()
    }
}

/// Something that the collector must remember of itself, such as its trust domain. Never a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingRecord {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: serde_json::Value,
}

impl Record for SettingRecord {
    const TABLE: Table = Table::Settings;

    fn key(&self) -> String {
        self.name.clone()
    }
}
