//! JUnit XML: a control is a test class, a subject a test case.

use std::collections::BTreeMap;
use std::io::{self, Write};

use picket_model::{Status, Verdict};

use super::Report;
use super::benchmark::Number;
use super::table::place;
use crate::local::Waived;

/// Prints the report.
pub(super) fn print(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let mut suites: BTreeMap<Option<Number>, Vec<Case<'_>>> = BTreeMap::new();
    for case in report.rows() {
        let number = report.benchmark.as_ref().and_then(|version| case.0.cis.get(version));
        suites.entry(number.map(|n| Number::new(n).section())).or_default().push(case);
    }
    writeln!(out, r#"<?xml version="1.0" encoding="UTF-8"?>"#)?;
    writeln!(out, "<testsuites>")?;
    for (section, cases) in &suites {
        let name = match (section, &report.benchmark) {
            (Some(section), Some(version)) => format!("CIS {version} section {}", section.as_str()),
            _ => "picketd scan".to_owned(),
        };
        suite(report, &name, cases, out)?;
    }
    writeln!(out, "</testsuites>")
}

type Case<'a> = (&'a Verdict, Option<&'a Waived>);

fn suite(report: &Report, name: &str, cases: &[Case<'_>], out: &mut dyn Write) -> io::Result<()> {
    let count = |statuses: &[Status]| {
        cases.iter().filter(|(v, waived)| waived.is_none() && statuses.contains(&v.status)).count()
    };
    let waived = cases.iter().filter(|(_, waived)| waived.is_some()).count();
    writeln!(
        out,
        r#"  <testsuite name="{}" hostname="{}" timestamp="{}" tests="{}" failures="{}" errors="{}" skipped="{}">"#,
        escape(name),
        escape(&report.node.info.hostname),
        report.node.at,
        cases.len(),
        count(&[Status::Fail]),
        count(&[Status::Unknown]),
        count(&[Status::NotApplicable, Status::Manual]) + waived,
    )?;
    for (verdict, waived) in cases {
        case(verdict, *waived, out)?;
    }
    writeln!(out, "  </testsuite>")
}

fn case(v: &Verdict, waived: Option<&Waived>, out: &mut dyn Write) -> io::Result<()> {
    write!(out, r#"    <testcase classname="{}" name="{}""#, escape(&v.control), escape(&v.subject))?;
    if let Some(waived) = waived {
        let why = format!("waived until {}: {} ({}: {})", waived.expires, waived.reason, v.status, v.observed);
        return writeln!(out, "><skipped message=\"{}\"/></testcase>", escape(&why));
    }
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
