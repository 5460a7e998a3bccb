//! What each rule looks for, from its compiled form: so that judging can say which rules the node's audit policy makes
//! blind. What a rule does not demand for certain is left open, so that no rule is called blind that may see.

use picket_model::DetectionNeed;

use crate::fields::Flags;
use crate::index::{Fact, Facts, Field, facts};
use crate::rule::{Kind, Rule};

/// Compiling all rules takes longer than judging a node, so what the built-in ones need is kept. `tests/needs.rs` holds it
/// against the rules.
const BUILTIN: &str = include_str!("../needs.jsonl");

/// Subresources whose requests last: their answer begins long before they end.
const LASTING: [&str; 4] = ["exec", "attach", "portforward", "proxy"];
/// Fields that are found in the specification of a Pod.
const OF_PODS: [&str; 8] =
    ["podspec", "containers", "hostpaths", "hostPath", "caps", "capabilities", "images", "has_podspec"];
/// Fields that are found in bodies of other kinds.
const OF_BODIES: [&str; 18] = [
    "req",
    "requestObject",
    "resp",
    "responseObject",
    "body",
    "rules",
    "roleref",
    "subjects",
    "data",
    "grants",
    "pv_hostpath",
    "wildcard",
    "patched",
    "csr",
    "chart",
    "netpol",
    "pss_enforce",
    "pss_weakened",
];

/// What the built-in rules need.
pub fn builtin_needs() -> Vec<DetectionNeed> {
    // A test reads every line.
    BUILTIN.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// What these rules need. Those that watch over the log itself ask for no kind of request and are left out.
pub fn needs(rules: &[Rule]) -> Vec<DetectionNeed> {
    rules.iter().filter(|rule| !matches!(rule.stateful.kind, Kind::Absence | Kind::Trail)).map(need).collect()
}

/// What a correlation needs is what its one rule needs; of several some may see nothing, and it still counts the others.
fn need(rule: &Rule) -> DetectionNeed {
    let Some(correlation) = &rule.correlation else { return of_search(rule) };
    let mut sources = correlation.sources();
    match (sources.next(), sources.next()) {
        (Some(one), None) => DetectionNeed { rule: rule.id.clone(), ..of_search(one) },
        _ => DetectionNeed { rule: rule.id.clone(), ..DetectionNeed::default() },
    }
}

fn of_search(rule: &Rule) -> DetectionNeed {
    let facts = facts(&rule.compiled);
    let fields = rule.fields();
    let asks = |names: &[&str]| fields.iter().any(|field| names.contains(&field.split('.').next().unwrap_or(field)));
    let bodies = match rule.stateful.needs_level.as_deref() {
        Some(level) => level != "Metadata",
        None => asks(&OF_PODS) || asks(&OF_BODIES),
    };
    let subresources = words(&facts, Field::Sub);
    DetectionNeed {
        rule: rule.id.clone(),
        bodies,
        stages: stages(&facts, rule.once, &subresources),
        groups: words(&facts, Field::Group),
        resources: facts.resources.clone().unwrap_or_default(),
        verbs: verbs(&facts),
        pods: bodies && facts.resources.is_none() && asks(&OF_PODS),
        subresources,
    }
}

/// The words a field must be one of; an absent field is an empty word.
fn words(facts: &Facts, wanted: Field) -> Vec<String> {
    let found = facts.others.iter().find_map(|fact| match fact {
        Fact::IsOneOf(field, words) if *field == wanted => Some(words.clone()),
        Fact::Absent(field) if *field == wanted => Some(vec![String::new()]),
        _ => None,
    });
    found.unwrap_or_default()
}

fn verbs(facts: &Facts) -> Vec<String> {
    let named = words(facts, Field::Verb);
    if !named.is_empty() {
        return named;
    }
    let has = |flag: u32| facts.set & flag != 0;
    let of: &[&str] = if has(Flags::CREATED) {
        &["create"]
    } else if has(Flags::MODIFY) {
        &["create", "update", "patch"]
    } else if has(Flags::WRITE) {
        &["create", "update", "patch", "delete", "deletecollection"]
    } else {
        &[]
    };
    of.iter().map(|verb| (*verb).to_owned()).collect()
}

fn stages(facts: &Facts, once: bool, subresources: &[String]) -> Vec<String> {
    let named = words(facts, Field::Stage);
    let refused = facts.others.iter().any(
        |fact| matches!(fact, Fact::Code(ranges) if ranges.iter().all(|(low, high)| *low >= 401.0 && *high < 402.0)),
    );
    let lasting = subresources.iter().any(|sub| LASTING.contains(&sub.as_str()));
    let of: &[&str] = if !named.is_empty() {
        // Sigma compares without case; the API server does not.
        return named.iter().map(|stage| proper(stage)).collect();
    } else if refused {
        // A request that fails authentication is logged at this stage alone (E3).
        &["ResponseStarted"]
    } else if facts.set & Flags::DONE != 0 {
        &["ResponseComplete"]
    } else if facts.set & Flags::FINAL != 0 || once {
        if lasting { &["ResponseStarted", "ResponseComplete"] } else { &["ResponseComplete"] }
    } else {
        &[]
    };
    of.iter().map(|stage| (*stage).to_owned()).collect()
}

fn proper(stage: &str) -> String {
    ["RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"]
        .into_iter()
        .find(|known| known.eq_ignore_ascii_case(stage))
        .unwrap_or(stage)
        .to_owned()
}
