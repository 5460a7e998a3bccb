//! The rules in use: those compiled in, those of the site, and how the site tunes them.
//!
//! A rule of the site that cannot be used is told with file and line, and the others run: a slip of the pen in one
//! file must not end the watch.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use picket_model::Severity;
use rsigma_eval::{CompiledRule, compile_rule};
use rsigma_parser::{CorrelationRule, FilterRule, parse_sigma_yaml};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::fields::is_field;
use crate::keywords;
use crate::rule::{Document, Rule, RuleError, builtin, fields, filter};
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
        let mut tuning = tuning.and_then(|(file, text)| Some((file, text, library.tuning(file, text)?)));
        if let Some((file, text, tuning)) = &mut tuning {
            library.site = std::mem::take(&mut tuning.site);
            library.check_networks(file, text);
        }
        let mut later = Later::default();
        for (file, text) in files {
            library.add(file, text, &mut later);
        }
        library.filter(later.filters);
        // First the rules, so that a correlation is over what the site made of them; then the correlations.
        let mut kept = BTreeSet::new();
        if let Some((file, text, tuning)) = &mut tuning {
            kept.extend(
                tuning.rules.iter().filter(|(_, change)| change.enabled == Some(true)).map(|(id, _)| id.clone()),
            );
            library.tune(file, text, tuning);
        }
        library.correlate(later.correlations, &kept);
        if let Some((file, text, tuning)) = &mut tuning {
            library.tune(file, text, tuning);
            for id in tuning.rules.keys() {
                library.error(
                    file,
                    line_of(text, 1, &format!("{id}:")),
                    format!("there is no rule {id:?} (picketd rules list)"),
                );
            }
        }
        library.rules.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(library)
    }

    /// The rules that are switched on.
    pub fn active(&self) -> Vec<Rule> {
        self.rules.iter().filter(|rule| rule.enabled).cloned().collect()
    }

    /// Leaves out all rules but these, and those that their correlations count, which raise nothing then.
    pub fn keep_only(&mut self, is_own: impl Fn(&Rule) -> bool) {
        let mut kept: BTreeSet<String> =
            self.rules.iter().filter(|rule| is_own(rule)).map(|rule| rule.id.clone()).collect();
        loop {
            let counted: Vec<String> = self
                .rules
                .iter()
                .filter(|rule| kept.contains(&rule.id))
                .filter_map(|rule| rule.correlation.as_ref())
                .flat_map(|correlation| correlation.over_detections().map(str::to_owned).collect::<Vec<_>>())
                .filter(|id| !kept.contains(id))
                .collect();
            if counted.is_empty() {
                break;
            }
            kept.extend(counted);
        }
        self.rules.retain(|rule| kept.contains(&rule.id));
        self.rules.iter_mut().filter(|rule| !is_own(rule)).for_each(|rule| rule.silent = true);
    }

    /// How many things are not used.
    pub fn errors(&self) -> usize {
        self.notices.iter().filter(|notice| notice.is_error()).count()
    }

    fn error(&mut self, file: &str, line: usize, what: impl Into<String>) {
        self.notices.push(Notice::Error(RuleError { file: file.to_owned(), line, what: what.into() }));
    }

    fn add(&mut self, file: &str, text: &str, later: &mut Later) {
        for (start, document) in documents(text) {
            match document.read(&self.site) {
                Err(what) => {
                    let line = line_repeated(&document.text, &what)
                        .or_else(|| line_in(&what))
                        .unwrap_or_else(|| line_named(&document.text, start, &what));
                    self.error(file, line, what);
                }
                Ok(read) => {
                    let open = |rule| Open { file: file.to_owned(), start, text: document.text.clone(), rule };
                    later.correlations.extend(read.correlations.into_iter().map(open));
                    let open = |rule| Open { file: file.to_owned(), start, text: document.text.clone(), rule };
                    later.filters.extend(read.filters.into_iter().map(open));
                    for rule in read.rules {
                        self.add_rule(file, start, &document.text, rule);
                    }
                }
            }
        }
    }

    fn filter(&mut self, filters: Vec<Open<FilterRule>>) {
        for Open { file, start: line, text, rule: sigma } in filters {
            let compiled = match filter(&sigma) {
                Ok(compiled) => compiled,
                Err(what) => {
                    self.error(&file, line_named(&text, line, &what), what);
                    continue;
                }
            };
            let mut about = 0;
            for rule in self.rules.iter_mut().filter(|rule| rule.is_filtered_by(&sigma)) {
                rule.filters.push(compiled.clone());
                rule.tuned = true;
                about += 1;
            }
            if about == 0 {
                self.error(&file, line, "there is no rule for the filter to be about");
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

    fn correlate(&mut self, mut open: Vec<Open<CorrelationRule>>, kept: &BTreeSet<String>) {
        let mut silent = BTreeSet::new();
        // A correlation may be over another one, wherever that stands.
        loop {
            let names: BTreeSet<String> =
                open.iter().flat_map(|open| open.rule.name.iter().chain(&open.rule.id).cloned()).collect();
            let (now, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut open)
                .into_iter()
                .partition(|open| !open.rule.rules.iter().any(|name| names.contains(name)));
            open = rest;
            if now.is_empty() {
                break;
            }
            for open in now {
                self.add_correlation(&open, &mut silent);
            }
        }
        for open in open {
            self.error(
                &open.file,
                open.line("rules", ""),
                "the correlation is over itself, or over one that is over it",
            );
        }
        // As Sigma has it: a rule that is correlated raises nothing by itself, unless the correlation says generate.
        let counted: BTreeSet<String> = self
            .rules
            .iter()
            .filter_map(|rule| rule.correlation.as_ref())
            .flat_map(|correlation| correlation.over_detections().map(str::to_owned).collect::<Vec<_>>())
            .collect();
        for rule in &mut self.rules {
            if silent.contains(&rule.id) && rule.origin.is_some() && !kept.contains(&rule.id) {
                // What a correlation counts is not the rule's events but its detections: it goes on, unheard.
                rule.silent = counted.contains(&rule.id);
                rule.enabled = rule.silent;
            }
        }
    }

    fn add_correlation(&mut self, open: &Open<CorrelationRule>, silent: &mut BTreeSet<String>) {
        let find = |name: &str| self.rules.iter().find(|rule| rule.is_called(name));
        let named = || open.line(if open.rule.name.is_some() { "name" } else { "id" }, "");
        match Rule::correlated(&open.rule, find) {
            Ok(rule) if rule.id.is_empty() || rule.id.len() > 128 => {
                self.error(&open.file, named(), "name or id must have 1 to 128 characters");
            }
            Ok(rule) if self.rules.iter().any(|known| known.id == rule.id) => {
                self.error(&open.file, named(), format!("{} is the id of another rule too; choose another", rule.id));
            }
            Ok(mut rule) => {
                rule.origin = Some((open.file.clone(), open.start));
                if !open.rule.generate {
                    silent.extend(rule.correlation.iter().flat_map(|made| made.names()).map(str::to_owned));
                }
                self.rules.push(rule);
            }
            Err(wrong) => self.error(&open.file, open.line(wrong.key, &wrong.value), wrong.what),
        }
    }

    fn tuning(&mut self, file: &str, text: &str) -> Option<Tuning> {
        // An empty file is a null.
        match serde_saphyr::from_str::<Option<Tuning>>(text) {
            Ok(tuning) => Some(tuning.unwrap_or_default()),
            Err(error) => {
                let line = error.location().map_or(1, |at| usize::try_from(at.line()).unwrap_or(1));
                let what = error.to_string();
                let what = what.lines().next().unwrap_or("it is not as described").to_owned();
                self.error(file, line, format!("{what}; nothing of this file is used"));
                None
            }
        }
    }

    /// Takes out what is no address or block. Of the cluster's own networks all are then unknown: with some of them only
    /// whoever comes from the others would be a stranger.
    fn check_networks(&mut self, file: &str, text: &str) {
        for wrong in self.site.drop_wrong_networks() {
            let what = format!("{wrong:?} is no address and no block such as 10.42.0.0/16; it is not used");
            self.error(file, line_of(text, 1, &wrong), what);
        }
    }

    /// Changes the rules that are there, and leaves the other changes.
    fn tune(&mut self, file: &str, text: &str, tuning: &mut Tuning) {
        for (id, change) in std::mem::take(&mut tuning.rules) {
            let Some(rule) = self.rules.iter_mut().find(|rule| rule.id == id) else {
                tuning.rules.insert(id, change);
                continue;
            };
            if let Err(what) = change.apply(rule) {
                self.error(file, line_of(text, 1, &format!("{id}:")), what);
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
    let mut rule = collection.rules.into_iter().next().ok_or("except: it is no search")?;
    keywords::part(&mut rule.detection);
    let compiled = compile_rule(&rule).map_err(|error| format!("except: {error}"))?;
    let mut asked = Vec::new();
    compiled.detections.values().for_each(|search| fields(search, &mut asked));
    // It would leave out nothing, or, where it asks for null, everything.
    match asked.into_iter().find(|field| !is_field(field)) {
        Some(field) => Err(format!("except: an audit event has no field {field:?} (picketd rules fields)")),
        None => Ok(compiled),
    }
}

/// What is read when all rules are there.
#[derive(Debug, Default)]
struct Later {
    correlations: Vec<Open<CorrelationRule>>,
    filters: Vec<Open<FilterRule>>,
}

/// A correlation or filter whose rules are not known yet, and where it stands.
#[derive(Debug)]
struct Open<R> {
    file: String,
    start: usize,
    text: String,
    rule: R,
}

impl<R> Open<R> {
    /// The line of this key, or of the value behind it.
    fn line(&self, key: &str, value: &str) -> usize {
        let key = format!("{key}:");
        let lines = || self.text.lines().enumerate().skip(self.start.saturating_sub(1));
        let at = lines()
            .find(|(_, line)| line.trim_start().starts_with(&key))
            .or_else(|| lines().find(|(_, line)| line.contains(&key)))
            .map(|(at, _)| at);
        let Some(at) = at else { return self.start };
        let valued = lines().skip_while(|(line, _)| *line < at).find(|(_, line)| line.contains(value));
        valued.map_or(at, |(at, _)| at) + 1
    }
}

/// A YAML document of a file, with the documents before it that it builds on (`action: global`, `repeat`), each on its
/// own lines, so that the lines a parser names are those of the file.
#[derive(Debug)]
struct YamlDocument {
    text: String,
    /// For `action: repeat`: the same without the last one.
    before: Option<String>,
}

impl YamlDocument {
    fn read(&self, site: &Site) -> Result<Document, String> {
        let mut read = Rule::document(&self.text, site)?;
        if let Some(before) = &self.before {
            let before = Rule::document(before, site)?;
            read.rules.drain(..before.rules.len());
            read.correlations.drain(..before.correlations.len());
            read.filters.drain(..before.filters.len());
        }
        Ok(read)
    }
}

/// The YAML documents of a file, each with its first line.
fn documents(text: &str) -> Vec<(usize, YamlDocument)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut ranges = Vec::from([Range { start: 0, end: 0 }]);
    for (at, line) in lines.iter().enumerate() {
        if *line == "---" || line.starts_with("--- ") {
            ranges.push(at + 1..at + 1);
        } else if let Some(range) = ranges.last_mut() {
            range.end = at + 1;
        }
    }
    let says_something = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let excerpt = |parts: &[Range<usize>]| {
        let mut text = String::new();
        for (at, line) in lines.iter().enumerate() {
            if parts.iter().any(|part| part.contains(&at)) {
                text.push_str(line);
            } else if parts.iter().skip(1).any(|part| part.start == at + 1) {
                text.push_str("---");
            }
            text.push('\n');
        }
        text
    };
    let (mut global, mut chain, mut documents) = (None, Vec::new(), Vec::new());
    for range in ranges {
        let own = lines.get(range.clone()).unwrap_or_default();
        if !own.iter().any(says_something) {
            continue;
        }
        let action =
            own.iter().find_map(|line| line.strip_prefix("action:")).map(|word| word.trim().trim_matches(['\'', '"']));
        let start = range.start + 1;
        match action {
            Some("global") => global = Some(range),
            Some("reset") => global = None,
            Some("repeat") if !chain.is_empty() => {
                let before = excerpt(&chain);
                chain.push(range);
                documents.push((start, YamlDocument { text: excerpt(&chain), before: Some(before) }));
            }
            _ => {
                chain = global.iter().cloned().chain([range]).collect();
                documents.push((start, YamlDocument { text: excerpt(&chain), before: None }));
            }
        }
    }
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

/// The line where a key stands again, which the YAML parser does not name.
fn line_repeated(text: &str, what: &str) -> Option<usize> {
    let (_, rest) = what.split_once("duplicate entry with key \"")?;
    let (key, _) = rest.split_once('"')?;
    let key = format!("{key}:");
    // How far in the key stands in the maps that are open here.
    let mut open: Vec<usize> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let mut content = line.trim_start();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let mut column = line.len() - content.len();
        if line.starts_with("---") {
            open.clear();
        }
        open.retain(|known| *known <= column);
        while let Some(item) = content.strip_prefix("- ") {
            content = item.trim_start();
            column = line.len() - content.len();
        }
        let content = content.replace(['"', '\''], "");
        // Also in a map that stands on one line.
        let twice = content.match_indices(&key).filter(|(from, _)| !content[..*from].ends_with(char::is_alphanumeric));
        if twice.count() > 1 {
            return Some(at + 1);
        }
        if content.starts_with(&key) {
            if open.contains(&column) {
                return Some(at + 1);
            }
            open.push(column);
        }
    }
    None
}

/// Whether what stands here in a line is no part of a longer word.
fn is_whole(line: &str, from: usize, length: usize) -> bool {
    !line[..from].ends_with(char::is_alphanumeric) && !line[from + length..].starts_with(char::is_alphanumeric)
}

/// The line of what an error quotes, else that of the detection.
fn line_named(document: &str, start: usize, what: &str) -> usize {
    let quoted = what.split(['\'', '"', '`']).skip(1).step_by(2);
    let lines: Vec<&str> = document.lines().collect();
    let word = what.rsplit(": ").next().filter(|word| !word.is_empty() && !word.contains(' '));
    quoted
        .filter(|words| !words.is_empty())
        .find_map(|words| {
            let whole = |line: &&str| line.match_indices(words).any(|(from, _)| is_whole(line, from, words.len()));
            lines.iter().position(whole).or_else(|| lines.iter().position(|line| line.contains(words)))
        })
        // A name that nothing has stands where it is used, which is behind what there is.
        .or_else(|| {
            let is_word = |line: &&str| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| Some(w) == word);
            lines.iter().rposition(is_word)
        })
        .map(|at| at + 1)
        .unwrap_or_else(|| line_of(document, start, "detection:"))
}
