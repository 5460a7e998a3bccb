//! Which folders are to be watched: a change that decides a verdict must show in one of them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use picket_checks::{Catalogue, Snapshot};
use picket_host::Host;
use picket_service::clock::FixedClock;
use picket_tests::node::{MOMENT, Profile, SampleNode};
use picketd::source::{Ask, Memory, Seen, Source, Watches, observe, refresh, watches};

struct Node {
    _dir: tempfile::TempDir,
    sample: SampleNode,
    host: Host,
    catalogue: Catalogue,
    memory: Memory,
}

impl Node {
    fn new(profile: Profile) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sample = SampleNode::build(profile, &dir.path().join("root")).unwrap();
        let host = Host::rooted(sample.root(), Arc::new(FixedClock(MOMENT.parse().unwrap()))).unwrap();
        Self { _dir: dir, sample, host, catalogue: Catalogue::built_in().unwrap(), memory: Memory::lasting([7; 32]) }
    }

    fn ask(&self) -> Ask<'_> {
        Ask { role: None, memory: &self.memory, catalogue: &self.catalogue }
    }

    fn look(&self) -> (Seen, Watches) {
        let seen = observe(&self.host, &self.ask());
        let watches = watches(&self.host, &self.catalogue, &seen);
        (seen, watches)
    }
}

fn concerns(watches: &Watches, folder: &str, source: Source) -> bool {
    watches.folders.get(Path::new(folder)).is_some_and(|sources| sources.contains(&source))
}

#[test]
fn files_that_kubelet_arg_names_are_watched() {
    let node = Node::new(Profile::DefaultServer);
    for (number, args) in
        ["[config=/opt/a/k.yaml]", "[config+=/opt/a/k.yaml]", "[config-dir=/opt/a]"].iter().enumerate()
    {
        let folder = node.sample.path("/opt/a");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("k.yaml"), "maxPods: 5\n").unwrap();
        let drop_in = node.sample.path("/etc/rancher/k3s/config.yaml.d");
        fs::create_dir_all(&drop_in).unwrap();
        fs::write(drop_in.join("90.yaml"), format!("kubelet-arg: {args}\n")).unwrap();
        let (_, watches) = node.look();
        assert!(concerns(&watches, "/opt/a", Source::Documents), "{number}");
        assert!(concerns(&watches, "/opt/a", Source::Config), "it may be one with which K3s does not start: {number}");
    }
}

#[test]
fn every_folder_that_decides_something_is_watched() {
    let (_, watches) = Node::new(Profile::HardenedServer).look();
    let data = "/var/lib/rancher/k3s";
    for (folder, source) in [
        ("/etc/rancher/k3s", Source::Config),
        ("/etc/systemd/system", Source::Config),
        (&format!("{data}/server"), Source::Tokens),
        (&format!("{data}/server/cred"), Source::Documents),
        (&format!("{data}/server/tls"), Source::Certificates),
        (&format!("{data}/server/tls"), Source::Files),
        (&format!("{data}/server/tls/etcd"), Source::Certificates),
        (&format!("{data}/agent"), Source::Certificates),
        (&format!("{data}/server"), Source::Documents),
        (&format!("{data}/server/logs"), Source::AuditLog),
    ] {
        assert!(concerns(&watches, folder, source), "{folder} for {source}: {:#?}", watches.folders);
    }
}

#[test]
fn what_does_not_exist_yet_is_awaited_in_the_nearest_folder_that_does() {
    let node = Node::new(Profile::DefaultServer);
    fs::remove_dir_all(node.sample.path("/etc/rancher/k3s")).unwrap();
    let (_, watches) = node.look();
    assert!(concerns(&watches, "/etc/rancher", Source::Config), "{:#?}", watches.folders);
    assert!(!watches.folders.contains_key(Path::new("/etc/rancher/k3s")));
}

#[test]
fn every_hop_of_a_link_is_watched() {
    let node = Node::new(Profile::HardenedServer);
    let config = node.sample.path("/etc/rancher/k3s/config.yaml");
    let at = |path: &str| node.sample.path(path);
    fs::create_dir_all(at("/opt/v1")).unwrap();
    fs::rename(&config, at("/opt/v1/k3s.yaml")).unwrap();
    symlink("v1", at("/opt/current")).unwrap();
    symlink("/opt/current/k3s.yaml", &config).unwrap();
    let (seen, watches) = node.look();
    assert!(seen.snapshot.declared.value().is_some_and(|c| c.is_true("protect-kernel-defaults")));
    for folder in ["/etc/rancher/k3s", "/opt", "/opt/v1"] {
        assert!(concerns(&watches, folder, Source::Config), "{folder}: {:#?}", watches.folders);
    }
}

#[test]
fn looking_again_at_one_source_sees_its_change_and_nothing_else() {
    let node = Node::new(Profile::HardenedServer);
    let (mut seen, _) = node.look();
    let key = "/var/lib/rancher/k3s/server/tls/client-admin.key";
    let mode = |s: &Snapshot| s.files.get(key).and_then(|f| f.value()).map(|f| f.mode);
    let token = |s: &Snapshot| {
        s.tokens.get("/var/lib/rancher/k3s/server/token").and_then(|t| t.value()).map(|t| t.fingerprint.clone())
    };
    let before = token(&seen.snapshot);
    node.sample.chmod(key, 0o644).unwrap();
    node.sample.rotate_token().unwrap();
    refresh(&node.host, &node.ask(), &mut seen, [Source::Files]);
    assert_eq!(mode(&seen.snapshot), Some(0o644));
    assert_eq!(token(&seen.snapshot), before, "tokens were not looked at");
    refresh(&node.host, &node.ask(), &mut seen, [Source::Tokens]);
    assert_ne!(token(&seen.snapshot), before);
}

#[test]
fn a_memory_tells_a_rotation_from_a_first_look() {
    let mut node = Node::new(Profile::DefaultServer);
    let path = "/var/lib/rancher/k3s/server/token";
    let token = |seen: &Seen| seen.snapshot.tokens.get(path).and_then(|t| t.value()).cloned().unwrap();
    let (seen, _) = node.look();
    assert!(!token(&seen).change_witnessed && token(&seen).first_seen.is_some());
    assert!(node.memory.remember(&seen.snapshot));
    let (seen, _) = node.look();
    assert!(!node.memory.remember(&seen.snapshot), "nothing new");
    node.sample.rotate_token().unwrap();
    let (seen, _) = node.look();
    assert!(token(&seen).change_witnessed);
    assert!(node.memory.remember(&seen.snapshot));
}

#[test]
fn file_owners_modes_and_links_are_those_of_the_node() {
    let node = Node::new(Profile::DefaultServer);
    let (seen, _) = node.look();
    let link = seen.snapshot.files.get("/var/lib/rancher/k3s/server/agent-token").and_then(|f| f.value()).unwrap();
    let target = link.link.as_ref().unwrap();
    assert_eq!(target.path.as_deref(), Some("/var/lib/rancher/k3s/server/token"));
    assert_eq!(link.resolved().map(|f| f.mode), Some(0o600));
}
