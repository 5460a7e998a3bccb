//! How Secrets are stored, judged.

use std::collections::BTreeMap;

use picket_checks::*;
use picket_model::{Observation, Role, Status, Verdict};

use crate::good::{DATA, node, policy, rows, setting, stored};

const CONTROLS: [&str; 4] = [
    "secrets-stored-plain",
    "secrets-plain-in-history",
    "secrets-stored-under-old-key",
    "secrets-plain-in-migrated-database",
];

fn db() -> String {
    format!("{DATA}/server/db/state.db")
}

/// The good server on SQLite, with what its database says.
fn sqlite(stored: StoredSecrets) -> Snapshot {
    let mut snap = node(Role::Server);
    snap.files.retain(|path, _| !path.contains("/db/etcd"));
    for gone in ["etcd", "etcd/member"] {
        snap.files.insert(format!("{DATA}/server/db/{gone}"), Observation::Absent);
    }
    snap.datastores.insert(db(), Observation::from(stored));
    snap
}

fn only<'a>(verdicts: &'a [Verdict], control: &str) -> &'a Verdict {
    let rows = rows(verdicts, control);
    assert_eq!(rows.len(), 1, "{control}");
    rows[0]
}

fn status(snap: &Snapshot, control: &str) -> Status {
    only(&evaluate(snap, &policy()), control).status
}

fn plain(n: u64) -> Tally {
    Tally { plain: n, ..stored().live }
}

#[test]
fn an_encrypted_database_passes() {
    let snap = sqlite(stored());
    for control in &CONTROLS[..3] {
        let verdicts = evaluate(&snap, &policy());
        let verdict = only(&verdicts, control);
        assert_eq!(verdict.status, Status::Pass, "{verdict:?}");
        assert!(verdict.evidence.iter().any(|e| e.detail.contains("10 aescbc (aescbckey)")), "{verdict:?}");
    }
}

#[test]
fn what_is_wrong_fails_even_if_not_everything_was_read() {
    for complete in [true, false] {
        let base = || StoredSecrets { complete, ..stored() };
        assert_eq!(status(&sqlite(StoredSecrets { live: plain(1), ..base() }), CONTROLS[0]), Status::Fail);
        assert_eq!(status(&sqlite(StoredSecrets { history: plain(1), ..base() }), CONTROLS[1]), Status::Fail);
        assert_eq!(status(&sqlite(StoredSecrets { deleted: plain(1), ..base() }), CONTROLS[1]), Status::Fail);
        let mut other = base();
        other.live.encrypted.insert(("aescbc".to_owned(), "aescbckey-2025-12-10T22:54:38Z".to_owned()), 1);
        assert_eq!(status(&sqlite(other), CONTROLS[2]), Status::Fail);
    }
}

#[test]
fn nothing_passes_on_half_an_answer() {
    let unclear = Tally { unclear: 1, ..Tally::default() };
    let unnamed = Tally { encrypted: BTreeMap::from([(("aescbc".to_owned(), String::new()), 1)]), ..Tally::default() };
    let cases: [(&str, StoredSecrets); 8] = [
        (CONTROLS[0], StoredSecrets { complete: false, ..stored() }),
        (CONTROLS[1], StoredSecrets { complete: false, ..stored() }),
        (CONTROLS[2], StoredSecrets { complete: false, ..stored() }),
        // No cluster is without Secrets.
        (CONTROLS[0], StoredSecrets { complete: true, ..StoredSecrets::default() }),
        (CONTROLS[1], StoredSecrets { complete: true, ..StoredSecrets::default() }),
        (CONTROLS[0], StoredSecrets { live: unclear.clone(), ..stored() }),
        (CONTROLS[1], StoredSecrets { history: unclear, ..stored() }),
        (CONTROLS[2], StoredSecrets { live: unnamed, ..stored() }),
    ];
    for (control, case) in cases {
        assert_eq!(status(&sqlite(case.clone()), control), Status::Unknown, "{control} {case:?}");
    }
}

#[test]
fn other_datastores_are_not_decidable_and_say_so() {
    let policy = policy();
    let mut external = sqlite(stored());
    let mut config = external.declared.value().unwrap().as_ref().clone();
    config.options.insert("datastore-endpoint".to_owned(), vec![setting("postgres://<redacted>")]);
    external.declared = Observation::from(std::sync::Arc::new(config));
    for (snap, word) in [(node(Role::Server), "embedded etcd"), (external, "external")] {
        let verdicts = evaluate(&snap, &policy);
        for control in &CONTROLS[..3] {
            let verdict = only(&verdicts, control);
            assert_eq!(verdict.status, Status::Unknown);
            assert!(verdict.observed.contains("not decidable here") && verdict.observed.contains(word), "{verdict:?}");
        }
    }
}

#[test]
fn the_database_a_migration_left_is_judged_too() {
    let left = format!("{}.migrated", db());
    let mut snap = node(Role::Server);
    assert_eq!(status(&snap, CONTROLS[3]), Status::Pass);
    snap.datastores.insert(left.clone(), Observation::from(StoredSecrets { deleted: plain(2), ..stored() }));
    assert_eq!(status(&snap, CONTROLS[3]), Status::Fail);
    snap.datastores.insert(left.clone(), Observation::unreadable("not an SQLite database"));
    assert_eq!(status(&snap, CONTROLS[3]), Status::Unknown);
    snap.files.insert(left, Observation::Absent);
    assert_eq!(status(&snap, CONTROLS[3]), Status::Pass);
    assert_eq!(status(&sqlite(stored()), CONTROLS[3]), Status::Pass, "cluster-init: about to be migrated");
}
