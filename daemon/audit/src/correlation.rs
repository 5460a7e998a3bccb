//! Sigma correlations: several matches, of one rule or of several, that make one detection.
//!
//! The library parses them; what was seen so far lives in the detector's own windows, so that it is bounded, survives a
//! restart with the reader's cursor, and opens detections that go on counting as every other rule does.

use std::collections::VecDeque;

use rsigma_parser::{
    ConditionExpr, ConditionOperator, CorrelationCondition, CorrelationRule, CorrelationType, WindowMode,
};

use crate::fields::{View, is_field};
use crate::fingerprint::fingerprint;
use crate::rule::{Kind, MAX_THRESHOLD, Rule};
use crate::window::{Waiting, different, make_room};

/// Most rules a correlation may be over.
const MOST_RULES: usize = 32;

/// What matches must be of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Join {
    /// So many of them.
    Events,
    /// So many different values.
    Values,
    /// Of each rule one, in any order.
    Temporal,
    /// Of each rule one, in the order the correlation names them.
    Ordered,
}

/// Where a correlation's matches come from.
#[derive(Debug, Clone)]
enum Source {
    /// Events that a rule is about.
    Matches(Box<Rule>),
    /// Detections of a rule that counts by itself, by its id.
    Raised(String),
}

/// One of the rules a correlation is over.
#[derive(Debug, Clone)]
struct Part {
    source: Source,
    /// Fields that make the key, by the names this rule has for them.
    by: Vec<String>,
    /// Fields whose values are counted.
    fields: Vec<String>,
}

/// A condition over rules.
#[derive(Debug, Clone)]
enum Which {
    All(Vec<Which>),
    Any(Vec<Which>),
    Not(Box<Which>),
    Part(u64),
}

/// What is wrong with a correlation, and where: at the key, or behind it where the value stands.
#[derive(Debug)]
pub(crate) struct Wrong {
    pub(crate) key: &'static str,
    pub(crate) value: String,
    pub(crate) what: String,
}

impl Wrong {
    pub(crate) fn new(key: &'static str, what: impl Into<String>) -> Self {
        Self { key, value: String::new(), what: what.into() }
    }

    fn at(self, value: &str) -> Self {
        Self { value: value.to_owned(), ..self }
    }
}

/// A correlation, ready to be evaluated.
#[derive(Debug, Clone)]
pub(crate) struct Correlation {
    join: Join,
    parts: Vec<Part>,
    predicates: Vec<(ConditionOperator, u64)>,
    which: Option<Which>,
}

impl Correlation {
    /// A correlation over the rules that `find` knows by name.
    pub(crate) fn new<'r>(
        correlation: &CorrelationRule,
        find: impl Fn(&str) -> Option<&'r Rule>,
    ) -> Result<Self, Wrong> {
        let join = match correlation.correlation_type {
            CorrelationType::EventCount => Join::Events,
            CorrelationType::ValueCount => Join::Values,
            CorrelationType::Temporal => Join::Temporal,
            CorrelationType::TemporalOrdered => Join::Ordered,
            other => {
                let what = format!(
                    "correlations of type {} are not supported; event_count, value_count, temporal and \
                     temporal_ordered are",
                    other.as_str()
                );
                return Err(Wrong::new("type", what));
            }
        };
        if correlation.window != WindowMode::Sliding {
            return Err(Wrong::new(
                "window",
                "only sliding windows are supported in a correlation: leave window: away",
            ));
        }
        if correlation.rules.is_empty() || correlation.rules.len() > MOST_RULES {
            return Err(Wrong::new("rules", format!("a correlation is over 1 to {MOST_RULES} rules")));
        }
        let (predicates, fields, which) = match &correlation.condition {
            CorrelationCondition::Threshold { predicates, field, percentile: None } => {
                (predicates.clone(), field.clone().unwrap_or_default(), None)
            }
            CorrelationCondition::Threshold { .. } => {
                return Err(Wrong::new("condition", "percentile: is not supported").at("percentile"));
            }
            CorrelationCondition::Extended(expression) if join == Join::Temporal => {
                (Vec::new(), Vec::new(), Some(which(expression, &correlation.rules)?))
            }
            CorrelationCondition::Extended(_) => {
                let what = "only a correlation of type temporal may have a condition over rules";
                return Err(Wrong::new("condition", what));
            }
        };
        if let Some((_, number)) = predicates.iter().find(|(_, number)| *number > u64::from(MAX_THRESHOLD)) {
            let what = format!("the threshold {number} is above the most that is counted, {MAX_THRESHOLD}");
            return Err(Wrong::new("condition", what).at(&number.to_string()));
        }
        if join == Join::Values && fields.is_empty() {
            let what = "value_count needs condition.field: the field whose values are counted";
            return Err(Wrong::new("condition", what));
        }
        for alias in &correlation.aliases {
            if let Some(name) = alias.mapping.keys().find(|name| !correlation.rules.contains(name)) {
                let what = format!("the alias {} is for {name}, which is no rule of the correlation", alias.alias);
                return Err(Wrong::new("aliases", what).at(name));
            }
            if let Some(field) = alias.mapping.values().find(|field| !is_field(field)) {
                return Err(Wrong::new("aliases", no_field(field)).at(field));
            }
        }
        let mut parts = Vec::new();
        for name in &correlation.rules {
            let rule = find(name).ok_or_else(|| {
                Wrong::new("rules", format!("there is no rule {name:?} for the correlation to be about")).at(name)
            })?;
            let named = |fields: &[String]| -> Vec<String> {
                let own = |field: &String| {
                    let alias = correlation.aliases.iter().find(|alias| alias.alias == *field)?;
                    alias.mapping.get(name).cloned()
                };
                fields.iter().map(|field| own(field).unwrap_or_else(|| field.clone())).collect()
            };
            for (key, names) in [("group-by", &correlation.group_by), ("condition", &fields)] {
                if let Some(field) = named(names).iter().find(|field| !is_field(field)) {
                    return Err(Wrong::new(key, no_field(field)).at(field));
                }
            }
            let source = match rule.stateful.kind {
                Kind::Absence => {
                    let what = format!("{name} is judged by the reader of the log, not by its events");
                    return Err(Wrong::new("rules", what).at(name));
                }
                Kind::Each | Kind::Config | Kind::FirstSeen => Source::Matches(Box::new(rule.clone())),
                Kind::Count if rule.stateful.threshold() <= 1 => Source::Matches(Box::new(rule.clone())),
                _ => Source::Raised(rule.id.clone()),
            };
            parts.push(Part { source, by: named(&correlation.group_by), fields: named(&fields) });
        }
        Ok(Self { join, parts, predicates, which })
    }

    /// The one threshold, where there is no other condition: a person may tune it.
    pub(crate) fn threshold(&self) -> Option<u32> {
        let least = match self.predicates.as_slice() {
            [(ConditionOperator::Gte, least)] => *least,
            [(ConditionOperator::Gt, below)] => below.saturating_add(1),
            _ => return None,
        };
        matches!(self.join, Join::Events | Join::Values).then(|| u32::try_from(least).unwrap_or(u32::MAX))
    }

    /// Rules whose matches count, for the index.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &Rule> {
        self.parts.iter().filter_map(|part| match &part.source {
            Source::Matches(rule) => Some(&**rule),
            Source::Raised(_) => None,
        })
    }

    /// The rules whose matches or detections count, by id.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().map(|part| match &part.source {
            Source::Matches(rule) => rule.id.as_str(),
            Source::Raised(id) => id,
        })
    }

    /// The rules whose detections count, by id.
    pub(crate) fn over_detections(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match &part.source {
            Source::Raised(id) => Some(id.as_str()),
            Source::Matches(_) => None,
        })
    }

    /// The parts this event is a match of. The last come first: a match is never its own predecessor.
    pub(crate) fn matched(&self, view: &View<'_>) -> Vec<usize> {
        (0..self.parts.len())
            .rev()
            .filter(|at| match self.parts.get(*at).map(|part| &part.source) {
                Some(Source::Matches(rule)) => rule.matches(view),
                _ => false,
            })
            .collect()
    }

    /// The parts that a detection of this rule is a match of.
    pub(crate) fn raised_by(&self, id: &str) -> Vec<usize> {
        let is_of = |part: &Part| matches!(&part.source, Source::Raised(known) if known == id);
        self.parts.iter().enumerate().rev().filter(|(_, part)| is_of(part)).map(|(at, _)| at).collect()
    }

    /// The key of a match.
    pub(crate) fn key(&self, id: &str, part: usize, view: &View<'_>) -> u64 {
        let by = self.parts.get(part).map_or(&[][..], |part| &part.by);
        let values: Vec<_> = by.iter().map(|field| view.key_part(field)).collect();
        fingerprint(std::iter::once(id).chain(values.iter().map(|value| &**value)))
    }

    /// Whether the condition can be judged only when the time span is over: an upper bound may still be passed.
    pub(crate) fn waits(&self) -> bool {
        matches!(self.join, Join::Events | Join::Values) && self.threshold().is_none()
    }

    /// Whether a match has what is counted: a field that is absent is no value.
    pub(crate) fn counts(&self, part: usize, view: &View<'_>) -> bool {
        let fields = self.parts.get(part).map_or(&[][..], |part| &part.fields);
        self.join != Join::Values || fields.iter().any(|field| !view.key_part(field).is_empty())
    }

    /// Notes a match; true when the condition is met by what is waiting. `threshold` is the tuned one, `span` how long a
    /// value counts.
    pub(crate) fn note(
        &self,
        part: usize,
        view: &View<'_>,
        threshold: Option<usize>,
        span: i64,
        waiting: &mut VecDeque<Waiting>,
        mut entry: Waiting,
    ) -> bool {
        match self.join {
            Join::Events | Join::Values => {
                if self.join == Join::Values {
                    let fields = self.parts.get(part).map_or(&[][..], |part| &part.fields);
                    let values: Vec<_> = fields.iter().map(|field| view.key_part(field)).collect();
                    entry.value = fingerprint(values.iter().map(|value| &**value));
                }
                let mut known =
                    waiting.iter().position(|known| self.join == Join::Values && known.value == entry.value);
                let mut over = |at: &usize| waiting.get_mut(*at).is_some_and(|known| !known.renew(entry.time, span));
                if let Some(over) = known.take_if(|at| !self.waits() && over(at)) {
                    waiting.remove(over);
                }
                if let Some(known) = known.and_then(|at| waiting.get_mut(at)) {
                    known.again += 1;
                } else {
                    make_room(waiting, MAX_THRESHOLD as usize + 1);
                    waiting.push_back(entry);
                }
                !self.waits() && self.holds(threshold, waiting)
            }
            Join::Temporal => {
                entry.value = part as u64;
                renew(waiting, entry);
                self.holds(threshold, waiting)
            }
            Join::Ordered => {
                entry.value = part as u64;
                entry.chain.push(entry.audit_id.clone());
                if let Some(before) = part.checked_sub(1) {
                    // The chain begins where that of the rule before begins, and the time span counts from there.
                    let Some(before) = waiting.iter().find(|known| known.value == before as u64) else { return false };
                    entry.chain.splice(0..0, before.chain.iter().cloned());
                    entry.time = before.time;
                    entry.audit_id.clone_from(&before.audit_id);
                    entry.file.clone_from(&before.file);
                    entry.line = before.line;
                    entry.told.clone_from(&before.told);
                }
                let last = part + 1 == self.parts.len();
                if last {
                    waiting.clear();
                }
                renew(waiting, entry);
                last
            }
        }
    }

    /// Whether the condition is met by what is waiting.
    pub(crate) fn holds(&self, threshold: Option<usize>, waiting: &VecDeque<Waiting>) -> bool {
        let seen = |part: u64| waiting.iter().any(|known| known.value == part);
        if let Some(which) = &self.which {
            return which.holds(&seen);
        }
        let number = if self.join == Join::Values { different(waiting) } else { waiting.len() };
        match (self.join, self.predicates.as_slice()) {
            // What the parser gives a temporal correlation without a condition.
            (Join::Temporal, [(ConditionOperator::Gte, 1)]) => (0..self.parts.len() as u64).all(seen),
            (Join::Events | Join::Values, _) if threshold.is_some() => threshold.is_some_and(|least| number >= least),
            (_, predicates) => predicates.iter().all(|(operator, limit)| {
                let number = number as u64;
                match operator {
                    ConditionOperator::Lt => number < *limit,
                    ConditionOperator::Lte => number <= *limit,
                    ConditionOperator::Gt => number > *limit,
                    ConditionOperator::Gte => number >= *limit,
                    ConditionOperator::Eq => number == *limit,
                    ConditionOperator::Neq => number != *limit,
                }
            }),
        }
    }
}

/// What is wrong with a field that is none.
pub(crate) fn no_field(field: &str) -> String {
    format!("an audit event has no field {field:?} (picketd rules fields)")
}

/// Of what a rule matched the latest counts, whichever came last.
fn renew(waiting: &mut VecDeque<Waiting>, entry: Waiting) {
    match waiting.iter().position(|known| known.value == entry.value) {
        Some(at) if waiting.get(at).is_some_and(|known| known.time > entry.time) => return,
        Some(at) => drop(waiting.remove(at)),
        None => {}
    }
    waiting.push_back(entry);
}

impl Which {
    fn holds(&self, seen: &impl Fn(u64) -> bool) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.holds(seen)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(seen)),
            Self::Not(part) => !part.holds(seen),
            Self::Part(part) => seen(*part),
        }
    }
}

fn which(expression: &ConditionExpr, rules: &[String]) -> Result<Which, Wrong> {
    let all = |parts: &[ConditionExpr]| parts.iter().map(|part| which(part, rules)).collect::<Result<Vec<_>, _>>();
    Ok(match expression {
        ConditionExpr::And(parts) => Which::All(all(parts)?),
        ConditionExpr::Or(parts) => Which::Any(all(parts)?),
        ConditionExpr::Not(part) => Which::Not(Box::new(which(part, rules)?)),
        ConditionExpr::Identifier(name) => match rules.iter().position(|rule| rule == name) {
            Some(at) => Which::Part(at as u64),
            None => {
                let what = format!("the condition names {name:?}, which is no rule of the correlation");
                return Err(Wrong::new("condition", what).at(name));
            }
        },
        ConditionExpr::Selector { .. } => {
            let what = "a condition over rules names each of them: 1 of and all of are not supported";
            return Err(Wrong::new("condition", what));
        }
    })
}
