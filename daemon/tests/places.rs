//! What K3s reads is judged wherever it lies and whatever its name is.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use picket_host::Host;
use picket_model::Status::{self, Fail, Unknown};
use picket_model::Verdict;
use picket_service::clock::FixedClock;
use picket_tests::node::{MOMENT, Profile, SampleNode};
use picketd::cmd::scan::scan;
use picketd::source::{Ask, Memory};
use tempfile::TempDir;

const DATA: &str = "/var/lib/rancher/k3s";

struct Node {
    _dir: TempDir,
    sample: SampleNode,
    host: Host,
}

impl Node {
    fn new(profile: Profile) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sample = SampleNode::build(profile, &dir.path().join("root")).unwrap();
        let host = Host::rooted(sample.root(), Arc::new(FixedClock(MOMENT.parse().unwrap()))).unwrap();
        Self { _dir: dir, sample, host }
    }

    /// A file with this name, whatever its bytes are.
    fn put(&self, folder: &str, name: &[u8], content: &str, mode: u32) {
        let folder = self.sample.path(folder);
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(OsStr::from_bytes(name));
        fs::write(&path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn scan(&self) -> Vec<Verdict> {
        let (memory, policy) = (Memory::none(), picketd::rules::policy().unwrap());
        scan(&self.host, &Ask { role: None, memory: &memory, catalogue: &policy.catalogue }, &policy).verdicts
    }

    fn rows(&self, control: &str) -> Vec<(String, Status, String)> {
        self.scan().into_iter().filter(|v| v.control == control).map(|v| (v.subject, v.status, v.observed)).collect()
    }

    fn says(&self, control: &str, subject: &str, status: Status) {
        let rows = self.rows(control);
        assert!(rows.iter().any(|(s, st, _)| s == subject && *st == status), "{control} {subject}: {rows:#?}");
    }
}

#[test]
fn a_configuration_file_whose_name_is_no_text_counts_in_its_place() {
    let node = Node::new(Profile::HardenedServer);
    let folder = "/etc/rancher/k3s/config.yaml.d";
    node.put(folder, b"zz.yaml", "kube-apiserver-arg+: [anonymous-auth=false]\n", 0o600);
    node.put(folder, b"\xff.yaml", "kube-apiserver-arg+: [anonymous-auth=true]\n", 0o644);
    let verdicts = node.scan();
    let row = verdicts.iter().find(|v| v.control == "apiserver-anonymous-auth").unwrap();
    assert_eq!(row.status, Fail, "the last file wins: {row:#?}");
    let hidden = Some("/etc/rancher/k3s/config.yaml.d/\\xff.yaml");
    assert!(row.evidence.iter().any(|e| e.path.as_deref() == hidden), "{row:#?}");
    node.says("k3s-config-file-mode", "/etc/rancher/k3s/config.yaml.d/\\xff.yaml", Fail);
}

#[test]
fn files_whose_names_are_no_text_are_judged_like_others() {
    let node = Node::new(Profile::DefaultServer);
    node.put(&format!("{DATA}/server/manifests"), b"\xff.yaml", "", 0o666);
    node.put(&format!("{DATA}/agent/pod-manifests"), b"a\xe9.yaml", "", 0o666);
    node.put(&format!("{DATA}/server/tls"), b"\xfe.key", "", 0o644);
    node.says("k3s-manifests-dir", &format!("{DATA}/server/manifests/\\xff.yaml"), Fail);
    node.says("k3s-static-pod-dir", &format!("{DATA}/agent/pod-manifests/a\\xe9.yaml"), Fail);
    node.says("pki-key-mode", &format!("{DATA}/server/tls/\\xfe.key"), Fail);
}

#[test]
fn drop_ins_of_kubelet_sysctl_and_unit_count_whatever_their_name_is() {
    let node = Node::new(Profile::DefaultServer);
    let kubelet = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
                   authentication: {anonymous: {enabled: true}}\n";
    let folder = format!("{DATA}/agent/etc/kubelet.conf.d");
    node.put(&folder, b"\xff.conf", kubelet, 0o600);
    node.put(&folder, b"zz.conf", &kubelet.replace("true", "false"), 0o600);
    node.put("/etc/sysctl.d", b"\xff.conf", "vm.overcommit_memory = 0\n", 0o644);
    node.put("/etc/sysctl.d", b"zz.conf", "vm.overcommit_memory = 1\n", 0o644);
    let unit = "[Service]\nExecStart=\nExecStart=/usr/local/bin/k3s server --token hidden\n";
    node.put("/etc/systemd/system/k3s.service.d", b"\xff.conf", unit, 0o644);
    assert_eq!(node.rows("kubelet-anonymous-auth")[0].1, Fail, "{:?}", node.rows("kubelet-anonymous-auth"));
    node.says("kubelet-dropin-no-security-override", &format!("{folder}/\\xff.conf"), Fail);
    assert!(node.rows("sysctl-persisted").iter().any(|(s, status, _)| s.contains("overcommit") && *status == Fail));
    assert!(node.rows("token-not-in-unit-file").iter().any(|(_, status, _)| *status == Fail));
}

#[test]
fn more_files_than_are_looked_at_are_one_doubt() {
    let node = Node::new(Profile::DefaultServer);
    let folder = format!("{DATA}/server/manifests");
    for n in 0..4200 {
        node.put(&folder, format!("{n}.yaml").as_bytes(), "", 0o600);
    }
    let unknown: Vec<_> =
        node.rows("k3s-manifests-dir").into_iter().filter(|(_, status, _)| *status == Unknown).collect();
    assert_eq!(unknown, [(folder, Unknown, "holds more entries than are looked at".to_owned())]);
}
