//! What the catalogue says for people: not needed for judging, so not kept in memory with the controls.

use std::collections::BTreeMap;

use crate::packed::unpack;

/// What a person wants to know of a control besides the verdict.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Background {
    /// What K3s does unless told otherwise. May be empty.
    pub default: String,
    /// Why it matters, and what to mind. May be empty.
    pub notes: String,
}

impl Background {
    /// That of a control of the catalogue that is compiled in.
    pub fn of(id: &str) -> Option<Self> {
        // Compiled in and read by a test: right in every build or in none.
        let text = unpack(include_bytes!(concat!(env!("OUT_DIR"), "/background.json.z"))).unwrap_or_default();
        let all: BTreeMap<String, (String, String)> = serde_json::from_slice(&text).unwrap_or_default();
        let (default, notes) = all.into_iter().find(|(known, _)| known == id)?.1;
        Some(Self { default, notes })
    }
}

#[cfg(test)]
mod tests {
    use super::Background;

    #[test]
    fn every_control_has_its_background() {
        let catalogue = crate::Catalogue::built_in().unwrap();
        for control in catalogue.controls() {
            assert!(Background::of(&control.id).is_some(), "{}", control.id);
        }
        assert!(Background::of("trap-list-replaced").unwrap().default.contains("no drop-ins"));
        assert_eq!(Background::of("no-such-control"), None);
    }
}
