//! `picketd explain` and `picketd fix` over sample nodes: what they say, what they change, and what they leave alone.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use picket_checks::{evaluate, worst_status};
use picket_host::Host;
use picket_model::Status;
use picket_service::clock::SystemClock;
use picket_tests::node::{Profile, SampleNode};
use picketd::cli::{Failure, Outcome};
use picketd::cmd::{Node as Where, RoleAsked, explain, fix};
use picketd::source::{Ask, Memory, observe};
use tempfile::TempDir;

const DROP_IN: &str = "/etc/rancher/k3s/config.yaml.d/90-picket.yaml";
const SYSCTLS: &str = "/etc/sysctl.d/90-picket.conf";
const KERNEL: &str = "kernel.panic = 10\nkernel.panic_on_oops = 1\nvm.overcommit_memory = 1\nvm.panic_on_oom = 0\n";

struct Node {
    _dir: TempDir,
    sample: SampleNode,
}

impl Node {
    fn new(profile: Profile) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sample = SampleNode::build(profile, &dir.path().join("root")).unwrap();
        Self { _dir: dir, sample }
    }

    fn root(&self) -> &Path {
        self.sample.root()
    }

    fn path(&self, path: &str) -> PathBuf {
        self.sample.path(path)
    }

    fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.path(path)).ok()
    }

    fn put(&self, path: &str, text: &str, mode: u32) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn mode(&self, path: &str) -> u32 {
        fs::metadata(self.path(path)).unwrap().permissions().mode() & 0o7777
    }

    fn status(&self, control: &str) -> Status {
        let host = Host::rooted(self.root(), Arc::new(SystemClock)).unwrap();
        let (memory, policy) = (Memory::none(), picketd::rules::policy().unwrap());
        let seen = observe(&host, &Ask { role: None, memory: &memory, catalogue: &policy.catalogue });
        worst_status(evaluate(&seen.snapshot, &policy).iter().filter(|v| v.control == control)).unwrap()
    }

    fn run(&self, controls: &[&str], dry_run: bool) -> (String, Result<Outcome, Failure>) {
        let args = fix::Args {
            node: Where { root: Some(self.root().to_owned()), proc: None },
            role: RoleAsked::Auto,
            dry_run,
            controls: controls.iter().map(|c| (*c).to_owned()).collect(),
        };
        let mut out = Vec::new();
        let result = fix::run(&args, &mut out);
        (String::from_utf8(out).unwrap(), result)
    }

    /// What was said, and the exit code.
    fn fix(&self, controls: &[&str]) -> (String, u8) {
        let (text, result) = self.run(controls, false);
        (text, result.map_or_else(|failure| failure.exit_code(), |_| 0))
    }

    fn explain(&self, control: &str) -> String {
        let args = explain::Args {
            node: Where { root: Some(self.root().to_owned()), proc: None },
            role: RoleAsked::Auto,
            controls: vec![control.to_owned()],
        };
        let mut out = Vec::new();
        explain::run(&args, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }
}

/// Every file of a tree with its mode and content.
fn everything(root: &Path) -> Vec<(PathBuf, u32, Option<Vec<u8>>)> {
    let mut all = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let content = meta.is_file().then(|| fs::read(&path).unwrap());
            if meta.is_dir() {
                folders.push(path.clone());
            }
            all.push((path, meta.permissions().mode(), content));
        }
    }
    all.sort();
    all
}

#[test]
fn a_setting_is_written_beside_k3s_own_and_passes() {
    let node = Node::new(Profile::DefaultServer);
    assert_eq!(node.status("apiserver-deny-service-external-ips"), Status::Fail);
    let (said, code) = node.fix(&["apiserver-deny-service-external-ips"]);
    assert_eq!(code, 0, "{said}");
    insta::assert_snapshot!("fix_setting", said);
    assert_eq!(node.status("apiserver-deny-service-external-ips"), Status::Pass);
    assert_eq!(node.status("apiserver-node-restriction"), Status::Pass, "K3s' own plugin stays");
    assert_eq!(node.mode(DROP_IN), 0o600);

    // A second one goes into the same file, and the first one stays.
    let (said, code) = node.fix(&["kubelet-pod-pids-limit"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(
        node.text(DROP_IN).unwrap(),
        "# Written by `picketd fix`. Lists add to those of earlier files (key+).\n\
         kube-apiserver-arg+:\n- \"enable-admission-plugins+=DenyServiceExternalIPs\"\n\
         kubelet-arg+:\n- \"pod-max-pids=4096\"\n"
    );
    assert_eq!(node.status("apiserver-deny-service-external-ips"), Status::Pass);

    // Asked again, nothing is left to do.
    let before = everything(node.root());
    let (said, code) = node.fix(&["kubelet-pod-pids-limit"]);
    assert_eq!((said.as_str(), code), ("kubelet-pod-pids-limit: pass; nothing to repair\n", 0));
    assert_eq!(everything(node.root()), before);
}

#[test]
fn a_dry_run_shows_the_same_and_changes_nothing() {
    let node = Node::new(Profile::DefaultServer);
    node.put("/etc/rancher/k3s/config.yaml", "node-name: a\n", 0o644);
    let before = everything(node.root());
    let (said, result) =
        node.run(&["apiserver-deny-service-external-ips", "k3s-config-file-mode", "sysctl-persisted"], true);
    // Kernel parameters cannot be judged here: nothing says what is persisted.
    assert_eq!(result.unwrap_err().exit_code(), 3);
    insta::assert_snapshot!("fix_dry_run", said);
    assert_eq!(everything(node.root()), before);
}

#[test]
fn kernel_parameters_are_persisted_beside_what_is_there() {
    let node = Node::new(Profile::DefaultServer);
    node.put(SYSCTLS, "# mine\nnet.ipv4.ip_forward = 1\nkernel.panic=5\n", 0o644);
    let (said, code) = node.fix(&["sysctl-persisted"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(node.text(SYSCTLS).unwrap(), format!("# mine\nnet.ipv4.ip_forward = 1\n{KERNEL}"));
    assert_eq!(node.status("sysctl-persisted"), Status::Pass);
}

#[test]
fn what_a_later_file_undoes_is_taken_back() {
    let node = Node::new(Profile::DefaultServer);
    node.put("/etc/sysctl.d/99-other.conf", "kernel.panic = 0\n", 0o644);
    let (said, code) = node.fix(&["sysctl-persisted"]);
    assert_eq!(code, 3);
    assert!(said.contains("taken back") && said.contains("99-other.conf"), "{said}");
    assert_eq!(node.text(SYSCTLS), None);

    // The command line comes after every file.
    let node = Node::new(Profile::DefaultServer);
    let unit = "/etc/systemd/system/k3s.service";
    let text = "[Service]\nExecStart=/usr/local/bin/k3s server --kube-scheduler-arg=profiling=true\n";
    node.put(unit, text, 0o644);
    assert_eq!(node.status("scheduler-profiling-off"), Status::Fail);
    let (said, code) = node.fix(&["scheduler-profiling-off"]);
    assert_eq!(code, 3);
    assert!(said.contains("taken back") && said.contains("k3s.service"), "{said}");
    assert_eq!(node.text(DROP_IN), None);
}

/// A unit whose command line, which comes after every file, gives one argument to the API server.
const STRONGER: &str = "[Service]\nExecStart=/usr/local/bin/k3s server --kube-apiserver-arg=audit-log-maxage=1\n";

#[test]
fn of_several_repairs_only_those_that_help_stay() {
    let node = Node::new(Profile::DefaultServer);
    node.put("/etc/systemd/system/k3s.service", STRONGER, 0o644);
    node.put("/etc/rancher/k3s/config.yaml", "kube-apiserver-arg: [audit-log-path=/var/log/a.log]\n", 0o644);
    let (said, code) = node.fix(&["apiserver-audit-log-maxage", "kubelet-seccomp-default", "k3s-config-file-mode"]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("apiserver-audit-log-maxage: still fails, so the change was taken back"), "{said}");
    assert!(said.contains("kubelet-seccomp-default: repaired"), "{said}");
    assert_eq!(
        node.text(DROP_IN).unwrap(),
        "# Written by `picketd fix`. Lists add to those of earlier files (key+).\n\
         kubelet-arg+:\n- \"seccomp-default=true\"\n"
    );
    for control in ["kubelet-seccomp-default", "k3s-config-file-mode"] {
        assert_eq!(node.status(control), Status::Pass, "{control}");
    }
}

#[test]
fn a_line_that_is_there_already_and_does_not_help_is_no_success() {
    let node = Node::new(Profile::DefaultServer);
    node.put("/etc/systemd/system/k3s.service", STRONGER, 0o644);
    node.put(DROP_IN, "kube-apiserver-arg+:\n- \"audit-log-maxage=30\"\n", 0o600);
    // Only the comment at its head is missing: the first try writes that, and takes it back.
    let (said, code) = node.fix(&["apiserver-audit-log-maxage"]);
    assert_eq!(code, 3, "{said}");
    let head = "# Written by `picketd fix`. Lists add to those of earlier files (key+).\n";
    node.put(DROP_IN, &format!("{head}kube-apiserver-arg+:\n- \"audit-log-maxage=30\"\n"), 0o600);
    let before = everything(node.root());
    let (said, code) = node.fix(&["apiserver-audit-log-maxage"]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("something stronger undoes it"), "{said}");
    assert_eq!(everything(node.root()), before);
}

#[test]
fn taking_back_leaves_no_folder_that_was_not_there() {
    let node = Node::new(Profile::DefaultServer);
    node.put("/etc/systemd/system/k3s.service", STRONGER, 0o644);
    let _ = fs::remove_dir_all(node.path("/etc/rancher/k3s/config.yaml.d"));
    let before = everything(node.root());
    let (said, code) = node.fix(&["apiserver-audit-log-maxage"]);
    assert_eq!(code, 3);
    assert!(said.contains("taken back"), "{said}");
    assert_eq!(everything(node.root()), before);
}

#[test]
fn a_link_of_k3s_own_is_repaired_where_it_leads() {
    for asked in [
        &["token-agent-token-file-mode"][..],
        &["token-server-file-mode", "token-agent-token-file-mode", "token-node-token-link"],
    ] {
        let node = Node::new(Profile::DefaultServer);
        let token = "/var/lib/rancher/k3s/server/token";
        fs::set_permissions(node.path(token), fs::Permissions::from_mode(0o644)).unwrap();
        for control in asked {
            assert_eq!(node.status(control), Status::Fail, "{control}");
        }
        let (said, code) = node.fix(asked);
        assert_eq!(code, 0, "{said}");
        assert_eq!(node.mode(token), 0o600);
        for control in asked {
            assert_eq!(node.status(control), Status::Pass, "{control}");
            assert!(said.contains(&format!("{control}: repaired")), "{said}");
        }
        assert!(!said.contains("not changed"), "{said}");
    }
}

#[test]
fn a_link_that_leads_elsewhere_is_left_to_people() {
    let node = Node::new(Profile::DefaultServer);
    let link = node.path("/var/lib/rancher/k3s/server/agent-token");
    fs::remove_file(&link).unwrap();
    node.put("/etc/shared", "x\n", 0o644);
    std::os::unix::fs::symlink("/etc/shared", &link).unwrap();
    let (said, code) = node.fix(&["token-agent-token-file-mode"]);
    assert_eq!(code, 3);
    assert!(said.contains("a link: change what it leads to by hand"), "{said}");
    assert_eq!(node.mode("/etc/shared"), 0o644);
}

#[test]
fn the_name_of_an_option_that_is_in_use_is_used() {
    let node = Node::new(Profile::DefaultServer);
    let old = "kube-cloud-controller-arg: [profiling=true]\nkube-controller-arg: [profiling=true]\n";
    node.put("/etc/rancher/k3s/config.yaml", old, 0o600);
    let said = node.explain("ccm-profiling-off");
    assert!(said.contains("\n  kube-cloud-controller-arg+:\n  - \"profiling=false\"\n"), "{said}");
    let (said, code) = node.fix(&["ccm-profiling-off", "kcm-profiling-off"]);
    assert_eq!(code, 0, "{said}");
    let lines = node.text(DROP_IN).unwrap();
    assert!(lines.contains("kube-cloud-controller-arg+:") && lines.contains("kube-controller-arg+:"), "{lines}");
    assert_eq!(node.status("trap-old-and-new-name"), Status::Pass);
}

#[test]
fn explain_prints_the_kernel_parameters_and_offers_a_repair_only_where_one_is_made() {
    let node = Node::new(Profile::DefaultServer);
    let said = node.explain("sysctl-persisted");
    let lines: String = KERNEL.lines().map(|line| format!("  {line}\n")).collect();
    assert!(said.contains(&format!("Lines that do it, in {SYSCTLS}\n{lines}")), "{said}");
    assert!(!said.contains("picketd fix"), "{said}");
    node.put("/etc/sysctl.d/10-mine.conf", "kernel.panic = 5\n", 0o644);
    let said = node.explain("sysctl-persisted");
    assert!(said.contains("`picketd fix --dry-run sysctl-persisted`"), "{said}");
}

#[test]
fn modes_are_narrowed_and_never_widened() {
    let node = Node::new(Profile::DefaultServer);
    node.put("/etc/rancher/k3s/config.yaml", "node-name: a\n", 0o444);
    let (said, code) = node.fix(&["k3s-config-file-mode"]);
    if nix::unistd::geteuid().is_root() {
        assert_eq!(code, 0, "{said}");
        assert_eq!(node.mode("/etc/rancher/k3s/config.yaml"), 0o400);
    }
}

#[test]
fn what_k3s_compares_with_its_datastore_is_left_alone() {
    let node = Node::new(Profile::DefaultServer);
    let key = "/var/lib/rancher/k3s/server/tls/service.key";
    node.put(key, "not a key\n", 0o644);
    let before = everything(node.root());
    let (said, code) = node.fix(&["pki-key-mode"]);
    assert_eq!(code, 3);
    assert!(said.contains(&format!("{key}: not changed: K3s compares this file with its datastore")), "{said}");
    assert_eq!(everything(node.root()), before);
}

#[test]
fn a_file_somebody_else_wrote_is_not_changed() {
    let node = Node::new(Profile::DefaultServer);
    node.put(DROP_IN, "kubelet-arg:\n  - max-pods=50\n", 0o600);
    let before = everything(node.root());
    let (said, code) = node.fix(&["kubelet-pod-pids-limit"]);
    assert_eq!(code, 3);
    assert!(said.contains("line 1 is not of the form picket writes"), "{said}");
    assert_eq!(everything(node.root()), before);
}

#[test]
fn a_configuration_k3s_would_refuse_is_not_added_to() {
    let node = Node::new(Profile::DefaultServer);
    node.put("/etc/rancher/k3s/config.yaml", "kubelet-arg: [pod-max-pids=-1]\nsecrets-encryption: maybe\n", 0o600);
    let before = everything(node.root());
    let (said, _) = node.fix(&["kubelet-pod-pids-limit"]);
    assert!(said.contains("not changed") || said.contains("nothing to repair"), "{said}");
    assert_eq!(everything(node.root()), before);
}

#[test]
fn what_only_people_can_do_says_so() {
    let node = Node::new(Profile::DefaultServer);
    let (said, code) = node.fix(&["k3s-secrets-encryption-flag"]);
    assert_eq!(code, 3);
    assert!(said.contains("picketd explain"), "{said}");
    let (_, result) = node.run(&["kubelet-pod-pid"], false);
    let Err(Failure::Usage(message)) = result else { panic!("no such control") };
    assert!(message.contains("kubelet-pod-pids-limit"), "{message}");
}

#[test]
fn explain_says_why_what_where_and_how() {
    let node = Node::new(Profile::DefaultServer);
    insta::assert_snapshot!("explain_flag", node.explain("apiserver-deny-service-external-ips"));
    node.put("/etc/rancher/k3s/config.yaml", "kube-apiserver-arg: [audit-log-maxage=30]\n", 0o600);
    node.put("/etc/rancher/k3s/config.yaml.d/50-x.yaml", "kube-apiserver-arg: [v=2]\n", 0o600);
    insta::assert_snapshot!("explain_trap", node.explain("trap-list-replaced"));
}

#[test]
fn explain_prints_what_a_control_of_the_node_says_for_people() {
    let node = Node::new(Profile::DefaultServer);
    let text = "- id: site-motd\n  title: The login banner exists\n  source: file-mode\n  what: /etc/motd\n  expected: {op: mode_at_most, value: '0644'}\n  why: |\n    Auditors ask for it.\n    Every year.\n  notes: Looked at as a file only.\n";
    node.put("/etc/picket/controls.d/site.yaml", text, 0o644);
    let said = node.explain("site-motd");
    let why =
        "\nWhy it matters\n  Auditors ask for it.\n  Every year.\n\nHow it is judged\n  Looked at as a file only.\n";
    assert!(said.contains(why), "{said}");
}

#[test]
fn a_dry_run_ends_as_the_repair_would() {
    let both = |node: &Node, controls: &[&str], code: u8| {
        let (said, dry) = node.run(controls, true);
        assert_eq!(dry.map_or_else(|failure| failure.exit_code(), |_| 0), code, "{said}");
        let (done, real) = node.fix(controls);
        assert_eq!(real, code, "{done}");
        said
    };
    // The mode that one control asks for is all another one misses, which picket cannot repair by itself.
    let node = Node::new(Profile::DefaultServer);
    node.put("/etc/rancher/k3s/config.yaml", "token: secret\n", 0o644);
    assert_eq!(node.status("trap-readable-secret"), Status::Fail);
    let said = both(&node, &["trap-readable-secret", "k3s-config-file-mode"], 0);
    assert!(!said.contains("trap-readable-secret"), "{said}");
    let node = Node::new(Profile::DefaultServer);
    node.put("/etc/rancher/k3s/config.yaml", "token: secret\n", 0o644);
    both(&node, &["trap-readable-secret"], 3);
    // A setting that helps, and one that something stronger undoes.
    let node = Node::new(Profile::DefaultServer);
    both(&node, &["apiserver-deny-service-external-ips", "kubelet-pod-pids-limit"], 0);
    node.put("/etc/systemd/system/k3s.service", STRONGER, 0o644);
    node.put("/etc/rancher/k3s/config.yaml", "kube-apiserver-arg: [audit-log-path=/var/log/a.log]\n", 0o600);
    let said = both(&node, &["apiserver-audit-log-maxage", "kubelet-seccomp-default"], 3);
    assert!(said.contains("apiserver-audit-log-maxage: would still fail"), "{said}");
    assert!(!said.contains("kubelet-seccomp-default: would"), "{said}");
}
