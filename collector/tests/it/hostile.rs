//! Nodes, operators and thieves who do what nobody should.

use std::time::Duration;

use picket_model::{ChainHash, Event, EventBody, Gap, GapReason, Seq};
use picket_proto::v1;
use picket_proto::v1::FindingState::Open;
use picket_proto::v1::enrollment_client::EnrollmentClient;
use picket_proto::v1::uplink_request::Frame;
use picket_proto::v1::uplink_response::Frame as Answer;
use picket_service::tls::request::KeyAndRequest;
use rustls_pki_types::CertificateDer;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::codec::CompressionEncoding;

use crate::support::{Link, Node, PATIENCE, Site, batch, epoch, events, hello, identity};

const TWICE: &str = "collector-identity-twice";

async fn renew(site: &Site, node: &Node) -> Node {
    let request = KeyAndRequest::generate().unwrap();
    let mut client = EnrollmentClient::new(node.dialer.channel().unwrap());
    let answer = client.renew(v1::RenewRequest { csr_der: request.csr_der }).await.unwrap().into_inner();
    let chain: Vec<_> = answer.certificate_chain_der.into_iter().map(CertificateDer::from).collect();
    let key_pem = request.key_pem.to_string();
    let dialer = site.dialer(Some(identity(&chain, &key_pem)));
    Node { chain, key_pem, dialer, ..node.clone() }
}

#[tokio::test]
async fn a_node_cannot_settle_what_the_collector_found_on_it() {
    let site = Site::start().await;
    let node = site.node("edge-1").await;
    let (mut link, _) = Link::hello(&site, &node, epoch(1), 9).await.unwrap();
    let mut all = events(epoch(1), 3);
    all[1].hash.0[0] ^= 1;
    link.deliver(&all).await.unwrap();
    let altered = picket_collector::ingest::ALTERED_CONTROL;
    site.until_finding(node.id, altered, Open).await;
    // Now it says itself that all is well.
    let EventBody::FindingOpened { mut finding } = all[0].body.clone() else { unreachable!() };
    finding.control = altered.to_owned();
    finding.subject = epoch(1).to_string();
    finding.state = picket_model::FindingState::Resolved;
    let body = EventBody::FindingResolved { finding };
    let forged = Event::new(epoch(1), Seq(4), all[2].time, body, all[2].hash);
    link.say(Frame::Batch(batch(&[forged]))).await;
    let status = link.next().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains("control"), "{status}");
    assert!(site.findings(node.id).await.contains(&(altered.to_owned(), Open)));
    assert_eq!(site.history(node.id, epoch(1)).await, [1, 2, 3]);
}

#[tokio::test]
async fn a_node_cannot_write_into_the_collectors_own_numbering() {
    let site = Site::start().await;
    let node = site.node("edge-1").await;
    let link = Link::open(&node).await.unwrap();
    let mut greeting = hello(&site, epoch(1), 1);
    greeting.clock_unix_ms -= 600_000;
    link.say(Frame::Hello(greeting)).await;
    site.until_finding(node.id, "collector-clock-off", Open).await;
    // The node learnt the collector's epoch somehow: from an operator's screen, say.
    let mut fleet = v1::fleet_client::FleetClient::new(site.admin().await);
    let list = fleet.list_history(v1::ListHistoryRequest::default()).await.unwrap().into_inner();
    let own = list.events.into_iter().filter_map(|e| e.event).map(|e| e.epoch).next().unwrap();
    let status = Link::hello(&site, &node, own.parse().unwrap(), 100).await.err().unwrap();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains("hello.epoch"), "{status}");
}

#[tokio::test]
async fn numbers_that_a_node_says_will_never_come_are_a_finding() {
    let site = Site::start().await;
    let node = site.node("edge-1").await;
    let (mut link, _) = Link::hello(&site, &node, epoch(1), 100).await.unwrap();
    let all = events(epoch(1), 50);
    link.deliver(&all[..10]).await.unwrap();
    assert!(site.findings(node.id).await.iter().all(|(c, _)| !c.starts_with("collector-")), "nothing is missing yet");
    // It swallows twenty events and does not even send a gap that says so.
    let skipped = v1::EventBatch { given_up_through: 30, ..batch(&all[30..32]) };
    link.say(Frame::Batch(skipped)).await;
    assert!(matches!(link.next().await, Ok(Some(Answer::Ack(ack))) if ack.acknowledged_seq == 32));
    site.until_finding(node.id, "collector-events-given-up", Open).await;
    let mut fleet = v1::fleet_client::FleetClient::new(site.admin().await);
    let found = fleet.list_findings(v1::ListFindingsRequest::default()).await.unwrap().into_inner().findings;
    let found = found.into_iter().filter_map(|f| f.finding).find(|f| f.control == "collector-events-given-up").unwrap();
    assert!(found.observed.contains("20 events"), "{}", found.observed);
    let mut history = site.history(node.id, epoch(1)).await;
    history.dedup();
    assert_eq!(history, (1..=10).chain(31..=32).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_gap_that_a_node_tells_of_is_in_the_history_for_operators() {
    let site = Site::start().await;
    let node = site.node("edge-1").await;
    let (mut link, _) = Link::hello(&site, &node, epoch(1), 2).await.unwrap();
    let gap = Gap { reason: GapReason::DiskFull, count: 7, first: None, last: None, detail: "no room".to_owned() };
    let at = jiff::Timestamp::UNIX_EPOCH;
    link.deliver(&[Event::new(epoch(1), Seq(1), at, EventBody::Gap { gap }, ChainHash::START)]).await.unwrap();
    let mut fleet = v1::fleet_client::FleetClient::new(site.admin().await);
    let list = fleet.list_history(v1::ListHistoryRequest::default()).await.unwrap().into_inner();
    let told = list.events.into_iter().filter_map(|e| e.event?.body).any(|b| match b {
        v1::event::Body::Gap(gap) => gap.count == 7 && gap.detail == "no room",
        _ => false,
    });
    assert!(told);
}

#[tokio::test]
async fn a_thief_who_renews_with_a_copied_key_shows_when_the_owner_comes_back() {
    let site = Site::start().await;
    let owner = site.node("edge-1").await;
    Link::hello(&site, &owner, epoch(1), 1).await.unwrap();
    let thief = renew(&site, &owner).await;
    Link::hello(&site, &thief, epoch(1), 1).await.unwrap();
    assert!(site.findings(owner.id).await.iter().all(|(control, _)| control != TWICE));
    let status = Link::hello(&site, &owner, epoch(1), 1).await.err().unwrap();
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    site.until_finding(owner.id, TWICE, Open).await;
}

#[tokio::test]
async fn a_certificate_that_was_replaced_before_it_was_used_shows_too() {
    let site = Site::start().await;
    let owner = site.node("edge-1").await;
    let owners = renew(&site, &owner).await;
    let _thiefs = renew(&site, &owner).await;
    let status = Link::hello(&site, &owners, epoch(1), 1).await.err().unwrap();
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    site.until_finding(owner.id, TWICE, Open).await;
}

#[tokio::test]
async fn a_small_message_that_unpacks_to_a_huge_one_is_refused() {
    let site = Site::start().await;
    let node = site.node("edge-1").await;
    let (send, requests) = tokio::sync::mpsc::channel(4);
    let mut client =
        v1::uplink_client::UplinkClient::new(node.dialer.channel().unwrap()).send_compressed(CompressionEncoding::Gzip);
    let mut answers = client.report(ReceiverStream::new(requests)).await.unwrap().into_inner();
    send.send(v1::UplinkRequest { frame: Some(Frame::Hello(hello(&site, epoch(1), 9))) }).await.unwrap();
    assert!(answers.message().await.unwrap().is_some());
    let mut bomb = batch(&events(epoch(1), 1));
    let Some(v1::event::Body::FindingOpened(f)) = &mut bomb.events[0].body else { unreachable!() };
    f.observed = "x".repeat(64 << 20);
    send.send(v1::UplinkRequest { frame: Some(Frame::Batch(bomb)) }).await.unwrap();
    let status = tokio::time::timeout(PATIENCE, answers.message()).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    site.until_finding(node.id, "collector-report-rejected", Open).await;
}

#[tokio::test]
async fn a_watch_ends_when_the_operators_certificate_does() {
    let site = Site::start().await;
    let node = site.node("edge-1").await;
    let (mut link, _) = Link::hello(&site, &node, epoch(1), 9).await.unwrap();
    let made = KeyAndRequest::generate().unwrap();
    let request = v1::CreateOperatorRequest {
        name: "ada".to_owned(),
        role: v1::OperatorRole::Viewer.into(),
        days: 1,
        csr_der: made.csr_der,
    };
    let mut admin = v1::admin_client::AdminClient::new(site.admin().await);
    let answer = admin.create_operator(request).await.unwrap().into_inner();
    let chain: Vec<_> = answer.certificate_chain_der.into_iter().map(CertificateDer::from).collect();
    let dialer = site.dialer(Some(identity(&chain, &made.key_pem)));
    let mut fleet = v1::fleet_client::FleetClient::new(dialer.channel().unwrap());
    let mut watch = fleet.watch(v1::WatchRequest::default()).await.unwrap().into_inner();
    let all = events(epoch(1), 2);
    link.deliver(&all[..1]).await.unwrap();
    assert!(tokio::time::timeout(PATIENCE, watch.message()).await.unwrap().unwrap().is_some());
    site.clock.advance(Duration::from_secs(2 * 86_400));
    link.deliver(&all[1..]).await.unwrap();
    let status = tokio::time::timeout(PATIENCE, watch.message()).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
}
