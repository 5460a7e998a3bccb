//! One row a verdict, RFC 4180.

use std::io::{self, Write};

use super::Report;

/// Prints the report.
pub(super) fn print(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let mut writer = ::csv::Writer::from_writer(out);
    writer.write_record([
        "control",
        "subject",
        "status",
        "severity",
        "title",
        "observed",
        "expected",
        "state",
        "path",
        "line",
        "layer",
        "detail",
        "cis_2_1",
        "remedy",
        "cis_number",
        "waived_until",
        "waived_reason",
    ])?;
    let version = report.benchmark.as_deref().unwrap_or("2.1");
    for (v, waived) in report.rows() {
        let first = v.evidence.first().cloned().unwrap_or_default();
        writer.write_record(
            [
                v.control.clone(),
                v.subject.clone(),
                v.status.to_string(),
                v.severity.to_string(),
                v.title.clone(),
                v.observed.clone(),
                v.expected.clone(),
                v.state.map_or("", |s| s.as_str()).to_owned(),
                first.path.unwrap_or_default(),
                first.line.map(|l| l.to_string()).unwrap_or_default(),
                first.layer.unwrap_or_default(),
                first.detail,
                v.cis.get("2.1").cloned().unwrap_or_default(),
                v.remedy.clone(),
                v.cis.get(version).cloned().unwrap_or_default(),
                waived.map(|w| w.expires.to_string()).unwrap_or_default(),
                waived.map(|w| w.reason.clone()).unwrap_or_default(),
            ]
            .map(harmless),
        )?;
    }
    writer.flush()
}

/// Spreadsheets run a cell that begins like a formula, and some of these texts come from a node's files: such a cell
/// gets an apostrophe in front.
fn harmless(cell: String) -> String {
    if cell.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{cell}") } else { cell }
}
