//! One stream: hello → welcome → batches one way, cumulative acknowledgements the other.

use std::sync::PoisonError;
use std::time::Duration;

use jiff::Timestamp;
use picket_model::Seq;
use picket_proto::convert::{event_to_wire, info_to_wire};
use picket_proto::limits;
use picket_proto::v1::uplink_client::UplinkClient;
use picket_proto::v1::{self, uplink_request, uplink_response};
use picket_service::chain::Chain;
use picket_service::tls::connector::Dialer;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::window::{Acked, Window};
use super::{Shared, renew};
use crate::identity::Loaded;

/// JSON bytes read from the outbox for one batch. Protobuf is shorter, so such a batch is below the limit of a
/// message; it is checked all the same.
const BATCH_BYTES: usize = 640 * 1024;
/// Heartbeat when the collector names none.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// How a stream ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// On purpose: connect again at once.
    Again(&'static str),
    /// The collector said why and when to come back.
    Goodbye { reason: String, retry_after: Duration },
    /// It broke, for this reason.
    Failed(String),
}

/// One stream.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    shared: Shared<'a>,
    loaded: &'a Loaded,
    dialer: Dialer,
    welcomed: bool,
}

/// A stream after Welcome.
struct Open {
    requests: mpsc::Sender<v1::UplinkRequest>,
    responses: Streaming<v1::UplinkResponse>,
    window: Window,
    heartbeat: Duration,
}

impl<'a> Session<'a> {
    pub(crate) const fn new(shared: Shared<'a>, loaded: &'a Loaded, dialer: Dialer) -> Self {
        Self { shared, loaded, dialer, welcomed: false }
    }

    /// Runs until the stream ends. Says also whether Welcome came.
    pub(crate) async fn run(mut self, cancel: &CancellationToken) -> (End, bool) {
        let end = match self.stream(cancel).await {
            Ok(end) | Err(end) => end,
        };
        (end, self.welcomed)
    }

    async fn stream(&mut self, cancel: &CancellationToken) -> Result<End, End> {
        let channel = self.dialer.connect().await.map_err(|e| End::Failed(e.to_string()))?;
        // A certificate that ended within the collector's grace is good for renewal only, so that comes first.
        if self.now() >= self.loaded.certificate.not_after && self.should_renew() {
            self.renew(&channel).await?;
            return Ok(End::Again("the certificate was renewed"));
        }
        let mut open = self.open(channel.clone()).await?;
        let mut appended = self.shared.ledger.watch();
        let mut heartbeat = tokio::time::interval_at(Instant::now() + open.heartbeat, open.heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut identity = tokio::time::interval(self.shared.settings.identity_check);
        identity.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut progress = Instant::now();
        loop {
            self.send_batches(&mut open).await?;
            let stalled = progress + self.shared.settings.ack_timeout;
            tokio::select! {
                () = cancel.cancelled() => return Ok(End::Again("the daemon stops")),
                answer = open.responses.message() => {
                    match answer {
                        Ok(Some(frame)) => self.frame(frame, &mut open, &mut progress)?,
                        Ok(None) => return Err(End::Failed(format!("{}: the collector closed the stream", self.dialer.address()))),
                        Err(status) => return Err(self.failed(&status)),
                    }
                }
                changed = appended.changed() => if changed.is_err() {
                    return Ok(End::Again("the ledger was closed"));
                } else if open.window.under_way() == 0 {
                    progress = Instant::now();
                },
                _ = heartbeat.tick() => self.heartbeat(&open).await,
                _ = identity.tick() => if self.should_renew() {
                    match self.renew(&channel).await {
                        Ok(()) => return Ok(End::Again("the certificate was renewed")),
                        // The certificate there is still good: reporting goes on.
                        Err(End::Failed(reason)) => tracing::warn!(
                            reason, not_after = %self.loaded.certificate.not_after,
                            "the node's certificate is due for renewal; it is tried again"
                        ),
                        Err(end) => return Err(end),
                    }
                },
                () = tokio::time::sleep_until(stalled), if open.window.under_way() > 0 => {
                    return Err(End::Failed(format!(
                        "{}: nothing was acknowledged for {} s; the collector may have no room or no time, see its log",
                        self.dialer.address(),
                        self.shared.settings.ack_timeout.as_secs()
                    )));
                }
            }
        }
    }

    /// Says hello and waits for the welcome.
    async fn open(&mut self, channel: Channel) -> Result<Open, End> {
        let (requests, outgoing) = mpsc::channel(4);
        let vitals = self.shared.vitals.borrow().clone();
        let (epoch, first, next) = self.shared.ledger.with(|l| (l.epoch(), l.first_seq(), l.next_seq()));
        let hello = v1::Hello {
            epoch: epoch.to_string(),
            first_seq: if first == next { 0 } else { first.0 },
            next_seq: next.0,
            info: Some(info_to_wire(&vitals.info)),
            clock_unix_ms: self.now().as_millisecond(),
        };
        send(&requests, uplink_request::Frame::Hello(hello)).await;
        let mut client = UplinkClient::new(channel)
            .send_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(limits::MESSAGE_BYTES)
            .max_encoding_message_size(limits::MESSAGE_BYTES);
        let greeting = async {
            let mut responses = client.report(ReceiverStream::new(outgoing)).await.map_err(Box::new)?.into_inner();
            let first = responses.message().await.map_err(Box::new)?;
            Ok::<_, Box<Status>>((responses, first))
        };
        let timeout = self.shared.settings.welcome_timeout;
        let (responses, first) = match tokio::time::timeout(timeout, Box::pin(greeting)).await {
            Ok(Ok(greeted)) => greeted,
            Ok(Err(status)) => return Err(self.failed(&status)),
            Err(_) => {
                return Err(End::Failed(format!(
                    "{}: connected, but the collector did not welcome this node within {} s",
                    self.dialer.address(),
                    timeout.as_secs()
                )));
            }
        };
        let welcome = match first.and_then(|f| f.frame) {
            Some(uplink_response::Frame::Welcome(welcome)) => welcome,
            Some(uplink_response::Frame::Goodbye(goodbye)) => return Err(farewell(goodbye)),
            Some(uplink_response::Frame::Ack(_)) | None => {
                return Err(End::Failed(format!(
                    "{}: the collector's first frame is no welcome; do both sides have the same major version?",
                    self.dialer.address()
                )));
            }
        };
        self.welcome(&welcome, next)?;
        let heartbeat = match welcome.heartbeat_interval_ms {
            0 => HEARTBEAT,
            ms => Duration::from_millis(u64::from(ms)).clamp(Duration::from_millis(100), Duration::from_secs(600)),
        };
        let window = Window::new(Seq(welcome.acknowledged_seq), welcome.window_events);
        Ok(Open { requests, responses, window, heartbeat })
    }

    fn welcome(&mut self, welcome: &v1::Welcome, next: Seq) -> Result<(), End> {
        let acknowledged = Seq(welcome.acknowledged_seq);
        if acknowledged >= next {
            // Numbers this folder never gave out are taken: it is an old copy of itself, or it lost its end.
            // Going on would have the collector drop new events as known.
            let why = format!(
                "the collector has events up to {acknowledged} of this node, the state folder only up to {}: it was \
                 restored from a backup or lost its end, so numbering began anew",
                next.0.saturating_sub(1)
            );
            tracing::error!(%acknowledged, %next, "the state folder is older than what the collector knows; a new epoch begins");
            let now = self.now();
            return match self.shared.ledger.with(|l| l.begin_epoch(&why, now)) {
                // With the backoff of a failure: a collector that says so each time must not wear out the disk.
                Ok(_) => Err(End::Failed(format!("{}: {why}", self.dialer.address()))),
                Err(error) => Err(End::Failed(format!("cannot begin a new epoch: {}", Chain(&error)))),
            };
        }
        self.welcomed = true;
        let known = self.shared.ledger.with(|l| {
            let known = l.acknowledged();
            l.acknowledge(acknowledged).map(|()| known)
        });
        if let Ok(known) = known
            && acknowledged < known
        {
            tracing::warn!(%acknowledged, %known, "the collector knows less than it once acknowledged; what is still here is sent again");
        }
        let now = self.now();
        self.shared.state.send_modify(|s| {
            s.connected_since = Some(now);
            s.last_contact = Some(now);
            s.last_error = None;
            s.acknowledged_seq = acknowledged;
        });
        tracing::info!(collector = %self.dialer.address(), %acknowledged, window = welcome.window_events, "the link to the collector is up");
        Ok(())
    }

    /// Sends what the window has room for and the ledger holds.
    async fn send_batches(&self, open: &mut Open) -> Result<(), End> {
        loop {
            let mut room = open.window.room().min(limits::BATCH_EVENTS);
            if room == 0 {
                return Ok(());
            }
            let after = open.window.sent();
            let (batch, through, events) = loop {
                let read = self.shared.ledger.with(|l| l.read_after(after, room, BATCH_BYTES));
                let read = read.map_err(|e| End::Failed(Chain(&e).to_string()))?;
                let Some(last) = read.events.last() else { return Ok(()) };
                let (through, events) = (last.seq.max(read.given_up_through), read.events.len());
                let wire = v1::EventBatch {
                    given_up_through: read.given_up_through.0,
                    events: read.events.iter().map(to_wire).collect(),
                };
                match limits::check_size(&wire) {
                    Ok(()) => break (wire, through, events),
                    Err(_) if events > 1 => room = events / 2,
                    Err(error) => {
                        return Err(End::Failed(format!("event {through} cannot be sent: {error}")));
                    }
                }
            };
            send(&open.requests, uplink_request::Frame::Batch(batch)).await;
            open.window.send(through, events);
        }
    }

    fn frame(&self, frame: v1::UplinkResponse, open: &mut Open, progress: &mut Instant) -> Result<(), End> {
        let now = self.now();
        self.shared.state.send_modify(|s| s.last_contact = Some(now));
        match frame.frame {
            Some(uplink_response::Frame::Ack(ack)) => match open.window.acknowledge(Seq(ack.acknowledged_seq)) {
                Ok(Acked::Through(seq)) => {
                    *progress = Instant::now();
                    if let Err(error) = self.shared.ledger.with(|l| l.acknowledge(seq)) {
                        return Err(End::Failed(format!("{}: {error}", self.dialer.address())));
                    }
                    self.shared.state.send_modify(|s| s.acknowledged_seq = seq);
                    Ok(())
                }
                Ok(Acked::Backwards) => {
                    tracing::warn!(acknowledged = ack.acknowledged_seq, "an acknowledgement went backwards; ignored");
                    Ok(())
                }
                Err(error) => Err(End::Failed(format!("{}: {error}; nothing was let go", self.dialer.address()))),
            },
            Some(uplink_response::Frame::Goodbye(goodbye)) => Err(farewell(goodbye)),
            Some(uplink_response::Frame::Welcome(_)) => {
                Err(End::Failed(format!("{}: a second welcome on one stream", self.dialer.address())))
            }
            // A frame of a later version: nothing was asked for it.
            None => {
                tracing::debug!("a frame of an unknown kind was ignored");
                Ok(())
            }
        }
    }

    async fn heartbeat(&self, open: &Open) {
        let vitals = self.shared.vitals.borrow().clone();
        let now = self.now();
        let (next, stats) = self.shared.ledger.with(|l| (l.next_seq(), l.stats()));
        let age = vitals.sweep_ended.map_or(0, |t| now.duration_since(t).as_millis().max(0));
        let beat = v1::Heartbeat {
            clock_unix_ms: now.as_millisecond(),
            last_seq: next.0.saturating_sub(1),
            outbox_events: stats.unacknowledged + stats.waiting_events as u64,
            outbox_bytes: stats.outbox_bytes,
            findings_open: u32::try_from(stats.findings_live).unwrap_or(u32::MAX),
            sweep_age_ms: u64::try_from(age).unwrap_or(u64::MAX),
            missed_hints: vitals.missed_hints,
            unreadable_sources: vitals.unreadable_sources,
        };
        send(&open.requests, uplink_request::Frame::Heartbeat(beat)).await;
    }

    /// Is the next certificate due, and was it not just asked for? The second holds when this node's clock is wrong,
    /// or the collector refuses: neither may become a storm of requests.
    fn should_renew(&self) -> bool {
        let certificate = &self.loaded.certificate;
        let life = Duration::try_from(certificate.not_after.duration_since(certificate.not_before)).unwrap_or_default();
        let pause = (life / 20).min(Duration::from_secs(3600)).max(self.shared.settings.identity_check);
        let asked = *self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner);
        renew::due(self.loaded, self.now()) && asked.is_none_or(|asked| asked.elapsed() >= pause)
    }

    async fn renew(&self, channel: &Channel) -> Result<(), End> {
        *self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        match renew::renew(channel.clone(), self.shared.identity, self.loaded).await {
            Ok(certificate) => {
                tracing::info!(not_after = %certificate.not_after, "the node's certificate was renewed");
                Ok(())
            }
            Err(renew::RenewError::Refused(status)) => Err(match self.failed(&status) {
                End::Failed(why) => End::Failed(format!("the certificate could not be renewed: {why}")),
                other => other,
            }),
            Err(error) => Err(End::Failed(Chain(&error).to_string())),
        }
    }

    fn failed(&self, status: &Status) -> End {
        End::Failed(self.dialer.explain(status))
    }

    fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }
}

/// An event inside a batch: the stream's hello says the epoch.
fn to_wire(event: &picket_model::Event) -> v1::Event {
    let mut wire = event_to_wire(event);
    wire.epoch.clear();
    wire
}

fn farewell(goodbye: v1::Goodbye) -> End {
    let reason = goodbye.reason.chars().take(1024).collect();
    End::Goodbye { reason, retry_after: Duration::from_millis(u64::from(goodbye.retry_after_ms)) }
}

async fn send(requests: &mpsc::Sender<v1::UplinkRequest>, frame: uplink_request::Frame) {
    let request = v1::UplinkRequest { frame: Some(frame) };
    // The other end goes away when the stream broke. Its reason comes with the next response.
    let _ = requests.send(request).await;
}
