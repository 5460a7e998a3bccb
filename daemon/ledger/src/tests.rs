//! The ledger against a model: power cuts, full disks, flipped bits, pressure.

mod fake;
mod format;
mod model;
mod recovery;
mod rules;

use jiff::Timestamp;
use picket_model::{
    Detection, Event, EventBody, Finding, FindingKey, FindingState, ObjectRef, Severity, Status, Verdict,
};
use std::collections::BTreeMap;

use crate::{AuditMark, Ledger, Limits, Recovery};
use fake::FakeDisk;

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

pub(crate) fn detection(id: u64, severity: Severity, padding: usize) -> EventBody {
    EventBody::Detection {
        detection: Detection {
            rule: "rule".into(),
            severity,
            title: "t".into(),
            file: "/log".into(),
            line: id,
            audit_id: id.to_string(),
            audit_ids: vec![],
            user: "u".repeat(padding),
            impersonated: None,
            source: None,
            forgeable_sources: vec![],
            verb: "get".into(),
            object: ObjectRef::default(),
            outcome: String::new(),
            code: None,
            time: at(1),
            last_time: at(1),
            count: 1,
            mitre: vec![],
        },
    }
}

pub(crate) fn mark(cursor: u64) -> AuditMark {
    AuditMark { cursor: cursor.to_string().into_bytes(), detector: None }
}

pub(crate) fn cursor(ledger: &Ledger) -> u64 {
    ledger.audit_cursor().map_or(0, |c| std::str::from_utf8(c).unwrap().parse().unwrap())
}

pub(crate) fn verdict(subject: u64, status: Status, observed: &str) -> Verdict {
    Verdict {
        control: "control".into(),
        subject: subject.to_string(),
        status,
        severity: Severity::High,
        title: "title".into(),
        observed: observed.into(),
        expected: "good".into(),
        state: None,
        evidence: vec![],
        cis: BTreeMap::new(),
        remedy: "mend it".into(),
    }
}

pub(crate) fn small() -> Limits {
    Limits { outbox_bytes: 1024 * 1024, segment_bytes: 4096, waiting_bytes: 1024 * 1024 }
}

pub(crate) fn open(disk: &FakeDisk, limits: Limits) -> (Ledger, Recovery) {
    Ledger::open_on(disk.handle(), std::path::Path::new("/fake"), limits, at(5)).unwrap()
}

/// A collector: takes what is read, in order, and remembers.
#[derive(Debug, Default)]
pub(crate) struct Sink {
    pub(crate) cursor: u64,
    pub(crate) events: Vec<Event>,
    pub(crate) findings: BTreeMap<FindingKey, Finding>,
    /// Numbers given up.
    pub(crate) missing: u64,
}

impl Sink {
    /// Reads one batch. Returns whether there was anything.
    pub(crate) fn pull(&mut self, ledger: &mut Ledger, events: usize, bytes: usize) -> bool {
        let batch = ledger.read_after(picket_model::Seq(self.cursor), events, bytes).unwrap();
        assert!(batch.events.len() <= events);
        for event in batch.events {
            let seq = event.seq.0;
            assert!(seq > self.cursor, "{seq} after {}", self.cursor);
            if seq > self.cursor + 1 {
                assert!(batch.given_up_through.0 >= seq - 1, "hole before {seq} is not announced");
                self.missing += seq - self.cursor - 1;
            } else if let Some(before) = self.events.last() {
                assert!(event.follows(before.hash), "chain broken at {seq}");
            }
            if let Some(finding) = event.body.finding() {
                self.findings.insert(finding.key(), finding.clone());
            }
            self.cursor = seq;
            self.events.push(event);
        }
        batch.given_up_through.0 > 0 || self.events.last().is_some_and(|e| e.seq.0 + 1 < ledger.next_seq().0)
    }

    pub(crate) fn drain(&mut self, ledger: &mut Ledger) {
        while self.cursor + 1 < ledger.next_seq().0 {
            let before = self.cursor;
            self.pull(ledger, 7, 3000);
            assert!(self.cursor > before, "reading does not get on after {before}, next {}", ledger.next_seq());
        }
    }

    pub(crate) fn live(&self) -> Vec<Finding> {
        self.findings.values().filter(|f| f.state != FindingState::Resolved).cloned().collect()
    }

    pub(crate) fn detections(&self) -> Vec<u64> {
        self.events
            .iter()
            .filter_map(|e| match &e.body {
                EventBody::Detection { detection } => Some(detection.line),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn told_lost(&self) -> u64 {
        self.events
            .iter()
            .filter_map(|e| match &e.body {
                EventBody::Gap { gap } => Some(gap.count),
                _ => None,
            })
            .sum()
    }
}
