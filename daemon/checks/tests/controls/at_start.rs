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
        kubelet_configs: snap.kubelet_configs.clone(),
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
        "kind: AdmissionConfiguration\nplugins:\n- name: PodSecurity\n  configuration:\n    apiVersion: pod-security.admission.config.k8s.io/v1\n    kind: PodSecurityConfiguration\n    defaults: {{enforce: {level}}}\n"
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
fn what_the_next_start_writes_among_the_drop_ins_is_declared() {
    let own = format!("{DATA}/agent/etc/kubelet.conf.d/00-k3s-defaults.conf");
    let copy = format!("{DATA}/agent/etc/kubelet.conf.d/10-cli-config.conf");
    let mut snap = running();
    snap.kubelet_next.insert(copy.clone(), weakening());
    snap.kubelet_copied_from.insert(copy.clone(), "/etc/k.yaml".to_owned());
    comes(&snap, "kubelet-anonymous-auth");
    comes(&snap, "kubelet-dropin-no-security-override");
    let verdicts = evaluate(&snap, &policy());
    let verdict = rows(&verdicts, "kubelet-anonymous-auth")[0];
    assert_eq!(verdict.evidence[0].path.as_deref(), Some("/etc/k.yaml"), "the copy is not there yet");
    // K3s writes its own file anew: what somebody made of it is in force until then.
    let mut snap = running();
    snap.kubelet_next.insert(own.clone(), snap.kubelet_dropins[&own].clone());
    snap.kubelet_dropins.insert(own.clone(), weakening());
    both(&snap, "kubelet-anonymous-auth", Pass);
    at_start(&mut snap, |read| {
        let own = read.kubelet_dropins.as_mut().unwrap().get_mut(&own).unwrap();
        let Observation::Value { value } = own else { panic!() };
        value["authentication"]["anonymous"]["enabled"] = true.into();
    });
    waits(&snap, "kubelet-anonymous-auth");
}

#[test]
fn the_file_the_kubelets_config_flag_names_lies_below_its_drop_ins() {
    let file = "/etc/k.yaml";
    let config = |text: serde_json::Value| Observation::from(text);
    let with = |seen: Observation<serde_json::Value>| {
        let mut snap = node(Role::Server);
        set_flag(&mut snap, "kubelet", "config", &[file]);
        for flag in ["make-iptables-util-chains", "pod-max-pids"] {
            set_flag(&mut snap, "kubelet", flag, &[]);
        }
        snap.kubelet_configs.insert(file.to_owned(), seen);
        snap.running = snap.declared.clone();
        let read = ReadAtStart {
            kubelet_dropins: Some(snap.kubelet_dropins.clone()),
            kubelet_configs: snap.kubelet_configs.clone(),
            ..ReadAtStart::default()
        };
        snap.read_at_start = Arc::new(read);
        snap
    };
    let weak = serde_json::json!({
        "makeIPTablesUtilChains": false, "podPidsLimit": 5, "authentication": {"anonymous": {"enabled": true}}
    });
    let snap = with(config(weak.clone()));
    assert_eq!(failing(&snap, "kubelet-iptables-util-chains"), (Some(State::Both), "false".to_owned()));
    both(&snap, "kubelet-pod-pids-limit", Pass);
    both(&snap, "kubelet-anonymous-auth", Pass);
    // Before 1.32 there are no drop-ins, and K3s passes the rest as flags.
    let mut old = with(config(weak));
    old.k3s_version = Some("v1.31.9+k3s1".to_owned());
    old.folders.insert(format!("{DATA}/agent/etc/kubelet.conf.d"), Observation::Absent);
    assert_eq!(failing(&old, "kubelet-iptables-util-chains").0, Some(State::Both));
    both(&old, "kubelet-pod-pids-limit", Pass);
    for unseen in [Observation::unreadable("permission denied"), Observation::Absent] {
        both(&with(unseen), "kubelet-iptables-util-chains", Unknown);
    }
    let mut not_looked_at = with(Observation::Absent);
    not_looked_at.kubelet_configs.clear();
    assert_eq!(status(&not_looked_at, "kubelet-pod-pids-limit"), Unknown);
    // Changed since the start: what is in force is not known, or as remembered.
    let mut changed = with(config(serde_json::json!({"podPidsLimit": 5})));
    changed.kubelet_configs.insert(file.to_owned(), config(serde_json::json!({"makeIPTablesUtilChains": false})));
    comes(&changed, "kubelet-iptables-util-chains");
    comes(&changed, "kubelet-pod-pids-limit");
    at_start(&mut changed, |read| read.kubelet_configs.clear());
    assert_eq!(failing(&changed, "kubelet-iptables-util-chains"), (Some(State::Declared), "false".to_owned()));
    // Another folder of drop-ins is none of K3s'.
    let mut elsewhere = with(config(serde_json::json!({})));
    set_flag(&mut elsewhere, "kubelet", "config-dir", &["/etc/kubelet.d"]);
    assert_eq!(status(&elsewhere, "kubelet-anonymous-auth"), Unknown);
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
