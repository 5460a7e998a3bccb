//! Any bytes as an audit policy, through every control that looks into one.
#![no_main]

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use picket_audit::builtin_needs;
use picket_checks::{AuditPolicy, Flag, NodeConfig, Policy, Setting, Snapshot, SourceKey, evaluate_some};
use picket_model::{Evidence, Observation, Role};

const PATH: &str = "/etc/audit.yaml";

static POLICY: LazyLock<Policy> = LazyLock::new(|| Policy {
    detections: builtin_needs().into(),
    ..Policy::built_in().expect("the catalogue is good")
});

static NODE: LazyLock<Snapshot> = LazyLock::new(|| {
    let mut node = Snapshot::blank(jiff::Timestamp::UNIX_EPOCH);
    node.role = Some(Role::Server);
    let flag = Flag { possible: vec![vec![Setting::new(PATH, Evidence::note("fuzzed"))]] };
    let flags = BTreeMap::from([("audit-policy-file".to_owned(), flag)]);
    let config =
        NodeConfig { components: BTreeMap::from([("kube-apiserver".to_owned(), flags)]), ..NodeConfig::default() };
    node.declared = Observation::from(Arc::new(config));
    node
});

fuzz_target!(|data: &[u8]| {
    let mut node = NODE.clone();
    let policy = AuditPolicy::parse(data).unwrap_or_else(|error| AuditPolicy::refused(error.to_string()));
    node.audit_policies.insert(PATH.to_owned(), Observation::from(policy));
    assert!(!evaluate_some(&node, &POLICY, &[SourceKey::AuditPolicy]).is_empty());
});
