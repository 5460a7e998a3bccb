//! The trail watches itself.

use picket_audit::{Detector, Event, Position, Rule, Settings, builtin};
use picket_model::{Detection, Severity};

fn line(second: i64, id: &str, user: &str, resource: &str, level: &str) -> String {
    let time = jiff::Timestamp::from_second(1_767_225_600 + second).expect("time");
    format!(
        r#"{{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"{level}","auditID":"{id}","stage":"ResponseComplete","requestURI":"/{resource}/{second}","verb":"update","user":{{"username":"{user}"}},"objectRef":{{"resource":"{resource}","name":"x"}},"responseStatus":{{"code":200}},"requestReceivedTimestamp":"{time:.6}","stageTimestamp":"{time:.6}"}}"#
    )
}

fn run(lines: impl IntoIterator<Item = String>) -> Vec<Detection> {
    let mut detector = Detector::new(builtin().expect("rules"), Settings::replay());
    let mut out = Vec::new();
    for line in lines {
        let event = Event::parse(line.as_bytes()).expect("an event");
        detector.observe(&event, Position { file: "audit.log", line: 1 }, &mut out);
    }
    detector.finish(&mut out);
    out
}

fn heartbeat(seconds: std::ops::Range<i64>) -> impl Iterator<Item = String> {
    seconds.map(|second| line(second, &format!("l{second}"), "system:node:edge-1", "leases", "Metadata"))
}

fn gaps(detections: &[Detection]) -> Vec<Severity> {
    detections.iter().filter(|d| d.rule == "audit-gap").map(|d| d.severity).collect()
}

#[test]
fn silence_where_leases_were_renewed_is_a_gap() {
    let detections = run(heartbeat(0..1100).chain(heartbeat(1200..1300)));
    assert_eq!(gaps(&detections), [Severity::High]);
}

#[test]
fn silence_that_the_api_servers_own_start_ends_is_low() {
    let start = line(1200, "s", "system:apiserver", "clusterroles", "Metadata");
    let detections = run(heartbeat(0..1100).chain([start]).chain(heartbeat(1201..1300)));
    assert_eq!(gaps(&detections), [Severity::Low]);
}

#[test]
fn what_the_api_server_asks_of_itself_all_the_time_is_no_start() {
    let routine = |uri: &str| {
        line(1200, "s", "system:apiserver", "leases", "Metadata").replace("/leases/1200", uri).replace("update", "get")
    };
    for uri in ["/openapi/v3", "/api/v1/namespaces/default/endpoints/kubernetes"] {
        let detections = run(heartbeat(0..1100).chain([routine(uri)]).chain(heartbeat(1201..1300)));
        assert_eq!(gaps(&detections), [Severity::High], "{uri}");
    }
}

#[test]
fn a_start_shows_in_what_follows_the_first_answer() {
    // Without arrivals the first line of a start is routine; the caches that fill come a moment later.
    let watch = |n: i64| {
        line(1201, &format!("w{n}"), "system:apiserver", "pods", "Metadata")
            .replace("/pods/1201", &format!("/api/v1/pods?sendInitialEvents=true&n={n}"))
            .replace("update", "watch")
    };
    let first = line(1200, "s", "system:apiserver", "leases", "Metadata").replace("/leases/1200", "/openapi/v3");
    let after =
        |more: Vec<String>| run(heartbeat(0..1100).chain([first.clone()]).chain(more).chain(heartbeat(1202..1300)));
    assert_eq!(gaps(&after((0..40).map(watch).collect())), [Severity::Low]);
    assert_eq!(gaps(&after(vec![watch(0)])), [Severity::High], "one cache may lose its place at any time");
    // Somebody who takes on the name, or a watch that ends and was opened before the silence.
    let other = |n: i64| {
        watch(n).replace(
            r#""user":{"username""#,
            r#""impersonatedUser":{"username":"system:apiserver"},"user":{"username""#,
        )
    };
    assert_eq!(gaps(&after((0..40).map(other).collect())), [Severity::High]);
    let ends = |n: i64| {
        watch(n).replace(
            r#""requestReceivedTimestamp":"2026-01-01T00:20:01.000000Z""#,
            r#""requestReceivedTimestamp":"2026-01-01T00:10:00.000000Z""#,
        )
    };
    assert_eq!(gaps(&after((0..40).map(ends).collect())), [Severity::High]);
}

#[test]
fn a_live_log_says_that_a_silence_was_no_restart_when_that_is_known() {
    let mut detector = Detector::new(builtin().expect("rules"), Settings::default());
    let mut out = Vec::new();
    for line in heartbeat(0..1100).chain(heartbeat(1200..1202)) {
        let event = Event::parse(line.as_bytes()).expect("an event");
        detector.observe(&event, Position { file: "audit.log", line: 1 }, &mut out);
    }
    assert_eq!(gaps(&out), [Severity::Low]);
    let state = detector.state().expect("state");
    let mut detector = Detector::new(builtin().expect("rules"), Settings::default());
    detector.restore(&state).expect("restored");
    detector.tick(jiff::Timestamp::from_second(1_767_225_600 + 1212).expect("time"), &mut out);
    assert_eq!(gaps(&out), [Severity::Low, Severity::High]);
    let raised: Vec<_> = out.iter().filter(|d| d.rule == "audit-gap").map(|d| (d.time, &d.audit_id, d.count)).collect();
    assert_eq!(raised[0], raised[1], "the same detection");
}

#[test]
fn a_short_or_hand_made_log_has_no_gaps() {
    assert_eq!(gaps(&run(heartbeat(0..20).chain(heartbeat(90_000..90_020)))), []);
}

#[test]
fn a_silence_after_an_event_of_tomorrow_is_still_a_gap() {
    let stray = line(90_000, "stray", "system:node:edge-1", "leases", "Metadata");
    let detections = run(heartbeat(0..1100).chain([stray]).chain(heartbeat(1100..1200)).chain(heartbeat(1800..1900)));
    let found: Vec<_> = detections.iter().filter(|d| d.rule == "audit-gap").map(|d| (d.severity, d.time)).collect();
    let second = |second: i64| jiff::Timestamp::from_second(1_767_225_600 + second).expect("time");
    assert_eq!(found, [(Severity::Low, second(90_000)), (Severity::High, second(1800))]);
    assert_eq!(tampered(&detections), 1);
}

fn tampered(detections: &[Detection]) -> usize {
    detections.iter().filter(|d| d.rule == "audit-log-tampered").count()
}

#[test]
fn time_that_goes_back_in_a_file_is_tampering() {
    let detections = run(heartbeat(500..600).chain(heartbeat(100..110)));
    assert_eq!(tampered(&detections), 1);
    let detection = detections.iter().find(|d| d.rule == "audit-log-tampered").expect("raised");
    assert_eq!((detection.severity, detection.count, detection.file.as_str()), (Severity::Critical, 1, "audit.log"));
    assert_eq!(tampered(&run(heartbeat(500..600).chain(heartbeat(550..600)))), 0, "batches are out of order");
    assert_eq!(tampered(&run(heartbeat(500..505).chain(heartbeat(100..110)))), 0, "made by hand");
}

#[test]
fn another_file_may_begin_earlier() {
    let mut detector = Detector::new(builtin().expect("rules"), Settings::replay());
    let mut out = Vec::new();
    for (file, seconds) in [("audit.log", 500..600), ("audit-2026-01-01T00-00-00.000.log", 100..200)] {
        for line in heartbeat(seconds) {
            let event = Event::parse(line.as_bytes()).expect("an event");
            detector.observe(&event, Position { file, line: 1 }, &mut out);
        }
    }
    detector.finish(&mut out);
    assert_eq!(tampered(&out), 0);
}

/// The arrival and the answer of a request, as a policy that leaves no stage out logs them.
fn both(second: i64, id: &str, resource: &str) -> [String; 2] {
    let answer = line(second, id, "bob", resource, "Metadata");
    let arrival = answer
        .replace(r#""stage":"ResponseComplete""#, r#""stage":"RequestReceived""#)
        .replace(r#""responseStatus":{"code":200},"#, "");
    [arrival, answer]
}

fn pairs(seconds: std::ops::Range<i64>, resource: &str) -> impl Iterator<Item = String> {
    seconds.flat_map(move |second| both(second, &format!("{resource}-{second}"), resource))
}

#[test]
fn an_answer_whose_request_never_arrived_is_a_gap_where_all_others_have_both() {
    let lone = || line(200, "lone", "bob", "pods", "Metadata");
    assert_eq!(gaps(&run(pairs(0..100, "pods").chain([lone()]))), [Severity::High]);
    assert_eq!(gaps(&run(pairs(0..100, "pods"))), []);
    // The policy leaves arrivals out for what this is: `omitStages` may differ from rule to rule.
    assert_eq!(gaps(&run(pairs(0..100, "nodes").chain([lone()]))), []);
    assert_eq!(gaps(&run(pairs(0..10, "pods").chain([lone()]))), [], "too few to say");
}

#[test]
fn an_answer_to_a_request_from_before_the_log_begins_is_no_gap() {
    // A watch that was opened long ago ends.
    let early = line(0, "early", "bob", "pods", "Metadata").replace(
        r#""stageTimestamp":"2026-01-01T00:00:00.000000Z""#,
        r#""stageTimestamp":"2026-01-01T00:10:00.000000Z""#,
    );
    assert_eq!(gaps(&run(pairs(300..400, "pods").chain([early]))), []);
}

#[test]
fn one_users_answers_without_requests_are_a_gap_where_nobody_elses_came_without() {
    let of = |second: i64, user: &str, namespace: &str| {
        both(second, &format!("{user}-{second}"), "pods").map(|line| {
            line.replace("bob", user).replace(r#""name":"x""#, &format!(r#""namespace":"{namespace}","name":"x""#))
        })
    };
    let everybody = || (0..60).flat_map(move |n| of(n, &format!("u{n}"), &format!("n{}", n % 7)));
    let [_, mallory] = of(200, "mallory", "shop");
    assert_eq!(gaps(&run(everybody().chain([mallory.clone()]))), [Severity::High]);
    // Rules for some users or namespaces may leave arrivals out: where that was so once nothing follows.
    let [_, early] = of(20, "eve", "shop");
    let mixed = everybody().take(40).chain([early]).chain(everybody().skip(40)).chain([mallory]);
    assert_eq!(gaps(&run(mixed)), []);
}

#[test]
fn requests_that_were_never_answered_are_a_gap_where_all_others_were() {
    let asked = |bob: usize| {
        let unanswered = (0..bob as i64).map(|n| {
            let [arrival, _] = both(200 + n, &format!("bob-{n}"), "configmaps");
            arrival
        });
        pairs(0..200, "configmaps").chain(unanswered).chain(pairs(300..900, "configmaps"))
    };
    assert_eq!(gaps(&run(asked(0))), []);
    assert_eq!(gaps(&run(asked(3))), [], "a server that is killed leaves some");
    assert_eq!(gaps(&run(asked(40))), [Severity::High]);
    let watches = (0..40).map(|n| {
        let [arrival, _] = both(200 + n, &format!("w-{n}"), "configmaps");
        arrival.replace(r#""verb":"update""#, r#""verb":"watch""#)
    });
    assert_eq!(gaps(&run(pairs(0..200, "configmaps").chain(watches).chain(pairs(300..900, "configmaps")))), []);
}

#[test]
fn requests_in_flight_are_bounded_and_what_was_forgotten_is_no_gap() {
    let arrivals = (0..5000).map(|n| both(n / 50, &format!("w{n}"), "pods")[0].clone());
    let answers = (0..5000).map(|n| both(n / 50, &format!("w{n}"), "pods")[1].clone());
    assert_eq!(gaps(&run(arrivals.chain(answers))), []);
}

#[test]
fn an_audit_id_with_another_request_is_a_collision() {
    let same = line(1, "same", "bob", "pods", "Metadata");
    let other = line(2, "same", "mallory", "secrets", "Metadata");
    let detections = run([same.clone(), other]);
    assert_eq!(detections.iter().filter(|d| d.rule == "audit-id-collision").count(), 1);
    assert_eq!(run([same.clone(), same]).iter().filter(|d| d.rule == "audit-id-collision").count(), 0);
}

#[test]
fn an_audit_id_that_no_server_makes_is_a_sign_where_others_are_uuids() {
    let collisions = |lines: Vec<String>| run(lines).iter().filter(|d| d.rule == "audit-id-collision").count();
    let made = line(1, "0f5b2c0e-7f0b-4d0a-9A3E-3e9d2f9f8f11", "bob", "pods", "Metadata");
    let chosen = line(2, "hello-i-am-no-uuid", "mallory", "pods", "Metadata");
    assert_eq!(collisions(vec![made.clone(), chosen.clone()]), 1);
    assert_eq!(collisions(vec![made]), 0);
    assert_eq!(collisions(vec![chosen]), 0, "made by hand");
}

#[test]
fn an_endless_audit_id_is_a_sign_and_is_cut() {
    let id = "x".repeat(5000);
    let detections = run([line(1, &id, "mallory", "pods", "Metadata")]);
    let raised = detections.iter().find(|d| d.rule == "audit-id-collision").expect("raised");
    assert!(raised.audit_id.len() <= 1024);
}

#[test]
fn bodies_that_stop_coming_after_an_hour_are_a_downgrade() {
    let high = |at: i64| line(at * 300, &format!("h{at}"), "bob", "roles", "RequestResponse");
    let low = line(5000, "low", "bob", "roles", "Metadata");
    let raised = |detections: Vec<Detection>| detections.iter().filter(|d| d.rule == "audit-level-downgrade").count();
    assert_eq!(raised(run((0..16).map(high).chain([low.clone()]))), 1);
    assert_eq!(raised(run((0..3).map(high).chain([low.clone()]))), 0, "too short to say");
    assert_eq!(raised(run((0..4).map(|n| high(n * 5)).chain([low]))), 1, "few, but for long");
}

#[test]
fn bodies_that_stop_coming_are_a_downgrade_for_whomever_and_wherever() {
    let raised = |lines: Vec<String>| run(lines).iter().filter(|d| d.rule == "audit-level-downgrade").count();
    let of = |second: i64, user: &str, namespace: &str, level: &str| {
        line(second, &format!("{user}{second}"), user, "deployments", level)
            .replace(r#""name":"x""#, &format!(r#""namespace":"{namespace}","name":"x""#))
    };
    let wide = |n: i64, level: &str| of(n * 200, "alice", &format!("n{}", n % 12), level);
    let many = |n: i64, level: &str| of(n * 200, &format!("u{}", n % 12), "shop", level);
    let all = |of: &dyn Fn(i64, &str) -> String| {
        (0..36).map(|n| of(n, "RequestResponse")).chain((36..60).map(|n| of(n, "Metadata"))).collect::<Vec<_>>()
    };
    assert_eq!(raised(all(&wide)), 1);
    assert_eq!(raised(all(&many)), 1);
    // Policies have rules for one namespace, as for config maps of kube-system, or for some users.
    let own = || (0..36).map(|n| of(n * 200, "bob", "kube-system", "Request"));
    assert_eq!(raised(own().chain([of(8000, "bob", "shop", "Metadata")]).collect()), 0);
    assert_eq!(raised(own().chain([of(8000, "eve", "kube-system", "Metadata")]).collect()), 0);
    let mixed = |n: i64| if n % 12 == 5 { of(n * 200, "node", "shop", "Metadata") } else { many(n, "Request") };
    assert_eq!(raised((0..36).map(mixed).chain([of(8000, "eve", "shop", "Metadata")]).collect()), 0);
}

#[test]
fn a_rule_with_public_field_names_loads_and_matches() {
    let text = r"
title: Someone reads a config map of the test namespace
id: 0f5b2c0e-7f0b-4d0a-9a3e-3e9d2f9f8f11
status: experimental
logsource:
    category: application
    product: kubernetes
    service: audit
detection:
    selection:
        verb: get
        objectRef.apiGroup: ''
        objectRef.resource: configmaps
        objectRef.namespace|startswith: test-
        user.username|endswith: '@example.org'
    condition: selection
level: low
";
    let rules = Rule::from_sigma("mine.yml", text).expect("a rule");
    let mut detector = Detector::new(rules, Settings::replay());
    let event = r#"{"kind":"Event","stage":"ResponseComplete","verb":"get","user":{"username":"eve@example.org"},"objectRef":{"resource":"configmaps","namespace":"test-1"},"responseStatus":{"code":200}}"#;
    let event = Event::parse(event.as_bytes()).expect("an event");
    let mut out = Vec::new();
    detector.observe(&event, Position { file: "audit.log", line: 1 }, &mut out);
    detector.finish(&mut out);
    assert_eq!(out.len(), 1);
    assert_eq!((out[0].rule.as_str(), out[0].severity), ("0f5b2c0e-7f0b-4d0a-9a3e-3e9d2f9f8f11", Severity::Low));
}

#[test]
fn a_broken_rule_names_its_file_and_fault() {
    let missing = "title: x\nname: x\nlogsource: {product: kubernetes}\ndetection: {a: {verb: get}, condition: b}\n";
    let error = Rule::from_sigma("mine.yml", missing).expect_err("no search b");
    assert!(error.to_string().starts_with("mine.yml:1: "), "{error}");
    let block = "title: x\nname: x\nlogsource: {product: kubernetes}\ndetection: {a: {verb: get}, condition: a}\npicket: {kind: sometimes}\n";
    let error = Rule::from_sigma("mine.yml", block).expect_err("no such kind");
    assert!(error.to_string().contains("picket"), "{error}");
}
