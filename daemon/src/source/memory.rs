//! What picket remembers of a node between two looks, and the key of its fingerprints.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use hmac::{Hmac, Mac};
use jiff::Timestamp;
use picket_checks::NodeConfig;
use rand::RngCore;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::at_start::Documents;

/// Makes keyed fingerprints of secrets: equal secrets on this node have equal fingerprints, and without the key a
/// fingerprint cannot be compared with a guess.
#[derive(Clone)]
pub struct Fingerprinter(Zeroizing<[u8; 32]>);

impl fmt::Debug for Fingerprinter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprinter(…)")
    }
}

impl Fingerprinter {
    /// With the key of picket's state folder.
    pub fn new(key: [u8; 32]) -> Self {
        Self(Zeroizing::new(key))
    }

    /// With a key that lasts as long as this process: good for comparing within one look, no longer.
    pub fn ephemeral() -> Self {
        let mut key = Zeroizing::new([0; 32]);
        rand::rng().fill_bytes(key.as_mut());
        Self(key)
    }

    /// The fingerprint of a secret, 32 hex digits. `purpose` keeps fingerprints of different kinds apart.
    pub fn of(&self, purpose: &str, secret: &[u8]) -> String {
        // HMAC takes keys of any length, so this cannot fail; were it to, no fingerprint is better than a weak one.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(self.0.as_ref()) else { return String::new() };
        mac.update(purpose.as_bytes());
        mac.update(&[0]);
        mac.update(secret);
        hex::encode(mac.finalize().into_bytes().iter().take(16).copied().collect::<Vec<u8>>())
    }
}

/// When something was first seen.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FirstSeen {
    /// What was seen: a keyed fingerprint or a name, never a secret.
    pub what: String,
    /// When.
    pub at: Timestamp,
    /// Whether the change to it was witnessed. If not, it may be older by any time.
    pub witnessed: bool,
}

/// What picket remembers. One-shot commands remember nothing; the daemon keeps [`Memory::seen`] in its state folder.
#[derive(Debug, Clone)]
pub struct Memory {
    /// The key of the fingerprints.
    pub fingerprints: Fingerprinter,
    /// By place (`token:/var/…`, `encryption-key:/var/…`, `audit-log:/var/…`); none without a state folder.
    pub seen: Option<BTreeMap<String, FirstSeen>>,
    /// The configuration remembered from the start of the running K3s process.
    pub running: Option<Arc<NodeConfig>>,
    /// When that process started; none where nothing was remembered of any.
    pub running_since: Option<Timestamp>,
    /// The files that process read at its start only.
    pub documents: Arc<Documents>,
    /// The version of K3s that process runs, where it was told.
    pub version: Option<String>,
}

/// How far apart two readings of one start may lie: the kernel's idea of when it booted moves with the clock.
const SAME_START: jiff::SignedDuration = jiff::SignedDuration::from_secs(3);

/// Whether two times are those of one start.
pub(crate) fn same_start(a: Timestamp, b: Timestamp) -> bool {
    a.duration_since(b).abs() <= SAME_START
}

impl Memory {
    /// Nothing, as for `picketd scan`.
    pub fn none() -> Self {
        Self {
            fingerprints: Fingerprinter::ephemeral(),
            seen: None,
            running: None,
            running_since: None,
            documents: Arc::default(),
            version: None,
        }
    }

    /// An empty memory that lasts, with the key of the state folder.
    pub fn lasting(key: [u8; 32]) -> Self {
        Self { fingerprints: Fingerprinter::new(key), seen: Some(BTreeMap::new()), ..Self::none() }
    }

    /// Whether what is remembered is of the process that started then.
    pub fn is_of(&self, started: Timestamp) -> bool {
        self.running_since.is_some_and(|since| same_start(since, started))
    }

    /// When `what` was first seen at `place`, as of a look at `now`. Does not change the memory: see
    /// [`Memory::remember`]. None without a lasting memory.
    pub fn first_seen(&self, place: &str, what: &str, now: Timestamp) -> Option<FirstSeen> {
        let seen = self.seen.as_ref()?;
        Some(match seen.get(place) {
            Some(known) if known.what == what => known.clone(),
            Some(_) => FirstSeen { what: what.to_owned(), at: now, witnessed: true },
            None => FirstSeen { what: what.to_owned(), at: now, witnessed: false },
        })
    }

    /// Takes over what a snapshot shows. Returns whether anything is new, and so has to be saved.
    pub fn remember(&mut self, snapshot: &picket_checks::Snapshot) -> bool {
        let mut news = Vec::new();
        for (path, token) in &snapshot.tokens {
            if let Some(token) = token.value() {
                news.push((format!("token:{path}"), token.fingerprint.clone()));
            }
        }
        for (path, config) in &snapshot.encryption_configs {
            if let Some(config) = config.value() {
                news.push((format!("encryption-key:{path}"), write_key(config)));
            }
        }
        for (path, log) in &snapshot.audit_logs {
            if log.value().is_some() {
                news.push((format!("audit-log:{path}"), String::new()));
            }
        }
        let mut changed = false;
        for (place, what) in news {
            let Some(first) = self.first_seen(&place, &what, snapshot.at) else { return false };
            if let Some(seen) = &mut self.seen {
                changed |= seen.get(&place) != Some(&first);
                seen.insert(place, first);
            }
        }
        changed
    }
}

/// The key that writes Secrets, by provider and name: what a rotation changes.
pub(crate) fn write_key(config: &picket_checks::EncryptionConfig) -> String {
    config
        .group_for("secrets")
        .and_then(|group| group.providers.first())
        .map(|p| format!("{}/{}", p.kind, p.key_names.first().map_or("", String::as_str)))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::{Fingerprinter, FirstSeen, Memory};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn fingerprints_depend_on_key_purpose_and_secret() {
        let a = Fingerprinter::new([1; 32]);
        assert_eq!(a.of("token", b"x"), a.of("token", b"x"));
        assert_ne!(a.of("token", b"x"), a.of("token", b"y"));
        assert_ne!(a.of("token", b"x"), a.of("other", b"x"));
        assert_ne!(a.of("token", b"x"), Fingerprinter::new([2; 32]).of("token", b"x"));
        assert_ne!(Fingerprinter::ephemeral().of("token", b"x"), Fingerprinter::ephemeral().of("token", b"x"));
        assert!(!format!("{a:?}").contains('1'));
    }

    #[test]
    fn a_change_is_told_from_a_first_look() {
        let mut memory = Memory::lasting([1; 32]);
        let first = memory.first_seen("token:/t", "aa", at(100)).unwrap();
        assert_eq!(first, FirstSeen { what: "aa".into(), at: at(100), witnessed: false });
        memory.seen.as_mut().unwrap().insert("token:/t".into(), first.clone());
        assert_eq!(memory.first_seen("token:/t", "aa", at(200)), Some(first));
        let changed = memory.first_seen("token:/t", "bb", at(300)).unwrap();
        assert_eq!((changed.at, changed.witnessed), (at(300), true));
        assert_eq!(Memory::none().first_seen("token:/t", "aa", at(100)), None);
    }
}
