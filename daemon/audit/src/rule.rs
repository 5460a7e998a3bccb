//! Sigma rules as Picket loads them.
//!
//! The Sigma rule says which events it is about; the library `rsigma` parses and evaluates it. What Sigma cannot say
//! (first seen, thresholds with cooldown, roll-up) stands in the custom attribute `picket:` of the same file.

use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;
use std::sync::Arc;

use flate2::read::DeflateDecoder;
use picket_model::Severity;
use rsigma_eval::compiler::{compile_detection, eval_condition};
use rsigma_eval::{CompiledDetection, CompiledRule, compile_rule, evaluate_rule};
use rsigma_parser::{
    ConditionExpr, CorrelationRule, Detections, FilterRule, Level, LogSource, Quantifier, SigmaRule, parse_sigma_yaml,
};
use serde::Deserialize;

use crate::correlation::{Correlation, Wrong, no_field};
use crate::detector::Reason;
use crate::fields::{Flags, View, is_field, product};
use crate::keywords;
use crate::placeholder;
use crate::site::Site;

/// A rule file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {what}")]
pub struct RuleError {
    /// The file's name.
    pub file: String,
    /// The line, from 1, or the nearest that is known.
    pub line: usize,
    /// What is wrong with it, and how to mend it.
    pub what: String,
}

/// How matches of a rule become detections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Every match; the same request again within a minute is counted into it (E13).
    #[default]
    Each,
    /// The first match of a key; the others within the window are counted into it.
    FirstSeen,
    /// When a key matched `threshold` times within the window.
    Count,
    /// When a key matched with `threshold` different values of `distinct` within the window.
    Distinct,
    /// When the first and then the second step matched within the window.
    Sequence,
    /// When a key is seen with another value of `field` than before.
    Compare,
    /// Like `each`; the rule depends on a list of the site.
    Config,
    /// Judged by the reader of the live log, not by its events.
    Absence,
    /// Judged over the sequence of all events; then like `first_seen`.
    Trail,
    /// A Sigma correlation.
    #[serde(skip)]
    Correlation,
}

/// A severity that holds when a named search of the same rule matches.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Adjust {
    level: Severity,
    when: String,
}

/// A threshold that holds when a named search of the same rule matches.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Threshold {
    threshold: u32,
    when: String,
    /// At least so many for each of the number this field holds.
    per: Option<Per>,
}

/// A threshold that grows with a number.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Per {
    field: String,
    times: u32,
}

/// What makes an open detection worse when it comes after it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Followed {
    /// The search that an event of the same key must meet.
    pub(crate) when: String,
    /// How long after the latest match.
    pub(crate) within_s: i64,
    pub(crate) level: Severity,
}

/// What a match counts when a named search of the same rule matches.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Weight {
    weight: u32,
    when: String,
}

/// What else must be so among the matches of a key: some met this search, with so many different values of these
/// fields, and some did not.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Also {
    pub(crate) search: String,
    pub(crate) distinct: Vec<String>,
    pub(crate) threshold: usize,
    /// Fewer matches than this in all: a busy client makes all kinds of requests.
    pub(crate) fewer_than: Option<u64>,
}

/// The `picket:` block of a rule.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Stateful {
    pub(crate) kind: Kind,
    /// Lowest audit level at which the rule can be decided. Not evaluated per event: see [`crate::needs`].
    pub(crate) needs_level: Option<String>,
    /// Fields that make the key.
    pub(crate) by: Vec<String>,
    /// Fields whose different values are counted.
    pub(crate) distinct: Vec<String>,
    threshold: Option<u32>,
    /// For `distinct`: what else must be so.
    pub(crate) also: Option<Also>,
    /// Other thresholds for special cases; the first that matches holds.
    thresholds: Vec<Threshold>,
    /// What a match counts in special cases, otherwise 1; the first that matches holds.
    weights: Vec<Weight>,
    pub(crate) window_s: Option<i64>,
    pub(crate) cooldown_s: Option<i64>,
    pub(crate) warmup_s: Option<i64>,
    /// Which list of the site the rule depends on. For people; not evaluated.
    #[allow(dead_code)]
    list: Option<String>,
    /// For `compare`: the field that is compared.
    pub(crate) field: Option<String>,
    /// For secrets: a look-up that found nothing is forgotten when the same actor then creates that name.
    pub(crate) forget_created: bool,
    /// Other severities for special cases; the first that matches holds.
    severity: Vec<Adjust>,
    /// For `sequence`: the named searches, in order.
    pub(crate) steps: Vec<String>,
    /// For `sequence`: how severe another rule must find the first step's event; else the detection is `low` at most.
    pub(crate) first_step: Option<Severity>,
    /// An event that makes the open detection worse.
    pub(crate) followed: Option<Followed>,
}

/// Highest threshold of a rule: each match is remembered until it is reached.
pub(crate) const MAX_THRESHOLD: u32 = 500;

/// A rule ready to be evaluated.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The catalogue's id.
    pub id: String,
    /// The rule in a sentence.
    pub title: String,
    /// Severity as raised by default.
    pub severity: Severity,
    /// ATT&CK technique ids.
    pub mitre: Vec<String>,
    /// File and line of a rule of the site; none for one that is compiled in.
    pub origin: Option<(String, usize)>,
    /// False for a rule that the site has switched off.
    pub enabled: bool,
    /// The site changed it.
    pub tuned: bool,
    pub(crate) stateful: Stateful,
    pub(crate) compiled: CompiledRule,
    /// The rule says nothing of stages: it is about whole requests, each once.
    pub(crate) once: bool,
    /// Searches of the site whose events are left out.
    pub(crate) except: Vec<CompiledRule>,
    /// Sigma filters: an event must meet all of them too.
    pub(crate) filters: Vec<CompiledRule>,
    /// For a correlation: the rules it is over.
    pub(crate) correlation: Option<Correlation>,
    /// Its detections only count for a correlation and are not reported.
    pub silent: bool,
}

/// What a file of rules holds, before correlations and filters find the rules they are about.
#[derive(Debug, Default)]
pub(crate) struct Document {
    pub(crate) rules: Vec<Rule>,
    pub(crate) correlations: Vec<CorrelationRule>,
    pub(crate) filters: Vec<FilterRule>,
}

impl Rule {
    /// Reads the rules of a file that is compiled in.
    ///
    /// # Errors
    /// [`RuleError`] names the file and what to mend.
    pub fn from_sigma(file: &str, text: &str) -> Result<Vec<Self>, RuleError> {
        let fail = |what| RuleError { file: file.to_owned(), line: 1, what };
        Self::document(text, &Site::default()).map(|document| document.rules).map_err(fail)
    }

    /// Reads one YAML document or several. The error says what to mend.
    pub(crate) fn document(text: &str, site: &Site) -> Result<Document, String> {
        let collection = parse_sigma_yaml(text).map_err(|error| error.to_string())?;
        if let Some(error) = collection.errors.first() {
            return Err(error.to_string());
        }
        let rules = collection.rules.into_iter().map(|sigma| Self::of(sigma, site)).collect::<Result<_, _>>()?;
        let mut filters = collection.filters;
        filters.iter_mut().try_for_each(|filter| {
            keywords::part(&mut filter.detection);
            placeholder::expand(&mut filter.detection, site)
        })?;
        Ok(Document { rules, correlations: collection.correlations, filters })
    }

    fn of(mut sigma: SigmaRule, site: &Site) -> Result<Self, String> {
        placeholder::expand(&mut sigma.detection, site)?;
        keywords::part(&mut sigma.detection);
        let compiled = compile_rule(&sigma).map_err(|error| error.to_string())?;
        let stateful = match compiled.custom_attributes.get("picket") {
            None => Stateful::default(),
            Some(block) => Stateful::deserialize(block).map_err(|error| format!("in the block picket: {error}"))?,
        };
        stateful.check_threshold()?;
        // What is judged by the reader, or over all events, is keyed by the file.
        let by_file = matches!(stateful.kind, Kind::Absence | Kind::Trail);
        if let Some(field) = stateful.fields().find(|field| !by_file && !is_field(field)) {
            return Err(format!("in the block picket: {}", no_field(field)));
        }
        check_selectors(&compiled.conditions, &compiled.detections, false)?;
        for named in stateful.searches() {
            if !compiled.detections.contains_key(named) {
                return Err(format!("the block picket names {named:?}, which is no search of this rule"));
            }
        }
        let id = sigma.name.clone().or_else(|| sigma.id.clone());
        Ok(Self {
            id: id.ok_or("the rule has neither name nor id")?,
            title: sigma.title.clone(),
            severity: severity(sigma.level),
            mitre: sigma.tags.iter().filter_map(|tag| technique(tag)).collect(),
            origin: None,
            enabled: true,
            tuned: false,
            stateful,
            compiled,
            once: false,
            except: Vec::new(),
            filters: Vec::new(),
            correlation: None,
            silent: false,
        })
    }

    /// The rule that a correlation is, over the rules that `find` knows by name.
    pub(crate) fn correlated<'r>(
        sigma: &CorrelationRule,
        find: impl Fn(&str) -> Option<&'r Self>,
    ) -> Result<Self, Wrong> {
        let correlation = Correlation::new(sigma, find)?;
        if sigma.timespan.seconds == 0 {
            return Err(Wrong::new("timespan", "a timespan: is at least 1s"));
        }
        let stateful = Stateful {
            kind: Kind::Correlation,
            threshold: correlation.threshold(),
            window_s: Some(i64::try_from(sigma.timespan.seconds).unwrap_or(i64::MAX)),
            ..Stateful::default()
        };
        stateful.check_threshold().map_err(|what| Wrong::new("condition", what))?;
        let id = sigma.name.clone().or_else(|| sigma.id.clone());
        Ok(Self {
            id: id.ok_or_else(|| Wrong::new("title", "the correlation has neither name nor id"))?,
            title: sigma.title.clone(),
            severity: severity(sigma.level),
            mitre: sigma.tags.iter().filter_map(|tag| technique(tag)).collect(),
            origin: None,
            enabled: true,
            tuned: false,
            stateful,
            compiled: bare(&sigma.title, HashMap::new(), Vec::new()),
            once: false,
            except: Vec::new(),
            filters: Vec::new(),
            correlation: Some(correlation),
            silent: false,
        })
    }

    /// Whether a filter is about this rule.
    pub(crate) fn is_filtered_by(&self, filter: &FilterRule) -> bool {
        use rsigma_parser::FilterRuleTarget::{Any, Specific};
        self.correlation.is_none()
            && match &filter.rules {
                Any => true,
                Specific(names) => names.iter().any(|name| self.is_called(name) || self.title == *name),
            }
    }

    /// All names a correlation may know the rule by.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        self.id == name || self.compiled.id.as_deref() == Some(name)
    }

    /// What the rule says the events are of.
    pub(crate) fn is_of_audit_log(&self) -> bool {
        let is = |value: &Option<String>, want: &str| value.as_deref().is_none_or(|v| v.eq_ignore_ascii_case(want));
        let source = &self.compiled.logsource;
        source.product.is_some() && is(&source.product, "kubernetes") && is(&source.service, "audit")
    }

    /// Names of all fields the rule asks for.
    pub(crate) fn fields(&self) -> Vec<&str> {
        let mut found = Vec::new();
        self.compiled.detections.values().for_each(|search| fields(search, &mut found));
        found
    }

    /// Whether the event is one this rule is about.
    pub(crate) fn matches(&self, view: &View<'_>) -> bool {
        let is_about = match &self.correlation {
            Some(correlation) => correlation.sources().any(|rule| rule.matches(view)),
            None => (!self.once || view.flag(Flags::FINAL)) && evaluate_rule(&self.compiled, view).is_some(),
        };
        is_about
            && self.filters.iter().all(|filter| evaluate_rule(filter, view).is_some())
            && !self.except.iter().any(|except| evaluate_rule(except, view).is_some())
    }

    /// The fields that made the event match. Only values that the log's own metadata hold are shown.
    pub(crate) fn reasons(&self, view: &View<'_>) -> Vec<Reason> {
        const SHOWN: [&str; 26] = [
            "stage",
            "level",
            "verb",
            "path",
            "user",
            "groups",
            "imp",
            "imp_groups",
            "actor",
            "actor_groups",
            "ip",
            "ips",
            "ua",
            "ua_prefix",
            "group",
            "res",
            "sub",
            "ns",
            "name",
            "code",
            "reason",
            "decision",
            "hostpaths",
            "caps",
            "images",
            "roleref.name",
        ];
        if let Some(correlation) = &self.correlation {
            let matched = correlation.sources().find(|rule| rule.matches(view));
            return matched.map(|rule| rule.reasons(view)).unwrap_or_default();
        }
        let Some(result) = evaluate_rule(&self.compiled, view) else { return Vec::new() };
        let matched = result.as_detection().map(|body| body.matched_fields.as_slice()).unwrap_or_default();
        let mut reasons: Vec<Reason> = Vec::new();
        for matched in matched {
            if reasons.iter().any(|reason| reason.field == matched.field) {
                continue;
            }
            let shown = SHOWN.contains(&matched.field.as_str()) || matched.value.is_boolean();
            let value = shown.then(|| match &matched.value {
                // What a client made up may hold anything.
                serde_json::Value::String(text) if matched.field == "ua" => product(text).chars().take(200).collect(),
                serde_json::Value::String(text) if matched.field == "path" => proxied(text).chars().take(200).collect(),
                serde_json::Value::String(text) => text.chars().take(200).collect(),
                other => other.to_string().chars().take(200).collect(),
            });
            reasons.push(Reason { field: matched.field.clone(), value });
        }
        reasons
    }

    /// Whether a named search of the rule matches.
    pub(crate) fn search(&self, name: &str, view: &View<'_>) -> bool {
        let name = ConditionExpr::Identifier(name.to_owned());
        eval_condition(&name, &self.compiled.detections, view, &mut Vec::new())
    }

    /// How many matches make a detection.
    pub(crate) fn threshold_of(&self, view: &View<'_>) -> usize {
        let special = self.stateful.thresholds.iter().find(|threshold| self.search(&threshold.when, view));
        let Some(special) = special else { return self.stateful.threshold() as usize };
        let grown = special.per.as_ref().and_then(|per| {
            let number: u32 = view.key_part(&per.field).parse().ok()?;
            Some(number.saturating_mul(per.times).saturating_add(1))
        });
        special.threshold.max(grown.unwrap_or(0)).min(MAX_THRESHOLD) as usize
    }

    /// How much a match counts.
    pub(crate) fn weight_of(&self, view: &View<'_>) -> u32 {
        let special = self.stateful.weights.iter().find(|weight| self.search(&weight.when, view));
        special.map_or(1, |weight| weight.weight)
    }

    /// The severity of this match.
    pub(crate) fn severity_of(&self, view: &View<'_>) -> Severity {
        self.stateful
            .severity
            .iter()
            .find(|adjust| self.search(&adjust.when, view))
            .map_or(self.severity, |adjust| adjust.level)
    }
}

/// A path without what another server is asked through a proxy, but for the first word of it.
fn proxied(path: &str) -> &str {
    const PROXY: &str = "/proxy/";
    let end = path.find(PROXY).map(|at| at + PROXY.len()).and_then(|from| Some(from + path.get(from..)?.find('/')?));
    end.and_then(|end| path.get(..end)).unwrap_or(path)
}

/// A filter, as the searches and the condition that an event must meet.
pub(crate) fn filter(filter: &FilterRule) -> Result<CompiledRule, String> {
    let Detections { named, conditions, .. } = &filter.detection;
    let searches = named
        .iter()
        .map(|(name, search)| Ok((name.clone(), compile_detection(search).map_err(|error| error.to_string())?)))
        .collect::<Result<HashMap<_, _>, String>>()?;
    if conditions.is_empty() {
        return Err("a filter needs a condition: what an event must be for the rule to hold".into());
    }
    check_selectors(conditions, &searches, false)?;
    let mut asked = Vec::new();
    searches.values().for_each(|search| fields(search, &mut asked));
    // It would take out nothing, or every event of every rule.
    if let Some(field) = asked.into_iter().find(|field| !is_field(field)) {
        return Err(no_field(field));
    }
    Ok(bare(&filter.title, searches, conditions.clone()))
}

/// A selector that is about no search: `all of` then holds for every event, and `1 of` for none. Only as an exception,
/// `not 1 of filter_*`, it means what it says.
fn check_selectors(
    conditions: &[ConditionExpr],
    searches: &HashMap<String, CompiledDetection>,
    negated: bool,
) -> Result<(), String> {
    for condition in conditions {
        match condition {
            ConditionExpr::And(parts) | ConditionExpr::Or(parts) => check_selectors(parts, searches, negated)?,
            ConditionExpr::Not(part) => check_selectors(std::slice::from_ref(part), searches, !negated)?,
            ConditionExpr::Identifier(_) => {}
            ConditionExpr::Selector { quantifier, pattern } => {
                let exception = negated && *quantifier != Quantifier::All;
                if !exception && !searches.keys().any(|name| pattern.matches_detection_name(name)) {
                    let what = format!("of {pattern}");
                    return Err(format!("the condition says {what:?}, and the rule has no search of such a name"));
                }
            }
        }
    }
    Ok(())
}

fn bare(title: &str, detections: HashMap<String, CompiledDetection>, conditions: Vec<ConditionExpr>) -> CompiledRule {
    CompiledRule {
        title: title.to_owned(),
        id: None,
        level: None,
        tags: Vec::new(),
        description: None,
        falsepositives: Vec::new(),
        logsource: LogSource::default(),
        detections,
        conditions,
        include_event: false,
        custom_attributes: Arc::default(),
    }
}

impl Stateful {
    /// Names of all searches that the block names.
    fn searches(&self) -> impl Iterator<Item = &String> {
        let severities = self.severity.iter().map(|adjust| &adjust.when);
        let thresholds = self.thresholds.iter().map(|threshold| &threshold.when);
        let weights = self.weights.iter().map(|weight| &weight.when);
        let also = self.also.iter().map(|also| &also.search);
        let followed = self.followed.iter().map(|followed| &followed.when);
        severities.chain(thresholds).chain(weights).chain(also).chain(followed).chain(&self.steps)
    }

    /// Names of all fields that the block names.
    fn fields(&self) -> impl Iterator<Item = &String> {
        let also = self.also.iter().flat_map(|also| &also.distinct);
        // Elsewhere it says in words what is compared.
        let compared = self.field.iter().filter(|_| self.kind == Kind::Compare);
        let per = self.thresholds.iter().filter_map(|special| special.per.as_ref()).map(|per| &per.field);
        self.by.iter().chain(&self.distinct).chain(compared).chain(also).chain(per)
    }

    /// How many matches make a detection, where nothing special holds.
    pub(crate) fn threshold(&self) -> u32 {
        self.threshold.unwrap_or(1)
    }

    /// The threshold, where there is one.
    pub(crate) fn threshold_tuned(&self) -> Option<usize> {
        self.threshold.map(|threshold| threshold as usize)
    }

    fn check_threshold(&self) -> Result<(), String> {
        let mut thresholds = self.threshold.into_iter().chain(self.thresholds.iter().map(|special| special.threshold));
        if thresholds.any(|threshold| threshold == 0) {
            return Err("a \"threshold:\" is at least 1".into());
        }
        if self.window_s.is_some_and(|seconds| seconds <= 0) {
            return Err("a \"window_s:\" is at least 1".into());
        }
        if self.cooldown_s.is_some_and(|seconds| seconds < 0) {
            return Err("a \"cooldown_s:\" is no time".into());
        }
        let highest = self.threshold.into_iter().chain(self.thresholds.iter().map(|special| special.threshold)).max();
        match highest {
            Some(threshold) if threshold > MAX_THRESHOLD => {
                Err(format!("the threshold {threshold} is above the most that is counted, {MAX_THRESHOLD}"))
            }
            _ => Ok(()),
        }
    }

    /// Changes what the site wants changed.
    pub(crate) fn tune(
        &mut self,
        threshold: Option<u32>,
        window_s: Option<i64>,
        cooldown_s: Option<i64>,
    ) -> Result<(), String> {
        if threshold == Some(0) || window_s == Some(0) {
            return Err("threshold and window_s are at least 1".into());
        }
        if let Some(threshold) = threshold {
            let counts = match self.kind {
                Kind::Count | Kind::Distinct => true,
                Kind::Correlation => self.threshold.is_some(),
                _ => false,
            };
            if !counts {
                return Err("the rule does not count, so it has no threshold".into());
            }
            self.threshold = Some(threshold);
            // The site's word holds for everybody.
            self.thresholds.clear();
        }
        self.window_s = window_s.or(self.window_s);
        self.cooldown_s = cooldown_s.or(self.cooldown_s);
        self.check_threshold()
    }

    /// Severities for special cases no longer hold.
    pub(crate) fn forget_severities(&mut self) {
        self.severity.clear();
    }
}

/// Names of the fields that a search asks for.
pub(crate) fn fields<'r>(search: &'r CompiledDetection, found: &mut Vec<&'r str>) {
    match search {
        CompiledDetection::AllOf(items) => found.extend(items.iter().filter_map(|item| item.field.as_deref())),
        CompiledDetection::AnyOf(searches) => searches.iter().for_each(|search| fields(search, found)),
        CompiledDetection::ArrayMatch { field, .. } => found.push(field),
        _ => {}
    }
}

fn severity(level: Option<Level>) -> Severity {
    match level {
        Some(Level::Informational) => Severity::Info,
        Some(Level::Low) => Severity::Low,
        Some(Level::High) => Severity::High,
        Some(Level::Critical) => Severity::Critical,
        Some(Level::Medium) | None => Severity::Medium,
    }
}

fn technique(tag: &str) -> Option<String> {
    let id = tag.strip_prefix("attack.t")?;
    id.starts_with(|c: char| c.is_ascii_digit()).then(|| format!("T{id}"))
}

/// The rules that are compiled in, by id.
///
/// # Errors
/// Never in a released build: a test loads them all.
pub fn builtin() -> Result<Vec<Rule>, RuleError> {
    let wrong = |what: String| RuleError { file: "the rules that are compiled in".to_owned(), line: 1, what };
    let mut all = String::new();
    DeflateDecoder::new(include_bytes!(concat!(env!("OUT_DIR"), "/rules.z")).as_slice())
        .read_to_string(&mut all)
        .map_err(|error| wrong(error.to_string()))?;
    let mut rules = BTreeMap::new();
    // Name and text take turns.
    let mut parts = all.split_terminator('\0');
    while let (Some(file), Some(text)) = (parts.next(), parts.next()) {
        for rule in Rule::from_sigma(file, text)? {
            rules.insert(rule.id.clone(), rule);
        }
    }
    Ok(rules.into_values().collect())
}
