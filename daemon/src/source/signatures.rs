//! Who signed which certificate: each signature is checked with the keys of the node's certificates that bear the
//! issuer's name. Once a certificate, in how many files it may stand.

use std::collections::BTreeMap;

use picket_checks::{PublicKeyKind, Signer};
use x509_parser::error::X509Error;
use x509_parser::prelude::*;

use super::certificates::Certificate;

/// The most keys that are tried on one signature. A node has one CA of a name, two after a rotation.
const MOST_KEYS: usize = 8;

/// Notes at every certificate whose signature it bears.
pub(super) fn check<'a>(certificates: impl Iterator<Item = &'a mut Certificate>) {
    let mut certificates: Vec<&mut Certificate> = certificates.collect();
    let mut signers: BTreeMap<String, Vec<Signer>> = BTreeMap::new();
    {
        // The same CA stands in many bundles.
        let parsed: BTreeMap<&str, (&Certificate, X509Certificate<'_>)> = certificates
            .iter()
            .filter_map(|c| {
                let (_, x509) = X509Certificate::from_der(&c.der).ok()?;
                Some((c.facts.sha256.as_str(), (&**c, x509)))
            })
            .collect();
        let mut by_name: BTreeMap<&[u8], Vec<&(&Certificate, X509Certificate<'_>)>> = BTreeMap::new();
        for one in parsed.values().filter(|(c, _)| c.facts.is_ca) {
            let named = by_name.entry(one.1.subject().as_raw()).or_default();
            if named.iter().all(|(known, _)| known.facts.key_sha256 != one.0.facts.key_sha256) {
                named.push(one);
            }
        }
        for (sha256, (_, x509)) in &parsed {
            let named = by_name.get(x509.issuer().as_raw()).into_iter().flatten().take(MOST_KEYS);
            let found = named
                .map(|(ca, key)| Signer { key_sha256: ca.facts.key_sha256.clone(), made_it: made_by(x509, ca, key) });
            signers.insert((*sha256).to_owned(), found.collect());
        }
    }
    for certificate in &mut certificates {
        certificate.der = Vec::new();
        if let Some(found) = signers.get(&certificate.facts.sha256) {
            certificate.facts.signers.clone_from(found);
        }
    }
}

/// Whether a CA's key made a signature; none where that cannot be checked.
fn made_by(x509: &X509Certificate<'_>, ca: &Certificate, key: &X509Certificate<'_>) -> Option<bool> {
    let elliptic = x509.signature_algorithm.algorithm.to_id_string().starts_with("1.2.840.10045.4.");
    if elliptic && matches!(ca.facts.key, PublicKeyKind::Rsa { .. } | PublicKeyKind::Ed25519) {
        return Some(false);
    }
    // The library refuses short keys, which is no word on the signature.
    if matches!(ca.facts.key, PublicKeyKind::Rsa { bits } if !(2048..=8192).contains(&bits)) {
        return None;
    }
    match x509.verify_signature(Some(key.public_key())) {
        Ok(()) => Some(true),
        Err(X509Error::SignatureVerificationError) => Some(false),
        Err(_) => None,
    }
}
