//! Traps: a row for each place, and none of them passes without something read.

use std::sync::Arc;

use picket_checks::*;
use picket_model::{Evidence, Observation, Role, State, Status, Verdict};

use crate::good::{node, policy};

const CONFIG: &str = "/etc/rancher/k3s/config.yaml";

fn rows(snap: &Snapshot, policy: &Policy, control: &str) -> Vec<Verdict> {
    evaluate(snap, policy).into_iter().filter(|v| v.control == control).collect()
}

fn trapped(kind: &str, option: Option<&str>, line: u32) -> Trapped {
    let evidence = Evidence { line: Some(line), ..Evidence::at(CONFIG, format!("{kind} on line {line}")) };
    Trapped { kind: kind.to_owned(), option: option.map(str::to_owned), evidence }
}

fn with(snap: &mut Snapshot, seen: Vec<Trapped>) {
    let traps = Traps { seen, read: vec![CONFIG.to_owned()], blind: Vec::new() };
    snap.traps = Observation::from(Arc::new(traps));
}

#[test]
fn each_place_is_a_row_and_each_kind_its_own_control() {
    let mut snap = node(Role::Server);
    with(
        &mut snap,
        vec![
            trapped("unknown-key", Some("secret-encryption"), 3),
            trapped("unknown-key", Some("tls-sans"), 9),
            trapped("unknown-key", Some("tls-sans"), 12),
        ],
    );
    let found = rows(&snap, &policy(), "trap-unknown-key");
    let shown: Vec<_> = found.iter().map(|v| (v.subject.as_str(), v.status, v.evidence.len())).collect();
    assert_eq!(
        shown,
        [
            ("/etc/rancher/k3s/config.yaml:secret-encryption", Status::Fail, 1),
            ("/etc/rancher/k3s/config.yaml:tls-sans", Status::Fail, 2),
        ]
    );
    assert_eq!(found[0].state, Some(State::Declared));
    assert_eq!(found[0].evidence[0].line, Some(3));
    let other = rows(&snap, &policy(), "trap-nested-list");
    assert_eq!((other.len(), other[0].status), (1, Status::Pass));
    assert_eq!(other[0].evidence[0].path.as_deref(), Some(CONFIG), "a pass names what was read");
}

#[test]
fn what_was_not_read_is_no_pass_and_hides_no_failure() {
    let mut snap = node(Role::Server);
    let traps = Traps {
        seen: vec![trapped("list-replaced", Some("kube-apiserver-arg"), 1)],
        read: vec![CONFIG.to_owned()],
        blind: vec![Evidence::at("/etc/systemd/system/k3s.service", "the unit cannot be read: Permission denied")],
    };
    snap.traps = Observation::from(Arc::new(traps));
    assert_eq!(rows(&snap, &policy(), "trap-list-replaced")[0].status, Status::Fail);
    let unknown = rows(&snap, &policy(), "trap-readable-secret");
    assert_eq!(unknown[0].status, Status::Unknown);
    assert!(unknown[0].observed.contains("k3s.service: the unit cannot be read"), "{}", unknown[0].observed);
}

#[test]
fn a_trap_in_force_is_told_from_one_that_waits() {
    let mut snap = node(Role::Server);
    let mut running = NodeConfig::clone(snap.declared.value().unwrap());
    running.traps = Arc::new(Traps {
        seen: vec![trapped("octal-mode", Some("write-kubeconfig-mode"), 2)],
        read: vec![CONFIG.to_owned()],
        blind: Vec::new(),
    });
    snap.running = Observation::from(Arc::new(running));
    let state = |snap: &Snapshot| {
        let found = rows(snap, &policy(), "trap-octal-mode");
        found.iter().map(|v| (v.status, v.state)).collect::<Vec<_>>()
    };
    // Corrected on disk: what is in force is not, until the restart.
    assert!(state(&snap).contains(&(Status::Fail, Some(State::Running))), "{:?}", state(&snap));
    with(&mut snap, vec![trapped("octal-mode", Some("write-kubeconfig-mode"), 2)]);
    assert_eq!(state(&snap), [(Status::Fail, Some(State::Both))]);
}

#[test]
fn an_authentication_configuration_with_an_anonymous_block_is_no_trap() {
    let mut snap = node(Role::Server);
    with(&mut snap, vec![trapped("anonymous-default", Some("kube-apiserver-arg"), 4)]);
    let status = |snap: &Snapshot| rows(snap, &policy(), "trap-anonymous-default")[0].status;
    snap.authentication_configs.clear();
    assert_eq!(status(&snap), Status::Unknown, "the file was not read");
    let path = "/etc/rancher/k3s/auth.yaml".to_owned();
    snap.authentication_configs.insert(path.clone(), Observation::from(AuthenticationConfig::default()));
    assert_eq!(status(&snap), Status::Fail);
    let block = AuthenticationConfig { anonymous: Some(Anonymous::default()) };
    snap.authentication_configs.insert(path, Observation::from(block));
    assert_eq!(status(&snap), Status::Pass);
}

#[test]
fn an_authentication_configuration_is_judged_by_what_every_possible_version_does_beside_it() {
    let mut snap = node(Role::Server);
    with(&mut snap, vec![trapped("anonymous-default", Some("kube-apiserver-arg"), 4)]);
    let file = Observation::from(AuthenticationConfig::default());
    snap.authentication_configs.insert("/etc/rancher/k3s/auth.yaml".to_owned(), file);
    let status = |snap: &Snapshot| rows(snap, &policy(), "trap-anonymous-default")[0].status;
    assert_eq!(status(&snap), Status::Fail);
    for config in [&mut snap.declared, &mut snap.running] {
        if let Observation::Value { value } = config {
            let flags = Arc::make_mut(value).components.entry("kube-apiserver".to_owned()).or_default();
            let own = Setting::new("false", Evidence::note("k3s-default"));
            flags.insert("anonymous-auth".to_owned(), Flag { possible: vec![vec![own], vec![]] });
        }
    }
    assert_eq!(status(&snap), Status::Unknown, "older versions pass anonymous-auth=false");
}
