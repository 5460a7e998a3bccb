//! The trail watches itself: what only a sequence of events shows, and no single one.
//!
//! The rules `audit-gap`, `audit-id-collision` and `audit-level-downgrade` still say in Sigma which events they are
//! about; this says when such an event is news. That time goes back in a file is `audit-log-tampered`.

mod level;
mod stages;
mod start;

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use self::level::Levels;
use self::stages::Stages;
use crate::clock::{LOOSE as BACK, Moment};
use crate::event::Event;
use crate::fingerprint::{ByFingerprint, fingerprint};

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
/// Events of a file that must have been in order before disorder says anything: not so in logs made by hand.
const STEADY: u32 = 20;
/// How long before the first event known an arrival may have been logged: lines are out of order by so much.
const SLACK: i64 = 5 * MICROS;

/// What a sequence of events showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sign {
    /// Nothing was written for longer than this log is ever silent. Whether the API server started anew shows in what
    /// comes next: [`Trail::settled`].
    Gap,
    /// An audit id came back with another request, is far too long, or is none that a server makes.
    Collision,
    /// Requests of a kind that came with bodies come without.
    Downgrade,
    /// An answer whose request never arrived, or requests that were never answered, where the log has both of all others
    /// of their kind.
    Missing,
}

/// The memory of it; part of the detector's state.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Trail {
    events: u64,
    first: Option<i64>,
    last_lease: Option<i64>,
    longest: i64,
    ids: VecDeque<(u64, u64, i64)>,
    #[serde(skip)]
    by_id: ByFingerprint<(u64, i64)>,
    /// Ids that are UUIDs were seen: the log is one of an API server.
    uuids: bool,
    levels: Levels,
    /// The file of the last event, the latest time in it, and how many events were in order.
    file: String,
    latest: i64,
    steady: u32,
    stages: Stages,
    /// A silence ended then; so much spoke for a start of the API server since.
    silent: Option<(i64, u32)>,
}

impl Trail {
    /// Fills what is not stored.
    pub(crate) fn restored(mut self) -> Self {
        self.by_id = self.ids.iter().map(|(id, request, time)| (*id, (*request, *time))).collect();
        self
    }

    /// Sees the time of an event of any stage; tells whether there was a gap before it.
    pub(crate) fn time(&mut self, event: &Event<'_>, time: i64, moment: Moment) -> Option<Sign> {
        let Moment { now, silence, proved, back, .. } = moment;
        self.events += 1;
        if let Some(since) = back {
            self.go_back(now.min(since));
        }
        let first = *self.first.get_or_insert(now);
        let lease = event.object_ref.as_ref().and_then(|object| object.resource.as_deref()) == Some("leases");
        let heartbeat = self.last_lease.is_some_and(|lease| time - silence - lease < SILENCE);
        let known = self.events > ENOUGH;
        let limit = if heartbeat && known { SILENCE } else { SILENCE.max(self.longest.saturating_mul(3)) };
        let may_judge = known && (heartbeat || time - first > LEARNING);
        let gap = may_judge && silence > limit;
        if let Some((silence, _)) = proved.filter(|(_, ended)| ended - first < LEARNING) {
            self.longest = self.longest.max(silence);
        }
        if lease {
            self.last_lease = Some(time);
        }
        if gap {
            self.silent = Some((time, 0));
        }
        if let Some((since, shown)) = &mut self.silent
            && *shown < start::ENOUGH
        {
            *shown += start::shown(event, *since);
        }
        gap.then_some(Sign::Gap)
    }

    /// Time is earlier than it was: nothing is remembered of later.
    fn go_back(&mut self, now: i64) {
        self.first = self.first.map(|first| first.min(now));
        self.last_lease = self.last_lease.map(|lease| lease.min(now));
        self.silent = self.silent.filter(|(since, _)| *since <= now.saturating_add(BACK));
        self.stages.go_back(now);
        self.levels.go_back(now);
    }

    /// Once after a silence, when it is known whether the API server started anew: true when it did not.
    pub(crate) fn settled(&mut self, now: i64) -> Option<bool> {
        let (since, shown) = self.silent?;
        let started = shown >= start::ENOUGH;
        if !started && now <= since.saturating_add(start::GRACE) {
            return None;
        }
        self.silent = None;
        Some(!started)
    }

    /// Sees an audit id at a stage after RequestReceived.
    pub(crate) fn id(&mut self, event: &Event<'_>, time: i64) -> Option<Sign> {
        let id = event.audit_id.as_deref()?;
        if id.len() > LONG_ID {
            return Some(Sign::Collision);
        }
        // Made by hand or derived from something else: there is nothing to compare.
        let received = event.request_received_timestamp.as_deref()?;
        if is_uuid(id) {
            self.uuids = true;
        } else if self.uuids {
            return Some(Sign::Collision);
        }
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

    /// Sees the level of a completed request for a resource.
    pub(crate) fn level(&mut self, event: &Event<'_>, time: i64) -> Option<Sign> {
        self.levels.see(event, time)
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

    /// Sees the stages of a request: its arrival, then its answer.
    pub(crate) fn stages(&mut self, event: &Event<'_>, time: i64, now: i64) -> Option<Sign> {
        let sign = self.stages.see(event, time);
        // Not at an arrival, which is not judged.
        let unanswered = (event.stage.as_deref() == Some("ResponseComplete")).then(|| self.stages.sweep(now)).flatten();
        sign.or(unanswered)
    }
}

/// Whether a server made this id: 32 hexadecimal digits in five groups.
fn is_uuid(id: &str) -> bool {
    let id = id.as_bytes();
    id.len() == 36
        && id.iter().enumerate().all(|(at, c)| match at {
            8 | 13 | 18 | 23 => *c == b'-',
            _ => c.is_ascii_hexdigit(),
        })
}
