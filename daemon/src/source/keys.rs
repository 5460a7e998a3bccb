//! Private keys beside certificates, as the public key that belongs to them.
//!
//! The public key is derived from the private one inside this process, hashed, and both are dropped: what reaches the
//! snapshot is the hash of something that stands in the certificate anyway. The buffers read here are wiped.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use picket_checks::{KeyFacts, Snapshot};
use picket_host::Host;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use super::certificates::client_key;
use super::{observation, parsed};

/// The largest file with a key. `dynamic-cert.json` holds a chain too.
const LARGEST: u64 = 1024 * 1024;

/// Why a file gives no key. Never the content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// No PEM block of a private key, or a block that is cut short or no base64.
    #[error("no private key in it that can be read (PEM block of type PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY)")]
    None,
    /// A key that is damaged, too short, or of a curve that is not supported.
    #[error(
        "its private key is damaged or of a kind that cannot be compared (EC P-256 and P-384, RSA from 2048 bits and Ed25519 can)"
    )]
    Unsupported,
    /// Not what dynamic-cert.json looks like.
    #[error("not a Kubernetes Secret in JSON with data[\"tls.key\"]")]
    NotASecret,
    /// No kubeconfig with the key of one user in it.
    #[error("not one client-key-data on a line of its own")]
    NotEmbedded,
}

/// The public half of the first private key of a PEM file.
///
/// # Errors
/// [`BadKey`].
pub fn from_pem(bytes: &[u8]) -> Result<KeyFacts, BadKey> {
    let mut der = PrivateKeyDer::from_pem_slice(bytes).map_err(|_| BadKey::None)?;
    let facts = rustls::crypto::ring::sign::any_supported_type(&der)
        .ok()
        .and_then(|key| key.public_key().map(|public| hex::encode(Sha256::digest(public.as_ref()))))
        .map(|key_sha256| KeyFacts { key_sha256 });
    der.zeroize();
    facts.ok_or(BadKey::Unsupported)
}

/// The key of `dynamic-cert.json`.
///
/// # Errors
/// [`BadKey`].
pub fn from_dynamic_cert(bytes: &[u8]) -> Result<KeyFacts, BadKey> {
    #[derive(serde::Deserialize)]
    struct Secret<'a> {
        #[serde(borrow)]
        data: Data<'a>,
    }
    #[derive(serde::Deserialize)]
    struct Data<'a> {
        #[serde(rename = "tls.key", borrow)]
        key: &'a str,
    }
    let secret: Secret<'_> = serde_json::from_slice(bytes).map_err(|_| BadKey::NotASecret)?;
    from_pem(&Zeroizing::new(STANDARD.decode(secret.data.key).map_err(|_| BadKey::NotASecret)?))
}

/// The client's key of a kubeconfig.
///
/// # Errors
/// [`BadKey`].
pub fn from_kubeconfig(bytes: &[u8]) -> Result<KeyFacts, BadKey> {
    let value = client_key(bytes).ok_or(BadKey::NotEmbedded)?;
    from_pem(&Zeroizing::new(STANDARD.decode(value).map_err(|_| BadKey::None)?))
}

/// Looks at the key that belongs to each file of certificates.
pub fn observe(host: &Host, snapshot: &mut Snapshot) {
    snapshot.keys.clear();
    let files: Vec<String> = snapshot.certificates.keys().cloned().collect();
    for file in files {
        let (path, seen) = if let Some(stem) = file.strip_suffix(".crt") {
            let path = format!("{stem}.key");
            let seen = match host.lstat(path.as_ref()) {
                Err(reason) if reason.is_absent() => observation(Err(reason)),
                _ => parsed(host, &path, LARGEST, |bytes, _| from_pem(bytes)),
            };
            (path, seen)
        } else if file.ends_with("/dynamic-cert.json") {
            let seen = parsed(host, &file, LARGEST, |bytes, _| from_dynamic_cert(bytes));
            (file, seen)
        } else if file.ends_with("/k3s.yaml") {
            let seen = parsed(host, &file, LARGEST, |bytes, _| from_kubeconfig(bytes));
            (file, seen)
        } else {
            continue;
        };
        snapshot.keys.insert(path, seen);
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PublicKeyData as _};
    use sha2::{Digest, Sha256};

    use super::{BadKey, from_dynamic_cert, from_pem};

    #[test]
    fn the_public_key_of_each_kind_is_that_of_its_certificate() {
        for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let spki = hex::encode(Sha256::digest(key.subject_public_key_info()));
            assert_eq!(from_pem(key.serialize_pem().as_bytes()).unwrap().key_sha256, spki);
        }
    }

    #[test]
    fn what_is_no_key_says_so_without_its_content() {
        let key = KeyPair::generate().unwrap().serialize_pem();
        let secret = key.lines().nth(1).unwrap().to_owned();
        let cut = &key[..key.len() / 2];
        let damaged = key.replacen(&secret, &secret.chars().rev().collect::<String>(), 1);
        for (text, why) in [
            ("", BadKey::None),
            ("hello", BadKey::None),
            (cut, BadKey::None),
            ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", BadKey::Unsupported),
            (&damaged, BadKey::Unsupported),
        ] {
            let error = from_pem(text.as_bytes()).unwrap_err();
            assert_eq!(error, why);
            assert!(!error.to_string().contains(&secret[..16]));
        }
        for text in ["", "{}", "{\"data\":{\"tls.key\":\"%%\"}}", "[1]"] {
            assert_eq!(from_dynamic_cert(text.as_bytes()).unwrap_err(), BadKey::NotASecret);
        }
    }
}
