//! `picketd audit`: replays audit logs through the detections.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use jiff::Timestamp;
use picket_audit::{Detector, Replay, Settings, first_time};
use picket_model::{Detection, Severity};
use serde_json::{Value, json};

use super::rules::{self as rules_command, Folder};
use crate::cli::{Failure, Outcome};
use crate::report::table::{self, Style};
use crate::report::text::printable;
use crate::rules;

/// Options of `picketd audit`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Audit logs, rotated and gzipped ones too, in any order; - is standard input
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    pub output: Form,
    /// Leave out events before this moment (RFC 3339)
    #[arg(long, value_name = "RFC3339")]
    pub since: Option<Timestamp>,
    /// Leave out events after this moment (RFC 3339)
    #[arg(long, value_name = "RFC3339")]
    pub until: Option<Timestamp>,
    /// Only this rule; may be given several times
    #[arg(long = "rule", value_name = "ID")]
    pub rules: Vec<String>,
    /// Say for each detection which fields made the rule match
    #[arg(long)]
    pub explain: bool,
    /// End with exit code 1 if anything of this severity or above is found (info, low, medium, high, critical)
    #[arg(long, value_name = "SEVERITY")]
    pub fail_on: Option<Severity>,
    /// The site's rules, which run too
    #[command(flatten)]
    pub folder: Folder,
}

impl Args {
    /// These files, and nothing else said.
    pub fn of(files: Vec<PathBuf>, output: Form) -> Self {
        Self {
            files,
            output,
            since: None,
            until: None,
            rules: Vec::new(),
            explain: false,
            fail_on: None,
            folder: Folder { rules_dir: rules::DEFAULT_DIR.into() },
        }
    }
}

/// Forms of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// For a person, with a summary per rule.
    Table,
    /// One JSON object a line, one line a detection.
    Json,
}

/// Runs the command. The summary of what was read goes to standard error.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Args, out: &mut dyn Write) -> Result<Outcome, Failure> {
    replay(detector(args)?, args, out)
}

/// Runs the files of `args` through a detector.
///
/// # Errors
/// [`Failure`].
pub fn replay(mut detector: Detector, args: &Args, out: &mut dyn Write) -> Result<Outcome, Failure> {
    if args.explain {
        detector.explain();
    }
    let mut replay = Replay::new(detector, args.since, args.until);
    let mut broken = Vec::new();
    for path in in_order(&args.files, &mut broken) {
        if let Err(error) = read(&mut replay, &path) {
            broken.push((path, error));
        }
    }
    let detections = replay.finish();
    match args.output {
        Form::Json => json_lines(&replay, &detections, args.explain, out),
        Form::Table => table(&replay, &detections, args.explain, Style::of_stdout(), out),
    }
    .map_err(Failure::output)?;
    out.flush().map_err(Failure::output)?;
    summary(&replay, detections.len());
    if let Some((path, error)) = broken.into_iter().next() {
        let what = format!("{} could not be read to its end; what came before was judged", path.display());
        return Err(Failure::failed(what, error));
    }
    Ok(match args.fail_on {
        Some(limit) if detections.iter().any(|detection| detection.severity >= limit) => Outcome::Findings,
        _ => Outcome::Clean,
    })
}

fn detector(args: &Args) -> Result<Detector, Failure> {
    let mut library = rules::of_folder(args.folder.existing()?)
        .map_err(|error| Failure::failed("cannot load the detections", error))?;
    rules_command::tell(&library.notices);
    let rules = &mut library.rules;
    for wanted in &args.rules {
        if !rules.iter().any(|rule| rule.id == *wanted) {
            let near: Vec<_> =
                rules.iter().map(|rule| rule.id.as_str()).filter(|id| id.contains(wanted.as_str())).take(8).collect();
            let hint = if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(", ")) };
            return Err(Failure::Usage(format!("--rule {wanted}: no such rule{hint}")));
        }
    }
    if !args.rules.is_empty() {
        library.keep_only(|rule| args.rules.contains(&rule.id));
    }
    Ok(rules::detector(&library, Settings::replay()))
}

/// Files by the time of their first event, so that a rotated log is read as it was written.
fn in_order(files: &[PathBuf], broken: &mut Vec<(PathBuf, io::Error)>) -> Vec<PathBuf> {
    let mut dated = Vec::new();
    for path in files {
        if path.as_os_str() == "-" {
            dated.push((None, path.clone()));
            continue;
        }
        match File::open(path).and_then(first_time) {
            Ok(time) => dated.push((time, path.clone())),
            // A gzip that is broken from its first byte on shows here.
            Err(error) => broken.push((path.clone(), error)),
        }
    }
    if dated.iter().all(|(time, _)| time.is_some()) {
        dated.sort_by_key(|(time, _)| *time);
    }
    dated.into_iter().map(|(_, path)| path).collect()
}

fn read(replay: &mut Replay, path: &PathBuf) -> io::Result<()> {
    let name = path.to_string_lossy().into_owned();
    let terminal = io::stderr().is_terminal();
    let progress = |bytes: u64| {
        if terminal {
            eprint!("\r{name}: {} MB", bytes / 1_000_000);
        }
    };
    let done = if name == "-" {
        replay.read("-", io::stdin().lock(), progress)
    } else {
        replay.read(&name, File::open(path)?, progress)
    };
    if terminal {
        eprint!("\r\u{1b}[K");
    }
    done
}

fn json_lines(replay: &Replay, detections: &[Detection], explain: bool, out: &mut dyn Write) -> io::Result<()> {
    for detection in detections {
        let mut line = serde_json::to_value(detection)?;
        if let Value::Object(fields) = &mut line {
            // Scripts may rely on these being there.
            for field in ["impersonated", "source", "code"] {
                fields.entry(field).or_insert(Value::Null);
            }
            // A log without any event has no time.
            if detection.time == Timestamp::UNIX_EPOCH {
                fields.insert("time".into(), Value::Null);
                fields.insert("last_time".into(), Value::Null);
            }
            if explain {
                fields.insert("why".into(), json!(replay.detector().reasons(detection)));
            }
        }
        serde_json::to_writer(&mut *out, &line)?;
        writeln!(out)?;
    }
    Ok(())
}

fn table(
    replay: &Replay,
    detections: &[Detection],
    explain: bool,
    style: Style,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut header = vec!["TIME", "SEVERITY", "RULE", "WHO", "FROM", "VERB", "OBJECT", "OUTCOME", "COUNT", "WHERE"];
    if explain {
        header.push("WHY");
    }
    let mut rows = table::table(style, &header);
    let mut by_rule: BTreeMap<&str, (Severity, u64, u64)> = BTreeMap::new();
    for detection in detections {
        let sum = by_rule.entry(&detection.rule).or_insert((detection.severity, 0, 0));
        *sum = (sum.0.max(detection.severity), sum.1 + 1, sum.2 + detection.count);
        let mut row = vec![
            // A log without any event has no time.
            if detection.time == Timestamp::UNIX_EPOCH { "-".to_owned() } else { detection.time.to_string() },
            detection.severity.to_string(),
            detection.rule.clone(),
            printable(&who(detection)),
            printable(detection.source.as_deref().unwrap_or("")),
            printable(&detection.verb),
            printable(&object(detection)),
            detection.outcome.clone(),
            detection.count.to_string(),
            format!("{}:{}", printable(&detection.file), detection.line),
        ];
        if explain {
            let why: Vec<_> = replay
                .detector()
                .reasons(detection)
                .iter()
                .map(|reason| match &reason.value {
                    Some(value) => format!("{}={value}", reason.field),
                    None => reason.field.clone(),
                })
                .collect();
            row.push(printable(&why.join(" ")));
        }
        rows.add_row(row);
    }
    if detections.is_empty() {
        writeln!(out, "nothing was detected")?;
        return Ok(());
    }
    table::print(&rows, out)?;
    writeln!(out)?;
    let mut sums: Vec<_> = by_rule.into_iter().collect();
    sums.sort_by(|a, b| (b.1.0, b.1.2).cmp(&(a.1.0, a.1.2)).then(a.0.cmp(b.0)));
    let mut rows = table::table(style, &["RULE", "SEVERITY", "DETECTIONS", "REQUESTS"]);
    for (rule, (severity, detections, requests)) in sums {
        rows.add_row([rule.to_owned(), severity.to_string(), detections.to_string(), requests.to_string()]);
    }
    table::print(&rows, out)
}

fn who(detection: &Detection) -> String {
    // What the log itself shows is nobody's request.
    let nobody = if detection.audit_id.is_empty() && detection.verb.is_empty() { "" } else { "(not authenticated)" };
    let user = if detection.user.is_empty() { nobody } else { &detection.user };
    match &detection.impersonated {
        Some(imp) => format!("{user} as {imp}"),
        None => user.to_owned(),
    }
}

fn object(detection: &Detection) -> String {
    let object = &detection.object;
    let mut text = object.resource.clone();
    if !object.subresource.is_empty() {
        text = format!("{text}/{}", object.subresource);
    }
    for part in [&object.namespace, &object.name] {
        if !part.is_empty() {
            text = format!("{text} {part}");
        }
    }
    text
}

fn summary(replay: &Replay, detections: usize) {
    let counters = replay.detector().counters();
    eprintln!("{} events read, {} matches, {detections} detections", counters.events, counters.matches);
    if replay.outside() > 0 {
        eprintln!("{} events outside the time asked for", replay.outside());
    }
    if replay.unfinished() > 0 {
        eprintln!("{} files end in the middle of a line, which is left alone", replay.unfinished());
    }
    if counters.evicted > 0 {
        eprintln!("{} windows were closed early to bound memory", counters.evicted);
    }
    if counters.facts_evicted > 0 {
        let facts = counters.facts_evicted;
        eprintln!(
            "{facts} facts of objects were forgotten to bound memory, so later changes had nothing to compare with"
        );
    }
    if replay.unreadable_count() > 0 {
        eprintln!("{} lines are no audit events and were not judged:", replay.unreadable_count());
        for line in replay.unreadable() {
            eprintln!("  {}:{}: {}", line.file, line.line, line.what);
        }
        let more = replay.unreadable_count().saturating_sub(replay.unreadable().len() as u64);
        if more > 0 {
            eprintln!("  and {more} more");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(output: Form) -> Args {
        let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/audit/k3s-real/audit.log.gz");
        Args {
            rules: vec!["impersonation-privileged".into()],
            explain: true,
            fail_on: Some(Severity::High),
            ..Args::of(vec![PathBuf::from(fixtures)], output)
        }
    }

    #[test]
    fn a_gzipped_log_gives_one_json_object_a_line_with_the_promised_fields() {
        let mut out = Vec::new();
        assert_eq!(run(&args(Form::Json), &mut out).expect("run"), Outcome::Findings);
        let text = String::from_utf8(out).expect("text");
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert!(!lines.is_empty());
        for line in &lines {
            for field in [
                "rule",
                "severity",
                "title",
                "file",
                "line",
                "audit_id",
                "audit_ids",
                "user",
                "impersonated",
                "source",
                "time",
                "count",
                "mitre",
                "why",
            ] {
                assert!(line.get(field).is_some(), "{field} is missing in {line}");
            }
        }
        assert!(lines.iter().any(|line| line["user"] == "bob" && line["impersonated"] == "system:admin"));
    }

    #[test]
    fn the_table_ends_with_a_summary_per_rule() {
        let mut out = Vec::new();
        run(&args(Form::Table), &mut out).expect("run");
        let text = String::from_utf8(out).expect("text");
        assert!(text.contains("DETECTIONS"), "{text}");
        assert!(text.contains("bob as system:admin"), "{text}");
    }

    #[test]
    fn a_rule_that_is_none_is_wrong_use_and_a_missing_file_could_not_be_done() {
        let wrong = Args { rules: vec!["impersonation".into()], ..args(Form::Json) };
        let failure = run(&wrong, &mut Vec::new()).expect_err("no such rule");
        assert_eq!(failure.exit_code(), 2);
        assert!(failure.to_string().contains("impersonation-privileged"), "{failure}");
        let missing = Args { files: vec!["/nonexistent/audit.log".into()], ..args(Form::Json) };
        assert_eq!(run(&missing, &mut Vec::new()).expect_err("no file").exit_code(), 3);
    }
}
