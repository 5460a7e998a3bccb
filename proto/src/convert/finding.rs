//! Findings and what they are made of.

use picket_model::{Evidence, Finding, FindingState, Severity, State};

use super::field::{FieldError, count, ns, required, text, time_ns};
use crate::{limits, v1};

/// Reads a finding.
///
/// # Errors
/// [`FieldError`] for a missing field or one over its limit.
pub fn finding_from_wire(wire: v1::Finding) -> Result<Finding, FieldError> {
    count(wire.evidence.len(), "evidence", limits::EVIDENCE)?;
    let evidence = wire
        .evidence
        .into_iter()
        .enumerate()
        .map(|(i, e)| evidence_from_wire(e).map_err(|err| err.within(&format!("evidence[{i}]"))))
        .collect::<Result<_, _>>()?;
    Ok(Finding {
        control: required(wire.control, "control", 128)?,
        subject: required(wire.subject, "subject", limits::PATH_BYTES)?,
        state: state_from_wire(wire.state)
            .ok_or_else(|| FieldError::new("state", format!("unknown value {}", wire.state)))?,
        severity: severity_from_wire(wire.severity)
            .ok_or_else(|| FieldError::new("severity", format!("unknown value {}", wire.severity)))?,
        title: text(wire.title, "title", limits::NAME_BYTES)?,
        observed: text(wire.observed, "observed", limits::TEXT_BYTES)?,
        expected: text(wire.expected, "expected", limits::TEXT_BYTES)?,
        config_state: match v1::ConfigState::try_from(wire.config_state) {
            Ok(v1::ConfigState::Running) => Some(State::Running),
            Ok(v1::ConfigState::Declared) => Some(State::Declared),
            Ok(v1::ConfigState::Both) => Some(State::Both),
            Ok(v1::ConfigState::Unspecified) | Err(_) => None,
        },
        evidence,
        remedy: text(wire.remedy, "remedy", limits::TEXT_BYTES)?,
        opened_at: time_ns(wire.opened_at_unix_ns, "opened_at_unix_ns")?,
        changed_at: time_ns(wire.changed_at_unix_ns, "changed_at_unix_ns")?,
        reopened: wire.reopened,
        stale: wire.stale,
    })
}

/// Writes a finding.
pub fn finding_to_wire(finding: &Finding) -> v1::Finding {
    v1::Finding {
        control: finding.control.clone(),
        subject: finding.subject.clone(),
        state: state_to_wire(finding.state),
        severity: severity_to_wire(finding.severity),
        title: finding.title.clone(),
        observed: finding.observed.clone(),
        expected: finding.expected.clone(),
        config_state: match finding.config_state {
            None => v1::ConfigState::Unspecified,
            Some(State::Running) => v1::ConfigState::Running,
            Some(State::Declared) => v1::ConfigState::Declared,
            Some(State::Both) => v1::ConfigState::Both,
        }
        .into(),
        evidence: finding.evidence.iter().map(evidence_to_wire).collect(),
        remedy: finding.remedy.clone(),
        opened_at_unix_ns: ns(finding.opened_at),
        changed_at_unix_ns: ns(finding.changed_at),
        reopened: finding.reopened,
        stale: finding.stale,
    }
}

fn evidence_from_wire(wire: v1::Evidence) -> Result<Evidence, FieldError> {
    Ok(Evidence {
        path: super::field::optional(wire.path, "path", limits::PATH_BYTES)?,
        line: (wire.line != 0).then_some(wire.line),
        layer: super::field::optional(wire.layer, "layer", 64)?,
        detail: text(wire.detail, "detail", limits::PATH_BYTES)?,
    })
}

fn evidence_to_wire(evidence: &Evidence) -> v1::Evidence {
    v1::Evidence {
        path: evidence.path.clone().unwrap_or_default(),
        line: evidence.line.unwrap_or_default(),
        layer: evidence.layer.clone().unwrap_or_default(),
        detail: evidence.detail.clone(),
    }
}

/// The severity a number stands for; none for an unknown number.
pub fn severity_from_wire(severity: i32) -> Option<Severity> {
    match v1::Severity::try_from(severity) {
        Ok(v1::Severity::Info) => Some(Severity::Info),
        Ok(v1::Severity::Low) => Some(Severity::Low),
        Ok(v1::Severity::Medium) => Some(Severity::Medium),
        Ok(v1::Severity::High) => Some(Severity::High),
        Ok(v1::Severity::Critical) => Some(Severity::Critical),
        Ok(v1::Severity::Unspecified) | Err(_) => None,
    }
}

/// The number a severity stands for.
pub fn severity_to_wire(severity: Severity) -> i32 {
    match severity {
        Severity::Info => v1::Severity::Info,
        Severity::Low => v1::Severity::Low,
        Severity::Medium => v1::Severity::Medium,
        Severity::High => v1::Severity::High,
        Severity::Critical => v1::Severity::Critical,
    }
    .into()
}

/// The state a number stands for; none for an unknown number.
pub fn state_from_wire(state: i32) -> Option<FindingState> {
    match v1::FindingState::try_from(state) {
        Ok(v1::FindingState::Open) => Some(FindingState::Open),
        Ok(v1::FindingState::Blind) => Some(FindingState::Blind),
        Ok(v1::FindingState::Resolved) => Some(FindingState::Resolved),
        Ok(v1::FindingState::Unspecified) | Err(_) => None,
    }
}

/// The number a state stands for.
pub fn state_to_wire(state: FindingState) -> i32 {
    match state {
        FindingState::Open => v1::FindingState::Open,
        FindingState::Blind => v1::FindingState::Blind,
        FindingState::Resolved => v1::FindingState::Resolved,
    }
    .into()
}
