//! The stages of a request: its arrival, then its answer. A policy may leave the arrival out, also for some requests
//! only (`omitStages`): only where all others have both is a missing one a sign.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{KINDS, SLACK, Sign};
use crate::event::Event;
use crate::window::fingerprint;

/// Requests whose arrival was logged and whose answer was not yet.
const IN_FLIGHT: usize = 2048;
/// Requests of a kind that must have come with both stages, one after the other, before a missing one says anything.
const PAIRED: u32 = 30;

/// What is remembered of them.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Stages {
    /// Requests that arrived and were not answered yet, with when.
    in_flight: HashMap<u64, i64>,
    /// Arrivals up to this time may have been forgotten, or were never seen.
    forgotten: Option<i64>,
    /// How many of a kind came with both stages in a row; by user and namespace, since policies tell those apart.
    pairs: HashMap<u64, u32>,
    /// The same whoever asked and wherever; none where one ever came without its arrival.
    all_pairs: HashMap<u64, Option<u32>>,
}

impl Stages {
    /// Sees an event of any stage.
    pub(super) fn see(&mut self, event: &Event<'_>, time: i64) -> Option<Sign> {
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
        if !paired && event.received_micros()? <= forgotten {
            return None;
        }
        let (kind, all) = kinds(event);
        if paired {
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
        self.in_flight.values_mut().for_each(|time| *time = now.min(*time));
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

/// The kind of request, and the kind whoever asks and wherever.
fn kinds(event: &Event<'_>) -> (u64, u64) {
    let user = event.user.as_ref().and_then(|user| user.username.as_deref()).unwrap_or("");
    let verb = event.verb.as_deref().unwrap_or("");
    let Some(object) = &event.object_ref else {
        let path = event.request_uri.as_deref().unwrap_or("");
        let path = path.split('?').next().unwrap_or("");
        return (fingerprint([user, verb, path]), fingerprint([verb, path]));
    };
    let [group, resource, subresource, namespace] =
        [&object.api_group, &object.resource, &object.subresource, &object.namespace]
            .map(|text| text.as_deref().unwrap_or(""));
    (
        fingerprint([user, verb, group, resource, subresource, namespace]),
        fingerprint([verb, group, resource, subresource]),
    )
}
