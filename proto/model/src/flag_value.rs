//! Values of options and flags as Go's `strconv` reads them: K3s and its components parse them with it.

/// A boolean (`strconv.ParseBool`).
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A whole number (`strconv.ParseInt` with base 0), underscores between digits or after a base.
pub fn whole(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let underscores = digits.contains('_');
    if underscores && (digits.starts_with('_') || digits.ends_with('_') || digits.contains("__")) {
        return None;
    }
    i64::try_from(integer(&text.replace('_', ""))?).ok()
}

/// A whole number without underscores: a base by its prefix, octal after a plain zero (`strconv.ParseInt` with base 0, and
/// `ParseUint` for what has no sign).
pub fn integer(text: &str) -> Option<i128> {
    let (negative, signed, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, true, text.get(1..)?),
        Some(b'+') => (false, true, text.get(1..)?),
        _ => (false, false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (base, digits) = if let Some(rest) = lower.strip_prefix("0x") {
        (16, rest)
    } else if let Some(rest) = lower.strip_prefix("0o") {
        (8, rest)
    } else if let Some(rest) = lower.strip_prefix("0b") {
        (2, rest)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, lower.get(1..)?)
    } else {
        (10, lower.as_str())
    };
    if digits.is_empty() || digits.starts_with(['+', '-']) {
        return None;
    }
    let magnitude = i128::from(u64::from_str_radix(digits, base).ok()?);
    let value = if negative { -magnitude } else { magnitude };
    // Without a sign up to 64 bits unsigned, with one only what fits a signed number.
    let fits = if signed { i64::try_from(value).is_ok() } else { true };
    fits.then_some(value)
}

#[cfg(test)]
mod tests {
    use super::{boolean, whole};

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
    fn booleans_are_what_go_takes_and_nothing_else() {
        assert_eq!([boolean("T"), boolean("False"), boolean("0")], [Some(true), Some(false), Some(false)]);
        assert_eq!([boolean("yes"), boolean(" true"), boolean("")], [None; 3]);
    }
}
