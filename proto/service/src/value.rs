//! Values of settings, with units: durations and sizes as a person writes them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is no value with a unit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{got:?} is not a {what}: {help}")]
pub struct ValueError {
    what: &'static str,
    help: &'static str,
    got: String,
}

/// A length of time: `500ms`, `5s`, `1h30m`, `7d`. A number without a unit is refused, except `0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

const SPAN_HELP: &str = "write a number with its unit, such as 500ms, 5s, 10m, 24h or 7d";
const SPAN_UNITS: [(&str, u64); 6] =
    [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)];

impl FromStr for Span {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let bad = || ValueError { what: "duration", help: SPAN_HELP, got: text.chars().take(64).collect() };
        let mut rest = text.trim();
        if rest == "0" {
            return Ok(Self(Duration::ZERO));
        }
        if rest.is_empty() {
            return Err(bad());
        }
        let mut total = 0u64;
        while !rest.is_empty() {
            let (number, tail) = split_number(rest).ok_or_else(bad)?;
            let end = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(end);
            let (_, millis) = SPAN_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(bad)?;
            total = number.checked_mul(*millis).and_then(|n| total.checked_add(n)).ok_or_else(bad)?;
            rest = tail.trim_start();
        }
        Ok(Self(Duration::from_millis(total)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if rest == 0 {
            return f.write_str("0s");
        }
        for (name, millis) in SPAN_UNITS.iter().rev().skip(1) {
            let count = rest / millis;
            rest %= millis;
            if count > 0 {
                write!(f, "{count}{name}")?;
            }
        }
        Ok(())
    }
}

/// A number of bytes: `512`, `64KiB`, `32MiB`, `10MB`. `k`, `M`, `G` alone mean powers of 1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

const BYTES_HELP: &str = "write a number of bytes, such as 65536, 64KiB, 32MiB or 10MB";
const BYTES_UNITS: [(&str, u64); 13] = [
    ("", 1),
    ("b", 1),
    ("k", 1 << 10),
    ("kib", 1 << 10),
    ("kb", 1000),
    ("m", 1 << 20),
    ("mib", 1 << 20),
    ("mb", 1_000_000),
    ("g", 1 << 30),
    ("gib", 1 << 30),
    ("gb", 1_000_000_000),
    ("tib", 1 << 40),
    ("tb", 1_000_000_000_000),
];

impl FromStr for Bytes {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let bad = || ValueError { what: "size", help: BYTES_HELP, got: text.chars().take(64).collect() };
        let (number, unit) = split_number(text.trim()).ok_or_else(bad)?;
        let unit = unit.trim().to_ascii_lowercase();
        let (_, factor) = BYTES_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(bad)?;
        number.checked_mul(*factor).map(Self).ok_or_else(bad)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, factor) in [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
            if self.0 >= factor && self.0.is_multiple_of(factor) {
                return write!(f, "{}{name}", self.0 / factor);
            }
        }
        write!(f, "{}", self.0)
    }
}

fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    Some((digits.parse().ok()?, rest.trim_start()))
}

macro_rules! as_text {
    ($name:ident, $expecting:literal) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl serde::de::Visitor<'_> for Visitor {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }

                    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<$name, E> {
                        number.to_string().parse().map_err(E::custom)
                    }

                    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<$name, E> {
                        number.to_string().parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_any(Visitor)
            }
        }
    };
}

as_text!(Span, "a duration such as \"5s\"");
as_text!(Bytes, "a size such as \"32MiB\"");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!("1h30m".parse(), Ok(Span(Duration::from_secs(5400))));
        assert_eq!("500 ms".parse(), Ok(Span(Duration::from_millis(500))));
        for bad in ["", "5", "s", "-1s", "1.5h", "5 parsecs", "99999999999999999999d", "18446744073709551615d"] {
            let error = bad.parse::<Span>().unwrap_err().to_string();
            assert!(error.contains("10m"), "{error}");
        }
    }

    #[test]
    fn sizes_know_both_families() {
        assert_eq!("32MiB".parse(), Ok(Bytes(32 << 20)));
        assert_eq!("10 MB".parse(), Ok(Bytes(10_000_000)));
        assert_eq!("512".parse(), Ok(Bytes(512)));
        for bad in ["", "MiB", "5 apples", "-5", "99999999999999999999"] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(millis in 0u64..10_000_000_000, bytes in any::<u64>()) {
            let span = Span(Duration::from_millis(millis));
            prop_assert_eq!(span.to_string().parse(), Ok(span));
            prop_assert_eq!(Bytes(bytes).to_string().parse(), Ok(Bytes(bytes)));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            text.parse::<Span>().ok();
            text.parse::<Bytes>().ok();
        }
    }
}
