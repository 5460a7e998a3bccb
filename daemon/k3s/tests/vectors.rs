//! The merge, against results of K3s' own code.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use picket_k3s::{Ask, EffectiveConfig, MemoryFiles, REDACTED, effective};
use picket_model::Role;
use serde::Deserialize;

#[derive(Deserialize)]
struct Vectors {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    files: BTreeMap<String, String>,
    expect_args: Option<Vec<String>>,
}

fn node(files: &BTreeMap<String, String>) -> MemoryFiles {
    files.iter().fold(MemoryFiles::new().dir("/etc/rancher/k3s"), |node, (name, text)| {
        node.file(&format!("/etc/rancher/k3s/{name}"), text.as_bytes())
    })
}

fn as_args(config: &EffectiveConfig) -> BTreeMap<&str, Vec<&str>> {
    config.options.iter().map(|(n, v)| (n.as_str(), v.iter().map(|v| v.value.as_str()).collect())).collect()
}

#[test]
fn every_merge_vector() {
    let vectors: Vectors = serde_json::from_str(include_str!("data/config-merge-vectors.json")).unwrap();
    assert_eq!(vectors.cases.len(), 27);
    for case in vectors.cases {
        let config = effective(&node(&case.files), &Ask { role: Some(Role::Server), ..Ask::default() });
        let Some(expected) = case.expect_args else {
            assert!(config.options.is_empty(), "{}: nothing is invented", case.name);
            // A missing main file is an error of the merge function alone: K3s then starts on defaults.
            let refused = case.name != "missing_all";
            assert_eq!(!config.problems.is_empty(), refused, "{}: {:?}", case.name, config.problems);
            assert_eq!(config.components.is_empty(), refused, "{}", case.name);
            continue;
        };
        let mut wanted: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for arg in &expected {
            let (name, value) = arg.trim_start_matches('-').split_once('=').unwrap();
            let name = match name {
                "t" => "token",
                "d" => "data-dir",
                "c" => "config",
                name => name,
            };
            let value = if name == "token" && !value.is_empty() { REDACTED } else { value };
            wanted.entry(name).or_default().push(value);
        }
        assert_eq!(as_args(&config), wanted, "{}", case.name);
        for (name, values) in &config.options {
            for value in values {
                assert!(value.line.is_some() && value.path.is_some(), "{}: {name}", case.name);
            }
        }
    }
}

#[derive(Deserialize)]
struct ArgVectors {
    cases: Vec<ArgCase>,
}

#[derive(Deserialize)]
struct ArgCase {
    name: String,
    defaults: BTreeMap<String, String>,
    user_args: Vec<String>,
    expect: Vec<String>,
}

#[test]
fn component_arguments_as_a_configuration_gives_them() {
    let vectors: ArgVectors = serde_json::from_str(include_str!("data/component-args-vectors.json")).unwrap();
    let mut tried = 0;
    for case in vectors.cases {
        // Those with K3s' own defaults can be tried through a whole configuration.
        if !case.defaults.contains_key("enable-admission-plugins") {
            continue;
        }
        tried += 1;
        let items: Vec<String> = case.user_args.iter().map(|a| format!("  - {a:?}\n")).collect();
        let text = format!("kube-apiserver-arg:\n{}", items.concat());
        let files = BTreeMap::from([("config.yaml".to_owned(), text)]);
        let config = effective(&node(&files), &Ask { role: Some(Role::Server), ..Ask::default() });
        let mut wanted: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for arg in &case.expect {
            let (name, value) = arg.strip_prefix("--").unwrap().split_once('=').unwrap();
            wanted.entry(name).or_default().push(value);
        }
        for (name, values) in wanted {
            let got: Vec<String> = config.flag("kube-apiserver", name).into_iter().map(|f| f.value).collect();
            assert_eq!(got, values, "{}: {name}", case.name);
        }
    }
    assert_eq!(tried, 14);
}
