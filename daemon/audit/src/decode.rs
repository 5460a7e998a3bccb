//! Bodies as JSON values. What a client sent is logged as it sent it, so a body may hold what serde refuses and the API
//! server takes; and it may be made to be costly. The first is mended, the second cut off, and never in silence.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::event::MAX_LINE;

/// Most bytes of memory that a body's values may take: the longest text, and what its parts cost besides. A hostile
/// text may cost eighty times its length.
const BUDGET: usize = MAX_LINE + 24 * 1024 * 1024;
/// Deeper values are left out of a mended body. Nothing that rules ask for lies deeper than twenty.
const DEEPEST: usize = 100;
/// What a member of a list costs.
pub(crate) const MEMBER: usize = size_of::<Value>();
/// What a field of an object costs besides its name: roughly, nodes of its tree are half empty.
pub(crate) const FIELD: usize = 112;
/// What the first field costs: a whole node.
pub(crate) const FIRST_FIELD: usize = 640;

/// A body as far as it could be read.
#[derive(Debug, Default)]
pub(crate) struct Body {
    pub(crate) value: Option<Value>,
    /// A part of it could not be read, or all of it.
    pub(crate) cut: bool,
}

impl Body {
    pub(crate) fn decode(text: &str) -> Self {
        let left = Cell::new(BUDGET);
        let value = parse(text, &left).or_else(|_| {
            left.set(BUDGET);
            parse(&mended(text), &left)
        });
        match value {
            Ok(value) => Self { value: Some(value).filter(|value| !value.is_null()), cut: left.get() == 0 },
            Err(_) => Self { value: None, cut: true },
        }
    }
}

fn parse(text: &str, left: &Cell<usize>) -> serde_json::Result<Value> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Part(left).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// A value for as long as memory is left; what does not fit is read over.
#[derive(Clone, Copy)]
struct Part<'b>(&'b Cell<usize>);

impl Part<'_> {
    fn pay(self, cost: usize) {
        self.0.set(self.0.get().saturating_sub(cost));
    }

    fn is_spent(self) -> bool {
        self.0.get() == 0
    }
}

impl<'de> DeserializeSeed<'de> for Part<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Part<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        self.pay(value.len());
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        while !self.is_spent() {
            let Some(member) = members.next_element_seed(self)? else { return Ok(out.into()) };
            // A list that grows is moved to twice its place.
            self.pay(2 * MEMBER);
            out.push(member);
        }
        while members.next_element::<IgnoredAny>()?.is_some() {}
        Ok(out.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while !self.is_spent() {
            let Some(name) = fields.next_key::<String>()? else { return Ok(out.into()) };
            self.pay(name.len() + if out.is_empty() { FIRST_FIELD } else { FIELD });
            let value = fields.next_value_seed(self)?;
            out.insert(name, value);
        }
        while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(out.into())
    }
}

/// The same text without what serde refuses and the API server takes: halves of surrogate pairs, numbers beyond all
/// floats, and nesting deeper than [`DEEPEST`]. One pass, without recursion.
fn mended(text: &str) -> String {
    let mut out = text.as_bytes().to_vec();
    whole_surrogates(&mut out);
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (0, 0_usize);
    while let Some(byte) = bytes.get(at) {
        let rest = bytes.get(at..).unwrap_or_default();
        let is_number = matches!(byte, b'-' | b'0'..=b'9');
        let (length, inside) = match byte {
            b'"' => (string_length(rest), depth),
            b'[' | b'{' => (1, depth + 1),
            _ if is_number => (number_length(rest), depth),
            _ => (1, depth),
        };
        let starts_deep = inside > DEEPEST && depth == DEEPEST;
        match byte {
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => depth = inside,
        }
        if let Some(token) = out.get_mut(at..at + length) {
            let is_odd = is_number && (length > 300 || token.iter().any(|byte| matches!(byte, b'e' | b'E')));
            if is_odd || inside > DEEPEST {
                token.fill(b' ');
            }
            if (is_odd && inside <= DEEPEST) || starts_deep {
                token.iter_mut().take(1).for_each(|first| *first = b'0');
            }
        }
        at += length;
    }
    // Whole tokens were replaced by ASCII.
    String::from_utf8(out).unwrap_or_default()
}

/// Bytes of the string that begins here, with its quotes.
fn string_length(text: &[u8]) -> usize {
    let mut at = 1;
    while let Some(found) = text.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        if text.get(at + found) == Some(&b'"') {
            return at + found + 1;
        }
        at += found + 2;
    }
    text.len()
}

fn number_length(text: &[u8]) -> usize {
    let is_part = |byte: &&u8| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
    text.iter().take_while(is_part).count()
}

/// A line as JSON that serde takes, when it is none only by its bytes or by halves of surrogate pairs; no longer than it.
pub(crate) fn mended_line(line: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(line.len());
    for chunk in line.utf8_chunks() {
        out.extend_from_slice(chunk.valid().as_bytes());
        if !chunk.invalid().is_empty() {
            out.push(b'?');
        }
    }
    whole_surrogates(&mut out);
    (out != line).then_some(out)
}

/// Makes each half of a surrogate pair that stands alone the replacement character: `\ud800` is `\ufffd`.
fn whole_surrogates(text: &mut [u8]) {
    let mut at = 0;
    while let Some(found) = text.get(at..).and_then(|rest| memchr::memchr(b'\\', rest)) {
        at += found;
        let unit = unit(text.get(at..).unwrap_or_default());
        at += match unit {
            None => 2,
            Some(0xd800..=0xdbff)
                if matches!(self::unit(text.get(at + 6..).unwrap_or_default()), Some(0xdc00..=0xdfff)) =>
            {
                12
            }
            Some(0xd800..=0xdfff) => {
                if let Some(digits) = text.get_mut(at + 2..at + 6) {
                    digits.copy_from_slice(b"fffd");
                }
                6
            }
            Some(_) => 6,
        };
    }
}

/// The UTF-16 unit that `\uXXXX` is.
fn unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | u16::try_from(char::from(*digit).to_digit(16)?).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(text: &str) -> Value {
        Body::decode(text).value.expect("a value")
    }

    #[test]
    fn what_is_decoded_is_what_serde_json_decodes() {
        for text in [r#"{"a":[1,-2,3.5,18446744073709551615,"x\n\ud83d\ude00",null,true,{}],"":{"b":[]}}"#, "3", "\"\""]
        {
            assert_eq!(decoded(text), serde_json::from_str::<Value>(text).expect("JSON"), "{text}");
        }
        for text in ["", "{", "{} {}", "[1,]"] {
            assert!(Body::decode(text).cut && Body::decode(text).value.is_none(), "{text}");
        }
        let null = Body::decode("null");
        assert!(null.value.is_none() && !null.cut);
    }

    #[test]
    fn what_the_api_server_takes_and_serde_refuses_is_mended() {
        let with = |odd: &str| decoded(&format!(r#"{{"odd":{odd},"b":[{{"c":"x"}}],"d":7}}"#));
        for odd in [r#""\ud800""#, r#""\\\udfff\ud83d\ude00""#, "1e999", "-1E+999", "[2e400,3]", &"9".repeat(400)] {
            let value = with(odd);
            assert_eq!((&value["b"][0]["c"], &value["d"]), (&"x".into(), &7.into()), "{odd}");
        }
        assert_eq!(with(r#"["\\ud800\ud800","\ud83d\ude00"]"#)["odd"][0], "\\ud800\u{fffd}");
        for (open, close) in [("[", "]"), (r#"{"]\"[":"#, "}")] {
            let deep = format!("{}\"[\\\"é\"{}", open.repeat(9000), close.repeat(9000));
            let value = with(&deep);
            assert_eq!((&value["b"][0]["c"], &value["d"]), (&"x".into(), &7.into()));
            let mut inner = &value["odd"];
            let mut depth = 0;
            while let Some(next) = inner.get(0).or_else(|| inner.get("]\"[")) {
                (inner, depth) = (next, depth + 1);
            }
            assert_eq!((depth, inner), (DEEPEST - 1, &0.into()));
        }
    }

    #[test]
    fn costly_text_is_cut_off_and_says_so() {
        let objects = format!(r#"{{"spec":1,"pad":[{}{{}}]}}"#, r#"{"a":0},"#.repeat(MAX_LINE / 8 - 10));
        let body = Body::decode(&objects);
        assert!(body.cut);
        let kept = body.value.expect("a part of it")["pad"].as_array().map_or(0, Vec::len);
        assert!((10_000..BUDGET / FIRST_FIELD).contains(&kept), "{kept}");
        // Text without structure costs no more than its length.
        let string = format!(r#"{{"pad":"{}","spec":1}}"#, "a".repeat(MAX_LINE - 20));
        let body = Body::decode(&string);
        assert_eq!((body.cut, &body.value.expect("a value")["spec"]), (false, &1.into()));
    }
}
