//! From a listening socket to a stream of authenticated connections.
//!
//! Each handshake runs in a task of its own, with a deadline and a limit on how many are pending; the accept loop
//! never waits for a client. A connection whose certificate names nobody is closed here. Every connection has a kill
//! token: cancelling it ends the next read, and with it the connection and all its calls.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use picket_model::NodeId;

use super::peer::{OperatorName, Peer, TrustDomain};

/// How much is let in.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A handshake that takes longer is ended.
    pub handshake_timeout: Duration,
    /// Handshakes under way at once; more are closed unanswered, and clients come back.
    pub pending_handshakes: usize,
    /// Connections at once; more are closed unanswered.
    pub connections: usize,
    /// Connections without a certificate at once: whoever has none may enrol, and not take the places of those who
    /// have one.
    pub anonymous: usize,
    /// How long a connection without a certificate lasts: enough to enrol.
    pub anonymous_life: Duration,
    /// Connections of one identity at once: a stolen one must not take the places of all others.
    pub per_identity: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(10),
            pending_handshakes: 512,
            connections: 12_000,
            anonymous: 512,
            anonymous_life: Duration::from_secs(60),
            per_identity: 64,
        }
    }
}

/// Counters of the door, for metrics. Sums since the start unless said.
#[derive(Debug, Default)]
pub struct Counters {
    /// Handshakes that gave a connection.
    pub accepted: AtomicU64,
    /// Handshakes that failed: no TLS, a foreign certificate, a certificate that names nobody.
    pub failed: AtomicU64,
    /// Handshakes that took too long.
    pub timed_out: AtomicU64,
    /// Connections closed because a limit was reached.
    pub refused: AtomicU64,
}

fn count(counter: &AtomicU64) -> u64 {
    counter.fetch_add(1, Ordering::Relaxed)
}

/// What a connection knows of its other end; in the extensions of every request that comes over it.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    /// Who it is.
    pub peer: Peer,
    /// Where it comes from.
    pub remote: SocketAddr,
    /// Cancel it to end the connection.
    pub kill: CancellationToken,
}

/// The connections that are open.
#[derive(Debug, Clone, Default)]
pub struct Live(Arc<Mutex<LiveTable>>);

#[derive(Debug, Default)]
struct LiveTable {
    next: u64,
    open: HashMap<u64, ConnectionInfo>,
    of: HashMap<Who, usize>,
}

/// An identity, whatever certificate it shows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Who {
    Anyone,
    Node(NodeId),
    Operator(OperatorName),
}

impl Who {
    fn of(peer: &Peer) -> Self {
        match peer {
            Peer::Anonymous => Self::Anyone,
            Peer::Node { id, .. } => Self::Node(*id),
            Peer::Operator { name, .. } => Self::Operator(name.clone()),
        }
    }
}

impl Live {
    /// Ends the connections whose peer `which` picks; says how many.
    pub fn cut(&self, which: impl Fn(&Peer) -> bool) -> usize {
        let table = self.lock();
        let chosen = table.open.values().filter(|c| which(&c.peer));
        chosen.map(|c| c.kill.cancel()).count()
    }

    /// How many connections are open.
    pub fn len(&self) -> usize {
        self.lock().open.len()
    }

    /// Is none open?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Notes a connection, unless its identity has so many already.
    fn enter(&self, info: &ConnectionInfo, most: usize) -> Option<Registration> {
        let mut table = self.lock();
        let count = table.of.entry(Who::of(&info.peer)).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        let number = table.next;
        table.next += 1;
        table.open.insert(number, info.clone());
        Some(Registration { live: self.clone(), number })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LiveTable> {
        // The table is whole between any two statements that could panic: there are none.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Registration {
    live: Live,
    number: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut table = self.live.lock();
        let Some(info) = table.open.remove(&self.number) else { return };
        if let Entry::Occupied(mut count) = table.of.entry(Who::of(&info.peer)) {
            *count.get_mut() = count.get().saturating_sub(1);
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// An authenticated connection, as tonic wants it.
#[derive(Debug)]
pub struct Connection {
    io: TlsStream<TcpStream>,
    info: ConnectionInfo,
    killed: Pin<Box<WaitForCancellationFutureOwned>>,
    ends: Option<Pin<Box<Sleep>>>,
    // Dropped with the connection: it then no longer counts as open, and its place is free.
    _registration: Registration,
    _place: tokio::sync::OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        self.info.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(ends) = &mut self.ends
            && ends.as_mut().poll(cx).is_ready()
        {
            self.info.kill.cancel();
        }
        if self.info.kill.is_cancelled() || self.killed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(cut()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

fn cut() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}

// Writing ends too: HTTP/2 does not read while it waits for room to write, so a client that takes nothing could
// otherwise outlive its cut.
impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.info.kill.is_cancelled() || self.killed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(cut()));
        }
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.info.kill.is_cancelled() || self.killed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(cut()));
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.info.kill.is_cancelled() || self.killed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(cut()));
        }
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// The door: what it needs, and what others may look at.
#[derive(Debug, Clone)]
pub struct Door {
    /// Read at each handshake; swap it to reload.
    pub tls: Arc<ArcSwap<ServerConfig>>,
    /// Whose identities are taken.
    pub domain: TrustDomain,
    /// How much is let in.
    pub limits: Limits,
    /// The connections that are open.
    pub live: Live,
    /// What happened at the door.
    pub counters: Arc<Counters>,
}

impl Door {
    /// A door with nobody in it yet.
    pub fn new(tls: Arc<ServerConfig>, domain: TrustDomain, limits: Limits) -> Self {
        Self {
            tls: Arc::new(ArcSwap::new(tls)),
            domain,
            limits,
            live: Live::default(),
            counters: Arc::new(Counters::default()),
        }
    }

    /// Accepts until `stop`. The stream is what tonic's `serve_with_incoming` takes; it ends after `stop`.
    pub fn open(&self, listener: TcpListener, stop: CancellationToken) -> ReceiverStream<io::Result<Connection>> {
        let (send, receive) = mpsc::channel(64);
        tokio::spawn(self.clone().run(listener, send, stop));
        ReceiverStream::new(receive)
    }

    async fn run(self, listener: TcpListener, send: mpsc::Sender<io::Result<Connection>>, stop: CancellationToken) {
        let pending = Arc::new(Semaphore::new(self.limits.pending_handshakes));
        let places = Arc::new(Semaphore::new(self.limits.connections));
        loop {
            let (tcp, remote) = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // No file descriptors left, or the client is gone already: the next one may work, but not
                        // in this instant.
                        tracing::warn!(%error, "a connection cannot be accepted");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
            };
            let (Ok(pending), Ok(place)) = (pending.clone().try_acquire_owned(), places.clone().try_acquire_owned())
            else {
                warn_sometimes(count(&self.counters.refused), || {
                    tracing::warn!(%remote, "connection closed unanswered: too many connections or handshakes at once");
                });
                continue;
            };
            let (door, send, stop) = (self.clone(), send.clone(), stop.clone());
            tokio::spawn(async move {
                let connection = tokio::select! {
                    () = stop.cancelled() => return,
                    connection = door.handshake(tcp, remote, place) => connection,
                };
                drop(pending);
                if let Some(connection) = connection {
                    // The receiver is gone only while the server stops.
                    send.send(Ok(connection)).await.ok();
                }
            });
        }
    }

    async fn handshake(
        &self,
        tcp: TcpStream,
        remote: SocketAddr,
        place: tokio::sync::OwnedSemaphorePermit,
    ) -> Option<Connection> {
        if let Err(error) = tcp.set_nodelay(true) {
            tracing::debug!(%remote, %error, "small packets cannot be sent at once");
        }
        let acceptor = TlsAcceptor::from(self.tls.load_full());
        let io = match tokio::time::timeout(self.limits.handshake_timeout, acceptor.accept(tcp)).await {
            Ok(Ok(io)) => io,
            Ok(Err(error)) => {
                warn_sometimes(count(&self.counters.failed), || tracing::warn!(%remote, %error, "handshake failed"));
                return None;
            }
            Err(_) => {
                warn_sometimes(count(&self.counters.timed_out), || tracing::warn!(%remote, "handshake took too long"));
                return None;
            }
        };
        let peer = match io.get_ref().1.peer_certificates().and_then(<[_]>::first) {
            None => Peer::Anonymous,
            Some(certificate) => match Peer::parse(certificate, &self.domain) {
                Ok(peer) => peer,
                Err(error) => {
                    warn_sometimes(count(&self.counters.failed), || {
                        tracing::warn!(%remote, %error, "connection closed: its certificate names nobody here");
                    });
                    return None;
                }
            },
        };
        let info = ConnectionInfo { peer, remote, kill: CancellationToken::new() };
        let (most, ends) = match info.peer {
            Peer::Anonymous => (self.limits.anonymous, Some(Box::pin(tokio::time::sleep(self.limits.anonymous_life)))),
            Peer::Node { .. } | Peer::Operator { .. } => (self.limits.per_identity, None),
        };
        let Some(registration) = self.live.enter(&info, most) else {
            warn_sometimes(count(&self.counters.refused), || {
                tracing::warn!(%remote, peer = %info.peer, most, "connection closed: too many of this identity at once");
            });
            return None;
        };
        count(&self.counters.accepted);
        let killed = Box::pin(info.kill.clone().cancelled_owned());
        Some(Connection { io, info, killed, ends, _registration: registration, _place: place })
    }
}

/// Whoever knocks can make as many log lines as they like, unless lines get rarer: 1st to 10th, then each power of
/// two. The counters have them all.
fn warn_sometimes(before: u64, warn: impl FnOnce()) {
    let number = before.saturating_add(1);
    if number <= 10 || number.is_power_of_two() {
        warn();
    }
}
