//! Who is connected, who is away, who is silent.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use picket_model::NodeId;
use picket_service::clock::Clock;
use picket_store::NodeRecord;
use tokio_util::sync::CancellationToken;

use crate::notice::{Notice, Notices};
use crate::registry::Registry;

/// Whether a node is heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Presence {
    /// A stream is open.
    Connected,
    /// No stream, but heard of within the limit.
    Away,
    /// Not heard of for longer than the limit.
    Silent,
    /// Its certificates were revoked.
    Revoked,
    /// Enrolled, never connected.
    NeverSeen,
}

#[derive(Debug)]
struct Watch {
    heard: Instant,
    last_seen: Option<Timestamp>,
    session: Option<(u64, CancellationToken)>,
}

#[derive(Debug, Default)]
struct Table {
    next_session: u64,
    nodes: HashMap<NodeId, Watch>,
}

/// The streams that are open, and when each node was last heard of. In memory: after a start every node gets the
/// whole limit to come back.
#[derive(Debug, Clone)]
pub struct Fleet {
    table: Arc<Mutex<Table>>,
    clock: Arc<dyn Clock>,
    started: Instant,
}

/// A place in the fleet, for as long as a stream is open.
#[derive(Debug)]
pub struct Ticket {
    fleet: Fleet,
    node: NodeId,
    number: u64,
    /// Cancelled when a newer stream of the same identity came.
    pub superseded: CancellationToken,
}

impl Fleet {
    /// Nobody is connected yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let started = clock.monotonic();
        Self { table: Arc::default(), clock, started }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Entries are changed field by field without a step that could panic in between.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream of a node begins. The newer one wins: an older one is told so by its ticket.
    pub fn enter(&self, node: NodeId) -> Ticket {
        let superseded = CancellationToken::new();
        let mut table = self.lock();
        let number = table.next_session;
        table.next_session += 1;
        let now = self.clock.monotonic();
        let watch = table.nodes.entry(node).or_insert(Watch { heard: now, last_seen: None, session: None });
        watch.heard = now;
        watch.last_seen = Some(self.clock.now());
        if let Some((_, older)) = watch.session.replace((number, superseded.clone())) {
            older.cancel();
        }
        Ticket { fleet: self.clone(), node, number, superseded }
    }

    /// When a node was last heard of since the start.
    pub fn last_seen(&self, node: NodeId) -> Option<Timestamp> {
        self.lock().nodes.get(&node).and_then(|w| w.last_seen)
    }

    /// How many streams are open.
    pub fn connected(&self) -> usize {
        self.lock().nodes.values().filter(|w| w.session.is_some()).count()
    }

    /// Whether a node is heard of.
    pub fn presence(&self, node: &NodeRecord, silent_after: Duration) -> Presence {
        if node.revoked.is_some() {
            return Presence::Revoked;
        }
        let table = self.lock();
        let watch = table.nodes.get(&node.id);
        if watch.is_some_and(|w| w.session.is_some()) {
            return Presence::Connected;
        }
        // A node that was taken in after the start has the whole limit too.
        let now = self.clock.now();
        let since_enrolled = Duration::try_from(now.duration_since(node.enrolled_at)).unwrap_or_default();
        let quiet = self.clock.monotonic().saturating_duration_since(watch.map_or(self.started, |w| w.heard));
        let silent = quiet.min(since_enrolled) >= silent_after;
        match (silent, node.last_seen.is_some() || watch.is_some_and(|w| w.last_seen.is_some())) {
            (true, _) => Presence::Silent,
            (false, true) => Presence::Away,
            (false, false) => Presence::NeverSeen,
        }
    }
}

impl Ticket {
    /// The node was heard of.
    pub fn heard(&self) {
        let (now, time) = (self.fleet.clock.monotonic(), self.fleet.clock.now());
        if let Some(watch) = self.fleet.lock().nodes.get_mut(&self.node) {
            watch.heard = now;
            watch.last_seen = Some(time);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut table = self.fleet.lock();
        if let Some(watch) = table.nodes.get_mut(&self.node)
            && watch.session.as_ref().is_some_and(|(number, _)| *number == self.number)
        {
            watch.session = None;
        }
    }
}

/// Looks at all nodes once: silent ones become findings, those that are back no longer are. Says how many nodes
/// there are and how many of them are silent.
pub async fn look(fleet: &Fleet, registry: &Registry, notices: &Notices, silent_after: Duration) -> (usize, usize) {
    let (mut members, mut silent) = (0, 0);
    for node in registry.nodes() {
        let presence = fleet.presence(&node, silent_after);
        if presence != Presence::Revoked {
            members += 1;
        }
        match presence {
            Presence::Silent => {
                silent += 1;
                let since = fleet.last_seen(node.id).or(node.last_seen);
                let observed = match since {
                    Some(since) => format!("not heard of since {since:.0}"),
                    None => format!("never heard of since it was taken in at {:.0}", node.enrolled_at),
                };
                notices.raise(node.id, Notice::Silent, observed).await;
            }
            Presence::Connected => notices.settle(node.id, Notice::Silent, "connected").await,
            Presence::Revoked => {
                for notice in Notice::ALL {
                    notices.settle(node.id, notice, "the node was revoked").await;
                }
            }
            Presence::Away | Presence::NeverSeen => {}
        }
        notices.fade(node.id).await;
    }
    (members, silent)
}

#[cfg(test)]
mod tests {
    use picket_service::clock::ManualClock;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(300);

    fn node(enrolled: &str) -> NodeRecord {
        serde_json::from_value(serde_json::json!({
            "id": "0190b6f0-7c1e-7cc3-98c4-dc0c0c07398f", "hostname": "edge-1", "enrolled_at": enrolled, "active": null
        }))
        .unwrap()
    }

    #[test]
    fn presence_follows_streams_and_time() {
        let clock = Arc::new(ManualClock::new("2026-11-22T00:00:00Z".parse().unwrap()));
        let fleet = Fleet::new(clock.clone());
        let mut record = node("2026-11-22T00:00:00Z");
        assert_eq!(fleet.presence(&record, LIMIT), Presence::NeverSeen);
        let ticket = fleet.enter(record.id);
        clock.advance(LIMIT * 2);
        assert_eq!(fleet.presence(&record, LIMIT), Presence::Connected);
        ticket.heard();
        drop(ticket);
        assert_eq!(fleet.presence(&record, LIMIT), Presence::Away);
        clock.advance(LIMIT);
        assert_eq!(fleet.presence(&record, LIMIT), Presence::Silent);
        record.revoked =
            Some(picket_store::Revocation { at: clock.now(), by: "ada".to_owned(), reason: String::new() });
        assert_eq!(fleet.presence(&record, LIMIT), Presence::Revoked);
    }

    #[test]
    fn after_a_start_every_node_gets_the_whole_limit_to_come_back() {
        let clock = Arc::new(ManualClock::new("2026-11-22T00:00:00Z".parse().unwrap()));
        let fleet = Fleet::new(clock.clone());
        let mut record = node("2020-01-01T00:00:00Z");
        record.last_seen = Some("2026-11-01T00:00:00Z".parse().unwrap());
        assert_eq!(fleet.presence(&record, LIMIT), Presence::Away);
        clock.advance(LIMIT);
        assert_eq!(fleet.presence(&record, LIMIT), Presence::Silent);
    }

    #[test]
    fn a_jump_of_the_wall_clock_makes_nobody_silent() {
        let clock = Arc::new(ManualClock::new("2026-11-22T00:00:00Z".parse().unwrap()));
        let fleet = Fleet::new(clock.clone());
        let record = node("2026-11-22T00:00:00Z");
        drop(fleet.enter(record.id));
        clock.set("2027-01-01T00:00:00Z".parse().unwrap());
        assert_eq!(fleet.presence(&record, LIMIT), Presence::Away);
    }

    #[test]
    fn the_newer_stream_wins_and_the_older_ones_end_does_not_hide_it() {
        let clock = Arc::new(ManualClock::new("2026-11-22T00:00:00Z".parse().unwrap()));
        let fleet = Fleet::new(clock);
        let record = node("2026-11-22T00:00:00Z");
        let older = fleet.enter(record.id);
        let newer = fleet.enter(record.id);
        assert!(older.superseded.is_cancelled() && !newer.superseded.is_cancelled());
        drop(older);
        assert_eq!(fleet.presence(&record, LIMIT), Presence::Connected);
    }
}
