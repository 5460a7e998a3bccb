//! Names of files as text. Linux takes any bytes for a name; what is written, sent and compared here is text.
//!
//! A byte that is no UTF-8 is written `\xff`, and a backslash that would read as such a byte `\x5c`. Every name has one
//! text and every text leads back to its name, so that no file can hide behind a name that cannot be written, and none
//! can pass for another one.

use std::borrow::Cow;

/// The text of a name or path.
pub fn text(name: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(name)
        && !text.contains("\\x")
    {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(name.len() + 8);
    for chunk in name.utf8_chunks() {
        let valid = chunk.valid();
        for (at, c) in valid.char_indices() {
            match valid.as_bytes().get(at..).and_then(escaped) {
                Some(_) => out.push_str("\\x5c"),
                None => out.push(c),
            }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    Cow::Owned(out)
}

/// The name or path a text stands for.
pub fn bytes(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.windows(2).any(|pair| pair == b"\\x") {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        match escaped(rest) {
            Some(byte) => {
                out.push(byte);
                rest = rest.get(4..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    Cow::Owned(out)
}

/// The byte an escape at the beginning of a text stands for; none where there is no such escape. `\x2d`, which systemd
/// puts into names of units, is none.
fn escaped(text: &[u8]) -> Option<u8> {
    let &[b'\\', b'x', high, low] = text.get(..4)? else { return None };
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let byte = digit(high)? << 4 | digit(low)?;
    (byte >= 0x80 || byte == b'\\').then_some(byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{bytes, text};

    #[test]
    fn names_that_are_text_stay_as_they_are() {
        for name in ["config.yaml", "dev-disk-by\\x2duuid.swap", "ünïcode", "\\", "\\x", "\\xF"] {
            assert_eq!(text(name.as_bytes()), name);
            assert_eq!(bytes(name.as_bytes()).as_ref(), name.as_bytes());
        }
        assert_eq!(text(b"\xff.yaml"), "\\xff.yaml");
        assert_eq!(text(b"\\xff.yaml"), "\\x5cxff.yaml", "another file than the one before");
    }

    proptest! {
        #[test]
        fn every_name_has_a_text_of_its_own(name in prop::collection::vec(prop_oneof![
            Just(b'\\'), Just(b'x'), Just(b'5'), Just(b'c'), Just(b'f'), Just(b'/'), any::<u8>(),
        ], 0..24)) {
            let shown = text(&name);
            let back = bytes(shown.as_bytes());
            prop_assert_eq!(back.as_ref(), name.as_slice());
        }
    }
}
