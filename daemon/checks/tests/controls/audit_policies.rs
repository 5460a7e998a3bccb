//! What an audit policy hides from the detections, which of its rules can never match, and what the API server refuses.

use Status::{Fail, Pass, Unknown};
use picket_checks::*;
use picket_model::{Observation, Role, Status, Verdict};

use crate::good::*;

const PATH: &str = "/etc/rancher/audit.yaml";

fn judged(rules: &str) -> Vec<Verdict> {
    let mut snap = node(Role::Server);
    let text = format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{rules}");
    let policy = AuditPolicy::parse(text.as_bytes()).unwrap();
    snap.audit_policies.values_mut().for_each(|p| *p = Observation::from(policy.clone()));
    evaluate(&snap, &crate::good::policy())
}

/// Status and words of the one row of a control.
fn says(rules: &str, control: &str) -> (Status, String) {
    let verdicts = judged(rules);
    let rows = rows(&verdicts, control);
    assert_eq!(rows.len(), 1, "{rows:?}");
    (rows[0].status, rows[0].observed.clone())
}

#[test]
fn detections_that_see_nothing_are_named() {
    let blind = |rules: &str| says(rules, "audit-policy-detections-blind");
    assert_eq!(blind("rules: [{level: Metadata}]").0, Pass);

    let (status, words) =
        blind("rules:\n- {level: None, resources: [{group: '', resources: [pods/exec]}]}\n- {level: Metadata}");
    assert_eq!((status, words.as_str()), (Fail, "1 detection can see none of the requests they look for: exec"));

    let (status, words) = blind("rules:\n- {level: None, users: [mallory]}\n- {level: Metadata}");
    assert_eq!(status, Fail, "{words}");
    assert!(words.contains("only a part: exec, binding, token"), "{words}");

    let (status, words) = blind("omitStages: [ResponseStarted]\nrules: [{level: Metadata}]");
    assert_eq!((status, words.as_str()), (Fail, "1 detection can see none of the requests they look for: login"));

    // Of a failed login, and of what goes on for long, the start of the answer is left.
    let (status, words) = blind("omitStages: [RequestReceived, ResponseComplete]\nrules: [{level: Metadata}]");
    assert_eq!(status, Fail);
    assert!(!words.contains("exec") && !words.contains("login") && words.contains("binding, "), "{words}");
    let (status, words) = blind("omitStages: [ResponseComplete]\nrules: [{level: Metadata}]");
    assert_eq!((status, words.as_str()), (Fail, "1 detection can see none of the requests they look for: binding"));

    let (status, words) = blind("rules: [{level: Metadata, resources: [{group: apps}]}]");
    assert_eq!(status, Fail);
    assert!(words.contains("exec, binding, token"), "{words}");

    assert_eq!(
        blind("rules:\n- {level: None, users: ['system:kube-proxy']}\n- {level: Metadata}").0,
        Pass,
        "a component"
    );
    assert_eq!(blind("rules:\n- {level: None, nonResourceURLs: ['/healthz*']}\n- {level: Metadata}").0, Pass);
    assert_eq!(
        blind("rules:\n- {level: None, verbs: [watch]}\n- {level: Metadata}").0,
        Pass,
        "no rule looks for it alone"
    );
}

#[test]
fn detections_without_the_bodies_they_need_are_named() {
    let bodies = |rules: &str| says(rules, "audit-policy-detections-bodies");
    let (status, words) = bodies("rules: [{level: Metadata}]");
    assert_eq!(
        (status, words.as_str()),
        (Fail, "2 detections can see none of the bodies they look for: binding, privileged")
    );
    let rbac = "rules:\n- {level: Request, resources: [{group: rbac.authorization.k8s.io}]}\n- {level: Metadata}";
    assert!(bodies(rbac).1.ends_with(": privileged"), "{}", bodies(rbac).1);
    let all = "rules:\n- {level: Request, resources: [{group: rbac.authorization.k8s.io}, {group: '', resources: [pods]}]}\n- {level: Metadata}";
    assert_eq!(bodies(all).0, Pass, "Pods of controllers are seen where Pods are");
    // What is not logged at all is the other control's.
    assert!(!bodies("rules: [{level: Metadata, resources: [{group: '', resources: [pods]}]}]").1.contains("binding"));
}

#[test]
fn without_rules_nothing_is_said_of_them() {
    let snap = node(Role::Server);
    let policy = Policy { detections: std::sync::Arc::default(), ..policy() };
    let verdicts = evaluate(&snap, &policy);
    assert_eq!(rows(&verdicts, "audit-policy-detections-blind")[0].status, Unknown);
}

#[test]
fn rules_that_can_never_match_are_named() {
    for (rules, dead) in [
        ("- level: Metadata\n- {level: Request, verbs: [create]}", Some((2, "rule 1 takes all of it"))),
        ("- {level: None, verbs: [Create]}\n- level: Metadata", Some((1, "no request has the verb Create"))),
        ("- {level: None, verbs: ['*']}\n- level: Metadata", Some((1, "no request has the verb *"))),
        (
            "- {level: Request, resources: [{group: '', resources: [deployments]}]}\n- level: Metadata",
            Some((1, "group apps")),
        ),
        (
            "- {level: None, resources: [{group: '', resources: ['pods/*']}]}\n- {level: Request, resources: [{group: '', resources: [pods, pods/exec]}]}\n- level: Metadata",
            Some((2, "rule 1 takes all of it")),
        ),
        (
            "- {level: None, resources: [{group: ''}]}\n- {level: Request, namespaces: [a], resources: [{group: '', resources: [pods]}]}",
            Some((2, "rule 1 takes all of it")),
        ),
        (
            "- {level: None, nonResourceURLs: ['/healthz*']}\n- {level: Request, nonResourceURLs: ['/healthz/x']}",
            Some((2, "rule 1")),
        ),
        ("- {level: None, users: [a, b]}\n- {level: Metadata, users: [b], verbs: [get]}", Some((2, "rule 1"))),
        // Several together.
        (
            "- {level: Metadata, resources: [{group: '', resources: [secrets]}]}\n- {level: Metadata, resources: [{group: '', resources: [configmaps]}]}\n- {level: Request, resources: [{group: '', resources: [secrets, configmaps]}]}\n- level: Metadata",
            Some((3, "rules 1 and 2 together take all of it")),
        ),
        (
            "- {level: None, users: [a], verbs: [get]}\n- {level: None, users: [b], verbs: [get]}\n- {level: None, users: [a, b], verbs: [list]}\n- {level: Metadata, users: [b, a], verbs: [list, get]}",
            Some((4, "rules 1, 2 and 3 together")),
        ),
        (
            "- {level: None, nonResourceURLs: ['/a*']}\n- {level: None, nonResourceURLs: ['/b']}\n- {level: Metadata, nonResourceURLs: ['/b', '/ab']}",
            Some((3, "rules 1 and 2")),
        ),
        (
            "- {level: Metadata, resources: [{group: '', resources: ['*']}]}\n- {level: Request, resources: [{group: ''}]}",
            Some((2, "rule 1")),
        ),
        // Whoever is named is logged in, and a service account is in its groups.
        (
            "- {level: None, userGroups: ['system:authenticated']}\n- {level: Metadata, users: [alice]}",
            Some((2, "rule 1")),
        ),
        (
            "- {level: None, userGroups: ['system:serviceaccounts:kube-system']}\n- {level: Metadata, users: ['system:serviceaccount:kube-system:x']}",
            Some((2, "rule 1")),
        ),
        // These can.
        (
            "- {level: None, userGroups: ['system:authenticated']}\n- {level: Metadata, users: ['system:anonymous']}",
            None,
        ),
        (
            "- {level: None, userGroups: ['system:serviceaccounts:kube-system']}\n- {level: Metadata, users: ['system:serviceaccount:default:x']}",
            None,
        ),
        (
            "- {level: Metadata, resources: [{group: '', resources: [secrets]}]}\n- {level: Metadata, verbs: [get], resources: [{group: '', resources: [configmaps]}]}\n- {level: Request, resources: [{group: '', resources: [secrets, configmaps]}]}",
            None,
        ),
        (
            "- {level: Metadata, resources: [{group: '', resources: ['*/*']}]}\n- {level: Request, resources: [{group: '', resources: [pods]}]}",
            None,
        ),
        ("- {level: None, users: [a]}\n- level: Metadata", None),
        (
            "- {level: None, resources: [{group: '', resources: [pods]}]}\n- {level: Request, resources: [{group: '', resources: [pods/exec]}]}",
            None,
        ),
        ("- {level: None, namespaces: [a]}\n- {level: Request, namespaces: [a, b]}", None),
        (
            "- {level: None, resources: [{group: '', resources: [pods], resourceNames: [x]}]}\n- {level: Request, resources: [{group: '', resources: [pods]}]}",
            None,
        ),
        ("- {level: None, nonResourceURLs: ['*'], verbs: [get]}\n- level: Metadata", None),
        ("- {level: None, verbs: [get, list]}\n- {level: Metadata, verbs: [list, watch]}", None),
    ] {
        let verdicts = judged(&format!("rules:\n{rules}"));
        let rows = rows(&verdicts, "audit-policy-rules-reachable");
        assert_eq!(rows.len(), 1, "{rules}: {rows:?}");
        match dead {
            None => assert_eq!(rows[0].status, Pass, "{rules}: {}", rows[0].observed),
            Some((rule, why)) => {
                assert_eq!((rows[0].status, &rows[0].subject), (Fail, &format!("{PATH} rule {rule}")), "{rules}");
                assert!(rows[0].observed.contains(why), "{rules}: {}", rows[0].observed);
            }
        }
    }
}

#[test]
fn a_policy_that_names_too_much_to_be_compared_is_unknown_and_soon_so() {
    let list = |what: &str| (0..2000).map(|n| format!("{what}{n}")).collect::<Vec<_>>().join(", ");
    let rule = format!("- {{level: None, users: [{}], namespaces: [{}]}}\n", list("u"), list("n"));
    let verdicts = judged(&format!("rules:\n{}- level: Metadata", rule.repeat(10)));
    let row = rows(&verdicts, "audit-policy-rules-reachable")[0];
    assert_eq!((row.status, row.subject.as_str()), (Unknown, PATH));
    // Nor does a row grow with what a rule names.
    let verdicts = judged(&format!("rules:\n- {{level: None, verbs: [{}]}}\n- level: Metadata", list("V")));
    let row = rows(&verdicts, "audit-policy-rules-reachable")[0];
    assert!(row.observed.contains("no request has the verb V0 or V1") && row.observed.len() < 200);
}

#[test]
fn a_rule_behind_one_that_takes_the_same_requests_counts_for_nothing() {
    let rules = "rules:\n- {level: Metadata, namespaces: [a], resources: [{group: apps}]}\n- {level: None, namespaces: [a], resources: [{group: apps, resources: [deployments]}]}\n- {level: Metadata}";
    let deployments = |rules: &str| {
        let verdicts = judged(rules);
        rows(&verdicts, "audit-policy-workload-changes")
            .iter()
            .find(|row| row.subject.ends_with(" deployments.apps"))
            .unwrap()
            .status
    };
    assert_eq!(deployments(rules), Pass);
    assert_eq!(deployments(&rules.replace("None, namespaces: [a]", "None, namespaces: [a, b]")), Fail);
}

#[test]
fn what_components_do_unlogged_is_not_called_logged() {
    let words = |rules: &str| {
        let observed = rows(&judged(rules), "audit-policy-workload-changes")[0].observed.clone();
        observed.split(" (on disk; ").next().unwrap().to_owned()
    };
    assert_eq!(words("rules: [{level: Metadata}]"), "at least Metadata everywhere");
    let excepted = words("rules:\n- {level: None, users: ['system:kube-proxy']}\n- {level: Metadata}");
    assert_eq!(excepted, "at least Metadata but for components of the cluster (rule 1)");
}

#[test]
fn a_rule_for_secrets_is_none_for_what_lies_below_them() {
    let control = "audit-policy-secrets-metadata-only";
    let judge = |resources: &str| {
        let first = format!("level: Metadata, resources: [{{group: '', resources: [{resources}]}}]");
        let verdicts = judged(&format!("rules: [{{{first}}}, {{level: RequestResponse}}]"));
        let row = rows(&verdicts, control)[0];
        (row.status, row.observed.clone())
    };
    let (status, words) = judge("secrets");
    assert!(status == Fail && words.contains("of secrets/* can be logged at RequestResponse: rule 2"), "{words}");
    // As the remedy says.
    assert_eq!(judge("secrets, 'secrets/*'").0, Pass);
}

#[test]
fn what_the_api_server_refuses_is_no_policy() {
    for (text, words) in [
        ("rules: [{level: Metadata}]", "kind must be Policy"),
        ("apiVersion: audit.k8s.io/v1beta1\nkind: Policy\nrules: [{level: Metadata}]", "audit.k8s.io/v1"),
        ("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: metadata}]", "level"),
        ("apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [Begin]\nrules: [{level: Metadata}]", "stage"),
        (
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, nonResourceURLs: [/x], namespaces: [a]}]",
            "both",
        ),
        ("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, nonResourceURLs: [x]}]", "begins with /"),
        ("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, resources: [{group: apps/v1}]}]", "version"),
        (
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, resources: [{group: '', resourceNames: [a]}]}]",
            "need resources",
        ),
    ] {
        let error = AuditPolicy::parse(text.as_bytes()).unwrap_err();
        assert!(error.to_string().contains(words) && !error.is_limit(), "{text}: {error}");
    }
    let mut snap = node(Role::Server);
    snap.audit_policies.values_mut().for_each(|p| *p = Observation::from(AuditPolicy::refused("no level")));
    assert_eq!(status(&snap, "audit-policy-file-set"), Fail);
    for control in ["audit-policy-secrets-logged", "audit-policy-detections-blind", "audit-policy-rules-reachable"] {
        assert_eq!(status(&snap, control), Unknown, "{control}");
    }
}
