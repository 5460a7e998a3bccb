//! Audit policies of the API server: reading them, and asking what level a request would be logged at.
//!
//! The API server takes the first rule that matches a request (`audit.k8s.io/v1`). A rule matches by user, group, verb
//! and then by resource and namespace or by non-resource URL; what it leaves out matches everything. No rule: not
//! logged.

use serde_json::Value;

use crate::document::{DocumentError, parse_yaml_map, strings};

/// How much is logged, in rising order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum Level {
    /// Nothing.
    None,
    /// Who, what, when; no bodies.
    Metadata,
    /// The request's body too.
    Request,
    /// Both bodies.
    RequestResponse,
}

impl Level {
    /// The level by its name in a policy.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "None" => Some(Self::None),
            "Metadata" => Some(Self::Metadata),
            "Request" => Some(Self::Request),
            "RequestResponse" => Some(Self::RequestResponse),
            _ => None,
        }
    }

    /// Its name in a policy.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

/// An audit policy.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct AuditPolicy {
    /// Its rules, in order. May be empty; the API server refuses that.
    pub rules: Vec<AuditRule>,
    /// Why the API server would refuse what stands in the file; there are no rules then.
    pub refused: Option<String>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct AuditRule {
    /// What it logs.
    pub level: Level,
    /// Users it is for; empty: all.
    pub users: Vec<String>,
    /// Groups it is for; empty: all.
    pub user_groups: Vec<String>,
    /// Verbs it is for; empty: all. There is no wildcard for verbs.
    pub verbs: Vec<String>,
    /// Resources it is for; empty: all.
    pub resources: Vec<GroupResources>,
    /// Namespaces it is for; empty: all.
    pub namespaces: Vec<String>,
    /// Paths it is for that are no resources.
    pub non_resource_urls: Vec<String>,
    /// Stages in which it logs nothing, those of the whole policy included.
    pub omit_stages: Vec<String>,
}

/// Resources of one API group.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct GroupResources {
    /// API group; empty is the core group.
    pub group: String,
    /// `pods`, `pods/log`, `pods/*`, `*/scale`, `*`; empty: all of the group.
    pub resources: Vec<String>,
    /// Names it is for; empty: all.
    pub resource_names: Vec<String>,
}

impl GroupResources {
    /// Whether everything of the other entry is in this one.
    fn holds(&self, other: &Self) -> bool {
        if self.group != other.group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        let names = self.resource_names.is_empty()
            || (!other.resource_names.is_empty()
                && other.resource_names.iter().all(|n| self.resource_names.contains(n)));
        let holds = |theirs: &String| {
            self.resources.iter().any(|mine| {
                mine == "*"
                    || mine == theirs
                    || mine.strip_suffix("/*").is_some_and(|resource| theirs.split('/').next() == Some(resource))
                    || mine.strip_prefix("*/").is_some_and(|sub| theirs.split('/').nth(1) == Some(sub))
            })
        };
        names && !other.resources.is_empty() && other.resources.iter().all(holds)
    }
}

/// Whether a list of a rule, where empty means all, holds everything of another.
fn holds_all(mine: &[String], theirs: &[String]) -> bool {
    mine.is_empty() || (!theirs.is_empty() && theirs.iter().all(|name| mine.contains(name)))
}

fn known_stages(stages: &[String], what: &str) -> Result<(), DocumentError> {
    const STAGES: [&str; 4] = ["RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"];
    match stages.iter().find(|stage| !STAGES.contains(&stage.as_str())) {
        Some(_) => Err(DocumentError::shape(format!("{what} holds what is no stage"))),
        None => Ok(()),
    }
}

/// Verbs of requests on resources.
pub(crate) const ALL_VERBS: [&str; 8] =
    ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];

/// Most rules a policy may have to be looked at.
const MAX_RULES: usize = 2000;

impl AuditPolicy {
    /// Reads a policy from YAML or JSON.
    ///
    /// # Errors
    /// When it is not a `Policy` of `audit.k8s.io`, or a rule has no valid level.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let value = parse_yaml_map(bytes)?;
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
        if text("kind") != "Policy" || text("apiVersion") != "audit.k8s.io/v1" {
            return Err(DocumentError::shape("kind must be Policy and apiVersion audit.k8s.io/v1"));
        }
        let omitted = strings(value.get("omitStages"), "omitStages")?;
        known_stages(&omitted, "omitStages")?;
        let list = match value.get("rules") {
            None | Some(Value::Null) => return Ok(Self::default()),
            Some(Value::Array(list)) => list,
            Some(_) => return Err(DocumentError::shape("rules must be a list")),
        };
        if list.len() > MAX_RULES {
            let what = format!("{} rules, more than the {MAX_RULES} that are read", list.len());
            return Err(DocumentError::TooMany { what });
        }
        let rules = list
            .iter()
            .enumerate()
            .map(|(index, rule)| AuditRule::read(rule, index, &omitted))
            .collect::<Result<_, _>>()?;
        Ok(Self { rules, refused: None })
    }

    /// What was read of a file that holds no policy the API server would take.
    pub fn refused(reason: impl Into<String>) -> Self {
        Self { rules: Vec::new(), refused: Some(reason.into()) }
    }

    /// Rules that can never match, by place (from 0), and why.
    pub(crate) fn dead_rules(&self) -> Vec<(usize, String)> {
        let mut dead = Vec::new();
        for (index, rule) in self.rules.iter().enumerate() {
            let before = self.rules.iter().take(index);
            if let Some(why) = rule.matches_nothing() {
                dead.push((index, why));
            } else if let Some((earlier, _)) = before.enumerate().find(|(_, earlier)| earlier.takes_all_of(rule)) {
                dead.push((index, format!("rule {} takes all of it before", earlier + 1)));
            }
        }
        dead
    }

    /// The rules that requests of this kind can meet, in order: each with whether it takes all of what is left. The
    /// last one is complete, or requests are left that no rule takes (not logged).
    pub(crate) fn meet(&self, request: &Request<'_>) -> Vec<Met<'_>> {
        let mut met = Vec::new();
        for (index, rule) in self.rules.iter().enumerate() {
            let cover = rule.covers(request);
            if cover == Cover::None
                || met.iter().any(|m: &Met<'_>| m.rule.is_some_and(|(_, r)| r.shadows(rule, request)))
            {
                continue;
            }
            met.push(Met { rule: Some((index, rule)), level: rule.effective_level(request) });
            if cover == Cover::All {
                return met;
            }
        }
        met.push(Met { rule: None, level: Level::None });
        met
    }
}

/// A rule that some requests meet, or the end of the rules.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Met<'a> {
    /// Its place (from 0); none at the end of the rules.
    pub(crate) rule: Option<(usize, &'a AuditRule)>,
    /// What is logged there.
    pub(crate) level: Level,
}

/// A kind of request: every user, every namespace and every name, but one verb and one resource.
#[derive(Debug, Clone, Copy)]
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cover {
    None,
    Some,
    All,
}

impl AuditRule {
    fn read(rule: &Value, index: usize, omitted: &[String]) -> Result<Self, DocumentError> {
        let what = |field: &str| format!("rules[{index}].{field}");
        let level = rule
            .get("level")
            .and_then(Value::as_str)
            .and_then(Level::parse)
            .ok_or_else(|| DocumentError::shape(format!("rules[{index}] has no valid level")))?;
        let list = |field: &str| strings(rule.get(field), &what(field));
        let mut resources = Vec::new();
        match rule.get("resources") {
            None | Some(Value::Null) => {}
            Some(Value::Array(entries)) => {
                for entry in entries {
                    resources.push(GroupResources {
                        group: entry.get("group").and_then(Value::as_str).unwrap_or_default().to_owned(),
                        resources: strings(entry.get("resources"), &what("resources[].resources"))?,
                        resource_names: strings(entry.get("resourceNames"), &what("resources[].resourceNames"))?,
                    });
                }
            }
            Some(_) => return Err(DocumentError::shape(format!("{} must be a list", what("resources")))),
        }
        let mut omit_stages = list("omitStages")?;
        known_stages(&omit_stages, &what("omitStages"))?;
        omit_stages.extend_from_slice(omitted);
        let rule = Self {
            level,
            users: list("users")?,
            user_groups: list("userGroups")?,
            verbs: list("verbs")?,
            resources,
            namespaces: list("namespaces")?,
            non_resource_urls: list("nonResourceURLs")?,
            omit_stages,
        };
        match rule.wrong() {
            Some(wrong) => Err(DocumentError::shape(format!("rules[{index}]: {wrong}"))),
            None => Ok(rule),
        }
    }

    /// What the API server refuses in a rule.
    fn wrong(&self) -> Option<&'static str> {
        let of_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        if of_resources && !self.non_resource_urls.is_empty() {
            return Some("it names both resources or namespaces and nonResourceURLs");
        }
        let bad_url = |url: &String| {
            let star = url.find('*');
            url != "*" && (!url.starts_with('/') || star.is_some_and(|at| at + 1 != url.len()))
        };
        if self.non_resource_urls.iter().any(bad_url) {
            return Some("a nonResourceURL begins with / and has a * at its end only");
        }
        let bad_group = |entry: &GroupResources| {
            entry.group.bytes().any(|b| !(b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.')))
        };
        if self.resources.iter().any(bad_group) {
            return Some("a group is the name of an API group, without its version");
        }
        if self.resources.iter().any(|e| e.resources.is_empty() && !e.resource_names.is_empty()) {
            return Some("resourceNames need resources");
        }
        None
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
            return Some(format!("no request has the verb {}", self.verbs.join(" or ")));
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

    /// Whether every request that `later` could take is taken by this rule.
    fn takes_all_of(&self, later: &Self) -> bool {
        if !holds_all(&self.users, &later.users)
            || !holds_all(&self.user_groups, &later.user_groups)
            || !holds_all(&self.verbs, &later.verbs)
        {
            return false;
        }
        let for_all = |rule: &Self| rule.resources.is_empty() && rule.namespaces.is_empty();
        if for_all(self) && self.non_resource_urls.is_empty() {
            return true;
        }
        if !self.non_resource_urls.is_empty() {
            let covered = |url: &String| {
                self.non_resource_urls.iter().any(|mine| match mine.strip_suffix('*') {
                    Some(prefix) => url.starts_with(prefix),
                    None => mine == url,
                })
            };
            return !later.non_resource_urls.is_empty() && later.non_resource_urls.iter().all(covered);
        }
        // A rule for resources takes nothing of one for everything or for paths.
        if for_all(later) || !holds_all(&self.namespaces, &later.namespaces) {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        !later.resources.is_empty()
            && later.resources.iter().all(|theirs| self.resources.iter().any(|m| m.holds(theirs)))
    }

    /// What really reaches the log: a rule that omits every stage such a request goes through logs nothing of one that
    /// goes well.
    fn effective_level(&self, request: &Request<'_>) -> Level {
        let omits = |stage: &str| self.omit_stages.iter().any(|s| s == stage);
        let started = request.is_long() && !omits("ResponseStarted");
        if omits("RequestReceived") && omits("ResponseComplete") && !started { Level::None } else { self.level }
    }

    /// Whether it is for the components of Kubernetes alone, which act without a person behind them.
    pub(crate) fn only_for_components(&self) -> bool {
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

    /// Whether this rule leaves nothing of such requests for a later one that takes some of them too.
    fn shadows(&self, later: &Self, request: &Request<'_>) -> bool {
        let every_name = self.resources.is_empty()
            || self.resources.iter().filter(|e| e.group == request.group).any(|e| {
                e.resources.is_empty() || (e.resource_names.is_empty() && e.resources.iter().any(|r| names(r, request)))
            });
        every_name
            && holds_all(&self.users, &later.users)
            && holds_all(&self.user_groups, &later.user_groups)
            && holds_all(&self.namespaces, &later.namespaces)
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
