//! The trail watches itself: what only a sequence of events shows, and no single one.
//!
//! The rules `audit-gap`, `audit-id-collision` and `audit-level-downgrade` still say in Sigma which events they are
//! about; this says when such an event is news.

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
}
