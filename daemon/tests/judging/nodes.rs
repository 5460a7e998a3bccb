//! Nodes that are laid out differently, or set up badly, judged beside the sample they come from: every row that
//! differs is written down here and was read against what K3s does.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use picket_model::{State, Status};
use picket_tests::node::Profile;
use picketd::report::{Form, Report};

use crate::{Node, built_in, printed, rows};

const DATA: &str = "/var/lib/rancher/k3s";

/// Rows as a person would read them; owners only where the tree could be given its owners.
fn lines(report: &Report, map: impl Fn(&str) -> String) -> BTreeMap<String, usize> {
    let root = is_root();
    let mut lines = BTreeMap::new();
    for v in report.verdicts.iter().filter(|v| root || !v.control.ends_with("-owner")) {
        let line = format!("{} {} | {} | {}", v.status.as_str(), v.control, v.subject, v.observed);
        *lines.entry(map(&line)).or_default() += 1;
    }
    lines
}

/// What one node says and the other does not: `-` before, `+` after.
fn difference(before: &BTreeMap<String, usize>, after: &BTreeMap<String, usize>) -> String {
    let mut out: Vec<(String, char)> = Vec::new();
    let mut only = |these: &BTreeMap<String, usize>, those: &BTreeMap<String, usize>, sign| {
        for (line, count) in these {
            if those.get(line).copied().unwrap_or(0) < *count {
                out.push((line.split_once(' ').map_or("", |(_, rest)| rest).to_owned(), sign));
            }
        }
    };
    only(before, after, '-');
    only(after, before, '+');
    let mut text: Vec<String> = Vec::new();
    for (lines, sign) in [(before, '-'), (after, '+')] {
        for (rest, of) in &out {
            if *of == sign
                && let Some(line) = lines.keys().find(|l| l.split_once(' ').is_some_and(|(_, r)| r == rest))
            {
                text.push(format!("{rest}\u{0}{sign} {line}"));
            }
        }
    }
    text.sort();
    let mut shown = String::new();
    // How many files were read for traps that are not there is no difference.
    for line in text.iter().filter(|line| !line.contains("nothing of the kind in")) {
        writeln!(shown, "{}", line.split('\u{0}').nth(1).unwrap()).unwrap();
    }
    shown
}

/// Without root a tree cannot be given its owners, and with them many rows are others.
fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The node after a change, against the node before it.
fn changed(profile: Profile, change: impl FnOnce(&Node), map: impl Fn(&str) -> String) -> String {
    let before = Node::new(profile);
    let after = Node::new(profile);
    change(&after);
    difference(&lines(&before.scan(&built_in()), str::to_owned), &lines(&after.scan(&built_in()), map))
}

fn same(line: &str) -> String {
    line.to_owned()
}

/// Moves K3s' data where it is told to be.
fn move_data(node: &Node) {
    let to = node.sample.path("/data/k3s");
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::rename(node.sample.path(DATA), &to).unwrap();
    for name in ["node-token", "agent-token"] {
        let link = node.sample.path("/data/k3s/server").join(name);
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("/data/k3s/server/token", link).unwrap();
    }
}

fn home(line: &str) -> String {
    line.replace("/data/k3s", DATA)
}

#[test]
fn a_data_dir_of_its_own_in_config_yaml_changes_nothing_but_paths() {
    let change = |node: &Node| {
        move_data(node);
        node.sample.append("/etc/rancher/k3s/config.yaml", "data-dir: /data/k3s\n").unwrap();
    };
    insta::assert_snapshot!(changed(Profile::DefaultServer, change, home), @"");
}

#[test]
fn a_data_dir_of_its_own_in_the_unit_changes_nothing_but_paths() {
    let change = |node: &Node| {
        move_data(node);
        let unit = "/etc/systemd/system/k3s.service";
        let text = String::from_utf8(node.sample.read(unit).unwrap()).unwrap();
        let text = text.trim_end().trim_end_matches('\\').trim_end().to_owned();
        node.sample.write(unit, format!("{text} \\\n    '--data-dir' \\\n    '/data/k3s' \\\n")).unwrap();
    };
    insta::assert_snapshot!(changed(Profile::DefaultServer, change, home), @"");
}

#[test]
fn a_renamed_unit_is_found() {
    let change = |node: &Node| {
        let folder = node.sample.path("/etc/systemd/system");
        for entry in fs::read_dir(&folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.starts_with("k3s.service") {
                let new = name.replace("k3s.service", "k3s-foo.service");
                fs::rename(folder.join(&name), folder.join(new)).unwrap();
            }
        }
        let unit = "/etc/systemd/system/k3s-foo.service";
        let text = String::from_utf8(node.sample.read(unit).unwrap()).unwrap();
        node.sample.write(unit, text.replace("k3s.service.env", "k3s-foo.service.env")).unwrap();
    };
    let difference = changed(Profile::DefaultServer, change, same);
    assert!(!difference.contains("apiserver-"), "the configuration is not found:\n{difference}");
    if is_root() {
        insta::assert_snapshot!(difference, @r"
    + pass k3s-service-env-mode | /etc/systemd/system/k3s-foo.service.env | mode 0600, owner root:root
    + not_applicable k3s-service-env-mode | /etc/systemd/system/k3s.service.env | does not exist
    - pass k3s-service-env-mode | /etc/systemd/system/k3s.service.env | mode 0600, owner root:root
    + pass k3s-systemd-unit-mode | /etc/systemd/system/k3s-foo.service | mode 0644, owner root:root
    + not_applicable k3s-systemd-unit-mode | /etc/systemd/system/k3s.service | does not exist
    - pass k3s-systemd-unit-mode | /etc/systemd/system/k3s.service | mode 0644, owner root:root
    + pass token-not-in-unit-file | /etc/systemd/system/k3s-foo.service | no token on the command line
    - pass token-not-in-unit-file | /etc/systemd/system/k3s.service | no token on the command line
    ");
    }
    node_with_token(Profile::DefaultServer, "/etc/systemd/system/k3s-foo.service", change);
}

/// A token on the command line that stands in this file fails on it.
fn node_with_token(profile: Profile, path: &str, change: impl FnOnce(&Node)) {
    let node = Node::new(profile);
    change(&node);
    let text = String::from_utf8(node.sample.read(path).unwrap()).unwrap();
    node.sample.write(path, text.replacen("server \\", "server --token=hush-hush \\", 1)).unwrap();
    let report = node.scan(&built_in());
    let row = rows(&report, "token-not-in-unit-file")[0];
    assert_eq!((row.status, row.subject.as_str()), (Status::Fail, path), "{row:?}");
    assert!(row.evidence.iter().any(|e| e.path.as_deref() == Some(path) && e.line.is_some()), "{row:?}");
    assert!(!format!("{:?}", report.verdicts).contains("hush-hush"));
}

#[test]
fn a_token_in_a_drop_in_of_the_unit_is_found() {
    let node = Node::new(Profile::DefaultServer);
    let drop_in = "/etc/systemd/system/k3s.service.d/10-more.conf";
    node.sample
        .write(drop_in, "[Service]\nExecStart=\nExecStart=/usr/local/bin/k3s server --token hush-hush\n")
        .unwrap();
    let report = node.scan(&built_in());
    let found: Vec<_> =
        rows(&report, "token-not-in-unit-file").into_iter().filter(|v| v.status == Status::Fail).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].subject, drop_in);
}

#[test]
fn a_node_of_openrc_is_read_from_its_init_script() {
    let change = |node: &Node| {
        for name in ["k3s.service", "k3s.service.env"] {
            fs::remove_file(node.sample.path("/etc/systemd/system").join(name)).unwrap();
        }
        let script = "#!/sbin/openrc-run\n\ncommand=\"/usr/local/bin/k3s\"\ncommand_args=\"server \\\n    >>/var/log/k3s.log 2>&1\"\n\nset -o allexport\nif [ -f /etc/environment ]; then . /etc/environment; fi\nif [ -f /etc/rancher/k3s/k3s.env ]; then . /etc/rancher/k3s/k3s.env; fi\nset +o allexport\n";
        node.sample.write("/etc/init.d/k3s", script).unwrap();
        node.sample.chmod("/etc/init.d/k3s", 0o755).unwrap();
        node.sample.write("/etc/rancher/k3s/k3s.env", "").unwrap();
        node.sample.chmod("/etc/rancher/k3s/k3s.env", 0o600).unwrap();
    };
    let difference = changed(Profile::DefaultServer, change, same);
    assert!(!difference.contains("apiserver-"), "the configuration is not found:\n{difference}");
    if is_root() {
        insta::assert_snapshot!(difference, @r"
    + pass k3s-service-env-mode | /etc/rancher/k3s/k3s.env | mode 0600, owner root:root
    + not_applicable k3s-service-env-mode | /etc/systemd/system/k3s.service.env | does not exist
    - pass k3s-service-env-mode | /etc/systemd/system/k3s.service.env | mode 0600, owner root:root
    + not_applicable k3s-systemd-unit-mode | /etc/systemd/system/k3s.service | does not exist
    - pass k3s-systemd-unit-mode | /etc/systemd/system/k3s.service | mode 0644, owner root:root
    + pass token-not-in-unit-file | /etc/init.d/k3s | no token on the command line
    - pass token-not-in-unit-file | /etc/systemd/system/k3s.service | no token on the command line
    ");
    }
    node_with_token(Profile::DefaultServer, "/etc/init.d/k3s", change);
}

#[test]
fn options_of_the_openrc_script_count() {
    let node = Node::new(Profile::DefaultServer);
    fs::remove_file(node.sample.path("/etc/systemd/system/k3s.service")).unwrap();
    let script = "#!/sbin/openrc-run\ncommand=\"/usr/local/bin/k3s\"\ncommand_args=\"server \\\n\t'--secrets-encryption' \\\n    >>/var/log/k3s.log 2>&1\"\n";
    node.sample.write("/etc/init.d/k3s", script).unwrap();
    let report = node.scan(&built_in());
    let seen =
        report.verdicts.iter().filter(|v| v.evidence.iter().any(|e| e.path.as_deref() == Some("/etc/init.d/k3s")));
    assert!(seen.count() > 0, "no verdict rests on the script");
}

/// A hardened node on which somebody meant well.
#[test]
fn traps_are_told_and_what_they_undo_fails() {
    let change = |node: &Node| {
        // Replaces the list of config.yaml: audit log, admission and all.
        node.sample
            .write("/etc/rancher/k3s/config.yaml.d/50-more.yaml", "kube-apiserver-arg:\n  - \"anonymous-auth=false\"\n")
            .unwrap();
        node.sample.chmod("/etc/rancher/k3s/config.yaml.d/50-more.yaml", 0o600).unwrap();
        // A mistyped name, and a mode that YAML reads as a number.
        node.sample
            .write(
                "/etc/rancher/k3s/config.yaml.d/60-typo.yaml",
                "secret-encryption: true\nwrite-kubeconfig-mode: 0644\n",
            )
            .unwrap();
        node.sample.chmod("/etc/rancher/k3s/config.yaml.d/60-typo.yaml", 0o600).unwrap();
    };
    let traps = changed(Profile::HardenedServer, change, same);
    if is_root() {
        insta::assert_snapshot!("traps", traps);
    }
    for told in [
        "fail trap-list-replaced",
        "fail trap-unknown-key",
        "fail apiserver-audit-log-path",
        "fail k3s-write-kubeconfig-mode",
    ] {
        assert!(traps.contains(&format!("+ {told}")), "{told} is missing in\n{traps}");
    }
}

#[test]
fn a_node_with_traps_has_no_pass_for_what_the_drop_in_took_away() {
    let node = Node::new(Profile::HardenedServer);
    assert_eq!(rows(&node.scan(&built_in()), "apiserver-audit-log-path")[0].status, Status::Pass);
    node.sample
        .write("/etc/rancher/k3s/config.yaml.d/50-more.yaml", "kube-apiserver-arg:\n  - \"anonymous-auth=false\"\n")
        .unwrap();
    let report = node.scan(&built_in());
    assert_eq!(rows(&report, "apiserver-audit-log-path")[0].status, Status::Fail);
}

#[test]
fn a_part_of_the_configuration_that_cannot_be_read_leaves_every_flag_unknown() {
    for path in
        ["/etc/systemd/system/k3s.service", "/etc/systemd/system/k3s.service.env", "/etc/rancher/k3s/config.yaml"]
    {
        let node = Node::new(Profile::HardenedServer);
        // Too large to be read, for root too.
        node.sample.append(path, "#".repeat(5 << 20)).unwrap();
        let (policy, report) = (built_in(), node.scan(&built_in()));
        for row in &report.verdicts {
            let flags = policy.catalogue.get(&row.control).is_some_and(|c| c.source.component().is_some());
            let option =
                ["k3s-enable-pprof", "k3s-disable-traefik", "k3s-secrets-encryption-flag"].contains(&&*row.control);
            let decided = matches!(row.status, Status::Pass | Status::Fail);
            assert!(!(decided && (flags || option)), "{path}: {} {}", row.control, row.observed);
        }
    }
    let node = Node::new(Profile::Agent);
    node.sample.append("/etc/systemd/system/k3s-agent.service", "#".repeat(5 << 20)).unwrap();
    let report = node.scan(&built_in());
    let row = rows(&report, "token-secure-format")[0];
    assert_eq!(row.status, Status::Unknown, "whether it joins another stands in what cannot be read: {row:?}");
}

#[test]
fn a_table_of_a_live_node_says_how_much_is_no_proof_of_what_runs() {
    let mut report = Node::new(Profile::HardenedServer).scan(&built_in());
    let words = "rows pass by what is on disk";
    assert!(!printed(&report, Form::Table).contains(words), "in a folder that stands for a node nothing runs");
    report.node.rooted = false;
    let told = printed(&report, Form::Table);
    let alone = report.verdicts.iter().filter(|v| v.status == Status::Pass && v.state == Some(State::Declared)).count();
    assert!(alone > 50 && told.contains(&format!("{alone} {words}")), "{alone}: {told}");
    // As it is with the memory of the daemon.
    for verdict in &mut report.verdicts {
        verdict.state = verdict.state.map(|_| State::Both);
    }
    assert!(!printed(&report, Form::Table).contains(words));
}
