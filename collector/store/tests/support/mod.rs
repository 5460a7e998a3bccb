//! What the store's tests share: events and nodes.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub, reason = "tests; each binary uses a part")]

use jiff::Timestamp;
use picket_model::{
    ChainHash, Detection, Epoch, Event, EventBody, Evidence, Finding, FindingState, NodeId, ObjectRef, Seq, Severity,
};
use picket_store::{Delivery, Receipt, Refused, Store};

pub fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 16])
}

pub fn epoch(n: u8) -> Epoch {
    Epoch::from_bytes([n; 16])
}

/// A moment, in seconds after a fixed one.
pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

pub fn finding(control: &str, subject: &str, state: FindingState, severity: Severity) -> Finding {
    Finding {
        control: control.to_owned(),
        subject: subject.to_owned(),
        state,
        severity,
        title: "Restrict access to the kernel log".to_owned(),
        observed: "kernel.dmesg_restrict = 0".to_owned(),
        expected: "kernel.dmesg_restrict = 1".to_owned(),
        config_state: Some(picket_model::State::Running),
        evidence: vec![Evidence::at("/proc/sys/kernel/dmesg_restrict", "read 0").line(1).layer("kernel")],
        remedy: "Write kernel.dmesg_restrict = 1 to a file in /etc/sysctl.d and run sysctl --system.".to_owned(),
        opened_at: at(0),
        changed_at: at(1),
        reopened: 2,
        stale: false,
    }
}

pub fn opened(control: &str, severity: Severity) -> EventBody {
    EventBody::FindingOpened { finding: finding(control, "subject", FindingState::Open, severity) }
}

pub fn resolved(control: &str, severity: Severity) -> EventBody {
    EventBody::FindingResolved { finding: finding(control, "subject", FindingState::Resolved, severity) }
}

pub fn detection(rule: &str, severity: Severity) -> EventBody {
    EventBody::Detection {
        detection: Detection {
            rule: rule.to_owned(),
            severity,
            title: "Secrets were listed".to_owned(),
            file: "/var/log/kubernetes/audit.log".to_owned(),
            line: 7,
            audit_id: "0b6f".to_owned(),
            audit_ids: vec!["0b6f".to_owned()],
            user: "system:anonymous".to_owned(),
            impersonated: Some(String::new()),
            source: None,
            forgeable_sources: vec!["10.0.0.1".to_owned()],
            verb: "list".to_owned(),
            object: ObjectRef { resource: "secrets".to_owned(), ..ObjectRef::default() },
            outcome: "refused".to_owned(),
            code: Some(403),
            time: at(3),
            last_time: at(4),
            count: 3,
            mitre: vec!["T1552".to_owned()],
        },
    }
}

/// Events from number `first` on with these bodies.
pub fn events(epoch: Epoch, first: u64, bodies: impl IntoIterator<Item = EventBody>) -> Vec<Event> {
    let mut previous = ChainHash::START;
    (first..)
        .zip(bodies)
        .map(|(seq, body)| {
            let event = Event::new(epoch, Seq(seq), at(i64::try_from(seq % 1_000_000).unwrap()), body, previous);
            previous = event.hash;
            event
        })
        .collect()
}

pub fn delivery(node: NodeId, epoch: Epoch, first: u64, bodies: Vec<EventBody>) -> Delivery {
    Delivery { node, epoch, events: events(epoch, first, bodies), given_up_through: Seq::ZERO }
}

/// Commits one delivery.
pub fn commit(store: &dyn Store, second: i64, delivery: Delivery) -> Result<Receipt, Refused> {
    store.commit(at(second), vec![delivery]).unwrap().remove(0)
}
