//! Which rules can match an event at all.
//!
//! Derived from the compiled Sigma rules, never written by hand: every part of a search that the condition demands is
//! a fact that each match has, and `not` over single flags gives flags that no match has. A rule is left out only
//! when one of its own facts is false for the event, so leaving it out cannot change the result. Facts are checked
//! without allocation; the verdict stays the library's. `tests/index.rs` compares both on real logs.

use std::collections::HashMap;

use rsigma_eval::matcher::GroupMode;
use rsigma_eval::{CompiledDetection, CompiledDetectionItem, CompiledMatcher, CompiledRule};
use rsigma_parser::ConditionExpr;

use crate::fields::{Flags, View};
use crate::rule::{Kind, Rule};

/// Fields whose facts can be checked at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    Stage,
    Level,
    Verb,
    User,
    Actor,
    Impersonated,
    Groups,
    Group,
    Sub,
    Ns,
    Name,
    Agent,
    Message,
}

impl Field {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "stage" => Self::Stage,
            "level" => Self::Level,
            "verb" => Self::Verb,
            "user" | "user.username" => Self::User,
            "actor" => Self::Actor,
            "imp" | "impersonatedUser.username" => Self::Impersonated,
            "groups" | "user.groups" => Self::Groups,
            "group" | "objectRef.apiGroup" => Self::Group,
            "sub" | "objectRef.subresource" => Self::Sub,
            "ns" | "objectRef.namespace" => Self::Ns,
            "objectRef.name" => Self::Name,
            "ua" | "userAgent" => Self::Agent,
            "msg" | "responseStatus.message" => Self::Message,
            _ => return None,
        })
    }

    fn of<'v>(self, view: &'v View<'_>) -> Option<&'v str> {
        match self {
            Self::Stage => view.stage(),
            Self::Level => view.event.level.as_deref(),
            Self::Verb => view.verb(),
            Self::User => view.user(),
            Self::Actor => view.actor(),
            Self::Impersonated => view.impersonated(),
            Self::Groups => None,
            Self::Group => view.group(),
            Self::Sub => view.sub(),
            Self::Ns => view.ns(),
            Self::Name => view.object_name(),
            Self::Agent => view.event.user_agent.as_deref(),
            Self::Message => view.message(),
        }
    }
}

/// Words in lower case.
pub(crate) type Words = Vec<String>;

/// Something that is so in every match of a rule.
#[derive(Debug)]
pub(crate) enum Fact {
    /// The field is one of these words.
    IsOneOf(Field, Words),
    /// The field starts with one of these.
    StartsWith(Field, Words),
    /// The field is there.
    Present(Field),
    /// The field is not there.
    Absent(Field),
    /// The response code lies in one of these ranges.
    Code(Vec<(f64, f64)>),
    /// An annotation of this name is there.
    Annotation(String),
    /// An annotation whose name starts with this is there.
    AnnotationPrefix(Words),
}

impl Fact {
    fn holds(&self, view: &View<'_>) -> bool {
        match self {
            Self::IsOneOf(Field::Groups, words) => view
                .event
                .user
                .as_ref()
                .and_then(|user| user.groups.as_ref())
                .is_some_and(|groups| groups.iter().any(|group| is_one_of(group, words))),
            Self::IsOneOf(field, words) => field.of(view).is_some_and(|value| is_one_of(value, words)),
            Self::StartsWith(field, words) => field.of(view).is_some_and(|value| {
                !value.is_ascii()
                    || words.iter().any(|word| {
                        value
                            .as_bytes()
                            .get(..word.len())
                            .is_some_and(|head| head.eq_ignore_ascii_case(word.as_bytes()))
                    })
            }),
            Self::Present(field) => field.of(view).is_some(),
            Self::Absent(field) => field.of(view).is_none_or(str::is_empty),
            Self::Code(ranges) => view.code().is_some_and(|code| {
                let code = code as f64;
                ranges.iter().any(|(low, high)| *low <= code && code <= *high)
            }),
            Self::Annotation(key) => view.annotation(key).is_some(),
            Self::AnnotationPrefix(words) => view.event.annotations.as_ref().is_some_and(|pairs| {
                pairs.iter().any(|(key, _)| {
                    !key.is_ascii()
                        || words.iter().any(|word| {
                            key.as_bytes()
                                .get(..word.len())
                                .is_some_and(|head| head.eq_ignore_ascii_case(word.as_bytes()))
                        })
                })
            }),
        }
    }
}

/// Sigma compares without case and by Unicode's rules; what is not ASCII is left to the real comparison.
fn is_one_of(value: &str, words: &[String]) -> bool {
    words.iter().any(|word| word.eq_ignore_ascii_case(value)) || !value.is_ascii()
}

/// Facts that every match of a rule has.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) set: u32,
    unset: u32,
    pub(crate) resources: Option<Words>,
    pub(crate) others: Vec<Fact>,
}

/// Rules by resource, with their facts. A correlation has an entry for each of its rules.
#[derive(Debug, Default)]
pub(crate) struct Index {
    by_resource: HashMap<String, Vec<usize>>,
    of_any: Vec<usize>,
    entries: Vec<(usize, Facts)>,
}

impl Index {
    pub(crate) fn new(rules: &[Rule]) -> Self {
        let mut index = Self::default();
        for (at, rule) in rules.iter().enumerate() {
            match &rule.correlation {
                Some(correlation) => correlation.sources().for_each(|source| index.add(at, source)),
                None if matches!(rule.stateful.kind, Kind::Absence | Kind::Trail) => {}
                None => index.add(at, rule),
            }
        }
        index
    }

    fn add(&mut self, at: usize, rule: &Rule) {
        let mut facts = facts(&rule.compiled);
        if rule.once {
            facts.set |= Flags::FINAL;
        }
        let entry = self.entries.len();
        match &mut facts.resources {
            Some(resources) => {
                // One that is named twice must not be judged twice.
                resources.sort_unstable();
                resources.dedup();
                for resource in resources {
                    self.by_resource.entry(resource.clone()).or_default().push(entry);
                }
            }
            None => self.of_any.push(entry),
        }
        self.entries.push((at, facts));
    }

    /// Calls `see` with the index of every rule that may match; with that of a correlation perhaps more than once.
    pub(crate) fn candidates(&self, view: &View<'_>, mut see: impl FnMut(usize)) {
        let flags = view.flags.0;
        let mut look = |entry: &usize| {
            if let Some((at, facts)) = self.entries.get(*entry)
                && flags & facts.set == facts.set
                && flags & facts.unset == 0
                && facts.others.iter().all(|fact| fact.holds(view))
            {
                see(*at);
            }
        };
        if let Some(resource) = view.res() {
            let listed = if resource.bytes().any(|byte| byte.is_ascii_uppercase() || !byte.is_ascii()) {
                self.by_resource.get(&resource.to_lowercase())
            } else {
                self.by_resource.get(resource)
            };
            listed.into_iter().flatten().for_each(&mut look);
        }
        self.of_any.iter().for_each(look);
    }
}

pub(crate) fn facts(rule: &CompiledRule) -> Facts {
    let mut facts = Facts::default();
    // With several conditions any may match, so none of their facts is certain.
    if let [condition] = rule.conditions.as_slice() {
        demand(condition, rule, &mut facts);
    }
    facts
}

fn demand(condition: &ConditionExpr, rule: &CompiledRule, facts: &mut Facts) {
    match condition {
        ConditionExpr::And(parts) => {
            for part in parts {
                demand(part, rule, facts);
            }
        }
        ConditionExpr::Identifier(name) => {
            if let Some(CompiledDetection::AllOf(items)) = rule.detections.get(name) {
                for item in items {
                    demand_item(item, facts);
                }
            }
        }
        ConditionExpr::Not(inner) => {
            if let ConditionExpr::Identifier(name) = inner.as_ref()
                && let Some(search) = rule.detections.get(name)
            {
                refuse(search, facts);
            }
        }
        ConditionExpr::Or(_) | ConditionExpr::Selector { .. } => {}
    }
}

fn demand_item(item: &CompiledDetectionItem, facts: &mut Facts) {
    let Some(name) = item.field.as_deref() else { return };
    let shape = Shape::of(item);
    if let Some(bit) = Flags::bit(name) {
        match shape {
            Shape::Bool(true) => facts.set |= bit,
            Shape::Bool(false) => facts.unset |= bit,
            _ => {}
        }
        return;
    }
    let fact = match (name, shape) {
        ("res" | "objectRef.resource", Shape::Words(words)) => {
            facts.resources = Some(words);
            return;
        }
        ("code" | "responseStatus.code", Shape::Numbers(ranges)) => Some(Fact::Code(ranges)),
        ("annotation_keys", Shape::Prefixes(words)) => Some(Fact::AnnotationPrefix(words)),
        (name, Shape::Words(_) | Shape::Prefixes(_) | Shape::Text | Shape::Present)
            if name.starts_with("annotations.") =>
        {
            name.strip_prefix("annotations.").map(|key| Fact::Annotation(key.to_owned()))
        }
        (name, shape) => Field::named(name).and_then(|field| match shape {
            Shape::Words(words) => Some(Fact::IsOneOf(field, words)),
            // The fields below hold several values, or are made when asked for.
            _ if field == Field::Groups => None,
            Shape::Prefixes(words) => Some(Fact::StartsWith(field, words)),
            Shape::Text | Shape::Present => Some(Fact::Present(field)),
            Shape::Absent => Some(Fact::Absent(field)),
            Shape::Bool(_) | Shape::Numbers(_) | Shape::Other => None,
        }),
    };
    facts.others.extend(fact);
}

/// `not search`: when the search is one flag, or a list of which each may be one flag, no match has that flag.
fn refuse(search: &CompiledDetection, facts: &mut Facts) {
    match search {
        CompiledDetection::AllOf(items) => {
            if let [item] = items.as_slice()
                && let Some(bit) = item.field.as_deref().and_then(Flags::bit)
                && matches!(Shape::of(item), Shape::Bool(true))
            {
                facts.unset |= bit;
            }
        }
        CompiledDetection::AnyOf(searches) => {
            for search in searches {
                refuse(search, facts);
            }
        }
        _ => {}
    }
}

/// What a matcher needs, as far as it is of use here.
#[derive(Debug)]
enum Shape {
    Bool(bool),
    /// One of these words, in lower case.
    Words(Words),
    /// A start with one of these, in lower case.
    Prefixes(Words),
    /// Some text; null does not match.
    Text,
    Numbers(Vec<(f64, f64)>),
    Present,
    Absent,
    Other,
}

impl Shape {
    fn of(item: &CompiledDetectionItem) -> Self {
        match item.exists {
            Some(true) => Self::Present,
            Some(false) => Self::Absent,
            None => Self::of_matcher(&item.matcher),
        }
    }

    fn of_matcher(matcher: &CompiledMatcher) -> Self {
        match matcher {
            CompiledMatcher::BoolEq(yes) => Self::Bool(*yes),
            CompiledMatcher::Exact { value, .. } => Self::Words(vec![value.to_lowercase()]),
            CompiledMatcher::StartsWith { value, .. } => Self::Prefixes(vec![value.to_lowercase()]),
            CompiledMatcher::EndsWith { .. }
            | CompiledMatcher::Contains { .. }
            | CompiledMatcher::Regex(_)
            | CompiledMatcher::AhoCorasickSet { .. } => Self::Text,
            CompiledMatcher::NumericEq(n) => Self::Numbers(vec![(*n, *n)]),
            CompiledMatcher::NumericGte(n) | CompiledMatcher::NumericGt(n) => Self::Numbers(vec![(*n, f64::MAX)]),
            CompiledMatcher::NumericLte(n) | CompiledMatcher::NumericLt(n) => Self::Numbers(vec![(f64::MIN, *n)]),
            CompiledMatcher::Null => Self::Absent,
            CompiledMatcher::AnyOf(any)
            | CompiledMatcher::CaseInsensitiveGroup { children: any, mode: GroupMode::Any } => {
                any.iter().map(Self::of_matcher).reduce(Self::or).unwrap_or(Self::Other)
            }
            _ => Self::Other,
        }
    }

    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Words(a), Self::Words(b)) => Self::Words([a, b].concat()),
            (Self::Prefixes(a), Self::Prefixes(b)) => Self::Prefixes([a, b].concat()),
            (Self::Numbers(a), Self::Numbers(b)) => Self::Numbers([a, b].concat()),
            (Self::Words(_) | Self::Prefixes(_) | Self::Text, Self::Words(_) | Self::Prefixes(_) | Self::Text) => {
                Self::Text
            }
            _ => Self::Other,
        }
    }
}
