//! Running totals over the entries of an audit log, for the controls that look at them. Bodies are never kept.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use memchr::memmem;
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
    /// Why there are entries that were not counted: a file that cannot be read, a line that is too long, or simply more
    /// than was read so far. None: all were.
    pub unread: Option<String>,
    /// Entries on Secrets or service-account tokens that hold a request or response body.
    pub secret_bodies: Counted,
    /// Entries by a member of `system:masters` that is neither the API server nor the supervisor, by the address it came
    /// from; at most [`AuditEntries::MAX_ADDRESSES`]. Loopback is left out.
    pub masters: BTreeMap<IpAddr, Counted>,
    /// Such entries from still other addresses, or from none that can be read.
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

    fn merge(&mut self, other: &Self) {
        self.count += other.count;
        if self.first.is_none() {
            self.first.clone_from(&other.first);
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

/// An event without any of these words concerns none of the controls. The API server escapes no letters.
const WORDS: [&[u8]; 4] = [b"\"secrets\"", b"\"serviceaccounts\"", b"system:masters", b"system:anonymous"];
/// How the API server begins each event.
const EVENT: &[u8] = br#"{"kind":"Event","apiVersion":"audit.k8s.io/"#;
const MASTERS: &str = "system:masters";
/// Members of `system:masters` that are no person: the certificates of the API server and of the supervisor.
const COMPONENTS: [&str; 2] = ["system:apiserver", "system:k3s-supervisor"];

impl AuditEntries {
    /// Most paths that are kept.
    pub const MAX_PATHS: usize = 100;
    /// Most addresses that are kept.
    pub const MAX_ADDRESSES: usize = 100;

    /// Counts one line, which may hold several events. `path` and `line` (from 1) say where it stands.
    pub fn add(&mut self, text: &[u8], path: &str, line: u32) {
        let text = trim(text);
        if text.is_empty() {
            return;
        }
        if text.first() == Some(&b'{') && !WORDS.iter().any(|word| memmem::find(text, word).is_some()) {
            self.total += 1;
            return;
        }
        let mut rest = text;
        while !rest.is_empty() {
            let mut stream = serde_json::Deserializer::from_slice(rest).into_iter::<Event<'_>>();
            let skip = match stream.next() {
                None => return,
                Some(Ok(event)) => {
                    self.count(&event, path, line);
                    stream.byte_offset()
                }
                Some(Err(_)) => {
                    self.malformed += 1;
                    // A cut event or something else, then perhaps a whole one.
                    let next = rest.get(1..).and_then(|tail| memmem::find(tail, EVENT));
                    let Some(next) = next else { return };
                    next + 1
                }
            };
            rest = trim(rest.get(skip.max(1)..).unwrap_or_default());
        }
    }

    fn count(&mut self, event: &Event<'_>, path: &str, line: u32) {
        self.total += 1;
        let place = |what: String| Evidence::at(path, what).line(line);

        let secret = event.object_ref.as_ref().is_some_and(|object| {
            object.resource == "secrets" || (object.resource == "serviceaccounts" && object.subresource == "token")
        });
        if secret && (event.request_object.is_some() || event.response_object.is_some()) {
            self.secret_bodies.add(|| place("an entry with a body (not shown)".to_owned()));
        }

        let user = event.user.username.as_ref();
        if event.user.groups.iter().any(|group| group == MASTERS) && !COMPONENTS.contains(&user) {
            // Only the last address is the connection's own; the others are headers anybody can write.
            match event.source_ips.last().map(|ip| ip.parse::<IpAddr>()) {
                Some(Ok(ip)) => {
                    let ip = ip.to_canonical();
                    let known = self.masters.len() < Self::MAX_ADDRESSES || self.masters.contains_key(&ip);
                    if ip.is_loopback() {
                        // A person on the server, or what runs there.
                    } else if known {
                        self.masters.entry(ip).or_default().add(|| place(format!("{} from {ip}", short(user))));
                    } else {
                        self.masters_elsewhere += 1;
                    }
                }
                Some(Err(_)) => self.masters_elsewhere += 1,
                None => {}
            }
        }

        let allowed = event.response_status.as_ref().is_some_and(|status| (1..400).contains(&status.code));
        if user == "system:anonymous" && allowed {
            let uri = event.request_uri.split('?').next().unwrap_or_default();
            self.allow(&short(uri));
        }
    }

    fn allow(&mut self, uri: &str) {
        if self.anonymous_allowed.iter().any(|known| known == uri) {
            return;
        }
        if self.anonymous_allowed.len() < Self::MAX_PATHS {
            self.anonymous_allowed.push(uri.to_owned());
        } else if self.unread.is_none() {
            self.unread = Some("anonymous requests were allowed on more paths than are kept".to_owned());
        }
    }

    /// Adds what was counted in another file.
    pub fn merge(&mut self, other: &Self) {
        self.total += other.total;
        self.malformed += other.malformed;
        if self.unread.is_none() {
            self.unread.clone_from(&other.unread);
        }
        self.secret_bodies.merge(&other.secret_bodies);
        for (ip, counted) in &other.masters {
            if self.masters.len() < Self::MAX_ADDRESSES || self.masters.contains_key(ip) {
                self.masters.entry(*ip).or_default().merge(counted);
            } else {
                self.masters_elsewhere += counted.count;
            }
        }
        self.masters_elsewhere += other.masters_elsewhere;
        for uri in &other.anonymous_allowed {
            self.allow(uri);
        }
    }
}

/// Without blanks at the begin, and the hole of zeros that is left where a log was cut while its writer went on.
fn trim(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|b| *b != 0 && !b.is_ascii_whitespace()).unwrap_or(text.len());
    text.get(start..).unwrap_or_default()
}

fn short(text: &str) -> String {
    text.chars().take(512).collect()
}
