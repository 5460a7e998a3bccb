//! How nodes get certificates, and how they lose them.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use picket_proto::v1;
use picket_proto::v1::enrollment_client::EnrollmentClient;
use picket_service::tls::peer::Peer;
use picket_service::tls::request::KeyAndRequest;
use picket_service::tls::token::EnrollToken;
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls_pki_types::CertificateDer;
use tonic::{Code, Status};

use crate::support::{Link, Node, Site, epoch, identity};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_race_for_a_one_use_token_exactly_one_wins() {
    let site = std::sync::Arc::new(Site::start().await);
    for _ in 0..4 {
        let token = site.token(1).await;
        let racers: Vec<_> = (0..12)
            .map(|n| {
                let (site, token) = (site.clone(), token.clone());
                tokio::spawn(async move { site.enroll(&token, &format!("racer-{n}")).await })
            })
            .collect();
        let mut won = 0;
        for racer in racers {
            match racer.await.unwrap() {
                Ok(_) => won += 1,
                Err(status) => {
                    assert_eq!(status.code(), Code::PermissionDenied);
                    assert!(status.message().contains("used up"), "{status}");
                }
            }
        }
        assert_eq!(won, 1);
    }
    assert_eq!(site.app.registry.nodes().len(), 4);
}

#[tokio::test]
async fn a_token_for_three_takes_three_and_binds_its_labels() {
    let site = Site::start().await;
    let token = site.token(3).await;
    let mut ids = BTreeSet::new();
    for n in 0..3 {
        ids.insert(site.enroll(&token, &format!("edge-{n}")).await.unwrap().id);
    }
    assert_eq!(ids.len(), 3);
    assert!(site.enroll(&token, "edge-3").await.is_err());
    for node in site.app.registry.nodes() {
        assert_eq!(node.labels.get("site").map(String::as_str), Some("berlin"));
    }
}

#[tokio::test]
async fn tokens_that_are_wrong_expired_revoked_or_foreign_say_so() {
    let site = Site::start().await;
    let other = Site::start().await;
    let refused = async |token: &str| -> Status {
        let request = KeyAndRequest::generate().unwrap();
        let mut client = EnrollmentClient::new(site.dialer(None).channel().unwrap());
        let request = v1::EnrollRequest {
            token: token.to_owned(),
            csr_der: request.csr_der,
            info: Some(v1::NodeInfo::default()),
        };
        let status = client.enroll(request).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
        status
    };
    let made_up = EnrollToken::generate(site.app.ca.pin()).unwrap().reveal();
    assert!(refused(&made_up).await.message().contains("unknown"));
    let token = site.token(1).await;
    // The right id with another secret.
    let mut parts: Vec<&str> = token.split('.').collect();
    let secret = made_up.split('.').nth(2).unwrap();
    parts[2] = secret;
    assert!(refused(&parts.join(".")).await.message().contains("unknown"));
    assert!(refused("pkt1.nonsense").await.message().contains("not an enrolment token"));
    assert!(refused("").await.message().contains("not an enrolment token"));
    assert!(refused(&other.token(1).await).await.message().contains("another collector"));

    let revoked = site.token(1).await;
    let mut admin = v1::admin_client::AdminClient::new(site.admin().await);
    let id = revoked.split('.').nth(1).unwrap().to_owned();
    admin.revoke_token(v1::RevokeTokenRequest { id }).await.unwrap();
    assert!(refused(&revoked).await.message().contains("revoked"));

    site.clock.advance(Duration::from_secs(901));
    assert!(refused(&token).await.message().contains("expired"));
    assert!(site.app.registry.nodes().is_empty(), "nobody was taken in");
}

#[tokio::test]
async fn a_node_trusts_only_the_collector_its_token_names() {
    let (site, other) = (Site::start().await, Site::start().await);
    // The token of one collector, brought to another: the node itself refuses, and the token is not shown to it.
    let token = other.token(1).await;
    let status = site.enroll(&token, "edge-1").await.err().unwrap();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    other.enroll(&token, "edge-1").await.unwrap();
}

#[tokio::test]
async fn a_request_that_asks_for_foreign_names_gets_only_its_own() {
    let site = Site::start().await;
    let key = KeyPair::generate().unwrap();
    let mut greedy = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let uri = format!("spiffe://{}/operator/local-admin", site.app.ca.domain());
    greedy.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
    let csr = greedy.serialize_request(&key).unwrap().der().to_vec();
    let token = site.token(1).await;
    let node = site.enroll_with(&token, "edge-1", csr, key.serialize_pem()).await.unwrap();
    let peer = Peer::parse(&node.chain[0], site.app.ca.domain()).unwrap();
    assert!(matches!(peer, Peer::Node { id, .. } if id == node.id), "{peer}");
    // And it is a node's certificate in use, too.
    Link::hello(&site, &node, epoch(1), 1).await.unwrap();
    let mut fleet = v1::fleet_client::FleetClient::new(node.dialer.channel().unwrap());
    let denied = fleet.list_nodes(v1::ListNodesRequest::default()).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_request_of_garbage_spends_no_use_of_the_token() {
    let site = Site::start().await;
    let token = site.token(1).await;
    for csr in [Vec::new(), vec![0; 100], vec![0x30; 8192], vec![0x30; 9000]] {
        let status = site.enroll_with(&token, "edge-1", csr, String::new()).await.err().unwrap();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains("csr_der"), "{status}");
    }
    let huge = "x".repeat(70_000);
    let status = site.enroll_with(&huge, "edge-1", Vec::new(), String::new()).await.err().unwrap();
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status}");
    site.enroll(&token, "edge-1").await.unwrap();
}

async fn renew(site: &Site, node: &Node) -> Result<Node, Status> {
    let request = KeyAndRequest::generate().unwrap();
    let mut client = EnrollmentClient::new(node.dialer.channel().unwrap());
    let answer = client.renew(v1::RenewRequest { csr_der: request.csr_der }).await?.into_inner();
    let chain: Vec<_> = answer.certificate_chain_der.into_iter().map(CertificateDer::from).collect();
    let key_pem = request.key_pem.to_string();
    let dialer = site.dialer(Some(identity(&chain, &key_pem)));
    Ok(Node { chain, key_pem, dialer, ..node.clone() })
}

#[tokio::test]
async fn the_next_certificate_becomes_the_active_one_when_it_is_used() {
    let site = Site::start().await;
    let old = site.node("edge-1").await;
    let lost = renew(&site, &old).await.unwrap();
    // The answer got lost: asking again replaces it, and the old one is good until the new one is used.
    let new = renew(&site, &old).await.unwrap();
    Link::hello(&site, &old, epoch(1), 1).await.unwrap();
    assert_eq!(Peer::parse(&new.chain[0], site.app.ca.domain()).unwrap().to_string(), format!("node/{}", old.id));
    Link::hello(&site, &new, epoch(1), 1).await.unwrap();
    for replaced in [&old, &lost] {
        let status = Link::hello(&site, replaced, epoch(1), 1).await.err().unwrap();
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
        assert_eq!(renew(&site, replaced).await.err().unwrap().code(), Code::Unauthenticated);
    }
    // What is active is remembered.
    let site = site.restart().await;
    let new = Node { dialer: site.dialer(Some(identity(&new.chain, &new.key_pem))), ..new };
    Link::hello(&site, &new, epoch(1), 1).await.unwrap();
}

#[tokio::test]
async fn an_expired_certificate_may_renew_itself_within_the_grace_and_nothing_else() {
    let site = Site::start().await;
    let token = site.token(2).await;
    let now = Timestamp::now();
    let days = |n: i64| SignedDuration::from_hours(24 * n);
    // Taken in 100 and 200 days ago; certificates live 90 days, the grace is another 90.
    site.clock.set(now - days(100));
    let late = site.enroll(&token, "late").await.unwrap();
    site.clock.set(now - days(200));
    let too_late = site.enroll(&token, "too-late").await.unwrap();
    site.clock.set(now);
    let status = Link::hello(&site, &late, epoch(1), 1).await.err().unwrap();
    assert!(status.message().contains("expired"), "{status}");
    let fresh = renew(&site, &late).await.unwrap();
    Link::hello(&site, &fresh, epoch(1), 1).await.unwrap();
    let status = renew(&site, &too_late).await.err().unwrap();
    let why = too_late.dialer.explain(&status);
    assert!(why.contains("expired"), "{why}");
}

#[tokio::test]
async fn a_revoked_node_cannot_renew_but_enrols_anew_as_another() {
    let site = Site::start().await;
    let node = site.node("edge-1").await;
    let mut admin = v1::admin_client::AdminClient::new(site.admin().await);
    // By host name, as people do.
    let request = v1::RevokeNodeRequest { node: "edge-1".to_owned(), reason: String::new() };
    assert_eq!(admin.revoke_node(request.clone()).await.unwrap().into_inner().node_id, node.id.to_string());
    assert_eq!(renew(&site, &node).await.err().unwrap().code(), Code::Unauthenticated);
    let again = site.node("edge-1").await;
    assert_ne!(again.id, node.id);
    // The host name now means the one that is not revoked.
    assert_eq!(admin.revoke_node(request.clone()).await.unwrap().into_inner().node_id, again.id.to_string());
    site.node("edge-1").await;
    site.node("edge-1").await;
    let status = admin.revoke_node(request).await.unwrap_err();
    assert!(status.message().contains("several nodes"), "{status}");
}

#[tokio::test]
async fn nobody_takes_an_operators_name() {
    let site = Site::start().await;
    site.operator("ada", v1::OperatorRole::Viewer).await;
    let mut admin = v1::admin_client::AdminClient::new(site.admin().await);
    let csr_der = KeyAndRequest::generate().unwrap().csr_der;
    let request =
        v1::CreateOperatorRequest { name: "ada".to_owned(), role: v1::OperatorRole::Admin.into(), days: 1, csr_der };
    assert_eq!(admin.create_operator(request.clone()).await.unwrap_err().code(), Code::AlreadyExists);
    for bad in ["", "Ada", "a b", "../x", &"a".repeat(64)] {
        let request = v1::CreateOperatorRequest { name: bad.to_owned(), ..request.clone() };
        assert_eq!(admin.create_operator(request).await.unwrap_err().code(), Code::InvalidArgument, "{bad}");
    }
}
