//! `picketd fix CONTROL…`: repairs what controls find, as far as a mode, an owner, a kernel parameter or one setting
//! of K3s does it. Shows what it changes, writes atomically, looks again, and takes back what did not help.

use std::collections::BTreeSet;
use std::io::Write;

use picket_checks::{Control, Policy, evaluate};
use picket_host::Host;
use picket_model::{Role, Status, Verdict};

use super::{Node, RoleAsked};
use crate::advice;
use crate::cli::{Failure, Outcome};
use crate::repair::{self, Plan, Step};
use crate::report::text::printable;
use crate::source::{self, Ask, Memory, Seen};

/// Options of `picketd fix`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which node.
    #[command(flatten)]
    pub node: Node,
    /// Role of the node, where its files do not tell
    #[arg(long, value_enum, default_value_t = RoleAsked::Auto)]
    pub role: RoleAsked,
    /// Show what would be changed, and change nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Ids of controls, as `picketd scan` prints them
    #[arg(required = true, value_name = "CONTROL")]
    pub controls: Vec<String>,
}

/// Runs the command. [`Outcome::Findings`]: something still fails.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Args, out: &mut dyn Write) -> Result<Outcome, Failure> {
    let host = args.node.host(None)?;
    let policy = super::all_controls(&host, &args.controls)?;
    let (seen, before) = look(&host, args.role.role(), &policy);
    let wanted: Vec<(&Control, Vec<&Verdict>)> = policy
        .catalogue
        .controls()
        .iter()
        .filter(|c| args.controls.contains(&c.id))
        .map(|c| (c, before.iter().filter(|v| v.control == c.id).collect()))
        .collect();
    let mut say = |text: String| writeln!(out, "{text}").map_err(Failure::output);
    for (control, rows) in &wanted {
        if !rows.iter().any(|v| v.status == Status::Fail) {
            let status = picket_checks::worst_status(rows.iter().copied()).map_or("not judged here", Status::as_str);
            say(format!("{}: {status}; nothing to repair", control.id))?;
        }
    }
    let plan = repair::plan(&host, &seen.configuration, &seen.snapshot.data_dir, &wanted);
    for refused in &plan.refused {
        say(format!(
            "{} {}: not changed: {}",
            refused.control,
            printable(&refused.subject),
            printable(&refused.reason)
        ))?;
    }
    for step in &plan.steps {
        say(step.diff().trim_end().to_owned())?;
    }
    let left = if plan.refused.is_empty() { Outcome::Clean } else { Outcome::Findings };
    if plan.steps.is_empty() {
        return Ok(left);
    }
    if args.dry_run {
        say("Nothing was changed (--dry-run).".to_owned())?;
        return Ok(left);
    }
    carry_out(&host, &plan)?;

    let (_, after) = look(&host, args.role.role(), &policy);
    let broken = newly_failing(&before, &after);
    if !broken.is_empty() {
        take_back(&host, &plan.steps)?;
        say(format!("Taken back: it would make {} fail.", broken.join(", ")))?;
        return Ok(Outcome::Findings);
    }
    let failing: BTreeSet<&str> =
        after.iter().filter(|v| v.status == Status::Fail).map(|v| v.control.as_str()).collect();
    let mut all = left;
    let helped = plan.controls.iter().any(|id| !failing.contains(id.as_str()));
    if !helped && plan.steps.iter().all(|s| matches!(s, Step::Write { .. } | Step::Live { .. })) {
        take_back(&host, &plan.steps)?;
        for id in &plan.controls {
            say(format!("{id}: still fails, so the change was taken back; {}", reason(&after, id)))?;
        }
        return Ok(Outcome::Findings);
    }
    for (control, _) in wanted.iter().filter(|(c, _)| plan.controls.contains(&c.id)) {
        if failing.contains(control.id.as_str()) {
            all = Outcome::Findings;
            say(format!("{}: still fails; {}", control.id, reason(&after, &control.id)))?;
        } else {
            let restart = advice::restart(control, seen.snapshot.role);
            say(format!("{}: repaired. To be restarted: {restart}", control.id))?;
        }
    }
    Ok(all)
}

fn look(host: &Host, role: Option<Role>, policy: &Policy) -> (Seen, Vec<Verdict>) {
    let memory = Memory::none();
    let seen = source::observe(host, &Ask { role, memory: &memory, catalogue: &policy.catalogue });
    let verdicts = evaluate(&seen.snapshot, policy);
    (seen, verdicts)
}

/// Makes every change, or none.
fn carry_out(host: &Host, plan: &Plan) -> Result<(), Failure> {
    for (index, step) in plan.steps.iter().enumerate() {
        if let Err(error) = step.apply(host) {
            take_back(host, plan.steps.get(..index).unwrap_or_default())?;
            return Err(Failure::failed("cannot repair this; what had been changed was taken back", error));
        }
    }
    Ok(())
}

fn take_back(host: &Host, steps: &[Step]) -> Result<(), Failure> {
    let mut failed = None;
    for step in steps.iter().rev() {
        if let Err(error) = step.undo(host) {
            failed.get_or_insert(error);
        }
    }
    match failed {
        None => Ok(()),
        Some(error) => Err(Failure::failed("a change could not be taken back; see the diff above", error)),
    }
}

/// Controls that fail on something that did not fail before.
fn newly_failing(before: &[Verdict], after: &[Verdict]) -> Vec<String> {
    let failing = |verdicts: &[Verdict]| -> BTreeSet<(String, String)> {
        let failing = verdicts.iter().filter(|v| v.status == Status::Fail);
        failing.map(|v| (v.control.clone(), v.subject.clone())).collect()
    };
    let mut controls: Vec<String> =
        failing(after).difference(&failing(before)).map(|(control, _)| control.clone()).collect();
    controls.dedup();
    controls
}

/// What still fails, and where: every place that has a part in it, since the strongest may not be ours.
fn reason(after: &[Verdict], id: &str) -> String {
    let Some(row) = after.iter().find(|v| v.control == id && v.status == Status::Fail) else { return String::new() };
    let mut places: Vec<String> =
        row.evidence.iter().map(crate::report::table::place).filter(|p| !p.is_empty()).collect();
    places.dedup();
    places.truncate(8);
    format!("{}: {} ({})", printable(&row.subject), printable(&row.observed), places.join(", "))
}
