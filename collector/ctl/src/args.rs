//! What can be said on the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// Ask a Picket collector about nodes, findings, detections and history.
#[derive(Debug, Parser)]
#[command(name = "picketctl", version, propagate_version = true)]
pub(crate) struct Arguments {
    /// The operator's file, as `picket-collector operator create` wrote it [default: ~/.config/picket/config]
    #[arg(long, global = true, env = "PICKETCTL_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print what the collector knows
    Get(Get),
    /// Print the completion script of a shell
    Completion {
        /// Which shell
        shell: Shell,
    },
}

/// `get`.
#[derive(Debug, Args)]
pub(crate) struct Get {
    /// What to print
    #[arg(value_enum)]
    pub(crate) what: What,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    /// Only these nodes, by id or host name; may be repeated or a list with commas
    #[arg(long, short = 'n', value_delimiter = ',', value_name = "NODE")]
    pub(crate) node: Vec<String>,
    /// Only nodes with these labels, as kubectl has it: site=berlin,tier!=lab
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    pub(crate) selector: String,
    /// At least this bad: info, low, medium, high, critical
    #[arg(long, value_name = "SEVERITY")]
    pub(crate) severity: Option<String>,
    /// Findings in these states: open, blind, resolved, all [default: open,blind]
    #[arg(long, value_delimiter = ',', value_name = "STATE")]
    pub(crate) status: Vec<String>,
    /// Only these controls (findings) or rules (detections)
    #[arg(long, value_delimiter = ',', value_name = "ID")]
    pub(crate) control: Vec<String>,
    /// Not older than this: a duration (30m, 24h, 7d) or an RFC 3339 time
    #[arg(long, value_name = "SINCE")]
    pub(crate) since: Option<String>,
    /// At most so many rows; 0 for all
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) limit: usize,
    /// Then go on printing what arrives
    #[arg(long, short = 'w')]
    pub(crate) watch: bool,
}

/// Nouns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    /// Nodes and whether they are heard of
    #[value(alias = "node")]
    Nodes,
    /// Findings as they are now
    #[value(alias = "finding")]
    Findings,
    /// What rules matched in audit logs, newest first
    #[value(alias = "detection")]
    Detections,
    /// Every event, newest first
    History,
}

/// Forms of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Columns for people
    Table,
    /// More columns
    Wide,
    /// One JSON document; with --watch one object a line
    Json,
    /// One YAML document; with --watch one document a row
    Yaml,
    /// Comma-separated, with a header
    Csv,
}
