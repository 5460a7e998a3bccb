//! Signs that the reader of the log judges, and no single event shows.

use jiff::Timestamp;
use picket_model::Detection;

use super::count::{close, hold_us};
use super::describe::bare;
use super::{Detector, Mode, Position};
use crate::fingerprint::fingerprint;
use crate::window::Open;

impl Detector {
    /// Raises a rule that the reader of the log judges, and not a single event: `audit-log-tampered` and
    /// `audit-unparsable-line`. Nothing when the site switched it off. Once a file and cooldown, with a count.
    pub fn sign(&mut self, rule: &str, position: Position<'_>, time: Timestamp, times: u64, out: &mut Vec<Detection>) {
        let Some(rule) = self.rules.iter().find(|known| known.id == rule) else { return };
        let hold_us = hold_us(rule);
        let key = fingerprint([rule.id.as_str(), position.file]);
        let until = time.as_microsecond().saturating_add(hold_us);
        let live = self.settings.mode == Mode::Live;
        self.counters.matches += times;
        let known = self.windows.take(key);
        let mut window = self.go_on(known, rule, time.as_microsecond(), hold_us, out);
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
                let detection = Detection { count: times.max(1), ..bare(rule, time, position) };
                let reported = if live { detection.count } else { 0 };
                if live {
                    out.push(detection.clone());
                }
                window.until = until;
                window.open = Some(Open { reported, detection });
            }
        }
        for evicted in self.windows.put(key, window) {
            close(evicted, out);
        }
    }

    /// Raises the silence that no start of the API server ended to what the rule says; until then it is low.
    pub(super) fn settle_gap(&mut self, now: i64, out: &mut Vec<Detection>) {
        if self.trail.settled(now) != Some(true) {
            return;
        }
        let Some(rule) = self.rules.iter().find(|rule| rule.id == "audit-gap") else { return };
        // Its key is the rule alone: it is about nobody's request.
        let Some(open) = self.windows.get(fingerprint([rule.id.as_str()])).and_then(|window| window.open.as_mut())
        else {
            return;
        };
        if open.detection.severity < rule.severity {
            open.detection.severity = rule.severity;
            if self.settings.mode == Mode::Live {
                open.reported = open.detection.count;
                out.push(open.detection.clone());
            }
        }
    }
}
