//! `picketd run`: the daemon.

use std::path::PathBuf;

use picket_service::journal;

use crate::app;
use crate::cli::{Failure, Outcome};
use crate::settings::{self, Flags};

/// Options of `picketd run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The settings file [default: /etc/picket/picketd.toml, if it is there]
    #[arg(long, value_name = "FILE", env = "PICKET_CONFIG")]
    config: Option<PathBuf>,
    /// A folder that stands for the node; nothing outside it is looked at
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// The /proc whose kernel parameters are judged; with --root there is none otherwise
    #[arg(long, value_name = "DIR")]
    proc: Option<PathBuf>,
    /// Where the daemon keeps its state
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Where the status socket lies
    #[arg(long, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
    /// What is logged: error, warn, info, debug, trace, or such as info,picketd::engine=debug
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Args) -> Result<Outcome, Failure> {
    let flags = Flags {
        root: args.root.clone(),
        proc: args.proc.clone(),
        state_dir: args.state_dir.clone(),
        runtime_dir: args.runtime_dir.clone(),
        log_level: args.log_level.clone(),
    };
    let path = args.config.clone();
    let load = move || settings::load(path.as_deref(), |name| std::env::var(name).ok(), &flags);
    let settings = load().map_err(|e| Failure::failed("the settings cannot be used", e))?;
    if let Some(root) = &settings.root {
        super::is_folder(root)?;
    }
    let log = journal::init(&settings.log_level).map_err(|e| Failure::failed("cannot log", e))?;
    if let Err(error) = picket_service::private::keep_private() {
        tracing::warn!(%error, "a core dump of this process would hold secrets");
    }
    // One thread for everything that waits; looks and disk writes run beside it, at most a few at a time.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_keep_alive(std::time::Duration::from_secs(2))
        .build()
        .map_err(|e| Failure::failed("cannot start", e))?;
    let result = runtime.block_on(app::run(settings, Box::new(load), log));
    result.map_err(|error| {
        // The journal gets it with its fields; standard error is for a person at a terminal.
        tracing::error!(error = %picket_service::chain::Chain(&error), "picketd ends");
        Failure::failed("picketd ends", error)
    })?;
    Ok(Outcome::Clean)
}
