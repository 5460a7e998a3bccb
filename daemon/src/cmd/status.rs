//! `picketd status`: how the running daemon is.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp, Unit};

use crate::cli::{Failure, Outcome};
use crate::report::text::printable;
use crate::status::{SOCKET, Status};

/// Largest answer, bytes.
const LARGEST: u64 = 16 << 20;
/// Most places listed in the table.
const MOST_LISTED: usize = 20;

/// Options of `picketd status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the daemon's socket lies
    #[arg(long, value_name = "DIR", env = "PICKET_RUNTIME_DIR", default_value = "/run/picket")]
    runtime_dir: PathBuf,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// For people.
    Table,
    /// One JSON object.
    Json,
}

/// Asks and prints.
///
/// # Errors
/// [`Failure::Failed`] when no daemon answers.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<Outcome, Failure> {
    let path = args.runtime_dir.join(SOCKET);
    let text = ask(&path).map_err(|error| {
        let what = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                format!("no picketd answers on {}; is it running? (systemctl status picketd)", path.display())
            }
            io::ErrorKind::PermissionDenied => {
                format!("{} may be asked by root and the group picket only", path.display())
            }
            _ => format!("picketd does not answer on {}", path.display()),
        };
        Failure::failed(what, error)
    })?;
    if args.output == Form::Json {
        out.write_all(&text).map_err(Failure::output)?;
        return Ok(Outcome::Clean);
    }
    let status: Status =
        serde_json::from_slice(&text).map_err(|e| Failure::failed("the daemon's answer makes no sense", e))?;
    print(&status, out).map_err(Failure::output)?;
    Ok(Outcome::Clean)
}

fn ask(path: &std::path::Path) -> io::Result<Vec<u8>> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut text = Vec::new();
    stream.take(LARGEST).read_to_end(&mut text)?;
    Ok(text)
}

fn ago(at: Option<Timestamp>, now: Option<Timestamp>) -> String {
    let (Some(at), Some(now)) = (at, now) else { return "never".to_owned() };
    let age = now.duration_since(at).max(SignedDuration::ZERO);
    let age = age.round(Unit::Second).unwrap_or(age);
    format!("{at:.0} ({age:#} ago)")
}

fn print(status: &Status, out: &mut dyn Write) -> io::Result<()> {
    let now = status.at;
    let state = &status.state;
    let mut row = |name: &str, value: String| writeln!(out, "{name:<13} {}", printable(&value));
    let node = &state.node;
    let role = node.role.map_or("no K3s found", picket_model::Role::as_str);
    row(
        "node",
        format!("{} ({role}{})", node.hostname, node.k3s_version.as_ref().map_or(String::new(), |v| format!(", {v}"))),
    )?;
    if let Some(root) = &state.root {
        row("root", root.clone())?;
    }
    row("running", format!("picketd {} since {}", node.picket_version, ago(state.started, now)))?;
    row("watching", format!("{} folders, data dir {}", state.folders_watched, state.data_dir))?;
    row("last look", ago(state.last_look, now))?;
    row("full look", ago(state.last_full_look, now))?;
    let severities: Vec<_> =
        status.open_by_severity.iter().rev().map(|(severity, count)| format!("{count} {severity}")).collect();
    let detail = if severities.is_empty() { String::new() } else { format!(" ({})", severities.join(", ")) };
    row("findings", format!("{} open{detail}, {} blind", status.findings_open, status.findings_blind))?;
    let verdicts: Vec<_> = state.verdicts.iter().map(|(status, count)| format!("{count} {status}")).collect();
    row("verdicts", verdicts.join(", "))?;
    let audit = &state.audit;
    row(
        "audit log",
        match (&audit.path, &audit.error) {
            (None, _) if audit.printed => "NOT READ: audit-log-path is -, K3s' own standard output".to_owned(),
            (None, _) => "none configured".to_owned(),
            (Some(path), Some(error)) => format!("{path}: NOT READ: {error}"),
            (Some(path), None) => format!(
                "{path}: {} events, {} detections, {} lines that are no events; last event {}",
                audit.events,
                audit.detections,
                audit.malformed,
                ago(audit.last_event, now)
            ),
        },
    )?;
    for other in &audit.others {
        row("", format!("{other}: no configuration names it any more; it is followed until K3s starts anew"))?;
    }
    for deleted in &audit.deleted {
        row(
            "",
            format!("{deleted}: DELETED while its writer held it open; it is read on until picketd or its writer ends"),
        )?;
    }
    if audit.printed && audit.path.is_some() {
        row("", "another goes to K3s' own standard output (audit-log-path is -) and is not read".to_owned())?;
    }
    if let Some(since) = audit.late_since {
        row("", format!("{} bytes are not read yet; behind its writer since {}", audit.behind, ago(Some(since), now)))?;
    } else if audit.behind > 0 {
        row("", format!("{} bytes are not read yet", audit.behind))?;
    }
    if audit.closed_early + audit.facts_forgotten > 0 {
        let (counts, facts) = (audit.closed_early, audit.facts_forgotten);
        row("", format!("to bound memory, {counts} counts ended before their time and {facts} facts were forgotten"))?;
    }
    row("audit rules", format!("{} in use, {} cannot be used", audit.rules, audit.rule_problems.len()))?;
    for problem in audit.rule_problems.iter().take(MOST_LISTED) {
        row("", problem.clone())?;
    }
    let outbox = &status.outbox;
    row(
        "outbox",
        format!("{} events wait, {} bytes on disk, last number {}", outbox.waiting, outbox.bytes, outbox.last_seq),
    )?;
    if outbox.given_up > 0 {
        row("", format!("{} events were given up; gap events tell of them", outbox.given_up))?;
    }
    if let Some(error) = &outbox.disk_error {
        row("", format!("the disk takes nothing: {error}"))?;
    }
    let link = &status.link;
    match &link.collector {
        None => row("collector", "not enrolled: findings go to the log only (picketd enroll --help)".to_owned())?,
        Some(collector) => {
            let up = match link.connected_since {
                Some(since) => format!("connected since {}", ago(Some(since), now)),
                None => "NOT CONNECTED".to_owned(),
            };
            row("collector", format!("{collector}, {up}"))?;
            row("last contact", ago(link.last_contact, now))?;
            if let (None, Some(error)) = (link.connected_since, &link.last_error) {
                row("", error.clone())?;
            }
            if let Some(ends) = link.certificate_ends {
                row("certificate", format!("until {ends:.0}"))?;
            }
        }
    }
    if state.missed_hints > 0 {
        row("sweeps", format!("{} changes were found by sweeps only", state.missed_hints))?;
    }
    list(
        out,
        "cannot be watched (swept instead)",
        state.folders_unwatched.iter().map(|(p, why)| format!("{p}: {why}")),
    )?;
    list(out, "look half written", state.unsettled.iter().cloned())?;
    list(
        out,
        "cannot be read",
        state.unreadable.iter().map(|u| {
            let reason = u.reason.strip_prefix(&u.place).and_then(|r| r.strip_prefix(": ")).unwrap_or(&u.reason);
            format!("{} {}: {reason}", u.source, u.place)
        }),
    )
}

fn list(out: &mut dyn Write, title: &str, lines: impl ExactSizeIterator<Item = String>) -> io::Result<()> {
    let count = lines.len();
    if count == 0 {
        return Ok(());
    }
    writeln!(out, "\n{count} {title}:")?;
    for line in lines.take(MOST_LISTED) {
        writeln!(out, "  {}", printable(&line))?;
    }
    if count > MOST_LISTED {
        writeln!(out, "  … and {} more: -o json lists all", count - MOST_LISTED)?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn table(status: &Status) -> String {
        let mut out = Vec::new();
        print(status, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_log_that_was_deleted_under_its_writer_is_said() {
        let mut status = Status::default();
        status.state.audit.deleted = vec!["/logs/audit.log".to_owned()];
        assert!(
            table(&status).contains("/logs/audit.log: DELETED while its writer held it open"),
            "{}",
            table(&status)
        );
    }

    #[test]
    fn what_was_given_up_to_bound_memory_is_said() {
        let mut status = Status::default();
        assert!(!table(&status).contains("bound memory"));
        status.state.audit.closed_early = 7;
        status.state.audit.facts_forgotten = 2;
        let told = table(&status);
        assert!(told.contains("7 counts ended before their time and 2 facts were forgotten"), "{told}");
    }
}
