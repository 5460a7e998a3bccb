//! The kubelet's configuration where `kubelet-arg` names files of its own.

use std::fs;

use picket_model::Status::{self, Fail, Pass, Unknown};
use picket_tests::node::Profile;

use crate::{Node, built_in, json, rows};

const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
const FOLDER: &str = "/var/lib/rancher/k3s/agent/etc/kubelet.conf.d";

fn put(node: &Node, path: &str, text: &str) {
    let path = node.sample.path(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A server with these arguments of its kubelet.
fn with(args: &str) -> Node {
    let node = Node::new(Profile::DefaultServer);
    put(&node, "/etc/rancher/k3s/config.yaml.d/90-kubelet.yaml", &format!("kubelet-arg+: {args}\n"));
    put(&node, "/etc/k.yaml", &format!("{HEAD}makeIPTablesUtilChains: false\npodPidsLimit: 5\n"));
    put(&node, "/etc/k.d/deep/a.conf", &format!("{HEAD}podPidsLimit: 7\n"));
    node
}

fn says(node: &Node, control: &str) -> (Status, String) {
    let report = node.scan(&built_in());
    let row = rows(&report, control)[0];
    (row.status, row.observed.clone())
}

#[test]
fn the_file_kubelet_arg_names_is_judged_whichever_way_it_comes_to_the_kubelet() {
    for args in ["[config=/etc/k.yaml]", "[config, /etc/k.yaml]", "[config+=/etc/k.yaml]"] {
        let node = with(args);
        assert_eq!(says(&node, "kubelet-iptables-util-chains"), (Fail, "false".to_owned()), "{args}");
        assert_eq!(says(&node, "kubelet-pod-pids-limit"), (Pass, "5".to_owned()), "{args}");
    }
    let node = with("[config=/etc/k.yaml]");
    fs::remove_dir_all(node.sample.path(FOLDER)).unwrap();
    put(
        &node,
        "/var/log/k3s.log",
        "time=\"2026-01-01T00:00:00Z\" level=info msg=\"Starting k3s v1.31.9+k3s1 (abc)\"\n",
    );
    assert_eq!(says(&node, "kubelet-iptables-util-chains"), (Fail, "false".to_owned()), "a flag in 1.31");
    assert_eq!(says(&node, "kubelet-pod-pids-limit"), (Pass, "5".to_owned()));
}

#[test]
fn a_flag_written_with_underscores_is_the_same_flag_to_the_kubelet_and_unknown_to_the_others() {
    let node = with("[anonymous_auth=true, read_only_port=10255]");
    assert_eq!(says(&node, "kubelet-anonymous-auth"), (Fail, "true".to_owned()));
    // K3s passes its own spelling first, so the other one wins.
    assert_eq!(says(&node, "kubelet-read-only-port"), (Fail, "0, 10255".to_owned()));
    let both = with("[read_only_port=0, read-only-port=10255]");
    assert_eq!(says(&both, "kubelet-read-only-port").0, Pass, "in the order of the names, not of the arguments");
    let api = Node::new(Profile::DefaultServer);
    put(&api, "/etc/rancher/k3s/config.yaml.d/90.yaml", "kube-apiserver-arg: [anonymous_auth=true]\n");
    assert_eq!(says(&api, "apiserver-anonymous-auth").0, Unknown);
    let flags = &json(&api.scan(&built_in()));
    assert!(flags.to_string().contains("--anonymous_auth is given"), "{flags}");
}

#[test]
fn the_folder_kubelet_arg_names_is_judged() {
    assert_eq!(says(&with("[config-dir=/etc/k.d]"), "kubelet-pod-pids-limit"), (Pass, "7".to_owned()));
    let report = with("[config=/etc/k.yaml, config-dir=/etc/k.d/]").scan(&built_in());
    let row = rows(&report, "kubelet-pod-pids-limit")[0];
    assert_eq!((row.status, row.observed.as_str()), (Pass, "7"), "the folder comes after the file");
    assert_eq!(row.evidence[0].path.as_deref(), Some("/etc/k.d/deep/a.conf"));
}

#[test]
fn what_kubelet_arg_names_and_cannot_be_read_is_no_pass() {
    for args in ["[config=/etc/bad.yaml]", "[config+=/etc/bad.yaml]", "[config=k.yaml]", "[config-dir=/etc/bad.d]"] {
        let node = with(args);
        put(&node, "/etc/bad.yaml", "a: [\n");
        put(&node, "/etc/bad.d/a.conf", "a: [\n");
        assert_eq!(says(&node, "kubelet-iptables-util-chains").0, Unknown, "{args}");
        assert_eq!(says(&node, "kubelet-anonymous-auth").0, Unknown, "{args}");
    }
    let elsewhere = with("[config-dir+=/etc/k.d]");
    assert_eq!(says(&elsewhere, "kubelet-anonymous-auth").0, Unknown, "K3s' own drop-ins are not read then");
}

#[test]
fn a_file_with_which_the_kubelet_does_not_start_passes_nothing() {
    let judged = |path: &str, text: &str, args: &str| {
        let node = with(args);
        put(&node, path, text);
        let refused = says(&node, "trap-refused");
        let rows = node.scan(&built_in());
        let passed = rows.verdicts.iter().any(|v| v.control.starts_with("kubelet-pod") && v.status == Pass);
        let config = rows.verdicts.iter().any(|v| v.control == "kubelet-seccomp-default" && v.status == Pass);
        (refused.0, passed || config)
    };
    let drop_in = format!("{FOLDER}/50-a.conf");
    let settings = "podPidsLimit: 100\nseccompDefault: true\n";
    for text in ["", settings] {
        assert_eq!(judged(&drop_in, text, "[v=2]"), (Fail, false), "{text:?}");
        assert_eq!(judged("/etc/k.yaml", text, "[config=/etc/k.yaml]"), (Fail, false), "{text:?}");
        assert_eq!(judged("/etc/k.yaml", text, "[config+=/etc/k.yaml]"), (Fail, false), "{text:?}");
        assert_eq!(judged("/etc/k.d/a.conf", text, "[config-dir=/etc/k.d]"), (Fail, false), "{text:?}");
    }
    assert_eq!(judged(&drop_in, &format!("{HEAD}{settings}"), "[v=2]"), (Pass, true));
    let other = format!("{}{settings}", HEAD.replace("KubeletConfiguration", "KubeProxyConfiguration"));
    assert_eq!(judged(&drop_in, &other, "[v=2]"), (Pass, false), "it may start, and nobody knows with what");
}
