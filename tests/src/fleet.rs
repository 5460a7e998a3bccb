//! One collector and one node in a few lines: what most whole-system tests begin with.

use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;

use crate::binaries::Binaries;
use crate::collector::Collector;
use crate::daemon::Daemon;
use crate::node::{Profile, SampleNode};
use crate::wait;

/// A collector, an operator, a sample node and its enrolled daemon.
#[derive(Debug)]
pub struct Fleet {
    /// The collector.
    pub collector: Collector,
    /// The node's tree.
    pub node: SampleNode,
    /// Its daemon.
    pub daemon: Daemon,
    /// An administrator's file.
    pub operator: PathBuf,
    // Dropped last: the processes above live in it.
    _dir: TempDir,
}

impl Fleet {
    /// Builds the programs, starts a collector, makes a node of the profile, enrols and starts its daemon, and waits
    /// until the first findings are at the collector.
    ///
    /// # Errors
    /// Whatever does not come up.
    pub fn start(profile: Profile) -> anyhow::Result<Self> {
        let binaries = Binaries::build(false)?;
        let dir = tempfile::tempdir()?;
        let collector = Collector::start(&binaries, &dir.path().join("collector"))?;
        let node = SampleNode::build_now(profile, &dir.path().join("node"))?;
        let mut daemon = Daemon::new(&binaries, &dir.path().join("picketd"), node.root())?;
        daemon.enroll(&collector, &collector.token(&["site=berlin"])?)?;
        daemon.start()?;
        let operator = collector.operator("test", "admin")?;
        let fleet = Self { collector, node, daemon, operator, _dir: dir };
        wait::until("the first findings are at the collector", || {
            fleet.findings(&[]).ok().filter(|f| !f.is_empty()).map(|_| ())
        })?;
        fleet.settled()?;
        Ok(fleet)
    }

    /// `picketctl get findings ARGS -o json`.
    ///
    /// # Errors
    /// What picketctl says.
    pub fn findings(&self, args: &[&str]) -> anyhow::Result<Vec<Value>> {
        let mut all = vec!["findings"];
        all.extend(args);
        self.collector.get(&self.operator, &all)
    }

    /// Every event the collector holds, oldest first.
    ///
    /// # Errors
    /// What picketctl says.
    pub fn history(&self) -> anyhow::Result<Vec<Value>> {
        let mut events = self.collector.get(&self.operator, &["history"])?;
        events.reverse();
        Ok(events)
    }

    /// Waits until the collector has everything the node has.
    ///
    /// # Errors
    /// When it does not get there.
    pub fn settled(&self) -> anyhow::Result<()> {
        wait::until("the node has nothing left to send", || {
            let status: Value = serde_json::from_slice(&self.daemon.status_json().ok()?.stdout).ok()?;
            (status["outbox"]["waiting"].as_u64() == Some(0)).then_some(())
        })
    }

    /// Waits for a finding that `matches` and gives it.
    ///
    /// # Errors
    /// When none comes.
    pub fn finding(&self, what: &str, matches: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        wait::until(what, || self.findings(&["--status", "all"]).ok()?.into_iter().find(|f| matches(f)))
    }

    /// Checks the collector's history of the node: every number from 1 on exactly once per epoch, in order.
    ///
    /// # Errors
    /// A hole, a duplicate, or disorder.
    pub fn check_exactly_once(&self) -> anyhow::Result<usize> {
        let mut last: std::collections::BTreeMap<(String, String), u64> = std::collections::BTreeMap::new();
        let events = self.history()?;
        for event in &events {
            let key = (event["node_id"].to_string(), event["epoch"].to_string());
            let seq = event["seq"].as_u64().unwrap_or_default();
            let before = last.insert(key.clone(), seq).unwrap_or(0);
            anyhow::ensure!(seq == before + 1, "epoch {}: {seq} follows {before}", key.1);
        }
        Ok(events.len())
    }
}
