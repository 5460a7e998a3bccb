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

/// What `kubelet-arg` comes to since 1.32: an item without `=` takes the next one for its value, and `config`,
/// `config-dir` are taken out.
#[derive(Debug, Default)]
pub(crate) struct KubeletArgs {
    /// What the kubelet is given.
    pub(crate) kept: Vec<UserArg>,
    /// Items that are lost since the one before had no `=`.
    pub(crate) swallowed: Vec<UserArg>,
    /// The file K3s copies among the kubelet's own, with the item that names it.
    pub(crate) config: Option<(UserArg, String)>,
    /// The folder it copies.
    pub(crate) config_dir: Option<(UserArg, String)>,
    /// Items that name neither: K3s ends at them.
    pub(crate) empty: Vec<UserArg>,
}

pub(crate) fn kubelet_args(user: Vec<UserArg>) -> KubeletArgs {
    let mut out = KubeletArgs::default();
    let mut items = user.into_iter();
    while let Some(item) = items.next() {
        let text = item.text.strip_prefix("--").unwrap_or(&item.text);
        let (key, value) = text.split_once('=').map_or((text, None), |(k, v)| (k, Some(v.to_owned())));
        let next = if value.is_none() { items.next() } else { None };
        let named = match key {
            "config" => &mut out.config,
            "config-dir" => &mut out.config_dir,
            _ => {
                out.swallowed.extend(next);
                out.kept.push(item);
                continue;
            }
        };
        match value.or_else(|| next.map(|n| n.text)).filter(|v| !v.is_empty()) {
            Some(path) => *named = Some((item, path)),
            None => out.empty.push(item),
        }
    }
    out
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
        let out = kubelet_args(user(&items));
        let texts = |v: Vec<UserArg>| v.into_iter().map(|a| a.text).collect::<Vec<_>>();
        assert_eq!(texts(out.kept), ["a", "c=2", "last"]);
        assert_eq!(texts(out.swallowed), ["b=1"]);
        assert_eq!(out.config.unwrap().1, "/y", "the last one counts, in either form");
        assert!(out.config_dir.is_none() && out.empty.is_empty());

        let out = kubelet_args(user(&["config=", "config+=/x", "config-dir=/d", "config"].map(str::to_owned)));
        assert_eq!(texts(out.kept), ["config+=/x"]);
        assert_eq!(texts(out.empty), ["config=", "config"]);
        assert_eq!((out.config.map(|c| c.1), out.config_dir.map(|c| c.1)), (None, Some("/d".to_owned())));
    }
}
