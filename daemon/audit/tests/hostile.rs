//! Whatever a log holds, nothing panics and nothing grows without bound.

use picket_audit::{Detector, Event, Position, Settings, builtin, each_event};
use proptest::prelude::*;
use std::cell::RefCell;

thread_local! {
    static DETECTOR: RefCell<Detector> =
        RefCell::new(Detector::new(builtin().expect("rules"), Settings { max_windows: 64, ..Settings::default() }));
}

fn feed(line: &[u8]) {
    DETECTOR.with_borrow_mut(|detector| {
        let mut out = Vec::new();
        each_event(line, |event| {
            if let Ok(event) = event {
                detector.observe(&event, Position { file: "audit.log", line: 1 }, &mut out);
                detector.matching(&event);
            }
        });
        assert!(detector.remembered() <= 64);
    });
}

fn value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        "\\PC{0,12}".prop_map(Into::into),
        prop_oneof![Just("secrets"), Just("pods"), Just("create"), Just("ResponseComplete"), Just("system:node:x")]
            .prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::hash_map(
                prop_oneof![
                    Just("metadata"),
                    Just("spec"),
                    Just("name"),
                    Just("labels"),
                    Just("template"),
                    Just("containers"),
                    Just("rules"),
                    Just("verbs"),
                    Just("resources"),
                    Just("subjects"),
                    Just("data"),
                    Just("path"),
                ]
                .prop_map(str::to_owned),
                inner,
                0..6
            )
            .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

/// A path of a JSON patch.
fn pointer() -> impl Strategy<Value = String> {
    let step = prop_oneof![
        Just("spec"),
        Just("containers"),
        Just("metadata"),
        Just("labels"),
        Just("data"),
        Just("-"),
        Just("0"),
        Just("1"),
        Just("-1"),
        Just("99999999999999999999"),
        Just("a~1b~0"),
        Just(""),
    ];
    prop::collection::vec(step, 0..6).prop_map(|steps| steps.iter().flat_map(|step| ["/", step]).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        feed(&bytes);
    }

    #[test]
    fn arbitrary_bodies_never_panic(
        body in value(),
        response in value(),
        resource in prop_oneof![Just("pods"), Just("roles"), Just("clusterrolebindings"), Just("namespaces"), Just("configmaps"), Just("cronjobs"), Just("networkpolicies"), Just("secrets"), Just("persistentvolumes")],
        verb in prop_oneof![Just("create"), Just("patch"), Just("delete"), Just("update")],
        uri in "/[a-z?%&=+0-9]{0,40}",
        time in prop_oneof![Just("2026-01-01T00:00:00Z".to_owned()), "\\PC{0,24}"],
    ) {
        let line = serde_json::json!({
            "kind": "Event", "stage": "ResponseComplete", "verb": verb, "requestURI": uri, "level": "RequestResponse",
            "user": {"username": "x"}, "objectRef": {"resource": resource, "namespace": "kube-system"},
            "responseStatus": {"code": 201}, "requestObject": body, "responseObject": response, "stageTimestamp": time
        });
        feed(line.to_string().as_bytes());
    }

    #[test]
    fn arbitrary_patches_never_panic(
        operations in prop::collection::vec(
            (
                prop_oneof![Just("add"), Just("replace"), Just("remove"), Just("move"), Just("copy"), Just("test"), Just("x")],
                pointer(),
                pointer(),
                value(),
            ),
            0..24,
        ),
        resource in prop_oneof![Just("pods"), Just("clusterroles"), Just("namespaces"), Just("configmaps"), Just("nodes"), Just("networkpolicies")],
    ) {
        let operations: Vec<_> = operations
            .into_iter()
            .map(|(op, path, from, value)| serde_json::json!({"op": op, "path": path, "from": from, "value": value}))
            .collect();
        let line = serde_json::json!({
            "kind": "Event", "stage": "ResponseComplete", "verb": "patch", "level": "Request", "user": {"username": "x"},
            "objectRef": {"resource": resource, "namespace": "shop", "name": "x"}, "responseStatus": {"code": 200},
            "requestObject": operations
        });
        feed(line.to_string().as_bytes());
    }

    #[test]
    fn arbitrary_fields_never_panic(fields in prop::collection::hash_map(
        prop_oneof![Just("kind"), Just("stage"), Just("verb"), Just("user"), Just("objectRef"), Just("annotations"), Just("sourceIPs"), Just("responseStatus"), Just("requestObject")],
        value(), 0..8)) {
        feed(serde_json::to_string(&fields).expect("json").as_bytes());
    }

    #[test]
    fn a_cut_event_is_never_an_event(cut in 1usize..300) {
        let line = br#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"x","stage":"ResponseComplete","requestURI":"/api/v1/namespaces/a","verb":"delete","user":{"username":"bob"},"objectRef":{"resource":"namespaces","name":"a"},"responseStatus":{"code":200},"stageTimestamp":"2026-01-01T00:00:00.000000Z"}"#;
        prop_assert!(Event::parse(&line[..cut.min(line.len() - 1)]).is_err());
    }
}
