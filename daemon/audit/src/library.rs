//! The rules in use: those compiled in, those of the site, and how the site tunes them.
//!
//! A rule of the site that cannot be used is told with file and line, and the others run: a slip of the pen in one
//! file must not end the watch.

use std::collections::{BTreeMap, BTreeSet};

use picket_model::Severity;
use rsigma_eval::{CompiledRule, compile_rule};
use rsigma_parser::{CorrelationRule, parse_sigma_yaml};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::fields::is_field;
use crate::rule::{Rule, RuleError, builtin};
use crate::site::Site;

/// Most rules of a site.
const MOST_RULES: usize = 1000;

/// Something about a file of the site that a person should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// What stands there is not used.
    Error(RuleError),
    /// It is used, but most likely not as it was meant.
    Warning(RuleError),
}

impl Notice {
    /// What it is about.
    pub const fn about(&self) -> &RuleError {
        match self {
            Self::Error(about) | Self::Warning(about) => about,
        }
    }

    /// Whether something is not used.
    pub const fn is_error(&self) -> bool {
        matches!(self, Self::Error(_))
    }
}

/// The rules in use.
#[derive(Debug, Clone)]
pub struct Library {
    /// All rules by id, those that are switched off too.
    pub rules: Vec<Rule>,
    /// Lists of the site.
    pub site: Site,
    /// What is wrong in the site's files.
    pub notices: Vec<Notice>,
}

/// `tuning.yml`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Tuning {
    /// By rule id.
    rules: BTreeMap<String, RuleTuning>,
    site: Site,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RuleTuning {
    enabled: Option<bool>,
    severity: Option<Severity>,
    threshold: Option<u32>,
    window_s: Option<u32>,
    cooldown_s: Option<u32>,
    /// Sigma searches, as under `detection:`; an event that meets one is left out.
    except: Vec<Value>,
}

impl Library {
    /// The rules that are compiled in, with the site's files: name and text of each, and of `tuning.yml`.
    ///
    /// # Errors
    /// Only when a rule that is compiled in does not load; a test keeps that from happening.
    pub fn load(files: &[(String, String)], tuning: Option<(&str, &str)>) -> Result<Self, RuleError> {
        let mut library = Self { rules: builtin()?, site: Site::default(), notices: Vec::new() };
        let mut correlations = Vec::new();
        for (file, text) in files {
            library.add(file, text, &mut correlations);
        }
        library.correlate(correlations);
        if let Some((file, text)) = tuning {
            library.tune(file, text);
        }
        library.rules.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(library)
    }

    /// The rules that are switched on.
    pub fn active(&self) -> Vec<Rule> {
        self.rules.iter().filter(|rule| rule.enabled).cloned().collect()
    }

    /// How many things are not used.
    pub fn errors(&self) -> usize {
        self.notices.iter().filter(|notice| notice.is_error()).count()
    }

    fn error(&mut self, file: &str, line: usize, what: impl Into<String>) {
        self.notices.push(Notice::Error(RuleError { file: file.to_owned(), line, what: what.into() }));
    }

    fn add(&mut self, file: &str, text: &str, correlations: &mut Vec<(String, usize, CorrelationRule)>) {
        for (start, document) in documents(text) {
            if document.lines().any(|line| line.starts_with("action:")) {
                let line = line_of(&document, start, "action:");
                self.error(file, line, "action: is not supported; write each rule in full");
                continue;
            }
            match Rule::document(&document) {
                Err(what) => {
                    let line = line_in(&what).unwrap_or_else(|| line_named(&document, start, &what));
                    self.error(file, line, what);
                }
                Ok(read) => {
                    correlations.extend(read.correlations.into_iter().map(|c| (file.to_owned(), start, c)));
                    for rule in read.rules {
                        self.add_rule(file, start, &document, rule);
                    }
                }
            }
        }
    }

    fn add_rule(&mut self, file: &str, start: usize, document: &str, mut rule: Rule) {
        let site_rules = self.rules.iter().filter(|rule| rule.origin.is_some()).count();
        if site_rules >= MOST_RULES {
            self.error(file, start, format!("there are more than {MOST_RULES} rules; this one is not used"));
            return;
        }
        if !rule.is_of_audit_log() {
            let line = line_of(document, start, "logsource:");
            self.error(file, line, "logsource must be product: kubernetes, service: audit; no other log is read here");
            return;
        }
        if rule.id.is_empty() || rule.id.len() > 128 || rule.id.chars().any(|c| c.is_control() || c.is_whitespace()) {
            let what = "name or id must have 1 to 128 characters and no blanks: detections are known by it";
            self.error(file, line_of(document, start, "name:"), what);
            return;
        }
        if let Some(other) = self.rules.iter().find(|known| known.id == rule.id) {
            let what = match &other.origin {
                None => {
                    format!("{} is the id of a rule that is compiled in; choose another, or tune that one", rule.id)
                }
                Some((file, line)) => format!("{} is the id of the rule in {file}:{line} too; choose another", rule.id),
            };
            self.error(file, line_of(document, start, &rule.id), what);
            return;
        }
        let fields: BTreeSet<&str> = rule.fields().into_iter().collect();
        for field in fields.iter().filter(|field| !is_field(field)) {
            let line = line_of(document, start, field);
            let what = format!("an audit event has no field {field:?}, so it is always null (picketd rules fields)");
            self.notices.push(Notice::Warning(RuleError { file: file.to_owned(), line, what }));
        }
        let once = !fields.iter().any(|field| ["stage", "done", "final"].contains(field));
        rule.once = once;
        rule.origin = Some((file.to_owned(), line_of(document, start, "title:")));
        self.rules.push(rule);
    }

    fn correlate(&mut self, correlations: Vec<(String, usize, CorrelationRule)>) {
        let mut silent = BTreeSet::new();
        for (file, line, correlation) in correlations {
            let made = match correlation.rules.as_slice() {
                [name] => match self.rules.iter().find(|rule| rule.is_called(name)) {
                    Some(base) => base.correlated(&correlation).map(|rule| (base.id.clone(), rule)),
                    None => Err(format!("there is no rule {name:?} for the correlation to be about")),
                },
                _ => Err("a correlation over several rules is not supported: write one rule that matches any of \
                          them (condition: 1 of selection*), and correlate that"
                    .to_owned()),
            };
            match made {
                Ok((_, rule)) if rule.id.is_empty() || rule.id.len() > 128 => {
                    self.error(&file, line, "name or id must have 1 to 128 characters");
                }
                Ok((_, rule)) if self.rules.iter().any(|known| known.id == rule.id) => {
                    self.error(&file, line, format!("{} is the id of another rule too; choose another", rule.id));
                }
                Ok((base, mut rule)) => {
                    rule.origin = Some((file, line));
                    if !correlation.generate {
                        silent.insert(base);
                    }
                    self.rules.push(rule);
                }
                Err(what) => self.error(&file, line, what),
            }
        }
        // As Sigma has it: a rule that is correlated raises nothing by itself, unless the correlation says generate.
        for rule in &mut self.rules {
            if silent.contains(&rule.id) && rule.origin.is_some() {
                rule.enabled = false;
            }
        }
    }

    fn tune(&mut self, file: &str, text: &str) {
        // An empty file is a null.
        let tuning: Tuning = match serde_saphyr::from_str::<Option<Tuning>>(text) {
            Ok(tuning) => tuning.unwrap_or_default(),
            Err(error) => {
                let line = error.location().map_or(1, |at| usize::try_from(at.line()).unwrap_or(1));
                let what = error.to_string();
                let what = what.lines().next().unwrap_or("it is not as described").to_owned();
                self.error(file, line, format!("{what}; nothing of this file is used"));
                return;
            }
        };
        self.site = tuning.site;
        for (id, change) in tuning.rules {
            let line = line_of(text, 1, &format!("{id}:"));
            let Some(rule) = self.rules.iter_mut().find(|rule| rule.id == id) else {
                self.error(file, line, format!("there is no rule {id:?} (picketd rules list)"));
                continue;
            };
            if let Err(what) = change.apply(rule) {
                self.error(file, line, what);
            }
        }
    }
}

impl RuleTuning {
    fn apply(self, rule: &mut Rule) -> Result<(), String> {
        let mut tuned = rule.clone();
        tuned.tuned = true;
        tuned.enabled = self.enabled.unwrap_or(rule.enabled);
        if let Some(severity) = self.severity {
            tuned.severity = severity;
            tuned.stateful.forget_severities();
        }
        tuned.stateful.tune(self.threshold, self.window_s.map(i64::from), self.cooldown_s.map(i64::from))?;
        for search in self.except {
            tuned.except.push(exception(search)?);
        }
        *rule = tuned;
        Ok(())
    }
}

/// An exception is a Sigma search. JSON is YAML too.
fn exception(search: Value) -> Result<CompiledRule, String> {
    let text = json!({
        "title": "exception",
        "logsource": { "product": "kubernetes", "service": "audit" },
        "detection": { "except": search, "condition": "except" },
    });
    let collection = parse_sigma_yaml(&text.to_string()).map_err(|error| format!("except: {error}"))?;
    if let Some(error) = collection.errors.first() {
        return Err(format!("except: {error}"));
    }
    let rule = collection.rules.first().ok_or("except: it is no search")?;
    compile_rule(rule).map_err(|error| format!("except: {error}"))
}

/// The YAML documents of a file, each with its first line, and with empty lines before it so that the lines a parser
/// names are those of the file.
fn documents(text: &str) -> Vec<(usize, String)> {
    let mut documents = vec![(1, String::new())];
    for (at, line) in text.lines().enumerate() {
        if line == "---" || line.starts_with("--- ") {
            documents.push((at + 2, "\n".repeat(at + 1)));
        } else if let Some((_, document)) = documents.last_mut() {
            document.push_str(line);
            document.push('\n');
        }
    }
    let says_something = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    documents.retain(|(_, document)| document.lines().any(says_something));
    documents
}

/// The first line from `start` on that holds these words, else `start`.
fn line_of(text: &str, start: usize, words: &str) -> usize {
    text.lines().enumerate().find(|(_, line)| line.contains(words)).map_or(start, |(at, _)| at + 1)
}

/// The line that an error of the YAML parser names.
fn line_in(what: &str) -> Option<usize> {
    let (_, rest) = what.rsplit_once("line ")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The line of what an error quotes, else that of the detection.
fn line_named(document: &str, start: usize, what: &str) -> usize {
    let quoted = what.split(['\'', '"', '`']).skip(1).step_by(2);
    let lines: Vec<&str> = document.lines().collect();
    let word = what.rsplit(": ").next().filter(|word| !word.is_empty() && !word.contains(' '));
    quoted
        .filter(|words| !words.is_empty())
        .find_map(|words| lines.iter().position(|line| line.contains(words)))
        // A name that nothing has stands where it is used, which is behind what there is.
        .or_else(|| {
            let is_word = |line: &&str| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| Some(w) == word);
            lines.iter().rposition(is_word)
        })
        .map(|at| at + 1)
        .unwrap_or_else(|| line_of(document, start, "detection:"))
}
