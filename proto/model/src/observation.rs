//! What a source saw, and where.

use serde::{Deserialize, Serialize};

/// Where something was seen. Never holds a secret: secrets become a keyed fingerprint at the point of reading.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Evidence {
    /// File, in the node's own terms (`/etc/rancher/k3s/config.yaml`), without the injected root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Line in that file, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The layer that won: `command-line`, `drop-in`, `config-file`, `environment`, `k3s-default`, `kernel`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
    /// What was seen there, in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl Evidence {
    /// Evidence from a file.
    pub fn at(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { path: Some(path.into()), detail: detail.into(), ..Self::default() }
    }

    /// Evidence without a place.
    pub fn note(detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), ..Self::default() }
    }

    /// The same evidence with a line, from 1.
    #[must_use]
    pub fn line(mut self, line: u32) -> Self {
        self.line = Some(line);
        self
    }

    /// The same evidence with the layer that won.
    #[must_use]
    pub fn layer(mut self, layer: impl Into<String>) -> Self {
        self.layer = Some(layer.into());
        self
    }
}

/// What a source saw: a value, nothing, or something that it could not read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "seen", rename_all = "snake_case")]
pub enum Observation<T> {
    /// It is there and was read.
    Value {
        /// What was read.
        value: T,
    },
    /// The place was read and it is not there.
    Absent,
    /// It could not be read; nothing may be concluded from that.
    Unreadable {
        /// Why, in words for a person.
        reason: String,
    },
}

impl<T> Observation<T> {
    /// Something that could not be read, with the reason.
    pub fn unreadable(reason: impl Into<String>) -> Self {
        Self::Unreadable { reason: reason.into() }
    }

    /// The value, if there is one.
    pub const fn value(&self) -> Option<&T> {
        match self {
            Self::Value { value } => Some(value),
            Self::Absent | Self::Unreadable { .. } => None,
        }
    }

    /// The same observation of something made from the value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Observation<U> {
        match self {
            Self::Value { value } => Observation::Value { value: f(value) },
            Self::Absent => Observation::Absent,
            Self::Unreadable { reason } => Observation::Unreadable { reason },
        }
    }
}

impl<T> From<T> for Observation<T> {
    fn from(value: T) -> Self {
        Self::Value { value }
    }
}
