//! Any bytes as a token file.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = picketd::source::tokens::split(data);
});
