//! What K3s reads is judged wherever it lies and whatever its name is.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use picket_checks::{Changes, Snapshot, evaluate, evaluate_changes};
use picket_host::Host;
use picket_model::Status::{self, Fail, Pass, Unknown};
use picket_model::Verdict;
use picket_service::clock::FixedClock;
use picket_tests::node::{MOMENT, Profile, SampleNode};
use picketd::cmd::scan::scan;
use picketd::source::{Ask, Memory, Source, observe, watches};
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
fn more_drop_ins_of_the_kubelet_than_are_looked_at_leave_it_open() {
    let node = Node::new(Profile::DefaultServer);
    let folder = format!("{DATA}/agent/etc/kubelet.conf.d");
    for n in 0..300 {
        node.put(&folder, format!("{n:04}x.conf").as_bytes(), "", 0o600);
    }
    node.put(&folder, b"zzz.conf", "authentication: {anonymous: {enabled: true}}\n", 0o600);
    assert_eq!(node.rows("kubelet-anonymous-auth")[0].1, Unknown, "{:?}", node.rows("kubelet-anonymous-auth"));
    node.says("kubelet-dropin-no-security-override", &folder, Unknown);
    assert!(node.rows("trap-refused").iter().all(|(_, status, _)| *status != Pass));
}

/// The headers with which a kubelet fetches its pods are credentials; what is remembered comes from the snapshot.
#[test]
fn headers_of_the_kubelet_are_kept_nowhere() {
    let node = Node::new(Profile::DefaultServer);
    let folder = format!("{DATA}/agent/etc/kubelet.conf.d");
    let headers = "staticPodURLHeader: {Authorization: [Bearer hunter2]}\nmaxPods: 42\n";
    node.put(&folder, b"50.conf", headers, 0o600);
    let (memory, policy) = (Memory::none(), picketd::rules::policy().unwrap());
    let seen = observe(&node.host, &Ask { role: None, memory: &memory, catalogue: &policy.catalogue });
    for text in [format!("{:?}", seen.snapshot), serde_json::to_string(&seen.configuration).unwrap()] {
        assert!(!text.contains("hunter2") && text.contains("maxPods"), "{text}");
    }
}

#[test]
fn arguments_of_etcd_count_at_the_next_start() {
    let node = Node::new(Profile::EtcdServer);
    assert_eq!(node.rows("etcd-no-auto-tls")[0].1, Pass);
    let etcd = "etcd-arg: [auto-tls=true, \"client-transport-security={}\"]\n";
    node.put("/etc/rancher/k3s/config.yaml.d", b"50.yaml", etcd, 0o600);
    node.says("etcd-no-auto-tls", "auto-tls", Fail);
    assert_eq!(node.rows("etcd-client-cert-auth")[0].1, Unknown, "{:?}", node.rows("etcd-client-cert-auth"));
    assert_eq!(node.rows("etcd-peer-client-cert-auth")[0].1, Pass);
}

#[test]
fn etcd_tells_its_metrics_where_its_file_and_arguments_say() {
    let control = "k3s-etcd-expose-metrics";
    let node = Node::new(Profile::EtcdServer);
    let path = node.sample.path(&format!("{DATA}/server/db/etcd/config"));
    let open = fs::read_to_string(&path).unwrap();
    let closed = open.replace(",http://10.97.0.1:2381", "");
    let says = |written: Option<&str>, options: &str| {
        node.put("/etc/rancher/k3s/config.yaml.d", b"50.yaml", options, 0o600);
        match written {
            Some(text) => fs::write(&path, text).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let rows = node.rows(control);
        assert_eq!((rows.len(), rows[0].0.as_str()), (1, "etcd-expose-metrics"));
        rows[0].1
    };
    let argument = |urls: &str| format!("etcd-expose-metrics: false\netcd-arg: [\"listen-metrics-urls={urls}\"]\n");
    assert_eq!(says(Some(&open), "etcd-expose-metrics: true\n"), Fail);
    assert_eq!(says(Some(&closed), "etcd-expose-metrics: true\n"), Fail, "from the next start on");
    assert_eq!(says(Some(&open), "etcd-expose-metrics: false\n"), Fail, "until the next start");
    assert_eq!(says(Some(&closed), "etcd-expose-metrics: false\n"), Pass);
    for urls in ["http://0.0.0.0:2381", "http://127.0.0.1:2381,http://10.0.0.1:2381", "http://[::]:2381", "http://x:1"]
    {
        assert_eq!(says(Some(&closed), &argument(urls)), Fail, "{urls}");
    }
    for urls in ["http://127.0.0.1:2381", "http://localhost:1,http://[::1]:2", "unix://localhost:m1", ""] {
        assert_eq!(says(Some(&closed), &argument(urls)), Pass, "{urls}");
    }
    assert_eq!(says(Some("a: ["), "etcd-expose-metrics: false\n"), Unknown);
    assert_eq!(says(None, "etcd-expose-metrics: false\n"), Pass, "it has not been started");
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

const UNIT: &str = "/etc/systemd/system";

#[test]
fn files_of_k3s_are_judged_where_the_configuration_puts_them() {
    let node = Node::new(Profile::EtcdServer);
    let unit = "[Service]\nEnvironmentFile=-/opt/k3s.env\nExecStart=/srv/k3s server\n";
    fs::remove_dir_all(node.sample.path(UNIT)).unwrap();
    node.put("/usr/lib/systemd/system", b"k3s.service", unit, 0o666);
    node.put("/opt", b"k3s.env", "K3S_CONFIG_FILE=/opt/k.yaml\n", 0o644);
    let options = "etcd-snapshot-dir: /backup\nprivate-registry: /opt/r.yaml\n";
    node.put("/opt", b"k.yaml", options, 0o644);
    node.put("/opt/k.yaml.d", b"X.YML", "debug: true\n", 0o644);
    node.put("/opt", b"r.yaml", "configs: {r.example: {tls: {insecure_skip_verify: true}}}\n", 0o644);
    node.put("/srv", b"k3s", "", 0o777);
    node.put("/usr/local/bin", b"k3s", "", 0o755);
    node.put("/backup", b"snapshot", "", 0o644);
    node.says("k3s-systemd-unit-mode", "/usr/lib/systemd/system/k3s.service", Fail);
    node.says("k3s-service-env-mode", "/opt/k3s.env", Fail);
    node.says("k3s-config-file-mode", "/opt/k.yaml", Fail);
    node.says("k3s-config-file-mode", "/opt/k.yaml.d/X.YML", Fail);
    node.says("k3s-binary-mode", "/srv/k3s", Fail);
    node.says("k3s-binary-mode", "/usr/local/bin/k3s", Pass);
    node.says("k3s-etcd-snapshot-dir", "/backup", Fail);
    node.says("k3s-etcd-snapshot-dir", "/backup/snapshot", Fail);
    node.says("k3s-registries-file-mode", "/opt/r.yaml", Fail);
    node.says("registries-tls-verified", "/opt/r.yaml r.example", Fail);
}

#[test]
fn what_may_lie_elsewhere_does_not_pass_where_that_cannot_be_told() {
    let node = Node::new(Profile::DefaultServer);
    let private = |text: &str| node.put("/etc/rancher/k3s", b"config.yaml", text, 0o600);
    node.put("/etc/rancher/k3s", b"registries.yaml", "mirrors: {}\n", 0o600);
    private("private-registry: r.yaml\n");
    node.says("registries-tls-verified", "/etc/rancher/k3s/registries.yaml", Unknown);
    node.says("k3s-registries-file-mode", "/etc/rancher/k3s/registries.yaml", Unknown);
    private("private-registry: [\n");
    node.says("registries-tls-verified", "/etc/rancher/k3s/registries.yaml", Unknown);
    node.says("k3s-registries-file-mode", "/etc/rancher/k3s/registries.yaml", Unknown);
    private("debug: true\n");
    node.says("registries-tls-verified", "/etc/rancher/k3s/registries.yaml", Pass);
    node.says("k3s-registries-file-mode", "/etc/rancher/k3s/registries.yaml", Pass);
}

#[test]
fn a_change_in_a_place_of_the_nodes_own_is_watched_and_judged_again() {
    let node = Node::new(Profile::EtcdServer);
    let options = "etcd-snapshot-dir: /backup\nprivate-registry: /opt/r.yaml\ntoken-file: /opt/s/tk\n";
    let (memory, policy) = (Memory::none(), picketd::rules::policy().unwrap());
    let ask = Ask { role: None, memory: &memory, catalogue: &policy.catalogue };
    let look = || observe(&node.host, &ask);
    let follow = |before: &Snapshot, after: &Snapshot| {
        let again = evaluate_changes(after, &policy, &Changes::between(before, after));
        let before = evaluate(before, &policy).into_iter().filter(|v| !again.controls.contains(&v.control));
        let mut found: Vec<Verdict> = before.chain(again.verdicts).collect();
        let mut whole = evaluate(after, &policy);
        found.sort_by(|a, b| (&a.control, &a.subject).cmp(&(&b.control, &b.subject)));
        whole.sort_by(|a, b| (&a.control, &a.subject).cmp(&(&b.control, &b.subject)));
        assert_eq!(found, whole);
    };
    let mut before = look().snapshot;
    let changes: [&dyn Fn(); 7] = [
        &|| node.put("/etc/rancher/k3s", b"config.yaml", options, 0o600),
        &|| node.put("/opt", b"r.yaml", "mirrors: {}\n", 0o600),
        &|| node.put("/opt", b"r.yaml", "configs: {a: {tls: {insecure_skip_verify: true}}}\n", 0o644),
        &|| node.put("/opt/s", b"tk", "secret", 0o644),
        &|| node.put("/opt/s", b"tk", "secret", 0o600),
        &|| node.put("/backup", b"snapshot", "", 0o644),
        &|| {
            node.put(
                &format!("{UNIT}/k3s.service.d"),
                b"x.conf",
                "[Service]\nExecStart=\nExecStart=/srv/k3s server\n",
                0o644,
            )
        },
    ];
    for change in changes {
        change();
        let seen = look();
        follow(&before, &seen.snapshot);
        before = seen.snapshot;
    }
    let seen = look();
    let watched = watches(&node.host, &policy.catalogue, &seen).folders;
    for (folder, source) in [
        ("/opt", Source::Config),
        ("/opt", Source::Documents),
        ("/opt", Source::Files),
        ("/opt/s", Source::Config),
        ("/backup", Source::Files),
    ] {
        assert!(
            watched.get(std::path::Path::new(folder)).is_some_and(|s| s.contains(&source)),
            "{folder} for {source}"
        );
    }
}

#[test]
fn a_secret_in_a_file_of_its_own_is_found_where_others_can_read_it() {
    let node = Node::new(Profile::DefaultServer);
    let options = "token-file: /etc/tk\nagent-token-file: /etc/agent\nvpn-auth-file: /etc/vpn\n";
    node.put("/etc/rancher/k3s", b"config.yaml", options, 0o600);
    node.put("/etc", b"tk", "secret", 0o644);
    node.put("/etc", b"agent", "secret", 0o600);
    node.put("/etc", b"vpn", "secret", 0o640);
    node.says("trap-readable-secret", "/etc/tk:token-file", Fail);
    node.says("trap-readable-secret", "/etc/vpn:vpn-auth-file", Fail);
    assert_eq!(node.rows("trap-readable-secret").len(), 2);
}

#[test]
fn a_secret_written_onto_its_options_name_is_found_and_not_shown() {
    let node = Node::new(Profile::DefaultServer);
    node.put(UNIT, b"k3s.service", "[Service]\nExecStart=/usr/local/bin/k3s server -tSUPERSECRET\n", 0o644);
    let verdicts = node.scan();
    assert!(!format!("{verdicts:?}").contains("SUPER"));
    node.says("trap-readable-secret", &format!("{UNIT}/k3s.service:t"), Fail);
    assert!(node.rows("token-not-in-unit-file").iter().any(|(_, status, _)| *status == Fail));
    let shown = serde_json::to_string(&picketd::source::config::effective(&node.host, None)).unwrap();
    assert!(!shown.contains("SUPER"), "{shown}");
}
