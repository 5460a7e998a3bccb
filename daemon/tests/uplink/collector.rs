//! A collector of a few lines: real TLS, real gRPC, a memory, and a script of misdeeds.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use picket_model::{Epoch, Event, NodeId};
use picket_proto::convert::event_from_wire;
use picket_proto::v1::enrollment_server::{Enrollment, EnrollmentServer};
use picket_proto::v1::uplink_server::{Uplink, UplinkServer};
use picket_proto::v1::{self, uplink_request, uplink_response};
use picket_service::tls::accept::{ConnectionInfo, Door, Limits};
use picket_service::tls::peer::{Peer, Serial};
use picket_service::tls::server;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::{Request, Response, Status, Streaming};

use crate::pki::Pki;

/// What to do on one connection; the default is to behave.
#[derive(Debug, Clone, Default)]
pub struct Script {
    /// Break the stream when so many events came.
    pub cut_after: Option<usize>,
    /// Keep the batch that the cut falls into, but do not acknowledge it.
    pub keep_the_last: bool,
    /// Acknowledge this in place of what was kept, for the first batch.
    pub lie: Option<u64>,
    /// Welcome with this in place of what was kept.
    pub welcome: Option<u64>,
    /// Events that may be under way.
    pub window: Option<u32>,
    /// Acknowledge only when a heartbeat comes.
    pub ack_on_heartbeat: bool,
    /// Say goodbye instead of welcome.
    pub goodbye: bool,
}

#[derive(Debug, Default)]
pub struct Memory {
    pub script: VecDeque<Script>,
    pub epoch: Option<Epoch>,
    pub cursor: u64,
    pub events: Vec<Event>,
    pub connections: usize,
    /// Broken promises of the node.
    pub faults: Vec<String>,
    pub most_under_way: usize,
    pub heartbeats: Vec<v1::Heartbeat>,
    pub hellos: Vec<v1::Hello>,
    pub serials: Vec<Serial>,
    pub renewals: usize,
    /// Answer Enroll with this refusal.
    pub refuse: Option<Status>,
    /// Hand out another authority than the token names.
    pub swap_authority: Option<Vec<u8>>,
}

#[derive(Clone)]
pub struct Collector {
    pub pki: Arc<Pki>,
    pub memory: Arc<Mutex<Memory>>,
    pub changed: Arc<watch::Sender<u64>>,
    pub port: u16,
    stop: CancellationToken,
}

impl Collector {
    pub async fn start(pki: Pki, name: &str, script: Vec<Script>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let collector = Self {
            port: listener.local_addr().unwrap().port(),
            pki: Arc::new(pki),
            memory: Arc::new(Mutex::new(Memory { script: script.into(), ..Memory::default() })),
            changed: Arc::new(watch::Sender::new(0)),
            stop: CancellationToken::new(),
        };
        let tls = server::config(
            std::slice::from_ref(&collector.pki.ca),
            collector.pki.server(name),
            std::time::Duration::ZERO,
        );
        let door = Door::new(tls.unwrap(), collector.pki.domain.clone(), Limits::default());
        let incoming = door.open(listener, collector.stop.clone());
        let uplink = UplinkServer::new(collector.clone())
            .send_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(picket_proto::limits::MESSAGE_BYTES);
        let router = tonic::transport::Server::builder()
            .add_service(uplink)
            .add_service(EnrollmentServer::new(collector.clone()));
        let stop = collector.stop.clone();
        tokio::spawn(router.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()));
        collector
    }

    pub fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap()
    }

    /// Waits until the memory is as wanted.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Memory) -> bool) {
        let mut changed = self.changed.subscribe();
        let reached = async {
            while !wanted(&self.lock()) {
                changed.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(std::time::Duration::from_secs(60), reached).await.is_err() {
            let memory = self.lock();
            panic!(
                "not reached: {what}; cursor {}, connections {}, {:?}",
                memory.cursor, memory.connections, memory.faults
            );
        }
    }

    fn tick(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    /// Takes a batch. Returns how many events of it were new.
    fn take(&self, batch: v1::EventBatch, epoch: Epoch) {
        let mut memory = self.lock();
        if batch.events.len() > picket_proto::limits::BATCH_EVENTS {
            memory.faults.push(format!("a batch of {}", batch.events.len()));
        }
        for wire in batch.events {
            if !wire.epoch.is_empty() {
                memory.faults.push("an epoch inside a batch".to_owned());
            }
            let event = event_from_wire(wire, epoch).unwrap();
            if event.seq.0 <= memory.cursor {
                continue;
            }
            if event.seq.0 != memory.cursor + 1 && event.seq.0 - 1 > batch.given_up_through {
                let fault = format!("{} after {}", event.seq, memory.cursor);
                memory.faults.push(fault);
            }
            memory.cursor = event.seq.0;
            memory.events.push(event);
        }
    }

    async fn talk(
        self,
        mut requests: Streaming<v1::UplinkRequest>,
        out: mpsc::Sender<Result<v1::UplinkResponse, Status>>,
    ) -> Option<()> {
        let script = {
            let mut memory = self.lock();
            memory.connections += 1;
            memory.script.pop_front().unwrap_or_default()
        };
        let hello = match requests.next().await?.ok()?.frame? {
            uplink_request::Frame::Hello(hello) => hello,
            other => {
                self.lock().faults.push(format!("first frame {other:?}"));
                return None;
            }
        };
        let epoch: Epoch = hello.epoch.parse().unwrap();
        let cursor = {
            let mut memory = self.lock();
            memory.hellos.push(hello);
            if memory.epoch != Some(epoch) {
                (memory.epoch, memory.cursor) = (Some(epoch), 0);
            }
            memory.cursor
        };
        let answer = |frame| Ok(v1::UplinkResponse { frame: Some(frame) });
        if script.goodbye {
            let goodbye = v1::Goodbye { reason: "moving house".into(), retry_after_ms: 1 };
            out.send(answer(uplink_response::Frame::Goodbye(goodbye))).await.ok()?;
            self.tick();
            return None;
        }
        let welcome = v1::Welcome {
            acknowledged_seq: script.welcome.unwrap_or(cursor),
            window_events: script.window.unwrap_or(1000),
            heartbeat_interval_ms: 100,
            clock_unix_ms: 0,
        };
        out.send(answer(uplink_response::Frame::Welcome(welcome))).await.ok()?;
        self.tick();
        let (mut came, mut acknowledged, mut lie) = (0, cursor, script.lie);
        while let Some(Ok(request)) = requests.next().await {
            let mut acknowledge = !script.ack_on_heartbeat;
            match request.frame? {
                uplink_request::Frame::Batch(batch) => {
                    came += batch.events.len();
                    let cut = script.cut_after.is_some_and(|n| came >= n);
                    if !cut || script.keep_the_last {
                        self.take(batch, epoch);
                    }
                    if cut {
                        self.tick();
                        return None;
                    }
                    let mut memory = self.lock();
                    memory.most_under_way = memory.most_under_way.max((memory.cursor - acknowledged) as usize);
                }
                uplink_request::Frame::Heartbeat(beat) => {
                    self.lock().heartbeats.push(beat);
                    acknowledge = true;
                }
                uplink_request::Frame::Hello(_) => self.lock().faults.push("a second hello".into()),
            }
            if acknowledge {
                acknowledged = self.lock().cursor;
                let ack = v1::Ack { acknowledged_seq: lie.take().unwrap_or(acknowledged) };
                out.send(answer(uplink_response::Frame::Ack(ack))).await.ok()?;
            }
            self.tick();
        }
        self.tick();
        None
    }
}

#[tonic::async_trait]
impl Uplink for Collector {
    type ReportStream = Pin<Box<dyn Stream<Item = Result<v1::UplinkResponse, Status>> + Send>>;

    async fn report(
        &self,
        request: Request<Streaming<v1::UplinkRequest>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        match &request.extensions().get::<ConnectionInfo>().unwrap().peer {
            Peer::Node { certificate, .. } => self.lock().serials.push(certificate.serial.clone()),
            other => return Err(Status::unauthenticated(format!("no node's certificate: {other:?}"))),
        }
        let (send, receive) = mpsc::channel(16);
        let collector = self.clone();
        tokio::spawn(async move { collector.talk(request.into_inner(), send).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }
}

#[tonic::async_trait]
impl Enrollment for Collector {
    async fn enroll(&self, request: Request<v1::EnrollRequest>) -> Result<Response<v1::EnrollResponse>, Status> {
        if let Some(refusal) = self.lock().refuse.clone() {
            return Err(refusal);
        }
        let request = request.into_inner();
        let node_id = NodeId::from_bytes([9; 16]);
        let issued = self.pki.sign(&request.csr_der, node_id, 20);
        Ok(Response::new(v1::EnrollResponse {
            node_id: node_id.to_string(),
            certificate_chain_der: issued.chain,
            ca_der: self.lock().swap_authority.clone().map_or(issued.authorities, |der| vec![der]),
            trust_domain: self.pki.domain.to_string(),
            renew_after_unix_ms: 0,
        }))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        let info = request.extensions().get::<ConnectionInfo>().unwrap().clone();
        let Peer::Node { id, .. } = info.peer else { return Err(Status::unauthenticated("no node's certificate")) };
        self.lock().renewals += 1;
        self.tick();
        let issued = self.pki.sign(&request.into_inner().csr_der, id, 20);
        Ok(Response::new(v1::RenewResponse {
            certificate_chain_der: issued.chain,
            ca_der: issued.authorities,
            renew_after_unix_ms: 0,
        }))
    }
}
