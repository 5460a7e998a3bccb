//! Text that is compiled in, compressed.

use std::io::{self, Read as _};

use flate2::read::DeflateDecoder;

/// The text behind bytes that the build script packed.
pub(crate) fn unpack(packed: &[u8]) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    DeflateDecoder::new(packed).read_to_end(&mut text)?;
    Ok(text)
}
