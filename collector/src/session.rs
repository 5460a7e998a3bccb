//! One stream of one node: hello, welcome, batches one way, acknowledgements the other.
//!
//! Nothing is acknowledged that is not durable. What cannot be taken ends the stream with a status that says why,
//! is counted, and becomes a finding on the node, because an operator must look.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use picket_model::{Epoch, NodeId, NodeInfo, Seq};
use picket_proto::{convert, v1};
use picket_service::chain::Chain;
use picket_service::clock::Clock;
use picket_service::tls::peer::Certificate;
use picket_service::value::Span;
use picket_store::{NodeRecord, Store};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use crate::authz::{broken, refused};
use crate::fleet::{Fleet, Ticket};
use crate::ingest::{self, Ingest, IngestError};
use crate::metrics::Metrics;
use crate::notice::{Notice, Notices};
use crate::registry::{Registry, RegistryError};
use crate::settings::Settings;
use crate::writer::{SubmitError, WriterHandle};

/// The first frame must come within this time.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// For so long after a newer stream took over, an older one is listened to: whoever still speaks is a second machine.
const PROOF: Duration = Duration::from_secs(35);
/// What an older stream says within this time of a newer one's hello was on its way before.
const ON_ITS_WAY: Duration = Duration::from_secs(1);
/// A replaced stream's machine should come back no sooner than this; milliseconds.
const REPLACED_RETRY_MS: u32 = 30_000;
/// How often a node's record is written for a sign of life alone.
const NOTE_EVERY: Duration = Duration::from_secs(30);

/// What a session needs of the collector.
#[derive(Debug, Clone)]
pub struct Sessions {
    /// Who belongs to the fleet.
    pub registry: Arc<Registry>,
    /// History, for cursors.
    pub store: Arc<dyn Store>,
    /// The way into history.
    pub writer: WriterHandle,
    /// Who is connected.
    pub fleet: Fleet,
    /// Findings of the collector.
    pub notices: Arc<Notices>,
    /// Counters.
    pub metrics: Metrics,
    /// Settings as they are now.
    pub settings: Arc<ArcSwap<Settings>>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Cancelled when the collector stops.
    pub stop: CancellationToken,
}

/// What goes to the node.
pub type Answers = mpsc::Sender<Result<v1::UplinkResponse, Status>>;

/// Why a stream ended.
#[derive(Debug)]
enum End {
    /// The node closed it, or the connection broke.
    Gone,
    /// The node is told so, without blame.
    Told(Status),
    /// The node sent what cannot be taken: told, counted, found.
    Rejected(&'static str, Status),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Told(status)
    }
}

/// A node that said hello.
struct Session<'a> {
    parts: &'a Sessions,
    node: NodeId,
    certificate: &'a Certificate,
    ingest: Ingest,
    ticket: Ticket,
    answers: &'a Answers,
    noted: std::time::Instant,
    rejected_before: bool,
}

impl Sessions {
    /// Serves one stream until it ends.
    pub async fn run(
        self,
        node: NodeId,
        certificate: Certificate,
        mut inbound: Streaming<v1::UplinkRequest>,
        answers: Answers,
    ) {
        self.metrics.streams.inc();
        let end = self.talk(node, &certificate, &mut inbound, &answers).await;
        self.metrics.streams.dec();
        let status = match end {
            Ok(()) | Err(End::Gone) => return,
            Err(End::Told(status)) => status,
            Err(End::Rejected(reason, status)) => {
                self.metrics.reject(reason);
                self.notices.raise(node, Notice::Rejected, status.message()).await;
                status
            }
        };
        tracing::info!(node = %node, code = ?status.code(), reason = status.message(), "stream ended by the collector");
        // The node may be gone already.
        answers.send(Err(status)).await.ok();
    }

    async fn talk(
        &self,
        node: NodeId,
        certificate: &Certificate,
        inbound: &mut Streaming<v1::UplinkRequest>,
        answers: &Answers,
    ) -> Result<(), End> {
        let first = tokio::time::timeout(HELLO_TIMEOUT, inbound.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no hello within 10 seconds"))?;
        let hello = match first.map_err(unreadable)? {
            None => return Ok(()),
            Some(v1::UplinkRequest { frame: Some(v1::uplink_request::Frame::Hello(hello)) }) => hello,
            Some(_) => return Err(garbage("a stream must begin with hello")),
        };
        let epoch: Epoch = hello.epoch.parse().map_err(|e| garbage(format!("hello.epoch: {e}")))?;
        if epoch == self.store.own_epoch() {
            return Err(garbage("hello.epoch: this one is the collector's own"));
        }
        if hello.next_seq == 0 {
            return Err(garbage("hello.next_seq: 0, numbers start at 1"));
        }
        let info =
            convert::info_from_wire(hello.info.unwrap_or_default()).map_err(|e| garbage(format!("hello.info: {e}")))?;
        let store = Arc::clone(&self.store);
        let cursor = tokio::task::spawn_blocking(move || store.cursor(node, epoch))
            .await
            .map_err(|e| broken(&e))?
            .map_err(|e| Status::unavailable(Chain(&e).to_string()))?;
        let through = cursor.map_or(Seq::ZERO, |c| c.through);
        if hello.next_seq <= through.0 {
            let message = format!(
                "the node would number its next event {}, but {through} of this epoch is stored already: its state \
                 folder was restored from an old image, or copied; it must begin a new epoch",
                hello.next_seq
            );
            // The welcome tells the node how far the history has come, so that it can begin anew.
            send(answers, self.welcome(through)).await?;
            return Err(End::Rejected("rolled_back", Status::failed_precondition(message)));
        }
        let ticket = self.fleet.enter(node);
        let before = self.registry.node(node);
        self.greet(node, epoch, &info, hello.clock_unix_ms, before.as_ref()).await?;
        let heartbeat = self.settings.load().fleet.heartbeat;
        send(answers, self.welcome(through)).await?;
        tracing::info!(node = %node, hostname = info.hostname, epoch = %epoch, through = through.0, "node connected");
        let rejected_before = self.notices.is_open(node, Notice::Rejected).await;
        let noted = self.clock.monotonic();
        let ingest = Ingest::new(epoch, cursor.as_ref());
        let session = Session { parts: self, node, certificate, ingest, ticket, answers, noted, rejected_before };
        session.listen(inbound, heartbeat).await
    }

    fn welcome(&self, through: Seq) -> v1::uplink_response::Frame {
        let settings = self.settings.load();
        v1::uplink_response::Frame::Welcome(v1::Welcome {
            acknowledged_seq: through.0,
            window_events: settings.limits.window_events,
            heartbeat_interval_ms: u32::try_from(settings.fleet.heartbeat.as_millis()).unwrap_or(u32::MAX),
            clock_unix_ms: self.clock.now().as_millisecond(),
        })
    }

    /// What a hello changes in the node's record, and what is odd about it.
    async fn greet(
        &self,
        node: NodeId,
        epoch: Epoch,
        info: &NodeInfo,
        clock_unix_ms: i64,
        before: Option<&NodeRecord>,
    ) -> Result<(), Status> {
        let now = self.clock.now();
        let offset = clock_unix_ms.saturating_sub(now.as_millisecond());
        let info = info.clone();
        self.note(node, move |record| {
            // A node that does not know its name keeps the one it enrolled with.
            if !info.hostname.is_empty() {
                record.hostname.clone_from(&info.hostname);
            }
            record.info = info;
            record.epoch = Some(epoch);
            record.last_seen = Some(now);
            record.clock_offset_ms = offset;
        })
        .await?;
        if let Some(old) = before.and_then(|b| b.epoch).filter(|old| *old != epoch) {
            let observed = format!("state folder {epoch} instead of {old}");
            self.notices.raise(node, Notice::StateReset, observed).await;
        }
        self.notices.settle(node, Notice::Silent, "connected").await;
        self.look_at_clock(node, offset).await;
        Ok(())
    }

    async fn look_at_clock(&self, node: NodeId, offset_ms: i64) {
        let tolerance = self.settings.load().fleet.clock_tolerance;
        let off = Duration::from_millis(offset_ms.unsigned_abs());
        if off > tolerance {
            // Said once: the number changes with every heartbeat, the problem does not.
            if !self.notices.is_open(node, Notice::ClockOff).await {
                let side = if offset_ms < 0 { "behind" } else { "ahead of" };
                let off = Span(Duration::from_secs(off.as_secs()));
                self.notices.raise(node, Notice::ClockOff, format!("{off} {side} the collector's clock")).await;
            }
        } else if off <= tolerance / 2 {
            self.notices.settle(node, Notice::ClockOff, "within the tolerance").await;
        }
    }

    async fn note(&self, node: NodeId, note: impl FnOnce(&mut NodeRecord) + Send + 'static) -> Result<(), Status> {
        let registry = Arc::clone(&self.registry);
        match tokio::task::spawn_blocking(move || registry.note(node, note)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(RegistryError::Store(error))) => Err(Status::unavailable(Chain(&error).to_string())),
            Ok(Err(error)) => Err(Status::unauthenticated(error.to_string())),
            Err(error) => Err(broken(&error)),
        }
    }
}

impl Session<'_> {
    async fn listen(mut self, inbound: &mut Streaming<v1::UplinkRequest>, heartbeat: Duration) -> Result<(), End> {
        let quiet = heartbeat.saturating_mul(3).max(Duration::from_secs(30));
        let superseded = self.ticket.superseded.clone();
        loop {
            let frame = tokio::select! {
                biased;
                () = superseded.cancelled() => return self.replaced(inbound).await,
                () = self.parts.stop.cancelled() => {
                    goodbye(self.answers, "the collector is stopping", 1000).await;
                    return Ok(());
                }
                frame = tokio::time::timeout(quiet, inbound.message()) => frame,
            };
            let frame = match frame {
                Err(_) => {
                    let message = format!("no sign of life for {}", Span(quiet));
                    return Err(Status::deadline_exceeded(message).into());
                }
                Ok(Ok(None)) => return Ok(()),
                Ok(Ok(Some(message))) => message.frame,
                Ok(Err(status)) => return Err(unreadable(status)),
            };
            self.ticket.heard();
            // Revocation cuts the connection; this holds even when the cut comes late.
            self.parts.registry.node_standing(self.node, self.certificate).map_err(refused)?;
            match frame {
                Some(v1::uplink_request::Frame::Batch(batch)) => self.batch(batch).await?,
                Some(v1::uplink_request::Frame::Heartbeat(beat)) => self.heartbeat(beat).await?,
                Some(v1::uplink_request::Frame::Hello(_)) => return Err(garbage("hello may come only once")),
                None => return Err(garbage("a frame of a kind that this version does not know")),
            }
        }
    }

    async fn batch(&mut self, batch: v1::EventBatch) -> Result<(), End> {
        let checked = self.ingest.check(batch).map_err(|e| {
            let reason = match e {
                IngestError::Field(_) => "malformed",
                IngestError::TooMany { .. } => "too_large",
                IngestError::Disorder { .. } | IngestError::Hole { .. } => "out_of_order",
            };
            End::Rejected(reason, e.into())
        })?;
        let epoch = self.ingest.epoch();
        if let Some(first) = checked.altered.first() {
            self.parts.metrics.altered.inc_by(u64::try_from(checked.altered.len()).unwrap_or(u64::MAX));
            tracing::error!(node = %self.node, epoch = %epoch, seq = %first, "events do not follow from each other");
            let finding = ingest::altered(epoch, *first, checked.altered.len(), self.parts.clock.now());
            self.parts.writer.submit_own(self.node, finding).await.map_err(Status::from)?;
        }
        let submitted = self.parts.writer.submit(self.node, epoch, checked.events, checked.given_up_through).await;
        let durable = match submitted {
            Ok(durable) => durable,
            Err(error @ SubmitError::Refused(_)) => return Err(End::Rejected("out_of_order", error.into())),
            Err(error) => return Err(Status::from(error).into()),
        };
        if durable.given_up > 0 {
            self.parts.metrics.given_up.inc_by(durable.given_up);
            let observed = format!(
                "{} events of epoch {epoch} before number {} were given up by the node",
                durable.given_up,
                durable.through.0.saturating_add(1)
            );
            self.parts.notices.raise(self.node, Notice::GivenUp, observed).await;
        }
        self.parts.metrics.batches.inc();
        self.parts.metrics.events.inc_by(durable.stored);
        self.parts.metrics.duplicates.inc_by(durable.duplicates.saturating_add(checked.duplicates));
        send(self.answers, v1::uplink_response::Frame::Ack(v1::Ack { acknowledged_seq: durable.through.0 })).await?;
        if std::mem::take(&mut self.rejected_before) {
            self.parts.notices.settle(self.node, Notice::Rejected, "reports are taken again").await;
        }
        self.seen(None).await
    }

    async fn heartbeat(&mut self, beat: v1::Heartbeat) -> Result<(), End> {
        let offset = beat.clock_unix_ms.saturating_sub(self.parts.clock.now().as_millisecond());
        self.parts.look_at_clock(self.node, offset).await;
        self.seen(Some((beat.outbox_events, offset))).await
    }

    /// Writes down that the node was heard of; not more often than is of use.
    async fn seen(&mut self, heartbeat: Option<(u64, i64)>) -> Result<(), End> {
        let now = self.parts.clock.monotonic();
        if heartbeat.is_none() && now.saturating_duration_since(self.noted) < NOTE_EVERY {
            return Ok(());
        }
        self.noted = now;
        let time = self.parts.clock.now();
        self.parts
            .note(self.node, move |record| {
                record.last_seen = Some(time);
                if let Some((behind, offset)) = heartbeat {
                    record.behind_events = behind;
                    record.clock_offset_ms = offset;
                }
            })
            .await?;
        Ok(())
    }

    /// A newer stream of this identity took over. The same machine does that when its old connection died without a
    /// word; then nothing more comes from here. Whoever answers is a second machine.
    async fn replaced(self, inbound: &mut Streaming<v1::UplinkRequest>) -> Result<(), End> {
        let ended = |item: &Result<Option<v1::UplinkRequest>, Status>| !matches!(item, Ok(Some(_)));
        // What was already on its way when the newer one came proves nothing, nor does the end of a connection that
        // was closed just before.
        let until = tokio::time::Instant::now() + ON_ITS_WAY;
        while let Ok(item) = tokio::time::timeout_at(until, inbound.message()).await {
            if ended(&item) {
                return Ok(());
            }
        }
        goodbye(self.answers, "another connection with this identity took over", REPLACED_RETRY_MS).await;
        let answer = tokio::select! {
            answer = tokio::time::timeout(PROOF, inbound.message()) => answer,
            () = self.parts.stop.cancelled() => return Ok(()),
        };
        if let Ok(Ok(_)) = answer {
            self.parts.metrics.reject("identity_twice");
            let observed = "two streams with this node's certificate were alive at the same time";
            self.parts.notices.raise(self.node, Notice::IdentityTwice, observed).await;
        }
        Ok(())
    }
}

fn garbage(message: impl Into<String>) -> End {
    End::Rejected("malformed", Status::invalid_argument(message.into()))
}

/// A message that tonic could not read: too large, not protobuf, or the connection broke.
fn unreadable(status: Status) -> End {
    match status.code() {
        Code::OutOfRange | Code::ResourceExhausted => {
            let message = format!(
                "a message is over the limit of {} bytes; send fewer events at a time",
                picket_proto::limits::MESSAGE_BYTES
            );
            End::Rejected("too_large", Status::resource_exhausted(message))
        }
        Code::Internal if status.message().contains("decode") || status.message().contains("decompress") => {
            garbage("a message is not protobuf as picket.v1 has it")
        }
        _ => End::Gone,
    }
}

async fn send(answers: &Answers, frame: v1::uplink_response::Frame) -> Result<(), End> {
    answers.send(Ok(v1::UplinkResponse { frame: Some(frame) })).await.map_err(|_| End::Gone)
}

async fn goodbye(answers: &Answers, reason: &str, retry_after_ms: u32) {
    let frame = v1::uplink_response::Frame::Goodbye(v1::Goodbye { reason: reason.to_owned(), retry_after_ms });
    // A node that is gone needs no goodbye.
    send(answers, frame).await.ok();
}
