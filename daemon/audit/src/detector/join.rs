//! Sigma correlations over the detector's windows.

use std::collections::VecDeque;

use picket_model::Detection;

use super::count::{Seen, close, hold_us};
use super::describe::{add, audit_id_of, describe, gather};
use super::reason::place;
use super::{Detector, MICROS, Mode};
use crate::rule::{MAX_THRESHOLD, Rule};
use crate::told::Told;
use crate::window::{Open, Waiting, Window, latest};

impl Detector {
    /// Notes a match of these parts of a correlation; true when a detection was opened.
    pub(super) fn join(&mut self, at: usize, parts: &[usize], seen: &Seen<'_>, out: &mut Vec<Detection>) -> bool {
        let mut raised = false;
        let mut counted = Vec::new();
        for &part in parts {
            let Some((rule, correlation)) =
                self.rules.get(at).and_then(|rule| Some((rule, rule.correlation.as_ref()?)))
            else {
                break;
            };
            let Seen { view, time, moment, position, .. } = *seen;
            if !correlation.counts(part, view) {
                continue;
            }
            let now = moment.now;
            let span = rule.stateful.window_s.unwrap_or_default().saturating_mul(MICROS);
            let hold = hold_us(rule);
            let key = correlation.key(&rule.id, part, view);
            let audit_id = audit_id_of(view);
            let known = self.windows.take(key);
            let length = if known.as_ref().is_some_and(|known| known.open.is_some()) { hold } else { span };
            let mut window = self.go_on(known, rule, time, length, out);
            if let Some(open) = &mut window.open {
                window.until = window.until.min(time.max(now).saturating_add(hold));
                // One event is counted once, however many of the rules it meets.
                if !counted.contains(&key) {
                    let most = self.settings.max_audit_ids;
                    let worse = add(&mut open.detection, view, &audit_id, rule.severity, time, most);
                    if self.settings.mode == Mode::Live && (worse || open.doubled()) {
                        let count = open.detection.count;
                        open.reported = count;
                        out.push(open.detection.clone());
                    }
                }
            } else {
                let waits = correlation.waits();
                let mut far = VecDeque::new();
                if !waits {
                    far = window.part(time, moment, span);
                    window.until = latest(&far, time.max(now)).saturating_add(span);
                } else if window.pending.is_none() {
                    window.until = time.saturating_add(span);
                    window.pending = Some(describe(rule, view, rule.severity, time, position));
                    if let Some(reasons) = &mut self.reasons
                        && let Some(pending) = &window.pending
                    {
                        reasons.insert(place(pending), rule.reasons(view));
                    }
                }
                let entry = Waiting {
                    time,
                    since: 0,
                    value: 0,
                    weight: 1,
                    again: 0,
                    also: 0,
                    audit_id,
                    file: self.files.shared(position.file),
                    line: position.line,
                    chain: Vec::new(),
                    others: Vec::new(),
                    told: Some(Told::of(view)),
                };
                let threshold = rule.stateful.threshold_tuned();
                if correlation.note(part, view, threshold, span, &mut window.waiting, entry) {
                    let mut detection = describe(rule, view, rule.severity, time, position);
                    gather(&mut detection, std::mem::take(&mut window.waiting), self.settings.max_audit_ids);
                    if let Some(reasons) = &mut self.reasons {
                        reasons.insert(place(&detection), rule.reasons(view));
                    }
                    window.until = time.saturating_add(hold);
                    let live = self.settings.mode == Mode::Live;
                    if live {
                        out.push(detection.clone());
                    }
                    window.open = Some(Open { reported: if live { detection.count } else { 0 }, detection });
                    raised = true;
                } else {
                    window.put_back(far, MAX_THRESHOLD as usize);
                }
            }
            counted.push(key);
            for evicted in self.windows.put(key, window) {
                close(evicted, out);
            }
        }
        raised
    }

    /// Tells the correlations over a rule's detections that it raised one.
    pub(super) fn tell_followers(&mut self, at: usize, seen: &Seen<'_>, out: &mut Vec<Detection>) {
        let Some(rule) = self.rules.get(at) else { return };
        let id = rule.id.clone();
        let Some(followers) = self.followers.get(&id).cloned() else { return };
        for follower in followers {
            let parts = match self.rules.get(follower).and_then(|rule: &Rule| rule.correlation.as_ref()) {
                Some(correlation) => correlation.raised_by(&id),
                None => continue,
            };
            // Correlations are over one another in one direction only, so this comes to an end.
            if self.join(follower, &parts, seen, out) {
                self.tell_followers(follower, seen, out);
            }
        }
    }

    /// Ends a window: hands out what was counted into it, or what its condition can only now be judged for.
    pub(super) fn end(&self, mut window: Window, out: &mut Vec<Detection>) {
        if let Some(mut pending) = window.pending.take() {
            let rule = self.rules.iter().find(|rule| rule.id == window.rule);
            let correlation = rule.and_then(|rule| Some((rule.correlation.as_ref()?, rule.stateful.threshold_tuned())));
            if correlation.is_some_and(|(correlation, threshold)| correlation.holds(threshold, &window.waiting)) {
                gather(&mut pending, std::mem::take(&mut window.waiting), self.settings.max_audit_ids);
                out.push(pending);
            }
        }
        close(window, out);
    }
}
