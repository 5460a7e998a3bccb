//! Builds the daemon from its parts and runs it: the only place where all parts meet.
//!
//! | task | kind | does |
//! |---|---|---|
//! | `engine` | essential | hints, sweeps and deadlines to findings |
//! | `audit` | essential | audit log to detections |
//! | `uplink` | auxiliary | events to the collector; a node without one works alone |
//! | `status` | auxiliary | answers `picketd status` |
//!
//! Order of stopping: systemd is told, all tasks are asked to stop and get ten seconds, the ledger writes a last
//! checkpoint. Whatever is missed by a crash instead is found again: that is what the ledger is for.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use picket_checks::{CatalogueError, Policy};
use picket_host::{Host, HostError};
use picket_ledger::{Applied, Ledger, LedgerError, LedgerHandle, Limits};
use picket_service::atomic::{self, AtomicError};
use picket_service::chain::Chain;
use picket_service::clock::{Clock, SystemClock};
use picket_service::journal::LogLevel;
use picket_service::resident;
use picket_service::signal::{Signal, Signals};
use picket_service::supervise::{Policy as Restarts, Pulse, Supervisor, TaskFailed, TaskKind};
use picket_service::systemd::Systemd;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::audit_task::{AuditError, AuditWatch};
use crate::cmd::queue;
use crate::engine::{Engine, EngineError, Outlets, Parts, Why};
use crate::identity::IdentityFolder;
use crate::remembered::{MemoryError, Remembered};
use crate::settings::{Audit, Settings, SettingsError};
use crate::source::Source;
use crate::status::{Board, Responder};
use crate::uplink::{self, Uplink, Vitals};
use crate::watch::Hints;

/// How long tasks may take to stop.
const STOP: Duration = Duration::from_secs(10);
/// How often something that looks unfinished is looked at again.
const AGAIN: Duration = Duration::from_millis(500);
/// How long the reader of the audit log rests at most between two pieces of a backlog.
const LONGEST_REST: Duration = Duration::from_millis(50);
/// How long an essential task may be silent beyond its own rhythm.
const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon that cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A folder cannot be made.
    #[error("the daemon's folders cannot be used")]
    Folder(#[from] AtomicError),
    /// The node cannot be looked at.
    #[error("the node cannot be looked at")]
    Host(#[from] HostError),
    /// The controls cannot be read.
    #[error("the catalogue of controls cannot be read")]
    Catalogue(#[from] CatalogueError),
    /// The ledger cannot be opened.
    #[error("the ledger cannot be opened")]
    Ledger(#[from] LedgerError),
    /// What was remembered cannot be read.
    #[error("the memory of the node cannot be used")]
    Memory(#[from] MemoryError),
    /// The audit log cannot be watched.
    #[error("the audit log cannot be watched")]
    Audit(#[from] AuditError),
    /// The first look failed.
    #[error("the first look at the node failed")]
    Engine(#[from] EngineError),
    /// Signals cannot be listened to.
    #[error("the daemon cannot listen to signals")]
    Signals(#[source] std::io::Error),
    /// An essential task gave up.
    #[error("the daemon cannot go on")]
    Task(#[from] TaskFailed),
}

/// Reads the settings again.
pub type Reload = Box<dyn Fn() -> Result<Settings, SettingsError> + Send>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // After a panic in a look the engine is as good as its last state; the next look reads everything anew.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn host(settings: &Settings, clock: &Arc<dyn Clock>) -> Result<Host, HostError> {
    let host = match &settings.root {
        None => Host::live(Arc::clone(clock))?,
        Some(root) => Host::rooted(root, Arc::clone(clock))?,
    };
    match &settings.proc {
        None => Ok(host),
        Some(proc) => host.with_proc(proc),
    }
}

/// Where kernel parameters lie outside.
fn proc(settings: &Settings) -> Option<PathBuf> {
    match (&settings.proc, &settings.root) {
        (Some(proc), _) => Some(proc.clone()),
        (None, None) => Some("/proc".into()),
        (None, Some(root)) => Some(root.join("proc")).filter(|proc| proc.is_dir()),
    }
}

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// [`AppError`].
pub async fn run(settings: Settings, reload: Reload, log: LogLevel) -> Result<(), AppError> {
    // A line of the audit log can have 16 MiB; there are few of them.
    resident::keep_no_large_buffers();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let systemd = Systemd::new();
    let mut signals = Signals::listen().map_err(AppError::Signals)?;
    systemd.status("opening the ledger");
    atomic::folder(&settings.state_dir, 0o700)?;
    atomic::folder(&settings.runtime_dir, 0o755)?;
    let limits = Limits { outbox_bytes: settings.outbox_limit, ..Limits::default() };
    let (ledger, recovery) = Ledger::open(&settings.state_dir.join(queue::FOLDER), limits, clock.now())?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        state_dir = %settings.state_dir.display(),
        epoch = %ledger.epoch(),
        next_seq = ledger.next_seq().0,
        replayed = recovery.replayed,
        torn_bytes = recovery.torn_bytes,
        damaged_events = recovery.damaged_events,
        "picketd starts"
    );
    let ledger = LedgerHandle::new(ledger);
    let board = Board::default();
    board.update(|state| {
        state.started = Some(clock.now());
        state.root = settings.root.as_ref().map(|root| root.display().to_string());
    });
    let hints = Hints::default();
    let outlets = Outlets {
        vitals: watch::Sender::new(Vitals::default()),
        board: board.clone(),
        audit_logs: watch::Sender::new(Vec::new()),
    };
    let audit_paths = outlets.audit_logs.subscribe();
    let vitals = outlets.vitals.subscribe();
    let mut engine = Engine::new(Parts {
        host: host(&settings, &clock)?,
        role: settings.role,
        proc: proc(&settings),
        policy: Policy::built_in()?,
        places: settings.places.clone(),
        rules: settings.audit.rules_dir.clone(),
        remembered: Remembered::open(&settings.state_dir)?,
        ledger: ledger.clone(),
        hints: hints.clone(),
        watch: settings.watch,
        outlets,
    });
    systemd.status("looking at the node for the first time");
    engine.look(Why::Whole, &Source::ALL.into())?;
    let state = board.read();
    tracing::info!(
        role = state.node.role.map(picket_model::Role::as_str),
        k3s_version = state.node.k3s_version,
        folders = state.folders_watched,
        unwatched = state.folders_unwatched.len(),
        unreadable = state.unreadable.len(),
        "the node is watched"
    );

    let (settings_now, settings_seen) = watch::channel(settings.clone());
    let supervisor = Supervisor::new(CancellationToken::new(), Restarts::default());
    let engine = Arc::new(Mutex::new(engine));
    let pulse = supervisor.pulse("engine", settings.sweep.sysctls + PATIENCE);
    {
        let (hints, clock, seen) = (hints.clone(), Arc::clone(&clock), settings_seen.clone());
        supervisor.spawn("engine", TaskKind::Essential, move |cancel| {
            watch_node(Arc::clone(&engine), hints.clone(), Arc::clone(&clock), seen.clone(), pulse.clone(), cancel)
        });
    }
    if settings.audit.enabled {
        let audit = Arc::new(Mutex::new(AuditWatch::new(
            host(&settings, &clock)?,
            settings.audit.start,
            &settings.audit.rules_dir,
            ledger.clone(),
            board.clone(),
        )?));
        let pulse = supervisor.pulse("audit", settings.audit.interval + PATIENCE);
        let (hints, seen) = (hints.clone(), settings_seen.clone());
        supervisor.spawn("audit", TaskKind::Essential, move |cancel| {
            watch_audit(Arc::clone(&audit), hints.clone(), audit_paths.clone(), seen.clone(), pulse.clone(), cancel)
        });
    }
    let times = uplink::Settings { backoff_max: settings.longest_retry, ..uplink::Settings::default() };
    let uplink =
        Uplink::new(times, ledger.clone(), IdentityFolder::of(&settings.state_dir), Arc::clone(&clock), vitals);
    let responder = Responder { board, ledger: ledger.clone(), link: uplink.link(), clock };
    let mut uplink = Some(uplink);
    supervisor.spawn("uplink", TaskKind::Auxiliary, move |cancel| {
        // It never fails by itself; what it meets it tells and tries again.
        let uplink = uplink.take();
        async move {
            if let Some(uplink) = uplink {
                uplink.run(cancel).await;
            }
            Ok::<(), std::convert::Infallible>(())
        }
    });
    {
        let (responder, folder) = (responder.clone(), settings.runtime_dir.clone());
        supervisor.spawn("status", TaskKind::Auxiliary, move |cancel| responder.clone().serve(folder.clone(), cancel));
    }
    systemd.ready(&summary(&responder));

    let outcome = attend(&supervisor, &mut signals, systemd, &responder, &hints, &reload, &log, &settings_now).await;
    systemd.stopping();
    let stopped = supervisor.stop(STOP).await;
    if !stopped.aborted.is_empty() {
        tracing::warn!(tasks = ?stopped.aborted, "tasks did not stop in time");
    }
    if let Err(error) = ledger.with(Ledger::checkpoint) {
        tracing::warn!(%error, "no last checkpoint could be written; the next start replays more");
    }
    tracing::info!("picketd stops");
    outcome
}

/// What the main task does while the others work: signals, watchdog, the sentence for `systemctl status`.
#[expect(clippy::too_many_arguments, reason = "it is the end of `run`, which holds them all")]
async fn attend(
    supervisor: &Supervisor,
    signals: &mut Signals,
    systemd: Systemd,
    responder: &Responder,
    hints: &Hints,
    reload: &Reload,
    log: &LogLevel,
    settings: &watch::Sender<Settings>,
) -> Result<(), AppError> {
    let beat = systemd.watchdog_interval().unwrap_or(Duration::from_secs(30));
    let mut ticks = tokio::time::interval(beat.min(Duration::from_secs(30)));
    let mut said = String::new();
    loop {
        tokio::select! {
            failed = supervisor.failed() => return Err(failed.into()),
            _ = ticks.tick() => {
                let late = supervisor.late();
                if late.is_empty() {
                    systemd.feed_watchdog();
                } else {
                    tracing::error!(tasks = ?late, "essential tasks make no progress; the watchdog is not fed");
                }
                // A start and a full look use most of the program; the time between them little.
                if let Err(error) = resident::let_go() {
                    tracing::debug!(%error, "the program stays in memory");
                }
                let now = summary(responder);
                if now != said {
                    systemd.status(&now);
                    said = now;
                }
            }
            signal = signals.next() => match signal {
                Signal::Stop => return Ok(()),
                Signal::Reload => {
                    systemd.reloading();
                    match reload() {
                        Ok(new) => take_settings(new, settings, log),
                        Err(error) => tracing::error!(error = %Chain(&error), "the settings were not read again; those before stay"),
                    }
                    hints.everything();
                    systemd.ready(&summary(responder));
                }
            }
        }
    }
}

fn take_settings(new: Settings, settings: &watch::Sender<Settings>, log: &LogLevel) {
    if let Err(error) = log.set(&new.log_level) {
        tracing::error!(error = %Chain(&error), "the log level stays");
    }
    let old = settings.borrow().clone();
    let live = Settings {
        log_level: new.log_level.clone(),
        watch: new.watch,
        sweep: new.sweep,
        audit: Audit {
            interval: new.audit.interval,
            late_after: new.audit.late_after,
            path: new.audit.path.clone(),
            rules_dir: new.audit.rules_dir.clone(),
            ..old.audit.clone()
        },
        ..old
    };
    if live != new || live.watch.settle != settings.borrow().watch.settle {
        tracing::warn!(
            "some of the changed settings need a restart: folders, role, audit.enabled and audit.start, outbox, watch.settle"
        );
    }
    settings.send_replace(live);
    tracing::info!("the settings were read again");
}

fn summary(responder: &Responder) -> String {
    let status = responder.status();
    let link = match (&status.link.collector, status.link.connected_since) {
        (None, _) => "not enrolled".to_owned(),
        (Some(collector), Some(_)) => format!("connected to {collector}"),
        (Some(collector), None) => format!("{collector} cannot be reached"),
    };
    format!(
        "{} findings open, {} blind; {} events wait; {link}",
        status.findings_open, status.findings_blind, status.outbox.waiting
    )
}

/// The engine's loop: everything that blocks runs beside the runtime's thread.
async fn watch_node(
    engine: Arc<Mutex<Engine>>,
    hints: Hints,
    clock: Arc<dyn Clock>,
    settings: watch::Receiver<Settings>,
    pulse: Pulse,
    cancel: CancellationToken,
) -> Result<(), EngineError> {
    enum Wake {
        Hints,
        Sysctls,
        Files,
        Whole,
        Again,
    }
    let start = Instant::now();
    let (mut sysctls, mut files, mut whole) = (start, start, start);
    loop {
        pulse.beat();
        let (waits, deadline) = {
            let engine = lock(&engine);
            (engine.waits(), engine.deadline())
        };
        let (watch, sweep) = {
            let settings = settings.borrow();
            (settings.watch, settings.sweep)
        };
        // The wall clock may jump: a deadline is looked at again with every sweep.
        let until = deadline.map_or(Duration::MAX, |at| {
            Duration::try_from(at.duration_since(clock.now())).unwrap_or(Duration::from_millis(1))
        });
        let again = if waits { AGAIN.min(watch.settle) } else { Duration::MAX };
        let wake = tokio::select! {
            biased;
            () = cancel.cancelled() => return Ok(()),
            // Sweeps first: a storm of hints must not keep them off.
            () = tokio::time::sleep_until((whole + sweep.full).into()) => Wake::Whole,
            () = tokio::time::sleep_until((files + sweep.files).into()) => Wake::Files,
            () = tokio::time::sleep_until((sysctls + sweep.sysctls).into()) => Wake::Sysctls,
            () = hints.settled(watch.quiet, watch.longest) => Wake::Hints,
            () = tokio::time::sleep(again), if waits => Wake::Again,
            () = tokio::time::sleep(until), if deadline.is_some() => Wake::Whole,
        };
        let now = Instant::now();
        match wake {
            Wake::Sysctls => sysctls = now,
            Wake::Files => files = now,
            Wake::Whole => whole = now,
            Wake::Hints | Wake::Again => {}
        }
        let engine = Arc::clone(&engine);
        tokio::task::spawn_blocking(move || -> Result<Applied, EngineError> {
            let mut engine = lock(&engine);
            match wake {
                Wake::Hints => engine.follow_hints(),
                Wake::Sysctls => engine.sweep_sysctls(),
                Wake::Files => engine.sweep_files(),
                Wake::Whole => engine.look(Why::Whole, &BTreeSet::from(Source::ALL)),
                Wake::Again => engine.look_again(),
            }
        })
        .await??;
    }
}

/// The tail's loop.
async fn watch_audit(
    audit: Arc<Mutex<AuditWatch>>,
    hints: Hints,
    mut paths: watch::Receiver<Vec<String>>,
    mut settings: watch::Receiver<Settings>,
    pulse: Pulse,
    cancel: CancellationToken,
) -> Result<(), AuditError> {
    loop {
        pulse.beat();
        // Also when nothing in the settings changed: the rules' files may have.
        let reloaded = settings.has_changed().unwrap_or(false);
        let Audit { interval, path: given, rules_dir: rules, late_after, .. } =
            settings.borrow_and_update().audit.clone();
        let only = given.is_some();
        let follow = given.map_or_else(|| paths.borrow_and_update().clone(), |p| vec![p.display().to_string()]);
        let watch = Arc::clone(&audit);
        let begun = Instant::now();
        let more = tokio::task::spawn_blocking(move || {
            let mut watch = lock(&watch);
            if reloaded {
                watch.use_rules(&rules)?;
            }
            watch.follow(&follow, only);
            watch.step(late_after)
        })
        .await??;
        if more && !cancel.is_cancelled() {
            // A day's backlog must not keep the findings from the processor and the disk.
            tokio::time::sleep(begun.elapsed().div_f32(3.0).min(LONGEST_REST)).await;
            continue;
        }
        tokio::select! {
            () = cancel.cancelled() => {
                let watch = Arc::clone(&audit);
                return tokio::task::spawn_blocking(move || lock(&watch).stop()).await?;
            }
            // A burst is read in one go.
            () = async { hints.audit().await; tokio::time::sleep(Duration::from_millis(20).min(interval)).await } => {}
            () = tokio::time::sleep(interval.max(Duration::from_millis(10))) => {}
        }
    }
}
