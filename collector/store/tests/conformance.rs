//! The store's contract, held against each engine.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use std::path::Path;

use jiff::SignedDuration;
use picket_model::{EventBody, EventKind, Evidence, FindingState, Labels, NodeInfo, Seq, Severity};
use picket_store::{
    Change, Delivery, DiskSettings, Durability, EventQuery, FindingQuery, MemoryStore, NodeRecord, Position, Records,
    Refused, Retention, Scope, Store, StoreError, TokenRecord, open,
};
use support::*;

/// Runs a part of the suite against each engine.
macro_rules! suite {
    ($($name:ident),+ $(,)?) => {
        mod memory {
            $(#[test] fn $name() { super::$name(&super::MemoryStore::in_memory()); })+
        }
        mod sled {
            $(#[test] fn $name() {
                let folder = tempfile::tempdir().unwrap();
                super::$name(&super::disk(folder.path()));
            })+
        }
    };
}

fn disk(path: &Path) -> picket_store::SledStore {
    open(&path.join("history"), DiskSettings::default()).unwrap()
}

suite!(
    events_come_back_as_they_were,
    duplicates_are_ignored_and_counted,
    a_hole_is_refused_and_touches_nothing,
    numbers_given_up_leave_a_hole_that_is_counted,
    disorder_and_foreign_epochs_are_refused,
    deliveries_of_a_group_see_each_other,
    findings_follow_their_events,
    counts_follow_the_findings,
    findings_are_paged_without_loss_or_repetition,
    findings_are_filtered,
    events_are_paged_newest_first,
    events_are_filtered,
    a_detection_that_is_counted_on_is_listed_once,
    time_in_the_history_never_goes_back,
    long_events_come_back_whole,
    retention_by_number_keeps_what_is_so_now,
    retention_by_age_stops_at_what_is_young,
    retention_leaves_the_indexes_in_step,
    records_are_changed_all_or_none,
    epochs_of_a_node_are_apart,
);

fn all_events(store: &dyn Store, mut query: EventQuery) -> Vec<picket_store::StoredEvent> {
    let mut all = Vec::new();
    loop {
        let page = store.events(&query).unwrap();
        assert!(page.events.len() <= query.limit.max(1));
        all.extend(page.events);
        match page.next {
            Some(next) => query.before = Some(next),
            None => return all,
        }
    }
}

fn all_findings(store: &dyn Store, mut query: FindingQuery) -> Vec<(picket_model::NodeId, String)> {
    let mut all = Vec::new();
    loop {
        let page = store.findings(&query).unwrap();
        assert!(page.findings.len() <= query.limit.max(1));
        all.extend(page.findings.into_iter().map(|f| (f.node, f.finding.control)));
        match page.next {
            Some(next) => query.after = Some(next),
            None => return all,
        }
    }
}

fn one(n: u8) -> Scope {
    Scope::Nodes(BTreeSet::from([node(n)]))
}

fn events_come_back_as_they_were(store: &dyn Store) {
    let gap = picket_model::Gap {
        reason: picket_model::GapReason::AuditLog,
        count: 3,
        first: None,
        last: Some(Seq(9)),
        detail: "rotated away".to_owned(),
    };
    let info = NodeInfo {
        hostname: "edge-1".to_owned(),
        role: Some(picket_model::Role::Agent),
        k3s_version: None,
        picket_version: "0.1.0".to_owned(),
        kernel: "6.1".to_owned(),
        token_since: None,
    };
    let bodies = vec![
        opened("a", Severity::High),
        EventBody::FindingChanged { finding: finding("a", "s\0\u{1F512}", FindingState::Blind, Severity::Info) },
        resolved("a", Severity::High),
        detection("r", Severity::Critical),
        EventBody::Inventory { node: info },
        EventBody::Gap { gap },
    ];
    let sent = delivery(node(1), epoch(1), 1, bodies);
    let receipt = commit(store, 10, sent.clone()).unwrap();
    assert_eq!((receipt.through, receipt.duplicates, receipt.stored.len()), (Seq(6), 0, 6));
    let found = all_events(store, EventQuery { limit: 4, ..EventQuery::default() });
    let back: Vec<_> = found.iter().rev().map(|stored| stored.event.as_ref().clone()).collect();
    assert_eq!(back, sent.events);
    assert!(found.iter().all(|stored| stored.node == node(1) && stored.received == at(10)));
    assert_eq!(found.into_iter().rev().collect::<Vec<_>>(), receipt.stored);
    let cursor = store.cursor(node(1), epoch(1)).unwrap().unwrap();
    assert_eq!((cursor.through, cursor.given_up, cursor.moved), (Seq(6), 0, at(10)));
    assert_eq!(cursor.hash, sent.events.last().map(|e| e.hash));
}

fn duplicates_are_ignored_and_counted(store: &dyn Store) {
    let bodies = || (0..5).map(|_| opened("a", Severity::High)).collect::<Vec<_>>();
    commit(store, 0, delivery(node(1), epoch(1), 1, bodies())).unwrap();
    let again = commit(store, 1, delivery(node(1), epoch(1), 3, bodies())).unwrap();
    assert_eq!((again.through, again.duplicates, again.stored.len()), (Seq(7), 3, 2));
    let only = commit(store, 1, delivery(node(1), epoch(1), 1, bodies())).unwrap();
    assert_eq!((only.through, only.duplicates, only.stored.len()), (Seq(7), 5, 0));
    let seqs: Vec<_> =
        all_events(store, EventQuery { limit: 100, ..EventQuery::default() }).iter().map(|e| e.event.seq.0).collect();
    assert_eq!(seqs, [7, 6, 5, 4, 3, 2, 1]);
}

fn a_hole_is_refused_and_touches_nothing(store: &dyn Store) {
    let bad = delivery(node(1), epoch(1), 2, vec![opened("a", Severity::High)]);
    assert_eq!(commit(store, 0, bad).unwrap_err(), Refused::Hole { expected: Seq(1), got: Seq(2) });
    let mut holed = delivery(node(1), epoch(1), 1, vec![opened("a", Severity::High); 3]);
    holed.events.remove(1);
    let fine = delivery(node(2), epoch(1), 1, vec![opened("a", Severity::High)]);
    let outcomes = store.commit(at(0), vec![holed, fine]).unwrap();
    assert_eq!(outcomes[0].as_ref().unwrap_err(), &Refused::Hole { expected: Seq(2), got: Seq(3) });
    assert_eq!(outcomes[1].as_ref().unwrap().through, Seq(1));
    assert_eq!(store.cursor(node(1), epoch(1)).unwrap(), None);
    assert_eq!(store.counts(node(1)).unwrap().total(), 0);
    assert_eq!(all_events(store, EventQuery { limit: 9, ..EventQuery::default() }).len(), 1);
}

fn numbers_given_up_leave_a_hole_that_is_counted(store: &dyn Store) {
    commit(store, 0, delivery(node(1), epoch(1), 1, vec![opened("a", Severity::High)])).unwrap();
    // Of 2 to 9 only 5 is left; 10 is whole again.
    let mut rest = events(epoch(1), 1, vec![opened("b", Severity::High); 10]);
    rest.retain(|event| [5, 10].contains(&event.seq.0));
    let late = Delivery { node: node(1), epoch: epoch(1), events: rest, given_up_through: Seq(9) };
    assert_eq!(commit(store, 1, late).unwrap().through, Seq(10));
    assert_eq!(store.cursor(node(1), epoch(1)).unwrap().unwrap().given_up, 7);
    // Numbers given up behind the last event.
    let mut tail = delivery(node(3), epoch(1), 1, vec![opened("a", Severity::Low)]);
    tail.given_up_through = Seq(4);
    assert_eq!(commit(store, 1, tail).unwrap().through, Seq(4));
    let nothing = Delivery { node: node(1), epoch: epoch(1), events: vec![], given_up_through: Seq(12) };
    assert_eq!(commit(store, 2, nothing).unwrap().through, Seq(12));
    let cursor = store.cursor(node(1), epoch(1)).unwrap().unwrap();
    assert_eq!((cursor.given_up, cursor.hash), (9, None));
    let next = delivery(node(1), epoch(1), 13, vec![opened("c", Severity::High)]);
    assert_eq!(commit(store, 3, next).unwrap().through, Seq(13));
    // A number that is said to be given up but still comes first counts as it is.
    let far = Delivery {
        node: node(2),
        epoch: epoch(1),
        events: events(epoch(1), u64::MAX - 1, vec![opened("a", Severity::Low)]),
        given_up_through: Seq(u64::MAX - 2),
    };
    assert_eq!(commit(store, 4, far).unwrap().through, Seq(u64::MAX - 1));
    let beyond = delivery(node(2), epoch(1), 1, vec![opened("a", Severity::Low)]);
    assert_eq!(commit(store, 5, beyond).unwrap().duplicates, 1);
}

fn disorder_and_foreign_epochs_are_refused(store: &dyn Store) {
    let mut swapped = delivery(node(1), epoch(1), 1, vec![opened("a", Severity::High); 3]);
    swapped.events.swap(1, 2);
    swapped.given_up_through = Seq(3);
    assert_eq!(commit(store, 0, swapped).unwrap_err(), Refused::Disorder { before: Seq(3), got: Seq(2) });
    let mut foreign = delivery(node(1), epoch(1), 1, vec![opened("a", Severity::High)]);
    foreign.epoch = epoch(2);
    assert_eq!(commit(store, 0, foreign).unwrap_err(), Refused::ForeignEpoch { seq: Seq(1) });
    assert_eq!(all_events(store, EventQuery { limit: 9, ..EventQuery::default() }), vec![]);
}

fn deliveries_of_a_group_see_each_other(store: &dyn Store) {
    // 300 events make several units; the second delivery of the same node continues the first.
    let first = delivery(node(1), epoch(1), 1, vec![opened("a", Severity::High); 150]);
    let second = delivery(node(1), epoch(1), 101, vec![resolved("a", Severity::High); 200]);
    let outcomes = store.commit(at(0), vec![first, second]).unwrap();
    assert_eq!(outcomes[0].as_ref().unwrap().through, Seq(150));
    let second = outcomes[1].as_ref().unwrap();
    assert_eq!((second.through, second.duplicates, second.stored.len()), (Seq(300), 50, 150));
    let seqs: Vec<_> =
        all_events(store, EventQuery { limit: 7, ..EventQuery::default() }).iter().map(|e| e.event.seq.0).collect();
    assert_eq!(seqs, (1..=300).rev().collect::<Vec<_>>());
    assert_eq!(store.counts(node(1)).unwrap().total(), 0);
}

fn findings_follow_their_events(store: &dyn Store) {
    commit(store, 0, delivery(node(1), epoch(1), 1, vec![opened("a", Severity::High), opened("b", Severity::Low)]))
        .unwrap();
    let changed =
        EventBody::FindingChanged { finding: finding("a", "subject", FindingState::Open, Severity::Critical) };
    commit(store, 5, delivery(node(1), epoch(1), 3, vec![changed, resolved("b", Severity::Low)])).unwrap();
    let page = store.findings(&FindingQuery { limit: 10, ..FindingQuery::default() }).unwrap();
    assert_eq!(page.next, None);
    let seen: Vec<_> = page
        .findings
        .iter()
        .map(|f| (f.node, f.epoch, f.received, f.finding.control.as_str(), f.finding.state, f.finding.severity))
        .collect();
    assert_eq!(
        seen,
        [
            (node(1), epoch(1), at(5), "a", FindingState::Open, Severity::Critical),
            (node(1), epoch(1), at(5), "b", FindingState::Resolved, Severity::Low),
        ]
    );
}

fn counts_follow_the_findings(store: &dyn Store) {
    let body =
        |control: &str, state, severity| EventBody::FindingChanged { finding: finding(control, "s", state, severity) };
    let bodies = vec![
        body("a", FindingState::Open, Severity::High),
        body("b", FindingState::Blind, Severity::Low),
        body("c", FindingState::Open, Severity::High),
        body("c", FindingState::Open, Severity::High),
        body("a", FindingState::Open, Severity::Medium),
    ];
    commit(store, 0, delivery(node(1), epoch(1), 1, bodies)).unwrap();
    let counts = store.counts(node(1)).unwrap();
    let open = |counts: picket_store::Counts, s| counts.in_state(FindingState::Open, s);
    assert_eq!((open(counts, Severity::High), open(counts, Severity::Medium)), (1, 1));
    assert_eq!(counts.in_state(FindingState::Blind, Severity::Low), 1);
    assert_eq!((counts.total(), counts.unresolved(Severity::Low)), (3, 1));
    commit(store, 1, delivery(node(1), epoch(1), 6, vec![body("c", FindingState::Resolved, Severity::High)])).unwrap();
    assert_eq!(store.counts(node(1)).unwrap().total(), 2);
    assert_eq!(store.counts(node(2)).unwrap(), picket_store::Counts::default());
}

fn fleet(store: &dyn Store) {
    for n in 0..12 {
        let bodies = (0..10).map(|c| opened(&format!("control-{c}"), Severity::ALL[c % 5])).collect();
        commit(store, n.into(), delivery(node(n), epoch(1), 1, bodies)).unwrap();
    }
}

fn findings_are_paged_without_loss_or_repetition(store: &dyn Store) {
    fleet(store);
    for limit in [1, 7, 119, 120, 500] {
        let all = all_findings(store, FindingQuery { limit, ..FindingQuery::default() });
        assert_eq!(all.len(), 120);
        assert!(all.windows(2).all(|pair| pair[0] < pair[1]), "ordered by node, then control");
        let scope = Scope::Nodes((3..6).map(node).collect());
        let some = all_findings(store, FindingQuery { limit, scope, ..FindingQuery::default() });
        assert_eq!(some, all.iter().filter(|f| (3..6).any(|n| f.0 == node(n))).cloned().collect::<Vec<_>>());
    }
    // A finding that changes between two pages neither repeats nor hides others.
    let first = store.findings(&FindingQuery { limit: 60, ..FindingQuery::default() }).unwrap();
    commit(store, 99, delivery(node(0), epoch(1), 11, vec![resolved("control-0", Severity::Info)])).unwrap();
    let second = store.findings(&FindingQuery { limit: 60, after: first.next, ..FindingQuery::default() }).unwrap();
    assert_eq!((first.findings.len(), second.findings.len()), (60, 60));
    assert_eq!(
        all_findings(store, FindingQuery { scope: Scope::Nodes(BTreeSet::new()), limit: 5, ..FindingQuery::default() }),
        vec![]
    );
}

fn findings_are_filtered(store: &dyn Store) {
    fleet(store);
    commit(store, 50, delivery(node(3), epoch(1), 11, vec![resolved("control-4", Severity::Critical)])).unwrap();
    let base = FindingQuery { limit: 1000, ..FindingQuery::default() };
    let count = |query: FindingQuery| all_findings(store, query).len();
    assert_eq!(count(FindingQuery { min_severity: Some(Severity::High), ..base.clone() }), 48);
    assert_eq!(count(FindingQuery { states: vec![FindingState::Resolved], ..base.clone() }), 1);
    assert_eq!(count(FindingQuery { states: vec![FindingState::Open, FindingState::Blind], ..base.clone() }), 119);
    assert_eq!(
        count(FindingQuery { controls: ["control-4".to_owned(), "none".to_owned()].into(), ..base.clone() }),
        12
    );
    assert_eq!(count(FindingQuery { controls: ["control".to_owned()].into(), ..base.clone() }), 0);
    assert_eq!(count(FindingQuery { since: Some(at(11)), ..base.clone() }), 11);
    assert_eq!(count(FindingQuery { since: Some(at(50)), scope: one(4), ..base }), 0);
}

fn events_are_paged_newest_first(store: &dyn Store) {
    // 40 nodes are beyond the number whose indexes are merged, so both ways of looking are taken.
    let mut next = [1u64; 40];
    for round in 0..6i64 {
        let deliveries = (0..40u8)
            .map(|n| {
                let bodies: Vec<_> = (0..=(usize::from(n) % 4))
                    .map(|c| if c == 1 { detection("r", Severity::Low) } else { opened("a", Severity::High) })
                    .collect();
                let first = next[usize::from(n)];
                next[usize::from(n)] += bodies.len() as u64;
                delivery(node(n), epoch(1), first, bodies)
            })
            .collect();
        assert!(store.commit(at(round), deliveries).unwrap().iter().all(Result::is_ok));
    }
    let everything = all_events(store, EventQuery { limit: 1000, ..EventQuery::default() });
    assert_eq!(everything.len(), 600);
    assert!(everything.windows(2).all(|pair| pair[0].position > pair[1].position));
    for limit in [1, 13, 64, 599] {
        assert_eq!(all_events(store, EventQuery { limit, ..EventQuery::default() }), everything);
        for count in [1u8, 3, 32, 33, 39] {
            for kinds in [vec![], vec![EventKind::Detection], vec![EventKind::Detection, EventKind::FindingOpened]] {
                let scope = Scope::Nodes((0..count).map(node).collect());
                let query = EventQuery { limit, scope: scope.clone(), kinds: kinds.clone(), ..EventQuery::default() };
                let expected: Vec<_> = everything
                    .iter()
                    .filter(|e| scope.contains(e.node) && (kinds.is_empty() || kinds.contains(&e.event.body.kind())))
                    .cloned()
                    .collect();
                assert_eq!(all_events(store, query), expected, "limit {limit}, {count} nodes, {kinds:?}");
            }
        }
    }
    let before = Some(Position(0));
    assert_eq!(all_events(store, EventQuery { limit: 5, before, ..EventQuery::default() }), vec![]);
}

fn events_are_filtered(store: &dyn Store) {
    let bodies = vec![
        opened("a", Severity::High),
        detection("a", Severity::Medium),
        detection("r", Severity::Critical),
        EventBody::Inventory { node: NodeInfo::default() },
        resolved("a", Severity::High),
    ];
    commit(store, 1, delivery(node(1), epoch(1), 1, bodies.clone())).unwrap();
    commit(store, 2, delivery(node(2), epoch(1), 1, bodies)).unwrap();
    for scope in [Scope::All, Scope::Nodes((0..40).map(node).collect()), Scope::Nodes((1..3).map(node).collect())] {
        let base = EventQuery { limit: 100, scope, ..EventQuery::default() };
        let seqs = |query: EventQuery| all_events(store, query).iter().map(|e| e.event.seq.0).collect::<Vec<_>>();
        assert_eq!(seqs(EventQuery { min_severity: Some(Severity::High), ..base.clone() }), [5, 3, 1, 5, 3, 1]);
        assert_eq!(seqs(EventQuery { states: vec![FindingState::Resolved], ..base.clone() }), [5, 5]);
        assert_eq!(seqs(EventQuery { controls: ["a".to_owned()].into(), ..base.clone() }), [5, 2, 1, 5, 2, 1]);
        let kinds = vec![EventKind::Detection];
        assert_eq!(seqs(EventQuery { kinds: kinds.clone(), ..base.clone() }), [3, 2, 3, 2]);
        assert_eq!(seqs(EventQuery { kinds, controls: ["a".to_owned()].into(), ..base.clone() }), [2, 2]);
        assert_eq!(seqs(EventQuery { since: Some(at(2)), ..base.clone() }), [5, 4, 3, 2, 1]);
        assert_eq!(seqs(EventQuery { since: Some(at(3)), ..base }), Vec::<u64>::new());
    }
}

fn counted(rule: &str, audit_id: &str, count: u64) -> EventBody {
    let EventBody::Detection { mut detection } = detection(rule, Severity::Low) else { unreachable!() };
    (detection.audit_id, detection.count) = (audit_id.to_owned(), count);
    EventBody::Detection { detection }
}

fn a_detection_that_is_counted_on_is_listed_once(store: &dyn Store) {
    let bodies = vec![counted("r", "a", 1), counted("r", "b", 1), counted("r", "a", 10), opened("c", Severity::High)];
    commit(store, 1, delivery(node(1), epoch(1), 1, bodies)).unwrap();
    commit(store, 2, delivery(node(2), epoch(1), 1, vec![counted("r", "a", 7)])).unwrap();
    // Further, in another unit, and by a node that began anew meanwhile.
    commit(store, 3, delivery(node(1), epoch(2), 1, vec![counted("r", "a", 20), counted("s", "a", 1)])).unwrap();
    let listed = |scope: &Scope, latest| {
        let kinds = vec![EventKind::Detection];
        let query = EventQuery { limit: 2, kinds, latest, scope: scope.clone(), ..EventQuery::default() };
        let show = |e: &picket_store::StoredEvent| match &e.event.body {
            EventBody::Detection { detection: d } => format!("{} {} {}", d.rule, d.audit_id, d.count),
            body => format!("{body:?}"),
        };
        all_events(store, query).iter().map(show).collect::<Vec<_>>()
    };
    assert_eq!(listed(&Scope::All, true), ["s a 1", "r a 20", "r a 7", "r b 1"]);
    assert_eq!(listed(&one(1), true), ["s a 1", "r a 20", "r b 1"]);
    assert_eq!(listed(&one(1), false), ["s a 1", "r a 20", "r a 10", "r b 1", "r a 1"]);
    // What is gone from the history leaves nothing behind, and what is left is listed as before.
    retain_all(store, 4, Retention { max_age: SignedDuration::from_hours(1), max_events: 2 });
    assert_eq!(listed(&Scope::All, true), ["s a 1", "r a 20"]);
    retain_all(store, 4, Retention { max_age: SignedDuration::from_secs(0), max_events: 1 });
    commit(store, 5, delivery(node(1), epoch(2), 3, vec![counted("r", "b", 2)])).unwrap();
    assert_eq!(listed(&Scope::All, true)[0], "r b 2");
}

fn time_in_the_history_never_goes_back(store: &dyn Store) {
    commit(store, 100, delivery(node(1), epoch(1), 1, vec![opened("a", Severity::High)])).unwrap();
    let receipt = commit(store, 50, delivery(node(1), epoch(1), 2, vec![opened("a", Severity::High)])).unwrap();
    assert_eq!(receipt.stored[0].received, at(100));
}

fn long(control: &str, bytes: usize) -> EventBody {
    let mut finding = finding(control, "subject", FindingState::Open, Severity::High);
    finding.observed = "x".repeat(bytes / 2);
    finding.evidence = vec![Evidence::note("y".repeat(bytes / 128)); 64];
    EventBody::FindingOpened { finding }
}

fn long_events_come_back_whole(store: &dyn Store) {
    for (seq, bytes) in (1..).zip([11_000, 12_288, 13_000, 24_576, 100_000, 600_000]) {
        let sent = delivery(node(1), epoch(1), seq, vec![long("a", bytes)]);
        commit(store, 0, sent.clone()).unwrap();
        let back = store.events(&EventQuery { limit: 1, ..EventQuery::default() }).unwrap().events.remove(0);
        assert_eq!(back.event.as_ref(), &sent.events[0]);
        let current = store.findings(&FindingQuery { limit: 1, ..FindingQuery::default() }).unwrap().findings.remove(0);
        assert_eq!(Some(&current.finding), sent.events[0].body.finding());
    }
}

fn retain_all(store: &dyn Store, second: i64, retention: Retention) -> (u64, u64) {
    let (mut dropped, mut kept) = (0, 0);
    loop {
        let step = store.retain(at(second), retention).unwrap();
        dropped += step.dropped;
        kept += step.kept;
        if step.done {
            return (dropped, kept);
        }
    }
}

fn retention_by_number_keeps_what_is_so_now(store: &dyn Store) {
    let retention = Retention { max_age: SignedDuration::from_hours(24), max_events: 10 };
    let mut bodies =
        vec![opened("stays", Severity::High), long("resolved", 40_000), resolved("resolved", Severity::High)];
    bodies.extend((0..200).map(|_| detection("r", Severity::Low)));
    commit(store, 0, delivery(node(1), epoch(1), 1, bodies)).unwrap();
    assert_eq!(retain_all(store, 1, retention), (192, 1));
    assert_eq!(retain_all(store, 1, retention), (0, 0));
    assert_eq!(all_events(store, EventQuery { limit: 100, ..EventQuery::default() }).len(), 10);
    assert_eq!(
        all_findings(store, FindingQuery { limit: 9, ..FindingQuery::default() }),
        [(node(1), "stays".to_owned())]
    );
    assert_eq!(store.counts(node(1)).unwrap().total(), 1);
    assert_eq!(store.stats().events, 10);
    // What was kept only for the finding goes when the finding changes.
    commit(store, 2, delivery(node(1), epoch(1), 204, vec![resolved("stays", Severity::High)])).unwrap();
    commit(store, 2, delivery(node(1), epoch(1), 205, vec![detection("r", Severity::Low); 10])).unwrap();
    assert_eq!(retain_all(store, 1, retention), (11, 0));
    assert_eq!(all_findings(store, FindingQuery { limit: 9, ..FindingQuery::default() }), vec![]);
    // Numbers stay what they are: what was dropped is still known.
    assert_eq!(
        commit(store, 3, delivery(node(1), epoch(1), 1, vec![opened("stays", Severity::High)])).unwrap().duplicates,
        1
    );
}

fn retention_by_age_stops_at_what_is_young(store: &dyn Store) {
    for second in 0..100 {
        let seq = u64::try_from(second).unwrap() + 1;
        commit(store, second, delivery(node(1), epoch(1), seq, vec![detection("r", Severity::Low)])).unwrap();
    }
    let retention = Retention { max_age: SignedDuration::from_secs(30), max_events: 1000 };
    assert_eq!(retain_all(store, 99, retention), (69, 0));
    for kinds in [vec![], vec![EventKind::Detection]] {
        let left = all_events(store, EventQuery { limit: 7, kinds, ..EventQuery::default() });
        assert_eq!(left.last().map(|e| (e.event.seq, e.received)), Some((Seq(70), at(69))));
        assert_eq!(left.len(), 31);
    }
}

fn retention_leaves_the_indexes_in_step(store: &dyn Store) {
    for round in 0..20u64 {
        let deliveries = (0..5)
            .map(|n| {
                delivery(
                    node(n),
                    epoch(1),
                    round * 3 + 1,
                    vec![opened("a", Severity::High), detection("r", Severity::Low), resolved("a", Severity::High)],
                )
            })
            .collect();
        store.commit(at(i64::try_from(round).unwrap()), deliveries).unwrap();
        // A limit that falls into the middle of units.
        retain_all(store, 1, Retention { max_age: SignedDuration::from_hours(1), max_events: 37 + round % 7 });
        let everything = all_events(store, EventQuery { limit: 1000, ..EventQuery::default() });
        for n in 0..5 {
            let of_node = all_events(store, EventQuery { limit: 4, scope: one(n), ..EventQuery::default() });
            assert_eq!(of_node, everything.iter().filter(|e| e.node == node(n)).cloned().collect::<Vec<_>>());
        }
        let kinds = vec![EventKind::Detection];
        let detections = all_events(store, EventQuery { limit: 4, kinds, ..EventQuery::default() });
        let expected: Vec<_> =
            everything.iter().filter(|e| e.event.body.kind() == EventKind::Detection).cloned().collect();
        assert_eq!(detections, expected);
    }
}

fn token(uses_left: u32) -> TokenRecord {
    TokenRecord {
        id: "t1".to_owned(),
        secret_sha256: "00".repeat(32),
        created_at: at(0),
        created_by: "root".to_owned(),
        expires_at: at(900),
        uses_left,
        labels: Labels::from([("site".to_owned(), "berlin".to_owned())]),
    }
}

fn enrolled(n: u8) -> NodeRecord {
    NodeRecord {
        id: node(n),
        hostname: format!("edge-{n}"),
        labels: Labels::new(),
        enrolled_at: at(1),
        active: None,
        pending: None,
        past: vec![],
        revoked: None,
        last_seen: None,
        info: NodeInfo::default(),
        epoch: None,
        behind_events: 0,
        clock_offset_ms: 0,
    }
}

fn records_are_changed_all_or_none(store: &dyn Store) {
    store.change(&[Change::insert(&token(1))], Durability::Synced).unwrap();
    let read = store.load::<TokenRecord>("t1").unwrap().unwrap();
    assert_eq!((read.revision, &read.record), (1, &token(1)));
    // Two nodes use the last use of one token: the second is told.
    let enrol = |n| [Change::replace(&token(0), read.revision), Change::insert(&enrolled(n))];
    store.change(&enrol(1), Durability::Synced).unwrap();
    let error = store.change(&enrol(2), Durability::Synced).unwrap_err();
    assert!(matches!(error, StoreError::Conflict { ref key, .. } if key == "t1"), "{error}");
    let nodes: Vec<_> = store.load_all::<NodeRecord>().unwrap().into_iter().map(|n| n.record).collect();
    assert_eq!(nodes, [enrolled(1)]);
    assert!(store.change(&[Change::insert(&enrolled(1))], Durability::Soon).is_err());
    store.change(&[Change::delete::<TokenRecord>("t1")], Durability::Soon).unwrap();
    assert_eq!(store.load::<TokenRecord>("t1").unwrap(), None);
    let mut large = enrolled(3);
    large.hostname = "x".repeat(20_000);
    assert!(matches!(store.change(&[Change::put(&large)], Durability::Soon), Err(StoreError::TooLarge { .. })));
}

fn epochs_of_a_node_are_apart(store: &dyn Store) {
    let own = store.own_epoch();
    for epoch in [epoch(1), epoch(2), own] {
        commit(store, 0, delivery(node(1), epoch, 1, vec![opened("a", Severity::High); 2])).unwrap();
    }
    let cursors = store.cursors(node(1)).unwrap();
    assert!(cursors.iter().all(|(_, cursor)| cursor.through == Seq(2)));
    let mut expected = vec![epoch(1), epoch(2), own];
    expected.sort_unstable();
    assert_eq!(cursors.into_iter().map(|(epoch, _)| epoch).collect::<Vec<_>>(), expected);
    assert_eq!(store.cursors(node(2)).unwrap(), vec![]);
}
