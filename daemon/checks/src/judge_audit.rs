//! Audit policy and audit log.

use jiff::SignedDuration;
use picket_model::{Evidence, Observation, Status};
use serde_json::Value;

use crate::audit_policy::{ALL_VERBS, AuditPolicy, Level, Met, Request};
use crate::catalogue::{Control, Modifier, Op, texts};
use crate::context::Context;
use crate::judge_files::{Unnamed, absent, named, subject};
use crate::judge_flags::why_not;
use crate::row::Row;
use crate::snapshot::AuditLogFacts;
use crate::values::seconds;

/// Judges a control on the audit policy.
pub(crate) fn policy(ctx: Context<'_>, control: &Control) -> Vec<Row> {
    if control.expected.op == Op::ModeAtMost {
        return crate::judge_files::judge(ctx, control);
    }
    let path = match named(ctx, "audit-policy-file") {
        Ok(path) => path,
        Err(Unnamed::NotSet(reason)) => return vec![absent(control, subject(ctx, control), reason)],
        Err(Unnamed::Unknown(reason)) => return vec![Row::unknown(subject(ctx, control), reason)],
    };
    if control.expected.op == Op::MtimeBeforeStart {
        return vec![loaded(ctx, &path)];
    }
    let policy = match ctx.snap.audit_policies.get(&path) {
        Some(Observation::Value { value }) => value,
        other => return vec![Row::unknown(path.clone(), why_not(&path, other))],
    };
    match control.expected.op {
        Op::Set => {
            let count = policy.rules.len();
            let words = if count == 0 { "a policy without rules".to_owned() } else { format!("{count} rules") };
            vec![Row::pass_if(path.clone(), count > 0, words.clone()).with(Evidence::at(path, words))]
        }
        Op::MaxLevel | Op::MinLevel => levels(control, policy, &path),
        Op::DefaultLevelGe => vec![catch_all(control, policy, &path)],
        other => vec![Row::unknown(path, format!("op {other:?} does not judge an audit policy"))],
    }
}

/// The policy is read at start only.
fn loaded(ctx: Context<'_>, path: &str) -> Row {
    let meta = match ctx.snap.files.get(path) {
        Some(Observation::Value { value }) => match value.resolved() {
            Some(meta) => meta,
            None => return Row::unknown(path, "its link cannot be followed"),
        },
        other => return Row::unknown(path, why_not(path, other)),
    };
    let Some(started) = ctx.snap.k3s_started_at.value() else {
        return Row::unknown(path, "the start time of K3s is not known");
    };
    let good = meta.mtime < *started;
    let words = if good {
        format!("changed {}, before K3s started ({started})", meta.mtime)
    } else {
        format!("edited {}, not loaded: K3s started {started}", meta.mtime)
    };
    Row::pass_if(path, good, words.clone()).with(Evidence::at(path, words))
}

/// Resources of an API group where the catalogue says `*`.
fn concrete(group: &str, resource: &str) -> Vec<String> {
    if resource == "*" && group == "rbac.authorization.k8s.io" {
        return ["roles", "rolebindings", "clusterroles", "clusterrolebindings"].map(str::to_owned).into();
    }
    vec![resource.to_owned()]
}

/// One row for each resource: the highest or lowest level any request on it can meet.
fn levels(control: &Control, policy: &AuditPolicy, path: &str) -> Vec<Row> {
    let maximum = control.expected.op == Op::MaxLevel;
    let Some(limit) = Level::parse(&control.expected.text()) else {
        return vec![Row::unknown(path, "the catalogue gives no level")];
    };
    let mut verbs = control.expected.list(Modifier::Verbs);
    if verbs.is_empty() {
        verbs = ALL_VERBS.map(str::to_owned).into();
    }
    let any_subresource = control.expected.is(Modifier::Subresources);
    let targets =
        control.expected.get(Modifier::Resources).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut rows = Vec::new();
    for target in targets {
        let group = target.get("group").and_then(Value::as_str).unwrap_or_default();
        let Some(named) = target.get("resource").and_then(Value::as_str) else { continue };
        for resource in concrete(group, named) {
            let (resource, sub) = match resource.split_once('/') {
                Some((resource, sub)) => (resource, Some(sub)),
                None => (resource.as_str(), None),
            };
            // A name no rule can know stands for any subresource.
            let subs: &[Option<&str>] = if any_subresource { &[sub, Some("any-subresource")] } else { &[sub] };
            let mut worst: Option<(Met<'_>, &str)> = None;
            for sub in subs {
                for verb in verbs.iter().filter(|verb| verb_fits(*sub, verb)) {
                    for met in policy.meet(&Request { group, resource, subresource: *sub, verb }) {
                        // Exceptions for components that act for nobody do not hide what people do.
                        if !maximum && met.rule.is_some_and(|(_, rule)| rule.only_for_components()) {
                            continue;
                        }
                        let worse = worst.as_ref().is_none_or(|(seen, _)| {
                            if maximum { met.level > seen.level } else { met.level < seen.level }
                        });
                        if worse {
                            worst = Some((met, verb));
                        }
                    }
                }
            }
            let name = match (group, sub) {
                ("", None) => resource.to_owned(),
                ("", Some(sub)) => format!("{resource}/{sub}"),
                (group, None) => format!("{resource}.{group}"),
                (group, Some(sub)) => format!("{resource}.{group}/{sub}"),
            };
            let subject = format!("{path} {name}");
            let Some((met, verb)) = worst else {
                rows.push(Row::unknown(subject, "no request was simulated"));
                continue;
            };
            let good = if maximum { met.level <= limit } else { met.level >= limit };
            let place = match met.rule {
                Some((index, _)) => format!("rule {}", index + 1),
                None => "no rule".to_owned(),
            };
            let words = if good {
                format!("{} {} everywhere", if maximum { "at most" } else { "at least" }, met.level.as_str())
            } else {
                format!("{verb} can be logged at {}: {place}", met.level.as_str())
            };
            rows.push(Row::pass_if(subject, good, words.clone()).with(Evidence::at(path, format!("{place}: {words}"))));
        }
    }
    if rows.is_empty() {
        rows.push(Row::unknown(path, "the catalogue names no resources"));
    }
    rows
}

/// Interactive subresources of pods are reached by get and create alone.
fn verb_fits(sub: Option<&str>, verb: &str) -> bool {
    match sub {
        Some("exec" | "attach" | "portforward") => matches!(verb, "get" | "create"),
        Some("proxy") => matches!(verb, "get" | "create" | "update" | "patch" | "delete"),
        Some("token") => verb == "create",
        _ => true,
    }
}

/// What happens to a request that no rule knows by name.
fn catch_all(control: &Control, policy: &AuditPolicy, path: &str) -> Row {
    let Some(limit) = Level::parse(&control.expected.text()) else {
        return Row::unknown(path, "the catalogue gives no level");
    };
    let mut lowest: Option<(Met<'_>, &str)> = None;
    for verb in ALL_VERBS {
        let request = Request { group: "unlisted.example", resource: "things", subresource: None, verb };
        for met in policy.meet(&request) {
            if met.rule.is_some_and(|(_, rule)| rule.only_for_components()) {
                continue;
            }
            if lowest.as_ref().is_none_or(|(seen, _)| met.level < seen.level) {
                lowest = Some((met, verb));
            }
        }
    }
    let Some((met, verb)) = lowest else { return Row::unknown(path, "no request was simulated") };
    let good = met.level >= limit;
    let words = match (good, met.rule) {
        (true, _) => format!("everything else is logged at {} or more", met.level.as_str()),
        (false, None) => format!("{verb} on a resource that no rule names is not logged"),
        (false, Some((index, _))) => format!("rule {} leaves {verb} on unnamed resources unlogged", index + 1),
    };
    Row::pass_if(path, good, words.clone()).with(Evidence::at(path, words))
}

/// Judges a control on the audit log.
pub(crate) fn log(ctx: Context<'_>, control: &Control) -> Vec<Row> {
    let path = match named(ctx, "audit-log-path") {
        Ok(path) => path,
        Err(Unnamed::NotSet(reason)) => return vec![absent(control, subject(ctx, control), reason)],
        Err(Unnamed::Unknown(reason)) => return vec![Row::unknown(subject(ctx, control), reason)],
    };
    let log = match ctx.snap.audit_logs.get(&path) {
        Some(Observation::Value { value }) => value,
        other => return vec![Row::unknown(path.clone(), why_not(&path, other))],
    };
    vec![match control.expected.op {
        Op::MtimeAgeAtMost => {
            let limit = seconds(&control.expected.text()).unwrap_or(0.0);
            let age = ctx.snap.at.duration_since(log.mtime).as_secs_f64();
            let words = format!("last written {}", log.mtime);
            Row::pass_if(path.clone(), age <= limit, words.clone()).with(Evidence::at(path, words))
        }
        Op::OldestEntryAgeGeDays => retention(ctx, control, &path, log),
        Op::CountEq | Op::UrisSubsetOf => entries(control, &path, log),
        other => Row::unknown(path, format!("op {other:?} does not judge an audit log")),
    }]
}

fn retention(ctx: Context<'_>, control: &Control, path: &str, log: &AuditLogFacts) -> Row {
    let days = control.expected.number().unwrap_or(0);
    let Some(oldest) = log.oldest_entry else { return Row::unknown(path, "no entry could be read") };
    let age = ctx.snap.at.duration_since(oldest);
    let words = format!("the oldest entry is {} days old", age.as_secs().div_euclid(86_400));
    if age >= SignedDuration::from_hours(24 * days) {
        return Row::new(path, Status::Pass, words.clone()).with(Evidence::at(path, words));
    }
    let grace = control.expected.list(Modifier::Grace).first().and_then(|t| seconds(t)).unwrap_or(0.0);
    match log.first_seen {
        None => Row::unknown(path, format!("{words}; since when the log exists is not known")),
        Some(seen) if ctx.snap.at.duration_since(seen).as_secs_f64() < grace => {
            Row::unknown(path, format!("{words}; the log is watched since {seen}, too short a time to tell"))
        }
        Some(_) => Row::new(path, Status::Fail, words.clone()).with(Evidence::at(path, words)),
    }
}

fn entries(control: &Control, path: &str, log: &AuditLogFacts) -> Row {
    let Some(entries) = log.entries.as_ref().filter(|e| e.total > 0) else {
        return Row::unknown(path, "no entries were read");
    };
    if control.expected.op == Op::UrisSubsetOf {
        let allowed = control.expected.values();
        let strays: Vec<&String> = entries
            .anonymous_allowed
            .iter()
            .filter(|uri| {
                !allowed.iter().any(|a| match a.strip_suffix('*') {
                    Some(prefix) => uri.starts_with(prefix),
                    None => *uri == a,
                })
            })
            .collect();
        let words = match strays.as_slice() {
            [] => format!("nothing else in {} entries", entries.total),
            [first, rest @ ..] => format!("anonymous requests were allowed on {first} and {} more", rest.len()),
        };
        return Row::pass_if(path, strays.is_empty(), words.clone()).with(Evidence::at(path, words));
    }
    let counted = match control.id.as_str() {
        "audit-log-no-secret-bodies" => &entries.secret_bodies,
        "audit-log-system-masters-use" => &entries.foreign_masters,
        _ => return Row::unknown(path, "nothing counts what this control asks for"),
    };
    let limit = control.expected.number().and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
    if control.id == "audit-log-system-masters-use" && counted.count == limit && entries.masters_elsewhere > 0 {
        return Row::unknown(
            path,
            format!(
                "{} requests of system:masters came from addresses that may be servers: the servers' addresses are not known",
                entries.masters_elsewhere
            ),
        );
    }
    let words = format!("{} of {} entries", counted.count, entries.total);
    Row::pass_if(path, counted.count == limit, words.clone())
        .with(Evidence::at(path, words))
        .with_all(counted.first.clone())
}

/// The words of a list of resources, for `expected`.
pub(crate) fn resource_words(control: &Control) -> String {
    let targets =
        control.expected.get(Modifier::Resources).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let names: Vec<String> = targets.iter().filter_map(|t| t.get("resource")).flat_map(texts).collect();
    names.join(", ")
}
