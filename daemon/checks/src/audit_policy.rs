//! Audit policies of the API server: reading them, and asking what level a request would be logged at.
//!
//! The API server takes the first rule that matches a request (`audit.k8s.io/v1`). A rule matches by user, group, verb
//! and then by resource and namespace or by non-resource URL; what it leaves out matches everything. No rule: not
//! logged.

use std::collections::BTreeSet;

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
    pub users: BTreeSet<String>,
    /// Groups it is for; empty: all.
    pub user_groups: BTreeSet<String>,
    /// Verbs it is for; empty: all. There is no wildcard for verbs.
    pub verbs: Vec<String>,
    /// Resources it is for; empty: all.
    pub resources: Vec<GroupResources>,
    /// Namespaces it is for; empty: all.
    pub namespaces: BTreeSet<String>,
    /// Paths it is for that are no resources.
    pub non_resource_urls: Vec<String>,
    /// Stages in which it logs nothing, those of the whole policy included.
    pub omit_stages: BTreeSet<String>,
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

fn known_stages(stages: &[String], what: &str) -> Result<(), DocumentError> {
    const STAGES: [&str; 4] = ["RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"];
    match stages.iter().find(|stage| !STAGES.contains(&stage.as_str())) {
        Some(_) => Err(DocumentError::shape(format!("{what} holds what is no stage"))),
        None => Ok(()),
    }
}

/// Most rules a policy may have to be looked at.
const MAX_RULES: usize = 1000;

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
        let set = |field: &str| list(field).map(|names| names.into_iter().collect::<BTreeSet<_>>());
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
        let omit_stages = list("omitStages")?;
        known_stages(&omit_stages, &what("omitStages"))?;
        let omit_stages = omit_stages.into_iter().chain(omitted.iter().cloned()).collect();
        let rule = Self {
            level,
            users: set("users")?,
            user_groups: set("userGroups")?,
            verbs: list("verbs")?,
            resources,
            namespaces: set("namespaces")?,
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
}
