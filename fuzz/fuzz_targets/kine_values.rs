//! Any bytes as the beginning of a value in kine's database, with any names of keys: a form, counted once.
#![no_main]

use libfuzzer_sys::fuzz_target;
use picket_checks::{STORED_PREFIX, StoredForm, Tally};

fuzz_target!(|data: &[u8]| {
    // Names of keys come first, each ended by a newline.
    let mut parts = data.split(|b| *b == b'\n');
    let value = parts.next_back().unwrap_or_default();
    let known: Vec<String> = parts.map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    let value = &value[..value.len().min(STORED_PREFIX)];
    for known in [&known[..], &[]] {
        let form = StoredForm::of(value, known);
        let mut tally = Tally::default();
        tally.count(&form);
        assert_eq!(tally.total(), u64::from(form != StoredForm::Empty));
        assert!(!tally.words().is_empty());
    }
});
