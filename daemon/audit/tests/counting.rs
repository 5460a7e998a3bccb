//! What a detection of several events says of them: where it stands, whose it is, what became of it, how many they were.

use std::sync::LazyLock;

use jiff::{SignedDuration, Timestamp};
use picket_audit::{Detector, Event, Position, Rule, Settings, builtin};
use picket_model::Detection;
use serde_json::{Value, json};

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;

fn time(second: i64) -> String {
    let start: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
    start.checked_add(SignedDuration::from_secs(second)).expect("a time").to_string()
}

/// A completed request of bob's at this second; `change` replaces top-level fields.
fn event(second: i64, change: Value) -> String {
    let mut event = json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "auditID": format!("id-{second}"),
        "stage": "ResponseComplete", "requestURI": format!("/{second}"), "verb": "get",
        "user": {"username": "bob", "groups": ["system:authenticated"]}, "sourceIPs": ["10.0.0.9"],
        "userAgent": "kubectl/v1.36.2", "responseStatus": {"code": 200}, "requestReceivedTimestamp": time(second),
        "stageTimestamp": time(second), "annotations": {"authorization.k8s.io/decision": "allow"}
    });
    event.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
    event.to_string()
}

fn detector(settings: &Settings) -> Detector {
    static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| builtin().expect("rules"));
    Detector::new(RULES.clone(), settings.clone())
}

/// Judges the lines; the memory is stored and taken over after each of the first, and sometimes later.
fn run_with(settings: &Settings, lines: &[String]) -> Vec<Detection> {
    let mut detector = self::detector(settings);
    let mut out = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let event = Event::parse(line.as_bytes()).expect("an event");
        detector.observe(&event, Position { file: "audit.log", line: at as u64 + 1 }, &mut out);
        if at < 6 || at % 50 == 0 {
            let mut next = self::detector(settings);
            next.restore(&detector.state().expect("state")).expect("restored");
            detector = next;
        }
    }
    detector.finish(&mut out);
    out
}

fn run(lines: &[String]) -> Vec<Detection> {
    run_with(&Settings::replay(), lines)
}

fn of<'d>(detections: &'d [Detection], rule: &str) -> Vec<&'d Detection> {
    detections.iter().filter(|detection| detection.rule == rule).collect()
}

#[test]
fn a_session_whose_audit_id_another_has_too_is_raised_once() {
    let exec = |second: i64, user: &str, stage: &str, received: i64| {
        event(
            second,
            json!({
                "auditID": "11111111-2222-4333-8444-555555555555", "stage": stage, "user": {"username": user},
                "requestURI": format!("/api/v1/namespaces/d/pods/{user}/exec?command=cat&command=/etc/shadow"),
                "objectRef": {"resource": "pods", "subresource": "exec", "namespace": "d", "name": user},
                "responseStatus": {"code": 101}, "requestReceivedTimestamp": time(received)
            }),
        )
    };
    let lines = [
        exec(0, "eve", "ResponseStarted", 0),
        exec(1, "mallory", "ResponseStarted", 1),
        exec(2 * HOUR, "eve", "ResponseComplete", 0),
        exec(3 * HOUR, "mallory", "ResponseComplete", 1),
    ];
    let detections = run(&lines);
    for rule in ["pod-exec", "exec-sensitive-file"] {
        let raised: Vec<_> = of(&detections, rule).iter().map(|d| (d.line, d.count)).collect();
        assert_eq!(raised, [(1, 1), (2, 1)], "{rule}");
    }
}

#[test]
fn only_controllers_say_whose_an_object_is() {
    let pod = |second: i64, user: &str, agent: &str, name: &str| {
        let owner = json!([{"kind": "ReplicaSet", "name": "web-5d9c6b7f4d", "controller": true}]);
        event(
            second,
            json!({
                "verb": "create", "level": "Request", "user": {"username": user}, "userAgent": agent,
                "objectRef": {"resource": "pods", "namespace": "d", "name": name}, "requestObject": {
                    "metadata": {"name": name, "ownerReferences": owner},
                    "spec": {"containers": [{"name": "a", "image": "b", "securityContext": {"privileged": true}}]}
                }
            }),
        )
    };
    let deployment = event(
        0,
        json!({
            "verb": "create", "level": "Request", "user": {"username": "dev"},
            "objectRef": {"resource": "deployments", "apiGroup": "apps", "namespace": "d", "name": "web"},
            "requestObject": {"metadata": {"name": "web"}, "spec": {"template": {"spec": {
                "containers": [{"name": "a", "image": "b", "securityContext": {"privileged": true}}]
            }}}}
        }),
    );
    let controller = "system:serviceaccount:kube-system:replicaset-controller";
    let agent = format!("k3s/v1.36.2+k3s1 (linux/amd64) kubernetes/$Format/{controller}");
    let lines = [
        deployment,
        pod(1, controller, &agent, "web-5d9c6b7f4d-x2k9p"),
        pod(2, "eve", "kubectl/v1.36.2", "mine"),
        pod(3, controller, "kubectl/v1.36.2", "stolen"),
    ];
    let detections = run(&lines);
    let raised = of(&detections, "privileged-container");
    let found: Vec<_> = raised.iter().map(|d| (d.line, d.user.as_str(), d.count)).collect();
    assert_eq!(found, [(1, "dev", 2), (3, "eve", 1), (4, controller, 1)]);
}
