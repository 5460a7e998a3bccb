//! `picketd run` as a process over sample nodes: what opens, what resolves, what outlives a kill.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use picket_ledger::{Ledger, Limits};
use picket_model::{Event, EventBody, FindingState, Seq};
use picket_tests::node::{Profile, SampleNode};
use picket_tests::wait;
use picketd::status::Status;
use tempfile::TempDir;

/// A daemon over a sample node with a `/proc` of its own.
struct Run {
    dir: TempDir,
    sample: SampleNode,
    settings: &'static str,
    child: Option<Child>,
}

impl Run {
    fn new(profile: Profile, settings: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sample = SampleNode::build_now(profile, &dir.path().join("root")).unwrap();
        let run = Self { dir, sample, settings, child: None };
        run.sysctl("vm.overcommit_memory", "1");
        run.sysctl("kernel.panic", "10");
        run
    }

    fn started(profile: Profile, settings: &'static str) -> Self {
        let mut run = Self::new(profile, settings);
        run.start();
        run
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn sysctl(&self, key: &str, value: &str) {
        let path = self.path("proc/sys").join(key.replace('.', "/"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{value}\n")).unwrap();
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_picketd"));
        command.arg(name).env_clear().stdin(Stdio::null());
        command
    }

    fn start(&mut self) {
        fs::write(self.path("picketd.toml"), self.settings).unwrap();
        let log = OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = self.command("run");
        command.arg("--config").arg(self.path("picketd.toml")).arg("--root").arg(self.sample.root());
        command.arg("--proc").arg(self.path("proc")).arg("--state-dir").arg(self.path("state"));
        command.arg("--runtime-dir").arg(self.path("run")).stderr(log);
        self.child = Some(command.spawn().unwrap());
        wait::until("picketd to answer", || self.try_status()).unwrap();
    }

    fn try_status(&self) -> Option<Status> {
        let output =
            self.command("status").args(["-o", "json", "--runtime-dir"]).arg(self.path("run")).output().unwrap();
        serde_json::from_slice(&output.stdout).ok()
    }

    fn status(&self) -> Status {
        self.try_status().unwrap()
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = i32::try_from(self.child.as_ref().unwrap().id()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
    }

    fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn stop(&mut self) {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        let status = self.child.take().unwrap().wait().unwrap();
        assert!(status.success(), "{status}\n{}", self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// The log says this.
    fn await_log(&self, text: &str) {
        wait::until(text, || self.log().contains(text).then_some(())).unwrap_or_else(|e| panic!("{e}\n{}", self.log()));
    }

    /// A finding of this control on this subject is in this state.
    fn await_finding(&self, what: &str, control: &str, subject: &str) {
        let says = |line: &str| {
            line.contains(what)
                && line.contains(&format!("control=\"{control}\""))
                && line.contains(&format!("subject=\"{subject}\""))
        };
        wait::until(&format!("{what}: {control}"), || self.log().lines().any(says).then_some(()))
            .unwrap_or_else(|e| panic!("{e}\n{}", self.log()));
    }

    /// Everything in the outbox, after the daemon has stopped.
    fn events(&mut self) -> Vec<Event> {
        if self.child.is_some() {
            self.stop();
        }
        let (mut ledger, _) =
            Ledger::open(&self.path("state/outbox"), Limits::default(), jiff::Timestamp::now()).unwrap();
        let mut events = Vec::new();
        loop {
            let after = events.last().map_or(Seq::ZERO, |e: &Event| e.seq);
            let batch = ledger.read_after(after, 1000, 1 << 20).unwrap();
            if batch.events.is_empty() {
                return events;
            }
            events.extend(batch.events);
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

const CONFIG: &str = "/etc/rancher/k3s/config.yaml";

#[test]
fn a_mode_becomes_a_finding_and_is_resolved() {
    let run = Run::started(Profile::HardenedServer, "");
    run.sample.chmod(CONFIG, 0o644).unwrap();
    run.await_finding("finding opened", "k3s-config-file-mode", CONFIG);
    run.sample.chmod(CONFIG, 0o600).unwrap();
    run.await_finding("finding resolved", "k3s-config-file-mode", CONFIG);
    assert_eq!(run.status().state.missed_hints, 0, "hints told of all of it");
}

#[test]
fn a_kernel_parameter_becomes_a_finding_and_is_resolved() {
    let run = Run::started(Profile::Agent, "");
    run.sysctl("kernel.panic", "0");
    run.await_finding("finding opened", "sysctl-kernel-panic", "kernel.panic");
    run.sysctl("kernel.panic", "10");
    run.await_finding("finding resolved", "sysctl-kernel-panic", "kernel.panic");
    // Replaced by rename: the sweep or the folder's watch, whichever is first.
    let path = run.path("proc/sys/kernel/panic");
    fs::write(path.with_file_name("new"), "0\n").unwrap();
    fs::rename(path.with_file_name("new"), &path).unwrap();
    let opened =
        || run.log().lines().filter(|l| l.contains("finding opened") && l.contains("\"kernel.panic\"")).count();
    wait::until("the second time", || (opened() == 2).then_some(())).unwrap();
}

#[test]
fn a_state_survives_a_kill_and_nothing_is_said_twice() {
    let mut run = Run::started(Profile::HardenedServer, "");
    run.sample.chmod(CONFIG, 0o644).unwrap();
    run.await_finding("finding opened", "k3s-config-file-mode", CONFIG);
    run.kill();
    let before = run.status_free_events();
    run.start();
    // Changed while nobody looked.
    run.sample.chmod(CONFIG, 0o600).unwrap();
    run.await_finding("finding resolved", "k3s-config-file-mode", CONFIG);
    let events = run.events();
    assert_eq!(&events[..before.len()], &before[..], "what was there is there");
    let mut open: BTreeMap<_, FindingState> = BTreeMap::new();
    let mut seq = Seq::ZERO;
    for event in &events {
        assert_eq!(event.seq, seq.next());
        seq = event.seq;
        if let Some(finding) = event.body.finding() {
            let old = open.insert(finding.key(), finding.state);
            if let EventBody::FindingOpened { .. } = event.body {
                assert_ne!(old, Some(finding.state), "{:?} was opened twice", finding.key());
            }
        }
    }
    // The audit log was read once: no detection came twice.
    let detections: Vec<_> = events
        .iter()
        .filter_map(|e| match &e.body {
            EventBody::Detection { detection } => Some((&detection.rule, &detection.audit_id, detection.count)),
            _ => None,
        })
        .collect();
    assert!(!detections.is_empty());
    assert_eq!(detections.iter().collect::<BTreeSet<_>>().len(), detections.len());
}

impl Run {
    /// The outbox of a daemon that was killed.
    fn status_free_events(&mut self) -> Vec<Event> {
        assert!(self.child.is_none());
        self.events()
    }
}

/// K3s rewrites 35 files at each start, in place. This replays one real restart, event by event; the writer is slow
/// with what is judged by its content, so that the daemon looks while a file is empty or half there: it leaves it so
/// until `seen` holds of the daemon, at most for so long, since not every file is one it looks at. `seen` gets the moment
/// of the writing and the number of the last event before all. Returns what the daemon said of it.
fn restart_of_k3s(
    settings: &'static str,
    most: Duration,
    mut seen: impl FnMut(&Status, Timestamp, u64) -> bool,
) -> Vec<EventBody> {
    let mut run = Run::started(Profile::DefaultServer, settings);
    let text = include_str!("data/restart-events.tsv");
    let steps: Vec<(&str, &str)> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let mut columns = line.split('\t').skip(1);
            (columns.next().unwrap(), columns.next().unwrap())
        })
        .collect();
    // What the profile has of these files. The others cannot tell anything.
    let full: BTreeMap<&str, Vec<u8>> =
        steps.iter().filter_map(|(_, path)| Some((*path, fs::read(run.sample.path(path)).ok()?))).collect();
    assert!(full.len() >= 20, "{:?}", full.keys());
    let before = run.status().outbox.last_seq;
    let mut open: BTreeMap<&str, (fs::File, usize)> = BTreeMap::new();
    for (what, path) in &steps {
        let Some(content) = full.get(path) else { continue };
        match *what {
            "MODIFY" if !open.contains_key(path) => {
                // Truncated; nothing written yet.
                let file = OpenOptions::new().write(true).truncate(true).open(run.sample.path(path)).unwrap();
                open.insert(path, (file, 0));
                if [".crt", "token", ".kubeconfig", ".conf"].iter().any(|end| path.ends_with(end)) {
                    let (at, begun) = (Timestamp::now(), Instant::now());
                    while !seen(&run.status(), at, before) && begun.elapsed() < most {}
                }
            }
            "MODIFY" => {
                let (file, at) = open.get_mut(path).unwrap();
                let next = (*at + content.len().div_ceil(2)).min(content.len());
                file.write_all(&content[*at..next]).unwrap();
                *at = next;
            }
            "CLOSE_WRITE,CLOSE" => {
                if let Some((mut file, at)) = open.remove(path) {
                    file.write_all(&content[at..]).unwrap();
                }
            }
            _ => {}
        }
    }
    for (path, (mut file, at)) in open {
        file.write_all(&full[path][at..]).unwrap();
    }
    // Whatever is held is let go by then, one way or the other.
    let begun = Instant::now();
    wait::until("everything to settle", || {
        (begun.elapsed() > Duration::from_secs(4) && run.status().state.unsettled.is_empty()).then_some(())
    })
    .unwrap();
    run.events().into_iter().filter(|e| e.seq.0 > before).map(|e| e.body).collect()
}

#[test]
fn a_restart_of_k3s_opens_and_resolves_nothing() {
    let looked = |status: &Status, at, _| status.state.last_look > Some(at);
    let news = restart_of_k3s("", Duration::from_secs(1), looked);
    assert!(news.is_empty(), "{news:#?}");
}

#[test]
fn without_settling_a_restart_of_k3s_would_raise_alarms() {
    let told = |status: &Status, _, before| status.outbox.last_seq > before;
    let news = restart_of_k3s("[watch]\nsettle = \"1ms\"\n", Duration::from_secs(5), told);
    assert!(!news.is_empty(), "the replay proves nothing");
}

#[test]
fn a_drop_in_counts_at_once_although_the_environment_file_is_empty() {
    // The installer leaves an empty k3s.service.env; with a settle time this long a wait for it would show.
    let run = Run::started(Profile::HardenedServer, "[watch]\nsettle = \"5m\"\n");
    let empty = fs::metadata(run.sample.path("/etc/systemd/system/k3s.service.env")).unwrap();
    assert_eq!(empty.len(), 0, "the profile has no empty file");
    fs::create_dir(run.sample.path("/etc/rancher/k3s/config.yaml.d")).unwrap();
    run.sample.write("/etc/rancher/k3s/config.yaml.d/50-oidc.yaml", "kube-apiserver-arg:\n- a=b\n").unwrap();
    run.await_finding("finding opened", "apiserver-audit-log-path", "--audit-log-path");
}

#[test]
fn a_rotated_token_is_an_event_without_its_value() {
    let mut run = Run::started(Profile::HardenedServer, "");
    run.sample.rotate_token().unwrap();
    let since = |events: &[Event]| -> Vec<String> {
        let infos = events.iter().filter_map(|e| match &e.body {
            EventBody::Inventory { node } => node.token_since.map(|t| t.to_string()),
            _ => None,
        });
        infos.collect()
    };
    run.await_log("the node says something new of itself");
    run.stop();
    assert_eq!(since(&run.events()).len(), 2, "once at the start, once for the rotation");
}

#[test]
fn what_stays_broken_counts_after_the_settle_time() {
    let run = Run::started(Profile::HardenedServer, "[watch]\nsettle = \"300ms\"\n");
    let path = "/var/lib/rancher/k3s/server/tls/serving-kube-apiserver.crt";
    fs::write(run.sample.path(path), "").unwrap();
    wait::until("the broken certificate", || {
        run.log().lines().any(|l| l.contains(path) && l.contains("finding")).then_some(())
    })
    .unwrap_or_else(|e| panic!("{e}\n{}", run.log()));
    wait::until("status to name it", || {
        run.status().state.unreadable.iter().any(|u| u.place == path && u.source == "certificates").then_some(())
    })
    .unwrap();
}

#[test]
fn a_folder_that_was_replaced_is_watched_on() {
    let run = Run::started(Profile::HardenedServer, "[watch]\nsettle = \"50ms\"\n");
    let folder = run.sample.path("/etc/rancher/k3s");
    let aside = folder.with_file_name("k3s.old");
    fs::rename(&folder, &aside).unwrap();
    let copied = Command::new("cp").arg("-a").arg(&aside).arg(&folder).status().unwrap();
    assert!(copied.success());
    wait::until("the new folder to be looked at", || run.status().state.unsettled.is_empty().then_some(())).unwrap();
    run.sample.chmod(CONFIG, 0o666).unwrap();
    run.await_finding("finding opened", "k3s-config-file-mode", CONFIG);
}

#[test]
fn k3s_may_come_after_the_daemon_and_be_reached_through_links() {
    let dir = tempfile::tempdir().unwrap();
    let ready = SampleNode::build_now(Profile::HardenedServer, &dir.path().join("ready")).unwrap();
    let mut run = Run::new(Profile::Agent, "[watch]\nsettle = \"50ms\"\n");
    let root = run.sample.root().to_owned();
    fs::remove_dir_all(&root).unwrap();
    fs::create_dir(&root).unwrap();
    run.start();
    assert_eq!(run.status().findings_open, 0, "nothing is wrong where nothing is");
    // The data dir lies elsewhere, and what it leads to is swapped later.
    for name in ["etc", "var"] {
        let copied = Command::new("cp").arg("-a").arg(ready.root().join(name)).arg(&root).status().unwrap();
        assert!(copied.success());
    }
    wait::until("the server", || (run.status().state.node.role == Some(picket_model::Role::Server)).then_some(()))
        .unwrap_or_else(|e| panic!("{e}\n{}", run.log()));
    let config = root.join("etc/rancher/k3s/config.yaml");
    fs::create_dir(root.join("srv")).unwrap();
    fs::rename(&config, root.join("srv/config-1.yaml")).unwrap();
    fs::copy(root.join("srv/config-1.yaml"), root.join("srv/config-2.yaml")).unwrap();
    std::os::unix::fs::symlink("/srv/config-1.yaml", &config).unwrap();
    wait::until("the link", || run.status().state.unsettled.is_empty().then_some(())).unwrap();
    fs::set_permissions(root.join("srv/config-2.yaml"), std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    std::os::unix::fs::symlink("/srv/config-2.yaml", config.with_file_name("next")).unwrap();
    fs::rename(config.with_file_name("next"), &config).unwrap();
    run.await_finding("finding opened", "k3s-config-file-mode", CONFIG);
    // In the folder the link leads to.
    fs::set_permissions(root.join("srv/config-2.yaml"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    run.await_finding("finding resolved", "k3s-config-file-mode", CONFIG);
}

#[test]
fn an_attack_in_the_audit_log_is_detected_across_a_rotation() {
    let mut run = Run::started(Profile::HardenedServer, "");
    let log = "/var/lib/rancher/k3s/server/logs/audit.log";
    let event = |id: u32| {
        format!(
            "{{\"kind\":\"Event\",\"apiVersion\":\"audit.k8s.io/v1\",\"level\":\"Metadata\",\"auditID\":\"00000000-0000-4000-8000-{id:012}\",\
             \"stage\":\"ResponseComplete\",\"requestURI\":\"/api/v1/namespaces/default/pods/web/exec?command=sh\",\"verb\":\"create\",\
             \"user\":{{\"username\":\"mallory\",\"groups\":[\"system:authenticated\"]}},\"sourceIPs\":[\"192.0.2.66\"],\
             \"objectRef\":{{\"resource\":\"pods\",\"namespace\":\"default\",\"name\":\"web\",\"apiVersion\":\"v1\",\"subresource\":\"exec\"}},\
             \"responseStatus\":{{\"code\":101}},\"requestReceivedTimestamp\":\"2026-11-22T01:30:{id:02}.000000Z\",\
             \"stageTimestamp\":\"2026-11-22T01:30:{id:02}.100000Z\"}}\n"
        )
    };
    run.sample.append(log, event(1)).unwrap();
    run.await_log("mallory");
    run.kill();
    // Rotated, and gone on, while nobody looked.
    run.sample.append(log, event(2).replace("mallory", "eve")).unwrap();
    let rotated = run.sample.path(log).with_file_name("audit-2026-11-22T01-36-47.910.log");
    fs::rename(run.sample.path(log), &rotated).unwrap();
    fs::write(run.sample.path(log), event(3).replace("mallory", "trudy")).unwrap();
    run.start();
    run.await_log("eve");
    run.await_log("trudy");
    run.sample.append(log, "this is no event\n").unwrap();
    run.await_log("lines of the audit log are no events");
    let events = run.events();
    let users = |name: &str| {
        events
            .iter()
            .filter(|e| matches!(&e.body, EventBody::Detection { detection } if detection.user == name && detection.rule.contains("exec")))
            .count()
    };
    assert_eq!((users("mallory"), users("eve"), users("trudy")), (1, 1, 1));
    assert!(
        events
            .iter()
            .any(|e| matches!(&e.body, EventBody::Gap { gap } if gap.count == 1 && gap.detail.contains("audit.log")))
    );
}

#[test]
fn settings_are_read_again_and_wrong_ones_change_nothing() {
    let run = Run::started(Profile::Agent, "");
    fs::write(run.path("picketd.toml"), "[sweep]\nsysctl = \"5s\"\n").unwrap();
    run.signal(nix::sys::signal::Signal::SIGHUP);
    run.await_log("picketd.toml:2: unknown field `sysctl`");
    fs::write(run.path("picketd.toml"), "log_level = \"debug\"\n").unwrap();
    run.signal(nix::sys::signal::Signal::SIGHUP);
    run.await_log("the settings were read again");
    run.await_log("DEBUG looked at the node");
}

#[test]
fn wrong_settings_and_a_missing_root_end_with_their_reason() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("picketd.toml");
    fs::write(&file, "\nlevel = \"info\"\n").unwrap();
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_picketd")).arg("run").args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, text) = run(&["--config", file.to_str().unwrap()]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("picketd.toml:2: unknown field `level`"), "{text}");
    let (code, text) = run(&["--root", "/no/such/folder"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("/no/such/folder"), "{text}");
}

#[test]
fn systemd_is_told_when_it_is_ready_reloading_and_alive() {
    let mut run = Run::new(Profile::Agent, "");
    let socket = run.path("notify");
    let listener = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    listener.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let next = |part: &str| {
        let mut buffer = [0; 4096];
        loop {
            let read = listener.recv(&mut buffer).unwrap_or_else(|e| panic!("{part} was not told: {e}"));
            let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
            if text.contains(part) {
                return text;
            }
        }
    };
    fs::write(run.path("picketd.toml"), "").unwrap();
    let mut command = run.command("run");
    command.arg("--config").arg(run.path("picketd.toml")).arg("--root").arg(run.sample.root());
    command.arg("--state-dir").arg(run.path("state")).arg("--runtime-dir").arg(run.path("run"));
    command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "400000").stderr(Stdio::null());
    run.child = Some(command.spawn().unwrap());
    assert!(next("READY=1").contains("findings open"));
    next("WATCHDOG=1");
    run.signal(nix::sys::signal::Signal::SIGHUP);
    assert!(next("RELOADING=1").contains("MONOTONIC_USEC="));
    next("READY=1");
    run.signal(nix::sys::signal::Signal::SIGTERM);
    next("STOPPING=1");
    assert!(run.child.take().unwrap().wait().unwrap().success());
}
