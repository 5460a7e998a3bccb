//! `picketd fix CONTROL…`: repairs what controls find, as far as a mode, an owner, a kernel parameter or one setting
//! of K3s does it. Shows what it changes, writes atomically, looks again, and takes back what did not help.

use std::collections::BTreeSet;
use std::io::Write;

use picket_checks::{Control, Policy, Source, evaluate};
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
    let plan_for = |wanted: &[(&Control, Vec<&Verdict>)]| {
        repair::plan(&host, &seen.configuration, &seen.snapshot.data_dir, wanted)
    };
    let Plan { mut steps, refused, controls, mut written } = plan_for(&wanted);
    for step in &steps {
        say(step.diff().trim_end().to_owned())?;
    }
    if steps.is_empty() || args.dry_run {
        let after = evaluate(&repair::foresee(&host, &seen, &steps), &policy);
        let failing = failing(&after);
        // One repair may do what another control could not do by itself.
        for refused in refused.iter().filter(|r| r.control.split(' ').any(|id| failing.contains(id))) {
            say(refused.line())?;
            left.extend(refused.control.split(' ').filter(|id| failing.contains(id)));
        }
        // What `sysctl.d` leads to is not foreseen.
        let planned = wanted.iter().filter(|(c, _)| c.source != Source::Sysctl && controls.contains(&c.id));
        for (control, _) in planned.filter(|(c, _)| failing.contains(c.id.as_str())) {
            say(format!("{}: would still fail; {}", control.id, reason(&after, &control.id)))?;
            left.insert(&control.id);
        }
        if !steps.is_empty() {
            say("Nothing was changed (--dry-run).".to_owned())?;
        }
        return done(&left);
    }

    let mut made: Vec<Step> = Vec::new();
    let mut useless: BTreeSet<String> = BTreeSet::new();
    // What did not help is taken back, and the rest is done without it.
    let after = loop {
        carry_out(&host, &mut made, steps)?;
        let (_, after) = look(&host, args.role.role(), &policy);
        let failing = failing(&after);
        let (no_help, rest): (Vec<String>, Vec<String>) =
            written.into_iter().partition(|id| failing.contains(id.as_str()));
        if no_help.is_empty() {
            break after;
        }
        for id in &no_help {
            say(format!("{id}: still fails, so the change was taken back; {}", reason(&after, id)))?;
        }
        let (lines, others) = made.into_iter().partition(|s| matches!(s, Step::Write { .. } | Step::Live { .. }));
        made = others;
        take_back(&host, &lines)?;
        useless.extend(no_help);
        let rest_of: Vec<_> = wanted.iter().filter(|(c, _)| rest.contains(&c.id)).cloned().collect();
        steps = plan_for(&rest_of).steps;
        for step in &steps {
            say(step.diff().trim_end().to_owned())?;
        }
        written = rest;
    };
    left.extend(useless.iter().map(String::as_str));
    let broken = newly_failing(&before, &after);
    if !broken.is_empty() && !made.is_empty() {
        take_back(&host, &made)?;
        say(format!("Taken back: it would make {} fail.", broken.join(", ")))?;
        for refused in &refused {
            say(refused.line())?;
        }
        left.extend(refused.iter().flat_map(|refused| refused.control.split(' ')));
        left.extend(controls.iter().map(String::as_str));
        return done(&left);
    }
    let failing = failing(&after);
    // One repair may have done what another control could not do by itself.
    for refused in refused.iter().filter(|r| r.control.split(' ').any(|id| failing.contains(id))) {
        say(refused.line())?;
    }
    for (control, rows) in &wanted {
        let id = control.id.as_str();
        if rows.iter().all(|row| row.status != Status::Fail) || useless.contains(id) {
            continue;
        }
        if !failing.contains(id) {
            let restart = advice::restart(control, seen.snapshot.role);
            say(format!("{id}: repaired. To be restarted: {restart}"))?;
            continue;
        }
        left.insert(id);
        if controls.iter().any(|planned| planned == id) {
            say(format!("{id}: still fails; {}", reason(&after, id)))?;
        }
    }
    done(&left)
}

/// Controls of which a row fails.
fn failing(verdicts: &[Verdict]) -> BTreeSet<&str> {
    verdicts.iter().filter(|v| v.status == Status::Fail).map(|v| v.control.as_str()).collect()
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

/// Makes these changes too, or none at all.
fn carry_out(host: &Host, made: &mut Vec<Step>, steps: Vec<Step>) -> Result<(), Failure> {
    for step in steps {
        if let Err(error) = step.apply(host) {
            take_back(host, made)?;
            return Err(Failure::failed("cannot repair this; what had been changed was taken back", error));
        }
        made.push(step);
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
