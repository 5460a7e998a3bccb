//! Certificates: expiry, validity, keys.

use jiff::{SignedDuration, Timestamp};
use picket_model::{Evidence, Observation, Role, Status};

use crate::catalogue::{Control, Modifier, Op};
use crate::context::{Context, version};
use crate::judge_files::{absent, select, subject};
use crate::judge_flags::why_not;
use crate::needs::FilePattern;
use crate::row::Row;
use crate::snapshot::{CertFacts, PublicKeyKind};
use crate::values::seconds;

pub(crate) fn judge(ctx: Context<'_>, control: &Control) -> Vec<Row> {
    if crate::judge_cert_files::is_mine(control.expected.op) {
        return crate::judge_cert_files::judge(ctx, control);
    }
    if control.expected.op == Op::DistinctPublicKeys {
        let files: Vec<String> = control.what.iter().map(|path| ctx.path(path)).collect();
        return distinct(ctx, &files);
    }
    // Some entries name files, others speak of all certificates of the node.
    let named = control.what.iter().any(|what| what.starts_with('/'));
    let patterns: Vec<FilePattern> = if named {
        control.what.iter().map(|what| FilePattern::new(ctx.path(what))).collect()
    } else {
        match node_certificates(ctx) {
            Some(patterns) => patterns,
            None => return vec![Row::unknown(subject(ctx, control), crate::context::NO_ROLE)],
        }
    };
    let only_index = control.expected.get(Modifier::CertIndex).and_then(serde_json::Value::as_u64);
    // What speaks of leaves looks at the first block of each file that is no CA.
    let leaves_only =
        matches!(control.expected.op, Op::ValidityDaysAtMost) || (control.expected.op == Op::DaysLeftGe && !named);
    let excluded = control.expected.list(Modifier::Exclude);

    let selection = select(ctx, &patterns);
    if selection.no_source() {
        let reason = match selection.missing.first() {
            Some((_, folder)) => format!("{folder} does not exist"),
            None => "nothing to look at".to_owned(),
        };
        return vec![Row::unknown(subject(ctx, control), reason)];
    }
    let mut rows = Vec::new();
    for (path, _) in &selection.found {
        let name = path.rsplit('/').next().unwrap_or(path);
        if excluded.iter().any(|e| e == name) {
            continue;
        }
        let certificates = match ctx.snap.certificates.get(*path) {
            Some(Observation::Value { value }) => value,
            other => {
                rows.push(Row::unknown(*path, why_not(path, other)));
                continue;
            }
        };
        if certificates.is_empty() {
            rows.push(Row::unknown(*path, "holds no certificate"));
        }
        // K3s writes the leaf first. Where somebody turned the order round it is still the leaf that ends.
        let leaf = certificates.iter().find(|c| !c.is_ca).map_or(0, |c| c.index);
        for certificate in certificates {
            if only_index.is_some_and(|wanted| wanted + u64::from(leaf) != u64::from(certificate.index)) {
                continue;
            }
            if leaves_only && (certificate.index != leaf || certificate.is_ca) {
                continue;
            }
            let row = one(ctx, control, &format!("{path}#{}", certificate.index), certificate);
            let detail = format!("{}: {}", certificate.subject, row.observed);
            rows.push(row.with(Evidence::at((*path).to_owned(), detail)));
        }
    }
    if control.expected.op == Op::ValidityDaysAtMost {
        rows.extend(wanted_life(ctx, control));
    }
    for (path, reason) in selection.unreadable {
        rows.push(Row::unknown(path, reason));
    }
    for path in selection.absent {
        if path.contains('*') && !rows.is_empty() {
            continue;
        }
        rows.push(absent(control, path, "does not exist".to_owned()));
    }
    if named {
        for (path, folder) in selection.missing.into_iter().filter(|(path, _)| !path.contains('*')) {
            rows.push(Row::unknown(path, format!("{folder} does not exist")));
        }
    }
    if rows.is_empty() {
        rows.push(Row::unknown(subject(ctx, control), "no certificate was found"));
    }
    rows
}

/// Where all certificates of a node are.
pub(crate) fn node_certificates(ctx: Context<'_>) -> Option<Vec<FilePattern>> {
    let data = &ctx.snap.data_dir;
    let agent = format!("{data}/agent/*.crt");
    let server = ["*.crt", "etcd/*.crt", "kube-scheduler/*.crt", "kube-controller-manager/*.crt", "dynamic-cert.json"];
    Some(match ctx.snap.role? {
        Role::Agent => vec![FilePattern::new(agent)],
        Role::Server => server
            .iter()
            .map(|name| FilePattern::new(format!("{data}/server/tls/{name}")))
            .chain([FilePattern::new(agent)])
            .collect(),
    })
}

fn days(n: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * n)
}

/// Whole days left, rounded down; negative once it has expired.
fn days_left(at: Timestamp, certificate: &CertFacts) -> i64 {
    certificate.not_after.duration_since(at).as_secs().div_euclid(86_400)
}

fn one(ctx: Context<'_>, control: &Control, subject: &str, certificate: &CertFacts) -> Row {
    let at = ctx.snap.at;
    match control.expected.op {
        Op::DaysLeftGe if control.expected.get(Modifier::OlderVersions).is_some() => {
            renewal_window(ctx, control, subject, certificate)
        }
        Op::DaysLeftGe => {
            let limit = control.expected.number().unwrap_or(0);
            let left = days_left(at, certificate);
            let mut words = if left < 0 {
                format!("expired {}", certificate.not_after)
            } else {
                format!("{left} days left, until {}", certificate.not_after)
            };
            let warn = control.expected.get(Modifier::Warn).and_then(serde_json::Value::as_i64);
            if let Some(warn) = warn.filter(|warn| left >= limit && left < *warn) {
                words.push_str(&format!(" (fewer than {warn}: plan its renewal)"));
            }
            Row::pass_if(subject, certificate.not_after.duration_since(at) >= days(limit), words)
        }
        Op::NotBeforeLeNow => {
            let tolerance = control.expected.list(Modifier::Tolerance).first().and_then(|t| seconds(t)).unwrap_or(0.0);
            let early = certificate.not_before.duration_since(at).as_secs_f64();
            Row::pass_if(subject, early <= tolerance, format!("valid from {}", certificate.not_before))
        }
        Op::ValidityDaysAtMost => {
            let limit = control.expected.number().unwrap_or(0);
            let validity = certificate.not_after.duration_since(certificate.not_before);
            let words = format!("valid for {} days", validity.as_secs().div_euclid(86_400));
            Row::pass_if(subject, validity <= days(limit), words)
        }
        Op::AllOf => strength(subject, certificate),
        other => Row::unknown(subject, format!("op {other:?} does not judge certificates")),
    }
}

/// The life K3s is told to give to new certificates: what is on disk shows it only after the next renewal.
fn wanted_life(ctx: Context<'_>, control: &Control) -> Option<Row> {
    let setting = ctx.config().ok()?.certificate_days.as_ref()?;
    let subject = "CATTLE_NEW_SIGNED_CERT_EXPIRATION_DAYS";
    let limit = control.expected.number().unwrap_or(0);
    let row = match setting.value.parse::<i64>() {
        Ok(days) => Row::pass_if(subject, days <= limit, format!("new certificates get {days} days")),
        // K3s takes its own year then.
        Err(_) => Row::new(subject, Status::Pass, "no whole number, so K3s gives a year"),
    };
    Some(row.with(setting.evidence.clone()))
}

/// K3s renews only at a start inside the window: 120 days, 90 before the patches of May 2025.
fn renewal_window(ctx: Context<'_>, control: &Control, subject: &str, certificate: &CertFacts) -> Row {
    let new = control.expected.number().unwrap_or(120);
    let old = control.expected.get(Modifier::OlderVersions).and_then(serde_json::Value::as_i64).unwrap_or(new);
    let remaining = certificate.not_after.duration_since(ctx.snap.at);
    let left = days_left(ctx.snap.at, certificate);
    let words = format!("{left} days left");
    if remaining >= days(new) {
        return Row::new(subject, Status::Pass, words);
    }
    let window = match version(ctx.snap.k3s_version.as_deref()) {
        Some(version) if has_long_window(version) => new,
        Some(_) => old,
        None if remaining < days(old) => new,
        None => {
            return Row::unknown(
                subject,
                format!("{words}; the version of K3s, and so its renewal window, is not known"),
            );
        }
    };
    if remaining >= days(window) {
        return Row::new(subject, Status::Pass, words);
    }
    let Some(started) = ctx.snap.k3s_started_at.value() else {
        return Row::unknown(
            subject,
            format!("{words}, inside the renewal window, and the start time of K3s is not known"),
        );
    };
    let opened = certificate.not_after.saturating_sub(days(window)).unwrap_or(certificate.not_after);
    let why = if certificate.not_after.duration_since(certificate.not_before) <= days(window) {
        "it was made for no longer than that, so K3s makes it anew at every start"
    } else if *started < opened {
        "a restart of K3s renews it"
    } else {
        "K3s was restarted inside the window and did not renew it: look at its log"
    };
    Row::new(subject, Status::Fail, format!("{words}, inside the renewal window of {window} days; {why}"))
}

/// Whether a version has the window of 120 days (1.30.13, 1.31.9, 1.32.5, 1.33.1 and later).
fn has_long_window(version: (u32, u32, u32)) -> bool {
    match version {
        (1, 30, patch) => patch >= 13,
        (1, 31, patch) => patch >= 9,
        (1, 32, patch) => patch >= 5,
        (1, 33, patch) => patch >= 1,
        (major, minor, _) => (major, minor) > (1, 33),
    }
}

fn strength(subject: &str, certificate: &CertFacts) -> Row {
    let signature = certificate.signature.to_ascii_lowercase();
    if signature.contains("sha1") || signature.contains("md5") {
        return Row::new(subject, Status::Fail, format!("signed with {}", certificate.signature));
    }
    if signature.is_empty() {
        return Row::unknown(subject, "the signature algorithm is not known");
    }
    match &certificate.key {
        PublicKeyKind::Rsa { bits } => Row::pass_if(subject, *bits >= 2048, format!("RSA {bits} bits")),
        PublicKeyKind::Ec { bits } => Row::pass_if(subject, *bits >= 256, format!("EC {bits} bits")),
        PublicKeyKind::Ed25519 => Row::new(subject, Status::Pass, "Ed25519"),
        PublicKeyKind::Other(oid) => Row::unknown(subject, format!("a key of an unknown kind ({oid})")),
    }
}

/// The first certificates of these files have different keys: one row a file. While one of them cannot be read, none
/// of the others can be told apart from it.
pub(crate) fn distinct(ctx: Context<'_>, files: &[String]) -> Vec<Row> {
    let first = |path: &String| -> Result<&CertFacts, String> {
        match ctx.snap.certificates.get(path) {
            Some(Observation::Value { value }) => {
                value.iter().find(|c| c.index == 0).ok_or_else(|| format!("{path} holds no certificate"))
            }
            other => Err(why_not(path, other)),
        }
    };
    let keys: Vec<(&String, Result<&CertFacts, String>)> = files.iter().map(|path| (path, first(path))).collect();
    let blind = keys.iter().find_map(|(_, key)| key.as_ref().err()).cloned();
    keys.iter()
        .map(|(path, key)| {
            let key = match key {
                Err(reason) => return Row::unknown(path.as_str(), reason.clone()),
                Ok(key) => key,
            };
            let twin = keys.iter().find(|(other, found)| {
                other != path && found.as_ref().is_ok_and(|found| found.key_sha256 == key.key_sha256)
            });
            let evidence = Evidence::at((*path).clone(), format!("key {}", key.key_sha256));
            match (twin, &blind) {
                (Some((other, _)), _) => {
                    Row::new(path.as_str(), Status::Fail, format!("has the same key as {other}")).with(evidence)
                }
                (None, Some(reason)) => Row::unknown(path.as_str(), reason.clone()).with(evidence),
                (None, None) => Row::new(path.as_str(), Status::Pass, "a key of its own").with(evidence),
            }
        })
        .collect()
}
