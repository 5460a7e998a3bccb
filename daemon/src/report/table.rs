//! Tables for a person.

use std::io::{self, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use picket_model::{Evidence, Severity, State, Status, Verdict};

use super::benchmark::Benchmark;
use super::text::{printable, short};
use super::{Report, Summary};

/// How a table is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Style {
    /// Whether colours are used.
    pub colour: bool,
    /// Columns of the terminal; none in a pipe, where nothing is wrapped or cut.
    pub width: Option<u16>,
}

impl Style {
    /// As standard output and the environment want it: colour only on a terminal, and never with `NO_COLOR`.
    pub fn of_stdout() -> Self {
        let terminal = io::stdout().is_terminal();
        let forbidden = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
            || std::env::var_os("TERM").is_some_and(|v| v == "dumb");
        let width = terminal
            .then(|| std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok()).or_else(terminal_width).unwrap_or(120));
        Self { colour: terminal && !forbidden, width }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

fn terminal_width() -> Option<u16> {
    rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| size.ws_col).filter(|columns| *columns > 0)
}

/// An empty table with a header.
pub fn table(style: Style, header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    match style.width {
        Some(width) => {
            table.set_content_arrangement(ContentArrangement::Dynamic);
            table.set_width(width);
        }
        None => {
            table.set_content_arrangement(ContentArrangement::Disabled);
        }
    }
    table.set_header(header.to_vec());
    table
}

/// Prints a table without blanks at the ends of lines.
///
/// # Errors
/// When `out` cannot be written.
pub fn print(table: &Table, out: &mut dyn Write) -> io::Result<()> {
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end().strip_prefix(' ').unwrap_or(line.trim_end()))?;
    }
    Ok(())
}

/// The verdicts that ask for something, worst first, then what the rest came to.
pub(super) fn scan(report: &Report, style: Style, out: &mut dyn Write) -> io::Result<()> {
    let node = &report.node;
    let role = node.info.role.map_or("role not known", |r| r.as_str());
    let version = node.info.k3s_version.as_deref().unwrap_or("K3s version not known");
    let name = if node.info.hostname.is_empty() { "(no host name)" } else { &node.info.hostname };
    writeln!(out, "{}  {role}  {version}  {}", printable(name), node.at)?;

    let of_number = |v: &Verdict| report.benchmark.as_ref().and_then(|version| v.cis.get(version)).cloned();
    let mut rows: Vec<&Verdict> = report
        .rows()
        .filter(|(v, waived)| waived.is_none() && matches!(v.status, Status::Fail | Status::Unknown))
        .map(|(v, _)| v)
        .collect();
    rows.sort_by(|a, b| {
        (b.status.weight(), b.severity).cmp(&(a.status.weight(), a.severity)).then_with(|| a.control.cmp(&b.control))
    });
    if !rows.is_empty() {
        writeln!(out)?;
        let mut header = vec!["STATUS", "SEVERITY", "CONTROL", "SUBJECT", "SEEN", "WANTED", "WHERE"];
        if report.benchmark.is_some() {
            header.insert(0, "CIS");
        }
        let mut table = table(style, &header);
        for v in &rows {
            let mut cells = vec![
                style.paint(status_colour(v.status), v.status.as_str()),
                style.paint(severity_colour(v.severity), v.severity.as_str()),
                v.control.clone(),
                printable(&v.subject),
                short(&printable(&v.observed), 160),
                short(&printable(&v.expected), 120),
                v.evidence.first().map(place).unwrap_or_default(),
            ];
            if report.benchmark.is_some() {
                cells.insert(0, of_number(v).unwrap_or_else(|| "-".to_owned()));
            }
            table.add_row(cells);
        }
        print(&table, out)?;
    }
    let failed: std::collections::BTreeMap<&str, &Verdict> =
        rows.iter().filter(|v| v.status == Status::Fail).map(|v| (v.control.as_str(), *v)).collect();
    if !failed.is_empty() {
        writeln!(out, "\nWhat to do:")?;
        for (control, verdict) in failed {
            writeln!(out, "  {control}: {}", printable(&verdict.remedy))?;
        }
    }
    if !report.waived.is_empty() {
        writeln!(out, "\nWaived:")?;
        for (v, waived) in report.rows().filter_map(|(v, waived)| Some((v, waived?))) {
            let (status, subject) = (v.status, printable(&v.subject));
            writeln!(
                out,
                "  {} {subject} ({status}) until {}: {}",
                v.control,
                waived.expires,
                printable(&waived.reason)
            )?;
        }
    }
    if let Some(benchmark) = Benchmark::of(report) {
        sections(&benchmark, style, out)?;
    }
    let next_start = |v: &&Verdict| v.status == Status::Pass && v.state == Some(State::Declared);
    let unproved = report.verdicts.iter().filter(next_start).count();
    if unproved > 0 && !node.rooted {
        writeln!(
            out,
            "\n{unproved} rows pass by what is on disk: what K3s was started with is not known, because its configuration \
             was changed since or it does not run. Restart K3s, or let picketd watch the node."
        )?;
    }
    let s = report.summary();
    writeln!(
        out,
        "\nControls: {} pass, {} fail, {} unknown, {} not applicable, {} manual (all rows: -o json or -o csv)",
        s.pass, s.fail, s.unknown, s.not_applicable, s.manual
    )
}

/// What each section of a benchmark came to.
fn sections(benchmark: &Benchmark, style: Style, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\nCIS {}, {} controls:", benchmark.version, benchmark.numbers.len())?;
    let mut table = table(style, &["SECTION", "PASS", "FAIL", "UNKNOWN", "NOT APPLICABLE", "MANUAL", "ABOUT"]);
    let row = |name: &str, s: &Summary, about: &str| {
        let counts = [s.pass, s.fail, s.unknown, s.not_applicable, s.manual].map(|n| n.to_string());
        let mut cells = vec![name.to_owned()];
        cells.extend(counts);
        cells.push(about.to_owned());
        cells
    };
    for section in &benchmark.sections {
        table.add_row(row(&section.section, &section.summary, section.title));
    }
    table.add_row(row("all", &benchmark.summary, ""));
    print(&table, out)
}

/// Where something was seen, in one word: `file:line (layer)`.
pub fn place(evidence: &Evidence) -> String {
    let mut text = evidence.path.as_deref().map(printable).unwrap_or_default();
    if let Some(line) = evidence.line {
        text.push_str(&format!(":{line}"));
    }
    if let Some(layer) = &evidence.layer {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&format!("({})", printable(layer)));
    }
    text
}

const fn status_colour(status: Status) -> &'static str {
    match status {
        Status::Fail => "31",
        Status::Unknown => "33",
        Status::Pass => "32",
        Status::Manual | Status::NotApplicable => "2",
    }
}

const fn severity_colour(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical => "1;31",
        Severity::High => "31",
        Severity::Medium => "33",
        Severity::Low | Severity::Info => "2",
    }
}
