//! `picketd explain CONTROL`: why it matters, what was seen and where, and what to write.

use std::io::{self, Write};

use picket_checks::{Background, Control, Policy};
use picket_model::{Evidence, Status, Verdict};

use super::{Node, RoleAsked};
use crate::advice::{self, Change};
use crate::cli::{Failure, Outcome};
use crate::repair;
use crate::report::text::printable;
use crate::source::{self, Ask, Memory, Seen};

/// Options of `picketd explain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which node.
    #[command(flatten)]
    pub node: Node,
    /// Role of the node, where its files do not tell
    #[arg(long, value_enum, default_value_t = RoleAsked::Auto)]
    pub role: RoleAsked,
    /// Ids of controls, as `picketd scan` prints them
    #[arg(required = true, value_name = "CONTROL")]
    pub controls: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Args, out: &mut dyn Write) -> Result<Outcome, Failure> {
    let host = args.node.host(None)?;
    let policy = super::all_controls(&host, &args.controls)?;
    let memory = Memory::none();
    let seen = source::observe(&host, &Ask { role: args.role.role(), memory: &memory, catalogue: &policy.catalogue });
    let verdicts = picket_checks::evaluate(&seen.snapshot, &policy);
    for (index, id) in args.controls.iter().enumerate() {
        let Some(control) = policy.catalogue.get(id) else { continue };
        let rows: Vec<&Verdict> = verdicts.iter().filter(|v| v.control == *id).collect();
        if index > 0 {
            writeln!(out).map_err(Failure::output)?;
        }
        explain(&policy, control, &rows, &seen, out).map_err(Failure::output)?;
    }
    Ok(Outcome::Clean)
}

fn explain(policy: &Policy, control: &Control, rows: &[&Verdict], seen: &Seen, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}  {}\n  {}", control.id, control.severity.as_str(), printable(&control.title))?;
    if !control.cis.is_empty() {
        let numbers: Vec<String> = policy
            .benchmarks()
            .iter()
            .filter_map(|version| control.cis.get(version).map(|number| format!("{version}: {number}")))
            .collect();
        writeln!(out, "  CIS {}", numbers.join(", "))?;
    }
    let own = control.background.as_deref().cloned();
    let background = own.or_else(|| Background::of(&control.id)).unwrap_or_default();
    for (head, text) in [
        ("Why it matters", background.why),
        ("How it is judged", background.notes),
        ("What K3s does by itself", background.default),
    ] {
        if !text.is_empty() {
            writeln!(out, "\n{head}")?;
            for line in text.lines() {
                writeln!(out, "  {}", printable(line))?;
            }
        }
    }
    writeln!(out, "\nSeen here")?;
    if rows.is_empty() {
        writeln!(out, "  nothing: this control is not judged on this node")?;
    }
    for row in rows {
        let state = row.state.map_or(String::new(), |s| format!(" [{}]", s.as_str()));
        let (subject, observed) = (printable(&row.subject), printable(&row.observed));
        writeln!(out, "  {} {subject}: {observed}{state}", row.status)?;
        writeln!(out, "    wanted: {}", printable(&row.expected))?;
        for evidence in row.evidence.iter().filter(|e| e.path.is_some() || e.layer.is_some()) {
            writeln!(out, "    from {}", from(evidence))?;
        }
    }
    writeln!(out, "\nWhat to do\n  {}", printable(rows.first().map_or(&control.remedy, |row| &row.remedy)))?;
    for evidence in rows.iter().filter(|r| r.status == Status::Fail).flat_map(|r| &r.evidence) {
        if matches!(evidence.layer.as_deref(), Some("config-file" | "drop-in" | "command-line" | "environment")) {
            writeln!(out, "  (change or remove what is set in {})", from(evidence))?;
        }
    }
    let config = seen.snapshot.declared.value().map(AsRef::as_ref);
    if let Some(advice) = advice::of(control, &seen.snapshot.data_dir, config) {
        if !advice.settings.0.is_empty() {
            let path = repair::drop_in_path(&seen.configuration)
                .unwrap_or_else(|| "/etc/rancher/k3s/config.yaml.d/90-picket.yaml".to_owned());
            writeln!(out, "\nLines that do it, in {path}")?;
            for line in advice.settings.lines() {
                writeln!(out, "  {line}")?;
            }
        }
        if let Some(file) = advice.file {
            let what = match file.change {
                Change::Make => "File that goes with them, root's, mode 0600:",
                Change::AddPlugin => "To be added to the list of plugins in",
                Change::Replace => "Content that every control on policies passes, for",
            };
            writeln!(out, "\n{what} {}", printable(&file.path))?;
            for line in file.text.lines() {
                writeln!(out, "  {line}")?;
            }
        }
    }
    let kernel = repair::kernel_parameters(control);
    if !kernel.is_empty() {
        writeln!(out, "\nLines that do it, in {}", repair::SYSCTLS)?;
        for (key, value) in kernel {
            writeln!(out, "  {key} = {value}")?;
        }
    }
    writeln!(out, "\nTo be restarted\n  {}", advice::restart(control, seen.snapshot.role))?;
    if repair::can(control) && rows.iter().any(|row| row.status == Status::Fail) {
        writeln!(out, "\n`picketd fix --dry-run {}` shows what picket would change.", control.id)?;
    }
    Ok(())
}

/// Place, layer and detail of a piece of evidence.
fn from(evidence: &Evidence) -> String {
    let mut text = printable(evidence.path.as_deref().unwrap_or("K3s itself"));
    if let Some(line) = evidence.line {
        text.push_str(&format!(":{line}"));
    }
    if let Some(layer) = &evidence.layer {
        text.push_str(&format!(" ({layer})"));
    }
    if !evidence.detail.is_empty() {
        text.push_str(&format!(" {}", printable(&evidence.detail)));
    }
    text
}
