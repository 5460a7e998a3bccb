//! Rules of an audit policy that no request can reach: what they are for does not exist, or the rules before them take
//! all of it, one alone or several together (the first rule that matches decides).

use std::collections::BTreeSet;

use crate::audit_policy::{AuditPolicy, AuditRule, GroupResources};
use crate::audit_requests::ALL_VERBS;

/// Most names that are compared for one policy, which takes well under a second. Beyond it nothing is claimed.
const MOST_COMPARED: usize = 2_000_000;

/// Which rules of a policy can never match.
#[derive(Debug, Default)]
pub(crate) struct DeadRules {
    /// Their places (from 0), and why.
    pub(crate) dead: Vec<(usize, String)>,
    /// Rules that are too long to be compared with those before them.
    pub(crate) not_compared: usize,
}

impl AuditPolicy {
    /// The rules that can never match.
    pub(crate) fn dead_rules(&self) -> DeadRules {
        let mut left = MOST_COMPARED;
        let mut found = DeadRules::default();
        let mut names_before = 0_usize;
        for (index, rule) in self.rules.iter().enumerate() {
            let before = self.rules.get(..index).unwrap_or_default();
            let cost = Part::count(rule).saturating_mul(names_before);
            if let Some(why) = rule.matches_nothing() {
                found.dead.push((index, why));
            } else if let Some(rest) = left.checked_sub(cost) {
                left = rest;
                found.dead.extend(taken_before(rule, before).map(|why| (index, why)));
            } else {
                found.not_compared += 1;
            }
            names_before += rule.names();
        }
        found
    }
}

/// Which earlier rules leave nothing of a rule.
fn taken_before(rule: &AuditRule, before: &[AuditRule]) -> Option<String> {
    let mut takers = BTreeSet::new();
    let mut single: Vec<usize> = (0..before.len()).collect();
    for part in Part::all(rule) {
        let takes = |at: usize| before.get(at).is_some_and(|earlier| earlier.takes(&part));
        takers.insert((0..before.len()).find(|&at| takes(at))?);
        single.retain(|&at| takes(at));
    }
    if let Some(one) = single.first() {
        return Some(format!("rule {} takes all of it before", one + 1));
    }
    let mut words: Vec<String> = takers.iter().take(6).map(|at| (at + 1).to_string()).collect();
    let last = if takers.len() > 6 { format!("{} others", takers.len() - 6) } else { words.pop()? };
    Some(format!("rules {} and {last} together take all of it before", words.join(", ")))
}

/// The least of a rule that one earlier rule takes or leaves: one of each list it has. What it has no list for is
/// everything there.
#[derive(Debug, Clone, Copy)]
struct Part<'a> {
    user: Option<&'a str>,
    user_group: Option<&'a str>,
    verb: Option<&'a str>,
    namespace: Option<&'a str>,
    target: Target<'a>,
}

/// What a part of a rule is for.
#[derive(Debug, Clone, Copy)]
enum Target<'a> {
    /// Every request.
    Everything,
    /// Resources of any group.
    Resources,
    /// Resources of a group; no pattern: all of them.
    Of { group: &'a str, pattern: Option<&'a str>, name: Option<&'a str> },
    /// A path that is no resource.
    Path(&'a str),
}

/// One of each, or none once where a list is empty, which is for all.
fn each<'a>(
    list: impl IntoIterator<Item = &'a String, IntoIter: Clone>,
) -> impl Iterator<Item = Option<&'a str>> + Clone {
    let mut list = list.into_iter().peekable();
    let everything = list.peek().is_none().then_some(None);
    list.map(|one| Some(one.as_str())).chain(everything)
}

impl<'a> Part<'a> {
    fn targets(rule: &'a AuditRule) -> Vec<Target<'a>> {
        if !rule.non_resource_urls.is_empty() {
            return rule.non_resource_urls.iter().map(|url| Target::Path(url)).collect();
        }
        if rule.resources.is_empty() {
            return vec![if rule.namespaces.is_empty() { Target::Everything } else { Target::Resources }];
        }
        let of = |entry: &'a GroupResources| {
            each(&entry.resources).flat_map(move |pattern| {
                each(&entry.resource_names).map(move |name| Target::Of { group: &entry.group, pattern, name })
            })
        };
        rule.resources.iter().flat_map(of).collect()
    }

    /// How many parts a rule has.
    fn count(rule: &AuditRule) -> usize {
        let of =
            |entry: &GroupResources| entry.resources.len().max(1).saturating_mul(entry.resource_names.len().max(1));
        let targets = rule.resources.iter().map(of).sum::<usize>().max(rule.non_resource_urls.len());
        [rule.users.len(), rule.user_groups.len(), rule.verbs.len(), rule.namespaces.len(), targets]
            .into_iter()
            .fold(1, |product: usize, n| product.saturating_mul(n.max(1)))
    }

    fn all(rule: &'a AuditRule) -> impl Iterator<Item = Self> {
        Self::targets(rule).into_iter().flat_map(move |target| {
            each(&rule.users).flat_map(move |user| {
                each(&rule.user_groups).flat_map(move |user_group| {
                    each(&rule.verbs).flat_map(move |verb| {
                        each(&rule.namespaces).map(move |namespace| Self { user, user_group, verb, namespace, target })
                    })
                })
            })
        })
    }

    /// Whether everybody it is for is in a group: who is logged in is in `system:authenticated`, and service accounts
    /// are in groups of their own (<https://kubernetes.io/docs/reference/access-authn-authz/authentication/>).
    fn is_in(&self, group: &str) -> bool {
        if self.user_group == Some(group) {
            return true;
        }
        let account = self.user.and_then(|user| user.strip_prefix("system:serviceaccount:"));
        match group {
            "system:authenticated" => {
                self.user.is_some_and(|user| user != "system:anonymous")
                    || self.user_group.is_some_and(|group| group != "system:unauthenticated")
            }
            "system:serviceaccounts" => {
                account.is_some() || self.user_group.is_some_and(|g| g.starts_with("system:serviceaccounts:"))
            }
            _ => account
                .and_then(|account| account.split(':').next())
                .is_some_and(|namespace| group.strip_prefix("system:serviceaccounts:") == Some(namespace)),
        }
    }
}

/// Whether a list of a rule, where empty means all, holds one.
fn takes_one(list: &[String], one: Option<&str>) -> bool {
    list.is_empty() || one.is_some_and(|one| list.iter().any(|mine| mine == one))
}

/// The same of names that are in order.
fn takes_name(names: &BTreeSet<String>, one: Option<&str>) -> bool {
    names.is_empty() || one.is_some_and(|one| names.contains(one))
}

impl GroupResources {
    /// Whether it takes resources of its group by a pattern of another rule, and by a name.
    fn takes(&self, pattern: Option<&str>, name: Option<&str>) -> bool {
        if self.resources.is_empty() {
            return true;
        }
        let wider = |mine: &String| {
            mine == "*"
                || pattern.is_some_and(|theirs| {
                    mine == theirs
                        || mine.strip_suffix("/*").is_some_and(|r| r != "*" && theirs.split('/').next() == Some(r))
                        || mine.strip_prefix("*/").is_some_and(|sub| theirs.split('/').nth(1) == Some(sub))
                })
        };
        takes_one(&self.resource_names, name) && self.resources.iter().any(wider)
    }
}

impl AuditRule {
    /// How many names it is compared by.
    fn names(&self) -> usize {
        let of = |entry: &GroupResources| 1 + entry.resources.len() + entry.resource_names.len();
        1 + self.user_groups.len()
            + self.verbs.len()
            + self.non_resource_urls.len()
            + self.resources.iter().map(of).sum::<usize>()
    }

    /// Why no request at all can match.
    fn matches_nothing(&self) -> Option<String> {
        // Of requests that are no resources the verb is that of HTTP, in small letters.
        const OF_PATHS: [&str; 7] = ["get", "head", "post", "put", "patch", "delete", "options"];
        let known: &[&str] = if self.non_resource_urls.is_empty() { &ALL_VERBS } else { &OF_PATHS };
        let only_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        let possible = |verb: &String| {
            // Own verbs of a resource exist (proxy, connect and the like do not reach the log as such).
            known.contains(&verb.as_str()) || (!only_resources && OF_PATHS.contains(&verb.as_str()))
        };
        if !self.verbs.is_empty() && !self.verbs.iter().any(possible) {
            let shown = self.verbs.get(..self.verbs.len().min(5)).unwrap_or_default().join(" or ");
            let more = self.verbs.len().saturating_sub(5);
            let more = if more == 0 { String::new() } else { format!(" or {more} others") };
            return Some(format!("no request has the verb {shown}{more}"));
        }
        let group_of = |named: &str| ["deployments", "daemonsets", "statefulsets", "replicasets"].contains(&named);
        let misplaced = |entry: &GroupResources| {
            entry.group.is_empty()
                && !entry.resources.is_empty()
                && entry.resources.iter().all(|named| group_of(named.split('/').next().unwrap_or(named)))
        };
        (!self.resources.is_empty() && self.resources.iter().all(misplaced))
            .then(|| "its resources are those of group apps, and the core group is named".to_owned())
    }

    /// Whether every request of a part of a later rule is taken by this rule.
    fn takes(&self, part: &Part<'_>) -> bool {
        let groups = self.user_groups.is_empty() || self.user_groups.iter().any(|group| part.is_in(group));
        if !groups || !takes_name(&self.users, part.user) || !takes_one(&self.verbs, part.verb) {
            return false;
        }
        let everything = self.resources.is_empty() && self.namespaces.is_empty() && self.non_resource_urls.is_empty();
        if everything {
            return true;
        }
        match part.target {
            Target::Everything => false,
            Target::Path(url) => self.non_resource_urls.iter().any(|mine| match mine.strip_suffix('*') {
                Some(prefix) => url.starts_with(prefix),
                None => mine == url,
            }),
            Target::Resources | Target::Of { .. } if !self.non_resource_urls.is_empty() => false,
            Target::Resources => self.resources.is_empty() && takes_name(&self.namespaces, part.namespace),
            Target::Of { group, pattern, name } => {
                takes_name(&self.namespaces, part.namespace)
                    && (self.resources.is_empty()
                        || self.resources.iter().any(|mine| mine.group == group && mine.takes(pattern, name)))
            }
        }
    }
}
