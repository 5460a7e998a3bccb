//! Bodies are judged whatever a client put into them; one that cannot be read is said.

use picket_audit::{Detector, Event, LineError, MAX_LINE, Position, Settings, builtin, each_event};
use picket_model::{Detection, Severity};

fn line(resource: &str, verb: &str, fields: &str) -> String {
    format!(
        r#"{{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"RequestResponse","auditID":"x","stage":"ResponseComplete","requestURI":"/x","verb":"{verb}","user":{{"username":"bob"}},"sourceIPs":["10.0.0.9"],"userAgent":"kubectl/v1.36.2","objectRef":{{"resource":"{resource}","namespace":"shop","name":"x"}},"responseStatus":{{"code":201}},"stageTimestamp":"2026-01-01T00:00:00.000000Z"{fields}}}"#
    )
}

/// A pod with everything bad, and this value somewhere in it.
fn pod(odd: &str) -> String {
    let body = format!(
        r#"{{"kind":"Pod","metadata":{{"annotations":{{"a":{odd}}}}},"spec":{{"hostPID":true,"containers":[{{"name":"a","image":"b","securityContext":{{"privileged":true}}}}]}}}}"#
    );
    line("pods", "create", &format!(r#","requestObject":{body}"#))
}

fn run(line: &[u8]) -> (Vec<Detection>, Vec<LineError>) {
    let mut detector = Detector::new(builtin().expect("rules"), Settings::replay());
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    each_event(line, |event| match event {
        Ok(event) => detector.observe(&event, Position { file: "audit.log", line: 1 }, &mut out),
        Err(error) => errors.push(error),
    });
    detector.finish(&mut out);
    (out, errors)
}

fn severity(found: &[Detection], rule: &str) -> Option<Severity> {
    found.iter().find(|detection| detection.rule == rule).map(|detection| detection.severity)
}

fn is_judged(line: &[u8]) -> bool {
    let (found, errors) = run(line);
    errors.is_empty()
        && ["host-pid-pod", "privileged-container"].iter().all(|rule| severity(&found, rule).is_some())
        && severity(&found, "audit-event-truncated").is_none()
}

#[test]
fn a_body_as_long_as_a_line_is_judged() {
    assert!(is_judged(pod("\"\"").as_bytes()));
    let escaped = pod(&format!("\"{}\"", r"\u003c".repeat(750_000)));
    assert!(escaped.len() > 4 << 20 && is_judged(escaped.as_bytes()), "as the API server logs 750,000 <");
    let longest = pod(&format!("\"{}\"", "a".repeat(MAX_LINE - 1000)));
    assert!(is_judged(longest.as_bytes()));

    let list =
        format!(r#","responseObject":{{"kind":"SecretList","items":[{{"data":{{"k":"{}"}}}}]}}"#, "A".repeat(5 << 20));
    let (found, _) = run(line("secrets", "list", &list).as_bytes());
    assert_eq!(severity(&found, "audit-leaks-secret-body"), Some(Severity::High));
}

#[test]
fn what_the_api_server_takes_and_serde_refuses_is_judged() {
    for odd in [r#""\ud800""#, "1e999"] {
        assert!(is_judged(pod(odd).as_bytes()), "{odd}");
    }
    assert!(is_judged(pod(&format!("{}{}", "[".repeat(9000), "]".repeat(9000))).as_bytes()), "nested");

    let mut bytes = pod("\"ZZ\"").into_bytes();
    let at = bytes.windows(2).position(|part| part == b"ZZ").expect("ZZ");
    bytes[at] = 0xff;
    assert!(is_judged(&bytes), "a byte of no character");
    bytes.extend_from_slice(&pod("\"\"").into_bytes());
    assert!(is_judged(&bytes), "and another event behind it");
    let agent = pod("\"\"").replace("kubectl/", r"\udc00kubectl/");
    assert!(is_judged(agent.as_bytes()), "half a pair in a field of the event's own");
}

#[test]
fn null_is_an_empty_list_or_text() {
    for (from, to) in [
        (r#""username":"bob""#, r#""username":"bob","groups":null,"extra":{"a":null,"b":["c"]}"#),
        (r#""auditID":"x""#, r#""auditID":null,"annotations":{"a":null,"b":"c"}"#),
    ] {
        let line = pod("\"\"").replace(from, to);
        assert!(is_judged(line.as_bytes()), "{to}");
        let event = Event::parse(line.as_bytes()).expect("an event");
        if let Some(pairs) = &event.annotations {
            assert_eq!(
                (pairs.get("a").map(|text| text.len()), pairs.get("b").map(|text| &**text)),
                (Some(0), Some("c"))
            );
        }
    }
}

#[test]
fn a_body_that_cannot_be_read_is_said_and_what_was_read_of_it_is_judged() {
    let costly = |resource: &str, verb: &str, first: &str| {
        let pad = r#"{"a":0},"#.repeat(500_000);
        let body = format!(r#","requestObject":{{{first}"zz":[{pad}0],"spec":{{"hostPID":true}}}}"#);
        run(line(resource, verb, &body).as_bytes()).0
    };
    let found = costly("pods", "create", "");
    assert_eq!(
        (severity(&found, "audit-event-truncated"), severity(&found, "host-pid-pod")),
        (Some(Severity::Medium), None)
    );
    let found = costly("pods", "create", r#""spec":{"hostPID":true},"#);
    assert!(severity(&found, "audit-event-truncated").is_some() && severity(&found, "host-pid-pod").is_some());
    assert_eq!(severity(&costly("configmaps", "update", ""), "audit-event-truncated"), Some(Severity::Low));
    // No rule asks for this body.
    assert_eq!(severity(&costly("leases", "update", ""), "audit-event-truncated"), None);
}

#[test]
fn a_secret_at_a_level_with_bodies_is_a_fault_of_the_policy_also_without_a_body() {
    let leaks = |verb: &str, fields: &str| {
        severity(&run(line("secrets", verb, fields).as_bytes()).0, "audit-leaks-secret-body")
    };
    assert_eq!(leaks("get", ""), Some(Severity::Medium));
    assert_eq!(leaks("get", r#","responseObject":{"kind":"Status"}"#), Some(Severity::Medium));
    assert_eq!(leaks("list", r#","responseObject":{"items":[{"metadata":{"name":"x"}}]}"#), Some(Severity::Medium));
    assert_eq!(leaks("get", r#","responseObject":{"data":{"a":"b"}}"#), Some(Severity::High));
    assert_eq!(leaks("patch", r#","requestObject":[{"op":"add","path":"/data/a","value":"b"}]"#), Some(Severity::High));
    let metadata = line("secrets", "get", "").replace("RequestResponse", "Metadata");
    assert_eq!(severity(&run(metadata.as_bytes()).0, "audit-leaks-secret-body"), None);
}

#[test]
fn an_item_of_a_list_that_is_no_event_does_not_take_the_others_with_it() {
    let list = |items: &[&str]| {
        let text = format!(
            r#"{{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{{}},"items":[{}]}}"#,
            items.join(",")
        );
        let (found, errors) = run(text.as_bytes());
        (found.iter().find(|found| found.rule == "host-pid-pod").map_or(0, |found| found.count), errors.len())
    };
    let good = pod("\"\"");
    assert_eq!(list(&[&good]), (1, 0));
    assert_eq!(list(&[r#"{"kind":"Event","stage":3}"#, &good, "7", &good]), (2, 2));
    assert_eq!(list(&[]), (0, 0));
    let cut = format!(r#"{{"kind":"EventList","items":[{good},{{"kind":"Ev"#);
    let (found, errors) = run(cut.as_bytes());
    assert!(severity(&found, "host-pid-pod").is_some() && !errors.is_empty(), "a list that was cut");
    let mut odd = format!(r#"{{"kind":"EventList","items":[{}]}}"#, pod("\"ZZ\"")).into_bytes();
    let at = odd.windows(2).position(|part| part == b"ZZ").expect("ZZ");
    odd[at] = 0xff;
    assert!(is_judged(&odd));
}
