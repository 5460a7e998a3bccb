//! The YAML reader, against what gopkg.in/yaml.v2 v2.4.0 answered: K3s reads its configuration with it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use picket_k3s::{Ask, EffectiveConfig, MemoryFiles, effective};
use picket_model::Role;

fn read(text: &str) -> EffectiveConfig {
    let node = MemoryFiles::new().file("/etc/rancher/k3s/config.yaml", text.as_bytes());
    effective(&node, &Ask { role: Some(Role::Server), ..Ask::default() })
}

/// Document and arguments, none where it was refused. Odd documents by hand, and random ones.
#[test]
fn every_document_reads_as_go_yaml_reads_it() {
    let vectors: Vec<(String, Option<Vec<String>>)> =
        serde_json::from_str(include_str!("data/yaml-vectors.json")).unwrap();
    assert!(vectors.len() > 1500);
    let mut wrong = Vec::new();
    for (text, expected) in vectors {
        let config = read(&text);
        let mut args: Vec<String> = config
            .options
            .iter()
            .flat_map(|(name, values)| values.iter().map(move |v| format!("{name}={}", v.value)))
            .collect();
        args.sort();
        // What a component makes of an argument is another matter.
        let read = config.problems.iter().all(|problem| problem.detail.contains(" ends at it, and K3s with it"));
        let got = read.then_some(args);
        if got != expected {
            wrong.push(format!("{text:?}: {got:?}, not {expected:?} {:?}", config.problems));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn broken_yaml_names_its_line_and_what_is_not_known_says_so() {
    for (text, line, says) in [
        ("debug: true\nnode-name: \"a\n", 2, "end of the file in a quoted text"),
        ("debug: true\nnode-label: [a\n", 3, "did not find expected ',' or ']'"),
        ("node-label:\n\t- a\n", 2, "cannot start any token (a tab"),
        ("debug: true\nnode-name\n", 2, "could not find expected ':'"),
        ("debug: true\nnode-name: \u{feff}\n", 2, "cannot be read: a byte order mark inside"),
        ("node-name: !!timestamp 2020-02-30\n", 1, "cannot be read: a value tagged !!timestamp"),
    ] {
        let problem = read(text).problems.into_iter().next().unwrap();
        assert_eq!(problem.line, Some(line), "{text:?}: {}", problem.detail);
        assert!(problem.detail.contains(says), "{text:?}: {}", problem.detail);
    }
}

#[test]
fn what_never_closes_comes_to_an_end() {
    for open in ["[", "{", "- [", "\"", "k: [a", "[a: ", "? ", "- ", "!", "&a [", "|\n  "] {
        let config = read(&open.repeat(2000));
        assert!(!config.problems.is_empty(), "{open:?}");
    }
}
