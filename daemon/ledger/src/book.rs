//! The ledger's state: what every event so far adds up to. It changes by events and marks only, so that replaying
//! the journal gives it back.

use std::collections::BTreeMap;

use jiff::Timestamp;
use picket_model::{EventBody, Finding, FindingKey, FindingState, Status, Transition, Verdict, transition};

use crate::{AuditMark, fit};

/// Most resolved findings that are remembered, for the count of how often a finding came back.
const RESOLVED_MAX: usize = 4096;

/// Findings by identity, and how far the audit log is accounted for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Book {
    pub(crate) findings: BTreeMap<FindingKey, Finding>,
    /// Cursor of the last mark.
    pub(crate) cursor: Option<Vec<u8>>,
    /// Last detector state with the cursor it belongs to.
    pub(crate) detector: Option<DetectorState>,
    resolved: usize,
}

/// State of the detections in the middle of something, with the cursor at which it was true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetectorState {
    /// Cursor of the mark that brought the state.
    pub cursor: Vec<u8>,
    /// The state, opaque.
    pub state: Vec<u8>,
}

impl Book {
    pub(crate) fn from_parts(findings: Vec<Finding>, cursor: Option<Vec<u8>>, detector: Option<DetectorState>) -> Self {
        let resolved = findings.iter().filter(|f| f.state == FindingState::Resolved).count();
        Self { findings: findings.into_iter().map(|f| (f.key(), f)).collect(), cursor, detector, resolved }
    }

    pub(crate) fn apply(&mut self, body: &EventBody) {
        let Some(finding) = body.finding() else { return };
        let is_resolved = |f: &Finding| f.state == FindingState::Resolved;
        self.resolved += usize::from(is_resolved(finding));
        if let Some(old) = self.findings.insert(finding.key(), finding.clone()) {
            self.resolved -= usize::from(is_resolved(&old));
        }
        if self.resolved > RESOLVED_MAX {
            let oldest = self.findings.values().filter(|f| is_resolved(f)).min_by_key(|f| (f.changed_at, f.key()));
            if let Some(key) = oldest.map(Finding::key) {
                self.findings.remove(&key);
                self.resolved -= 1;
            }
        }
    }

    pub(crate) fn mark(&mut self, mark: &AuditMark) {
        if let Some(state) = &mark.detector {
            self.detector = Some(DetectorState { cursor: mark.cursor.clone(), state: state.clone() });
        }
        self.cursor = Some(mark.cursor.clone());
    }

    pub(crate) fn live(&self) -> impl Iterator<Item = &Finding> {
        self.findings.values().filter(|f| f.state != FindingState::Resolved)
    }

    /// What these verdicts change. Of several verdicts with one identity the weightiest counts. A live
    /// finding that no verdict speaks of no longer applies, if all there is to say of its control was `said`.
    pub(crate) fn changes(&self, verdicts: &[Verdict], said: impl Fn(&str) -> bool, now: Timestamp) -> Vec<Transition> {
        let mut by_key: BTreeMap<FindingKey, Verdict> = BTreeMap::new();
        for verdict in verdicts {
            let mut verdict = verdict.clone();
            fit::verdict(&mut verdict);
            let key = FindingKey { control: verdict.control.clone(), subject: verdict.subject.clone() };
            match by_key.get(&key) {
                Some(other) if other.status.weight() >= verdict.status.weight() => {}
                _ => {
                    by_key.insert(key, verdict);
                }
            }
        }
        let mut changes: Vec<Transition> =
            by_key.iter().filter_map(|(key, verdict)| transition(self.findings.get(key), verdict, now)).collect();
        for finding in self.live().filter(|finding| said(&finding.control)) {
            if !by_key.contains_key(&finding.key()) {
                changes.extend(transition(Some(finding), &gone(finding), now));
            }
        }
        changes
    }
}

fn gone(finding: &Finding) -> Verdict {
    Verdict {
        control: finding.control.clone(),
        subject: finding.subject.clone(),
        status: Status::NotApplicable,
        severity: finding.severity,
        title: finding.title.clone(),
        observed: "no longer applies".to_owned(),
        expected: finding.expected.clone(),
        state: None,
        evidence: Vec::new(),
        cis: BTreeMap::new(),
        remedy: finding.remedy.clone(),
    }
}
