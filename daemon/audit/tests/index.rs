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
