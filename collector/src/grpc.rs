//! The services of `picket.v1`, each a thin layer: read the request, ask, answer.

pub mod admin;
pub mod enrollment;
pub mod fleet;
pub mod uplink;
