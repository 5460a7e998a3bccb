//! Text with line numbers, and the quoting rules of systemd and the shell.

/// A word and the line it starts at, from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) text: String,
    pub(crate) line: u32,
}

/// Characters with the line each stands at.
pub(crate) type Chars = Vec<(char, u32)>;

/// Text that starts at a line.
pub(crate) fn chars(text: &str, mut line: u32) -> Chars {
    text.chars()
        .map(|c| {
            let at = (c, line);
            if c == '\n' {
                line = line.saturating_add(1);
            }
            at
        })
        .collect()
}

/// Splits as systemd does for `ExecStart=` and `Environment=`: quotes anywhere, C escapes. The second value is false
/// where systemd would refuse the line (open quote, unknown escape).
pub(crate) fn split_systemd(input: &[(char, u32)]) -> (Vec<Word>, bool) {
    let mut words = Vec::new();
    let mut good = true;
    let mut current: Option<Word> = None;
    let mut quote: Option<char> = None;
    let mut i = 0;
    while let Some(&(c, line)) = input.get(i) {
        i += 1;
        let word =
            |current: &mut Option<Word>| current.get_or_insert_with(|| Word { text: String::new(), line }).text.clone();
        match (quote, c) {
            (None, ' ' | '\t' | '\n' | '\r') => words.extend(current.take()),
            (None, '\'' | '"') => {
                word(&mut current);
                quote = Some(c);
            }
            (Some(q), c) if q == c => quote = None,
            (_, '\\') => {
                let (text, used, known) = escape(input.get(i..).unwrap_or_default());
                i += used;
                good &= known;
                current.get_or_insert_with(|| Word { text: String::new(), line }).text.push_str(&text);
            }
            (_, c) => current.get_or_insert_with(|| Word { text: String::new(), line }).text.push(c),
        }
    }
    words.extend(current);
    (words, good && quote.is_none())
}

/// One C escape after its backslash: the text, characters used, whether systemd knows it.
fn escape(rest: &[(char, u32)]) -> (String, usize, bool) {
    let Some(&(c, _)) = rest.first() else { return ("\\".to_owned(), 0, false) };
    let digits = |from: usize, count: usize, base: u32| {
        let text: String = rest.iter().skip(from).take(count).map(|(c, _)| *c).collect();
        (text.chars().count() == count)
            .then(|| u32::from_str_radix(&text, base).ok())
            .flatten()
            .and_then(char::from_u32)
            .filter(|c| *c != '\0')
    };
    let numeric = match c {
        'x' => Some((digits(1, 2, 16), 3)),
        'u' => Some((digits(1, 4, 16), 5)),
        'U' => Some((digits(1, 8, 16), 9)),
        '0'..='7' => Some((digits(0, 3, 8), 3)),
        _ => None,
    };
    if let Some((value, used)) = numeric {
        return value.map_or_else(|| (format!("\\{c}"), 1, false), |v| (v.to_string(), used, true));
    }
    let simple = match c {
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\u{b}',
        's' => ' ',
        '\\' | '"' | '\'' | ';' => c,
        _ => return (format!("\\{c}"), 1, false),
    };
    (simple.to_string(), 1, true)
}

/// Splits as a POSIX shell does, without expansions; stops at a redirection, `;`, `&` or `|`.
pub(crate) fn split_shell(input: &[(char, u32)]) -> Vec<Word> {
    let mut words = Vec::new();
    let mut current: Option<Word> = None;
    let mut i = 0;
    while let Some(&(c, line)) = input.get(i) {
        i += 1;
        let start = || Word { text: String::new(), line };
        match c {
            ' ' | '\t' | '\n' | '\r' => words.extend(current.take()),
            '>' | '<' | ';' | '&' | '|' => break,
            '\'' => {
                let word = current.get_or_insert_with(start);
                while let Some(&(c, _)) = input.get(i) {
                    i += 1;
                    if c == '\'' {
                        break;
                    }
                    word.text.push(c);
                }
            }
            '"' => {
                let word = current.get_or_insert_with(start);
                while let Some(&(c, _)) = input.get(i) {
                    i += 1;
                    match c {
                        '"' => break,
                        '\\' => match input.get(i) {
                            Some(&(n @ ('"' | '\\' | '$' | '`'), _)) => {
                                word.text.push(n);
                                i += 1;
                            }
                            Some(&('\n', _)) => i += 1,
                            _ => word.text.push('\\'),
                        },
                        c => word.text.push(c),
                    }
                }
            }
            '\\' => {
                if let Some(&(n, _)) = input.get(i) {
                    i += 1;
                    if n != '\n' {
                        current.get_or_insert_with(start).text.push(n);
                    }
                }
            }
            '#' if current.is_none() => {
                while input.get(i).is_some_and(|(c, _)| *c != '\n') {
                    i += 1;
                }
            }
            c => current.get_or_insert_with(start).text.push(c),
        }
    }
    words.extend(current);
    words
}
