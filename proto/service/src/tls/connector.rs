//! The calling side for tonic: where to, with what, and why it failed.
//!
//! In TLS 1.3 a client learns of its own rejection only with its first read, and tonic then says `transport error`.
//! The true reason is in the stream; [`Dialer`] keeps it and [`Dialer::explain`] says it in words.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper_util::rt::TokioIo;
use rustls::{AlertDescription, CertificateError, ClientConfig};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

/// How long a TCP connection, and then the handshake, may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A collector's address as people write it: `HOST:PORT`, `[IPV6]:PORT`, or a host alone for port 7443.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// The port of a collector when none is named.
pub const DEFAULT_PORT: u16 = 7443;

/// A text that is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{got:?} is not an address: HOST:PORT is expected, such as collector.example:7443 or [2001:db8::1]:7443")]
pub struct AddressError {
    got: String,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let bad = || AddressError { got: text.chars().take(128).collect() };
        let port = |p: &str| p.parse::<u16>().ok().filter(|p| *p != 0).ok_or_else(bad);
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, tail) = rest.split_once(']').ok_or_else(bad)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?;
            match tail.strip_prefix(':') {
                Some(p) => (host, port(p)?),
                None if tail.is_empty() => (host, DEFAULT_PORT),
                None => return Err(bad()),
            }
        } else if text.parse::<std::net::Ipv6Addr>().is_ok() {
            (text, DEFAULT_PORT)
        } else {
            match text.split_once(':') {
                Some((host, p)) => (host, port(p)?),
                None => (text, DEFAULT_PORT),
            }
        };
        ServerName::try_from(host.to_owned()).map_err(|_| bad())?;
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Why the last connection failed.
#[derive(Debug, Clone)]
pub enum ConnectFailure {
    /// No TCP connection.
    Tcp(String),
    /// Nothing answered in time.
    Timeout,
    /// TLS failed: here, or by the other side's alert.
    Tls(rustls::Error),
}

impl fmt::Display for ConnectFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(problem) => {
                write!(f, "no connection: {problem}; check the address, the network and any firewall")
            }
            Self::Timeout => write!(
                f,
                "no answer within {} seconds; check the address, the network and any firewall",
                CONNECT_TIMEOUT.as_secs()
            ),
            Self::Tls(error) => f.write_str(&explain_tls(error)),
        }
    }
}

/// What a TLS error means for a person, with what to do.
pub fn explain_tls(error: &rustls::Error) -> String {
    match error {
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateExpired => {
                "the collector refused this side's certificate: it has expired. Check the clock; enrol again if the \
                 grace for renewal is over"
                    .to_owned()
            }
            AlertDescription::UnknownCA | AlertDescription::DecryptError => {
                "the collector refused this side's certificate: another authority signed it. Enrol at this collector"
                    .to_owned()
            }
            AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRevoked
            | AlertDescription::AccessDenied => {
                format!("the collector refused this side's certificate ({alert:?}). Enrol again")
            }
            AlertDescription::ProtocolVersion => {
                "the other side speaks no TLS 1.3: this is no Picket collector, or a device between breaks TLS"
                    .to_owned()
            }
            AlertDescription::NoApplicationProtocol => {
                "the other side speaks no HTTP/2: this is no Picket collector's port".to_owned()
            }
            other => format!("the collector ended the handshake with alert {other:?}"),
        },
        rustls::Error::InvalidCertificate(problem) => match problem {
            // Two authorities of one name differ in their signature only.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "the server's certificate is not signed by the authority trusted here: this is another collector, its \
                 CA was replaced, or somebody is in between"
                    .to_owned()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the server's certificate has expired, or this machine's clock is wrong".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the server's certificate is not valid yet: this machine's clock is behind".to_owned()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!(
                    "the server's certificate is for other names ({problem}). Use one of those, or add this one to \
                     `names` in the collector's settings"
                )
            }
            other => format!("the server's certificate cannot be trusted: {other}"),
        },
        rustls::Error::InvalidMessage(_) => {
            "the other side does not speak TLS: this is no Picket collector's port".to_owned()
        }
        other => format!("TLS failed: {other}"),
    }
}

type LastFailure = Arc<Mutex<Option<ConnectFailure>>>;

fn keep(last: &LastFailure, failure: Option<ConnectFailure>) {
    *last.lock().unwrap_or_else(PoisonError::into_inner) = failure;
}

/// Connections to one collector. The TLS configuration is read anew at each connect, so that it can be swapped when
/// a certificate was renewed.
#[derive(Debug, Clone)]
pub struct Dialer {
    address: Address,
    name: ServerName<'static>,
    tls: Arc<ArcSwap<ClientConfig>>,
    last: LastFailure,
}

impl Dialer {
    /// Connections to `address`, whose certificate is checked for the address' host.
    pub fn new(address: Address, tls: Arc<ClientConfig>) -> Result<Self, AddressError> {
        let host = address.host.clone();
        Self::with_server_name(address, &host, tls)
    }

    /// Connections to `address`, whose certificate is checked for `server_name`.
    ///
    /// # Errors
    /// [`AddressError`] when the name is neither a DNS name nor an IP address.
    pub fn with_server_name(address: Address, server_name: &str, tls: Arc<ClientConfig>) -> Result<Self, AddressError> {
        let name = ServerName::try_from(server_name.to_owned())
            .map_err(|_| AddressError { got: server_name.chars().take(128).collect() })?;
        Ok(Self { address, name, tls: Arc::new(ArcSwap::new(tls)), last: LastFailure::default() })
    }

    /// Where to.
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// Uses another configuration from the next connect on; connections that are open stay.
    pub fn swap(&self, tls: Arc<ClientConfig>) {
        self.tls.store(tls);
    }

    /// A channel that connects when the first call is made and again after it broke. Keep-alive 20 s, also while idle.
    ///
    /// # Errors
    /// When the address makes no URI, which its parser excludes.
    pub fn channel(&self) -> Result<Channel, tonic::transport::Error> {
        Ok(self.endpoint()?.connect_with_connector_lazy(self.connector()))
    }

    /// A channel over a connection that stands. Note that a rejection of this side's certificate shows only with the
    /// first answer.
    ///
    /// # Errors
    /// Why not, in words.
    pub async fn connect(&self) -> Result<Channel, ConnectError> {
        let fail = |e: tonic::transport::Error| ConnectError {
            address: self.address.clone(),
            why: self.last_failure().map_or_else(|| crate::chain::Chain(&e).to_string(), |f| f.to_string()),
        };
        self.endpoint().map_err(fail)?.connect_with_connector(self.connector()).await.map_err(fail)
    }

    /// Why the last connection failed; none while it works.
    pub fn last_failure(&self) -> Option<ConnectFailure> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What a failed call means. A refusal by the service is the status' own message; for a broken connection the
    /// reason is looked up in the stream.
    pub fn explain(&self, status: &tonic::Status) -> String {
        use tonic::Code;
        let broken = matches!(status.code(), Code::Unknown | Code::Unavailable | Code::Cancelled | Code::Internal);
        match self.last_failure() {
            Some(failure) if broken => format!("{}: {failure}", self.address),
            Some(_) | None => format!("{}: {}", self.address, status.message()),
        }
    }

    fn endpoint(&self) -> Result<Endpoint, tonic::transport::Error> {
        let origin = format!("https://{}", self.address);
        // The connector below does the TLS; tonic itself must not, hence http.
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address))?
            .connect_timeout(CONNECT_TIMEOUT.saturating_mul(2))
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        Ok(match origin.parse() {
            Ok(uri) => endpoint.origin(uri),
            Err(_) => endpoint,
        })
    }

    fn connector(
        &self,
    ) -> impl tower::Service<
        tonic::transport::Uri,
        Response = TokioIo<Tap<tokio_rustls::client::TlsStream<TcpStream>>>,
        Error = io::Error,
        Future: Send,
    > + Send
    + 'static {
        let dialer = self.clone();
        tower::service_fn(move |_| {
            let dialer = dialer.clone();
            async move { dialer.dial().await.map(TokioIo::new) }
        })
    }

    async fn dial(&self) -> io::Result<Tap<tokio_rustls::client::TlsStream<TcpStream>>> {
        keep(&self.last, None);
        let in_time = async |what| match tokio::time::timeout(CONNECT_TIMEOUT, what).await {
            Ok(result) => result,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let dialled = in_time(Box::pin(async {
            let tcp = TcpStream::connect((self.address.host.as_str(), self.address.port)).await?;
            tcp.set_nodelay(true)?;
            TlsConnector::from(self.tls.load_full()).connect(self.name.clone(), tcp).await
        }))
        .await;
        match dialled {
            Ok(io) => Ok(Tap { io, last: self.last.clone() }),
            Err(error) => {
                keep(&self.last, Some(failure_of(&error)));
                Err(error)
            }
        }
    }
}

/// A connection that could not be made.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot connect to the collector at {address}: {why}")]
pub struct ConnectError {
    address: Address,
    why: String,
}

fn failure_of(error: &io::Error) -> ConnectFailure {
    if let Some(tls) = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
        return ConnectFailure::Tls(tls.clone());
    }
    match error.kind() {
        io::ErrorKind::TimedOut => ConnectFailure::Timeout,
        _ => ConnectFailure::Tcp(error.to_string()),
    }
}

/// Passes bytes through and keeps the last TLS error on the way, such as the alert that refuses a certificate.
#[derive(Debug)]
pub struct Tap<S> {
    io: S,
    last: LastFailure,
}

impl<S> Tap<S> {
    fn look<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &result
            && let failure @ ConnectFailure::Tls(_) = failure_of(error)
        {
            keep(&self.last, Some(failure));
        }
        result
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tap<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        self.look(result)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tap<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.look(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_flush(cx);
        self.look(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.look(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
