//! How K3s lays a user's arguments over its defaults (`GetArgs`), and its odd reading of `kubelet-arg`.

use std::collections::BTreeMap;

use super::Defaults;
use crate::effective::{FlagValue, Flags, Layer};

/// One item of a `*-arg` option.
#[derive(Debug, Clone)]
pub(crate) struct UserArg {
    pub(crate) text: String,
    pub(crate) path: Option<String>,
    pub(crate) line: Option<u32>,
    pub(crate) layer: Layer,
}

/// How an argument stands to the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// `name=value`: the default is dropped.
    Replace,
    /// `name+=value`: after the default.
    Append,
    /// `name-=value`: before the default.
    Prepend,
}

/// Name, mode and value of an argument; the value is none without `=`.
pub(crate) fn cut(text: &str) -> (&str, Mode, Option<&str>) {
    let text = text.strip_prefix("--").unwrap_or(text);
    let (key, value) = text.split_once('=').map_or((text, None), |(k, v)| (k, Some(v)));
    let mode = match key.as_bytes().last() {
        Some(b'+') => Mode::Append,
        Some(b'-') => Mode::Prepend,
        _ => Mode::Replace,
    };
    (key.trim_end_matches(['+', '-']), mode, value)
}

/// The flags in force.
pub(crate) fn get_args(defaults: &Defaults, user: &[UserArg]) -> Flags {
    let default_value =
        |value: &String| FlagValue { value: value.clone(), path: None, line: None, layer: Layer::K3sDefault };
    let mut flags: Flags = BTreeMap::new();
    for arg in user {
        let (name, mode, value) = cut(&arg.text);
        let new = FlagValue {
            value: value.unwrap_or("true").to_owned(),
            path: arg.path.clone(),
            line: arg.line,
            layer: arg.layer,
        };
        let first = !flags.contains_key(name);
        let values = flags.entry(name.to_owned()).or_default();
        if first && mode != Mode::Replace {
            values.extend(defaults.get(name).map(default_value));
        }
        match mode {
            Mode::Replace | Mode::Append => values.push(new),
            Mode::Prepend => values.insert(0, new),
        }
    }
    for (name, value) in defaults {
        flags.entry(name.clone()).or_insert_with(|| vec![default_value(value)]);
    }
    flags
}

/// A value K3s itself looks at: the first match, in the plain form only.
pub(crate) fn arg_value<'a>(name: &str, user: &'a [UserArg]) -> Option<&'a str> {
    user.iter()
        .filter_map(|a| a.text.strip_prefix("--").unwrap_or(&a.text).split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value))
        .filter(|v| !v.is_empty())
}

/// What `kubelet-arg` comes to since 1.32: an item without `=` swallows the next one, and `config`, `config-dir` are
/// taken out. The second list holds what was swallowed.
pub(crate) fn kubelet_args(user: Vec<UserArg>) -> (Vec<UserArg>, Vec<UserArg>) {
    let mut kept = Vec::new();
    let mut swallowed = Vec::new();
    let mut items = user.into_iter();
    while let Some(item) = items.next() {
        let text = item.text.strip_prefix("--").unwrap_or(&item.text);
        let (key, value) = text.split_once('=').map_or((text, None), |(k, v)| (k, Some(v)));
        let is_config = matches!(key, "config" | "config-dir");
        if value.is_none()
            && let Some(next) = items.next()
            && !is_config
        {
            swallowed.push(next);
        }
        if !is_config {
            kept.push(item);
        }
    }
    (kept, swallowed)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Vectors {
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        name: String,
        defaults: Defaults,
        user_args: Vec<String>,
        expect: Vec<String>,
    }

    fn user(items: &[String]) -> Vec<UserArg> {
        let arg = |text: &String| UserArg { text: text.clone(), path: None, line: None, layer: Layer::ConfigFile };
        items.iter().map(arg).collect()
    }

    #[test]
    fn every_vector() {
        let text = include_str!("../../tests/data/component-args-vectors.json");
        let vectors: Vectors = serde_json::from_str(text).unwrap();
        assert_eq!(vectors.cases.len(), 17);
        for case in vectors.cases {
            let mut printed = Vec::new();
            for (name, values) in get_args(&case.defaults, &user(&case.user_args)) {
                printed.extend(values.iter().map(|v| format!("--{name}={}", v.value)));
            }
            assert_eq!(printed, case.expect, "{}", case.name);
        }
    }

    #[test]
    fn kubelet_arguments_swallow_and_are_taken_out() {
        let items = ["a", "b=1", "config=/x", "config", "/y", "c=2", "last"].map(str::to_owned);
        let (kept, swallowed) = kubelet_args(user(&items));
        let texts = |v: Vec<UserArg>| v.into_iter().map(|a| a.text).collect::<Vec<_>>();
        assert_eq!(texts(kept), ["a", "c=2", "last"]);
        assert_eq!(texts(swallowed), ["b=1"]);
    }
}
