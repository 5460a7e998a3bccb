//! What an operator sees: a failing or blind control whose identity stays while the problem is the same.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Evidence, Severity, State, Status, Verdict};

/// The identity of a finding on its node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FindingKey {
    /// The catalogue's id of the control.
    pub control: String,
    /// What was judged.
    pub subject: String,
}

/// Where a finding is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingState {
    /// The control fails.
    Open,
    /// The control could never be judged: nobody knows.
    Blind,
    /// The problem is gone.
    Resolved,
}

impl FindingState {
    /// All states.
    pub const ALL: [Self; 3] = [Self::Open, Self::Blind, Self::Resolved];

    /// The name as it stands in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Blind => "blind",
            Self::Resolved => "resolved",
        }
    }
}

/// A failing or blind control on one subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The catalogue's id of the control.
    pub control: String,
    /// What was judged.
    pub subject: String,
    /// Where it is in its life.
    pub state: FindingState,
    /// How bad it is. A blind control counts as `low` at most: what is not known is not yet a failure.
    pub severity: Severity,
    /// The control in a sentence.
    pub title: String,
    /// What was seen.
    pub observed: String,
    /// What should be seen.
    pub expected: String,
    /// Which configuration is wrong, where the two can differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_state: Option<State>,
    /// Where it was seen.
    pub evidence: Vec<Evidence>,
    /// What to do.
    pub remedy: String,
    /// When this finding was first opened.
    pub opened_at: Timestamp,
    /// When it last changed.
    pub changed_at: Timestamp,
    /// How often it came back after it had been resolved.
    #[serde(default)]
    pub reopened: u32,
    /// The source can no longer be read: still open, but seen last at `changed_at`.
    #[serde(default)]
    pub stale: bool,
}

impl Finding {
    /// The identity on its node.
    pub fn key(&self) -> FindingKey {
        FindingKey { control: self.control.clone(), subject: self.subject.clone() }
    }

    fn seen(verdict: &Verdict, state: FindingState, now: Timestamp) -> Self {
        let severity = match state {
            FindingState::Blind => verdict.severity.min(Severity::Low),
            FindingState::Open | FindingState::Resolved => verdict.severity,
        };
        Self {
            control: verdict.control.clone(),
            subject: verdict.subject.clone(),
            state,
            severity,
            title: verdict.title.clone(),
            observed: verdict.observed.clone(),
            expected: verdict.expected.clone(),
            config_state: verdict.state,
            evidence: verdict.evidence.clone(),
            remedy: verdict.remedy.clone(),
            opened_at: now,
            changed_at: now,
            reopened: 0,
            stale: false,
        }
    }

    /// Does `other` say the same to an operator? Times and counters do not count.
    fn says_the_same(&self, other: &Self) -> bool {
        self.state == other.state
            && self.severity == other.severity
            && self.observed == other.observed
            && self.expected == other.expected
            && self.config_state == other.config_state
            && self.evidence == other.evidence
            && self.stale == other.stale
    }
}

/// What a verdict does to a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transition {
    /// A finding appears, or comes back.
    Opened(Finding),
    /// The same problem looks different.
    Changed(Finding),
    /// The problem is gone. The finding keeps what it last said, in state `Resolved`.
    Resolved(Finding),
}

impl Transition {
    /// The finding after the transition.
    pub const fn finding(&self) -> &Finding {
        match self {
            Self::Opened(f) | Self::Changed(f) | Self::Resolved(f) => f,
        }
    }
}

/// The table of transitions. `current` is the finding with the verdict's key, if there ever was one.
///
/// | state | fail | pass | unknown | not applicable, manual |
/// |---|---|---|---|---|
/// | none | opened | – | opened as blind | – |
/// | open | changed if it says something else | resolved | stays open, marked stale | resolved |
/// | blind | opened (replaces blind) | resolved | changed if the reason differs | resolved |
/// | resolved | reopened, same identity | – | opened as blind | – |
///
/// Nothing is resolved because a source could not be read.
pub fn transition(current: Option<&Finding>, verdict: &Verdict, now: Timestamp) -> Option<Transition> {
    let live = current.filter(|f| f.state != FindingState::Resolved);
    match (verdict.status, live) {
        (Status::Fail, None) => Some(open(current, verdict, FindingState::Open, now)),
        (Status::Unknown, None) => Some(open(current, verdict, FindingState::Blind, now)),
        (Status::Fail, Some(old)) => {
            let mut new = Finding::seen(verdict, FindingState::Open, now);
            new.opened_at = if old.state == FindingState::Open { old.opened_at } else { now };
            new.reopened = old.reopened;
            if new.says_the_same(old) {
                return None;
            }
            Some(if old.state == FindingState::Open { Transition::Changed(new) } else { Transition::Opened(new) })
        }
        (Status::Unknown, Some(old)) if old.state == FindingState::Open => {
            if old.stale {
                return None;
            }
            let mut new = old.clone();
            new.stale = true;
            new.changed_at = now;
            new.evidence = verdict.evidence.clone();
            Some(Transition::Changed(new))
        }
        (Status::Unknown, Some(old)) => {
            let mut new = Finding::seen(verdict, FindingState::Blind, now);
            new.opened_at = old.opened_at;
            new.reopened = old.reopened;
            (!new.says_the_same(old)).then_some(Transition::Changed(new))
        }
        (Status::Pass | Status::NotApplicable | Status::Manual, Some(old)) => {
            let mut new = old.clone();
            new.state = FindingState::Resolved;
            new.changed_at = now;
            new.stale = false;
            new.observed = verdict.observed.clone();
            new.evidence = verdict.evidence.clone();
            Some(Transition::Resolved(new))
        }
        (Status::Pass | Status::NotApplicable | Status::Manual, None) => None,
    }
}

fn open(previous: Option<&Finding>, verdict: &Verdict, state: FindingState, now: Timestamp) -> Transition {
    let mut new = Finding::seen(verdict, state, now);
    if let Some(old) = previous {
        new.reopened = old.reopened.saturating_add(1);
    }
    Transition::Opened(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn verdict(status: Status, observed: &str) -> Verdict {
        Verdict {
            control: "sysctl-kernel-panic".into(),
            subject: "kernel.panic".into(),
            status,
            severity: Severity::High,
            title: "the kernel reboots after a panic".into(),
            observed: observed.into(),
            expected: "10".into(),
            state: None,
            evidence: vec![Evidence::at("/proc/sys/kernel/panic", observed)],
            cis: BTreeMap::new(),
            remedy: "set it".into(),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn apply(current: Option<&Finding>, status: Status, observed: &str, second: i64) -> Option<Transition> {
        transition(current, &verdict(status, observed), at(second))
    }

    #[test]
    fn a_failure_opens_once_and_changes_only_when_it_looks_different() {
        let Some(Transition::Opened(open)) = apply(None, Status::Fail, "0", 1) else { panic!("not opened") };
        assert_eq!(apply(Some(&open), Status::Fail, "0", 2), None);
        let Some(Transition::Changed(changed)) = apply(Some(&open), Status::Fail, "5", 3) else { panic!("unchanged") };
        assert_eq!((changed.opened_at, changed.changed_at), (at(1), at(3)));
    }

    #[test]
    fn an_unreadable_source_never_resolves() {
        let Some(Transition::Opened(open)) = apply(None, Status::Fail, "0", 1) else { panic!("not opened") };
        let Some(Transition::Changed(stale)) = apply(Some(&open), Status::Unknown, "EACCES", 2) else {
            panic!("not marked stale")
        };
        assert!(stale.stale && stale.state == FindingState::Open);
        assert_eq!(apply(Some(&stale), Status::Unknown, "EACCES", 3), None);
        let Some(Transition::Changed(fresh)) = apply(Some(&stale), Status::Fail, "0", 4) else { panic!("still stale") };
        assert!(!fresh.stale);
    }

    #[test]
    fn a_finding_that_comes_back_keeps_its_identity_and_counts() {
        let Some(Transition::Opened(open)) = apply(None, Status::Fail, "0", 1) else { panic!("not opened") };
        let Some(Transition::Resolved(gone)) = apply(Some(&open), Status::Pass, "10", 2) else {
            panic!("not resolved")
        };
        assert_eq!(apply(Some(&gone), Status::Pass, "10", 3), None);
        let Some(Transition::Opened(back)) = apply(Some(&gone), Status::Fail, "0", 4) else { panic!("not reopened") };
        assert_eq!((back.key(), back.reopened), (open.key(), 1));
    }

    #[test]
    fn blindness_is_a_finding_of_its_own_that_a_failure_replaces() {
        let Some(Transition::Opened(blind)) = apply(None, Status::Unknown, "no /proc", 1) else { panic!("not opened") };
        assert_eq!((blind.state, blind.severity), (FindingState::Blind, Severity::Low));
        assert_eq!(apply(Some(&blind), Status::Unknown, "no /proc", 2), None);
        assert!(matches!(apply(Some(&blind), Status::Fail, "0", 3), Some(Transition::Opened(_))));
        assert!(matches!(apply(Some(&blind), Status::NotApplicable, "", 3), Some(Transition::Resolved(_))));
    }
}
