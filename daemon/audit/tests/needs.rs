//! What the built-in rules need is kept in `needs.jsonl`: it must be what the rules say.
//!
//! After a change of a rule: `PICKET_UPDATE_NEEDS=1 cargo test -p picket-audit --test needs`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::Path;

use picket_audit::{Rule, builtin, builtin_needs, needs};
use picket_model::DetectionNeed;

fn of(rule: &str) -> DetectionNeed {
    builtin_needs().into_iter().find(|need| need.rule == rule).unwrap()
}

#[test]
fn what_is_kept_is_what_the_rules_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("needs.jsonl");
    let lines: Vec<String> =
        needs(&builtin().unwrap()).iter().map(|need| serde_json::to_string(need).unwrap() + "\n").collect();
    if std::env::var_os("PICKET_UPDATE_NEEDS").is_some() {
        fs::write(&path, lines.concat()).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), lines.concat(), "a rule changed; see the head of this file");
    assert!(lines.len() > 120, "{}", lines.len());
}

#[test]
fn needs_follow_from_the_compiled_rules() {
    let exec = of("pod-exec");
    assert_eq!((exec.resources, exec.subresources), (vec!["pods".to_owned()], vec!["exec".to_owned()]));
    assert_eq!(exec.stages, ["ResponseStarted", "ResponseComplete"], "an exec is raised when it starts");
    assert!(!exec.bodies);

    let binding = of("cluster-admin-binding");
    assert!(binding.bodies && binding.groups == ["rbac.authorization.k8s.io"], "{binding:?}");
    assert_eq!(binding.verbs, ["create", "update", "patch"]);
    assert_eq!(binding.stages, ["ResponseComplete"]);

    let list = of("secret-list-cluster-wide");
    assert_eq!((list.groups, list.verbs), (vec![String::new()], vec!["list".to_owned(), "watch".to_owned()]));

    let privileged = of("privileged-container");
    assert!(privileged.pods && privileged.bodies && privileged.resources.is_empty(), "{privileged:?}");

    assert_eq!(of("authn-failure").stages, ["ResponseStarted"], "a failed login has no other stage");
    assert_eq!(of("api-server-panic").stages, ["Panic"]);
    assert!(!builtin_needs().iter().any(|need| need.rule == "audit-gap"), "it is about the log itself");
}

#[test]
fn a_rule_of_the_site_needs_bodies_when_it_asks_for_them() {
    let rule = |field: &str| {
        let text = format!(
            "title: x\nname: x\nlogsource: {{product: kubernetes, service: audit}}\ndetection:\n  a:\n    res: pods\n    {field}: y\n  condition: a\n"
        );
        needs(&Rule::from_sigma("x.yml", &text).unwrap()).remove(0).bodies
    };
    assert!(rule("requestObject.spec.hostPID") && rule("podspec.hostPID"));
    assert!(!rule("user.username"));
}
