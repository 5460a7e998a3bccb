//! What a detection says of the request it stands at, packed small: hundreds of them may wait for others.

use picket_model::{Detection, ObjectRef};
use serde::{Deserialize, Serialize};

use crate::event::Text;
use crate::fields::{Flags, View};

/// Longest user name, address or object name a detection carries, in bytes. The API server sets no limit of its own.
const MAX_TEXT: usize = 1024;
/// Most addresses that a client can forge.
const MAX_FORGEABLE: usize = 16;

/// What became of a request (E14): the later matters more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    NotFound,
    Refused,
    Failed,
    Allowed,
}

impl Outcome {
    fn of(view: &View<'_>) -> Self {
        if view.flag(Flags::DENIED) || matches!(view.code(), Some(401 | 403)) {
            Self::Refused
        } else if view.code() == Some(404) {
            Self::NotFound
        } else if view.flag(Flags::ERROR) {
            Self::Failed
        } else {
            Self::Allowed
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Allowed => "allowed",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::NotFound, Self::Refused, Self::Failed, Self::Allowed].into_iter().find(|outcome| outcome.name() == name)
    }
}

/// A request in the words of a detection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Told {
    /// One line each: user, impersonated, source, verb, group, resource, subresource, namespace, name, and then the
    /// addresses a client can forge. No part holds a line break.
    text: Box<str>,
    outcome: Outcome,
    code: Option<u16>,
}

impl Told {
    pub(crate) fn of(view: &View<'_>) -> Self {
        let ips = view.event.source_ips.as_deref().unwrap_or_default();
        let (source, forgeable) = match ips.split_last() {
            Some((source, forgeable)) => (Some(&**source), forgeable),
            None => (None, &[][..]),
        };
        let name = view.name();
        let parts = [
            view.user(),
            view.impersonated(),
            source,
            view.verb(),
            view.group(),
            view.res(),
            view.sub(),
            view.ns(),
            name.as_deref(),
        ];
        let mut text = String::with_capacity(128);
        for (at, part) in parts.into_iter().enumerate() {
            if at > 0 {
                text.push('\n');
            }
            push(&mut text, part.unwrap_or(""), MAX_TEXT);
        }
        for ip in forgeable.iter().take(MAX_FORGEABLE) {
            let ip: &Text<'_> = ip;
            text.push('\n');
            push(&mut text, ip, MAX_TEXT);
        }
        Self {
            text: text.into_boxed_str(),
            outcome: Outcome::of(view),
            code: view.code().and_then(|code| u16::try_from(code).ok()),
        }
    }

    /// Writes it into a detection.
    pub(crate) fn tell(&self, detection: &mut Detection) {
        let mut parts = self.text.split('\n');
        let mut next = || parts.next().unwrap_or_default().to_owned();
        let some = |text: String| (!text.is_empty()).then_some(text);
        detection.user = next();
        detection.impersonated = some(next());
        detection.source = some(next());
        detection.verb = next();
        detection.object =
            ObjectRef { group: next(), resource: next(), subresource: next(), namespace: next(), name: next() };
        detection.forgeable_sources = parts.map(str::to_owned).collect();
        self.outcome.name().clone_into(&mut detection.outcome);
        detection.code = self.code;
    }

    /// Writes only the outcome into a detection, when it matters more than what is there; true when it did. The verb goes
    /// along when it was for the same object.
    pub(crate) fn worsen(&self, detection: &mut Detection) -> bool {
        if Some(self.outcome) <= Outcome::named(&detection.outcome) {
            return false;
        }
        self.outcome.name().clone_into(&mut detection.outcome);
        detection.code = self.code;
        let mut parts = self.text.split('\n').skip(3);
        let verb = parts.next().unwrap_or_default();
        let object = &detection.object;
        let own = [&object.group, &object.resource, &object.subresource, &object.namespace, &object.name];
        if own.into_iter().all(|own| parts.next() == Some(own)) {
            verb.clone_into(&mut detection.verb);
        }
        true
    }

    /// Takes over the outcome of the same request made again, when it matters more.
    pub(crate) fn again(&mut self, view: &View<'_>) {
        let outcome = Outcome::of(view);
        if outcome > self.outcome {
            self.outcome = outcome;
            self.code = view.code().and_then(|code| u16::try_from(code).ok());
        }
    }

    /// Whether this event's outcome matters more than what a detection says.
    pub(crate) fn is_worse(view: &View<'_>, detection: &Detection) -> bool {
        Some(Outcome::of(view)) > Outcome::named(&detection.outcome)
    }

    /// Whether one outcome matters more than another, by their names.
    pub(crate) fn is_above(one: &str, other: &str) -> bool {
        Outcome::named(one) > Outcome::named(other)
    }

    pub(crate) const fn text(&self) -> &str {
        &self.text
    }
}

/// Cut at a character's edge, and without control characters.
pub(crate) fn push(to: &mut String, text: &str, most: usize) {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    to.extend(text[..end].chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }));
}
