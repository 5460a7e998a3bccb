//! SARIF 2.1.0: a control is a rule, a verdict a result. Every outcome has a place in SARIF (`kind`), so none is left
//! out.

use std::collections::BTreeMap;

use picket_model::{Evidence, Severity, Status, Verdict};
use serde_json::{Value, json};

use super::Report;
use crate::local::Waived;

/// The report as a SARIF document.
pub(super) fn document(report: &Report) -> Value {
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    let mut rules = Vec::new();
    for verdict in &report.verdicts {
        if !numbers.contains_key(verdict.control.as_str()) {
            numbers.insert(&verdict.control, rules.len());
            rules.push(rule(verdict));
        }
    }
    let results: Vec<Value> = report
        .rows()
        .map(|(v, waived)| {
            let mut result = result(v, numbers.get(v.control.as_str()).copied().unwrap_or_default());
            if let (Some(waived), Some(object)) = (waived, result.as_object_mut()) {
                object.insert("suppressions".to_owned(), json!([suppression(waived)]));
            }
            result
        })
        .collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "picketd",
                "semanticVersion": report.node.info.picket_version,
                "rules": rules,
            }},
            "invocations": [{ "executionSuccessful": true, "endTimeUtc": report.node.at.to_string() }],
            "properties": { "node": report.node, "benchmark": super::benchmark::Benchmark::of(report) },
            "results": results,
        }],
    })
}

fn rule(v: &Verdict) -> Value {
    json!({
        "id": v.control,
        "shortDescription": { "text": v.title },
        "help": { "text": v.remedy },
        "defaultConfiguration": { "level": level(v.severity) },
        "properties": {
            "tags": v.cis.iter().map(|(benchmark, number)| format!("CIS {benchmark} {number}")).collect::<Vec<_>>(),
            "security-severity": score(v.severity),
        },
    })
}

fn result(v: &Verdict, rule: usize) -> Value {
    let (kind, level) = match v.status {
        Status::Fail => ("fail", level(v.severity)),
        Status::Pass => ("pass", "none"),
        Status::Unknown => ("open", "none"),
        Status::NotApplicable => ("notApplicable", "none"),
        Status::Manual => ("review", "none"),
    };
    json!({
        "ruleId": v.control,
        "ruleIndex": rule,
        "kind": kind,
        "level": level,
        "message": { "text": format!("{}: {} (wanted: {})", v.subject, v.observed, v.expected) },
        "locations": locations(v),
        "partialFingerprints": { "picketSubject/v1": format!("{}#{}", v.control, v.subject) },
        "properties": { "subject": v.subject, "status": v.status, "severity": v.severity, "state": v.state },
    })
}

/// A waiver: accepted outside the tool.
fn suppression(waived: &Waived) -> Value {
    json!({
        "kind": "external",
        "status": "accepted",
        "justification": waived.reason,
        "properties": { "expires": waived.expires },
    })
}

/// Where it was seen; what stands in no file has its place by name.
fn locations(v: &Verdict) -> Vec<Value> {
    let found: Vec<Value> = v.evidence.iter().filter_map(location).collect();
    if !found.is_empty() {
        return found;
    }
    let name = format!("{}/{}", v.control, v.subject);
    vec![json!({ "logicalLocations": [{ "name": v.subject, "fullyQualifiedName": name }] })]
}

fn location(evidence: &Evidence) -> Option<Value> {
    let path = evidence.path.as_deref()?;
    let mut physical = json!({ "artifactLocation": { "uri": uri(path) } });
    if let (Some(line), Some(object)) = (evidence.line, physical.as_object_mut()) {
        object.insert("region".to_owned(), json!({ "startLine": line }));
    }
    Some(json!({ "physicalLocation": physical, "message": { "text": evidence.detail } }))
}

/// A `file:` URI of a path, RFC 3986.
fn uri(path: &str) -> String {
    let mut out = String::from("file://");
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' | b':' | b'@' => {
                out.push(char::from(byte));
            }
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

const fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical | Severity::High => "error",
        Severity::Medium => "warning",
        Severity::Low | Severity::Info => "note",
    }
}

/// The number code scanning services sort by, as a text.
const fn score(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical => "9.5",
        Severity::High => "8.0",
        Severity::Medium => "5.5",
        Severity::Low => "3.0",
        Severity::Info => "0.0",
    }
}
