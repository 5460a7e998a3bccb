//! Certificates as files: their order, their keys, what was left behind, and what is served instead. Who signed them:
//! `judge_chains`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use picket_model::{Evidence, Observation, Role, Status};

use crate::catalogue::{Control, Op};
use crate::context::{Context, NO_ROLE};
use crate::judge_chains;
use crate::judge_files::{select, subject};
use crate::judge_flags::why_not;
use crate::judge_x509::node_certificates;
use crate::needs::FilePattern;
use crate::node_config::NodeConfig;
use crate::row::Row;
use crate::snapshot::{CertFacts, CertSource, ServedFacts};

/// The kubeconfig K3s makes for administrators: CA, certificate and key stand in it.
pub(crate) const KUBECONFIG: &str = "/etc/rancher/k3s/k3s.yaml";

/// Whether an op is judged here.
pub(crate) const fn is_mine(op: Op) -> bool {
    matches!(
        op,
        Op::LeafFirst
            | Op::IssuedByNext
            | Op::SignedByCa
            | Op::MatchesKey
            | Op::NoCaKeys
            | Op::NoKeysInBackups
            | Op::Served
    )
}

/// Judges a control of which [`is_mine`] is true.
pub(crate) fn judge(ctx: Context<'_>, control: &Control) -> Vec<Row> {
    let embedded: Vec<FilePattern> =
        if ctx.snap.role == Some(Role::Server) { vec![FilePattern::new(KUBECONFIG)] } else { Vec::new() };
    let rows = match control.expected.op {
        Op::LeafFirst => each(ctx, &[], leaf_first),
        Op::IssuedByNext => each(ctx, &[], judge_chains::in_bundle),
        Op::SignedByCa => each(ctx, &embedded, |path, list| judge_chains::by_ca(ctx, path, list)),
        Op::MatchesKey => each(ctx, &embedded, |path, list| matches_key(ctx, path, list)),
        Op::NoCaKeys | Op::NoKeysInBackups => return left_behind(ctx, control),
        Op::Served => return served(ctx, control),
        other => Err(format!("op {other:?} does not judge files of certificates")),
    };
    match rows {
        Err(reason) => vec![Row::unknown(subject(ctx, control), reason)],
        Ok(rows) if rows.is_empty() && control.expected.op == Op::IssuedByNext => {
            let words = "no file holds more than one certificate";
            vec![Row::new(subject(ctx, control), Status::NotApplicable, words)]
        }
        Ok(rows) if rows.is_empty() => vec![Row::unknown(subject(ctx, control), "no certificate was found")],
        Ok(rows) => rows,
    }
}

/// Whether a file is that of an authority, by K3s' names.
pub(crate) fn is_ca_file(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|name| name.contains("-ca."))
}

/// One row for each file of certificates that gives one, these besides. What cannot be read is `unknown`.
fn each(
    ctx: Context<'_>,
    besides: &[FilePattern],
    look: impl Fn(&str, &[CertFacts]) -> Option<Row>,
) -> Result<Vec<Row>, String> {
    let mut patterns = node_certificates(ctx).ok_or(NO_ROLE)?;
    patterns.extend_from_slice(besides);
    let selection = select(ctx, &patterns);
    if selection.no_source() {
        return Err(match selection.missing.first() {
            Some((_, folder)) => format!("{folder} does not exist"),
            None => "nothing to look at".to_owned(),
        });
    }
    let mut rows = Vec::new();
    for (path, _) in &selection.found {
        match ctx.snap.certificates.get(*path) {
            Some(Observation::Value { value }) if value.is_empty() => {
                rows.push(Row::unknown(*path, "holds no certificate"));
            }
            Some(Observation::Value { value }) => rows.extend(look(path, value)),
            other => rows.push(Row::unknown(*path, why_not(path, other))),
        }
    }
    if selection.found.is_empty() && selection.unreadable.is_empty() {
        return Err("no certificate was found".to_owned());
    }
    rows.extend(selection.unreadable.into_iter().map(|(path, reason)| Row::unknown(path, reason)));
    Ok(rows)
}

fn leaf_first(path: &str, list: &[CertFacts]) -> Option<Row> {
    if is_ca_file(path) {
        return None;
    }
    let first = list.first()?;
    let words = match (first.is_ca, list.iter().find(|c| !c.is_ca)) {
        (false, _) => return Some(told(path, Status::Pass, format!("{} first, of {}", first.subject, list.len()))),
        (true, Some(leaf)) => format!("the CA {} stands first, the leaf {} behind it", first.subject, leaf.subject),
        (true, None) => format!("holds no certificate of its own, only the CA {}", first.subject),
    };
    Some(told(path, Status::Fail, words))
}

pub(crate) fn told(path: &str, status: Status, words: String) -> Row {
    Row::new(path, status, words.clone()).with(Evidence::at(path.to_owned(), words))
}

/// The first certificate of a file and the key beside it, or inside it.
fn matches_key(ctx: Context<'_>, path: &str, list: &[CertFacts]) -> Option<Row> {
    let embedded = |c: &&CertFacts| c.source == CertSource::Kubeconfig;
    let certificate = match list.iter().find(embedded) {
        // The CA stands before it.
        Some(_) => list.iter().find(|c| !c.is_ca)?,
        None => list.first()?,
    };
    let key_path = match path.strip_suffix(".crt") {
        // K3s writes these beside the CA, for its own use and without a key.
        Some(stem) if stem.ends_with(".nochain") => return None,
        Some(stem) => format!("{stem}.key"),
        None => path.to_owned(),
    };
    let key = match ctx.snap.keys.get(&key_path) {
        Some(Observation::Value { value }) => value,
        // An agent has copies of the CAs, and not their keys.
        Some(Observation::Absent) if certificate.is_ca => return None,
        Some(Observation::Absent) => return Some(Row::unknown(path, format!("{key_path} does not exist"))),
        other => return Some(Row::unknown(path, why_not(&key_path, other))),
    };
    let good = key.key_sha256 == certificate.key_sha256;
    let words = if good { "fits its key" } else { "belongs to another key than the one beside it" };
    let status = if good { Status::Pass } else { Status::Fail };
    let row = Row::new(path, status, words);
    Some(
        row.with(Evidence::at(path.to_owned(), format!("public key {}", certificate.key_sha256)))
            .with(Evidence::at(key_path, format!("public key {} (derived)", key.key_sha256))),
    )
}

/// Files that should not be there: one row a folder.
fn left_behind(ctx: Context<'_>, control: &Control) -> Vec<Row> {
    let patterns: Vec<FilePattern> = control.what.iter().map(|what| FilePattern::new(ctx.path(what))).collect();
    let selection = select(ctx, &patterns);
    let mut folders: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (path, _) in &selection.found {
        if let Some((folder, name)) = path.rsplit_once('/') {
            folders.entry(folder).or_default().push(name);
        }
    }
    let mut rows: Vec<Row> = folders
        .into_iter()
        .map(|(folder, names)| {
            let words = match names.as_slice() {
                [one] => format!("holds the private key {one}"),
                many => format!("holds {} private keys", many.len()),
            };
            let row = Row::new(folder, Status::Fail, words);
            row.with_all(names.iter().take(8).map(|name| Evidence::at(format!("{folder}/{name}"), "a private key")))
        })
        .collect();
    rows.extend(selection.unreadable.into_iter().map(|(path, reason)| Row::unknown(path, reason)));
    if !rows.is_empty() {
        return rows;
    }
    let name = subject(ctx, control);
    if selection.absent.is_empty() {
        let folder = selection.missing.into_iter().next().map(|(_, folder)| folder).unwrap_or_default();
        return vec![Row::unknown(name, format!("{folder} does not exist"))];
    }
    let looked = selection.absent.into_iter().map(|path| Evidence::at(path, "not there"));
    vec![Row::new(name, Status::Pass, "no such key").with_all(looked)]
}

/// Ports on loopback and the file whose first certificate each serves. K3s moves 6443 and 6444 with
/// `https-listen-port`; the load balancer of an agent on 6444 passes the port of a server through and is left out.
pub fn serving_ports(role: Role, data_dir: &str, config: Option<&NodeConfig>) -> Vec<(u16, String)> {
    let tls = format!("{data_dir}/server/tls");
    let kubelet = (10250, format!("{data_dir}/agent/serving-kubelet.crt"));
    if role == Role::Agent {
        return vec![kubelet];
    }
    let https = config
        .and_then(|c| c.option("https-listen-port"))
        .and_then(|s| s.value.parse::<u16>().ok())
        .filter(|port| (1..u16::MAX).contains(port))
        .unwrap_or(6443);
    let flag = config.and_then(|c| c.components.get("kube-apiserver")?.get("secure-port"));
    let secure = match flag.map(|flag| flag.possible.as_slice()) {
        Some([values]) => values.last().and_then(|s| s.value.parse::<u16>().ok()),
        _ => None,
    };
    vec![
        (https, format!("{tls}/dynamic-cert.json")),
        (secure.unwrap_or(https.saturating_add(1)), format!("{tls}/serving-kube-apiserver.crt")),
        (2379, format!("{tls}/etcd/server-client.crt")),
        kubelet,
        (10257, format!("{tls}/kube-controller-manager/kube-controller-manager.crt")),
        (10259, format!("{tls}/kube-scheduler/kube-scheduler.crt")),
    ]
}

/// Whether a port serves what stands in a file (hash and validity of its first certificate), and in words how the two
/// differ.
pub fn compare_served(
    served: &ServedFacts,
    sha256: &str,
    not_before: Timestamp,
    not_after: Timestamp,
) -> (bool, String) {
    if served.sha256 == sha256 {
        return (true, format!("serves what is on disk, valid until {}", served.not_after));
    }
    let words = if not_before > served.not_before {
        format!(
            "serves an older certificate (until {}) than the file holds (until {}): a restart of K3s takes it into use",
            served.not_after, not_after
        )
    } else {
        format!(
            "serves another certificate ({}, until {}) than the file holds (until {})",
            served.subject, served.not_after, not_after
        )
    };
    (false, words)
}

fn served(ctx: Context<'_>, control: &Control) -> Vec<Row> {
    let name = subject(ctx, control);
    let Some(role) = ctx.snap.role else { return vec![Row::unknown(name, NO_ROLE)] };
    if ctx.snap.rooted {
        return vec![Row::unknown(name, "a folder that stands for a node serves nothing")];
    }
    match &ctx.snap.k3s_started_at {
        Observation::Value { .. } => {}
        Observation::Absent => {
            let words = "K3s does not run, so nothing is served";
            return vec![Row::new(name, Status::NotApplicable, words)];
        }
        Observation::Unreadable { reason } => return vec![Row::unknown(name, reason.clone())],
    }
    let mut rows = Vec::new();
    for (port, path) in serving_ports(role, &ctx.snap.data_dir, ctx.config().ok()) {
        let subject = format!("127.0.0.1:{port}");
        let seen = match ctx.snap.served.get(&port) {
            Some(Observation::Absent) => continue,
            Some(Observation::Value { value }) => value,
            other => {
                rows.push(Row::unknown(subject.as_str(), why_not(&subject, other)));
                continue;
            }
        };
        let file = match ctx.snap.certificates.get(&path) {
            Some(Observation::Value { value }) => value.first(),
            // Something else may listen there: K3s does not make this file on every node.
            Some(Observation::Absent) | None if matches!(ctx.snap.files.get(&path), Some(Observation::Absent)) => {
                continue;
            }
            other => {
                rows.push(Row::unknown(subject, why_not(&path, other)));
                continue;
            }
        };
        let Some(file) = file else {
            rows.push(Row::unknown(subject, format!("{path} holds no certificate")));
            continue;
        };
        let (good, words) = compare_served(seen, &file.sha256, file.not_before, file.not_after);
        let status = if good { Status::Pass } else { Status::Fail };
        rows.push(
            Row::new(subject, status, words)
                .with(Evidence::note(format!("served: {}", seen.sha256)))
                .with(Evidence::at(path, format!("on disk: {}", file.sha256))),
        );
    }
    if rows.is_empty() {
        rows.push(Row::unknown(name, "K3s runs, and none of its ports answers on 127.0.0.1"));
    }
    rows
}
