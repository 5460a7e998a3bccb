//! Which rules can match an event at all.
//!
//! Derived from the compiled Sigma rules, never written by hand: a search that the condition demands gives facts that
//! every match has (its resource, flags such as `ok`), and `not` over a list of single flags gives flags that no
//! match has. A rule is left out only when one of its own facts is false for the event, so leaving it out cannot
//! change the result; `tests/index.rs` proves it on real logs.

use std::collections::HashMap;

use rsigma_eval::{CompiledDetection, CompiledDetectionItem, CompiledMatcher, CompiledRule};
use rsigma_parser::ConditionExpr;

use crate::fields::{Flags, View};
use crate::rule::{Kind, Rule};

/// Facts that every match of a rule has.
#[derive(Debug, Default)]
struct Facts {
    set: u32,
    unset: u32,
    resources: Option<Vec<String>>,
    groups: Option<Vec<String>>,
    verbs: Option<Vec<String>>,
    subresource: Option<Vec<String>>,
    codes: bool,
}

/// Rules by resource, with their flags.
#[derive(Debug, Default)]
pub(crate) struct Index {
    by_resource: HashMap<String, Vec<usize>>,
    of_any: Vec<usize>,
    facts: Vec<Facts>,
}

impl Index {
    pub(crate) fn new(rules: &[Rule]) -> Self {
        let mut index = Self::default();
        for (at, rule) in rules.iter().enumerate() {
            let facts = facts(&rule.compiled);
            if rule.stateful.kind == Kind::Absence {
                index.facts.push(facts);
                continue;
            }
            match &facts.resources {
                Some(resources) => {
                    for resource in resources {
                        index.by_resource.entry(resource.clone()).or_default().push(at);
                    }
                }
                None => index.of_any.push(at),
            }
            index.facts.push(facts);
        }
        index
    }

    /// Calls `see` with the index of every rule that may match.
    pub(crate) fn candidates(&self, view: &View<'_>, mut see: impl FnMut(usize)) {
        let has = |at: usize| {
            let Some(facts) = self.facts.get(at) else { return true };
            let flags = view.flags.0;
            flags & facts.set == facts.set
                && flags & facts.unset == 0
                && admits(facts.verbs.as_deref(), view.verb())
                && admits(facts.groups.as_deref(), view.group())
                && admits(facts.subresource.as_deref(), view.sub())
                && !(facts.codes && view.code().is_none())
        };
        if let Some(resource) = view.res() {
            let listed = if resource.bytes().any(|byte| byte.is_ascii_uppercase() || !byte.is_ascii()) {
                self.by_resource.get(&resource.to_lowercase())
            } else {
                self.by_resource.get(resource)
            };
            for &at in listed.into_iter().flatten() {
                if has(at) {
                    see(at);
                }
            }
        }
        for &at in &self.of_any {
            if has(at) {
                see(at);
            }
        }
    }
}

/// Sigma compares without case, so anything but plain lower-case ASCII is let through to the real comparison.
fn admits(wanted: Option<&[String]>, value: Option<&str>) -> bool {
    let Some(wanted) = wanted else { return true };
    match value {
        None => false,
        Some(value) => {
            wanted.iter().any(|word| word == value)
                || value.bytes().any(|byte| byte.is_ascii_uppercase() || !byte.is_ascii())
        }
    }
}

fn facts(rule: &CompiledRule) -> Facts {
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
    let Some(field) = item.field.as_deref() else { return };
    if field.starts_with("annotation") {
        let present = item.exists == Some(true)
            || matches!(
                item.matcher,
                CompiledMatcher::Exists(true)
                    | CompiledMatcher::Exact { .. }
                    | CompiledMatcher::StartsWith { .. }
                    | CompiledMatcher::Contains { .. }
            );
        facts.set |= if present { Flags::ANNOTATED } else { 0 };
    }
    if item.exists.is_some() {
        return;
    }
    if let Some(bit) = Flags::bit(field) {
        match item.matcher {
            CompiledMatcher::BoolEq(true) => facts.set |= bit,
            CompiledMatcher::BoolEq(false) => facts.unset |= bit,
            _ => {}
        }
        return;
    }
    match field {
        "res" | "objectRef.resource" => facts.resources = words(&item.matcher),
        "group" | "objectRef.apiGroup" => facts.groups = words(&item.matcher),
        "verb" => facts.verbs = words(&item.matcher),
        "sub" | "objectRef.subresource" => facts.subresource = words(&item.matcher),
        "code" | "responseStatus.code" => facts.codes = is_numeric(&item.matcher),
        _ => {}
    }
}

/// `not search`: when the search is one flag, or a list of which each may be one flag, no match has that flag.
fn refuse(search: &CompiledDetection, facts: &mut Facts) {
    match search {
        CompiledDetection::AllOf(items) => {
            if let [item] = items.as_slice()
                && let Some(bit) = item.field.as_deref().and_then(Flags::bit)
                && matches!(item.matcher, CompiledMatcher::BoolEq(true))
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

fn is_numeric(matcher: &CompiledMatcher) -> bool {
    match matcher {
        CompiledMatcher::NumericEq(_) | CompiledMatcher::NumericGt(_) | CompiledMatcher::NumericGte(_) => true,
        CompiledMatcher::AnyOf(any) => any.iter().all(is_numeric),
        _ => false,
    }
}

/// The words of which one must be there, if the matcher is exactly that.
fn words(matcher: &CompiledMatcher) -> Option<Vec<String>> {
    match matcher {
        CompiledMatcher::Exact { value, .. } => Some(vec![value.to_lowercase()]),
        CompiledMatcher::AnyOf(any) => any.iter().map(words).collect::<Option<Vec<_>>>().map(|all| all.concat()),
        CompiledMatcher::CaseInsensitiveGroup { children, mode: rsigma_eval::matcher::GroupMode::Any } => {
            children.iter().map(words).collect::<Option<Vec<_>>>().map(|all| all.concat())
        }
        _ => None,
    }
}
