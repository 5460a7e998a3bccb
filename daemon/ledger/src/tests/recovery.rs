//! Opening after something went wrong.

use picket_model::{EventBody, GapReason, Seq, Severity, Status};
use proptest::prelude::*;

use super::fake::FakeDisk;
use super::{Sink, at, cursor, detection, mark, open, small, verdict};
use crate::{AuditMark, Ledger, LedgerError, Limits};

/// A ledger with ten detections, one a record.
fn ten(disk: &FakeDisk, limits: Limits) -> Ledger {
    let mut ledger = open(disk, limits).0;
    for id in 1..=10 {
        ledger.append(vec![detection(id, Severity::Low, 100)], Some(mark(id)), at(10)).unwrap();
    }
    ledger
}

fn crash(disk: &FakeDisk, ledger: Ledger) -> FakeDisk {
    let after = disk.after_power_cut(0);
    disk.state().power = Some(0);
    drop(ledger);
    after
}

#[test]
fn a_crash_at_any_byte_of_the_last_append_leaves_all_of_it_or_nothing() {
    let disk = FakeDisk::default();
    let ledger = ten(&disk, Limits::default());
    let disk = crash(&disk, ledger);
    let name = disk.segments()[0].clone();
    let whole = disk.state().files[&name].bytes.clone();
    let mut ledger = open(&disk, Limits::default()).0;
    ledger.append((11..=13).map(|id| detection(id, Severity::Low, 20)).collect(), Some(mark(13)), at(11)).unwrap();
    let disk = crash(&disk, ledger);
    let after = disk.state().files[&name].bytes.clone();
    for length in whole.len()..=after.len() {
        let torn = disk.after_power_cut(255);
        torn.state().files.get_mut(&name).unwrap().bytes.truncate(length);
        let (mut ledger, recovery) = open(&torn, Limits::default());
        let complete = length == after.len();
        assert_eq!(cursor(&ledger), if complete { 13 } else { 10 }, "at byte {length}");
        assert_eq!(ledger.next_seq(), Seq(if complete { 14 } else { 11 }));
        assert_eq!(recovery.torn_bytes, if complete { 0 } else { (length - whole.len()) as u64 });
        assert_eq!(recovery.damaged_events, 0);
        // It goes on as if nothing had been there.
        let from = cursor(&ledger);
        ledger.append(vec![detection(from + 1, Severity::Low, 0)], Some(mark(from + 1)), at(12)).unwrap();
        let mut sink = Sink::default();
        sink.drain(&mut ledger);
        assert_eq!(sink.detections(), (1..=from + 1).collect::<Vec<_>>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Any byte of any segment may rot, while closed or while open: nothing panics, nothing sound is lost, the loss
    /// is told once, and it is not told again at the next start.
    #[test]
    fn a_flipped_bit_costs_its_record_and_is_told_once(place in any::<prop::sample::Index>(), bit in 0u8..8, while_open in any::<bool>()) {
        let limits = small();
        let disk = FakeDisk::default();
        let mut ledger = ten(&disk, Limits { segment_bytes: 1500, ..limits });
        prop_assert!(disk.segments().len() > 2);
        let flip = |disk: &FakeDisk| {
            let names = disk.segments();
            // The last record of the journal is another matter: it may be taken for a torn one.
            let total: usize = names.iter().map(|n| disk.state().files[n].bytes.len()).sum::<usize>() - 600;
            let mut at = place.index(total);
            for name in names {
                let mut state = disk.state();
                let bytes = &mut state.files.get_mut(&name).unwrap().bytes;
                if at < bytes.len() {
                    bytes[at] ^= 1 << bit;
                    return;
                }
                at -= bytes.len();
            }
        };
        let mut disk = disk;
        if while_open {
            flip(&disk);
        } else {
            disk = crash(&disk, ledger);
            flip(&disk);
            ledger = open(&disk, limits).0;
        }
        let mut sink = Sink::default();
        sink.drain(&mut ledger);
        let lost = 10 - sink.detections().len() as u64;
        prop_assert!(lost <= 1, "{:?}", sink.detections());
        prop_assert_eq!(sink.told_lost(), lost);
        let damaged = sink.events.iter().all(|e| match &e.body {
            EventBody::Gap { gap } => gap.reason == GapReason::Damaged,
            _ => true,
        });
        prop_assert!(damaged);
        let next = ledger.next_seq();
        let disk = crash(&disk, ledger);
        let mut ledger = open(&disk, limits).0;
        let mut again = Sink::default();
        again.drain(&mut ledger);
        prop_assert_eq!(again.detections(), sink.detections());
        prop_assert!(ledger.next_seq() == next || while_open, "told twice");
    }
}

#[test]
fn the_folder_is_private_locked_and_keeps_its_epoch() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("outbox");
    let (mut ledger, recovery) = Ledger::open(&path, Limits::default(), at(1)).unwrap();
    assert!(recovery.new_epoch);
    ledger.append(vec![detection(1, Severity::Low, 0)], Some(mark(1)), at(1)).unwrap();
    let Err(LedgerError::Locked { .. }) = Ledger::open(&path, Limits::default(), at(1)) else {
        panic!("two daemons in one folder")
    };
    let epoch = ledger.epoch();
    drop(ledger);
    let mode = |p: &std::path::Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    for entry in std::fs::read_dir(&path).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
    let (mut ledger, recovery) = Ledger::open(&path, Limits::default(), at(2)).unwrap();
    assert_eq!((ledger.epoch(), recovery.new_epoch, cursor(&ledger)), (epoch, false, 1));
    let mut sink = Sink::default();
    sink.drain(&mut ledger);
    assert_eq!(sink.detections(), [1]);
}

#[test]
fn one_unreadable_checkpoint_costs_nothing() {
    for damage in ["checkpoint.json", "checkpoint.previous.json"] {
        let disk = FakeDisk::default();
        let limits = Limits { segment_bytes: 600, ..small() };
        let mut ledger = ten(&disk, limits);
        ledger.apply(&[verdict(1, Status::Fail, "bad")], false, at(3)).unwrap();
        ledger.acknowledge(Seq(9)).unwrap();
        ledger.checkpoint().unwrap();
        let before: Vec<_> = ledger.findings().cloned().collect();
        let disk = crash(&disk, ledger);
        disk.state().files.get_mut(damage).unwrap().bytes[20] ^= 1;
        let (mut ledger, recovery) = open(&disk, limits);
        assert_eq!(recovery.damaged_checkpoints, 1, "{damage}");
        assert_eq!(ledger.findings().cloned().collect::<Vec<_>>(), before);
        assert_eq!((cursor(&ledger), ledger.next_seq()), (10, Seq(12)));
        let mut sink = Sink { cursor: 9, ..Sink::default() };
        sink.drain(&mut ledger);
        assert_eq!((sink.cursor, sink.told_lost()), (11, 0));
    }
}

#[test]
fn a_segment_that_vanished_is_told() {
    let disk = FakeDisk::default();
    let ledger = ten(&disk, Limits { segment_bytes: 1500, ..small() });
    let disk = crash(&disk, ledger);
    let gone = disk.segments()[1].clone();
    let next = disk.segments()[2].clone();
    let number = |n: &str| n[..20].parse::<u64>().unwrap();
    let lost = number(&next) - number(&gone);
    disk.state().files.remove(&gone);
    let (mut ledger, recovery) = open(&disk, small());
    assert_eq!(recovery.damaged_events, lost);
    let mut sink = Sink::default();
    sink.drain(&mut ledger);
    assert_eq!((sink.missing, sink.told_lost(), sink.detections().len() as u64), (lost, lost, 10 - lost));
}

#[test]
fn a_journal_that_lost_its_end_does_not_give_numbers_out_twice() {
    let disk = FakeDisk::default();
    let mut ledger = ten(&disk, Limits::default());
    ledger.checkpoint().unwrap();
    let disk = crash(&disk, ledger);
    let name = disk.segments()[0].clone();
    let half = disk.state().files[&name].bytes.len() / 2;
    disk.state().files.get_mut(&name).unwrap().bytes.truncate(half);
    let (mut ledger, recovery) = open(&disk, Limits::default());
    assert!(recovery.damaged_events > 0);
    let mut sink = Sink::default();
    sink.drain(&mut ledger);
    assert_eq!((sink.cursor, sink.told_lost()), (11, recovery.damaged_events));
}

#[test]
fn a_later_format_is_refused_and_untouched() {
    let disk = FakeDisk::default();
    let ledger = ten(&disk, Limits::default());
    let disk = crash(&disk, ledger);
    let name = disk.segments()[0].clone();
    {
        let mut state = disk.state();
        let bytes = &mut state.files.get_mut(&name).unwrap().bytes;
        bytes[8] = 2;
        let crc = crc32c::crc32c(&bytes[..40]);
        bytes[40..44].copy_from_slice(&crc.to_le_bytes());
    }
    let before = disk.state().files[&name].bytes.clone();
    let Err(LedgerError::Newer { found: 2, .. }) =
        Ledger::open_on(disk.handle(), std::path::Path::new("/fake"), Limits::default(), at(1))
    else {
        panic!("opened")
    };
    assert_eq!(disk.state().files[&name].bytes, before);
}

#[test]
fn the_detector_state_stays_with_its_cursor() {
    let disk = FakeDisk::default();
    let mut ledger = open(&disk, small()).0;
    let full = AuditMark { cursor: b"1".to_vec(), detector: Some(b"half a burst".to_vec()) };
    ledger.append(vec![], Some(full.clone()), at(1)).unwrap();
    assert_eq!(ledger.audit_mark(), Some(full));
    ledger.append(vec![detection(1, Severity::Low, 0)], Some(mark(2)), at(1)).unwrap();
    let disk = crash(&disk, ledger);
    let ledger = open(&disk, small()).0;
    assert_eq!(ledger.audit_cursor(), Some(&b"2"[..]));
    let state = ledger.detector_state().unwrap();
    assert_eq!((&state.cursor[..], &state.state[..]), (&b"1"[..], &b"half a burst"[..]));
    assert_eq!(ledger.audit_mark(), Some(mark(2)));
}

#[test]
fn a_new_epoch_restates_findings_and_keeps_undelivered_detections() {
    let disk = FakeDisk::default();
    let mut ledger = ten(&disk, small());
    ledger.apply(&[verdict(1, Status::Fail, "bad"), verdict(2, Status::Fail, "bad")], true, at(2)).unwrap();
    ledger.acknowledge(Seq(8)).unwrap();
    let old = ledger.epoch();
    let new = ledger.begin_epoch("restored from a backup", at(3)).unwrap();
    assert_ne!(new, old);
    for round in 0..2 {
        let mut sink = Sink::default();
        sink.drain(&mut ledger);
        assert!(sink.events.iter().all(|e| e.epoch == new), "round {round}");
        assert_eq!(sink.detections(), [9, 10]);
        assert_eq!(sink.live(), ledger.findings().cloned().collect::<Vec<_>>());
        assert_eq!(sink.events[0].seq, Seq(1));
        assert_eq!(cursor(&ledger), 10);
        let after = crash(&disk, ledger);
        ledger = open(&after, small()).0;
    }
}
