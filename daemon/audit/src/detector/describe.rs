//! A detection in words, and what is added to it.

use std::collections::VecDeque;

use jiff::Timestamp;
use picket_model::{Detection, ObjectRef, Severity};

use super::Position;
use crate::fields::View;
use crate::rule::Rule;
use crate::told::{Told, push};
use crate::window::Waiting;

/// Most audit ids a detection carries.
pub const MAX_AUDIT_IDS: usize = 100;
/// Longest audit id that is kept, in bytes. It is a UUID, unless a client chose it (E4).
const MAX_ID: usize = 128;

pub(super) fn timestamp(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Counts an event into a detection; true when that became worse by it.
pub(super) fn add(
    detection: &mut Detection,
    view: &View<'_>,
    audit_id: &str,
    severity: Severity,
    time: i64,
    limit: usize,
) -> bool {
    let is_worse = severity > detection.severity;
    detection.count += 1;
    detection.severity = detection.severity.max(severity);
    detection.last_time = detection.last_time.max(timestamp(time));
    remember(&mut detection.audit_ids, audit_id, limit);
    (Told::is_worse(view, detection) && Told::of(view).worsen(detection)) || is_worse
}

/// Makes a detection that of the matches that were waiting for it: it stands at the first, counts them all, and says the
/// outcome that matters most.
pub(super) fn gather(detection: &mut Detection, waiting: VecDeque<Waiting>, limit: usize) {
    let Some(first) = waiting.front() else { return };
    detection.audit_id.clone_from(&first.audit_id);
    detection.file = first.file.to_string();
    detection.line = first.line;
    detection.time = timestamp(first.first());
    let last = (detection.outcome.clone(), detection.code);
    if let Some(told) = &first.told {
        told.tell(detection);
        if Told::is_above(&last.0, &detection.outcome) {
            (detection.outcome, detection.code) = last;
        }
    }
    detection.count = 0;
    detection.audit_ids = Vec::new();
    for waiting in waiting {
        detection.last_time = detection.last_time.max(timestamp(waiting.time));
        detection.count += waiting.chain.len().max(1) as u64 + waiting.again;
        if let Some(told) = &waiting.told {
            told.worsen(detection);
        }
        let own = if waiting.chain.is_empty() { std::slice::from_ref(&waiting.audit_id) } else { &waiting.chain };
        for id in own.iter().chain(&waiting.others) {
            remember(&mut detection.audit_ids, id, limit);
        }
    }
}

fn remember(ids: &mut Vec<String>, audit_id: &str, limit: usize) {
    if ids.len() < limit.min(MAX_AUDIT_IDS) && !ids.iter().any(|id| id == audit_id) {
        ids.push(audit_id.to_owned());
    }
}

/// The audit id of this event, as it is kept.
pub(super) fn audit_id_of(view: &View<'_>) -> String {
    let mut id = String::new();
    push(&mut id, view.event.audit_id.as_deref().unwrap_or(""), MAX_ID);
    id
}

pub(super) fn describe(
    rule: &Rule,
    view: &View<'_>,
    severity: Severity,
    time: i64,
    position: Position<'_>,
) -> Detection {
    let audit_id = audit_id_of(view);
    let mut detection =
        Detection { severity, audit_ids: vec![audit_id.clone()], audit_id, ..bare(rule, timestamp(time), position) };
    Told::of(view).tell(&mut detection);
    detection
}

/// What a rule found at this place, of nobody's request yet.
pub(super) fn bare(rule: &Rule, time: Timestamp, position: Position<'_>) -> Detection {
    Detection {
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
        count: 1,
        mitre: rule.mitre.clone(),
    }
}
