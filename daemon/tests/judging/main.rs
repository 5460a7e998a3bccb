//! Judging whole sample nodes: benchmark reports, controls and waivers of administrators, nodes that are laid out
//! differently, and judging again after a change.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod again;
mod audit;
mod benchmark;
mod chains;
mod engine;
mod kubelet;
mod local;
mod nodes;

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use picket_checks::Policy;
use picket_host::Host;
use picket_model::Verdict;
use picket_service::clock::FixedClock;
use picket_tests::node::{MOMENT, Profile, SampleNode};
use picketd::cmd::scan::scan;
use picketd::report::{Form, Report};
use picketd::source::{Ask, Memory};
use serde_json::Value;
use tempfile::TempDir;

/// A sample node in a folder of its own.
struct Node {
    _dir: TempDir,
    sample: SampleNode,
}

impl Node {
    fn new(profile: Profile) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sample = SampleNode::build(profile, &dir.path().join("root")).unwrap();
        Self { _dir: dir, sample }
    }

    fn host(&self) -> Host {
        host(self.sample.root())
    }

    fn scan(&self, policy: &Policy) -> Report {
        let (host, memory) = (self.host(), Memory::none());
        scan(&host, &Ask { role: None, memory: &memory, catalogue: &policy.catalogue }, policy)
    }
}

fn host(root: &Path) -> Host {
    Host::rooted(root, Arc::new(FixedClock(moment()))).unwrap()
}

fn moment() -> Timestamp {
    MOMENT.parse().unwrap()
}

fn built_in() -> Policy {
    picketd::rules::policy().unwrap()
}

fn printed(report: &Report, form: Form) -> String {
    let mut out = Vec::new();
    report.print(form, Default::default(), &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn json(report: &Report) -> Value {
    serde_json::from_str(&printed(report, Form::Json)).unwrap()
}

fn rows<'a>(report: &'a Report, control: &str) -> Vec<&'a Verdict> {
    let rows: Vec<_> = report.verdicts.iter().filter(|v| v.control == control).collect();
    assert!(!rows.is_empty(), "no row of {control}");
    rows
}
