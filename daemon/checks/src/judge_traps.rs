//! Traps: what the configuration does other than its files show. Each control names the kinds it looks for; each
//! place where one stands is a row of its own.

use std::collections::BTreeMap;

use picket_model::{Evidence, Observation, Status};

use crate::catalogue::Control;
use crate::context::Context;
use crate::node_config::{Trapped, Traps};
use crate::row::Row;

/// The subject of the one row that speaks for the configuration as a whole.
const WHOLE: &str = "configuration of K3s";
/// The most files that are listed as evidence of a pass.
const LISTED: usize = 12;
/// The kind that depends on what a file of the API server says.
const ANONYMOUS: &str = "anonymous-default";

/// Judges a trap control.
pub(crate) fn judge(ctx: Context<'_>, control: &Control) -> Vec<Row> {
    // Who can read a file is a matter of now, not of the last start.
    let now = control.what.iter().any(|kind| kind == "readable-secret");
    let traps = match if now { Context::declared(ctx.snap, ctx.policy).traps() } else { ctx.traps() } {
        Ok(traps) => traps,
        Err(reason) => return vec![Row::unknown(WHOLE, reason)],
    };
    let mut rows: BTreeMap<String, Vec<&Trapped>> = BTreeMap::new();
    for trapped in traps.seen.iter().filter(|t| control.what.contains(&t.kind)) {
        rows.entry(subject(trapped)).or_default().push(trapped);
    }
    let rows: Vec<Row> = rows.into_iter().filter_map(|(subject, found)| row(ctx, subject, &found)).collect();
    if rows.is_empty() { vec![nothing_found(traps)] } else { rows }
}

/// Path and option: stable while lines move.
fn subject(trapped: &Trapped) -> String {
    match (trapped.evidence.path.as_deref(), trapped.option.as_deref()) {
        (Some(path), Some(option)) => format!("{path}:{option}"),
        (Some(path), None) => path.to_owned(),
        (None, Some(option)) => option.to_owned(),
        (None, None) => WHOLE.to_owned(),
    }
}

/// The row of one place; none where a second look clears it.
fn row(ctx: Context<'_>, subject: String, found: &[&Trapped]) -> Option<Row> {
    let first = found.first()?;
    let observed = match found.len() {
        1 => first.evidence.detail.clone(),
        more => format!("{} (and {} more of the kind here)", first.evidence.detail, more - 1),
    };
    let evidence = found.iter().map(|t| t.evidence.clone());
    if first.kind == ANONYMOUS {
        let files = &ctx.snap.authentication_configs;
        let known = |o: &Observation<crate::AuthenticationConfig>| o.value().map(|f| f.anonymous.is_some());
        if files.is_empty() || files.values().any(|o| known(o).is_none()) {
            let reason =
                "the authentication configuration cannot be read: whether it has an `anonymous` block is not known";
            return Some(Row::unknown(subject, reason).with_all(evidence));
        }
        if files.values().all(|o| known(o) == Some(true)) {
            return None;
        }
        let flag = ctx.config().ok().and_then(|c| c.components.get("kube-apiserver")?.get("anonymous-auth"));
        if flag.is_some_and(|flag| flag.possible.len() > 1) {
            let reason = "whether K3s passes anonymous-auth=false beside the authentication configuration depends on its \
                          version, which is not known";
            return Some(Row::unknown(subject, reason).with_all(evidence));
        }
    }
    Some(Row::new(subject, Status::Fail, observed).with_all(evidence))
}

/// Nothing of the kind was found: worth as much as what was read.
fn nothing_found(traps: &Traps) -> Row {
    if let Some(blind) = traps.blind.first() {
        let place = blind.path.as_deref().map_or_else(String::new, |path| format!("{path}: "));
        return Row::unknown(WHOLE, format!("{place}{}", blind.detail)).with_all(traps.blind.iter().cloned());
    }
    if traps.read.is_empty() {
        return Row::unknown(WHOLE, "no file of the configuration was read");
    }
    let evidence = traps.read.iter().take(LISTED).map(|path| Evidence::at(path.clone(), "read; nothing of the kind"));
    let observed = match traps.read.len() {
        1 => "nothing of the kind in 1 file".to_owned(),
        count => format!("nothing of the kind in {count} files"),
    };
    Row::new(WHOLE, Status::Pass, observed).with_all(evidence)
}
