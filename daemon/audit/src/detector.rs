//! From events to detections: which rule matches, and when a match is news.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

mod join;

use jiff::Timestamp;
use picket_model::{Detection, ObjectRef, Severity};
use serde::{Deserialize, Serialize};

use crate::event::{Event, Text};
use crate::fields::{Flags, View};
use crate::index::Index;
use crate::known::Known;
use crate::rule::{Kind, Rule, Stateful};
use crate::site::Site;
use crate::trail::{Sign, Trail};
use crate::window::{Open, Started, Waiting, Window, Windows, fingerprint};

/// Most audit ids a detection carries.
pub const MAX_AUDIT_IDS: usize = 100;
/// Longest user name, address or object name a detection carries, in bytes. The API server sets no limit of its own.
const MAX_TEXT: usize = 1024;
/// The roll-up window of a rule without one (E13).
const ROLL_UP_S: i64 = 60;
/// Most matches that are remembered per key while a threshold is not reached, unless the threshold is higher; the
/// oldest make room.
const MAX_WAITING: usize = 64;
const MICROS: i64 = 1_000_000;

/// Where an event stood.
#[derive(Debug, Clone, Copy)]
pub struct Position<'p> {
    /// The log file, in the node's own terms.
    pub file: &'p str,
    /// Line from 1; 0 when not known.
    pub line: u64,
}

/// When detections are handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// At the first match, then again with a higher count when the count doubles (from 10 on) and when the window
    /// ends. Rule, first audit id and time stay the same and identify the detection.
    #[default]
    Live,
    /// Once, when the window ends.
    Replay,
}

/// How the detector is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// When detections are handed out.
    pub mode: Mode,
    /// Site lists.
    pub site: Site,
    /// Most keys that are remembered; the one whose window ends first makes room.
    pub max_windows: usize,
    /// Most audit ids per detection, up to [`MAX_AUDIT_IDS`].
    pub max_audit_ids: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { mode: Mode::Live, site: Site::default(), max_windows: 4096, max_audit_ids: 32 }
    }
}

impl Settings {
    /// For a replay of files by a person: every audit id that the contract allows, and more memory.
    pub fn replay() -> Self {
        Self { mode: Mode::Replay, site: Site::default(), max_windows: 65_536, max_audit_ids: MAX_AUDIT_IDS }
    }
}

/// What the detector has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Events seen, all stages.
    pub events: u64,
    /// Rules evaluated after the index left out those that cannot match.
    pub evaluations: u64,
    /// Matches, before they were rolled up.
    pub matches: u64,
    /// Keys that were forgotten early to stay within the limit.
    pub evicted: u64,
    /// Facts of objects that were forgotten to stay within the limit: a later change finds nothing to compare with.
    #[serde(default)]
    pub facts_evicted: u64,
}

/// The detection engine. Touches no file, clock or network; time is what the log says.
#[derive(Debug)]
pub struct Detector {
    rules: Vec<Rule>,
    index: Index,
    settings: Settings,
    site: Arc<Site>,
    windows: Windows,
    started: Started,
    trail: Trail,
    /// When the first event ever was, for rules that learn at first.
    first: Option<i64>,
    /// The latest time seen: windows end by it.
    now: i64,
    counters: Counters,
    /// Rules that forget a look-up when its name is then created.
    forgetting: Vec<usize>,
    /// Rules whose open detections a later event makes worse.
    followed: Vec<usize>,
    /// Until when a later event may do so.
    follow_until: i64,
    /// Correlations by the rule whose detections they are over.
    followers: HashMap<String, Vec<usize>>,
    known: Known,
    /// Some rules only count for others.
    has_silent: bool,
    reasons: Option<HashMap<Place, Vec<Reason>>>,
}

/// A field that made a rule match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// Name of the field, see FIELDS.md.
    pub field: String,
    /// Its value, where that can hold no secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// What tells one detection of a run from the others.
type Place = (String, String, String, u64);

fn place(detection: &Detection) -> Place {
    (detection.rule.clone(), detection.audit_id.clone(), detection.file.clone(), detection.line)
}

/// The detector's memory as it is stored.
#[derive(Deserialize)]
struct State {
    version: u32,
    first: Option<i64>,
    now: i64,
    counters: Counters,
    started: Vec<(u64, u64)>,
    trail: Trail,
    windows: Vec<(u64, Window)>,
    #[serde(default)]
    known: Vec<(u64, u64, i64)>,
}

/// The same, to be written.
#[derive(Serialize)]
struct Kept<'d> {
    version: u32,
    first: Option<i64>,
    now: i64,
    counters: Counters,
    started: Vec<(u64, u64)>,
    trail: &'d Trail,
    windows: Vec<(u64, &'d Window)>,
    known: Vec<(u64, u64, i64)>,
}

const STATE_VERSION: u32 = 1;

/// A stored memory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Not what [`Detector::state`] wrote.
    #[error("the detector's memory cannot be read, start with an empty one: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// Written by another version.
    #[error("the detector's memory has version {0}, this program reads {STATE_VERSION}: start with an empty one")]
    Version(u32),
}

impl Detector {
    /// An engine with these rules.
    pub fn new(rules: Vec<Rule>, settings: Settings) -> Self {
        let index = Index::new(&rules);
        let windows = Windows::new(settings.max_windows);
        let of = |is: fn(&Stateful) -> bool| {
            rules.iter().enumerate().filter(|(_, rule)| is(&rule.stateful)).map(|(at, _)| at).collect()
        };
        let forgetting = of(|stateful| stateful.forget_created);
        let followed = of(|stateful| stateful.followed.is_some());
        let mut followers: HashMap<String, Vec<usize>> = HashMap::new();
        for (at, correlation) in
            rules.iter().enumerate().filter_map(|(at, rule)| Some((at, rule.correlation.as_ref()?)))
        {
            for id in correlation.over_detections() {
                followers.entry(id.to_owned()).or_default().push(at);
            }
        }
        Self {
            has_silent: rules.iter().any(|rule| rule.silent),
            rules,
            index,
            site: Arc::new(settings.site.clone()),
            settings,
            windows,
            started: Started::default(),
            trail: Trail::default(),
            first: None,
            now: i64::MIN,
            counters: Counters::default(),
            forgetting,
            followed,
            follow_until: i64::MIN,
            followers,
            known: Known::default(),
            reasons: None,
        }
    }

    /// The rules in use.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        Counters { evicted: self.windows.evicted, facts_evicted: self.known.evicted, ..self.counters }
    }

    /// The latest time of the log.
    pub fn now(&self) -> Option<Timestamp> {
        (self.now > i64::MIN).then(|| timestamp(self.now))
    }

    /// How many keys are remembered now.
    pub fn remembered(&self) -> usize {
        self.windows.len()
    }

    /// Judges one event; what is to be reported is appended to `out`.
    pub fn observe(&mut self, event: &Event<'_>, position: Position<'_>, out: &mut Vec<Detection>) {
        let from = out.len();
        self.judge(event, position, out);
        self.mute(from, out);
    }

    /// Takes out what rules raised that only count for others.
    fn mute(&self, from: usize, out: &mut Vec<Detection>) {
        if self.has_silent && out.len() > from {
            let new = out.split_off(from);
            let is_silent = |id: &str| self.rules.iter().any(|rule| rule.silent && rule.id == id);
            out.extend(new.into_iter().filter(|detection| !is_silent(&detection.rule)));
        }
    }

    fn judge(&mut self, event: &Event<'_>, position: Position<'_>, out: &mut Vec<Detection>) {
        self.counters.events += 1;
        let stage = event.stage.as_deref();
        let time = event.micros();
        let gap = time.and_then(|time| self.trail.time(event, time));
        let missing = time.and_then(|time| self.trail.stages(event, time));
        if let Some(time) = time.filter(|_| event.stage_timestamp.is_some())
            && self.trail.went_back(position.file, time)
        {
            self.sign("audit-log-tampered", position, timestamp(time), 1, out);
        }
        // E1: a request that has only arrived is not judged, but it shows that the log goes on.
        if stage == Some("RequestReceived") && gap.is_none() {
            return;
        }
        let first_final = self.first_final(event, stage);
        let site = Arc::clone(&self.site);
        let now = time.unwrap_or(self.now.max(0));
        let mut view = View::new(event, &site, first_final);
        view.before = self.known.before(&view, now);
        let view = view;
        let mut hits: Hits = Hits::default();
        let (rules, counters) = (&self.rules, &mut self.counters);
        self.index.candidates(&view, |at| {
            counters.evaluations += 1;
            if !hits.contains(&at) && rules.get(at).is_some_and(|rule| rule.matches(&view)) {
                hits.push(at);
            }
        });
        let created_secret = view.flag(Flags::CREATED) && view.flag(Flags::OK) && view.res() == Some("secrets");
        self.known.learn(&view, now);
        self.follow(&view, now, out);
        let restart = matches!(gap, Some(Sign::Gap { restart: true }));
        let signs = [
            gap.or(missing).map(|_| "audit-gap"),
            self.trail.id(event, now).map(|_| "audit-id-collision"),
            if view.flag(Flags::DONE) { self.trail.level(event, now).map(|_| "audit-level-downgrade") } else { None },
        ];
        if hits.is_empty() && !created_secret && self.first.is_some() && signs.iter().all(Option::is_none) {
            return;
        }
        for sign in signs.into_iter().flatten() {
            hits.extend(self.rules.iter().position(|rule| rule.id == sign && rule.matches(&view)));
        }
        let time = now;
        let worst = hits.iter().filter_map(|at| self.rules.get(*at)).map(|rule| rule.severity_of(&view)).max();
        let seen = Seen { view: &view, time, position, restart, worst: worst.unwrap_or(Severity::Info) };
        self.first.get_or_insert(time);
        if time > self.now {
            self.now = time;
            self.close_ended(time, out);
        }
        if created_secret {
            self.forget_created(&view);
        }
        for at in hits {
            self.counters.matches += 1;
            self.count(at, &seen, out);
        }
    }

    /// Raises a rule that the reader of the log judges, and not a single event: `audit-log-tampered` and
    /// `audit-unparsable-line`. Nothing when the site switched it off. Once a file and cooldown, with a count.
    pub fn sign(&mut self, rule: &str, position: Position<'_>, time: Timestamp, times: u64, out: &mut Vec<Detection>) {
        let Some(rule) = self.rules.iter().find(|known| known.id == rule) else { return };
        let hold_us = rule.stateful.cooldown_s.unwrap_or(ROLL_UP_S).saturating_mul(MICROS);
        let key = fingerprint([rule.id.as_str(), position.file]);
        let until = time.as_microsecond().saturating_add(hold_us);
        let live = self.settings.mode == Mode::Live;
        self.counters.matches += times;
        let mut window = self.windows.take(key).unwrap_or_else(|| Window::new(&rule.id, until));
        match &mut window.open {
            Some(open) => {
                open.detection.count = open.detection.count.saturating_add(times);
                open.detection.last_time = open.detection.last_time.max(time);
                let count = open.detection.count;
                if live && count >= 10 && count >= open.reported.saturating_mul(2) {
                    open.reported = count;
                    out.push(open.detection.clone());
                }
            }
            None => {
                let detection = Detection {
                    rule: rule.id.clone(),
                    severity: rule.severity,
                    title: rule.title.clone(),
                    file: position.file.to_owned(),
                    line: position.line,
                    audit_ids: Vec::new(),
                    audit_id: String::new(),
                    user: String::new(),
                    impersonated: None,
                    source: None,
                    forgeable_sources: Vec::new(),
                    verb: String::new(),
                    object: ObjectRef::default(),
                    outcome: String::new(),
                    code: None,
                    time,
                    last_time: time,
                    count: times.max(1),
                    mitre: rule.mitre.clone(),
                };
                let reported = if live { detection.count } else { 0 };
                if live {
                    out.push(detection.clone());
                }
                window.open = Some(Open { reported, detection });
            }
        }
        if let Some(evicted) = self.windows.put(key, window) {
            close(evicted, out);
        }
    }

    /// From now on notes why each detection was raised, for [`Detector::reasons`].
    pub fn explain(&mut self) {
        self.reasons.get_or_insert_default();
    }

    /// Why a detection was raised: the fields of the rule that the event met. Values from bodies, URLs and command
    /// lines are left out, since they may hold secrets.
    pub fn reasons(&self, detection: &Detection) -> &[Reason] {
        self.reasons.as_ref().and_then(|reasons| reasons.get(&place(detection))).map_or(&[], Vec::as_slice)
    }

    /// The rules that match this event by itself, without what was seen before.
    pub fn matching(&self, event: &Event<'_>) -> Vec<&Rule> {
        let view = View::new(event, &self.site, true);
        self.rules.iter().filter(|rule| rule.matches(&view)).collect()
    }

    /// The same by way of the index, as [`Detector::observe`] finds them.
    pub fn matching_indexed(&self, event: &Event<'_>) -> Vec<&Rule> {
        let view = View::new(event, &self.site, true);
        let mut found = Vec::new();
        self.index.candidates(&view, |at| found.extend(self.rules.get(at).filter(|rule| rule.matches(&view))));
        found.dedup_by(|a, b| a.id == b.id);
        found
    }

    /// Ends every window whose time is over, by a clock of the caller's: for a log that has gone quiet.
    pub fn tick(&mut self, now: Timestamp, out: &mut Vec<Detection>) {
        self.close_ended(now.as_microsecond(), out);
    }

    /// Ends every window. For the end of a replay.
    pub fn finish(&mut self, out: &mut Vec<Detection>) {
        self.close_ended(i64::MAX, out);
    }

    fn first_final(&mut self, event: &Event<'_>, stage: Option<&str>) -> bool {
        let id = || fingerprint([event.audit_id.as_deref().unwrap_or("")]);
        let request = || {
            fingerprint([
                event.audit_id.as_deref().unwrap_or(""),
                event.request_received_timestamp.as_deref().unwrap_or(""),
                event.user.as_ref().and_then(|user| user.username.as_deref()).unwrap_or(""),
                event.request_uri.as_deref().unwrap_or(""),
            ])
        };
        match stage {
            Some("ResponseStarted") => {
                // A 401 has no later stage; remembering it would let a flood of them push out real sessions.
                if event.response_status.as_ref().and_then(|status| status.code) != Some(401) {
                    self.started.insert(id(), request());
                }
                true
            }
            // Nothing comes after it: what is remembered are the sessions that are open.
            Some("ResponseComplete") if !self.started.is_empty() && self.started.holds(id(), request) => {
                self.started.forget(id());
                false
            }
            _ => self.started.is_empty() || !self.started.holds(id(), request),
        }
    }

    fn forget_created(&mut self, view: &View<'_>) {
        for &at in &self.forgetting {
            let Some(rule) = self.rules.get(at) else { continue };
            let key = key_of(rule, view);
            let value = value_of(&rule.stateful.distinct, view);
            if let Some(window) = self.windows.get(key) {
                window.waiting.retain(|waiting| waiting.value != value);
            }
        }
    }

    /// Counts a match of a rule, and tells the correlations over its detections when it raised one.
    fn count(&mut self, at: usize, seen: &Seen<'_>, out: &mut Vec<Detection>) {
        let Some(rule) = self.rules.get(at) else { return };
        let raised = match &rule.correlation {
            Some(correlation) => {
                let parts = correlation.matched(seen.view);
                self.join(at, &parts, seen, out)
            }
            None => self.roll_up(at, seen, out),
        };
        if raised {
            self.tell_followers(at, seen, out);
        }
    }

    /// True when a detection was opened.
    fn roll_up(&mut self, at: usize, seen: &Seen<'_>, out: &mut Vec<Detection>) -> bool {
        let Seen { view, time, position, restart, worst } = *seen;
        let Some(rule) = self.rules.get(at) else { return false };
        let stateful = &rule.stateful;
        let window_us = stateful.window_s.unwrap_or(ROLL_UP_S).saturating_mul(MICROS);
        let hold_us = stateful.cooldown_s.unwrap_or(stateful.window_s.unwrap_or(ROLL_UP_S)).saturating_mul(MICROS);
        let key = key_of(rule, view);
        let mut severity = rule.severity_of(view);
        let learning = stateful
            .warmup_s
            .zip(self.first)
            .is_some_and(|(warmup, first)| time < first.saturating_add(warmup.saturating_mul(MICROS)));
        // A silence that the API server's own start ends was most likely a restart.
        if learning || (restart && rule.id == "audit-gap") {
            severity = severity.min(Severity::Low);
        }
        let audit_id = short(view.event.audit_id.as_deref().unwrap_or(""));
        let mut window =
            self.windows.take(key).unwrap_or_else(|| Window::new(&rule.id, time.saturating_add(window_us)));
        let was_open = window.open.is_some();
        if let Some(followed) = &stateful.followed {
            self.follow_until = self.follow_until.max(time.saturating_add(followed.within_s.saturating_mul(MICROS)));
        }
        // Installing a chart changes RBAC and then workloads: without a worse first step that is everyday work.
        let everyday = stateful.first_step.is_some_and(|wanted| worst < wanted);
        let news = if let Some(open) = &mut window.open {
            if everyday {
                severity = severity.min(Severity::Low);
            }
            add(&mut open.detection, &audit_id, severity, time, self.settings.max_audit_ids);
            let count = open.detection.count;
            (self.settings.mode == Mode::Live && count >= 10 && count >= open.reported.saturating_mul(2)).then(|| {
                open.reported = count;
                open.detection.clone()
            })
        } else {
            let fields = match stateful.kind {
                Kind::Compare => stateful.field.iter().cloned().collect(),
                _ => stateful.distinct.clone(),
            };
            let value = match stateful.kind {
                Kind::Distinct | Kind::Compare => value_of(&fields, view),
                Kind::Sequence => stateful.steps.iter().position(|step| rule.search(step, view)).unwrap_or(0) as u64,
                _ => 0,
            };
            let from = time.saturating_sub(window_us);
            window.waiting.retain(|waiting| waiting.time > from);
            let known = match stateful.kind {
                Kind::Distinct | Kind::Compare => window.waiting.iter_mut().find(|waiting| waiting.value == value),
                _ => None,
            };
            if let Some(known) = known {
                known.again += 1;
            } else {
                if window.waiting.len() >= MAX_WAITING.max(rule.threshold_of(view)) {
                    window.waiting.pop_front();
                }
                window.waiting.push_back(Waiting {
                    time,
                    value,
                    weight: rule.weight_of(view),
                    again: 0,
                    chain: Vec::new(),
                    also: match &stateful.also {
                        Some(also) if rule.search(&also.search, view) => value_of(&also.distinct, view).max(1),
                        None if stateful.first_step.is_some() => worst as u64,
                        _ => 0,
                    },
                    audit_id: audit_id.clone(),
                    file: position.file.to_owned(),
                    line: position.line,
                });
            }
            let reached = match stateful.kind {
                Kind::Count => weight(&window.waiting) >= rule.threshold_of(view),
                Kind::Distinct => {
                    weight(&window.waiting) >= rule.threshold_of(view) && besides(stateful, &window.waiting)
                }
                Kind::Compare => window.waiting.len() > 1,
                Kind::Sequence => window.waiting.iter().any(|step| step.value == 0 && step.time <= time) && value == 1,
                _ => true,
            };
            window.until = time.saturating_add(window_us);
            let minor =
                |wanted: Severity| !window.waiting.iter().any(|step| step.value == 0 && step.also >= wanted as u64);
            if stateful.first_step.is_some_and(minor) {
                severity = severity.min(Severity::Low);
            }
            reached
                .then(|| {
                    let mut detection = describe(rule, view, severity, time, position);
                    if let Some(first) = window.waiting.front() {
                        detection.audit_id.clone_from(&first.audit_id);
                        detection.file.clone_from(&first.file);
                        detection.line = first.line;
                        detection.time = timestamp(first.time);
                    }
                    detection.count = window.waiting.len().max(1) as u64;
                    detection.audit_ids = Vec::new();
                    for waiting in window.waiting.drain(..) {
                        remember(&mut detection.audit_ids, &waiting.audit_id, self.settings.max_audit_ids);
                    }
                    if let Some(reasons) = &mut self.reasons {
                        reasons.insert(place(&detection), rule.reasons(view));
                    }
                    window.until = time.saturating_add(hold_us);
                    let news = (self.settings.mode == Mode::Live).then(|| detection.clone());
                    window.open = Some(Open { reported: if news.is_some() { detection.count } else { 0 }, detection });
                    news
                })
                .flatten()
        };
        out.extend(news);
        let raised = !was_open && window.open.is_some();
        if let Some(evicted) = self.windows.put(key, window) {
            close(evicted, out);
        }
        raised
    }

    /// Makes an open detection worse when this event is what its rule wants to see after it.
    fn follow(&mut self, view: &View<'_>, now: i64, out: &mut Vec<Detection>) {
        if now > self.follow_until {
            return;
        }
        for &at in &self.followed {
            let Some((rule, followed)) =
                self.rules.get(at).and_then(|rule| Some((rule, rule.stateful.followed.as_ref()?)))
            else {
                continue;
            };
            let Some(open) = self.windows.get(key_of(rule, view)).and_then(|window| window.open.as_mut()) else {
                continue;
            };
            let latest = open.detection.last_time.as_microsecond();
            if open.detection.severity < followed.level
                && now.saturating_sub(latest) <= followed.within_s.saturating_mul(MICROS)
                && rule.search(&followed.when, view)
            {
                open.detection.severity = followed.level;
                if self.settings.mode == Mode::Live {
                    open.reported = open.detection.count;
                    out.push(open.detection.clone());
                }
            }
        }
    }

    fn close_ended(&mut self, now: i64, out: &mut Vec<Detection>) {
        let from = out.len();
        while let Some(window) = self.windows.ended(now) {
            self.end(window, out);
        }
        self.mute(from, out);
    }

    /// The memory, to be stored with the reader's cursor.
    ///
    /// # Errors
    /// Never in practice: the types serialise.
    pub fn state(&self) -> Result<Vec<u8>, StateError> {
        let mut windows: Vec<_> = self.windows.iter().collect();
        windows.sort_unstable_by_key(|(key, _)| *key);
        Ok(serde_json::to_vec(&Kept {
            version: STATE_VERSION,
            first: self.first,
            now: self.now,
            counters: self.counters(),
            started: self.started.entries(),
            trail: &self.trail,
            windows,
            known: self.known.entries(),
        })?)
    }

    /// The memory in at most `limit` bytes: what does not fit is forgotten, here as in what is stored, so that both
    /// go on alike. The windows that end first go first, with what they counted in `out`, then the requests that were
    /// seen to start.
    ///
    /// # Errors
    /// As [`Detector::state`].
    pub fn state_within(&mut self, limit: usize, out: &mut Vec<Detection>) -> Result<Vec<u8>, StateError> {
        loop {
            let state = self.state()?;
            if state.len() <= limit {
                return Ok(state);
            }
            let forgotten = self.windows.forget_quarter();
            let some = !forgotten.is_empty();
            let from = out.len();
            forgotten.into_iter().for_each(|window| close(window, out));
            self.mute(from, out);
            if !some && !self.started.forget_half() && !self.known.forget_half() {
                // The trail's own memory is a few hundred KiB at most; a smaller limit keeps nothing of it either.
                self.trail = Trail::default();
                return self.state();
            }
        }
    }

    /// Takes over a memory that [`Detector::state`] wrote. Windows of rules that are gone are dropped.
    ///
    /// # Errors
    /// [`StateError`] when the bytes are something else; the detector then is as it was.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        let state: State = serde_json::from_slice(bytes)?;
        if state.version != STATE_VERSION {
            return Err(StateError::Version(state.version));
        }
        self.first = state.first;
        self.now = state.now;
        self.counters = state.counters;
        self.trail = state.trail.restored();
        self.started = Started::default();
        for (id, request) in state.started {
            self.started.insert(id, request);
        }
        self.windows = Windows::new(self.settings.max_windows);
        for (key, window) in state.windows {
            if self.rules.iter().any(|rule| rule.id == window.rule) {
                self.windows.put(key, window);
            }
        }
        self.windows.evicted = state.counters.evicted;
        // Only saves looking; what is to be found says itself until when it matters.
        self.follow_until = i64::MAX;
        self.known = Known::restored(state.known);
        self.known.evicted = state.counters.facts_evicted;
        Ok(())
    }
}

/// An event as it is counted.
#[derive(Clone, Copy)]
struct Seen<'s> {
    view: &'s View<'s>,
    time: i64,
    position: Position<'s>,
    /// The API server started anew.
    restart: bool,
    /// How severe the worst of all rules finds it.
    worst: Severity,
}

/// Indexes of the rules that matched; one event rarely matches more than a few.
type Hits = Vec<usize>;

fn key_of(rule: &Rule, view: &View<'_>) -> u64 {
    let by: &[&str] = match rule.stateful.kind {
        // E13: the same rule, user, actor, address and object; for exec also the command.
        Kind::Each | Kind::Config => &["user", "actor", "ip", "group", "res", "sub", "ns", "name", "cmd"],
        _ => &[],
    };
    let parts: Vec<_> = by
        .iter()
        .copied()
        .chain(rule.stateful.by.iter().map(String::as_str))
        .map(|field| view.key_part(field))
        .collect();
    fingerprint(std::iter::once(rule.id.as_str()).chain(parts.iter().map(|part| &**part)))
}

fn value_of(fields: &[String], view: &View<'_>) -> u64 {
    let parts: Vec<_> = fields.iter().map(|field| view.key_part(field)).collect();
    fingerprint(parts.iter().map(|part| &**part))
}

fn weight(waiting: &VecDeque<Waiting>) -> usize {
    waiting.iter().map(|waiting| waiting.weight.max(1) as usize).sum()
}

/// Whether what the rule wants to be so besides is so.
fn besides(stateful: &Stateful, waiting: &VecDeque<Waiting>) -> bool {
    let Some(also) = &stateful.also else { return true };
    let mut values: Vec<u64> = waiting.iter().map(|waiting| waiting.also).filter(|value| *value != 0).collect();
    let others = values.len() < waiting.len();
    values.sort_unstable();
    values.dedup();
    let all: u64 = waiting.iter().map(|waiting| waiting.again + 1).sum();
    others && values.len() >= also.threshold && also.fewer_than.is_none_or(|most| all < most)
}

fn timestamp(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn add(detection: &mut Detection, audit_id: &str, severity: Severity, time: i64, limit: usize) {
    detection.count += 1;
    detection.severity = detection.severity.max(severity);
    detection.last_time = detection.last_time.max(timestamp(time));
    remember(&mut detection.audit_ids, audit_id, limit);
}

fn remember(ids: &mut Vec<String>, audit_id: &str, limit: usize) {
    if ids.len() < limit.min(MAX_AUDIT_IDS) && !ids.iter().any(|id| id == audit_id) {
        ids.push(audit_id.to_owned());
    }
}

fn close(window: Window, out: &mut Vec<Detection>) {
    if let Some(open) = window.open
        && open.detection.count > open.reported
    {
        out.push(open.detection);
    }
}

/// Cut to a length that no identity of a cluster reaches, at a character's edge, and without control characters.
fn short(text: &str) -> String {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn describe(rule: &Rule, view: &View<'_>, severity: Severity, time: i64, position: Position<'_>) -> Detection {
    let ips = view.event.source_ips.as_deref().unwrap_or_default();
    let (source, forgeable) = match ips.split_last() {
        Some((last, others)) => (Some(short(last)), others.iter().take(16).map(|ip: &Text<'_>| short(ip)).collect()),
        None => (None, Vec::new()),
    };
    let audit_id = short(view.event.audit_id.as_deref().unwrap_or(""));
    let text = |value: Option<&str>| short(value.unwrap_or(""));
    Detection {
        rule: rule.id.clone(),
        severity,
        title: rule.title.clone(),
        file: position.file.to_owned(),
        line: position.line,
        audit_ids: vec![audit_id.clone()],
        audit_id,
        user: text(view.user()),
        impersonated: view.impersonated().map(short),
        source,
        forgeable_sources: forgeable,
        verb: text(view.verb()),
        object: ObjectRef {
            group: text(view.group()),
            resource: text(view.res()),
            subresource: text(view.sub()),
            namespace: text(view.ns()),
            name: text(view.name().as_deref()),
        },
        outcome: outcome(view).to_owned(),
        code: view.code().and_then(|code| u16::try_from(code).ok()),
        time: timestamp(time),
        last_time: timestamp(time),
        count: 1,
        mitre: rule.mitre.clone(),
    }
}

/// What became of the request (E14).
fn outcome(view: &View<'_>) -> &'static str {
    if view.flag(Flags::DENIED) || matches!(view.code(), Some(401 | 403)) {
        "refused"
    } else if view.code() == Some(404) {
        "not_found"
    } else if view.flag(Flags::ERROR) {
        "failed"
    } else {
        "allowed"
    }
}
