//! What is known of objects from earlier events: with it a change is judged by what it changes.
//!
//! Fingerprints only, bounded: what was not used for longest is forgotten first. Part of the detector's state.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::body;
use crate::fields::{Flags, View};
use crate::fingerprint::{ByFingerprint, fingerprint};
use crate::patch;

const MICROS: i64 = 1_000_000;
/// Most facts that are remembered.
const LIMIT: usize = 1024;
/// How long a kubelet may still ask for what a deleted pod mounted.
const GONE: i64 = 60 * MICROS;
/// How long a refused pod is remembered, to see the same actor try another namespace.
const RETRY: i64 = 600 * MICROS;

/// What an event is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Before {
    /// The change lowers the Pod Security level that the namespace had; none when it is not known.
    pub(crate) pss_weakened: Option<bool>,
    /// The workload's containers are others than before; none when those are not known.
    pub(crate) template_changed: Option<bool>,
    /// Pod Security refused a pod of the same actor in another namespace a moment ago.
    pub(crate) denied_elsewhere: bool,
    /// Pods that the node acting here was seen to run.
    pub(crate) node_pods: i64,
    /// A pod of this namespace was deleted a moment ago: its kubelet may still ask for what it mounted.
    pub(crate) pod_gone: bool,
}

#[derive(Debug, Clone, Copy)]
struct Fact {
    value: u64,
    time: i64,
    used: u64,
}

/// Facts by key.
#[derive(Debug, Default)]
pub(crate) struct Known {
    facts: ByFingerprint<Fact>,
    by_use: BTreeMap<u64, u64>,
    uses: u64,
    /// How many were forgotten to make room.
    pub(crate) evicted: u64,
}

impl Known {
    fn get(&self, key: u64) -> Option<Fact> {
        self.facts.get(&key).copied()
    }

    fn set(&mut self, key: u64, value: u64, time: i64) {
        self.uses += 1;
        if let Some(old) = self.facts.insert(key, Fact { value, time, used: self.uses }) {
            self.by_use.remove(&old.used);
        }
        self.by_use.insert(self.uses, key);
        if self.facts.len() > LIMIT
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.facts.remove(&oldest);
            self.evicted += 1;
        }
    }

    fn forget(&mut self, key: u64) -> bool {
        let known = self.facts.remove(&key);
        known.is_some_and(|fact| self.by_use.remove(&fact.used).is_some())
    }

    /// Key, value and time of all facts, the least used first.
    pub(crate) fn entries(&self) -> Vec<(u64, u64, i64)> {
        let of = |key: &u64| self.facts.get(key).map(|fact| (*key, fact.value, fact.time));
        self.by_use.values().filter_map(of).collect()
    }

    /// Takes over what [`Known::entries`] gave.
    pub(crate) fn restored(entries: Vec<(u64, u64, i64)>) -> Self {
        let mut known = Self::default();
        for (key, value, time) in entries {
            known.set(key, value, time);
        }
        known
    }

    /// What this event is compared with.
    pub(crate) fn before(&self, view: &View<'_>, time: i64) -> Before {
        let mut before = Before::default();
        if self.facts.is_empty() {
            return before;
        }
        if let Some((key, after)) = pss(view) {
            before.pss_weakened = self.get(key).map(|known| after < known.value);
        }
        if let Some((key, template)) = template(view) {
            before.template_changed = self.get(key).map(|known| known.value != template);
        }
        if let Some((key, namespace)) = denied(view) {
            before.denied_elsewhere =
                self.get(key).is_some_and(|known| known.value != namespace && is_near(known.time, time, RETRY));
        }
        if view.flag(Flags::IS_NODE) && view.res() == Some("secrets") {
            let pods = self.get(fingerprint(["pods", view.actor().unwrap_or("")]));
            before.node_pods = pods.map_or(0, |known| i64::try_from(known.value).unwrap_or(i64::MAX));
            let gone = self.get(fingerprint(["gone", view.ns().unwrap_or("")]));
            before.pod_gone = gone.is_some_and(|known| is_near(known.time, time, GONE));
        }
        before
    }

    /// Learns what this event shows.
    pub(crate) fn learn(&mut self, view: &View<'_>, time: i64) {
        for (key, value) in [pss(view), template(view), denied(view)].into_iter().flatten() {
            self.set(key, value, time);
        }
        if view.res() != Some("pods") || !view.flag(Flags::OK) || !view.flag(Flags::DONE) {
            return;
        }
        if matches!(view.verb(), Some("delete" | "deletecollection")) && view.sub().is_none() {
            self.set(fingerprint(["gone", view.ns().unwrap_or("")]), 0, time);
        }
        if view.flag(Flags::IS_NODE) {
            self.learn_pod(view, time);
        }
    }

    /// A kubelet patches the status of each pod it runs, and deletes it at the end.
    fn learn_pod(&mut self, view: &View<'_>, time: i64) {
        let node = view.actor().unwrap_or("");
        let name = view.object_name().unwrap_or("");
        let pod = fingerprint(["pod", node, view.ns().unwrap_or(""), name]);
        let all = fingerprint(["pods", node]);
        let count = self.get(all).map_or(0, |known| known.value);
        match (view.verb(), view.sub()) {
            (Some("patch" | "update"), Some("status")) => {
                let is_new = self.get(pod).is_none();
                self.set(pod, 1, time);
                self.set(all, count + u64::from(is_new), time);
            }
            (Some("delete"), None) if self.forget(pod) => self.set(all, count.saturating_sub(1), time),
            _ => {}
        }
    }

    /// Forgets the less used half; false when there is none.
    pub(crate) fn forget_half(&mut self) -> bool {
        let some = self.facts.len().div_ceil(2);
        for _ in 0..some {
            if let Some((_, key)) = self.by_use.pop_first() {
                self.facts.remove(&key);
                self.evicted += 1;
            }
        }
        some > 0
    }
}

/// Whether it was a moment ago; an event whose clock was ahead says nothing of what comes long before.
const fn is_near(then: i64, now: i64, limit: i64) -> bool {
    now.saturating_sub(then).saturating_abs() < limit
}

/// The namespace of this event, and the rank of the Pod Security level it has afterwards.
fn pss(view: &View<'_>) -> Option<(u64, u64)> {
    if view.res() != Some("namespaces") || view.sub().is_some() || !view.flag(Flags::OK) || !view.flag(Flags::DONE) {
        return None;
    }
    let level = match view.verb()? {
        // Without the response a patch shows only what it touches.
        "patch" if view.response().is_none() => rank(&patch::pss_enforce(view.request()?, true)?),
        "create" | "update" | "patch" => rank(body::pss_level(view.response().or_else(|| view.request())?)),
        "delete" => rank(""),
        _ => return None,
    };
    Some((fingerprint(["pss", view.object_name()?]), level))
}

/// A namespace without the label has the cluster's default, which is at least what `privileged` is.
fn rank(level: &str) -> u64 {
    match level {
        "restricted" => 3,
        "baseline" => 2,
        "privileged" => 0,
        _ => 1,
    }
}

/// The workload of this event, and a fingerprint of its containers. What was sent and what came back are kept apart,
/// since the server fills in defaults.
fn template(view: &View<'_>) -> Option<(u64, u64)> {
    let event = view.event;
    let is_workload = view.flag(Flags::MODIFY)
        && view.flag(Flags::OK)
        && view.flag(Flags::DONE)
        && view.sub().is_none()
        && matches!(view.res(), Some("deployments" | "daemonsets" | "statefulsets"));
    if !is_workload || (event.request_object.is_none() && event.response_object.is_none()) {
        return None;
    }
    let from = match (event.response_object.is_some(), view.verb()) {
        (true, _) => "response",
        (false, Some("patch")) => "patch",
        (false, _) => "object",
    };
    let object = if from == "response" { view.response()? } else { view.request()? };
    let spec = body::podspec(view.res()?, object)?;
    let containers = |list: &str| spec.get(list).map(Value::to_string).unwrap_or_default();
    let template = fingerprint([containers("containers").as_str(), containers("initContainers").as_str()]);
    let name = view.name()?;
    Some((fingerprint(["template", from, view.res()?, view.ns()?, &name]), template))
}

/// Who was refused by Pod Security, and the namespace it was in.
fn denied(view: &View<'_>) -> Option<(u64, u64)> {
    (view.code() == Some(403) && view.message()?.contains("violates PodSecurity"))
        .then(|| Some((fingerprint(["denied", view.actor()?]), fingerprint([view.ns()?]))))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_longest_makes_room() {
        let mut known = Known::default();
        for key in 0..LIMIT as u64 {
            known.set(key, key, 0);
        }
        known.set(0, 0, 1);
        known.set(LIMIT as u64, 0, 2);
        assert_eq!((known.evicted, known.facts.len(), known.by_use.len()), (1, LIMIT, LIMIT));
        assert!(known.get(0).is_some() && known.get(1).is_none());
    }
}
