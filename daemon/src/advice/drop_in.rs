//! Settings as they stand in a file of `config.yaml.d`.

use std::collections::BTreeMap;

use picket_k3s::OLD_NAMES;
use serde_json::Value;

/// A setting in a file of `config.yaml.d`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// `key: value`: replaces what earlier files say.
    Value(String),
    /// `key+:` and a list: adds to what earlier files say.
    Items(Vec<String>),
}

/// Settings by key, as they stand in a drop-in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DropIn(pub BTreeMap<String, Setting>);

/// The first line of a file that picket wrote.
const MARK: &str = "# Written by `picketd fix`. Lists add to those of earlier files (key+).";

/// A drop-in that cannot be added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {0} is not of the form picket writes; add the lines by hand")]
pub struct NotOurs(pub usize);

impl DropIn {
    /// Reads what [`DropIn::print`] wrote. Anything else was put there by somebody and is left alone.
    ///
    /// # Errors
    /// [`NotOurs`].
    pub fn parse(text: &str) -> Result<Self, NotOurs> {
        let mut out = Self::default();
        let mut list: Option<String> = None;
        for (number, line) in text.lines().enumerate() {
            let bad = || NotOurs(number + 1);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(item) = line.strip_prefix("- ") {
                let item: String = serde_json::from_str(item).map_err(|_| bad())?;
                let key = list.as_ref().ok_or_else(bad)?;
                match out.0.entry(key.clone()).or_insert_with(|| Setting::Items(Vec::new())) {
                    Setting::Items(items) => items.push(item),
                    Setting::Value(_) => return Err(bad()),
                }
            } else if let Some(key) = line.strip_suffix("+:") {
                list = Some(key.to_owned());
            } else {
                let (key, value) = line.split_once(": ").ok_or_else(bad)?;
                let value: String = serde_json::from_str(value).map_err(|_| bad())?;
                out.0.insert(key.to_owned(), Setting::Value(value));
                list = None;
            }
        }
        Ok(out)
    }

    /// Adds a setting. A flag that is given already is replaced; a list flag (`name+=`) keeps its other values.
    pub fn add(&mut self, key: &str, setting: Setting) {
        match (self.0.get_mut(key), setting) {
            (Some(Setting::Items(old)), Setting::Items(new)) => {
                for item in new {
                    if let Some((name, _)) = item.split_once('=').filter(|(name, _)| !name.ends_with('+')) {
                        old.retain(|o| o.split_once('=').is_none_or(|(n, _)| n != name));
                    }
                    if !old.contains(&item) {
                        old.push(item);
                    }
                }
            }
            (_, setting) => {
                self.0.insert(key.to_owned(), setting);
            }
        }
    }

    /// The same settings, under the old name of an option where that is the one in use. Both side by side would make
    /// one list of two.
    #[must_use]
    pub fn named_as(mut self, in_use: impl Fn(&str) -> bool) -> Self {
        for (old, new) in OLD_NAMES {
            if in_use(old)
                && !in_use(new)
                && let Some(setting) = self.0.remove(new)
            {
                self.0.insert(old.to_owned(), setting);
            }
        }
        self
    }

    /// The settings alone, as they stand in a file. Texts are quoted: YAML 1.1 reads numbers and booleans out of
    /// unquoted ones. (JSON's way to quote is YAML's too.)
    pub fn lines(&self) -> Vec<String> {
        let quoted = |text: &str| Value::from(text).to_string();
        let mut out = Vec::new();
        for (key, setting) in &self.0 {
            match setting {
                Setting::Value(value) => out.push(format!("{key}: {}", quoted(value))),
                Setting::Items(items) => {
                    out.push(format!("{key}+:"));
                    out.extend(items.iter().map(|item| format!("- {}", quoted(item))));
                }
            }
        }
        out
    }

    /// The whole file.
    pub fn print(&self) -> String {
        let mut text = format!("{MARK}\n");
        for line in self.lines() {
            text.push_str(&line);
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drop_in_is_read_back_and_added_to() {
        let mut one = DropIn::default();
        one.add(
            "kube-apiserver-arg",
            Setting::Items(vec!["audit-log-maxage=10".into(), "enable-admission-plugins+=A".into()]),
        );
        one.add("write-kubeconfig-mode", Setting::Value("0600".into()));
        let mut again = DropIn::parse(&one.print()).unwrap();
        assert_eq!(again, one);
        again.add(
            "kube-apiserver-arg",
            Setting::Items(vec!["audit-log-maxage=30".into(), "enable-admission-plugins+=B".into()]),
        );
        let wanted = ["enable-admission-plugins+=A", "audit-log-maxage=30", "enable-admission-plugins+=B"];
        assert_eq!(again.0["kube-apiserver-arg"], Setting::Items(wanted.map(str::to_owned).to_vec()));
    }

    #[test]
    fn what_somebody_else_wrote_is_not_taken_for_ours() {
        for (text, line) in [("a:\n  - b\n", 1), ("# x\n- \"b\"\n", 2), ("a: b\n", 1), ("a: [1]\n", 1)] {
            assert_eq!(DropIn::parse(text), Err(NotOurs(line)), "{text}");
        }
    }
}
