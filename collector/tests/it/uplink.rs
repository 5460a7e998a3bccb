//! How nodes report, well and badly.

use std::time::{Duration, Instant};

use picket_model::Epoch;
use picket_proto::v1;
use picket_proto::v1::FindingState::{Open, Resolved};
use picket_proto::v1::uplink_request::Frame;
use picket_proto::v1::uplink_response::Frame as Answer;
use picket_service::clock::Clock as _;
use tonic::{Code, Status};

use crate::support::{Link, Node, Site, batch, epoch, events, hello, until};

const REJECTED: &str = "collector-report-rejected";

fn heartbeat(site: &Site) -> Frame {
    Frame::Heartbeat(v1::Heartbeat { clock_unix_ms: site.clock.now().as_millisecond(), ..v1::Heartbeat::default() })
}

#[tokio::test]
async fn what_is_acknowledged_is_in_the_history_once_also_after_a_restart() {
    let site = Site::start().await;
    let node = site.node("edge-1").await;
    let all = events(epoch(1), 600);
    let (mut link, through) = Link::hello(&site, &node, epoch(1), 601).await.unwrap();
    assert_eq!(through, 0);
    assert_eq!(link.deliver(&all[..200]).await.unwrap(), 200);
    // Sent again, and overlapping.
    assert_eq!(link.deliver(&all[100..300]).await.unwrap(), 300);
    drop(link);
    let site = site.restart().await;
    let node = Node { dialer: site.dialer(Some(crate::support::identity(&node.chain, &node.key_pem))), ..node };
    let (mut link, through) = Link::hello(&site, &node, epoch(1), 601).await.unwrap();
    assert_eq!(through, 300);
    for chunk in all[300..].chunks(64) {
        link.deliver(chunk).await.unwrap();
    }
    assert_eq!(site.history(node.id, epoch(1)).await, (1..=600).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_node_that_does_not_say_its_name_keeps_the_one_it_enrolled_with() {
    let site = Site::start().await;
    let node = site.node("edge-7").await;
    let mut link = Link::open(&node).await.unwrap();
    link.say(Frame::Hello(v1::Hello { info: None, ..hello(&site, epoch(1), 1) })).await;
    assert!(matches!(link.next().await, Ok(Some(Answer::Welcome(_)))));
    assert_eq!(site.app.registry.node(node.id).unwrap().hostname, "edge-7");
}

#[tokio::test]
async fn revocation_cuts_an_open_stream() {
    let site = Site::start().await;
    let (node, other) = (site.node("edge-1").await, site.node("edge-2").await);
    let (mut link, _) = Link::hello(&site, &node, epoch(1), 4).await.unwrap();
    let (mut untouched, _) = Link::hello(&site, &other, epoch(2), 4).await.unwrap();
    link.deliver(&events(epoch(1), 1)).await.unwrap();
    let mut admin = v1::admin_client::AdminClient::new(site.admin().await);
    let request = v1::RevokeNodeRequest { node: node.id.to_string(), reason: String::new() };
    let before = Instant::now();
    admin.revoke_node(request).await.unwrap();
    assert!(link.next().await.is_err(), "the stream goes on");
    println!("revoked and cut within {:?}", before.elapsed());
    untouched.deliver(&events(epoch(2), 1)).await.unwrap();
    assert_eq!(site.history(node.id, epoch(1)).await, [1]);
}

#[tokio::test]
async fn an_operators_watch_hears_events_and_is_cut_by_revocation() {
    let site = Site::start().await;
    let node = site.node("edge-1").await;
    let dialer = site.operator("ada", v1::OperatorRole::Viewer).await;
    let mut fleet = v1::fleet_client::FleetClient::new(dialer.channel().unwrap());
    let filter = v1::Filter { selector: "site=berlin".to_owned(), ..v1::Filter::default() };
    let mut watch = fleet.watch(v1::WatchRequest { filter: Some(filter) }).await.unwrap().into_inner();
    let (mut link, _) = Link::hello(&site, &node, epoch(1), 4).await.unwrap();
    link.deliver(&events(epoch(1), 1)).await.unwrap();
    let heard = tokio::time::timeout(crate::support::PATIENCE, watch.message()).await.unwrap().unwrap().unwrap();
    let heard = heard.event.unwrap();
    assert_eq!((heard.hostname.as_str(), heard.event.unwrap().seq), ("edge-1", 1));
    let mut admin = v1::admin_client::AdminClient::new(site.admin().await);
    admin.revoke_operator(v1::RevokeOperatorRequest { name: "ada".to_owned() }).await.unwrap();
    assert!(tokio::time::timeout(crate::support::PATIENCE, watch.message()).await.unwrap().is_err());
}

/// Opens a stream, sends these frames, and returns the status that ends it.
async fn ends_with(site: &Site, node: &Node, frames: Vec<Option<Frame>>) -> Status {
    let mut link = Link::open(node).await.unwrap();
    for frame in frames {
        link.send.send(v1::UplinkRequest { frame }).await.ok();
    }
    loop {
        match link.next().await {
            Ok(Some(Answer::Welcome(_) | Answer::Ack(_))) => {}
            Ok(other) => panic!("the stream ended without a status: {other:?}"),
            Err(status) => {
                site.until_finding(node.id, REJECTED, Open).await;
                return status;
            }
        }
    }
}

#[tokio::test]
async fn what_cannot_be_taken_ends_the_stream_with_a_reason_and_is_a_finding_until_it_is_mended() {
    let site = Site::start().await;
    let node = site.node("edge-1").await;
    let greeting = || Some(Frame::Hello(hello(&site, epoch(1), 1000)));
    let good = events(epoch(1), 300);
    let event = |change: fn(&mut v1::Event)| {
        let mut batch = batch(&good[..1]);
        change(&mut batch.events[0]);
        Some(Frame::Batch(batch))
    };
    let send = |events: &[picket_model::Event]| Some(Frame::Batch(batch(events)));
    let twice = [good[0].clone(), good[0].clone()];
    let cases = [
        ("no hello", vec![send(&good[..1])], Code::InvalidArgument, "begin with hello"),
        ("no frame", vec![None], Code::InvalidArgument, "hello"),
        ("unknown frame", vec![greeting(), None], Code::InvalidArgument, "does not know"),
        ("two hellos", vec![greeting(), greeting()], Code::InvalidArgument, "only once"),
        ("not rising", vec![greeting(), send(&twice)], Code::InvalidArgument, "must rise"),
        ("a hole", vec![greeting(), send(&good[5..6])], Code::FailedPrecondition, "is due"),
        ("too many", vec![greeting(), send(&good[..300])], Code::InvalidArgument, "at most 256"),
        ("seq 0", vec![greeting(), event(|e| e.seq = 0)], Code::InvalidArgument, "events[0].seq"),
        ("no body", vec![greeting(), event(|e| e.body = None)], Code::InvalidArgument, "events[0].body"),
        ("short hash", vec![greeting(), event(|e| e.hash.truncate(3))], Code::InvalidArgument, "events[0].hash"),
        (
            "a huge text",
            vec![
                greeting(),
                event(|e| {
                    let Some(v1::event::Body::FindingOpened(f)) = &mut e.body else { return };
                    f.observed = "x".repeat(17 * 1024);
                }),
            ],
            Code::InvalidArgument,
            "observed",
        ),
        (
            "a huge message",
            vec![
                greeting(),
                event(|e| {
                    let Some(v1::event::Body::FindingOpened(f)) = &mut e.body else { return };
                    f.observed = "x".repeat(1024 * 1024);
                }),
            ],
            Code::ResourceExhausted,
            "over the limit",
        ),
        (
            "no epoch",
            vec![Some(Frame::Hello(v1::Hello { epoch: "first".to_owned(), ..hello(&site, epoch(1), 1) }))],
            Code::InvalidArgument,
            "hello.epoch",
        ),
    ];
    for (what, frames, code, words) in cases {
        let status = ends_with(&site, &node, frames).await;
        assert_eq!(status.code(), code, "{what}: {status}");
        assert!(status.message().contains(words), "{what}: {status}");
    }
    assert_eq!(site.history(node.id, epoch(1)).await, [0u64; 0], "nothing of it was taken");
    let (mut link, through) = Link::hello(&site, &node, epoch(1), 301).await.unwrap();
    assert_eq!(through, 0);
    link.deliver(&good[..3]).await.unwrap();
    site.until_finding(node.id, REJECTED, Resolved).await;
}

#[tokio::test]
async fn bytes_that_are_no_message_are_refused_too() {
    let site = Site::start().await;
    let node = site.node("edge-1").await;
    let mut grpc = tonic::client::Grpc::new(node.dialer.channel().unwrap());
    grpc.ready().await.unwrap();
    // A message of another type whose first field is a text that is no message.
    let codec = tonic_prost::ProstCodec::<v1::RevokeTokenRequest, v1::UplinkResponse>::default();
    let garbage = v1::RevokeTokenRequest { id: "\u{0}\u{7f}garbage".to_owned() };
    let path = "/picket.v1.Uplink/Report".parse().unwrap();
    let request = tonic::Request::new(tokio_stream::iter([garbage]));
    let outcome = match grpc.streaming(request, path, codec).await {
        Ok(answers) => answers.into_inner().message().await,
        Err(status) => Err(status),
    };
    let status = outcome.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    site.until_finding(node.id, REJECTED, Open).await;
}

#[tokio::test]
async fn a_node_whose_state_went_back_in_time_is_told_and_found() {
    let site = Site::start().await;
    let node = site.node("edge-1").await;
    let (mut link, _) = Link::hello(&site, &node, epoch(1), 11).await.unwrap();
    link.deliver(&events(epoch(1), 10)).await.unwrap();
    drop(link);
    // The welcome says how far the history has come, so that the node begins a new epoch; nothing more is taken.
    let (mut link, through) = Link::hello(&site, &node, epoch(1), 5).await.unwrap();
    assert_eq!(through, 10);
    let status = link.next().await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    site.until_finding(node.id, REJECTED, Open).await;
    let (mut link, _) = Link::hello(&site, &node, epoch(2), 5).await.unwrap();
    link.deliver(&events(epoch(2), 1)).await.unwrap();
    site.until_finding(node.id, REJECTED, Resolved).await;
    site.until_finding(node.id, "collector-state-reset", Open).await;
}

#[tokio::test]
async fn after_a_damaged_history_nodes_are_still_known_and_send_again_and_the_revoked_stay_out() {
    let site = Site::start().await;
    let (node, gone) = (site.node("edge-1").await, site.node("edge-2").await);
    let (mut link, _) = Link::hello(&site, &node, epoch(1), 11).await.unwrap();
    link.deliver(&events(epoch(1), 10)).await.unwrap();
    let mut admin = v1::admin_client::AdminClient::new(site.admin().await);
    admin.revoke_node(v1::RevokeNodeRequest { node: gone.id.to_string(), reason: String::new() }).await.unwrap();
    drop((link, admin));
    let site = site
        .restart_after(|state| {
            // As after three openings that were cut off: the history counts as damaged.
            std::fs::write(state.join("store.opening"), "3").unwrap();
        })
        .await;
    let with = |node: &Node| site.dialer(Some(crate::support::identity(&node.chain, &node.key_pem)));
    let (node, gone) = (Node { dialer: with(&node), ..node }, Node { dialer: with(&gone), ..gone });
    let (mut link, through) = Link::hello(&site, &node, epoch(1), 11).await.unwrap();
    assert_eq!(through, 0, "the history is a new one");
    link.deliver(&events(epoch(1), 10)).await.unwrap();
    assert_eq!(site.history(node.id, epoch(1)).await, (1..=10).collect::<Vec<_>>());
    let status = Link::hello(&site, &gone, epoch(2), 1).await.err().unwrap();
    assert!(status.message().contains("revoked"), "{status}");
    // Who belongs to the fleet is nobody else's business.
    use std::os::unix::fs::PermissionsExt as _;
    let copy = picket_collector::members::path(site.state_dir());
    assert_eq!(std::fs::metadata(copy).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn an_altered_event_is_stored_and_found() {
    let site = Site::start().await;
    let node = site.node("edge-1").await;
    let (mut link, _) = Link::hello(&site, &node, epoch(1), 4).await.unwrap();
    let mut all = events(epoch(1), 3);
    all[1].hash.0[0] ^= 1;
    assert_eq!(link.deliver(&all).await.unwrap(), 3);
    site.until_finding(node.id, picket_collector::ingest::ALTERED_CONTROL, Open).await;
}

#[tokio::test]
async fn an_identity_used_by_two_machines_at_once_is_a_finding_and_the_newer_stream_wins() {
    const TWICE: &str = "collector-identity-twice";
    let site = Site::start().await;
    let node = site.node("edge-1").await;
    let (mut older, _) = Link::hello(&site, &node, epoch(1), 4).await.unwrap();
    older.deliver(&events(epoch(1), 1)).await.unwrap();
    let (mut newer, _) = Link::hello(&site, &node, epoch(1), 4).await.unwrap();
    assert!(matches!(older.next().await, Ok(Some(Answer::Goodbye(bye))) if bye.reason.contains("took over")));
    newer.deliver(&events(epoch(1), 2)).await.unwrap();
    assert!(site.findings(node.id).await.iter().all(|(control, _)| control != TWICE), "it may be a dead connection");
    // The older one is alive: it answers.
    older.say(heartbeat(&site)).await;
    site.until_finding(node.id, TWICE, Open).await;
    newer.deliver(&events(epoch(1), 3)).await.unwrap();
}

#[tokio::test]
async fn a_new_state_folder_is_a_finding_that_fades() {
    const RESET: &str = "collector-state-reset";
    let site = Site::with("[fleet]\nheartbeat = \"1s\"\nsilent_after = \"2s\"").await;
    let node = site.node("edge-1").await;
    Link::hello(&site, &node, epoch(1), 1).await.unwrap();
    Link::hello(&site, &node, epoch(1), 1).await.unwrap();
    assert!(site.findings(node.id).await.is_empty());
    let _link = Link::hello(&site, &node, epoch(2), 1).await.unwrap();
    site.until_finding(node.id, RESET, Open).await;
    site.clock.advance(Duration::from_secs(25 * 3600));
    site.until_finding(node.id, RESET, Resolved).await;
}

#[tokio::test]
async fn a_clock_that_is_off_is_a_finding_until_it_is_right() {
    const OFF: &str = "collector-clock-off";
    let site = Site::start().await;
    let node = site.node("edge-1").await;
    let mut link = Link::open(&node).await.unwrap();
    let mut greeting = hello(&site, epoch(1), 1);
    greeting.clock_unix_ms -= 600_000;
    link.say(Frame::Hello(greeting)).await;
    assert!(matches!(link.next().await, Ok(Some(Answer::Welcome(_)))));
    site.until_finding(node.id, OFF, Open).await;
    link.say(heartbeat(&site)).await;
    site.until_finding(node.id, OFF, Resolved).await;
}

#[tokio::test]
async fn a_silent_node_is_a_finding_until_it_is_back() {
    const SILENT: &str = "collector-node-silent";
    let site = Site::with("[fleet]\nheartbeat = \"1s\"\nsilent_after = \"2s\"").await;
    let (node, never) = (site.node("edge-1").await, site.node("edge-2").await);
    let epoch: Epoch = epoch(1);
    let (link, _) = Link::hello(&site, &node, epoch, 1).await.unwrap();
    let presence = async |id: picket_model::NodeId| {
        let mut fleet = v1::fleet_client::FleetClient::new(site.admin().await);
        let list = fleet.list_nodes(v1::ListNodesRequest::default()).await.unwrap().into_inner().nodes;
        list.into_iter().find(|n| n.id == id.to_string()).unwrap().presence()
    };
    assert_eq!(presence(node.id).await, v1::Presence::Connected);
    assert_eq!(presence(never.id).await, v1::Presence::NeverSeen);
    drop(link);
    until("the stream's end is noticed", async || presence(node.id).await == v1::Presence::Away).await;
    site.clock.advance(Duration::from_secs(3));
    site.until_finding(node.id, SILENT, Open).await;
    site.until_finding(never.id, SILENT, Open).await;
    assert_eq!(presence(node.id).await, v1::Presence::Silent);
    let _link = Link::hello(&site, &node, epoch, 1).await.unwrap();
    site.until_finding(node.id, SILENT, Resolved).await;
    // Revoked is not silent.
    let mut admin = v1::admin_client::AdminClient::new(site.admin().await);
    let request = v1::RevokeNodeRequest { node: never.id.to_string(), reason: String::new() };
    admin.revoke_node(request).await.unwrap();
    site.until_finding(never.id, SILENT, Resolved).await;
}

#[tokio::test]
async fn stopping_says_goodbye() {
    let site = Site::start().await;
    let node = site.node("edge-1").await;
    let (mut link, _) = Link::hello(&site, &node, epoch(1), 1).await.unwrap();
    let (answer, ()) = tokio::join!(link.next(), site.app.stop());
    assert!(matches!(answer, Ok(Some(Answer::Goodbye(_)))), "{answer:?}");
}
