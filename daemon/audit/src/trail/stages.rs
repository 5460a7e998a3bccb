//! The stages of a request: its arrival, then its answer. A policy may leave the arrival out, also for some requests
//! only (`omitStages`): only where all others have both is a missing one a sign.

use serde::{Deserialize, Serialize};

use super::{KINDS, MICROS, SLACK, Sign};
use crate::event::Event;
use crate::fingerprint::{ByFingerprint, fingerprint};

/// Requests whose arrival was logged and whose answer was not yet.
const IN_FLIGHT: usize = 2048;
/// Requests of a kind that must have come with both stages, one after the other, before a missing one says anything.
const PAIRED: u32 = 30;
/// How long a request may take that does not stream: the API server gives up after a minute.
const ANSWERED: i64 = 90 * MICROS;
/// How often those that took longer are looked for.
const SWEEP: i64 = 30 * MICROS;
/// Requests of a kind without an answer that are no chance: a server that is killed leaves a few.
const UNANSWERED: u32 = 8;

/// What is remembered of them.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Stages {
    /// Requests that arrived and were not answered yet, with when.
    in_flight: ByFingerprint<InFlight>,
    /// Arrivals up to this time may have been forgotten, or were never seen.
    forgotten: Option<i64>,
    /// How many of a kind came with both stages in a row; by user and namespace, since policies tell those apart.
    pairs: ByFingerprint<u32>,
    /// The same whoever asked and wherever; none where one ever came without its arrival.
    all_pairs: ByFingerprint<Option<u32>>,
    /// How many of a kind were never answered, whoever asked and wherever.
    unanswered: ByFingerprint<u32>,
    swept: i64,
}

/// A request that arrived.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct InFlight {
    time: i64,
    /// Its kind, whoever asked and wherever; none where it may go on for hours.
    kind: Option<u64>,
}

impl Stages {
    /// Sees an event of any stage.
    pub(super) fn see(&mut self, event: &Event<'_>, time: i64) -> Option<Sign> {
        let stage = event.stage.as_deref()?;
        if stage == "RequestReceived" {
            self.forgotten.get_or_insert(time.saturating_add(SLACK));
            let kind = (!goes_on(event)).then(|| kind(event));
            self.in_flight.insert(request(event), InFlight { time, kind });
            if self.in_flight.len() > IN_FLIGHT {
                self.forget_half();
            }
            return None;
        }
        if stage == "Panic" {
            self.in_flight.remove(&request(event));
        }
        // Nothing to compare with: the usual policy leaves arrivals out altogether.
        let forgotten = self.forgotten?;
        if stage != "ResponseComplete" {
            return None;
        }
        let arrived = self.in_flight.remove(&request(event));
        if arrived.is_none() && event.received_micros()? <= forgotten {
            return None;
        }
        let all = arrived.and_then(|arrived| arrived.kind).unwrap_or_else(|| self::kind(event));
        let kind = own_kind(event, all);
        if arrived.is_some() {
            if self.pairs.len() < KINDS || self.pairs.contains_key(&kind) {
                let pairs = self.pairs.entry(kind).or_default();
                *pairs = pairs.saturating_add(1);
            }
            if self.all_pairs.len() < KINDS || self.all_pairs.contains_key(&all) {
                let pairs = self.all_pairs.entry(all).or_insert(Some(0));
                *pairs = pairs.map(|pairs| pairs.saturating_add(1));
            }
            return None;
        }
        let of_kind = self.pairs.remove(&kind).unwrap_or(0);
        let of_all = if self.all_pairs.len() < KINDS || self.all_pairs.contains_key(&all) {
            self.all_pairs.insert(all, None).flatten().unwrap_or(0)
        } else {
            0
        };
        (of_kind.max(of_all) >= PAIRED).then_some(Sign::Missing)
    }

    /// Time is earlier than it was.
    pub(super) fn go_back(&mut self, now: i64) {
        self.forgotten = self.forgotten.map(|until| until.min(now.saturating_add(SLACK)));
        self.in_flight.values_mut().for_each(|request| request.time = now.min(request.time));
        self.swept = self.swept.min(now);
    }

    /// Looks for requests that were never answered although all others of their kind were.
    pub(super) fn sweep(&mut self, now: i64) -> Option<Sign> {
        if now.saturating_sub(self.swept) < SWEEP {
            return None;
        }
        self.swept = now;
        let Self { in_flight, unanswered, all_pairs, .. } = self;
        in_flight.retain(|_, request| {
            let Some(kind) = request.kind.filter(|_| now.saturating_sub(request.time) > ANSWERED) else { return true };
            if unanswered.len() < KINDS || unanswered.contains_key(&kind) {
                let known = unanswered.entry(kind).or_default();
                *known = known.saturating_add(1);
            }
            false
        });
        let mut missing = false;
        unanswered.retain(|kind, known| {
            let is_news = *known >= UNANSWERED && all_pairs.get(kind).copied().flatten().unwrap_or(0) >= PAIRED;
            if is_news {
                // Once a kind: what is known of it no longer holds.
                all_pairs.insert(*kind, None);
            }
            missing |= is_news;
            !is_news
        });
        missing.then_some(Sign::Missing)
    }

    /// Watches are in flight for hours; with more than the limit the older half is forgotten.
    fn forget_half(&mut self) {
        let mut times: Vec<i64> = self.in_flight.values().map(|request| request.time).collect();
        let middle = times.len() / 2;
        let (_, median, _) = times.select_nth_unstable(middle);
        let median = *median;
        self.in_flight.retain(|_, request| request.time > median);
        self.forgotten = self.forgotten.max(Some(median.saturating_add(SLACK)));
    }
}

/// Whether a request may be answered only after hours. The API server calls a list that it watches a watch.
fn goes_on(event: &Event<'_>) -> bool {
    const STREAMS: [&str; 5] = ["exec", "attach", "portforward", "proxy", "log"];
    let sub = event.object_ref.as_ref().and_then(|object| object.subresource.as_deref());
    event.verb.as_deref() == Some("watch")
        || sub.is_some_and(|sub| STREAMS.contains(&sub))
        || event.object_ref.is_none()
}

/// What both stages of a request have in common. The id alone is the client's own choice (E4).
fn request(event: &Event<'_>) -> u64 {
    fingerprint([event.audit_id.as_deref().unwrap_or(""), event.request_received_timestamp.as_deref().unwrap_or("")])
}

/// The kind of request, whoever asks and wherever.
fn kind(event: &Event<'_>) -> u64 {
    let verb = event.verb.as_deref().unwrap_or("");
    let Some(object) = &event.object_ref else {
        let path = event.request_uri.as_deref().unwrap_or("");
        return fingerprint([verb, path.split('?').next().unwrap_or("")]);
    };
    let [group, resource, subresource] =
        [&object.api_group, &object.resource, &object.subresource].map(|text| text.as_deref().unwrap_or(""));
    fingerprint([verb, group, resource, subresource])
}

/// The same by one user in one namespace.
fn own_kind(event: &Event<'_>, kind: u64) -> u64 {
    let user = event.user.as_ref().and_then(|user| user.username.as_deref()).unwrap_or("");
    let namespace = event.object_ref.as_ref().and_then(|object| object.namespace.as_deref()).unwrap_or("");
    fingerprint([user, namespace]) ^ kind
}
