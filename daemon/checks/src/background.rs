//! What the catalogue says for people: not needed for judging, so not kept in memory with the controls.

use crate::Catalogue;
use crate::packed::unpack;

/// What a person wants to know of a control besides the verdict.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Background {
    /// Why it matters: what an attacker or an accident gains when it is not so.
    pub why: String,
    /// What K3s does unless told otherwise. May be empty.
    pub default: String,
    /// How it is judged, where that is not plain. May be empty.
    pub notes: String,
}

impl Background {
    /// That of a control of the catalogue that is compiled in.
    pub fn of(id: &str) -> Option<Self> {
        // Compiled in and read by a test: right in every build or in none.
        let text = unpack(include_bytes!(concat!(env!("OUT_DIR"), "/background.z"))).unwrap_or_default();
        let lines: Vec<&str> = std::str::from_utf8(&text).ok()?.lines().collect();
        // The build script writes column after column, a line for each control.
        let catalogue = Catalogue::built_in().ok()?;
        let at = catalogue.controls().iter().position(|control| control.id == id)?;
        let column = |number: usize| {
            lines.get(number * catalogue.controls().len() + at).map(|line| (*line).to_owned()).unwrap_or_default()
        };
        Some(Self { why: column(0), default: column(1), notes: column(2) })
    }
}

#[cfg(test)]
mod tests {
    use super::Background;

    #[test]
    fn every_control_has_its_background() {
        let catalogue = crate::Catalogue::built_in().unwrap();
        for control in catalogue.controls() {
            assert!(Background::of(&control.id).is_some_and(|b| !b.why.is_empty()), "{}", control.id);
        }
        let trap = Background::of("trap-list-replaced").unwrap();
        assert!(trap.why.contains("audit log") && trap.default.contains("no drop-ins"), "{trap:?}");
        let last = Background::of(&catalogue.controls().last().unwrap().id).unwrap();
        assert!(last.why.contains("token") && last.default.contains("K3S_TOKEN"), "{last:?}");
        assert!(Background::of("k3s-rootless").unwrap().notes.contains("manual"));
        assert_eq!(Background::of("no-such-control"), None);
    }
}
