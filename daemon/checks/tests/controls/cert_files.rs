//! Certificates as files, judged: order, keys, leftovers, and what is served instead.

use picket_checks::*;
use picket_model::{Observation, Role, Status, Verdict};

use crate::good::{DATA, ago, certificate, node, policy, rows, set_flag, set_option};

fn judged(snap: &Snapshot, control: &str) -> Vec<Verdict> {
    rows(&evaluate(snap, &policy()), control).into_iter().cloned().collect()
}

/// The status of the row about a subject, or of the only row.
fn status(snap: &Snapshot, control: &str, subject: &str) -> Status {
    let rows = judged(snap, control);
    let row = rows.iter().find(|v| v.subject.ends_with(subject)).unwrap_or_else(|| panic!("{control}: {rows:#?}"));
    assert!(!row.evidence.is_empty());
    row.status
}

fn tls(name: &str) -> String {
    format!("{DATA}/server/tls/{name}")
}

fn bundle(path: &str, cas: &[bool]) -> Observation<Vec<CertFacts>> {
    let block = |(index, is_ca): (usize, &bool)| {
        let facts = certificate(path, u32::try_from(index).unwrap());
        let subject = if *is_ca { facts.issuer.clone() } else { format!("CN=leaf{index}") };
        CertFacts { is_ca: *is_ca, subject, ..facts }
    };
    Observation::from(cas.iter().enumerate().map(block).collect::<Vec<_>>())
}

#[test]
fn a_bundle_begins_with_the_leaf() {
    let path = tls("serving-kube-apiserver.crt");
    for (cas, wanted) in [
        (&[false][..], Status::Pass),
        (&[false, true], Status::Pass),
        (&[false, true, true, true], Status::Pass),
        (&[true, false], Status::Fail),
        (&[true], Status::Fail),
    ] {
        let mut snap = node(Role::Server);
        snap.certificates.insert(path.clone(), bundle(&path, cas));
        assert_eq!(status(&snap, "cert-leaf-first", &path), wanted, "{cas:?}");
    }
    // CA files hold CAs.
    let mut snap = node(Role::Server);
    snap.certificates.insert(tls("client-ca.crt"), bundle("client-ca.crt", &[true, true]));
    assert!(judged(&snap, "cert-leaf-first").iter().all(|v| !v.subject.contains("-ca.")));
}

#[test]
fn the_issuer_stands_in_the_bundle() {
    let path = tls("serving-kube-apiserver.crt");
    let mut snap = node(Role::Server);
    assert_eq!(status(&snap, "cert-issuer-in-bundle", &path), Status::Pass);
    let Some(Observation::Value { value }) = snap.certificates.get_mut(&path) else { panic!() };
    value[1].subject = "CN=k3s-server-ca@1".to_owned();
    value[1].issuer = "CN=k3s-server-ca@1".to_owned();
    assert_eq!(status(&snap, "cert-issuer-in-bundle", &path), Status::Fail);
    for list in snap.certificates.values_mut() {
        let Observation::Value { value } = list else { panic!() };
        value.truncate(1);
    }
    let all = judged(&snap, "cert-issuer-in-bundle");
    assert!(all.len() == 1 && all[0].status == Status::NotApplicable, "{all:?}");
}

#[test]
fn a_certificate_fits_the_key_beside_it() {
    let (path, key) = (tls("serving-kube-apiserver.crt"), tls("serving-kube-apiserver.key"));
    let with = |seen: Observation<KeyFacts>| {
        let mut snap = node(Role::Server);
        snap.keys.insert(key.clone(), seen);
        status(&snap, "cert-key-match", &path)
    };
    assert_eq!(with(Observation::from(KeyFacts { key_sha256: format!("{path}#0") })), Status::Pass);
    assert_eq!(with(Observation::from(KeyFacts { key_sha256: "other".to_owned() })), Status::Fail);
    assert_eq!(with(Observation::Absent), Status::Unknown);
    assert_eq!(with(Observation::unreadable("EACCES")), Status::Unknown);
    // Copies of CAs on an agent have no key; that is as it should be.
    let mut snap = node(Role::Agent);
    let ca = format!("{DATA}/agent/client-ca.crt");
    snap.files.insert(ca.clone(), snap.files.values().next().unwrap().clone());
    snap.certificates.insert(ca.clone(), bundle(&ca, &[true]));
    snap.keys.insert(ca.replace(".crt", ".key"), Observation::Absent);
    assert!(judged(&snap, "cert-key-match").iter().all(|v| v.status == Status::Pass));
}

#[test]
fn keys_of_cas_and_of_former_rotations_are_found() {
    let file = |snap: &Snapshot| snap.files.get(&tls("dynamic-cert.json")).unwrap().clone();
    let mut snap = node(Role::Server);
    assert_eq!(judged(&snap, "cert-no-root-ca-key")[0].status, Status::Pass);
    assert_eq!(judged(&snap, "cert-no-keys-in-backups")[0].status, Status::Pass);
    let seen = file(&snap);
    snap.files.insert(tls("root-ca.key"), seen.clone());
    snap.files.insert(tls("intermediate-ca.key"), seen.clone());
    let rows = judged(&snap, "cert-no-root-ca-key");
    assert!(rows.len() == 1 && rows[0].status == Status::Fail && rows[0].evidence.len() == 2, "{rows:?}");
    for folder in ["server/tls-1769000000", "server/tls-1770000000", "agent/tls-1770000000"] {
        let folder = format!("{DATA}/{folder}");
        snap.files.insert(format!("{folder}/client-admin.key"), seen.clone());
        snap.folders.insert(folder, Observation::from(Folder { complete: true }));
    }
    let rows = judged(&snap, "cert-no-keys-in-backups");
    assert!(rows.len() == 3 && rows.iter().all(|v| v.status == Status::Fail), "{rows:?}");
    snap.files.insert(tls("root-ca.key"), Observation::unreadable("EACCES"));
    snap.files.insert(tls("intermediate-ca.key"), Observation::Absent);
    assert_eq!(judged(&snap, "cert-no-root-ca-key")[0].status, Status::Unknown);
}

#[test]
fn what_is_served_is_compared_with_the_file() {
    let control = "cert-served-is-on-disk";
    let served = |sha256: &str, days: i64| {
        Observation::from(ServedFacts {
            sha256: sha256.to_owned(),
            subject: "CN=k3s".to_owned(),
            not_before: ago(days),
            not_after: ago(days - 365),
        })
    };
    let good = node(Role::Server);
    assert!(judged(&good, control).iter().all(|v| v.status == Status::Pass));
    assert!(judged(&good, control).iter().any(|v| v.subject == "127.0.0.1:6443"));

    let mut snap = good.clone();
    snap.served.insert(6443, served("old", 300));
    snap.served.insert(10250, Observation::unreadable("did not answer in time"));
    let rows = judged(&snap, control);
    let old = rows.iter().find(|v| v.subject.ends_with(":6443")).unwrap();
    assert!(old.status == Status::Fail && old.observed.contains("restart"), "{old:?}");
    assert_eq!(status(&snap, control, ":10250"), Status::Unknown);

    // Nothing listens although K3s runs; K3s does not run; a folder stands for the node.
    let mut snap = good.clone();
    snap.served.values_mut().for_each(|seen| *seen = Observation::Absent);
    assert_eq!(judged(&snap, control)[0].status, Status::Unknown);
    snap.k3s_started_at = Observation::Absent;
    assert_eq!(judged(&snap, control)[0].status, Status::NotApplicable);
    let mut snap = good.clone();
    snap.rooted = true;
    let rows = judged(&snap, control);
    assert!(rows.len() == 1 && rows[0].status == Status::Unknown);
}

#[test]
fn ports_follow_the_configuration_and_the_role() {
    fn ports(role: Role, config: Option<&NodeConfig>) -> Vec<u16> {
        serving_ports(role, DATA, config).into_iter().map(|(port, _)| port).collect()
    }
    assert_eq!(ports(Role::Agent, None), [10250]);
    assert_eq!(ports(Role::Server, None), [6443, 6444, 2379, 10250, 10257, 10259]);
    let mut config = NodeConfig::default();
    config.options.insert("https-listen-port".to_owned(), vec![crate::good::setting("7443")]);
    assert_eq!(ports(Role::Server, Some(&config))[..2], [7443, 7444]);
    config.options.insert("https-listen-port".to_owned(), vec![crate::good::setting("65535")]);
    assert_eq!(ports(Role::Server, Some(&config))[..2], [6443, 6444]);
}

#[test]
fn the_api_server_serves_its_certificate_where_its_port_was_put() {
    let port = |values: &[&str]| {
        let mut snap = node(Role::Server);
        set_flag(&mut snap, "kube-apiserver", "secure-port", values);
        set_option(&mut snap, "https-listen-port", &["7443"]);
        let ports = serving_ports(Role::Server, DATA, snap.declared.value().map(AsRef::as_ref));
        ports.iter().find(|(_, file)| file.ends_with("/serving-kube-apiserver.crt")).unwrap().0
    };
    assert_eq!(port(&["16444"]), 16444, "apiserver-port");
    assert_eq!(port(&[]), 7444, "the next one, unless something else is known");
}
