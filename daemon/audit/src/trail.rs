//! The trail watches itself: what only a sequence of events shows, and no single one.
//!
//! The rules `audit-gap`, `audit-id-collision` and `audit-level-downgrade` still say in Sigma which events they are
//! about; this says when such an event is news. That time goes back in a file is `audit-log-tampered`.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::event::Event;
use crate::window::fingerprint;

const MICROS: i64 = 1_000_000;
/// Silence that is a gap while leases are renewed every few seconds.
const SILENCE: i64 = 60 * MICROS;
/// How long the usual silence of a log without leases is learnt.
const LEARNING: i64 = 3600 * MICROS;
/// Events that must have been seen before anything is known of the usual silence.
const ENOUGH: u64 = 1000;
/// Audit ids that are remembered, and for how long.
const IDS: usize = 1024;
const ID_LIFE: i64 = 600 * MICROS;
/// Longest audit id that is no sign of anything: a UUID has 36 characters.
const LONG_ID: usize = 64;
/// Kinds of request whose level is remembered.
const KINDS: usize = 1024;
/// How far back in time an event may lie behind the latest of its file: batches are out of order by a few seconds.
const BACK: i64 = 60 * MICROS;
/// Events of a file that must have been in order before disorder says anything: not so in logs made by hand.
const STEADY: u32 = 20;
/// Requests whose arrival was logged and whose answer was not yet.
const IN_FLIGHT: usize = 2048;
/// Requests of a kind that must have come with both stages, one after the other, before a missing one says anything.
const PAIRED: u32 = 30;
/// How long before the first event known an arrival may have been logged: lines are out of order by so much.
const SLACK: i64 = 5 * MICROS;

/// What a sequence of events showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sign {
    /// Nothing was written for longer than this log is ever silent. `restart` when the API server's own first
    /// requests end the silence.
    Gap {
        /// The API server started anew.
        restart: bool,
    },
    /// An audit id came back with another request, or is far too long.
    Collision,
    /// Requests of a kind that came with bodies come without.
    Downgrade,
    /// An answer whose request never arrived, where the log has both of all others of its kind.
    Missing,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Level {
    since: i64,
    last: i64,
    count: u64,
}

/// The memory of it; part of the detector's state.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Trail {
    events: u64,
    first: Option<i64>,
    last: Option<i64>,
    last_lease: Option<i64>,
    longest: i64,
    ids: VecDeque<(u64, u64, i64)>,
    #[serde(skip)]
    by_id: HashMap<u64, (u64, i64)>,
    levels: HashMap<u64, Level>,
    /// The file of the last event, the latest time in it, and how many events were in order.
    file: String,
    latest: i64,
    steady: u32,
    /// Requests that arrived and were not answered yet, with when.
    in_flight: HashMap<u64, i64>,
    /// Arrivals up to this time may have been forgotten, or were never seen.
    forgotten: Option<i64>,
    /// How many of a kind came with both stages in a row.
    pairs: HashMap<u64, u32>,
}

impl Trail {
    /// Fills what is not stored.
    pub(crate) fn restored(mut self) -> Self {
        self.by_id = self.ids.iter().map(|(id, request, time)| (*id, (*request, *time))).collect();
        self
    }

    /// Sees the time of an event of any stage; tells whether there was a gap before it.
    pub(crate) fn time(&mut self, event: &Event<'_>, time: i64) -> Option<Sign> {
        self.events += 1;
        let first = *self.first.get_or_insert(time);
        let silence = self.last.map_or(0, |last| time - last);
        let lease = event.object_ref.as_ref().and_then(|object| object.resource.as_deref()) == Some("leases");
        let heartbeat = self.last_lease.zip(self.last).is_some_and(|(lease, last)| last - lease < SILENCE);
        let known = self.events > ENOUGH;
        let limit = if heartbeat && known { SILENCE } else { SILENCE.max(self.longest.saturating_mul(3)) };
        let may_judge = known && (heartbeat || time - first > LEARNING);
        let gap = may_judge && silence > limit;
        if time - first < LEARNING {
            self.longest = self.longest.max(silence);
        }
        if lease {
            self.last_lease = Some(time);
        }
        self.last = Some(self.last.map_or(time, |last| last.max(time)));
        gap.then(|| {
            let user = event.user.as_ref().and_then(|user| user.username.as_deref());
            Sign::Gap { restart: user == Some("system:apiserver") }
        })
    }

    /// Sees an audit id at a stage after RequestReceived.
    pub(crate) fn id(&mut self, event: &Event<'_>, time: i64) -> Option<Sign> {
        let id = event.audit_id.as_deref()?;
        if id.len() > LONG_ID {
            return Some(Sign::Collision);
        }
        // Made by hand or derived from something else: there is nothing to compare.
        let received = event.request_received_timestamp.as_deref()?;
        let user = event.user.as_ref().and_then(|user| user.username.as_deref()).unwrap_or("");
        let key = fingerprint([id, event.stage.as_deref().unwrap_or("")]);
        let request = fingerprint([user, event.request_uri.as_deref().unwrap_or(""), received]);
        if let Some((known, at)) = self.by_id.get(&key).copied()
            && (time - at).abs() < ID_LIFE
        {
            return (known != request).then_some(Sign::Collision);
        }
        self.by_id.insert(key, (request, time));
        self.ids.push_back((key, request, time));
        if self.ids.len() > IDS
            && let Some((oldest, request, _)) = self.ids.pop_front()
            && self.by_id.get(&oldest).is_some_and(|(known, _)| *known == request)
        {
            self.by_id.remove(&oldest);
        }
        None
    }

    /// Sees the level of a completed request for a resource. Per user, since policies tell users apart.
    pub(crate) fn level(&mut self, event: &Event<'_>, time: i64) -> Option<Sign> {
        let object = event.object_ref.as_ref()?;
        let level = event.level.as_deref()?;
        let high = matches!(level, "Request" | "RequestResponse");
        if !high && self.levels.is_empty() {
            return None;
        }
        let kind = fingerprint([
            event.user.as_ref().and_then(|user| user.username.as_deref()).unwrap_or(""),
            object.api_group.as_deref().unwrap_or(""),
            object.resource.as_deref()?,
            object.subresource.as_deref().unwrap_or(""),
            object.namespace.as_deref().unwrap_or(""),
            event.verb.as_deref().unwrap_or(""),
        ]);
        if high {
            if self.levels.len() < KINDS || self.levels.contains_key(&kind) {
                let known = self.levels.entry(kind).or_insert(Level { since: time, last: time, count: 0 });
                known.last = known.last.max(time);
                known.count += 1;
            }
            return None;
        }
        let known = self.levels.remove(&kind)?;
        (known.last - known.since > LEARNING && known.count >= 10).then_some(Sign::Downgrade)
    }

    /// Sees the file and time of an event of any stage; tells whether time went back in that file.
    pub(crate) fn went_back(&mut self, file: &str, time: i64) -> bool {
        if self.file != file {
            self.file.clear();
            self.file.push_str(file);
            self.steady = 0;
        } else if time >= self.latest.saturating_sub(BACK) {
            self.steady = self.steady.saturating_add(1);
            self.latest = self.latest.max(time);
            return false;
        }
        // Once: what follows goes on from here.
        self.latest = time;
        std::mem::take(&mut self.steady) >= STEADY
    }

    /// Sees the stages of a request: its arrival, then its answer. A policy may leave the arrival out, also for some
    /// requests only (`omitStages`): only of a kind that always had both is a missing one a sign.
    pub(crate) fn stages(&mut self, event: &Event<'_>, time: i64) -> Option<Sign> {
        let stage = event.stage.as_deref()?;
        if stage == "RequestReceived" {
            self.forgotten.get_or_insert(time.saturating_add(SLACK));
            self.in_flight.insert(request(event), time);
            if self.in_flight.len() > IN_FLIGHT {
                self.forget_half();
            }
            return None;
        }
        // Nothing to compare with: the usual policy leaves arrivals out altogether.
        let forgotten = self.forgotten?;
        if stage != "ResponseComplete" {
            return None;
        }
        let paired = self.in_flight.remove(&request(event)).is_some();
        let object = event.object_ref.as_ref();
        let path = event.request_uri.as_deref().unwrap_or("");
        let user = event.user.as_ref().and_then(|user| user.username.as_deref()).unwrap_or("");
        let verb = event.verb.as_deref().unwrap_or("");
        let kind = match object {
            Some(object) => fingerprint([
                user,
                verb,
                object.api_group.as_deref().unwrap_or(""),
                object.resource.as_deref().unwrap_or(""),
                object.subresource.as_deref().unwrap_or(""),
                object.namespace.as_deref().unwrap_or(""),
            ]),
            None => fingerprint([user, verb, path.split('?').next().unwrap_or("")]),
        };
        if paired {
            if self.pairs.len() < KINDS || self.pairs.contains_key(&kind) {
                let pairs = self.pairs.entry(kind).or_default();
                *pairs = pairs.saturating_add(1);
            }
            return None;
        }
        if event.received_micros()? <= forgotten {
            return None;
        }
        (self.pairs.remove(&kind)? >= PAIRED).then_some(Sign::Missing)
    }

    /// Watches are in flight for hours; with more than the limit the older half is forgotten.
    fn forget_half(&mut self) {
        let mut times: Vec<i64> = self.in_flight.values().copied().collect();
        let middle = times.len() / 2;
        let (_, median, _) = times.select_nth_unstable(middle);
        let median = *median;
        self.in_flight.retain(|_, time| *time > median);
        self.forgotten = self.forgotten.max(Some(median.saturating_add(SLACK)));
    }
}

/// What both stages of a request have in common. The id alone is the client's own choice (E4).
fn request(event: &Event<'_>) -> u64 {
    fingerprint([event.audit_id.as_deref().unwrap_or(""), event.request_received_timestamp.as_deref().unwrap_or("")])
}
