//! A full posture evaluation of a sample server, warm, stage by stage.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on fails")]

use std::sync::Arc;

use picket_checks::{Policy, evaluate};
use picket_host::Host;
use picket_service::clock::FixedClock;
use picket_tests::node::{MOMENT, Profile, SampleNode};
use picketd::source::{Ask, Memory, Source, observe, refresh, watches};

fn main() {
    divan::main();
}

struct Bed {
    _dir: tempfile::TempDir,
    host: Host,
    policy: Policy,
    memory: Memory,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        SampleNode::build(Profile::HardenedServer, &root).unwrap();
        let host = Host::rooted(&root, Arc::new(FixedClock(MOMENT.parse().unwrap())));
        let host = host.and_then(|host| host.with_proc("/proc".as_ref())).unwrap();
        Self { _dir: dir, host, policy: picketd::rules::policy().unwrap(), memory: Memory::none() }
    }

    fn ask(&self) -> Ask<'_> {
        Ask { role: None, memory: &self.memory, catalogue: &self.policy.catalogue }
    }
}

#[divan::bench]
fn read_the_catalogue() -> Policy {
    picketd::rules::policy().unwrap()
}

#[divan::bench]
fn observe_everything(bencher: divan::Bencher<'_, '_>) {
    let bed = Bed::new();
    bencher.bench_local(|| observe(&bed.host, &bed.ask()));
}

#[divan::bench(args = Source::ALL, sample_count = 20)]
fn observe_one(bencher: divan::Bencher<'_, '_>, source: Source) {
    let bed = Bed::new();
    let mut seen = observe(&bed.host, &bed.ask());
    bencher.bench_local(|| refresh(&bed.host, &bed.ask(), &mut seen, [source]));
}

#[divan::bench]
fn judge_everything(bencher: divan::Bencher<'_, '_>) {
    let bed = Bed::new();
    let seen = observe(&bed.host, &bed.ask());
    bencher.bench_local(|| evaluate(&seen.snapshot, &bed.policy));
}

#[divan::bench]
fn observe_and_judge(bencher: divan::Bencher<'_, '_>) {
    let bed = Bed::new();
    bencher.bench_local(|| evaluate(&observe(&bed.host, &bed.ask()).snapshot, &bed.policy));
}

#[divan::bench]
fn name_the_folders_to_watch(bencher: divan::Bencher<'_, '_>) {
    let bed = Bed::new();
    let seen = observe(&bed.host, &bed.ask());
    bencher.bench_local(|| watches(&bed.host, &bed.policy.catalogue, &seen));
}
