//! `picketd config -o json` against results of K3s' own merge code, file by file as they would lie on a node.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::process::Command;

use picket_k3s::REDACTED;
use serde_json::Value;

#[test]
fn every_merge_vector_comes_out_of_the_command() {
    let vectors: Value = serde_json::from_str(include_str!("../k3s/tests/data/config-merge-vectors.json")).unwrap();
    let cases = vectors["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 27);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("etc/systemd/system/k3s.service", "[Service]\nExecStart=/usr/local/bin/k3s server\n");
        for (path, text) in case["files"].as_object().unwrap() {
            put(&format!("etc/rancher/k3s/{path}"), text.as_str().unwrap());
        }
        let output = Command::new(env!("CARGO_BIN_EXE_picketd"))
            .args(["config", "-o", "json", "--root"])
            .arg(root.path())
            .output()
            .unwrap();
        let out: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{name}: {e}: {output:?}"));
        let options = out["options"].as_object().unwrap();
        let Some(expected) = case["expect_args"].as_array() else {
            assert!(options.is_empty(), "{name}: nothing is invented");
            // A missing main file is an error of the merge function alone: K3s then starts on defaults.
            assert_eq!(!out["problems"].as_array().unwrap().is_empty(), name != "missing_all", "{name}");
            continue;
        };
        let mut wanted: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for arg in expected {
            let (option, value) = arg.as_str().unwrap().trim_start_matches('-').split_once('=').unwrap();
            let option = match option {
                "t" => "token",
                "d" => "data-dir",
                "c" => "config",
                option => option,
            };
            let value = if option == "token" && !value.is_empty() { REDACTED } else { value };
            wanted.entry(option).or_default().push(value);
        }
        let mut got: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (option, values) in options {
            for value in values.as_array().unwrap() {
                got.entry(option).or_default().push(value["value"].as_str().unwrap());
                assert!(value["path"].is_string() && value["line"].is_u64(), "{name}: {option}: {value}");
            }
        }
        assert_eq!(got, wanted, "{name}");
    }
}
