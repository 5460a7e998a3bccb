//! `picketd scan`, `config` and `certs` over sample nodes: what a person or script sees.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use picket_host::Host;
use picket_model::{Status, Verdict};
use picket_service::clock::FixedClock;
use picket_tests::node::{MOMENT, Profile, SampleNode};
use picketd::cmd::scan::scan;
use picketd::report::Report;
use picketd::source::{Ask, Memory};
use tempfile::TempDir;

const TLS: &str = "/var/lib/rancher/k3s/server/tls";

struct Node {
    dir: TempDir,
    sample: SampleNode,
}

impl Node {
    fn new(profile: Profile) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sample = SampleNode::build(profile, &dir.path().join("root")).unwrap();
        Self { dir, sample }
    }

    fn scan(&self) -> Report {
        scan_at(self.sample.root(), MOMENT)
    }

    /// Puts something else in the place of a file.
    fn replace(&self, path: &str, make: impl FnOnce(&Path)) {
        let at = self.sample.path(path);
        fs::remove_file(&at).unwrap();
        make(&at);
    }
}

fn scan_at(root: &Path, at: &str) -> Report {
    let clock = FixedClock(at.parse::<Timestamp>().unwrap());
    let host = Host::rooted(root, Arc::new(clock)).unwrap();
    let (memory, policy) = (Memory::none(), picketd::rules::policy().unwrap());
    scan(&host, &Ask { role: None, memory: &memory, catalogue: &policy.catalogue }, &policy)
}

/// The rows a person would read, one a line. Owners depend on who built the tree: left out unless root did.
fn lines(report: &Report) -> String {
    let root = nix::unistd::geteuid().is_root();
    let mut out = String::new();
    for v in &report.verdicts {
        if v.control.ends_with("-owner") && !root {
            continue;
        }
        let place = v.evidence.first().map(picketd::report::table::place).unwrap_or_default();
        writeln!(out, "{:14} {} | {} | {} | {place}", v.status.as_str(), v.control, v.subject, v.observed).unwrap();
    }
    let s = report.summary();
    if root {
        writeln!(out, "{s:?}").unwrap();
    }
    out
}

fn rows<'a>(report: &'a Report, control: &str) -> Vec<&'a Verdict> {
    let rows: Vec<_> = report.verdicts.iter().filter(|v| v.control == control).collect();
    assert!(!rows.is_empty(), "no row of {control}");
    rows
}

macro_rules! golden {
    ($name:ident, $profile:ident) => {
        #[test]
        fn $name() {
            let node = Node::new(Profile::$profile);
            let report = node.scan();
            if nix::unistd::geteuid().is_root() {
                insta::assert_snapshot!(stringify!($name), lines(&report));
            } else {
                // Without root the tree's owners are wrong, and with them a part of the rows; the rest must hold.
                assert!(!report.verdicts.is_empty());
            }
        }
    };
}

golden!(default_server, DefaultServer);
golden!(hardened_server, HardenedServer);
golden!(agent, Agent);
golden!(etcd_server, EtcdServer);

#[test]
fn an_empty_root_gives_no_pass_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let report = scan_at(dir.path(), MOMENT);
    assert!(!report.verdicts.is_empty());
    let passes: Vec<_> = report.verdicts.iter().filter(|v| v.status == Status::Pass).collect();
    assert!(passes.is_empty(), "{passes:#?}");
    let fails: Vec<_> = report.verdicts.iter().filter(|v| v.status == Status::Fail).collect();
    assert!(fails.is_empty(), "nothing was seen, so nothing can be wrong: {fails:#?}");
}

#[test]
fn two_scans_of_one_node_say_the_same() {
    let node = Node::new(Profile::HardenedServer);
    assert_eq!(node.scan(), node.scan());
}

#[test]
fn every_verdict_names_a_catalogue_control_and_says_what_was_seen() {
    for profile in Profile::ALL {
        for v in Node::new(profile).scan().verdicts {
            assert!(!v.title.is_empty() && !v.subject.is_empty(), "{v:?}");
            assert!(v.status == Status::NotApplicable || !v.observed.is_empty(), "{v:?}");
            assert!(v.status != Status::Fail || !v.remedy.is_empty(), "{v:?}");
        }
    }
}

#[test]
fn no_secret_of_a_node_is_in_any_output() {
    for profile in Profile::ALL {
        let node = Node::new(profile);
        let mut secrets = Vec::new();
        for path in ["/var/lib/rancher/k3s/server/token", "/etc/rancher/node/password"] {
            if let Ok(bytes) = node.sample.read(path) {
                let text = String::from_utf8(bytes).unwrap();
                secrets.push(text.trim().rsplit(':').next().unwrap().to_owned());
            }
        }
        assert!(!secrets.is_empty());
        let report = node.scan();
        for form in <picketd::report::Form as clap::ValueEnum>::value_variants() {
            let mut out = Vec::new();
            report.print(*form, Default::default(), &mut out).unwrap();
            let out = String::from_utf8(out).unwrap();
            for secret in &secrets {
                assert!(!out.contains(secret.as_str()), "{form:?} of {profile:?} shows a secret");
            }
            assert!(!out.contains("PRIVATE KEY"));
        }
    }
}

#[test]
fn time_is_that_of_at() {
    let node = Node::new(Profile::DefaultServer);
    let expired = scan_at(node.sample.root(), "2028-01-01T00:00:00Z");
    let row = |report: &Report| {
        report
            .verdicts
            .iter()
            .find(|v| {
                v.subject == format!("{TLS}/client-admin.crt#0") && v.observed.contains("days left")
                    || v.subject == format!("{TLS}/client-admin.crt#0") && v.observed.contains("expired")
            })
            .cloned()
            .unwrap()
    };
    assert_eq!(row(&node.scan()).status, Status::Pass);
    let late = row(&expired);
    assert_eq!(late.status, Status::Fail, "{late:?}");
    assert!(late.observed.contains("expired 2027-11-"), "{late:?}");
}

/// Something in place of a file that cannot be read: the rows on its inside are unknown, and the reason is a person's.
fn unknown_because(path: &str, make: impl FnOnce(&Path), reason: &str) {
    let node = Node::new(Profile::HardenedServer);
    node.replace(path, make);
    let report = node.scan();
    let found: Vec<_> = report
        .verdicts
        .iter()
        .filter(|v| v.subject.starts_with(path) || v.observed.contains(path))
        .filter(|v| v.status == Status::Unknown && v.observed.contains(reason))
        .collect();
    let all: Vec<_> =
        report.verdicts.iter().filter(|v| v.subject.starts_with(path) || v.observed.contains(path)).collect();
    assert!(!found.is_empty(), "{path}: no verdict says {reason:?}, but\n{all:#?}");
}

#[test]
fn bad_certificates_are_unknown_with_a_reason() {
    let path = format!("{TLS}/client-admin.crt");
    let pipe = |at: &Path| nix::unistd::mkfifo(at, nix::sys::stat::Mode::S_IRUSR).unwrap();
    unknown_because(&path, pipe, "named pipe");
    unknown_because(&path, |at| fs::create_dir(at).unwrap(), "folder");
    unknown_because(&path, |at| fs::write(at, [0xff; 100]).unwrap(), "no certificate in it");
    unknown_because(&path, |at| fs::write(at, vec![b'x'; 10 << 20]).unwrap(), "larger than");
    unknown_because(&path, |at| symlink("client-admin.crt", at).unwrap(), "circle");
    unknown_because(&path, |at| fs::write(at, "").unwrap(), "no certificate");
    unknown_because(&path, |at| fs::write(at, "-----BEGIN CERTIFICATE-----\nMIIB\n").unwrap(), "cut short");
    unknown_because(
        &path,
        |at| fs::write(at, "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n").unwrap(),
        "not base64",
    );
    unknown_because(
        &path,
        |at| fs::write(at, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap(),
        "not an X.509 certificate",
    );
    unknown_because(
        &path,
        |at| fs::write(at, "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n").unwrap(),
        "no certificate",
    );
}

#[test]
fn a_link_out_of_the_root_finds_nothing_there() {
    let path = format!("{TLS}/client-admin.crt");
    let node = Node::new(Profile::HardenedServer);
    let outside = node.dir.path().join("outside.crt");
    fs::copy(node.sample.path(&path), &outside).unwrap();
    node.replace(&path, |at| symlink("../../../../../../../../outside.crt", at).unwrap());
    let subject = format!("{path}#0");
    let seen: Vec<_> = node.scan().verdicts.into_iter().filter(|v| v.subject == subject).collect();
    assert!(seen.is_empty(), "the certificate outside the root was read: {seen:#?}");
}

#[test]
fn a_broken_config_is_not_judged_by_what_it_might_have_said() {
    for (bad, reason) in
        [("write-kubeconfig-mode: \"0600\n", "config.yaml"), ("- a\n- b\n", "config.yaml"), ("a: [\n", "config.yaml")]
    {
        let node = Node::new(Profile::HardenedServer);
        node.sample.write("/etc/rancher/k3s/config.yaml", bad).unwrap();
        let report = node.scan();
        let of_flags: Vec<_> = report
            .verdicts
            .iter()
            .filter(|v| v.control.starts_with("apiserver-") && v.status == Status::Pass)
            .collect();
        assert!(of_flags.is_empty(), "{bad:?}: {of_flags:#?}");
        assert!(report.verdicts.iter().any(|v| v.status == Status::Unknown && v.observed.contains(reason)));
    }
}

#[test]
fn a_half_written_token_is_unknown() {
    let node = Node::new(Profile::DefaultServer);
    let path = "/var/lib/rancher/k3s/server/token";
    for (content, reason) in [("", "empty"), ("K10abc", "half written"), ("a\nb\n", "more than one line")] {
        node.sample.write(path, content).unwrap();
        let report = node.scan();
        let age = rows(&report, "token-rotation-age");
        assert!(age.iter().all(|v| v.status == Status::Unknown), "{age:#?}");
        assert!(age.iter().any(|v| v.observed.contains(reason)), "{reason}: {age:#?}");
    }
}
