//! What a compiled matcher asks of its field.

use rsigma_eval::matcher::GroupMode;
use rsigma_eval::{CompiledDetectionItem, CompiledMatcher};

use super::fact::Words;

/// What a matcher needs, as far as it is of use here.
#[derive(Debug)]
pub(super) enum Shape {
    Bool(bool),
    /// One of these words, in lower case.
    Words(Words),
    /// A start with one of these, in lower case.
    Prefixes(Words),
    /// One of these inside, in lower case.
    Parts(Words),
    /// Some text; null does not match.
    Text,
    Numbers(Vec<(f64, f64)>),
    Present,
    Absent,
    Other,
}

impl Shape {
    pub(super) fn of(item: &CompiledDetectionItem) -> Self {
        match item.exists {
            Some(true) => Self::Present,
            Some(false) => Self::Absent,
            None => Self::of_matcher(&item.matcher),
        }
    }

    fn of_matcher(matcher: &CompiledMatcher) -> Self {
        match matcher {
            CompiledMatcher::BoolEq(yes) => Self::Bool(*yes),
            CompiledMatcher::Exact { value, .. } => Self::Words(vec![value.to_lowercase()]),
            CompiledMatcher::StartsWith { value, .. } => Self::Prefixes(vec![value.to_lowercase()]),
            CompiledMatcher::Contains { value, .. } => Self::Parts(vec![value.to_lowercase()]),
            CompiledMatcher::Regex(regex) => {
                start_of(regex.as_str()).map_or(Self::Text, |word| Self::Prefixes(vec![word]))
            }
            CompiledMatcher::EndsWith { .. } | CompiledMatcher::AhoCorasickSet { .. } => Self::Text,
            CompiledMatcher::NumericEq(n) => Self::Numbers(vec![(*n, *n)]),
            CompiledMatcher::NumericGte(n) | CompiledMatcher::NumericGt(n) => Self::Numbers(vec![(*n, f64::MAX)]),
            CompiledMatcher::NumericLte(n) | CompiledMatcher::NumericLt(n) => Self::Numbers(vec![(f64::MIN, *n)]),
            CompiledMatcher::Null => Self::Absent,
            CompiledMatcher::AnyOf(any)
            | CompiledMatcher::CaseInsensitiveGroup { children: any, mode: GroupMode::Any } => {
                any.iter().map(Self::of_matcher).reduce(Self::or).unwrap_or(Self::Other)
            }
            _ => Self::Other,
        }
    }

    /// Whether every text with such a start matches, in whichever case.
    pub(super) fn is_only_start(matcher: &CompiledMatcher) -> bool {
        match matcher {
            CompiledMatcher::StartsWith { case_insensitive, .. } => *case_insensitive,
            CompiledMatcher::AnyOf(any) => any.iter().all(Self::is_only_start),
            CompiledMatcher::CaseInsensitiveGroup { children, mode: GroupMode::Any } => {
                children.iter().all(|child| matches!(child, CompiledMatcher::StartsWith { .. }))
            }
            _ => false,
        }
    }

    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Words(a), Self::Words(b)) => Self::Words([a, b].concat()),
            (Self::Prefixes(a), Self::Prefixes(b)) => Self::Prefixes([a, b].concat()),
            (Self::Parts(a), Self::Parts(b)) => Self::Parts([a, b].concat()),
            (Self::Numbers(a), Self::Numbers(b)) => Self::Numbers([a, b].concat()),
            (
                Self::Words(_) | Self::Prefixes(_) | Self::Parts(_) | Self::Text,
                Self::Words(_) | Self::Prefixes(_) | Self::Parts(_) | Self::Text,
            ) => Self::Text,
            _ => Self::Other,
        }
    }
}

/// What every text begins with that the expression matches, in lower case; none when that is not plain to see.
fn start_of(regex: &str) -> Option<String> {
    let rest = regex.strip_prefix('^')?;
    // With alternatives each may begin in its own way.
    if rest.contains('|') {
        return None;
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '/' | '-' | '_' | ' ');
    let end = rest.find(|c| !plain(c)).unwrap_or(rest.len());
    let (start, after) = rest.split_at(end);
    // A quantifier is about the last character.
    let start = if after.starts_with(['?', '*', '{', '+']) { &start[..start.len().checked_sub(1)?] } else { start };
    (!start.is_empty()).then(|| start.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_of_an_expression_is_in_every_text_it_matches() {
        let start = |regex| start_of(regex);
        assert_eq!(start("^system:serviceaccount:[^:]+:default$").as_deref(), Some("system:serviceaccount:"));
        assert_eq!(start("^Ab?c").as_deref(), Some("a"));
        assert_eq!(start("^ab{0,3}").as_deref(), Some("a"));
        assert_eq!(start("^/version$").as_deref(), Some("/version"));
        for without in ["abc", "^(a|b)c", "^ab|cd", "(?i)^ab", "^.*", "^a*", r"^\.x"] {
            assert_eq!(start(without), None, "{without}");
        }
    }
}
