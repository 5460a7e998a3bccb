//! `picketd queue check`: verifies the outbox from outside and says how much waits to be sent.

use std::io::Write;
use std::path::PathBuf;

use picket_ledger::check::{Report, check};

use crate::cli::{Failure, Outcome};

/// Name of the ledger's folder below the state folder.
pub const FOLDER: &str = "outbox";

/// Options of `picketd queue`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do with it.
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Read the whole outbox, verify every record and the chain of hashes, and print how much waits. Changes nothing;
    /// the daemon may run meanwhile
    Check {
        /// Where picketd keeps its state
        #[arg(long, value_name = "DIR", env = "PICKET_STATE_DIR", default_value = "/var/lib/picket")]
        state_dir: PathBuf,
    },
}

/// Looks at the outbox. Damage counts as a finding.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Args, out: &mut dyn Write) -> Result<Outcome, Failure> {
    let Command::Check { state_dir } = &args.command;
    let path = state_dir.join(FOLDER);
    let report = check(&path).map_err(|e| Failure::failed("cannot check the outbox", e))?;
    print(&report, out).map_err(Failure::output)?;
    Ok(if report.is_sound() { Outcome::Clean } else { Outcome::Findings })
}

fn print(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    let epoch = report.epoch.map_or_else(|| "none yet".to_owned(), |e| e.to_string());
    writeln!(out, "epoch            {epoch}")?;
    writeln!(out, "waiting          {} events at most", report.unacknowledged)?;
    writeln!(out, "on disk          {} events, {} bytes, {} segments", report.events, report.bytes, report.segments)?;
    writeln!(
        out,
        "acknowledged     through {} or further (noted with each checkpoint; `picketd status` has the present number)",
        report.acknowledged
    )?;
    writeln!(out, "next number      {}", report.next_seq)?;
    writeln!(out, "given up         {} events, told in gap events", report.given_up)?;
    if report.torn_bytes > 0 {
        writeln!(
            out,
            "cut off          {} bytes of a last record; it is cut away at the next start",
            report.torn_bytes
        )?;
    }
    if report.is_sound() {
        return writeln!(out, "sound            every record and the chain of hashes");
    }
    writeln!(
        out,
        "DAMAGED          {} events cannot be read, {} hashes do not follow, {} checkpoints cannot be read; \
         check the disk. The next start keeps what is sound and reports the rest as a gap",
        report.damaged, report.broken_chain, report.damaged_checkpoints
    )
}
