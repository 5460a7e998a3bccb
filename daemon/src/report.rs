//! The outputs of the one-shot commands. A report is computed once; each form only prints it.

pub mod benchmark;
pub mod csv;
pub mod junit;
pub mod ocsf;
pub mod sarif;
pub mod table;
pub mod text;

use std::collections::BTreeMap;
use std::io::{self, Write};

use jiff::Timestamp;
use picket_model::{NodeInfo, Severity, Status, Verdict};
use serde::Serialize;

use crate::local::Waived;

/// The forms `picketd scan` can print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// For a person.
    Table,
    /// Schema picket.scan/v1.
    Json,
    /// SARIF 2.1.0, for code scanning services.
    Sarif,
    /// JUnit XML, for CI servers.
    Junit,
    /// OCSF compliance findings (class 2003), one a line.
    Ocsf,
    /// One row a verdict.
    Csv,
}

/// The node a report is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Node {
    /// What the node says of itself.
    #[serde(flatten)]
    pub info: NodeInfo,
    /// The data dir K3s uses.
    pub data_dir: String,
    /// Whether a folder stands for the node.
    pub rooted: bool,
    /// The moment of judging.
    pub at: Timestamp,
}

/// Verdicts on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The node.
    pub node: Node,
    /// One row a subject, in the catalogue's order.
    pub verdicts: Vec<Verdict>,
    /// Which of them are waived, by index.
    pub waived: BTreeMap<usize, Waived>,
    /// The benchmark version asked for.
    pub benchmark: Option<String>,
}

/// How many controls ended how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Summary {
    /// As they should be.
    pub pass: usize,
    /// Not as they should be.
    pub fail: usize,
    /// Could not be judged.
    pub unknown: usize,
    /// Do not apply here.
    pub not_applicable: usize,
    /// A person must judge.
    pub manual: usize,
}

impl Report {
    /// Counts controls; each counts as its worst row.
    pub fn summary(&self) -> Summary {
        Summary::of(worst(self.verdicts.iter()).into_values())
    }

    /// Whether anything failed at this severity or above and is not waived.
    pub fn fails_at(&self, severity: Severity) -> bool {
        self.rows().any(|(v, waived)| v.status == Status::Fail && v.severity >= severity && waived.is_none())
    }

    /// Each verdict, and whether it is waived.
    pub fn rows(&self) -> impl Iterator<Item = (&Verdict, Option<&Waived>)> {
        self.verdicts.iter().enumerate().map(|(index, verdict)| (verdict, self.waived.get(&index)))
    }

    /// Keeps only what stands in the benchmark version asked for.
    pub fn keep_benchmark(&mut self) {
        let Some(version) = &self.benchmark else { return };
        let mut waived = BTreeMap::new();
        let mut kept = Vec::new();
        for (index, verdict) in std::mem::take(&mut self.verdicts).into_iter().enumerate() {
            if verdict.cis.contains_key(version) {
                if let Some(waiver) = self.waived.remove(&index) {
                    waived.insert(kept.len(), waiver);
                }
                kept.push(verdict);
            }
        }
        self.verdicts = kept;
        self.waived = waived;
    }

    /// Prints the report in a form.
    ///
    /// # Errors
    /// When `out` cannot be written.
    pub fn print(&self, form: Form, style: table::Style, out: &mut dyn Write) -> io::Result<()> {
        match form {
            Form::Table => table::scan(self, style, out),
            Form::Json => json(&self.as_json(), out),
            Form::Sarif => json(&sarif::document(self), out),
            Form::Junit => junit::print(self, out),
            Form::Ocsf => ocsf::print(self, out),
            Form::Csv => csv::print(self, out),
        }
    }

    fn as_json(&self) -> impl Serialize + '_ {
        #[derive(Serialize)]
        struct Scan<'a> {
            schema: &'static str,
            node: &'a Node,
            summary: Summary,
            #[serde(skip_serializing_if = "Option::is_none")]
            benchmark: Option<benchmark::Benchmark>,
            verdicts: Vec<Row<'a>>,
        }
        #[derive(Serialize)]
        struct Row<'a> {
            #[serde(flatten)]
            verdict: &'a Verdict,
            #[serde(skip_serializing_if = "Option::is_none")]
            waived: Option<&'a Waived>,
        }
        Scan {
            schema: "picket.scan/v1",
            node: &self.node,
            summary: self.summary(),
            benchmark: benchmark::Benchmark::of(self),
            verdicts: self.rows().map(|(verdict, waived)| Row { verdict, waived }).collect(),
        }
    }
}

impl Summary {
    fn of(statuses: impl IntoIterator<Item = Status>) -> Self {
        let mut summary = Self::default();
        for status in statuses {
            *match status {
                Status::Pass => &mut summary.pass,
                Status::Fail => &mut summary.fail,
                Status::Unknown => &mut summary.unknown,
                Status::NotApplicable => &mut summary.not_applicable,
                Status::Manual => &mut summary.manual,
            } += 1;
        }
        summary
    }
}

/// What each control counts as: its worst row.
fn worst<'a>(verdicts: impl Iterator<Item = &'a Verdict>) -> BTreeMap<&'a str, Status> {
    let mut worst: BTreeMap<&str, Status> = BTreeMap::new();
    for verdict in verdicts {
        let status = worst.entry(verdict.control.as_str()).or_insert(verdict.status);
        if verdict.status.weight() > status.weight() {
            *status = verdict.status;
        }
    }
    worst
}

/// Prints a value as indented JSON with a newline at the end.
///
/// # Errors
/// When `out` cannot be written.
pub fn json(value: &impl Serialize, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value).map_err(io::Error::from)?;
    writeln!(out)
}
