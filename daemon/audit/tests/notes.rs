//! What the catalogue's rules say beside their condition: severities of special cases, comparison with what was before.

use base64::Engine as _;
use picket_audit::{Detector, Event, Position, Settings, Site, builtin};
use picket_model::{Detection, Severity};
use serde_json::{Value, json};

/// A completed request of bob's at this second; `change` replaces top-level fields.
fn event(second: u32, change: Value) -> String {
    let time = format!("2026-01-01T00:{:02}:{:02}.000000Z", second / 60, second % 60);
    let mut event = json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "RequestResponse", "auditID": format!("id-{second}"),
        "stage": "ResponseComplete", "requestURI": format!("/{second}"), "verb": "create",
        "user": {"username": "bob", "groups": ["system:authenticated"]}, "sourceIPs": ["10.0.0.9"],
        "userAgent": "kubectl/v1.36.2", "responseStatus": {"code": 200}, "requestReceivedTimestamp": time,
        "stageTimestamp": time, "annotations": {"authorization.k8s.io/decision": "allow"}
    });
    event.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
    event.to_string()
}

fn run_with(site: Site, lines: &[String]) -> Vec<Detection> {
    let mut detector = Detector::new(builtin().expect("rules"), Settings { site, ..Settings::replay() });
    let mut out = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let event = Event::parse(line.as_bytes()).expect("an event");
        detector.observe(&event, Position { file: "audit.log", line: at as u64 + 1 }, &mut out);
    }
    detector.finish(&mut out);
    out
}

fn run(lines: &[String]) -> Vec<Detection> {
    run_with(Site::default(), lines)
}

fn severities(detections: &[Detection], rule: &str) -> Vec<Severity> {
    detections.iter().filter(|detection| detection.rule == rule).map(|detection| detection.severity).collect()
}

fn severity(rule: &str, change: Value) -> Option<Severity> {
    severities(&run(&[event(1, change)]), rule).first().copied()
}

fn namespace(second: u32, verb: &str, level: Option<&str>) -> String {
    let labels = level.map_or(json!({}), |level| json!({"pod-security.kubernetes.io/enforce": level}));
    let request = json!({"metadata": {"labels": match (verb, level) {
        ("patch", None) => json!({"pod-security.kubernetes.io/enforce": null}),
        _ => labels.clone(),
    }}});
    event(
        second,
        json!({
            "verb": verb, "objectRef": {"resource": "namespaces", "namespace": "shop", "name": "shop"},
            "requestObject": request, "responseObject": {"kind": "Namespace", "metadata": {"name": "shop", "labels": labels}}
        }),
    )
}

#[test]
fn pod_security_is_weakened_only_by_a_level_below_the_one_before() {
    let weakened = |before: Option<&str>, verb: &str, after: Option<&str>| {
        !severities(&run(&[namespace(1, "create", before), namespace(200, verb, after)]), "pss-label-weakened")
            .is_empty()
    };
    assert!(weakened(Some("restricted"), "patch", Some("baseline")));
    assert!(weakened(Some("baseline"), "patch", Some("privileged")));
    assert!(weakened(Some("baseline"), "patch", None));
    assert!(weakened(Some("baseline"), "update", None), "a label that is gone from the whole object");
    assert!(!weakened(None, "patch", Some("baseline")), "there was none before");
    assert!(!weakened(Some("privileged"), "update", Some("baseline")));
    assert!(!weakened(Some("restricted"), "update", Some("restricted")));
    let unknown = severities(&run(&[namespace(1, "patch", Some("baseline"))]), "pss-label-weakened");
    assert_eq!(unknown, [Severity::High], "nobody knows what was before");
}

fn deployment(second: u32, verb: &str, image: &str) -> String {
    let spec = json!({"template": {"spec": {"containers": [{"name": "web", "image": image}]}}});
    event(
        second,
        json!({
            "verb": verb, "objectRef": {"resource": "deployments", "apiGroup": "apps", "namespace": "shop", "name": "web"},
            "requestObject": {"spec": spec}, "responseObject": {"kind": "Deployment", "spec": spec}
        }),
    )
}

#[test]
fn containers_that_are_applied_again_unchanged_are_no_news() {
    let patched = |after: &str| {
        severities(&run(&[deployment(1, "create", "web:1"), deployment(9, "patch", after)]), "workload-patched-sidecar")
            .len()
    };
    assert_eq!((patched("web:1"), patched("miner:1")), (0, 1));
    assert_eq!(severities(&run(&[deployment(9, "patch", "web:1")]), "workload-patched-sidecar").len(), 1, "not known");
}

#[test]
fn what_was_before_is_known_after_a_restart() {
    let mut detector = Detector::new(builtin().expect("rules"), Settings::replay());
    let mut out = Vec::new();
    for line in [namespace(1, "create", Some("restricted")), namespace(9, "update", None)] {
        let mut next = Detector::new(builtin().expect("rules"), Settings::replay());
        next.restore(&detector.state().expect("state")).expect("restored");
        detector = next;
        let event = Event::parse(line.as_bytes()).expect("an event");
        detector.observe(&event, Position { file: "audit.log", line: 1 }, &mut out);
    }
    detector.finish(&mut out);
    assert_eq!(severities(&out, "pss-label-weakened"), [Severity::High]);
}

#[test]
fn a_kubelet_may_read_four_secrets_for_each_of_its_pods() {
    let user = json!({"username": "system:node:edge-1", "groups": ["system:nodes"]});
    let pods = (0..10).map(|at| {
        let object = json!({"resource": "pods", "subresource": "status", "namespace": "shop", "name": format!("p{at}")});
        event(at, json!({"verb": "patch", "user": user, "userAgent": "k3s/v1.36.2", "objectRef": object, "level": "Metadata"}))
    });
    let reads = |number: u32| {
        let user = user.clone();
        (0..number).map(move |at| {
            let object = json!({"resource": "secrets", "namespace": "shop", "name": format!("s{at}")});
            event(20 + at, json!({"verb": "get", "user": user, "userAgent": "k3s/v1.36.2", "objectRef": object, "level": "Metadata"}))
        })
    };
    let bursts = |lines: Vec<String>| severities(&run(&lines), "secret-read-burst").len();
    assert_eq!(bursts(pods.clone().chain(reads(40)).collect()), 0);
    assert_eq!(bursts(pods.chain(reads(41)).collect()), 1);
    assert_eq!(bursts(reads(20).collect()), 1, "no pod was seen");
}

#[test]
fn failed_logins_are_worse_when_one_then_succeeds() {
    let failed = |second: u32| {
        event(
            second,
            json!({
                "stage": "ResponseStarted", "verb": "list", "user": {}, "annotations": null, "responseStatus": {"code": 401}
            }),
        )
    };
    let success = |second: u32, ip: &str| {
        event(second, json!({"verb": "list", "objectRef": {"resource": "pods"}, "sourceIPs": [ip]}))
    };
    let burst = |last: String| {
        let lines: Vec<_> = (0..20).map(failed).chain([last]).collect();
        severities(&run(&lines), "authn-failure-burst")
    };
    assert_eq!(burst(success(60, "10.0.0.9")), [Severity::High]);
    assert_eq!(burst(success(60, "10.0.0.8")), [Severity::Medium], "somebody else");
    assert_eq!(burst(success(700, "10.0.0.9")), [Severity::Medium], "too late");
}

#[test]
fn a_workload_after_an_rbac_change_counts_when_that_was_bad_itself() {
    let object = json!({"resource": "clusterrolebindings", "apiGroup": "rbac.authorization.k8s.io", "name": "x"});
    let after = |role: &str| {
        let body =
            json!({"roleRef": {"kind": "ClusterRole", "name": role}, "subjects": [{"kind": "User", "name": "eve"}]});
        let lines = [
            event(1, json!({"objectRef": object, "requestObject": body})),
            deployment(9, "create", "web:1"),
            deployment(19, "patch", "web:2"),
        ];
        severities(&run(&lines), "rbac-change-then-workload")
    };
    assert_eq!(after("cluster-admin"), [Severity::Medium]);
    assert_eq!(after("view"), [Severity::Low], "as every chart does");
}

#[test]
fn pods_refused_in_one_namespace_and_tried_in_another_are_worse() {
    let refused = |second: u32, ns: &str| {
        event(
            second,
            json!({
                "objectRef": {"resource": "pods", "namespace": ns, "name": "x"},
                "responseStatus": {"code": 403, "message": "pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\""}
            }),
        )
    };
    assert_eq!(severities(&run(&[refused(1, "a"), refused(9, "b")]), "pss-denied"), [Severity::Low, Severity::Medium]);
    assert_eq!(severities(&run(&[refused(1, "a"), refused(700, "b")]), "pss-denied"), [Severity::Low, Severity::Low]);
}

#[test]
fn a_request_for_an_administrators_certificate_is_critical() {
    let csr = |groups: &str| {
        let key = rcgen::KeyPair::generate().expect("key");
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "eve");
        params.distinguished_name.push(rcgen::DnType::OrganizationName, groups);
        let pem = params.serialize_request(&key).expect("csr").pem().expect("pem");
        let request = base64::prelude::BASE64_STANDARD.encode(pem);
        json!({
            "objectRef": {"resource": "certificatesigningrequests", "apiGroup": "certificates.k8s.io", "name": "x"},
            "requestObject": {"spec": {"signerName": "kubernetes.io/kube-apiserver-client", "request": request}}
        })
    };
    assert_eq!(severity("csr-created-client-cert", csr("system:masters")), Some(Severity::Critical));
    assert_eq!(severity("csr-created-client-cert", csr("developers")), Some(Severity::Medium));
}

#[test]
fn wildcards_are_judged_by_how_far_they_reach() {
    let role = |resource: &str, groups: &str, verbs: &str, resources: &str| {
        severity(
            "role-wildcard",
            json!({
                "objectRef": {"resource": resource, "apiGroup": "rbac.authorization.k8s.io", "namespace": "shop", "name": "x"},
                "requestObject": {"rules": [{"apiGroups": [groups], "verbs": [verbs], "resources": [resources]}]}
            }),
        )
    };
    assert_eq!(role("clusterroles", "*", "*", "*"), Some(Severity::Critical));
    assert_eq!(role("clusterroles", "", "*", "pods"), Some(Severity::High));
    assert_eq!(role("clusterroles", "shop.example.com", "*", "*"), Some(Severity::Medium));
    assert_eq!(role("clusterroles", "rbac.authorization.k8s.io", "*", "*"), Some(Severity::High));
    assert_eq!(role("roles", "*", "*", "*"), Some(Severity::Medium), "one namespace");
    assert_eq!(role("roles", "", "get", "pods"), None);
}

#[test]
fn patches_of_every_kind_are_judged_by_what_they_touch() {
    let node = |patch: Value| {
        severity(
            "node-deleted-or-tampered",
            json!({
                "verb": "patch", "objectRef": {"resource": "nodes", "name": "edge-1"}, "requestObject": patch
            }),
        )
    };
    assert_eq!(node(json!({"spec": {"unschedulable": true}})), Some(Severity::Medium));
    assert_eq!(node(json!({"spec": {"taints": []}})), Some(Severity::High));
    assert_eq!(node(json!({"metadata": {"labels": {"node-role.kubernetes.io/master": "true"}}})), Some(Severity::High));
    let label = "/metadata/labels/node-role.kubernetes.io~1master";
    assert_eq!(node(json!([{"op": "remove", "path": label}])), Some(Severity::High));

    let policy = |patch: Value| {
        severity(
            "networkpolicy-removed",
            json!({
                "verb": "patch", "requestObject": patch,
                "objectRef": {"resource": "networkpolicies", "apiGroup": "networking.k8s.io", "namespace": "shop", "name": "x"}
            }),
        )
    };
    assert_eq!(policy(json!({"spec": {"ingress": [{}]}})), Some(Severity::High));
    assert_eq!(policy(json!([{"op": "add", "path": "/spec/ingress/-", "value": {}}])), Some(Severity::High));
    assert_eq!(policy(json!([{"op": "replace", "path": "/spec", "value": {"egress": [{}]}}])), Some(Severity::High));
    assert_eq!(policy(json!([{"op": "add", "path": "/spec/ingress/-", "value": {"from": []}}])), None);
}

#[test]
fn special_cases_have_their_own_severity() {
    let webhook = |webhooks: Value| {
        severity(
            "admission-webhook-changed",
            json!({
                "requestObject": {"webhooks": webhooks},
                "objectRef": {"resource": "validatingwebhookconfigurations", "apiGroup": "admissionregistration.k8s.io", "name": "x"}
            }),
        )
    };
    assert_eq!(webhook(json!([{"failurePolicy": "Ignore"}])), Some(Severity::Critical));
    assert_eq!(webhook(json!([{"clientConfig": {"url": "https://evil.example"}}])), Some(Severity::Critical));
    assert_eq!(webhook(json!([{"failurePolicy": "Fail"}])), Some(Severity::High));

    let truncated = |resource: &str| {
        severity(
            "audit-event-truncated",
            json!({
                "objectRef": {"resource": resource, "namespace": "shop", "name": "x"}, "annotations": {"audit.k8s.io/truncated": "true"}
            }),
        )
    };
    assert_eq!((truncated("pods"), truncated("configmaps")), (Some(Severity::Medium), Some(Severity::Low)));

    let binding = |kind: &str, subject: Value| {
        severity(
            "binding-to-broad-group",
            json!({
                "objectRef": {"resource": "rolebindings", "apiGroup": "rbac.authorization.k8s.io", "namespace": "shop", "name": "x"},
                "requestObject": {"roleRef": {"kind": kind, "name": "reader"}, "subjects": [subject]}
            }),
        )
    };
    let default = json!({"kind": "ServiceAccount", "name": "default"});
    assert_eq!(binding("Role", default.clone()), Some(Severity::High));
    assert_eq!(binding("ClusterRole", default), Some(Severity::Critical));
    assert_eq!(binding("Role", json!({"kind": "Group", "name": "system:authenticated"})), Some(Severity::Critical));

    let admin = |ip: &str| {
        let user = json!({"username": "system:admin", "groups": ["system:masters"]});
        severity(
            "system-masters-used",
            json!({"verb": "get", "user": user, "sourceIPs": [ip], "objectRef": {"resource": "secrets", "namespace": "d", "name": "x"}}),
        )
    };
    assert_eq!((admin("127.0.0.1"), admin("10.0.0.9")), (Some(Severity::Low), Some(Severity::Medium)));
}

#[test]
fn the_sites_networks_say_what_is_outside() {
    let used = |networks: &[&str], ip: &str| {
        let site = Site { cluster_networks: networks.iter().map(|&n| n.to_owned()).collect(), ..Site::default() };
        let line =
            event(1, json!({"verb": "get", "user": {"username": "system:serviceaccount:shop:web"}, "sourceIPs": [ip]}));
        severities(&run_with(site, &[line]), "sa-token-used-outside-cluster").len()
    };
    assert_eq!((used(&[], "10.9.0.1"), used(&[], "203.0.113.9")), (0, 1));
    let networks = ["10.42.0.0/16", "203.0.113.0/28"];
    assert_eq!((used(&networks, "10.42.1.7"), used(&networks, "203.0.113.9"), used(&networks, "127.0.0.1")), (0, 0, 0));
    assert_eq!(used(&networks, "10.9.0.1"), 1);
}

#[test]
fn a_chart_from_elsewhere_is_critical_where_the_site_lists_its_registries() {
    let site = Site { allowed_registries: vec!["registry.example/".into()], ..Site::default() };
    let chart = |spec: Value| {
        let line = event(
            1,
            json!({
                "requestObject": {"spec": spec},
                "objectRef": {"resource": "helmcharts", "apiGroup": "helm.cattle.io", "namespace": "shop", "name": "x"}
            }),
        );
        severities(&run_with(site.clone(), &[line]), "k3s-helmchart-changed")
    };
    assert_eq!(chart(json!({"repo": "https://evil.example/charts", "chart": "x"})), [Severity::Critical]);
    assert_eq!(chart(json!({"jobImage": "evil/klipper"})), [Severity::Critical]);
    assert_eq!(chart(json!({"chart": "oci://registry.example/x"})), [Severity::High]);
}

#[test]
fn a_kubelets_token_for_a_controllers_account_shows_a_pod_that_runs_as_one() {
    let token = |name: &str| {
        severity(
            "pod-uses-controller-sa",
            json!({
                "user": {"username": "system:node:edge-1", "groups": ["system:nodes"]}, "userAgent": "k3s/v1.36.2",
                "objectRef": {"resource": "serviceaccounts", "subresource": "token", "namespace": "kube-system", "name": name}
            }),
        )
    };
    assert_eq!((token("deployment-controller"), token("coredns")), (Some(Severity::High), None));
}

#[test]
fn a_kubelet_that_asks_for_what_a_deleted_pod_mounted_is_refused_at_low() {
    let refused = |second: u32| {
        event(
            second,
            json!({
                "verb": "get", "user": {"username": "system:node:edge-1"}, "userAgent": "k3s/v1.36.2",
                "objectRef": {"resource": "secrets", "namespace": "shop", "name": "x"}, "annotations": {"authorization.k8s.io/decision": "forbid"},
                "responseStatus": {"code": 403, "message": "no relationship found between node 'edge-1' and this object"}
            }),
        )
    };
    let deleted =
        event(1, json!({"verb": "delete", "objectRef": {"resource": "pods", "namespace": "shop", "name": "x"}}));
    assert_eq!(severities(&run(&[deleted.clone(), refused(9)]), "secret-access-denied"), [Severity::Low]);
    assert_eq!(severities(&run(&[deleted, refused(90)]), "secret-access-denied"), [Severity::Medium]);
}
