//! The cross-cutting rules of evaluation, E1 to E14 of the catalogue. Each is a blind spot somebody has.

use picket_audit::{Detector, Event, LineError, Position, Settings, builtin};
use picket_model::{Detection, Severity};
use serde_json::{Value, json};

/// An event with everything an ordinary one has; `change` replaces top-level fields, null takes one away.
fn event(change: Value) -> String {
    let mut event = json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "auditID": "id-1",
        "stage": "ResponseComplete", "requestURI": "/api/v1/namespaces/shop/secrets/db", "verb": "get",
        "user": {"username": "bob", "groups": ["system:authenticated"]}, "sourceIPs": ["10.0.0.9"],
        "userAgent": "kubectl/v1.36.2", "objectRef": {"resource": "secrets", "namespace": "shop", "name": "db"},
        "responseStatus": {"code": 200}, "requestReceivedTimestamp": "2026-01-01T00:00:00.000000Z",
        "stageTimestamp": "2026-01-01T00:00:00.100000Z", "annotations": {"authorization.k8s.io/decision": "allow"}
    });
    for (field, value) in change.as_object().expect("an object") {
        match value {
            Value::Null => event.as_object_mut().expect("an object").remove(field),
            value => event.as_object_mut().expect("an object").insert(field.clone(), value.clone()),
        };
    }
    event.to_string()
}

fn exec(change: Value) -> String {
    let mut all = json!({
        "requestURI": "/api/v1/namespaces/shop/pods/web/exec?command=id&stdout=true", "verb": "get",
        "objectRef": {"resource": "pods", "subresource": "exec", "namespace": "shop", "name": "web"},
        "responseStatus": {"code": 101}, "stage": "ResponseStarted"
    });
    all.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
    event(all)
}

fn new() -> Detector {
    Detector::new(builtin().expect("rules"), Settings::replay())
}

fn feed(detector: &mut Detector, lines: &[String]) -> Vec<Detection> {
    let mut out = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let event = Event::parse(line.as_bytes()).expect("an event");
        detector.observe(&event, Position { file: "audit.log", line: at as u64 + 1 }, &mut out);
    }
    detector.finish(&mut out);
    out
}

fn run(lines: &[String]) -> Vec<Detection> {
    feed(&mut new(), lines)
}

fn of<'d>(detections: &'d [Detection], rule: &str) -> Vec<&'d Detection> {
    detections.iter().filter(|detection| detection.rule == rule).collect()
}

#[test]
fn e1_a_request_that_has_only_arrived_is_not_judged() {
    let lines = [event(json!({"stage": "RequestReceived", "responseStatus": null, "annotations": null}))];
    let mut detector = new();
    assert_eq!(feed(&mut detector, &lines), []);
    assert_eq!(detector.counters().events, 1, "it is counted all the same");
}

#[test]
fn e2_an_exec_is_raised_once_when_it_starts() {
    let end = exec(json!({"stage": "ResponseComplete", "stageTimestamp": "2026-01-01T02:00:00.000000Z"}));
    let detections = run(&[exec(json!({})), end]);
    let raised = of(&detections, "pod-exec");
    assert_eq!(raised.len(), 1, "the end of the session, two hours later, is not another exec: {raised:#?}");
    assert_eq!((raised[0].count, raised[0].line), (1, 1));
}

#[test]
fn e2_holds_across_a_restart() {
    let mut before = new();
    let mut out = Vec::new();
    let line = exec(json!({}));
    let first = Event::parse(line.as_bytes()).expect("an event");
    before.observe(&first, Position { file: "audit.log", line: 1 }, &mut out);
    let mut after = new();
    after.restore(&before.state().expect("state")).expect("restored");
    let end = exec(json!({"stage": "ResponseComplete", "stageTimestamp": "2026-01-01T02:00:00.000000Z"}));
    let detections = feed(&mut after, &[end]);
    assert_eq!(of(&detections, "pod-exec").iter().map(|d| d.count).collect::<Vec<_>>(), [1]);
}

#[test]
fn e3_a_failed_authentication_is_seen_although_it_has_one_stage_and_no_user() {
    let detections = run(&[event(json!({
        "stage": "ResponseStarted", "user": {}, "annotations": null,
        "responseStatus": {"code": 401, "message": "Unauthorized"}
    }))]);
    let raised = of(&detections, "authn-failure");
    assert_eq!(raised.len(), 1);
    assert_eq!((raised[0].user.as_str(), raised[0].outcome.as_str()), ("", "refused"));
}

#[test]
fn e4_an_audit_id_that_a_client_repeats_hides_nothing() {
    let other = event(json!({
        "requestURI": "/api/v1/namespaces/shop", "verb": "delete", "objectRef": {"resource": "namespaces", "name": "shop"}
    }));
    let detections = run(&[exec(json!({})), other, exec(json!({"stage": "ResponseComplete"}))]);
    assert_eq!(of(&detections, "namespace-deleted").len(), 1);
}

#[test]
fn e4_a_repeated_audit_id_does_not_pass_for_the_end_of_another_request() {
    // Same audit id as a started watch, but another request: it is final in its own right.
    let other = event(json!({"requestReceivedTimestamp": "2026-01-01T00:00:09.000000Z", "userAgent": "curl/8"}));
    let detections = run(&[exec(json!({})), other]);
    assert_eq!(of(&detections, "secret-read-scripting-client").len(), 1);
}

#[test]
fn e5_a_user_agent_never_suppresses() {
    let list = |user: &str, agent: &str| {
        event(json!({
            "verb": "list", "requestURI": "/api/v1/secrets", "objectRef": {"resource": "secrets"},
            "user": {"username": user}, "userAgent": agent
        }))
    };
    let garbage = "system:serviceaccount:kube-system:generic-garbage-collector";
    let forged = run(&[list("mallory", "k3s/v1.36.2+k3s1 (linux/amd64) kubernetes/$Format")]);
    assert_eq!(of(&forged, "secret-list-cluster-wide").len(), 1);
    let stolen = run(&[list(garbage, "kubectl/v1.36.2+k3s1 (linux/amd64) kubernetes/$Format")]);
    assert_eq!(of(&stolen, "secret-list-cluster-wide").len(), 1, "a controller's token used with kubectl");
    let own = run(&[list(garbage, &format!("k3s/v1.36.2+k3s1 (linux/amd64) kubernetes/$Format/{garbage}"))]);
    assert_eq!(of(&own, "secret-list-cluster-wide").len(), 0);
}

#[test]
fn e5_a_stolen_kubelet_certificate_used_by_curl_shows() {
    let detections = run(&[event(json!({"user": {"username": "system:node:edge-1"}, "userAgent": "curl/8.5.0"}))]);
    assert_eq!(of(&detections, "node-identity-unusual-client").len(), 1);
    assert_eq!(of(&detections, "secret-read-scripting-client").len(), 1);
}

#[test]
fn e5_a_stolen_kubelet_certificate_shows_whatever_the_client_calls_itself() {
    let kubelet = "k3s/v1.36.2+k3s1 (linux/amd64) kubernetes/$Format";
    let used = |agent: &str, ip: &str| {
        event(json!({"user": {"username": "system:node:edge-1"}, "userAgent": agent, "sourceIPs": [ip]}))
    };
    let curl = run(&[used("k3s/v1", "10.0.0.9")]);
    assert_eq!(of(&curl, "node-identity-unusual-client").len(), 1);
    let own = [used(kubelet, "10.0.0.9"), used(kubelet, "127.0.0.1"), used(kubelet, "fd00::9")];
    assert_eq!(of(&run(&own), "node-identity-address-change").len(), 0);
    for ip in ["10.99.0.77", "203.0.113.9"] {
        let detections = run(&[used(kubelet, "10.0.0.9"), used(kubelet, ip)]);
        let raised = of(&detections, "node-identity-address-change");
        let raised: Vec<_> = raised.iter().map(|d| (d.line, d.source.as_deref(), d.severity)).collect();
        assert_eq!(raised, [(2, Some(ip), Severity::Medium)]);
    }
}

#[test]
fn e5_the_servers_own_identities_show_from_elsewhere_or_with_another_client() {
    let bind = |user: &str, agent: &str, ip: &str| {
        event(json!({
            "verb": "create", "user": {"username": user, "groups": ["system:masters"]}, "userAgent": agent,
            "objectRef": {"resource": "clusterrolebindings", "apiGroup": "rbac.authorization.k8s.io", "name": "b"},
            "responseStatus": {"code": 201}, "sourceIPs": [ip]
        }))
    };
    let raised = |user: &str, agent: &str, ip: &str| -> Vec<_> {
        let mut detections = run(&[bind(user, agent, ip)]);
        detections.retain(|detection| detection.severity >= Severity::Low);
        detections.into_iter().map(|detection| (detection.rule, detection.severity)).collect()
    };
    let deploy = "deploy@edge-1/v1.36.2+k3s1 (linux/amd64) k3s/af977adf";
    let k3s = "k3s/v1.36.2+k3s1 (linux/amd64) kubernetes/$Format";
    for (user, agent) in [("system:k3s-supervisor", deploy), ("system:apiserver", k3s), ("system:kube-scheduler", k3s)]
    {
        for own in ["127.0.0.1", "::1"] {
            assert_eq!(raised(user, agent, own), [], "{user} {own}");
        }
        let elsewhere = |severity| [("system-identity-public-address".to_owned(), severity)];
        assert_eq!(raised(user, agent, "10.99.0.77"), elsewhere(Severity::Medium), "{user}");
        assert_eq!(raised(user, agent, "203.0.113.9"), elsewhere(Severity::High), "{user}");
        for other in ["curl/8.5.0", "k3s/x", "kubectl/v1.36.2+k3s1 (linux/amd64) kubernetes/$Format"] {
            let raised = raised(user, other, "127.0.0.1");
            for wanted in ["rbac-change", "node-identity-unusual-client"] {
                assert!(raised.iter().any(|(rule, _)| rule == wanted), "{user} {other}: {raised:?}");
            }
        }
    }
    // These come from agents.
    assert_eq!(raised("system:k3s-controller", k3s, "10.99.0.2"), []);
    let curl = raised("system:kube-proxy", "curl/8.5.0", "10.99.0.2");
    assert!(curl.iter().any(|(rule, _)| rule == "node-identity-unusual-client"), "{curl:?}");
}

#[test]
fn e6_an_exec_is_seen_with_both_verbs_and_one_attempt_counts_once() {
    for verb in ["get", "create"] {
        assert_eq!(of(&run(&[exec(json!({"verb": verb}))]), "pod-exec").len(), 1, "{verb}");
    }
    let failed = exec(json!({"responseStatus": {"code": 500}, "annotations": null}));
    let again =
        exec(json!({"verb": "create", "auditID": "id-2", "requestReceivedTimestamp": "2026-01-01T00:00:00.5Z"}));
    let detections = run(&[failed, again]);
    assert_eq!(of(&detections, "pod-exec").len(), 1);
}

#[test]
fn e7_a_list_of_one_name_is_a_read_of_one_object() {
    let detections = run(&[event(json!({
        "verb": "list", "requestURI": "/api/v1/secrets?fieldSelector=metadata.name%3Ddb",
        "objectRef": {"resource": "secrets", "name": "db"}
    }))]);
    assert_eq!(of(&detections, "secret-list-cluster-wide").len(), 0);
}

#[test]
fn e8_a_generated_name_is_taken_from_the_response() {
    let detections = run(&[event(json!({
        "verb": "create", "level": "RequestResponse", "objectRef": {"resource": "pods", "namespace": "shop"},
        "responseStatus": {"code": 201}, "requestObject": {"metadata": {"generateName": "node-debugger-"}},
        "responseObject": {"kind": "Pod", "metadata": {"name": "node-debugger-x2k9p"}}
    }))]);
    assert_eq!(of(&detections, "node-debug-pod")[0].object.name, "node-debugger-x2k9p");
}

#[test]
fn e9_a_refused_impersonation_is_seen_in_both_wordings() {
    for message in [
        "users \"admin\" is forbidden: User \"bob\" cannot impersonate resource \"users\" in API group \"\"",
        "pods is forbidden: User \"bob\" cannot impersonate-on:user-info:list resource \"pods\"",
        "users \"admin\" is forbidden: User \"bob\" cannot impersonate:user-info resource \"users\"",
    ] {
        let detections =
            run(&[event(json!({"annotations": null, "responseStatus": {"code": 403, "message": message}}))]);
        assert_eq!(of(&detections, "impersonation-denied").len(), 1, "{message}");
    }
}

#[test]
fn e10_an_unauthenticated_probe_shows_with_and_without_anonymous_access() {
    let probe = |at: usize, user: Value, code: u16| {
        event(json!({
            "auditID": format!("id-{at}"), "stage": "ResponseStarted", "user": user, "annotations": null, "objectRef": null,
            "requestURI": format!("/probe/{at}"), "responseStatus": {"code": code}
        }))
    };
    let closed: Vec<_> = (0..6).map(|at| probe(at, json!({}), 401)).collect();
    assert_eq!(of(&run(&closed), "anonymous-probing").len(), 1);
    let open: Vec<_> = (0..6).map(|at| probe(at, json!({"username": "system:anonymous"}), 403)).collect();
    assert_eq!(of(&run(&open), "anonymous-probing").len(), 1);
}

#[test]
fn e11_no_body_token_or_command_reaches_a_detection() {
    let secret = "c3VwZXItc2VjcmV0LXZhbHVl";
    let lines = [
        event(json!({
            "verb": "create", "level": "RequestResponse", "responseStatus": {"code": 201},
            "requestObject": {"kind": "Secret", "data": {"password": secret}, "type": "kubernetes.io/service-account-token"},
            "responseObject": {"kind": "Secret", "data": {"password": secret}}
        })),
        event(json!({
            "verb": "create", "level": "RequestResponse", "responseStatus": {"code": 201},
            "objectRef": {"resource": "serviceaccounts", "subresource": "token", "namespace": "shop", "name": "web"},
            "requestURI": format!("/api/v1/namespaces/shop/serviceaccounts/web/token?access_token={secret}"),
            "requestObject": {"spec": {"expirationSeconds": 99999999}}, "responseObject": {"status": {"token": secret}}
        })),
        exec(
            json!({"requestURI": format!("/api/v1/namespaces/shop/pods/web/exec?command=sh&command=-c&command=curl+-H+{secret}+http://169.254.169.254/")}),
        ),
    ];
    let mut detector = new();
    detector.explain();
    let detections = feed(&mut detector, &lines);
    for rule in ["audit-leaks-secret-body", "audit-leaks-token-body", "sa-token-long-lived", "exec-cloud-metadata"] {
        assert!(!of(&detections, rule).is_empty(), "{rule}");
    }
    let reasons: Vec<_> = detections.iter().flat_map(|detection| detector.reasons(detection)).collect();
    assert!(!format!("{detections:?} {reasons:?}").contains(secret));
    assert!(!String::from_utf8(detector.state().expect("state")).expect("json").contains(secret));
}

#[test]
fn e12_half_a_line_is_an_error_and_never_half_an_event() {
    let line = event(json!({}));
    let half = &line.as_bytes()[..line.len() / 2];
    assert!(matches!(Event::parse(half), Err(LineError::Malformed(_))));
}

#[test]
fn e13_the_same_again_within_a_minute_is_counted_and_the_highest_severity_holds() {
    let cordon = |at: u32| {
        event(json!({
            "auditID": format!("id-{at}"), "verb": "patch", "objectRef": {"resource": "nodes", "name": "edge-1"},
            "requestURI": "/api/v1/nodes/edge-1", "stageTimestamp": format!("2026-01-01T00:{:02}:{:02}.000000Z", at / 60, at % 60)
        }))
    };
    let detections = run(&[cordon(0), cordon(20), cordon(59), cordon(61)]);
    let raised = of(&detections, "node-deleted-or-tampered");
    assert_eq!(raised.iter().map(|d| d.count).collect::<Vec<_>>(), [3, 1]);
    assert_eq!(raised[0].audit_ids, ["id-0", "id-20", "id-59"]);
    assert_eq!(raised[0].last_time.to_string(), "2026-01-01T00:00:59Z");
}

#[test]
fn e14_a_refused_attempt_is_raised_and_says_so() {
    let proxy = |code: u16, decision: &str| {
        let detections = run(&[event(json!({
            "objectRef": {"resource": "nodes", "subresource": "proxy", "name": "edge-1"},
            "requestURI": "/api/v1/nodes/edge-1/proxy/pods", "responseStatus": {"code": code},
            "annotations": {"authorization.k8s.io/decision": decision}
        }))]);
        of(&detections, "node-proxy")[0].outcome.clone()
    };
    assert_eq!(proxy(200, "allow"), "allowed");
    assert_eq!(proxy(403, "forbid"), "refused");
    assert_eq!(proxy(404, "allow"), "not_found");
    assert_eq!(proxy(502, "allow"), "failed");
}

#[test]
fn a_dry_run_changes_nothing_and_raises_nothing() {
    let delete = |uri: &str, body: Value| {
        let line = event(json!({
            "verb": "delete", "requestURI": uri, "objectRef": {"resource": "namespaces", "name": "shop"}, "requestObject": body
        }));
        of(&run(&[line]), "namespace-deleted").len()
    };
    assert_eq!(delete("/api/v1/namespaces/shop", Value::Null), 1);
    assert_eq!(delete("/api/v1/namespaces/shop?dryRun=All", Value::Null), 0);
    assert_eq!(delete("/api/v1/namespaces/shop", json!({"dryRun": ["All"]})), 0);
}

#[test]
fn the_source_is_the_last_address_and_the_others_are_marked() {
    let detections = run(&[exec(json!({"sourceIPs": ["1.2.3.4", "10.0.0.7"]}))]);
    let raised = of(&detections, "pod-exec")[0];
    assert_eq!(raised.source.as_deref(), Some("10.0.0.7"));
    assert_eq!(raised.forgeable_sources, ["1.2.3.4"]);
}

#[test]
fn live_reports_come_at_once_then_at_doublings_then_at_the_end_with_one_identity() {
    let mut detector = Detector::new(builtin().expect("rules"), Settings::default());
    let mut out = Vec::new();
    for at in 0..45 {
        let line = event(json!({"auditID": format!("id-{at}"), "verb": "create", "responseStatus": {"code": 201}}));
        let event = Event::parse(line.as_bytes()).expect("an event");
        detector.observe(&event, Position { file: "audit.log", line: at + 1 }, &mut out);
    }
    detector.finish(&mut out);
    let reports = of(&out, "secret-changed");
    assert_eq!(reports.iter().map(|d| d.count).collect::<Vec<_>>(), [1, 10, 20, 40, 45]);
    assert!(reports.iter().all(|d| d.audit_id == "id-0" && d.time == reports[0].time && d.severity == Severity::Low));
}

#[test]
fn a_restart_changes_nothing() {
    let lines: Vec<_> = (0..40)
        .map(|at| {
            event(json!({
                "auditID": format!("id-{at}"), "objectRef": {"resource": "secrets", "namespace": "shop", "name": format!("s{at}")},
                "stageTimestamp": format!("2026-01-01T00:00:{at:02}.000000Z")
            }))
        })
        .collect();
    let mut whole = run(&lines);
    let mut parts = Vec::new();
    let mut detector = new();
    for (at, line) in lines.iter().enumerate() {
        let event = Event::parse(line.as_bytes()).expect("an event");
        detector.observe(&event, Position { file: "audit.log", line: at as u64 + 1 }, &mut parts);
        let mut next = new();
        next.restore(&detector.state().expect("state")).expect("restored");
        detector = next;
    }
    detector.finish(&mut parts);
    whole.sort_by(|a, b| a.rule.cmp(&b.rule));
    parts.sort_by(|a, b| a.rule.cmp(&b.rule));
    assert!(!of(&whole, "secret-read-burst").is_empty());
    assert_eq!(parts, whole);
}

#[test]
fn memory_is_bounded_and_what_is_given_up_is_counted() {
    let settings = Settings { max_windows: 10, ..Settings::default() };
    let mut detector = Detector::new(builtin().expect("rules"), settings);
    let mut out = Vec::new();
    for at in 0..200 {
        let line = event(json!({
            "verb": "delete", "objectRef": {"resource": "namespaces", "name": format!("n{at}")},
            "stageTimestamp": "2026-01-01T00:00:00.000000Z"
        }));
        let event = Event::parse(line.as_bytes()).expect("an event");
        detector.observe(&event, Position { file: "audit.log", line: at }, &mut out);
    }
    assert_eq!(detector.remembered(), 10);
    assert!(detector.counters().evicted > 100);
    assert_eq!(of(&out, "namespace-deleted").len(), 200, "every one is reported all the same");
}

#[test]
fn probing_needs_refusals_of_several_resources_and_somebody_browsing_is_none() {
    let ask = |at: usize, decision: &str| {
        event(json!({
            "auditID": format!("id-{at}"), "requestURI": format!("/api/v1/kind{at}"), "verb": "list",
            "objectRef": {"resource": format!("kind{at}")}, "annotations": {"authorization.k8s.io/decision": decision}
        }))
    };
    let browsing: Vec<_> = (0..20).map(|at| ask(at, "allow")).collect();
    assert_eq!(of(&run(&browsing), "permission-probing").len(), 0);
    let probing: Vec<_> = (0..20).map(|at| ask(at, if at % 2 == 0 { "forbid" } else { "allow" })).collect();
    assert_eq!(of(&run(&probing), "permission-probing").len(), 1);
}

#[test]
fn a_collection_deleted_counts_ten_and_a_refused_secret_two() {
    let collections: Vec<_> = (0..3)
        .map(|n| {
            event(json!({
                "auditID": format!("d-{n}"), "verb": "deletecollection",
                "objectRef": {"resource": "persistentvolumeclaims", "namespace": format!("ns-{n}")},
            }))
        })
        .collect();
    assert_eq!(of(&run(&collections), "mass-deletion").len(), 1);
    assert!(of(&run(&collections[..2]), "mass-deletion").is_empty());

    let reads = |count: u32, code: u16, decision: &str| -> Vec<String> {
        (0..count)
            .map(|n| {
                event(json!({
                    "auditID": format!("r-{n}"), "responseStatus": {"code": code},
                    "objectRef": {"resource": "secrets", "namespace": "shop", "name": format!("s-{n}")},
                    "annotations": {"authorization.k8s.io/decision": decision},
                }))
            })
            .collect()
    };
    assert_eq!(of(&run(&reads(5, 403, "forbid")), "secret-read-burst").len(), 1);
    assert!(of(&run(&reads(5, 200, "allow")), "secret-read-burst").is_empty());
}
