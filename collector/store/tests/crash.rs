//! The process is killed while it writes. What it had acknowledged is there, whole and once.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use picket_model::{ChainHash, Event, EventBody, EventKind, FindingState, NodeId, Seq, Severity};
use picket_store::{Counts, Delivery, DiskSettings, EventQuery, FindingQuery, Scope, SledStore, Store, open};
use support::*;

const FOLDER: &str = "PICKET_TEST_STORE";
const ROUNDS: u64 = 24;
const NODES: u8 = 4;

fn open_store(folder: &Path) -> SledStore {
    let settings = DiskSettings { cache_bytes: 8 * 1024 * 1024, ..DiskSettings::default() };
    open(&folder.join("history"), settings).unwrap()
}

/// What event number `seq` says: always the same, so that both processes know it.
fn body(seq: u64) -> EventBody {
    let control = format!("control-{}", seq % 7);
    match seq % 16 {
        3 => detection("secret-list", Severity::High),
        5 => {
            let mut long = finding(&control, "subject", FindingState::Blind, Severity::Low);
            long.observed = "x".repeat(20_000);
            EventBody::FindingChanged { finding: long }
        }
        n if n % 3 == 0 => resolved(&control, Severity::High),
        _ => opened(&control, Severity::ALL[usize::try_from(seq % 5).unwrap()]),
    }
}

/// The writing process. Prints `node through` after each commit, until it is killed.
#[test]
#[ignore = "started by the test below"]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let store = open_store(Path::new(&folder));
    let mut places: Vec<(Seq, ChainHash)> = (0..NODES)
        .map(|n| {
            let cursor = store.cursor(node(n), epoch(1)).unwrap();
            cursor.map_or((Seq::ZERO, ChainHash::START), |c| (c.through, c.hash.unwrap_or(ChainHash::START)))
        })
        .collect();
    let mut out = std::io::stdout().lock();
    for round in 0u64.. {
        let deliveries = (0..NODES)
            .map(|n| {
                let (seq, hash) = &mut places[usize::from(n)];
                let count = 1 + (round * 31 + u64::from(n) * 17) % 24;
                let events = (0..count)
                    .map(|_| {
                        *seq = seq.next();
                        let event = Event::new(epoch(1), *seq, at(1), body(seq.0), *hash);
                        *hash = event.hash;
                        event
                    })
                    .collect();
                Delivery { node: node(n), epoch: epoch(1), events, given_up_through: Seq::ZERO }
            })
            .collect();
        for (n, outcome) in store.commit(at(1), deliveries).unwrap().into_iter().enumerate() {
            writeln!(out, "ack {n} {}", outcome.unwrap().through).unwrap();
        }
        out.flush().unwrap();
    }
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = [0u64; NODES as usize];
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // A different point of the writer's work each time: after a number of lines and some microseconds.
        let mut left = round * 7 % 40 + 1;
        let mut note = |line: &str| {
            let Some((_, ack)) = line.split_once("ack ") else { return false };
            let Some((n, through)) = ack.split_once(' ') else { return false };
            let (Ok(n), Ok(through)) = (n.parse::<usize>(), through.parse::<u64>()) else { return false };
            acknowledged[n] = acknowledged[n].max(through);
            true
        };
        while left > 0 {
            let line = lines.next().expect("the child ended by itself").unwrap();
            left -= u64::from(note(&line));
        }
        std::thread::sleep(std::time::Duration::from_micros(round * 7919 % 9000));
        child.kill().unwrap();
        // Lines that were written before the kill are acknowledgements like any other; the last may be cut off.
        let rest: Vec<String> = lines.map_while(Result::ok).collect();
        for line in rest.iter().rev().skip(1).rev() {
            note(line);
        }
        child.wait().unwrap();
        check(&open_store(folder.path()), &acknowledged, round);
    }
    assert!(acknowledged.iter().all(|through| *through > 0));
}

fn all_events(store: &SledStore, mut query: EventQuery) -> Vec<picket_store::StoredEvent> {
    let mut all = Vec::new();
    loop {
        let page = store.events(&query).unwrap();
        all.extend(page.events);
        match page.next {
            Some(next) => query.before = Some(next),
            None => return all,
        }
    }
}

fn check(store: &SledStore, acknowledged: &[u64], round: u64) {
    let mut everything: BTreeMap<NodeId, Vec<u64>> = BTreeMap::new();
    for stored in all_events(store, EventQuery { limit: 1000, ..EventQuery::default() }).iter().rev() {
        everything.entry(stored.node).or_default().push(stored.event.seq.0);
    }
    for (n, acknowledged) in (0..NODES).zip(acknowledged) {
        let cursor = store.cursor(node(n), epoch(1)).unwrap().map_or(0, |cursor| cursor.through.0);
        assert!(cursor >= *acknowledged, "round {round}, node {n}: at {cursor}, but {acknowledged} was acknowledged");
        let expected: Vec<u64> = (1..=cursor).collect();
        assert_eq!(everything.get(&node(n)).unwrap_or(&vec![]), &expected, "round {round}: the history of node {n}");

        // The index of the node, and the content.
        let scope = Scope::Nodes(BTreeSet::from([node(n)]));
        let mut of_node = all_events(store, EventQuery { limit: 700, scope: scope.clone(), ..EventQuery::default() });
        of_node.reverse();
        let mut hash = ChainHash::START;
        let mut findings: BTreeMap<String, (FindingState, Severity)> = BTreeMap::new();
        for (stored, seq) in of_node.iter().zip(1..) {
            assert_eq!((stored.event.seq.0, &stored.event.body), (seq, &body(seq)), "round {round}, node {n}");
            assert!(stored.event.follows(hash), "round {round}, node {n}: the chain breaks at {seq}");
            hash = stored.event.hash;
            if let Some(finding) = stored.event.body.finding() {
                findings.insert(finding.control.clone(), (finding.state, finding.severity));
            }
        }
        assert_eq!(of_node.len() as u64, cursor, "round {round}: the index of node {n}");
        let kinds = vec![EventKind::Detection];
        let detections =
            all_events(store, EventQuery { limit: 50, scope: scope.clone(), kinds, ..EventQuery::default() });
        assert_eq!(detections.len(), of_node.iter().filter(|e| e.event.body.kind() == EventKind::Detection).count());

        // What follows from the events.
        let now = store.findings(&FindingQuery { scope, limit: 100, ..FindingQuery::default() }).unwrap().findings;
        let now: BTreeMap<_, _> =
            now.into_iter().map(|f| (f.finding.control, (f.finding.state, f.finding.severity))).collect();
        assert_eq!(now, findings, "round {round}: what node {n}'s findings are now");
        let counts: Counts = store.counts(node(n)).unwrap();
        for severity in Severity::ALL {
            for state in [FindingState::Open, FindingState::Blind] {
                let expected = findings.values().filter(|found| **found == (state, severity)).count();
                assert_eq!(counts.in_state(state, severity) as usize, expected, "round {round}: counts of node {n}");
            }
        }
    }
}
