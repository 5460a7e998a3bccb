//! JUnit XML: a control is a test class, a subject a test case.

use std::io::{self, Write};

use picket_model::{Status, Verdict};

use super::Report;
use super::table::place;

/// Prints the report.
pub(super) fn print(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let count = |status: Status| report.verdicts.iter().filter(|v| v.status == status).count();
    let skipped = count(Status::NotApplicable) + count(Status::Manual);
    writeln!(out, r#"<?xml version="1.0" encoding="UTF-8"?>"#)?;
    writeln!(out, "<testsuites>")?;
    writeln!(
        out,
        r#"  <testsuite name="picketd scan" hostname="{}" timestamp="{}" tests="{}" failures="{}" errors="{}" skipped="{skipped}">"#,
        escape(&report.node.info.hostname),
        report.node.at,
        report.verdicts.len(),
        count(Status::Fail),
        count(Status::Unknown),
    )?;
    for verdict in &report.verdicts {
        case(verdict, out)?;
    }
    writeln!(out, "  </testsuite>")?;
    writeln!(out, "</testsuites>")
}

fn case(v: &Verdict, out: &mut dyn Write) -> io::Result<()> {
    write!(out, r#"    <testcase classname="{}" name="{}""#, escape(&v.control), escape(&v.subject))?;
    let (element, kind) = match v.status {
        Status::Pass => return writeln!(out, "/>"),
        Status::Fail => ("failure", v.severity.as_str()),
        Status::Unknown => ("error", "unknown"),
        Status::NotApplicable | Status::Manual => {
            return writeln!(out, "><skipped message=\"{}: {}\"/></testcase>", v.status, escape(&v.observed));
        }
    };
    writeln!(out, ">")?;
    writeln!(out, r#"      <{element} type="{kind}" message="{}">"#, escape(&v.title))?;
    writeln!(out, "seen: {}", escape(&v.observed))?;
    writeln!(out, "wanted: {}", escape(&v.expected))?;
    for evidence in &v.evidence {
        writeln!(out, "at: {} {}", escape(&place(evidence)), escape(&evidence.detail))?;
    }
    writeln!(out, "remedy: {}", escape(&v.remedy))?;
    writeln!(out, "      </{element}>\n    </testcase>")
}

/// Text in XML 1.0, which has no place for most control characters.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            '\t' => out.push_str("&#9;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn hostile_text_stays_inside_its_attribute() {
        assert_eq!(super::escape("a\"><x/>&\u{1b}\n"), "a&quot;&gt;&lt;x/&gt;&amp;\u{fffd}&#10;");
    }
}
