//! Controls and waivers that administrators add.

use std::path::Path;

use picket_checks::Op;
use picket_model::{Severity, Status};
use picket_tests::node::Profile;
use picketd::local::{CONTROLS, Local, WAIVERS};
use picketd::report::{Form, Report};

use crate::{Node, built_in, json, moment, printed, rows};

const FOLDER: &str = "/etc/picket/controls.d";

impl Node {
    /// Judged as `picketd scan` does, with what lies in its `/etc/picket`.
    fn scan_local(&self) -> (Report, Local) {
        let host = self.host();
        let local = Local::read(&built_in(), (&host, Path::new(CONTROLS)), (&host, Path::new(WAIVERS)));
        let mut report = self.scan(&local.policy);
        report.waived = local.overlay(&mut report.verdicts, moment());
        (report, local)
    }
}

fn problems(local: &Local) -> Vec<String> {
    local.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn a_custom_control_needs_five_keys_and_is_judged_like_any_other() {
    let node = Node::new(Profile::DefaultServer);
    node.sample
        .write(
            format!("{FOLDER}/site.yaml").as_str(),
            r#"
- id: site-motd
  title: The banner is not writable by others
  source: file-mode
  what: /etc/site/motd
  expected: {op: mode_at_most, value: "0644"}
- id: site-no-traefik
  title: Traefik is off
  source: flag:k3s
  scope: server
  severity: critical
  what: disable
  expected:
    op: has
    value: traefik
  how_to_fix: "config.yaml: disable: [traefik]"
"#,
        )
        .unwrap();
    node.sample.write("/etc/site/motd", "hello").unwrap();
    node.sample.chmod("/etc/site/motd", 0o666).unwrap();
    let (report, local) = node.scan_local();
    assert_eq!(problems(&local), Vec::<String>::new());
    let motd = rows(&report, "site-motd")[0].clone();
    assert_eq!((motd.status, motd.subject.as_str()), (Status::Fail, "/etc/site/motd"), "{motd:#?}");
    assert_eq!(motd.severity, Severity::Medium);
    assert!(motd.observed.contains("0666") && !motd.remedy.is_empty(), "{motd:#?}");
    let traefik = rows(&report, "site-no-traefik")[0];
    assert_eq!((traefik.status, traefik.severity), (Status::Fail, Severity::Critical), "{traefik:#?}");

    node.sample.chmod("/etc/site/motd", 0o644).unwrap();
    node.sample.append("/etc/rancher/k3s/config.yaml", "disable: [traefik]\n").unwrap();
    let (report, _) = node.scan_local();
    assert_eq!(rows(&report, "site-motd")[0].status, Status::Pass);
    assert_eq!(rows(&report, "site-no-traefik")[0].status, Status::Pass, "{:#?}", rows(&report, "site-no-traefik"));
}

#[test]
fn a_custom_control_may_look_at_kernel_parameters_and_certificates_and_combine() {
    let node = Node::new(Profile::DefaultServer);
    node.sample
        .write(
            format!("{FOLDER}/a.yml").as_str(),
            r#"
- {id: site-cert, title: The site certificate lives on, source: x509, what: [/etc/site/tls.crt], expected: {op: days_left_ge, value: 30}}
- {id: site-both, title: Both, source: flag:k3s, what: [both], expected: {op: all_of, value: [site-cert, cert-ca-distinct]}}
"#,
        )
        .unwrap();
    let leaf = node.sample.read("/var/lib/rancher/k3s/server/tls/client-admin.crt").unwrap();
    node.sample.write("/etc/site/tls.crt", leaf).unwrap();
    let (report, local) = node.scan_local();
    assert_eq!(problems(&local), Vec::<String>::new());
    assert!(rows(&report, "site-cert").iter().all(|v| v.status == Status::Pass), "{:#?}", rows(&report, "site-cert"));
    assert_eq!(rows(&report, "site-both")[0].status, Status::Pass, "{:#?}", rows(&report, "site-both"));
    assert_eq!(local.policy.catalogue.get("site-cert").unwrap().expected.op, Op::DaysLeftGe);
}

#[test]
fn what_is_wrong_is_told_by_file_line_and_key_and_stops_nothing_else() {
    let node = Node::new(Profile::DefaultServer);
    let good = "- {id: good, title: Good, source: sysctl, what: vm.overcommit_memory, expected: {op: eq, value: 1}}\n";
    for (name, text, wanted) in [
        ("a.yaml", "- id: x\n  title: X\n  source: file-mode\n  what: /etc/x\n", vec![":1: expected: is missing"]),
        ("b.yaml", "- id: x\n  titel: X\n", vec![":2: titel: is no key", ":1: title: is missing"]),
        (
            "c.yaml",
            "- id: x\n  title: X\n  source: file-moed\n  what: /etc/x\n  expected:\n    value: 1\n    op: mode_at_mots\n",
            vec![":3: source: unknown variant `file-moed`", ":7: expected.op: unknown variant `mode_at_mots`"],
        ),
        (
            "d.yaml",
            "\n- id: x\n  title: X\n  source: file-mode\n  what: /etc/x\n  expected: {op: mode_at_most, value: 600}\n",
            vec![":6: expected.value: mode_at_most compares with one text; write it in quotes"],
        ),
        (
            "e.yaml",
            "- id: token-rotation-age\n  title: X\n  source: sysctl\n  what: a.b\n  expected: {op: set}\n",
            vec![":1: id: \"token-rotation-age\" is the id of another control"],
        ),
        ("f.yaml", "id: x\n", vec!["no YAML list of controls"]),
        ("g.yaml", "- [\n", vec!["no YAML list of controls"]),
        (
            "h.yaml",
            "- id: Ä\n  title: X\n  source: sysctl\n  what: []\n  expected: {op: set}\n",
            vec![":1: id: ", ": what: is empty"],
        ),
        (
            "i.yaml",
            "- {id: x, title: X, source: file-mode, what: '/**', expected: {op: mode_at_most, value: '0600'}}\n",
            vec![":1: what: /**: "],
        ),
        (
            "j.yaml",
            "- {id: x, title: X, source: flag:k3s, what: both, expected: {op: all_of, value: [no-such-control]}}\n",
            vec!["no control no-such-control"],
        ),
        ("k.yaml", "- id: x\n  severity: urgent\n", vec![":2: severity: ", "critical"]),
    ] {
        let bad = format!("{FOLDER}/{name}");
        node.sample.write(&bad, text).unwrap();
        node.sample.write(format!("{FOLDER}/zz.yaml").as_str(), good).unwrap();
        let (report, local) = node.scan_local();
        let said = problems(&local).join("\n");
        for part in wanted {
            assert!(said.contains(part), "{name}: {part:?} is not in\n{said}");
        }
        assert!(said.contains(&bad), "{said}");
        assert_eq!(rows(&report, "good").len(), 1, "{name} stopped the others");
        let told = rows(&report, "picket-custom-controls");
        assert_eq!(told.len(), local.problems.len());
        assert!(told.iter().all(|v| v.status == Status::Fail && v.evidence[0].path.as_deref() == Some(bad.as_str())));
        std::fs::remove_file(node.sample.path(&bad)).unwrap();
    }
}

#[test]
fn hostile_files_of_controls_are_told_and_do_no_harm() {
    let node = Node::new(Profile::DefaultServer);
    let path = format!("{FOLDER}/x.yaml");
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n- *f\n";
    let long = vec![b'x'; 2 << 20];
    let deep = "[".repeat(100_000);
    for content in [&[0xff, 0xfe][..], bomb.as_bytes(), &long, deep.as_bytes()] {
        node.sample.write(&path, content).unwrap();
        node.sample.write(WAIVERS, content).unwrap();
        let (report, local) = node.scan_local();
        assert_eq!(local.problems.len(), 2, "{:?}", problems(&local));
        assert_eq!(rows(&report, "picket-waivers").len(), 1);
    }
}

#[test]
fn a_waived_failure_stays_a_failure_and_does_not_count() {
    let node = Node::new(Profile::DefaultServer);
    let (before, _) = node.scan_local();
    let failing: Vec<_> = before.verdicts.iter().filter(|v| v.status == Status::Fail).cloned().collect();
    assert!(failing.len() > 3 && before.fails_at(Severity::Info));
    let all: String = failing
        .iter()
        .map(|v| {
            format!(
                "- control: {}\n  subject: '*'\n  reason: \"see ticket 7, <b>\"\n  expires: 2027-01-01T00:00:00Z\n",
                v.control
            )
        })
        .collect();
    node.sample.write(WAIVERS, all).unwrap();
    let (report, local) = node.scan_local();
    assert_eq!(problems(&local), Vec::<String>::new());
    assert!(!report.fails_at(Severity::Info));
    let still: Vec<_> = report.verdicts.iter().filter(|v| v.status == Status::Fail).collect();
    assert_eq!(still.len(), failing.len(), "the verdicts keep their status");
    for verdict in still {
        let last = verdict.evidence.last().unwrap();
        assert_eq!((last.path.as_deref(), last.layer.as_deref()), (Some(WAIVERS), Some("waiver")));
        assert!(last.detail.contains("ticket 7") && last.line.is_some(), "{last:?}");
    }
    let document = json(&report);
    let row = document["verdicts"].as_array().unwrap().iter().find(|v| v["status"] == "fail").unwrap();
    assert_eq!(row["waived"], serde_json::json!({"reason": "see ticket 7, <b>", "expires": "2027-01-01T00:00:00Z"}));
    assert!(
        document["verdicts"].as_array().unwrap().iter().all(|v| v["status"] != "pass" || v.get("waived").is_none())
    );
    assert!(!printed(&report, Form::Junit).contains("<failure "));
    assert!(printed(&report, Form::Table).contains("Waived:"));
    let sarif: serde_json::Value = serde_json::from_str(&printed(&report, Form::Sarif)).unwrap();
    let suppressed = sarif["runs"][0]["results"].as_array().unwrap().iter().find(|r| r["kind"] == "fail").unwrap();
    assert_eq!(suppressed["suppressions"][0]["kind"], "external");
}

#[test]
fn a_waiver_is_for_its_subject_and_its_time_only() {
    let node = Node::new(Profile::DefaultServer);
    let (before, _) = node.scan_local();
    let one = before.verdicts.iter().find(|v| v.status == Status::Fail).unwrap().clone();
    let write = |subject: &str, expires: &str| {
        let waiver = format!("- control: {}\n  subject: {subject:?}\n  reason: x\n  expires: {expires}\n", one.control);
        node.sample.write(WAIVERS, waiver).unwrap();
    };
    write("*something else", "2026-11-23T00:00:00Z");
    assert!(node.scan_local().0.waived.is_empty(), "another subject is waived");

    write(&one.subject, "2026-11-23T00:00:00+01:00");
    let (report, _) = node.scan_local();
    assert_eq!(report.waived.len(), 1);
    assert_eq!(report.verdicts[*report.waived.keys().next().unwrap()].subject, one.subject);

    write(&one.subject, "2026-11-22T00:00:00Z");
    let (report, _) = node.scan_local();
    assert!(report.waived.is_empty());
    let expired = rows(&report, "picket-waiver-expired");
    assert_eq!((expired.len(), expired[0].status), (1, Status::Fail));
    assert!(expired[0].observed.starts_with("expired 2026-11-22") && expired[0].evidence[0].line == Some(1));
}

#[test]
fn a_waiver_that_cannot_be_used_waives_nothing_and_is_told() {
    let node = Node::new(Profile::DefaultServer);
    let whole = "  subject: '*'\n  reason: x\n  expires: 2027-01-01T00:00:00Z\n";
    for (text, part) in [
        (format!("- control: no-such\n{whole}"), ":1: control: there is no control \"no-such\""),
        ("- control: token-rotation-age\n  subject: a\n  reason: b\n".to_owned(), ":1: expires: is missing"),
        (
            "- control: token-rotation-age\n  subject: a\n  reason: ''\n  expires: 2027-01-01T00:00:00Z\n".to_owned(),
            ":3: reason: is empty",
        ),
        (
            "- control: token-rotation-age\n  subject: a\n  reason: b\n  expires: 2027-01-01\n".to_owned(),
            ":4: expires: ",
        ),
        (format!("- control: token-rotation-age\n  until: x\n{whole}"), ":2: until: is no key of a waiver"),
        ("control: x\n".to_owned(), "no YAML list of waivers"),
    ] {
        node.sample.write(WAIVERS, &text).unwrap();
        let (report, local) = node.scan_local();
        let said = problems(&local).join("\n");
        assert!(said.contains(WAIVERS) && said.contains(part), "{part:?} is not in {said}");
        assert!(report.waived.is_empty());
        assert_eq!(rows(&report, "picket-waivers").len(), 1);
    }
}
