//! One node's truth reaches the collector: real processes, real TLS, real sled, real changes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

use picket_tests::fleet::Fleet;
use picket_tests::node::{DATA_DIR, Profile};
use picket_tests::wait;
use serde_json::Value;

fn is(finding: &Value, subject: &str, state: &str) -> bool {
    finding["subject"] == subject && finding["state"] == state
}

#[test]
fn a_changed_file_is_a_finding_at_the_collector_and_mending_it_resolves_it() {
    let fleet = Fleet::start(Profile::HardenedServer).unwrap();
    let key = format!("{DATA_DIR}/server/tls/client-admin.key");
    assert!(!fleet.findings(&[]).unwrap().iter().any(|f| f["subject"] == key.as_str()), "open before the change");

    fleet.node.chmod(&key, 0o644).unwrap();
    let open = fleet.finding("the loosened key is found", |f| is(f, &key, "open")).unwrap();
    assert!(open["observed"].as_str().unwrap().contains("0644"), "{open}");
    assert!(open["evidence"][0]["path"] == key.as_str(), "{open}");

    fleet.node.chmod(&key, 0o600).unwrap();
    fleet.finding("the mended key is resolved", |f| is(f, &key, "resolved")).unwrap();
    fleet.check_exactly_once().unwrap();
}

#[test]
fn an_edited_drop_in_and_an_attack_in_the_audit_log_arrive_while_the_collector_is_watched() {
    let fleet = Fleet::start(Profile::HardenedServer).unwrap();
    let drop_in = "/etc/rancher/k3s/config.yaml.d/50-oidc.yaml";
    fleet.node.write(drop_in, "kube-apiserver-arg:\n  - oidc-issuer-url=https://idp.example\n").unwrap();
    fleet
        .finding("the lost audit arguments are found", |f| {
            f["state"] == "open" && f["control"].as_str().is_some_and(|c| c.contains("audit-log-path"))
        })
        .unwrap();

    let attack = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"6b2083f3-bcde-48f5-b614-338b9ff5adc1","stage":"ResponseComplete","requestURI":"/api/v1/secrets?limit=500","verb":"list","user":{"username":"mallory","groups":["system:authenticated"]},"sourceIPs":["203.0.113.9"],"userAgent":"kubectl/v1.33.1","objectRef":{"resource":"secrets","apiVersion":"v1"},"responseStatus":{"metadata":{},"code":200},"requestReceivedTimestamp":"2026-11-22T01:29:00.000000Z","stageTimestamp":"2026-11-22T01:29:00.010000Z","annotations":{"authorization.k8s.io/decision":"allow","authorization.k8s.io/reason":""}}"#;
    fleet.node.append(&format!("{DATA_DIR}/server/logs/audit.log"), format!("{attack}\n")).unwrap();
    let detection = wait::until("the listing of all secrets is detected", || {
        let found =
            fleet.collector.get(&fleet.operator, &["detections", "--control", "secret-list-cluster-wide"]).ok()?;
        found.into_iter().find(|d| d["detection"]["user"] == "mallory")
    })
    .unwrap();
    assert_eq!(detection["detection"]["source"], "203.0.113.9");
    assert_eq!(detection["detection"]["audit_id"], "6b2083f3-bcde-48f5-b614-338b9ff5adc1");
}

#[test]
fn a_rotated_token_and_a_certificate_near_its_end_are_seen_and_no_secret_travels() {
    let mut fleet = Fleet::start(Profile::HardenedServer).unwrap();
    let token = String::from_utf8(fleet.node.read(&format!("{DATA_DIR}/server/token")).unwrap()).unwrap();
    let password = token.trim().rsplit(':').next().unwrap().to_owned();

    let certificate = format!("{DATA_DIR}/server/tls/client-admin.crt");
    let now = jiff::Timestamp::now().as_second();
    fleet.node.reissue(&certificate, now - 360 * 86_400, now + 5 * 86_400).unwrap();
    fleet
        .finding("the certificate near its end is found", |f| {
            f["state"] == "open" && f["subject"].as_str().is_some_and(|s| s.starts_with(&certificate))
        })
        .unwrap();

    fleet.node.rotate_token().unwrap();
    fleet.settled().unwrap();
    let everything = serde_json::to_string(&fleet.history().unwrap()).unwrap();
    assert!(!everything.contains(&password), "the server token's password is in the history");
    let log = std::fs::read_to_string(fleet.daemon.log()).unwrap();
    assert!(!log.contains(&password), "the server token's password is in the log");
    fleet.daemon.stop().unwrap();
    fleet.collector.stop().unwrap();
}

#[test]
fn what_happens_while_the_collector_is_away_arrives_when_it_is_back() {
    let mut fleet = Fleet::start(Profile::DefaultServer).unwrap();
    fleet.collector.kill();
    let path = "/etc/rancher/node/password";
    fleet.node.chmod(path, 0o666).unwrap();
    let local = |state: &str| {
        let status = fleet.daemon.status_json().ok()?;
        let status: Value = serde_json::from_slice(&status.stdout).ok()?;
        (status["outbox"]["waiting"].as_u64()? > 0).then(|| state.to_owned())
    };
    wait::until("the node has something to send", || local("pending")).unwrap();
    fleet.collector.restart().unwrap();
    fleet.finding("the change made meanwhile arrives", |f| is(f, path, "open")).unwrap();
    fleet.check_exactly_once().unwrap();
}

#[test]
fn a_revoked_node_is_cut_off_and_says_so() {
    let fleet = Fleet::start(Profile::Agent).unwrap();
    let nodes = fleet.collector.get(&fleet.operator, &["nodes"]).unwrap();
    let id = nodes[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(nodes[0]["labels"]["site"], "berlin");
    assert_eq!(nodes[0]["presence"], "connected");
    let output = fleet.collector.admin(&["node", "revoke", &id]).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    wait::until("the node is listed as revoked", || {
        let nodes = fleet.collector.get(&fleet.operator, &["nodes"]).ok()?;
        (nodes[0]["presence"] == "revoked").then_some(())
    })
    .unwrap();
    wait::until("the daemon says why it cannot report", || {
        let status = String::from_utf8(fleet.daemon.status().ok()?.stdout).ok()?;
        status.contains("revoked").then_some(())
    })
    .unwrap();
}
