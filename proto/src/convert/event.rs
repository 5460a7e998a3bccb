//! Events: findings, detections, inventory, gaps.

use picket_model::{ChainHash, Detection, Epoch, Event, EventBody, Gap, GapReason, ObjectRef, Seq};

use super::field::{FieldError, names, ns, optional, required, text, time_ns};
use super::{finding_from_wire, finding_to_wire, info_from_wire, info_to_wire, severity_from_wire, severity_to_wire};
use crate::{limits, v1};

/// Reads an event of an epoch. The message's own epoch, if any, is not looked at: the stream's hello decides.
///
/// # Errors
/// [`FieldError`] for a missing field or one over its limit.
pub fn event_from_wire(wire: v1::Event, epoch: Epoch) -> Result<Event, FieldError> {
    use v1::event::Body;
    if wire.seq == 0 {
        return Err(FieldError::new("seq", "0, numbers start at 1"));
    }
    let hash: [u8; 32] = wire
        .hash
        .as_slice()
        .try_into()
        .map_err(|_| FieldError::new("hash", format!("{} bytes, 32 are expected", wire.hash.len())))?;
    let finding = |f, name: &str| finding_from_wire(f).map_err(|e| e.within(name));
    let body =
        match wire.body.ok_or_else(|| FieldError::new("body", "missing, or of a kind this version does not know"))? {
            Body::FindingOpened(f) => EventBody::FindingOpened { finding: finding(f, "finding_opened")? },
            Body::FindingChanged(f) => EventBody::FindingChanged { finding: finding(f, "finding_changed")? },
            Body::FindingResolved(f) => EventBody::FindingResolved { finding: finding(f, "finding_resolved")? },
            Body::Detection(d) => {
                EventBody::Detection { detection: detection_from_wire(d).map_err(|e| e.within("detection"))? }
            }
            Body::Inventory(i) => EventBody::Inventory { node: info_from_wire(i).map_err(|e| e.within("inventory"))? },
            Body::Gap(g) => EventBody::Gap { gap: gap_from_wire(g).map_err(|e| e.within("gap"))? },
        };
    let time = time_ns(wire.time_unix_ns, "time_unix_ns")?;
    Ok(Event { epoch, seq: Seq(wire.seq), time, body, hash: ChainHash(hash) })
}

/// Writes an event with its epoch.
pub fn event_to_wire(event: &Event) -> v1::Event {
    use v1::event::Body;
    v1::Event {
        seq: event.seq.0,
        time_unix_ns: ns(event.time),
        hash: event.hash.0.to_vec(),
        body: Some(match &event.body {
            EventBody::FindingOpened { finding } => Body::FindingOpened(finding_to_wire(finding)),
            EventBody::FindingChanged { finding } => Body::FindingChanged(finding_to_wire(finding)),
            EventBody::FindingResolved { finding } => Body::FindingResolved(finding_to_wire(finding)),
            EventBody::Detection { detection } => Body::Detection(detection_to_wire(detection)),
            EventBody::Inventory { node } => Body::Inventory(info_to_wire(node)),
            EventBody::Gap { gap } => Body::Gap(gap_to_wire(gap)),
        }),
        epoch: event.epoch.to_string(),
    }
}

fn detection_from_wire(wire: v1::Detection) -> Result<Detection, FieldError> {
    let object = wire.object.unwrap_or_default();
    let part = |value, name: &str| text(value, name, limits::NAME_BYTES);
    Ok(Detection {
        rule: required(wire.rule, "rule", 128)?,
        severity: severity_from_wire(wire.severity)
            .ok_or_else(|| FieldError::new("severity", format!("unknown value {}", wire.severity)))?,
        title: text(wire.title, "title", limits::NAME_BYTES)?,
        file: text(wire.file, "file", limits::PATH_BYTES)?,
        line: wire.line,
        audit_id: text(wire.audit_id, "audit_id", limits::NAME_BYTES)?,
        audit_ids: names(wire.audit_ids, "audit_ids", limits::AUDIT_IDS)?,
        user: text(wire.user, "user", limits::NAME_BYTES)?,
        impersonated: optional(wire.impersonated, "impersonated", limits::NAME_BYTES)?,
        source: optional(wire.source, "source", 256)?,
        forgeable_sources: names(wire.forgeable_sources, "forgeable_sources", limits::SMALL_LIST)?,
        verb: text(wire.verb, "verb", 64)?,
        object: ObjectRef {
            group: part(object.group, "object.group")?,
            resource: part(object.resource, "object.resource")?,
            subresource: part(object.subresource, "object.subresource")?,
            namespace: part(object.namespace, "object.namespace")?,
            name: part(object.name, "object.name")?,
        },
        outcome: text(wire.outcome, "outcome", 64)?,
        code: match wire.code {
            0 => None,
            code => {
                Some(u16::try_from(code).map_err(|_| FieldError::new("code", format!("{code} is no HTTP status")))?)
            }
        },
        time: time_ns(wire.time_unix_ns, "time_unix_ns")?,
        last_time: time_ns(wire.last_time_unix_ns, "last_time_unix_ns")?,
        count: wire.count,
        mitre: names(wire.mitre, "mitre", limits::SMALL_LIST)?,
    })
}

fn detection_to_wire(d: &Detection) -> v1::Detection {
    v1::Detection {
        rule: d.rule.clone(),
        severity: severity_to_wire(d.severity),
        title: d.title.clone(),
        file: d.file.clone(),
        line: d.line,
        audit_id: d.audit_id.clone(),
        audit_ids: d.audit_ids.clone(),
        user: d.user.clone(),
        impersonated: d.impersonated.clone().unwrap_or_default(),
        source: d.source.clone().unwrap_or_default(),
        forgeable_sources: d.forgeable_sources.clone(),
        verb: d.verb.clone(),
        object: Some(v1::ObjectRef {
            group: d.object.group.clone(),
            resource: d.object.resource.clone(),
            subresource: d.object.subresource.clone(),
            namespace: d.object.namespace.clone(),
            name: d.object.name.clone(),
        }),
        outcome: d.outcome.clone(),
        code: d.code.map(u32::from).unwrap_or_default(),
        time_unix_ns: ns(d.time),
        last_time_unix_ns: ns(d.last_time),
        count: d.count,
        mitre: d.mitre.clone(),
    }
}

fn gap_from_wire(wire: v1::Gap) -> Result<Gap, FieldError> {
    let reason = match v1::GapReason::try_from(wire.reason) {
        Ok(v1::GapReason::OutboxFull) => GapReason::OutboxFull,
        Ok(v1::GapReason::DiskFull) => GapReason::DiskFull,
        Ok(v1::GapReason::Damaged) => GapReason::Damaged,
        Ok(v1::GapReason::AuditLog) => GapReason::AuditLog,
        Ok(v1::GapReason::Unspecified) | Err(_) => {
            return Err(FieldError::new("reason", format!("unknown value {}", wire.reason)));
        }
    };
    let seq = |n: u64| (n != 0).then_some(Seq(n));
    Ok(Gap {
        reason,
        count: wire.count,
        first: seq(wire.first_seq),
        last: seq(wire.last_seq),
        detail: text(wire.detail, "detail", limits::PATH_BYTES)?,
    })
}

fn gap_to_wire(gap: &Gap) -> v1::Gap {
    v1::Gap {
        reason: match gap.reason {
            GapReason::OutboxFull => v1::GapReason::OutboxFull,
            GapReason::DiskFull => v1::GapReason::DiskFull,
            GapReason::Damaged => v1::GapReason::Damaged,
            GapReason::AuditLog => v1::GapReason::AuditLog,
        }
        .into(),
        count: gap.count,
        first_seq: gap.first.map_or(0, |s| s.0),
        last_seq: gap.last.map_or(0, |s| s.0),
        detail: gap.detail.clone(),
    }
}
