//! Tables for a person.

use std::io::{self, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use picket_model::{Evidence, Severity, Status, Verdict};

use super::Report;
use super::text::{printable, short};

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

    let mut rows: Vec<&Verdict> =
        report.verdicts.iter().filter(|v| matches!(v.status, Status::Fail | Status::Unknown)).collect();
    rows.sort_by(|a, b| {
        (b.status.weight(), b.severity).cmp(&(a.status.weight(), a.severity)).then_with(|| a.control.cmp(&b.control))
    });
    if !rows.is_empty() {
        writeln!(out)?;
        let mut table = table(style, &["STATUS", "SEVERITY", "CONTROL", "SUBJECT", "SEEN", "WANTED", "WHERE"]);
        for v in &rows {
            table.add_row([
                style.paint(status_colour(v.status), v.status.as_str()),
                style.paint(severity_colour(v.severity), v.severity.as_str()),
                v.control.clone(),
                printable(&v.subject),
                short(&printable(&v.observed), 160),
                short(&printable(&v.expected), 120),
                v.evidence.first().map(place).unwrap_or_default(),
            ]);
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
    let s = report.summary();
    writeln!(
        out,
        "\nControls: {} pass, {} fail, {} unknown, {} not applicable, {} manual (all rows: -o json or -o csv)",
        s.pass, s.fail, s.unknown, s.not_applicable, s.manual
    )
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
