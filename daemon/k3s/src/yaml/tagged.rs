//! Scalars with an explicit tag.

use super::{LoadError, Value, resolve};

/// What the tags of YAML itself begin with.
pub(super) const OWN: &str = "tag:yaml.org,2002:";

/// A scalar with an explicit tag: go-yaml reads it by the usual rules and refuses what does not fit the tag.
pub(super) fn tagged(text: &str, tag: &str, line: u32) -> Result<Value, LoadError> {
    let kind = tag.strip_prefix(OWN).unwrap_or_default();
    let value = resolve(text);
    let fits = match (kind, &value) {
        ("int", Value::Int(_)) | ("float", Value::Float(_)) | ("bool", Value::Bool(_)) | ("null", Value::Null) => true,
        #[allow(clippy::cast_precision_loss, reason = "Go converts the same way")]
        ("float", Value::Int(int)) => return Ok(Value::Float(*int as f64)),
        ("int" | "float" | "bool" | "null", _) => false,
        ("binary", _) => {
            let bytes =
                base64(text).ok_or_else(|| LoadError::at(line, "broken YAML: !!binary without valid base64"))?;
            return Ok(Value::Text(String::from_utf8_lossy(&bytes).into_owned()));
        }
        // What go-yaml takes for a time it gives on as written.
        ("timestamp", _) if is_date(text) => return Ok(Value::Text(text.to_owned())),
        ("timestamp", _) => {
            return Err(LoadError::at(line, "cannot be read: a value tagged !!timestamp; remove the tag"));
        }
        _ => return Ok(Value::Text(text.to_owned())),
    };
    if fits { Ok(value) } else { Err(LoadError::at(line, format!("broken YAML: the value is no !!{kind}"))) }
}

/// A date of any month that has this day in every year.
fn is_date(text: &str) -> bool {
    let mut parts = text.split('-');
    let mut number = |digits: std::ops::RangeInclusive<usize>| {
        let part = parts.next().filter(|p| digits.contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit()));
        part.and_then(|p| p.parse::<u16>().ok())
    };
    let date = (number(4..=4), number(1..=2), number(1..=2));
    matches!(date, (Some(_), Some(1..=12), Some(1..=28))) && parts.next().is_none()
}

/// Standard base64 with padding, line breaks allowed, as Go decodes it.
fn base64(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|b| !matches!(b, b'\r' | b'\n')).collect();
    if !digits.len().is_multiple_of(4) {
        return None;
    }
    let mut out = Vec::with_capacity(digits.len() / 4 * 3);
    let groups = digits.len() / 4;
    for (i, group) in digits.chunks(4).enumerate() {
        let padding = group.iter().rev().take_while(|b| **b == b'=').count();
        if padding > 2 || (padding > 0 && i + 1 != groups) {
            return None;
        }
        let mut bits = 0u32;
        for digit in group.iter().take(4 - padding) {
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        bits <<= 6 * padding;
        let bytes = bits.to_be_bytes();
        out.extend(bytes.iter().skip(1).take(3 - padding));
    }
    Some(out)
}
