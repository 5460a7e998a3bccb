//! A node as it describes itself.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Labels of a node: name to value, bound to its enrolment token by the operator.
pub type Labels = BTreeMap<String, String>;

/// What K3s does on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Runs the control plane.
    Server,
    /// Runs workloads only.
    Agent,
}

impl Role {
    /// The name as K3s' own command line has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Agent => "agent",
        }
    }
}

/// Inventory: what a node says of itself. Attributes, never identity.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Host name at the moment of reporting.
    pub hostname: String,
    /// K3s role; none before K3s is installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// K3s version, such as `v1.36.2+k3s1`; none where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k3s_version: Option<String>,
    /// Version of picketd.
    pub picket_version: String,
    /// Kernel release.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kernel: String,
    /// When picket first saw the server token's present value: a later time than before means that it was rotated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_since: Option<Timestamp>,
}
