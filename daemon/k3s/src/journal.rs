//! Lines of K3s' own log: its version, and the flags a component was started with.

use std::collections::BTreeMap;

use crate::options::without_tokens;
use crate::version::K3sVersion;

/// The version of the last start in these lines (`Starting k3s v…`, on agents `Starting k3s agent v…`).
pub fn started_version(lines: &str) -> Option<K3sVersion> {
    lines.lines().rev().find_map(|line| {
        let after = line.split_once("Starting k3s ")?.1;
        let after = after.strip_prefix("agent ").unwrap_or(after);
        after.split([' ', '"']).next()?.parse().ok()
    })
}

/// Flags of a component's last `Running <component> …` line: name to values. A cross-check only; values with a space
/// cannot be told from two flags, so they end at the next ` --`.
pub fn running_flags(lines: &str, component: &str) -> Option<BTreeMap<String, Vec<String>>> {
    let start = format!("msg=\"Running {component} --");
    let line = lines.lines().rev().find_map(|l| l.split_once(&start).map(|(_, rest)| rest))?;
    let mut message = String::new();
    let mut escaped = false;
    for c in line.chars() {
        match (escaped, c) {
            (false, '\\') => escaped = true,
            (false, '"') => break,
            (true, 'n') => {
                message.push('\n');
                escaped = false;
            }
            (_, c) => {
                message.push(c);
                escaped = false;
            }
        }
    }
    let mut flags: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for flag in message.split(" --") {
        let (name, value) = flag.split_once('=').unwrap_or((flag, "true"));
        flags.entry(without_tokens(name).into_owned()).or_default().push(without_tokens(value).into_owned());
    }
    Some(flags)
}
