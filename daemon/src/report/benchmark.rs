//! A CIS benchmark as a whole: what each of its numbers came to, and each of its sections.

use std::collections::BTreeMap;

use picket_model::Status;
use serde::Serialize;

use super::{Report, Summary, worst};

/// A control number in the order of the benchmark: 1.2.9 before 1.2.10.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Number(Vec<u32>, String);

impl Number {
    /// A number from its text.
    pub fn new(text: &str) -> Self {
        Self(text.split('.').map(|part| part.parse().unwrap_or(u32::MAX)).collect(), text.to_owned())
    }

    /// The section it stands in: all parts but the last (2.1 stands in 2, 1.2.3 in 1.2).
    pub fn section(&self) -> Self {
        Self::new(self.1.rsplit_once('.').map_or(self.1.as_str(), |(section, _)| section))
    }

    /// The number as text.
    pub fn as_str(&self) -> &str {
        &self.1
    }
}

/// A benchmark version, judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Benchmark {
    /// The version, such as `2.1`.
    pub version: String,
    /// Over all its numbers.
    pub summary: Summary,
    /// By section, in order.
    pub sections: Vec<Section>,
    /// Each number, in order.
    pub numbers: Vec<Judged>,
}

/// A section, such as 1.2.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Section {
    /// Its number.
    pub section: String,
    /// Its name.
    pub title: &'static str,
    /// Its controls, each by its worst row.
    #[serde(flatten)]
    pub summary: Summary,
}

/// A number of the benchmark with its verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Judged {
    /// The number.
    pub number: String,
    /// The catalogue's control.
    pub control: String,
    /// The worst of its rows.
    pub status: Status,
}

impl Benchmark {
    /// The benchmark a report was asked for; none if it was not asked for one.
    pub fn of(report: &Report) -> Option<Self> {
        let version = report.benchmark.as_ref()?;
        let worst = worst(report.verdicts.iter());
        let mut numbers: BTreeMap<(Number, &str), Status> = BTreeMap::new();
        for verdict in &report.verdicts {
            if let (Some(number), Some(status)) = (verdict.cis.get(version), worst.get(verdict.control.as_str())) {
                numbers.insert((Number::new(number), &verdict.control), *status);
            }
        }
        let mut sections: BTreeMap<Number, Vec<Status>> = BTreeMap::new();
        for ((number, _), status) in &numbers {
            sections.entry(number.section()).or_default().push(*status);
        }
        Some(Self {
            version: version.clone(),
            summary: Summary::of(numbers.values().copied()),
            sections: sections
                .into_iter()
                .map(|(section, statuses)| Section {
                    title: title(section.as_str()),
                    section: section.1,
                    summary: Summary::of(statuses),
                })
                .collect(),
            numbers: numbers
                .into_iter()
                .map(|((number, control), status)| Judged { number: number.1, control: control.to_owned(), status })
                .collect(),
        })
    }
}

/// What a section is about, in our words; the same in all versions.
fn title(section: &str) -> &'static str {
    match section {
        "1.1" => "Files of the control plane",
        "1.2" => "API server",
        "1.3" => "Controller manager",
        "1.4" => "Scheduler",
        "2" => "etcd",
        "3.1" => "Authentication and authorization",
        "3.2" => "Audit logging",
        "4.1" => "Files of the worker",
        "4.2" => "Kubelet",
        "4.3" => "kube-proxy",
        "5.1" => "RBAC and service accounts",
        "5.2" => "Pod Security",
        "5.3" => "Network policies",
        "5.4" => "Secrets",
        "5.5" => "Admission of images",
        "5.6" | "5.7" => "General policies",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::Number;

    #[test]
    fn numbers_are_ordered_as_numbers() {
        let mut numbers = ["1.2.10", "1.10.1", "1.2.9", "2.1"].map(Number::new);
        numbers.sort();
        assert_eq!(numbers.each_ref().map(Number::as_str), ["1.2.9", "1.2.10", "1.10.1", "2.1"]);
        assert_eq!(Number::new("1.2.10").section().as_str(), "1.2");
        assert_eq!(Number::new("2.1").section().as_str(), "2");
    }
}
