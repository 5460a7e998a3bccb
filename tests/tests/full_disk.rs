//! A full disk under the collector's history stops nobody and loses nothing; one under the node's state degrades and never stops the daemon; what was lost says so.
//!
//! Mounts a small tmpfs, so it needs root (as `.ci/run` has it); without it the test fails and says so.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use picket_tests::binaries::Binaries;
use picket_tests::collector::Collector;
use picket_tests::daemon::Daemon;
use picket_tests::node::{Profile, SampleNode};
use picket_tests::wait;

struct SmallDisk(PathBuf);

impl SmallDisk {
    fn at(dir: &Path, megabytes: u32) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        mount(
            Some("tmpfs"),
            dir,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(format!("size={megabytes}m,mode=0700").as_str()),
        )
        .expect("mounting a tmpfs needs root");
        Self(dir.to_owned())
    }

    fn fill(&self) -> PathBuf {
        let file = self.0.join("ballast");
        // Fails when the disk is full, which is the point.
        drop(std::fs::write(&file, vec![0; 64 << 20]));
        file
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).ok();
    }
}

#[test]
fn a_full_disk_neither_stops_the_daemon_nor_loses_the_state_of_a_finding() {
    let binaries = Binaries::build(false).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(&binaries, &dir.path().join("collector")).unwrap();
    let operator = collector.operator("test", "admin").unwrap();
    let node = SampleNode::build_now(Profile::Agent, &dir.path().join("node")).unwrap();
    let disk = SmallDisk::at(&dir.path().join("picketd/state"), 1);
    let mut daemon = Daemon::new(&binaries, &dir.path().join("picketd"), node.root()).unwrap();
    daemon.enroll(&collector, &collector.token(&[]).unwrap()).unwrap();
    daemon.start().unwrap();
    wait::until("the first findings are at the collector", || {
        collector.get(&operator, &["findings"]).ok().filter(|f| !f.is_empty())
    })
    .unwrap();

    let ballast = disk.fill();
    let path = "/etc/rancher/node/password";
    node.chmod(path, 0o644).unwrap();
    wait::until("the daemon says that its disk is full", || {
        let status = String::from_utf8(daemon.status().ok()?.stdout).ok()?.to_lowercase();
        (status.contains("disk") || status.contains("no space")).then_some(())
    })
    .unwrap();
    daemon.process().unwrap().check_alive().unwrap();

    std::fs::remove_file(ballast).unwrap();
    wait::until("the change made on the full disk arrives", || {
        let findings = collector.get(&operator, &["findings"]).ok()?;
        findings.iter().any(|f| f["subject"] == path && f["state"] == "open").then_some(())
    })
    .unwrap();
    daemon.stop().unwrap();
}

#[test]
fn a_full_disk_at_the_collector_is_told_and_loses_nothing() {
    let binaries = Binaries::build(false).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::at(&dir.path().join("collector/state"), 48);
    let mut collector = Collector::start(&binaries, &dir.path().join("collector")).unwrap();
    let operator = collector.operator("test", "admin").unwrap();
    let node = SampleNode::build_now(Profile::Agent, &dir.path().join("node")).unwrap();
    let mut daemon = Daemon::new(&binaries, &dir.path().join("picketd"), node.root()).unwrap();
    daemon.enroll(&collector, &collector.token(&[]).unwrap()).unwrap();
    daemon.start().unwrap();
    wait::until("the first findings are at the collector", || {
        collector.get(&operator, &["findings"]).ok().filter(|f| !f.is_empty())
    })
    .unwrap();

    let ballast = disk.fill();
    let path = "/etc/rancher/node/password";
    let mut mode = 0o644;
    wait::until("the collector says that its disk is full", || {
        // sled writes into what it has set aside before it needs more of the disk.
        node.chmod(path, mode).ok()?;
        mode ^= 0o044;
        std::fs::read_to_string(collector.log()).ok()?.contains("the store failed").then_some(())
    })
    .unwrap();
    node.chmod(path, 0o666).unwrap();
    collector.check_alive().unwrap();
    daemon.process().unwrap().check_alive().unwrap();

    std::fs::remove_file(ballast).unwrap();
    // It ends by itself, and the service manager starts it again.
    let said = wait::until("the collector asks for a new start", || collector.check_alive().err()).unwrap();
    assert!(said.to_string().contains("there is room on its disk now"), "{said}");
    collector.restart().unwrap();
    wait::until("the change made on the full disk arrives", || {
        let findings = collector.get(&operator, &["findings"]).ok()?;
        let found = findings.iter().find(|f| f["subject"] == path && f["state"] == "open")?;
        found["observed"].as_str()?.contains("0666").then_some(())
    })
    .unwrap();
    let mut last = std::collections::BTreeMap::new();
    for event in collector.get(&operator, &["history"]).unwrap().iter().rev() {
        let seq = event["seq"].as_u64().unwrap();
        let before = last.insert(event["epoch"].to_string(), seq).unwrap_or(0);
        assert_eq!(seq, before + 1, "{event}");
    }
    daemon.stop().unwrap();
}
