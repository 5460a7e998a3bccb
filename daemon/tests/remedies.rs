//! What `picketd explain` prints is tried: the lines go into the place it names, and the control must pass afterwards.
//! So is what `picketd fix` repairs, over every control it takes on.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use picket_checks::{Control, Op, Policy, Source, evaluate, worst_status};
use picket_host::Host;
use picket_model::Status;
use picket_service::clock::FixedClock;
use picket_tests::node::{DATA_DIR, MOMENT, Profile, SampleNode};
use picketd::advice::{self, Change, Setting};
use picketd::cmd::{Node as Where, RoleAsked, fix};
use picketd::repair;
use picketd::rules;
use picketd::source::{Ask, Memory, Seen, observe};

const BEFORE: &str = "/etc/rancher/k3s/config.yaml.d/10-bad.yaml";
const LINES: &str = "/etc/rancher/k3s/config.yaml.d/90-picket.yaml";

fn look(node: &SampleNode, policy: &Policy) -> Seen {
    let host = Host::rooted(node.root(), Arc::new(FixedClock(MOMENT.parse().unwrap()))).unwrap();
    observe(&host, &Ask { role: None, memory: &Memory::none(), catalogue: &policy.catalogue })
}

fn status(node: &SampleNode, policy: &Policy, control: &Control) -> Option<Status> {
    let seen = look(node, policy);
    worst_status(evaluate(&seen.snapshot, policy).iter().filter(|v| v.control == control.id))
}

fn put(node: &SampleNode, path: &str, text: &str) {
    fs::create_dir_all(node.path(path).parent().unwrap()).unwrap();
    fs::write(node.path(path), text).unwrap();
    fs::set_permissions(node.path(path), fs::Permissions::from_mode(0o600)).unwrap();
}

/// A value a control does not take.
fn wrong(control: &Control, name: &str, right: &str) -> String {
    match (control.expected.op, right) {
        (_, "true") => "false".to_owned(),
        (_, "false") => "true".to_owned(),
        (Op::Ne, _) => control.expected.text(),
        (Op::DurationBetween, _) => "2h".to_owned(),
        (Op::Ge | Op::Gt, _) => "-1".to_owned(),
        (Op::SubsetOf, _) if name.contains("cipher") => "TLS_RSA_WITH_RC4_128_SHA".to_owned(),
        (Op::Set, _) => String::new(),
        _ if name.contains("bind-address") => "0.0.0.0".to_owned(),
        _ if name == "authorization-mode" => "AlwaysAllow".to_owned(),
        _ if name.contains("mode") => "0644".to_owned(),
        _ => "9".to_owned(),
    }
}

#[test]
fn the_lines_of_explain_make_every_control_pass_that_has_some() {
    let policy = Policy { benchmark: None, ..Policy::built_in().unwrap() };
    let dir = tempfile::tempdir().unwrap();
    let (mut tried, mut untried) = (0, Vec::new());
    let node = SampleNode::build(Profile::DefaultServer, &dir.path().join("root")).unwrap();
    for control in policy.catalogue.controls() {
        let seen = look(&node, &policy);
        let config = seen.snapshot.declared.value().map(AsRef::as_ref);
        let Some(advice) = advice::of(control, &seen.snapshot.data_dir, config) else { continue };
        if status(&node, &policy, control) != Some(Status::Fail) {
            let mut bad = String::new();
            for (key, setting) in &advice.settings.0 {
                match setting {
                    Setting::Value(right) => bad.push_str(&format!("{key}: \"{}\"\n", wrong(control, key, right))),
                    Setting::Items(items) => {
                        bad.push_str(&format!("{key}:\n"));
                        for item in items {
                            let (name, right) = item.split_once('=').unwrap_or((item, ""));
                            let name = name.trim_end_matches('+');
                            bad.push_str(&format!("- \"{name}={}\"\n", wrong(control, name, right)));
                        }
                    }
                }
            }
            put(&node, BEFORE, &bad);
        }
        let seen = look(&node, &policy);
        let config = seen.snapshot.declared.value().map(AsRef::as_ref);
        // What is set already changes what helps.
        let advice = advice::of(control, &seen.snapshot.data_dir, config);
        if let (Some(Status::Fail), Some(advice)) = (status(&node, &policy, control), &advice) {
            put(&node, LINES, &format!("{}\n", advice.settings.lines().join("\n")));
            if let Some(file) = &advice.file {
                put(&node, &file.path, &file.text);
            }
            let after = status(&node, &policy, control);
            assert_eq!(after, Some(Status::Pass), "{}: {:#?}", control.id, advice);
            tried += 1;
        } else {
            untried.push(control.id.as_str());
        }
        let made = advice.as_ref().and_then(|a| Some(a.file.as_ref()?.path.as_str()));
        for path in [Some(BEFORE), Some(LINES), made].into_iter().flatten() {
            let _ = fs::remove_file(node.path(path));
        }
    }
    assert!(tried >= 45, "{tried} tried, not: {untried:?}");
}

#[test]
fn a_file_that_is_named_already_is_added_to() {
    let policy = Policy::built_in().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let node = SampleNode::build(Profile::DefaultServer, &dir.path().join("root")).unwrap();
    put(&node, BEFORE, "kube-apiserver-arg: [admission-control-config-file=/etc/own.yaml]\n");
    let seen = look(&node, &policy);
    let config = seen.snapshot.declared.value().map(AsRef::as_ref);
    let control = policy.catalogue.get("apiserver-event-rate-limit").unwrap();
    let advice = advice::of(control, DATA_DIR, config).unwrap();
    let file = advice.file.unwrap();
    assert_eq!((file.path.as_str(), file.change), ("/etc/own.yaml", Change::AddPlugin));
    assert!(file.text.starts_with("- name: EventRateLimit"), "{file:?}");
    assert_eq!(advice.settings.lines(), ["kube-apiserver-arg+:", "- \"enable-admission-plugins+=EventRateLimit\""]);
}

#[test]
fn the_policy_of_explain_passes_every_control_on_policies() {
    let dir = tempfile::tempdir().unwrap();
    let policy = rules::policy().unwrap();
    let node = SampleNode::build(Profile::DefaultServer, &dir.path().join("root")).unwrap();
    let control = policy.catalogue.get("audit-policy-file-set").unwrap();
    let advice = advice::of(control, DATA_DIR, None).unwrap();
    put(&node, LINES, &format!("{}\n", advice.settings.lines().join("\n")));
    let file = advice.file.unwrap();
    put(&node, &file.path, &file.text);
    let seen = look(&node, &policy);
    let mut judged = 0;
    for row in evaluate(&seen.snapshot, &policy) {
        let control = policy.catalogue.get(&row.control).unwrap();
        // Whether K3s has loaded it shows when K3s runs.
        if control.source == Source::AuditPolicy && control.id != "audit-policy-loaded" {
            assert_eq!(row.status, Status::Pass, "{row:#?}");
            judged += 1;
        }
    }
    assert!(judged >= 15, "{judged}");
    // The same for a node that has a policy of which a control complains.
    let bodies = policy.catalogue.get("audit-policy-detections-bodies").unwrap();
    let again = advice::of(bodies, DATA_DIR, seen.snapshot.declared.value().map(AsRef::as_ref)).unwrap();
    let again_file = again.file.unwrap();
    assert_eq!((again_file.path, again_file.change, again_file.text), (file.path, Change::Replace, file.text));
    assert!(again.settings.0.is_empty());
}

fn repaired(root: &Path, control: &str) -> (String, u8) {
    let args = fix::Args {
        node: Where { root: Some(root.to_owned()), proc: None },
        role: RoleAsked::Auto,
        dry_run: false,
        controls: vec![control.to_owned()],
    };
    let mut out = Vec::new();
    let code = fix::run(&args, &mut out).map_or_else(|failure| failure.exit_code(), |_| 0);
    (String::from_utf8(out).unwrap(), code)
}

/// Every file and folder of a tree.
fn entries(root: &Path) -> Vec<std::path::PathBuf> {
    let (mut all, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            if meta.is_dir() {
                folders.push(path.clone());
            }
            if !meta.is_symlink() {
                all.push(path);
            }
        }
    }
    all
}

#[test]
fn every_mode_that_is_too_wide_is_repaired_or_says_why_not() {
    let policy = Policy::built_in().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (mut fixed, mut left) = (0, 0);
    for profile in [Profile::HardenedServer, Profile::Agent] {
        let node = SampleNode::build(profile, &dir.path().join(format!("{profile:?}"))).unwrap();
        for path in entries(node.root()) {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        }
        for control in policy.catalogue.controls().iter().filter(|c| c.expected.op == Op::ModeAtMost && repair::can(c))
        {
            if status(&node, &policy, control) != Some(Status::Fail) {
                continue;
            }
            let (said, code) = repaired(node.root(), &control.id);
            let after = status(&node, &policy, control);
            if code == 0 {
                assert_eq!(after, Some(Status::Pass), "{}: {said}", control.id);
                fixed += 1;
                // Asked again, there is nothing left to do.
                let (said, code) = repaired(node.root(), &control.id);
                assert!(code == 0 && said.contains("nothing to repair"), "{}: {said}", control.id);
            } else {
                assert!(code == 3 && said.contains("not changed: "), "{}: {code} {said}", control.id);
                left += 1;
            }
        }
    }
    assert!(fixed >= 15 && left >= 1, "{fixed} repaired, {left} left to people");
}
