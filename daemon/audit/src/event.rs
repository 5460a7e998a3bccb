//! One audit event, borrowed from the line it stands on.
//!
//! Strings borrow from the line unless they hold escapes. Bodies stay raw JSON text until a rule asks for them.
//! What the Kubernetes API server writes is `audit.k8s.io/v1`; `v1beta1` has the same fields (plus `timestamp`),
//! and fields may be missing in hand-made or derived logs.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::decode::mended_line;

/// Longest line that is read, in bytes. A longer one is skipped to its newline and counted by the reader.
/// lumberjack itself refuses lines longer than `audit-log-maxsize`, 100 MB by default.
pub const MAX_LINE: usize = 16 * 1024 * 1024;

/// A string of the event, borrowed from the line unless it holds escapes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// A list of names and values in the order of the log (annotations, `user.extra`).
#[derive(Debug, Clone)]
pub struct Pairs<'a, V>(Vec<(Text<'a>, V)>);

impl<V> Default for Pairs<'_, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'a, V> Pairs<'a, V> {
    /// The value under `key`.
    pub fn get(&self, key: &str) -> Option<&V> {
        self.0.iter().find(|(name, _)| &**name == key).map(|(_, value)| value)
    }

    /// Names and values in the order of the log.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &V)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }
}

impl<'de: 'a, 'a, V: Deserialize<'de> + Default> Deserialize<'de> for Pairs<'a, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect<'a, V>(PhantomData<(&'a (), V)>);
        impl<'de: 'a, 'a, V: Deserialize<'de> + Default> Visitor<'de> for Collect<'a, V> {
            type Value = Pairs<'a, V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                // An API server writes a handful; the limit keeps a hostile line from costing more than its bytes.
                const LIMIT: usize = 1024;
                let mut pairs = Vec::new();
                while let Some(name) = map.next_key::<Text<'a>>()? {
                    if pairs.len() < LIMIT {
                        // Go writes a list that was never made as null.
                        pairs.push((name, map.next_value::<Option<V>>()?.unwrap_or_default()));
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Collect(PhantomData))
    }
}

/// Who asked: the authenticated user, or the identity taken on by impersonation.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct User<'a> {
    /// User name; absent for a failed authentication (`"user":{}`).
    #[serde(borrow)]
    pub username: Option<Text<'a>>,
    /// Unique id of the user.
    #[serde(borrow)]
    pub uid: Option<Text<'a>>,
    /// Groups.
    #[serde(borrow)]
    pub groups: Option<Vec<Text<'a>>>,
    /// What the authenticator adds, such as `authentication.kubernetes.io/pod-uid`.
    #[serde(borrow)]
    pub extra: Option<Pairs<'a, Vec<Text<'a>>>>,
}

/// What the request was about.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ObjectReference<'a> {
    /// Resource, plural.
    #[serde(borrow)]
    pub resource: Option<Text<'a>>,
    /// Namespace.
    #[serde(borrow)]
    pub namespace: Option<Text<'a>>,
    /// Name; also of a list or watch with `fieldSelector=metadata.name=…`.
    #[serde(borrow)]
    pub name: Option<Text<'a>>,
    /// API group; absent for core.
    #[serde(borrow)]
    pub api_group: Option<Text<'a>>,
    /// API version.
    #[serde(borrow)]
    pub api_version: Option<Text<'a>>,
    /// Sub-resource.
    #[serde(borrow)]
    pub subresource: Option<Text<'a>>,
}

/// How the request ended.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ResponseStatus<'a> {
    /// HTTP status code.
    pub code: Option<i64>,
    /// `Success` or `Failure`.
    #[serde(borrow)]
    pub status: Option<Text<'a>>,
    /// Machine-readable reason.
    #[serde(borrow)]
    pub reason: Option<Text<'a>>,
    /// Text for people.
    #[serde(borrow)]
    pub message: Option<Text<'a>>,
}

/// An audit event (`audit.k8s.io/v1`).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Event<'a> {
    /// Always `Event` in a K3s log; absent in some derived logs.
    #[serde(borrow)]
    pub kind: Option<Text<'a>>,
    /// `audit.k8s.io/v1`.
    #[serde(borrow)]
    pub api_version: Option<Text<'a>>,
    /// `Metadata`, `Request` or `RequestResponse`.
    #[serde(borrow)]
    pub level: Option<Text<'a>>,
    /// Comes verbatim from a client's header: never a key on its own (E4).
    #[serde(borrow, rename = "auditID")]
    pub audit_id: Option<Text<'a>>,
    /// `RequestReceived`, `ResponseStarted`, `ResponseComplete` or `Panic`.
    #[serde(borrow)]
    pub stage: Option<Text<'a>>,
    /// Path and query.
    #[serde(borrow, rename = "requestURI")]
    pub request_uri: Option<Text<'a>>,
    /// Kubernetes verb, or the HTTP method in lower case.
    #[serde(borrow)]
    pub verb: Option<Text<'a>>,
    /// The authenticated user.
    #[serde(borrow)]
    pub user: Option<User<'a>>,
    /// The identity taken on.
    #[serde(borrow)]
    pub impersonated_user: Option<User<'a>>,
    /// Forwarded addresses first, the connection's own last.
    #[serde(borrow, rename = "sourceIPs")]
    pub source_ips: Option<Vec<Text<'a>>>,
    /// Chosen by the client (E5).
    #[serde(borrow)]
    pub user_agent: Option<Text<'a>>,
    /// What the request was about.
    #[serde(borrow)]
    pub object_ref: Option<ObjectReference<'a>>,
    /// How it ended.
    #[serde(borrow)]
    pub response_status: Option<ResponseStatus<'a>>,
    /// Body of the request, not decoded.
    #[serde(borrow)]
    pub request_object: Option<&'a RawValue>,
    /// Body of the response, not decoded.
    #[serde(borrow)]
    pub response_object: Option<&'a RawValue>,
    /// When the API server got the request.
    #[serde(borrow)]
    pub request_received_timestamp: Option<Text<'a>>,
    /// When this stage was reached.
    #[serde(borrow)]
    pub stage_timestamp: Option<Text<'a>>,
    /// `v1beta1`'s time.
    #[serde(borrow)]
    pub timestamp: Option<Text<'a>>,
    /// What admission, authorisation and others noted.
    #[serde(borrow)]
    pub annotations: Option<Pairs<'a, Text<'a>>>,
}

/// Why a line, or a part of it, is no audit event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// Not JSON, or JSON of another shape.
    #[error("not an audit event: {0}")]
    Malformed(String),
    /// JSON, but of another kind: a wrapper of a log shipper, another program's log.
    #[error("kind {0:?} is not an audit event")]
    Foreign(String),
    /// Longer than [`MAX_LINE`].
    #[error("line of {0} bytes is longer than the limit of {MAX_LINE}")]
    TooLong(usize),
}

impl LineError {
    fn is_list(&self) -> bool {
        matches!(self, Self::Foreign(kind) if kind == "EventList")
    }
}

impl<'a> Event<'a> {
    /// The one event on this line.
    ///
    /// # Errors
    /// [`LineError`] when the line is something else.
    pub fn parse(line: &'a [u8]) -> Result<Self, LineError> {
        if line.len() > MAX_LINE {
            return Err(LineError::TooLong(line.len()));
        }
        let event: Self = serde_json::from_slice(line).map_err(|error| malformed(&error))?;
        event.recognised()
    }

    /// When this stage was reached, in microseconds since 1970.
    pub(crate) fn micros(&self) -> Option<i64> {
        match &self.stage_timestamp {
            Some(text) => plain_micros(text.as_bytes()).or_else(|| self.time().map(jiff::Timestamp::as_microsecond)),
            None => self.time().map(jiff::Timestamp::as_microsecond),
        }
    }

    /// When the request arrived, in microseconds since 1970.
    pub(crate) fn received_micros(&self) -> Option<i64> {
        let text = self.request_received_timestamp.as_deref()?;
        plain_micros(text.as_bytes())
            .or_else(|| text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_microsecond))
    }

    /// When this stage was reached.
    pub fn time(&self) -> Option<jiff::Timestamp> {
        [&self.stage_timestamp, &self.timestamp, &self.request_received_timestamp]
            .into_iter()
            .flatten()
            .find_map(|text| text.parse().ok())
    }

    fn recognised(self) -> Result<Self, LineError> {
        match &self.kind {
            Some(kind)
                if &**kind == "Event"
                    && self.api_version.as_deref().is_none_or(|version| version.starts_with("audit.k8s.io/")) =>
            {
                Ok(self)
            }
            None if self.verb.is_some() || self.stage.is_some() => Ok(self),
            kind => {
                // Only what looks like a kind: a foreign line may hold anything anywhere.
                let kind =
                    kind.as_deref().filter(|kind| kind.len() <= 64 && kind.bytes().all(|b| b.is_ascii_alphabetic()));
                Err(LineError::Foreign(kind.unwrap_or("").to_owned()))
            }
        }
    }
}

/// The one form an API server writes: `2026-01-01T00:00:00.000000Z`. Anything else goes the long way.
fn plain_micros(text: &[u8]) -> Option<i64> {
    let [
        y1,
        y2,
        y3,
        y4,
        b'-',
        m1,
        m2,
        b'-',
        d1,
        d2,
        b'T',
        h1,
        h2,
        b':',
        n1,
        n2,
        b':',
        s1,
        s2,
        b'.',
        fraction @ ..,
        b'Z',
    ] = text
    else {
        return None;
    };
    let number = |digits: &[u8]| {
        digits.iter().try_fold(0_i64, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + i64::from(digit - b'0')))
    };
    if fraction.len() != 6 {
        return None;
    }
    let (year, month, day) = (number(&[*y1, *y2, *y3, *y4])?, number(&[*m1, *m2])?, number(&[*d1, *d2])?);
    let (hour, minute, second) = (number(&[*h1, *h2])?, number(&[*n1, *n2])?, number(&[*s1, *s2])?);
    // Odd dates are judged by the real parser.
    if !(1970..=9000).contains(&year) || !(1..=12).contains(&month) || !(1..=28).contains(&day) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    // Days since 1970 of the proleptic Gregorian calendar, with years that begin in March.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719_468;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000 + number(fraction)?)
}

/// The error's text without any of the line's own, which may hold secrets.
fn malformed(error: &serde_json::Error) -> LineError {
    let what = match error.classify() {
        serde_json::error::Category::Syntax => "invalid JSON",
        serde_json::error::Category::Eof => "JSON ends early",
        serde_json::error::Category::Data => "a field has another type than audit.k8s.io/v1 says",
        serde_json::error::Category::Io => "read error",
    };
    LineError::Malformed(format!("{what} at byte {}", error.column()))
}

/// Every event on a line. Ordinarily one; after a crash of the API server the next start's event may follow a cut
/// one without a newline, and copytruncate leaves a run of NUL bytes in front.
pub fn each_event(line: &[u8], mut see: impl FnMut(Result<Event<'_>, LineError>)) {
    let line = trim(line);
    if line.is_empty() {
        return;
    }
    let first = Event::parse(line);
    match &first {
        Err(LineError::Malformed(_)) => {}
        Err(error) if error.is_list() => {}
        _ => return see(first),
    }
    match mended_line(line) {
        Some(mended) => each_of_odd(&mended, &mut see),
        None => each_of_odd(line, &mut see),
    }
}

/// Whether these bytes are a whole event, or several.
pub(crate) fn is_whole(line: &[u8]) -> bool {
    let line = trim(line);
    Event::parse(line).is_ok() || mended_line(line).is_some_and(|mended| Event::parse(&mended).is_ok())
}

/// Every event on a line that is not one event.
fn each_of_odd(line: &[u8], see: &mut impl FnMut(Result<Event<'_>, LineError>)) {
    let mut rest = line;
    loop {
        let mut stream = serde_json::Deserializer::from_slice(rest).into_iter::<Event<'_>>();
        let skip = match stream.next() {
            None => return,
            Some(Ok(event)) => {
                let end = stream.byte_offset();
                match event.recognised() {
                    Err(error) if error.is_list() => each_of_list(rest.get(..end).unwrap_or_default(), see),
                    event => see(event),
                }
                end
            }
            Some(Err(error)) => {
                see(Err(malformed(&error)));
                // A cut event, then perhaps a whole one.
                let Some(next) = rest
                    .get(1..)
                    .and_then(|tail| memchr::memmem::find(tail, br#"{"kind":"Event","apiVersion":"audit.k8s.io/"#))
                else {
                    return;
                };
                next + 1
            }
        };
        rest = trim(rest.get(skip.max(1)..).unwrap_or_default());
        if rest.is_empty() {
            return;
        }
    }
}

/// What the API server sends to a webhook, kept by somebody: many events in one object. An item that is no event does
/// not take the others with it.
fn each_of_list(list: &[u8], see: &mut impl FnMut(Result<Event<'_>, LineError>)) {
    struct Items<'s, F>(&'s mut F);
    impl<'de, F: FnMut(Result<Event<'_>, LineError>)> Visitor<'de> for Items<'_, F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of events")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
            while let Some(name) = list.next_key::<Text<'de>>()? {
                match &*name {
                    "items" => list.next_value_seed(Items(&mut *self.0))?,
                    _ => drop(list.next_value::<IgnoredAny>()?),
                }
            }
            Ok(())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
            // An item of a list need not repeat its kind.
            while let Some(item) = items.next_element::<&RawValue>()? {
                (self.0)(Event::parse(item.get().as_bytes()));
            }
            Ok(())
        }

        fn visit_unit<E>(self) -> Result<(), E> {
            Ok(())
        }
    }
    impl<'de, F: FnMut(Result<Event<'_>, LineError>)> DeserializeSeed<'de> for Items<'_, F> {
        type Value = ();

        fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
            deserializer.deserialize_any(self)
        }
    }
    let read = Items(&mut *see).deserialize(&mut serde_json::Deserializer::from_slice(list));
    if let Err(error) = read {
        see(Err(malformed(&error)));
    }
}

fn trim(mut line: &[u8]) -> &[u8] {
    while let [0 | b' ' | b'\t' | b'\r' | b'\n', rest @ ..] = line {
        line = rest;
    }
    while let [rest @ .., b' ' | b'\t' | b'\r' | b'\n' | 0] = line {
        line = rest;
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_way_to_a_time_gives_what_the_long_way_gives() {
        for day in (0..60_000).step_by(13) {
            let micros = (day * 86_400 + 3_723) * 1_000_000 + 4_005;
            let time = jiff::Timestamp::from_microsecond(micros).expect("in range");
            let text = format!("{time:.6}");
            assert!(plain_micros(text.as_bytes()).is_none_or(|got| got == micros), "{text}");
        }
        assert_eq!(plain_micros(b"2026-11-22T01:05:15.885321Z"), Some(1_795_309_515_885_321));
        assert_eq!(plain_micros(b"2026-11-22T01:05:15Z"), None);
    }
}
