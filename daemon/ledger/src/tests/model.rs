//! Random lives of a ledger, step by step against what must be true of it.

use std::collections::BTreeMap;

use picket_model::{FindingState, Seq, Severity, Status};
use proptest::prelude::*;

use super::fake::FakeDisk;
use super::{Sink, at, cursor, detection, mark, open, small, verdict};
use crate::Limits;

#[derive(Debug, Clone)]
enum Step {
    /// The next so many lines of the audit log match a rule; the mark goes with them.
    Audit {
        events: u8,
        padding: u16,
        severity: u8,
    },
    /// A mark alone.
    Cursor,
    /// Verdicts on these subjects: subject, fails, look.
    Judge(Vec<(u8, bool, u8)>, bool),
    Pull(u8),
    Acknowledge(u8),
    Reopen,
    /// The power goes now; so much of what was not synced is there afterwards.
    PowerCut(u8),
    /// The power goes in the middle of the steps to come.
    PowerCutIn(u8, u8),
    DiskFull(u16),
    SyncFails,
    DiskGood,
    Retry,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u8..6, 0u16..900, 0u8..3).prop_map(|(events, padding, severity)| Step::Audit { events, padding, severity }),
        1 => Just(Step::Cursor),
        4 => (prop::collection::vec((0u8..6, any::<bool>(), 0u8..3), 0..5), any::<bool>()).prop_map(|(v, c)| Step::Judge(v, c)),
        4 => (1u8..9).prop_map(Step::Pull),
        3 => any::<u8>().prop_map(Step::Acknowledge),
        1 => Just(Step::Reopen),
        2 => any::<u8>().prop_map(Step::PowerCut),
        2 => (0u8..30, any::<u8>()).prop_map(|(n, t)| Step::PowerCutIn(n, t)),
        1 => (0u16..2000).prop_map(Step::DiskFull),
        1 => Just(Step::SyncFails),
        2 => Just(Step::DiskGood),
        1 => Just(Step::Retry),
    ]
}

/// Runs a life. The audit log is an endless list of numbered lines: what follows the cursor is what comes next, so a
/// crash that forgets events together with their cursor has them found again.
fn live(limits: Limits, steps: &[Step], lossless: bool) {
    let mut disk = FakeDisk::default();
    let (mut ledger, recovery) = open(&disk, limits);
    assert!(recovery.new_epoch);
    let epoch = ledger.epoch();
    let mut sink = Sink::default();
    let mut truth: BTreeMap<u64, bool> = BTreeMap::new();
    let mut second = 10;
    let mut torn = None;
    for step in steps {
        second += 1;
        let now = at(second);
        match step {
            Step::Audit { events, padding, severity } => {
                let from = cursor(&ledger);
                let severity = Severity::ALL[usize::from(*severity)];
                let lines = (from + 1)..=(from + u64::from(*events));
                let bodies = lines.clone().map(|id| detection(id, severity, usize::from(*padding))).collect();
                ledger.append(bodies, Some(mark(from + u64::from(*events))), now).unwrap();
                assert_eq!(cursor(&ledger), from + u64::from(*events));
            }
            Step::Cursor => {
                let mark = mark(cursor(&ledger));
                ledger.append(vec![], Some(mark), now).unwrap();
            }
            Step::Judge(verdicts, complete) => {
                let verdicts: BTreeMap<u64, (bool, u8)> =
                    verdicts.iter().map(|(s, fails, look)| (u64::from(*s), (*fails, *look))).collect();
                if *complete {
                    truth.clear();
                }
                let mut all = Vec::new();
                for (subject, (fails, look)) in verdicts {
                    truth.insert(subject, fails);
                    let status = if fails { Status::Fail } else { Status::Pass };
                    all.push(verdict(subject, status, &format!("look {look}")));
                }
                ledger.apply(&all, *complete, now).unwrap();
            }
            Step::Pull(events) => {
                sink.pull(&mut ledger, usize::from(*events), 4000);
            }
            Step::Acknowledge(share) => {
                let seq = Seq(sink.cursor * u64::from(*share) / 255);
                ledger.acknowledge(seq).unwrap();
            }
            Step::Reopen => {
                if torn.is_none() {
                    drop(ledger);
                    (disk.state().room, disk.state().sync_fails) = (None, false);
                    ledger = open(&disk, limits).0;
                }
            }
            Step::PowerCut(tear) => {
                let after = disk.after_power_cut(*tear);
                // The old ledger must not write a farewell.
                disk.state().power = Some(0);
                drop(ledger);
                disk = after;
                torn = None;
                ledger = open(&disk, limits).0;
            }
            Step::PowerCutIn(steps, tear) => {
                if torn.is_none() {
                    disk.state().power = Some(u64::from(*steps));
                    torn = Some(*tear);
                }
            }
            Step::DiskFull(room) => disk.state().room = Some(usize::from(*room)),
            Step::SyncFails => disk.state().sync_fails = true,
            Step::DiskGood => {
                (disk.state().room, disk.state().sync_fails) = (None, false);
            }
            Step::Retry => {
                ledger.retry(now);
            }
        }
        if let Some(tear) = torn
            && disk.state().power == Some(0)
        {
            let after = disk.after_power_cut(tear);
            drop(ledger);
            disk = after;
            torn = None;
            let (opened, recovery) = open(&disk, limits);
            assert!(!recovery.new_epoch || sink.cursor == 0, "events were sent and the epoch is lost");
            assert_eq!(recovery.damaged_events, 0, "a power cut is no damage");
            ledger = opened;
            // What was judged before the cut is judged again by the next full evaluation.
        }
        if sink.cursor > 0 {
            assert_eq!(ledger.epoch(), epoch);
            assert!(ledger.next_seq().0 > sink.cursor, "a number that was sent is given out again");
        }
    }
    // The end: power and disk are good, all is judged once more, everything is delivered.
    {
        let mut state = disk.state();
        (state.power, state.room, state.sync_fails) = (None, None, false);
    }
    let all: Vec<_> = truth
        .iter()
        .map(|(s, fails)| verdict(*s, if *fails { Status::Fail } else { Status::Pass }, "look at the end"))
        .collect();
    ledger.apply(&all, true, at(second + 1)).unwrap();
    ledger.retry(at(second + 2));
    assert_eq!(ledger.stats().waiting_events, 0);
    sink.drain(&mut ledger);

    let failing: Vec<String> = truth.iter().filter(|(_, fails)| **fails).map(|(s, _)| s.to_string()).collect();
    let mine: Vec<String> = ledger.findings().map(|f| f.subject.clone()).collect();
    assert_eq!(mine, failing, "the ledger's open findings");
    let theirs: Vec<_> = sink.live();
    assert_eq!(theirs.iter().map(|f| f.subject.clone()).collect::<Vec<_>>(), failing, "the collector's view");
    assert!(theirs.iter().all(|f| f.state == FindingState::Open));
    assert_eq!(theirs, ledger.findings().cloned().collect::<Vec<_>>());

    let got = sink.detections();
    assert!(got.windows(2).all(|w| w[0] < w[1]), "each line once and in order: {got:?}");
    if lossless {
        assert_eq!(got, (1..=cursor(&ledger)).collect::<Vec<_>>(), "every line of the audit log");
        assert_eq!((sink.missing, sink.told_lost()), (0, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn every_event_is_delivered_once_and_in_order(steps in prop::collection::vec(step(), 1..60)) {
        live(small(), &steps, true);
    }

    #[test]
    fn under_pressure_findings_stay_true(steps in prop::collection::vec(step(), 1..80)) {
        live(Limits { outbox_bytes: 12_000, segment_bytes: 2000, waiting_bytes: 3000 }, &steps, false);
    }

    /// Only detections, no acknowledgements: what was not delivered was told, to the event.
    #[test]
    fn what_is_given_up_is_told_exactly(
        appends in prop::collection::vec((1u8..6, 0u16..600, 0u8..3), 1..60),
        cuts in prop::collection::vec((0usize..60, 0u8..40, any::<u8>()), 0..6),
        full in prop::collection::vec(0usize..60, 0..8),
    ) {
        let limits = Limits { outbox_bytes: 10_000, segment_bytes: 1500, waiting_bytes: 2500 };
        let mut disk = FakeDisk::default();
        let mut ledger = open(&disk, limits).0;
        for (index, (events, padding, severity)) in appends.iter().enumerate() {
            disk.state().room = full.contains(&index).then_some(100);
            let cut = cuts.iter().find(|c| c.0 == index);
            if let Some((_, after, _)) = cut {
                disk.state().power = Some(u64::from(*after));
            }
            let from = cursor(&ledger);
            let to = from + u64::from(*events);
            let severity = Severity::ALL[usize::from(*severity)];
            let bodies = ((from + 1)..=to).map(|id| detection(id, severity, usize::from(*padding))).collect();
            ledger.append(bodies, Some(mark(to)), at(20)).unwrap();
            if let Some((_, _, tear)) = cut {
                let after = disk.after_power_cut(*tear);
                disk.state().power = Some(0);
                drop(ledger);
                disk = after;
                let (opened, recovery) = open(&disk, limits);
                prop_assert_eq!(recovery.damaged_events, 0);
                ledger = opened;
            }
            prop_assert!(disk.bytes() < 10_000 * 2, "{} bytes", disk.bytes());
        }
        disk.state().room = None;
        ledger.retry(at(30));
        let mut sink = Sink::default();
        sink.drain(&mut ledger);
        let got = sink.detections();
        prop_assert!(got.windows(2).all(|w| w[0] < w[1]));
        prop_assert_eq!(got.len() as u64 + sink.told_lost(), cursor(&ledger), "delivered {:?}", got);
    }
}
