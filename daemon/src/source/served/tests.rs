//! Against real TLS servers on loopback.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use picket_checks::compare_served;
use picket_model::Observation;
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::PrivatePkcs8KeyDer;

use super::super::certificates::from_der;
use super::{look, one};

/// A server that shakes hands with as many clients as come, and the DER of its certificate.
fn server(demands_client: bool) -> (SocketAddr, Vec<u8>) {
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
    let der = cert.der().to_vec();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap();
    let builder = if demands_client {
        let ca = CertifiedIssuer::self_signed(
            {
                let mut params = CertificateParams::default();
                params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
                params
            },
            KeyPair::generate().unwrap(),
        )
        .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        builder.with_client_cert_verifier(
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap(),
        )
    } else {
        builder.with_no_client_auth()
    };
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let config = Arc::new(builder.with_single_cert(vec![cert.der().clone()], key.into()).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            let mut tls = ServerConnection::new(config.clone()).unwrap();
            while tls.is_handshaking() && tls.complete_io(&mut socket).is_ok() {}
        }
    });
    (address, der)
}

fn compare(served: &picket_checks::ServedFacts, file: &picket_checks::CertFacts) -> (bool, String) {
    compare_served(served, &file.sha256, file.not_before, file.not_after)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

#[test]
fn the_first_certificate_is_taken_whether_a_client_certificate_is_demanded_or_not() {
    for demands_client in [false, true] {
        let (address, der) = server(demands_client);
        let seen = one(address, soon());
        let served = seen.value().unwrap_or_else(|| panic!("{seen:?}"));
        let file = from_der(&der).unwrap().facts;
        assert_eq!(served.sha256, file.sha256);
        assert!(compare(served, &file).0);
    }
}

#[test]
fn a_file_newer_than_what_is_served_waits_for_a_restart() {
    let (address, _) = server(false);
    let served = one(address, soon());
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2040, 1, 1);
    params.not_after = rcgen::date_time_ymd(2041, 1, 1);
    let newer = from_der(params.self_signed(&key).unwrap().der()).unwrap().facts;
    let (same, words) = compare(served.value().unwrap(), &newer);
    assert!(!same && words.contains("restart"), "{words}");
    params.not_before = rcgen::date_time_ymd(1970, 1, 1);
    let older = from_der(params.self_signed(&key).unwrap().der()).unwrap().facts;
    let (same, words) = compare(served.value().unwrap(), &older);
    assert!(!same && words.contains("another certificate"), "{words}");
}

#[test]
fn each_port_is_asked_where_the_map_says_and_nothing_listening_is_absent() {
    let (one, der) = server(false);
    let (two, _) = server(true);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let seen = look([6443, 2379, 10250].into_iter(), &|port| match port {
        6443 => one,
        2379 => two,
        _ => free,
    });
    assert_eq!(seen[&6443].value().unwrap().sha256, from_der(&der).unwrap().facts.sha256);
    assert_ne!(seen[&2379].value().unwrap().sha256, seen[&6443].value().unwrap().sha256);
    assert_eq!(seen[&10250], Observation::Absent);
}

#[test]
fn silence_and_nonsense_are_unreadable_and_end_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // Accepted by the kernel, answered by nobody.
    let silent = listener.local_addr().unwrap();
    let seen = one(silent, Instant::now() + Duration::from_millis(50));
    assert_eq!(seen, Observation::unreadable("did not answer in time"));
    drop(listener);

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let plain = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut hello = [0; 64];
        assert!(socket.read(&mut hello).unwrap() > 0);
        socket.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request").unwrap();
    });
    assert_eq!(one(address, soon()), Observation::unreadable("does not answer in TLS 1.3"));
    plain.join().unwrap();
}
