//! A key that never leaves the place where it was made, and the request (PKCS#10) to sign it.

use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use zeroize::Zeroizing;

/// A key or request that cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a key or certificate request")]
pub struct RequestError(#[from] rcgen::Error);

/// A private key with a request for a certificate.
pub struct KeyAndRequest {
    /// The private key, PKCS#8 PEM. Write it with mode 0600.
    pub key_pem: Zeroizing<String>,
    /// The request, DER.
    pub csr_der: Vec<u8>,
}

impl std::fmt::Debug for KeyAndRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyAndRequest").finish_non_exhaustive()
    }
}

impl KeyAndRequest {
    /// A new ECDSA P-256 key and its request. The request names nothing: the collector decides every name.
    ///
    /// # Errors
    /// [`RequestError`] when the system has no random bytes.
    pub fn generate() -> Result<Self, RequestError> {
        let key = KeyPair::generate()?;
        let csr_der = csr(&key)?;
        Ok(Self { key_pem: Zeroizing::new(key.serialize_pem()), csr_der })
    }

    /// A request for a key there is already.
    ///
    /// # Errors
    /// [`RequestError`] when the key cannot be read.
    pub fn for_key(key_pem: &str) -> Result<Self, RequestError> {
        let key = KeyPair::from_pem(key_pem)?;
        Ok(Self { csr_der: csr(&key)?, key_pem: Zeroizing::new(key_pem.to_owned()) })
    }
}

fn csr(key: &KeyPair) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(key)?.der().to_vec())
}
