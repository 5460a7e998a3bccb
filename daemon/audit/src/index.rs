//! Which rules can match an event at all.
//!
//! Derived from the compiled Sigma rules, never written by hand: every part of a search that the condition demands is
//! a fact that each match has, `not` over single flags gives flags that no match has, and of alternatives one must hold. A rule is left out only
//! when one of its own facts is false for the event, so leaving it out cannot change the result. Facts are checked
//! without allocation; the verdict stays the library's. `tests/index.rs` compares both on real logs.

mod fact;
mod shape;

use std::collections::HashMap;

use rsigma_eval::{CompiledDetection, CompiledDetectionItem, CompiledRule};
use rsigma_parser::ConditionExpr;

pub(crate) use self::fact::{Fact, Facts, Field};
use self::shape::Shape;
use crate::fields::{Flags, View};
use crate::rule::{Kind, Rule};

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
        let mut look = |entry: &usize| {
            if let Some((at, facts)) = self.entries.get(*entry)
                && facts.hold(view)
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
            if let Some(search) = rule.detections.get(name) {
                demand_search(search, facts);
            }
        }
        ConditionExpr::Not(inner) => {
            if let ConditionExpr::Identifier(name) = inner.as_ref()
                && let Some(search) = rule.detections.get(name)
            {
                refuse(search, facts);
            }
        }
        ConditionExpr::Or(parts) => {
            demand_one_of(parts.iter().map(|part| facts_of(|facts| demand(part, rule, facts))), facts);
        }
        ConditionExpr::Selector { .. } => {}
    }
}

fn demand_search(search: &CompiledDetection, facts: &mut Facts) {
    match search {
        CompiledDetection::AllOf(items) => items.iter().for_each(|item| demand_item(item, facts)),
        CompiledDetection::AnyOf(searches) => {
            demand_one_of(searches.iter().map(|search| facts_of(|facts| demand_search(search, facts))), facts);
        }
        _ => {}
    }
}

fn facts_of(demand: impl FnOnce(&mut Facts)) -> Facts {
    let mut facts = Facts::default();
    demand(&mut facts);
    facts
}

/// One of the alternatives must hold; says nothing when nothing is known of one of them.
fn demand_one_of(branches: impl Iterator<Item = Facts>, facts: &mut Facts) {
    let branches: Vec<Facts> = branches.collect();
    if !branches.iter().any(Facts::is_empty) {
        facts.others.push(Fact::OneOf(branches));
    }
}

/// Whether the field is found in bodies only: without one it is null, or false.
fn is_of_body(name: &str) -> bool {
    const HEADS: [&str; 10] = [
        "req",
        "requestObject",
        "resp",
        "responseObject",
        "body",
        "podspec",
        "containers",
        "rules",
        "roleref",
        "subjects",
    ];
    const NAMES: [&str; 12] = [
        "has_podspec",
        "hostpaths",
        "hostPath",
        "caps",
        "capabilities",
        "images",
        "images.outside_allowed",
        "pv_hostpath",
        "grants",
        "pss_enforce",
        "unread_body",
        "wildcard",
    ];
    HEADS.contains(&name.split('.').next().unwrap_or(name)) || NAMES.contains(&name)
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
        ("public_ip", Shape::Bool(true)) => Some(Fact::PublicAddress),
        ("loopback", Shape::Bool(own)) => Some(Fact::Loopback(own)),
        (
            name,
            Shape::Bool(true)
            | Shape::Words(_)
            | Shape::Prefixes(_)
            | Shape::Parts(_)
            | Shape::Text
            | Shape::Numbers(_)
            | Shape::Present,
        ) if is_of_body(name) => Some(Fact::Body),
        ("res" | "objectRef.resource", Shape::Words(words)) => {
            facts.resources = Some(words);
            return;
        }
        ("code" | "responseStatus.code", Shape::Numbers(ranges)) => Some(Fact::Code(ranges)),
        ("annotation_keys", Shape::Prefixes(words)) => Some(Fact::AnnotationPrefix(words)),
        (name, Shape::Words(_) | Shape::Prefixes(_) | Shape::Parts(_) | Shape::Text | Shape::Present)
            if name.starts_with("annotations.") =>
        {
            name.strip_prefix("annotations.").map(|key| Fact::Annotation(key.to_owned()))
        }
        (name, shape) => Field::named(name).and_then(|field| match shape {
            Shape::Words(words) => Some(Fact::IsOneOf(field, words)),
            // The fields below hold several values, or are made when asked for.
            _ if field == Field::Groups => None,
            Shape::Prefixes(words) => Some(Fact::StartsWith(field, words)),
            Shape::Parts(words) => Some(Fact::Contains(field, words)),
            Shape::Text | Shape::Present => Some(Fact::Present(field)),
            Shape::Absent => Some(Fact::Absent(field)),
            Shape::Bool(_) | Shape::Numbers(_) | Shape::Other => None,
        }),
    };
    facts.others.extend(fact);
}

/// `not search`: when the search is one flag, or a list of which each may be one flag, no match has that flag; and
/// likewise with the start of a field.
fn refuse(search: &CompiledDetection, facts: &mut Facts) {
    match search {
        CompiledDetection::AllOf(items) => {
            let [item] = items.as_slice() else { return };
            let Some(name) = item.field.as_deref() else { return };
            match (Flags::bit(name), Shape::of(item)) {
                (Some(bit), Shape::Bool(true)) => facts.unset |= bit,
                (None, Shape::Bool(true)) if name == "loopback" => facts.others.push(Fact::Loopback(false)),
                // An expression matches fewer texts than begin as it does.
                (None, Shape::Prefixes(words))
                    if Shape::is_only_start(&item.matcher) && words.iter().all(|word| word.is_ascii()) =>
                {
                    let field = Field::named(name).filter(|field| *field != Field::Groups);
                    facts.others.extend(field.map(|field| Fact::StartsWithNone(field, words)));
                }
                _ => {}
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
