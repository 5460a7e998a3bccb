//! A real K3s cluster under work and attack: every labelled action is raised, everything else stays quiet.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::path::PathBuf;

use picket_audit::{Detector, Position, Settings, builtin, each_event};
use picket_model::{Detection, Severity};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/audit").join(name)
}

fn text(name: &str) -> String {
    let bytes = std::fs::read(fixture(name)).expect("fixture");
    let mut text = String::new();
    if name.ends_with(".gz") {
        flate2::read::GzDecoder::new(bytes.as_slice()).read_to_string(&mut text).expect("gzip");
    } else {
        text = String::from_utf8(bytes).expect("utf-8");
    }
    text
}

fn replay(name: &str) -> Vec<Detection> {
    let mut detector = Detector::new(builtin().expect("rules"), Settings::replay());
    let mut out = Vec::new();
    for (at, line) in text(name).lines().enumerate() {
        each_event(line.as_bytes(), |event| {
            let event = event.expect("an event");
            detector.observe(&event, Position { file: name, line: at as u64 + 1 }, &mut out);
        });
    }
    detector.finish(&mut out);
    out
}

struct Label {
    action: String,
    actors: Vec<String>,
    must_raise: Vec<String>,
    audit_ids: HashSet<String>,
}

fn labels() -> Vec<Label> {
    let split = |text: &str| text.split([',', ';']).map(str::to_owned).collect::<Vec<_>>();
    text("k3s-real/labels.tsv")
        .lines()
        .skip(1)
        .map(|row| {
            let columns: Vec<_> = row.split('\t').collect();
            Label {
                action: columns[0].to_owned(),
                actors: split(columns[1]),
                must_raise: split(columns[2]).into_iter().filter(|rule| !rule.is_empty()).collect(),
                audit_ids: split(columns[3]).into_iter().filter(|id| !id.is_empty()).collect(),
            }
        })
        .collect()
}

fn brief(detection: &Detection) -> String {
    format!(
        "{} {} {}/{:?} {}{} {}/{}/{} {} {} x{} line {}",
        detection.severity,
        detection.rule,
        detection.user,
        detection.impersonated,
        detection.verb,
        detection.code.map(|code| format!(" {code}")).unwrap_or_default(),
        detection.object.namespace,
        detection.object.resource,
        detection.object.subresource,
        detection.object.name,
        detection.time,
        detection.count,
        detection.line,
    )
}

#[test]
fn every_labelled_action_is_raised_with_its_actor() {
    let detections = replay("k3s-real/audit.log.gz");
    let mut missed = Vec::new();
    for label in labels() {
        for rule in &label.must_raise {
            let raised = detections.iter().any(|detection| {
                let actor = |name: &str| label.actors.iter().any(|actor| actor == name || actor.is_empty());
                detection.rule == *rule
                    && detection.audit_ids.iter().any(|id| label.audit_ids.contains(id))
                    && (actor(&detection.user) || detection.impersonated.as_deref().is_some_and(actor))
            });
            if !raised {
                missed.push(format!("{}: {rule}", label.action));
            }
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn a_labelled_action_is_raised_once_and_not_once_per_event() {
    let detections = replay("k3s-real/audit.log.gz");
    let many = labels().into_iter().find(|label| label.action == "setup-secrets-many").expect("label");
    let of_it: Vec<_> = detections
        .iter()
        .filter(|d| d.rule == "secret-changed" && d.audit_ids.iter().any(|id| many.audit_ids.contains(id)))
        .collect();
    assert_eq!(of_it.len(), 1, "{of_it:#?}");
    assert!(of_it[0].count >= 14);
}

#[test]
fn what_k3s_does_by_itself_stays_at_low() {
    let labels = labels();
    let by_id: HashMap<&str, &str> =
        labels.iter().flat_map(|label| label.audit_ids.iter().map(|id| (id.as_str(), label.action.as_str()))).collect();
    let loud: Vec<_> = replay("k3s-real/audit.log.gz")
        .iter()
        .filter(|detection| detection.severity > Severity::Low)
        .filter(|detection| !detection.audit_ids.iter().any(|id| by_id.contains_key(id.as_str())))
        .map(brief)
        .collect();
    assert!(loud.is_empty(), "{loud:#?}");
}

#[test]
fn a_person_asking_for_her_own_rights_is_ordinary() {
    let labels = labels();
    let quiet = ["alice-get-pods", "alice-get-own-secret", "alice-logs", "alice-cani"];
    let loud: Vec<_> = replay("k3s-real/audit.log.gz")
        .iter()
        .filter(|detection| detection.severity > Severity::Low)
        .filter(|detection| {
            labels
                .iter()
                .any(|label| quiet.contains(&label.action.as_str()) && label.audit_ids.contains(&detection.audit_id))
        })
        .map(brief)
        .collect();
    assert!(loud.is_empty(), "{loud:#?}");
}

#[test]
fn the_first_start_of_a_cluster_is_quiet() {
    let loud: Vec<_> = replay("k3s-real/first-start-default.log.gz")
        .iter()
        .filter(|detection| detection.severity > Severity::Low)
        .map(brief)
        .collect();
    assert_eq!(loud.len(), 1, "{loud:#?}");
    assert!(loud[0].contains("node-joined"), "{loud:#?}");
}

#[test]
fn a_stock_k3s_is_quiet() {
    let detections = replay("k3s-authored/noise.jsonl");
    let loud: Vec<_> = detections
        .iter()
        .filter(|detection| detection.severity > Severity::Low && detection.rule != "node-joined")
        .map(brief)
        .collect();
    assert!(loud.is_empty(), "{loud:#?}");
    assert_eq!(detections.iter().filter(|d| d.rule == "node-joined").count(), 1);
}

#[test]
fn no_token_key_or_password_is_in_the_output() {
    let names = ["k3s-real/audit.log.gz", "k3s-real/first-start-default.log.gz", "k3s-authored/noise.jsonl"];
    for detection in names.iter().flat_map(|name| replay(name)) {
        let text = serde_json::to_string(&detection).expect("JSON");
        for secret in ["eyJhbGci", "K10", "-----BEGIN", "command=", "access_token", "password="] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}

/// Runs the log with a restart at each of these events.
fn cut(lines: &[&str], cuts: &HashSet<usize>, settings: &Settings) -> Vec<Detection> {
    let rules = builtin().expect("rules");
    let mut detector = Detector::new(rules.clone(), settings.clone());
    let mut out = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        if cuts.contains(&at) {
            let mut next = Detector::new(rules.clone(), settings.clone());
            next.restore(&detector.state().expect("state")).expect("restored");
            detector = next;
        }
        let position = Position { file: "audit.log", line: at as u64 + 1 };
        each_event(line.as_bytes(), |event| detector.observe(&event.expect("an event"), position, &mut out));
    }
    detector.finish(&mut out);
    out
}

#[test]
fn restarts_at_any_event_change_no_detection() {
    let log = text("k3s-real/audit.log.gz");
    let lines: Vec<&str> = log.lines().collect();
    // Any points would do; these are spread without a pattern and the same in every run.
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut cuts = HashSet::new();
    for _ in 0..60 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        cuts.insert(usize::try_from(seed % lines.len() as u64).expect("small"));
    }
    // Few windows, so that what makes room is the same too.
    for settings in [Settings::replay(), Settings { max_windows: 64, ..Settings::default() }] {
        let whole = cut(&lines, &HashSet::new(), &settings);
        assert!(whole.len() > 60);
        assert_eq!(cut(&lines, &cuts, &settings), whole, "{settings:?}");
    }
}
