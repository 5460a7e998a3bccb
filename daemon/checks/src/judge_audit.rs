//! Audit policy and audit log.

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::SignedDuration;
use picket_model::{Evidence, Observation, Status};
use serde_json::Value;

use crate::audit_entries::AuditEntries;
use crate::audit_policy::{AuditPolicy, Level};
use crate::audit_requests::{ALL_VERBS, Met, Request, Requests};
use crate::catalogue::{Control, Modifier, Op, texts};
use crate::context::{Context, Forgotten};
use crate::judge_detections::{self, Asked};
use crate::judge_files::{Unnamed, absent, named, subject};
use crate::judge_flags::why_not;
use crate::row::Row;
use crate::snapshot::AuditLogFacts;
use crate::values::seconds;

/// A name no rule can know: it stands for any subresource.
const ANY_SUBRESOURCE: &str = "any-subresource";

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
    let policy = match ctx.audit_policy(&path) {
        Ok(Some(Observation::Value { value })) => value,
        Ok(other) => return vec![Row::unknown(path.clone(), why_not(&path, other))],
        Err(Forgotten(reason)) => return vec![Row::forgotten(path, reason)],
    };
    if let Some(reason) = &policy.refused {
        let words = format!("the API server does not take this policy: {reason}");
        return vec![match control.expected.op {
            Op::Set => Row::new(path.clone(), Status::Fail, words.clone()).with(Evidence::at(path, words)),
            _ => Row::unknown(path, words),
        }];
    }
    match control.expected.op {
        Op::Set => {
            let count = policy.rules.len();
            let words = if count == 0 { "a policy without rules".to_owned() } else { format!("{count} rules") };
            vec![Row::pass_if(path.clone(), count > 0, words.clone()).with(Evidence::at(path, words))]
        }
        Op::MaxLevel | Op::MinLevel => levels(control, policy, &path),
        Op::DefaultLevelGe => vec![catch_all(control, policy, &path)],
        Op::DetectionsSee => {
            let asked = if control.expected.text() == "bodies" { Asked::Bodies } else { Asked::Logged };
            vec![judge_detections::judge(&ctx.policy.detections, policy, &path, asked)]
        }
        Op::RulesCanMatch => dead_rules(policy, &path),
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
            let subs: &[Option<&str>] = if any_subresource { &[sub, Some(ANY_SUBRESOURCE)] } else { &[sub] };
            let mut requests = Requests::on(policy);
            let mut worst: Option<(Met<'_>, &str, Option<&str>)> = None;
            let mut excepted = None;
            for sub in subs {
                for verb in verbs.iter().filter(|verb| verb_fits(*sub, verb)) {
                    for met in requests.meet(Request { group, resource, subresource: *sub, verb }).iter().copied() {
                        // Exceptions for components that act for nobody do not hide what people do.
                        if !maximum && met.only_for_components {
                            if met.level < limit {
                                excepted = excepted.or(met.rule.map(|(index, _)| index + 1));
                            }
                            continue;
                        }
                        let worse = worst.as_ref().is_none_or(|(seen, ..)| {
                            if maximum { met.level > seen.level } else { met.level < seen.level }
                        });
                        if worse {
                            worst = Some((met, verb, *sub));
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
            let Some((met, verb, sub)) = worst else {
                rows.push(Row::unknown(subject, "no request was simulated"));
                continue;
            };
            let good = if maximum { met.level <= limit } else { met.level >= limit };
            let place = match met.rule {
                Some((index, _)) => format!("rule {}", index + 1),
                None => "no rule".to_owned(),
            };
            let words = if let Some(rule) = excepted.filter(|_| good) {
                format!("at least {} but for components of the cluster (rule {rule})", met.level.as_str())
            } else if good {
                format!("{} {} everywhere", if maximum { "at most" } else { "at least" }, met.level.as_str())
            } else if sub == Some(ANY_SUBRESOURCE) {
                // A rule for a resource is none for what lies below it.
                format!("{verb} of {resource}/* can be logged at {}: {place}", met.level.as_str())
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

/// A row for each rule that no request can ever reach.
fn dead_rules(policy: &AuditPolicy, path: &str) -> Vec<Row> {
    let found = policy.dead_rules();
    let mut rows = Vec::new();
    if found.not_compared > 0 {
        let words = format!("{} rules name too much to be compared with those before them", found.not_compared);
        rows.push(Row::unknown(path, words));
    } else if found.dead.is_empty() {
        let words = format!("each of {} rules can match", policy.rules.len());
        rows.push(Row::new(path, Status::Pass, words.clone()).with(Evidence::at(path, words)));
    }
    let dead = found.dead.into_iter().map(|(index, why)| {
        let words = format!("rule {} never matches: {why}", index + 1);
        Row::new(format!("{path} rule {}", index + 1), Status::Fail, words.clone()).with(Evidence::at(path, words))
    });
    rows.extend(dead);
    rows
}

/// Interactive subresources of pods are reached by get and create alone.
pub(crate) fn verb_fits(sub: Option<&str>, verb: &str) -> bool {
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
    let mut requests = Requests::on(policy);
    let mut lowest: Option<(Met<'_>, &str)> = None;
    for verb in ALL_VERBS {
        let request = Request { group: "unlisted.example", resource: "things", subresource: None, verb };
        for met in requests.meet(request).iter().copied() {
            if met.only_for_components {
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
        Op::CountEq | Op::UrisSubsetOf => entries(ctx, control, &path, log),
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

/// What stands in the log. Words of failures hold no number that grows with every request: each would be news.
fn entries(ctx: Context<'_>, control: &Control, path: &str, log: &AuditLogFacts) -> Row {
    let Some(entries) = &log.entries else { return Row::unknown(path, "no entries were read") };
    let bad = match control.expected.op {
        Op::UrisSubsetOf => anonymous(control, path, entries),
        _ if control.id == "audit-log-no-secret-bodies" => bodies(control, entries),
        _ if control.id == "audit-log-system-masters-use" => match masters(ctx, control, entries) {
            Ok(bad) => bad,
            Err(reason) => return Row::unknown(path, reason),
        },
        _ => return Row::unknown(path, "nothing counts what this control asks for"),
    };
    if let Some((words, first)) = bad {
        return Row::new(path, Status::Fail, words.clone()).with(first.unwrap_or_else(|| Evidence::at(path, words)));
    }
    if let Some(reason) = &entries.unread {
        return Row::unknown(path, format!("nothing of the kind in what was read, but {reason}"));
    }
    if entries.total == 0 {
        return Row::unknown(path, "there is no entry in the log");
    }
    if entries.malformed > 0 {
        return Row::unknown(path, "nothing of the kind in what was read, but parts of the log are no entries");
    }
    let words = format!("nothing of the kind in {} entries", entries.total);
    Row::new(path, Status::Pass, words.clone()).with(Evidence::at(path, words))
}

/// What is wrong, and where the first case stands.
type Bad = Option<(String, Option<Evidence>)>;

fn anonymous(control: &Control, path: &str, entries: &AuditEntries) -> Bad {
    let allowed = control.expected.values();
    let stray = |uri: &&String| {
        !allowed.iter().any(|a| match a.strip_suffix('*') {
            Some(prefix) => uri.starts_with(prefix),
            None => *uri == a,
        })
    };
    let mut strays = entries.anonymous_allowed.iter().filter(stray);
    let first = strays.next()?;
    let words = match strays.count() {
        0 => format!("anonymous requests were allowed on {first}"),
        more => format!("anonymous requests were allowed on {first} and {more} more"),
    };
    Some((words.clone(), Some(Evidence::at(path, words))))
}

fn bodies(control: &Control, entries: &AuditEntries) -> Bad {
    let found = &entries.secret_bodies;
    (found.count > limit(control)).then(|| (format!("{} with a body", about(found.count)), found.first.clone()))
}

/// Requests of members of `system:masters` from elsewhere than a server.
fn masters(ctx: Context<'_>, control: &Control, entries: &AuditEntries) -> Result<Bad, String> {
    let servers = servers(ctx);
    let foreign: Vec<_> = entries.masters.iter().filter(|(ip, _)| !servers.contains(ip)).collect();
    let count = foreign.iter().map(|(_, counted)| counted.count).sum::<u64>() + entries.masters_elsewhere;
    if count <= limit(control) {
        return Ok(None);
    }
    if servers.is_empty() {
        return Err(
            "requests of system:masters came from addresses that may be servers: those are not known".to_owned()
        );
    }
    let words = match foreign.as_slice() {
        [(ip, _)] => format!("{} from {ip}", about(count)),
        many => format!("{} from {} addresses", about(count), many.len()),
    };
    Ok(Some((words, foreign.first().and_then(|(_, counted)| counted.first.clone()))))
}

/// The servers' own addresses: those their certificates are for, and those of the configuration. What an administrator
/// added to the certificates by hand may be a load balancer, behind which anybody can be.
fn servers(ctx: Context<'_>) -> BTreeSet<IpAddr> {
    let tls = format!("{}/server/tls", ctx.snap.data_dir);
    let option = |name: &str| -> Vec<IpAddr> {
        let settings = ctx.config().ok().and_then(|config| config.options.get(name)).into_iter().flatten();
        settings.flat_map(|s| s.value.split(',')).filter_map(|ip| ip.trim().parse().ok()).collect()
    };
    let certificates = ["serving-kube-apiserver.crt", "dynamic-cert.json"]
        .iter()
        .filter_map(|name| ctx.snap.certificates.get(&format!("{tls}/{name}"))?.value()?.first());
    let named: Vec<IpAddr> = certificates.flat_map(|cert| &cert.sans).filter_map(|name| name.parse().ok()).collect();
    let added = option("tls-san");
    let own = ["node-ip", "node-external-ip", "advertise-address", "bind-address"].into_iter().flat_map(option);
    named
        .into_iter()
        .filter(|ip| !added.contains(ip))
        .chain(own)
        .map(|ip| ip.to_canonical())
        .filter(|ip| !ip.is_unspecified() && !ip.is_loopback())
        .collect()
}

fn limit(control: &Control) -> u64 {
    control.expected.number().and_then(|n| u64::try_from(n).ok()).unwrap_or(0)
}

/// A number of entries, without the digits that change with every request.
fn about(count: u64) -> String {
    match count {
        1 => "1 entry".to_owned(),
        2..=9 => format!("{count} entries"),
        _ => format!("{} entries or more", 10_u64.saturating_pow(count.ilog10())),
    }
}

/// The words of a list of resources, for `expected`.
pub(crate) fn resource_words(control: &Control) -> String {
    let targets =
        control.expected.get(Modifier::Resources).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let names: Vec<String> = targets.iter().filter_map(|t| t.get("resource")).flat_map(texts).collect();
    names.join(", ")
}
