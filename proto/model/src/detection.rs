//! Something that happened in the audit log and matched a rule.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Severity;

/// The object a request was about (`objectRef` of the audit event).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct ObjectRef {
    /// API group; empty for core.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Resource, plural and lower case.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub resource: String,
    /// Sub-resource, such as `exec`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subresource: String,
    /// Namespace; empty for cluster-wide objects.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Name; empty for collections.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
}

/// A match of a rule, possibly of many audit events rolled into one. Never holds a body or a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detection {
    /// The catalogue's id of the rule.
    pub rule: String,
    /// How bad it is; the highest of the events rolled up.
    pub severity: Severity,
    /// The rule in a sentence.
    pub title: String,
    /// The log file, in the node's own terms.
    pub file: String,
    /// Line in that file of the event it stands at (the first; of a comparison the one that differs), from 1; 0 when it is
    /// not known (a live tail after a restart).
    pub line: u64,
    /// Audit id of the event it stands at.
    pub audit_id: String,
    /// Audit ids of the events rolled up, at most 100.
    pub audit_ids: Vec<String>,
    /// The authenticated user; empty for a failed authentication.
    pub user: String,
    /// The identity the user took on, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub impersonated: Option<String>,
    /// Last of the source addresses: the only one a client cannot forge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The other source addresses, which a client can forge.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forgeable_sources: Vec<String>,
    /// The request's verb.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub verb: String,
    /// What the request was about.
    #[serde(default)]
    pub object: ObjectRef,
    /// `allowed`, `failed`, `refused` or `not_found`: the first of these that any event rolled up came to.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub outcome: String,
    /// HTTP status code of the response with that outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// When the event it stands at happened (its stage timestamp).
    pub time: Timestamp,
    /// When the last event rolled up happened.
    pub last_time: Timestamp,
    /// How many requests were rolled up.
    pub count: u64,
    /// ATT&CK technique ids.
    pub mitre: Vec<String>,
}
