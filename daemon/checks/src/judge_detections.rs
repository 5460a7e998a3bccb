//! What the node's audit policy keeps from the detections, by the ids of their rules.
//!
//! The needs of the rules come with the [`crate::Policy`]; here each kind of request that a rule looks for goes through
//! the audit policy. A rule that may see something somewhere is not called blind.

use std::collections::BTreeMap;

use picket_model::{DetectionNeed, Evidence, Status};

use crate::audit_policy::{AuditPolicy, Level};
use crate::audit_requests::{ALL_VERBS, Met, Request, Requests};
use crate::row::Row;

/// What carries the specification of a Pod.
const PODS: [(&str, &str); 8] = [
    ("", "pods"),
    ("apps", "deployments"),
    ("apps", "daemonsets"),
    ("apps", "statefulsets"),
    ("apps", "replicasets"),
    ("", "replicationcontrollers"),
    ("batch", "jobs"),
    ("batch", "cronjobs"),
];
/// What stands for any resource.
const ANY: [(&str, &str); 8] = [
    ("", "secrets"),
    ("", "pods"),
    ("", "configmaps"),
    ("", "serviceaccounts"),
    ("", "nodes"),
    ("", "namespaces"),
    ("apps", "deployments"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
];
/// Groups of resources that rules name without one.
const GROUPS: [(&str, &[&str]); 5] = [
    ("apps", &["deployments", "daemonsets", "statefulsets", "replicasets"]),
    ("batch", &["jobs", "cronjobs"]),
    ("rbac.authorization.k8s.io", &["roles", "clusterroles", "rolebindings", "clusterrolebindings"]),
    ("authentication.k8s.io", &["tokenreviews"]),
    ("networking.k8s.io", &["ingresses", "networkpolicies", "ingressclasses"]),
];
/// Bodies that must stay out of the log (see the controls that say so): a rule that would see more with them is blind on
/// purpose.
const SECRET: [&str; 4] = ["secrets", "configmaps", "tokenreviews", "serviceaccounts"];

/// What is asked of the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// That the requests are logged at all.
    Logged,
    /// That their bodies are.
    Bodies,
}

/// How much of what it looks for a rule can see.
enum Sight {
    All,
    /// Not what this rule of the policy takes.
    Part(String),
    Nothing(String),
}

/// One row for the policy: the detections that see nothing of what they look for, or only a part, by id.
pub(crate) fn judge(needs: &[DetectionNeed], policy: &AuditPolicy, path: &str, asked: Asked) -> Row {
    if needs.is_empty() {
        return Row::unknown(path, "which detections there are is not known");
    }
    let (mut blind, mut partly): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    let mut why: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut requests = Requests::on(policy);
    for need in needs.iter().filter(|need| concerns(need, asked)) {
        // Of what is not logged at all the other control speaks.
        if asked == Asked::Bodies && matches!(sight(need, &mut requests, Asked::Logged), Sight::Nothing(_)) {
            continue;
        }
        let reason = match sight(need, &mut requests, asked) {
            Sight::All => continue,
            Sight::Part(reason) => {
                partly.push(&need.rule);
                reason
            }
            Sight::Nothing(reason) => {
                blind.push(&need.rule);
                reason
            }
        };
        why.entry(reason).or_default().push(&need.rule);
    }
    let what = if asked == Asked::Logged { "requests" } else { "bodies" };
    if why.is_empty() {
        let words = format!("no detection lacks the {what} it looks for");
        return Row::new(path, Status::Pass, words.clone()).with(Evidence::at(path, words));
    }
    let mut words = Vec::new();
    if !blind.is_empty() {
        words.push(format!("{} see none of the {what} they look for: {}", count(blind.len()), blind.join(", ")));
    }
    if !partly.is_empty() {
        words.push(format!("{} see only a part: {}", count(partly.len()), partly.join(", ")));
    }
    Row::new(path, Status::Fail, words.join("; "))
        .with_all(why.into_iter().map(|(reason, rules)| Evidence::at(path, format!("{reason}: {}", rules.join(", ")))))
}

fn count(number: usize) -> String {
    if number == 1 { "1 detection can".to_owned() } else { format!("{number} detections can") }
}

fn concerns(need: &DetectionNeed, asked: Asked) -> bool {
    match asked {
        Asked::Logged => true,
        Asked::Bodies => {
            need.bodies
                && (need.resources.is_empty() || need.resources.iter().any(|named| !SECRET.contains(&named.as_str())))
        }
    }
}

fn sight<'a>(need: &'a DetectionNeed, requests: &mut Requests<'a>, asked: Asked) -> Sight {
    let verbs: Vec<&str> =
        if need.verbs.is_empty() { ALL_VERBS.into() } else { need.verbs.iter().map(String::as_str).collect() };
    let subs: Vec<Option<&str>> = match need.subresources.as_slice() {
        [] => vec![None],
        named => named.iter().map(|sub| (!sub.is_empty()).then_some(sub.as_str())).collect(),
    };
    let (mut seen, mut missed) = (false, None);
    for (group, resource) in targets(need) {
        for sub in &subs {
            for verb in verbs.iter().filter(|verb| crate::judge_audit::verb_fits(*sub, verb)) {
                let request = Request { group, resource, subresource: *sub, verb };
                for met in requests.meet(request) {
                    // Exceptions for components that act for nobody hide nothing of people.
                    if met.only_for_components {
                        continue;
                    }
                    match lacks(need, &request, met, asked) {
                        None => seen = true,
                        Some(lack) => {
                            missed.get_or_insert(lack);
                        }
                    }
                }
            }
        }
    }
    // A rule for any resource may be meant for one of which nothing is logged; that it sees others is enough.
    let named = !need.resources.is_empty();
    match missed {
        Some(lack) if !seen => Sight::Nothing(lack.to_string()),
        Some(lack) if named => Sight::Part(lack.to_string()),
        _ => Sight::All,
    }
}

/// A group whose last resources went with Kubernetes 1.22 (its deprecation guide): rules still name it beside its
/// successor, and a policy need not.
const NOT_SERVED: &str = "extensions";

/// Groups and resources that stand for what a rule looks for.
fn targets(need: &DetectionNeed) -> Vec<(&str, &str)> {
    if need.resources.is_empty() {
        if need.pods {
            return PODS.into();
        }
        if need.groups.is_empty() {
            return ANY.into();
        }
        // A name that no rule of the policy can know stands for any resource of the group.
        let of = |group: &str| GROUPS.iter().find(|(known, _)| *known == group).map(|(_, resources)| *resources);
        return need
            .groups
            .iter()
            .flat_map(|group| of(group).unwrap_or(&["any-resource"]).iter().map(|named| (group.as_str(), *named)))
            .collect();
    }
    let usual = |resource: &str| {
        GROUPS.iter().find(|(_, resources)| resources.contains(&resource)).map_or("", |(group, _)| *group)
    };
    need.resources
        .iter()
        .flat_map(|named| {
            let groups: Vec<&str> = match need.groups.as_slice() {
                [] => vec![usual(named)],
                [group] => vec![group.as_str()],
                groups => groups.iter().map(String::as_str).filter(|group| *group != NOT_SERVED).collect(),
            };
            groups.into_iter().map(move |group| (group, named.as_str()))
        })
        .collect()
}

/// What a rule of the policy (by its place, from 1) keeps from a detection.
#[derive(Debug, Clone, Copy)]
enum Lack<'a> {
    NoRule,
    NotLogged { rule: usize },
    Stages { rule: usize, stages: &'a [String] },
    Bodies { rule: usize, level: Level },
}

impl std::fmt::Display for Lack<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoRule => f.write_str("no rule takes these requests"),
            Self::NotLogged { rule } => write!(f, "rule {rule} logs nothing"),
            Self::Stages { rule, stages } => write!(f, "rule {rule} omits the stage {}", stages.join(" and ")),
            Self::Bodies { rule, level } => write!(f, "rule {rule} logs them at {}", level.as_str()),
        }
    }
}

fn lacks<'a>(need: &'a DetectionNeed, request: &Request<'_>, met: &Met<'_>, asked: Asked) -> Option<Lack<'a>> {
    let Some((index, policy_rule)) = met.rule else { return Some(Lack::NoRule) };
    let rule = index + 1;
    // What looks for the start of an answer alone looks for failed logins, which have no other stage.
    let logins = need.stages.iter().all(|stage| stage == "ResponseStarted") && !need.stages.is_empty();
    if policy_rule.level == Level::None || (met.level == Level::None && !logins) {
        return Some(Lack::NotLogged { rule });
    }
    let omitted = |stage: &String| policy_rule.omit_stages.contains(stage);
    let occurs = |stage: &&String| logins || request.is_long() || *stage != "ResponseStarted";
    if !need.stages.is_empty() && need.stages.iter().filter(occurs).all(omitted) {
        return Some(Lack::Stages { rule, stages: &need.stages });
    }
    (asked == Asked::Bodies && policy_rule.level < Level::Request)
        .then_some(Lack::Bodies { rule, level: policy_rule.level })
}
