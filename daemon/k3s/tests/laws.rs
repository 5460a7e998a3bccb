//! Whatever the files hold: no panic, no secret, and the laws of the merge.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use picket_k3s::{Ask, MemoryFiles, effective};
use picket_model::Role;
use proptest::prelude::*;

const MAIN: &str = "/etc/rancher/k3s/config.yaml";
const DROP_IN: &str = "/etc/rancher/k3s/config.yaml.d/a.yaml";

fn values(files: &MemoryFiles, name: &str) -> Vec<String> {
    let config = effective(files, &Ask { role: Some(Role::Server), ..Ask::default() });
    assert!(config.problems.is_empty(), "{:?}", config.problems);
    config.values(name).iter().map(|v| v.value.clone()).collect()
}

fn list(key: &str, items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|i| format!("\"{i}\"")).collect();
    format!("{key}: [{}]\n", items.join(", "))
}

fn items() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[a-z0-9=.]{1,8}", 0..5)
}

/// Text with the characters YAML, units and shells care about.
fn hostile() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop::sample::select(vec![
            "a",
            ":",
            " ",
            "\n",
            "- ",
            "\t",
            "'",
            "\"",
            "[",
            "]",
            "{",
            "}",
            "&a",
            "*a",
            "!!int",
            "|",
            ">",
            "#",
            "%",
            "<<",
            "\\",
            "$",
            "=",
            "token",
            "é",
            "\u{85}",
            "\u{feff}",
            "---",
            "0644",
            "~",
            "ExecStart=",
            "[Service]",
            "server",
            ",",
            "?",
        ]),
        0..60,
    )
    .prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn any_bytes_in_any_file(main in prop::collection::vec(any::<u8>(), 0..400), other in hostile(), unit in hostile()) {
        let files = MemoryFiles::new()
            .file(MAIN, main)
            .file(DROP_IN, other.as_bytes())
            .file("/etc/systemd/system/k3s.service", format!("[Service]\nExecStart=/k3s server {unit}\n{other}"))
            .file("/etc/init.d/k3s", other.as_bytes())
            .file("/var/lib/rancher/k3s/agent/etc/kubelet.conf.d/x.conf", unit.as_bytes());
        let config = effective(&files, &Ask::default());
        prop_assert!(serde_json::to_string(&config).is_ok());
    }

    #[test]
    fn hostile_text_in_the_main_file(text in hostile()) {
        let config = effective(&MemoryFiles::new().file(MAIN, text.as_bytes()), &Ask::default());
        if !config.files_understood() {
            prop_assert!(config.options.is_empty() && config.components.is_empty());
        }
    }

    #[test]
    fn plus_adds_and_plain_replaces(first in items(), second in items()) {
        let base = MemoryFiles::new().file(MAIN, list("tls-san", &first));
        let added = values(&base.clone().file(DROP_IN, list("tls-san+", &second)), "tls-san");
        prop_assert_eq!(added, [first.clone(), second.clone()].concat());
        let replaced = values(&base.file(DROP_IN, list("tls-san", &second)), "tls-san");
        prop_assert_eq!(replaced, second);
    }

    #[test]
    fn a_secret_never_shows(secret in "s3cr3t[a-z]{8}", tail in hostile()) {
        let text = format!("token: {secret}\nagent-token: \"{secret}\"\n{tail}");
        let config = effective(&MemoryFiles::new().file(MAIN, text), &Ask { role: Some(Role::Server), ..Ask::default() });
        let json = serde_json::to_string(&config).unwrap();
        prop_assert!(!json.contains(&secret), "{}", json);
    }

    #[test]
    fn a_token_in_a_wrong_place_never_shows(
        place in prop::sample::select(vec![
            "token-file: @", "write-kubeconfig-mode: @", "kubelet-arg: anonymous-auth=@", "kubelet-arg: ['@']",
            "kubelet-arg: [{token: '@'}]", "kubelet-arg: [{'@': a}]", "tokn: @", "'@': a", "? '@'\n", "node-label: [a, '@']",
            "server: https://@", "datastore-endpoint: @", "debug: '@'", "config: '@'", "data-dir: '@'",
            "kube-apiserver-arg: ['@=true']", "node-label: [['@']]", "'@+': a",
        ]),
        where_ in 0..5,
    ) {
        let token = format!("K10{}::server:s3cr3tword and more", "0a".repeat(32));
        let text = place.replace('@', &token);
        let files = match where_ {
            0 => MemoryFiles::new().file(MAIN, text),
            1 => MemoryFiles::new().file(DROP_IN, text),
            2 => MemoryFiles::new().file("/var/lib/rancher/k3s/agent/etc/kubelet.conf.d/x.conf", text).dir("/var/lib/rancher/k3s/server"),
            3 => MemoryFiles::new().file("/etc/systemd/system/k3s.service",
                format!("[Service]\nExecStart=/k3s server '--{}'\n", text.replacen(": ", "=", 1).replace('\'', ""))),
            _ => MemoryFiles::new().file("/var/lib/rancher/k3s/server/db/etcd/config", text),
        };
        for role in [Role::Server, Role::Agent] {
            let config = effective(&files, &Ask { role: Some(role), ..Ask::default() });
            let shown = format!("{} {config:?}", serde_json::to_string(&config).unwrap());
            prop_assert!(!shown.contains("s3cr3tword"), "{}", shown);
        }
    }
}
