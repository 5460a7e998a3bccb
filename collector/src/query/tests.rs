//! Questions of operators against a small fleet.

use std::collections::BTreeMap;

use jiff::Timestamp;
use picket_model::{
    ChainHash, Detection, Epoch, Event, EventBody, Finding, FindingState, Labels, NodeId, NodeInfo, ObjectRef, Seq,
    Severity,
};
use picket_proto::v1;
use picket_store::{Change, Delivery, Durability, MemoryStore, NodeRecord, Store};

use super::*;

fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 16])
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn record(n: u8) -> NodeRecord {
    let site = if n.is_multiple_of(2) { "berlin" } else { "paris" };
    NodeRecord {
        id: node(n),
        // Two nodes share a host name.
        hostname: if n >= 8 { "twin".to_owned() } else { format!("edge-{n}") },
        labels: Labels::from([("site".to_owned(), site.to_owned())]),
        enrolled_at: at(0),
        active: None,
        pending: None,
        past: vec![],
        revoked: None,
        last_seen: None,
        info: NodeInfo::default(),
        epoch: Some(Epoch::from_bytes([7; 16])),
        behind_events: 0,
        clock_offset_ms: 0,
    }
}

fn finding(control: &str, state: FindingState, severity: Severity, observed: usize) -> Finding {
    Finding {
        control: control.to_owned(),
        subject: "s".to_owned(),
        state,
        severity,
        title: String::new(),
        observed: "x".repeat(observed),
        expected: String::new(),
        config_state: None,
        evidence: vec![],
        remedy: String::new(),
        opened_at: at(0),
        changed_at: at(0),
        reopened: 0,
        stale: false,
    }
}

fn detection(rule: &str, severity: Severity) -> EventBody {
    let text = String::new;
    EventBody::Detection {
        detection: Detection {
            rule: rule.to_owned(),
            severity,
            title: text(),
            file: text(),
            line: 0,
            audit_id: text(),
            audit_ids: vec![],
            user: text(),
            impersonated: None,
            source: None,
            forgeable_sources: vec![],
            verb: text(),
            object: ObjectRef::default(),
            outcome: text(),
            code: None,
            time: at(0),
            last_time: at(0),
            count: 1,
            mitre: vec![],
        },
    }
}

/// Nine nodes; each has three findings open and one resolved, and two detections.
fn fleet() -> (MemoryStore, Directory) {
    let store = MemoryStore::in_memory();
    for n in 1..=9 {
        store.change(&[Change::insert(&record(n))], Durability::Soon).unwrap();
        let open = |control: &str, severity| EventBody::FindingOpened {
            finding: finding(control, FindingState::Open, severity, 10),
        };
        let gone = finding("token-age", FindingState::Resolved, Severity::High, 10);
        let bodies = [
            open("cert-expiry", Severity::Critical),
            open("sysctl-kptr", Severity::Low),
            open("file-mode", Severity::High),
            EventBody::FindingResolved { finding: gone },
            detection("secret-list", Severity::High),
            detection("exec-in-pod", Severity::Low),
        ];
        deliver(&store, n, 1, bodies);
    }
    let directory = Directory::read(&store, |_| v1::Presence::Away).unwrap();
    (store, directory)
}

fn deliver(store: &MemoryStore, n: u8, first: u64, bodies: impl IntoIterator<Item = EventBody>) {
    let epoch = Epoch::from_bytes([7; 16]);
    let events =
        (first..).zip(bodies).map(|(seq, body)| Event::new(epoch, Seq(seq), at(0), body, ChainHash::START)).collect();
    let delivery = Delivery { node: node(n), epoch, events, given_up_through: Seq::ZERO };
    store.commit(at(n.into()), vec![delivery]).unwrap().remove(0).unwrap();
}

fn filter(change: impl FnOnce(&mut v1::Filter)) -> Option<v1::Filter> {
    let mut filter = v1::Filter::default();
    change(&mut filter);
    Some(filter)
}

fn findings(
    store: &MemoryStore,
    directory: &Directory,
    filter: Option<v1::Filter>,
    size: u32,
) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut token = String::new();
    loop {
        let page = Some(v1::Page { size, token });
        let request = v1::ListFindingsRequest { filter: filter.clone(), page };
        let answer = list_findings(store, directory, request).unwrap();
        assert!(answer.findings.len() <= size as usize);
        all.extend(answer.findings.into_iter().map(|f| (f.hostname, f.finding.unwrap_or_default().control)));
        token = answer.next_page_token;
        if token.is_empty() {
            return all;
        }
    }
}

#[test]
fn findings_are_open_and_blind_ones_unless_asked_otherwise() {
    let (store, directory) = fleet();
    assert_eq!(findings(&store, &directory, None, 5).len(), 27);
    let resolved = filter(|f| f.states = vec![v1::FindingState::Resolved.into()]);
    let all = findings(&store, &directory, resolved, 4);
    assert_eq!(all.len(), 9);
    assert!(all.iter().all(|(_, control)| control == "token-age"));
}

#[test]
fn findings_are_filtered_by_label_severity_control_and_time() {
    let (store, directory) = fleet();
    let list = |f: Option<v1::Filter>| findings(&store, &directory, f, 100);
    assert_eq!(list(filter(|f| f.selector = "site=berlin".to_owned())).len(), 12);
    assert_eq!(list(filter(|f| f.selector = "site=rome".to_owned())), vec![]);
    assert_eq!(list(filter(|f| f.min_severity = v1::Severity::High.into())).len(), 18);
    let both = filter(|f| {
        f.nodes = vec!["edge-1".to_owned(), node(2).to_string(), "twin".to_owned()];
        f.controls = vec!["file-mode".to_owned()];
    });
    assert_eq!(
        list(both).iter().map(|(host, _)| host.as_str()).collect::<Vec<_>>(),
        ["edge-1", "edge-2", "twin", "twin"]
    );
    let named_and_selected = filter(|f| {
        f.nodes = vec!["edge-1".to_owned(), "edge-2".to_owned()];
        f.selector = "site=paris".to_owned();
    });
    assert_eq!(list(named_and_selected).len(), 3);
    assert_eq!(list(filter(|f| f.since_unix_ms = at(8).as_millisecond())).len(), 6);
}

#[test]
fn nodes_are_listed_by_name_with_what_is_open() {
    let (store, directory) = fleet();
    let mut seen = BTreeMap::new();
    let mut order = Vec::new();
    let mut token = String::new();
    loop {
        let page = Some(v1::Page { size: 2, token });
        let answer = list_nodes(&store, &directory, v1::ListNodesRequest { filter: None, page }).unwrap();
        for node in answer.nodes {
            let hostname = node.info.clone().unwrap_or_default().hostname;
            order.push(hostname);
            assert_eq!(node.last_seq, 6);
            assert_eq!(node.open_findings, [(2, 1), (4, 1), (5, 1)].into());
            assert_eq!(seen.insert(node.id, ()), None);
        }
        token = answer.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(order.len(), 9);
    assert!(order.is_sorted());
}

#[test]
fn events_are_listed_newest_first_and_detections_apart() {
    let (store, directory) = fleet();
    let mut request = v1::ListHistoryRequest { filter: None, page: Some(v1::Page { size: 50, token: String::new() }) };
    let first = list_history(&store, &directory, request.clone()).unwrap();
    assert_eq!((first.events.len(), first.events[0].hostname.as_str()), (50, "twin"));
    request.page = Some(v1::Page { size: 50, token: first.next_page_token });
    let second = list_history(&store, &directory, request).unwrap();
    assert_eq!((second.events.len(), second.next_page_token.as_str()), (4, ""));
    let request =
        v1::ListDetectionsRequest { filter: filter(|f| f.controls = vec!["secret-list".to_owned()]), page: None };
    assert_eq!(list_detections(&store, &directory, request.clone()).unwrap().detections.len(), 9);
    // Counted on: still the same detection.
    deliver(&store, 1, 7, [detection("secret-list", Severity::High)]);
    assert_eq!(list_detections(&store, &directory, request).unwrap().detections.len(), 9);
    let nothing = v1::ListHistoryRequest { filter: filter(|f| f.selector = "site=rome".to_owned()), page: None };
    assert_eq!(list_history(&store, &directory, nothing).unwrap(), v1::ListHistoryResponse::default());
}

#[test]
fn an_answer_stays_below_what_a_client_takes_and_goes_on_behind_it() {
    let (store, directory) = fleet();
    let large = (0..200).map(|c| EventBody::FindingOpened {
        finding: finding(&format!("large-{c:03}"), FindingState::Open, Severity::High, 16 * 1024),
    });
    deliver(&store, 1, 7, large);
    let request = v1::ListHistoryRequest { filter: None, page: Some(v1::Page { size: 1000, token: String::new() }) };
    let answer = list_history(&store, &directory, request).unwrap();
    assert!(prost::Message::encoded_len(&answer) < 1024 * 1024);
    assert!(!answer.next_page_token.is_empty());
    let mut all = findings(&store, &directory, filter(|f| f.nodes = vec!["edge-1".to_owned()]), 1000);
    assert_eq!(all.len(), 203);
    all.dedup();
    assert_eq!(all.len(), 203);
}

#[test]
fn wrong_questions_are_refused_with_the_field_that_is_wrong() {
    let (store, directory) = fleet();
    let ask = |filter: Option<v1::Filter>, token: &str| {
        let page = Some(v1::Page { size: 1, token: token.to_owned() });
        list_findings(&store, &directory, v1::ListFindingsRequest { filter, page }).map(|a| a.next_page_token)
    };
    let status = |filter, token: &str| tonic::Status::from(ask(filter, token).unwrap_err());
    let token = ask(None, "").unwrap();
    for (found, code, text) in [
        (
            status(filter(|f| f.selector = "a b".to_owned()), ""),
            tonic::Code::InvalidArgument,
            "field filter.selector: label selector, character 3",
        ),
        (
            status(filter(|f| f.min_severity = 9), ""),
            tonic::Code::InvalidArgument,
            "field filter.min_severity: unknown value 9",
        ),
        (
            status(filter(|f| f.states = vec![1, 9]), ""),
            tonic::Code::InvalidArgument,
            "field filter.states[1]: unknown value 9",
        ),
        (
            status(filter(|f| f.nodes = vec!["x".to_owned(); 257]), ""),
            tonic::Code::InvalidArgument,
            "field filter.nodes: 257 entries",
        ),
        (
            status(filter(|f| f.controls = vec![String::new()]), ""),
            tonic::Code::InvalidArgument,
            "field filter.controls[0]: must have 1 to 128 bytes",
        ),
        (status(filter(|f| f.nodes = vec!["edge-99".to_owned()]), ""), tonic::Code::NotFound, "\"edge-99\""),
        (status(filter(|f| f.since_unix_ms = 1), &token), tonic::Code::InvalidArgument, "made for another filter"),
        (status(None, "%%"), tonic::Code::InvalidArgument, "field page.token: it is none of this collector"),
        (status(None, "AQ"), tonic::Code::InvalidArgument, "too short"),
        (status(None, &"A".repeat(2000)), tonic::Code::InvalidArgument, "too long"),
    ] {
        assert_eq!(found.code(), code, "{}", found.message());
        assert!(found.message().contains(text), "{}", found.message());
    }
    // A token of one list does not work in another.
    let page = Some(v1::Page { size: 1, token });
    let error = list_history(&store, &directory, v1::ListHistoryRequest { filter: None, page }).unwrap_err();
    assert!(error.to_string().contains("belongs to another list"), "{error}");
}

#[test]
fn a_host_name_of_two_nodes_is_ambiguous_where_one_is_meant() {
    let (_, directory) = fleet();
    assert_eq!(directory.one("edge-3").unwrap().record.id, node(3));
    assert_eq!(directory.one(&node(9).to_string()).unwrap().record.id, node(9));
    assert!(matches!(directory.one("twin"), Err(QueryError::Ambiguous { ids, .. }) if ids == [node(8), node(9)]));
    assert!(matches!(directory.one("nobody"), Err(QueryError::UnknownNode { .. })));
}

#[test]
fn watching_hears_what_listing_would_show() {
    let (store, directory) = fleet();
    let query = picket_store::EventQuery { limit: 100, ..Default::default() };
    let events = store.events(&query).unwrap().events;
    for (wire, expected) in [
        (None, 54),
        (filter(|f| f.selector = "site=berlin".to_owned()), 24),
        (filter(|f| f.nodes = vec!["twin".to_owned()]), 12),
        (filter(|f| f.min_severity = v1::Severity::High.into()), 36),
        (filter(|f| f.states = vec![v1::FindingState::Resolved.into()]), 9),
        (filter(|f| f.controls = vec!["exec-in-pod".to_owned()]), 9),
        (filter(|f| f.since_unix_ms = at(9).as_millisecond()), 6),
    ] {
        let typed = Filter::from_wire(wire.clone()).unwrap();
        let heard = events.iter().filter(|event| typed.matches(event, &directory)).count();
        let page = Some(v1::Page { size: 1000, token: String::new() });
        let request = v1::ListHistoryRequest { filter: wire.clone(), page };
        let listed = list_history(&store, &directory, request).unwrap().events.len();
        assert_eq!((heard, listed), (expected, expected), "{wire:?}");
    }
}
