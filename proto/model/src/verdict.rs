//! A control judged on a subject.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Evidence, Severity};

/// The outcome of judging.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As it should be, with evidence. There is no pass without evidence.
    Pass,
    /// Not as it should be.
    Fail,
    /// Could not be judged; the reason stands in the evidence.
    Unknown,
    /// The control does not apply to this node.
    NotApplicable,
    /// A person must judge.
    Manual,
}

impl Status {
    /// All outcomes, in the order of summaries.
    pub const ALL: [Self; 5] = [Self::Pass, Self::Fail, Self::Unknown, Self::NotApplicable, Self::Manual];

    /// The name as it stands in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Unknown => "unknown",
            Self::NotApplicable => "not_applicable",
            Self::Manual => "manual",
        }
    }

    /// How much a row counts when a control has several: fail, unknown, pass, manual, not_applicable.
    pub const fn weight(self) -> u8 {
        match self {
            Self::Fail => 4,
            Self::Unknown => 3,
            Self::Pass => 2,
            Self::Manual => 1,
            Self::NotApplicable => 0,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A word that is no status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown status {0:?}: use pass, fail, unknown, not_applicable or manual")]
pub struct UnknownStatus(pub String);

impl FromStr for Status {
    type Err = UnknownStatus;

    fn from_str(text: &str) -> Result<Self, UnknownStatus> {
        Self::ALL.into_iter().find(|s| s.as_str() == text).ok_or_else(|| UnknownStatus(text.chars().take(64).collect()))
    }
}

/// Which of the two configurations a verdict speaks of. K3s reads its configuration only at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// In force now, but gone at the next start.
    Running,
    /// On disk only: waits for a restart.
    Declared,
    /// On disk and in force.
    Both,
}

impl State {
    /// The name as it stands in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Declared => "declared",
            Self::Both => "both",
        }
    }
}

/// A control judged on one subject of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The catalogue's id of the control.
    pub control: String,
    /// What was judged: a path, an option, a kernel parameter, a certificate's file and index. Stable, since it is
    /// part of a finding's identity.
    pub subject: String,
    /// The outcome.
    pub status: Status,
    /// How bad a failure is.
    pub severity: Severity,
    /// The control in a sentence.
    pub title: String,
    /// What was seen, in words; for `unknown` the reason.
    pub observed: String,
    /// What should be seen, in words.
    pub expected: String,
    /// Which configuration this speaks of, where the two can differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// Where it was seen.
    pub evidence: Vec<Evidence>,
    /// Benchmark version to control number.
    pub cis: BTreeMap<String, String>,
    /// What to do.
    pub remedy: String,
}
