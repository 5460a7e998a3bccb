//! OCSF compliance findings (class 2003), one JSON object a line.

use std::io::{self, Write};

use picket_model::{Severity, Status, Verdict};
use serde_json::{Value, json};

use super::Report;
use crate::local::Waived;

/// The version of OCSF these objects follow.
const OCSF: &str = "1.4.0";

/// Prints the report.
pub(super) fn print(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    for (verdict, waived) in report.rows() {
        serde_json::to_writer(&mut *out, &finding(report, verdict, waived)).map_err(io::Error::from)?;
        writeln!(out)?;
    }
    Ok(())
}

fn finding(report: &Report, v: &Verdict, waived: Option<&Waived>) -> Value {
    let (status, status_id) = match v.status {
        Status::Pass => ("Pass", 1),
        Status::Fail => ("Fail", 3),
        Status::Unknown => ("Unknown", 0),
        Status::NotApplicable => ("Not Applicable", 99),
        Status::Manual => ("Manual", 99),
    };
    let node = &report.node;
    // With a version asked for, its number alone.
    let numbers = || v.cis.iter().filter(|(b, _)| report.benchmark.as_ref().is_none_or(|asked| asked == *b));
    let mut object = json!({
        "category_uid": 2,
        "class_uid": 2003,
        "activity_id": 1,
        "type_uid": 200_301,
        "time": node.at.as_millisecond(),
        "severity_id": severity_id(v.severity),
        // New, or suppressed by a waiver.
        "status_id": if waived.is_some() { 3 } else { 1 },
        "metadata": {
            "version": OCSF,
            "product": { "name": "Picket", "vendor_name": "Picket", "version": node.info.picket_version },
        },
        "finding_info": {
            "uid": format!("{}#{}", v.control, v.subject),
            "title": v.title,
            "desc": v.observed,
            "types": [v.control],
        },
        "compliance": {
            "control": v.control,
            "standards": numbers().map(|(b, _)| format!("CIS K3s Benchmark {b}")).collect::<Vec<_>>(),
            "requirements": numbers().map(|(b, n)| format!("{b}:{n}")).collect::<Vec<_>>(),
            "status": status,
            "status_id": status_id,
            "status_detail": format!("seen: {}; wanted: {}", v.observed, v.expected),
        },
        "resources": [{ "name": v.subject, "type": "node configuration" }],
        "device": { "hostname": node.info.hostname, "type_id": 1 },
        "evidences": v.evidence.iter().map(|e| json!({ "data": e })).collect::<Vec<_>>(),
        "remediation": { "desc": v.remedy },
    });
    if let (Some(waived), Some(fields)) = (waived, object.as_object_mut()) {
        fields.insert("comment".to_owned(), json!(format!("waived until {}: {}", waived.expires, waived.reason)));
    }
    object
}

const fn severity_id(severity: Severity) -> u8 {
    match severity {
        Severity::Info => 1,
        Severity::Low => 2,
        Severity::Medium => 3,
        Severity::High => 4,
        Severity::Critical => 5,
    }
}
