//! What stands in the audit log itself, and what the audit policy keeps from the detections.

use std::fs::{self, File};
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use picket_model::{Status, Verdict};
use picket_tests::node::Profile;

use crate::{Node, built_in, rows};

const LOGS: &str = "/var/lib/rancher/k3s/server/logs";
const POLICY: &str = "/var/lib/rancher/k3s/server/audit.yaml";
const CONTENT: [&str; 3] =
    ["audit-log-no-secret-bodies", "audit-log-anonymous-allowed", "audit-log-system-masters-use"];

const BODY: &str = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"RequestResponse","auditID":"a","stage":"ResponseComplete","requestURI":"/api/v1/namespaces/default/secrets/x","verb":"get","user":{"username":"ann"},"sourceIPs":["10.0.0.9"],"objectRef":{"resource":"secrets","name":"x","apiVersion":"v1"},"responseStatus":{"code":200},"responseObject":{"data":{"k":"aHVzaC1odXNo"}},"requestReceivedTimestamp":"2026-11-22T01:27:00.000000Z"}"#;
const ADMIN: &str = r#"{"auditID":"b","stage":"ResponseComplete","requestURI":"/api","user":{"username":"system:admin","groups":["system:masters"]},"sourceIPs":["ADDRESS"],"responseStatus":{"code":200}}"#;

fn row(node: &Node, control: &str) -> Verdict {
    rows(&node.scan(&built_in()), control)[0].clone()
}

fn status(node: &Node, control: &str) -> Status {
    row(node, control).status
}

fn log() -> String {
    format!("{LOGS}/audit.log")
}

#[test]
fn the_entries_of_the_log_are_read() {
    let node = Node::new(Profile::HardenedServer);
    for control in CONTENT {
        assert_eq!(status(&node, control), Status::Pass, "{control}");
    }
    node.sample.append(&log(), format!("{BODY}\n")).unwrap();
    let found = row(&node, CONTENT[0]);
    assert_eq!(found.status, Status::Fail);
    assert!(
        found.evidence[0].line.is_some_and(|line| line > 10) && !format!("{found:?}").contains("aHVzaC"),
        "{found:?}"
    );
    // The other two have nothing to do with it.
    assert_eq!((status(&node, CONTENT[1]), status(&node, CONTENT[2])), (Status::Pass, Status::Pass));
}

#[test]
fn half_a_line_is_not_judged_before_it_is_whole() {
    let node = Node::new(Profile::HardenedServer);
    node.sample.append(&log(), BODY).unwrap();
    assert_eq!(status(&node, CONTENT[0]), Status::Pass);
    node.sample.append(&log(), "\n").unwrap();
    assert_eq!(status(&node, CONTENT[0]), Status::Fail);
}

#[test]
fn rotated_files_count_packed_or_not_and_a_damaged_one_leaves_it_open() {
    for packed in [false, true] {
        let node = Node::new(Profile::HardenedServer);
        let old = format!("{LOGS}/audit-2026-11-21T10-00-00.000.log");
        if packed {
            let file = File::create(node.sample.path(&format!("{old}.gz"))).unwrap();
            let mut gz = GzEncoder::new(file, Compression::fast());
            writeln!(gz, "{BODY}").unwrap();
            gz.finish().unwrap();
        } else {
            node.sample.write(&old, format!("{BODY}\n")).unwrap();
        }
        let found = row(&node, CONTENT[0]);
        assert_eq!(found.status, Status::Fail, "{found:?}");
        assert!(found.evidence[0].path.as_deref().is_some_and(|path| path.starts_with(&old)), "{found:?}");
    }
    let node = Node::new(Profile::HardenedServer);
    node.sample.write(&format!("{LOGS}/audit-2026-11-21T10-00-00.000.log.gz"), b"\x1f\x8b\x08 damaged").unwrap();
    for control in CONTENT {
        assert_eq!(status(&node, control), Status::Unknown, "{control}");
    }
}

#[test]
fn an_administrator_from_elsewhere_than_a_server_is_told() {
    for (ip, wanted) in [
        ("127.0.0.1", Status::Pass),
        ("::1", Status::Pass),
        ("10.99.0.1", Status::Pass),
        ("10.99.0.2", Status::Fail),
        ("203.0.113.7", Status::Fail),
    ] {
        let node = Node::new(Profile::HardenedServer);
        node.sample.append(&log(), format!("{}\n", ADMIN.replace("ADDRESS", ip))).unwrap();
        assert_eq!(status(&node, CONTENT[2]), wanted, "{ip}");
    }
    let node = Node::new(Profile::HardenedServer);
    let component = ADMIN.replace("ADDRESS", "203.0.113.7").replace("system:admin", "system:k3s-supervisor");
    node.sample.append(&log(), format!("{component}\n")).unwrap();
    assert_eq!(status(&node, CONTENT[2]), Status::Pass, "the supervisor is no person");
}

#[test]
fn an_empty_log_is_no_evidence() {
    let node = Node::new(Profile::HardenedServer);
    fs::write(node.sample.path(&log()), "").unwrap();
    for control in CONTENT {
        assert_eq!(status(&node, control), Status::Unknown, "{control}");
    }
}

#[test]
fn detections_that_a_policy_blinds_are_named_by_id() {
    let node = Node::new(Profile::HardenedServer);
    assert_eq!(status(&node, "audit-policy-detections-blind"), Status::Pass);
    let bodies = row(&node, "audit-policy-detections-bodies");
    assert_eq!(bodies.status, Status::Fail);
    assert!(bodies.observed.contains("privileged-container"), "{bodies:?}");
    assert!(!bodies.observed.contains("cluster-admin-binding"), "changes of RBAC are logged with bodies: {bodies:?}");
    assert!(!bodies.observed.contains("sa-token-secret-created"), "bodies of Secrets are not wanted: {bodies:?}");

    let text = String::from_utf8(node.sample.read(POLICY).unwrap()).unwrap();
    let none =
        "rules:\n- level: None\n  resources:\n  - group: \"\"\n    resources: [\"pods/exec\", \"pods/attach\"]\n";
    node.sample.write(POLICY, text.replacen("rules:\n", none, 1)).unwrap();
    let blind = row(&node, "audit-policy-detections-blind");
    assert_eq!(blind.status, Status::Fail);
    for rule in ["pod-exec", "pod-attach", "exec-reverse-shell", "pod-exec-system-namespace"] {
        assert!(blind.observed.contains(rule), "{rule} is not named in {blind:?}");
    }
    assert!(!blind.observed.contains("pod-portforward") && !blind.observed.contains("secret-"), "{blind:?}");
    assert!(blind.evidence[0].detail.contains("rule 1 logs nothing"), "{blind:?}");

    node.sample.write(POLICY, text.replacen("rules:\n", "omitStages: [ResponseComplete]\nrules:\n", 1)).unwrap();
    let blind = row(&node, "audit-policy-detections-blind");
    assert!(blind.observed.contains("secret-read-burst"), "{blind:?}");
    assert!(!blind.observed.contains("authn-failure"), "a failed login is logged when the answer starts: {blind:?}");
}

#[test]
fn a_policy_the_api_server_refuses_fails_and_proves_nothing() {
    let node = Node::new(Profile::HardenedServer);
    for bad in ["", "kind: Policy\n", "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: All\n", "{", "\u{7}"]
    {
        node.sample.write(POLICY, bad).unwrap();
        assert_eq!(status(&node, "audit-policy-file-set"), Status::Fail, "{bad:?}");
        assert_eq!(status(&node, "audit-policy-secrets-metadata-only"), Status::Unknown, "{bad:?}");
    }
    fs::remove_file(node.sample.path(POLICY)).unwrap();
    assert_eq!(status(&node, "audit-policy-file-set"), Status::Unknown);
}
