//! What a start of the API server looks like in its own log: requests by its loopback client that it makes only then.
//! While it runs the same client renews its lease and looks at `/openapi/v3` and its endpoints every ten seconds.

use crate::event::Event;

/// How long after a silence a start may show itself. Where arrivals are not logged the first answers are routine.
pub(super) const GRACE: i64 = 10 * super::MICROS;
/// How much shows a start.
pub(super) const ENOUGH: u32 = 3;

const RBAC: [&str; 4] = ["clusterroles", "clusterrolebindings", "roles", "rolebindings"];

/// How much this event speaks for a start after a silence that ended at `since`.
pub(super) fn shown(event: &Event<'_>, since: i64) -> u32 {
    let user = event.user.as_ref().and_then(|user| user.username.as_deref());
    // What began before the silence ended was asked of the server as it was before.
    if user != Some("system:apiserver")
        || event.impersonated_user.is_some()
        || event.received_micros().is_some_and(|received| received < since.saturating_sub(super::SLACK))
    {
        return 0;
    }
    let uri = event.request_uri.as_deref().unwrap_or("");
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    let verb = event.verb.as_deref().unwrap_or("");
    let resource = event.object_ref.as_ref().and_then(|object| object.resource.as_deref());
    match (verb, resource) {
        // Its caches fill: a watch that sends everything first, before 1.34 a list of whatever is cached. One alone may
        // be a cache that lost its place.
        ("watch", _) => u32::from(query.contains("sendInitialEvents=true")),
        ("list", _) if query.split('&').any(|part| part == "resourceVersion=0") => 1,
        // It looks whether the roles it ships are as they should be.
        (_, Some(resource)) if RBAC.contains(&resource) => ENOUGH,
        ("create", Some("leases")) => ENOUGH,
        // It waits for itself to become ready.
        ("get", None) if matches!(path, "/readyz" | "/healthz" | "/livez") => 1,
        _ => 0,
    }
}
