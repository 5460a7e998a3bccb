//! Label selectors, with kubectl's grammar: `site=berlin,tier!=lab,zone in (a,b),zone notin (c),owner,!retired`.

use std::fmt;
use std::str::FromStr;

use picket_model::Labels;

/// Longest selector, bytes.
const BYTES: usize = 4096;
/// Longest key or value of a label without prefix, bytes, as in Kubernetes.
const NAME_BYTES: usize = 63;
/// Longest prefix of a key, bytes.
const PREFIX_BYTES: usize = 253;

/// Which nodes, by their labels. All requirements must hold; an empty selector means every node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    /// The label is there.
    Present,
    /// The label is not there.
    Absent,
    /// The label is there with one of these values.
    In(Vec<String>),
    /// The label is not there, or has none of these values.
    NotIn(Vec<String>),
}

/// A text that is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("label selector, character {at}: {problem}; examples: site=berlin  tier!=lab  zone in (a,b)  owner  !retired")]
pub struct SelectorError {
    /// Where, in characters from 1.
    pub at: usize,
    /// What is wrong.
    pub problem: String,
}

impl Selector {
    /// Do all requirements hold?
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|requirement| {
            let value = labels.get(&requirement.key);
            match &requirement.test {
                Test::Present => value.is_some(),
                Test::Absent => value.is_none(),
                Test::In(values) => value.is_some_and(|value| values.contains(value)),
                Test::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            }
        })
    }

    /// Does it mean every node?
    pub const fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Requirement { key, test }) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            match test {
                Test::Present => f.write_str(key)?,
                Test::Absent => write!(f, "!{key}")?,
                Test::In(values) => write!(f, "{key} in ({})", values.join(","))?,
                Test::NotIn(values) => write!(f, "{key} notin ({})", values.join(","))?,
            }
        }
        Ok(())
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        if text.len() > BYTES {
            let problem = format!("{} bytes are too many, at most {BYTES} are taken", text.len());
            return Err(SelectorError { at: 1, problem });
        }
        let mut parser = Parser { text, at: 0 };
        let mut requirements = Vec::new();
        parser.blanks();
        if parser.done() {
            return Ok(Self::default());
        }
        loop {
            requirements.push(parser.requirement()?);
            parser.blanks();
            if parser.done() {
                return Ok(Self { requirements });
            }
            if !parser.take(",") {
                return Err(parser.error("a comma is expected between requirements"));
            }
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    /// Bytes read; always at the border of a character.
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn done(&self) -> bool {
        self.rest().is_empty()
    }

    fn blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn error_at(&self, at: usize, problem: impl Into<String>) -> SelectorError {
        let before = self.text.get(..at).unwrap_or(self.text);
        SelectorError { at: before.chars().count() + 1, problem: problem.into() }
    }

    fn error(&self, problem: impl Into<String>) -> SelectorError {
        self.error_at(self.at, problem)
    }

    /// What stands up to the next blank or sign.
    fn word(&mut self) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c: char| c.is_whitespace() || "=!,()<>".contains(c)).unwrap_or(rest.len());
        self.at += end;
        rest.get(..end).unwrap_or_default()
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        self.blanks();
        let absent = self.take("!");
        self.blanks();
        let key = self.key()?;
        self.blanks();
        if absent {
            return Ok(Requirement { key, test: Test::Absent });
        }
        let test = if self.take("==") || self.take("=") {
            Test::In(vec![self.value()?])
        } else if self.take("!=") {
            Test::NotIn(vec![self.value()?])
        } else if self.done() || self.rest().starts_with(',') {
            Test::Present
        } else {
            let at = self.at;
            match self.word() {
                "in" => Test::In(self.values()?),
                "notin" => Test::NotIn(self.values()?),
                "" => return Err(self.error("one of =, ==, !=, in, notin or a comma is expected")),
                other => {
                    let other: String = other.chars().take(32).collect();
                    return Err(self.error_at(at, format!("{other:?} is no operator: use =, ==, !=, in or notin")));
                }
            }
        };
        Ok(Requirement { key, test })
    }

    fn key(&mut self) -> Result<String, SelectorError> {
        let at = self.at;
        let word = self.word();
        if word.is_empty() {
            return Err(self.error("the name of a label is expected"));
        }
        let (prefix, name) = word.split_once('/').map_or((None, word), |(prefix, name)| (Some(prefix), name));
        if let Some(prefix) = prefix
            && (prefix.is_empty() || prefix.len() > PREFIX_BYTES || !prefix.split('.').all(is_name))
        {
            return Err(self.error_at(at, "the part before the slash must be a DNS name of at most 253 characters"));
        }
        if !is_name(name) {
            return Err(self.error_at(at, NAME_RULE));
        }
        Ok(word.to_owned())
    }

    /// A value, which may be empty as in Kubernetes.
    fn value(&mut self) -> Result<String, SelectorError> {
        self.blanks();
        let at = self.at;
        let word = self.word();
        if !word.is_empty() && !is_name(word) {
            return Err(self.error_at(at, NAME_RULE));
        }
        Ok(word.to_owned())
    }

    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        self.blanks();
        if !self.take("(") {
            return Err(self.error("values in parentheses are expected, such as (a,b)"));
        }
        let mut values = Vec::new();
        loop {
            values.push(self.value()?);
            self.blanks();
            if self.take(")") {
                return Ok(values);
            }
            if !self.take(",") {
                return Err(self.error("a comma or a closing parenthesis is expected"));
            }
        }
    }
}

const NAME_RULE: &str =
    "keys and values are at most 63 letters, digits, '-', '_' and '.', and begin and end with a letter or digit";

fn is_name(text: &str) -> bool {
    let end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= NAME_BYTES
        && end(text.chars().next())
        && end(text.chars().next_back())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn selectors_mean_what_kubectl_means() {
        let berlin = labels(&[("site", "berlin"), ("example.com/tier", "lab"), ("owner", "")]);
        for (selector, expected) in [
            ("", true),
            ("  ", true),
            ("site=berlin", true),
            ("site==berlin", true),
            ("site = berlin , owner", true),
            ("site!=berlin", false),
            ("site != paris", true),
            ("zone!=a", true),
            ("site in (paris, berlin)", true),
            ("site in (paris)", false),
            ("site notin (paris,rome)", true),
            ("zone notin (a)", true),
            ("zone in (a)", false),
            ("owner", true),
            ("owner=", true),
            ("!owner", false),
            ("! zone", true),
            ("zone", false),
            ("example.com/tier=lab", true),
            ("site=berlin,!owner", false),
            ("in in (in)", false),
            ("notin!=x", true),
        ] {
            let parsed: Selector = selector.parse().unwrap_or_else(|e| panic!("{selector:?}: {e}"));
            assert_eq!(parsed.matches(&berlin), expected, "{selector:?}");
        }
    }

    #[test]
    fn errors_say_where_and_what() {
        for (selector, at, problem) in [
            ("=x", 1, "the name of a label is expected"),
            ("a,", 3, "the name of a label is expected"),
            ("a,,b", 3, "the name of a label is expected"),
            ("site=berlin paris", 13, "a comma is expected"),
            ("site like b", 6, "\"like\" is no operator"),
            ("site in a", 9, "values in parentheses"),
            ("site in (a", 11, "a comma or a closing parenthesis"),
            ("site in (a b)", 12, "a comma or a closing parenthesis"),
            ("site>3", 5, "one of =, ==, !=, in, notin"),
            ("site=-x", 6, "begin and end with a letter or digit"),
            ("ümlaut=x", 1, "begin and end with a letter or digit"),
            ("a=b,/x", 5, "DNS name"),
            ("a=b=c", 4, "a comma is expected"),
        ] {
            let error = selector.parse::<Selector>().expect_err(selector);
            assert_eq!(error.at, at, "{selector:?}: {error}");
            assert!(error.problem.contains(problem), "{selector:?}: {error}");
        }
        assert!("a".repeat(5000).parse::<Selector>().is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_and_what_is_parsed_prints_as_itself(text in "[a-c=!,() inot./é]{0,24}") {
            if let Ok(selector) = text.parse::<Selector>() {
                let printed = selector.to_string();
                prop_assert_eq!(printed.parse::<Selector>().map_err(|e| e.to_string()), Ok(selector));
            }
        }
    }
}
