//! From a snapshot to verdicts. The order of judging is the contract:
//!
//! 1. Is the control listed? 2. Does its scope fit the role? 3. Its precondition. 4. `manual` and `report`.
//! 5. Its source. 6. Its op.

use std::collections::BTreeMap;

use picket_model::{Evidence, Role, Severity, State, Status, Verdict};

use crate::catalogue::{Control, IfAbsent, Op, Scope, Source};
use crate::context::{Answer, Context, NO_ROLE};
use crate::judge_files::subject;
use crate::policy::Policy;
use crate::row::{Row, worst};
use crate::snapshot::Snapshot;
use crate::sources::SourceKey;
use crate::words;
use crate::{
    judge_audit, judge_datastore, judge_files, judge_flags, judge_keys, judge_sysctl, judge_traps, judge_x509,
};

/// Judges every control of the policy on a snapshot: one verdict for each subject, in the order of the catalogue.
///
/// Pure, and cannot fail: what cannot be judged is `unknown` with its reason.
pub fn evaluate(snapshot: &Snapshot, policy: &Policy) -> Vec<Verdict> {
    policy.catalogue.controls().iter().flat_map(|control| verdicts(snapshot, policy, control)).collect()
}

/// Judges only the controls that depend on one of the changed sources.
pub fn evaluate_some(snapshot: &Snapshot, policy: &Policy, changed: &[SourceKey]) -> Vec<Verdict> {
    policy
        .catalogue
        .controls()
        .iter()
        .filter(|control| crate::sources::depends(snapshot, policy, control).iter().any(|key| changed.contains(key)))
        .flat_map(|control| verdicts(snapshot, policy, control))
        .collect()
}

/// The status a control counts as over its rows: fail, unknown, pass, manual, not_applicable; the strongest first.
pub fn worst_status<'a>(verdicts: impl IntoIterator<Item = &'a Verdict>) -> Option<Status> {
    verdicts.into_iter().map(|v| v.status).max_by_key(|s| s.weight())
}

/// The rows of one control.
pub(crate) fn verdicts(snapshot: &Snapshot, policy: &Policy, control: &Control) -> Vec<Verdict> {
    // An agent says nothing of the cluster, but a benchmark report has a line for each number.
    let others_affair = control.scope == Scope::Cluster && snapshot.role == Some(Role::Agent);
    if !policy.lists(control) || (others_affair && !policy.asked_for(control)) {
        return Vec::new();
    }
    let words_in = Context::in_force(snapshot, policy);
    let expected = words::expected(words_in, control);
    let remedy = words_in.remedy(&control.remedy);
    let severity = severity(words_in, control);
    one_row_a_subject(both_states(snapshot, policy, control))
        .into_iter()
        .map(|row| {
            let evidence =
                if row.evidence.is_empty() { vec![Evidence::note(row.observed.clone())] } else { row.evidence };
            Verdict {
                control: control.id.clone(),
                subject: row.subject,
                status: row.status,
                severity,
                title: control.title.clone(),
                observed: row.observed,
                expected: expected.clone(),
                state: row.state,
                evidence,
                cis: control.cis.clone(),
                remedy: remedy.clone(),
            }
        })
        .collect()
}

/// The subject is part of a finding's identity: where two patterns of a control meet in one file, the stronger row stays.
fn one_row_a_subject(rows: Vec<Row>) -> Vec<Row> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut kept: Vec<Row> = Vec::with_capacity(rows.len());
    for row in rows {
        match seen.get(&row.subject).and_then(|at| kept.get_mut(*at)) {
            Some(before) if row.status.weight() > before.status.weight() => *before = row,
            Some(_) => {}
            None => {
                seen.insert(row.subject.clone(), kept.len());
                kept.push(row);
            }
        }
    }
    kept
}

/// The control's severity. Values that are not persisted keep K3s down after the next reboot where the kubelet insists
/// on them.
fn severity(ctx: Context<'_>, control: &Control) -> Severity {
    let insists = || ctx.config().is_ok_and(|config| config.is_true("protect-kernel-defaults"));
    if control.expected.op == Op::PersistedEquals && insists() {
        control.severity.max(Severity::High)
    } else {
        control.severity
    }
}

/// Judges what is on disk and what is in force, where the two can differ.
fn both_states(snapshot: &Snapshot, policy: &Policy, control: &Control) -> Vec<Row> {
    // A policy is read at start too; its mode and the time it was written are matters of now.
    let of_policy =
        control.source == Source::AuditPolicy && !matches!(control.expected.op, Op::ModeAtMost | Op::MtimeBeforeStart);
    // K3s writes etcd's file at its start; arguments of the user show in it only then.
    let of_etcd = control.source == Source::Etcd
        && snapshot.declared.value().is_some_and(|config| config.options.contains_key("etcd-arg"));
    if !control.source.is_configuration() && !of_policy && !of_etcd {
        return judge(Context::in_force(snapshot, policy), control, 0);
    }
    let declared = judge(Context::declared(snapshot, policy), control, 0);
    if snapshot.running.value().is_none() {
        return declared.into_iter().map(|row| on_disk_alone(snapshot, row)).collect();
    }
    let mut running = judge(Context::running(snapshot, policy), control, 0);
    // Of what is in force nothing is said where a file was changed since and what it held is not known.
    let known = !running.iter().any(|row| row.forgotten);
    running.retain(|row| !row.forgotten);
    let mut rows = Vec::with_capacity(declared.len());
    for on_disk in declared {
        let twin = running.iter().position(|row| row.subject == on_disk.subject).map(|at| running.remove(at));
        rows.push(match twin {
            Some(in_force) => merge(on_disk, in_force),
            None if known && on_disk.status == Status::Fail => {
                let observed = format!("on disk: {}; not in force until the next start", on_disk.observed);
                Row { observed, state: Some(State::Declared), ..on_disk }
            }
            None if known => Row { state: Some(State::Declared), ..on_disk },
            None => on_disk_alone(snapshot, on_disk),
        });
    }
    rows.extend(running.into_iter().map(|row| {
        let observed = match row.status {
            Status::Fail => format!("in force: {}; gone from disk, waits for a restart", row.observed),
            _ => row.observed,
        };
        Row { observed, state: Some(State::Running), ..row }
    }));
    rows
}

/// What is on disk, where nothing is known of what is in force.
fn on_disk_alone(snapshot: &Snapshot, mut row: Row) -> Row {
    // Of a K3s that runs nothing is proved by what it may read at its next start: a pass has to say so.
    if row.status == Status::Pass && snapshot.k3s_started_at.value().is_some() {
        row.observed.push_str(" (on disk; whether the K3s that runs was started with it is not known)");
    }
    Row { state: Some(State::Declared), ..row }
}

/// The worse of the two speaks, and says that it is not the same in the other.
fn merge(on_disk: Row, in_force: Row) -> Row {
    if on_disk.status == in_force.status {
        return Row { state: Some(State::Both), ..on_disk };
    }
    if in_force.status.weight() > on_disk.status.weight() {
        let observed = format!("in force: {}; on disk: {}, waits for a restart", in_force.observed, on_disk.observed);
        return Row { observed, state: Some(State::Running), ..in_force };
    }
    let observed = format!("on disk: {}; in force until the next start: {}", on_disk.observed, in_force.observed);
    Row { observed, state: Some(State::Declared), ..on_disk }
}

/// Combinations name other controls; more than this deep is a circle.
const MAX_DEPTH: u8 = 4;

/// Judges a control through one of the configurations. Whether it is listed has been asked before.
fn judge(ctx: Context<'_>, control: &Control, depth: u8) -> Vec<Row> {
    let alone = |status, observed: String| vec![Row::new(subject(ctx, control), status, observed)];
    // 2. Scope.
    match (control.scope, ctx.snap.role) {
        (Scope::EveryNode, _) | (Scope::Server | Scope::EtcdServer | Scope::Cluster, Some(Role::Server)) => {}
        (Scope::Agent, Some(Role::Agent)) => {}
        (Scope::Server | Scope::EtcdServer | Scope::Cluster, Some(Role::Agent)) => {
            return alone(Status::NotApplicable, "for servers; this is an agent".to_owned());
        }
        (Scope::Agent, Some(Role::Server)) => {
            return alone(Status::NotApplicable, "for agents; this is a server".to_owned());
        }
        (_, None) => return alone(Status::Unknown, NO_ROLE.to_owned()),
    }
    // 3. Precondition.
    match ctx.applies(control) {
        Answer::Yes => {}
        Answer::No(reason) => return alone(Status::NotApplicable, reason),
        Answer::Unknown(reason) => return alone(Status::Unknown, reason),
    }
    // 4. What only people judge.
    match control.expected.op {
        Op::Manual => return alone(Status::Manual, "a person must judge this".to_owned()),
        Op::Report => return vec![report(ctx, control)],
        _ => {}
    }
    // 5. and 6. Source and op.
    match control.source {
        Source::ClusterApi => {
            alone(Status::Unknown, "needs cluster access: only the API of the cluster can tell".to_owned())
        }
        _ if is_combination(control) => combination(ctx, control, depth),
        Source::FileMode | Source::FileOwner => judge_files::judge(ctx, control),
        Source::Sysctl => judge_sysctl::judge(ctx, control),
        Source::X509 => judge_x509::judge(ctx, control),
        Source::Token => judge_keys::token(ctx, control),
        Source::SecretsEncryption => judge_keys::encryption(ctx, control),
        Source::ApiServer if control.expected.op == Op::FirstProviderIn => judge_keys::encryption(ctx, control),
        Source::AuditPolicy => judge_audit::policy(ctx, control),
        Source::AuditLog => judge_audit::log(ctx, control),
        Source::Datastore => judge_datastore::judge(ctx, control),
        Source::Trap => judge_traps::judge(ctx, control),
        Source::K3s
        | Source::ApiServer
        | Source::ControllerManager
        | Source::Scheduler
        | Source::CloudController
        | Source::Kubelet
        | Source::Etcd => judge_flags::judge(ctx, control),
    }
}

/// Whether a combination's parts are ids of other controls.
fn is_combination(control: &Control) -> bool {
    matches!(control.expected.op, Op::AllOf | Op::AnyOf) && !part_ids(control).is_empty()
}

/// The ids a combination names: short words of small letters and dashes. Other parts are conditions of their own.
pub(crate) fn part_ids(control: &Control) -> Vec<String> {
    let values = control.expected.values();
    let is_id = |text: &String| text.contains('-') && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
    if values.iter().all(is_id) { values } else { Vec::new() }
}

fn combination(ctx: Context<'_>, control: &Control, depth: u8) -> Vec<Row> {
    let name = subject(ctx, control);
    if depth >= MAX_DEPTH {
        return vec![Row::unknown(name, "the catalogue combines controls in a circle")];
    }
    let mut parts: Vec<(String, Status)> = Vec::new();
    let mut forgotten = false;
    let mut evidence = Vec::new();
    for id in part_ids(control) {
        let Some(part) = ctx.policy.catalogue.get(&id) else {
            return vec![Row::unknown(name, format!("the catalogue has no control {id}"))];
        };
        let rows = judge(ctx, part, depth + 1);
        let status = worst(&rows).unwrap_or(Status::Unknown);
        forgotten |= rows.iter().any(|row| row.forgotten);
        let why = rows.iter().find(|row| row.status == status).map(|row| row.observed.clone()).unwrap_or_default();
        evidence.push(Evidence::note(format!("{id}: {status} ({why})")));
        parts.push((id, status));
    }
    let has = |wanted: Status| parts.iter().any(|(_, status)| *status == wanted);
    let doubt = has(Status::Unknown) || has(Status::Manual);
    let order = if control.expected.op == Op::AllOf {
        [(has(Status::Fail), Status::Fail), (doubt, Status::Unknown), (has(Status::Pass), Status::Pass)]
    } else {
        [(has(Status::Pass), Status::Pass), (doubt, Status::Unknown), (has(Status::Fail), Status::Fail)]
    };
    let status = order.into_iter().find(|(there, _)| *there).map(|(_, status)| status).unwrap_or({
        match control.expected.if_absent {
            Some(IfAbsent::Pass) => Status::Pass,
            Some(IfAbsent::Fail) => Status::Fail,
            _ => Status::NotApplicable,
        }
    });
    let deciding: Vec<&str> = parts.iter().filter(|(_, s)| *s == status).map(|(id, _)| id.as_str()).collect();
    let observed =
        if deciding.is_empty() { "no part applies".to_owned() } else { format!("{status}: {}", deciding.join(", ")) };
    let forgotten = forgotten && status == Status::Unknown;
    vec![Row { forgotten, ..Row::new(name, status, observed).with_all(evidence) }]
}

/// A fact to show.
fn report(ctx: Context<'_>, control: &Control) -> Row {
    if control.source == Source::Datastore {
        return judge_datastore::known(ctx);
    }
    let name = subject(ctx, control);
    match ctx.config() {
        Err(reason) => Row::new(name, Status::Manual, reason),
        Ok(config) => match config.option(&name) {
            None => Row::new(name, Status::Manual, "not set"),
            Some(setting) => Row::new(name, Status::Manual, setting.value.clone()).with(setting.evidence.clone()),
        },
    }
}
