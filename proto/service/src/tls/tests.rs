//! Handshakes over real sockets.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::io;
use std::time::Duration;

use jiff::Timestamp;
use picket_model::NodeId;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls_pki_types::CertificateDer;

use super::connector::{Address, Dialer};
use super::material::{self, Identity, MaterialError};
use super::peer::{OperatorName, Peer, PeerError, TrustDomain, node_uri};
use super::pin::SpkiPin;
use super::request::KeyAndRequest;
use super::token::{EnrollToken, TokenError};

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
}

fn authority() -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let der = params.self_signed(&key).unwrap().der().clone();
    Authority { issuer: Issuer::new(params, key), der }
}

fn issue(ca: &Authority, names: &[SanType], from: i64, to: i64) -> Identity {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = names.to_vec();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let now = time::OffsetDateTime::now_utc();
    params.not_before = now + time::Duration::seconds(from);
    params.not_after = now + time::Duration::seconds(to);
    let cert = params.signed_by(&key, &ca.issuer).unwrap();
    Identity {
        chain: vec![cert.der().clone(), ca.der.clone()],
        key: rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn domain() -> TrustDomain {
    "picket.test".parse().unwrap()
}

const NODE: &str = "0190b6f0-7c1e-7cc3-98c4-dc0c0c07398f";

#[test]
fn an_identity_is_exactly_one_spiffe_id_of_this_trust_domain() {
    let ca = authority();
    let parse = |names: &[SanType]| Peer::parse(&issue(&ca, names, -10, 60).chain[0], &domain());
    let id: NodeId = NODE.parse().unwrap();
    let good = parse(&[uri(&node_uri(&domain(), id)), SanType::DnsName("web".try_into().unwrap())]).unwrap();
    assert!(matches!(good, Peer::Node { id: got, .. } if got == id));
    let ada = parse(&[uri("spiffe://picket.test/operator/ada")]).unwrap();
    assert!(matches!(ada, Peer::Operator { name, .. } if name.as_str() == "ada"));

    let two = [uri("spiffe://picket.test/operator/ada"), uri("spiffe://picket.test/operator/eve")];
    assert_eq!(parse(&two), Err(PeerError::Names(2)));
    assert_eq!(parse(&[]), Err(PeerError::Names(0)));
    assert!(matches!(parse(&[uri("spiffe://other.test/operator/ada")]), Err(PeerError::Foreign { .. })));
    for bad in [
        "spiffe://picket.test",
        "spiffe://picket.test/",
        "spiffe://picket.test/node",
        "spiffe://picket.test/node/",
        "spiffe://picket.test/node/web1",
        "spiffe://picket.test/node/0190B6F0-7C1E-7CC3-98C4-DC0C0C07398F",
        "spiffe://picket.test/node/0190b6f07c1e7cc398c4dc0c0c07398f",
        "spiffe://picket.test/operator/",
        "spiffe://picket.test/operator/Ada",
        "spiffe://picket.test/operator/a/b",
        "spiffe://picket.test/admin/ada",
        "https://picket.test/operator/ada",
    ] {
        assert!(parse(&[uri(bad)]).is_err(), "{bad}");
    }
}

#[test]
fn tokens_read_back_and_hide_their_secret() {
    let pin = SpkiPin::of(&authority().der).unwrap();
    let token = EnrollToken::generate(pin).unwrap();
    let text = token.reveal();
    let back: EnrollToken = text.parse().unwrap();
    assert_eq!((back.id.clone(), back.pin, back.secret_hash()), (token.id.clone(), pin, token.secret_hash()));
    let secret = text.split('.').nth(2).unwrap();
    assert!(!format!("{token:?}").contains(secret));
    for (bad, expected) in [
        (text.replacen("pkt1", "pkt2", 1), TokenError::Shape),
        (format!("{}.x", *text), TokenError::Shape),
        (String::new(), TokenError::Shape),
        (text.replacen(secret, &secret[1..], 1), TokenError::Secret),
        (text[..text.len() - 1].to_owned(), TokenError::Pin),
    ] {
        assert_eq!(bad.parse::<EnrollToken>().unwrap_err(), expected);
    }
}

proptest::proptest! {
    #[test]
    fn no_text_breaks_a_parser(text in ".{0,80}") {
        text.parse::<EnrollToken>().ok();
        text.parse::<Address>().ok();
        text.parse::<TrustDomain>().ok();
        text.parse::<OperatorName>().ok();
    }
}

#[test]
fn addresses_are_read_as_people_write_them() {
    for (text, host, port) in [
        ("collector.example:7000", "collector.example", 7000),
        ("collector.example", "collector.example", 7443),
        ("192.0.2.1:1", "192.0.2.1", 1),
        ("[2001:db8::1]:7000", "2001:db8::1", 7000),
        ("[2001:db8::1]", "2001:db8::1", 7443),
        ("2001:db8::1", "2001:db8::1", 7443),
    ] {
        let address: Address = text.parse().unwrap();
        assert_eq!((address.host.as_str(), address.port), (host, port), "{text}");
        assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
    }
    for bad in ["", ":7443", "host:0", "host:70000", "host:port", "https://host:1", "[::1", "a b:1"] {
        assert!(bad.parse::<Address>().is_err(), "{bad}");
    }
}

#[test]
fn keys_that_others_can_read_are_refused_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key.pem");
    let key = KeyAndRequest::generate().unwrap();
    crate::atomic::write(&path, key.key_pem.as_bytes(), 0o644).unwrap();
    let error = material::private_key(&path).unwrap_err();
    assert!(matches!(error, MaterialError::Mode { mode: 0o644, .. }));
    assert!(error.to_string().contains("chmod 600"), "{error}");
    crate::atomic::write(&path, key.key_pem.as_bytes(), 0o600).unwrap();
    material::private_key(&path).unwrap();
    crate::atomic::write(&path, b"not a key", 0o600).unwrap();
    assert!(matches!(material::private_key(&path), Err(MaterialError::NoKey { .. })));
    assert!(matches!(material::certificates(&path), Err(MaterialError::NoCertificate { .. })));
}

mod handshakes {
    use std::sync::Arc;

    use rustls::ClientConfig;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::TlsConnector;
    use tokio_stream::StreamExt as _;
    use tokio_stream::wrappers::ReceiverStream;
    use tokio_util::sync::CancellationToken;
    use tonic::transport::server::Connected as _;

    use super::*;
    use crate::tls::accept::{Connection, Door, Limits};
    use crate::tls::connector::ConnectFailure;
    use crate::tls::{client, server};

    const GRACE: Duration = Duration::from_secs(3600);

    struct Site {
        ca: Authority,
        door: Door,
        address: Address,
        incoming: ReceiverStream<io::Result<Connection>>,
    }

    async fn site(names: &[&str]) -> Site {
        site_with(names, Limits::default()).await
    }

    async fn site_with(names: &[&str], limits: Limits) -> Site {
        let ca = authority();
        let names: Vec<SanType> = names.iter().map(|n| SanType::DnsName((*n).try_into().unwrap())).collect();
        let config = server::config(std::slice::from_ref(&ca.der), issue(&ca, &names, -10, 600), GRACE).unwrap();
        let door = Door::new(config, domain(), limits);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let incoming = door.open(listener, CancellationToken::new());
        Site { ca, door, address: Address { host: "localhost".to_owned(), port }, incoming }
    }

    impl Site {
        async fn knock(&self, config: Arc<ClientConfig>) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
            let tcp = TcpStream::connect(("127.0.0.1", self.address.port)).await?;
            TlsConnector::from(config).connect("localhost".try_into().unwrap(), tcp).await
        }

        async fn peer(&mut self) -> (Peer, Connection) {
            let connection = self.incoming.next().await.unwrap().unwrap();
            (connection.connect_info().peer, connection)
        }
    }

    fn node(ca: &Authority, from: i64, to: i64) -> Identity {
        issue(ca, &[uri(&format!("spiffe://picket.test/node/{NODE}"))], from, to)
    }

    #[tokio::test]
    async fn with_and_without_a_certificate_one_gets_in_and_is_known() {
        let mut site = site(&["localhost"]).await;
        let authorities = [site.ca.der.clone()];
        let _a = site.knock(client::config(&authorities, None).unwrap()).await.unwrap();
        assert_eq!(site.peer().await.0, Peer::Anonymous);
        let identity = node(&site.ca, -10, 60);
        let _b = site.knock(client::config(&authorities, Some(identity)).unwrap()).await.unwrap();
        let (peer, connection) = site.peer().await;
        assert_eq!(peer.to_string(), format!("node/{NODE}"));
        assert!(peer.certificate().unwrap().not_after > Timestamp::now());
        assert_eq!(site.door.live.len(), 1, "the first connection was dropped");
        drop(connection);
        assert!(site.door.live.is_empty());
    }

    #[tokio::test]
    async fn an_expired_certificate_gets_in_within_the_grace_only() {
        let mut site = site(&["localhost"]).await;
        let authorities = [site.ca.der.clone()];
        let late = node(&site.ca, -600, -60);
        let _a = site.knock(client::config(&authorities, Some(late)).unwrap()).await.unwrap();
        let (peer, _connection) = site.peer().await;
        assert!(peer.certificate().unwrap().not_after < Timestamp::now());
        for refused in [node(&site.ca, -9000, -4000), node(&authority(), -10, 60), node(&authority(), -600, -60)] {
            let mut tls = site.knock(client::config(&authorities, Some(refused)).unwrap()).await.unwrap();
            // TLS 1.3: the client learns of it with its first read.
            assert!(tls.read_u8().await.is_err());
        }
        assert_eq!(site.door.counters.failed.load(std::sync::atomic::Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn a_pin_trusts_one_key_and_still_checks_the_name() {
        let site = site(&["localhost"]).await;
        let pin = SpkiPin::of(&site.ca.der).unwrap();
        site.knock(client::pinned(pin).unwrap()).await.unwrap();
        let other = SpkiPin::of(&authority().der).unwrap();
        let error = site.knock(client::pinned(other).unwrap()).await.unwrap_err();
        assert!(error.to_string().contains("UnknownIssuer"), "{error}");
        // The pin of the server's own key is no authority's.
        let own = node(&site.ca, -10, 60);
        let leaf = SpkiPin::of(&own.chain[0]).unwrap();
        assert!(site.knock(client::pinned(leaf).unwrap()).await.is_err());
        let misnamed = self::site(&["elsewhere"]).await;
        let pin = SpkiPin::of(&misnamed.ca.der).unwrap();
        let dialer = Dialer::new(misnamed.address.clone(), client::pinned(pin).unwrap()).unwrap();
        let error = dialer.connect().await.unwrap_err().to_string();
        assert!(error.contains("other names") && error.contains("localhost"), "{error}");
    }

    #[tokio::test]
    async fn a_chain_that_merely_contains_the_pinned_ca_is_refused() {
        // Somebody in between shows a certificate of their own and appends the true CA's certificate.
        let (real, fake) = (authority(), authority());
        let mut forged = issue(&fake, &[SanType::DnsName("localhost".try_into().unwrap())], -10, 600);
        forged.chain.push(real.der.clone());
        let config = server::config(std::slice::from_ref(&fake.der), forged, GRACE).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let _incoming = Door::new(config, domain(), Limits::default()).open(listener, CancellationToken::new());
        let pin = SpkiPin::of(&real.der).unwrap();
        let address = Address { host: "localhost".to_owned(), port };
        let dialer = Dialer::new(address, client::pinned(pin).unwrap()).unwrap();
        assert!(dialer.connect().await.is_err());
        assert!(matches!(dialer.last_failure(), Some(ConnectFailure::Tls(_))));
    }

    #[tokio::test]
    async fn cutting_ends_the_connections_of_one_peer_and_no_other() {
        let mut site = site(&["localhost"]).await;
        let authorities = [site.ca.der.clone()];
        let identity = node(&site.ca, -10, 60);
        let mut _theirs = site.knock(client::config(&authorities, Some(identity)).unwrap()).await.unwrap();
        let (_, mut server_side) = site.peer().await;
        let mut _other = site.knock(client::config(&authorities, None).unwrap()).await.unwrap();
        let (_, other_side) = site.peer().await;
        let read = tokio::spawn(async move { server_side.read_u8().await });
        assert_eq!(site.door.live.cut(|p| matches!(p, Peer::Node { .. })), 1);
        assert_eq!(read.await.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert!(!other_side.connect_info().kill.is_cancelled());
    }

    #[tokio::test]
    async fn a_client_that_says_nothing_does_not_keep_others_out() {
        // It is the honest client's time too.
        let limits = Limits { handshake_timeout: Duration::from_secs(2), ..Limits::default() };
        let mut site = site_with(&["localhost"], limits).await;
        let mut silent = TcpStream::connect(("127.0.0.1", site.address.port)).await.unwrap();
        let _tls = site.knock(client::config(&[site.ca.der.clone()], None).unwrap()).await.unwrap();
        assert_eq!(site.peer().await.0, Peer::Anonymous);
        // The silent one is closed from the other side.
        assert_eq!(silent.read(&mut [0; 8]).await.unwrap(), 0);
        assert_eq!(site.door.counters.timed_out.load(std::sync::atomic::Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn over_the_limit_of_connections_one_is_closed_and_counted() {
        let limits = Limits { connections: 1, ..Limits::default() };
        let mut site = site_with(&["localhost"], limits).await;
        let config = client::config(&[site.ca.der.clone()], None).unwrap();
        let _first = site.knock(config.clone()).await.unwrap();
        let (_, first) = site.peer().await;
        assert!(site.knock(config.clone()).await.is_err());
        assert_eq!(site.door.counters.refused.load(std::sync::atomic::Ordering::Relaxed), 1);
        drop(first);
        site.knock(config).await.unwrap();
    }

    #[tokio::test]
    async fn those_without_a_certificate_take_few_places_and_not_for_long() {
        let limits = Limits { anonymous: 1, anonymous_life: Duration::from_millis(200), ..Limits::default() };
        let mut site = site_with(&["localhost"], limits).await;
        let authorities = [site.ca.der.clone()];
        let nobody = client::config(&authorities, None).unwrap();
        let _first = site.knock(nobody.clone()).await.unwrap();
        let (_, mut server_side) = site.peer().await;
        let mut second = site.knock(nobody.clone()).await.unwrap();
        assert!(matches!(second.read(&mut [0; 8]).await, Ok(0) | Err(_)), "a second one is served");
        // A node still gets in.
        let _node = site.knock(client::config(&authorities, Some(node(&site.ca, -10, 60))).unwrap()).await.unwrap();
        let (peer, _kept) = site.peer().await;
        assert!(matches!(peer, Peer::Node { .. }));
        // The first one says nothing for ever, and is cut.
        assert_eq!(server_side.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        drop(server_side);
        let _third = site.knock(nobody).await.unwrap();
        assert_eq!(site.peer().await.0, Peer::Anonymous);
    }

    #[tokio::test]
    async fn one_identity_cannot_take_all_places() {
        let limits = Limits { per_identity: 2, ..Limits::default() };
        let mut site = site_with(&["localhost"], limits).await;
        let authorities = [site.ca.der.clone()];
        let config = client::config(&authorities, Some(node(&site.ca, -10, 60))).unwrap();
        let _theirs = [site.knock(config.clone()).await.unwrap(), site.knock(config.clone()).await.unwrap()];
        let (first, _second) = (site.peer().await, site.peer().await);
        let mut third = site.knock(config.clone()).await.unwrap();
        assert!(matches!(third.read(&mut [0; 8]).await, Ok(0) | Err(_)), "a third one is served");
        drop(first);
        let _fourth = site.knock(config).await.unwrap();
        site.peer().await;
    }

    #[tokio::test]
    async fn a_cut_connection_writes_nothing_more() {
        use tokio::io::AsyncWriteExt as _;
        let mut site = site(&["localhost"]).await;
        let _theirs = site.knock(client::config(&[site.ca.der.clone()], None).unwrap()).await.unwrap();
        let (_, mut server_side) = site.peer().await;
        // The other side reads nothing: sooner or later there is no room, and no read is under way.
        let write = tokio::spawn(async move {
            loop {
                if let Err(error) = server_side.write_all(&[0; 65536]).await {
                    return error.kind();
                }
            }
        });
        tokio::task::yield_now().await;
        site.door.live.cut(|_| true);
        assert_eq!(write.await.unwrap(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test]
    async fn failures_are_explained() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = client::config(&[authority().der], None).unwrap();
        let dialer = Dialer::new(Address { host: "127.0.0.1".to_owned(), port }, config.clone()).unwrap();
        tokio::spawn(async move {
            use tokio::io::AsyncWriteExt as _;
            let (mut tcp, _) = listener.accept().await.unwrap();
            tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        });
        let error = dialer.connect().await.unwrap_err().to_string();
        assert!(error.contains("does not speak TLS"), "{error}");
        let error = dialer.connect().await.unwrap_err().to_string();
        assert!(error.contains("no connection") || error.contains("refused"), "{error}");
    }
}
