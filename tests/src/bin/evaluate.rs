//! `evaluate FOLDER [PICKETD]`: runs labelled audit logs through `picketd audit` and says what was found.
//!
//! Every folder below FOLDER with a `labels.tsv` beside a log is a set; so is a log without labels, all of which is then
//! taken for benign. Labels are by line (`line`, `verdict`, `must_raise`) or by action (`action`, `must_raise`,
//! `audit_ids`).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use picket_tests::binaries::Binaries;
use serde_json::Value;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let (folder, picketd) = match arguments.as_slice() {
        [folder] => (folder, Binaries::build(false)?.picketd),
        [folder, picketd] => (folder, picketd.clone()),
        _ => anyhow::bail!("usage: evaluate FOLDER [PICKETD]"),
    };
    let mut logs = Vec::new();
    find(folder, &mut logs)?;
    logs.sort();
    println!("{:<44} {:>9} {:>7} {:>7} {:>17}", "SET", "DETECTED", "FOUND", "MISSED", "BENIGN ABOVE LOW");
    for log in logs {
        let result = Set { log: &log, picketd: &picketd }.judge()?;
        let name = log.strip_prefix(folder).unwrap_or(&log).display().to_string();
        let (missed, loud) = (result.missed.len(), result.loud.len());
        println!("{name:<44} {:>9} {:>7} {missed:>7} {loud:>17}", result.detections, result.found);
        for line in result
            .missed
            .iter()
            .map(|line| format!("  missed {line}"))
            .chain(result.loud.iter().map(|line| format!("  loud   {line}")))
        {
            println!("{line}");
        }
    }
    Ok(())
}

fn find(folder: &Path, logs: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let name = path.to_string_lossy().into_owned();
        if path.is_dir() {
            find(&path, logs)?;
        } else if [".log", ".jsonl", ".log.gz"].iter().any(|end| name.ends_with(end)) {
            logs.push(path);
        }
    }
    Ok(())
}

/// What is known of an event or an action.
struct Label {
    name: String,
    /// Line of the event, from 1.
    line: Option<u64>,
    audit_ids: HashSet<String>,
    must_raise: Vec<String>,
    benign: bool,
}

#[derive(Default)]
struct Found {
    detections: usize,
    found: usize,
    missed: Vec<String>,
    loud: Vec<String>,
}

struct Set<'s> {
    log: &'s Path,
    picketd: &'s Path,
}

impl Set<'_> {
    fn judge(&self) -> anyhow::Result<Found> {
        let detections = self.detections(self.log)?;
        let mut result = Found { detections: detections.len(), ..Found::default() };
        let labels = self.labels()?;
        let is_of = |detection: &Value, label: &Label| {
            let ids = detection["audit_ids"].as_array().into_iter().flatten().filter_map(Value::as_str);
            label.line.is_some_and(|line| detection["line"] == line)
                || ids.into_iter().any(|id| label.audit_ids.contains(id))
        };
        for label in &labels {
            for rule in &label.must_raise {
                let seen = detections.iter().any(|detection| detection["rule"] == **rule && is_of(detection, label));
                // Events made by hand have neither time nor audit id: many are one to a rule that counts.
                if seen || self.raised_alone(label, rule)? {
                    result.found += 1;
                } else {
                    result.missed.push(format!("{} {rule}", label.name));
                }
            }
        }
        for detection in &detections {
            if matches!(detection["severity"].as_str(), Some("info" | "low")) {
                continue;
            }
            let about: Vec<&Label> = labels.iter().filter(|label| is_of(detection, label)).collect();
            let expected = about
                .iter()
                .any(|label| !label.benign || label.must_raise.iter().any(|rule| detection["rule"] == **rule));
            if !expected {
                let part = |field: &str| detection[field].to_string();
                result.loud.push(format!(
                    "line {} {} {} {}",
                    part("line"),
                    part("severity"),
                    part("rule"),
                    part("user")
                ));
            }
        }
        Ok(result)
    }

    fn raised_alone(&self, label: &Label, rule: &str) -> anyhow::Result<bool> {
        let Some(line) = label.line else { return Ok(false) };
        let text = fs::read_to_string(self.log)?;
        let line = text.lines().nth(usize::try_from(line)?.saturating_sub(1)).unwrap_or_default();
        let alone = tempfile::NamedTempFile::new()?;
        fs::write(alone.path(), format!("{line}\n"))?;
        Ok(self.detections(alone.path())?.iter().any(|detection| detection["rule"] == rule))
    }

    fn detections(&self, log: &Path) -> anyhow::Result<Vec<Value>> {
        let output = Command::new(self.picketd).args(["audit", "-o", "json"]).arg(log).output()?;
        anyhow::ensure!(output.status.success(), "{}: {}", log.display(), String::from_utf8_lossy(&output.stderr));
        output
            .stdout
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| Ok(serde_json::from_slice(line)?))
            .collect()
    }

    fn labels(&self) -> anyhow::Result<Vec<Label>> {
        let path = self.log.with_file_name("labels.tsv");
        // Of several logs beside one file of labels, that is about the one that is called audit.log.
        let is_other = self.log.to_string_lossy().contains("first-start");
        if !path.exists() || is_other {
            return Ok(Vec::new());
        }
        let (table, events) = (fs::read_to_string(path)?, fs::read(self.log)?);
        let mut rows = table.lines();
        let header: BTreeMap<&str, usize> = rows.next().unwrap_or_default().split('\t').zip(0..).collect();
        let ids: HashMap<u64, String> = (1..)
            .zip(events.split(|byte| *byte == b'\n'))
            .filter_map(|(at, line)| {
                Some((at, serde_json::from_slice::<Value>(line).ok()?["auditID"].as_str()?.to_owned()))
            })
            .collect();
        let words =
            |text: &str| text.split([',', ';']).filter(|word| !word.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        rows.map(|row| {
            let cells: Vec<&str> = row.split('\t').collect();
            let cell = |name: &str| header.get(name).and_then(|at| cells.get(*at)).copied().unwrap_or_default();
            let line: Option<u64> = cell("line").parse().ok();
            let audit_ids = match line {
                Some(line) => ids.get(&line).cloned().into_iter().collect(),
                None => words(cell("audit_ids")).into_iter().collect(),
            };
            Ok(Label {
                name: line.map_or_else(|| cell("action").to_owned(), |line| format!("line {line}")),
                line,
                audit_ids,
                must_raise: words(cell("must_raise")),
                benign: cell("verdict") == "benign",
            })
        })
        .collect()
    }
}
