//! A wrong stamp, or a clock that was set, takes no detection of other events away.

use std::collections::HashMap;
use std::path::Path;
use std::sync::LazyLock;

use jiff::{SignedDuration, Timestamp};
use picket_audit::{Detector, Event, Library, Position, Rule, Settings};
use picket_model::{Detection, Severity};
use proptest::prelude::*;
use serde_json::{Value, json};

const MINUTE: i64 = 60;
const DAY: i64 = 24 * 60 * MINUTE;
/// The audit id of the event with the wrong stamp.
const STRAY: &str = "id-1000";

const SITE: &str = "\
title: Node read
name: site-node-read
logsource: {product: kubernetes, service: audit}
detection:
    selection: {verb: get, objectRef.resource: nodes}
    condition: selection
level: low
---
title: Node changed
name: site-node-changed
logsource: {product: kubernetes, service: audit}
detection:
    selection: {verb: patch, objectRef.resource: nodes}
    condition: selection
level: low
---
title: A node was read, then changed
name: site-read-then-changed
correlation:
    type: temporal_ordered
    rules: [site-node-read, site-node-changed]
    group-by: [user.username]
    timespan: 5m
level: high
---
title: Read and changed
name: site-read-and-changed
correlation:
    type: temporal
    rules: [site-node-read, site-node-changed]
    group-by: [user.username]
    timespan: 5m
level: high
---
title: Nodes read often
name: site-many-reads
correlation:
    type: event_count
    rules: [site-node-read]
    group-by: [user.username]
    timespan: 10m
    condition: {gte: 4}
level: high
";

static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let files = [("/etc/picket/detections.d/site.yml".to_owned(), SITE.to_owned())];
    let library = Library::load(&files, None).expect("the rules that are compiled in");
    assert_eq!(library.notices.len(), 0);
    library.active()
});

fn stamp(second: i64) -> String {
    let start: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
    start.checked_add(SignedDuration::from_secs(second)).expect("a time").to_string()
}

/// One of several kinds of request, each of which some rule counts, compares or follows in another way.
fn event(kind: u8, number: usize, second: i64) -> String {
    let mut event = json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "auditID": format!("id-{number}"),
        "stage": "ResponseComplete", "requestURI": format!("/{number}"), "verb": "get",
        "user": {"username": "bob", "groups": ["system:authenticated"]}, "sourceIPs": ["10.0.0.9"],
        "userAgent": "kubectl/v1.36.2", "responseStatus": {"code": 200}, "requestReceivedTimestamp": stamp(second),
        "stageTimestamp": stamp(second), "annotations": {"authorization.k8s.io/decision": "allow"}
    });
    let rbac = "rbac.authorization.k8s.io";
    let change = match kind {
        0 => json!({"objectRef": {"resource": "pods", "subresource": "exec", "namespace": "shop", "name": "web"}}),
        1 => json!({"objectRef": {"resource": "secrets", "namespace": "shop", "name": format!("s{number}")}}),
        2 => {
            json!({"user": {"username": "eve"}, "responseStatus": {"code": 403}, "requestURI": "/api/v1/pods", "annotations": {"authorization.k8s.io/decision": "forbid"}})
        }
        3 | 4 => {
            json!({"user": {"username": "system:serviceaccount:shop:web", "extra": {"authentication.kubernetes.io/pod-uid": ["u1"]}}, "sourceIPs": [format!("10.42.{kind}.3")], "objectRef": {"resource": "endpoints", "namespace": "shop", "name": "x"}})
        }
        5 => {
            json!({"verb": "create", "objectRef": {"resource": "clusterroles", "apiGroup": rbac, "name": format!("r{number}")}, "responseStatus": {"code": 201}})
        }
        6 => {
            json!({"verb": "create", "objectRef": {"resource": "pods", "namespace": "shop", "name": format!("p{number}")}, "responseStatus": {"code": 201}})
        }
        7 => json!({"verb": "delete", "objectRef": {"resource": "namespaces", "name": format!("n{}", number % 3)}}),
        8 => json!({"objectRef": {"resource": "nodes", "name": "edge-1"}}),
        9 => json!({"verb": "patch", "objectRef": {"resource": "nodes", "name": "edge-1"}}),
        _ => {
            json!({"user": {"username": format!("user-{}", number % 4)}, "objectRef": {"resource": "pods", "namespace": "shop"}, "verb": "list"})
        }
    };
    event.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
    event.to_string()
}

/// Judges the lines, with the memory stored and taken over now and then.
fn run(lines: &[String]) -> Vec<Detection> {
    let mut detector = Detector::new(RULES.clone(), Settings::replay());
    let mut out = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let event = Event::parse(line.as_bytes()).expect("an event");
        detector.observe(&event, Position { file: "audit.log", line: at as u64 + 1 }, &mut out);
        if at == 20 {
            let state = detector.state().expect("state");
            detector = Detector::new(RULES.clone(), Settings::replay());
            detector.restore(&state).expect("restored");
        }
    }
    detector.finish(&mut out);
    out
}

/// How long a detection of a rule is counted into, in seconds.
fn hold(rule: &str) -> i64 {
    static HOLDS: LazyLock<HashMap<String, i64>> = LazyLock::new(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("rules");
        let file = |entry: std::io::Result<std::fs::DirEntry>| {
            let path = entry.expect("a file").path();
            let text = std::fs::read_to_string(&path).expect("text");
            let number = |key: &str| {
                let line = text.lines().find_map(|line| line.trim().strip_prefix(key))?;
                line.trim().parse::<i64>().ok()
            };
            let hold = number("cooldown_s:").or(number("window_s:")).unwrap_or(60);
            (path.file_stem().expect("a name").to_string_lossy().into_owned(), hold)
        };
        std::fs::read_dir(folder).expect("the rules").map(file).collect()
    });
    HOLDS.get(rule).copied().unwrap_or(600)
}

/// Every detection is still there: itself, or counted into another one of its rule that stands less than the rule's
/// cooldown away, as two events of that distance always are; or, in a correlation, with the stray event in its place.
fn check(plain: &[Detection], glitched: &[Detection]) -> Result<(), String> {
    for lost in plain.iter().filter(|d| !d.rule.starts_with("audit-")) {
        let near = |found: &Detection| {
            let apart = (found.time.as_second() - lost.time.as_second()).abs();
            found.audit_id == lost.audit_id || apart <= hold(&lost.rule)
        };
        let stands_in = |found: &Detection| {
            found.audit_ids.iter().any(|id| id == STRAY) && found.audit_ids.iter().any(|id| lost.audit_ids.contains(id))
        };
        // What was first seen while learning was seen, and is reported as such: low.
        let learnt = |found: &Detection| found.audit_id == STRAY && found.severity == Severity::Low;
        let answers = |found: &&Detection| {
            found.rule == lost.rule
                && (found.severity >= lost.severity || learnt(found))
                && (found.audit_ids.contains(&lost.audit_id) || stands_in(found))
                && near(found)
        };
        if !glitched.iter().any(|found| answers(&found)) {
            let same: Vec<_> = glitched.iter().filter(|found| found.rule == lost.rule).collect();
            return Err(format!("{lost:?} is lost; there are {same:?}"));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_event_with_a_wrong_stamp_takes_no_detection_away(
        steps in prop::collection::vec((0u8..11, prop_oneof![1i64..20, 20i64..400, 400i64..7200]), 10..70),
        at in any::<prop::sample::Index>(),
        kind in 0u8..11,
        off in prop_oneof![-40 * DAY..-2 * MINUTE, 2 * MINUTE..40 * DAY, -200 * MINUTE..200 * MINUTE],
    ) {
        let mut second = 0;
        let mut lines = Vec::new();
        let at = at.index(steps.len());
        let mut stray = String::new();
        for (number, (kind_of, gap)) in steps.iter().enumerate() {
            if number == at {
                stray = event(kind, 1000, second + off);
            }
            second += gap;
            lines.push(event(*kind_of, number, second));
        }
        let plain = run(&lines);
        lines.insert(at, stray);
        check(&plain, &run(&lines)).map_err(TestCaseError::fail)?;
    }
}

fn raised(detections: &[Detection], rule: &str) -> Vec<(u64, u64)> {
    let mut found: Vec<_> = detections.iter().filter(|d| d.rule == rule).map(|d| (d.line, d.count)).collect();
    found.sort_unstable();
    found
}

#[test]
fn an_event_of_tomorrow_mutes_nothing_today() {
    let lines: Vec<_> = [DAY, 0, 15 * MINUTE, 30 * MINUTE, 45 * MINUTE, 60 * MINUTE]
        .iter()
        .enumerate()
        .map(|(number, second)| event(0, number, *second))
        .collect();
    assert_eq!(raised(&run(&lines), "pod-exec"), [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1)]);
}

#[test]
fn a_clock_that_was_a_day_ahead_for_a_while_mutes_nothing_after() {
    // Half an hour of tomorrow, then today goes on.
    let ahead = (0..30).map(|n| event(if n % 10 == 3 { 0 } else { 10 }, n, DAY + n as i64 * MINUTE));
    let after = (30..90).map(|n| event(if n % 10 == 3 { 0 } else { 10 }, n, n as i64 * MINUTE));
    let lines: Vec<_> = ahead.chain(after).collect();
    assert_eq!(raised(&run(&lines), "pod-exec").len(), 9);
}

#[test]
fn a_first_event_of_tomorrow_does_not_prolong_what_is_learnt() {
    let change = |number: usize, second: i64| {
        let mut line: Value = serde_json::from_str(&event(10, number, second)).expect("json");
        line["user"]["username"] = json!(format!("new-{number}"));
        line.to_string()
    };
    let mut lines = vec![event(10, 0, 20 * DAY)];
    lines.extend((1..40).map(|n| event(10, n, n as i64)));
    lines.push(change(50, 2 * DAY));
    let detections = run(&lines);
    let found: Vec<_> = detections.iter().filter(|d| d.rule == "unknown-user" && d.user == "new-50").collect();
    assert_eq!(found.iter().map(|d| d.severity).collect::<Vec<_>>(), [Severity::Medium]);
}

#[test]
fn windows_of_the_future_do_not_take_the_room() {
    let mut detector = Detector::new(RULES.clone(), Settings { max_windows: 50, ..Settings::replay() });
    let mut out = Vec::new();
    let ahead =
        (0..200).map(|n| event(7, n, 400 * DAY + n as i64).replace("\"name\":\"n", &format!("\"name\":\"x{n}-")));
    let lines = ahead.chain((200..240).map(|n| event(2, n, n as i64)));
    for (line, at) in lines.zip(1..) {
        let event = Event::parse(line.as_bytes()).expect("an event");
        detector.observe(&event, Position { file: "audit.log", line: at }, &mut out);
    }
    detector.finish(&mut out);
    assert_eq!(raised(&out, "forbidden-burst").len(), 1);
}

/// Found by the property: the time has jumped and is not believed yet, so that the stray event is the one that fits.
#[test]
fn a_stray_between_the_parts_of_a_pair_leaves_it_while_the_time_jumps() {
    for before in 1..10 {
        // Seven events of a later time, of which the eighth will be believed, come in between.
        let mut lines: Vec<_> = (0..3).map(|n| event(0, n, n as i64)).collect();
        lines.extend((3..3 + before).map(|n| event(0, n, 3400 + n as i64)));
        lines.push(event(8, 50, 3477));
        lines.push(event(8, 51, 10));
        lines.extend((52..54).map(|n| event(0, n, 3478)));
        lines.push(event(9, 55, 3479));
        let found = run(&lines);
        assert!(found.iter().any(|d| d.rule == "site-read-and-changed"), "{before}: {found:?}");
    }
}
