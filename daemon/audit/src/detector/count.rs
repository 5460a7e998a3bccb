//! Matches counted by key: when enough of them are a detection, and what goes on counting into an open one.

use std::collections::VecDeque;

use picket_model::{Detection, Severity};

use super::describe::{add, audit_id_of, describe, gather};
use super::reason::place;
use super::{Detector, MICROS, Mode, Position};
use crate::clock::Moment;
use crate::fields::View;
use crate::fingerprint::fingerprint;
use crate::rule::{Kind, Rule, Stateful};
use crate::told::Told;
use crate::window::{Open, Waiting, Window, different, latest, make_room};

/// The roll-up window of a rule without one (E13).
pub(super) const ROLL_UP_S: i64 = 60;
/// Most matches that are remembered per key while a threshold is not reached, unless the threshold is higher; the
/// oldest make room.
const MAX_WAITING: usize = 64;

/// An event as it is counted.
#[derive(Clone, Copy)]
pub(super) struct Seen<'s> {
    pub(super) view: &'s View<'s>,
    pub(super) time: i64,
    /// What the clock makes of it.
    pub(super) moment: Moment,
    pub(super) position: Position<'s>,
    /// The API server started anew.
    pub(super) restart: bool,
    /// How severe the worst of all rules finds it.
    pub(super) worst: Severity,
}

impl Detector {
    pub(super) fn forget_created(&mut self, view: &View<'_>) {
        for &at in &self.forgetting {
            let Some(rule) = self.rules.get(at) else { continue };
            let key = key_of(rule, view);
            let value = value_of(&rule.stateful.distinct, view);
            if let Some(mut window) = self.windows.take(key) {
                window.waiting.retain(|waiting| waiting.value != value);
                // It only became smaller: nothing has to make room.
                self.windows.put(key, window);
            }
        }
    }

    /// Counts a match of a rule, and tells the correlations over its detections when it raised one.
    pub(super) fn count(&mut self, at: usize, seen: &Seen<'_>, out: &mut Vec<Detection>) {
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
        let Seen { view, time, moment, position, restart, worst } = *seen;
        let now = moment.now;
        let Some(rule) = self.rules.get(at) else { return false };
        let stateful = &rule.stateful;
        let (window_us, hold_us) = (window_us(rule), hold_us(rule));
        let key = key_of(rule, view);
        let mut severity = rule.severity_of(view);
        if let Some((warmup, first)) = stateful.warmup_s.zip(self.first)
            && time.max(now) < first.saturating_add(warmup.saturating_mul(MICROS))
        {
            self.learnt.insert(key);
        }
        let learnt = stateful.warmup_s.is_some() && self.learnt.holds(key);
        // A silence that the API server's own start ends was most likely a restart.
        if learnt || (restart && rule.id == "audit-gap") {
            severity = severity.min(Severity::Low);
        }
        let audit_id = audit_id_of(view);
        let known = self.windows.take(key);
        let mut window = self.go_on(known, rule, time, hold_us, out);
        let was_open = window.open.is_some();
        if let Some(followed) = &stateful.followed {
            self.follow_until = self.follow_until.max(time.saturating_add(followed.within_s.saturating_mul(MICROS)));
        }
        // Installing a chart changes RBAC and then workloads: without a worse first step that is everyday work.
        let everyday = stateful.first_step.is_some_and(|wanted| worst < wanted);
        let news = if let Some(open) = &mut window.open {
            window.until = window.until.min(time.max(now).saturating_add(hold_us));
            if everyday {
                severity = severity.min(Severity::Low);
            }
            let worse = add(&mut open.detection, view, &audit_id, severity, time, self.settings.max_audit_ids);
            (self.settings.mode == Mode::Live && (worse || open.doubled())).then(|| {
                open.reported = open.detection.count;
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
            let far = window.part(time, moment, window_us);
            let most = MAX_WAITING.max(rule.threshold_of(view));
            let led = window.waiting.iter().any(|step| step.value == 0 && step.time <= time);
            // What comes before the first step is no part of a sequence.
            if stateful.kind == Kind::Sequence && value != 0 && !led {
                window.put_back(far, most);
                if !window.waiting.is_empty() {
                    self.windows.put(key, window);
                }
                return false;
            }
            let ids = window.waiting.iter().map(|waiting| 1 + waiting.others.len()).sum::<usize>();
            let mut known = match stateful.kind {
                Kind::Distinct | Kind::Compare => window.waiting.iter().position(|waiting| waiting.value == value),
                _ => None,
            };
            if stateful.kind == Kind::Distinct {
                let mut over =
                    |at: &usize| window.waiting.get_mut(*at).is_some_and(|known| !known.renew(time, window_us));
                if let Some(over) = known.take_if(|at| over(at)) {
                    window.waiting.remove(over);
                }
            }
            if let Some(known) = known.and_then(|at| window.waiting.get_mut(at)) {
                if stateful.kind == Kind::Compare {
                    // Still in use.
                    known.time = known.time.max(time);
                } else {
                    known.again += 1;
                    if ids < self.settings.max_audit_ids {
                        known.others.push(audit_id);
                    }
                    if let Some(told) = &mut known.told {
                        told.again(view);
                    }
                }
            } else {
                make_room(&mut window.waiting, most);
                window.waiting.push_back(Waiting {
                    time,
                    since: 0,
                    value,
                    weight: rule.weight_of(view),
                    again: 0,
                    chain: Vec::new(),
                    others: Vec::new(),
                    told: None,
                    also: match &stateful.also {
                        Some(also) if rule.search(&also.search, view) => value_of(&also.distinct, view).max(1),
                        None if stateful.first_step.is_some() => worst as u64,
                        _ => 0,
                    },
                    audit_id,
                    file: self.files.shared(position.file),
                    line: position.line,
                });
            }
            let reached = match stateful.kind {
                Kind::Count => weight(&window.waiting) >= rule.threshold_of(view),
                Kind::Distinct => {
                    let threshold = rule.threshold_of(view);
                    weight(&window.waiting) >= threshold
                        && besides(stateful, &window.waiting)
                        && different(&window.waiting) >= threshold
                }
                Kind::Compare => window.waiting.len() > 1,
                Kind::Sequence => led && value == 1,
                _ => true,
            };
            window.until = latest(&far, time.max(now)).saturating_add(window_us);
            let minor =
                |wanted: Severity| !window.waiting.iter().any(|step| step.value == 0 && step.also >= wanted as u64);
            if stateful.first_step.is_some_and(minor) {
                severity = severity.min(Severity::Low);
            }
            if !reached
                && let Some(last) = window.waiting.back_mut()
                && last.told.is_none()
                && stateful.kind != Kind::Compare
            {
                last.told = Some(Told::of(view));
            }
            if !reached {
                window.put_back(far, most);
            }
            reached
                .then(|| {
                    let mut detection = describe(rule, view, severity, time, position);
                    let waiting = std::mem::take(&mut window.waiting);
                    // What differs from what was before is the news, not what was before.
                    if stateful.kind != Kind::Compare {
                        gather(&mut detection, waiting, self.settings.max_audit_ids);
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
        for evicted in self.windows.put(key, window) {
            close(evicted, out);
        }
        raised
    }

    /// What an event of this time is counted into: a new window when it is none of what is open in the known one.
    pub(super) fn go_on(
        &self,
        known: Option<Window>,
        rule: &Rule,
        time: i64,
        length: i64,
        out: &mut Vec<Detection>,
    ) -> Window {
        match known {
            Some(window) if window.is_over(time, length) => self.end(window, out),
            Some(window) => return window,
            None => {}
        }
        Window::new(&rule.id, time)
    }

    /// Makes an open detection worse when this event is what its rule wants to see after it.
    pub(super) fn follow(&mut self, view: &View<'_>, now: i64, out: &mut Vec<Detection>) {
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
                && now.saturating_sub(latest).saturating_abs() <= followed.within_s.saturating_mul(MICROS)
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
}

/// How far apart what a rule counts may lie.
pub(super) fn window_us(rule: &Rule) -> i64 {
    rule.stateful.window_s.unwrap_or(ROLL_UP_S).saturating_mul(MICROS)
}

/// How long a detection is counted into.
pub(super) fn hold_us(rule: &Rule) -> i64 {
    rule.stateful.cooldown_s.or(rule.stateful.window_s).unwrap_or(ROLL_UP_S).saturating_mul(MICROS)
}

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

pub(super) fn close(window: Window, out: &mut Vec<Detection>) {
    if let Some(open) = window.open
        && open.detection.count > open.reported
    {
        out.push(open.detection);
    }
}
