//! Builds the collector from its parts, and takes it down in order. The only place that knows them all.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::SignedDuration;
use picket_proto::{limits, v1};
use picket_service::atomic::{self, AtomicError};
use picket_service::clock::Clock;
use picket_service::operator_file::OperatorFile;
use picket_service::supervise::{Policy, Supervisor, TaskKind};
use picket_service::tls::accept::{Door, Limits, Live};
use picket_service::tls::connector::Address;
use picket_service::tls::material;
use picket_service::tls::peer::{Certificate, OperatorName};
use picket_service::tls::request::KeyAndRequest;
use picket_service::tls::{TlsError, server};
use picket_store::{DiskSettings, OpenError, OperatorRole, Retention, Store, StoreError};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use zeroize::Zeroizing;

use crate::authz::Guard;
use crate::ca::{self, Ca, CaError};
use crate::fleet::{self, Fleet};
use crate::grpc::admin::AdminService;
use crate::grpc::enrollment::EnrollmentService;
use crate::grpc::fleet::FleetService;
use crate::grpc::uplink::UplinkService;
use crate::http::{self, Pages};
use crate::members;
use crate::metrics::{DoorCollector, Metrics, WriterCollector};
use crate::notice::Notices;
use crate::registry::{Registry, RegistryError};
use crate::session::Sessions;
use crate::settings::Settings;
use crate::writer::{Writer, WriterHandle, WriterHealth, WriterSettings};

/// Largest message before a certificate was shown: an enrolment.
const ENROLMENT_BYTES: usize = 64 * 1024;
/// A store that failed is opened anew when its disk has so much room, bytes.
const ROOM: u64 = 16 * 1024 * 1024;
/// How often a store that failed is looked after.
const STORE_CHECK: Duration = Duration::from_secs(1);
/// The operator of the collector's own command line.
const LOCAL_ADMIN: &str = "local-admin";
/// Its file, in the state folder.
const ADMIN_FILE: &str = "admin.conf";

/// Where the command line finds its operator's file.
pub fn admin_file(state_dir: &Path) -> PathBuf {
    state_dir.join(ADMIN_FILE)
}

/// A collector that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// Its folder.
    #[error(transparent)]
    Folder(#[from] AtomicError),
    /// Its authority.
    #[error("certificate authority")]
    Ca(#[from] CaError),
    /// Its history.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its history does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The copy of its members.
    #[error("cannot keep a copy of the fleet's members in {}: look at the free space and the owner of its folder", path.display())]
    Copy {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its TLS.
    #[error("TLS")]
    Tls(#[from] TlsError),
    /// Its port.
    #[error("cannot listen on {address}: another program has the port, or the address is not this machine's")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A task or thread.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// The local administrator.
    #[error("cannot make the local administrator's file")]
    Admin(#[from] RegistryError),
    /// Its key.
    #[error(transparent)]
    Request(#[from] picket_service::tls::request::RequestError),
    /// An address of its own that makes no sense.
    #[error(transparent)]
    Address(#[from] picket_service::tls::connector::AddressError),
    /// A fixed part that cannot be built.
    #[error("cannot build {0}")]
    Build(String),
}

/// A collector that runs.
#[derive(Debug)]
pub struct App {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where metrics and health are.
    pub http: Option<SocketAddr>,
    /// Where nodes and operators should connect.
    pub advertised: Address,
    /// Open connections.
    pub live: Live,
    /// Who belongs to the fleet.
    pub registry: Arc<Registry>,
    /// Its authority.
    pub ca: Arc<Ca>,
    settings: Arc<ArcSwap<Settings>>,
    door: Door,
    hostname: Option<String>,
    supervisor: Supervisor,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
    writer_thread: std::thread::JoinHandle<()>,
    writer_health: WriterHealth,
    state_dir: PathBuf,
}

impl App {
    /// Starts everything; returns when nodes can connect.
    ///
    /// # Errors
    /// [`AppError`], with what to do.
    pub async fn start(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, AppError> {
        let state_dir = settings.state_dir.clone();
        atomic::folder(&state_dir, 0o700)?;
        let stop = CancellationToken::new();
        let metrics = Metrics::default();
        let ca = Arc::new(Ca::open(&state_dir, &settings.trust_domain, Arc::clone(&clock))?);
        let store = open_store(&settings, clock.as_ref()).await?;
        let registry = Arc::new(load_registry(&state_dir, &store, &clock).await?);

        let listener = TcpListener::bind(settings.listen)
            .await
            .map_err(|source| AppError::Listen { address: settings.listen, source })?;
        let address = listener.local_addr().map_err(|source| AppError::Listen { address: settings.listen, source })?;
        let hostname = nix::unistd::gethostname().ok().and_then(|h| h.into_string().ok());
        let advertised = advertised(&settings, address, hostname.as_deref());
        let names = ca::server_names(&settings.names, Some(&advertised.host), hostname.as_deref());
        let grace = settings.enrolment.renew_grace;
        let tls = server::config(&ca.authorities(), ca.server(&names)?, grace)?;
        let door_limits = Limits {
            connections: settings.limits.connections,
            pending_handshakes: settings.limits.pending_handshakes,
            ..Limits::default()
        };
        let door = Door::new(tls, ca.domain().clone(), door_limits);

        let retention = Retention {
            max_age: SignedDuration::try_from(settings.history.keep).unwrap_or(SignedDuration::MAX),
            max_events: settings.history.max_events,
        };
        let writer_settings = WriterSettings { retention, ..WriterSettings::default() };
        let (writer, writer_thread) =
            Writer::start(Arc::clone(&store), Arc::clone(&clock), writer_settings).map_err(AppError::Thread)?;
        let notices = Arc::new(Notices::load(store.as_ref(), writer.clone(), Arc::clone(&clock))?);
        let fleet = Fleet::new(Arc::clone(&clock));
        let http_listener = match settings.http {
            None => None,
            Some(at) => {
                let failed = |source| AppError::Listen { address: at, source };
                Some(TcpListener::bind(at).await.map_err(failed)?)
            }
        };
        let http = http_listener.as_ref().and_then(|l| l.local_addr().ok());
        let settings = Arc::new(ArcSwap::from_pointee(settings));
        let sessions = Sessions {
            registry: Arc::clone(&registry),
            store: Arc::clone(&store),
            writer: writer.clone(),
            fleet: fleet.clone(),
            notices: Arc::clone(&notices),
            metrics: metrics.clone(),
            settings: Arc::clone(&settings),
            clock: Arc::clone(&clock),
            stop: stop.clone(),
        };
        write_admin_file(&state_dir, address, &ca, &registry, clock.as_ref()).await?;

        let supervisor = Supervisor::new(stop.clone(), Policy::default());
        let server = serve(ServerParts {
            sessions: sessions.clone(),
            ca: Arc::clone(&ca),
            advertised: advertised.clone(),
            door: door.clone(),
            listener,
        })
        .await?;
        if let Some(listener) = http_listener {
            spawn_http(&supervisor, listener, &metrics, &door, &writer)?;
        }
        spawn_watch(&supervisor, &sessions);
        let app = Self {
            address,
            http,
            advertised,
            live: door.live.clone(),
            registry,
            ca,
            settings,
            door,
            hostname,
            supervisor,
            stop,
            server,
            writer_thread,
            writer_health: writer.health(),
            state_dir,
        };
        tracing::info!(
            address = %app.address, http = ?app.http.map(|h| h.to_string()), advertised = %app.advertised,
            state_dir = %app.state_dir.display(), "collector listens"
        );
        Ok(app)
    }

    /// Takes over what can change while running; says what cannot.
    ///
    /// # Errors
    /// [`AppError`]; then everything stays as it was.
    pub fn reload(&self, next: Settings) -> Result<(), AppError> {
        let now = self.settings.load();
        for (key, differs) in [
            ("listen", now.listen != next.listen),
            ("state_dir", now.state_dir != next.state_dir),
            ("http.listen", now.http != next.http),
            ("advertise", now.advertise != next.advertise),
            ("trust_domain", now.trust_domain != next.trust_domain),
            ("limits.connections", now.limits.connections != next.limits.connections),
            ("limits.pending_handshakes", now.limits.pending_handshakes != next.limits.pending_handshakes),
            ("limits.streams_per_connection", now.limits.streams_per_connection != next.limits.streams_per_connection),
            ("store", now.history != next.history),
        ] {
            if differs {
                tracing::warn!(key, "this setting takes effect with the next start");
            }
        }
        self.renew_tls(&next)?;
        self.settings.store(Arc::new(next));
        Ok(())
    }

    /// Makes the server's certificate anew when it is near its end or names changed. Open connections stay.
    ///
    /// # Errors
    /// [`AppError`]; the old certificate stays in use.
    pub fn renew_tls(&self, settings: &Settings) -> Result<(), AppError> {
        let names = ca::server_names(&settings.names, Some(&self.advertised.host), self.hostname.as_deref());
        let identity = self.ca.server(&names)?;
        let config = server::config(&self.ca.authorities(), identity, settings.enrolment.renew_grace)?;
        self.door.tls.store(config);
        Ok(())
    }

    /// Settings as they are now.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Essential tasks that make no progress; empty: all is well.
    pub fn late(&self) -> Vec<&'static str> {
        self.supervisor.late()
    }

    /// Returns when an essential part has failed for good, with the reason.
    pub async fn failed(&mut self) -> String {
        tokio::select! {
            failed = self.supervisor.failed() => failed.to_string(),
            why = store_failed(&self.writer_thread, &self.writer_health, &self.state_dir) => why,
            ended = &mut self.server => match ended {
                Ok(Ok(())) => "the server ended without being asked to".to_owned(),
                Ok(Err(error)) => picket_service::chain::Chain(&error).to_string(),
                Err(error) => error.to_string(),
            },
        }
    }

    /// Says goodbye to nodes, finishes what is being written, closes the store.
    pub async fn stop(self) {
        const WITHIN: Duration = Duration::from_secs(10);
        self.stop.cancel();
        let stopped = self.supervisor.stop(WITHIN).await;
        if !stopped.aborted.is_empty() {
            tracing::warn!(tasks = ?stopped.aborted, "tasks did not stop in time");
        }
        let mut server = self.server;
        if !server.is_finished() && tokio::time::timeout(WITHIN, &mut server).await.is_err() {
            server.abort();
            // An aborted task has nothing to say.
            server.await.ok();
        }
        self.live.cut(|_| true);
        // The writer's thread ends when the last handle is gone; sessions that were cut hold theirs a moment longer.
        let thread = self.writer_thread;
        let joined = tokio::task::spawn_blocking(move || {
            let until = std::time::Instant::now() + WITHIN;
            while !thread.is_finished() && std::time::Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
            thread.is_finished()
        });
        if !matches!(joined.await, Ok(true)) {
            tracing::warn!("the writer did not end in time; what was acknowledged is durable all the same");
        }
        tracing::info!("collector stopped");
    }
}

/// Returns when the history takes nothing more and a new start can mend that. While its disk is full it waits: queries
/// are answered as far as they can be, nodes keep what they have.
async fn store_failed(thread: &std::thread::JoinHandle<()>, health: &WriterHealth, state_dir: &Path) -> String {
    loop {
        tokio::time::sleep(STORE_CHECK).await;
        if thread.is_finished() {
            return "the writer of the history ended; the log says why".to_owned();
        }
        if health.is_failing() && room(state_dir).is_none_or(|bytes| bytes >= ROOM) {
            return "the history could not be written and there is room on its disk now: a new start opens it again"
                .to_owned();
        }
    }
}

/// Bytes that are free on the disk of a folder; none when nobody says.
#[allow(clippy::useless_conversion, reason = "these are u32 on 32-bit targets")]
fn room(folder: &Path) -> Option<u64> {
    let disk = nix::sys::statvfs::statvfs(folder).ok()?;
    Some(u64::from(disk.blocks_available()).saturating_mul(u64::from(disk.fragment_size())))
}

async fn open_store(settings: &Settings, clock: &dyn Clock) -> Result<Arc<dyn Store>, AppError> {
    let path = settings.state_dir.join("store");
    let disk = DiskSettings { cache_bytes: settings.history.cache, ..DiskSettings::default() };
    let now = clock.now();
    let opened = tokio::task::spawn_blocking(move || picket_store::open_or_set_aside(&path, disk, now))
        .await
        .map_err(|e| AppError::Build(format!("the store: {e}")))??;
    let (store, aside) = opened;
    if let Some(aside) = aside {
        tracing::error!(
            moved_to = %aside.moved_to.display(), reason = %picket_service::chain::Chain(&aside.reason),
            "the store was damaged and set aside; a new one is in its place"
        );
    }
    Ok(Arc::new(store))
}

/// The members, from the store, or from their copy when the store is a new one.
async fn load_registry(state_dir: &Path, store: &Arc<dyn Store>, clock: &Arc<dyn Clock>) -> Result<Registry, AppError> {
    let (copy, store, clock) = (members::path(state_dir), Arc::clone(store), Arc::clone(clock));
    tokio::task::spawn_blocking(move || {
        let mut registry = Registry::load(Arc::clone(&store), Arc::clone(&clock))?;
        if registry.is_empty() {
            let restored = members::restore(&copy, store.as_ref())?;
            if restored > 0 {
                tracing::warn!(members = restored, "the history is a new one; its members come from their copy");
                registry = Registry::load(store, clock)?;
            }
        }
        registry.with_copy(&copy).map_err(|source| AppError::Copy { path: copy.clone(), source })
    })
    .await
    .map_err(|e| AppError::Build(format!("the registry: {e}")))?
}

/// Where nodes should connect: what the settings say; else the very address that is listened on; else the first
/// name, the host name, or loopback.
fn advertised(settings: &Settings, address: SocketAddr, hostname: Option<&str>) -> Address {
    if let Some(advertise) = &settings.advertise {
        return advertise.clone();
    }
    let host = if address.ip().is_unspecified() {
        settings.names.first().map(String::as_str).or(hostname).unwrap_or("localhost").to_owned()
    } else {
        address.ip().to_string()
    };
    Address { host, port: address.port() }
}

/// The file with which the command line on this machine steers the collector. Made anew at each start unless it is
/// good: whoever can write the state folder could issue it anyway.
async fn write_admin_file(
    state_dir: &Path,
    address: SocketAddr,
    ca: &Arc<Ca>,
    registry: &Arc<Registry>,
    clock: &dyn Clock,
) -> Result<(), AppError> {
    let path = admin_file(state_dir);
    let ip = if address.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { address.ip() };
    let target = Address { host: ip.to_string(), port: address.port() };
    let name: OperatorName = LOCAL_ADMIN.parse().map_err(|e| AppError::Build(format!("{e}")))?;
    let month = SignedDuration::from_hours(24 * 30);
    let good = OperatorFile::read(&path).ok().filter(|f| f.collector == target.to_string()).is_some_and(|file| {
        let shown = material::certificates_in(file.client_certificate.as_bytes(), ADMIN_FILE)
            .ok()
            .and_then(|chain| Certificate::parse(chain.first()?).ok());
        let authority = material::certificates_in(file.certificate_authority.as_bytes(), ADMIN_FILE);
        authority.is_ok_and(|a| a == ca.authorities())
            && shown.is_some_and(|c| {
                c.not_after.duration_since(clock.now()) > month
                    && registry.operator_role(&name, &c) == Ok(OperatorRole::Admin)
            })
    });
    if good {
        return Ok(());
    }
    let made = KeyAndRequest::generate()?;
    let issued = ca.issue_operator(&made.csr_der, &name, Duration::from_secs(365 * 86_400))?;
    let (registry, certificate) = (Arc::clone(registry), issued.certificate.clone());
    tokio::task::spawn_blocking(move || registry.add_operator(&name, OperatorRole::Admin, &certificate, true))
        .await
        .map_err(|e| AppError::Build(e.to_string()))??;
    let file = OperatorFile::new(
        &target,
        &target.host,
        LOCAL_ADMIN,
        material::certificates_to_pem(ca.authorities().iter().map(AsRef::as_ref)),
        material::certificates_to_pem([issued.der.as_ref()]),
        Zeroizing::new(made.key_pem.to_string()),
    );
    Ok(file.write(&path)?)
}

struct ServerParts {
    sessions: Sessions,
    ca: Arc<Ca>,
    advertised: Address,
    door: Door,
    listener: TcpListener,
}

async fn serve(parts: ServerParts) -> Result<tokio::task::JoinHandle<Result<(), tonic::transport::Error>>, AppError> {
    let ServerParts { sessions, ca, advertised, door, listener } = parts;
    let gzip = CompressionEncoding::Gzip;
    let enrollment = v1::enrollment_server::EnrollmentServer::new(EnrollmentService::new(
        Arc::clone(&sessions.registry),
        Arc::clone(&ca),
        Arc::clone(&sessions.settings),
        Arc::clone(&sessions.clock),
        sessions.metrics.clone(),
    ))
    .max_decoding_message_size(ENROLMENT_BYTES);
    let uplink = v1::uplink_server::UplinkServer::new(UplinkService(sessions.clone()))
        .accept_compressed(gzip)
        .max_decoding_message_size(limits::MESSAGE_BYTES);
    let fleet = v1::fleet_server::FleetServer::new(FleetService {
        store: Arc::clone(&sessions.store),
        registry: Arc::clone(&sessions.registry),
        fleet: sessions.fleet.clone(),
        writer: sessions.writer.clone(),
        settings: Arc::clone(&sessions.settings),
        stop: sessions.stop.clone(),
    })
    .accept_compressed(gzip)
    .send_compressed(gzip)
    .max_decoding_message_size(ENROLMENT_BYTES);
    let admin = v1::admin_server::AdminServer::new(AdminService {
        registry: Arc::clone(&sessions.registry),
        ca,
        live: door.live.clone(),
        advertised,
        metrics: sessions.metrics.clone(),
    })
    .max_decoding_message_size(ENROLMENT_BYTES);
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("", tonic_health::ServingStatus::Serving).await;
    for service in ["picket.v1.Enrollment", "picket.v1.Uplink", "picket.v1.Fleet", "picket.v1.Admin"] {
        health.set_service_status(service, tonic_health::ServingStatus::Serving).await;
    }
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(v1::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let build = |e: tonic_reflection::server::Error| AppError::Build(format!("reflection: {e}"));
    let guard = Guard {
        registry: Arc::clone(&sessions.registry),
        metrics: sessions.metrics.clone(),
        notices: Arc::clone(&sessions.notices),
    };
    let router = tonic::transport::Server::builder()
        .max_concurrent_streams(sessions.settings.load().limits.streams_per_connection)
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .http2_max_header_list_size(16 * 1024)
        .timeout(Duration::from_secs(60))
        .layer(guard)
        .add_service(enrollment)
        .add_service(uplink)
        .add_service(fleet)
        .add_service(admin)
        .add_service(health_service)
        .add_service(reflection().build_v1().map_err(build)?)
        .add_service(reflection().build_v1alpha().map_err(build)?);
    let stop = sessions.stop.clone();
    let incoming = door.open(listener, stop.clone());
    Ok(tokio::spawn(router.serve_with_incoming_shutdown(incoming, stop.cancelled_owned())))
}

fn spawn_http(
    supervisor: &Supervisor,
    listener: TcpListener,
    metrics: &Metrics,
    door: &Door,
    writer: &WriterHandle,
) -> Result<(), AppError> {
    let mut registry = prometheus_client::registry::Registry::with_prefix("picket_collector");
    metrics.register(&mut registry);
    registry.register_collector(Box::new(DoorCollector(door.clone())));
    registry.register_collector(Box::new(WriterCollector(writer.health())));
    let pages = Pages { metrics: Arc::new(registry), writer: writer.clone() };
    let listener = Arc::new(listener.into_std().map_err(AppError::Thread)?);
    supervisor.spawn("http", TaskKind::Auxiliary, move |stop| {
        let (listener, pages) = (Arc::clone(&listener), pages.clone());
        async move {
            // A copy, so that the task can be started again on the same socket.
            let listener = TcpListener::from_std(listener.try_clone()?)?;
            http::serve(listener, pages, stop).await
        }
    });
    Ok(())
}

/// Looks after the fleet at an interval that fits the limit; asks for old history to be dropped.
fn spawn_watch(supervisor: &Supervisor, sessions: &Sessions) {
    let pulse = supervisor.pulse("fleet", Duration::from_secs(120));
    let sessions = sessions.clone();
    supervisor.spawn("fleet", TaskKind::Essential, move |stop| {
        let (sessions, pulse) = (sessions.clone(), pulse.clone());
        async move {
            let mut rounds = 0u64;
            loop {
                let silent_after = sessions.settings.load().fleet.silent_after;
                let every = (silent_after / 10).clamp(Duration::from_millis(200), Duration::from_secs(10));
                let (members, silent) =
                    fleet::look(&sessions.fleet, &sessions.registry, &sessions.notices, silent_after).await;
                sessions.metrics.nodes.set(i64::try_from(members).unwrap_or(i64::MAX));
                sessions.metrics.silent_nodes.set(i64::try_from(silent).unwrap_or(i64::MAX));
                if rounds.is_multiple_of(8) {
                    sessions.writer.retain();
                }
                rounds = rounds.wrapping_add(1);
                pulse.beat();
                tokio::select! {
                    () = stop.cancelled() => return Ok::<(), std::convert::Infallible>(()),
                    () = tokio::time::sleep(every) => {}
                }
            }
        }
    });
}
