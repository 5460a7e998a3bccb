//! Modes and owners of files and folders.

use std::ops::Bound;

use picket_model::{Evidence, Observation, Status};

use crate::catalogue::{Control, IfAbsent, Modifier, Op, octal};
use crate::context::Context;
use crate::needs::{FilePattern, is_below};
use crate::places::{REGISTRIES_FILE, elsewhere, may_move, moved_by_option};
use crate::row::Row;
use crate::snapshot::{FileKind, FileMeta};

/// What a pattern found.
#[derive(Debug, Default)]
pub(crate) struct Selection<'a> {
    /// Entries that exist.
    pub(crate) found: Vec<(&'a str, &'a FileMeta)>,
    /// A readable folder without the file: the path or pattern.
    pub(crate) absent: Vec<String>,
    /// Folders that do not exist, by the path or pattern that wanted them.
    pub(crate) missing: Vec<(String, String)>,
    /// What could not be read, with the reason.
    pub(crate) unreadable: Vec<(String, String)>,
}

impl Selection<'_> {
    /// Whether nothing at all can be said: no folder that would hold the files exists.
    pub(crate) fn no_source(&self) -> bool {
        self.found.is_empty() && self.absent.is_empty() && self.unreadable.is_empty()
    }
}

/// Looks patterns up in the snapshot.
pub(crate) fn select<'a>(ctx: Context<'a>, patterns: &[FilePattern]) -> Selection<'a> {
    let mut out = Selection::default();
    for pattern in patterns {
        if pattern.is_plain() {
            plain(ctx, pattern, &mut out);
        } else {
            wild(ctx, pattern, &mut out);
        }
    }
    out
}

fn plain<'a>(ctx: Context<'a>, pattern: &FilePattern, out: &mut Selection<'a>) {
    let path = pattern.as_str().to_owned();
    let base = pattern.base();
    let folder = ctx.snap.folders.get(base);
    match ctx.snap.files.get_key_value(&path) {
        Some((key, Observation::Value { value })) => out.found.push((key, value)),
        Some((_, Observation::Unreadable { reason })) => out.unreadable.push((path, reason.clone())),
        absent => match (folder, absent) {
            (Some(Observation::Absent), _) => out.missing.push((path, base.to_owned())),
            (Some(Observation::Value { .. }), Some(_)) => out.absent.push(path),
            (Some(Observation::Unreadable { reason }), _) => {
                out.unreadable.push((path, format!("{base} cannot be read: {reason}")));
            }
            (Some(Observation::Value { .. }), None) | (None, _) => {
                out.unreadable.push((path, "not looked at".to_owned()));
            }
        },
    }
}

fn wild<'a>(ctx: Context<'a>, pattern: &FilePattern, out: &mut Selection<'a>) {
    let base = pattern.base();
    let what = || pattern.as_str().to_owned();
    match ctx.snap.folders.get(base) {
        Some(Observation::Value { .. }) => {}
        Some(Observation::Absent) => {
            out.missing.push((what(), base.to_owned()));
            return;
        }
        Some(Observation::Unreadable { reason }) => {
            out.unreadable.push((base.to_owned(), reason.clone()));
            return;
        }
        None => {
            out.unreadable.push((base.to_owned(), "not looked at".to_owned()));
            return;
        }
    }
    let before = out.found.len() + out.unreadable.len();
    for (folder, state) in ctx.snap.folders.range::<str, _>((Bound::Included(base), Bound::Unbounded)) {
        if folder != base && !is_below(folder, base) {
            // Names such as `base-old` sort between `base` and `base/…`.
            if folder.starts_with(base) {
                continue;
            }
            break;
        }
        match state {
            Observation::Unreadable { reason } if pattern.passes(folder) => {
                out.unreadable.push((folder.clone(), reason.clone()));
            }
            Observation::Value { value } if !value.complete && pattern.passes(folder) => {
                out.unreadable.push((folder.clone(), "holds more entries than are looked at".to_owned()));
            }
            _ => {}
        }
    }
    let start = format!("{base}/");
    for (path, meta) in ctx.snap.files.range::<str, _>((Bound::Included(start.as_str()), Bound::Unbounded)) {
        if !path.starts_with(&start) {
            break;
        }
        if !pattern.matches(path) {
            continue;
        }
        match meta {
            Observation::Value { value } => {
                let judged_itself = value.link.as_ref().is_some_and(|link| {
                    link.path
                        .as_ref()
                        .is_some_and(|p| p != path && ctx.snap.files.contains_key(p) && pattern.matches(p))
                });
                if !judged_itself {
                    out.found.push((path, value));
                }
            }
            Observation::Absent => {}
            Observation::Unreadable { reason } => out.unreadable.push((path.clone(), reason.clone())),
        }
    }
    if out.found.len() + out.unreadable.len() == before {
        out.absent.push(what());
    }
}

/// The paths a control speaks of, or why they are not known.
pub(crate) fn patterns(ctx: Context<'_>, control: &Control) -> Result<Vec<FilePattern>, Unnamed> {
    let mut out = Vec::new();
    for what in &control.what {
        match what.as_str() {
            "(none on K3s)" => {}
            "dirname(--audit-log-path)" => {
                let path = named(ctx, "audit-log-path")?;
                out.push(FilePattern::new(FilePattern::new(path).base()));
            }
            "<audit-log-path>" => out.push(FilePattern::new(named(ctx, "audit-log-path")?)),
            "rotated siblings" => {
                out.extend(rotated(&named(ctx, "audit-log-path")?).map(FilePattern::new));
            }
            "<admission-control-config-file>" => {
                out.push(FilePattern::new(named(ctx, "admission-control-config-file")?));
            }
            "<audit policy file>" => out.push(FilePattern::new(named(ctx, "audit-policy-file")?)),
            path => out.push(FilePattern::new(ctx.path(path))),
        }
    }
    for path in of_the_node(ctx, control) {
        if !out.iter().any(|known| known.matches(path.as_str())) {
            out.push(path);
        }
    }
    Ok(out)
}

/// Where this node has what the control speaks of in the usual places.
fn of_the_node(ctx: Context<'_>, control: &Control) -> Vec<FilePattern> {
    let configs = ctx.snap.configs();
    let elsewhere = |what: &String| elsewhere(what, &ctx.snap.data_dir, &ctx.snap.places, &configs);
    control.what.iter().flat_map(elsewhere).collect()
}

/// Why a file that a flag should name is not known.
#[derive(Debug)]
pub(crate) enum Unnamed {
    /// The flag is not set.
    NotSet(String),
    /// It cannot be told.
    Unknown(String),
}

/// The absolute path a flag of the API server names.
pub(crate) fn named(ctx: Context<'_>, flag: &str) -> Result<String, Unnamed> {
    match ctx.file_flag(flag) {
        Ok(Some(setting)) if setting.value.starts_with('/') => Ok(setting.value.clone()),
        Ok(Some(setting)) if setting.value == "-" => {
            Err(Unnamed::Unknown(format!("--{flag} is standard output: there is no file")))
        }
        Ok(Some(setting)) => Err(Unnamed::Unknown(format!(
            "--{flag}={} is relative to a folder that is not known: give an absolute path",
            setting.value
        ))),
        Ok(None) => Err(Unnamed::NotSet(format!("--{flag} is not set"))),
        Err(reason) => Err(Unnamed::Unknown(reason)),
    }
}

/// Rotated siblings of a log, as lumberjack names them: `audit-<time>.log`, `.gz` when compressed.
pub(crate) fn rotated(path: &str) -> [String; 2] {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let (stem, extension) = match name.rfind('.') {
        Some(dot) => name.split_at(dot),
        None => (name, ""),
    };
    [format!("{folder}/{stem}-*{extension}"), format!("{folder}/{stem}-*{extension}.gz")]
}

/// Judges a control on modes or owners.
pub(crate) fn judge(ctx: Context<'_>, control: &Control) -> Vec<Row> {
    if crate::judge_cert_files::is_mine(control.expected.op) {
        return crate::judge_cert_files::judge(ctx, control);
    }
    let patterns = match patterns(ctx, control) {
        Ok(patterns) => patterns,
        Err(Unnamed::Unknown(reason)) => return vec![Row::unknown(subject(ctx, control), reason)],
        Err(Unnamed::NotSet(reason)) => return vec![absent(control, subject(ctx, control), reason)],
    };
    if control.expected.op == Op::AllOf {
        return all_of(ctx, control);
    }
    let limit = limit(ctx, control);
    let owner = owner(control);
    let mut rows = rows(ctx, control, &patterns, &|path, meta| check(path, meta, limit, owner));
    // What is not there in a place of the node's own is not missed beside the usual places.
    let own = of_the_node(ctx, control);
    let missing = |row: &Row| row.status == Status::NotApplicable && own.iter().any(|p| p.as_str() == row.subject);
    let usual = |row: &Row| control.what.iter().any(|what| ctx.path(what) == row.subject);
    rows.retain(|row| usual(row) || !missing(row));
    rows.extend(unknown_places(ctx, control));
    if rows.is_empty() {
        rows.push(absent(control, subject(ctx, control), "nothing to judge".to_owned()));
    }
    rows
}

/// What K3s may read elsewhere, where that cannot be told.
fn unknown_places(ctx: Context<'_>, control: &Control) -> Option<Row> {
    let moving = |of: fn(&str) -> bool| control.what.iter().find(|what| of(what));
    let path = moving(may_move)?;
    if moving(moved_by_option).is_none() {
        let reason = ctx.snap.places.blind.as_ref()?;
        return Some(Row::unknown(
            ctx.path(path),
            format!("other places may be named where nothing could be read: {reason}"),
        ));
    }
    let reason = match &ctx.snap.declared {
        Observation::Unreadable { reason } => format!("the configuration, which may name another place: {reason}"),
        _ if path == REGISTRIES_FILE => {
            let named = ctx.snap.registries_file();
            (!named.starts_with('/')).then(|| format!("private-registry = {named}: relative to what, is not known"))?
        }
        _ => return None,
    };
    Some(Row::unknown(ctx.path(path), reason))
}

/// The subject of a control's single row: what it looks at first.
pub(crate) fn subject(ctx: Context<'_>, control: &Control) -> String {
    ctx.path(control.what.first().map_or(control.id.as_str(), String::as_str))
}

/// One row for each entry, and what the absent and the unreadable mean.
pub(crate) fn rows(
    ctx: Context<'_>,
    control: &Control,
    patterns: &[FilePattern],
    check: &dyn Fn(&str, &FileMeta) -> Option<Row>,
) -> Vec<Row> {
    let selection = select(ctx, patterns);
    if selection.no_source() {
        let reason = match selection.missing.first() {
            Some((_, folder)) => format!("{folder} does not exist"),
            None => "nothing to look at".to_owned(),
        };
        return vec![Row::unknown(subject(ctx, control), reason)];
    }
    let excluded = control.expected.list(Modifier::Exclude);
    let files_only = control.expected.op == Op::ModeAtMost && control.expected.mode().is_some_and(|m| m & 0o111 == 0);
    let mut rows = Vec::new();
    let mut absent_too: Vec<String> = Vec::new();
    for (path, meta) in selection.found {
        let name = path.rsplit('/').next().unwrap_or(path);
        if excluded.iter().any(|e| e == name) {
            continue;
        }
        let plain = patterns.iter().any(|p| p.as_str() == path);
        // A limit without x bits speaks of files; folders below a pattern are judged by their own controls.
        if !plain && files_only && meta.resolved().is_some_and(|m| m.kind == FileKind::Folder) {
            continue;
        }
        match (&meta.link, meta.resolved()) {
            (Some(link), None) => match &link.meta {
                Observation::Unreadable { reason } => {
                    rows.push(Row::unknown(path, format!("the link leads where nothing can be read: {reason}")));
                }
                _ if plain => absent_too.push(path.to_owned()),
                _ => {}
            },
            _ => rows.extend(check(path, meta)),
        }
    }
    for (path, reason) in selection.unreadable {
        rows.push(Row::unknown(path, reason));
    }
    absent_too.extend(selection.absent);
    absent_too.extend(selection.missing.into_iter().filter(|(path, _)| !path.contains('*')).map(|(path, _)| path));
    for path in absent_too {
        // A pattern that finds nothing beside others that find something is not missed.
        if path.contains('*') && !rows.is_empty() {
            continue;
        }
        let words = if path.contains('*') { format!("nothing matches {path}") } else { "does not exist".to_owned() };
        rows.push(absent(control, path, words));
    }
    if rows.is_empty() {
        rows.push(absent(control, subject(ctx, control), "nothing to judge".to_owned()));
    }
    rows
}

/// What a readable folder without the file means.
pub(crate) fn absent(control: &Control, subject: impl Into<String>, observed: String) -> Row {
    let status = match control.expected.if_absent {
        Some(IfAbsent::Pass) => Status::Pass,
        Some(IfAbsent::Fail) => Status::Fail,
        Some(IfAbsent::NotApplicable) => Status::NotApplicable,
        Some(IfAbsent::AuthenticationConfig | IfAbsent::AuthorizationConfig) | None => Status::Unknown,
    };
    let subject = subject.into();
    let evidence = if subject.starts_with('/') {
        Evidence::at(subject.clone(), observed.clone())
    } else {
        Evidence::note(observed.clone())
    };
    Row::new(subject, status, observed).with(evidence)
}

/// The limit of a mode in the benchmark asked for.
pub(crate) fn limit(ctx: Context<'_>, control: &Control) -> Option<u32> {
    if control.expected.op != Op::ModeAtMost {
        return None;
    }
    let by_version = ctx
        .policy
        .benchmark
        .as_ref()
        .and_then(|version| control.expected.get(Modifier::ByVersion)?.get(version))
        .and_then(octal);
    by_version.or_else(|| control.expected.mode())
}

/// User and group by number.
type Owner = (u32, u32);

/// The numeric owner asked for. Only root:root occurs; a name would need the node's own user database.
fn owner(control: &Control) -> Option<Owner> {
    let wanted = match control.expected.op {
        Op::OwnerIs => Some(control.expected.text()),
        _ => control.expected.list(Modifier::AndOwner).into_iter().next(),
    };
    wanted.map(|_| (0, 0))
}

/// Judges one entry.
fn check(path: &str, meta: &FileMeta, limit: Option<u32>, owner: Option<Owner>) -> Option<Row> {
    let real = meta.resolved()?;
    let mut good = true;
    let mut seen = Vec::new();
    if let Some(limit) = limit {
        good &= real.mode & !limit & 0o7777 == 0;
        seen.push(format!("mode {:04o}", real.mode));
    }
    if let Some((uid, gid)) = owner {
        good &= real.uid == uid && real.gid == gid;
        seen.push(format!("owner {}:{}", name_of(real.uid), name_of(real.gid)));
    }
    let seen = seen.join(", ");
    let mut row = Row::pass_if(path, good, seen.clone()).with(Evidence::at(path, seen));
    if let Some(target) = meta.link.as_ref().and_then(|link| link.path.as_ref()) {
        row = row.with(Evidence::at(target.clone(), "where the link leads"));
    }
    Some(row)
}

fn name_of(id: u32) -> String {
    if id == 0 { "root".to_owned() } else { id.to_string() }
}

/// Parts with paths of their own.
fn all_of(ctx: Context<'_>, control: &Control) -> Vec<Row> {
    let Some(parts) = control.expected.value.as_array() else {
        return vec![Row::unknown(subject(ctx, control), "the catalogue gives no parts")];
    };
    let mut limits: Vec<(FilePattern, Option<u32>, Option<Owner>)> = Vec::new();
    for part in parts {
        let Some(path) = part.get("path").and_then(serde_json::Value::as_str) else { continue };
        let pattern = FilePattern::new(ctx.path(path));
        let mode = part.get("value").filter(|_| part.get("op").and_then(|o| o.as_str()) == Some("mode_at_most"));
        let owned = part.get("op").and_then(|o| o.as_str()) == Some("owner_is");
        match limits.iter_mut().find(|(p, ..)| *p == pattern) {
            Some((_, m, o)) => {
                *m = m.or_else(|| mode.and_then(octal));
                *o = o.or_else(|| owned.then_some((0, 0)));
            }
            None => limits.push((pattern, mode.and_then(octal), owned.then_some((0, 0)))),
        }
    }
    let mut out = Vec::new();
    for (pattern, mode, owner) in limits {
        let part = rows(ctx, control, std::slice::from_ref(&pattern), &|path, meta| {
            let folder = meta.resolved().is_some_and(|m| m.kind == FileKind::Folder);
            // A limit without x bits speaks of files.
            let mode = mode.filter(|m| !(folder && m & 0o111 == 0));
            if mode.is_none() && owner.is_none() { None } else { check(path, meta, mode, owner) }
        });
        // An empty drop-in folder is nothing to judge beside the folder itself.
        out.extend(part.into_iter().filter(|row| !row.subject.contains('*')));
    }
    if out.is_empty() {
        out.push(Row::unknown(subject(ctx, control), "nothing could be looked at"));
    }
    out
}
