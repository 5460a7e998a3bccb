//! The command line of `picketd`.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::cmd;

/// Watches a K3s node's hardening and reports what is not as it should be.
#[derive(Debug, Parser)]
#[command(name = "picketd", version, propagate_version = true, max_term_width = 100)]
#[command(
    after_help = "Exit codes: 0 done and nothing found, 1 findings at or above --fail-on, 2 wrong use, 3 could not do it."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands, each in its own file below `cmd/`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch this node and report for as long as the service runs
    Run(cmd::run::Args),
    /// Ask the running daemon how it is
    Status(cmd::status::Args),
    /// Judge this node once and print the verdicts
    Scan(cmd::scan::Args),
    /// Say why a control matters, what was seen and where, and what to write
    Explain(cmd::explain::Args),
    /// Repair what controls find, where a mode, an owner, a kernel parameter or one setting does it
    Fix(cmd::fix::Args),
    /// Replay audit logs through the detections
    Audit(cmd::audit::Args),
    /// List, check and try out the rules for the audit log
    Rules(cmd::rules::Args),
    /// Print the configuration K3s will start with, with the place each value comes from
    Config(cmd::config::Args),
    /// Print every certificate of the node and how long it lasts
    Certs(cmd::certs::Args),
    /// Trade a one-time token for this node's identity at a collector
    Enroll(cmd::enroll::Args),
    /// Look at the outbox: what waits to be sent
    Queue(cmd::queue::Args),
}

/// How a command ended when nothing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Done, nothing found: exit code 0.
    Clean,
    /// Findings at or above `--fail-on`: exit code 1.
    Findings,
}

/// Why a command did not end well.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Wrong use: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// Could not be done: exit code 3. Says what, where, and what to do; the causes follow.
    #[error("{what}")]
    Failed {
        /// What could not be done.
        what: String,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The reader of the output went away (`picketd scan | head`): not worth a word.
    #[error("the output was closed")]
    OutputClosed,
}

impl Failure {
    /// Could not be done, with the cause.
    pub fn failed(what: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed { what: what.into(), source: source.into() }
    }

    /// The output could not be written.
    pub fn output(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            Self::OutputClosed
        } else {
            Self::failed("cannot write the output", error)
        }
    }

    /// The exit code that goes with it.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Failed { .. } => 3,
            Self::OutputClosed => 0,
        }
    }
}

impl Command {
    /// Runs the command; its results go to `out`.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn run(&self, out: &mut dyn Write) -> Result<Outcome, Failure> {
        match self {
            Self::Run(args) => cmd::run::run(args),
            Self::Status(args) => cmd::status::run(args, out),
            Self::Scan(args) => cmd::scan::run(args, out),
            Self::Explain(args) => cmd::explain::run(args, out),
            Self::Fix(args) => cmd::fix::run(args, out),
            Self::Audit(args) => cmd::audit::run(args, out),
            Self::Rules(args) => cmd::rules::run(args, out),
            Self::Config(args) => cmd::config::run(args, out),
            Self::Certs(args) => cmd::certs::run(args, out),
            Self::Enroll(args) => cmd::enroll::run(args, out),
            Self::Queue(args) => cmd::queue::run(args, out),
        }
    }
}

/// Parses the command line, runs it, and says what went wrong.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { 2 } else { 0 };
            // Nowhere to complain to if even this cannot be printed.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    // As much as a pipe takes at once: a report has hundreds of kilobytes.
    let mut out = std::io::BufWriter::with_capacity(64 * 1024, std::io::stdout().lock());
    let result = cli.command.run(&mut out);
    // What was said before an error stands before it.
    let flushed = out.flush().map_err(Failure::output);
    let result = result.and_then(|outcome| flushed.map(|()| outcome));
    match result {
        Ok(Outcome::Clean) => ExitCode::SUCCESS,
        Ok(Outcome::Findings) => ExitCode::from(1),
        Err(failure) => {
            if !matches!(failure, Failure::OutputClosed) {
                eprintln!("picketd: {}", chain(&failure));
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

/// An error with all its causes in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
