//! Random deliveries against a model: whatever comes in whatever order, there is no duplicate and no undeclared hole.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use picket_model::{EventBody, FindingState, Seq, Severity};
use picket_store::{Delivery, DiskSettings, EventQuery, FindingQuery, MemoryStore, Scope, Store, open};
use proptest::prelude::*;
use support::*;

/// A delivery, relative to where the history stands.
#[derive(Debug, Clone)]
struct Step {
    node: u8,
    epoch: u8,
    /// Begins so far before (or after) the number that is due.
    back: i64,
    count: u64,
    /// Numbers are given up to so far beyond the cursor.
    given_up: Option<u64>,
    /// Every how manieth event is left out; 0: none.
    thin: u64,
}

fn step() -> impl Strategy<Value = Step> {
    let given_up = proptest::option::weighted(0.3, 0u64..12);
    (0u8..3, 1u8..3, -3i64..8, 0u64..90, given_up, 0u64..4)
        .prop_map(|(node, epoch, back, count, given_up, thin)| Step { node, epoch, back, count, given_up, thin })
}

/// What a store must hold.
#[derive(Debug, Default)]
struct Model {
    through: BTreeMap<(u8, u8), u64>,
    /// In the order in which they became durable.
    events: Vec<(u8, u8, u64)>,
}

fn body(seq: u64) -> EventBody {
    let control = format!("c{}", seq % 5);
    match seq % 4 {
        0 => detection("r", Severity::Low),
        1 => resolved(&control, Severity::High),
        n => opened(&control, if n == 2 { Severity::High } else { Severity::Critical }),
    }
}

impl Model {
    fn delivery(&self, step: &Step) -> Delivery {
        let through = self.through.get(&(step.node, step.epoch)).copied().unwrap_or(0);
        let first = (i64::try_from(through).unwrap() + 1 - step.back).max(1).unsigned_abs();
        let mut events = events(epoch(step.epoch), first, (first..first + step.count).map(body));
        if step.thin > 0 {
            events.retain(|event| event.seq.0 % (step.thin + 7) != 0);
        }
        let given_up_through = Seq(step.given_up.map_or(0, |beyond| through + beyond));
        Delivery { node: node(step.node), epoch: epoch(step.epoch), events, given_up_through }
    }

    /// The rule in its plainest form: number by number.
    fn take(&mut self, step: &Step, delivery: &Delivery) -> Option<u64> {
        let mut through = self.through.get(&(step.node, step.epoch)).copied().unwrap_or(0);
        let mut new = Vec::new();
        for event in &delivery.events {
            let seq = event.seq.0;
            if seq <= through {
                continue;
            }
            if (through + 1..seq).any(|missing| missing > delivery.given_up_through.0) {
                return None;
            }
            new.push((step.node, step.epoch, seq));
            through = seq;
        }
        through = through.max(delivery.given_up_through.0);
        if through > 0 {
            self.through.insert((step.node, step.epoch), through);
        }
        self.events.extend(new);
        Some(through)
    }

    fn check(&self, store: &dyn Store) {
        let all = |scope: Scope, limit| {
            let mut query = EventQuery { scope, limit, ..EventQuery::default() };
            let mut all = Vec::new();
            loop {
                let page = store.events(&query).unwrap();
                all.extend(page.events.iter().map(|e| (e.node, e.event.epoch, e.event.seq.0)));
                match page.next {
                    Some(next) => query.before = Some(next),
                    None => break,
                }
            }
            all.reverse();
            all
        };
        let expected: Vec<_> = self.events.iter().map(|(n, e, s)| (node(*n), epoch(*e), *s)).collect();
        assert_eq!(all(Scope::All, 77), expected);
        let mut findings = BTreeMap::new();
        for (n, _, seq) in &self.events {
            if let Some(finding) = body(*seq).finding() {
                findings.insert((node(*n), finding.control.clone()), (finding.state, finding.severity));
            }
        }
        let page = store.findings(&FindingQuery { limit: 1000, ..FindingQuery::default() }).unwrap();
        let now: BTreeMap<_, _> = page
            .findings
            .into_iter()
            .map(|f| ((f.node, f.finding.control.clone()), (f.finding.state, f.finding.severity)))
            .collect();
        assert_eq!(now, findings);
        for n in 0..3 {
            let of_node: Vec<_> = expected.iter().filter(|e| e.0 == node(n)).copied().collect();
            assert_eq!(all(Scope::Nodes(BTreeSet::from([node(n)])), 13), of_node);
            let open = findings.iter().filter(|((id, _), (state, _))| *id == node(n) && *state == FindingState::Open);
            assert_eq!(store.counts(node(n)).unwrap().total() as usize, open.count());
            for e in 1..3 {
                let through = store.cursor(node(n), epoch(e)).unwrap().map(|c| c.through.0);
                assert_eq!(through, self.through.get(&(n, e)).copied());
            }
        }
    }
}

/// Commits groups of steps; a group's deliveries are made before any of them is taken, as by sessions at once.
fn run(store: &dyn Store, model: &mut Model, group: &[Step]) {
    let deliveries: Vec<_> = group.iter().map(|step| model.delivery(step)).collect();
    let outcomes = store.commit(at(1), deliveries.clone()).unwrap();
    for ((step, delivery), outcome) in group.iter().zip(&deliveries).zip(outcomes) {
        let expected = model.take(step, delivery);
        assert_eq!(outcome.as_ref().ok().map(|receipt| receipt.through.0), expected, "{step:?}: {outcome:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn memory_agrees_with_the_model(groups in prop::collection::vec(prop::collection::vec(step(), 1..6), 1..12)) {
        let (store, mut model) = (MemoryStore::in_memory(), Model::default());
        for group in &groups {
            run(&store, &mut model, group);
        }
        model.check(&store);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// The store is closed and opened between groups.
    #[test]
    fn sled_agrees_with_the_model(groups in prop::collection::vec(prop::collection::vec(step(), 1..6), 1..6)) {
        let folder = tempfile::tempdir().unwrap();
        let mut model = Model::default();
        for group in &groups {
            let store = open(&folder.path().join("history"), DiskSettings::default()).unwrap();
            run(&store, &mut model, group);
            model.check(&store);
        }
    }
}
