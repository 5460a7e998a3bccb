//! Answering queries. Each looks at a bounded number of records, so that none takes long whatever it asks.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use jiff::Timestamp;
use picket_model::{EventBody, EventKind, FindingState, Severity};

use super::state::Current;
use super::{KvStore, damaged_event, index};
use crate::codec::DecodeError;
use crate::event::{self, Mark, topic};
use crate::key::{self, Kind};
use crate::query::{CurrentFinding, EventPage, EventQuery, FindingPage, FindingQuery, FindingsAfter, Scope};
use crate::{Engine, Order, Position, StoreError, StoredEvent};

/// Most records that one page looks at.
const LOOK_AT: usize = 20_000;
/// Up to so many nodes are looked up in the index of each; more are picked out of the whole history.
const MERGED_NODES: usize = 32;

/// A query in the terms of marks.
struct Sieve<'q> {
    query: &'q EventQuery,
    topics: BTreeSet<u32>,
    since_ms: i64,
}

impl<'q> Sieve<'q> {
    fn new(query: &'q EventQuery) -> Self {
        let topics = query.controls.iter().map(|name| topic(name)).collect();
        Self { query, topics, since_ms: query.since.map_or(i64::MIN, Timestamp::as_millisecond) }
    }

    /// Is this event, and every one before it, too old?
    const fn too_old(&self, mark: Mark) -> bool {
        mark.received_ms < self.since_ms
    }

    /// May this event be meant?
    fn lets(&self, mark: Mark) -> bool {
        let q = self.query;
        (q.kinds.is_empty() || q.kinds.contains(&mark.kind))
            && q.min_severity.is_none_or(|min| mark.severity.is_some_and(|s| s >= min))
            && (q.states.is_empty() || mark.state.is_some_and(|s| q.states.contains(&s)))
            && (self.topics.is_empty() || self.topics.contains(&mark.topic))
    }

    /// Is this event meant? Marks know the control only by a hash.
    fn lets_event(&self, stored: &StoredEvent) -> bool {
        self.query.controls.is_empty()
            || match &stored.event.body {
                EventBody::Detection { detection } => self.query.controls.contains(&detection.rule),
                body => body.finding().is_some_and(|f| self.query.controls.contains(&f.control)),
            }
    }

    /// Are detections all that is asked for?
    fn detections_only(&self) -> bool {
        self.query.kinds == [EventKind::Detection]
    }
}

/// Positions that passed, newest first, and where looking stopped early.
#[derive(Debug, Default)]
struct Found {
    positions: Vec<Position>,
    stopped: Option<Position>,
}

impl<E: Engine> KvStore<E> {
    pub(super) fn list_events(&self, query: &EventQuery) -> Result<EventPage, StoreError> {
        let sieve = Sieve::new(query);
        let before = query.before.unwrap_or(Position(u64::MAX));
        let limit = query.limit.max(1);
        match &query.scope {
            Scope::Nodes(nodes) if nodes.len() <= MERGED_NODES => {
                let look_at = LOOK_AT / nodes.len().max(1);
                let found = nodes
                    .iter()
                    .map(|node| {
                        let (from, to) = key::of_node(Kind::NodeIndex, *node);
                        let start = key::node_index(*node, before);
                        self.walk_index(&sieve, [&from, &start, &to], before, limit, look_at)
                    })
                    .collect::<Result<Vec<_>, _>>()?;
                self.page(&sieve, merge(found, limit))
            }
            _ if sieve.detections_only() => {
                let (from, to) = key::all(Kind::DetectionIndex);
                let start = key::detection_index(before);
                let found = self.walk_index(&sieve, [&from, &start, &to], before, limit, LOOK_AT)?;
                self.page(&sieve, merge(vec![found], limit))
            }
            _ => self.walk_history(&sieve, before, limit),
        }
    }

    /// Goes through an index: `[from, start, to]`, where `start` is the key of the place to begin at.
    fn walk_index(
        &self,
        sieve: &Sieve<'_>,
        [from, start, to]: [&Vec<u8>; 3],
        before: Position,
        limit: usize,
        look_at: usize,
    ) -> Result<Found, StoreError> {
        let mark = self.mark();
        let (mut found, mut looked, mut damage) = (Found::default(), 0usize, None);
        let mut visit = |key: &[u8], value: &[u8]| {
            let entries = match index::decode(value) {
                Ok(entries) => entries,
                Err(error) => {
                    damage = Some(StoreError::damaged("index record", key, error.to_string()));
                    return ControlFlow::Break(());
                }
            };
            for entry in entries.into_iter().rev().filter(|entry| entry.position < before) {
                if entry.position <= mark || sieve.too_old(entry.mark) {
                    return ControlFlow::Break(());
                }
                if looked >= look_at || found.positions.len() >= limit {
                    // Everything from the last one looked at on is known.
                    found.stopped = Some(Position(entry.position.0 + 1));
                    return ControlFlow::Break(());
                }
                looked += 1;
                if sieve.query.scope.contains(entry.node) && sieve.lets(entry.mark) {
                    found.positions.push(entry.position);
                }
            }
            ControlFlow::Continue(())
        };
        // A record stands under its last event: the first one from the start on may hold older ones too.
        let mut first = None;
        self.engine.scan(start, to, Order::Rising, &mut |key, value| {
            first = Some((key.to_vec(), value.to_vec()));
            ControlFlow::Break(())
        })?;
        let more = first.is_none_or(|(key, value)| visit(&key, &value).is_continue());
        if more {
            self.engine.scan(from, start, Order::Falling, &mut visit)?;
        }
        match damage {
            Some(error) => Err(error),
            None => Ok(found),
        }
    }

    fn page(&self, sieve: &Sieve<'_>, found: Found) -> Result<EventPage, StoreError> {
        let mut page = EventPage { events: Vec::with_capacity(found.positions.len()), next: found.stopped };
        for position in found.positions {
            if let Some(stored) = self.event_at(position)?
                && self.is_meant(sieve, &stored)?
            {
                page.events.push(stored);
            }
        }
        Ok(page)
    }

    fn is_meant(&self, sieve: &Sieve<'_>, stored: &StoredEvent) -> Result<bool, StoreError> {
        Ok(sieve.lets_event(stored)
            && match &stored.event.body {
                EventBody::Detection { detection } if sieve.query.latest => self.is_latest(stored, detection)?,
                _ => true,
            })
    }

    /// Goes through the history itself.
    fn walk_history(&self, sieve: &Sieve<'_>, before: Position, limit: usize) -> Result<EventPage, StoreError> {
        let from = key::event(Position(self.mark().0.saturating_add(1)));
        let to = key::event(before);
        let (mut found, mut next, mut looked, mut damage) = (Vec::new(), None, 0usize, None);
        self.engine.scan(&from, &to, Order::Falling, &mut |key, value| {
            let entry = event::head(value)
                .and_then(|(head, _)| Ok((key::position_of(key).ok_or(DecodeError::Short)?, head)))
                .map_err(|e| damaged_event(key, e));
            let (position, head) = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    damage = Some(error);
                    return ControlFlow::Break(());
                }
            };
            if sieve.too_old(head.mark) {
                return ControlFlow::Break(());
            }
            if looked >= LOOK_AT || found.len() >= limit {
                next = Some(Position(position.0 + 1));
                return ControlFlow::Break(());
            }
            looked += 1;
            if sieve.query.scope.contains(head.node) && sieve.lets(head.mark) {
                found.push((position, value.to_vec()));
            }
            ControlFlow::Continue(())
        })?;
        if let Some(error) = damage {
            return Err(error);
        }
        let mut page = EventPage { events: Vec::with_capacity(found.len()), next };
        for (position, first) in found {
            if let Some(stored) = self.finish_event(position, &first)?
                && self.is_meant(sieve, &stored)?
            {
                page.events.push(stored);
            }
        }
        Ok(page)
    }

    pub(super) fn list_findings(&self, query: &FindingQuery) -> Result<FindingPage, StoreError> {
        let mut search = Search::new(query);
        let after = query.after.as_ref().map(|place| key::after(&place.0));
        match &query.scope {
            Scope::All => {
                let (from, to) = key::all(Kind::Current);
                self.search(&mut search, after.unwrap_or_default().max(from), &to)?;
            }
            Scope::Nodes(nodes) => {
                let first = query.after.as_ref().and_then(|place| key::node_of(&place.0));
                for node in nodes.iter().filter(|node| first.is_none_or(|first| **node >= first)) {
                    let (from, to) = key::of_node(Kind::Current, *node);
                    self.search(&mut search, after.clone().unwrap_or_default().max(from), &to)?;
                    if search.next.is_some() {
                        break;
                    }
                }
            }
        }
        let mut page = FindingPage { findings: Vec::with_capacity(search.found.len()), next: search.next };
        for (key, current) in search.found {
            if let Some(finding) = self.current_finding(&key, current)?
                && (query.controls.is_empty() || query.controls.contains(&finding.finding.control))
            {
                page.findings.push(finding);
            }
        }
        Ok(page)
    }

    fn search(&self, search: &mut Search<'_>, from: Vec<u8>, to: &[u8]) -> Result<(), StoreError> {
        let mut damage = None;
        self.engine.scan(&from, to, Order::Rising, &mut |key, value| match Current::decode(value) {
            Ok(current) => search.look_at(key, current),
            Err(error) => {
                damage = Some(StoreError::damaged("current finding", key, error.to_string()));
                ControlFlow::Break(())
            }
        })?;
        damage.map_or(Ok(()), Err)
    }

    /// The finding that a record points to; none when it was dropped meanwhile.
    fn current_finding(&self, key: &[u8], mut current: Current) -> Result<Option<CurrentFinding>, StoreError> {
        // The event may be replaced and dropped between reading the two; then the record names a newer one. Twice in a
        // row means that a writer is faster than this reader, which the bound ends.
        for _ in 0..4 {
            if let Some(stored) = self.event_at(current.position)? {
                let found = stored.event.body.finding().map(|finding| CurrentFinding {
                    node: stored.node,
                    epoch: stored.event.epoch,
                    received: stored.received,
                    finding: finding.clone(),
                    place: FindingsAfter(key.to_vec()),
                });
                return Ok(found);
            }
            match self.read_current(key)? {
                Some(newer) if newer != current => current = newer,
                Some(_) => return Err(StoreError::damaged("current finding", key, "its event is missing")),
                None => return Ok(None),
            }
        }
        Ok(None)
    }
}

/// Joins what was found in several places, newest first.
fn merge(found: Vec<Found>, limit: usize) -> Found {
    // Below the newest place where looking stopped, something may be missing.
    let horizon = found.iter().filter_map(|f| f.stopped).max();
    let mut positions: Vec<Position> = found.into_iter().flat_map(|f| f.positions).collect();
    positions.sort_unstable_by(|a, b| b.cmp(a));
    positions.retain(|position| horizon.is_none_or(|horizon| *position >= horizon));
    let cut = positions.len() > limit;
    positions.truncate(limit);
    let stopped = if cut { positions.last().copied() } else { horizon };
    Found { positions, stopped }
}

/// A walk through current findings.
struct Search<'q> {
    query: &'q FindingQuery,
    since_ms: i64,
    looked: usize,
    found: Vec<(Vec<u8>, Current)>,
    last: Vec<u8>,
    next: Option<FindingsAfter>,
}

impl<'q> Search<'q> {
    fn new(query: &'q FindingQuery) -> Self {
        let since_ms = query.since.map_or(i64::MIN, Timestamp::as_millisecond);
        Self { query, since_ms, looked: 0, found: Vec::new(), last: Vec::new(), next: None }
    }

    fn look_at(&mut self, key: &[u8], current: Current) -> ControlFlow<()> {
        if self.looked >= LOOK_AT || self.found.len() >= self.query.limit.max(1) {
            self.next = Some(FindingsAfter(std::mem::take(&mut self.last)));
            return ControlFlow::Break(());
        }
        self.looked += 1;
        self.last.clear();
        self.last.extend_from_slice(key);
        if lets(self.query, self.since_ms, current) && may_be_of(self.query, key) {
            self.found.push((key.to_vec(), current));
        }
        ControlFlow::Continue(())
    }
}

fn lets(query: &FindingQuery, since_ms: i64, current: Current) -> bool {
    let (state, severity): (FindingState, Severity) = (current.state, current.severity);
    query.min_severity.is_none_or(|min| severity >= min)
        && (query.states.is_empty() || query.states.contains(&state))
        && current.received_ms >= since_ms
}

/// Does the key begin like one of the controls asked for?
fn may_be_of(query: &FindingQuery, key: &[u8]) -> bool {
    let name = key.get(17..key.len().saturating_sub(17)).unwrap_or_default();
    query.controls.is_empty() || query.controls.iter().any(|control| control.as_bytes().starts_with(name))
}
