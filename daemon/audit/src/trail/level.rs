//! The level of requests: what came with bodies for long comes without them.

use serde::{Deserialize, Serialize};

use super::{KINDS, LEARNING, Sign};
use crate::event::Event;
use crate::fingerprint::{ByFingerprint, fingerprint};

/// Requests of the same user, namespace and verb that say what the policy has for them.
const FEW: u64 = 3;
/// Requests of a kind that say what the policy has for everybody.
const MANY: u64 = 10;
/// Users, and namespaces, that stand for all others.
const SEVERAL: usize = 3;

/// A kind of request that came with bodies so far.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Level {
    since: i64,
    last: i64,
    count: u64,
}

impl Level {
    const fn at(time: i64) -> Self {
        Self { since: time, last: time, count: 0 }
    }

    fn add(&mut self, time: i64) {
        self.last = self.last.max(time);
        self.count += 1;
    }

    fn go_back(&mut self, now: i64) {
        self.since = self.since.min(now);
        self.last = self.last.min(now);
    }

    const fn says(&self, least: u64) -> bool {
        self.last - self.since > LEARNING && self.count >= least
    }
}

/// A kind of request whoever asks and wherever.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Class {
    level: Option<Level>,
    /// One came without a body: there are rules for some users, namespaces or names.
    mixed: bool,
    users: Vec<u64>,
    namespaces: Vec<u64>,
}

/// The levels of all kinds.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Levels {
    /// By user, namespace and verb: policies tell those apart.
    kinds: ByFingerprint<Level>,
    /// By resource and what is done with it.
    classes: ByFingerprint<Class>,
}

impl Levels {
    /// Time is earlier than it was.
    pub(super) fn go_back(&mut self, now: i64) {
        self.kinds.values_mut().for_each(|level| level.go_back(now));
        self.classes.values_mut().filter_map(|class| class.level.as_mut()).for_each(|level| level.go_back(now));
    }

    /// Sees the level of a completed request for a resource.
    pub(super) fn see(&mut self, event: &Event<'_>, time: i64) -> Option<Sign> {
        let object = event.object_ref.as_ref()?;
        let level = event.level.as_deref()?;
        let high = matches!(level, "Request" | "RequestResponse");
        if !high && self.classes.is_empty() {
            return None;
        }
        let user = event.user.as_ref().and_then(|user| user.username.as_deref()).unwrap_or("");
        let verb = event.verb.as_deref().unwrap_or("");
        let resource = object.resource.as_deref()?;
        let [group, subresource, namespace] =
            [&object.api_group, &object.subresource, &object.namespace].map(|text| text.as_deref().unwrap_or(""));
        let kind = fingerprint([user, group, resource, subresource, namespace, verb]);
        let class = fingerprint([group, resource, subresource, class_of(verb)]);
        let (user, namespace) = (fingerprint([user]), fingerprint([namespace]));
        let room = self.classes.len() < KINDS || self.classes.contains_key(&class);
        let class = room.then(|| self.classes.entry(class).or_default());
        if high {
            if self.kinds.len() < KINDS || self.kinds.contains_key(&kind) {
                self.kinds.entry(kind).or_insert(Level::at(time)).add(time);
            }
            if let Some(class) = class.filter(|class| !class.mixed) {
                class.level.get_or_insert(Level::at(time)).add(time);
                meet(&mut class.users, user);
                meet(&mut class.namespaces, namespace);
            }
            return None;
        }
        let of_kind = self.kinds.remove(&kind).is_some_and(|known| known.says(FEW));
        let of_class = class.is_some_and(|class| {
            class.mixed = true;
            class.level.take().is_some_and(|known| known.says(MANY))
                && stands_for(&class.users, user)
                && stands_for(&class.namespaces, namespace)
        });
        (of_kind || of_class).then_some(Sign::Downgrade)
    }
}

/// Verbs that policies name together.
fn class_of(verb: &str) -> &str {
    match verb {
        "create" | "update" | "patch" => "modify",
        "delete" | "deletecollection" => "delete",
        "get" | "list" | "watch" => "read",
        other => other,
    }
}

fn meet(known: &mut Vec<u64>, one: u64) {
    if known.len() < SEVERAL && !known.contains(&one) {
        known.push(one);
    }
}

/// Whether what held for these must hold for this one: a policy may have a rule of its own for one user or namespace.
fn stands_for(known: &[u64], one: u64) -> bool {
    known.len() >= SEVERAL || known.contains(&one)
}
