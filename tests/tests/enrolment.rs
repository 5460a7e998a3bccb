//! Enrolment as an operator meets it: what goes wrong says what, where and what to do.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

use std::process::Output;

use picket_tests::binaries::Binaries;
use picket_tests::collector::Collector;
use picket_tests::daemon::Daemon;
use picket_tests::wait;

struct Bench {
    dir: tempfile::TempDir,
    binaries: Binaries,
    collector: Collector,
}

impl Bench {
    fn new() -> Self {
        let binaries = Binaries::build(false).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let collector = Collector::start(&binaries, &dir.path().join("collector")).unwrap();
        Self { dir, binaries, collector }
    }

    fn daemon(&self, name: &str) -> Daemon {
        Daemon::new(&self.binaries, &self.dir.path().join(name), &self.dir.path().join("no-node")).unwrap()
    }

    fn enroll(&self, name: &str, token: &str) -> Output {
        self.daemon(name).try_enroll(&self.collector.address().to_string(), token).unwrap()
    }
}

fn refused(output: &Output, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
    assert_eq!(output.status.code(), Some(3), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
}

#[test]
fn a_token_works_once_and_its_secret_is_never_shown_again() {
    let bench = Bench::new();
    let token = bench.collector.token(&[]).unwrap();
    let secret = token.split('.').nth(2).unwrap().to_owned();
    assert!(bench.enroll("first", &token).status.success());
    let second = bench.enroll("second", &token);
    refused(&second, &["token", "used"]);
    let listed = bench.collector.admin(&["token", "list"]).unwrap();
    let log = std::fs::read_to_string(bench.collector.log()).unwrap();
    for text in [
        String::from_utf8_lossy(&listed.stdout).into_owned(),
        log,
        String::from_utf8_lossy(&second.stderr).into_owned(),
    ] {
        assert!(!text.contains(&secret), "the token's secret is in: {text}");
    }
}

#[test]
fn root_enrols_for_the_user_to_whom_the_state_folder_belongs() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
    const DAEMON: u32 = 64_123;
    let bench = Bench::new();
    if std::fs::metadata(bench.dir.path()).unwrap().uid() != 0 {
        eprintln!("not root: nothing to see here");
        return;
    }
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(bench.dir.path(), open.clone()).unwrap();
    let state = |name: &str| {
        let state = bench.daemon(name).state_dir();
        std::fs::create_dir_all(&state).unwrap();
        std::fs::set_permissions(state.parent().unwrap(), open.clone()).unwrap();
        std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o700)).unwrap();
        chown(&state, Some(DAEMON), Some(DAEMON)).unwrap();
        state
    };
    let good = state("good");
    let output = bench.enroll("good", &bench.collector.token(&[]).unwrap());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let identity = good.join("identity");
    let files = std::fs::read_dir(&identity).unwrap().map(|e| e.unwrap().path()).chain([identity.clone()]);
    for path in files {
        let meta = std::fs::symlink_metadata(&path).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (DAEMON, DAEMON), "{}", path.display());
        assert_eq!(meta.permissions().mode() & 0o077, 0, "{}", path.display());
    }
    // The daemon's user laid a trap: its folder leads to a place of root's.
    let (trapped, roots) = (state("trapped"), bench.dir.path().join("roots"));
    std::fs::create_dir(&roots).unwrap();
    symlink(&roots, trapped.join("identity")).unwrap();
    let output = bench.enroll("trapped", &bench.collector.token(&[]).unwrap());
    refused(&output, &["identity"]);
    assert_eq!(std::fs::read_dir(&roots).unwrap().count(), 0, "root wrote where the link led");
}

#[test]
fn a_wrong_secret_an_unknown_token_and_garbage_are_refused() {
    let bench = Bench::new();
    let token = bench.collector.token(&[]).unwrap();
    let mut parts: Vec<&str> = token.split('.').collect();
    let flipped: String = parts[2].chars().rev().collect();
    parts[2] = &flipped;
    refused(&bench.enroll("wrong", &parts.join(".")), &["token"]);
    let garbage = bench.enroll("garbage", "hello");
    assert!(matches!(garbage.status.code(), Some(2 | 3)), "{garbage:?}");
    assert!(String::from_utf8_lossy(&garbage.stderr).contains("pkt1."), "the right form is not named: {garbage:?}");
}

#[test]
fn an_expired_token_is_refused_as_expired() {
    let bench = Bench::new();
    let made = bench.collector.admin(&["token", "create", "--ttl", "1s", "--uses", "1"]).unwrap();
    let text = String::from_utf8_lossy(&made.stdout).into_owned();
    let token = text.split_whitespace().find(|w| w.starts_with("pkt1.")).unwrap().to_owned();
    // The collector's clock is this machine's.
    let ends = jiff::Timestamp::now() + std::time::Duration::from_secs(1);
    wait::until("the token's second is over", || (jiff::Timestamp::now() > ends).then_some(())).unwrap();
    refused(&bench.enroll("late", &token), &["token", "expired"]);
}

#[test]
fn a_collector_with_another_ca_is_not_trusted() {
    let bench = Bench::new();
    let other = Collector::start(&bench.binaries, &bench.dir.path().join("other")).unwrap();
    let foreign = other.token(&[]).unwrap();
    let output = bench.enroll("foreign", &foreign);
    refused(&output, &["ca"]);
    assert!(
        !bench.dir.path().join("foreign/state/identity/node.crt").exists(),
        "an identity was stored although the collector is not the token's"
    );
}

#[test]
fn a_collector_that_is_not_there_is_named() {
    let bench = Bench::new();
    let token = bench.collector.token(&[]).unwrap();
    // Port 1 on loopback: nothing listens there.
    let output = bench.daemon("nowhere").try_enroll("127.0.0.1:1", &token).unwrap();
    refused(&output, &["127.0.0.1:1"]);
}
