//! What the tail keeps in the ledger: places in the logs, the detector's memory, detections in portions.

use std::io::Read as _;

use flate2::read::{ZlibDecoder, ZlibEncoder};
use flate2::{Compression, Crc};
use jiff::Timestamp;
use picket_ledger::AuditMark;
use picket_model::EventBody;
use picket_tail::Cursor;
use serde::{Deserialize, Serialize};

/// Most bytes of one append, roughly; the ledger takes 14 MiB.
const UNIT_BYTES: usize = 6 << 20;

/// A detector's memory as it lies in the ledger. It goes with every append, and flash lives longer with less.
pub(super) fn packed(state: &[u8]) -> Vec<u8> {
    // Reading from memory does not fail.
    let mut bytes = Vec::new();
    match ZlibEncoder::new(state, Compression::fast()).read_to_end(&mut bytes) {
        Ok(_) if bytes.len() < state.len() => bytes,
        _ => state.to_vec(),
    }
}

/// The memory again; one that was not packed begins with a brace.
pub(super) fn unpacked(bytes: &[u8]) -> Vec<u8> {
    if bytes.first() == Some(&b'{') {
        return bytes.to_vec();
    }
    let mut state = Vec::new();
    // What is broken does not parse, which is told then.
    ZlibDecoder::new(bytes).take(AuditMark::DETECTOR_MAX as u64 * 2).read_to_end(&mut state).ok();
    state
}

/// The ledger takes no append of any size, and one line can hold many thousand events glued together. Nearly always
/// this is one unit; of several, the last one carries the place.
pub(super) fn in_units(bodies: Vec<EventBody>) -> Vec<Vec<EventBody>> {
    let mut units = vec![Vec::new()];
    let mut bytes = 0;
    for body in bodies {
        let size = match &body {
            EventBody::Detection { detection: d } => {
                let texts = [&d.title, &d.file, &d.user, &d.audit_id, &d.object.namespace, &d.object.name];
                let lists = d.audit_ids.iter().chain(&d.forgeable_sources).map(|text| text.len() + 3).sum::<usize>();
                // Control characters take six bytes in JSON, but detections hold none.
                1024 + 2 * texts.into_iter().map(String::len).sum::<usize>() + lists
            }
            _ => 4096,
        };
        bytes += size;
        if bytes > UNIT_BYTES {
            bytes = size;
            units.push(Vec::new());
        }
        if let Some(unit) = units.last_mut() {
            unit.push(body);
        }
    }
    units
}

/// How far the logs are accounted for, as it lies in the ledger.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Places {
    /// One of each log.
    pub(super) logs: Vec<Cursor>,
    /// Of logs that are followed no longer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) left: Vec<Cursor>,
    /// What was judged since the memory that lies in the ledger.
    pub(super) since: Since,
}

/// What was judged since the detector's memory last went into the ledger. Only with a single log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Since {
    pub(super) lines: u64,
    /// What those lines are recognised by, one after another. None in a place of before there was this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) print: Option<u64>,
    /// The last time the detector was told of without a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ticked: Option<Timestamp>,
}

impl Since {
    /// One more line was judged.
    pub(super) fn judged(&mut self, line: &[u8]) {
        let mut crc = Crc::new();
        crc.update(line);
        let (before, this) = (self.print.unwrap_or_default(), u64::from(crc.sum()) << 32 | u64::from(crc.amount()));
        // FNV-1a, a line at a time.
        self.print = Some((before ^ this).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29));
        self.lines += 1;
    }

    /// The same lines in the same order, as far as that is known.
    pub(super) fn same_lines(&self, other: &Self) -> bool {
        self.lines == other.lines
            && (self.print == other.print || self.print.is_none() || other.print.is_none() || self.lines == 0)
    }
}

/// The places in the ledger. Before, they were a list, and at first a single one.
pub(super) fn places_of(bytes: &[u8]) -> Places {
    let of = |logs| Places { logs, ..Places::default() };
    serde_json::from_slice::<Places>(bytes)
        .or_else(|_| serde_json::from_slice::<Vec<Cursor>>(bytes).map(of))
        .or_else(|_| serde_json::from_slice::<Cursor>(bytes).map(|one| of(vec![one])))
        .unwrap_or_else(|error| {
            tracing::warn!(%error, "the place in the audit log cannot be read; reading begins anew");
            Places::default()
        })
}

#[cfg(test)]
mod tests {
    use super::super::gap;
    use super::*;

    #[test]
    fn a_memory_is_the_same_after_it_was_packed_and_one_of_before_is_read_too() {
        let state = format!("{{\"windows\":[{}]}}", "[1,2],".repeat(5000)).into_bytes();
        assert!(packed(&state).len() < state.len() / 10);
        assert_eq!(unpacked(&packed(&state)), state);
        assert_eq!(unpacked(&state), state);
        assert_eq!(unpacked(&packed(b"{}")), b"{}");
    }

    #[test]
    fn more_detections_than_the_ledger_takes_at_once_are_several_appends() {
        let few = vec![gap(1, "x".into()); 3];
        assert_eq!(in_units(few.clone()), [few]);
        assert_eq!(in_units(Vec::new()), [Vec::new()]);
        let many = in_units(vec![gap(1, "x".into()); 5000]);
        assert_eq!(many.iter().map(Vec::len).sum::<usize>(), 5000);
        assert!(many.len() > 1 && many.iter().all(|unit| unit.len() * 4096 <= UNIT_BYTES));
    }

    #[test]
    fn places_of_several_logs_and_of_the_single_one_of_before_are_read() {
        let cursor = Cursor {
            path: "/a".into(),
            done: None,
            read: None,
            more: None,
            waiting: Vec::new(),
            file: None,
            orphan: None,
            orphans: Vec::new(),
        };
        let one = serde_json::to_vec(&cursor).unwrap_or_default();
        let many = serde_json::to_vec(&[&cursor, &cursor]).unwrap_or_default();
        assert_eq!(places_of(&one).logs, std::slice::from_ref(&cursor));
        assert_eq!(places_of(&many).logs.len(), 2);
        assert!(places_of(b"nonsense").logs.is_empty());
        let since = Since { lines: 7, print: Some(u64::MAX), ticked: Some(Timestamp::UNIX_EPOCH) };
        let places = Places { logs: vec![cursor.clone()], left: vec![cursor], since };
        assert_eq!(places_of(&serde_json::to_vec(&places).unwrap_or_default()), places);
        let older = format!("{{\"logs\":{},\"since\":{{\"lines\":7}}}}", String::from_utf8_lossy(&many));
        assert_eq!(
            (places_of(older.as_bytes()).since, places_of(older.as_bytes()).logs.len()),
            (Since { lines: 7, ..Since::default() }, 2)
        );
    }

    #[test]
    fn lines_judged_again_are_the_same_only_in_the_same_order_and_number() {
        let judged = |lines: &[&str]| {
            let mut since = Since::default();
            lines.iter().for_each(|line| since.judged(line.as_bytes()));
            since
        };
        let all = judged(&["a", "b", "c"]);
        assert!(all.same_lines(&judged(&["a", "b", "c"])));
        for others in [&["a", "b"][..], &["a", "c", "b"], &["a", "b", "d"], &["ab", "", "c"], &["a", "b", "c", "c"]] {
            assert!(!all.same_lines(&judged(others)), "{others:?}");
        }
        assert!(all.same_lines(&Since { print: None, ..all }), "an older place knows only how many there were");
    }
}
