//! What a detection looks for in the audit log: so that a policy that keeps it out of the log can be told from one that
//! does not.

use serde::{Deserialize, Serialize};

/// What must stand in the audit log for a detection to match. An empty list stands for anything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetectionNeed {
    /// The id of the rule.
    pub rule: String,
    /// Whether bodies are needed: level `Request` at least. Otherwise `Metadata` is enough.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bodies: bool,
    /// Stages of which one is needed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<String>,
    /// API groups; an empty name is the core group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Resources.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Subresources; an empty name is the object itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subresources: Vec<String>,
    /// Verbs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verbs: Vec<String>,
    /// Whether the rule asks for the specification of a Pod, in whatever carries one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pods: bool,
}
