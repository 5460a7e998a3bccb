//! `picketd scan`: judges the node once. No daemon, no collector, nothing kept.

use std::collections::BTreeMap;
use std::io::Write;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use picket_checks::Policy;
use picket_host::Host;
use picket_model::{NodeInfo, Severity};
use picket_service::resident;

use super::{Node, RoleAsked};
use crate::cli::{Failure, Outcome};
use crate::local::{self, Local};
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
    /// Report on this CIS benchmark version, such as 2.1: every one of its numbers, its limits, a summary by section
    #[arg(long, value_name = "VERSION")]
    pub benchmark: Option<String>,
    /// Leave out controls that are not in --benchmark
    #[arg(long, requires = "benchmark")]
    pub only_benchmark: bool,
    /// Folder with controls of your own [default: /etc/picket/controls.d of the node]
    #[arg(long, value_name = "DIR")]
    pub controls: Option<PathBuf>,
    /// File with waivers [default: /etc/picket/waivers.yaml of the node]
    #[arg(long, value_name = "FILE")]
    pub waivers: Option<PathBuf>,
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
    // The process ends with this: what holds thousands of small things is not taken apart before.
    let policy = ManuallyDrop::new(policy(args.benchmark.as_deref())?);
    let host = args.node.host(args.at)?;
    let local = local(args, &host, &policy)?;
    let memory = Memory::none();
    let ask = Ask { role: args.role.role(), memory: &memory, catalogue: &local.policy.catalogue };
    let seen = ManuallyDrop::new(source::observe_settled(&host, &ask));
    let mut report = judged(&host, &seen, &local.policy);
    report.waived = local.overlay(&mut report.verdicts, report.node.at);
    if args.only_benchmark {
        report.keep_benchmark();
    }
    let report = ManuallyDrop::new(report);
    report.print(args.output, Style::of_stdout(), out).map_err(Failure::output)?;
    Ok(match args.fail_on {
        Some(severity) if report.fails_at(severity) => Outcome::Findings,
        _ => Outcome::Clean,
    })
}

/// The controls to judge, by a benchmark version if one is given.
fn policy(benchmark: Option<&str>) -> Result<Policy, Failure> {
    let mut policy = crate::rules::policy().map_err(|e| Failure::failed("cannot read the catalogue of controls", e))?;
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

/// What administrators added: what the command line names, else what the node itself has.
fn local(args: &Args, host: &Host, policy: &Policy) -> Result<Local, Failure> {
    // A place on the command line is this machine's, whatever stands for the node.
    let outside = match args.controls.is_some() || args.waivers.is_some() {
        true => Some(
            Host::rooted(Path::new("/"), Arc::clone(host.clock()))
                .map_err(|e| Failure::failed("cannot look for controls and waivers", e))?,
        ),
        false => None,
    };
    let place = |given: &Option<PathBuf>, usual: &str| -> Result<PathBuf, Failure> {
        let Some(path) = given else { return Ok(usual.into()) };
        if !path.exists() {
            return Err(Failure::Usage(format!("{}: no such file or folder", path.display())));
        }
        std::path::absolute(path).map_err(|e| Failure::failed(format!("cannot use {}", path.display()), e))
    };
    let (controls, waivers) = (place(&args.controls, local::CONTROLS)?, place(&args.waivers, local::WAIVERS)?);
    let of = |given: &Option<PathBuf>| if given.is_some() { outside.as_ref().unwrap_or(host) } else { host };
    Ok(Local::read(policy, (of(&args.controls), &controls), (of(&args.waivers), &waivers)))
}

/// Looks at the node once and judges it.
pub fn scan(host: &Host, ask: &Ask<'_>, policy: &Policy) -> Report {
    judged(host, &source::observe(host, ask), policy)
}

fn judged(host: &Host, seen: &Seen, policy: &Policy) -> Report {
    looked();
    let verdicts = picket_checks::evaluate(&seen.snapshot, policy);
    Report { node: describe(host, seen), verdicts, waived: BTreeMap::new(), benchmark: policy.benchmark.clone() }
}

/// Gives back what the program needed to look and does not need to judge, so that the most a scan takes at once is that
/// of one of the two. Once only, since what is needed again costs time. Where the kernel does not do it, the scan is none
/// the worse.
fn looked() {
    if let Err(error) = resident::let_go() {
        tracing::debug!(%error, "pages of the program stay in memory");
    }
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
            token_since: seen.server_token().and_then(|t| t.first_seen),
        },
        data_dir: seen.snapshot.data_dir.clone(),
        rooted: seen.snapshot.rooted,
        at: seen.snapshot.at,
    }
}
