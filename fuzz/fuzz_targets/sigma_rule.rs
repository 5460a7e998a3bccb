//! Any text as a Sigma rule.
#![no_main]

use libfuzzer_sys::fuzz_target;
use picket_audit::Rule;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = Rule::from_sigma("fuzz.yml", text);
    }
});
