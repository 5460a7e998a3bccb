//! What K3s or a component refuses for what stands in another file.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use picket_k3s::{Ask, EffectiveConfig, K3sVersion, MemoryFiles, effective};
use picket_model::Role;

const MAIN: &str = "/etc/rancher/k3s/config.yaml";
const FOLDER: &str = "/var/lib/rancher/k3s/agent/etc/kubelet.conf.d";
const WHOLE: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\npodPidsLimit: 5\n";

fn of(files: &MemoryFiles, config: &str, version: Option<(u32, u32)>) -> EffectiveConfig {
    let version = version.map(|(minor, patch)| K3sVersion::new(1, minor, patch));
    effective(&files.clone().file(MAIN, config), &Ask { role: Some(Role::Server), version, ..Ask::default() })
}

/// Where something is refused.
fn places(config: &EffectiveConfig) -> Vec<&str> {
    assert!(config.problems.iter().all(|p| !p.is_blindness()), "{:?}", config.problems);
    config.problems.iter().filter_map(|p| p.path.as_deref()).collect()
}

#[test]
fn a_file_of_the_kubelet_has_to_say_what_it_is() {
    let drop_in = format!("{FOLDER}/50.conf");
    for (text, refused) in [
        ("", true),
        ("# nothing\n", true),
        ("podPidsLimit: 5\n", true),
        ("{\"podPidsLimit\": 5}", true),
        ("kind: \"\"\npodPidsLimit: 5\n", true),
        ("kind: KubeletConfiguration\npodPidsLimit: 5\n", false),
        (WHOLE, false),
    ] {
        let files = MemoryFiles::new().file(&format!("{FOLDER}/00-k3s-defaults.conf"), WHOLE).file(&drop_in, text);
        let wanted: &[&str] = if refused { &[&drop_in] } else { &[] };
        assert_eq!(places(&of(&files, "debug: true\n", None)), wanted, "{text:?}");
        assert_eq!(places(&of(&files, "debug: true\n", Some((36, 2)))), wanted, "{text:?}");
        assert_eq!(places(&of(&files, "debug: true\n", Some((31, 9)))), [""; 0], "no such folder in 1.31");
        assert_eq!(places(&of(&files, "disable-agent: true\n", None)), [""; 0], "no kubelet");
        // A file and a folder that are copied.
        let files = MemoryFiles::new().file("/k.yaml", text).file("/k.d/deep/a.conf", text).dir(FOLDER);
        let both = "kubelet-arg: [config=/k.yaml, config-dir=/k.d/]\n";
        let wanted: &[&str] = if refused { &["/k.yaml", "/k.d/deep/a.conf"] } else { &[] };
        assert_eq!(places(&of(&files, both, Some((36, 2)))), wanted, "{text:?}");
    }
}

#[test]
fn the_file_the_kubelets_flag_names_has_to_say_its_version_too() {
    let kind = "kind: KubeletConfiguration\n";
    for (text, refused) in [("podPidsLimit: 5\n", true), (kind, true), (WHOLE, false)] {
        let files = MemoryFiles::new().file("/k.yaml", text);
        let wanted: &[&str] = if refused { &["/k.yaml"] } else { &[] };
        assert_eq!(places(&of(&files, "kubelet-arg: [config=/k.yaml]\n", Some((31, 9)))), wanted, "{text:?}");
        assert_eq!(places(&of(&files, "kubelet-arg: [config+=/k.yaml]\n", None)), wanted, "{text:?}");
    }
}

#[test]
fn what_k3s_writes_anew_is_not_judged_as_it_lies_there() {
    let files = MemoryFiles::new()
        .file(&format!("{FOLDER}/00-k3s-defaults.conf"), "")
        .file(&format!("{FOLDER}/10-cli-config.conf"), "")
        .file(&format!("{FOLDER}/20-cli-config-dir/a.conf"), "")
        .file(&format!("{FOLDER}/20-cli-config-dir/old.conf"), "")
        .file("/k.yaml", WHOLE)
        .file("/k.d/a.conf", WHOLE);
    let copied = of(&files, "kubelet-arg: [config=/k.yaml, config-dir=/k.d]\n", None);
    assert_eq!(places(&copied), [format!("{FOLDER}/20-cli-config-dir/old.conf")]);
    let names = ["10-cli-config.conf", "20-cli-config-dir/a.conf", "20-cli-config-dir/old.conf"];
    assert_eq!(places(&of(&files, "debug: true\n", None)), names.map(|name| format!("{FOLDER}/{name}")));
}

#[test]
fn anonymous_requests_are_a_matter_of_the_flag_or_of_the_file() {
    let head = "apiVersion: apiserver.config.k8s.io/v1beta1\nkind: AuthenticationConfiguration\n";
    let files = MemoryFiles::new()
        .file("/block.yaml", format!("{head}anonymous: {{enabled: false}}\n"))
        .file("/none.yaml", format!("{head}anonymous: null\njwt: []\n"));
    let refused = |file: &str, more: &str, version| {
        let config = of(&files, &format!("kube-apiserver-arg: [{file}{more}]\n"), version);
        !places(&config).is_empty()
    };
    let (block, none) = ("authentication-config=/block.yaml", "authentication-config=/none.yaml");
    for version in [None, Some((31, 4)), Some((33, 1)), Some((36, 2))] {
        assert!(refused(block, ", anonymous-auth=false", version), "{version:?}");
        assert!(refused(block, ", anonymous-auth=true", version), "{version:?}");
        assert!(!refused(none, ", anonymous-auth=false", version), "{version:?}");
        assert_eq!(refused(block, "", version), version == Some((31, 4)), "K3s' own flag beside it: {version:?}");
    }
    assert!(refused("authentication-config+=/block.yaml", "", Some((36, 2))), "K3s does not see this form");
    assert!(!refused("authentication-config=/gone.yaml", ", anonymous-auth=false", None), "not seen");
}

#[test]
fn authorizers_stand_in_the_file_or_in_flags() {
    let refused = |items: &str, version| {
        let config = of(&MemoryFiles::new(), &format!("kube-apiserver-arg: [{items}]\n"), version);
        !places(&config).is_empty()
    };
    for version in [None, Some((31, 4)), Some((32, 4)), Some((36, 2))] {
        assert!(refused("authorization-config=/a.yaml, authorization-mode=RBAC", version), "{version:?}");
        assert!(refused("authorization-config+=/a.yaml", version), "K3s does not see this form");
        assert!(refused("authorization-config=/a.yaml, authorization-webhook-version=v1", version), "{version:?}");
        assert_eq!(refused("authorization-config=/a.yaml", version), version == Some((31, 4)), "{version:?}");
        assert!(!refused("authorization-mode=Node", version), "{version:?}");
    }
}
