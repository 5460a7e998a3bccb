//! Sigma rules as Picket loads them.
//!
//! The Sigma rule says which events it is about; the library `rsigma` parses and evaluates it. What Sigma cannot say
//! (first seen, thresholds with cooldown, roll-up) stands in the custom attribute `picket:` of the same file.

use std::collections::BTreeMap;

use picket_model::Severity;
use rsigma_eval::compiler::eval_condition;
use rsigma_eval::{CompiledRule, compile_rule, evaluate_rule};
use rsigma_parser::{ConditionExpr, Level, parse_sigma_yaml};
use serde::Deserialize;

use crate::detector::Reason;
use crate::fields::View;

/// A rule file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {what}")]
pub struct RuleError {
    /// The file's name.
    pub file: String,
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
}

/// What else must be so among the matches of a key: some met this search, with so many different values of these
/// fields, and some did not.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Also {
    pub(crate) search: String,
    pub(crate) distinct: Vec<String>,
    pub(crate) threshold: usize,
}

/// The `picket:` block of a rule.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Stateful {
    pub(crate) kind: Kind,
    /// Lowest audit level at which the rule can be decided. For people; not evaluated.
    #[allow(dead_code)]
    needs_level: Option<String>,
    /// Fields that make the key.
    pub(crate) by: Vec<String>,
    /// Fields whose different values are counted.
    pub(crate) distinct: Vec<String>,
    threshold: Option<u32>,
    /// For `distinct`: what else must be so.
    pub(crate) also: Option<Also>,
    /// Other thresholds for special cases; the first that matches holds.
    thresholds: Vec<Threshold>,
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
}

/// A rule ready to be evaluated.
#[derive(Debug)]
pub struct Rule {
    /// The catalogue's id.
    pub id: String,
    /// The rule in a sentence.
    pub title: String,
    /// Severity as raised by default.
    pub severity: Severity,
    /// ATT&CK technique ids.
    pub mitre: Vec<String>,
    pub(crate) stateful: Stateful,
    pub(crate) compiled: CompiledRule,
}

impl Rule {
    /// Reads one Sigma rule.
    ///
    /// # Errors
    /// [`RuleError`] names the file and what to mend.
    pub fn from_sigma(file: &str, text: &str) -> Result<Vec<Self>, RuleError> {
        let fail = |what: String| RuleError { file: file.to_owned(), what };
        let collection = parse_sigma_yaml(text).map_err(|error| fail(error.to_string()))?;
        if let Some(error) = collection.errors.first() {
            return Err(fail(error.to_string()));
        }
        let mut rules = Vec::new();
        for sigma in &collection.rules {
            let compiled = compile_rule(sigma).map_err(|error| fail(error.to_string()))?;
            let stateful = match compiled.custom_attributes.get("picket") {
                None => Stateful::default(),
                Some(block) => {
                    Stateful::deserialize(block).map_err(|error| fail(format!("in the block picket: {error}")))?
                }
            };
            let severities = stateful.severity.iter().map(|adjust| &adjust.when);
            let also = stateful.also.iter().map(|also| &also.search);
            let thresholds = stateful.thresholds.iter().map(|threshold| &threshold.when);
            for named in severities.chain(thresholds).chain(&stateful.steps).chain(also) {
                if !compiled.detections.contains_key(named) {
                    return Err(fail(format!("the block picket names {named:?}, which is no search of this rule")));
                }
            }
            let id = sigma.name.clone().or_else(|| sigma.id.clone());
            rules.push(Self {
                id: id.ok_or_else(|| fail("the rule has neither name nor id".into()))?,
                title: sigma.title.clone(),
                severity: severity(sigma.level),
                mitre: sigma.tags.iter().filter_map(|tag| technique(tag)).collect(),
                stateful,
                compiled,
            });
        }
        Ok(rules)
    }

    /// Whether the event is one this rule is about.
    pub(crate) fn matches(&self, view: &View<'_>) -> bool {
        evaluate_rule(&self.compiled, view).is_some()
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
        let Some(result) = evaluate_rule(&self.compiled, view) else { return Vec::new() };
        let matched = result.as_detection().map(|body| body.matched_fields.as_slice()).unwrap_or_default();
        let mut reasons: Vec<Reason> = Vec::new();
        for matched in matched {
            if reasons.iter().any(|reason| reason.field == matched.field) {
                continue;
            }
            let shown = SHOWN.contains(&matched.field.as_str()) || matched.value.is_boolean();
            let value = shown.then(|| match &matched.value {
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
        special.map(|threshold| threshold.threshold).or(self.stateful.threshold).unwrap_or(1) as usize
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

include!(concat!(env!("OUT_DIR"), "/rules.rs"));

/// The rules that are compiled in, by id.
///
/// # Errors
/// Never in a released build: a test loads them all.
pub fn builtin() -> Result<Vec<Rule>, RuleError> {
    let mut rules = BTreeMap::new();
    for (file, text) in BUILTIN {
        for rule in Rule::from_sigma(file, text)? {
            rules.insert(rule.id.clone(), rule);
        }
    }
    Ok(rules.into_values().collect())
}
