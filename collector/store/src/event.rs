//! Bytes of events. The mark comes first, so that a query can pass over an event without reading it.

use std::sync::Arc;

use jiff::Timestamp;
use picket_model::{
    ChainHash, Detection, Epoch, Event, EventBody, EventKind, Evidence, Finding, FindingState, Gap, GapReason, NodeId,
    NodeInfo, ObjectRef, Role, Seq, Severity, State,
};

use crate::codec::{DecodeError, Reader, Writer};
use crate::{Position, StoredEvent};

const VERSION: u8 = 1;

/// What queries look at first: 15 bytes, in the event and in the indexes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) kind: EventKind,
    pub(crate) severity: Option<Severity>,
    pub(crate) state: Option<FindingState>,
    /// Hash of the control or rule; 0 where there is none.
    pub(crate) topic: u32,
    /// When it became durable, milliseconds since 1970.
    pub(crate) received_ms: i64,
}

/// FNV-1a: a stable hash that is good enough to pass over most events of other controls.
pub(crate) fn topic(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

impl Mark {
    pub(crate) fn of(body: &EventBody, received_ms: i64) -> Self {
        let kind = body.kind();
        match body {
            EventBody::FindingOpened { finding }
            | EventBody::FindingChanged { finding }
            | EventBody::FindingResolved { finding } => Self {
                kind,
                severity: Some(finding.severity),
                state: Some(finding.state),
                topic: topic(&finding.control),
                received_ms,
            },
            EventBody::Detection { detection } => Self {
                kind,
                severity: Some(detection.severity),
                state: None,
                topic: topic(&detection.rule),
                received_ms,
            },
            EventBody::Inventory { .. } | EventBody::Gap { .. } => {
                Self { kind, severity: None, state: None, topic: 0, received_ms }
            }
        }
    }

    pub(crate) fn write(self, w: &mut Writer) {
        w.byte(kind_code(self.kind));
        w.byte(self.severity.map_or(0, severity_code));
        w.byte(self.state.map_or(0, state_code));
        w.raw(&self.topic.to_be_bytes());
        w.raw(&self.received_ms.to_be_bytes());
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            kind: kind_from(r.byte()?)?,
            severity: match r.byte()? {
                0 => None,
                code => Some(severity_from(code)?),
            },
            state: match r.byte()? {
                0 => None,
                code => Some(state_from(code)?),
            },
            topic: u32::from_be_bytes(r.array()?),
            received_ms: i64::from_be_bytes(r.array()?),
        })
    }
}

/// What stands before an event's content.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    pub(crate) mark: Mark,
    pub(crate) node: NodeId,
    /// How many further records hold the rest.
    pub(crate) parts: u16,
}

/// Most bytes of an event in one record; longer ones go on in parts. sled slows down beyond 16 KiB.
pub(crate) const RECORD_BYTES: usize = 12 * 1024;

/// An event as records: the first, then the parts.
pub(crate) fn encode(node: NodeId, mark: Mark, event: &Event) -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut content = Writer::default();
    write_event(&mut content, event);
    let content = content.bytes;
    let (first, rest) = content.split_at(content.len().min(RECORD_BYTES));
    let parts: Vec<Vec<u8>> = rest.chunks(RECORD_BYTES).map(<[u8]>::to_vec).collect();
    let mut head = Writer::version(VERSION);
    mark.write(&mut head);
    head.raw(node.as_bytes());
    // A message is at most 1 MiB, so there are at most some ninety parts.
    head.raw(&u16::try_from(parts.len()).unwrap_or(u16::MAX).to_be_bytes());
    head.raw(first);
    (head.bytes, parts)
}

/// What stands before the content, and the content's beginning.
pub(crate) fn head(bytes: &[u8]) -> Result<(Head, &[u8]), DecodeError> {
    let mut r = Reader::version(bytes, VERSION)?;
    let mark = Mark::read(&mut r)?;
    let node = NodeId::from_bytes(r.array()?);
    let parts = u16::from_be_bytes(r.array()?);
    // version 1, mark 15, node 16, parts 2
    Ok((Head { mark, node, parts }, bytes.get(34..).unwrap_or_default()))
}

/// An event from its content, all parts joined.
pub(crate) fn decode(head: Head, position: Position, content: &[u8]) -> Result<StoredEvent, DecodeError> {
    let mut r = Reader::bare(content);
    let event = read_event(&mut r, head.mark.kind)?;
    r.end()?;
    let received = Timestamp::from_millisecond(head.mark.received_ms).map_err(|_| DecodeError::Time)?;
    Ok(StoredEvent { position, node: head.node, received, event: Arc::new(event) })
}

fn write_event(w: &mut Writer, event: &Event) {
    w.raw(event.epoch.as_bytes());
    w.number(event.seq.0);
    w.time(event.time);
    w.raw(&event.hash.0);
    match &event.body {
        EventBody::FindingOpened { finding }
        | EventBody::FindingChanged { finding }
        | EventBody::FindingResolved { finding } => write_finding(w, finding),
        EventBody::Detection { detection } => write_detection(w, detection),
        EventBody::Inventory { node } => write_info(w, node),
        EventBody::Gap { gap } => write_gap(w, gap),
    }
}

fn read_event(r: &mut Reader<'_>, kind: EventKind) -> Result<Event, DecodeError> {
    let epoch = Epoch::from_bytes(r.array()?);
    let seq = Seq(r.number()?);
    let time = r.time()?;
    let hash = ChainHash(r.array()?);
    let body = match kind {
        EventKind::FindingOpened => EventBody::FindingOpened { finding: read_finding(r)? },
        EventKind::FindingChanged => EventBody::FindingChanged { finding: read_finding(r)? },
        EventKind::FindingResolved => EventBody::FindingResolved { finding: read_finding(r)? },
        EventKind::Detection => EventBody::Detection { detection: read_detection(r)? },
        EventKind::Inventory => EventBody::Inventory { node: read_info(r)? },
        EventKind::Gap => EventBody::Gap { gap: read_gap(r)? },
    };
    Ok(Event { epoch, seq, time, body, hash })
}

fn write_finding(w: &mut Writer, f: &Finding) {
    w.text(&f.control);
    w.text(&f.subject);
    w.byte(state_code(f.state));
    w.byte(severity_code(f.severity));
    w.text(&f.title);
    w.text(&f.observed);
    w.text(&f.expected);
    w.byte(match f.config_state {
        None => 0,
        Some(State::Running) => 1,
        Some(State::Declared) => 2,
        Some(State::Both) => 3,
    });
    w.number(f.evidence.len() as u64);
    for evidence in &f.evidence {
        w.option(evidence.path.as_deref());
        w.number(evidence.line.map_or(0, |line| u64::from(line) + 1));
        w.option(evidence.layer.as_deref());
        w.text(&evidence.detail);
    }
    w.text(&f.remedy);
    w.time(f.opened_at);
    w.time(f.changed_at);
    w.number(f.reopened.into());
    w.byte(f.stale.into());
}

fn read_finding(r: &mut Reader<'_>) -> Result<Finding, DecodeError> {
    Ok(Finding {
        control: r.text()?,
        subject: r.text()?,
        state: state_from(r.byte()?)?,
        severity: severity_from(r.byte()?)?,
        title: r.text()?,
        observed: r.text()?,
        expected: r.text()?,
        config_state: match r.byte()? {
            0 => None,
            1 => Some(State::Running),
            2 => Some(State::Declared),
            3 => Some(State::Both),
            other => return Err(DecodeError::Code(other, "configuration state")),
        },
        evidence: {
            let count = r.number()?;
            (0..count).map(|_| read_evidence(r)).collect::<Result<_, _>>()?
        },
        remedy: r.text()?,
        opened_at: r.time()?,
        changed_at: r.time()?,
        reopened: r.small()?,
        stale: r.flag()?,
    })
}

fn read_evidence(r: &mut Reader<'_>) -> Result<Evidence, DecodeError> {
    Ok(Evidence {
        path: r.option()?,
        line: match r.number()? {
            0 => None,
            line => Some(u32::try_from(line - 1).map_err(|_| DecodeError::Number)?),
        },
        layer: r.option()?,
        detail: r.text()?,
    })
}

fn write_detection(w: &mut Writer, d: &Detection) {
    w.text(&d.rule);
    w.byte(severity_code(d.severity));
    w.text(&d.title);
    w.text(&d.file);
    w.number(d.line);
    w.text(&d.audit_id);
    w.texts(&d.audit_ids);
    w.text(&d.user);
    w.option(d.impersonated.as_deref());
    w.option(d.source.as_deref());
    w.texts(&d.forgeable_sources);
    w.text(&d.verb);
    w.text(&d.object.group);
    w.text(&d.object.resource);
    w.text(&d.object.subresource);
    w.text(&d.object.namespace);
    w.text(&d.object.name);
    w.text(&d.outcome);
    w.number(d.code.map_or(0, |code| u64::from(code) + 1));
    w.time(d.time);
    w.time(d.last_time);
    w.number(d.count);
    w.texts(&d.mitre);
}

fn read_detection(r: &mut Reader<'_>) -> Result<Detection, DecodeError> {
    Ok(Detection {
        rule: r.text()?,
        severity: severity_from(r.byte()?)?,
        title: r.text()?,
        file: r.text()?,
        line: r.number()?,
        audit_id: r.text()?,
        audit_ids: r.texts()?,
        user: r.text()?,
        impersonated: r.option()?,
        source: r.option()?,
        forgeable_sources: r.texts()?,
        verb: r.text()?,
        object: ObjectRef {
            group: r.text()?,
            resource: r.text()?,
            subresource: r.text()?,
            namespace: r.text()?,
            name: r.text()?,
        },
        outcome: r.text()?,
        code: match r.number()? {
            0 => None,
            code => Some(u16::try_from(code - 1).map_err(|_| DecodeError::Number)?),
        },
        time: r.time()?,
        last_time: r.time()?,
        count: r.number()?,
        mitre: r.texts()?,
    })
}

fn write_info(w: &mut Writer, n: &NodeInfo) {
    w.text(&n.hostname);
    w.byte(match n.role {
        None => 0,
        Some(Role::Server) => 1,
        Some(Role::Agent) => 2,
    });
    w.option(n.k3s_version.as_deref());
    w.text(&n.picket_version);
    w.text(&n.kernel);
    w.option(n.token_since.map(|t| t.to_string()).as_deref());
}

fn read_info(r: &mut Reader<'_>) -> Result<NodeInfo, DecodeError> {
    Ok(NodeInfo {
        hostname: r.text()?,
        role: match r.byte()? {
            0 => None,
            1 => Some(Role::Server),
            2 => Some(Role::Agent),
            other => return Err(DecodeError::Code(other, "role")),
        },
        k3s_version: r.option()?,
        picket_version: r.text()?,
        kernel: r.text()?,
        token_since: match r.option()? {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| DecodeError::Number)?),
        },
    })
}

fn write_gap(w: &mut Writer, g: &Gap) {
    w.byte(match g.reason {
        GapReason::OutboxFull => 1,
        GapReason::DiskFull => 2,
        GapReason::Damaged => 3,
        GapReason::AuditLog => 4,
    });
    w.number(g.count);
    for seq in [g.first, g.last] {
        w.byte(seq.is_some().into());
        w.number(seq.map_or(0, |s| s.0));
    }
    w.text(&g.detail);
}

fn read_gap(r: &mut Reader<'_>) -> Result<Gap, DecodeError> {
    let reason = match r.byte()? {
        1 => GapReason::OutboxFull,
        2 => GapReason::DiskFull,
        3 => GapReason::Damaged,
        4 => GapReason::AuditLog,
        other => return Err(DecodeError::Code(other, "reason of a gap")),
    };
    let count = r.number()?;
    let mut seq = || Ok(if r.flag()? { Some(Seq(r.number()?)) } else { r.number().map(|_| None)? });
    let (first, last) = (seq()?, seq()?);
    Ok(Gap { reason, count, first, last, detail: r.text()? })
}

const fn kind_code(kind: EventKind) -> u8 {
    match kind {
        EventKind::FindingOpened => 1,
        EventKind::FindingChanged => 2,
        EventKind::FindingResolved => 3,
        EventKind::Detection => 4,
        EventKind::Inventory => 5,
        EventKind::Gap => 6,
    }
}

const fn kind_from(code: u8) -> Result<EventKind, DecodeError> {
    Ok(match code {
        1 => EventKind::FindingOpened,
        2 => EventKind::FindingChanged,
        3 => EventKind::FindingResolved,
        4 => EventKind::Detection,
        5 => EventKind::Inventory,
        6 => EventKind::Gap,
        other => return Err(DecodeError::Code(other, "kind of event")),
    })
}

pub(crate) const fn severity_code(severity: Severity) -> u8 {
    match severity {
        Severity::Info => 1,
        Severity::Low => 2,
        Severity::Medium => 3,
        Severity::High => 4,
        Severity::Critical => 5,
    }
}

pub(crate) const fn severity_from(code: u8) -> Result<Severity, DecodeError> {
    Ok(match code {
        1 => Severity::Info,
        2 => Severity::Low,
        3 => Severity::Medium,
        4 => Severity::High,
        5 => Severity::Critical,
        other => return Err(DecodeError::Code(other, "severity")),
    })
}

pub(crate) const fn state_code(state: FindingState) -> u8 {
    match state {
        FindingState::Open => 1,
        FindingState::Blind => 2,
        FindingState::Resolved => 3,
    }
}

pub(crate) const fn state_from(code: u8) -> Result<FindingState, DecodeError> {
    Ok(match code {
        1 => FindingState::Open,
        2 => FindingState::Blind,
        3 => FindingState::Resolved,
        other => return Err(DecodeError::Code(other, "state of a finding")),
    })
}
