//! Every rule against the catalogue's own examples.

use std::sync::LazyLock;

use picket_audit::{Detector, Event, Position, Settings, Site, builtin};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Entry {
    rule: String,
    example: Vec<Value>,
    counter_example: Vec<Value>,
}

fn entries() -> Vec<Entry> {
    serde_json::from_str(include_str!("data/examples.json")).expect("examples.json")
}

/// The rules that match; a line that is no audit event is the reader's `audit-unparsable-line`.
fn matching(text: &str) -> Vec<String> {
    let Ok(event) = Event::parse(text.as_bytes()) else { return vec!["audit-unparsable-line".to_owned()] };
    static DETECTOR: LazyLock<Detector> = LazyLock::new(|| {
        // Two rules depend on a list of the site.
        let site = Site {
            allowed_registries: vec!["registry.example/".into()],
            blocked_addresses: vec!["192.0.2.0/24".into()],
            ..Site::default()
        };
        Detector::new(builtin().expect("rules"), Settings { site, ..Settings::default() })
    });
    DETECTOR.matching(&event).into_iter().map(|rule| rule.id.clone()).collect()
}

#[test]
fn all_rules_of_the_catalogue_are_there() {
    let rules: Vec<_> = builtin().expect("rules").into_iter().map(|rule| rule.id).collect();
    let mut wanted: Vec<_> = entries().into_iter().map(|entry| entry.rule).collect();
    // Ours.
    wanted.extend(["audit-reader-behind", "node-identity-address-change"].map(str::to_owned));
    wanted.sort();
    assert_eq!(rules, wanted);
}

#[test]
fn every_example_matches_its_rule() {
    let mut missed = Vec::new();
    for entry in entries() {
        for example in &entry.example {
            if !matching(&example.to_string()).contains(&entry.rule) {
                missed.push((entry.rule.clone(), example.to_string()));
            }
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn no_counter_example_matches_its_rule() {
    let mut wrong = Vec::new();
    for entry in entries() {
        for example in &entry.counter_example {
            if matching(&example.to_string()).contains(&entry.rule) {
                wrong.push((entry.rule.clone(), example.to_string()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_position_is_kept() {
    let mut detector = Detector::new(builtin().expect("rules"), Settings::default());
    let line =
        entries().into_iter().find(|entry| entry.rule == "namespace-deleted").expect("entry").example[0].to_string();
    let event = Event::parse(line.as_bytes()).expect("an event");
    let mut out = Vec::new();
    detector.observe(&event, Position { file: "audit.log", line: 7 }, &mut out);
    let detection = out.iter().find(|detection| detection.rule == "namespace-deleted").expect("a detection");
    assert_eq!((detection.file.as_str(), detection.line), ("audit.log", 7));
}
