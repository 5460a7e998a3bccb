//! What administrators add on a node: controls of their own (`/etc/picket/controls.d/*.yaml`) and waivers
//! (`/etc/picket/waivers.yaml`).
//!
//! Nothing in these files can stop a scan or the daemon. What is wrong with them becomes a verdict like any other, so
//! that it is seen wherever verdicts are seen: in the scan, as a finding, in `picketd status`.

pub mod waivers;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use picket_checks::{Catalogue, CustomControls, Policy};
use picket_host::{Host, Kind, ReadError};
use picket_model::{Evidence, Severity, Status, Verdict};

pub use waivers::{Waived, Waiver, Waivers};

/// Where custom controls are unless told otherwise.
pub const CONTROLS: &str = "/etc/picket/controls.d";
/// Where waivers are unless told otherwise.
pub const WAIVERS: &str = "/etc/picket/waivers.yaml";

/// The control under which an unusable entry of a custom control is reported.
pub const CONTROLS_READ: &str = "picket-custom-controls";
/// The control under which an unusable waiver is reported.
pub const WAIVERS_READ: &str = "picket-waivers";
/// The control under which an expired waiver is reported.
pub const WAIVER_EXPIRED: &str = "picket-waiver-expired";

/// The controls that speak of these files themselves: [`Local::overlay`] adds their verdicts.
pub const OWN: [&str; 3] = [CONTROLS_READ, WAIVERS_READ, WAIVER_EXPIRED];

/// The largest file that is read.
const LARGEST: u64 = 1024 * 1024;
/// Most files with controls.
const MOST_FILES: usize = 256;
/// Most problems of one place that are told one by one.
const MOST_PROBLEMS: usize = 100;

/// Where to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The folder of custom controls.
    pub controls: PathBuf,
    /// The file of waivers.
    pub waivers: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self { controls: CONTROLS.into(), waivers: WAIVERS.into() }
    }
}

/// Something wrong in one of the files.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The control it is reported under.
    control: &'static str,
    /// File (and key): part of the finding's identity, so without the line.
    pub subject: String,
    /// The file.
    pub path: String,
    /// The line, from 1.
    pub line: Option<u32>,
    /// What is wrong, with key and remedy.
    pub detail: String,
    /// Nothing is known to be wrong: it could not be looked at.
    unseen: bool,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.path, self.detail),
            None => write!(f, "{}: {}", self.path, self.detail),
        }
    }
}

/// The controls to judge by, and what was found in the files besides.
#[derive(Debug, Clone)]
pub struct Local {
    /// Built-in and custom controls.
    pub policy: Policy,
    /// The waivers.
    pub waivers: Waivers,
    /// What is wrong with the files.
    pub problems: Vec<Problem>,
}

impl Local {
    /// Reads both places. `controls` and `waivers` may lie on different hosts: in the tree that stands for a node, or
    /// where a person on the command line says.
    pub fn read(built_in: &Policy, controls: (&Host, &Path), waivers: (&Host, &Path)) -> Self {
        let mut problems = Vec::new();
        let mut policy = built_in.clone();
        if let Some(catalogue) = custom(controls.0, controls.1, &built_in.catalogue, &mut problems) {
            policy.catalogue = Arc::new(catalogue);
        }
        let waivers = Waivers::read(waivers.0, waivers.1, &policy.catalogue, &mut problems);
        one_subject_each(&mut problems);
        Self { policy, waivers, problems }
    }

    /// Adds to the verdicts what the files themselves give, and to waived verdicts who waived them. The answer is
    /// which of them are waived.
    pub fn overlay(&self, verdicts: &mut Vec<Verdict>, at: Timestamp) -> BTreeMap<usize, Waived> {
        verdicts.extend(self.problems.iter().take(MOST_PROBLEMS).map(Problem::verdict));
        verdicts.extend(self.waivers.expired(at));
        self.waivers.apply(verdicts, at)
    }
}

/// The files of a folder of controls that count: `*.yaml` and `*.yml`, no hidden ones, by name.
fn names(host: &Host, folder: &Path) -> Result<Vec<String>, ReadError> {
    let mut names: Vec<String> = host
        .list(folder, MOST_FILES * 4)?
        .into_iter()
        .filter(|entry| entry.kind != Kind::Folder)
        .map(|entry| entry.name)
        .filter(|name| !name.starts_with('.') && (name.ends_with(".yaml") || name.ends_with(".yml")))
        .collect();
    names.sort();
    Ok(names)
}

/// The built-in controls with those of a folder's files; none if no file gives any that can be used.
fn custom(host: &Host, folder: &Path, built_in: &Catalogue, problems: &mut Vec<Problem>) -> Option<Catalogue> {
    let mut all = Vec::new();
    let mut taken: BTreeSet<String> = built_in.controls().iter().map(|c| c.id.clone()).collect();
    taken.extend(OWN.map(str::to_owned));
    let wrong = |path: &Path, key: &str, line: u64, detail: String| {
        Problem::new(CONTROLS_READ, path, key, u32::try_from(line).ok().filter(|l| *l > 0), detail)
    };
    let files = match names(host, folder) {
        Ok(files) => files,
        Err(ReadError::Absent) => Vec::new(),
        Err(reason) => {
            problems.push(Problem::unreadable(CONTROLS_READ, folder, &reason));
            Vec::new()
        }
    };
    if files.len() > MOST_FILES {
        problems.push(wrong(folder, "", 0, format!("{} files; the first {MOST_FILES} are read", files.len())));
    }
    let mut origin: BTreeMap<String, PathBuf> = BTreeMap::new();
    for name in files.into_iter().take(MOST_FILES) {
        let path = folder.join(name);
        let text = host.read(&path, LARGEST).and_then(|content| content.text().map(str::to_owned));
        let text = match text {
            Ok(text) => text,
            Err(reason) => {
                problems.push(Problem::unreadable(CONTROLS_READ, &path, &reason));
                continue;
            }
        };
        let known: BTreeSet<&str> = taken.iter().map(String::as_str).collect();
        let read = CustomControls::read(&text, &path.display().to_string(), &known);
        for problem in read.problems {
            let detail =
                if problem.key.is_empty() { problem.detail } else { format!("{}: {}", problem.key, problem.detail) };
            problems.push(wrong(&path, &problem.key, problem.line, detail));
        }
        taken.extend(read.controls.iter().map(|c| c.id.clone()));
        origin.extend(read.controls.iter().map(|c| (c.id.clone(), path.clone())));
        all.extend(read.controls);
    }
    // A combination may name controls of any file; one that names none is left out, and with it what names it.
    while !all.is_empty() {
        match built_in.extended(all.clone()) {
            Ok(catalogue) => return Some(catalogue),
            Err(error) => {
                let picket_checks::CatalogueError::Wrong { id, what } = &error else {
                    problems.push(wrong(folder, "", 0, error.to_string()));
                    return None;
                };
                let path = origin.get(id).cloned().unwrap_or_else(|| folder.to_owned());
                problems.push(wrong(&path, id, 0, format!("control {id}: {what}")));
                let before = all.len();
                all.retain(|control| control.id != *id);
                if all.len() == before {
                    return None;
                }
            }
        }
    }
    None
}

/// Two problems under one key of one file are told apart by number: a finding speaks of one thing.
fn one_subject_each(problems: &mut [Problem]) {
    let mut seen: BTreeMap<(&'static str, String), u32> = BTreeMap::new();
    for problem in problems {
        let count = seen.entry((problem.control, problem.subject.clone())).or_default();
        *count += 1;
        if *count > 1 {
            problem.subject.push_str(&format!(" ({count})"));
        }
    }
}

impl Problem {
    fn new(control: &'static str, path: &Path, key: &str, line: Option<u32>, detail: String) -> Self {
        let path = path.display().to_string();
        let subject = if key.is_empty() { path.clone() } else { format!("{path}: {key}") };
        Self { control, subject, path, line, detail: detail.chars().take(500).collect(), unseen: false }
    }

    fn unreadable(control: &'static str, path: &Path, reason: &ReadError) -> Self {
        // What is too large or no text is wrong whoever looks.
        let unseen = matches!(reason, ReadError::Denied | ReadError::ChangedWhileReading | ReadError::Io(_));
        Self { unseen, ..Self::new(control, path, "", None, reason.to_string()) }
    }

    fn verdict(&self) -> Verdict {
        let (title, expected, remedy) = if self.control == WAIVERS_READ {
            (
                "Every waiver of this node can be used",
                "control, subject, reason and expires, and nothing else",
                "Correct the entry, then: systemctl reload picketd. Until then it waives nothing.",
            )
        } else {
            (
                "Every custom control of this node can be judged",
                "entries in the vocabulary of the catalogue",
                "Correct the entry, then: systemctl reload picketd. Until then it is not judged.",
            )
        };
        let verdict = own_verdict(
            self.control,
            &self.subject,
            Severity::Medium,
            title,
            &self.detail,
            expected,
            remedy,
            Evidence { path: Some(self.path.clone()), line: self.line, layer: None, detail: self.detail.clone() },
        );
        Verdict { status: if self.unseen { Status::Unknown } else { Status::Fail }, ..verdict }
    }
}

/// A verdict on picket's own files.
#[expect(clippy::too_many_arguments, reason = "a verdict has that many words")]
fn own_verdict(
    control: &str,
    subject: &str,
    severity: Severity,
    title: &str,
    observed: &str,
    expected: &str,
    remedy: &str,
    evidence: Evidence,
) -> Verdict {
    Verdict {
        control: control.to_owned(),
        subject: subject.to_owned(),
        status: Status::Fail,
        severity,
        title: title.to_owned(),
        observed: observed.to_owned(),
        expected: expected.to_owned(),
        state: None,
        evidence: vec![evidence],
        cis: BTreeMap::new(),
        remedy: remedy.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_not_be_read_is_unknown_and_what_is_no_text_fails() {
        let table = [
            (ReadError::Denied, Status::Unknown),
            (ReadError::ChangedWhileReading, Status::Unknown),
            (ReadError::TooLarge { limit: LARGEST }, Status::Fail),
            (ReadError::NotText { offset: 3 }, Status::Fail),
        ];
        for (reason, wanted) in table {
            let verdict = Problem::unreadable(WAIVERS_READ, Path::new(WAIVERS), &reason).verdict();
            assert_eq!((verdict.status, verdict.observed), (wanted, reason.to_string()));
        }
    }
}
