//! Wire to domain and back, one file per topic.

mod event;
mod field;
mod finding;
mod node;

pub use event::{event_from_wire, event_to_wire};
pub use field::FieldError;
pub use finding::{
    finding_from_wire, finding_to_wire, severity_from_wire, severity_to_wire, state_from_wire, state_to_wire,
};
pub use node::{info_from_wire, info_to_wire, role_from_wire, role_to_wire};
