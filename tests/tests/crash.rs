//! `kill -9` of either side at random points; the collector's history must hold every event exactly once.
//!
//! `PICKET_CRASH_ROUNDS` sets the number of rounds (50 in the slow stage of `.ci/run`, a few here); the seed is printed
//! and can be given back in `PICKET_CRASH_SEED`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

use picket_tests::fleet::Fleet;
use picket_tests::node::{DATA_DIR, Profile};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

#[test]
fn every_event_is_reported_exactly_once_whoever_dies_when() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let rounds = number("PICKET_CRASH_ROUNDS").unwrap_or(6);
    let seed = number("PICKET_CRASH_SEED").unwrap_or_else(rand::random);
    println!("PICKET_CRASH_ROUNDS={rounds} PICKET_CRASH_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);

    let mut fleet = Fleet::start(Profile::HardenedServer).unwrap();
    let keys: Vec<String> = ["client-admin", "client-controller", "client-scheduler", "serving-kube-apiserver"]
        .map(|name| format!("{DATA_DIR}/server/tls/{name}.key"))
        .into();
    let log = format!("{DATA_DIR}/server/logs/audit.log");
    let mut listings = 0_u32;
    for round in 0..rounds {
        for _ in 0..random.random_range(1..8) {
            let key = &keys[random.random_range(0..keys.len())];
            fleet.node.chmod(key, if random.random() { 0o600 } else { 0o644 }).unwrap();
            if random.random_bool(0.3) {
                listings += 1;
                fleet.node.append(&log, event(listings)).unwrap();
            }
            // Not a synchronisation: the crash must hit different points of the work.
            std::thread::sleep(std::time::Duration::from_millis(random.random_range(0..120)));
        }
        match random.random_range(0..3) {
            0 => {
                fleet.daemon.kill();
                fleet.daemon.start().unwrap();
            }
            1 => {
                fleet.collector.kill();
                fleet.collector.restart().unwrap();
            }
            _ => {
                fleet.daemon.kill();
                fleet.collector.kill();
                fleet.collector.restart().unwrap();
                fleet.daemon.start().unwrap();
            }
        }
        println!("round {round} of {rounds} done");
    }

    // The end state must be known everywhere: loosen one key, mend the others.
    for key in &keys {
        fleet.node.chmod(key, 0o600).unwrap();
    }
    fleet.node.chmod(&keys[0], 0o644).unwrap();
    fleet
        .finding("the last loosened key is found", |f| f["subject"] == keys[0].as_str() && f["state"] == "open")
        .unwrap();
    picket_tests::wait::until("the mended keys are not open any more", || {
        let findings = fleet.findings(&["--status", "open"]).ok()?;
        (!keys[1..].iter().any(|k| findings.iter().any(|f| f["subject"] == k.as_str()))).then_some(())
    })
    .unwrap();
    fleet.settled().unwrap();
    let events = fleet.check_exactly_once().unwrap();
    println!("{events} events, each exactly once");

    // Each listing was by a user of its own: none may be missing, none may be there twice.
    let users = || -> Option<Vec<String>> {
        let args = ["detections", "--control", "secret-list-cluster-wide"];
        let detections = fleet.collector.get(&fleet.operator, &args).ok()?;
        let user = |d: &serde_json::Value| Some(d["detection"]["user"].as_str()?.to_owned());
        let mut users: Vec<String> = detections.iter().filter_map(user).collect();
        users.sort_unstable();
        Some(users)
    };
    // An outbox may be empty because the log was not read yet.
    let users = picket_tests::wait::until("every listing is at the collector", || {
        users().filter(|users| users.len() >= usize::try_from(listings).unwrap_or(usize::MAX))
    })
    .unwrap();
    let mut expected: Vec<String> = (1..=listings).map(|n| format!("mallory-{n}")).collect();
    expected.sort_unstable();
    assert_eq!(users, expected);
}

fn event(number: u32) -> String {
    format!(
        r#"{{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"00000000-0000-4000-8000-{number:012}","stage":"ResponseComplete","requestURI":"/api/v1/secrets?limit=500","verb":"list","user":{{"username":"mallory-{number}","groups":["system:authenticated"]}},"sourceIPs":["203.0.113.9"],"userAgent":"kubectl/v1.33.1","objectRef":{{"resource":"secrets","apiVersion":"v1"}},"responseStatus":{{"metadata":{{}},"code":200}},"requestReceivedTimestamp":"2026-11-22T01:29:00.000000Z","stageTimestamp":"2026-11-22T01:29:00.010000Z","annotations":{{"authorization.k8s.io/decision":"allow"}}}}
"#
    )
}
