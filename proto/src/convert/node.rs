//! Inventory.

use picket_model::{NodeInfo, Role};

use super::field::{FieldError, ns, optional, text, time_ns};
use crate::v1;

/// Reads what a node says of itself.
///
/// # Errors
/// [`FieldError`] for a field over its limit.
pub fn info_from_wire(wire: v1::NodeInfo) -> Result<NodeInfo, FieldError> {
    Ok(NodeInfo {
        role: role_from_wire(wire.role),
        hostname: text(wire.hostname, "hostname", 253)?,
        k3s_version: optional(wire.k3s_version, "k3s_version", 128)?,
        picket_version: text(wire.picket_version, "picket_version", 128)?,
        kernel: text(wire.kernel, "kernel", 256)?,
        token_since: match wire.token_since_unix_ns {
            0 => None,
            time => Some(time_ns(time, "token_since_unix_ns")?),
        },
    })
}

/// Writes what a node says of itself.
pub fn info_to_wire(info: &NodeInfo) -> v1::NodeInfo {
    v1::NodeInfo {
        hostname: info.hostname.clone(),
        role: role_to_wire(info.role),
        k3s_version: info.k3s_version.clone().unwrap_or_default(),
        picket_version: info.picket_version.clone(),
        kernel: info.kernel.clone(),
        token_since_unix_ns: info.token_since.map_or(0, ns),
    }
}

/// The role a number stands for; none for an unknown number.
pub fn role_from_wire(role: i32) -> Option<Role> {
    match v1::Role::try_from(role) {
        Ok(v1::Role::Server) => Some(Role::Server),
        Ok(v1::Role::Agent) => Some(Role::Agent),
        Ok(v1::Role::Unspecified) | Err(_) => None,
    }
}

/// The number a role stands for.
pub fn role_to_wire(role: Option<Role>) -> i32 {
    match role {
        Some(Role::Server) => v1::Role::Server.into(),
        Some(Role::Agent) => v1::Role::Agent.into(),
        None => v1::Role::Unspecified.into(),
    }
}
