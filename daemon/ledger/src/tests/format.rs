//! The bytes: what is written is read back, what is not a record is not taken for one.

use picket_model::{ChainHash, Epoch, Event, Seq, Severity};
use proptest::prelude::*;

use super::{at, detection};
use crate::AuditMark;
use crate::record::{self, SegmentHeader, Unit};

fn unit(first: u64, events: u64, mark: Option<AuditMark>) -> Unit {
    let epoch = Epoch::from_bytes([3; 16]);
    let events: Vec<Event> = (first..first + events)
        .map(|n| Event::new(epoch, Seq(n), at(1), detection(n, Severity::Low, 0), ChainHash::START))
        .collect();
    Unit { first: Seq(first), span: events.len() as u64, events, owed: vec![], mark }
}

#[test]
fn the_layout_is_what_the_documentation_says() {
    let header = record::segment_header(Epoch::from_bytes([3; 16]), Seq(7));
    assert_eq!(header.len(), record::SEGMENT_HEADER);
    assert_eq!(&header[..8], b"PICKETOB");
    assert_eq!(header[8..12], 1_u32.to_le_bytes());
    assert_eq!(header[32..40], 7_u64.to_le_bytes());
    let mut bytes = Vec::new();
    record::encode(&unit(7, 2, None), &mut bytes).unwrap();
    assert_eq!(&bytes[..4], b"pkr1");
    assert_eq!(bytes[12..16], 2_u32.to_le_bytes());
    assert_eq!(bytes[16..24], 7_u64.to_le_bytes());
    assert_eq!(bytes[24..32], 2_u64.to_le_bytes());
    assert!(bytes[36..].starts_with(br#"{"events":[{"epoch":"03030303-"#));
}

proptest! {
    #[test]
    fn units_come_back_as_they_were(events in 0u64..5, cursor in prop::option::of(prop::collection::vec(any::<u8>(), 0..200)), detector in prop::option::of(prop::collection::vec(any::<u8>(), 0..200))) {
        let mark = cursor.map(|cursor| AuditMark { cursor, detector });
        let written = unit(7, events, mark);
        let mut bytes = record::segment_header(Epoch::from_bytes([3; 16]), Seq(7));
        record::encode(&written, &mut bytes).unwrap();
        record::encode(&unit(7 + events, 1, None), &mut bytes).unwrap();
        let scan = record::scan(&bytes);
        prop_assert_eq!((scan.records.len(), scan.damage.len(), scan.tail.len()), (2, 0, 0));
        let found = &scan.records[0];
        let read = record::decode(&bytes[found.range.clone()], &found.header).unwrap();
        prop_assert_eq!((read.first, read.span, read.events, read.mark), (written.first, written.span, written.events, written.mark));
    }

    #[test]
    fn any_bytes_are_scanned_without_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..600), magic in prop::collection::vec(0usize..600, 0..4)) {
        for at in magic {
            if let Some(place) = bytes.get_mut(at..at + 4) {
                place.copy_from_slice(b"pkr1");
            }
        }
        let scan = record::scan(&bytes);
        prop_assert!(scan.records.is_empty());
        prop_assert!(!matches!(record::read_segment_header(&bytes), SegmentHeader::Good(_)));
    }
}
