//! A full disk under the history. Mounts a small tmpfs, so it needs root (as `.ci/run` has it).

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use picket_model::{Seq, Severity};
use picket_store::{DiskSettings, Store, open};
use support::*;

struct SmallDisk(PathBuf);

impl SmallDisk {
    fn at(dir: &Path) -> Self {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m,mode=0700", "tmpfs"]).arg(dir).status();
        assert!(mounted.is_ok_and(|s| s.success()), "mounting a tmpfs needs root");
        Self(dir.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg("--lazy").arg(&self.0).status().ok();
    }
}

#[test]
fn on_a_full_disk_nothing_is_said_to_be_durable_and_what_was_is_there_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let disk = SmallDisk::at(folder.path());
    let path = disk.0.join("history");
    let settings = DiskSettings { cache_bytes: 4 * 1024 * 1024, ..DiskSettings::default() };
    let store = open(&path, settings).unwrap();
    let ballast = disk.0.join("ballast");
    std::fs::write(&ballast, vec![1; 3 << 20]).unwrap();
    let noise = |n: u64| {
        // Does not compress.
        let text: String =
            (0..400u64).map(|i| format!("{:016x}", (n * 1000 + i).wrapping_mul(0x9E37_79B9_7F4A_7C15))).collect();
        let mut body = opened(&format!("c{n}"), Severity::High);
        if let picket_model::EventBody::FindingOpened { finding } = &mut body {
            finding.observed = text;
        }
        body
    };
    let mut durable = Seq::ZERO;
    let mut failed = None;
    for n in 1..=4000u64 {
        match store.commit(at(0), vec![delivery(node(1), epoch(1), n, vec![noise(n)])]) {
            Ok(outcomes) => durable = outcomes.into_iter().next().unwrap().unwrap().through,
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    assert!(failed.is_some_and(|e| e.to_string().contains("free space")) && durable > Seq(10), "{durable}");
    std::fs::remove_file(&ballast).unwrap();
    // sled takes nothing more until it is opened anew, which is why the collector starts anew.
    drop(store);
    let store = open(&path, settings).unwrap();
    let through = store.cursor(node(1), epoch(1)).unwrap().unwrap().through;
    assert!(through >= durable);
    commit(&store, 2, delivery(node(1), epoch(1), through.0 + 1, vec![noise(through.0 + 1)])).unwrap();
}
