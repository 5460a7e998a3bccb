//! The index leaves out only rules that do not match.

use std::io::Read;

use picket_audit::{Detector, Event, Position, Settings, builtin};

#[test]
fn the_index_never_hides_a_match() {
    let detector = Detector::new(builtin().expect("rules"), Settings::default());
    for name in ["audit.log.gz", "first-start-default.log.gz"] {
        let path = format!("{}/../../tests/fixtures/audit/k3s-real/{name}", env!("CARGO_MANIFEST_DIR"));
        let mut text = String::new();
        flate2::read::GzDecoder::new(std::fs::File::open(path).expect("fixture"))
            .read_to_string(&mut text)
            .expect("gzip");
        // Every second line keeps the test short; other tests read all of them.
        for line in text.lines().step_by(2) {
            let event = Event::parse(line.as_bytes()).expect("an event");
            if event.stage.as_deref() == Some("RequestReceived") {
                continue;
            }
            let all: Vec<_> = detector.matching(&event).into_iter().map(|rule| rule.id.as_str()).collect();
            let indexed = detector.matching_indexed(&event);
            let indexed: Vec<_> = indexed.iter().map(|rule| rule.id.as_str()).collect();
            let hidden: Vec<_> = all.iter().filter(|rule| !indexed.contains(rule)).collect();
            assert!(hidden.iter().all(|rule| rule.starts_with("audit-")), "{hidden:?} hidden for {line}");
        }
    }
}

#[test]
fn words_in_another_case_are_not_hidden() {
    // Sigma compares without case; an API server would refuse such a path, but it logs it.
    let line = r#"{"kind":"Event","stage":"ResponseComplete","verb":"LIST","user":{"username":"x"},"objectRef":{"resource":"SECRETS"},"responseStatus":{"code":200}}"#;
    let mut detector = Detector::new(builtin().expect("rules"), Settings::default());
    let event = Event::parse(line.as_bytes()).expect("an event");
    let mut out = Vec::new();
    detector.observe(&event, Position { file: "audit.log", line: 1 }, &mut out);
    assert!(out.iter().any(|detection| detection.rule == "secret-list-cluster-wide"), "{out:#?}");
}

#[test]
fn what_one_alternative_of_a_rule_asks_for_is_not_hidden() {
    let mut settings = Settings::default();
    settings.site.blocked_addresses = vec!["203.0.113.0/24".into()];
    let detector = Detector::new(builtin().expect("rules"), settings);
    let event = |user: &str, more: &str| {
        format!(
            r#"{{"kind":"Event","stage":"ResponseComplete","verb":"get","user":{{"username":"{user}","groups":["x"]}},"responseStatus":{{"code":200}},{more}}}"#
        )
    };
    let secrets = r#""objectRef":{"resource":"secrets","namespace":"a","name":"b"}"#;
    for (rule, line) in [
        ("audit-leaks-token-body", event("x", r#""requestURI":"/api/v1/pods?Access_Token=abc""#)),
        ("audit-leaks-token-body", event("x", r#""requestURI":"/access_toke/n?a=é&token=eyJ""#)),
        ("source-on-blocklist", event("x", r#""sourceIPs":["203.0.113.7","10.0.0.1"]"#)),
        (
            "source-on-blocklist",
            event("x", r#""sourceIPs":["203.0.113.7"]"#).replace("ResponseComplete", "ResponseStarted"),
        ),
        ("legacy-sa-token-used", event("x", r#""annotations":{"authentication.k8s.io/legacy-token":"a:b"}"#)),
        ("legacy-sa-token-used", event("x", r#""annotations":{"authentication.k8s.io/stale-token":"a"}"#)),
        ("default-sa-api-use", event("system:serviceaccount:web:default", secrets)),
        ("system-identity-public-address", event("system:apiserver", r#""sourceIPs":["198.51.100.4"]"#)),
        ("anonymous-request-allowed", event("system:anonymous", secrets)),
        ("anonymous-request-allowed", event("y", secrets).replace(r#"["x"]"#, r#"["system:unauthenticated"]"#)),
    ] {
        let event = Event::parse(line.as_bytes()).expect("an event");
        let names = |rules: Vec<&picket_audit::Rule>| rules.iter().map(|rule| rule.id.clone()).collect::<Vec<_>>();
        let (all, indexed) = (names(detector.matching(&event)), names(detector.matching_indexed(&event)));
        assert!(indexed.iter().any(|id| id == rule), "{rule} for {line}: {all:?}");
        assert!(
            all.iter().all(|id| indexed.contains(id) || id.starts_with("audit-")),
            "{all:?} {indexed:?} for {line}"
        );
    }
}
