//! The one-shot commands as programs: exit codes, forms of output, words on wrong use.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::process::{Command, Output};

use picket_tests::node::{MOMENT, Profile, SampleNode};
use serde_json::Value;

fn picketd(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_picketd")).args(args).output().unwrap()
}

struct Node {
    _dir: tempfile::TempDir,
    root: String,
}

fn node(profile: Profile) -> Node {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    SampleNode::build(profile, &root).unwrap();
    Node { root: root.to_str().unwrap().to_owned(), _dir: dir }
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn scan_prints_the_contract() {
    let node = node(Profile::DefaultServer);
    let out = json(&picketd(&["scan", "--root", &node.root, "--at", MOMENT, "-o", "json"]));
    assert_eq!(out["schema"], "picket.scan/v1");
    assert_eq!(out["node"]["role"], "server");
    let counted = ["pass", "fail", "unknown", "not_applicable", "manual"].map(|k| out["summary"][k].as_u64().unwrap());
    let mut controls: Vec<_> = out["verdicts"].as_array().unwrap().iter().map(|v| v["control"].to_string()).collect();
    controls.sort();
    controls.dedup();
    assert_eq!(counted.iter().sum::<u64>(), controls.len() as u64);
    for verdict in out["verdicts"].as_array().unwrap() {
        for key in ["control", "subject", "status", "severity", "title", "observed", "expected", "remedy"] {
            assert!(verdict[key].is_string(), "{key} of {verdict}");
        }
        assert!(verdict["evidence"].is_array() && verdict["cis"].is_object(), "{verdict}");
    }
}

#[test]
fn exit_codes_tell_found_wrong_use_and_not_done_apart() {
    let node = node(Profile::DefaultServer);
    let code = |args: &[&str]| picketd(args).status.code().unwrap();
    let scan = |more: &[&str]| {
        let mut args = vec!["scan", "--root", node.root.as_str(), "--at", MOMENT, "-o", "csv"];
        args.extend(more);
        code(&args)
    };
    assert_eq!(scan(&[]), 0);
    assert_eq!(scan(&["--fail-on", "high"]), 1);
    assert_eq!(scan(&["--fail-on", "awful"]), 2);
    assert_eq!(scan(&["--benchmark", "99.9"]), 2);
    assert_eq!(code(&["scan", "--at", "yesterday"]), 2);
    assert_eq!(code(&["sacn"]), 2);
    assert_eq!(code(&["scan", "--root", "/no/such/folder"]), 3);
    assert_eq!(code(&["--help"]), 0);
    let missing = picketd(&["certs", "--root", "/no/such/folder"]);
    let words = String::from_utf8(missing.stderr).unwrap();
    assert!(words.contains("/no/such/folder") && missing.stdout.is_empty(), "{words}");
}

#[test]
fn every_form_is_well_formed() {
    let node = node(Profile::HardenedServer);
    let scan = |form: &str| {
        let out = picketd(&["scan", "--root", &node.root, "--at", MOMENT, "-o", form]);
        assert!(out.status.success());
        String::from_utf8(out.stdout).unwrap()
    };
    let rows = json(&picketd(&["scan", "--root", &node.root, "--at", MOMENT, "-o", "json"]))["verdicts"]
        .as_array()
        .unwrap()
        .len();
    let sarif: Value = serde_json::from_str(&scan("sarif")).unwrap();
    assert_eq!(sarif["version"], "2.1.0");
    assert_eq!(sarif["runs"][0]["results"].as_array().unwrap().len(), rows);
    let ocsf = scan("ocsf");
    assert_eq!(ocsf.lines().count(), rows);
    for line in ocsf.lines() {
        assert_eq!(serde_json::from_str::<Value>(line).unwrap()["class_uid"], 2003);
    }
    let mut csv = csv::Reader::from_reader(scan("csv").into_bytes().leak() as &[u8]);
    assert_eq!(csv.records().map(Result::unwrap).count(), rows);
    let junit = scan("junit");
    assert_eq!(junit.matches("<testcase ").count(), rows);
    assert!(junit.starts_with("<?xml") && junit.trim_end().ends_with("</testsuites>"));
    let table = scan("table");
    assert!(!table.contains('\u{1b}'), "no colours in a pipe");
    assert!(table.contains("Controls: "));
}

#[test]
fn certs_prints_every_certificate() {
    let node = node(Profile::DefaultServer);
    let out = json(&picketd(&["certs", "--root", &node.root, "--at", MOMENT, "-o", "json"]));
    let all = out["certificates"].as_array().unwrap();
    let find = |file: &str, index: u64| {
        all.iter().find(|c| c["file"].as_str().unwrap().ends_with(file) && c["index"] == index).unwrap()
    };
    let admin = find("/tls/client-admin.crt", 0);
    let subject = admin["subject"].as_str().unwrap();
    assert!(subject.contains("CN=system:admin") && subject.contains("O=system:masters"), "{subject}");
    assert_eq!((&admin["kind"], &admin["served_match"]), (&Value::from("client"), &Value::Null));
    assert_eq!(admin["days_left"], 364);
    let ca = find("/tls/server-ca.crt", 0);
    assert_eq!((&ca["kind"], &ca["serial"]), (&Value::from("ca"), &Value::from("00")));
    assert_eq!(find("/dynamic-cert.json", 0)["found_in"], "dynamic-cert");
    assert_eq!(find("/k3s.yaml", 1)["found_in"], "kubeconfig");
    assert!(out["unreadable"].as_array().unwrap().is_empty());
}

#[test]
fn certs_looks_everywhere_and_names_what_gives_none() {
    let node = node(Profile::DefaultServer);
    let tls = Path::new(&node.root).join("var/lib/rancher/k3s/server/tls");
    let pem = std::fs::read(tls.join("client-admin.crt")).unwrap();
    let kept = ["root-ca.pem", "etcd/root-ca.pem", "temporary-certs/loopback.crt", "cloud-controller-manager/x.crt"];
    for name in kept {
        std::fs::create_dir_all(tls.join(name).parent().unwrap()).unwrap();
        std::fs::write(tls.join(name), &pem).unwrap();
    }
    std::fs::write(tls.join("client-bom.crt"), [b"\xef\xbb\xbf", pem.as_slice()].concat()).unwrap();
    std::fs::write(tls.join("client-cut.crt"), &pem[..300]).unwrap();
    std::fs::write(tls.join("client-large.crt"), [pem.as_slice(), &[b'\n'; 10 << 20]].concat()).unwrap();
    std::os::unix::fs::symlink("/nowhere.crt", tls.join("client-link.crt")).unwrap();
    let late = "2037-01-01T00:00:00Z";
    let out = json(&picketd(&["certs", "--root", &node.root, "--at", late, "-o", "json"]));
    let named = |list: &str, name: &str| {
        let all = out[list].as_array().unwrap();
        all.iter().any(|c| c["file"].as_str().unwrap().ends_with(&format!("/server/tls/{name}")))
    };
    for name in kept {
        assert!(named("certificates", name), "{name}");
    }
    for name in ["client-bom.crt", "client-cut.crt", "client-large.crt", "client-link.crt"] {
        assert!(named("unreadable", name) && !named("certificates", name), "{name}");
    }
    assert!(out["certificates"].as_array().unwrap().iter().all(|c| c["validity"] == "expired"));
    let early = picketd(&["certs", "--root", &node.root, "--at", "2020-01-01T00:00:00Z"]);
    assert!(String::from_utf8_lossy(&early.stdout).contains("not yet valid"));
}

#[test]
fn config_prints_where_each_value_comes_from() {
    let node = node(Profile::HardenedServer);
    let drop_in = Path::new(&node.root).join("etc/rancher/k3s/config.yaml.d");
    std::fs::create_dir_all(&drop_in).unwrap();
    std::fs::write(drop_in.join("99-loose.yaml"), "write-kubeconfig-mode: \"0644\"\nno-such-option: 1\n").unwrap();
    let out = json(&picketd(&["config", "--root", &node.root, "-o", "json"]));
    let mode = out["options"]["write-kubeconfig-mode"].as_array().unwrap().last().unwrap();
    assert_eq!(mode["value"], "0644");
    assert_eq!((&mode["layer"], &mode["line"]), (&Value::from("drop-in"), &Value::from(1)));
    assert_eq!(out["options"]["no-such-option"][0]["known"], false);
    assert_eq!(out["components"]["kube-apiserver"]["anonymous-auth"][0]["layer"], "k3s-default");
    assert!(out["components"]["kube-apiserver"]["advertise-address"].is_null());
}

#[test]
fn config_shows_the_files_components_take_settings_from() {
    let table = |profile| {
        let node = node(profile);
        let out = picketd(&["config", "--root", &node.root]);
        assert!(out.status.success());
        String::from_utf8(out.stdout).unwrap()
    };
    let from = |text: &str, title: &str| text.split_once(title).map(|(_, rest)| format!("{title}{rest}")).unwrap();
    insta::assert_snapshot!("config_kubelet", from(&table(Profile::DefaultServer), "kubelet files"));
    insta::assert_snapshot!("config_etcd", from(&table(Profile::EtcdServer), "etcd file"));
}

#[test]
fn config_tells_what_could_not_be_read_from_what_k3s_would_refuse() {
    let node = node(Profile::DefaultServer);
    let root = Path::new(&node.root);
    let drop_in = root.join("etc/systemd/system/k3s.service.d");
    std::fs::create_dir_all(&drop_in).unwrap();
    std::fs::write(drop_in.join("10.conf"), "[Service]\nEnvironmentFile=/etc/a.env\n").unwrap();
    // A folder can no more be read than a file of somebody else.
    std::fs::create_dir_all(root.join("etc/a.env")).unwrap();
    std::fs::create_dir_all(root.join("etc/rancher/k3s/config.yaml.d")).unwrap();
    std::fs::write(root.join("etc/rancher/k3s/config.yaml.d/90.yaml"), "debug: maybe\n").unwrap();
    let out = String::from_utf8(picketd(&["config", "--root", &node.root]).stdout).unwrap();
    let section = |title: &str| {
        let (_, rest) = out.split_once(title).unwrap_or_else(|| panic!("no {title:?} in {out}"));
        rest.split("\n\n").next().unwrap().to_owned()
    };
    assert!(section("\nK3s would not start:").contains("`debug` needs true or false"), "{out}");
    assert!(!section("\nK3s would not start:").contains("a.env"), "{out}");
    assert!(section("\nNot read, and it may decide (run as root):").contains("/etc/a.env"), "{out}");
    assert!(out.contains("\nkube-apiserver (as far as could be read; see below)\n"), "{out}");
    let out = json(&picketd(&["config", "--root", &node.root, "-o", "json"]));
    assert_eq!(out["unread"][0]["path"], "/etc/a.env");
}

#[test]
fn certs_that_can_all_not_be_read_are_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let tls = dir.path().join("var/lib/rancher/k3s/server/tls");
    std::fs::create_dir_all(&tls).unwrap();
    let code = || picketd(&["certs", "--root", dir.path().to_str().unwrap()]).status.code();
    assert_eq!(code(), Some(0), "nothing is there to be read");
    std::fs::write(tls.join("client-admin.crt"), "no certificate\n").unwrap();
    let out = picketd(&["certs", "--root", dir.path().to_str().unwrap(), "-o", "json"]);
    assert_eq!(out.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&out.stderr).contains("client-admin.crt"));
    let out: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(out["unreadable"].as_array().unwrap().len(), 1, "it is listed all the same");
}
