//! Keys. The first byte says what a record is; numbers are big endian, so that their order is the keys' order.
//!
//! | kind | rest of the key | value |
//! |---|---|---|
//! | meta | name | format, own epoch, retention mark |
//! | record | table, key | a small record |
//! | cursor | node, epoch | where a node's history stands |
//! | event | position | the event |
//! | event part | position, number | the rest of a long event |
//! | node index | node, last position | positions of the node's events in one unit, with their marks |
//! | detection index | last position | positions of the detections in one unit, with their marks |
//! | current | node, control, 0, hash of control and subject | which event says what a finding is now |
//! | counts | node | findings open and blind, by severity |
//! | latest | node, hash of what tells a detection from others | position of the newest event that tells of it |

use picket_model::{Detection, Epoch, NodeId};
use sha2::{Digest, Sha256};

use crate::{Position, Table};

/// What a record is. Numbers are never used again for something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Meta = 0x01,
    Record = 0x02,
    Cursor = 0x03,
    Event = 0x04,
    EventPart = 0x05,
    NodeIndex = 0x06,
    DetectionIndex = 0x07,
    Current = 0x08,
    Counts = 0x09,
    Latest = 0x0a,
}

fn start(kind: Kind, len: usize) -> Vec<u8> {
    let mut key = Vec::with_capacity(len + 1);
    key.push(kind as u8);
    key
}

/// All keys of a kind: from (included), to (excluded).
pub(crate) fn all(kind: Kind) -> (Vec<u8>, Vec<u8>) {
    (vec![kind as u8], vec![kind as u8 + 1])
}

/// All keys of a kind for one node: from (included), to (excluded).
pub(crate) fn of_node(kind: Kind, node: NodeId) -> (Vec<u8>, Vec<u8>) {
    let mut from = start(kind, 16);
    from.extend_from_slice(node.as_bytes());
    let to = successor(&from);
    (from, to)
}

/// The smallest key that does not begin with this one.
fn successor(prefix: &[u8]) -> Vec<u8> {
    let mut key = prefix.to_vec();
    while let Some(last) = key.pop() {
        if last < u8::MAX {
            key.push(last + 1);
            break;
        }
    }
    // Never empty: the first byte is a kind, and no kind is 0xff.
    key
}

/// The smallest key after this one.
pub(crate) fn after(key: &[u8]) -> Vec<u8> {
    let mut key = key.to_vec();
    key.push(0);
    key
}

pub(crate) fn meta(name: &str) -> Vec<u8> {
    let mut key = start(Kind::Meta, name.len());
    key.extend_from_slice(name.as_bytes());
    key
}

pub(crate) fn record(table: Table, name: &str) -> Vec<u8> {
    let mut key = start(Kind::Record, 1 + name.len());
    key.push(table as u8);
    key.extend_from_slice(name.as_bytes());
    key
}

pub(crate) fn table(table: Table) -> (Vec<u8>, Vec<u8>) {
    (vec![Kind::Record as u8, table as u8], vec![Kind::Record as u8, table as u8 + 1])
}

pub(crate) fn cursor(node: NodeId, epoch: Epoch) -> Vec<u8> {
    let mut key = start(Kind::Cursor, 32);
    key.extend_from_slice(node.as_bytes());
    key.extend_from_slice(epoch.as_bytes());
    key
}

pub(crate) fn event(position: Position) -> Vec<u8> {
    let mut key = start(Kind::Event, 8);
    key.extend_from_slice(&position.0.to_be_bytes());
    key
}

pub(crate) fn event_part(position: Position, part: u16) -> Vec<u8> {
    let mut key = start(Kind::EventPart, 10);
    key.extend_from_slice(&position.0.to_be_bytes());
    key.extend_from_slice(&part.to_be_bytes());
    key
}

pub(crate) fn node_index(node: NodeId, last: Position) -> Vec<u8> {
    let mut key = start(Kind::NodeIndex, 24);
    key.extend_from_slice(node.as_bytes());
    key.extend_from_slice(&last.0.to_be_bytes());
    key
}

pub(crate) fn detection_index(last: Position) -> Vec<u8> {
    let mut key = start(Kind::DetectionIndex, 8);
    key.extend_from_slice(&last.0.to_be_bytes());
    key
}

pub(crate) fn current(node: NodeId, control: &str, subject: &str) -> Vec<u8> {
    // The control stands in the clear to keep a node's findings in the order of controls; the hash makes the key short
    // and tells findings apart whatever bytes their names hold.
    let mut hash = Sha256::new();
    hash.update((control.len() as u64).to_be_bytes());
    hash.update(control.as_bytes());
    hash.update(subject.as_bytes());
    let hash = hash.finalize();
    let shown = control.as_bytes().get(..control.len().min(128)).unwrap_or_default();
    let mut key = start(Kind::Current, 16 + shown.len() + 17);
    key.extend_from_slice(node.as_bytes());
    key.extend_from_slice(shown);
    key.push(0);
    key.extend(hash.iter().take(16));
    key
}

pub(crate) fn counts(node: NodeId) -> Vec<u8> {
    let mut key = start(Kind::Counts, 16);
    key.extend_from_slice(node.as_bytes());
    key
}

/// Of a detection that is counted on, rule, first event and its time stay the same.
pub(crate) fn latest(node: NodeId, detection: &Detection) -> Vec<u8> {
    let mut hash = Sha256::new();
    for text in [&detection.rule, &detection.audit_id, &detection.file] {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text.as_bytes());
    }
    hash.update(detection.line.to_be_bytes());
    hash.update(detection.time.as_nanosecond().to_be_bytes());
    let mut key = start(Kind::Latest, 32);
    key.extend_from_slice(node.as_bytes());
    key.extend(hash.finalize().iter().take(16));
    key
}

/// The node in a key of a kind that has one.
pub(crate) fn node_of(key: &[u8]) -> Option<NodeId> {
    key.get(1..17)?.try_into().ok().map(NodeId::from_bytes)
}

/// The position at the end of a key of a kind that has one.
pub(crate) fn position_of(key: &[u8]) -> Option<Position> {
    let at = key.len().checked_sub(8)?;
    key.get(at..)?.try_into().ok().map(u64::from_be_bytes).map(Position)
}

/// The text after a record's table.
pub(crate) fn record_name(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.get(2..)?).ok()
}

/// The epoch in a cursor's key.
pub(crate) fn epoch_of(key: &[u8]) -> Option<Epoch> {
    key.get(17..33)?.try_into().ok().map(Epoch::from_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Stores in the field hold these bytes. A change here needs a new kind, not a new expectation.
    #[test]
    fn keys_stay_as_they_are() {
        let node = NodeId::from_bytes([0x11; 16]);
        let epoch = Epoch::from_bytes([0x22; 16]);
        let p = Position(0x0102);
        let n = "11".repeat(16);
        assert_eq!(hex(&meta("format")), "01666f726d6174");
        assert_eq!(hex(&record(Table::Nodes, "a")), "020161");
        assert_eq!(hex(&record(Table::Tokens, "a")), "020261");
        assert_eq!(hex(&record(Table::Operators, "a")), "020361");
        assert_eq!(hex(&record(Table::Settings, "a")), "020461");
        assert_eq!(hex(&cursor(node, epoch)), format!("03{n}{}", "22".repeat(16)));
        assert_eq!(hex(&super::event(p)), "040000000000000102");
        assert_eq!(hex(&event_part(p, 3)), "0500000000000001020003");
        assert_eq!(hex(&node_index(node, p)), format!("06{n}0000000000000102"));
        assert_eq!(hex(&detection_index(p)), "070000000000000102");
        assert_eq!(hex(&current(node, "c", "/etc")), format!("08{n}63001434ce891426475bd6c61d42bec7df32"));
        assert_eq!(hex(&counts(node)), format!("09{n}"));
        let detection = Detection {
            rule: "r".to_owned(),
            severity: picket_model::Severity::Low,
            title: String::new(),
            file: "/f".to_owned(),
            line: 7,
            audit_id: "a".to_owned(),
            audit_ids: Vec::new(),
            user: String::new(),
            impersonated: None,
            source: None,
            forgeable_sources: Vec::new(),
            verb: String::new(),
            object: picket_model::ObjectRef::default(),
            outcome: String::new(),
            code: None,
            time: jiff::Timestamp::UNIX_EPOCH,
            last_time: jiff::Timestamp::UNIX_EPOCH,
            count: 1,
            mitre: Vec::new(),
        };
        assert_eq!(hex(&latest(node, &detection)), format!("0a{n}9b65d28a797a6257e530954094360c54"));
    }

    #[test]
    fn ranges_hold_exactly_the_keys_of_a_node() {
        for last in [0x00, 0x7f, 0xff] {
            let mut bytes = [0xff; 16];
            bytes[15] = last;
            let node = NodeId::from_bytes(bytes);
            let (from, to) = of_node(Kind::NodeIndex, node);
            let inside = node_index(node, Position(u64::MAX));
            assert!(from <= inside && inside < to);
        }
        let (_, to) = of_node(Kind::NodeIndex, NodeId::from_bytes([0xff; 16]));
        assert_eq!(to, vec![Kind::DetectionIndex as u8]);
    }

    #[test]
    fn findings_with_shifted_names_have_keys_of_their_own() {
        let node = NodeId::from_bytes([1; 16]);
        assert_ne!(current(node, "a", "\0b"), current(node, "a\0", "b"));
        assert_ne!(current(node, "ab", "c"), current(node, "a", "bc"));
    }
}
