//! A detection in words, and what is added to it.

use jiff::Timestamp;
use picket_model::{Detection, ObjectRef, Severity};

use super::Position;
use crate::event::Text;
use crate::fields::{Flags, View};
use crate::rule::Rule;

/// Most audit ids a detection carries.
pub const MAX_AUDIT_IDS: usize = 100;
/// Longest user name, address or object name a detection carries, in bytes. The API server sets no limit of its own.
const MAX_TEXT: usize = 1024;
/// Longest audit id that is kept, in bytes. It is a UUID, unless a client chose it (E4).
const MAX_ID: usize = 128;

pub(super) fn timestamp(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH)
}

pub(super) fn add(detection: &mut Detection, audit_id: &str, severity: Severity, time: i64, limit: usize) {
    detection.count += 1;
    detection.severity = detection.severity.max(severity);
    detection.last_time = detection.last_time.max(timestamp(time));
    remember(&mut detection.audit_ids, audit_id, limit);
}

pub(super) fn remember(ids: &mut Vec<String>, audit_id: &str, limit: usize) {
    if ids.len() < limit.min(MAX_AUDIT_IDS) && !ids.iter().any(|id| id == audit_id) {
        ids.push(audit_id.to_owned());
    }
}

/// Cut to a length that no identity of a cluster reaches, at a character's edge, and without control characters.
pub(super) fn short(text: &str) -> String {
    cut(text, MAX_TEXT)
}

/// The audit id of this event, as it is kept.
pub(super) fn audit_id_of(view: &View<'_>) -> String {
    cut(view.event.audit_id.as_deref().unwrap_or(""), MAX_ID)
}

fn cut(text: &str, most: usize) -> String {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

pub(super) fn describe(
    rule: &Rule,
    view: &View<'_>,
    severity: Severity,
    time: i64,
    position: Position<'_>,
) -> Detection {
    let ips = view.event.source_ips.as_deref().unwrap_or_default();
    let (source, forgeable) = match ips.split_last() {
        Some((last, others)) => (Some(short(last)), others.iter().take(16).map(|ip: &Text<'_>| short(ip)).collect()),
        None => (None, Vec::new()),
    };
    let audit_id = audit_id_of(view);
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
