//! The collector's own certificate authority: made on first start, keys 0600 in `<state>/pki`.
//!
//! What a certificate says is decided here alone: of a request only the public key is taken, after its signature
//! was checked. Names, usages, life and serial number are ours.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use picket_model::NodeId;
use picket_service::atomic::{self, AtomicError};
use picket_service::clock::Clock;
use picket_service::tls::material::{self, Identity, MaterialError};
use picket_service::tls::peer::{self, Certificate, OperatorName, Peer, PeerError, TrustDomain};
use picket_service::tls::pin::SpkiPin;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

/// Life of the root: 10 years.
const ROOT_LIFE: Duration = Duration::from_secs(3650 * 86_400);
/// Life of the server's certificate; it is made anew when a third of it is left.
const SERVER_LIFE: Duration = Duration::from_secs(90 * 86_400);
/// Certificates are valid from a little before they were made, for clocks that are behind.
const BACKDATE: Duration = Duration::from_secs(300);

/// An authority that cannot be used, or a request that cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Its files cannot be read.
    #[error(transparent)]
    Material(#[from] MaterialError),
    /// Its files cannot be written.
    #[error(transparent)]
    Write(#[from] AtomicError),
    /// Its files do not fit together.
    #[error("{}: {problem}; restore the folder from a backup, or move it away and enrol all nodes again", path.display())]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A certificate cannot be made.
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
    /// What was made cannot be read back.
    #[error("a certificate that was just made cannot be read")]
    Read(#[from] PeerError),
    /// A time out of bounds.
    #[error("the life of a certificate is out of bounds; look at the clock and the settings")]
    Time,
    /// The request.
    #[error("the certificate request cannot be read or its signature is wrong: {0}")]
    Request(String),
}

/// A certificate that was made, ready to hand out.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate alone; the authority is handed out beside it.
    pub der: CertificateDer<'static>,
    /// Its serial number and life.
    pub certificate: Certificate,
}

/// The authority.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    pin: SpkiPin,
    domain: TrustDomain,
    folder: PathBuf,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca").field("pin", &self.pin).field("domain", &self.domain).finish_non_exhaustive()
    }
}

impl Ca {
    /// Opens the authority in `<state_dir>/pki`, or makes it. `domain` counts only when it is made: it is part of
    /// every identity, so it is then kept in `<state_dir>/pki/trust-domain`.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn open(state_dir: &Path, domain: &TrustDomain, clock: Arc<dyn Clock>) -> Result<Self, CaError> {
        let folder = state_dir.join("pki");
        atomic::folder(&folder, 0o700)?;
        let (key_file, cert_file, domain_file) =
            (folder.join("ca.key"), folder.join("ca.crt"), folder.join("trust-domain"));
        // The certificate is written last: its presence says that the rest is there.
        if !cert_file.exists() {
            let key = KeyPair::generate()?;
            let der = root(&key, clock.now())?;
            atomic::write(&key_file, Zeroizing::new(key.serialize_pem()).as_bytes(), 0o600)?;
            atomic::write(&domain_file, format!("{domain}\n").as_bytes(), 0o644)?;
            atomic::write(&cert_file, material::certificates_to_pem([der.as_ref()]).as_bytes(), 0o644)?;
            tracing::info!(folder = %folder.display(), trust_domain = %domain, "certificate authority made");
        }
        let damaged =
            |problem: &dyn std::fmt::Display| CaError::Damaged { path: folder.clone(), problem: problem.to_string() };
        let root = material::certificates(&cert_file)?
            .into_iter()
            .next()
            .ok_or_else(|| damaged(&"ca.crt holds no certificate"))?;
        let key = KeyPair::from_pem(&material::secret_text(&key_file)?).map_err(|e| damaged(&e))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&root).map_err(|e| damaged(&e))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(damaged(&"ca.key does not belong to ca.crt"));
        }
        let kept = std::fs::read_to_string(&domain_file)
            .map_err(|source| MaterialError::Read { path: domain_file.clone(), source })?;
        let kept: TrustDomain = kept.trim().parse().map_err(|e: PeerError| damaged(&e))?;
        if kept != *domain {
            tracing::warn!(kept = %kept, asked = %domain, "the trust domain stays what it was when the authority was made");
        }
        let pin = SpkiPin::of(&root).map_err(|e| damaged(&e))?;
        let issuer = Issuer::from_ca_cert_der(&root, key)?;
        Ok(Self { issuer, root, pin, domain: kept, folder, clock })
    }

    /// Fingerprint of the authority's public key, for tokens.
    pub const fn pin(&self) -> SpkiPin {
        self.pin
    }

    /// The trust domain of all identities.
    pub const fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The certificates to trust.
    pub fn authorities(&self) -> Vec<CertificateDer<'static>> {
        vec![self.root.clone()]
    }

    /// A certificate for a node's key.
    ///
    /// # Errors
    /// [`CaError::Request`] for a request that is none.
    pub fn issue_node(&self, csr_der: &[u8], id: NodeId, life: Duration) -> Result<Issued, CaError> {
        let uri = peer::node_uri(&self.domain, id);
        self.issue_client(csr_der, &uri, &id.to_string(), life)
    }

    /// A certificate for an operator's key.
    ///
    /// # Errors
    /// [`CaError::Request`] for a request that is none.
    pub fn issue_operator(&self, csr_der: &[u8], name: &OperatorName, life: Duration) -> Result<Issued, CaError> {
        let uri = peer::operator_uri(&self.domain, name);
        self.issue_client(csr_der, &uri, name.as_str(), life)
    }

    fn issue_client(&self, csr_der: &[u8], uri: &str, name: &str, life: Duration) -> Result<Issued, CaError> {
        let csr = CertificateSigningRequestDer::from(csr_der);
        let request = CertificateSigningRequestParams::from_der(&csr).map_err(|e| CaError::Request(e.to_string()))?;
        let mut params = self.params(name, life)?;
        params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let der = params.signed_by(&request.public_key, &self.issuer)?.der().clone();
        let issued = Issued { certificate: Certificate::parse(&der)?, der };
        // Read it back as the handshake will: what cannot be read is not handed out.
        Peer::parse(&issued.der, &self.domain)?;
        Ok(issued)
    }

    /// Everything that is not said by the caller: DN, life, serial number, usages, no CA.
    fn params(&self, name: &str, life: Duration) -> Result<CertificateParams, CaError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Picket");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        // 128 random bits with the top bit clear: positive, and never the same twice.
        let mut serial = [0; 16];
        rand::fill(&mut serial);
        serial[0] = serial[0] & 0x7f | 0x40;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let now = self.clock.now();
        params.not_before = offset(now, BACKDATE, false)?;
        params.not_after = offset(now, life, true)?;
        Ok(params)
    }

    /// The server's certificate for these names, from its files when it still fits, else made anew. The chain ends
    /// with the root, so that an enrolling node can find the key that its token names.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn server(&self, names: &[String]) -> Result<Identity, CaError> {
        let (key_file, cert_file) = (self.folder.join("server.key"), self.folder.join("server.crt"));
        if cert_file.exists() {
            match Identity::from_files(&cert_file, &key_file) {
                Ok(identity) if self.still_fits(&identity, names) => return Ok(identity),
                Ok(_) => {
                    tracing::info!("the server's certificate is made anew: it is near its end or its names changed")
                }
                // A key that others could read is worthless: it is replaced below.
                Err(error) => tracing::warn!(%error, "the server's certificate is made anew"),
            }
        }
        let key = KeyPair::generate()?;
        let mut params = self.params(names.first().map_or("picket-collector", String::as_str), SERVER_LIFE)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.as_str().try_into()?),
            });
        }
        let der = params.signed_by(&key, &self.issuer)?.der().clone();
        let chain = vec![der, self.root.clone()];
        atomic::write(&key_file, Zeroizing::new(key.serialize_pem()).as_bytes(), 0o600)?;
        atomic::write(&cert_file, material::certificates_to_pem(chain.iter().map(AsRef::as_ref)).as_bytes(), 0o644)?;
        Ok(Identity { chain, key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())) })
    }

    fn still_fits(&self, identity: &Identity, names: &[String]) -> bool {
        let Some((leaf, rest)) = identity.chain.split_first() else { return false };
        let Ok(certificate) = Certificate::parse(leaf) else { return false };
        let left = certificate.not_after.duration_since(self.clock.now());
        if rest != [self.root.clone()] || left.as_secs() < i64::try_from(SERVER_LIFE.as_secs() / 3).unwrap_or(i64::MAX)
        {
            return false;
        }
        let Ok((_, parsed)) = x509_parser::parse_x509_certificate(leaf) else { return false };
        let Ok(Some(found)) = parsed.subject_alternative_name() else { return false };
        use x509_parser::extensions::GeneralName;
        let has = |name: &String| {
            found.value.general_names.iter().any(|g| match (g, name.parse::<IpAddr>()) {
                (GeneralName::DNSName(dns), Err(_)) => dns == name,
                (GeneralName::IPAddress(bytes), Ok(IpAddr::V4(v4))) => *bytes == v4.octets(),
                (GeneralName::IPAddress(bytes), Ok(IpAddr::V6(v6))) => *bytes == v6.octets(),
                _ => false,
            })
        };
        found.value.general_names.len() == names.len() && names.iter().all(has)
    }
}

fn root(key: &KeyPair, now: Timestamp) -> Result<CertificateDer<'static>, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Picket");
    // Two authorities must not have the same name: rustls tells them apart by it.
    let mut tag = [0; 4];
    rand::fill(&mut tag);
    params.distinguished_name.push(DnType::CommonName, format!("Picket CA {}", hex::encode(tag)));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = offset(now, BACKDATE, false)?;
    params.not_after = offset(now, ROOT_LIFE, true)?;
    Ok(params.self_signed(key)?.der().clone())
}

/// The edge to rcgen, which speaks `time`.
fn offset(now: Timestamp, by: Duration, forward: bool) -> Result<time::OffsetDateTime, CaError> {
    let by = i64::try_from(by.as_secs()).map_err(|_| CaError::Time)?;
    let at = if forward { now.as_second().checked_add(by) } else { now.as_second().checked_sub(by) };
    at.and_then(|s| time::OffsetDateTime::from_unix_timestamp(s).ok()).ok_or(CaError::Time)
}

/// The names of the server's certificate: those of the settings, `localhost`, the loopback addresses, the host name,
/// and the advertised one; each once.
pub fn server_names(configured: &[String], advertised: Option<&str>, hostname: Option<&str>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let known = configured.iter().map(String::as_str).chain(advertised).chain(hostname);
    for name in known.chain(["localhost", "127.0.0.1", "::1"]) {
        let usable = name.parse::<IpAddr>().is_ok() || rustls_pki_types::DnsName::try_from(name).is_ok();
        if usable && !names.iter().any(|n| n == name) {
            names.push(name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use picket_service::clock::ManualClock;
    use picket_service::tls::request::KeyAndRequest;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn domain() -> TrustDomain {
        "picket.test".parse().unwrap()
    }

    fn clock() -> Arc<ManualClock> {
        Arc::new(ManualClock::new("2026-11-22T00:00:00Z".parse().unwrap()))
    }

    fn names() -> Vec<String> {
        server_names(&["collector.example".to_owned()], Some("192.0.2.1"), Some("box"))
    }

    #[test]
    fn the_authority_stays_and_its_keys_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = Ca::open(dir.path(), &domain(), clock()).unwrap();
        let server = first.server(&names()).unwrap();
        let again = Ca::open(dir.path(), &"other.test".parse().unwrap(), clock()).unwrap();
        assert_eq!((first.pin(), first.domain()), (again.pin(), again.domain()));
        assert_eq!(again.server(&names()).unwrap().chain, server.chain);
        for file in ["ca.key", "server.key"] {
            let mode = std::fs::metadata(dir.path().join("pki").join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o600, "{file}");
        }
        assert_eq!(SpkiPin::of(server.chain.last().unwrap()).unwrap(), first.pin());
    }

    #[test]
    fn the_servers_certificate_is_made_anew_near_its_end_and_for_other_names() {
        let dir = tempfile::tempdir().unwrap();
        let clock = clock();
        let ca = Ca::open(dir.path(), &domain(), clock.clone()).unwrap();
        let first = ca.server(&names()).unwrap();
        clock.advance(Duration::from_secs(59 * 86_400));
        assert_eq!(ca.server(&names()).unwrap().chain, first.chain);
        clock.advance(Duration::from_secs(2 * 86_400));
        let second = ca.server(&names()).unwrap();
        assert_ne!(second.chain, first.chain);
        assert_ne!(ca.server(&["other.example".to_owned()]).unwrap().chain, second.chain);
    }

    #[test]
    fn of_a_request_only_the_key_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::open(dir.path(), &domain(), clock()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut greedy = CertificateParams::new(vec!["collector.example".to_owned()]).unwrap();
        greedy.subject_alt_names.push(SanType::URI("spiffe://picket.test/operator/root".try_into().unwrap()));
        greedy.distinguished_name.push(DnType::CommonName, "root");
        greedy.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        greedy.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::Any];
        let csr = greedy.serialize_request(&key).unwrap();
        let id: NodeId = "0190b6f0-7c1e-7cc3-98c4-dc0c0c07398f".parse().unwrap();
        let issued = ca.issue_node(csr.der(), id, Duration::from_secs(3600)).unwrap();
        assert!(matches!(Peer::parse(&issued.der, &domain()), Ok(Peer::Node { id: got, .. }) if got == id));
        let (_, parsed) = x509_parser::parse_x509_certificate(&issued.der).unwrap();
        assert_eq!(parsed.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 1);
        assert!(!parsed.is_ca());
        let usage = parsed.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth && !usage.any);
        assert!(!parsed.key_usage().unwrap().unwrap().value.key_cert_sign());
        assert!(!parsed.subject().to_string().contains("root"));
        assert_eq!(parsed.public_key().subject_public_key.data.as_ref(), key.public_key_raw());
        let life = issued.certificate.not_after.duration_since("2026-11-22T00:00:00Z".parse().unwrap());
        assert_eq!(life.as_secs(), 3600);
    }

    #[test]
    fn a_request_with_a_wrong_signature_or_of_garbage_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::open(dir.path(), &domain(), clock()).unwrap();
        let id: NodeId = "0190b6f0-7c1e-7cc3-98c4-dc0c0c07398f".parse().unwrap();
        let mut csr = KeyAndRequest::generate().unwrap().csr_der;
        ca.issue_node(&csr, id, Duration::from_secs(60)).unwrap();
        *csr.last_mut().unwrap() ^= 1;
        for bad in [csr, vec![], vec![0x30], b"hello".to_vec(), vec![0x30; 8192]] {
            assert!(matches!(ca.issue_node(&bad, id, Duration::from_secs(60)), Err(CaError::Request(_))));
        }
    }

    #[test]
    fn two_serials_are_never_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::open(dir.path(), &domain(), clock()).unwrap();
        let csr = KeyAndRequest::generate().unwrap().csr_der;
        let id: NodeId = "0190b6f0-7c1e-7cc3-98c4-dc0c0c07398f".parse().unwrap();
        let one = ca.issue_node(&csr, id, Duration::from_secs(60)).unwrap();
        let two = ca.issue_node(&csr, id, Duration::from_secs(60)).unwrap();
        assert_ne!(one.certificate.serial, two.certificate.serial);
    }
}
