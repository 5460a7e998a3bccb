//! The settings file that the package installs says what the program does without it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;

use picketd::settings::{Flags, KEYS, Settings, load};

#[test]
fn every_key_is_shown_with_its_default() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/etc/picketd.toml");
    let text = std::fs::read_to_string(&shipped).unwrap();
    assert_eq!(load(Some(&shipped), |_| None, &Flags::default()).unwrap(), Settings::default());

    // A line of prose has a blank after the `#`, a key has not.
    let shown: Vec<String> =
        text.lines().map(|l| l.strip_prefix('#').filter(|k| !k.starts_with(' ')).unwrap_or(l).to_owned()).collect();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("picketd.toml");
    std::fs::write(&file, shown.join("\n")).unwrap();
    assert_eq!(load(Some(&file), |_| None, &Flags::default()).unwrap(), Settings::default());
    for (key, _) in KEYS {
        let name = key.rsplit('.').next().unwrap();
        // `proc` is for sample nodes only.
        assert!(name == "proc" || shown.iter().any(|l| l.starts_with(&format!("{name} = "))), "{key} is not shown");
    }
}
