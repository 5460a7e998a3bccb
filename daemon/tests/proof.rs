//! What the node itself says, whatever its configuration promises: the datastore, certificates and their keys.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use picket_host::Host;
use picket_model::{Status, Verdict};
use picket_service::clock::FixedClock;
use picket_tests::node::{MOMENT, Profile, SampleNode};
use picketd::cmd::scan::scan;
use picketd::source::{Ask, Memory};
use tempfile::TempDir;

const TLS: &str = "/var/lib/rancher/k3s/server/tls";
const DB: &str = "/var/lib/rancher/k3s/server/db/state.db";

struct Node {
    sample: SampleNode,
    _dir: TempDir,
}

impl Node {
    fn new(profile: Profile) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { sample: SampleNode::build(profile, &dir.path().join("root")).unwrap(), _dir: dir }
    }

    fn verdicts(&self) -> Vec<Verdict> {
        let clock = FixedClock(MOMENT.parse::<Timestamp>().unwrap());
        let host = Host::rooted(self.sample.root(), Arc::new(clock)).unwrap();
        let (memory, policy) = (Memory::none(), picketd::rules::policy().unwrap());
        scan(&host, &Ask { role: None, memory: &memory, catalogue: &policy.catalogue }, &policy).verdicts
    }

    /// The row of a control about a subject that ends like this.
    fn row(&self, control: &str, subject: &str) -> Verdict {
        let all: Vec<_> = self.verdicts().into_iter().filter(|v| v.control == control).collect();
        let found = all.iter().find(|v| v.subject.contains(subject));
        found.unwrap_or_else(|| panic!("no row of {control} on {subject}: {all:#?}")).clone()
    }

    fn status(&self, control: &str, subject: &str) -> Status {
        self.row(control, subject).status
    }
}

fn unix(days: i64) -> i64 {
    (MOMENT.parse::<Timestamp>().unwrap() + SignedDuration::from_hours(24 * days)).as_second()
}

#[test]
fn the_datastore_says_whether_secrets_are_encrypted() {
    let plain = Node::new(Profile::DefaultServer);
    let row = plain.row("secrets-stored-plain", DB);
    assert_eq!(row.status, Status::Fail, "{row:?}");
    assert!(row.evidence[0].detail.contains("plain"), "{row:?}");
    assert_eq!(plain.status("secrets-plain-in-history", DB), Status::NotApplicable, "encryption is off");

    let encrypted = Node::new(Profile::HardenedServer);
    let row = encrypted.row("secrets-stored-plain", DB);
    assert_eq!(row.status, Status::Pass, "{row:?}");
    assert!(row.evidence[0].detail.contains("aescbc (aescbckey)"), "{row:?}");
    assert_eq!(encrypted.status("secrets-stored-under-old-key", DB), Status::Pass);

    // Encryption switched on, and nothing written anew: the configuration promises what the datastore does not keep.
    fs::copy(plain.sample.path(DB), encrypted.sample.path(DB)).unwrap();
    assert_eq!(encrypted.status("apiserver-encryption-provider-strong", ""), Status::Pass);
    assert_eq!(encrypted.status("secrets-stored-plain", DB), Status::Fail);

    for bad in [&b""[..], b"no database", &[0xff; 65536]] {
        fs::write(encrypted.sample.path(DB), bad).unwrap();
        for control in ["secrets-stored-plain", "secrets-plain-in-history", "secrets-stored-under-old-key"] {
            assert_eq!(encrypted.status(control, DB), Status::Unknown);
        }
    }
    fs::remove_file(encrypted.sample.path(DB)).unwrap();
    fs::create_dir(encrypted.sample.path(DB)).unwrap();
    assert_eq!(encrypted.status("secrets-stored-plain", DB), Status::Unknown);
}

#[test]
fn embedded_etcd_is_not_decidable_and_what_it_left_behind_is() {
    let node = Node::new(Profile::EtcdServer);
    let row = node.row("secrets-stored-plain", DB);
    assert!(row.status == Status::Unknown && row.observed.contains("embedded etcd"), "{row:?}");
    let left = format!("{DB}.migrated");
    assert_eq!(node.status("secrets-plain-in-migrated-database", &left), Status::Pass);
    fs::copy(Node::new(Profile::DefaultServer).sample.path(DB), node.sample.path(&left)).unwrap();
    assert_eq!(node.status("secrets-plain-in-migrated-database", &left), Status::Fail);
    fs::write(node.sample.path(&left), "x").unwrap();
    assert_eq!(node.status("secrets-plain-in-migrated-database", &left), Status::Unknown);
}

#[test]
fn sample_nodes_have_sound_certificates() {
    for profile in Profile::ALL {
        let node = Node::new(profile);
        let verdicts = node.verdicts();
        for control in ["cert-leaf-first", "cert-issuer-in-bundle", "cert-key-match", "cert-no-keys-in-backups"] {
            let rows: Vec<_> = verdicts.iter().filter(|v| v.control == control).collect();
            assert!(!rows.is_empty() && rows.iter().all(|v| v.status == Status::Pass), "{profile:?}: {rows:#?}");
        }
        let served = node.row("cert-served-is-on-disk", "");
        assert!(served.status == Status::Unknown && served.observed.contains("folder"), "{served:?}");
    }
}

#[test]
fn a_bundle_turned_round_and_a_key_of_another_are_found() {
    let node = Node::new(Profile::DefaultServer);
    let (crt, key) = (format!("{TLS}/serving-kube-apiserver.crt"), format!("{TLS}/serving-kube-apiserver.key"));
    let text = String::from_utf8(node.sample.read(&crt).unwrap()).unwrap();
    let second = text.rfind("-----BEGIN").unwrap();
    node.sample.write(&crt, format!("{}{}", &text[second..], &text[..second])).unwrap();
    assert_eq!(node.status("cert-leaf-first", &crt), Status::Fail);
    node.sample.write(&crt, &text).unwrap();
    // The bundle of another CA.
    let other = String::from_utf8(node.sample.read(&format!("{TLS}/client-ca.crt")).unwrap()).unwrap();
    node.sample.write(&crt, format!("{}{other}", &text[..second])).unwrap();
    assert_eq!(node.status("cert-issuer-in-bundle", &crt), Status::Fail);
    node.sample.write(&crt, &text).unwrap();
    assert_eq!(node.status("cert-key-match", &crt), Status::Pass);

    let good = node.sample.read(&key).unwrap();
    node.sample.write(&key, node.sample.read(&format!("{TLS}/client-admin.key")).unwrap()).unwrap();
    assert_eq!(node.status("cert-key-match", &crt), Status::Fail);
    // What cannot be read is no verdict, and is never repeated.
    node.sample.write(&key, &good[..good.len() / 2]).unwrap();
    let row = node.row("cert-key-match", &crt);
    assert_eq!(row.status, Status::Unknown, "{row:?}");
    let secret = String::from_utf8_lossy(&good).lines().nth(1).unwrap()[..24].to_owned();
    assert!(!format!("{row:?}").contains(&secret));
    fs::remove_file(node.sample.path(&key)).unwrap();
    assert_eq!(node.status("cert-key-match", &crt), Status::Unknown);
    node.sample.write(&crt, &text[..text.len() - 40]).unwrap();
    for control in ["cert-leaf-first", "cert-issuer-in-bundle", "cert-key-match"] {
        assert_eq!(node.status(control, &crt), Status::Unknown, "{control}");
    }
    // The certificate of port 6443 stands in JSON together with its key.
    assert_eq!(node.status("cert-key-match", "dynamic-cert.json"), Status::Pass);
    let json = String::from_utf8(node.sample.read(&format!("{TLS}/dynamic-cert.json")).unwrap()).unwrap();
    node.sample.write(&format!("{TLS}/dynamic-cert.json"), json.replace("tls.key", "tls.kee")).unwrap();
    assert_eq!(node.status("cert-key-match", "dynamic-cert.json"), Status::Unknown);
}

#[test]
fn keys_that_do_not_belong_on_the_node_are_found() {
    let node = Node::new(Profile::DefaultServer);
    assert_eq!(node.status("cert-no-root-ca-key", "root-ca.key"), Status::Pass);
    let ca = node.sample.read(&format!("{TLS}/server-ca.key")).unwrap();
    node.sample.write(&format!("{TLS}/root-ca.key"), &ca).unwrap();
    let row = node.row("cert-no-root-ca-key", "/tls");
    assert!(row.status == Status::Fail && row.observed.contains("root-ca.key"), "{row:?}");
    for folder in ["server/tls-1769990400", "agent/tls-1769990400"] {
        node.sample.write(&format!("/var/lib/rancher/k3s/{folder}/client-admin.key"), &ca).unwrap();
        assert_eq!(node.status("cert-no-keys-in-backups", folder), Status::Fail);
    }
    // A folder of that form without keys is none of its affair.
    let node = Node::new(Profile::DefaultServer);
    node.sample.write("/var/lib/rancher/k3s/server/tls-1769990400/client-admin.crt", "x").unwrap();
    assert_eq!(node.status("cert-no-keys-in-backups", ""), Status::Pass);
}

#[test]
fn the_kubeconfig_of_the_administrator_expires_too() {
    let node = Node::new(Profile::HardenedServer);
    assert_eq!(node.status("cert-kubeconfig-expiry", "k3s.yaml"), Status::Pass);
    let crt = format!("{TLS}/client-admin.crt");
    node.sample.reissue(&crt, unix(-360), unix(5)).unwrap();
    let pem = node.sample.read(&crt).unwrap();
    let encoded = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(pem)
    };
    let yaml = String::from_utf8(node.sample.read("/etc/rancher/k3s/k3s.yaml").unwrap()).unwrap();
    let line = yaml.lines().find(|l| l.contains("client-certificate-data")).unwrap();
    let new = format!("{}: {encoded}", line.split(':').next().unwrap());
    node.sample.write("/etc/rancher/k3s/k3s.yaml", yaml.replace(line, &new)).unwrap();
    let rows: Vec<_> =
        node.verdicts().into_iter().filter(|v| v.control == "cert-kubeconfig-expiry").map(|v| v.status).collect();
    assert!(rows.contains(&Status::Fail), "{rows:?}");
}

#[test]
fn certificates_from_the_future_and_the_past_are_told() {
    let node = Node::new(Profile::DefaultServer);
    let crt = format!("{TLS}/client-scheduler.crt");
    node.sample.reissue(&crt, unix(30), unix(395)).unwrap();
    assert_eq!(node.status("cert-not-yet-valid", &crt), Status::Fail);
    assert_eq!(node.status("cert-key-match", &crt), Status::Pass, "reissued with its key");
    node.sample.reissue(&crt, unix(-400), unix(-35)).unwrap();
    let row = node.row("cert-leaf-expiry-server", &crt);
    assert!(row.status == Status::Fail && row.observed.contains("expired"), "{row:?}");
    node.sample.reissue(&crt, unix(-1), unix(3650)).unwrap();
    assert_eq!(node.status("cert-validity-not-extended", &crt), Status::Fail);
    let stolen = node.sample.read(&format!("{TLS}/client-ca.crt")).unwrap();
    node.sample.write(&format!("{TLS}/request-header-ca.crt"), stolen).unwrap();
    assert_eq!(node.status("cert-ca-distinct", "request-header-ca.crt"), Status::Fail);
}
