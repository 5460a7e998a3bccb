//! The wire contract `picket.v1`: generated messages and services, conversions to the domain, limits.
//!
//! The domain ([`picket_model`]) knows nothing of protobuf; [`convert`] is the only place where the two meet.
//! A message from the network is parsed into a domain type here, at the door, or refused with the path of the
//! field that is wrong.

pub mod convert;
pub mod limits;

/// Generated messages, clients and servers.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::large_futures,
    clippy::undocumented_unsafe_blocks,
    reason = "generated code; the .proto files hold the documentation"
)]
pub mod v1 {
    tonic::include_proto!("picket.v1");

    /// The encoded descriptors of all files, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/picket.v1.bin"));
}
