//! What the detector remembers between events: one entry per rule and key, bounded, serialisable.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use picket_model::Detection;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::clock::{LOOSE, Moment};
use crate::fingerprint::{ByFingerprint, Fingerprints};
use crate::footprint;
use crate::told::Told;

/// A match that waits for others of its key, because the rule wants more than one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Waiting {
    /// When it was last seen, in microseconds since 1970.
    pub(crate) time: i64,
    /// How long before it was first seen, in microseconds: where it stands and who did it are of then.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) since: i64,
    /// Fingerprint of the value that is counted or compared.
    pub(crate) value: u64,
    /// How much it counts.
    #[serde(default)]
    pub(crate) weight: u32,
    /// How many more matches had the same value.
    #[serde(default)]
    pub(crate) again: u64,
    /// Fingerprint of what the rule wants to be so besides; 0 when the event is not of that kind.
    #[serde(default)]
    pub(crate) also: u64,
    pub(crate) audit_id: String,
    /// Shared, see [`Files`].
    #[serde(serialize_with = "write_shared", deserialize_with = "read_shared")]
    pub(crate) file: Arc<str>,
    pub(crate) line: u64,
    /// Audit ids of what led here, in a correlation that is ordered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) chain: Vec<String>,
    /// Audit ids of more matches that had the same value, as far as a detection has room for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) others: Vec<String>,
    /// What a detection says that stands here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) told: Option<Told>,
}

impl Waiting {
    /// When it was first seen.
    pub(crate) const fn first(&self) -> i64 {
        self.time.saturating_sub(self.since)
    }

    /// Whether it was seen less than this long before or after.
    pub(crate) const fn is_near(&self, time: i64, length: i64) -> bool {
        self.first().saturating_sub(length) < time && time < self.time.saturating_add(length)
    }

    /// Its value is seen again: it counts from now on. False when it was first seen so long ago that this is none of its
    /// repetitions: a value that comes every minute would otherwise stand for ever where it first stood.
    pub(crate) const fn renew(&mut self, time: i64, length: i64) -> bool {
        if time.saturating_sub(self.first()) >= length {
            return false;
        }
        let (first, last) = (self.first(), if time > self.time { time } else { self.time });
        // What comes late may be the first, as long as the last is still within its window.
        let first = if time < first && last.saturating_sub(time) < length { time } else { first };
        self.time = last;
        self.since = last.saturating_sub(first);
        true
    }
}

/// How many different values wait, each with what it weighs. One may wait twice, with its times too far apart to be
/// one: an event that comes late can have both as neighbours.
pub(crate) fn different(waiting: &VecDeque<Waiting>) -> usize {
    let mut values: Vec<_> = waiting.iter().map(|waiting| (waiting.value, waiting.weight.max(1))).collect();
    values.sort_unstable_by(|one, other| other.cmp(one));
    values.dedup_by_key(|(value, _)| *value);
    values.into_iter().map(|(_, weight)| weight as usize).sum()
}

/// The latest time of what waits aside, if it is later than this one: which of two times is the log's may not be known
/// yet, and what waits must not end with the earlier.
pub(crate) fn latest(aside: &VecDeque<Waiting>, time: i64) -> i64 {
    aside.iter().map(|waiting| waiting.time).fold(time, i64::max)
}

/// Makes room for one more: what was not seen for longest goes.
pub(crate) fn make_room(waiting: &mut VecDeque<Waiting>, most: usize) {
    if waiting.len() >= most
        && let Some((oldest, _)) = waiting.iter().enumerate().min_by_key(|(_, waiting)| waiting.time)
    {
        waiting.remove(oldest);
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// A detection that is still being counted into.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Open {
    pub(crate) detection: Detection,
    /// The count that was reported last; 0 when nothing was.
    pub(crate) reported: u64,
}

impl Open {
    /// Whether so many more were counted that it is to be said again.
    pub(crate) fn doubled(&self) -> bool {
        let count = self.detection.count;
        count >= 10 && count >= self.reported.saturating_mul(2)
    }
}

/// The memory of one rule and key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Window {
    pub(crate) rule: String,
    /// When it is forgotten, in microseconds since 1970.
    pub(crate) until: i64,
    pub(crate) waiting: VecDeque<Waiting>,
    pub(crate) open: Option<Open>,
    /// What will be reported if the condition is met when the window ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pending: Option<Detection>,
}

impl Window {
    /// An empty one.
    pub(crate) fn new(rule: &str, until: i64) -> Self {
        Self { rule: rule.to_owned(), until, waiting: VecDeque::new(), open: None, pending: None }
    }

    /// Whether an event of this time is none of what is being counted: after its end, or as long before its begin.
    pub(crate) fn is_over(&self, time: i64, length: i64) -> bool {
        let counted = self.open.as_ref().map(|open| &open.detection).or(self.pending.as_ref());
        counted.is_some_and(|counted| time >= self.until || time.saturating_add(length) < counted.time.as_microsecond())
    }

    /// Takes aside what waits and is no neighbour of this moment. What it may still be a neighbour of, as far as is
    /// known of the time, is kept; the rest is forgotten.
    pub(crate) fn part(&mut self, time: i64, moment: Moment, length: i64) -> VecDeque<Waiting> {
        let Moment { now, steady, .. } = moment;
        let from = time.min(now.saturating_sub(LOOSE)).saturating_sub(length);
        let to = if steady { now.saturating_add(LOOSE).saturating_add(length) } else { i64::MAX };
        self.waiting.retain(|waiting| waiting.time > from && waiting.time < to);
        let is_near = |waiting: &Waiting| waiting.is_near(time, length);
        if self.waiting.iter().all(is_near) {
            return VecDeque::new();
        }
        let (near, far) = std::mem::take(&mut self.waiting).into_iter().partition(is_near);
        self.waiting = near;
        far
    }

    /// Puts back what was taken aside, before all else, as far as there is room.
    pub(crate) fn put_back(&mut self, far: VecDeque<Waiting>, most: usize) {
        for waiting in far.into_iter().rev().take(most.saturating_sub(self.waiting.len())) {
            self.waiting.push_front(waiting);
        }
    }
}

fn write_shared<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

fn read_shared<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
    String::deserialize(deserializer).map(Into::into)
}

/// Names of log files, so that matches that wait share them. A node has one log and a few rotated ones; of more the
/// first known is given up, and lives on where it is used.
#[derive(Debug, Default)]
pub(crate) struct Files {
    known: VecDeque<Arc<str>>,
}

impl Files {
    const LIMIT: usize = 32;

    pub(crate) fn shared(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.known.iter().rev().find(|known| &***known == name) {
            return Arc::clone(known);
        }
        if self.known.len() >= Self::LIMIT {
            self.known.pop_front();
        }
        let name: Arc<str> = name.into();
        self.known.push_back(Arc::clone(&name));
        name
    }
}

/// What is remembered at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Windows.
    pub(crate) windows: usize,
    /// Bytes of all of them.
    pub(crate) bytes: usize,
}

/// A window and what it costs.
#[derive(Debug)]
struct Held {
    window: Window,
    bytes: usize,
}

/// Windows by key, in the order they end. Never more than the limits: the ones that end first make room.
#[derive(Debug)]
pub(crate) struct Windows {
    // Boxed, since the table is half empty after it grew.
    by_key: ByFingerprint<Box<Held>>,
    by_end: BTreeSet<(i64, u64)>,
    limits: Limits,
    bytes: usize,
    /// How many were forgotten early to make room.
    pub(crate) evicted: u64,
}

impl Windows {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { by_key: ByFingerprint::default(), by_end: BTreeSet::new(), limits, bytes: 0, evicted: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// What all of them cost.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// To look into a window, and for changes that do not change what it costs; for others it is taken out.
    pub(crate) fn get(&mut self, key: u64) -> Option<&mut Window> {
        self.by_key.get_mut(&key).map(|held| &mut held.window)
    }

    /// Takes the window out, to be changed and put back.
    pub(crate) fn take(&mut self, key: u64) -> Option<Window> {
        let held = *self.by_key.remove(&key)?;
        self.bytes -= held.bytes;
        self.by_end.remove(&(held.window.until, key));
        Some(held.window)
    }

    /// Puts a window in; returns those that had to make room.
    pub(crate) fn put(&mut self, key: u64, mut window: Window) -> Vec<Window> {
        if window.waiting.capacity() > 8 && window.waiting.len() < window.waiting.capacity() / 4 {
            window.waiting.shrink_to_fit();
        }
        let bytes = footprint::of_window(&window);
        self.bytes += bytes;
        let until = window.until;
        // Nobody puts a key in twice, but for a memory that was tampered with.
        if let Some(other) = self.by_key.insert(key, Box::new(Held { window, bytes })) {
            self.bytes -= other.bytes;
            self.by_end.remove(&(other.window.until, key));
        }
        self.by_end.insert((until, key));
        let mut gone = Vec::new();
        while (self.by_key.len() > self.limits.windows.max(1) || self.bytes > self.limits.bytes)
            && let Some(window) = self.forget_first()
        {
            gone.push(window);
        }
        gone
    }

    /// Takes out the window that ends first, before its time.
    fn forget_first(&mut self) -> Option<Window> {
        let &(_, key) = self.by_end.first()?;
        self.evicted += 1;
        self.take(key)
    }

    /// Takes out the next window that ended before `now`.
    pub(crate) fn ended(&mut self, now: i64) -> Option<Window> {
        let &(until, key) = self.by_end.first()?;
        (until <= now).then(|| self.take(key)).flatten()
    }

    /// Time is earlier than it was: windows that would end after `latest` end then.
    pub(crate) fn bring_back(&mut self, latest: i64) {
        let beyond: Vec<_> = self.by_end.range((latest.saturating_add(1), 0)..).copied().collect();
        for (until, key) in beyond {
            if let Some(held) = self.by_key.get_mut(&key) {
                held.window.until = latest;
                self.by_end.remove(&(until, key));
                self.by_end.insert((latest, key));
            }
        }
    }

    /// Takes out the quarter that ends first.
    pub(crate) fn forget_quarter(&mut self) -> Vec<Window> {
        (0..self.by_key.len().div_ceil(4)).filter_map(|_| self.forget_first()).collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Window)> {
        self.by_key.iter().map(|(key, held)| (*key, &held.window))
    }
}

/// Requests whose ResponseStarted was seen, so that their ResponseComplete is not `final` again (E2). Bounded: the
/// oldest is forgotten first.
#[derive(Debug, Default)]
pub(crate) struct Started {
    /// Fingerprints of whole requests by that of their audit id. The id is the client's own (E4): several may have it.
    known: ByFingerprint<Vec<u64>>,
    order: VecDeque<(u64, u64)>,
}

impl Started {
    /// A server keeps a few hundred watches open; sessions may last for hours.
    const LIMIT: usize = 8192;

    pub(crate) fn insert(&mut self, id: u64, request: u64) {
        let known = self.known.entry(id).or_default();
        if known.contains(&request) {
            return;
        }
        known.push(request);
        self.order.push_back((id, request));
        if self.order.len() > Self::LIMIT {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) -> bool {
        let Some((id, request)) = self.order.pop_front() else { return false };
        self.take_out(id, request)
    }

    fn take_out(&mut self, id: u64, request: u64) -> bool {
        let Some(known) = self.known.get_mut(&id) else { return false };
        let before = known.len();
        known.retain(|known| *known != request);
        let found = known.len() < before;
        if known.is_empty() {
            self.known.remove(&id);
        }
        found
    }

    /// Forgets one.
    pub(crate) fn forget(&mut self, id: u64, request: u64) {
        if self.take_out(id, request) {
            self.order.retain(|known| *known != (id, request));
        }
    }

    /// Forgets the older half; false when there is none.
    pub(crate) fn forget_half(&mut self) -> bool {
        (0..self.order.len().div_ceil(2)).fold(false, |some, _| self.forget_oldest() || some)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Whether the request was seen to start. It is asked for only when its audit id is known.
    pub(crate) fn holds(&self, id: u64, request: impl FnOnce() -> u64) -> bool {
        self.known.get(&id).is_some_and(|known| known.contains(&request()))
    }

    pub(crate) fn entries(&self) -> Vec<(u64, u64)> {
        self.order.iter().copied().collect()
    }
}

/// Keys that were learnt while a rule warmed up. Bounded: the oldest is forgotten first.
#[derive(Debug, Default)]
pub(crate) struct Learnt {
    known: Fingerprints,
    order: VecDeque<u64>,
}

impl Learnt {
    const LIMIT: usize = 2048;

    pub(crate) fn insert(&mut self, key: u64) {
        if self.known.insert(key) {
            self.order.push_back(key);
        }
        if self.order.len() > Self::LIMIT {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) -> bool {
        self.order.pop_front().is_some_and(|oldest| self.known.remove(&oldest))
    }

    pub(crate) fn holds(&self, key: u64) -> bool {
        self.known.contains(&key)
    }

    /// Forgets the older half; false when there is none.
    pub(crate) fn forget_half(&mut self) -> bool {
        (0..self.order.len().div_ceil(2)).fold(false, |some, _| self.forget_oldest() || some)
    }

    pub(crate) fn entries(&self) -> Vec<u64> {
        self.order.iter().copied().collect()
    }
}
