//! Tokens, and encryption of Secrets at rest.

use jiff::Timestamp;
use picket_model::{Evidence, Observation, Status};

use crate::catalogue::{Control, Modifier, Op, octal};
use crate::context::Context;
use crate::encryption::{EncryptionConfig, time_in_key_name};
use crate::judge_files::{Unnamed, absent, named, select, subject};
use crate::judge_flags::why_not;
use crate::needs::FilePattern;
use crate::row::Row;
use crate::snapshot::{FileKind, FileMeta, TokenForm};
use crate::values::seconds;

/// Judges a control on tokens.
pub(crate) fn token(ctx: Context<'_>, control: &Control) -> Vec<Row> {
    match control.expected.op {
        Op::ModeAtMost => crate::judge_files::judge(ctx, control),
        Op::SymlinkTo => vec![symlink(ctx, control)],
        Op::NotSymlink => vec![separate(ctx, control)],
        Op::AgeDaysAtMost => vec![token_age(ctx, control)],
        Op::Prefix => vec![pinned(ctx, control)],
        Op::NotMatches => in_unit(ctx, control),
        other => vec![Row::unknown(subject(ctx, control), format!("op {other:?} does not judge tokens"))],
    }
}

/// One plain path: its metadata, or the row that stands in its place.
fn file<'a>(ctx: Context<'a>, control: &Control, path: &str) -> Result<&'a FileMeta, Row> {
    let selection = select(ctx, &[FilePattern::new(path)]);
    if let Some((_, meta)) = selection.found.first() {
        return Ok(meta);
    }
    if let Some((path, reason)) = selection.unreadable.first() {
        return Err(Row::unknown(path.clone(), reason.clone()));
    }
    if let Some((path, folder)) = selection.missing.first() {
        return Err(Row::unknown(path.clone(), format!("{folder} does not exist")));
    }
    Err(absent(control, path, "does not exist".to_owned()))
}

fn symlink(ctx: Context<'_>, control: &Control) -> Row {
    let path = subject(ctx, control);
    let wanted = ctx.path(&control.expected.text());
    let meta = match file(ctx, control, &path) {
        Ok(meta) => meta,
        Err(row) => return row,
    };
    let Some(link) = &meta.link else {
        return Row::new(path.clone(), Status::Fail, "a file of its own, not a link")
            .with(Evidence::at(path, "not a link"));
    };
    if link.text != wanted && link.path.as_deref() != Some(wanted.as_str()) {
        return Row::new(path.clone(), Status::Fail, format!("a link to {}", link.text))
            .with(Evidence::at(path, format!("link to {}", link.text)));
    }
    let limit = control.expected.get(Modifier::AndTargetMode).and_then(octal);
    match (&link.meta, limit) {
        (Observation::Value { value }, Some(limit)) => {
            let words = format!("a link to {wanted}, mode {:04o}", value.mode);
            Row::pass_if(path.clone(), value.mode & !limit & 0o7777 == 0, words.clone()).with(Evidence::at(path, words))
        }
        (Observation::Value { .. }, None) => {
            let words = format!("a link to {wanted}");
            Row::new(path.clone(), Status::Pass, words.clone()).with(Evidence::at(path, words))
        }
        (Observation::Absent, _) => {
            Row::new(path.clone(), Status::Fail, format!("a link to {wanted}, which does not exist"))
                .with(Evidence::at(path, "dangling link"))
        }
        (Observation::Unreadable { reason }, _) => Row::unknown(path, format!("{wanted} cannot be read: {reason}")),
    }
}

/// Agents have a token of their own: a file, with another password than the server's.
fn separate(ctx: Context<'_>, control: &Control) -> Row {
    let path = subject(ctx, control);
    let meta = match file(ctx, control, &path) {
        Ok(meta) => meta,
        Err(row) => return row,
    };
    if meta.kind == FileKind::Link {
        let target = meta.link.as_ref().map(|l| l.text.clone()).unwrap_or_default();
        return Row::new(path.clone(), Status::Fail, format!("a link to {target}: agents hold the server's token"))
            .with(Evidence::at(path, format!("link to {target}")));
    }
    let other = control.expected.list(Modifier::AndDiffersFrom).first().map(|p| ctx.path(p)).unwrap_or_default();
    let (agent, server) = match (ctx.snap.tokens.get(&path), ctx.snap.tokens.get(&other)) {
        (Some(Observation::Value { value: agent }), Some(Observation::Value { value: server })) => (agent, server),
        (Some(Observation::Value { .. }), bad) => return Row::unknown(path, why_not(&other, bad)),
        (bad, _) => return Row::unknown(path.clone(), why_not(&path, bad)),
    };
    let good = agent.fingerprint != server.fingerprint;
    let words = if good { "a token of its own" } else { "the same password as the server's token" };
    Row::pass_if(path.clone(), good, words).with(Evidence::at(path, words)).with(Evidence::at(other, "compared with"))
}

fn age_in_days(at: Timestamp, since: Timestamp) -> i64 {
    at.duration_since(since).as_secs().div_euclid(86_400)
}

/// The age of the server's token, from when picket first saw it. File times say nothing: K3s rewrites the file at
/// every start.
fn token_age(ctx: Context<'_>, control: &Control) -> Row {
    let path = format!("{}/server/token", ctx.snap.data_dir);
    let limit = control.expected.number().unwrap_or(0);
    let facts = match ctx.snap.tokens.get(&path) {
        Some(Observation::Value { value }) => value,
        other => return Row::unknown(path.clone(), why_not(&path, other)),
    };
    let hint = format!("{}/server/cred/passwd", ctx.snap.data_dir);
    let hint = ctx
        .snap
        .files
        .get(&hint)
        .and_then(Observation::value)
        .map(|meta| Evidence::at(hint.clone(), format!("last changed {} (a hint only)", meta.mtime)));
    let row = match facts.first_seen {
        None => Row::unknown(path.clone(), "when this token was first seen is not known: there is no state of picket"),
        Some(seen) => {
            let age = age_in_days(ctx.snap.at, seen);
            let words = if facts.change_witnessed {
                format!("{age} days old")
            } else {
                format!("at least {age} days old: seen since {seen}")
            };
            let warn = control.expected.get(Modifier::Warn).and_then(serde_json::Value::as_i64);
            let words = match warn.filter(|warn| age >= *warn && age <= limit) {
                Some(_) => format!("{words}; plan its rotation"),
                None => words,
            };
            let row = Row::pass_if(path.clone(), age <= limit, words.clone());
            row.with(Evidence::at(path, words))
        }
    };
    row.with_all(hint)
}

fn pinned(ctx: Context<'_>, control: &Control) -> Row {
    let name = "token";
    match &ctx.snap.join_token {
        Observation::Absent => absent(control, name, "no token is configured".to_owned()),
        Observation::Unreadable { reason } => Row::unknown(name, format!("the token cannot be read: {reason}")),
        Observation::Value { value } => {
            let words = match &value.form {
                TokenForm::Full { user } => format!("full form, user {user}: pins the cluster's CA"),
                TokenForm::PinnedBootstrap => "a bootstrap token that pins the cluster's CA".to_owned(),
                TokenForm::Bootstrap => "a bootstrap token without the CA's hash: any server is trusted".to_owned(),
                TokenForm::Short => "short form: any server is trusted at the first contact".to_owned(),
            };
            Row::pass_if(name, value.form.pins_ca(), words).with(value.evidence.clone())
        }
    }
}

/// A token on the command line of a unit, which everybody may read.
fn in_unit(ctx: Context<'_>, control: &Control) -> Vec<Row> {
    let mut rows = Vec::new();
    for (path, unit) in &ctx.snap.units {
        match unit {
            Observation::Absent => {}
            Observation::Unreadable { reason } => rows.push(Row::unknown(path, format!("cannot be read: {reason}"))),
            Observation::Value { value } => {
                let row = match value.token_options.first() {
                    Some((option, _)) => Row::new(path, Status::Fail, format!("{option} stands on the command line")),
                    None => Row::new(path, Status::Pass, "no token on the command line")
                        .with(Evidence::at(path.clone(), "no token option")),
                };
                rows.push(row.with_all(value.token_options.iter().map(|(option, line)| {
                    Evidence::at(path.clone(), format!("{option} (value not shown)")).line(*line)
                })));
            }
        }
    }
    if rows.is_empty() {
        rows.push(Row::unknown(subject(ctx, control), "no unit of K3s was found"));
    }
    rows
}

/// Judges a control on encryption of Secrets.
pub(crate) fn encryption(ctx: Context<'_>, control: &Control) -> Vec<Row> {
    vec![match control.expected.op {
        Op::FirstProviderIn => first_provider(ctx, control),
        Op::StageIn => stage(ctx, control),
        Op::Sha256EqualsState => hash(ctx, control),
        Op::AgeDaysAtMost => key_age(ctx, control),
        Op::Has => covers(ctx, control),
        Op::Unset => overridden(ctx, control),
        other => Row::unknown(subject(ctx, control), format!("op {other:?} does not judge encryption")),
    }]
}

fn own_config(ctx: Context<'_>) -> String {
    format!("{}/server/cred/encryption-config.json", ctx.snap.data_dir)
}

/// A configuration, or the row that stands in its place.
fn config<'a>(ctx: Context<'a>, control: &Control, path: &str) -> Result<&'a EncryptionConfig, Row> {
    file(ctx, control, path)?;
    match ctx.snap.encryption_configs.get(path) {
        Some(Observation::Value { value }) => Ok(value),
        Some(Observation::Absent) => Err(absent(control, path, "does not exist".to_owned())),
        other => Err(Row::unknown(path, why_not(path, other))),
    }
}

/// The file the API server reads: what its flag names, else K3s's own.
fn config_in_use(ctx: Context<'_>) -> Result<String, String> {
    match named(ctx, "encryption-provider-config") {
        Ok(path) => Ok(path),
        Err(Unnamed::NotSet(_)) => Ok(own_config(ctx)),
        Err(Unnamed::Unknown(reason)) => Err(reason),
    }
}

fn first_provider(ctx: Context<'_>, control: &Control) -> Row {
    let own = own_config(ctx);
    let (path, passed) = match named(ctx, "encryption-provider-config") {
        Ok(path) => (path, true),
        Err(Unnamed::NotSet(_)) => (own.clone(), false),
        Err(Unnamed::Unknown(reason)) => return Row::unknown(own, reason),
    };
    let config = match config(ctx, control, &path) {
        Ok(config) => config,
        // A file that is named and missing is a missing source; K3s makes its own.
        Err(row) if row.status == Status::Fail && path != own => {
            return Row::unknown(path, "does not exist: the API server would not start");
        }
        Err(row) => return row,
    };
    if !passed {
        let words =
            "the API server is not given this file (secrets-encryption is off): new Secrets are stored in clear";
        return Row::new(path.clone(), Status::Fail, words).with(Evidence::at(path, words));
    }
    let resource = control.expected.list(Modifier::Resource).into_iter().next().unwrap_or_else(|| "secrets".to_owned());
    match config.group_for(&resource).and_then(|group| group.providers.first()) {
        None => Row::new(path.clone(), Status::Fail, format!("no provider for {resource}: they are stored in clear"))
            .with(Evidence::at(path, format!("no provider for {resource}"))),
        Some(provider) => {
            let good = control.expected.values().contains(&provider.kind);
            let words = format!("{} writes {resource}", provider.kind);
            Row::pass_if(path.clone(), good, words.clone()).with(Evidence::at(path, words))
        }
    }
}

fn state_path(ctx: Context<'_>) -> String {
    format!("{}/server/cred/encryption-state.json", ctx.snap.data_dir)
}

fn stage(ctx: Context<'_>, control: &Control) -> Row {
    let path = state_path(ctx);
    let state = match &ctx.snap.encryption_state {
        Observation::Value { value } => value,
        Observation::Absent => {
            return match file(ctx, control, &path) {
                Err(row) => row,
                Ok(_) => Row::unknown(path, "was there when its metadata was read, and gone when its content was"),
            };
        }
        other @ Observation::Unreadable { .. } => return Row::unknown(path.clone(), why_not(&path, Some(other))),
    };
    let evidence = Evidence::at(path.clone(), format!("stage {}", state.stage));
    if control.expected.values().contains(&state.stage) {
        return Row::new(path, Status::Pass, state.stage.clone()).with(evidence);
    }
    let grace = control.expected.list(Modifier::Grace).first().and_then(|t| seconds(t)).unwrap_or(0.0);
    match state.mtime {
        None => Row::unknown(path, format!("{}; since when is not known", state.stage)).with(evidence),
        Some(since) => {
            let within = ctx.snap.at.duration_since(since).as_secs_f64() <= grace;
            let words = format!("{} since {since}", state.stage);
            Row::pass_if(path, within, words).with(evidence)
        }
    }
}

fn hash(ctx: Context<'_>, control: &Control) -> Row {
    let path = own_config(ctx);
    let state = match &ctx.snap.encryption_state {
        Observation::Value { value } => value,
        other => return Row::unknown(state_path(ctx), why_not(&state_path(ctx), Some(other))),
    };
    let config = match config(ctx, control, &path) {
        Ok(config) => config,
        Err(row) => return row,
    };
    if !control.expected.list(Modifier::OnlyStages).contains(&state.stage) {
        let words = format!("in stage {} K3s notes another hash", state.stage);
        return Row::new(path, Status::NotApplicable, words.clone()).with(Evidence::at(state_path(ctx), words));
    }
    if config.sha256.is_empty() {
        return Row::unknown(path, "its hash is not known");
    }
    let good = config.sha256.eq_ignore_ascii_case(&state.sha256);
    let words = if good { "the hash K3s noted" } else { "another hash than K3s noted" };
    Row::pass_if(path.clone(), good, words)
        .with(Evidence::at(path, format!("sha256 {}", config.sha256)))
        .with(Evidence::at(state_path(ctx), format!("sha256 {}", state.sha256)))
}

/// The age of the key that writes: from its name, else from when it was first seen, else from the file's time.
fn key_age(ctx: Context<'_>, control: &Control) -> Row {
    let path = own_config(ctx);
    let limit = control.expected.number().unwrap_or(0);
    let config = match config(ctx, control, &path) {
        Ok(config) => config,
        Err(row) => return row,
    };
    let Some(provider) = config.group_for("secrets").and_then(|group| group.providers.first()) else {
        return Row::unknown(path, "no provider for secrets");
    };
    let Some(name) = provider.key_names.first() else {
        return Row::new(path.clone(), Status::NotApplicable, format!("{} has no key here", provider.kind))
            .with(Evidence::at(path, format!("first provider {}", provider.kind)));
    };
    let (since, from) = if let Some(time) = time_in_key_name(name) {
        (time, "its name")
    } else if let Some(time) = config.write_key_first_seen {
        (time, "when it was first seen")
    } else if let Some(time) = config.mtime {
        (time, "the file's time")
    } else {
        return Row::unknown(path, format!("how old key {name} is cannot be told"));
    };
    let age = age_in_days(ctx.snap.at, since);
    let mut words = format!("key {name} is {age} days old, by {from}");
    let warn = control.expected.get(Modifier::Warn).and_then(serde_json::Value::as_i64);
    if warn.is_some_and(|warn| age >= warn && age <= limit) {
        words.push_str("; plan its rotation");
    }
    Row::pass_if(path.clone(), age <= limit, words.clone()).with(Evidence::at(path, words))
}

fn covers(ctx: Context<'_>, control: &Control) -> Row {
    let path = match config_in_use(ctx) {
        Ok(path) => path,
        Err(reason) => return Row::unknown(own_config(ctx), reason),
    };
    let config = match config(ctx, control, &path) {
        Ok(config) => config,
        Err(row) => return row,
    };
    let resource = control.expected.text();
    let kind = config.group_for(&resource).and_then(|group| group.providers.first()).map(|p| p.kind.as_str());
    let words = match kind {
        None => format!("{resource} are not named: they are stored in clear"),
        Some("identity") => format!("{resource} are named, but identity writes them in clear"),
        Some(kind) => format!("{kind} writes {resource}"),
    };
    Row::pass_if(path.clone(), kind.is_some_and(|k| k != "identity"), words.clone()).with(Evidence::at(path, words))
}

/// A file of the administrator's own beside K3s's: rotation then changes a file the API server does not read.
fn overridden(ctx: Context<'_>, control: &Control) -> Row {
    let name = subject(ctx, control);
    let config = match ctx.config() {
        Ok(config) => config,
        Err(reason) => return Row::unknown(name, reason),
    };
    let found = config.options.get("kube-apiserver-arg").into_iter().flatten().find(|s| {
        let text = s.value.trim_start_matches('-');
        let flag = text.split('=').next().unwrap_or(text);
        flag.trim_end_matches(['+', '-']) == "encryption-provider-config"
    });
    match found {
        None => Row::new(name, Status::Pass, "not set")
            .with(Evidence::note("kube-apiserver-arg has no encryption-provider-config")),
        Some(setting) => Row::new(name, Status::Fail, setting.value.clone()).with(setting.evidence.clone()),
    }
}
