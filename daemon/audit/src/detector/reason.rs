//! Why a detection was raised, for a person who asks.

use picket_model::Detection;
use serde::Serialize;

use super::Detector;

/// A field that made a rule match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// Name of the field, see FIELDS.md.
    pub field: String,
    /// Its value, where that can hold no secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// What tells one detection of a run from the others.
pub(super) type Place = (String, String, String, u64);

pub(super) fn place(detection: &Detection) -> Place {
    (detection.rule.clone(), detection.audit_id.clone(), detection.file.clone(), detection.line)
}

impl Detector {
    /// From now on notes why each detection was raised, for [`Detector::reasons`].
    pub fn explain(&mut self) {
        self.reasons.get_or_insert_default();
    }

    /// Why a detection was raised: the fields of the rule that the event met. Values from bodies, URLs and command
    /// lines are left out, since they may hold secrets.
    pub fn reasons(&self, detection: &Detection) -> &[Reason] {
        self.reasons.as_ref().and_then(|reasons| reasons.get(&place(detection))).map_or(&[], Vec::as_slice)
    }
}
