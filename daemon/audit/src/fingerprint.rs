//! Fingerprints of texts, by which the memory knows what it remembers.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, DefaultHasher, Hasher};

/// Texts that fit are hashed in one go: most of the cost of short ones is beginning anew.
const AT_ONCE: usize = 256;
/// Stands between two texts. No text holds it.
const END: u8 = 0xff;

/// A fingerprint of texts. Not secret and not for equality across versions: a state that was written by another
/// version only forgets.
pub(crate) fn fingerprint<'t>(parts: impl IntoIterator<Item = &'t str>) -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut buffer = [0; AT_ONCE];
    let mut filled = 0;
    for part in parts.into_iter().map(str::as_bytes) {
        if filled + part.len() >= AT_ONCE {
            hasher.write(buffer.get(..filled).unwrap_or_default());
            filled = 0;
        }
        match buffer.get_mut(filled..=filled + part.len()).and_then(<[u8]>::split_last_mut) {
            Some((end, place)) => {
                place.copy_from_slice(part);
                *end = END;
                filled += part.len() + 1;
            }
            None => {
                hasher.write(part);
                hasher.write(&[END]);
            }
        }
    }
    hasher.write(buffer.get(..filled).unwrap_or_default());
    hasher.finish()
}

/// What is remembered by fingerprint, which need not be hashed again.
pub(crate) type ByFingerprint<V> = HashMap<u64, V, BuildHasherDefault<Itself>>;
/// Fingerprints that are remembered.
pub(crate) type Fingerprints = HashSet<u64, BuildHasherDefault<Itself>>;

/// The hash of a fingerprint is itself.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Itself(u64);

impl Hasher for Itself {
    fn write_u64(&mut self, fingerprint: u64) {
        self.0 = fingerprint;
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::hash::Hash;

    use super::*;

    #[test]
    fn texts_of_any_length_have_the_fingerprint_of_one_after_the_other() {
        for lengths in
            [vec![], vec![0], vec![0, 0], vec![5, 36, 0, 7], vec![254, 0, 3], vec![255], vec![256], vec![300, 2]]
        {
            let texts: Vec<String> = lengths.iter().map(|length| "x".repeat(*length)).collect();
            let mut hasher = DefaultHasher::new();
            texts.iter().for_each(|text| text.hash(&mut hasher));
            assert_eq!(fingerprint(texts.iter().map(String::as_str)), hasher.finish(), "{lengths:?}");
        }
        assert_ne!(fingerprint(["ab", "c"]), fingerprint(["a", "bc"]));
    }
}
