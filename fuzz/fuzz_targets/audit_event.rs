//! Any bytes as a line of an audit log, through all rules.
#![no_main]

use libfuzzer_sys::fuzz_target;
use picket_audit::{Detector, Position, Settings, builtin, each_event};

thread_local! {
    // Rules are compiled once; compiling them for each input would fuzz the compiler of rules instead.
    static DETECTOR: std::cell::RefCell<Detector> =
        std::cell::RefCell::new(Detector::new(builtin().expect("built-in rules are good"), Settings::replay()));
}

fuzz_target!(|data: &[u8]| {
    DETECTOR.with_borrow_mut(|detector| {
        let mut found = Vec::new();
        for line in data.split(|b| *b == b'\n') {
            each_event(line, |event| {
                if let Ok(event) = event {
                    detector.observe(&event, Position { file: "audit.log", line: 1 }, &mut found);
                }
            });
        }
    });
});
