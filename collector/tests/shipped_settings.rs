//! The settings file that the package installs says what the program does without it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;

use picket_collector::settings::{Overrides, Settings};

#[test]
fn every_key_is_shown_with_its_default() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/etc/collector.toml");
    let text = std::fs::read_to_string(&shipped).unwrap();
    let load = |file: &Path| Settings::load(Some(file), [], &Overrides::default()).unwrap();
    let usual = format!("{:?}", load(&shipped));

    // A line of prose has a blank after the `#`, a key has not. `advertise` has no default: its line is an example.
    let shown: Vec<&str> = text
        .lines()
        .map(|l| l.strip_prefix('#').filter(|k| !k.starts_with(' ') && !k.starts_with("advertise")).unwrap_or(l))
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("collector.toml");
    std::fs::write(&file, shown.join("\n")).unwrap();
    assert_eq!(format!("{:?}", load(&file)), usual);
}
