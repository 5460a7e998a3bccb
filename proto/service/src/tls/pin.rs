//! Trust in one public key.

use std::fmt;
use std::str::FromStr;

use rustls_pki_types::CertificateDer;

/// SHA-256 of a certificate's SubjectPublicKeyInfo (RFC 7469 section 2.4 pins the same bytes). It stays when the
/// certificate is renewed with the same key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpkiPin([u8; 32]);

/// A certificate without a public key that can be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a certificate: its public key cannot be found")]
pub struct NoPublicKey;

/// A text that is no pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a key fingerprint: 64 hexadecimal digits (SHA-256 of the CA's public key) are expected")]
pub struct PinError;

impl SpkiPin {
    /// The pin of a certificate's key.
    ///
    /// # Errors
    /// [`NoPublicKey`] when these bytes are no certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, NoPublicKey> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|_| NoPublicKey)?;
        let digest = ring::digest::digest(&ring::digest::SHA256, parsed.public_key().raw);
        digest.as_ref().try_into().map(Self).map_err(|_| NoPublicKey)
    }
}

impl fmt::Display for SpkiPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for SpkiPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpkiPin({self})")
    }
}

impl FromStr for SpkiPin {
    type Err = PinError;

    fn from_str(text: &str) -> Result<Self, PinError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| PinError)?;
        Ok(Self(bytes))
    }
}
