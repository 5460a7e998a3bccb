//! Files that are read at start only: what is on disk and what is in force are told apart, as for flags.

use std::sync::Arc;

use Status::{Fail, Pass, Unknown};
use picket_checks::*;
use picket_model::{Observation, Role, State, Status};

use crate::good::*;

const POLICY: &str = "/etc/rancher/audit.yaml";
const ADMISSION: &str = "/etc/rancher/psa.yaml";

/// A good server that runs with what is on disk.
fn running() -> Snapshot {
    let mut snap = node(Role::Server);
    snap.running = snap.declared.clone();
    snap.read_at_start = Arc::new(ReadAtStart {
        audit_policies: snap.audit_policies.clone(),
        admission_configs: snap.admission_configs.clone(),
        kubelet_dropins: Some(snap.kubelet_dropins.clone()),
        registries: Some(snap.registries.clone()),
    });
    snap
}

fn at_start(snap: &mut Snapshot, change: impl FnOnce(&mut ReadAtStart)) {
    change(Arc::make_mut(&mut snap.read_at_start));
}

fn weak() -> String {
    format!("{DATA}/agent/etc/kubelet.conf.d/50-weaken.conf")
}

fn weakening() -> Observation<serde_json::Value> {
    Observation::from(serde_json::json!({"authentication": {"anonymous": {"enabled": true}}}))
}

fn admission(level: &str) -> Observation<AdmissionConfig> {
    let text = format!(
        "kind: AdmissionConfiguration\nplugins:\n- name: PodSecurity\n  configuration:\n    defaults: {{enforce: {level}}}\n"
    );
    Observation::from(AdmissionConfig::parse(text.as_bytes()).unwrap())
}

fn everything() -> Observation<AuditPolicy> {
    let text = b"apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: RequestResponse\n";
    Observation::from(AuditPolicy::parse(text).unwrap())
}

fn says(snap: &Snapshot, control: &str) -> Vec<(Status, Option<State>, String)> {
    let verdicts = evaluate(snap, &policy());
    rows(&verdicts, control).iter().map(|row| (row.status, row.state, row.observed.clone())).collect()
}

fn both(snap: &Snapshot, control: &str, status: Status) {
    for (is, state, words) in says(snap, control) {
        assert_eq!((is, state), (status, Some(State::Both)), "{control}: {words}");
    }
}

/// The one row that fails, and what it says.
fn failing(snap: &Snapshot, control: &str) -> (Option<State>, String) {
    let rows: Vec<_> = says(snap, control).into_iter().filter(|(status, ..)| *status == Fail).collect();
    assert_eq!(rows.len(), 1, "{control}: {rows:?}");
    (rows[0].1, rows[0].2.clone())
}

fn waits(snap: &Snapshot, control: &str) {
    let (state, words) = failing(snap, control);
    assert_eq!(state, Some(State::Running), "{control}: {words}");
    assert!(words.starts_with("in force: ") && words.ends_with("waits for a restart"), "{control}: {words}");
}

fn comes(snap: &Snapshot, control: &str) {
    let (state, words) = failing(snap, control);
    assert_eq!(state, Some(State::Declared), "{control}: {words}");
    assert!(words.starts_with("on disk: ") && words.contains("until the next start"), "{control}: {words}");
}

#[test]
fn what_was_read_at_start_and_is_still_there_is_both() {
    let snap = running();
    for control in [
        "kubelet-anonymous-auth",
        "kubelet-dropin-no-security-override",
        "psa-defaults-enforced",
        "apiserver-event-rate-limit",
        "audit-policy-secrets-metadata-only",
        "registries-tls-verified",
    ] {
        both(&snap, control, Pass);
    }
}

#[test]
fn a_drop_in_of_the_kubelet_is_in_force_until_the_restart_after_it_is_gone() {
    let mut snap = running();
    at_start(&mut snap, |read| {
        read.kubelet_dropins.as_mut().unwrap().insert(weak(), weakening());
    });
    waits(&snap, "kubelet-anonymous-auth");
    waits(&snap, "kubelet-dropin-no-security-override");
    // The flag decides whatever the drop-ins hold.
    set_flag(&mut snap, "kubelet", "anonymous-auth", &["false"]);
    snap.running = snap.declared.clone();
    both(&snap, "kubelet-anonymous-auth", Pass);
}

#[test]
fn a_drop_in_of_the_kubelet_that_came_after_the_start_waits_for_the_next() {
    let mut snap = running();
    snap.kubelet_dropins.insert(weak(), weakening());
    comes(&snap, "kubelet-anonymous-auth");
    comes(&snap, "kubelet-dropin-no-security-override");
}

#[test]
fn the_kubelet_keeps_what_it_read_when_its_folder_goes() {
    let mut snap = running();
    snap.kubelet_dropins.clear();
    snap.folders.insert(format!("{DATA}/agent/etc/kubelet.conf.d"), Observation::Absent);
    at_start(&mut snap, |read| {
        read.kubelet_dropins.as_mut().unwrap().insert(weak(), weakening());
    });
    let (state, words) = failing(&snap, "kubelet-anonymous-auth");
    assert_eq!(state, Some(State::Running), "{words}");
}

#[test]
fn an_admission_configuration_is_in_force_as_it_was_read() {
    let mut snap = running();
    at_start(&mut snap, |read| {
        read.admission_configs.insert(ADMISSION.to_owned(), admission("privileged"));
    });
    waits(&snap, "psa-defaults-enforced");
    waits(&snap, "apiserver-event-rate-limit");
    let mut snap = running();
    snap.admission_configs.insert(ADMISSION.to_owned(), admission("privileged"));
    comes(&snap, "psa-defaults-enforced");
}

#[test]
fn an_audit_policy_is_in_force_as_it_was_read() {
    let mut snap = running();
    at_start(&mut snap, |read| {
        read.audit_policies.insert(POLICY.to_owned(), everything());
    });
    waits(&snap, "audit-policy-secrets-metadata-only");
    let mut snap = running();
    snap.audit_policies.insert(POLICY.to_owned(), everything());
    comes(&snap, "audit-policy-secrets-metadata-only");
    // Mode and time of the file are what they are now.
    for control in ["audit-policy-file-protected", "audit-policy-loaded"] {
        assert!(says(&snap, control).iter().all(|(_, state, _)| state.is_none()), "{control}");
    }
}

#[test]
fn registries_are_in_force_as_they_were_read() {
    let mut snap = running();
    let insecure = b"configs: {a.example: {tls: {insecure_skip_verify: true}}}\n";
    let insecure = Observation::from(Registries::parse(insecure).unwrap());
    at_start(&mut snap, |read| read.registries = Some(insecure.clone()));
    waits(&snap, "registries-tls-verified");
    let mut snap = running();
    snap.registries = insecure;
    comes(&snap, "registries-tls-verified");
}

#[test]
fn of_a_file_that_nobody_remembers_only_what_is_on_disk_is_told() {
    let mut snap = running();
    snap.read_at_start = Arc::default();
    for control in [
        "kubelet-anonymous-auth",
        "kubelet-dropin-no-security-override",
        "psa-defaults-enforced",
        "apiserver-event-rate-limit",
        "audit-policy-secrets-metadata-only",
        "audit-policy-key-concerns",
        "registries-tls-verified",
    ] {
        for (status, state, words) in says(&snap, control) {
            assert_eq!((status, state), (Pass, Some(State::Declared)), "{control}: {words}");
        }
    }
    snap.kubelet_dropins.insert(weak(), weakening());
    let (state, words) = failing(&snap, "kubelet-anonymous-auth");
    assert_eq!((state, words.as_str()), (Some(State::Declared), "true"));
    // A flag that is in force is known all the same.
    set_flag(&mut snap, "kubelet", "anonymous-auth", &["true"]);
    std::mem::swap(&mut snap.declared, &mut snap.running);
    set_flag(&mut snap, "kubelet", "anonymous-auth", &["false"]);
    std::mem::swap(&mut snap.declared, &mut snap.running);
    assert_eq!(failing(&snap, "kubelet-anonymous-auth").0, Some(State::Declared));
}

#[test]
fn what_was_not_readable_at_the_start_is_no_pass() {
    let mut snap = running();
    at_start(&mut snap, |read| {
        read.kubelet_dropins.as_mut().unwrap().insert(weak(), Observation::unreadable("too large to be remembered"));
    });
    let found = says(&snap, "kubelet-anonymous-auth");
    assert_eq!((found[0].0, found[0].1), (Unknown, Some(State::Running)), "{found:?}");
}

#[test]
fn a_change_of_what_was_read_at_start_is_judged_anew() {
    let before = running();
    let mut after = running();
    at_start(&mut after, |read| {
        read.kubelet_dropins.as_mut().unwrap().insert(weak(), weakening());
        read.admission_configs.insert(ADMISSION.to_owned(), admission("privileged"));
        read.audit_policies.insert(POLICY.to_owned(), everything());
    });
    let again = evaluate_changes(&after, &policy(), &Changes::between(&before, &after));
    for control in ["kubelet-anonymous-auth", "psa-defaults-enforced", "audit-policy-secrets-metadata-only"] {
        assert!(again.controls.contains(control), "{control}");
    }
}
