//! What the answering side shows and accepts.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::material::Identity;
use super::peer::Certificate;
use super::{ALPN_H2, TlsError, provider, roots};

/// Shows `identity`; asks for a client certificate of one of the authorities, but lets a client without one in:
/// services demand it, the handshake does not.
///
/// A client certificate that ended less than `grace` ago is let in too, so that a device that was off can renew; the
/// caller must refuse it everything else ([`Certificate::not_after`]).
///
/// There are no session tickets: every connection shows its certificate anew.
///
/// # Errors
/// [`TlsError`] when there is no authority, or key and certificate do not fit.
pub fn config(
    authorities: &[CertificateDer<'_>],
    identity: Identity,
    grace: Duration,
) -> Result<Arc<ServerConfig>, TlsError> {
    let inner = WebPkiClientVerifier::builder_with_provider(roots(authorities)?, provider())
        .allow_unauthenticated()
        .build()
        .map_err(|e| TlsError::Verifier(e.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(GraceVerifier { inner, grace }))
        .with_single_cert(identity.chain, identity.key)?;
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// The ordinary verifier, and a second look at its last valid moment for a certificate that ended within the grace.
#[derive(Debug)]
struct GraceVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    grace: Duration,
}

impl GraceVerifier {
    /// The certificate's last valid second, when that is within the grace.
    fn last_valid(&self, end_entity: &CertificateDer<'_>, now: UnixTime) -> Option<UnixTime> {
        let not_after = Certificate::parse(end_entity).ok()?.not_after;
        let ended = not_after.duration_since(Timestamp::UNIX_EPOCH).as_secs();
        let ended = u64::try_from(ended).ok()?;
        let late = now.as_secs().checked_sub(ended)?;
        (late <= self.grace.as_secs()).then(|| UnixTime::since_unix_epoch(Duration::from_secs(ended)))
    }
}

impl ClientCertVerifier for GraceVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let refused = match self.inner.verify_client_cert(end_entity, intermediates, now) {
            Err(
                error @ rustls::Error::InvalidCertificate(
                    CertificateError::Expired | CertificateError::ExpiredContext { .. },
                ),
            ) => error,
            other => return other,
        };
        match self.last_valid(end_entity, now) {
            Some(then) => self.inner.verify_client_cert(end_entity, intermediates, then),
            None => Err(refused),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
