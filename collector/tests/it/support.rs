//! A collector, nodes and operators in a few lines.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use picket_collector::app::{App, admin_file};
use picket_collector::settings::{Overrides, Settings};
use picket_model::{ChainHash, Epoch, Event, EventBody, Evidence, Finding, FindingState, NodeId, Seq, Severity};
use picket_proto::v1::enrollment_client::EnrollmentClient;
use picket_proto::v1::uplink_request::Frame;
use picket_proto::v1::uplink_response::Frame as Answer;
use picket_proto::{convert, v1};
use picket_service::clock::{Clock as _, ManualClock};
use picket_service::operator_file::OperatorFile;
use picket_service::tls::client;
use picket_service::tls::connector::Dialer;
use picket_service::tls::material::{self, Identity};
use picket_service::tls::pin::SpkiPin;
use picket_service::tls::request::KeyAndRequest;
use rustls_pki_types::CertificateDer;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Longer than anything takes that works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A collector.
pub(crate) struct Site {
    pub(crate) app: App,
    pub(crate) clock: Arc<ManualClock>,
    dir: tempfile::TempDir,
}

/// What a node keeps.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) key_pem: String,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) dialer: Dialer,
}

impl Site {
    pub(crate) async fn start() -> Self {
        Self::with("").await
    }

    /// A collector with these settings (TOML) beside folder and ports.
    pub(crate) async fn with(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(Timestamp::now()));
        let app = App::start(settings(&dir, text), clock.clone()).await.unwrap();
        Self { app, clock, dir }
    }

    /// Stops it and starts it again on the same folder.
    pub(crate) async fn restart(self) -> Self {
        self.restart_after(|_| ()).await
    }

    /// The same, and something happens to the folder in between.
    pub(crate) async fn restart_after(self, meanwhile: impl FnOnce(&std::path::Path)) -> Self {
        let Self { app, clock, dir } = self;
        app.stop().await;
        meanwhile(dir.path());
        let app = App::start(settings(&dir, ""), clock.clone()).await.unwrap();
        Self { app, clock, dir }
    }

    pub(crate) fn state_dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Somebody who trusts this collector and shows this identity.
    pub(crate) fn dialer(&self, identity: Option<Identity>) -> Dialer {
        let config = client::config(&self.app.ca.authorities(), identity).unwrap();
        Dialer::new(self.app.advertised.clone(), config).unwrap()
    }

    /// The local administrator's connection.
    pub(crate) async fn admin(&self) -> Channel {
        let path = admin_file(self.dir.path());
        OperatorFile::read(&path).unwrap().dialer(&path).unwrap().connect().await.unwrap()
    }

    pub(crate) async fn token(&self, uses: u32) -> String {
        let request =
            v1::CreateTokenRequest { ttl_s: 0, uses, labels: [("site".to_owned(), "berlin".to_owned())].into() };
        let mut admin = v1::admin_client::AdminClient::new(self.admin().await);
        admin.create_token(request).await.unwrap().into_inner().token
    }

    /// A node that is taken in.
    pub(crate) async fn node(&self, hostname: &str) -> Node {
        let token = self.token(1).await;
        self.enroll(&token, hostname).await.unwrap()
    }

    /// Enrols as a node does: trusting the pin in the token only.
    pub(crate) async fn enroll(&self, token: &str, hostname: &str) -> Result<Node, Status> {
        let request = KeyAndRequest::generate().unwrap();
        self.enroll_with(token, hostname, request.csr_der, request.key_pem.to_string()).await
    }

    pub(crate) async fn enroll_with(
        &self,
        token: &str,
        hostname: &str,
        csr_der: Vec<u8>,
        key_pem: String,
    ) -> Result<Node, Status> {
        let pin: SpkiPin = token.rsplit('.').next().and_then(|p| p.parse().ok()).unwrap_or(self.app.ca.pin());
        let dialer = Dialer::new(self.app.advertised.clone(), client::pinned(pin).unwrap()).unwrap();
        let mut client = EnrollmentClient::new(dialer.channel().unwrap());
        let info = Some(v1::NodeInfo { hostname: hostname.to_owned(), ..v1::NodeInfo::default() });
        let request = v1::EnrollRequest { token: token.to_owned(), csr_der, info };
        let answer = client.enroll(request).await?.into_inner();
        let ders = |all: Vec<Vec<u8>>| all.into_iter().map(CertificateDer::from).collect::<Vec<_>>();
        let chain = ders(answer.certificate_chain_der);
        // The authority a node is told to trust is the one its token names.
        assert_eq!(ders(answer.ca_der), self.app.ca.authorities());
        Ok(Node {
            id: answer.node_id.parse().unwrap(),
            dialer: self.dialer(Some(identity(&chain, &key_pem))),
            key_pem,
            chain,
        })
    }

    /// An operator's connection.
    pub(crate) async fn operator(&self, name: &str, role: v1::OperatorRole) -> Dialer {
        let made = KeyAndRequest::generate().unwrap();
        let request =
            v1::CreateOperatorRequest { name: name.to_owned(), role: role.into(), days: 0, csr_der: made.csr_der };
        let mut admin = v1::admin_client::AdminClient::new(self.admin().await);
        let answer = admin.create_operator(request).await.unwrap().into_inner();
        let chain: Vec<_> = answer.certificate_chain_der.into_iter().map(CertificateDer::from).collect();
        self.dialer(Some(identity(&chain, &made.key_pem)))
    }

    /// The collector's own findings on a node, as an operator sees them: control and state.
    pub(crate) async fn findings(&self, node: NodeId) -> Vec<(String, v1::FindingState)> {
        let mut fleet = v1::fleet_client::FleetClient::new(self.admin().await);
        let states = [v1::FindingState::Open, v1::FindingState::Resolved, v1::FindingState::Blind];
        let filter = v1::Filter {
            nodes: vec![node.to_string()],
            states: states.map(Into::into).to_vec(),
            ..v1::Filter::default()
        };
        let request = v1::ListFindingsRequest { filter: Some(filter), page: None };
        let list = fleet.list_findings(request).await.unwrap().into_inner().findings;
        list.into_iter().filter_map(|f| f.finding).map(|f| (f.control.clone(), f.state())).collect()
    }

    /// Waits until a finding of the collector is in a state.
    pub(crate) async fn until_finding(&self, node: NodeId, control: &str, state: v1::FindingState) {
        until(&format!("{control} is {}", state.as_str_name()), async || {
            self.findings(node).await.contains(&(control.to_owned(), state))
        })
        .await;
    }

    /// Numbers of a node's events in the history, oldest first; the collector's own are left out.
    pub(crate) async fn history(&self, node: NodeId, epoch: Epoch) -> Vec<u64> {
        let mut fleet = v1::fleet_client::FleetClient::new(self.admin().await);
        let filter = Some(v1::Filter { nodes: vec![node.to_string()], ..v1::Filter::default() });
        let (mut numbers, mut token) = (Vec::new(), String::new());
        loop {
            let page = Some(v1::Page { size: 100, token: std::mem::take(&mut token) });
            let request = v1::ListHistoryRequest { filter: filter.clone(), page };
            let answer = fleet.list_history(request).await.unwrap().into_inner();
            let events = answer.events.into_iter().filter_map(|e| e.event);
            numbers.extend(events.filter(|e| e.epoch == epoch.to_string()).map(|e| e.seq));
            token = answer.next_page_token;
            if token.is_empty() {
                numbers.reverse();
                return numbers;
            }
        }
    }
}

fn settings(dir: &tempfile::TempDir, text: &str) -> Settings {
    let file = dir.path().join("collector.toml");
    std::fs::write(&file, text).unwrap();
    let flags = Overrides {
        state_dir: Some(dir.path().to_owned()),
        listen: Some("127.0.0.1:0".to_owned()),
        http_listen: Some("none".to_owned()),
        ..Overrides::default()
    };
    Settings::load(Some(&file), [], &flags).unwrap()
}

pub(crate) fn identity(chain: &[CertificateDer<'static>], key_pem: &str) -> Identity {
    let pem = material::certificates_to_pem(chain.iter().map(AsRef::as_ref));
    Identity::from_pem(&pem, key_pem, "test").unwrap()
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
}

/// One stream of a node.
pub(crate) struct Link {
    pub(crate) send: mpsc::Sender<v1::UplinkRequest>,
    pub(crate) receive: Streaming<v1::UplinkResponse>,
}

impl Link {
    pub(crate) async fn open(node: &Node) -> Result<Self, Status> {
        let (send, requests) = mpsc::channel(16);
        let mut client = v1::uplink_client::UplinkClient::new(node.dialer.channel().unwrap());
        let receive = client.report(ReceiverStream::new(requests)).await?.into_inner();
        Ok(Self { send, receive })
    }

    /// Opens a stream and says hello; returns what is acknowledged already.
    pub(crate) async fn hello(site: &Site, node: &Node, epoch: Epoch, next_seq: u64) -> Result<(Self, u64), Status> {
        let mut link = Self::open(node).await?;
        link.say(Frame::Hello(hello(site, epoch, next_seq))).await;
        match link.next().await? {
            Some(Answer::Welcome(welcome)) => Ok((link, welcome.acknowledged_seq)),
            other => panic!("no welcome but {other:?}"),
        }
    }

    pub(crate) async fn say(&self, frame: Frame) {
        // A stream that ended shows with the next answer.
        self.send.send(v1::UplinkRequest { frame: Some(frame) }).await.ok();
    }

    pub(crate) async fn next(&mut self) -> Result<Option<Answer>, Status> {
        let answer = tokio::time::timeout(PATIENCE, self.receive.message()).await.expect("no answer came")?;
        Ok(answer.and_then(|a| a.frame))
    }

    /// Sends events and waits for their acknowledgement.
    pub(crate) async fn deliver(&mut self, events: &[Event]) -> Result<u64, Status> {
        self.say(Frame::Batch(batch(events))).await;
        match self.next().await? {
            Some(Answer::Ack(ack)) => Ok(ack.acknowledged_seq),
            other => panic!("no acknowledgement but {other:?}"),
        }
    }
}

pub(crate) fn hello(site: &Site, epoch: Epoch, next_seq: u64) -> v1::Hello {
    v1::Hello {
        epoch: epoch.to_string(),
        first_seq: 0,
        next_seq,
        info: Some(v1::NodeInfo { hostname: "edge-1".to_owned(), ..v1::NodeInfo::default() }),
        clock_unix_ms: site.clock.now().as_millisecond(),
    }
}

pub(crate) fn batch(events: &[Event]) -> v1::EventBatch {
    let events = events.iter().map(|e| v1::Event { epoch: String::new(), ..convert::event_to_wire(e) }).collect();
    v1::EventBatch { given_up_through: 0, events }
}

pub(crate) fn epoch(n: u8) -> Epoch {
    Epoch::from_bytes([n; 16])
}

/// Events 1 to `count` of an epoch, each a finding of its own, chained.
pub(crate) fn events(epoch: Epoch, count: u64) -> Vec<Event> {
    let mut previous = ChainHash::START;
    (1..=count)
        .map(|seq| {
            let at = Timestamp::from_second(1_700_000_000).unwrap();
            let finding = Finding {
                control: "sysctl-kernel-panic".to_owned(),
                subject: format!("subject-{seq}"),
                state: FindingState::Open,
                severity: Severity::High,
                title: "the kernel reboots after a panic".to_owned(),
                observed: "0".to_owned(),
                expected: "10".to_owned(),
                config_state: None,
                evidence: vec![Evidence { detail: "0".to_owned(), ..Evidence::default() }],
                remedy: "set it".to_owned(),
                opened_at: at,
                changed_at: at,
                reopened: 0,
                stale: false,
            };
            let event = Event::new(epoch, Seq(seq), at, EventBody::FindingOpened { finding }, previous);
            previous = event.hash;
            event
        })
        .collect()
}
