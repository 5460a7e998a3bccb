//! What is so in every match of a rule, to be checked without allocation.

use crate::fields::View;

/// Fields whose facts can be checked at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    Stage,
    Level,
    Verb,
    User,
    Actor,
    Impersonated,
    Groups,
    Group,
    Sub,
    Ns,
    Name,
    Agent,
    Uri,
    Message,
}

impl Field {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "stage" => Self::Stage,
            "level" => Self::Level,
            "verb" => Self::Verb,
            "user" | "user.username" => Self::User,
            "actor" => Self::Actor,
            "imp" | "impersonatedUser.username" => Self::Impersonated,
            "groups" | "user.groups" => Self::Groups,
            "group" | "objectRef.apiGroup" => Self::Group,
            "sub" | "objectRef.subresource" => Self::Sub,
            "ns" | "objectRef.namespace" => Self::Ns,
            "objectRef.name" => Self::Name,
            "ua" | "userAgent" => Self::Agent,
            "uri" | "requestURI" => Self::Uri,
            "msg" | "responseStatus.message" => Self::Message,
            _ => return None,
        })
    }

    fn of<'v>(self, view: &'v View<'_>) -> Option<&'v str> {
        match self {
            Self::Stage => view.stage(),
            Self::Level => view.event.level.as_deref(),
            Self::Verb => view.verb(),
            Self::User => view.user(),
            Self::Actor => view.actor(),
            Self::Impersonated => view.impersonated(),
            Self::Groups => None,
            Self::Group => view.group(),
            Self::Sub => view.sub(),
            Self::Ns => view.ns(),
            Self::Name => view.object_name(),
            Self::Agent => view.event.user_agent.as_deref(),
            Self::Uri => view.uri(),
            Self::Message => view.message(),
        }
    }
}

/// Words in lower case.
pub(crate) type Words = Vec<String>;

/// Something that is so in every match of a rule.
#[derive(Debug)]
pub(crate) enum Fact {
    /// The field is one of these words.
    IsOneOf(Field, Words),
    /// The field starts with one of these.
    StartsWith(Field, Words),
    /// The field has one of these inside.
    Contains(Field, Words),
    /// The field starts with none of these.
    StartsWithNone(Field, Words),
    /// The field is there.
    Present(Field),
    /// The field is not there.
    Absent(Field),
    /// The response code lies in one of these ranges.
    Code(Vec<(f64, f64)>),
    /// An annotation of this name is there.
    Annotation(String),
    /// An annotation whose name starts with this is there.
    AnnotationPrefix(Words),
    /// What was sent or what came back is there.
    Body,
    /// The address is a public one.
    PublicAddress,
    /// The address is, or is not, the machine's own.
    Loopback(bool),
    /// All facts of one of these hold.
    OneOf(Vec<Facts>),
}

impl Fact {
    fn holds(&self, view: &View<'_>) -> bool {
        match self {
            Self::IsOneOf(Field::Groups, words) => view
                .event
                .user
                .as_ref()
                .and_then(|user| user.groups.as_ref())
                .is_some_and(|groups| groups.iter().any(|group| is_one_of(group, words))),
            Self::IsOneOf(field, words) => field.of(view).is_some_and(|value| is_one_of(value, words)),
            Self::StartsWith(field, words) => field
                .of(view)
                .is_some_and(|value| !value.is_ascii() || words.iter().any(|word| starts_with(value, word))),
            Self::Contains(field, words) => {
                field.of(view).is_some_and(|value| !value.is_ascii() || words.iter().any(|word| contains(value, word)))
            }
            Self::StartsWithNone(field, words) => {
                field.of(view).is_none_or(|value| !words.iter().any(|word| starts_with(value, word)))
            }
            Self::Present(field) => field.of(view).is_some(),
            Self::Absent(field) => field.of(view).is_none_or(str::is_empty),
            Self::Code(ranges) => view.code().is_some_and(|code| {
                let code = code as f64;
                ranges.iter().any(|(low, high)| *low <= code && code <= *high)
            }),
            Self::Annotation(key) => view.annotation(key).is_some(),
            Self::AnnotationPrefix(words) => view.event.annotations.as_ref().is_some_and(|pairs| {
                pairs.iter().any(|(key, _)| !key.is_ascii() || words.iter().any(|word| starts_with(key, word)))
            }),
            Self::Body => view.event.request_object.is_some() || view.event.response_object.is_some(),
            Self::PublicAddress => view.is_from_public_ip(),
            Self::Loopback(own) => view.is_from_loopback() == *own,
            Self::OneOf(branches) => branches.iter().any(|facts| {
                facts.resources.as_ref().is_none_or(|words| view.res().is_some_and(|res| is_one_of(res, words)))
                    && facts.hold(view)
            }),
        }
    }
}

/// Sigma compares without case and by Unicode's rules; what is not ASCII is left to the real comparison.
fn is_one_of(value: &str, words: &[String]) -> bool {
    words.iter().any(|word| word.eq_ignore_ascii_case(value)) || !value.is_ascii()
}

fn starts_with(value: &str, word: &str) -> bool {
    value.as_bytes().get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word.as_bytes()))
}

fn contains(value: &str, word: &str) -> bool {
    let (value, word) = (value.as_bytes(), word.as_bytes());
    // What is no letter is rarer, and it is the same in both cases.
    let at = word.iter().position(|byte| !byte.is_ascii_alphabetic()).unwrap_or(0);
    let Some(anchor) = word.get(at) else { return true };
    memchr::memchr2_iter(anchor.to_ascii_lowercase(), anchor.to_ascii_uppercase(), value).any(|found| {
        found
            .checked_sub(at)
            .and_then(|start| value.get(start..start + word.len()))
            .is_some_and(|part| part.eq_ignore_ascii_case(word))
    })
}

/// Facts that every match of a rule has.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) set: u32,
    pub(super) unset: u32,
    pub(crate) resources: Option<Words>,
    pub(crate) others: Vec<Fact>,
}

impl Facts {
    /// Whether all of them hold, but for the resource.
    pub(super) fn hold(&self, view: &View<'_>) -> bool {
        let flags = view.flags.0;
        flags & self.set == self.set && flags & self.unset == 0 && self.others.iter().all(|fact| fact.holds(view))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.set == 0 && self.unset == 0 && self.resources.is_none() && self.others.is_empty()
    }
}
