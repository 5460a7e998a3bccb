//! Who is who: TLS 1.3 with certificates on both sides, one port.
//!
//! | file | idea |
//! |---|---|
//! | [`material`] | PEM files to chains and keys; keys only from files nobody else can read |
//! | [`peer`] | the identity in a certificate: one SPIFFE ID, parsed once, at the handshake |
//! | [`pin`] | trust in one public key, as an enrolment token carries it |
//! | [`token`] | the enrolment token as text |
//! | [`request`] | a key that never leaves, and the request to sign it |
//! | [`client`], [`connector`] | the calling side, for tonic |
//! | [`server`], [`accept`] | the answering side, for tonic (feature `accept`) |
//!
//! Invariants: the cryptographic provider is always named (ring); nothing below TLS 1.3 is spoken; secrets are in
//! no error and in no `Debug` output.

#[cfg(feature = "accept")]
pub mod accept;
pub mod client;
pub mod connector;
pub mod material;
pub mod peer;
pub mod pin;
pub mod request;
#[cfg(feature = "accept")]
pub mod server;
pub mod token;

// Most of them need both sides; a build of the whole workspace has the feature.
#[cfg(all(test, feature = "accept"))]
mod tests;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// The one provider Picket uses.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The only protocol spoken inside TLS: gRPC needs HTTP/2.
pub const ALPN_H2: &[u8] = b"h2";

/// A TLS configuration that cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// rustls refuses the parts: the key does not belong to the certificate, or the like.
    #[error("these certificates and this key cannot be used together")]
    Configuration(#[from] rustls::Error),
    /// No certificate authority to trust.
    #[error("no certificate authority to trust: the list of CA certificates is empty or holds none that can be read")]
    NoAuthority,
    /// A certificate that cannot be read.
    #[error("a CA certificate cannot be used")]
    Authority(#[source] rustls::Error),
    /// The verifier cannot be built.
    #[error("the certificate verifier cannot be built: {0}")]
    Verifier(String),
}

/// Certificate authorities as rustls wants them.
///
/// # Errors
/// [`TlsError`] when there is none or one cannot be read.
pub fn roots(authorities: &[rustls_pki_types::CertificateDer<'_>]) -> Result<Arc<rustls::RootCertStore>, TlsError> {
    let mut store = rustls::RootCertStore::empty();
    for authority in authorities {
        store.add(authority.clone().into_owned()).map_err(TlsError::Authority)?;
    }
    if store.is_empty() {
        return Err(TlsError::NoAuthority);
    }
    Ok(Arc::new(store))
}
