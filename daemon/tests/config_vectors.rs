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

/// A mounted disk has no journal; the program on it says how it was built.
#[test]
fn the_version_comes_from_the_program() {
    let text = |version: &str| {
        let noise = "x".repeat(300_000);
        format!("\u{7f}ELF{noise} -X github.com/k3s-io/k3s/pkg/version.Version={version} -X a=b {noise}")
    };
    let node = |files: &[(&str, &str)]| {
        let root = tempfile::tempdir().unwrap();
        let unit = ("etc/systemd/system/k3s.service", "[Service]\nExecStart=/opt/bin/k3s server\n");
        for (path, text) in files.iter().chain([&unit]) {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let output = Command::new(env!("CARGO_BIN_EXE_picketd"))
            .args(["config", "-o", "json", "--root"])
            .arg(root.path())
            .output()
            .unwrap();
        let out: Value = serde_json::from_slice(&output.stdout).unwrap();
        (out["version"].clone(), out["components"]["kubelet"]["anonymous-auth"].is_array())
    };
    let (old, new) = (text("v1.31.4+k3s1"), text("v1.35.2+k3s2"));
    assert_eq!(node(&[]), (Value::Null, false));
    assert_eq!(node(&[("opt/bin/k3s", &old)]), ("v1.31.4+k3s1".into(), true));
    let unpacked = "var/lib/rancher/k3s/data/current/bin/k3s";
    assert_eq!(node(&[(unpacked, &new)]), ("v1.35.2+k3s2".into(), false));
    assert_eq!(node(&[("opt/bin/k3s", &old), (unpacked, &new)]), ("v1.31.4+k3s1".into(), true), "the unit decides");
    // A log of the last start is nearer to it than a program that may have been replaced since.
    let log = "time=\"2026-01-01T00:00:00Z\" level=info msg=\"Starting k3s v1.33.1+k3s1 (abc)\"\n";
    assert_eq!(node(&[("opt/bin/k3s", &old), ("var/log/k3s.log", log)]), ("v1.33.1+k3s1".into(), false));
}
