//! The uplink and enrolment against a collector in this process: real TLS, real gRPC, loopback.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test")]

mod collector;
mod pki;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use picket_ledger::{Ledger, LedgerHandle, Limits};
use picket_model::{Event, EventBody, NodeId, NodeInfo, Seq};
use picket_service::clock::{Clock, ManualClock};
use picket_service::tls::connector::Address;
use picket_service::tls::request::KeyAndRequest;
use picket_service::tls::token::EnrollToken;
use picketd::enrol::{EnrolError, Enrolled, Enrolment, enrol};
use picketd::identity::{self, IdentityFolder};
use picketd::uplink::{LinkState, Settings, Uplink, Vitals};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use collector::{Collector, Script};
use pki::Pki;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// An enrolled node with a ledger and a running uplink.
struct Node {
    dir: tempfile::TempDir,
    ledger: LedgerHandle,
    link: watch::Receiver<LinkState>,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

fn body(n: u64) -> EventBody {
    EventBody::Inventory {
        node: NodeInfo { hostname: format!("n{n}"), picket_version: "1".into(), ..NodeInfo::default() },
    }
}

fn append(ledger: &LedgerHandle, range: std::ops::Range<u64>) {
    ledger.with(|l| l.append(range.map(body).collect(), None, at("2026-01-01T00:00:00Z"))).unwrap();
}

impl Node {
    fn identity(collector: &Collector, state: &Path, years: i64) -> IdentityFolder {
        let folder = IdentityFolder::of(state);
        let node_id = NodeId::from_bytes([9; 16]);
        let request = KeyAndRequest::generate().unwrap();
        folder.prepare(&request.key_pem).unwrap();
        let issued = collector.pki.sign(&request.csr_der, node_id, years);
        let whom = identity::Collector {
            address: format!("localhost:{}", collector.port),
            server_name: None,
            node_id,
            trust_domain: collector.pki.domain.to_string(),
            renew_after: None,
        };
        folder.install(&issued, &whom).unwrap();
        folder
    }

    fn start(collector: &Collector, years: i64, events: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = Self::identity(collector, dir.path(), years);
        let limits = Limits { segment_bytes: 8192, ..Limits::default() };
        let (ledger, _) = Ledger::open(&dir.path().join("outbox"), limits, at("2026-01-01T00:00:00Z")).unwrap();
        let ledger = LedgerHandle::new(ledger);
        if events > 0 {
            append(&ledger, 1..events + 1);
        }
        Self::run(dir, folder, ledger)
    }

    fn run(dir: tempfile::TempDir, folder: IdentityFolder, ledger: LedgerHandle) -> Self {
        let settings = Settings {
            backoff_first: Duration::from_millis(1),
            backoff_max: Duration::from_millis(20),
            identity_check: Duration::from_millis(50),
            ..Settings::default()
        };
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(at("2026-01-01T00:00:00Z")));
        let vitals = watch::Sender::new(Vitals { missed_hints: 3, ..Vitals::default() }).subscribe();
        let uplink = Uplink::new(settings, ledger.clone(), folder, clock, vitals);
        let link = uplink.link();
        let cancel = CancellationToken::new();
        let task = tokio::spawn(Box::pin(uplink.run(cancel.clone())));
        Self { dir, ledger, link, cancel, task }
    }

    async fn until(&mut self, what: &str, wanted: impl Fn(&LinkState) -> bool) -> LinkState {
        let reached = tokio::time::timeout(Duration::from_secs(60), self.link.wait_for(|s| wanted(s))).await;
        let reached = reached.ok().map(|state| state.unwrap().clone());
        reached.unwrap_or_else(|| panic!("not reached: {what}; {:?}", self.link.borrow()))
    }

    async fn stop(self) {
        self.cancel.cancel();
        tokio::time::timeout(Duration::from_secs(10), self.task).await.unwrap().unwrap();
        drop(self.dir);
    }
}

/// Every event once, in order, with sound hashes.
fn assert_whole(events: &[Event], count: u64) {
    let seqs: Vec<u64> = events.iter().map(|e| e.seq.0).collect();
    assert_eq!(seqs, (1..=count).collect::<Vec<_>>());
    assert!(events.windows(2).all(|w| w[1].follows(w[0].hash)));
    for event in events {
        assert_eq!(event.body, body(event.seq.0));
    }
}

#[tokio::test]
async fn a_stream_broken_anywhere_goes_on_where_it_broke() {
    // Cuts at many places, with and without what was under way being kept by the collector.
    let cuts = [1, 3, 64, 100, 255, 256, 257, 300, 17, 2, 400, 1];
    let script = cuts
        .iter()
        .enumerate()
        .map(|(i, n)| Script {
            cut_after: Some(*n),
            keep_the_last: i % 2 == 0,
            window: Some([3, 100, 1000][i % 3]),
            ..Script::default()
        })
        .collect();
    let collector = Collector::start(Pki::new(), "localhost", script).await;
    let mut node = Node::start(&collector, 20, 900);
    collector.until("the first part", |m| m.cursor > 300).await;
    for n in (901..1500).step_by(20) {
        append(&node.ledger, n..n + 20);
    }
    let last = node.ledger.with(|l| l.next_seq().0 - 1);
    collector.until("everything", |m| m.cursor == last).await;
    node.until("everything is acknowledged", |s| s.acknowledged_seq == Seq(last)).await;
    assert_eq!(node.ledger.with(|l| l.acknowledged()), Seq(last));
    {
        let memory = collector.lock();
        assert_whole(&memory.events, last);
        assert!(memory.connections > 6, "{}", memory.connections);
        assert_eq!(memory.faults, Vec::<String>::new());
    }
    node.stop().await;
}

#[tokio::test]
async fn no_more_than_the_window_is_under_way() {
    let script = vec![Script { window: Some(7), ack_on_heartbeat: true, ..Script::default() }];
    let collector = Collector::start(Pki::new(), "localhost", script).await;
    let node = Node::start(&collector, 20, 40);
    collector.until("everything", |m| m.cursor == 40).await;
    {
        let memory = collector.lock();
        assert_eq!(memory.most_under_way, 7);
        assert_whole(&memory.events, 40);
        assert_eq!(memory.heartbeats[0].missed_hints, 3);
        assert_eq!(memory.heartbeats[0].last_seq, 40);
    }
    node.stop().await;
}

#[tokio::test]
async fn an_acknowledgement_of_what_was_never_sent_lets_nothing_go() {
    let script = vec![
        Script { lie: Some(1_000_000), window: Some(5), ..Script::default() },
        Script { lie: Some(u64::MAX), window: Some(5), ..Script::default() },
        // Backwards: nothing follows from it.
        Script { lie: Some(0), ..Script::default() },
    ];
    let collector = Collector::start(Pki::new(), "localhost", script).await;
    let mut node = Node::start(&collector, 20, 200);
    node.until("the lie is told", |s| s.last_error.as_deref().is_some_and(|e| e.contains("nothing was let go"))).await;
    assert!(node.ledger.with(|l| l.acknowledged()) <= Seq(5));
    node.until("everything is acknowledged", |s| s.acknowledged_seq == Seq(200)).await;
    assert_whole(&collector.lock().events, 200);
    node.stop().await;
}

#[tokio::test]
async fn a_collector_that_knows_more_than_the_folder_makes_a_new_epoch() {
    let script = vec![Script { welcome: Some(5000), ..Script::default() }];
    let collector = Collector::start(Pki::new(), "localhost", script).await;
    let node = Node::start(&collector, 20, 10);
    collector.until("the events under the new epoch", |m| m.hellos.len() > 1 && m.cursor >= 11).await;
    {
        let memory = collector.lock();
        assert_ne!(memory.hellos[0].epoch, memory.hellos[1].epoch);
        let EventBody::Gap { gap } = &memory.events[0].body else { panic!("{:?}", memory.events[0]) };
        assert!(gap.detail.contains("restored from a backup"), "{}", gap.detail);
        assert_eq!(memory.events[1].body, body(1));
    }
    node.stop().await;
}

#[tokio::test]
async fn goodbye_is_shown_and_obeyed() {
    let collector =
        Collector::start(Pki::new(), "localhost", vec![Script { goodbye: true, ..Script::default() }]).await;
    let mut node = Node::start(&collector, 20, 3);
    node.until("everything is acknowledged", |s| s.acknowledged_seq == Seq(3) && s.connected_since.is_some()).await;
    assert!(collector.lock().connections >= 2);
    node.stop().await;
}

#[tokio::test]
async fn a_certificate_past_half_its_life_is_renewed_with_a_new_key_and_used() {
    let collector = Collector::start(Pki::new(), "localhost", vec![]).await;
    let mut node = Node::start(&collector, 20, 3);
    node.until("up with the first", |s| s.connected_since.is_some()).await;
    node.renew(&collector).await;
    // By the clock used the next one is due as well: it is not asked for again and again.
    assert_eq!(collector.lock().renewals, 1);
}

impl Node {
    /// Goes on with a clock beyond half the certificate's life, and then with the next certificate.
    async fn renew(self, collector: &Collector) {
        self.cancel.cancel();
        self.task.await.unwrap();
        let folder = IdentityFolder::of(self.dir.path());
        let before = std::fs::read(folder.path().join("node.key")).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(at("2036-12-01T00:00:00Z")));
        let vitals = watch::Sender::new(Vitals::default()).subscribe();
        let uplink = Uplink::new(Settings::default(), self.ledger.clone(), folder.clone(), clock, vitals);
        let cancel = CancellationToken::new();
        let task = tokio::spawn(Box::pin(uplink.run(cancel.clone())));
        collector.until("up with the next", |m| m.connections == 3).await;
        cancel.cancel();
        task.await.unwrap();
        let after = folder.load().unwrap();
        let serials = collector.lock().serials.clone();
        assert_eq!(serials[0], serials[1]);
        assert_ne!(serials[1], serials[2]);
        assert_eq!(serials[2], after.certificate.serial);
        assert_ne!(std::fs::read(folder.path().join("node.key")).unwrap(), before, "a new key");
    }
}

#[tokio::test]
async fn why_there_is_no_link_is_said_in_words() {
    let collector = Collector::start(Pki::new(), "localhost", vec![]).await;
    // Another authority's node.
    let stranger = Collector::start(Pki::new(), "localhost", vec![]).await;
    let dir = tempfile::tempdir().unwrap();
    let folder = Node::identity(&stranger, dir.path(), 20);
    let mut whom = folder.load().unwrap().collector;
    whom.address = format!("localhost:{}", collector.port);
    std::fs::write(folder.path().join("collector.json"), serde_json::to_vec(&whom).unwrap()).unwrap();
    let (ledger, _) = Ledger::open(&dir.path().join("outbox"), Limits::default(), Timestamp::UNIX_EPOCH).unwrap();
    let mut node = Node::run(dir, folder, LedgerHandle::new(ledger));
    let state = node.until("a reason", |s| s.last_error.is_some()).await;
    let why = state.last_error.unwrap();
    assert!(why.contains("not signed by the authority trusted here"), "{why}");
    assert_eq!(state.connected_since, None);
    node.stop().await;

    // Not enrolled: it waits until it is.
    let dir = tempfile::tempdir().unwrap();
    let folder = IdentityFolder::of(dir.path());
    let (ledger, _) = Ledger::open(&dir.path().join("outbox"), Limits::default(), Timestamp::UNIX_EPOCH).unwrap();
    let mut node = Node::run(dir, folder, LedgerHandle::new(ledger));
    let state = node.until("a reason", |s| s.last_error.is_some()).await;
    assert!(state.last_error.unwrap().contains("picketd enroll"));
    Node::identity(&collector, node.dir.path(), 20);
    node.until("up after enrolment", |s| s.connected_since.is_some() && s.last_error.is_none()).await;
    node.stop().await;
}

async fn try_enrol(collector: &str, token: EnrollToken, state: &Path, force: bool) -> Result<Enrolled, EnrolError> {
    let collector: Address = collector.parse().unwrap();
    let info = NodeInfo::default();
    Box::pin(enrol(Enrolment { collector, server_name: None, token, info, state, force })).await
}

#[tokio::test]
async fn a_token_becomes_an_identity_that_carries_a_link() {
    let collector = Collector::start(Pki::new(), "localhost", vec![]).await;
    let dir = tempfile::tempdir().unwrap();
    let address = format!("localhost:{}", collector.port);
    let token = EnrollToken::generate(collector.pki.pin()).unwrap();
    let enrolled = try_enrol(&address, token.clone(), dir.path(), false).await.unwrap();
    let loaded = IdentityFolder::of(dir.path()).load().unwrap();
    assert_eq!(loaded.collector.node_id, enrolled.node_id);

    // A second time only by force.
    let again = try_enrol(&address, token.clone(), dir.path(), false).await.unwrap_err();
    assert!(matches!(&again, EnrolError::Already { .. }) && again.to_string().contains("--force"), "{again}");
    try_enrol(&address, token, dir.path(), true).await.unwrap();

    let (ledger, _) = Ledger::open(&dir.path().join("outbox"), Limits::default(), Timestamp::UNIX_EPOCH).unwrap();
    let folder = IdentityFolder::of(dir.path());
    let mut node = Node::run(dir, folder, LedgerHandle::new(ledger));
    node.until("up", |s| s.connected_since.is_some()).await;
    node.stop().await;
}

#[tokio::test]
async fn every_way_enrolment_can_fail_says_what_to_do_and_stores_nothing() {
    let collector = Collector::start(Pki::new(), "localhost", vec![]).await;
    let other = Pki::new();
    let dir = tempfile::tempdir().unwrap();
    let good = || EnrollToken::generate(collector.pki.pin()).unwrap();
    let address = format!("localhost:{}", collector.port);
    let check = async |address: &str, token: EnrollToken, words: &[&str]| {
        let secret = token.reveal().to_string();
        let error = try_enrol(address, token, dir.path(), false).await.unwrap_err();
        let text = picket_service::chain::Chain(&error).to_string();
        for word in words {
            assert!(text.contains(word), "{word:?} is not in: {text}");
        }
        assert!(!text.contains(&secret[22..86]), "the secret is in: {text}");
        assert!(!IdentityFolder::of(dir.path()).exists());
    };
    check(&address, EnrollToken::generate(other.pin()).unwrap(), &["does not show the authority", "new token"]).await;
    check(&format!("127.0.0.1:{}", collector.port), good(), &["other names", "collector's settings"]).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    check(&closed.to_string(), good(), &["no connection", "firewall"]).await;
    for words in ["token 0011 was used up", "token 0011 expired", "unknown token"] {
        collector.lock().refuse = Some(tonic::Status::permission_denied(words));
        check(&address, good(), &[words, "picket-collector token create"]).await;
    }
    let advice = "used up; make a new one with `picket-collector token create`";
    collector.lock().refuse = Some(tonic::Status::permission_denied(advice));
    let error = try_enrol(&address, good(), dir.path(), false).await.unwrap_err().to_string();
    assert_eq!(error.matches("token create").count(), 1, "advice is given once: {error}");
    collector.lock().refuse = None;
    collector.lock().swap_authority = Some(other.ca.to_vec());
    check(&address, good(), &["authorities that do not include the one this token names"]).await;
}
