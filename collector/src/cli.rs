//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use picket_service::value::Span;

/// Takes K3s nodes in, keeps their findings, answers operators.
#[derive(Debug, Parser)]
#[command(name = "picket-collector", version, propagate_version = true)]
pub struct Cli {
    /// Settings file [default: /etc/picket/collector.toml, if it is there].
    #[arg(long, global = true, value_name = "FILE", env = "PICKET_COLLECTOR_CONFIG")]
    pub config: Option<PathBuf>,
    /// State folder [default: /var/lib/picket-collector].
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the collector.
    Serve(ServeArgs),
    /// Run a collector in a temporary folder that is removed at the end: to try things out.
    Dev(ServeArgs),
    /// Enrolment tokens for nodes (the collector must run).
    #[command(subcommand)]
    Token(TokenCommand),
    /// Enrolled nodes (the collector must run).
    #[command(subcommand)]
    Node(NodeCommand),
    /// Operators, who ask and steer with picketctl (the collector must run).
    #[command(subcommand)]
    Operator(OperatorCommand),
}

/// Where to listen; each wins over the settings.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Address and port for nodes and operators, such as [::]:7443.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,
    /// The address that tokens and operators' files name, such as collector.example:7443.
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// Address and port for metrics and health, or "none".
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub http_listen: Option<String>,
}

/// Enrolment tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print the command to run on the node.
    Create {
        /// How long it can be used.
        #[arg(long, default_value = "15m", value_name = "DURATION")]
        ttl: Span,
        /// How many nodes can enrol with it.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        uses: u32,
        /// Label for every node enrolled with it, KEY=VALUE; may be repeated.
        #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
        labels: Vec<(String, String)>,
    },
    /// List tokens that can still be used.
    List,
    /// Make a token worthless.
    Revoke {
        /// Its id.
        id: String,
    },
}

/// Enrolled nodes.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// List nodes.
    List,
    /// Make a node's certificates worthless and cut its connection.
    Revoke {
        /// Its id or host name.
        node: String,
        /// Why, for the record.
        #[arg(long, default_value = "")]
        reason: String,
    },
}

/// Operators.
#[derive(Debug, Subcommand)]
pub enum OperatorCommand {
    /// Make an operator and write the file that picketctl takes.
    Create {
        /// Name: lower-case letters, digits, '-', '.'.
        name: String,
        /// What the operator may do.
        #[arg(long)]
        role: Role,
        /// Life of the certificate in days.
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
        /// Where to write the file [default: NAME.picket].
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Write over a file that is there.
        #[arg(long)]
        force: bool,
    },
    /// List operators.
    List,
    /// Make an operator's certificate worthless and cut its connections.
    Revoke {
        /// Its name.
        name: String,
    },
}

/// What an operator may do; each may do what the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Ask.
    Viewer,
    /// Take nodes in.
    Operator,
    /// Everything.
    Admin,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("KEY=VALUE is expected, such as site=berlin")?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_documented_commands_are_understood() {
        for line in [
            "serve",
            "serve --config /x --state-dir /y --listen 127.0.0.1:1 --http-listen none",
            "token create --ttl 15m --uses 1 --label site=berlin --label tier=lab",
            "token list --state-dir /y",
            "token revoke 0123456789abcdef",
            "node list",
            "node revoke edge-1 --reason stolen",
            "operator create ada --role viewer --out /tmp/ada",
            "operator list",
            "operator revoke ada",
            "dev",
        ] {
            let words = std::iter::once("picket-collector").chain(line.split(' '));
            Cli::try_parse_from(words).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
        for line in
            ["", "token create --ttl soon", "token create --label site", "operator create ada", "serve --port 1"]
        {
            let words = std::iter::once("picket-collector").chain(line.split_whitespace());
            assert!(Cli::try_parse_from(words).is_err(), "{line}");
        }
    }
}
