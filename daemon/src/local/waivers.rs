//! Waivers: somebody decided, with a reason and until a day, that a failure is to be lived with. The verdict keeps its
//! status; it only no longer counts for `--fail-on`, and says who decided what.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use picket_checks::Catalogue;
use picket_host::{Host, ReadError};
use picket_model::{Evidence, Severity, Status, Verdict};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_saphyr::Spanned;

use super::{LARGEST, Problem, WAIVER_EXPIRED, WAIVERS_READ, own_verdict};

/// Most waivers of a node.
const MOST: usize = 1000;
/// Keys of a waiver; all are needed.
const KEYS: [&str; 4] = ["control", "subject", "reason", "expires"];

/// One waiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiver {
    /// The control's id.
    pub control: String,
    /// Which of its subjects: `*` stands for any run of characters, `?` for one.
    pub subject: String,
    /// Why.
    pub reason: String,
    /// Until when.
    pub expires: Timestamp,
    /// The line it begins at.
    pub line: u32,
}

/// What stands at a waived verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Waived {
    /// Why.
    pub reason: String,
    /// Until when.
    pub expires: Timestamp,
}

/// The waivers of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waivers {
    path: String,
    all: Vec<Waiver>,
}

impl Waivers {
    pub(super) fn read(host: &Host, path: &Path, catalogue: &Catalogue, problems: &mut Vec<Problem>) -> Self {
        let mut waivers = Self { path: path.display().to_string(), all: Vec::new() };
        let text = match host.read(path, LARGEST).and_then(|content| content.text().map(str::to_owned)) {
            Ok(text) => text,
            Err(ReadError::Absent) => return waivers,
            Err(reason) => {
                problems.push(Problem::unreadable(WAIVERS_READ, path, &reason));
                return waivers;
            }
        };
        if text.trim().is_empty() {
            return waivers;
        }
        let mut wrong = |key: &str, line: u64, detail: String| {
            problems.push(Problem::new(WAIVERS_READ, path, key, u32::try_from(line).ok().filter(|l| *l > 0), detail));
        };
        let entries = match serde_saphyr::from_str::<Option<Vec<BTreeMap<String, Spanned<Value>>>>>(&text) {
            Ok(entries) => entries.unwrap_or_default(),
            Err(error) => {
                let said = error.without_snippet().to_string();
                let line = error.location().map_or(0, |at| at.line());
                wrong("", line, format!("no YAML list of waivers: {}", said.lines().next().unwrap_or_default()));
                return waivers;
            }
        };
        if entries.len() > MOST {
            wrong("", 0, format!("{} waivers; the first {MOST} count", entries.len()));
        }
        for entry in entries.into_iter().take(MOST) {
            match waiver(&entry, catalogue) {
                Ok(waiver) => waivers.all.push(waiver),
                Err((key, line, detail)) => wrong(&key, line, format!("{key}: {detail}")),
            }
        }
        waivers
    }

    /// Marks the failures and blind spots that are waived at a moment.
    pub(super) fn apply(&self, verdicts: &mut [Verdict], at: Timestamp) -> BTreeMap<usize, Waived> {
        let mut waived = BTreeMap::new();
        if self.all.is_empty() {
            return waived;
        }
        for (index, verdict) in verdicts.iter_mut().enumerate() {
            if !matches!(verdict.status, Status::Fail | Status::Unknown) {
                continue;
            }
            let fits =
                |w: &&Waiver| w.expires > at && w.control == verdict.control && fits(&w.subject, &verdict.subject);
            // Of several the one that lasts longest.
            let Some(waiver) = self.all.iter().filter(fits).max_by_key(|w| w.expires) else { continue };
            verdict.evidence.push(Evidence {
                path: Some(self.path.clone()),
                line: Some(waiver.line),
                layer: Some("waiver".to_owned()),
                detail: format!("waived until {}: {}", waiver.expires, waiver.reason),
            });
            waived.insert(index, Waived { reason: waiver.reason.clone(), expires: waiver.expires });
        }
        waived
    }

    /// A verdict for each waiver that ran out.
    pub(super) fn expired(&self, at: Timestamp) -> Vec<Verdict> {
        let mut rows: Vec<Verdict> = Vec::new();
        for waiver in self.all.iter().filter(|w| w.expires <= at) {
            let mut subject = format!("{} on {}", waiver.control, waiver.subject);
            let twins = rows.iter().filter(|r| r.subject.starts_with(&subject)).count();
            if twins > 0 {
                subject.push_str(&format!(" ({})", twins + 1));
            }
            let detail = format!("expired {}: {}", waiver.expires, waiver.reason);
            rows.push(own_verdict(
                WAIVER_EXPIRED,
                &subject,
                Severity::Low,
                "No waiver of this node has run out",
                &detail,
                "a waiver that is still valid, or none",
                "Decide anew: correct what it waived and remove the waiver, or give it another day in expires.",
                Evidence {
                    path: Some(self.path.clone()),
                    line: Some(waiver.line),
                    detail: detail.clone(),
                    ..Evidence::default()
                },
            ));
        }
        rows
    }

    /// The next moment at which a waiver ends.
    pub fn next_end(&self, after: Timestamp) -> Option<Timestamp> {
        self.all.iter().map(|w| w.expires).filter(|end| *end > after).min()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

/// What a waiver says, or (key, line, what is wrong).
fn waiver(entry: &BTreeMap<String, Spanned<Value>>, catalogue: &Catalogue) -> Result<Waiver, (String, u64, String)> {
    let line = entry.values().map(|value| value.referenced.line()).min().unwrap_or(0);
    if let Some((key, value)) = entry.iter().find(|(key, _)| !KEYS.contains(&key.as_str())) {
        let detail = format!("is no key of a waiver; known are {}", KEYS.join(", "));
        return Err((key.clone(), value.referenced.line(), detail));
    }
    let text = |key: &str| -> Result<(String, u64), (String, u64, String)> {
        let value = entry
            .get(key)
            .ok_or_else(|| (key.to_owned(), line, format!("is missing; a waiver needs {}", KEYS.join(", "))))?;
        let at = value.referenced.line();
        match String::deserialize(&value.value) {
            Ok(text) if !text.trim().is_empty() && text.len() <= 1000 => Ok((text.trim().to_owned(), at)),
            Ok(text) if text.trim().is_empty() => Err((key.to_owned(), at, "is empty".to_owned())),
            Ok(_) => Err((key.to_owned(), at, "is longer than 1000 bytes".to_owned())),
            Err(_) => Err((key.to_owned(), at, "is no text; write it in quotes".to_owned())),
        }
    };
    let (control, at) = text("control")?;
    if catalogue.get(&control).is_none() {
        let detail = format!("there is no control {control:?}; `picketd scan -o csv` lists them");
        return Err(("control".to_owned(), at, detail));
    }
    let (subject, _) = text("subject")?;
    let (reason, _) = text("reason")?;
    let (expires, at) = text("expires")?;
    let expires = expires.parse::<Timestamp>().map_err(|_| {
        let detail = format!("{expires:?} is no moment; write it as in 2027-01-31T00:00:00Z (RFC 3339)");
        ("expires".to_owned(), at, detail)
    })?;
    Ok(Waiver { control, subject, reason, expires, line: u32::try_from(line).unwrap_or(0) })
}

/// A subject against a pattern with `*` and `?`. Linear in the two lengths multiplied, without recursion.
fn fits(pattern: &str, subject: &str) -> bool {
    let (pattern, subject): (Vec<char>, Vec<char>) = (pattern.chars().collect(), subject.chars().collect());
    let (mut p, mut s) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(c) = subject.get(s) {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, s));
                p += 1;
            }
            Some(want) if want == c || *want == '?' => {
                p += 1;
                s += 1;
            }
            _ => match star {
                // The star takes one character more.
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    s = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn patterns_cross_folders_and_stay_linear() {
        assert!(fits("/a/*.crt#0", "/a/b/c.crt#0"));
        assert!(fits("*", ""));
        assert!(fits("tls-?.crt", "tls-1.crt"));
        assert!(!fits("/a/*.crt", "/a/b.key"));
        assert!(!fits("", "x"));
        let (pattern, subject) = ("*a".repeat(500), "a".repeat(499));
        assert!(!fits(&pattern, &subject));
    }
}
