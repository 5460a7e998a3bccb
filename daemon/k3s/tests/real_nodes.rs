//! Whole nodes of v1.36.2, against what K3s itself logged there.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use picket_k3s::{Ask, HostFacts, K3sVersion, Layer, MemoryFiles, effective, running_flags};
use picket_model::Role;

const COMPONENTS: [&str; 6] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "cloud-controller-manager",
    "kubelet",
    "kube-proxy",
];

fn add(node: MemoryFiles, folder: &Path, at: &str) -> MemoryFiles {
    let mut node = node;
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{at}/{}", entry.file_name().to_str().unwrap());
        node = if entry.file_type().unwrap().is_dir() {
            add(node, &entry.path(), &path)
        } else {
            node.file(&path, fs::read(entry.path()).unwrap())
        };
    }
    node
}

fn load(name: &str) -> (MemoryFiles, String) {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/nodes").join(name);
    let mut node = add(MemoryFiles::new(), &base.join("root"), "");
    for folder in fs::read_to_string(base.join("folders.txt")).unwrap().lines() {
        node = node.dir(folder);
    }
    (node, fs::read_to_string(base.join("journal.txt")).unwrap())
}

fn compare(name: &str, ask: Ask<'_>, left_out: &[(&str, &str)]) {
    let (files, journal) = load(name);
    let config = effective(&files, &ask);
    assert_eq!(config.problems, [], "{name}");
    for component in COMPONENTS {
        let ours: Option<BTreeMap<String, Vec<String>>> = config
            .components
            .get(component)
            .map(|flags| flags.iter().map(|(n, v)| (n.clone(), v.iter().map(|v| v.value.clone()).collect())).collect());
        let mut theirs = running_flags(&journal, component);
        if let Some(theirs) = &mut theirs {
            theirs.retain(|flag, _| !left_out.contains(&(component, flag.as_str())));
        }
        assert_eq!(ours, theirs, "{name}: {component}");
    }
}

const HOST_DEPENDENT: [(&str, &str); 2] = [("kube-apiserver", "advertise-address"), ("kubelet", "node-ip")];

#[test]
fn flags_as_logged_with_the_version_known() {
    for name in ["default-server", "hardened-server", "agent", "etcd-server"] {
        let (_, journal) = load(name);
        compare(name, Ask { journal: Some(&journal), ..Ask::default() }, &HOST_DEPENDENT);
    }
}

#[test]
fn flags_as_logged_from_the_folder_alone() {
    for name in ["default-server", "hardened-server", "etcd-server"] {
        compare(name, Ask::default(), &HOST_DEPENDENT);
    }
    // Nothing in an agent's folder rules out the versions that do not pass this flag.
    let [address, ip] = HOST_DEPENDENT;
    compare("agent", Ask::default(), &[address, ip, ("kubelet", "read-only-port")]);
}

#[test]
fn with_the_host_nothing_is_left_out() {
    for (name, ip) in [("default-server", "10.98.0.1"), ("hardened-server", "10.99.0.1"), ("agent", "10.99.0.2")] {
        let host = HostFacts { hostname: Some("other".to_owned()), node_ips: vec![ip.to_owned()] };
        compare(name, Ask { host: Some(&host), version: Some(K3sVersion::new(1, 36, 2)), ..Ask::default() }, &[]);
    }
}

/// An agent of 1.31, when the kubelet took everything as flags.
#[test]
fn flags_of_an_old_agent() {
    let journal = include_str!("data/agent-1.31.log");
    let files = MemoryFiles::new()
        .file("/etc/rancher/k3s/config.yaml", "node-name: agent-1\nprotect-kernel-defaults: true\n")
        .file("/etc/systemd/system/k3s-agent.service", "[Service]\nExecStart=/usr/local/bin/k3s agent\n");
    let config = effective(&files, &Ask { version: Some(K3sVersion::new(1, 31, 4)), ..Ask::default() });
    for component in ["kubelet", "kube-proxy"] {
        let ours: BTreeMap<String, Vec<String>> = config.components[component]
            .iter()
            .map(|(n, v)| (n.clone(), v.iter().map(|v| v.value.clone()).collect()))
            .collect();
        let mut theirs = running_flags(journal, component).unwrap();
        // What the host and the server decide.
        theirs
            .retain(|flag, _| !["node-ip", "resolv-conf", "cgroup-driver", "cloud-provider"].contains(&flag.as_str()));
        assert_eq!(ours, theirs, "{component}");
    }
}

#[test]
fn the_rest_of_a_node() {
    let (files, journal) = load("agent");
    let config = effective(&files, &Ask { journal: Some(&journal), ..Ask::default() });
    assert_eq!(config.role, Some(Role::Agent));
    assert_eq!(config.version, Some("v1.36.2+k3s1".parse().unwrap()));
    assert_eq!(config.unit.as_deref(), Some("/etc/systemd/system/k3s-agent.service"));
    let token = config.option("token").unwrap();
    assert_eq!((token.value.as_str(), token.layer, token.line), ("<redacted>", Layer::Environment, Some(1)));
    assert_eq!(config.option("server").unwrap().value, "https://10.99.0.1:6443");
    assert!(config.bool_option("protect-kernel-defaults"));
    let kubelet = config.kubelet_config.unwrap();
    assert_eq!(kubelet["protectKernelDefaults"], true);
    assert_eq!(kubelet["authentication"]["anonymous"]["enabled"], false);

    let (files, _) = load("hardened-server");
    let config = effective(&files, &Ask::default());
    assert!(!config.has_kubelet() && config.kubelet_config.is_none());
    let log = config.flag("kube-apiserver", "audit-log-path");
    assert_eq!((log[0].value.as_str(), log[0].line), ("/var/lib/rancher/k3s/server/logs/audit.log", Some(20)));

    let (files, _) = load("etcd-server");
    let config = effective(&files, &Ask::default());
    assert_eq!(config.etcd_config.unwrap()["client-transport-security"]["client-cert-auth"], true);
}
