//! Controls that administrators write for their own nodes: the vocabulary of the built-in catalogue, with defaults for
//! what most of them need not say. What is wrong is told with its line and key, and never stops the other entries.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use serde_saphyr::Spanned;

use super::{Catalogue, CatalogueError, Control, Op};
use crate::background::Background;
use crate::needs::FilePattern;

/// Most controls of one file.
const MAX_CUSTOM_CONTROLS: usize = 500;

/// Keys that every entry must have.
const REQUIRED: [&str; 5] = ["id", "title", "source", "what", "expected"];
/// Keys for people that are shown.
const BACKGROUND: [&str; 3] = ["why", "k3s_default", "notes"];
/// Keys for people: allowed, not looked at.
const FOR_PEOPLE: [&str; 4] = ["kube_bench_1_9", "unverified", "verified", "evidence"];

/// An entry with nothing but defaults. One key after the other is put in its place, so that an error is known by key.
static TEMPLATE: LazyLock<Map<String, Value>> = LazyLock::new(|| {
    let template = json!({
        "id": "template",
        "title": "template",
        "cis": {},
        "level": 1,
        "assessment": "automated",
        "scope": "every-node",
        "source": "flag:k3s",
        "what": ["template"],
        "expected": { "op": "set" },
        "how_to_fix": "",
        "severity": "medium",
        "applies_when": "always",
        "status": "current",
    });
    template.as_object().cloned().unwrap_or_default()
});

/// Something wrong in a file of custom controls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomProblem {
    /// The line, from 1; 0 where it is not known.
    pub line: u64,
    /// The key, such as `expected.op`; empty where the whole entry or file is meant.
    pub key: String,
    /// What is wrong with it, and what would be right.
    pub detail: String,
}

impl std::fmt::Display for CustomProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.detail)
    }
}

/// What a file of custom controls gave.
#[derive(Debug, Clone, Default)]
pub struct CustomControls {
    /// The entries that can be used, in the file's order.
    pub controls: Vec<Control>,
    /// What is wrong with the others.
    pub problems: Vec<CustomProblem>,
}

type Entry = BTreeMap<String, Spanned<Value>>;

impl CustomControls {
    /// Reads the text of a file: a YAML list of controls. `place` names the file in the default remedy; ids in `taken`
    /// cannot be used again.
    pub fn read(text: &str, place: &str, taken: &BTreeSet<&str>) -> Self {
        let mut all = Self::default();
        let entries = match entries(text) {
            Ok(entries) => entries,
            Err(problem) => {
                all.problems.push(problem);
                return all;
            }
        };
        if entries.len() > MAX_CUSTOM_CONTROLS {
            all.problems.push(CustomProblem {
                line: 0,
                key: String::new(),
                detail: format!("{} controls; the first {MAX_CUSTOM_CONTROLS} are used", entries.len()),
            });
        }
        let lines: Vec<&str> = text.lines().collect();
        let mut own: BTreeSet<String> = BTreeSet::new();
        for entry in entries.into_iter().take(MAX_CUSTOM_CONTROLS) {
            match control(&entry, place, &lines) {
                Ok(control) if taken.contains(control.id.as_str()) || own.contains(&control.id) => {
                    let detail = format!("{:?} is the id of another control; choose one of your own", control.id);
                    all.problems.push(problem(&entry, "id", detail));
                }
                Ok(control) => {
                    own.insert(control.id.clone());
                    all.controls.push(control);
                }
                Err(problems) => all.problems.extend(problems),
            }
        }
        all
    }
}

fn entries(text: &str) -> Result<Vec<Entry>, CustomProblem> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    serde_saphyr::from_str::<Option<Vec<Entry>>>(text).map(Option::unwrap_or_default).map_err(|error| CustomProblem {
        line: error.location().map_or(0, |at| at.line()),
        key: String::new(),
        detail: format!("no YAML list of controls: {}", first_line(&error.without_snippet().to_string())),
    })
}

fn control(entry: &Entry, place: &str, lines: &[&str]) -> Result<Control, Vec<CustomProblem>> {
    let mut problems = Vec::new();
    let mut whole = TEMPLATE.clone();
    whole.insert("how_to_fix".to_owned(), json!(format!("Correct what {place} asks for.")));
    for key in REQUIRED {
        if !entry.contains_key(key) {
            let detail = format!("is missing; a control needs {}", REQUIRED.join(", "));
            problems.push(CustomProblem { line: begin(entry), key: key.to_owned(), detail });
        }
    }
    for (key, value) in entry {
        if FOR_PEOPLE.contains(&key.as_str()) {
            continue;
        }
        if BACKGROUND.contains(&key.as_str()) {
            if !value.value.is_string() && !value.value.is_null() {
                problems.push(problem(entry, key, "is a text for people".to_owned()));
            }
            continue;
        }
        if !TEMPLATE.contains_key(key) {
            let known = TEMPLATE.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            problems.push(problem(entry, key, format!("is no key of a control; known are {known}")));
            continue;
        }
        let content = match (key.as_str(), &value.value) {
            ("what", Value::String(one)) => json!([one]),
            (_, other) => other.clone(),
        };
        match key_problem(key, &content) {
            Some((inner, detail)) => {
                let at = inner.as_ref().and_then(|inner| line_of(lines, value.referenced.line(), inner));
                let name = inner.map_or_else(|| key.clone(), |inner| format!("{key}.{inner}"));
                problems.push(CustomProblem { line: at.unwrap_or(value.referenced.line()), key: name, detail });
            }
            None => {
                whole.insert(key.clone(), content);
            }
        }
    }
    problems.extend(path_problem(entry));
    problems.extend(flag_problem(entry, lines));
    if !problems.is_empty() {
        return Err(problems);
    }
    let built = Control::deserialize(Value::Object(whole)).map_err(|e| vec![problem(entry, "", e.to_string())])?;
    // What only shows in the whole, such as a mode that is none.
    match Catalogue::checked(vec![built]) {
        Ok(catalogue) => {
            let mut control = catalogue.controls.into_iter().next().ok_or_else(Vec::new)?;
            control.background = background(entry).map(Box::new);
            Ok(control)
        }
        Err(CatalogueError::Wrong { what, .. }) => Err(vec![problem(entry, "expected", what)]),
        Err(error) => Err(vec![problem(entry, "", error.to_string())]),
    }
}

/// What the entry says for people.
fn background(entry: &Entry) -> Option<Background> {
    let text = |key: &str| {
        let value = entry.get(key).and_then(|value| value.value.as_str());
        value.map(|text| text.trim_end().to_owned()).unwrap_or_default()
    };
    let [why, default, notes] = BACKGROUND.map(text);
    let said = Background { why, default, notes };
    (said != Background::default()).then_some(said)
}

/// What is wrong with one key, and which key below it.
fn key_problem(key: &str, value: &Value) -> Option<(Option<String>, String)> {
    let alone = |content: Value| {
        let mut entry = TEMPLATE.clone();
        entry.insert(key.to_owned(), content);
        Control::deserialize(Value::Object(entry)).err().map(|error| first_line(&error.to_string()))
    };
    if let ("expected", Value::Object(map)) = (key, value) {
        for (inner, content) in map {
            let mut expected = Map::new();
            expected.insert("op".to_owned(), json!("set"));
            expected.insert(inner.clone(), content.clone());
            if let Some(detail) = alone(Value::Object(expected)) {
                return Some((Some(inner.clone()), detail));
            }
        }
        if map.get("op").is_none() {
            return Some((Some("op".to_owned()), "is missing; it says how to compare".to_owned()));
        }
        if let Some(detail) = value_problem(map) {
            return Some((Some("value".to_owned()), detail));
        }
    }
    if let Some(detail) = alone(value.clone()) {
        return Some((None, detail));
    }
    let said = |detail: String| Some((None, detail));
    match (key, value) {
        ("id", Value::String(id)) if !is_id(id) => {
            said(format!("{id:?} is no id: up to 64 small letters, digits and dashes, a letter first"))
        }
        ("title", Value::String(title)) if title.trim().is_empty() => said("is empty".to_owned()),
        ("what", Value::Array(items)) => {
            if items.is_empty() {
                return said("is empty".to_owned());
            }
            let wide = items.iter().filter_map(Value::as_str).find(|path| is_too_wide(path))?;
            said(format!("{wide}: `**` so near the root would read the whole machine; name the folder that matters"))
        }
        ("expected", Value::Object(map)) if map.get("op") == Some(&json!("report_each")) => {
            Some((Some("op".to_owned()), "gives detections, no verdicts; write a detection rule instead".to_owned()))
        }
        _ => None,
    }
}

/// Whether the value has the form its operator compares with, and what that form is.
fn value_problem(expected: &Map<String, Value>) -> Option<String> {
    let op = expected.get("op").and_then(Value::as_str)?;
    let value = expected.get("value").unwrap_or(&Value::Null);
    let scalar = |v: &Value| matches!(v, Value::String(_) | Value::Number(_) | Value::Bool(_));
    let (fits, form) = match op {
        "ge"
        | "gt"
        | "count_eq"
        | "count_ge"
        | "days_left_ge"
        | "validity_days_at_most"
        | "age_days_at_most"
        | "oldest_entry_age_ge_days" => (value.as_i64().is_some(), "a whole number"),
        "eq" | "ne" => (scalar(value), "one text, number or boolean"),
        "mode_at_most" | "owner_is" | "symlink_to" | "prefix" | "not_prefix" | "not_matches" | "has" | "not_has"
        | "max_level" | "min_level" | "default_level_ge" | "pss_level_at_least" | "mtime_age_at_most" => {
            (value.is_string(), "one text; write it in quotes")
        }
        "in" | "subset_of" | "eq_all" | "host_in" | "only" | "names_subset_of" | "uris_subset_of" | "stage_in"
        | "first_provider_in" => (
            scalar(value) || value.as_array().is_some_and(|items| !items.is_empty() && items.iter().all(scalar)),
            "a list of texts",
        ),
        _ => (true, ""),
    };
    (!fits).then(|| format!("{op} compares with {form}"))
}

/// Files are named by their whole path.
fn path_problem(entry: &Entry) -> Option<CustomProblem> {
    let source = entry.get("source").and_then(|s| s.value.as_str())?;
    let what = &entry.get("what")?.value;
    let is_path = |p: &str| p.starts_with('/') || p.starts_with('<');
    let named = super::texts(what).into_iter().find(|p| !is_path(p))?;
    let files = ["file-mode", "file-owner"].contains(&source);
    files.then(|| problem(entry, "what", format!("{named:?} is no absolute path; write it from / on")))
}

/// Options and flags are compared by some ops only, and flags are written with their dashes.
fn flag_problem(entry: &Entry, lines: &[&str]) -> Option<CustomProblem> {
    let source = entry.get("source").and_then(|s| s.value.as_str()).filter(|source| source.starts_with("flag:"))?;
    let expected = entry.get("expected")?;
    let name = expected.value.get("op")?;
    let op = Op::deserialize(name).ok()?;
    let apart = matches!(op, Op::Manual | Op::Report | Op::ReportEach | Op::Never | Op::AllOf | Op::AnyOf);
    if !apart && !op.compares_flags() {
        let from = expected.referenced.line();
        let detail = format!("{} does not compare options or flags", name.as_str().unwrap_or_default());
        let line = line_of(lines, from, "op").unwrap_or(from);
        return Some(CustomProblem { line, key: "expected.op".to_owned(), detail });
    }
    let dashes = source.starts_with("flag:kube-") || source == "flag:cloud-controller-manager";
    let named = super::texts(&entry.get("what")?.value);
    let none = dashes && !apart && !named.iter().any(|flag| flag.starts_with("--"));
    let detail = || format!("names no flag; write --{}", named.first().map_or("name", |n| n.trim_start_matches('-')));
    none.then(|| problem(entry, "what", detail()))
}

fn is_id(id: &str) -> bool {
    id.len() <= 64
        && id.starts_with(|c: char| c.is_ascii_lowercase())
        && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn is_too_wide(path: &str) -> bool {
    let pattern = FilePattern::new(path);
    path.starts_with('/')
        && pattern.is_deep()
        && (pattern.base().matches('/').count() < 2
            || ["/proc/", "/sys/", "/dev/"].iter().any(|top| path.starts_with(top)))
}

fn problem(entry: &Entry, key: &str, detail: String) -> CustomProblem {
    let line = entry.get(key).map_or_else(|| begin(entry), |value| value.referenced.line());
    CustomProblem { line, key: key.to_owned(), detail }
}

/// The first line of an entry.
fn begin(entry: &Entry) -> u64 {
    entry.values().map(|value| value.referenced.line()).min().unwrap_or(0)
}

/// The line of a key inside a map whose text begins at `from`.
fn line_of(lines: &[&str], from: u64, key: &str) -> Option<u64> {
    let from = usize::try_from(from).ok()?.checked_sub(1)?;
    let holds = |line: &str| {
        line.match_indices(key).any(|(at, _)| {
            let before = line.get(..at).and_then(|head| head.chars().next_back());
            let after = line.get(at + key.len()..).unwrap_or("").trim_start_matches(['"', '\'']).trim_start();
            before.is_none_or(|c| matches!(c, ' ' | '{' | ',' | '"' | '\'')) && after.starts_with(':')
        })
    };
    lines.iter().enumerate().skip(from).take(64).find(|(_, line)| holds(line)).map(|(at, _)| at as u64 + 1)
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

impl Catalogue {
    /// This catalogue and further controls behind it.
    ///
    /// # Errors
    /// An id that is there already, or a combination that names a control which is in neither.
    pub fn extended(&self, more: Vec<Control>) -> Result<Self, CatalogueError> {
        let mut controls = self.controls.clone();
        controls.extend(more);
        let all = Self::checked(controls)?;
        for control in &all.controls {
            if !matches!(control.expected.op, Op::AllOf | Op::AnyOf) {
                continue;
            }
            if let Some(part) = crate::evaluate::part_ids(control).into_iter().find(|id| all.get(id).is_none()) {
                return Err(CatalogueError::Wrong {
                    id: control.id.clone(),
                    what: format!("expected.value: no control {part}"),
                });
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_an_operator_cannot_compare_with_and_relative_paths_are_refused_with_line_and_key() {
        for (source, what, expected, line, key) in [
            ("flag:k3s", "debug", "{op: eq, value: [a, b]}", 5, "expected.value"),
            ("flag:kubelet", "pod-max-pids", "{op: ge, value: lots}", 5, "expected.value"),
            ("flag:kubelet", "pod-max-pids", "{op: ge}", 5, "expected.value"),
            ("flag:k3s", "disable", "{op: in, value: {a: b}}", 5, "expected.value"),
            ("file-mode", "/etc/a", "{op: mode_at_most, value: 600}", 5, "expected.value"),
            ("flag:k3s", "debug", "{op: not_matches, value: x}", 5, "expected.op"),
            ("flag:kube-apiserver", "--v", "{value: '0600', op: mode_at_most}", 5, "expected.op"),
            ("flag:kubelet", "--v", "\n    value: 5\n    op: days_left_ge", 7, "expected.op"),
            ("flag:kube-apiserver", "tls-min-version", "{op: eq, value: VersionTLS13}", 4, "what"),
            ("file-mode", "etc/a", "{op: mode_at_most, value: '0600'}", 4, "what"),
        ] {
            let text = format!("- id: a\n  title: t\n  source: {source}\n  what: {what}\n  expected: {expected}\n");
            let read = CustomControls::read(&text, "/f", &BTreeSet::new());
            assert!(read.controls.is_empty(), "{expected}");
            let problem = &read.problems[0];
            assert_eq!((problem.line, problem.key.as_str()), (line, key), "{problem}");
        }
        let good =
            "- id: a\n  title: t\n  source: flag:kubelet\n  what: pod-max-pids\n  expected: {op: ge, value: 5}\n";
        assert_eq!(CustomControls::read(good, "/f", &BTreeSet::new()).problems, []);
    }
}
