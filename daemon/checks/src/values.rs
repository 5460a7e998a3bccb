//! Comparing values as their readers do: booleans, numbers and durations by meaning, lists by whole elements.

/// A boolean as Go's flag parser reads it.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A whole number as Go's flag parser reads it: a base by its prefix, octal after a plain zero, underscores between digits.
pub(crate) fn whole(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let (base, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, digits.get(2..)?),
        [b'0', b'o' | b'O', ..] => (8, digits.get(2..)?),
        [b'0', b'b' | b'B', ..] => (2, digits.get(2..)?),
        [b'0', _, ..] => (8, digits.get(1..)?),
        _ => (10, digits),
    };
    let after_digit = base != 10 || !digits.starts_with('_');
    // Rust's parser would take a second sign.
    if !after_digit || digits.ends_with('_') || digits.contains("__") || digits.starts_with(['+', '-']) {
        return None;
    }
    i64::from_str_radix(&format!("{sign}{}", digits.replace('_', "")), base).ok()
}

/// Whether two values mean the same.
pub(crate) fn same(found: &str, wanted: &str) -> bool {
    if found == wanted {
        return true;
    }
    if matches!(wanted, "true" | "false") {
        return boolean(found) == boolean(wanted);
    }
    if let (Some(a), Some(b)) = (whole(found), whole(wanted)) {
        return a == b;
    }
    // "0" and "0s" are the same duration.
    if let (Some(a), Some(b)) = (seconds(found), seconds(wanted)) {
        return a == b;
    }
    false
}

/// A duration in Go's form (`4h0m0s`, `1.5h`, `300ms`, `0`) or in days (`30d`), in seconds.
pub(crate) fn seconds(text: &str) -> Option<f64> {
    let text = text.trim();
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0.0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let (number, tail) = rest.split_at(digits);
        let number: f64 = number.parse().ok()?;
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        total += number
            * match unit {
                "ns" => 1e-9,
                "us" | "µs" | "μs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "d" => 86_400.0,
                _ => return None,
            };
        rest = tail;
    }
    Some(if negative { -total } else { total })
}

/// The elements of comma-separated lists, over repeated occurrences, with the blanks around them.
pub(crate) fn elements<'a>(values: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    values.into_iter().flat_map(|v| v.split(',')).filter(|e| !e.trim().is_empty()).collect()
}

/// An element a component does not take for the name it looks like: blanks count for it, an empty element too, and
/// quotes hold one together.
pub(crate) fn odd_element<'a>(values: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let odd = |e: &&str| e.is_empty() || e.trim() != *e || e.contains('"');
    values.into_iter().filter(|v| !v.is_empty()).flat_map(|v| v.split(',')).find(odd)
}

/// The host of `host:port`, `[v6]:port`, or of a bare address.
pub(crate) fn host(text: &str) -> &str {
    let text = text.trim();
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split_once(']').map_or(rest, |(host, _)| host);
    }
    match text.matches(':').count() {
        1 => text.split_once(':').map_or(text, |(host, _)| host),
        _ => text,
    }
}

/// Two elements are the same; `Name=false` compares the boolean by meaning.
pub(crate) fn same_element(found: &str, wanted: &str) -> bool {
    match (found.split_once('='), wanted.split_once('=')) {
        (Some((a, x)), Some((b, y))) => a.trim() == b.trim() && same(x.trim(), y.trim()),
        _ => found == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_compared_by_meaning() {
        assert!(same("False", "false") && same("0", "false") && same("T", "true"));
        assert!(same("0s", "0") && same("0h0m0s", "0") && !same("5m", "0"));
        assert!(same("012", "10") && !same("010", "10") && !same("60", "10"));
        assert!(!same("yes", "true"), "Go's flag parser refuses yes");
        assert!(!same("", "false"));
        assert!(!same(" false", "false"), "nor blanks");
    }

    #[test]
    fn numbers_are_read_as_go_reads_them() {
        for (text, number) in [
            ("30", 30),
            ("0", 0),
            ("+5", 5),
            ("-1", -1),
            ("011", 9),
            ("035", 29),
            ("0x1e", 30),
            ("0X_1E", 30),
            ("0o17", 15),
            ("0b1", 1),
            ("-0b11", -3),
            ("1_000", 1000),
            ("0_7", 7),
        ] {
            assert_eq!(whole(text), Some(number), "{text}");
        }
        for text in ["", "+", "08", "0x", "0xg", "_1", "1_", "1__0", "+-5", "0x-1", " 11", "1e3", "9223372036854775808"]
        {
            assert_eq!(whole(text), None, "{text:?}");
        }
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        assert_eq!(seconds("1m0s"), Some(60.0));
        assert_eq!(seconds("1.5h"), Some(5400.0));
        assert_eq!(seconds("300"), None);
        assert_eq!(seconds("30d"), Some(2_592_000.0));
        assert_eq!(seconds("-5m"), Some(-300.0));
        assert_eq!(seconds(""), None);
    }

    #[test]
    fn hosts_are_taken_from_addresses_with_and_without_ports() {
        assert_eq!(host("127.0.0.1:10249"), "127.0.0.1");
        assert_eq!(host("[::1]:10249"), "::1");
        assert_eq!(host("::1"), "::1");
        assert_eq!(host("0.0.0.0"), "0.0.0.0");
    }

    #[test]
    fn elements_are_whole() {
        assert_eq!(elements(["a, b", "", "c"]), ["a", " b", "c"]);
        assert_eq!(odd_element(["a,b", "", "c"]), None);
        for (value, odd) in [("a, b", " b"), ("a ", "a "), ("a,", ""), ("\"a,b\"", "\"a")] {
            assert_eq!(odd_element([value]), Some(odd), "{value:?}");
        }
        assert!(same_element("RotateKubeletServerCertificate=False", "RotateKubeletServerCertificate=false"));
        assert!(!same_element("AlwaysAdmitX", "AlwaysAdmit"));
    }
}
