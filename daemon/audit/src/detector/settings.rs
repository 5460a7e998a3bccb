//! How the detector is set up.

use super::MAX_AUDIT_IDS;
use crate::site::Site;
use crate::window::Limits;

/// When detections are handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// At the first match, then again when it became worse, with a higher count when the count doubles (from 10 on) and
    /// when the window ends. Rule, first audit id and time stay the same and identify the detection.
    #[default]
    Live,
    /// Once, when the window ends.
    Replay,
}

/// How the detector is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// When detections are handed out.
    pub mode: Mode,
    /// Site lists.
    pub site: Site,
    /// Most keys that are remembered; the one whose window ends first makes room.
    pub max_windows: usize,
    /// Most bytes that what is remembered by key costs, roughly; the keys whose windows end first make room.
    pub max_bytes: usize,
    /// Most audit ids per detection, up to [`MAX_AUDIT_IDS`].
    pub max_audit_ids: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { mode: Mode::Live, site: Site::default(), max_windows: 4096, max_bytes: 4 << 20, max_audit_ids: 32 }
    }
}

impl Settings {
    pub(super) fn limits(&self) -> Limits {
        Limits { windows: self.max_windows, bytes: self.max_bytes }
    }

    /// For a replay of files by a person: every audit id that the contract allows, and more memory.
    pub fn replay() -> Self {
        Self {
            mode: Mode::Replay,
            site: Site::default(),
            max_windows: 65_536,
            max_bytes: 256 << 20,
            max_audit_ids: MAX_AUDIT_IDS,
        }
    }
}
