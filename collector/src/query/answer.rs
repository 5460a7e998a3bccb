//! The answers themselves.

use std::collections::HashMap;

use picket_model::{EventKind, NodeId, Severity};
use picket_proto::{convert, v1};
use picket_store::{EventQuery, FindingsAfter, Position, Scope, Store, StoreError, StoredEvent};
use prost::Message as _;

use super::page::List;
use super::{Directory, Filter, NodeView, Paging, QueryError};

/// How often the store is asked for one page. It looks at a bounded number of records each time; a page that is still
/// empty then goes out empty, with a token to go on.
const ROUNDS: usize = 8;
/// An answer is closed when it has so many bytes, half of what a message from a node may have. With one more entry, which
/// came in such a message, it stays far below the 4 MiB that gRPC clients take.
const ANSWER_BYTES: usize = picket_proto::limits::MESSAGE_BYTES / 2;

/// Nodes, by host name.
///
/// # Errors
/// [`QueryError`].
pub fn list_nodes(
    store: &dyn Store,
    directory: &Directory,
    request: v1::ListNodesRequest,
) -> Result<v1::ListNodesResponse, QueryError> {
    let paging = Paging::from_wire(List::Nodes, request.filter.as_ref(), request.page)?;
    let scope = Filter::from_wire(request.filter)?.scope(directory)?;
    let after = paging.place.as_deref().map(place_of_node).transpose()?;
    let mut answer = v1::ListNodesResponse::default();
    let mut last: Option<&NodeView> = None;
    for view in directory.by_name(after.as_ref()).filter(|view| scope.contains(view.record.id)) {
        if answer.nodes.len() >= paging.size {
            let place = last.map(|view| [view.record.id.as_bytes(), view.record.hostname.as_bytes()].concat());
            answer.next_page_token = paging.token(place.as_deref());
            break;
        }
        answer.nodes.push(node_to_wire(store, view)?);
        last = Some(view);
    }
    Ok(answer)
}

fn place_of_node(place: &[u8]) -> Result<(String, NodeId), QueryError> {
    const BAD: QueryError = QueryError::Token("it is none of this collector");
    let (id, name) = place.split_first_chunk::<16>().ok_or(BAD)?;
    Ok((String::from_utf8(name.to_vec()).map_err(|_| BAD)?, NodeId::from_bytes(*id)))
}

fn node_to_wire(store: &dyn Store, view: &NodeView) -> Result<v1::Node, StoreError> {
    let record = &view.record;
    let counts = store.counts(record.id)?;
    let last_seq = match record.epoch {
        Some(epoch) => store.cursor(record.id, epoch)?.map_or(0, |cursor| cursor.through.0),
        None => 0,
    };
    let open_findings = Severity::ALL
        .into_iter()
        .map(|severity| (convert::severity_to_wire(severity), counts.unresolved(severity)))
        .filter(|(_, count)| *count > 0)
        .collect();
    let mut info = convert::info_to_wire(&record.info);
    if info.hostname.is_empty() {
        info.hostname.clone_from(&record.hostname);
    }
    Ok(v1::Node {
        id: record.id.to_string(),
        info: Some(info),
        labels: record.labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect::<HashMap<_, _>>(),
        presence: view.presence.into(),
        enrolled_at_unix_ms: record.enrolled_at.as_millisecond(),
        last_seen_unix_ms: record.last_seen.map_or(0, jiff::Timestamp::as_millisecond),
        open_findings,
        epoch: record.epoch.map(|epoch| epoch.to_string()).unwrap_or_default(),
        last_seq,
        behind_events: record.behind_events,
        certificate_not_after_unix_ms: record.active.as_ref().map_or(0, |c| c.not_after.as_millisecond()),
        clock_offset_ms: record.clock_offset_ms,
    })
}

/// Findings as they are now, by node and control.
///
/// # Errors
/// [`QueryError`].
pub fn list_findings(
    store: &dyn Store,
    directory: &Directory,
    request: v1::ListFindingsRequest,
) -> Result<v1::ListFindingsResponse, QueryError> {
    let paging = Paging::from_wire(List::Findings, request.filter.as_ref(), request.page)?;
    let mut query = Filter::from_wire(request.filter)?.findings(directory, paging.size)?;
    query.after = paging.place.clone().map(FindingsAfter);
    let mut answer = v1::ListFindingsResponse::default();
    let mut bytes = 0;
    'page: for _ in 0..ROUNDS {
        query.limit = step(paging.size, answer.findings.len());
        let page = store.findings(&query)?;
        for found in page.findings {
            let wire = v1::NodeFinding {
                node_id: found.node.to_string(),
                hostname: directory.hostname(found.node).to_owned(),
                finding: Some(convert::finding_to_wire(&found.finding)),
                received_at_unix_ms: found.received.as_millisecond(),
            };
            bytes += wire.encoded_len();
            answer.findings.push(wire);
            query.after = Some(found.place);
            if bytes >= ANSWER_BYTES {
                break 'page;
            }
        }
        query.after = page.next;
        if query.after.is_none() || answer.findings.len() >= paging.size {
            break;
        }
    }
    answer.next_page_token = paging.token(query.after.as_ref().map(|after| after.0.as_slice()));
    Ok(answer)
}

/// Detections, newest first; each once, as it is known now, however often it was counted on.
///
/// # Errors
/// [`QueryError`].
pub fn list_detections(
    store: &dyn Store,
    directory: &Directory,
    request: v1::ListDetectionsRequest,
) -> Result<v1::ListDetectionsResponse, QueryError> {
    let paging = Paging::from_wire(List::Detections, request.filter.as_ref(), request.page)?;
    let mut query = Filter::from_wire(request.filter)?.events(directory, vec![EventKind::Detection], paging.size)?;
    query.latest = true;
    let (detections, next_page_token) = events(store, directory, &paging, query)?;
    Ok(v1::ListDetectionsResponse { detections, next_page_token })
}

/// All events, newest first.
///
/// # Errors
/// [`QueryError`].
pub fn list_history(
    store: &dyn Store,
    directory: &Directory,
    request: v1::ListHistoryRequest,
) -> Result<v1::ListHistoryResponse, QueryError> {
    let paging = Paging::from_wire(List::History, request.filter.as_ref(), request.page)?;
    let query = Filter::from_wire(request.filter)?.events(directory, Vec::new(), paging.size)?;
    let (events, next_page_token) = events(store, directory, &paging, query)?;
    Ok(v1::ListHistoryResponse { events, next_page_token })
}

fn events(
    store: &dyn Store,
    directory: &Directory,
    paging: &Paging,
    mut query: EventQuery,
) -> Result<(Vec<v1::NodeEvent>, String), QueryError> {
    if let Some(place) = &paging.place {
        let bytes = place.as_slice().try_into().map_err(|_| QueryError::Token("it is none of this collector"))?;
        query.before = Some(Position(u64::from_be_bytes(bytes)));
    }
    let (mut answer, mut bytes) = (Vec::new(), 0);
    if query.scope == Scope::Nodes(std::collections::BTreeSet::new()) {
        return Ok((answer, String::new()));
    }
    'page: for _ in 0..ROUNDS {
        query.limit = step(paging.size, answer.len());
        let page = store.events(&query)?;
        for stored in &page.events {
            let wire = event_to_wire(stored, directory);
            bytes += wire.encoded_len();
            answer.push(wire);
            query.before = Some(stored.position);
            if bytes >= ANSWER_BYTES {
                break 'page;
            }
        }
        query.before = page.next;
        if query.before.is_none() || answer.len() >= paging.size {
            break;
        }
    }
    let token = paging.token(query.before.map(|before| before.0.to_be_bytes()).as_ref().map(<[u8; 8]>::as_slice));
    Ok((answer, token))
}

/// How many entries to ask the store for: what is missing, in portions.
fn step(size: usize, have: usize) -> usize {
    size.saturating_sub(have).clamp(1, 256)
}

/// An event for an operator.
pub fn event_to_wire(stored: &StoredEvent, directory: &Directory) -> v1::NodeEvent {
    v1::NodeEvent {
        node_id: stored.node.to_string(),
        hostname: directory.hostname(stored.node).to_owned(),
        event: Some(convert::event_to_wire(&stored.event)),
        received_at_unix_ms: stored.received.as_millisecond(),
    }
}
