//! After any change, judging only what depends on it gives the same as judging everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use jiff::SignedDuration;
use picket_checks::{Changes, Flag, Policy, Rejudged, Setting, Snapshot, evaluate, evaluate_changes};
use picket_model::{Observation, Verdict};
use picket_tests::node::Profile;
use picketd::source::{self, Ask, Memory};
use proptest::prelude::*;

use crate::{Node, built_in};

static POLICY: LazyLock<Policy> = LazyLock::new(built_in);
static SNAPSHOTS: LazyLock<Vec<Snapshot>> = LazyLock::new(|| {
    Profile::ALL
        .into_iter()
        .map(|profile| {
            let node = Node::new(profile);
            let (host, memory) = (node.host(), Memory::none());
            let ask = Ask { role: None, memory: &memory, catalogue: &POLICY.catalogue };
            let mut snapshot = source::observe(&host, &ask).snapshot;
            snapshot
                .kubelet_configs
                .insert("/etc/k.yaml".to_owned(), Observation::from(serde_json::json!({"podPidsLimit": 5})));
            if let Some(config) = snapshot.declared.value() {
                let mut config = config.as_ref().clone();
                let named = Setting::new("/etc/k.yaml", picket_model::Evidence::note(""));
                let flag = Flag { possible: vec![vec![named]] };
                config.components.entry("kubelet".to_owned()).or_default().insert("config".to_owned(), flag);
                snapshot.declared = Observation::from(Arc::new(config));
            }
            // A tree has no kernel parameters; a node has.
            for key in source::needs(&POLICY.catalogue, &snapshot).sysctls {
                snapshot.sysctls.insert(key, Observation::from("1".to_owned()));
            }
            snapshot
        })
        .collect()
});

/// Something that happens to one source: which, to which of its items, and what.
type Change = (u8, prop::sample::Index, u8);

fn one<T>(seen: &mut Observation<T>, how: u8) {
    *seen = if how.is_multiple_of(2) { Observation::Absent } else { Observation::unreadable("permission denied") };
}

fn item<K: Ord + Clone, T>(map: &mut BTreeMap<K, Observation<T>>, at: prop::sample::Index, how: u8) {
    if map.is_empty() {
        return;
    }
    let key = map.keys().nth(at.index(map.len())).cloned().unwrap();
    if how % 3 == 2 {
        map.remove(&key);
    } else if let Some(seen) = map.get_mut(&key) {
        one(seen, how);
    }
}

fn apply(snapshot: &mut Snapshot, (what, at, how): Change) {
    match what {
        0..=5 => item(&mut snapshot.files, at, how),
        6..=9 => {
            let count = snapshot.files.len();
            if let Some(Observation::Value { value }) = snapshot.files.values_mut().nth(at.index(count)) {
                match how % 3 {
                    0 => value.mode ^= 0o077,
                    1 => value.uid += 1,
                    _ => value.mtime += SignedDuration::from_secs(3600),
                }
            }
        }
        10..=12 => item(&mut snapshot.folders, at, how),
        13 => item(&mut snapshot.sysctls, at, how),
        14 => {
            let count = snapshot.sysctls.len();
            if let Some(seen) = snapshot.sysctls.values_mut().nth(at.index(count)) {
                *seen = Observation::from(how.to_string());
            }
        }
        15 => one(&mut snapshot.persisted_sysctls, how),
        16 => one(&mut snapshot.declared, how),
        17..=20 => {
            if let Some(config) = snapshot.declared.value() {
                let mut config = config.as_ref().clone();
                if how.is_multiple_of(2) && !config.options.is_empty() {
                    let key = config.options.keys().nth(at.index(config.options.len())).cloned().unwrap();
                    config.options.remove(&key);
                } else if let Some(flags) = config.components.get_mut("kube-apiserver")
                    && !flags.is_empty()
                {
                    let key = flags.keys().nth(at.index(flags.len())).cloned().unwrap();
                    flags.remove(&key);
                }
                let config = Observation::from(Arc::new(config));
                if how.is_multiple_of(3) { snapshot.running = config } else { snapshot.declared = config }
            }
        }
        21 => one(&mut snapshot.traps, how),
        22 => item(&mut snapshot.certificates, at, how),
        23 => {
            let count = snapshot.certificates.len();
            if count > 0
                && let Some(Observation::Value { value }) = snapshot.certificates.values_mut().nth(at.index(count))
                && let Some(cert) = value.first_mut()
            {
                cert.not_after -= SignedDuration::from_hours(24 * i64::from(how));
            }
        }
        24 => item(&mut snapshot.tokens, at, how),
        25 => one(&mut snapshot.join_token, how),
        26 => item(&mut snapshot.units, at, how),
        27 => item(&mut snapshot.encryption_configs, at, how),
        28 => one(&mut snapshot.encryption_state, how),
        29 => item(&mut snapshot.audit_policies, at, how),
        30 => item(&mut snapshot.audit_logs, at, how),
        31 => item(&mut snapshot.admission_configs, at, how),
        32 => one(&mut snapshot.etcd_config, how),
        33 => item(&mut snapshot.kubelet_dropins, at, how),
        34 => one(&mut snapshot.registries, how),
        35 => snapshot.selinux_enforcing = Observation::from(how.is_multiple_of(2)),
        36 => item(&mut snapshot.datastores, at, how),
        37 => item(&mut snapshot.keys, at, how),
        38 => snapshot.at += SignedDuration::from_hours(24 * i64::from(how)),
        39 => item(&mut snapshot.kubelet_configs, at, how),
        40 => {
            let path = format!("{}/agent/etc/kubelet.conf.d/10-cli-config.conf", snapshot.data_dir);
            let weak = serde_json::json!({"makeIPTablesUtilChains": how.is_multiple_of(2)});
            snapshot.kubelet_copied_from.insert(path.clone(), format!("/etc/{}.yaml", how % 3));
            snapshot.kubelet_next.insert(path, Observation::from(weak));
        }
        41 => snapshot.k3s_version = Some("v1.31.4+k3s1".to_owned()),
        _ => snapshot.k3s_started_at = Observation::from(snapshot.at),
    }
}

/// The verdicts before, with those that were judged again in the place of theirs.
fn taken_over(before: Vec<Verdict>, again: Rejudged) -> Vec<Verdict> {
    let kept = before.into_iter().filter(|v| !again.controls.contains(&v.control));
    kept.chain(again.verdicts.iter().cloned()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn judging_what_changed_is_judging_everything(
        profile in 0_usize..4,
        rounds in prop::collection::vec(prop::collection::vec((0_u8..43, any::<prop::sample::Index>(), any::<u8>()), 1..4), 1..4),
    ) {
        let mut before = SNAPSHOTS[profile].clone();
        let mut verdicts = evaluate(&before, &POLICY);
        for round in rounds {
            let mut after = before.clone();
            round.iter().for_each(|change| apply(&mut after, *change));
            let changes = Changes::between(&before, &after);
            let again = taken_over(verdicts, evaluate_changes(&after, &POLICY, &changes));
            let whole = evaluate(&after, &POLICY);
            let differ: BTreeSet<&str> = whole
                .iter()
                .filter(|v| !again.contains(v))
                .chain(again.iter().filter(|v| !whole.contains(v)))
                .map(|v| v.control.as_str())
                .collect();
            prop_assert!(differ.is_empty(), "{:?} do not say that they depend on {:?}", differ, changes);
            prop_assert_eq!(again.len(), whole.len(), "a row stands twice");
            (before, verdicts) = (after, again);
        }
    }
}

#[test]
fn a_changed_file_leads_to_few_controls() {
    let before = &SNAPSHOTS[1];
    let mut after = before.clone();
    let path = "/etc/rancher/k3s/k3s.yaml";
    let Some(Observation::Value { value }) = after.files.get_mut(path) else { panic!("{path} was not seen") };
    value.mode = 0o644;
    let changes = Changes::between(before, &after);
    let judged = evaluate_changes(&after, &POLICY, &changes).controls;
    assert!((1..10).contains(&judged.len()), "{judged:?} were judged again");
    assert!(Changes::between(before, before).is_empty());
}
