//! What an audit policy does with requests of a kind: those on one resource with one verb, by anybody and anywhere.

use std::collections::{BTreeMap, BTreeSet};

use crate::audit_policy::{AuditPolicy, AuditRule, Level};

/// Verbs of requests on resources.
pub(crate) const ALL_VERBS: [&str; 8] =
    ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];

/// A kind of request: every user, every namespace and every name, but one verb and one resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Request<'a> {
    pub(crate) group: &'a str,
    pub(crate) resource: &'a str,
    /// None: the resource itself.
    pub(crate) subresource: Option<&'a str>,
    pub(crate) verb: &'a str,
}

impl Request<'_> {
    /// Whether its answer goes on for long: only such requests, and those whose login failed, have `ResponseStarted`.
    pub(crate) fn is_long(&self) -> bool {
        self.verb == "watch" || matches!(self.subresource, Some("attach" | "exec" | "log" | "portforward" | "proxy"))
    }
}

/// A rule that some requests meet, or the end of the rules.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Met<'a> {
    /// Its place (from 0); none at the end of the rules.
    pub(crate) rule: Option<(usize, &'a AuditRule)>,
    /// What is logged there.
    pub(crate) level: Level,
    /// Whether it is for the components of Kubernetes alone, which act without a person behind them.
    pub(crate) only_for_components: bool,
}

/// A policy prepared for being asked about many kinds of requests.
#[derive(Debug)]
pub(crate) struct Requests<'a> {
    rules: Vec<Rule<'a>>,
    /// What was asked before: many detections look for the same.
    answers: BTreeMap<Request<'a>, Vec<Met<'a>>>,
}

/// A rule, and what of it is the same for every kind of request.
#[derive(Debug)]
struct Rule<'a> {
    rule: &'a AuditRule,
    only_for_components: bool,
    /// Earlier rules (places) that are for everybody and every namespace this one is for.
    behind: Vec<usize>,
}

impl<'a> Requests<'a> {
    pub(crate) fn on(policy: &'a AuditPolicy) -> Self {
        let prepared = |(index, rule): (usize, &'a AuditRule)| {
            let before = policy.rules.iter().take(index).enumerate();
            let behind = before.filter(|(_, earlier)| earlier.is_for_all_of(rule)).map(|(at, _)| at).collect();
            Rule { rule, only_for_components: rule.only_for_components(), behind }
        };
        Self { rules: policy.rules.iter().enumerate().map(prepared).collect(), answers: BTreeMap::new() }
    }

    /// The rules that requests of this kind can meet, in order. The last one takes all that is left, or it is the end
    /// of the rules: requests are left that no rule takes (not logged).
    pub(crate) fn meet(&mut self, request: Request<'a>) -> &[Met<'a>] {
        let rules = &self.rules;
        self.answers.entry(request).or_insert_with(|| simulate(rules, &request))
    }
}

fn simulate<'a>(rules: &[Rule<'a>], request: &Request<'_>) -> Vec<Met<'a>> {
    let mut met = Vec::new();
    // By place: whether a rule leaves nothing of such requests to those behind it.
    let mut takes_every_name = vec![false; rules.len()];
    for (index, Rule { rule, only_for_components, behind }) in rules.iter().enumerate() {
        let cover = rule.covers(request);
        if cover == Cover::None || behind.iter().any(|&earlier| takes_every_name.get(earlier) == Some(&true)) {
            continue;
        }
        let level = rule.effective_level(request);
        met.push(Met { rule: Some((index, rule)), level, only_for_components: *only_for_components });
        if cover == Cover::All {
            return met;
        }
        if let Some(takes) = takes_every_name.get_mut(index) {
            *takes = rule.takes_every_name(request);
        }
    }
    met.push(Met { rule: None, level: Level::None, only_for_components: false });
    met
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cover {
    None,
    Some,
    All,
}

/// Whether a list of a rule, where empty means all, holds everything of another.
fn holds_all(mine: &BTreeSet<String>, theirs: &BTreeSet<String>) -> bool {
    mine.is_empty() || (!theirs.is_empty() && theirs.is_subset(mine))
}

impl AuditRule {
    /// What really reaches the log: a rule that omits every stage such a request goes through logs nothing of one that
    /// goes well.
    fn effective_level(&self, request: &Request<'_>) -> Level {
        let omits = |stage: &str| self.omit_stages.contains(stage);
        let started = request.is_long() && !omits("ResponseStarted");
        if omits("RequestReceived") && omits("ResponseComplete") && !started { Level::None } else { self.level }
    }

    /// Whether it is for the components of Kubernetes alone, which act without a person behind them.
    fn only_for_components(&self) -> bool {
        const COMPONENTS: [&str; 8] = [
            "system:apiserver",
            "system:kube-proxy",
            "system:kube-scheduler",
            "system:kube-controller-manager",
            "system:k3s-controller",
            "system:k3s-supervisor",
            "k3s-cloud-controller-manager",
            "system:nodes",
        ];
        let known = |name: &String| COMPONENTS.contains(&name.as_str()) || name.starts_with("system:node:");
        (!self.users.is_empty() && self.users.iter().all(known))
            || (!self.user_groups.is_empty() && self.user_groups.iter().all(known))
    }

    /// Whether it is for everybody and every namespace that a later rule is for.
    fn is_for_all_of(&self, later: &Self) -> bool {
        holds_all(&self.users, &later.users)
            && holds_all(&self.user_groups, &later.user_groups)
            && holds_all(&self.namespaces, &later.namespaces)
    }

    /// Whether it takes such requests whatever the name of the object.
    fn takes_every_name(&self, request: &Request<'_>) -> bool {
        self.resources.is_empty()
            || self.resources.iter().filter(|e| e.group == request.group).any(|e| {
                e.resources.is_empty() || (e.resource_names.is_empty() && e.resources.iter().any(|r| names(r, request)))
            })
    }

    fn covers(&self, request: &Request<'_>) -> Cover {
        if !self.verbs.is_empty() && !self.verbs.iter().any(|v| v == request.verb) {
            return Cover::None;
        }
        if self.resources.is_empty() && self.namespaces.is_empty() && !self.non_resource_urls.is_empty() {
            return Cover::None;
        }
        // `system:authenticated` holds everybody who gets as far as a resource; anonymous users are refused by K3s.
        let everybody = self.users.is_empty()
            && (self.user_groups.is_empty() || self.user_groups.iter().any(|g| g == "system:authenticated"));
        let mut cover = if everybody && self.namespaces.is_empty() { Cover::All } else { Cover::Some };
        if self.resources.is_empty() {
            return cover;
        }
        let mut matched = Cover::None;
        for entry in self.resources.iter().filter(|e| e.group == request.group) {
            if entry.resources.is_empty() {
                matched = Cover::All;
            } else if entry.resources.iter().any(|r| names(r, request)) {
                if entry.resource_names.is_empty() {
                    matched = Cover::All;
                } else if matched == Cover::None {
                    matched = Cover::Some;
                }
            }
        }
        if matched == Cover::None {
            return Cover::None;
        }
        if matched == Cover::Some {
            cover = Cover::Some;
        }
        cover
    }
}

/// Whether a resource pattern of a rule names the request's resource, by the rules of the API server: `*`, `r`, `r/s`,
/// `r/*` (the resource itself too), `*/s`.
fn names(pattern: &str, request: &Request<'_>) -> bool {
    if pattern == "*" {
        return true;
    }
    if let Some(resource) = pattern.strip_suffix("/*") {
        return resource == request.resource;
    }
    match (pattern.split_once('/'), request.subresource) {
        (None, None) => pattern == request.resource,
        (Some((resource, sub)), Some(wanted)) => sub == wanted && (resource == "*" || resource == request.resource),
        _ => false,
    }
}
