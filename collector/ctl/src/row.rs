//! What is printed: one row a node, finding or event.

use jiff::Timestamp;
use picket_model::{Epoch, Event, EventBody, Finding, NodeInfo};
use picket_proto::convert::{self, FieldError};
use picket_proto::v1;
use serde::Serialize;

/// Something that can be printed in every form.
pub(crate) trait Row: Serialize {
    /// Column titles of the table and of CSV; those after [`Row::NARROW`] are for `-o wide` and CSV.
    const COLUMNS: &'static [&'static str];
    /// How many columns the table has.
    const NARROW: usize;
    /// The cells, as many as there are columns.
    fn cells(&self, now: Timestamp) -> Vec<String>;
}

/// A node.
#[derive(Debug, Serialize)]
pub(crate) struct NodeRow {
    id: String,
    #[serde(flatten)]
    info: NodeInfo,
    labels: std::collections::BTreeMap<String, String>,
    presence: &'static str,
    enrolled_at: Timestamp,
    last_seen: Option<Timestamp>,
    open_findings: std::collections::BTreeMap<String, u32>,
    epoch: Option<String>,
    last_seq: u64,
    behind_events: u64,
    certificate_not_after: Timestamp,
    clock_offset_ms: i64,
}

impl TryFrom<v1::Node> for NodeRow {
    type Error = FieldError;

    fn try_from(wire: v1::Node) -> Result<Self, FieldError> {
        let presence = match v1::Presence::try_from(wire.presence) {
            Ok(v1::Presence::Connected) => "connected",
            Ok(v1::Presence::Away) => "away",
            Ok(v1::Presence::Silent) => "silent",
            Ok(v1::Presence::Revoked) => "revoked",
            Ok(v1::Presence::NeverSeen) => "never-seen",
            Ok(v1::Presence::Unspecified) | Err(_) => "unknown",
        };
        Ok(Self {
            id: wire.id,
            info: convert::info_from_wire(wire.info.unwrap_or_default())?,
            labels: wire.labels.into_iter().collect(),
            presence,
            enrolled_at: time_ms(wire.enrolled_at_unix_ms, "enrolled_at_unix_ms")?,
            last_seen: match wire.last_seen_unix_ms {
                0 => None,
                ms => Some(time_ms(ms, "last_seen_unix_ms")?),
            },
            open_findings: wire
                .open_findings
                .into_iter()
                .filter_map(|(s, n)| convert::severity_from_wire(s).map(|s| (s.as_str().to_owned(), n)))
                .collect(),
            epoch: Some(wire.epoch).filter(|e| !e.is_empty()),
            last_seq: wire.last_seq,
            behind_events: wire.behind_events,
            certificate_not_after: time_ms(wire.certificate_not_after_unix_ms, "certificate_not_after_unix_ms")?,
            clock_offset_ms: wire.clock_offset_ms,
        })
    }
}

impl Row for NodeRow {
    const COLUMNS: &'static [&'static str] = &[
        "NAME",
        "PRESENCE",
        "ROLE",
        "K3S",
        "CRITICAL",
        "HIGH",
        "OPEN",
        "LAST SEEN",
        "ID",
        "LABELS",
        "BEHIND",
        "CERTIFICATE ENDS",
        "PICKET",
    ];
    const NARROW: usize = 8;

    fn cells(&self, now: Timestamp) -> Vec<String> {
        let count = |severity: &str| self.open_findings.get(severity).copied().unwrap_or_default();
        let labels: Vec<String> = self.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        vec![
            self.info.hostname.clone(),
            self.presence.to_owned(),
            self.info.role.map_or("-", |r| r.as_str()).to_owned(),
            self.info.k3s_version.clone().unwrap_or_else(|| "-".into()),
            count("critical").to_string(),
            count("high").to_string(),
            self.open_findings.values().sum::<u32>().to_string(),
            self.last_seen.map_or_else(|| "never".into(), |t| ago(t, now)),
            self.id.clone(),
            labels.join(","),
            self.behind_events.to_string(),
            self.certificate_not_after.to_string(),
            self.info.picket_version.clone(),
        ]
    }
}

/// A finding on a node.
#[derive(Debug, Serialize)]
pub(crate) struct FindingRow {
    node_id: String,
    hostname: String,
    #[serde(flatten)]
    finding: Finding,
    received_at: Timestamp,
}

impl TryFrom<v1::NodeFinding> for FindingRow {
    type Error = FieldError;

    fn try_from(wire: v1::NodeFinding) -> Result<Self, FieldError> {
        Ok(Self {
            node_id: wire.node_id,
            hostname: wire.hostname,
            finding: convert::finding_from_wire(wire.finding.unwrap_or_default())?,
            received_at: time_ms(wire.received_at_unix_ms, "received_at_unix_ms")?,
        })
    }
}

impl Row for FindingRow {
    const COLUMNS: &'static [&'static str] = &[
        "NODE", "SEVERITY", "STATE", "CONTROL", "SUBJECT", "OBSERVED", "AGE", "EXPECTED", "NODE ID", "CHANGED",
        "EVIDENCE", "REMEDY",
    ];
    const NARROW: usize = 7;

    fn cells(&self, now: Timestamp) -> Vec<String> {
        let f = &self.finding;
        let place = f.evidence.first().map(|e| match (&e.path, e.line) {
            (Some(path), Some(line)) => format!("{path}:{line}"),
            (Some(path), None) => path.clone(),
            _ => e.detail.clone(),
        });
        vec![
            self.hostname.clone(),
            f.severity.to_string(),
            format!("{}{}", f.state.as_str(), if f.stale { " (stale)" } else { "" }),
            f.control.clone(),
            f.subject.clone(),
            f.observed.clone(),
            ago(f.opened_at, now),
            f.expected.clone(),
            self.node_id.clone(),
            f.changed_at.to_string(),
            place.unwrap_or_default(),
            f.remedy.clone(),
        ]
    }
}

/// An event on a node: a detection or any other.
#[derive(Debug, Serialize)]
pub(crate) struct EventRow {
    node_id: String,
    hostname: String,
    #[serde(flatten)]
    event: Event,
    received_at: Timestamp,
}

impl TryFrom<v1::NodeEvent> for EventRow {
    type Error = FieldError;

    fn try_from(wire: v1::NodeEvent) -> Result<Self, FieldError> {
        let event = wire.event.ok_or_else(|| FieldError::new("event", "missing"))?;
        let epoch: Epoch = event.epoch.parse().map_err(|e| FieldError::new("event.epoch", format!("{e}")))?;
        Ok(Self {
            node_id: wire.node_id,
            hostname: wire.hostname,
            event: convert::event_from_wire(event, epoch)?,
            received_at: time_ms(wire.received_at_unix_ms, "received_at_unix_ms")?,
        })
    }
}

impl EventRow {
    /// The finding as it is after this event, where the event is about one.
    pub(crate) fn into_finding(self) -> Option<FindingRow> {
        let finding = self.event.body.finding()?.clone();
        Some(FindingRow { node_id: self.node_id, hostname: self.hostname, finding, received_at: self.received_at })
    }

    /// Is it a detection?
    pub(crate) fn is_detection(&self) -> bool {
        matches!(self.event.body, EventBody::Detection { .. })
    }
}

impl Row for EventRow {
    const COLUMNS: &'static [&'static str] = &[
        "TIME", "NODE", "KIND", "SEVERITY", "WHAT", "ABOUT", "BY", "COUNT", "OUTCOME", "SOURCE", "SEQ", "EPOCH",
        "NODE ID", "RECEIVED", "DETAIL",
    ];
    const NARROW: usize = 8;

    fn cells(&self, _now: Timestamp) -> Vec<String> {
        let time = |t: Timestamp| format!("{:.3}", t);
        let (at, severity, what, about, by, count, outcome, source, detail) = match &self.event.body {
            EventBody::FindingOpened { finding: f }
            | EventBody::FindingChanged { finding: f }
            | EventBody::FindingResolved { finding: f } => (
                self.event.time,
                f.severity.to_string(),
                f.control.clone(),
                f.subject.clone(),
                String::new(),
                String::new(),
                String::new(),
                String::new(),
                f.observed.clone(),
            ),
            EventBody::Detection { detection: d } => {
                let o = &d.object;
                let parts = [&o.resource, &o.subresource, &o.namespace, &o.name];
                let about: Vec<&str> = parts.into_iter().filter(|p| !p.is_empty()).map(String::as_str).collect();
                let by = match &d.impersonated {
                    Some(as_user) => format!("{} as {as_user}", d.user),
                    None if d.user.is_empty() => "(nobody)".into(),
                    None => d.user.clone(),
                };
                (
                    d.time,
                    d.severity.to_string(),
                    d.rule.clone(),
                    format!("{} {}", d.verb, about.join("/")),
                    by,
                    d.count.to_string(),
                    d.outcome.clone(),
                    d.source.clone().unwrap_or_default(),
                    d.title.clone(),
                )
            }
            EventBody::Inventory { node } => (
                self.event.time,
                String::new(),
                "inventory".into(),
                node.hostname.clone(),
                String::new(),
                String::new(),
                String::new(),
                String::new(),
                [node.k3s_version.clone(), node.token_since.map(|t| format!("server token in use since {t}"))]
                    .into_iter()
                    .flatten()
                    .collect::<Vec<_>>()
                    .join(", "),
            ),
            EventBody::Gap { gap } => (
                self.event.time,
                String::new(),
                "gap".into(),
                format!("{:?}", gap.reason),
                String::new(),
                gap.count.to_string(),
                String::new(),
                String::new(),
                gap.detail.clone(),
            ),
        };
        vec![
            time(at),
            self.hostname.clone(),
            self.event.body.kind().as_str().to_owned(),
            severity,
            what,
            about,
            by,
            count,
            outcome,
            source,
            self.event.seq.to_string(),
            self.event.epoch.to_string(),
            self.node_id.clone(),
            time(self.received_at),
            detail,
        ]
    }
}

fn time_ms(ms: i64, field: &str) -> Result<Timestamp, FieldError> {
    Timestamp::from_millisecond(ms).map_err(|e| FieldError::new(field, e.to_string()))
}

/// An age as kubectl prints it.
fn ago(then: Timestamp, now: Timestamp) -> String {
    match now.duration_since(then).as_secs() {
        ..0 => "0s".into(),
        s @ 0..120 => format!("{s}s"),
        s @ 120..7200 => format!("{}m", s / 60),
        s @ 7200..172_800 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_in_kubectl() {
        let at = |s: i64| Timestamp::from_second(s).unwrap();
        let ages: Vec<String> = [0, 119, 120, 7200, 172_800].map(|s| ago(at(0), at(s))).into();
        assert_eq!(ages, ["0s", "119s", "2m", "2h", "2d"]);
        assert_eq!(ago(at(10), at(0)), "0s", "a clock behind the node's");
    }
}
