//! What an unquoted scalar means in go-yaml v2, and how Go prints numbers.

use picket_model::flag_value::integer;

use super::Value;

/// The value of a scalar without quotes and without a tag.
pub(crate) fn resolve(raw: &str) -> Value {
    let Some(first) = raw.bytes().next() else { return Value::Null };
    match first {
        b'y' | b'Y' | b'n' | b'N' | b't' | b'T' | b'f' | b'F' | b'o' | b'O' | b'~' => word(raw),
        b'.' => special_float(raw).or_else(|| point_float(raw)).map_or_else(|| text(raw), Value::Float),
        b'+' | b'-' | b'0'..=b'9' => number(raw),
        _ => text(raw),
    }
}

fn text(raw: &str) -> Value {
    Value::Text(raw.to_owned())
}

fn word(raw: &str) -> Value {
    match raw {
        "~" | "null" | "Null" | "NULL" => Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Value::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Value::Bool(false),
        _ => text(raw),
    }
}

fn special_float(raw: &str) -> Option<f64> {
    match raw {
        ".nan" | ".NaN" | ".NAN" => Some(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Some(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

/// A float that begins with its point: Go takes underscores between digits here.
fn point_float(raw: &str) -> Option<f64> {
    let digit = |i: usize| raw.as_bytes().get(i).is_some_and(u8::is_ascii_digit);
    let between = raw.bytes().enumerate().all(|(i, b)| b != b'_' || (i > 0 && digit(i - 1) && digit(i + 1)));
    if between { float(&raw.replace('_', "")) } else { None }
}

fn number(raw: &str) -> Value {
    if let Some(special) = special_float(raw) {
        return Value::Float(special);
    }
    let plain = raw.replace('_', "");
    if let Some(int) = integer(&plain) {
        return Value::Int(int);
    }
    if let Some(float) = float(&plain) {
        return Value::Float(float);
    }
    text(raw)
}

/// A float of the form go-yaml accepts: digits, a point, an exponent. What does not fit is none.
fn float(text: &str) -> Option<f64> {
    let digits_of = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
    let body = text.strip_prefix(['+', '-']).unwrap_or(text);
    let whole = digits_of(body);
    let mut rest = body.get(whole..)?;
    if let Some(after) = rest.strip_prefix('.') {
        let fraction = digits_of(after);
        if whole == 0 && fraction == 0 {
            return None;
        }
        rest = after.get(fraction..)?;
    } else if whole == 0 {
        return None;
    }
    if let Some(exponent) = rest.strip_prefix(['e', 'E']) {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        let digits = digits_of(exponent);
        if digits == 0 || digits != exponent.len() {
            return None;
        }
    } else if !rest.is_empty() {
        return None;
    }
    text.parse::<f64>().ok().filter(|f| f.is_finite())
}

/// A float as Go's `%v` prints it: shortest digits, an exponent from 1e6 on and below 0.0001.
pub(crate) fn float_text(float: f64) -> String {
    if float.is_nan() {
        return "NaN".to_owned();
    }
    if float.is_infinite() {
        return if float > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    if float == 0.0 {
        return if float.is_sign_negative() { "-0" } else { "0" }.to_owned();
    }
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..GO_EXPONENT_FROM).contains(&exponent) {
        return format!("{float}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}

/// From this decimal exponent on Go prints a float with an exponent.
const GO_EXPONENT_FROM: i32 = 6;
