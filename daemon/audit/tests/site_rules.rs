//! Rules of a site: loaded beside the others, refused with file and line, tuned.

use picket_audit::{Detector, Event, Library, Position, Settings};
use picket_model::{Detection, Severity};
use serde_json::{Value, json};

/// Written as the rules of the public collection for Kubernetes audit logs are.
const SERVICE_ACCOUNT: &str = "\
title: Service Account Made In The Shop
id: 5d7c5a2e-4d0e-4b0a-8d3a-3b52dfb1f001
status: test
description: |
    Somebody creates a service account.
logsource:
    category: application
    product: kubernetes
    service: audit
detection:
    selection:
        verb: 'create'
        objectRef.resource: 'serviceaccounts'
        apiGroup: ''
        namespace: shop
    condition: selection
level: low
";

const READS: &str = "\
title: Reads of a config map
name: site-reads
logsource: {product: kubernetes, service: audit}
detection:
    selection: {verb: get, objectRef.resource: configmaps, responseStatus.code: 200}
    condition: selection
level: low
---
title: Many config maps read
name: site-many-reads
correlation:
    type: value_count
    rules: [site-reads]
    group-by: [user.username]
    timespan: 5m
    condition: {field: objectRef.name, gte: 3}
level: high
";

fn file(name: &str, text: &str) -> (String, String) {
    (name.to_owned(), text.to_owned())
}

fn load(files: &[(String, String)], tuning: &str) -> Library {
    Library::load(files, Some(("tuning.yml", tuning))).expect("the rules that are compiled in")
}

fn problems(library: &Library) -> Vec<String> {
    library.notices.iter().map(|notice| notice.about().to_string()).collect()
}

fn event(id: u32, change: Value) -> String {
    let mut event = json!({
        "kind": "Event", "auditID": format!("id-{id}"), "stage": "ResponseComplete", "verb": "get",
        "requestURI": "/", "user": {"username": "eve"}, "sourceIPs": ["192.0.2.1"], "responseStatus": {"code": 200},
        "requestReceivedTimestamp": format!("2026-01-01T00:00:{id:02}.000000Z"),
        "stageTimestamp": format!("2026-01-01T00:00:{id:02}.000000Z"),
        "annotations": {"authorization.k8s.io/decision": "allow"}
    });
    event.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
    event.to_string()
}

fn run(library: &Library, lines: &[String]) -> Vec<Detection> {
    let settings = Settings { site: library.site.clone(), ..Settings::replay() };
    let mut detector = Detector::new(library.active(), settings);
    let mut out = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let event = Event::parse(line.as_bytes()).expect("an event");
        detector.observe(&event, Position { file: "audit.log", line: at as u64 + 1 }, &mut out);
    }
    detector.finish(&mut out);
    out
}

fn of<'d>(found: &'d [Detection], rule: &str) -> Vec<&'d Detection> {
    found.iter().filter(|detection| detection.rule == rule).collect()
}

fn config_map(id: u32, name: &str) -> String {
    event(id, json!({"objectRef": {"resource": "configmaps", "namespace": "shop", "name": name}}))
}

#[test]
fn a_public_rule_loads_unchanged_and_sees_each_request_once() {
    let library = load(&[file("a.yml", SERVICE_ACCOUNT)], "");
    assert_eq!(problems(&library), Vec::<String>::new());
    let object = json!({"resource": "serviceaccounts", "namespace": "shop", "name": "x"});
    let started = event(1, json!({"verb": "create", "objectRef": object, "stage": "ResponseStarted"}));
    let done = event(1, json!({"verb": "create", "objectRef": object}));
    let found = run(&library, &[started, done]);
    let ours = of(&found, "5d7c5a2e-4d0e-4b0a-8d3a-3b52dfb1f001");
    assert_eq!(ours.len(), 1);
    assert_eq!((ours[0].count, ours[0].severity), (1, Severity::Low));
}

#[test]
fn a_correlation_counts_values_and_its_rule_is_silent() {
    let library = load(&[file("reads.yml", READS)], "");
    assert_eq!(problems(&library), Vec::<String>::new());
    let lines: Vec<_> = ["a", "b", "a", "c"].iter().zip(1..).map(|(name, id)| config_map(id, name)).collect();
    let found = run(&library, &lines);
    assert!(of(&found, "site-reads").is_empty());
    let many = of(&found, "site-many-reads");
    assert_eq!(many.len(), 1);
    assert_eq!((many[0].severity, many[0].audit_id.as_str()), (Severity::High, "id-1"));
    assert!(of(&run(&library, &lines[..3]), "site-many-reads").is_empty(), "two values are not three");
}

#[test]
fn what_cannot_be_used_names_file_and_line_and_the_others_run() {
    let bad = |change: &str| READS.replace("type: value_count", change);
    for (text, line, part) in [
        ("title: x\ndetection: [\n".to_owned(), 0, "x.yml:"),
        ("title: x\nname: x\nlogsource: {product: windows}\ndetection: {a: {b: c}, condition: a}\n".into(), 3, "logsource"),
        (
            "title: x\nname: x\nlogsource: {product: kubernetes}\n\ndetection: {a: {verb: c}, condition: b}\n".into(),
            5,
            "b",
        ),
        (format!("# ours\n---\n{}", SERVICE_ACCOUNT.replace("id: 5d7c5a2e-4d0e-4b0a-8d3a-3b52dfb1f001", "name: audit-gap")), 4, "compiled in"),
        (bad("type: temporal"), 9, "temporal"),
        (READS.replace("[site-reads]", "[nobody]"), 9, "nobody"),
        (READS.replace("gte: 3", "gte: 100000"), 9, "500"),
        (READS.replace("gte: 3", "lte: 3"), 9, "gte"),
        ("title: x\nid: 1\nfilter: {rules: [a], selection: {a: b}, condition: selection}\nlogsource: {product: kubernetes}\n".into(), 1, "filter"),
        ("action: global\ntitle: x\n".into(), 1, "action"),
    ] {
        let library = load(&[file("good.yml", SERVICE_ACCOUNT), file("x.yml", &text)], "");
        let all = problems(&library).join("\n");
        assert!(library.errors() > 0, "{text}");
        assert!(all.contains(part) && (line == 0 || all.contains(&format!("x.yml:{line}: "))), "{text}\n{all}");
        assert!(library.rules.iter().any(|rule| rule.origin.as_ref().is_some_and(|(file, _)| file == "good.yml")));
        assert!(library.active().len() > 130, "the others run");
    }
}

#[test]
fn a_field_that_no_event_has_is_a_warning_with_its_line() {
    let library = load(&[file("a.yml", &SERVICE_ACCOUNT.replace("verb:", "verbb:"))], "");
    assert_eq!(library.errors(), 0);
    assert!(problems(&library)[0].starts_with("a.yml:12: ") && problems(&library)[0].contains("verbb"));
}

#[test]
fn tuning_switches_off_changes_severity_threshold_and_leaves_out_what_is_known() {
    let tuning = "
rules:
  secret-list-cluster-wide:
    enabled: false
  site-reads:
    enabled: true
    severity: critical
    except:
      - user.username: flux
        objectRef.namespace: shop
  site-many-reads:
    threshold: 2
site:
  allowed_users: [eve]
";
    let library = load(&[file("reads.yml", READS)], tuning);
    assert_eq!(problems(&library), Vec::<String>::new());
    assert_eq!(library.site.allowed_users, ["eve"]);
    let list = event(1, json!({"verb": "list", "objectRef": {"resource": "secrets"}}));
    let flux = event(
        2,
        json!({"user": {"username": "flux"}, "objectRef": {"resource": "configmaps", "namespace": "shop", "name": "z"}}),
    );
    let found = run(&library, &[list, flux, config_map(3, "a"), config_map(4, "b")]);
    assert!(of(&found, "secret-list-cluster-wide").is_empty());
    let reads = of(&found, "site-reads");
    assert_eq!(reads.len(), 2, "{found:#?}");
    assert!(reads.iter().all(|d| d.user == "eve" && d.severity == Severity::Critical));
    assert_eq!(of(&found, "site-many-reads").len(), 1);
}

#[test]
fn wrong_tuning_names_its_line_and_leaves_the_rule_as_it_was() {
    for (tuning, part) in [
        (
            "rules:\n  audit-gap: {}\n  no-such-rule: {enabled: false}\n",
            "tuning.yml:3: there is no rule \"no-such-rule\"",
        ),
        ("rules:\n  secret-list-cluster-wide: {threshold: 3}\n", "tuning.yml:2: the rule does not count"),
        ("rules:\n  forbidden-burst:\n    treshold: 3\n", "tuning.yml:3: "),
        ("rules:\n  forbidden-burst: {threshold: 9999}\n", "500"),
    ] {
        let library = load(&[], tuning);
        let all = problems(&library).join("\n");
        assert!(all.contains(part) && library.errors() == 1, "{tuning}\n{all}");
        assert!(library.rules.iter().all(|rule| rule.enabled));
    }
}
