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

/// Runs the command.
///
/// # Errors
/// [`Failure`]; what could not be repaired is one too, after everything else was done.
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
    let mut left: BTreeSet<&str> = BTreeSet::new();
    for (control, rows) in &wanted {
        match picket_checks::worst_status(rows.iter().copied()) {
            Some(Status::Fail) => {}
            // What cannot be seen cannot be called repaired.
            Some(Status::Unknown) => {
                let row = rows.iter().find(|v| v.status == Status::Unknown);
                let why = row.map(|v| format!("{}: {}", printable(&v.subject), printable(&v.observed)));
                say(format!("{}: unknown, so not repaired; {}", control.id, why.unwrap_or_default()))?;
                left.insert(&control.id);
            }
            status => {
                let status = status.map_or("not judged here", Status::as_str);
                say(format!("{}: {status}; nothing to repair", control.id))?;
            }
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
    left.extend(plan.refused.iter().flat_map(|refused| refused.control.split(' ')));
    if plan.steps.is_empty() {
        return done(&left);
    }
    if args.dry_run {
        say("Nothing was changed (--dry-run).".to_owned())?;
        return done(&left);
    }
    carry_out(&host, &plan)?;

    let (_, after) = look(&host, args.role.role(), &policy);
    let broken = newly_failing(&before, &after);
    if !broken.is_empty() {
        take_back(&host, &plan.steps)?;
        say(format!("Taken back: it would make {} fail.", broken.join(", ")))?;
        left.extend(plan.controls.iter().map(String::as_str));
        return done(&left);
    }
    let failing: BTreeSet<&str> =
        after.iter().filter(|v| v.status == Status::Fail).map(|v| v.control.as_str()).collect();
    let helped = plan.controls.iter().any(|id| !failing.contains(id.as_str()));
    if !helped && plan.steps.iter().all(|s| matches!(s, Step::Write { .. } | Step::Live { .. })) {
        take_back(&host, &plan.steps)?;
        for id in &plan.controls {
            say(format!("{id}: still fails, so the change was taken back; {}", reason(&after, id)))?;
        }
        left.extend(plan.controls.iter().map(String::as_str));
        return done(&left);
    }
    for (control, _) in wanted.iter().filter(|(c, _)| plan.controls.contains(&c.id)) {
        if failing.contains(control.id.as_str()) {
            left.insert(&control.id);
            say(format!("{}: still fails; {}", control.id, reason(&after, &control.id)))?;
        } else {
            let restart = advice::restart(control, seen.snapshot.role);
            say(format!("{}: repaired. To be restarted: {restart}", control.id))?;
        }
    }
    done(&left)
}

/// The end of the command: whatever still fails is something that could not be done.
fn done(left: &BTreeSet<&str>) -> Result<Outcome, Failure> {
    if left.is_empty() {
        return Ok(Outcome::Clean);
    }
    let names: Vec<&str> = left.iter().copied().collect();
    Err(Failure::failed(format!("could not repair {}", names.join(", ")), "the lines above say why and what to do"))
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
