//! `picketd scan`: judges the node once. No daemon, no collector, nothing kept.

use std::io::Write;

use jiff::Timestamp;
use picket_checks::Policy;
use picket_host::Host;
use picket_model::{NodeInfo, Severity};

use super::{Node, RoleAsked};
use crate::cli::{Failure, Outcome};
use crate::report::table::Style;
use crate::report::{self, Form, Report};
use crate::source::{self, Ask, Memory, Seen};

/// Options of `picketd scan`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which node.
    #[command(flatten)]
    pub node: Node,
    /// Role of the node, where its files do not tell
    #[arg(long, value_enum, default_value_t = RoleAsked::Auto)]
    pub role: RoleAsked,
    /// Limits and retired controls of this CIS benchmark version, such as 1.8
    #[arg(long, value_name = "VERSION")]
    pub benchmark: Option<String>,
    /// Judge what depends on time as of this moment instead of now
    #[arg(long, value_name = "RFC3339")]
    pub at: Option<Timestamp>,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    pub output: Form,
    /// End with exit code 1 if anything of this severity or above fails (info, low, medium, high, critical)
    #[arg(long, value_name = "SEVERITY")]
    pub fail_on: Option<Severity>,
}

/// Runs the command.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Args, out: &mut dyn Write) -> Result<Outcome, Failure> {
    let policy = policy(args.benchmark.as_deref())?;
    let host = args.node.host(args.at)?;
    let memory = Memory::none();
    let ask = Ask { role: args.role.role(), memory: &memory, catalogue: &policy.catalogue };
    let report = scan(&host, &ask, &policy);
    report.print(args.output, Style::of_stdout(), out).map_err(Failure::output)?;
    Ok(match args.fail_on {
        Some(severity) if report.fails_at(severity) => Outcome::Findings,
        _ => Outcome::Clean,
    })
}

/// The controls to judge, by a benchmark version if one is given.
fn policy(benchmark: Option<&str>) -> Result<Policy, Failure> {
    let mut policy = Policy::built_in().map_err(|e| Failure::failed("cannot read the catalogue of controls", e))?;
    if let Some(version) = benchmark {
        let known = policy.benchmarks();
        if !known.iter().any(|k| k == version) {
            return Err(Failure::Usage(format!(
                "--benchmark {version}: no such version in the catalogue; use one of {}",
                known.join(", ")
            )));
        }
        policy.benchmark = Some(version.to_owned());
    }
    Ok(policy)
}

/// Looks at the node and judges it.
pub fn scan(host: &Host, ask: &Ask<'_>, policy: &Policy) -> Report {
    let seen = source::observe(host, ask);
    let verdicts = picket_checks::evaluate(&seen.snapshot, policy);
    Report { node: describe(host, &seen), verdicts }
}

/// What a node says of itself.
pub fn describe(host: &Host, seen: &Seen) -> report::Node {
    report::Node {
        info: NodeInfo {
            // A tree without /etc/hostname still has a name where K3s was given one.
            hostname: host
                .hostname()
                .or_else(|| seen.configuration.option("node-name").map(|v| v.value.clone()))
                .unwrap_or_default(),
            role: seen.snapshot.role,
            k3s_version: seen.snapshot.k3s_version.clone(),
            picket_version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: host.kernel().unwrap_or_default(),
        },
        data_dir: seen.snapshot.data_dir.clone(),
        rooted: seen.snapshot.rooted,
        at: seen.snapshot.at,
    }
}
