//! etcd's settings: the file K3s writes for it at every start, and what `etcd-arg` makes of it at the next.

use std::net::IpAddr;

use picket_model::flag_value::boolean;
use picket_model::{Evidence, Observation, Status};

use crate::catalogue::{Control, Modifier};
use crate::context::Context;
use crate::judge_files::subject;
use crate::judge_flags::{Found, one};
use crate::node_config::Setting;
use crate::row::Row;
use crate::values::host;

/// `PATH: a.b` in etcd's configuration file.
pub(crate) fn item(ctx: Context<'_>, what: &str) -> Option<(String, Vec<Found>)> {
    let (path, key) = what.split_once(": ")?;
    if let Some(found) = argument(ctx, key) {
        return Some((key.to_owned(), vec![found]));
    }
    let path = ctx.path(path);
    let found = match &ctx.snap.etcd_config {
        Observation::Unreadable { reason } => Found::Unknown(format!("{path} cannot be read: {reason}")),
        Observation::Absent => Found::Unknown(format!("{path} does not exist")),
        Observation::Value { value } => {
            // `auto-tls` stands at the top, `client-transport-security.auto-tls` in its section.
            let hit = key.split('.').try_fold(value, |at, part| at.get(part)).filter(|v| !v.is_null());
            match hit.and_then(crate::document::scalar) {
                Some(text) => {
                    Found::Values(vec![Setting::new(text, Evidence::at(path.clone(), key).layer("generated"))])
                }
                None if hit.is_some() => Found::Unknown(format!("{key} in {path} is not a single value")),
                None => Found::Absent,
            }
        }
    };
    Some((key.to_owned(), vec![found]))
}

/// What `etcd-arg` makes of a key at the next start: K3s then writes the file anew, with these values in place of its own
/// at the top level, a whole section too (facts: not merged as flags are).
fn argument(ctx: Context<'_>, key: &str) -> Option<Found> {
    if ctx.is_in_force() {
        return None;
    }
    let arguments = ctx.config().ok()?.options.get("etcd-arg")?;
    let (top, inside) = key.split_once('.').map_or((key, false), |(top, _)| (top, true));
    let (setting, value) = arguments.iter().rev().find_map(|setting| {
        let (name, value) = setting.value.split_once('=')?;
        (name.trim_start_matches('-').trim_end_matches(['+', '-']) == top).then_some((setting, value))
    })?;
    Some(match inside {
        true => Found::Unknown(format!("etcd-arg puts something else in place of {top}, which is not looked into")),
        false => Found::Values(vec![Setting::new(value, setting.evidence.clone())]),
    })
}

/// The addresses at which etcd tells its metrics, without TLS and login.
const METRICS_URLS: &str = "listen-metrics-urls";
/// K3s' option that adds the node's own address to them.
const EXPOSED: &str = "etcd-expose-metrics";

/// Where etcd's metrics can be read: by the file etcd runs with, and by what the next start makes of it.
pub(crate) fn metrics(ctx: Context<'_>, control: &Control) -> Row {
    let written = control.what.iter().find(|what| what.ends_with(METRICS_URLS)).and_then(|what| item(ctx, what));
    let Some((_, written)) = written else { return Row::unknown(EXPOSED, "the catalogue names no file") };
    let config = match ctx.config() {
        Ok(config) => config,
        Err(reason) => return Row::unknown(EXPOSED, reason),
    };
    let option = config.option(EXPOSED);
    let evidence = match option {
        Some(option) => told(EXPOSED, option),
        None => Evidence::note(format!("{EXPOSED}: not set; the default is false")),
    };
    if !ctx.is_in_force() && argument(ctx, METRICS_URLS).is_none() {
        if let Some(option) = option.filter(|option| boolean(&option.value) == Some(true)) {
            return Row::new(EXPOSED, Status::Fail, option.value.clone()).with(evidence);
        }
        // K3s writes the file anew at its next start. Until then it counts, unless that is judged by itself.
        if ctx.snap.running.value().is_some() || matches!(ctx.snap.etcd_config, Observation::Absent) {
            return Row::new(EXPOSED, Status::Pass, "only on loopback").with(evidence);
        }
    }
    let row = match written.into_iter().next() {
        Some(Found::Values(urls)) => match urls.last() {
            Some(urls) => {
                let what = told(METRICS_URLS, urls);
                let good = on_loopback(&urls.value);
                let words = if good { "only on loopback".to_owned() } else { what.detail.clone() };
                Row::pass_if(EXPOSED, good, words).with(what)
            }
            None => Row::unknown(EXPOSED, "nothing was looked at"),
        },
        Some(Found::Absent) => Row::new(EXPOSED, Status::Pass, format!("no {METRICS_URLS}: etcd has no such address")),
        Some(Found::Unknown(reason) | Found::Forgotten(reason)) => Row::unknown(EXPOSED, reason),
        None => Row::unknown(EXPOSED, "nothing was looked at"),
    };
    row.with(evidence)
}

fn told(name: &str, setting: &Setting) -> Evidence {
    Evidence { detail: format!("{name} = {}", setting.value), ..setting.evidence.clone() }
}

/// Whether only the node itself reaches all of these URLs.
fn on_loopback(urls: &str) -> bool {
    urls.split(',').map(str::trim).filter(|url| !url.is_empty()).all(|url| {
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let host = host(rest.split('/').next().unwrap_or_default());
        let loopback = || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        scheme.starts_with("unix") || host == "localhost" || loopback()
    })
}

/// The peer CA by its path, and by the keys of the CAs it must differ from.
pub(crate) fn ca(ctx: Context<'_>, control: &Control) -> Vec<Row> {
    let Some((key, found)) = control.what.first().and_then(|what| item(ctx, what)) else {
        return vec![Row::unknown(subject(ctx, control), "the catalogue names no key")];
    };
    let wanted: Vec<String> = control.expected.values().iter().map(|w| ctx.path(w)).collect();
    let by_path = one(ctx, control, &key, found, &wanted);
    let files: Vec<String> =
        control.expected.list(Modifier::AndDistinctKeys).iter().map(|path| ctx.path(path)).collect();
    let mut rows = vec![by_path];
    rows.extend(crate::judge_x509::distinct(ctx, &files));
    rows
}
