//! Comparing values as their readers do: booleans, numbers and durations by meaning, lists by whole elements.

use picket_model::flag_value::{boolean, whole};

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
