//! No evidence, no pass: over the whole catalogue.

use std::collections::BTreeMap;
use std::sync::Arc;

use picket_checks::*;
use picket_model::{Evidence, Observation, Role, Status, Verdict};
use proptest::prelude::*;

use crate::good::{node, now, policy, rows};

fn blind<T>() -> Observation<T> {
    Observation::unreadable("taken away")
}

fn blind_all<T>(map: &mut BTreeMap<String, Observation<T>>) {
    for value in map.values_mut() {
        *value = blind();
    }
}

type Change = fn(&mut Snapshot);
/// What is lost, how, and whose own source it is.
type Loss = (&'static str, Change, fn(&Control) -> bool);

/// Ways to lose a source, and the controls whose own source it is.
fn losses() -> Vec<Loss> {
    fn files(c: &Control) -> bool {
        matches!(c.source, Source::FileMode | Source::FileOwner)
            || c.expected.op == Op::ModeAtMost && c.source != Source::K3s
    }
    fn flags(c: &Control) -> bool {
        c.source.is_configuration()
            && !matches!(
                c.id.as_str(),
                "registries-tls-verified" | "kubelet-dropin-no-security-override" | "kubelet-defaults-file-intact"
            )
    }
    fn live(c: &Control) -> bool {
        c.source == Source::Sysctl && c.expected.op == Op::Eq
    }
    fn persisted(c: &Control) -> bool {
        c.expected.op == Op::PersistedEquals
    }
    fn policy(c: &Control) -> bool {
        c.source == Source::AuditPolicy && !matches!(c.expected.op, Op::ModeAtMost | Op::MtimeBeforeStart | Op::AllOf)
    }
    fn encryption(c: &Control) -> bool {
        matches!(c.expected.op, Op::FirstProviderIn | Op::Sha256EqualsState)
            || c.source == Source::SecretsEncryption && matches!(c.expected.op, Op::AgeDaysAtMost | Op::Has)
    }
    vec![
        (
            "files unreadable",
            |s| {
                blind_all(&mut s.files);
                blind_all(&mut s.folders)
            },
            files,
        ),
        (
            "files not looked at",
            |s| {
                s.files.clear();
                s.folders.clear()
            },
            files,
        ),
        (
            "folders gone",
            |s| {
                s.files.clear();
                s.folders.values_mut().for_each(|f| *f = Observation::Absent);
            },
            files,
        ),
        (
            "configuration unreadable",
            |s| {
                s.declared = blind();
                s.traps = blind()
            },
            flags,
        ),
        (
            "configuration gone",
            |s| {
                s.declared = Observation::Absent;
                s.traps = Observation::Absent
            },
            flags,
        ),
        (
            "part of the configuration unreadable",
            |s| {
                let mut traps = Traps::clone(s.traps.value().unwrap());
                traps.blind.push(Evidence::at("/etc/systemd/system/k3s.service", "the unit cannot be read"));
                s.traps = Observation::from(Arc::new(traps));
            },
            |c| c.source == Source::Trap,
        ),
        (
            "nothing read for traps",
            |s| s.traps = Observation::from(Arc::new(Traps::default())),
            |c| c.source == Source::Trap,
        ),
        (
            "components unknown",
            |s| s.declared = Observation::from(Arc::new(NodeConfig::default())),
            |c| c.source.component().is_some_and(|name| name != "kubelet"),
        ),
        ("sysctls unreadable", |s| blind_all(&mut s.sysctls), live),
        ("sysctls not looked at", |s| s.sysctls.clear(), live),
        ("sysctl folders unreadable", |s| s.persisted_sysctls = blind(), persisted),
        ("sysctl folders gone", |s| s.persisted_sysctls = Observation::Absent, persisted),
        ("certificates unreadable", |s| blind_all(&mut s.certificates), |c| c.source == Source::X509),
        ("certificates not looked at", |s| s.certificates.clear(), |c| c.source == Source::X509),
        (
            "certificates empty",
            |s| s.certificates.values_mut().for_each(|c| *c = Observation::from(vec![])),
            |c| c.source == Source::X509,
        ),
        (
            "tokens unreadable",
            |s| {
                blind_all(&mut s.tokens);
                s.join_token = blind();
                blind_all(&mut s.units)
            },
            |c| c.source == Source::Token && !matches!(c.expected.op, Op::ModeAtMost | Op::SymlinkTo),
        ),
        (
            "tokens gone",
            |s| {
                s.tokens.clear();
                s.join_token = Observation::Absent;
                s.units.clear()
            },
            |c| c.source == Source::Token && !matches!(c.expected.op, Op::ModeAtMost | Op::SymlinkTo),
        ),
        ("encryption unreadable", |s| blind_all(&mut s.encryption_configs), encryption),
        ("encryption not looked at", |s| s.encryption_configs.clear(), encryption),
        (
            "encryption state unreadable",
            |s| s.encryption_state = blind(),
            |c| matches!(c.expected.op, Op::StageIn | Op::Sha256EqualsState),
        ),
        ("audit policy unreadable", |s| blind_all(&mut s.audit_policies), policy),
        ("audit policy gone", |s| s.audit_policies.values_mut().for_each(|p| *p = Observation::Absent), policy),
        ("audit log unreadable", |s| blind_all(&mut s.audit_logs), |c| c.source == Source::AuditLog),
        ("audit log gone", |s| s.audit_logs.clear(), |c| c.source == Source::AuditLog),
        (
            "admission configuration unreadable",
            |s| blind_all(&mut s.admission_configs),
            |c| {
                matches!(
                    c.id.as_str(),
                    "psa-defaults-enforced" | "psa-exemptions-minimal" | "apiserver-event-rate-limit"
                )
            },
        ),
        (
            "etcd's configuration unreadable",
            |s| s.etcd_config = blind(),
            |c| c.source == Source::Etcd && c.expected.op != Op::Eq,
        ),
        (
            "etcd's configuration gone",
            |s| s.etcd_config = Observation::Absent,
            |c| c.source == Source::Etcd && c.expected.op != Op::Eq,
        ),
        (
            "drop-ins unreadable",
            |s| blind_all(&mut s.kubelet_dropins),
            |c| {
                matches!(
                    c.id.as_str(),
                    "kubelet-anonymous-auth"
                        | "kubelet-authz-webhook"
                        | "kubelet-client-ca"
                        | "kubelet-dropin-no-security-override"
                        | "kubelet-serving-cert"
                )
            },
        ),
        ("keys unreadable", |s| blind_all(&mut s.keys), |c| c.expected.op == Op::MatchesKey),
        ("keys not looked at", |s| s.keys.clear(), |c| c.expected.op == Op::MatchesKey),
        ("ports unreadable", |s| s.served.values_mut().for_each(|p| *p = blind()), |c| c.expected.op == Op::Served),
        ("ports not looked at", |s| s.served.clear(), |c| c.expected.op == Op::Served),
        ("datastore unreadable", |s| blind_all(&mut s.datastores), |c| c.expected.op == Op::StoredSecrets),
        ("datastore not looked at", |s| s.datastores.clear(), |c| c.expected.op == Op::StoredSecrets),
        ("registries unreadable", |s| s.registries = blind(), |c| c.id == "registries-tls-verified"),
        (
            "start unknown",
            |s| s.k3s_started_at = blind(),
            |c| matches!(c.expected.op, Op::MtimeBeforeStart | Op::MtimeBeforeStartOrEqual),
        ),
        ("role unknown", |s| s.role = None, |c| c.scope != Scope::EveryNode),
    ]
}

/// Takes one source away: there, and unreadable.
fn take_away(snap: &mut Snapshot, key: &SourceKey) {
    match key {
        SourceKey::Files(pattern) => {
            for (path, seen) in &mut snap.files {
                if pattern.matches(path) {
                    *seen = blind();
                }
            }
            for (path, seen) in &mut snap.folders {
                if pattern.passes(path) {
                    *seen = blind();
                }
            }
        }
        SourceKey::Configuration => {
            snap.declared = blind();
            snap.traps = blind();
            snap.places = std::sync::Arc::new(Places { blind: Some("lost".to_owned()), ..Places::default() });
            snap.running = Observation::Absent;
        }
        SourceKey::KubeletDropins => blind_all(&mut snap.kubelet_dropins),
        SourceKey::EtcdConfig => snap.etcd_config = blind(),
        SourceKey::Sysctls => blind_all(&mut snap.sysctls),
        SourceKey::PersistedSysctls => snap.persisted_sysctls = blind(),
        SourceKey::Certificates => {
            blind_all(&mut snap.certificates);
            blind_all(&mut snap.keys);
        }
        SourceKey::Tokens => {
            blind_all(&mut snap.tokens);
            snap.join_token = blind();
        }
        SourceKey::Units => blind_all(&mut snap.units),
        SourceKey::Encryption => {
            blind_all(&mut snap.encryption_configs);
            snap.encryption_state = blind();
        }
        SourceKey::AuditPolicy => blind_all(&mut snap.audit_policies),
        SourceKey::AuditLog => blind_all(&mut snap.audit_logs),
        SourceKey::ApiServerFiles => {
            blind_all(&mut snap.admission_configs);
            blind_all(&mut snap.authentication_configs);
            blind_all(&mut snap.authorization_configs);
        }
        SourceKey::Registries => snap.registries = blind(),
        SourceKey::Selinux => snap.selinux_enforcing = blind(),
        SourceKey::Datastore => blind_all(&mut snap.datastores),
        SourceKey::Served => snap.served.values_mut().for_each(|port| *port = blind()),
        // What is not known of the process is another test's; time is always known.
        SourceKey::Process | SourceKey::Clock => {}
    }
}

#[test]
fn every_control_that_passes_is_unknown_without_what_it_depends_on() {
    let policy = policy();
    let mut judged = 0;
    for role in [Role::Server, Role::Agent] {
        let good = node(role);
        let before = evaluate(&good, &policy);
        let before = worst_by_control(&before);
        for control in policy.catalogue.controls() {
            if before.get(control.id.as_str()) != Some(&Status::Pass) {
                continue;
            }
            judged += 1;
            let keys = depends(&good, &policy, control);
            let mut none = good.clone();
            keys.iter().for_each(|key| take_away(&mut none, key));
            let after = evaluate(&none, &policy);
            let rows = rows(&after, &control.id);
            assert!(
                !rows.is_empty() && rows.iter().all(|v| v.status == Status::Unknown),
                "{role:?} {}: {rows:#?}",
                control.id
            );
            // One at a time: nothing passes on another subject than before, and what was lost never fails.
            for key in &keys {
                let mut one = good.clone();
                take_away(&mut one, key);
                let after = evaluate(&one, &policy);
                let status = worst_by_control(&after).get(control.id.as_str()).copied();
                assert!(
                    matches!(status, Some(Status::Pass | Status::Unknown)),
                    "{role:?} {} without {key:?}: {status:?}",
                    control.id
                );
            }
        }
    }
    assert!(judged > 150, "{judged}");
}

fn worst_by_control(verdicts: &[Verdict]) -> BTreeMap<&str, Status> {
    let mut out: BTreeMap<&str, Status> = BTreeMap::new();
    for verdict in verdicts {
        let status = out.entry(&verdict.control).or_insert(verdict.status);
        if verdict.status.weight() > status.weight() {
            *status = verdict.status;
        }
    }
    out
}

#[test]
fn a_node_without_a_fault_has_no_failure_and_few_doubts() {
    for role in [Role::Server, Role::Agent] {
        let snap = node(role);
        let policy = policy();
        let verdicts = evaluate(&snap, &policy);
        let bad: Vec<String> = verdicts
            .iter()
            .filter(|v| v.status == Status::Fail)
            .map(|v| format!("{} {}: {}", v.control, v.subject, v.observed))
            .collect();
        assert!(bad.is_empty(), "{role:?}: {bad:#?}");
        let doubts: Vec<String> = verdicts
            .iter()
            .filter(|v| v.status == Status::Unknown)
            .filter(|v| policy.catalogue.get(&v.control).unwrap().source != Source::ClusterApi)
            .map(|v| format!("{}: {}", v.control, v.observed))
            .collect();
        let allowed = ["k3s-flannel-encrypted", "secrets-stored-", "secrets-plain-in-history"];
        assert!(doubts.iter().all(|d| allowed.iter().any(|a| d.starts_with(a))), "{role:?}: {doubts:#?}");
    }
}

#[test]
fn nothing_seen_gives_no_pass() {
    let verdicts = evaluate(&Snapshot::blank(now()), &policy());
    assert!(verdicts.len() > 200);
    let passed: Vec<&str> = verdicts.iter().filter(|v| v.status == Status::Pass).map(|v| v.control.as_str()).collect();
    assert!(passed.is_empty(), "{passed:?}");
    let failed: Vec<&str> = verdicts.iter().filter(|v| v.status == Status::Fail).map(|v| v.control.as_str()).collect();
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn a_lost_source_never_passes_and_is_unknown() {
    let policy = policy();
    for role in [Role::Server, Role::Agent] {
        let before = evaluate(&node(role), &policy);
        let before = worst_by_control(&before);
        for (name, change, concerned) in losses() {
            let mut snap = node(role);
            change(&mut snap);
            let after = evaluate(&snap, &policy);
            let after = worst_by_control(&after);
            for control in policy.catalogue.controls() {
                let (Some(was), Some(is)) = (before.get(control.id.as_str()), after.get(control.id.as_str())) else {
                    continue;
                };
                if *is == Status::Pass {
                    assert_eq!(*was, Status::Pass, "{role:?}, {name}: {} passes only without its source", control.id);
                    assert!(!concerned(control), "{role:?}, {name}: {} passes without its source", control.id);
                }
                if *was == Status::Pass && concerned(control) {
                    // No token at all is not a bad token.
                    let may_not_apply = name == "tokens gone";
                    assert!(
                        *is == Status::Unknown || (may_not_apply && *is == Status::NotApplicable),
                        "{role:?}, {name}: {} is {is}",
                        control.id
                    );
                }
            }
        }
    }
}

#[test]
fn every_control_that_a_node_can_judge_passes_on_one_of_the_good_nodes() {
    let policy = policy();
    let all: Vec<Verdict> = [Role::Server, Role::Agent].iter().flat_map(|r| evaluate(&node(*r), &policy)).collect();
    let never: Vec<&str> = policy
        .catalogue
        .controls()
        .iter()
        .filter(|c| policy.lists(c) && c.source != Source::ClusterApi)
        .filter(|c| !matches!(c.expected.op, Op::Manual | Op::Report))
        .map(|c| c.id.as_str())
        .filter(|id| !rows(&all, id).iter().any(|v| v.status == Status::Pass))
        .filter(|id| !id.starts_with("podspec-") && !id.starts_with("kubelet-service-file"))
        .collect();
    // SQLite and an external datastore exclude embedded etcd; a server cannot tell whether it is alone.
    assert_eq!(
        never,
        [
            "k3s-sqlite-files",
            "k3s-flannel-encrypted",
            "k3s-datastore-tls",
            "secrets-stored-plain",
            "secrets-plain-in-history",
            "secrets-stored-under-old-key"
        ]
    );
}

#[test]
fn every_verdict_has_evidence_and_words() {
    for role in [Role::Server, Role::Agent] {
        let verdicts = evaluate(&node(role), &policy());
        for verdict in &verdicts {
            assert!(!verdict.evidence.is_empty(), "{}", verdict.control);
            assert!(!verdict.observed.is_empty() && !verdict.expected.is_empty(), "{verdict:?}");
            assert!(!verdict.remedy.is_empty() && !verdict.subject.is_empty(), "{verdict:?}");
        }
        let mut subjects: Vec<(&str, &str)> =
            verdicts.iter().map(|v| (v.control.as_str(), v.subject.as_str())).collect();
        let count = subjects.len();
        subjects.sort_unstable();
        subjects.dedup();
        assert_eq!(subjects.len(), count, "a subject stands twice in one control");
    }
}

#[test]
fn judging_twice_gives_the_same() {
    let (snap, policy) = (node(Role::Server), policy());
    assert_eq!(evaluate(&snap, &policy), evaluate(&snap, &policy));
}

#[test]
fn what_depends_on_a_changed_source_is_judged_again() {
    let (snap, policy) = (node(Role::Server), policy());
    let all = evaluate(&snap, &policy);
    let some = evaluate_some(&snap, &policy, &[SourceKey::Sysctls]);
    assert!(some.iter().any(|v| v.control == "sysctl-kernel-panic"));
    assert!(some.len() * 4 < all.len(), "{} of {}", some.len(), all.len());
    assert!(some.iter().all(|v| all.contains(v)));
    assert_eq!(evaluate_some(&snap, &policy, &[SourceKey::Process]), all);
}

#[test]
fn dependencies_are_complete() {
    // Whatever a loss changes must be found through the dependencies of the source that was lost.
    let policy = policy();
    let losses: [(Change, Vec<SourceKey>); 12] = [
        (|s| blind_all(&mut s.datastores), vec![SourceKey::Datastore]),
        (|s| blind_all(&mut s.keys), vec![SourceKey::Certificates]),
        (|s| s.served.values_mut().for_each(|p| *p = blind()), vec![SourceKey::Served]),
        (
            |s| {
                s.declared = blind();
                s.traps = blind()
            },
            vec![SourceKey::Configuration],
        ),
        (|s| blind_all(&mut s.sysctls), vec![SourceKey::Sysctls]),
        (|s| s.persisted_sysctls = blind(), vec![SourceKey::PersistedSysctls]),
        (|s| blind_all(&mut s.certificates), vec![SourceKey::Certificates]),
        (|s| blind_all(&mut s.kubelet_dropins), vec![SourceKey::KubeletDropins]),
        (|s| s.etcd_config = blind(), vec![SourceKey::EtcdConfig]),
        (
            |s| {
                blind_all(&mut s.encryption_configs);
                s.encryption_state = blind()
            },
            vec![SourceKey::Encryption],
        ),
        (|s| blind_all(&mut s.audit_policies), vec![SourceKey::AuditPolicy]),
        (|s| blind_all(&mut s.audit_logs), vec![SourceKey::AuditLog]),
    ];
    let good = node(Role::Server);
    let before = evaluate(&good, &policy);
    for (change, keys) in losses {
        let mut snap = good.clone();
        change(&mut snap);
        let after = evaluate(&snap, &policy);
        for control in policy.catalogue.controls() {
            if rows(&before, &control.id) != rows(&after, &control.id) {
                let depends = depends(&good, &policy, control);
                assert!(keys.iter().all(|k| depends.contains(k)), "{} changed with {keys:?}", control.id);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Taking any files away from a good node never makes a control pass that did not, and never turns an
    /// unreadable file into a pass.
    #[test]
    fn losing_files_never_adds_a_pass(picks in proptest::collection::vec((any::<prop::sample::Index>(), 0..3u8), 1..40)) {
        let policy = policy();
        let good = node(Role::Server);
        let before = evaluate(&good, &policy);
        let before = worst_by_control(&before);
        let mut snap = good.clone();
        let names: Vec<String> = snap.files.keys().chain(snap.folders.keys()).cloned().collect();
        let mut lost = Vec::new();
        for (index, how) in picks {
            let name = index.get(&names).clone();
            if let Some(entry) = snap.files.get_mut(&name) {
                *entry = blind();
                lost.push(name.clone());
            }
            if how == 1 && let Some(entry) = snap.folders.get_mut(&name) {
                *entry = blind();
            }
        }
        let verdicts = evaluate(&snap, &policy);
        for verdict in verdicts.iter().filter(|v| v.status == Status::Pass) {
            let source = policy.catalogue.get(&verdict.control).unwrap().source;
            if matches!(source, Source::FileMode | Source::FileOwner) {
                prop_assert!(!lost.contains(&verdict.subject), "{} {}", verdict.control, verdict.subject);
            }
        }
        for (control, is) in worst_by_control(&verdicts) {
            if is == Status::Pass {
                prop_assert_eq!(before.get(control), Some(&Status::Pass), "{}", control);
            }
        }
    }
}
