//! Certificates as they are served: what K3s took into use at its start, whatever lies on disk since.
//!
//! Asked on loopback of a live node only, with a TLS 1.3 handshake and no client certificate. Any certificate is taken:
//! it is compared, not trusted, and nothing is sent over the connection. Components that demand a client certificate
//! have sent theirs by then; etcd notes a rejected connection in its log.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use picket_checks::{ServedFacts, Snapshot, serving_ports};
use picket_host::Host;
use picket_model::Observation;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::certificates;

/// How long one port may take.
const LONGEST: Duration = Duration::from_secs(1);
/// How long all of them may take together.
const LONGEST_OF_ALL: Duration = Duration::from_secs(3);

/// Asks every port that should serve one of the node's certificates. A folder that stands for a node is not asked, nor
/// is a node without a running K3s: whoever listens there then is somebody else.
pub fn observe(host: &Host, snapshot: &mut Snapshot) {
    snapshot.served.clear();
    let Some(role) = snapshot.role else { return };
    if !host.is_live() || snapshot.k3s_started_at.value().is_none() {
        return;
    }
    let config = snapshot.running.value().or(snapshot.declared.value()).map(AsRef::as_ref);
    let ports = serving_ports(role, &snapshot.data_dir, config);
    snapshot.served = look(ports.iter().map(|(port, _)| *port), &|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
}

/// Asks ports at the addresses a function gives for them.
pub fn look(
    ports: impl Iterator<Item = u16>,
    address: &dyn Fn(u16) -> SocketAddr,
) -> BTreeMap<u16, Observation<ServedFacts>> {
    let end = Instant::now() + LONGEST_OF_ALL;
    ports.map(|port| (port, one(address(port), end.min(Instant::now() + LONGEST)))).collect()
}

fn one(address: SocketAddr, until: Instant) -> Observation<ServedFacts> {
    match first_certificate(address, until) {
        Ok(None) => Observation::Absent,
        Ok(Some(der)) => match certificates::from_der(&der) {
            Some(certificate) => {
                let facts = certificate.facts;
                Observation::from(ServedFacts {
                    sha256: facts.sha256,
                    subject: facts.subject,
                    not_before: facts.not_before,
                    not_after: facts.not_after,
                })
            }
            None => Observation::unreadable("what it sends is no X.509 certificate"),
        },
        Err(reason) => Observation::unreadable(reason),
    }
}

/// The first certificate an address sends; none if nothing listens.
fn first_certificate(address: SocketAddr, until: Instant) -> Result<Option<Vec<u8>>, &'static str> {
    const LATE: &str = "did not answer in time";
    const NO_TLS: &str = "does not answer in TLS 1.3";
    let left = |until: Instant| Some(until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero());
    let mut socket = match TcpStream::connect_timeout(&address, left(until).ok_or(LATE)?) {
        Ok(socket) => socket,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(None),
        Err(error) if error.kind() == ErrorKind::TimedOut => return Err(LATE),
        Err(_) => return Err("cannot be connected to"),
    };
    let provider = Arc::new(ring::default_provider());
    let taker = Arc::new(Taker { provider: provider.clone(), taken: Mutex::new(None) });
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|_| NO_TLS)?
        .dangerous()
        .with_custom_certificate_verifier(taker.clone())
        .with_no_client_auth();
    // An address, so no name is sent: 6443 then serves what it serves to its own node.
    let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
    let mut tls = ClientConnection::new(Arc::new(config), name).map_err(|_| NO_TLS)?;
    let mut failure = NO_TLS;
    while tls.is_handshaking() {
        let Some(left) = left(until) else {
            failure = LATE;
            break;
        };
        let wait = |socket: &TcpStream| {
            socket.set_read_timeout(Some(left)).and_then(|()| socket.set_write_timeout(Some(left))).is_ok()
        };
        if !wait(&socket) {
            break;
        }
        let moved = if tls.wants_write() { tls.write_tls(&mut socket) } else { tls.read_tls(&mut socket) };
        match moved {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                failure = LATE;
                break;
            }
            Err(_) => break,
        }
        if tls.process_new_packets().is_err() {
            break;
        }
    }
    // An orderly end: the other side has nothing to complain about in its log.
    tls.send_close_notify();
    while tls.wants_write() && matches!(tls.write_tls(&mut socket), Ok(n) if n > 0) {}
    let _ = socket.flush();
    let taken = taker.taken.lock().unwrap_or_else(PoisonError::into_inner).take();
    taken.map(Some).ok_or(failure)
}

/// Keeps the first certificate and takes any: it is only compared with a file.
#[derive(Debug)]
struct Taker {
    provider: Arc<CryptoProvider>,
    taken: Mutex<Option<Vec<u8>>>,
}

impl ServerCertVerifier for Taker {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner) = Some(end_entity.to_vec());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
#[path = "served/tests.rs"]
mod tests;
