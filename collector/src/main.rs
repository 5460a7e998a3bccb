//! `picket-collector`: arguments, runtime, signals, exit code.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use picket_collector::admin::Admin;
use picket_collector::app::App;
use picket_collector::cli::{Cli, Command, ServeArgs};
use picket_collector::settings::{Overrides, Settings};
use picket_service::clock::SystemClock;
use picket_service::journal::{self, LogLevel};
use picket_service::signal::{Signal, Signals};
use picket_service::systemd::Systemd;

/// Could not do it.
const FAILED: u8 = 3;
/// How often the server's certificate is looked at.
const CERTIFICATE_CHECK: Duration = Duration::from_secs(6 * 3600);

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let chain = picket_service::chain::Chain(error.as_ref()).to_string();
            // Nowhere else to say it when standard error is closed.
            writeln!(std::io::stderr(), "picket-collector: {chain}").ok();
            ExitCode::from(FAILED)
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let source =
        Source { config: cli.config, overrides: Overrides { state_dir: cli.state_dir, ..Overrides::default() } };
    match cli.command {
        Command::Serve(args) => serve(source.with(args)),
        Command::Dev(args) => dev(source.with(args)),
        Command::Token(command) => ask(&source, async |admin| admin.token(command).await),
        Command::Node(command) => ask(&source, async |admin| admin.node(command).await),
        Command::Operator(command) => ask(&source, async |admin| admin.operator(command).await),
    }
}

/// Where settings come from; read again at each reload.
struct Source {
    config: Option<PathBuf>,
    overrides: Overrides,
}

impl Source {
    fn with(mut self, args: ServeArgs) -> Self {
        self.overrides.listen = args.listen;
        self.overrides.advertise = args.advertise;
        self.overrides.http_listen = args.http_listen;
        self
    }

    fn read(&self) -> anyhow::Result<Settings> {
        // Variables that are not text cannot be ours.
        let environment = std::env::vars_os().filter_map(|(n, v)| Some((n.into_string().ok()?, v.into_string().ok()?)));
        Ok(Settings::load(self.config.as_deref(), environment, &self.overrides)?)
    }
}

fn ask(source: &Source, question: impl AsyncFnOnce(Admin) -> anyhow::Result<String>) -> anyhow::Result<()> {
    let settings = source.read()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let answer = runtime.block_on(async { question(Admin::connect(&settings.state_dir).await?).await })?;
    print(&answer)
}

fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        // `… | head` is no failure.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to standard output"),
    }
}

fn serve(source: Source) -> anyhow::Result<()> {
    let settings = source.read()?;
    let level = journal::init(&settings.log_level)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(serve_until_told(source, settings, &level, async |_| Ok(())))
}

/// A collector for trying things out: loopback, a folder that goes away.
fn dev(mut source: Source) -> anyhow::Result<()> {
    let name = format!("picket-collector-dev-{}", std::process::id());
    let folder = source.overrides.state_dir.clone().unwrap_or_else(|| std::env::temp_dir().join(name));
    // Made here and by nobody else: in /tmp anyone could have put a folder or link of that name there.
    new_folder(&folder)?;
    source.overrides.state_dir = Some(folder.clone());
    source.overrides.listen.get_or_insert_with(|| "127.0.0.1:7443".to_owned());
    let settings = source.read()?;
    let level = journal::init(&settings.log_level)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    let state_dir = folder.clone();
    let done = runtime.block_on(serve_until_told(source, settings, &level, async move |app: &App| {
        let admin = Admin::connect(&state_dir).await?;
        let token = picket_collector::cli::TokenCommand::Create {
            ttl: picket_service::value::Span(Duration::from_secs(86_400)),
            uses: 100,
            labels: vec![("env".to_owned(), "dev".to_owned())],
        };
        let enrol = admin.token(token).await?;
        let dir = state_dir.display();
        let http = app.http.map(|h| format!("metrics: http://{h}/metrics\n")).unwrap_or_default();
        print(&format!(
            "\nA collector for trying things out. Everything is gone when it stops (Ctrl-C).\n\
             nodes and operators: {}\n{http}state: {dir}\n\n{enrol}\n\
             An operator's file: picket-collector operator create me --role admin --state-dir {dir}\n\n",
            app.advertised,
        ))
    }));
    drop(runtime);
    std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    done
}

fn new_folder(folder: &std::path::Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            anyhow::bail!("{} is there already; dev wants a new folder", folder.display())
        }
        made => made.with_context(|| format!("cannot make {}", folder.display())),
    }
}

async fn serve_until_told(
    source: Source,
    settings: Settings,
    level: &LogLevel,
    started: impl AsyncFnOnce(&App) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if let Err(error) = picket_service::private::keep_private() {
        tracing::warn!(%error, "a core dump of this process would hold its keys");
    }
    let systemd = Systemd::new();
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let mut app = App::start(settings, Arc::new(SystemClock)).await?;
    let status = format!("listening on {}", app.address);
    systemd.ready(&status);
    if let Err(error) = started(&app).await {
        app.stop().await;
        return Err(error);
    }
    let mut watchdog = systemd.watchdog_interval().map(tokio::time::interval);
    let mut certificate = tokio::time::interval(CERTIFICATE_CHECK);
    let ended = loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Stop => break Ok(()),
                Signal::Reload => {
                    systemd.reloading();
                    match source.read().and_then(|next| reload(&app, level, next)) {
                        Ok(()) => tracing::info!("settings read again"),
                        Err(error) => {
                            let error = picket_service::chain::Chain(error.as_ref()).to_string();
                            tracing::error!(error, "settings stay as they were");
                        }
                    }
                    systemd.ready(&status);
                }
            },
            reason = app.failed() => break Err(anyhow::anyhow!("{reason}")),
            () = tick(watchdog.as_mut()) => {
                let late = app.late();
                if late.is_empty() {
                    systemd.feed_watchdog();
                } else {
                    tracing::error!(tasks = ?late, "essential tasks make no progress; the watchdog is not fed");
                }
            }
            _ = certificate.tick() => {
                let settings = app.settings();
                if let Err(error) = app.renew_tls(&settings) {
                    let error = picket_service::chain::Chain(&error).to_string();
                    tracing::error!(error, "the server's certificate cannot be renewed");
                }
            }
        }
    };
    systemd.stopping();
    app.stop().await;
    ended
}

fn reload(app: &App, level: &LogLevel, next: Settings) -> anyhow::Result<()> {
    level.set(&next.log_level)?;
    app.reload(next)?;
    Ok(())
}

async fn tick(interval: Option<&mut tokio::time::Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}
