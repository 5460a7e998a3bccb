//! How many findings a second become durable, beside raw sled writing the same bytes, and how fast queries are meanwhile.
//!
//! `cargo run --release -p picket-collector --example ingest -- [--events N] [--nodes N] [--batch N] [--dir FOLDER]`
//!
//! The folder should be on the disk that is to be measured. Everything is written below it and removed again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    unreachable_pub,
    missing_docs,
    reason = "a measurement, not a program"
)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use picket_collector::writer::{Writer, WriterSettings};
use picket_model::{
    ChainHash, Epoch, Event, EventBody, EventKind, Evidence, Finding, FindingState, NodeId, Seq, Severity,
};
use picket_service::clock::SystemClock;
use picket_store::{
    Batch, Delivery, DiskSettings, Engine, EventQuery, FindingQuery, KvStore, MemoryEngine, Order, Scope, Store,
    StoreError, Visit, open,
};

#[derive(Debug, Clone)]
struct Options {
    events: u64,
    nodes: u64,
    batch: u64,
    dir: PathBuf,
}

fn options() -> Options {
    let mut options =
        Options { events: 600_000, nodes: 1000, batch: 64, dir: std::env::temp_dir().join("picket-ingest") };
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let value = args.next().expect("a value after each option");
        let number = || value.parse().expect("a number");
        match name.as_str() {
            "--events" => options.events = number(),
            "--nodes" => options.nodes = number(),
            "--batch" => options.batch = number(),
            "--dir" => options.dir = PathBuf::from(&value),
            other => panic!("unknown option {other}"),
        }
    }
    options
}

fn node(n: u64) -> NodeId {
    let mut bytes = [0x42; 16];
    bytes[..8].copy_from_slice(&n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    NodeId::from_bytes(bytes)
}

fn epoch() -> Epoch {
    Epoch::from_bytes([7; 16])
}

/// A finding as the catalogue makes them: some 450 bytes of text. Each node has forty that come and go.
fn event(seq: u64) -> Event {
    let control = seq % 40;
    let open = (seq / 40).is_multiple_of(2);
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    let finding = Finding {
        control: format!("sysctl-kernel-parameter-{control}"),
        subject: format!("kernel.parameter_{control}"),
        state: if open { FindingState::Open } else { FindingState::Resolved },
        severity: Severity::ALL[usize::try_from(control % 5).unwrap()],
        title: "The kernel log is readable by every user of the node".to_owned(),
        observed: format!("kernel.parameter_{control} = {seq}"),
        expected: format!("kernel.parameter_{control} = 1"),
        config_state: None,
        evidence: vec![
            Evidence::at(format!("/proc/sys/kernel/parameter_{control}"), format!("read {seq}")).layer("kernel"),
            Evidence::at("/etc/sysctl.d/90-kubelet.conf", "the line that wins at the next start").line(3),
        ],
        remedy: "Write the expected value to a file in /etc/sysctl.d and load it with sysctl --system.".to_owned(),
        opened_at: now,
        changed_at: now,
        reopened: 0,
        stale: false,
    };
    let body = if open { EventBody::FindingOpened { finding } } else { EventBody::FindingResolved { finding } };
    // The chain of hashes is the session's work and is not measured here.
    Event { epoch: epoch(), seq: Seq(seq), time: now, body, hash: ChainHash([u8::try_from(seq % 251).unwrap(); 32]) }
}

fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

/// An engine that notes the batches which it is given, and after which of them the store syncs.
#[derive(Debug, Default)]
struct Recorder {
    memory: MemoryEngine,
    batches: Arc<Mutex<Vec<Option<Batch>>>>,
}

impl Engine for Recorder {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.memory.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], order: Order, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.memory.scan(from, to, order, visit)
    }

    fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        self.batches.lock().unwrap().push(Some(batch.clone()));
        self.memory.apply(batch)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.batches.lock().unwrap().push(None);
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}

/// Raw sled with the same keys, values, batches and syncs. Events a second.
fn yardstick(options: &Options, events: u64) -> f64 {
    let recorder = Recorder::default();
    let batches = Arc::clone(&recorder.batches);
    let store = KvStore::new(recorder).unwrap();
    let group = 2048 / options.batch;
    let (mut made, mut next) = (0, vec![1u64; usize::try_from(options.nodes).unwrap()]);
    let mut n = 0;
    while made < events {
        let deliveries = (0..group)
            .map(|_| {
                n = (n + 1) % options.nodes;
                let first = &mut next[usize::try_from(n).unwrap()];
                let events = (*first..*first + options.batch).map(event).collect();
                *first += options.batch;
                made += options.batch;
                Delivery { node: node(n), epoch: epoch(), events, given_up_through: Seq::ZERO }
            })
            .collect();
        store.commit(Timestamp::now(), deliveries).unwrap();
    }
    drop(store);
    let batches = std::mem::take(&mut *batches.lock().unwrap());
    let path = options.dir.join("yardstick");
    let db = sled_of(&path);
    let log = File::open(path.join("db")).unwrap();
    let start = Instant::now();
    for batch in batches {
        match batch {
            Some(batch) => {
                let mut writes = sled::Batch::default();
                for (key, value) in batch.writes() {
                    match value {
                        Some(value) => writes.insert(key, value),
                        None => writes.remove(key),
                    }
                }
                db.apply_batch(writes).unwrap();
            }
            None => {
                db.flush().unwrap();
                log.sync_data().unwrap();
            }
        }
    }
    made as f64 / start.elapsed().as_secs_f64()
}

fn sled_of(path: &Path) -> sled::Db {
    let cache = DiskSettings::default().cache_bytes;
    sled::Config::new().path(path).cache_capacity(cache).flush_every_ms(Some(500)).open().unwrap()
}

type Ask = (&'static str, fn(&dyn Store, u64, u64));

const QUESTIONS: [Ask; 5] = [
    ("newest 100 of the history", |store, _, _| {
        assert_eq!(store.events(&EventQuery { limit: 100, ..EventQuery::default() }).unwrap().events.len(), 100);
    }),
    ("newest 100 of a node", |store, n, nodes| {
        let scope = Scope::Nodes([node(n % nodes)].into());
        store.events(&EventQuery { limit: 100, scope, ..EventQuery::default() }).unwrap();
    }),
    ("findings of a node", |store, n, nodes| {
        let scope = Scope::Nodes([node(n % nodes)].into());
        store.findings(&FindingQuery { limit: 500, scope, ..FindingQuery::default() }).unwrap();
    }),
    ("100 critical findings of all nodes", |store, _, _| {
        let query = FindingQuery { limit: 100, min_severity: Some(Severity::Critical), ..FindingQuery::default() };
        store.findings(&query).unwrap();
    }),
    ("detections, of which there are none", |store, _, _| {
        let kinds = vec![EventKind::Detection];
        assert!(store.events(&EventQuery { limit: 100, kinds, ..EventQuery::default() }).unwrap().events.is_empty());
    }),
];

fn ask(store: &dyn Store, nodes: u64, when: &str, mut go_on: impl FnMut(usize) -> bool) {
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); QUESTIONS.len()];
    let mut round = 0;
    while go_on(round) {
        for ((_, question), times) in QUESTIONS.iter().zip(&mut times) {
            let start = Instant::now();
            question(store, round as u64 * 7919, nodes);
            times.push(start.elapsed());
        }
        round += 1;
    }
    for ((name, _), mut times) in QUESTIONS.iter().zip(times) {
        times.sort_unstable();
        let at = |share: usize| times.get(times.len() * share / 100).or(times.last()).copied().unwrap_or_default();
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        println!("  {when}: {name:38} p50 {:8.3} ms, p99 {:8.3} ms", ms(at(50)), ms(at(99)));
    }
}

fn main() {
    let options = options();
    drop(std::fs::remove_dir_all(&options.dir));
    std::fs::create_dir_all(&options.dir).unwrap();
    println!(
        "{} findings of {} nodes in batches of {}, below {}",
        options.events,
        options.nodes,
        options.batch,
        options.dir.display()
    );

    let path = options.dir.join("history");
    let store = Arc::new(open(&path, DiskSettings::default()).unwrap());
    let (done, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let watcher = std::thread::spawn({
        let (store, stop, done) = (Arc::clone(&store), Arc::clone(&stop), Arc::clone(&done));
        let nodes = options.nodes;
        move || {
            while done.load(Ordering::Relaxed) < 1000 {
                std::thread::sleep(Duration::from_millis(5));
            }
            // Not a second load, only a look now and then.
            ask(store.as_ref(), nodes, "under load", |_| {
                std::thread::sleep(Duration::from_millis(100));
                !stop.load(Ordering::Relaxed)
            });
        }
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (writer, thread) =
        Writer::start(Arc::clone(&store) as Arc<dyn Store>, Arc::new(SystemClock), WriterSettings::default()).unwrap();
    let start = Instant::now();
    let per_node = options.events.div_ceil(options.nodes);
    runtime.block_on(async {
        let tasks: Vec<_> = (0..options.nodes)
            .map(|n| {
                let (writer, done, batch) = (writer.clone(), Arc::clone(&done), options.batch);
                tokio::spawn(async move {
                    let mut seq = 1;
                    while seq <= per_node {
                        let last = (seq + batch - 1).min(per_node);
                        let events: Vec<_> = (seq..=last).map(event).collect();
                        let durable = writer.submit(node(n), epoch(), events, Seq::ZERO).await.unwrap();
                        assert_eq!(durable.through, Seq(last));
                        done.fetch_add(last - seq + 1, Ordering::Relaxed);
                        seq = last + 1;
                    }
                })
            })
            .collect();
        let report = async {
            let mut next = 0;
            loop {
                let now = done.load(Ordering::Relaxed);
                if now >= next {
                    println!(
                        "  {now:9} durable after {:6.2} s, resident {:6.1} MiB",
                        start.elapsed().as_secs_f64(),
                        resident_mib()
                    );
                    next = now + options.events / 10;
                }
                if now >= per_node * options.nodes {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        report.await;
        for task in tasks {
            task.await.unwrap();
        }
    });
    let rate = (per_node * options.nodes) as f64 / start.elapsed().as_secs_f64();
    let commits = writer.stats().commits;
    stop.store(true, Ordering::Relaxed);
    watcher.join().unwrap();
    ask(store.as_ref(), options.nodes, "at rest   ", |round| round < 300);
    drop(writer);
    thread.join().unwrap();
    let mib = store.stats().disk_bytes as f64 / 1024.0 / 1024.0;
    println!(
        "picket:   {rate:9.0} durable findings/s, {commits} commits, {mib:.0} MiB on disk, resident {:.1} MiB",
        resident_mib()
    );
    drop(store);

    let events = options.events.min(200_000);
    let raw = yardstick(&options, events);
    println!("raw sled: {raw:9.0} findings/s, same keys, values, batches and syncs ({events} findings)");
    println!("ratio:    {:9.2}", rate / raw);
    drop(std::fs::remove_dir_all(&options.dir));
}
