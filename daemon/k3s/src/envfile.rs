//! Environment files: systemd's own format, and files a shell sources (OpenRC).

use crate::words::{chars, split_shell};

/// A variable and where it was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) line: u32,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    PreKey,
    Key,
    PreValue,
    Value,
    ValueEscape,
    Single,
    Double,
    DoubleEscape,
    Comment,
    CommentEscape,
}

/// Whether this is a name systemd takes for a variable.
fn valid_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Reads a file named by `EnvironmentFile=`. The second value holds lines systemd ignores.
pub(crate) fn systemd(text: &str) -> (Vec<Variable>, Vec<u32>) {
    let mut variables = Vec::new();
    let mut ignored = Vec::new();
    let mut state = State::PreKey;
    let (mut key, mut value) = (String::new(), String::new());
    // Length of the value up to the last character that is not a blank outside quotes.
    let mut solid = 0;
    let mut at = 1;
    let mut finish = |key: &mut String, value: &mut String, solid: usize, line: u32| {
        value.truncate(solid);
        let name = key.trim().to_owned();
        if valid_name(&name) {
            variables.push(Variable { name, value: std::mem::take(value), line });
        } else if !name.is_empty() {
            ignored.push(line);
        }
        key.clear();
        value.clear();
    };
    for (c, line) in chars(text, 1) {
        let newline = c == '\n' || c == '\r';
        state = match state {
            State::PreKey => match c {
                '#' | ';' => State::Comment,
                c if c.is_whitespace() => State::PreKey,
                c => {
                    key.push(c);
                    at = line;
                    State::Key
                }
            },
            State::Key => match c {
                '=' => {
                    solid = 0;
                    State::PreValue
                }
                _ if newline => {
                    // A line without `=` sets nothing.
                    key.clear();
                    State::PreKey
                }
                c => {
                    key.push(c);
                    State::Key
                }
            },
            State::PreValue | State::Value if newline => {
                finish(&mut key, &mut value, solid, at);
                State::PreKey
            }
            State::PreValue => match c {
                '\'' => State::Single,
                '"' => State::Double,
                '\\' => State::ValueEscape,
                ' ' | '\t' => State::PreValue,
                c => {
                    value.push(c);
                    solid = value.len();
                    State::Value
                }
            },
            State::Value => match c {
                '\\' => State::ValueEscape,
                ' ' | '\t' => {
                    value.push(c);
                    State::Value
                }
                c => {
                    value.push(c);
                    solid = value.len();
                    State::Value
                }
            },
            State::ValueEscape => {
                if !newline {
                    value.push(c);
                    solid = value.len();
                }
                State::Value
            }
            State::Single => {
                if c == '\'' {
                    State::PreValue
                } else {
                    value.push(c);
                    solid = value.len();
                    State::Single
                }
            }
            State::Double => match c {
                '"' => State::PreValue,
                '\\' => State::DoubleEscape,
                c => {
                    value.push(c);
                    solid = value.len();
                    State::Double
                }
            },
            State::DoubleEscape => {
                match c {
                    '"' | '\\' | '`' | '$' => value.push(c),
                    '\n' => {}
                    c => {
                        value.push('\\');
                        value.push(c);
                    }
                }
                solid = value.len();
                State::Double
            }
            State::Comment => match c {
                '\\' => State::CommentEscape,
                _ if newline => State::PreKey,
                _ => State::Comment,
            },
            State::CommentEscape => State::Comment,
        };
    }
    match state {
        State::PreValue | State::Value | State::ValueEscape | State::Single | State::Double | State::DoubleEscape => {
            finish(&mut key, &mut value, solid, at);
        }
        State::PreKey | State::Key | State::Comment | State::CommentEscape => {}
    }
    (variables, ignored)
}

/// Reads a file that a shell sources: assignments, with or without `export` or `declare -x`.
pub(crate) fn shell(text: &str) -> Vec<Variable> {
    let mut variables = Vec::new();
    let mut rest = chars(text, 1);
    while !rest.is_empty() {
        let end = logical_end(&rest);
        let tail = rest.split_off(end.min(rest.len()));
        for word in split_shell(&rest) {
            if let Some((name, value)) = word.text.split_once('=')
                && valid_name(name)
            {
                variables.push(Variable { name: name.to_owned(), value: value.to_owned(), line: word.line });
            }
        }
        rest = tail;
    }
    variables
}

/// The end of the first command line: a newline outside quotes.
fn logical_end(input: &[(char, u32)]) -> usize {
    let mut quote: Option<char> = None;
    let mut escaped = false;
    for (i, (c, _)) in input.iter().enumerate() {
        if escaped {
            escaped = false;
            continue;
        }
        match (quote, c) {
            (None | Some('"'), '\\') => escaped = true,
            (None, '\'' | '"') => quote = Some(*c),
            (Some(q), c) if q == *c => quote = None,
            (None, '\n') => return i + 1,
            _ => {}
        }
    }
    input.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(variables: &[Variable]) -> Vec<(&str, &str, u32)> {
        variables.iter().map(|v| (v.name.as_str(), v.value.as_str(), v.line)).collect()
    }

    #[test]
    fn quotes_as_dash_and_bash_write_them() {
        let text = "# made by install\nK3S_TOKEN='it'\"'\"'s'\nK3S_URL=\"https://10.0.0.1:6443\"\nPLAIN=a b \\\nc   \n; x\nBAD KEY=1\n\
                    ESC=\"a\\\"b\\nc\"\nEMPTY=\nLAST='x y'";
        let (variables, ignored) = systemd(text);
        assert_eq!(
            pairs(&variables),
            [
                ("K3S_TOKEN", "it's", 2),
                ("K3S_URL", "https://10.0.0.1:6443", 3),
                ("PLAIN", "a b c", 4),
                ("ESC", "a\"b\\nc", 8),
                ("EMPTY", "", 9),
                ("LAST", "x y", 10),
            ]
        );
        assert_eq!(ignored, [7]);
    }

    #[test]
    fn a_sourced_file_may_export() {
        let text = "export K3S_TOKEN='a b'\ndeclare -x K3S_URL=\"https://h\"\nX=1 # why\n'multi\nline'=no\n";
        assert_eq!(pairs(&shell(text)), [("K3S_TOKEN", "a b", 1), ("K3S_URL", "https://h", 2), ("X", "1", 3)]);
    }
}
