//! Running totals over the entries of an audit log, for the controls that look at them. Bodies are never kept.

use std::borrow::Cow;
use std::net::IpAddr;

use picket_model::Evidence;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// Counts over the entries of an audit log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditEntries {
    /// Entries counted.
    pub total: u64,
    /// Lines that are no audit event.
    pub malformed: u64,
    /// Entries on Secrets or service-account tokens that hold a request or response body.
    pub secret_bodies: Counted,
    /// Entries by a member of `system:masters` that came neither from loopback nor from a server's own address.
    pub foreign_masters: Counted,
    /// Such entries from an address that may be a server's: the addresses of the servers were not known.
    pub masters_elsewhere: u64,
    /// Request paths (no query) that `system:anonymous` was allowed, each once, at most [`AuditEntries::MAX_PATHS`].
    pub anonymous_allowed: Vec<String>,
}

/// A count with an example.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counted {
    /// How many.
    pub count: u64,
    /// Where the first one stands.
    pub first: Option<Evidence>,
}

impl Counted {
    fn add(&mut self, place: impl FnOnce() -> Evidence) {
        self.count += 1;
        if self.first.is_none() {
            self.first = Some(place());
        }
    }
}

/// What the controls look at in an event.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    #[serde(borrow, default)]
    user: User<'a>,
    #[serde(borrow, default, rename = "sourceIPs")]
    source_ips: Vec<Cow<'a, str>>,
    #[serde(borrow, default, rename = "requestURI")]
    request_uri: Cow<'a, str>,
    #[serde(borrow, default)]
    object_ref: Option<ObjectRef<'a>>,
    #[serde(default)]
    response_status: Option<ResponseStatus>,
    #[serde(default)]
    request_object: Option<IgnoredAny>,
    #[serde(default)]
    response_object: Option<IgnoredAny>,
    // Every event has one; a line without is something else.
    #[serde(rename = "auditID")]
    _audit_id: IgnoredAny,
}

#[derive(Deserialize, Default)]
struct User<'a> {
    #[serde(borrow, default)]
    username: Cow<'a, str>,
    #[serde(borrow, default)]
    groups: Vec<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct ObjectRef<'a> {
    #[serde(borrow, default)]
    resource: Cow<'a, str>,
    #[serde(borrow, default)]
    subresource: Cow<'a, str>,
}

#[derive(Deserialize)]
struct ResponseStatus {
    #[serde(default)]
    code: i32,
}

impl AuditEntries {
    /// Most paths that are kept.
    pub const MAX_PATHS: usize = 100;

    /// Counts one line. `path` and `line` (from 1) say where it stands; `servers` are the addresses of the cluster's
    /// servers, none where they are not known.
    pub fn add(&mut self, text: &[u8], path: &str, line: u32, servers: Option<&[IpAddr]>) {
        let Ok(event) = serde_json::from_slice::<Event<'_>>(text) else {
            self.malformed += 1;
            return;
        };
        self.total += 1;
        let place = |what: String| Evidence::at(path, what).line(line);

        let secret = event.object_ref.as_ref().is_some_and(|object| {
            object.resource == "secrets" || (object.resource == "serviceaccounts" && object.subresource == "token")
        });
        if secret && (event.request_object.is_some() || event.response_object.is_some()) {
            self.secret_bodies.add(|| place("an entry with a body (not shown)".to_owned()));
        }

        if event.user.groups.iter().any(|group| group == "system:masters") {
            // Only the last address is the connection's own; the others are headers anybody can write.
            match event.source_ips.last().and_then(|ip| ip.parse::<IpAddr>().ok()) {
                Some(ip) if ip.to_canonical().is_loopback() => {}
                Some(ip) if servers.is_some_and(|own| own.contains(&ip)) => {}
                Some(ip) if servers.is_some() => {
                    self.foreign_masters.add(|| place(format!("{} from {ip}", event.user.username)));
                }
                Some(_) => self.masters_elsewhere += 1,
                None => {}
            }
        }

        let allowed = event.response_status.as_ref().is_some_and(|status| (1..400).contains(&status.code));
        if event.user.username == "system:anonymous" && allowed {
            let uri = event.request_uri.split('?').next().unwrap_or_default();
            let known = self.anonymous_allowed.iter().any(|known| known == uri);
            if !known && self.anonymous_allowed.len() < Self::MAX_PATHS {
                self.anonymous_allowed.push(uri.chars().take(512).collect());
            }
        }
    }
}
