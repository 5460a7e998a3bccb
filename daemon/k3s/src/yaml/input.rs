//! From bytes to the characters go-yaml takes.

use std::borrow::Cow;

use super::LoadError;

/// UTF-8, or UTF-16 with a byte order mark, without characters that go-yaml refuses.
pub(super) fn characters(bytes: &[u8]) -> Result<Cow<'_, str>, LoadError> {
    let text = decode(bytes)?;
    check(&text)?;
    Ok(text)
}

fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, LoadError> {
    let wide = |rest: &[u8], join: fn([u8; 2]) -> u16| {
        let units = rest.chunks(2).map(|pair| match pair {
            [a, b] => Some(join([*a, *b])),
            _ => None,
        });
        let units: Option<Vec<u16>> = units.collect();
        units
            .and_then(|u| String::from_utf16(&u).ok())
            .map(Cow::Owned)
            .ok_or_else(|| LoadError::whole("broken YAML: not valid UTF-16"))
    };
    match bytes {
        [0xFF, 0xFE, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xFE, 0xFF, rest @ ..] => wide(rest, u16::from_be_bytes),
        [0xEF, 0xBB, 0xBF, rest @ ..] => utf8(rest),
        rest => utf8(rest),
    }
}

fn utf8(bytes: &[u8]) -> Result<Cow<'_, str>, LoadError> {
    std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|e| {
        let before = bytes.get(..e.valid_up_to()).unwrap_or_default();
        let line = before.iter().filter(|b| **b == b'\n').count() + 1;
        LoadError::at(line_of(line), "broken YAML: a byte that is not UTF-8; K3s takes none, not even in a comment")
    })
}

/// go-yaml refuses control characters anywhere, comments included.
fn check(text: &str) -> Result<(), LoadError> {
    let mut line = 1;
    for c in text.chars() {
        let allowed = matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{7E}' | '\u{85}' | '\u{A0}'..='\u{D7FF}'
            | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..='\u{10FFFF}');
        if !allowed {
            return Err(LoadError::at(line_of(line), "broken YAML: control characters are not allowed"));
        }
        if c == '\u{FEFF}' {
            // Where go-yaml's buffer happens to begin with one, it loses the first character of lines.
            let detail = "cannot be read: a byte order mark inside the text; its settings are not known; remove it";
            return Err(LoadError::at(line_of(line), detail));
        }
        if c == '\n' {
            line += 1;
        }
    }
    Ok(())
}

fn line_of(line: usize) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX)
}
