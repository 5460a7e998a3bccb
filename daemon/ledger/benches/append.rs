//! Appends with a sync each, one detection or 256 a unit, beside a bare write and sync of the same bytes.

use std::io::Write as _;

use divan::counter::ItemsCount;
use jiff::Timestamp;
use picket_ledger::{AuditMark, Ledger, Limits};
use picket_model::{Detection, EventBody, ObjectRef, Severity};

fn main() {
    divan::main();
}

fn detection(n: u64) -> EventBody {
    EventBody::Detection {
        detection: Detection {
            rule: "audit-secret-read".into(),
            severity: Severity::Medium,
            title: "a secret was read".into(),
            file: "/var/lib/rancher/k3s/server/logs/audit.log".into(),
            line: n,
            audit_id: format!("{n:032x}"),
            audit_ids: vec![format!("{n:032x}")],
            user: "system:serviceaccount:shop:web".into(),
            impersonated: None,
            source: Some("10.42.0.7".into()),
            forgeable_sources: Vec::new(),
            verb: "get".into(),
            object: ObjectRef {
                resource: "secrets".into(),
                namespace: "shop".into(),
                name: "db".into(),
                ..Default::default()
            },
            outcome: "allowed".into(),
            code: Some(200),
            time: Timestamp::UNIX_EPOCH,
            last_time: Timestamp::UNIX_EPOCH,
            count: 1,
            mitre: vec!["T1552.007".into()],
        },
    }
}

#[divan::bench(args = [1, 256], sample_count = 50)]
fn append(bencher: divan::Bencher<'_, '_>, events: u64) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let limits = Limits { outbox_bytes: u64::MAX / 4, ..Limits::default() };
    let (mut ledger, _) = Ledger::open(dir.path(), limits, Timestamp::UNIX_EPOCH).expect("a ledger");
    bencher
        .counter(ItemsCount::new(events))
        .with_inputs(|| (0..events).map(detection).collect::<Vec<_>>())
        .bench_local_values(|bodies| {
            let mark = AuditMark { cursor: vec![7; 200], detector: None };
            ledger.append(bodies, Some(mark), Timestamp::UNIX_EPOCH)
        });
}

#[divan::bench(args = [1, 256], sample_count = 50)]
fn yardstick_write_and_sync(bencher: divan::Bencher<'_, '_>, events: u64) {
    let mut file = tempfile::tempfile().expect("a temporary file");
    let unit: Vec<u8> = (0..events).flat_map(|n| serde_json::to_vec(&detection(n)).expect("JSON")).collect();
    bencher.counter(ItemsCount::new(events)).bench_local(|| file.write_all(&unit).and_then(|()| file.sync_data()));
}
