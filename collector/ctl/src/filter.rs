//! From what was said to what is asked.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use picket_model::{FindingState, Severity};
use picket_proto::{convert, v1};

use crate::args::Get;

/// A filter that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilterError {
    #[error("--severity")]
    Severity(#[from] picket_model::UnknownSeverity),
    #[error("--status: unknown state {0:?}: use open, blind, resolved or all")]
    Status(String),
    #[error("--since: {0:?} is neither a duration such as 30m, 24h or 7d nor an RFC 3339 time")]
    Since(String),
}

/// The wire's filter for what was said.
pub(crate) fn to_wire(get: &Get, now: Timestamp) -> Result<v1::Filter, FilterError> {
    let min_severity = match &get.severity {
        Some(text) => convert::severity_to_wire(text.parse::<Severity>()?),
        None => v1::Severity::Unspecified.into(),
    };
    let mut states = Vec::new();
    for word in &get.status {
        if word == "all" {
            states.extend(FindingState::ALL.map(convert::state_to_wire));
        } else {
            let state = FindingState::ALL.into_iter().find(|s| s.as_str() == word);
            states.push(convert::state_to_wire(state.ok_or_else(|| FilterError::Status(word.clone()))?));
        }
    }
    Ok(v1::Filter {
        nodes: get.node.clone(),
        selector: get.selector.clone(),
        min_severity,
        states,
        controls: get.control.clone(),
        since_unix_ms: match &get.since {
            Some(text) => since(text, now)?.as_millisecond(),
            None => 0,
        },
    })
}

fn since(text: &str, now: Timestamp) -> Result<Timestamp, FilterError> {
    let wrong = || FilterError::Since(text.to_owned());
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(unit_at);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit_s = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return Err(wrong()),
    };
    let ago = Duration::from_secs(number.checked_mul(unit_s).ok_or_else(wrong)?);
    let ago = SignedDuration::try_from(ago).map_err(|_| wrong())?;
    now.checked_sub(ago).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_takes_durations_and_times_and_refuses_the_rest() {
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        let check = |text: &str| since(text, now).ok().map(|t| t.to_string());
        assert_eq!(check("90m").as_deref(), Some("2026-11-22T10:30:00Z"));
        assert_eq!(check("7d").as_deref(), Some("2026-11-15T12:00:00Z"));
        assert_eq!(check("2026-11-22T00:00:00Z").as_deref(), Some("2026-11-22T00:00:00Z"));
        for wrong in ["", "7", "d", "7y", "-1h", "yesterday", "99999999999999999999d", "18446744073709551615w"] {
            assert_eq!(check(wrong), None, "{wrong}");
        }
    }
}
