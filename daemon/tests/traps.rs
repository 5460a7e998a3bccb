//! Every trap on a node of its own: the scan says where it stands, and nothing else fails for it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use picket_host::Host;
use picket_model::{Status, Verdict};
use picket_service::clock::SystemClock;
use picketd::cmd::scan::scan;
use picketd::source::{Ask, Memory};
use tempfile::TempDir;

const UNIT: &str = "etc/systemd/system/k3s.service";
const CONFIG: &str = "etc/rancher/k3s/config.yaml";
const START: &str = "[Service]\nExecStart=/usr/local/bin/k3s server\n";

fn put(root: &Path, path: &str, content: &str, mode: u32) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
}

fn node(config: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), UNIT, START, 0o644);
    put(dir.path(), CONFIG, config, 0o600);
    fs::create_dir_all(dir.path().join("var/lib/rancher/k3s/agent/etc/kubelet.conf.d")).unwrap();
    fs::create_dir_all(dir.path().join("var/lib/rancher/k3s/server")).unwrap();
    dir
}

fn traps(root: &Path) -> Vec<Verdict> {
    let host = Host::rooted(root, Arc::new(SystemClock)).unwrap();
    let (memory, policy) = (Memory::none(), picketd::rules::policy().unwrap());
    let report = scan(&host, &Ask { role: None, memory: &memory, catalogue: &policy.catalogue }, &policy);
    report.verdicts.into_iter().filter(|v| v.control.starts_with("trap-")).collect()
}

/// Controls that fail, with their subjects.
fn failing(root: &Path) -> Vec<(String, String)> {
    traps(root).into_iter().filter(|v| v.status == Status::Fail).map(|v| (v.control, v.subject)).collect()
}

fn one(control: &str, subject: &str) -> Vec<(String, String)> {
    vec![(control.to_owned(), subject.to_owned())]
}

#[test]
fn a_node_without_traps_passes_all_of_them_with_evidence() {
    let dir = node("secrets-encryption: true\nkube-apiserver-arg:\n- audit-log-maxage=30\n");
    let rows = traps(dir.path());
    assert_eq!(rows.len(), 22);
    for row in rows {
        assert_eq!(row.status, Status::Pass, "{}: {}", row.control, row.observed);
        assert!(row.evidence.iter().any(|e| e.path.as_deref() == Some("/etc/rancher/k3s/config.yaml")), "{row:?}");
    }
}

#[test]
fn each_trap_in_config_yaml_is_a_finding_of_its_own() {
    let table = [
        ("secret-encryption: true\n", "trap-unknown-key", ":secret-encryption"),
        ("protect_kernel_defaults: true\n", "trap-unknown-key", ":protect_kernel_defaults"),
        ("disable:\n- - traefik\n  - servicelb\n", "trap-nested-list", ":disable"),
        ("<<: {secrets-encryption: true}\n", "trap-merge-key-lost", ""),
        ("kubelet-arg:\n- event-qps: 0\n", "trap-map-value", ":kubelet-arg"),
        ("token: 123e45\n", "trap-numeric-token", ":token"),
        ("node-name: 0x1f\n", "trap-scalar-reread", ":node-name"),
        ("write-kubeconfig-mode: 0644\n", "trap-octal-mode", ":write-kubeconfig-mode"),
        (
            "kubelet-arg: [protect-kernel-defaults, read-only-port=10255]\n",
            "trap-kubelet-arg-swallowed",
            ":kubelet-arg",
        ),
        (
            "kube-apiserver-arg: [enable-admission-plugins=EventRateLimit]\n",
            "trap-default-dropped",
            ":kube-apiserver-arg",
        ),
        (
            "kube-apiserver-arg: [tls-cipher-suites+=TLS_AES_128_GCM_SHA256]\n",
            "trap-tls-arg-form",
            ":kube-apiserver-arg",
        ),
        ("debug: true\n---\nsecrets-encryption: true\n", "trap-second-document", ""),
        ("node-name: a\nnode-name: b\n", "trap-duplicate-key", ":node-name"),
        (
            "kube-controller-arg: [profiling=false]\nkube-controller-manager-arg: [v=2]\n",
            "trap-old-and-new-name",
            ":kube-controller-arg",
        ),
        ("- a\n- b\n", "trap-refused", ""),
        ("a: [\n", "trap-refused", ""),
        ("secrets-encryption: maybe\n", "trap-refused", ""),
    ];
    for (config, control, option) in table {
        let dir = node(config);
        assert_eq!(failing(dir.path()), one(control, &format!("/{CONFIG}{option}")), "{config}");
    }
}

#[test]
fn a_plug_in_turned_on_and_off_keeps_the_api_server_down() {
    let dir = node("kube-apiserver-arg:\n- disable-admission-plugins=NodeRestriction\n");
    assert_eq!(failing(dir.path()), one("trap-refused", "/etc/rancher/k3s/config.yaml"));
    let host = Host::rooted(dir.path(), Arc::new(SystemClock)).unwrap();
    let (memory, policy) = (Memory::none(), picketd::rules::policy().unwrap());
    let report = scan(&host, &Ask { role: None, memory: &memory, catalogue: &policy.catalogue }, &policy);
    let row = report.verdicts.into_iter().find(|v| v.control == "apiserver-node-restriction").unwrap();
    assert_eq!(row.status, Status::Unknown, "{}", row.observed);
}

#[test]
fn traps_outside_config_yaml_are_found_too() {
    let dir = node("kube-apiserver-arg: [audit-log-maxage=30]\n");
    put(dir.path(), "etc/rancher/k3s/config.yaml.d/10-more.yaml", "kube-apiserver-arg: [v=2]\n", 0o600);
    let drop_in = "/etc/rancher/k3s/config.yaml.d/10-more.yaml:kube-apiserver-arg";
    assert_eq!(failing(dir.path()), one("trap-list-replaced", drop_in));

    let dir = node("");
    put(dir.path(), UNIT, "[Service]\nExecStart=/usr/local/bin/k3s server --debug false --secrets-encryption\n", 0o644);
    assert_eq!(failing(dir.path()), one("trap-options-ignored", "/etc/systemd/system/k3s.service"));

    let dir = node("");
    put(dir.path(), UNIT, "[Service]\nExecStart=/usr/local/bin/k3s server -config /etc/k3s.yaml\n", 0o644);
    assert_eq!(failing(dir.path())[0].0, "trap-config-not-read");

    let dir = node("");
    put(
        dir.path(),
        "var/lib/rancher/k3s/agent/etc/kubelet.conf.d/10-cli-config.conf",
        "kind: KubeletConfiguration\n",
        0o600,
    );
    assert_eq!(failing(dir.path())[0].0, "trap-stale-kubelet-copy");
}

#[test]
fn a_link_that_leads_nowhere_takes_every_other_answer_with_it() {
    let dir = node("secrets-encryption: true\n");
    fs::create_dir_all(dir.path().join("etc/rancher/k3s/config.yaml.d")).unwrap();
    symlink("/nowhere.yaml", dir.path().join("etc/rancher/k3s/config.yaml.d/50-x.yaml")).unwrap();
    let rows = traps(dir.path());
    let link = "/etc/rancher/k3s/config.yaml.d/50-x.yaml";
    for row in &rows {
        match row.control.as_str() {
            "trap-dangling-drop-in" | "trap-refused" => {
                assert_eq!((row.status, row.subject.as_str()), (Status::Fail, link), "{row:?}");
            }
            _ => assert_eq!(row.status, Status::Unknown, "{row:?}"),
        }
    }
}

#[test]
fn secrets_count_where_others_can_read_them_and_are_never_shown() {
    const SECRET: &str = "hunter2-hunter2";
    let dir = node(&format!("token: {SECRET}\n"));
    assert_eq!(failing(dir.path()), [], "0600 is where K3s wants it");
    fs::set_permissions(dir.path().join(CONFIG), fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(failing(dir.path()), one("trap-readable-secret", &format!("/{CONFIG}:token")));

    let unit = format!("[Service]\nExecStart=/usr/local/bin/k3s server \\\n '--token' \\\n '{SECRET}'\n");
    let dir = node("");
    put(dir.path(), UNIT, &unit, 0o644);
    assert_eq!(failing(dir.path()), one("trap-readable-secret", &format!("/{UNIT}:token")));

    let dir = node("");
    let registries = format!("configs:\n  r.example:\n    auth:\n      username: u\n      password: {SECRET}\n");
    put(dir.path(), "etc/rancher/k3s/registries.yaml", &registries, 0o644);
    assert_eq!(failing(dir.path()), one("trap-readable-secret", "/etc/rancher/k3s/registries.yaml:password"));
    let shown = serde_json::to_string(&traps(dir.path())).unwrap();
    assert!(!shown.contains(SECRET));

    let dir = node("");
    let unit = format!("{START}EnvironmentFile=-/etc/systemd/system/k3s.service.env\n");
    put(dir.path(), UNIT, &unit, 0o644);
    put(dir.path(), "etc/systemd/system/k3s.service.env", &format!("K3S_TOKEN={SECRET}\n"), 0o644);
    assert_eq!(failing(dir.path()), one("trap-readable-secret", "/etc/systemd/system/k3s.service.env:token"));
}

/// Whatever of the configuration cannot be read: no trap passes.
#[test]
fn an_unreadable_source_gives_unknown_and_no_pass() {
    let sources = [UNIT, CONFIG, "etc/rancher/k3s/config.yaml.d/10-a.yaml", "etc/rancher/k3s/registries.yaml"];
    for lost in sources {
        let dir = node("debug: true\n");
        put(dir.path(), "etc/rancher/k3s/config.yaml.d/10-a.yaml", "node-name: a\n", 0o600);
        put(dir.path(), "etc/rancher/k3s/registries.yaml", "mirrors: {}\n", 0o600);
        // Larger than any limit: as good as unreadable, for root too.
        let file = fs::File::options().write(true).open(dir.path().join(lost)).unwrap();
        file.set_len(64 * 1024 * 1024).unwrap();
        for row in traps(dir.path()) {
            assert_eq!(row.status, Status::Unknown, "{lost}: {} {}", row.control, row.observed);
        }
    }
}
