//! A log that never repeats itself costs no more than the budget, and the memory is the same after it was stored.

mod hostile_log;

use picket_audit::{Detector, Event, Position, Settings, builtin};
use picket_model::Detection;

const BUDGET: usize = 512 << 10;

fn new() -> Detector {
    Detector::new(builtin().expect("rules"), Settings { max_bytes: BUDGET, ..Settings::default() })
}

fn observe(detector: &mut Detector, line: &str, at: u64, out: &mut Vec<Detection>) {
    // Reading goes on from one rotated log to the next.
    let file = format!("/var/lib/rancher/k3s/server/logs/audit-{}.log", at / 1000);
    if let Ok(event) = Event::parse(line.as_bytes()) {
        detector.observe(&event, Position { file: &file, line: at + 1 }, out);
    }
}

#[test]
fn what_is_remembered_is_bounded_in_bytes_and_what_was_given_up_is_counted() {
    let mut detector = new();
    let mut out = Vec::new();
    let mut most = 0;
    for (at, line) in (0..).zip(hostile_log::lines().take(5000)) {
        observe(&mut detector, &line, at, &mut out);
        out.clear();
        assert!(detector.remembered_bytes() <= BUDGET, "{} bytes after {at} events", detector.remembered_bytes());
        most = most.max(detector.remembered_bytes());
    }
    assert!(most > BUDGET * 3 / 4, "the budget is used: {most} bytes");
    assert!(detector.counters().evicted > 1000);
    let stored = detector.state().expect("state").len();
    assert!(stored < 4 * BUDGET, "{stored} bytes stored");
}

#[test]
fn each_key_is_reported_however_little_is_remembered() {
    let mut detector = Detector::new(builtin().expect("rules"), Settings { max_bytes: 0, ..Settings::default() });
    let mut out = Vec::new();
    for at in 0..3 {
        let line = format!(
            r#"{{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"{at}","stage":"ResponseComplete","requestURI":"/api/v1/namespaces/a","verb":"delete","user":{{"username":"bob"}},"objectRef":{{"resource":"namespaces","name":"a"}},"responseStatus":{{"code":200}},"stageTimestamp":"2026-01-01T00:00:00.000000Z"}}"#
        );
        observe(&mut detector, &line, at, &mut out);
    }
    assert_eq!((detector.remembered(), detector.remembered_bytes()), (0, 0));
    assert_eq!(out.iter().filter(|detection| detection.rule == "namespace-deleted").count(), 3);
}

#[test]
fn what_has_to_make_room_is_the_same_after_the_memory_was_stored() {
    let (mut whole, mut parts) = (Vec::new(), Vec::new());
    let (mut kept, mut stored) = (new(), new());
    for (at, line) in (0..).zip(hostile_log::lines().take(2500)) {
        observe(&mut kept, &line, at, &mut whole);
        observe(&mut stored, &line, at, &mut parts);
        if at % 500 == 499 {
            let state = stored.state().expect("state");
            stored = new();
            stored.restore(&state).expect("restored");
            assert_eq!(stored.remembered_bytes(), kept.remembered_bytes());
        }
    }
    assert!(kept.counters().evicted > 1000);
    assert_eq!(parts, whole);
    let value = |detector: &Detector| {
        serde_json::from_slice::<serde_json::Value>(&detector.state().expect("state")).expect("json")
    };
    assert!(value(&stored) == value(&kept), "the memories are alike");
}

#[test]
fn a_memory_stored_within_a_limit_is_the_one_that_goes_on() {
    let mut detector = new();
    let mut out = Vec::new();
    for (at, line) in (0..).zip(hostile_log::lines().take(1500)) {
        observe(&mut detector, &line, at, &mut out);
    }
    let whole = detector.state().expect("state").len();
    let state = detector.state_within(whole / 2, &mut out).expect("state");
    assert!(state.len() <= whole / 2 && state.len() > whole / 8, "{} of {whole} bytes", state.len());
    assert_eq!(state, detector.state().expect("state"));
}
