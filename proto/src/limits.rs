//! Limits on everything that crosses the wire, checked by the sender and by the receiver.

use prost::Message;

/// Largest message, bytes.
pub const MESSAGE_BYTES: usize = 1024 * 1024;
/// Most events in a batch.
pub const BATCH_EVENTS: usize = 256;
/// Longest text of a field that has no limit of its own, bytes.
pub const TEXT_BYTES: usize = 16 * 1024;
/// Longest path or detail, bytes.
pub const PATH_BYTES: usize = 4096;
/// Longest name, id or title, bytes.
pub const NAME_BYTES: usize = 1024;
/// Most entries of evidence.
pub const EVIDENCE: usize = 64;
/// Most audit ids in a detection.
pub const AUDIT_IDS: usize = 100;
/// Most forgeable addresses, techniques and the like.
pub const SMALL_LIST: usize = 16;
/// Largest CSR or certificate, bytes.
pub const DER_BYTES: usize = 8 * 1024;
/// Longest token, bytes.
pub const TOKEN_BYTES: usize = 256;
/// Most values in one list of a filter.
pub const FILTER_VALUES: usize = 256;
/// Entries of a page when the caller names no size.
pub const PAGE_DEFAULT: usize = 500;
/// Most entries of a page.
pub const PAGE_MAX: usize = 1000;
/// Most events under way without acknowledgement.
pub const WINDOW_EVENTS: u32 = 4096;

/// A message that its receiver would refuse. A message over the limit ends a gRPC stream without an error at the
/// sender, so the sender must ask first.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("message of {bytes} bytes is over the limit of {MESSAGE_BYTES}; send fewer events at a time")]
pub struct TooLarge {
    /// Its encoded size, bytes.
    pub bytes: usize,
}

/// Checks the encoded size of a message.
///
/// # Errors
/// [`TooLarge`] over [`MESSAGE_BYTES`].
pub fn check_size(message: &impl Message) -> Result<(), TooLarge> {
    let bytes = message.encoded_len();
    if bytes > MESSAGE_BYTES { Err(TooLarge { bytes }) } else { Ok(()) }
}
