//! Patches of every form are judged by what they change, also where the log shows the request alone.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use picket_audit::{Detector, Event, Position, Settings, builtin};
use picket_model::{Detection, Severity};
use serde_json::{Value, json};

const APPS: &str = "apps";
const RBAC: &str = "rbac.authorization.k8s.io";
const WEBHOOKS: &str = "admissionregistration.k8s.io";
const PSS: &str = "pod-security.kubernetes.io/enforce";
const PSS_PATH: &str = "/metadata/labels/pod-security.kubernetes.io~1enforce";
const POD: &str = "/spec/template/spec";

fn event(verb: &str, object: &Value, request: &str, response: Option<&Value>) -> String {
    let response = response.map(|body| format!(r#","responseObject":{body}"#)).unwrap_or_default();
    format!(
        r#"{{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Request","auditID":"x","stage":"ResponseComplete","requestURI":"/x","verb":"{verb}","user":{{"username":"bob","groups":["system:authenticated"]}},"sourceIPs":["10.0.0.9"],"userAgent":"kubectl/v1.36.2","objectRef":{object},"responseStatus":{{"code":200}},"requestObject":{request}{response},"stageTimestamp":"2026-01-01T00:00:00.000000Z","annotations":{{"authorization.k8s.io/decision":"allow"}}}}"#
    )
}

fn run(lines: &[String]) -> Vec<Detection> {
    let mut detector = Detector::new(builtin().expect("rules"), Settings::replay());
    let mut out = Vec::new();
    for line in lines {
        let event = Event::parse(line.as_bytes()).expect("an event");
        detector.observe(&event, Position { file: "audit.log", line: 1 }, &mut out);
    }
    detector.finish(&mut out);
    out
}

fn object(resource: &str, group: &str) -> Value {
    let (resource, sub) = resource.split_once('/').map_or((resource, None), |(resource, sub)| (resource, Some(sub)));
    json!({"resource": resource, "apiGroup": group, "namespace": "shop", "name": "x", "subresource": sub})
}

/// The severity a rule finds in a patch at level Request.
fn found(rule: &str, resource: &str, group: &str, patch: &Value) -> Option<Severity> {
    let line = event("patch", &object(resource, group), &patch.to_string(), None);
    run(&[line]).into_iter().find(|detection| detection.rule == rule).map(|detection| detection.severity)
}

fn add(path: &str, value: Value) -> Value {
    json!([{"op": "add", "path": path, "value": value}])
}

fn replace(path: &str, value: Value) -> Value {
    json!([{"op": "replace", "path": path, "value": value}])
}

#[test]
fn a_json_patch_at_level_request_is_judged_by_what_it_puts_in() {
    use Severity::{Critical, High, Low, Medium};
    let miner = json!({"name": "miner", "image": "evil/x"});
    let privileged = json!({"name": "x", "image": "b", "securityContext": {"privileged": true}});
    let everything = json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]});
    let anyone = json!({"kind": "Group", "name": "system:unauthenticated"});
    let etc = json!([{"name": "h", "hostPath": {"path": "/etc"}}]);
    let of = |path: &str| format!("{POD}{path}");
    for (rule, resource, group, patch, severity) in [
        ("workload-patched-sidecar", "deployments", APPS, add(&of("/containers/-"), miner.clone()), Medium),
        ("workload-patched-sidecar", "deployments", APPS, replace(&of("/containers/0/image"), "evil/x".into()), Medium),
        ("workload-patched-sidecar", "daemonsets", APPS, add(&of("/initContainers"), json!([miner])), Medium),
        (
            "privileged-container",
            "deployments",
            APPS,
            add(&of("/containers/0/securityContext"), json!({"privileged": true})),
            High,
        ),
        (
            "privileged-container",
            "deployments",
            APPS,
            add(&of("/containers/-1/securityContext/privileged"), true.into()),
            High,
        ),
        (
            "privileged-container",
            "deployments",
            APPS,
            replace("/spec", json!({"template": {"spec": {"containers": [privileged]}}})),
            High,
        ),
        (
            "privileged-container",
            "cronjobs",
            "batch",
            add("/spec/jobTemplate/spec/template/spec/containers/1", privileged.clone()),
            High,
        ),
        ("host-pid-pod", "deployments", APPS, add(&of("/hostPID"), true.into()), High),
        ("host-pid-pod", "deployments", APPS, add(&format!("junk{POD}/hostPID"), true.into()), High),
        ("hostpath-sensitive", "deployments", APPS, add(&of("/volumes"), etc.clone()), High),
        ("hostpath-sensitive", "deployments", APPS, add(&of("/volumes/-"), etc[0].clone()), High),
        ("role-wildcard", "clusterroles", RBAC, add("/rules/-", everything), Critical),
        ("role-wildcard", "clusterroles", RBAC, add("/rules/0/verbs/-", "*".into()), High),
        ("binding-to-broad-group", "clusterrolebindings", RBAC, add("/subjects/-", anyone), Critical),
        ("nodeport-service", "services", "", replace("/spec/type", "NodePort".into()), Low),
        ("service-external-ip", "services", "", add("/spec/externalIPs", json!(["8.8.8.8"])), Medium),
        ("service-external-ip", "services", "", add("/spec/externalIPs/0", "8.8.8.8".into()), Medium),
        ("configmap-with-credentials", "configmaps", "", add("/data/password", "hunter2".into()), Medium),
        ("configmap-with-credentials", "configmaps", "", add("/data/0", "password: hunter2".into()), Medium),
        (
            "privileged-container",
            "pods/ephemeralcontainers",
            "",
            add("/spec/ephemeralContainers/-", privileged.clone()),
            High,
        ),
        (
            "ephemeral-container-added",
            "pods/ephemeralcontainers",
            "",
            add("/spec/ephemeralContainers/-", privileged),
            Critical,
        ),
        (
            "admission-webhook-changed",
            "mutatingwebhookconfigurations",
            WEBHOOKS,
            replace("/webhooks/0/failurePolicy", "Ignore".into()),
            Critical,
        ),
        (
            "admission-webhook-changed",
            "mutatingwebhookconfigurations",
            WEBHOOKS,
            replace("/webhooks/0/clientConfig/url", "https://evil".into()),
            Critical,
        ),
        (
            "admission-webhook-changed",
            "mutatingwebhookconfigurations",
            WEBHOOKS,
            replace("/webhooks/0/failurePolicy", "Fail".into()),
            High,
        ),
    ] {
        assert_eq!(found(rule, resource, group, &patch), Some(severity), "{rule} {patch}");
    }
    let test = json!([{"op": "test", "path": of("/hostPID"), "value": true}, {"op": "add", "path": "/metadata/labels/a", "value": "b"}]);
    assert_eq!(found("host-pid-pod", "deployments", APPS, &test), None, "what is only tested does not change");
}

#[test]
fn operations_on_one_member_come_together_and_none_hides_another() {
    let of = |path: &str| format!("{POD}{path}");
    let role = |patch: &Value| found("role-wildcard", "clusterroles", RBAC, patch);
    let each = json!([
        {"op": "replace", "path": "/rules/0/verbs", "value": ["*"]},
        {"op": "replace", "path": "/rules/0/resources", "value": ["*"]},
        {"op": "replace", "path": "/rules/0/apiGroups", "value": ["*"]},
    ]);
    assert_eq!(role(&each), Some(Severity::Critical));

    let privileged = |patch: &Value| found("privileged-container", "deployments", APPS, patch);
    let bad = json!({"name": "x", "securityContext": {"privileged": true}});
    let moved_on = json!([
        {"op": "add", "path": of("/containers/1"), "value": bad},
        {"op": "add", "path": of("/containers/0"), "value": {"name": "y"}},
        {"op": "replace", "path": of("/containers/1"), "value": {"name": "z"}},
        {"op": "remove", "path": of("/containers/1")},
    ]);
    assert_eq!(privileged(&moved_on), Some(Severity::High), "it is the third now");
    let replaced = json!([
        {"op": "replace", "path": of("/containers/1"), "value": bad},
        {"op": "replace", "path": of("/containers/1/securityContext/privileged"), "value": false},
    ]);
    assert_eq!(privileged(&replaced), None, "the same member");
    let within = json!([
        {"op": "add", "path": of("/containers"), "value": [{"name": "a"}, bad]},
        {"op": "remove", "path": of("/containers/0")},
        {"op": "remove", "path": of("/containers/0/securityContext")},
    ]);
    assert_eq!(privileged(&within), None, "all members are known");

    for from in ["copy", "move"] {
        let elsewhere = json!([
            {"op": "add", "path": "/metadata/zz", "value": {"privileged": true}},
            {"op": from, "from": "/metadata/zz", "path": of("/containers/0/securityContext")},
            {"op": "remove", "path": "/metadata/zz"},
        ]);
        assert_eq!(privileged(&elsewhere), Some(Severity::High), "{from}");
    }
    let copied = json!([{"op": "copy", "from": of("/containers/0"), "path": of("/containers/-")}]);
    assert_eq!(found("workload-patched-sidecar", "deployments", APPS, &copied), Some(Severity::Medium));
}

#[test]
fn a_member_put_in_at_the_end_and_changed_by_its_place_is_one() {
    let role = |patch: Value| found("role-wildcard", "clusterroles", RBAC, &patch);
    let verbs = json!({"op": "add", "path": "/rules/-", "value": {"verbs": ["*"]}});
    for place in ["-1", "3"] {
        let rest = ["resources", "apiGroups"]
            .map(|list| json!({"op": "add", "path": format!("/rules/{place}/{list}"), "value": ["*"]}));
        assert_eq!(role(json!([verbs, rest[0], rest[1]])), Some(Severity::Critical), "{place}");
    }
    let privileged = |patch: Value| found("privileged-container", "deployments", APPS, &patch);
    let at = |place: &str| format!("{POD}/containers/{place}");
    let bad = json!({"op": "add", "path": at("-"), "value": {"name": "x", "securityContext": {"privileged": true}}});
    let change = |op: &str, place: &str, value: Value| json!({"op": op, "path": at(place), "value": value});
    let harmless = change("replace", "-1/securityContext/privileged", false.into());
    assert_eq!(privileged(json!([bad, harmless])), None, "the last one is the one put in");
    assert_eq!(privileged(json!([bad, change("remove", "-1", Value::Null)])), None, "it is gone");
    let another = change("add", "-1", json!({"name": "y"}));
    assert_eq!(privileged(json!([bad, another, harmless])), Some(Severity::High), "the last one is another now");
    for hiding in [
        change("replace", "0/securityContext/privileged", false.into()),
        change("replace", "0", json!({"name": "y"})),
        change("remove", "0", Value::Null),
        json!({"op": "move", "from": at("-1"), "path": at("0")}),
    ] {
        assert_eq!(privileged(json!([bad, hiding])), Some(Severity::High), "it may be another: {hiding}");
    }
    let opened = json!([
        {"op": "add", "path": "/spec/ingress/-", "value": {}},
        {"op": "add", "path": "/spec/ingress/0/from", "value": [{"podSelector": {}}]},
    ]);
    let rule = "network-policy-changed-or-deleted";
    let plain = found(rule, "networkpolicies", "networking.k8s.io", &add("/spec/ingress/-", json!({})));
    assert_eq!(found(rule, "networkpolicies", "networking.k8s.io", &opened), plain);
}

#[test]
fn what_a_patch_does_beyond_the_bounds_is_said() {
    let said =
        |operations: Vec<Value>| found("audit-event-truncated", "deployments", APPS, &operations.into()).is_some();
    let small = json!({"op": "add", "path": "/spec/a", "value": 1});
    assert!(!said(vec![small.clone(); 10_000]));
    assert!(said(vec![small.clone(); 10_001]), "more operations than the API server takes");
    assert!(said(vec![json!({"op": "add", "path": "/a".repeat(200), "value": 1})]), "a path too deep");
    let large = Value::from(vec![json!({}); 1_000_000]);
    assert!(said(vec![json!({"op": "add", "path": "/spec/a", "value": large})]), "more than may be kept");
}

#[test]
fn a_json_patch_of_a_workload_is_judged_by_what_it_produced_too() {
    let spec = json!({"template": {"spec": {"containers": [{"name": "w", "image": "a"}, {"name": "miner", "image": "evil/x"}]}}});
    let patch = add(&format!("{POD}/containers/-"), json!({"name": "miner", "image": "evil/x"}));
    let line = event(
        "patch",
        &object("deployments", APPS),
        &patch.to_string(),
        Some(&json!({"kind": "Deployment", "spec": spec})),
    );
    assert!(run(&[line]).iter().any(|detection| detection.rule == "workload-patched-sidecar"));
}

/// Whether Pod Security was found weakened by this patch, with this level known before.
fn weakened(before: Option<&str>, patch: &Value) -> bool {
    let object = json!({"resource": "namespaces", "namespace": "shop", "name": "shop"});
    let mut lines = Vec::new();
    if let Some(level) = before {
        let body = json!({"kind": "Namespace", "metadata": {"labels": {PSS: level}}});
        lines.push(event("create", &object, &body.to_string(), None));
    }
    lines.push(event("patch", &object, &patch.to_string(), None));
    run(&lines).iter().any(|detection| detection.rule == "pss-label-weakened")
}

#[test]
fn pod_security_is_weakened_by_every_patch_that_takes_the_label_away() {
    let taken_away = [
        json!([{"op": "remove", "path": PSS_PATH}]),
        json!([{"op": "remove", "path": "/metadata/labels"}]),
        json!([{"op": "replace", "path": "/metadata/labels", "value": {"a": "b"}}]),
        json!([{"op": "replace", "path": "/metadata", "value": {"name": "shop"}}]),
        json!([{"op": "add", "path": "", "value": {"metadata": {"name": "shop"}}}]),
        json!([{"op": "move", "from": PSS_PATH, "path": "/metadata/labels/old"}]),
        json!([{"op": "move", "from": "/metadata/labels", "path": "/metadata/annotations"}]),
        json!([{"op": "copy", "from": "/metadata/labels/old", "path": PSS_PATH}]),
        json!([{"op": "add", "path": PSS_PATH, "value": "restricted"}, {"op": "remove", "path": PSS_PATH}]),
        json!([{"op": "remove", "path": PSS_PATH.replace("/metadata", "x/metadata")}]),
        json!({"metadata": {"labels": null}}),
        json!({"metadata": {"labels": {PSS: null}}}),
        json!({"metadata": {"labels": {"$patch": "replace", "a": "b"}}}),
        json!({"metadata": {"labels": {"$patch": "delete"}}}),
        json!({"metadata": {"$patch": "replace", "name": "shop"}}),
        json!({"metadata": {"$retainKeys": ["name"], "name": "shop"}}),
        json!([{"op": "replace", "path": "/metadata/labels", "value": {PSS: "privileged"}}]),
    ];
    for patch in &taken_away {
        assert!(weakened(Some("restricted"), patch), "{patch}");
        assert!(weakened(None, patch), "not known before: {patch}");
        assert!(!weakened(Some("privileged"), patch), "there was nothing to weaken: {patch}");
    }
    let kept = [
        json!([{"op": "replace", "path": PSS_PATH, "value": "restricted"}]),
        json!([{"op": "remove", "path": "/metadata/labels"}, {"op": "add", "path": "/metadata/labels", "value": {PSS: "restricted"}}]),
        json!([{"op": "test", "path": PSS_PATH, "value": "privileged"}]),
        json!([{"op": "remove", "path": "/metadata/labels/other"}, {"op": "remove", "path": "/metadata/annotations"}]),
        json!([{"op": "copy", "from": PSS_PATH, "path": "/metadata/labels/old"}]),
        json!({"metadata": {"labels": {"a": "b"}, "annotations": null}}),
        json!({"metadata": {"labels": {"$patch": "replace", PSS: "restricted"}}}),
        json!({"spec": null}),
    ];
    for patch in &kept {
        assert!(!weakened(Some("restricted"), patch) && !weakened(None, patch), "{patch}");
    }
}

#[test]
fn removing_a_list_of_operations_from_a_node_shows_the_places() {
    let node = |patch: &Value| found("node-deleted-or-tampered", "nodes", "", patch);
    assert_eq!(node(&replace("/spec", json!({"taints": []}))), Some(Severity::High));
    assert_eq!(node(&json!([{"op": "move", "from": "/spec/taints", "path": "/spec/x"}])), Some(Severity::High));
    assert_eq!(node(&json!([{"op": "test", "path": "/spec/taints", "value": []}])), Some(Severity::Medium));
}

/// A patch of many operations, and what it costs.
fn hostile(operations: &[String], tail: &Value) -> (Vec<Detection>, Duration) {
    let request = format!("[{},{tail}]", operations.join(","));
    let line = event("patch", &object("deployments", APPS), &request, None);
    let start = Instant::now();
    (run(&[line]), start.elapsed())
}

#[test]
fn hostile_patches_cost_no_more_than_their_length() {
    let op = |at: usize, text: &str| text.replace("{N}", &at.to_string());
    let many = |text: &str| -> Vec<String> { (0..9_000).map(|at| op(at, text)).collect() };
    let mut steps = String::new();
    for at in 0..2000 {
        write!(steps, "/{at}").expect("a string");
    }
    let bad = json!({"op": "add", "path": format!("{POD}/hostPID"), "value": true});
    let grown = format!(r#"{{"op":"add","path":"/spec/zz","value":[{}0]}}"#, "0,".repeat(100_000));
    let (first, insert) = (vec![grown.clone()], many(r#"{"op":"add","path":"/spec/zz/0","value":1}"#));
    for (name, operations) in [
        ("inserted at the front", many(r#"{"op":"add","path":"/spec/zz/0","value":1}"#)),
        ("inserted into a long list", [first.clone(), insert].concat()),
        ("taken from a long list", [first, many(r#"{"op":"remove","path":"/spec/zz/0"}"#)].concat()),
        ("appended", many(r#"{"op":"add","path":"/spec/zz/-","value":1}"#)),
        ("huge places", many(r#"{"op":"add","path":"/spec/zz/1000000000{N}/a","value":1}"#)),
        ("from the end", many(r#"{"op":"add","path":"/spec/zz/-{N}/a","value":1}"#)),
        ("long paths", vec![format!(r#"{{"op":"add","path":"{steps}","value":1}}"#); 500]),
        ("moved", many(r#"{"op":"move","from":"/spec/zz","path":"/spec/yy"}"#)),
    ] {
        let (found, took) = hostile(&operations, &bad);
        assert!(found.iter().any(|detection| detection.rule == "host-pid-pod"), "{name}");
        assert!(took < Duration::from_secs(20), "{name} took {took:?}");
    }
    // These would grow beyond all bounds; what cannot be followed is said.
    for (name, operations) in [
        ("doubled", many(r#"{"op":"copy","from":"/spec","path":"/spec/a{N}"}"#)),
        ("deepened", many(r#"{"op":"move","from":"/spec","path":"/spec/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a"}"#)),
        ("deepened apart", many(r#"{"op":"move","from":"/x{N}","path":"/x{N}1/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a"}"#)),
        ("new objects", many(r#"{"op":"add","path":"/{N}a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a","value":1}"#)),
    ] {
        let operations = [vec![r#"{"op":"add","path":"/spec/a","value":1}"#.to_owned()], operations].concat();
        let (found, took) = hostile(&operations, &bad);
        let said = ["audit-event-truncated", "host-pid-pod"];
        assert!(found.iter().any(|detection| said.contains(&detection.rule.as_str())), "{name}");
        assert!(took < Duration::from_secs(20), "{name} took {took:?}");
    }
}

#[test]
fn a_change_is_not_hidden_behind_many_others() {
    let labels = |below: String| {
        let labels: serde_json::Map<String, Value> = (0..20_000).map(|n| (format!("l{n}"), "".into())).collect();
        json!({"metadata": {below: labels}, "spec": {"taints": []}})
    };
    let add = |n| json!({"op": "add", "path": format!("/metadata/labels/l{n}"), "value": ""});
    let mut operations: Vec<Value> = (0..9_000).map(add).collect();
    operations.push(json!({"op": "remove", "path": "/spec/taints"}));
    let nodes = object("nodes", "");
    for (what, patch, told) in [
        ("merge", labels("labels".to_owned()), "node-deleted-or-tampered"),
        ("operations", Value::from(operations), "node-deleted-or-tampered"),
        // Far more text in the places than in the patch: the way to each of them is long.
        ("too many", labels("x".repeat(900)), "audit-event-truncated"),
    ] {
        let found = run(&[event("patch", &nodes, &patch.to_string(), None)]);
        assert!(found.iter().any(|detection| detection.rule == told), "{what}: {found:?}");
    }
}
