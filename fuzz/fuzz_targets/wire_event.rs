//! Any bytes as an event from a node: refused with the field's name, or an event that goes out as it came in.
#![no_main]

use libfuzzer_sys::fuzz_target;
use picket_model::Epoch;
use picket_proto::convert::{event_from_wire, event_to_wire};
use prost::Message as _;

fuzz_target!(|data: &[u8]| {
    let epoch = Epoch::from_bytes([7; 16]);
    if let Ok(wire) = picket_proto::v1::Event::decode(data)
        && let Ok(event) = event_from_wire(wire, epoch)
    {
        let again = event_from_wire(event_to_wire(&event), epoch).expect("what went out comes in");
        assert_eq!(again, event);
    }
});
