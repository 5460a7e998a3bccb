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

const FILTER: &str = "\
title: x
logsource: {product: kubernetes, service: audit}
filter:
  rules: any
";

/// A rule with this block, and with this condition.
fn picket(block: &str) -> String {
    let other = SERVICE_ACCOUNT.replace("-3b52dfb1f001", "-3b52dfb1f009");
    format!("{other}picket:\n  {block}\n")
}

fn condition(condition: &str) -> String {
    picket("by: [user]").replace("condition: selection", &format!("condition: {condition}"))
}

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
fn a_correlation_counts_a_value_from_when_it_was_last_seen_and_an_absent_one_not_at_all() {
    let library = load(&[file("reads.yml", &READS.replace("5m", "20s"))], "");
    let raised = |reads: &[(u32, &str)]| {
        let lines: Vec<_> = reads.iter().map(|(second, name)| config_map(*second, name)).collect();
        of(&run(&library, &lines), "site-many-reads").iter().map(|d| (d.line, d.count)).collect::<Vec<_>>()
    };
    assert_eq!(raised(&[(0, "a"), (15, "a"), (30, "b"), (31, "c")]), [(1, 4)]);
    assert_eq!(raised(&[(0, "a"), (30, "a"), (45, "b"), (46, "c")]), [(2, 3)]);
    assert_eq!(raised(&[(0, "a"), (10, "b"), (25, "c")]), []);
    // Both times of the first are neighbours of the second.
    assert_eq!(raised(&[(40, "a"), (5, "a"), (22, "b")]), []);
    assert_eq!(raised(&[(0, "a"), (1, "b"), (2, "")]), [], "no name is none");
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
        (bad("type: value_avg"), 12, "value_avg"),
        (READS.replace("[site-reads]", "[nobody]"), 13, "nobody"),
        (READS.replace("[site-reads]", "\n        - site-reads\n        - nobody"), 15, "nobody"),
        (READS.replace("[site-reads]", "[site-many-reads]"), 13, "itself"),
        (READS.replace("gte: 3", "gte: 100000"), 16, "500"),
        (READS.replace("gte: 3", "gte: 0"), 16, "at least 1"),
        (READS.replace("field: objectRef.name, ", ""), 16, "condition.field"),
        (READS.replace("timespan: 5m", "timespan: 0s"), 15, "a timespan: is at least 1s"),
        (READS.replace("site-many-reads", "audit-gap"), 10, "another rule"),
        (READS.replace("field: objectRef.name", "field: objectRef.nam"), 16, "objectRef.nam"),
        (READS.replace("[user.username]", "[usr.username]"), 14, "usr.username"),
        (READS.replace("[user.username]", "[who]\n    aliases: {who: {site-reads: usre}}"), 15, "usre"),
        (READS.replace("[user.username]", "[who]"), 14, "who"),
        (picket("by: [usr]"), 19, "usr"),
        (picket("kind: distinct\n  distinct: [ns, nmae]"), 20, "nmae"),
        (picket("kind: compare\n  field: pi"), 20, "pi"),
        (condition("1 of slection_*"), 16, "slection_*"),
        (condition("all of slection*"), 16, "slection*"),
        (condition("selection and not all of slection*"), 16, "slection*"),
        (condition("selection and (all of them or 1 of filter_*)"), 16, "filter_*"),
        (format!("{FILTER}  selection: {{usr: a}}\n  condition: not selection\n"), 5, "usr"),
        (format!("{FILTER}  selection: {{user: a}}\n  condition: not all of selction*\n"), 6, "selction*"),
        (format!("{}title: again\n", SERVICE_ACCOUNT.replace("-3b52dfb1f001", "-3b52dfb1f009")), 18, "duplicate"),
        (SERVICE_ACCOUNT.replace("namespace: shop", "verb: get"), 15, "duplicate"),
        (READS.replace("verb: get,", "verb: get, verb: list,"), 5, "duplicate"),
        ("title: x\nid: 1\nfilter: {rules: [a], selection: {user: b}, condition: selection}\nlogsource: {product: kubernetes}\n".into(), 1, "filter"),
        ("action: sometimes\ntitle: x\n".into(), 1, "action"),
        ("action: repeat\ntitle: x\n".into(), 1, "previous"),
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
        ("rules:\n  forbidden-burst: {threshold: 0}\n", "at least 1"),
        ("rules:\n  pod-exec: {except: [{usr: eve}]}\n", "no field \"usr\""),
        ("rules:\n  pod-exec: {except: [{nosuch: null}]}\n", "no field \"nosuch\""),
        ("site:\n  blocked_addresses: [192.0.2.1, notanip]\n", "tuning.yml:2: \"notanip\" is no address"),
        ("site:\n  cluster_networks: [10.42.0.0/33, 10.43.0.0/16]\n", "\"10.42.0.0/33\" is no address"),
    ] {
        let library = load(&[], tuning);
        let all = problems(&library).join("\n");
        assert!(all.contains(part) && library.errors() == 1, "{tuning}\n{all}");
        assert!(library.rules.iter().all(|rule| rule.enabled));
    }
}

/// Two rules to correlate, then the correlation's own fields.
fn correlated(correlation: &str) -> String {
    format!(
        "title: A secret was read\nname: secret-read\nlogsource: {{product: kubernetes, service: audit}}\n\
         detection: {{selection: {{verb: get, objectRef.resource: secrets}}, condition: selection}}\n---\n\
         title: A pod was made\nname: pod-made\nlogsource: {{product: kubernetes, service: audit}}\n\
         detection: {{selection: {{verb: create, objectRef.resource: pods}}, condition: selection}}\n---\n\
         title: Both\nname: both\nlevel: high\ncorrelation:\n{correlation}"
    )
}

fn read(id: u32, user: &str) -> String {
    let object = json!({"resource": "secrets", "namespace": "shop", "name": format!("s{id}")});
    event(id, json!({"user": {"username": user}, "objectRef": object}))
}

fn made(id: u32, user: &str) -> String {
    let object = json!({"resource": "pods", "namespace": "shop", "name": format!("p{id}")});
    event(id, json!({"verb": "create", "user": {"username": user}, "objectRef": object}))
}

/// Counts and audit ids of the correlation's detections.
fn both(correlation: &str, lines: &[String]) -> Vec<(u64, String)> {
    let library = load(&[file("c.yml", &correlated(correlation))], "");
    assert_eq!(problems(&library), Vec::<String>::new());
    of(&run(&library, lines), "both").iter().map(|d| (d.count, d.audit_ids.join(","))).collect()
}

#[test]
fn a_temporal_correlation_wants_each_of_its_rules_in_any_order_for_one_key() {
    let correlation =
        "  type: temporal\n  rules: [secret-read, pod-made]\n  group-by: [user.username]\n  timespan: 10s\n";
    assert_eq!(both(correlation, &[made(1, "eve"), read(2, "eve")]), [(2, "id-1,id-2".to_owned())]);
    assert_eq!(both(correlation, &[read(1, "eve"), made(2, "bob")]), [], "two people");
    assert_eq!(both(correlation, &[read(1, "eve"), made(20, "eve")]), [], "too far apart");
    assert_eq!(both(correlation, &[read(1, "eve"), read(2, "eve")]), []);
}

#[test]
fn a_temporal_correlation_may_say_which_rules() {
    let correlation = "  type: temporal\n  rules: [secret-read, pod-made]\n  group-by: [user.username]\n  timespan: 10s\n  \
                       condition: pod-made and not secret-read\n";
    assert_eq!(both(correlation, &[made(1, "eve")]).len(), 1);
    assert_eq!(both(correlation, &[read(1, "eve"), made(2, "eve")]), []);
}

#[test]
fn an_ordered_correlation_wants_the_order() {
    let correlation =
        "  type: temporal_ordered\n  rules: [secret-read, pod-made]\n  group-by: [user.username]\n  timespan: 10s\n";
    assert_eq!(both(correlation, &[made(1, "eve"), read(2, "eve")]), []);
    assert_eq!(both(correlation, &[read(1, "eve"), made(2, "eve")]), [(2, "id-1,id-2".to_owned())]);
    // The time span is that of the whole chain, and a later first step begins a new one.
    assert_eq!(both(correlation, &[read(1, "eve"), read(15, "eve"), made(20, "eve")]), [(2, "id-15,id-20".to_owned())]);
    assert_eq!(both(correlation, &[read(1, "eve"), made(30, "eve")]), []);
}

#[test]
fn noise_between_the_steps_hides_nothing() {
    let correlation =
        "  type: temporal_ordered\n  rules: [secret-read, pod-made]\n  group-by: [user.username]\n  timespan: 1h\n";
    let mut lines: Vec<_> = (0..500).map(|_| read(1, "eve")).collect();
    lines.push(made(2, "eve"));
    assert_eq!(both(correlation, &lines).len(), 1);
}

#[test]
fn several_rules_are_counted_together() {
    let correlation = "  type: event_count\n  rules: [secret-read, pod-made]\n  group-by: [user.username]\n  timespan: 30s\n  \
                       condition: {gte: 3}\n";
    assert_eq!(both(correlation, &[read(1, "eve"), made(2, "eve")]), []);
    assert_eq!(both(correlation, &[read(1, "eve"), made(2, "eve"), read(3, "eve"), read(4, "eve")]).len(), 1);
}

#[test]
fn an_upper_bound_is_judged_when_the_time_span_is_over() {
    let correlation = |condition: &str| {
        format!(
            "  type: event_count\n  rules: [secret-read]\n  group-by: [user.username]\n  timespan: 10s\n  condition: {condition}\n"
        )
    };
    let two = [read(1, "eve"), read(2, "eve"), read(30, "bob")];
    let counts =
        |condition: &str| both(&correlation(condition), &two).iter().map(|(count, _)| *count).collect::<Vec<_>>();
    assert_eq!(counts("{eq: 2}"), [2]);
    assert_eq!(counts("{lt: 2}"), [1], "only bob");
    assert_eq!(counts("{lte: 2}"), [2, 1]);
    assert_eq!(counts("{neq: 2}"), [1]);
    assert_eq!(counts("{gt: 1, lte: 5}"), [2]);
}

#[test]
fn an_alias_names_the_same_thing_in_each_rule() {
    let correlation = "  type: temporal\n  rules: [secret-read, pod-made]\n  aliases:\n    who:\n      secret-read: user.username\n      \
                       pod-made: objectRef.name\n  group-by: [who]\n  timespan: 10s\n";
    assert_eq!(both(correlation, &[read(1, "p2"), made(2, "eve")]).len(), 1);
    assert_eq!(both(correlation, &[read(1, "eve"), made(2, "eve")]), []);
}

#[test]
fn a_correlation_may_be_over_another_and_over_a_rule_that_counts() {
    let text = correlated(
        "  type: event_count\n  rules: [secret-read]\n  group-by: [user.username]\n  timespan: 30s\n  condition: {gte: 2}\n",
    ) + "---\ntitle: Then\nname: then\nlevel: critical\ncorrelation:\n  type: temporal_ordered\n  rules: [both, pod-made]\n  \
         group-by: [user.username]\n  timespan: 1m\n";
    let library = load(&[file("c.yml", &text)], "");
    assert_eq!(problems(&library), Vec::<String>::new());
    assert_eq!(of(&run(&library, &[read(1, "eve"), read(2, "eve"), made(3, "eve")]), "then").len(), 1);
    assert_eq!(of(&run(&library, &[read(1, "eve"), made(3, "eve")]), "then").len(), 0);
    let round = text.replace("rules: [secret-read]", "rules: [then]");
    assert!(problems(&load(&[file("c.yml", &round)], "")).join("\n").contains("over itself"));
}

#[test]
fn a_correlation_goes_on_after_a_restart() {
    let text = correlated(
        "  type: temporal_ordered\n  rules: [secret-read, pod-made]\n  group-by: [user.username]\n  timespan: 1h\n",
    );
    let library = load(&[file("c.yml", &text)], "");
    let (first, second) = (read(1, "eve"), made(2, "eve"));
    let mut out = Vec::new();
    let mut before = Detector::new(library.active(), Settings::replay());
    before.observe(&Event::parse(first.as_bytes()).expect("event"), Position { file: "a", line: 1 }, &mut out);
    let mut after = Detector::new(library.active(), Settings::replay());
    after.restore(&before.state().expect("state")).expect("restored");
    after.observe(&Event::parse(second.as_bytes()).expect("event"), Position { file: "a", line: 2 }, &mut out);
    after.finish(&mut out);
    assert_eq!(of(&out, "both").len(), 1);
}

#[test]
fn a_placeholder_stands_for_a_list_of_the_site() {
    let rule = SERVICE_ACCOUNT.replace("namespace: shop", "user|expand: '%robots%'\n        ns|expand: 'team-%teams%'");
    let made = |id: u32, user: &str, ns: &str| {
        let object = json!({"resource": "serviceaccounts", "namespace": ns, "name": "x"});
        event(id, json!({"verb": "create", "user": {"username": user}, "objectRef": object}))
    };
    let lines = [made(1, "ci", "team-a"), made(2, "flux", "team-b"), made(3, "eve", "team-a"), made(4, "ci", "a")];
    let found = |tuning: &str| {
        let library = load(&[file("a.yml", &rule)], tuning);
        assert_eq!(problems(&library), Vec::<String>::new());
        of(&run(&library, &lines), "5d7c5a2e-4d0e-4b0a-8d3a-3b52dfb1f001").len()
    };
    assert_eq!(found("site: {lists: {robots: [ci, flux], teams: [a, b]}}"), 2);
    assert_eq!(found("site: {lists: {robots: [], teams: [a]}}"), 0, "an empty list holds nobody");
    let unknown = load(&[file("a.yml", &rule)], "site: {lists: {robots: [ci]}}");
    let all = problems(&unknown).join("\n");
    assert!(all.contains("%teams%") && all.contains("allowed_users") && all.contains("a.yml:1"), "{all}");
}

#[test]
fn a_filter_takes_events_out_of_the_rules_it_names() {
    let filter = "---\ntitle: Known reader\nlogsource: {product: kubernetes, service: audit}\nfilter:\n  rules: [secret-read]\n  \
                  selection: {user.username: vault}\n  condition: not selection\n";
    let text = correlated(
        "  type: event_count\n  rules: [secret-read]\n  group-by: [user.username]\n  timespan: 30s\n  condition: {gte: 1}\n",
    );
    let library = load(&[file("a.yml", &(text.clone() + filter))], "");
    assert_eq!(problems(&library), Vec::<String>::new());
    let users: Vec<_> =
        of(&run(&library, &[read(1, "vault"), read(2, "eve")]), "both").iter().map(|d| d.user.clone()).collect();
    assert_eq!(users, ["eve"]);
    let nobody = filter.replace("[secret-read]", "[no-such-rule]");
    assert!(problems(&load(&[file("a.yml", &(text + &nobody))], "")).join("\n").contains("no rule for the filter"));
}

#[test]
fn an_exception_that_has_no_search_is_none_and_the_same_key_in_two_maps_is_no_repetition() {
    let rule = "title: One\nname: one\nlogsource: {product: kubernetes, service: audit}\ndetection:\n  a:\n  - verb: get\n  - \
                verb: list\n  b: {verb: get}\n  condition: a and b and not 1 of filter_*\n";
    let library = load(&[file("a.yml", rule)], "");
    assert_eq!(problems(&library), Vec::<String>::new());
    assert_eq!(of(&run(&library, &[config_map(1, "x")]), "one").len(), 1);
    let told = problems(&load(&[file("a.yml", &rule.replace("  b:", "  a:"))], ""));
    assert!(told.iter().any(|told| told.starts_with("a.yml:8: ")), "{told:?}");
}

#[test]
fn a_file_may_say_once_what_its_rules_share() {
    let text = "action: global\nlogsource: {product: kubernetes, service: audit}\nlevel: high\n---\ntitle: One\nname: one\n\
                detection: {a: {verb: get, objectRef.resource: secrets}, condition: a}\n---\naction: repeat\nname: two\n\
                detection: {a: {verb: create}}\n---\naction: reset\n---\ntitle: Three\nname: three\n\
                detection: {a: {verb: get}, condition: a}\n";
    let library = load(&[file("a.yml", text)], "");
    let ours: Vec<_> = library.rules.iter().filter(|rule| rule.origin.is_some()).map(|rule| rule.id.as_str()).collect();
    assert_eq!(ours, ["one", "two"]);
    assert!(library.rules.iter().filter(|rule| rule.origin.is_some()).all(|rule| rule.severity == Severity::High));
    let all = problems(&library).join("\n");
    assert!(all.contains("logsource"), "three has none after the reset: {all}");
}

#[test]
fn the_raw_code_is_a_number_and_a_decision() {
    let rule = |wanted: &str| SERVICE_ACCOUNT.replace("namespace: shop", &format!("responseStatus.code{wanted}"));
    let line = event(
        1,
        json!({
            "verb": "create", "objectRef": {"resource": "serviceaccounts", "namespace": "d", "name": "x"}, "responseStatus": {"code": 201}
        }),
    );
    let found = |wanted: &str| {
        let library = load(&[file("a.yml", &rule(wanted))], "");
        of(&run(&library, std::slice::from_ref(&line)), "5d7c5a2e-4d0e-4b0a-8d3a-3b52dfb1f001").len()
    };
    assert_eq!((found(": 201"), found(": [200, 201]"), found(": 'ALLOW'"), found("|lt: 300")), (1, 1, 1, 1));
    assert_eq!((found(": 403"), found(": 'FORBID'"), found("|gte: 400")), (0, 0, 0));
}

#[test]
fn keywords_that_must_all_be_there_may_be_in_different_values() {
    let found = |keywords: &str| {
        let rule = format!(
            "title: k\nname: kk\nlogsource: {{product: kubernetes, service: audit}}\n\
             detection: {{keywords: {{'|all': {keywords}}}, condition: keywords}}\n"
        );
        let library = load(&[file("k.yml", &rule)], "");
        assert_eq!(problems(&library), Vec::<String>::new());
        of(&run(&library, &[config_map(1, "c")]), "kk").len()
    };
    assert_eq!(found("[eve, configmaps]"), 1);
    assert_eq!(found("['*ev*', '*map*']"), 1);
    assert_eq!(found("[eve, secrets]"), 0);
}

#[test]
fn an_allowed_namespace_is_created_in_silence() {
    let library = load(&[], "site: {allowed_namespaces: [ok]}");
    let made = |id: u32, name: &str| {
        let object = json!({"resource": "namespaces", "namespace": name, "name": name});
        event(id, json!({"verb": "create", "objectRef": object, "responseStatus": {"code": 201}}))
    };
    let found = run(&library, &[made(1, "ok"), made(2, "other")]);
    let names: Vec<_> = of(&found, "namespace-created").iter().map(|d| d.object.name.clone()).collect();
    assert_eq!(names, ["other"]);
}

#[test]
fn a_threshold_or_time_that_is_none_is_refused_with_its_line() {
    for wrong in ["threshold: 0", "window_s: 0", "cooldown_s: -1"] {
        let text = format!("{SERVICE_ACCOUNT}picket:\n  kind: count\n  {wrong}\n");
        let library = load(&[file("/etc/picket/detections.d/a.yml", &text)], "");
        let line = text.lines().count();
        let told = problems(&library);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with(&format!("/etc/picket/detections.d/a.yml:{line}: ")), "{told:?}");
    }
}
