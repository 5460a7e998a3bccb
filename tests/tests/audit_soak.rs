//! The audit log under load and `kill -9`: what arrives is what an undisturbed run over the same files finds.
//!
//! `PICKET_SOAK_SECONDS` sets how long the writer writes (8 by default), `PICKET_SOAK_RATE` its events a second (1000; the
//! nightly run takes 5000), `PICKET_SOAK_SEED` repeats a run.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use flate2::write::GzEncoder;
use jiff::{SignedDuration, Timestamp};
use picket_tests::binaries::Binaries;
use picket_tests::fleet::Fleet;
use picket_tests::node::{DATA_DIR, Profile};
use picket_tests::wait;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

/// Rotates at this size: several times in a short run.
const ROTATE_AT: u64 = 1 << 20;
/// Events that agree on a time of the future: a single one is not believed.
const CLOSERS: u64 = 16;

/// Writes as the API server's log backend does: appends whole lines; when the file is full it renames it, makes a new
/// one, and packs the old one beside it before it removes it.
struct Writer {
    path: PathBuf,
    file: File,
    size: u64,
    packers: Vec<JoinHandle<io::Result<()>>>,
}

impl Writer {
    fn new(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(&path)?;
        let size = file.metadata()?.len();
        Ok(Self { path, file, size, packers: Vec::new() })
    }

    fn write(&mut self, lines: &str) -> io::Result<()> {
        if self.size + lines.len() as u64 > ROTATE_AT {
            let stamp = Timestamp::now().strftime("%Y-%m-%dT%H-%M-%S.%3f");
            let rotated = self.path.with_file_name(format!("audit-{stamp}.log"));
            fs::rename(&self.path, &rotated)?;
            self.file = OpenOptions::new().append(true).create_new(true).open(&self.path)?;
            self.size = 0;
            self.packers.push(thread::spawn(move || pack(&rotated)));
        }
        self.file.write_all(lines.as_bytes())?;
        self.size += lines.len() as u64;
        Ok(())
    }

    fn finish(self) -> io::Result<usize> {
        let rotations = self.packers.len();
        for packer in self.packers {
            packer.join().expect("packing does not panic")?;
        }
        Ok(rotations)
    }
}

fn pack(path: &Path) -> io::Result<()> {
    let packed = File::create(format!("{}.gz", path.display()))?;
    let mut encoder = GzEncoder::new(packed, flate2::Compression::fast());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?;
    fs::remove_file(path)
}

fn event(number: u64, at: Timestamp, change: &Value) -> String {
    let mut event = json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata",
        "auditID": format!("50a50000-0000-4000-8000-{number:012}"), "stage": "ResponseComplete",
        "requestURI": "/api/v1/namespaces/shop/pods?limit=500", "verb": "list",
        "user": {"username": "system:serviceaccount:shop:web", "groups": ["system:serviceaccounts", "system:authenticated"]},
        "sourceIPs": ["10.42.0.7"], "userAgent": "web/1.0",
        "objectRef": {"resource": "pods", "namespace": "shop", "apiVersion": "v1"},
        "responseStatus": {"metadata": {}, "code": 200},
        "requestReceivedTimestamp": format!("{at:.6}"), "stageTimestamp": format!("{at:.6}"),
        "annotations": {"authorization.k8s.io/decision": "allow", "authorization.k8s.io/reason": ""}
    });
    event.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    format!("{event}\n")
}

/// Mostly ordinary requests, sometimes an attack: single ones, bursts that are rolled up, thresholds.
fn any(number: u64, at: Timestamp, random: &mut StdRng) -> String {
    let who = random.random_range(0..12);
    let mallory = json!({"username": format!("mallory-{who}"), "groups": ["system:authenticated"]});
    let name = format!("thing-{}", random.random_range(0..40));
    let change = match random.random_range(0..400) {
        0 => {
            json!({"user": mallory, "requestURI": "/api/v1/secrets", "objectRef": {"resource": "secrets", "apiVersion": "v1"}})
        }
        1..=3 => {
            json!({"user": mallory, "verb": "get", "objectRef": {"resource": "secrets", "namespace": "shop", "name": name}})
        }
        4 => json!({
            "user": mallory, "verb": "get", "requestURI": "/api/v1/namespaces/shop/pods/web/exec?command=id",
            "objectRef": {"resource": "pods", "subresource": "exec", "namespace": "shop", "name": "web"},
            "responseStatus": {"code": 101}, "stage": "ResponseStarted"
        }),
        5..=8 => json!({
            "user": mallory, "verb": "get", "objectRef": {"resource": "configmaps", "namespace": "shop", "name": name},
            "responseStatus": {"code": 403}, "annotations": {"authorization.k8s.io/decision": "forbid"}
        }),
        9..=60 => json!({"stage": "RequestReceived", "responseStatus": null, "annotations": null}),
        _ => json!({}),
    };
    event(number, at, &change)
}

/// Rule and first audit id, with how many requests were counted: what identifies a detection.
fn counted<'d>(detections: impl IntoIterator<Item = &'d Value>) -> BTreeMap<(String, String), u64> {
    let mut counts = BTreeMap::new();
    // What the last events raise is still counted on.
    for detection in detections.into_iter().filter(|detection| detection["user"] != "closer") {
        let text = |field: &str| detection[field].as_str().unwrap().to_owned();
        let count: &mut u64 = counts.entry((text("rule"), text("audit_id"))).or_default();
        // While it is counted on, a detection is reported again with a higher count.
        *count = (*count).max(detection["count"].as_u64().unwrap());
    }
    counts
}

#[test]
fn kills_and_rotations_change_nothing_of_what_is_detected() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let seconds = number("PICKET_SOAK_SECONDS").unwrap_or(8);
    let rate = number("PICKET_SOAK_RATE").unwrap_or(1000);
    let seed = number("PICKET_SOAK_SEED").unwrap_or_else(rand::random);
    println!("PICKET_SOAK_SECONDS={seconds} PICKET_SOAK_RATE={rate} PICKET_SOAK_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);

    let mut fleet = Fleet::start(Profile::HardenedServer).unwrap();
    let log = fleet.node.path(&format!("{DATA_DIR}/server/logs/audit.log"));
    let folder = log.parent().unwrap().to_owned();
    let mut writer = Writer::new(log).unwrap();
    let writing = Arc::new(AtomicBool::new(true));
    let written = thread::spawn({
        let mut random = StdRng::seed_from_u64(random.random());
        let writing = Arc::clone(&writing);
        move || {
            let (begun, mut done) = (Instant::now(), 0_u64);
            while begun.elapsed() < Duration::from_secs(seconds) {
                let due = u64::try_from(begun.elapsed().as_millis()).unwrap() * rate / 1000;
                while done < due {
                    done += 1;
                    writer.write(&any(done, Timestamp::now(), &mut random)).unwrap();
                }
                // The rhythm of the load, not a synchronisation.
                thread::sleep(Duration::from_millis(2));
            }
            // Far in the future, and often enough to be believed: every window ends, so that all counts are final.
            let end = Timestamp::now() + SignedDuration::from_hours(24 * 31);
            let closer =
                json!({"user": {"username": "closer"}, "objectRef": {"resource": "secrets", "apiVersion": "v1"}});
            for _ in 0..CLOSERS {
                done += 1;
                writer.write(&event(done, end, &closer)).unwrap();
            }
            let rotations = writer.finish().unwrap();
            writing.store(false, Ordering::Release);
            (done, rotations)
        }
    });
    let mut kills = 0;
    while writing.load(Ordering::Acquire) {
        // The kill must hit different points of the work.
        thread::sleep(Duration::from_millis(random.random_range(100..2500)));
        fleet.daemon.kill();
        kills += 1;
        fleet.daemon.start().unwrap();
    }
    let (events, rotations) = written.join().unwrap();
    println!("{events} events, {rotations} rotations, {kills} kills");
    assert!(rotations > 0 || seconds < 5, "the log was never rotated");

    let detections = || -> Option<Vec<Value>> {
        let found = fleet.collector.get(&fleet.operator, &["detections"]).ok()?;
        Some(found.into_iter().map(|d| d["detection"].clone()).collect())
    };
    // As long as reading goes on it may take its time: a debug build on a busy machine is slow. A tenth match is told at
    // once, and by then the time was believed.
    let told = |d: &Value| d["user"] == "closer" && d["count"].as_u64() >= Some(10);
    let is_over = || detections()?.iter().any(told).then_some(());
    let begun = Instant::now();
    while let Err(error) = wait::until("the last event is detected", is_over) {
        let status: Value = serde_json::from_slice(&fleet.daemon.status_json().unwrap().stdout).unwrap();
        let behind = status["audit"]["behind"].as_u64();
        let waiting = status["outbox"]["waiting"].as_u64();
        println!("{behind:?} bytes are not read yet, {waiting:?} events not delivered");
        let goes_on = behind > Some(0) || waiting > Some(0);
        assert!(goes_on && begun.elapsed() < Duration::from_secs(60 + 10 * seconds), "{error}: {status:#}");
    }
    fleet.settled().unwrap();
    fleet.check_exactly_once().unwrap();
    let arrived = detections().unwrap();

    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|path| path.file_name().unwrap().to_string_lossy().starts_with("audit"));
    let no_rules = folder.join("no-rules");
    fs::create_dir(&no_rules).unwrap();
    let undisturbed = Command::new(&Binaries::build(false).unwrap().picketd)
        .args(["audit", "-o", "json", "--rules-dir"])
        .arg(&no_rules)
        .args(&files)
        .output()
        .unwrap();
    println!("{}", String::from_utf8_lossy(&undisturbed.stderr));
    assert!(undisturbed.status.success());
    let expected: Vec<Value> = undisturbed
        .stdout
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    assert!(expected.len() > 10, "{} detections are too few to say anything", expected.len());
    let (arrived, expected) = (counted(&arrived), counted(&expected));
    let missing: Vec<_> = expected.iter().filter(|(key, count)| arrived.get(key) != Some(count)).collect();
    let wrong: Vec<_> = arrived.iter().filter(|(key, count)| expected.get(key) != Some(count)).collect();
    assert!(missing.is_empty() && wrong.is_empty(), "expected {missing:#?}\ngot {wrong:#?}");
    println!("{} detections, the same", expected.len());
}

#[test]
fn a_log_that_is_cut_or_deleted_is_a_detection_at_the_collector() {
    let fleet = Fleet::start(Profile::HardenedServer).unwrap();
    let path = format!("{DATA_DIR}/server/logs/audit.log");
    let lines: String = (1..50).map(|n| event(n, Timestamp::now(), &json!({}))).collect();
    fleet.node.append(&path, &lines).unwrap();
    let read = |what: &str, enough: &dyn Fn(&Value) -> bool| {
        wait::until(what, || {
            let status: Value = serde_json::from_slice(&fleet.daemon.status_json().ok()?.stdout).ok()?;
            enough(&status["audit"]).then_some(())
        })
        .unwrap();
    };
    read("the lines are read", &|audit| audit["events"].as_u64() >= Some(49) && audit["behind"] == 0);
    // Held open, as its writer does.
    let mut held = OpenOptions::new().append(true).open(fleet.node.path(&path)).unwrap();
    held.set_len(0).unwrap();
    let detected = |rule: &str, count: usize| {
        wait::until(rule, || {
            let found = fleet.collector.get(&fleet.operator, &["detections", "--control", rule]).ok()?;
            (found.len() >= count).then_some(found)
        })
        .unwrap()
    };
    let cut = detected("audit-log-tampered", 1);
    assert_eq!(cut[0]["detection"]["file"], path.as_str());
    assert_eq!(cut[0]["detection"]["severity"], "critical");
    held.write_all(b"no event\n").unwrap();
    detected("audit-unparsable-line", 1);

    fs::remove_file(fleet.node.path(&path)).unwrap();
    let listing = json!({"user": {"username": "mallory"}, "objectRef": {"resource": "secrets", "apiVersion": "v1"}});
    held.write_all(event(99, Timestamp::now(), &listing).as_bytes()).unwrap();
    let found = detected("secret-list-cluster-wide", 1);
    assert_eq!(found[0]["detection"]["user"], "mallory", "what is written into the deleted log is still judged");
}
