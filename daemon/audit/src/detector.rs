//! From events to detections: which rule matches, and when a match is news.

mod count;
mod describe;
mod join;
mod reason;
mod settings;
mod sign;
mod state;

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use picket_model::{Detection, Severity};
use serde::{Deserialize, Serialize};

use self::count::Seen;
pub use self::describe::MAX_AUDIT_IDS;
use self::describe::timestamp;
use self::reason::Place;
pub use self::reason::Reason;
pub use self::settings::{Mode, Settings};
pub use self::state::StateError;
use crate::clock::{Clock, LOOSE, Moment};
use crate::event::Event;
use crate::fields::{Flags, View};
use crate::fingerprint::fingerprint;
use crate::index::Index;
use crate::known::Known;
use crate::rule::{Rule, Stateful};
use crate::site::Site;
use crate::trail::Trail;
use crate::window::{Files, Learnt, Started, Windows};

const MICROS: i64 = 1_000_000;

/// Where an event stood.
#[derive(Debug, Clone, Copy)]
pub struct Position<'p> {
    /// The log file, in the node's own terms.
    pub file: &'p str,
    /// Line from 1; 0 when not known.
    pub line: u64,
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
    files: Files,
    started: Started,
    /// Keys that were new while their rule warmed up: they are no news later either.
    learnt: Learnt,
    trail: Trail,
    /// When the first event ever was, for rules that learn at first.
    first: Option<i64>,
    /// Windows end by it.
    clock: Clock,
    /// The longest that any rule remembers something, in microseconds.
    longest: i64,
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

/// Indexes of the rules that matched; one event rarely matches more than a few.
type Hits = Vec<usize>;

impl Detector {
    /// An engine with these rules.
    pub fn new(rules: Vec<Rule>, settings: Settings) -> Self {
        let index = Index::new(&rules);
        let windows = Windows::new(settings.limits());
        let of = |is: fn(&Stateful) -> bool| {
            rules.iter().enumerate().filter(|(_, rule)| is(&rule.stateful)).map(|(at, _)| at).collect()
        };
        let forgetting = of(|stateful| stateful.forget_created);
        let followed = of(|stateful| stateful.followed.is_some());
        let longest = rules.iter().map(|rule| count::window_us(rule).max(count::hold_us(rule))).max().unwrap_or(0);
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
            files: Files::default(),
            started: Started::default(),
            learnt: Learnt::default(),
            trail: Trail::default(),
            first: None,
            clock: Clock::default(),
            longest,
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
        self.clock.now().map(timestamp)
    }

    /// How many keys are remembered now.
    pub fn remembered(&self) -> usize {
        self.windows.len()
    }

    /// What they cost, in bytes: roughly, as it is held against [`Settings::max_bytes`].
    pub fn remembered_bytes(&self) -> usize {
        self.windows.bytes()
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
        let moment = time.map(|time| self.tell_time(time, out));
        let gap = time.zip(moment).and_then(|(time, moment)| self.trail.time(event, time, moment));
        let missing = time.zip(moment).and_then(|(time, moment)| self.trail.stages(event, time, moment.now));
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
        let moment = moment.unwrap_or_else(|| self.clock.untold());
        let now = moment.now;
        let time = time.unwrap_or(now);
        let mut view = View::new(event, &site, first_final);
        view.before = self.known.before(&view, time);
        let view = view;
        let mut hits: Hits = Hits::default();
        let (rules, counters) = (&self.rules, &mut self.counters);
        self.index.candidates(&view, |at| {
            counters.evaluations += 1;
            if !hits.contains(&at) && rules.get(at).is_some_and(|rule| rule.matches(&view)) {
                hits.push(at);
            }
        });
        hits.extend(self.unread(&view, &hits));
        let created_secret = view.flag(Flags::CREATED) && view.flag(Flags::OK) && view.res() == Some("secrets");
        self.known.learn(&view, time);
        self.follow(&view, time, out);
        // A silence that the API server's own start ends was most likely a restart; that shows in what comes next.
        let restart = gap.is_some() && missing.is_none();
        let signs = [
            gap.or(missing).map(|_| "audit-gap"),
            self.trail.id(event, time).map(|_| "audit-id-collision"),
            if view.flag(Flags::DONE) { self.trail.level(event, time).map(|_| "audit-level-downgrade") } else { None },
        ];
        if hits.is_empty() && !created_secret && self.first.is_some() && signs.iter().all(Option::is_none) {
            return;
        }
        for sign in signs.into_iter().flatten() {
            hits.extend(self.rules.iter().position(|rule| rule.id == sign && rule.matches(&view)));
        }
        let worst = hits.iter().filter_map(|at| self.rules.get(*at)).map(|rule| rule.severity_of(&view)).max();
        let seen = Seen { view: &view, time, moment, position, restart, worst: worst.unwrap_or(Severity::Info) };
        self.first.get_or_insert(now);
        // A little later than they end: what comes out of order is counted in.
        self.close_ended(now.saturating_sub(LOOSE), out);
        if created_secret {
            self.forget_created(&view);
        }
        for at in hits {
            self.counters.matches += 1;
            self.count(at, &seen, out);
        }
    }

    /// Sees the time of the next event.
    fn tell_time(&mut self, time: i64, out: &mut Vec<Detection>) -> Moment {
        let moment = self.clock.see(time);
        if moment.steady {
            self.first = self.first.map(|first| first.min(time));
        }
        if let Some(since) = moment.back {
            self.first = self.first.map(|first| first.min(since));
            self.windows.bring_back(moment.now.saturating_add(self.longest));
        }
        // What is asked before this event is seen: it may end another silence.
        self.settle_gap(if moment.silence > LOOSE { time } else { moment.now }, out);
        moment
    }

    /// The rule that says so when a body could not be read. Which bodies the others ask for is known only after them.
    fn unread(&self, view: &View<'_>, hits: &[usize]) -> Option<usize> {
        if view.event.request_object.is_none() && view.event.response_object.is_none() {
            return None;
        }
        for rule in hits.iter().filter_map(|at| self.rules.get(*at)) {
            // How severe a hit is may hang on a body that the rule itself does not ask for.
            let _ = rule.severity_of(view);
        }
        let is = |rule: &Rule| rule.id == "audit-event-truncated" && rule.matches(view);
        let at = if view.is_unread() { self.rules.iter().position(is) } else { None };
        at.filter(|at| !hits.contains(at))
    }

    /// The rules that match this event by itself, without what was seen before.
    pub fn matching(&self, event: &Event<'_>) -> Vec<&Rule> {
        let view = View::new(event, &self.site, true);
        let mut hits: Hits =
            self.rules.iter().enumerate().filter(|(_, rule)| rule.matches(&view)).map(|(at, _)| at).collect();
        hits.extend(self.unread(&view, &hits));
        hits.into_iter().filter_map(|at| self.rules.get(at)).collect()
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
        self.settle_gap(now.as_microsecond(), out);
        self.close_ended(now.as_microsecond(), out);
    }

    /// Ends every window. For the end of a replay.
    pub fn finish(&mut self, out: &mut Vec<Detection>) {
        self.settle_gap(i64::MAX, out);
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
                self.started.forget(id(), request());
                false
            }
            _ => self.started.is_empty() || !self.started.holds(id(), request),
        }
    }

    fn close_ended(&mut self, now: i64, out: &mut Vec<Detection>) {
        let from = out.len();
        while let Some(window) = self.windows.ended(now) {
            self.end(window, out);
        }
        self.mute(from, out);
    }
}
