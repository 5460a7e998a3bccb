//! What apply, append, acknowledge and pressure do, one rule a test.

use picket_model::{EventBody, EventKind, FindingState, GapReason, Seq, Severity, Status, Verdict};

use super::fake::FakeDisk;
use super::{Sink, at, cursor, detection, mark, open, small, verdict};
use crate::{AckError, AppendError, Appended, AuditMark, LedgerHandle, Limits};

#[test]
fn verdicts_become_changes_and_silence_is_no_change() {
    let disk = FakeDisk::default();
    let mut ledger = open(&disk, small()).0;
    let bad =
        [verdict(1, Status::Fail, "bad"), verdict(2, Status::Pass, "good"), verdict(3, Status::Unknown, "EACCES")];
    let first = ledger.apply(&bad, true, at(1)).unwrap();
    assert_eq!((first.opened.len(), first.changed.len(), first.resolved.len()), (2, 0, 0));
    let seq = ledger.next_seq();
    assert_eq!(ledger.apply(&bad, true, at(2)).unwrap(), crate::Applied::default());
    assert_eq!(ledger.next_seq(), seq, "nothing happened, nothing is written");
    let part = ledger.apply(&[verdict(1, Status::Fail, "worse")], false, at(3)).unwrap();
    assert_eq!((part.changed.len(), part.resolved.len()), (1, 0), "what is not spoken of stays");
    let all = ledger.apply(&[verdict(1, Status::Fail, "worse")], true, at(4)).unwrap();
    assert_eq!(all.resolved.len(), 1);
    assert_eq!(all.resolved[0].observed, "no longer applies");
    assert_eq!(ledger.findings().map(|f| f.subject.as_str()).collect::<Vec<_>>(), ["1"]);
}

#[test]
fn what_is_said_of_some_controls_leaves_the_others_alone() {
    let disk = FakeDisk::default();
    let mut ledger = open(&disk, small()).0;
    let of = |control: &str, subject: u64| Verdict { control: control.into(), ..verdict(subject, Status::Fail, "bad") };
    ledger.apply(&[of("a", 1), of("a", 2), of("b", 1)], true, at(1)).unwrap();
    let said = ledger.apply_of(&["a".to_owned()].into(), &[of("a", 2)], at(2)).unwrap();
    assert_eq!((said.opened.len(), said.changed.len(), said.resolved.len()), (0, 0, 1));
    assert_eq!(
        ledger.findings().map(|f| (f.control.as_str(), f.subject.as_str())).collect::<Vec<_>>(),
        [("a", "2"), ("b", "1")]
    );
}

#[test]
fn of_two_verdicts_on_one_subject_the_failure_counts() {
    let disk = FakeDisk::default();
    let mut ledger = open(&disk, small()).0;
    for order in [[Status::Fail, Status::Pass], [Status::Pass, Status::Fail]] {
        ledger.apply(&order.map(|s| verdict(1, s, "x")), true, at(1)).unwrap();
        assert_eq!(ledger.findings().count(), 1);
    }
    assert_eq!(ledger.next_seq(), Seq(2), "no flapping");
}

#[test]
fn texts_are_cut_to_what_the_wire_takes_and_stay_the_same_finding() {
    let disk = FakeDisk::default();
    let mut ledger = open(&disk, small()).0;
    let mut huge = verdict(1, Status::Fail, &"ä".repeat(100_000));
    huge.subject = "s".repeat(9000);
    huge.evidence = vec![picket_model::Evidence::note("e".repeat(9000)); 500];
    ledger.apply(std::slice::from_ref(&huge), true, at(1)).unwrap();
    ledger.apply(std::slice::from_ref(&huge), true, at(2)).unwrap();
    assert_eq!(ledger.next_seq(), Seq(2));
    let finding = ledger.findings().next().unwrap();
    assert!(finding.observed.len() <= 16 * 1024 && finding.observed.ends_with("… (cut)"));
    assert_eq!((finding.subject.len(), finding.evidence.len()), (4096, 64));
    assert!(finding.evidence[63].detail.contains("437 more"));
}

#[test]
fn a_mark_or_unit_that_can_never_be_written_is_refused_whole() {
    let disk = FakeDisk::default();
    let mut ledger = open(&disk, small()).0;
    let mark = AuditMark { cursor: vec![0; AuditMark::CURSOR_MAX + 1], detector: None };
    let refused = ledger.append(vec![detection(1, Severity::Low, 0)], Some(mark), at(1));
    assert!(matches!(refused, Err(AppendError::MarkTooLarge { what: "cursor", .. })));
    let many = (0..20_000).map(|id| detection(id, Severity::Low, 1000)).collect();
    assert!(matches!(ledger.append(many, None, at(1)), Err(AppendError::UnitTooLarge { events: 20_000, .. })));
    assert_eq!((ledger.next_seq(), ledger.audit_mark()), (Seq(1), None));
}

#[test]
fn an_acknowledgement_frees_whole_segments_and_nothing_unsent() {
    let disk = FakeDisk::default();
    let limits = Limits { segment_bytes: 2000, ..small() };
    let mut ledger = open(&disk, limits).0;
    for id in 1..=100 {
        ledger.append(vec![detection(id, Severity::Low, 100)], Some(mark(id)), at(1)).unwrap();
    }
    let before = disk.segments().len();
    assert!(before > 10);
    let beyond = ledger.acknowledge(Seq(101));
    assert_eq!(beyond, Err(AckError { acknowledged: Seq(101), last: Seq(100) }));
    assert_eq!(disk.segments().len(), before);
    ledger.acknowledge(Seq(50)).unwrap();
    ledger.acknowledge(Seq(20)).unwrap();
    assert_eq!(ledger.acknowledged(), Seq(50));
    let first = ledger.first_seq();
    assert!(first > Seq(30) && first <= Seq(51), "{first}");
    ledger.acknowledge(Seq(100)).unwrap();
    assert!(disk.segments().len() < 5, "{:?}", disk.segments());
    drop(ledger);
    let mut ledger = open(&disk, limits).0;
    assert_eq!((ledger.acknowledged(), ledger.next_seq(), cursor(&ledger)), (Seq(100), Seq(101), 100));
    // A collector that lost its store gets what is still here, and the announcement that the rest will not come.
    let batch = ledger.read_after(Seq(0), 1000, 1 << 20).unwrap();
    assert_eq!(batch.given_up_through.next(), batch.events[0].seq);
    assert_eq!(batch.events.last().unwrap().seq, Seq(100));
}

#[test]
fn under_pressure_old_changes_go_first_then_old_mild_detections_never_a_findings_state() {
    let disk = FakeDisk::default();
    let limits = Limits { outbox_bytes: 60_000, segment_bytes: 4000, waiting_bytes: 100_000 };
    let mut ledger = open(&disk, limits).0;
    ledger.apply(&[verdict(7, Status::Fail, "quiet since the beginning")], false, at(1)).unwrap();
    ledger.append(vec![detection(1_000_000, Severity::Critical, 10)], None, at(1)).unwrap();
    for id in 1..=600 {
        ledger.append(vec![detection(id, Severity::Low, 300)], Some(mark(id)), at(2)).unwrap();
        ledger.apply(&[verdict(1, Status::Fail, &format!("look {id}"))], false, at(2)).unwrap();
        assert!(disk.bytes() < 70_000, "{} bytes after {id}", disk.bytes());
    }
    let mut sink = Sink::default();
    sink.drain(&mut ledger);
    assert_eq!(sink.live(), ledger.findings().cloned().collect::<Vec<_>>());
    assert_eq!(sink.live()[1].observed, "quiet since the beginning");
    let got = sink.detections();
    assert_eq!(got[0], 1_000_000, "the critical one outlives the mild");
    assert_eq!(*got.last().unwrap(), 600, "the newest are kept");
    let gaps = sink.events.iter().filter(|e| e.body.kind() == EventKind::Gap).count();
    assert!((1..4).contains(&gaps), "gaps are summed, not piled up: {gaps}");
    assert_eq!(sink.told_lost() + sink.events.len() as u64 - gaps as u64, 2 + 1200, "to the event");
    assert_eq!(ledger.stats().given_up, sink.told_lost(), "each is counted once, however often the gap is told again");
}

#[test]
fn a_full_disk_keeps_events_in_memory_and_then_sums_what_it_cannot_hold() {
    let disk = FakeDisk::default();
    let limits = Limits { waiting_bytes: 20_000, ..small() };
    let mut ledger = open(&disk, limits).0;
    ledger.append(vec![detection(1, Severity::Low, 0)], Some(mark(1)), at(1)).unwrap();
    disk.state().room = Some(10);
    assert_eq!(ledger.append(vec![detection(2, Severity::Low, 0)], Some(mark(2)), at(1)).unwrap(), Appended::Waiting);
    assert_eq!((ledger.next_seq(), cursor(&ledger)), (Seq(2), 2));
    ledger.apply(&[verdict(1, Status::Fail, "bad")], false, at(1)).unwrap();
    assert_eq!(ledger.findings().count(), 1);
    assert!(ledger.stats().disk_error.is_some());
    assert_eq!(ledger.read_after(Seq(1), 10, 1000).unwrap().events, [], "what is not durable is not sent");
    for id in 3..=100 {
        ledger.append(vec![detection(id, Severity::Low, 300)], Some(mark(id)), at(2)).unwrap();
    }
    disk.state().room = None;
    assert_eq!(ledger.retry(at(3)), Appended::Durable);
    assert_eq!(ledger.stats().disk_error, None);
    let mut sink = Sink::default();
    sink.drain(&mut ledger);
    assert_eq!(sink.live().len(), 1);
    assert_eq!(sink.missing, 0, "no number was given out for what was lost");
    let gap = sink.events.iter().find_map(|e| match &e.body {
        EventBody::Gap { gap } => Some(gap.clone()),
        _ => None,
    });
    assert_eq!(gap.unwrap().reason, GapReason::DiskFull);
    assert_eq!(sink.detections().len() as u64 + sink.told_lost(), 100);
    drop(ledger);
    assert_eq!(cursor(&open(&disk, limits).0), 100);
}

#[test]
fn resolved_findings_are_remembered_for_their_count_but_not_without_bound() {
    let disk = FakeDisk::default();
    let mut ledger = open(&disk, Limits::default()).0;
    let judge = |status, range: std::ops::Range<u64>| range.map(|s| verdict(s, status, "x")).collect::<Vec<_>>();
    ledger.apply(&judge(Status::Fail, 0..5000), false, at(1)).unwrap();
    ledger.apply(&judge(Status::Pass, 0..4999), false, at(2)).unwrap();
    ledger.apply(&judge(Status::Pass, 4999..5000), false, at(3)).unwrap();
    let again = ledger.apply(&judge(Status::Fail, 4999..5000), false, at(4)).unwrap();
    assert_eq!((again.opened[0].reopened, again.opened[0].state), (1, FindingState::Open));
    assert!(ledger.book.findings.len() <= 4097);
}

#[test]
fn a_handle_tells_what_became_durable() {
    let disk = FakeDisk::default();
    let handle = LedgerHandle::new(open(&disk, small()).0);
    let mut watch = handle.watch();
    assert!(!watch.has_changed().unwrap());
    handle.with(|l| l.append(vec![detection(1, Severity::Low, 0)], None, at(1))).unwrap();
    assert!(watch.has_changed().unwrap());
    assert_eq!(*watch.borrow_and_update(), Seq(1));
    disk.state().room = Some(0);
    handle.with(|l| l.append(vec![detection(2, Severity::Low, 0)], None, at(1))).unwrap();
    assert!(!watch.has_changed().unwrap(), "it waits in memory");
}

#[test]
fn a_check_from_outside_says_what_is_there_and_touches_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut ledger, _) = crate::Ledger::open(dir.path(), small(), at(1)).unwrap();
    for id in 1..=30 {
        ledger.append(vec![detection(id, Severity::Low, 300)], Some(mark(id)), at(1)).unwrap();
    }
    ledger.acknowledge(Seq(2)).unwrap();
    ledger.checkpoint().unwrap();
    // The daemon holds the lock meanwhile.
    let report = crate::check::check(dir.path()).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.events, report.unacknowledged, report.next_seq), (30, 28, Seq(31)));
    assert_eq!(report.epoch, Some(ledger.epoch()));
    drop(ledger);
    let segment = dir.path().join("00000000000000000001.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[200] ^= 4;
    std::fs::write(&segment, &bytes).unwrap();
    let report = crate::check::check(dir.path()).unwrap();
    assert_eq!((report.is_sound(), report.damaged), (false, 1));
    assert_eq!(std::fs::read(&segment).unwrap(), bytes);
}
