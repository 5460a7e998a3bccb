//! How Secrets are stored: what the datastore itself says, whatever the configuration promises.
//!
//! Only the first bytes of a value are ever looked at. They say whether a value is encrypted, by which provider and
//! under which key (the storage prefix of the API server), and nothing of what is in it.

use std::collections::BTreeMap;

/// Bytes of a value that are enough to say how it is stored: the longest prefix K3s writes has 60
/// (`k8s:enc:secretbox:v1:secretboxkey-2025-12-10T22:54:38+01:00:`).
pub const STORED_PREFIX: usize = 64;

/// How one value is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredForm {
    /// Readable by whoever reads the file: protobuf (`k8s\0`) or JSON.
    Plain,
    /// Encrypted.
    Encrypted {
        /// `aescbc`, `secretbox`, `aesgcm` or `kms`.
        provider: String,
        /// Name of the key; empty where it cannot be told.
        key: String,
    },
    /// Nothing is stored: no value, or an empty one.
    Empty,
    /// None of the forms the API server writes.
    Unclear,
}

impl StoredForm {
    /// The form of a value that begins with these bytes. `known` are the names of keys in the encryption
    /// configuration: a rotated key's name holds colons, so the text alone does not say where the name ends.
    pub fn of(prefix: &[u8], known: &[String]) -> Self {
        if prefix.is_empty() {
            return Self::Empty;
        }
        if prefix.starts_with(b"k8s\0") || prefix.starts_with(b"{") {
            return Self::Plain;
        }
        let Some(rest) = prefix.strip_prefix(b"k8s:enc:") else { return Self::Unclear };
        let Some((provider, rest)) = word(rest) else { return Self::Unclear };
        let Some((version, rest)) = word(rest) else { return Self::Unclear };
        if !matches!(provider, "aescbc" | "aesgcm" | "secretbox" | "kms") || !version.starts_with('v') {
            return Self::Unclear;
        }
        Self::Encrypted { provider: provider.to_owned(), key: key_name(rest, known).unwrap_or_default() }
    }
}

/// A word of letters and digits up to the next colon, and what follows the colon.
fn word(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().position(|b| *b == b':')?;
    let (head, tail) = bytes.split_at_checked(end)?;
    let head = std::str::from_utf8(head).ok().filter(|w| w.bytes().all(|b| b.is_ascii_alphanumeric()))?;
    Some((head, tail.get(1..)?))
}

/// The name of a key that is followed by a colon and binary data.
fn key_name(bytes: &[u8], known: &[String]) -> Option<String> {
    let is = |name: &&String| bytes.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&b':'));
    if let Some(name) = known.iter().filter(is).max_by_key(|name| name.len()) {
        return Some(name.clone());
    }
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'+' | b':');
    let text = bytes.get(..bytes.iter().position(|b| !allowed(b)).unwrap_or(bytes.len()))?;
    let text = std::str::from_utf8(text).ok()?;
    let mut parts = text.split(':');
    let first = parts.next().filter(|first| !first.is_empty())?;
    // Without a colon behind it the name was cut short by the end of the prefix.
    let second = parts.next()?;
    // `<name>-2025-12-10T22:54:38Z:` or `…38+01:00:`: K3s names a rotated key by the time of its making.
    let two = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
    let in_time = |part: &str| {
        part.get(part.len().saturating_sub(3)..).is_some_and(|t| t.starts_with('T') && two(t.get(1..).unwrap_or("")))
    };
    if !in_time(first) || !two(second) {
        return Some(first.to_owned());
    }
    let Some(third) = parts.next() else { return Some(first.to_owned()) };
    let seconds_and_zone = |part: &str| part.get(..2).is_some_and(two).then(|| part.get(2..).unwrap_or("").to_owned());
    match seconds_and_zone(third) {
        Some(zone) if zone == "Z" => parts.next().map(|_| format!("{first}:{second}:{third}")),
        Some(zone) if zone.len() == 3 && zone.starts_with(['+', '-']) => {
            let fourth = parts.next().filter(|minutes| two(minutes))?;
            parts.next().map(|_| format!("{first}:{second}:{third}:{fourth}"))
        }
        _ => Some(first.to_owned()),
    }
}

/// Values by the way they are stored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    /// Readable.
    pub plain: u64,
    /// Encrypted, by provider and key name.
    pub encrypted: BTreeMap<(String, String), u64>,
    /// Of a form that is not known, or too large to be looked at.
    pub unclear: u64,
}

impl Tally {
    /// Counts a value.
    pub fn count(&mut self, form: &StoredForm) {
        match form {
            StoredForm::Plain => self.plain += 1,
            StoredForm::Encrypted { provider, key } => {
                *self.encrypted.entry((provider.clone(), key.clone())).or_default() += 1;
            }
            StoredForm::Empty => {}
            StoredForm::Unclear => self.unclear += 1,
        }
    }

    /// All that were counted.
    pub fn total(&self) -> u64 {
        self.plain + self.unclear + self.encrypted.values().sum::<u64>()
    }

    /// In words: `2 plain, 5 aescbc (aescbckey)`.
    pub fn words(&self) -> String {
        let mut parts = Vec::new();
        if self.plain > 0 {
            parts.push(format!("{} plain", self.plain));
        }
        for ((provider, key), count) in &self.encrypted {
            parts.push(if key.is_empty() {
                format!("{count} {provider}")
            } else {
                format!("{count} {provider} ({key})")
            });
        }
        if self.unclear > 0 {
            parts.push(format!("{} of a form that is not known", self.unclear));
        }
        if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
    }
}

/// The Secrets of a datastore, counted, without their names and values.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoredSecrets {
    /// Secrets that exist.
    pub live: Tally,
    /// Their former values that are still there: superseded rows, and the copy of the value before in the row itself.
    pub history: Tally,
    /// Values of Secrets that were deleted.
    pub deleted: Tally,
    /// Whether all rows were counted. False when a limit of time or number ended the reading.
    pub complete: bool,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::StoredForm;

    fn encrypted(provider: &str, key: &str) -> StoredForm {
        StoredForm::Encrypted { provider: provider.to_owned(), key: key.to_owned() }
    }

    #[test]
    fn forms_are_told_by_their_first_bytes() {
        let known = ["odd:name".to_owned(), "odd".to_owned()];
        let cases: &[(&[u8], StoredForm)] = &[
            (b"k8s\0\n\x0c\n\x02v1", StoredForm::Plain),
            (b"{\"kind\":\"Secret\"", StoredForm::Plain),
            (b"", StoredForm::Empty),
            (b"k8s:enc:aescbc:v1:aescbckey:\x01\xffbinary", encrypted("aescbc", "aescbckey")),
            (b"k8s:enc:secretbox:v1:secretboxkey:abc:def", encrypted("secretbox", "secretboxkey")),
            (
                b"k8s:enc:aescbc:v1:aescbckey-2025-12-10T22:54:38Z:\x80\x3a:",
                encrypted("aescbc", "aescbckey-2025-12-10T22:54:38Z"),
            ),
            (
                b"k8s:enc:secretbox:v1:secretboxkey-2025-12-10T22:54:38+01:00:\x80",
                encrypted("secretbox", "secretboxkey-2025-12-10T22:54:38+01:00"),
            ),
            (b"k8s:enc:aescbc:v1:odd:name:\x80", encrypted("aescbc", "odd:name")),
            (b"k8s:enc:aescbc:v1:odd:\x80", encrypted("aescbc", "odd")),
            (b"k8s:enc:kms:v2:plugin:\x80", encrypted("kms", "plugin")),
            (b"k8s:enc:aesgcm:v1:k:\x80", encrypted("aesgcm", "k")),
            // Binary data that looks like the time of a name.
            (b"k8s:enc:aescbc:v1:key:11:22", encrypted("aescbc", "key")),
            (b"k8s:enc:rot13:v1:key:x", StoredForm::Unclear),
            (b"k8s:enc:aescbc", StoredForm::Unclear),
            (b"k8s", StoredForm::Unclear),
            (b"\x00\x01", StoredForm::Unclear),
        ];
        for (bytes, form) in cases {
            assert_eq!(&StoredForm::of(bytes, &known), form, "{}", bytes.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(tail in proptest::collection::vec(any::<u8>(), 0..64), prefixed in any::<bool>()) {
            let mut bytes = if prefixed { b"k8s:enc:aescbc:v1:".to_vec() } else { Vec::new() };
            bytes.extend(tail);
            if let StoredForm::Encrypted { key, .. } = StoredForm::of(&bytes, &[]) {
                prop_assert!(key.is_ascii() && key.len() <= 64);
            }
        }
    }
}
