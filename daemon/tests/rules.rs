//! The site's own rules: `picketd rules`, and the daemon that reads them anew on SIGHUP.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use picket_tests::node::{DATA_DIR, Profile, SampleNode};
use picket_tests::wait;
use picketd::status::Status;
use serde_json::Value;
use tempfile::TempDir;

const RULE: &str = "\
title: A config map of the shop was read
name: shop-config-read
logsource:
    category: application
    product: kubernetes
    service: audit
detection:
    selection:
        verb: get
        objectRef.resource: configmaps
        objectRef.namespace: shop
    condition: selection
level: medium
";

fn event(id: &str, user: &str) -> String {
    format!(
        r#"{{"kind":"Event","auditID":"{id}","stage":"ResponseComplete","verb":"get","user":{{"username":"{user}"}},"objectRef":{{"resource":"configmaps","namespace":"shop","name":"c"}},"responseStatus":{{"code":200}},"stageTimestamp":"{}","annotations":{{"authorization.k8s.io/decision":"allow"}}}}
"#,
        jiff::Timestamp::now()
    )
}

fn picketd(args: &[&str], paths: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_picketd")).args(args).args(paths).env_clear().output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_folder_is_checked_with_file_and_line_and_an_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("shop.yml"), RULE).unwrap();
    let good = picketd(&["rules", "check", "--rules-dir"], &[dir.path()]);
    assert_eq!(good.status.code(), Some(0), "{}", text(&good.stdout));
    assert!(text(&good.stdout).contains("1 rules of the site can be used"), "{}", text(&good.stdout));

    let bad = dir.path().join("bad.yml");
    fs::write(&bad, RULE.replace("name: shop", "name: bad").replace("condition: selection", "condition: selektion"))
        .unwrap();
    let checked = picketd(&["rules", "check"], &[&bad]);
    assert_eq!(checked.status.code(), Some(1));
    assert!(text(&checked.stdout).contains(&format!("error: {}:12: ", bad.display())), "{}", text(&checked.stdout));

    fs::write(
        dir.path().join("tuning.yml"),
        "rules:\n  shop-config-read: {severity: high}\n  pod-exec: {enabled: false}\n",
    )
    .unwrap();
    let listed = picketd(&["rules", "list", "-o", "json", "--rules-dir"], &[dir.path()]);
    let rules: Vec<Value> = text(&listed.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ours = rules.iter().find(|rule| rule["id"] == "shop-config-read").unwrap();
    assert_eq!((ours["severity"].as_str(), ours["tuned"].as_bool()), (Some("high"), Some(true)));
    assert!(ours["origin"].as_str().unwrap().ends_with("shop.yml:1"));
    assert!(rules.len() > 130 && text(&listed.stderr).contains("bad.yml:12"), "{}", text(&listed.stderr));
}

#[test]
fn a_rule_is_tried_out_on_a_log_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (rule, log) = (dir.path().join("shop.yml"), dir.path().join("audit.log"));
    fs::write(&rule, RULE).unwrap();
    fs::write(&log, event("a-1", "eve")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_picketd"))
        .args(["rules", "test", "-o", "json"])
        .arg(&rule)
        .arg("--log")
        .arg(&log)
        .output()
        .unwrap();
    let found: Vec<Value> = text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(found.len(), 1, "{}", text(&output.stderr));
    assert_eq!((found[0]["rule"].as_str(), found[0]["user"].as_str()), (Some("shop-config-read"), Some("eve")));
}

#[test]
fn a_file_is_checked_and_tried_out_with_the_lists_of_the_site() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("shop.yml"), RULE.replace("verb: get", "user|expand: '%robots%'")).unwrap();
    fs::write(path("tuning.yml"), "site: {lists: {robots: [flux]}}\nrules: {elsewhere: {enabled: false}}\n").unwrap();
    fs::write(path("audit.log"), event("a-1", "flux") + &event("a-2", "eve")).unwrap();
    let checked = picketd(&["rules", "check", "--rules-dir"], &[dir.path(), &path("shop.yml")]);
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked.stdout));
    let tried = Command::new(env!("CARGO_BIN_EXE_picketd"))
        .args(["rules", "test", "-o", "json"])
        .arg(path("shop.yml"))
        .arg("--log")
        .arg(path("audit.log"))
        .env_clear()
        .env("PICKET_AUDIT_RULES_DIR", dir.path())
        .output()
        .unwrap();
    let found = text(&tried.stdout);
    assert!(found.lines().count() == 1 && found.contains("\"flux\""), "{found}{}", text(&tried.stderr));
}

#[test]
fn a_correlation_over_rules_of_other_files_is_checked_and_tried_out_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("shop.yml"), RULE).unwrap();
    fs::write(dir.path().join("broken.yml"), "title: [").unwrap();
    let file = dir.path().join("often.yml");
    let rule = "title: Often\nname: shop-often\ncorrelation:\n    type: event_count\n    rules: [shop-config-read]\n    \
                group-by: [user.username]\n    timespan: 10m\n    condition: {gte: 2}\nlevel: high\n";
    fs::write(&file, rule).unwrap();
    let checked = picketd(&["rules", "check", "--rules-dir"], &[dir.path(), &file]);
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked.stdout));
    assert!(text(&checked.stdout).contains("1 rules of the site can be used"), "{}", text(&checked.stdout));
    let log = dir.path().join("audit.log");
    fs::write(&log, event("1", "eve") + &event("2", "eve")).unwrap();
    let tested = picketd(
        &["rules", "test", "-o", "json", "--rules-dir", &dir.path().display().to_string()],
        &[&file, Path::new("--log"), &log],
    );
    let shown = text(&tested.stdout);
    assert_eq!(shown.matches("\"rule\":\"shop-").count(), 1, "{shown}");
    assert!(shown.contains("shop-often"), "{shown}");
}

#[test]
fn a_folder_that_was_named_must_be_there() {
    let none = Path::new("/nonexistent/rules");
    for args in [&["rules", "check", "--rules-dir"][..], &["rules", "list", "--rules-dir"]] {
        let output = picketd(args, &[none]);
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains("/nonexistent/rules"), "{}", text(&output.stderr));
    }
}

struct Daemon {
    dir: TempDir,
    sample: SampleNode,
    child: Child,
}

impl Daemon {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| -> PathBuf { dir.path().join(name) };
        let sample = SampleNode::build_now(Profile::HardenedServer, &path("root")).unwrap();
        fs::create_dir(path("rules")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_picketd"))
            .args(["run", "--root"])
            .arg(path("root"))
            .arg("--state-dir")
            .arg(path("state"))
            .arg("--runtime-dir")
            .arg(path("run"))
            .env_clear()
            .env("PICKET_AUDIT_RULES_DIR", path("rules"))
            .stdin(Stdio::null())
            .stderr(File::create(path("log")).unwrap())
            .spawn()
            .unwrap();
        let daemon = Self { dir, sample, child };
        daemon.audit("picketd to answer", |_| true);
        daemon
    }

    fn audit(&self, what: &str, is_so: impl Fn(&picketd::status::AuditState) -> bool) {
        let run = self.dir.path().join("run");
        wait::until(what, || {
            let status: Status =
                serde_json::from_slice(&picketd(&["status", "-o", "json", "--runtime-dir"], &[&run]).stdout).ok()?;
            is_so(&status.state.audit).then_some(())
        })
        .unwrap();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    fn reload(&self) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGHUP).unwrap();
    }

    fn detected(&self, user: &str) -> bool {
        self.log().lines().any(|l| l.contains("shop-config-read") && l.contains(&format!("\"{user}\"")))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn a_reload_brings_new_rules_and_a_bad_one_is_told_while_the_others_run() {
    let daemon = Daemon::start();
    let rules = daemon.dir.path().join("rules");
    let log = format!("{DATA_DIR}/server/logs/audit.log");
    daemon.audit("the log to be read", |audit| audit.events > 0 && audit.rule_problems.is_empty());
    fs::write(rules.join("shop.yml"), RULE).unwrap();
    fs::write(rules.join("bad.yml"), "title: bad\nname: bad\nlogsource: {product: kubernetes}\n").unwrap();
    daemon.reload();
    daemon.audit("the bad rule to be told", |audit| {
        audit.rule_problems.len() == 1 && audit.rule_problems[0].contains("bad.yml:")
    });
    daemon.sample.append(&log, event("a-1", "eve")).unwrap();
    wait::until("the detection of the site's rule", || daemon.detected("eve").then_some(())).unwrap();

    fs::write(rules.join("tuning.yml"), "rules: {shop-config-read: {except: [{user: flux}]}}\n").unwrap();
    fs::remove_file(rules.join("bad.yml")).unwrap();
    daemon.reload();
    daemon.audit("the rules to be good", |audit| audit.rule_problems.is_empty());
    daemon.sample.append(&log, event("a-2", "flux") + &event("a-3", "bob")).unwrap();
    wait::until("the one who is no exception", || daemon.detected("bob").then_some(())).unwrap();
    assert!(!daemon.detected("flux"));
}
