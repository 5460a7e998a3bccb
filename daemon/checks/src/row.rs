//! One row of a verdict while it is being judged.

use picket_model::{Evidence, State, Status};

/// A judged subject, before the control's own words are added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) subject: String,
    pub(crate) status: Status,
    pub(crate) observed: String,
    pub(crate) evidence: Vec<Evidence>,
    pub(crate) state: Option<State>,
    /// It cannot be told only because a file was changed since the start: how it was then is not known.
    pub(crate) forgotten: bool,
}

impl Row {
    pub(crate) fn new(subject: impl Into<String>, status: Status, observed: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            status,
            observed: observed.into(),
            evidence: Vec::new(),
            state: None,
            forgotten: false,
        }
    }

    pub(crate) fn pass_if(subject: impl Into<String>, good: bool, observed: impl Into<String>) -> Self {
        Self::new(subject, if good { Status::Pass } else { Status::Fail }, observed)
    }

    pub(crate) fn unknown(subject: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::new(subject, Status::Unknown, reason)
    }

    /// What was in force at the start is not known: only the files of now can be judged.
    pub(crate) fn forgotten(subject: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { forgotten: true, ..Self::unknown(subject, reason) }
    }

    #[must_use]
    pub(crate) fn with(mut self, evidence: Evidence) -> Self {
        self.evidence.push(evidence);
        self
    }

    #[must_use]
    pub(crate) fn with_all(mut self, evidence: impl IntoIterator<Item = Evidence>) -> Self {
        self.evidence.extend(evidence);
        self
    }
}

/// The status a control counts as: its worst row.
pub(crate) fn worst(rows: &[Row]) -> Option<Status> {
    rows.iter().map(|r| r.status).max_by_key(|s| s.weight())
}
