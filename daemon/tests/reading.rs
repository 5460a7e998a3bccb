//! From the audit log to the outbox: every line once, whatever happens to the log while nobody reads it.

#![allow(clippy::single_range_in_vec_init, reason = "one range of lines")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use picket_host::Host;
use picket_ledger::{Ledger, LedgerHandle, Limits};
use picket_model::{EventBody, Seq};
use picket_service::clock::FixedClock;
use picketd::audit_task::AuditWatch;
use picketd::settings::AuditStart;
use picketd::status::Board;
use tempfile::TempDir;

const NOW: &str = "2026-01-15T12:00:00Z";
const RULE: &str = "title: marker\nname: marker\nlogsource: {product: kubernetes, service: audit}\n\
                    detection: {it: {resource: markers}, condition: it}\nlevel: low\n";

/// A node of which there is nothing but an audit log, and what follows it.
struct Node {
    dir: TempDir,
    start: AuditStart,
    path: &'static str,
    /// No other log is followed.
    only: bool,
    board: Board,
    watch: Option<AuditWatch>,
}

impl Node {
    fn new(start: AuditStart) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["root/logs", "rules", "outbox"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        fs::write(dir.path().join("rules/marker.yml"), RULE).unwrap();
        fs::write(dir.path().join("rules/tuning.yml"), "rules: {marker: {cooldown_s: 1}}\n").unwrap();
        Self { dir, start, path: "/logs/audit.log", only: false, board: Board::default(), watch: None }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("root/logs").join(name)
    }

    fn log(&self) -> PathBuf {
        self.file("audit.log")
    }

    fn write(&self, numbers: Range<u32>) {
        append(&self.log(), &lines(numbers));
    }

    /// Starts it, if it does not run, and reads all there is.
    fn read(&mut self) {
        let (dir, start, board) = (self.dir.path(), self.start, self.board.clone());
        let watch = self.watch.get_or_insert_with(|| {
            let now = NOW.parse().unwrap();
            let host = Host::rooted(&dir.join("root"), Arc::new(FixedClock(now))).unwrap();
            let (ledger, _) = Ledger::open(&dir.join("outbox"), Limits::default(), now).unwrap();
            AuditWatch::new(host, start, &dir.join("rules"), LedgerHandle::new(ledger), board).unwrap()
        });
        watch.follow(&[self.path.to_owned()], self.only);
        while watch.step(Duration::from_secs(3600)).unwrap() {}
    }

    /// `kill -9`: nothing more reaches the outbox.
    fn kill(&mut self) {
        self.watch = None;
    }

    fn stop(&mut self) {
        self.watch.take().unwrap().stop().unwrap();
    }

    fn end(&mut self, orderly: bool) {
        if orderly { self.stop() } else { self.kill() }
    }

    fn outbox(&mut self) -> Vec<EventBody> {
        self.watch = None;
        let (mut ledger, _) =
            Ledger::open(&self.dir.path().join("outbox"), Limits::default(), NOW.parse().unwrap()).unwrap();
        ledger.read_after(Seq::ZERO, 10_000, 1 << 30).unwrap().events.into_iter().map(|event| event.body).collect()
    }

    /// How often each line was reported, and the other rules that were raised.
    fn found(&mut self) -> (BTreeMap<u32, u64>, Vec<String>) {
        let (mut told, mut rules) = (BTreeMap::new(), Vec::new());
        for body in self.outbox() {
            let EventBody::Detection { detection } = body else { continue };
            match detection.object.name.strip_prefix("m-") {
                Some(number) if detection.rule == "marker" => *told.entry(number.parse().unwrap()).or_default() += 1,
                _ => rules.push(detection.rule),
            }
        }
        (told, rules)
    }
}

fn append(path: &Path, text: &str) {
    OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

fn line(number: u32) -> String {
    let time = format!("2026-01-15T11:{:02}:{:02}.000000Z", number / 60, number % 60);
    format!(
        "{{\"kind\":\"Event\",\"apiVersion\":\"audit.k8s.io/v1\",\"level\":\"Metadata\",\"auditID\":\"id-{number}\",\
         \"stage\":\"ResponseComplete\",\"requestURI\":\"/m\",\"verb\":\"get\",\"user\":{{\"username\":\"alice\"}},\
         \"objectRef\":{{\"resource\":\"markers\",\"namespace\":\"shop\",\"name\":\"m-{number}\"}},\
         \"responseStatus\":{{\"code\":200}},\"requestReceivedTimestamp\":\"{time}\",\"stageTimestamp\":\"{time}\"}}\n"
    )
}

fn lines(numbers: Range<u32>) -> String {
    numbers.map(line).collect()
}

/// Each of these once, and no other.
fn once(ranges: &[Range<u32>]) -> BTreeMap<u32, u64> {
    ranges.iter().flat_map(Clone::clone).map(|number| (number, 1)).collect()
}

#[test]
fn lines_written_anew_where_others_were_to_be_judged_again_are_reported() {
    for orderly in [true, false] {
        let mut node = Node::new(AuditStart::Beginning);
        node.write(0..3);
        node.read();
        node.write(3..5);
        node.read();
        fs::rename(node.log(), node.file("audit-2026-01-15T11-00-00.000.log")).unwrap();
        node.write(5..8);
        node.read();
        node.end(orderly);
        fs::remove_file(node.log()).unwrap();
        node.write(20..30);
        node.read();
        assert_eq!(node.found().0, once(&[0..8, 20..30]), "orderly: {orderly}");
    }
}

#[test]
fn two_files_written_in_turns_are_read_on_after_a_kill_without_loss_or_repetition() {
    let mut node = Node::new(AuditStart::Beginning);
    node.write(0..3);
    let mut held = OpenOptions::new().append(true).open(node.log()).unwrap();
    node.read();
    fs::rename(node.log(), node.file("audit.log.1")).unwrap();
    node.write(10..12);
    node.read();
    for (old, new) in [(3, 12), (4, 13), (5, 14)] {
        held.write_all(line(old).as_bytes()).unwrap();
        node.read();
        node.write(new..new + 1);
        node.read();
    }
    node.kill();
    node.write(15..16);
    held.write_all(line(6).as_bytes()).unwrap();
    node.read();
    assert_eq!(node.found().0, once(&[0..7, 10..16]));
}

#[test]
fn lines_judged_again_are_not_reported_again_and_count_on() {
    let mut node = Node::new(AuditStart::Beginning);
    for number in 0..9 {
        node.write(number..number + 1);
        node.read();
        if number % 3 == 2 {
            node.kill();
        }
    }
    // Somebody unknown to the rules is so once.
    assert_eq!(node.found(), (once(&[0..9]), vec!["unknown-user".to_owned()]));
}

#[test]
fn where_reading_begins_is_decided_once_whatever_ends_the_first_run() {
    for (orderly, later) in [(true, 2), (false, 2), (true, 5), (false, 5)] {
        let mut node = Node::new(AuditStart::End);
        node.write(0..2);
        node.read();
        node.end(orderly);
        node.write(2..later);
        node.read();
        node.end(orderly);
        node.write(later..9);
        node.read();
        assert_eq!(node.found().0, once(&[2..9]), "orderly: {orderly}");
    }
}

#[test]
fn a_log_that_was_not_there_at_the_first_start_is_read_from_its_beginning() {
    for start in [AuditStart::End, AuditStart::Within(Duration::from_secs(3600))] {
        let mut node = Node::new(start);
        node.read();
        node.kill();
        node.write(0..2);
        // By its name it was rotated long before.
        fs::rename(node.log(), node.file("audit-2026-01-10T00-00-00.000.log")).unwrap();
        node.write(2..3);
        node.read();
        assert_eq!(node.found().0, once(&[0..3]), "{start:?}");
    }
}

#[test]
fn the_log_that_is_named_now_is_shown_as_the_log() {
    let mut node = Node::new(AuditStart::Beginning);
    node.write(0..1);
    node.read();
    node.path = "/logs/other.log";
    node.read();
    let audit = node.board.read().audit;
    assert_eq!((audit.path.as_deref(), audit.others), (Some("/logs/other.log"), vec!["/logs/audit.log".to_owned()]));
}

#[test]
fn a_log_that_is_named_again_is_read_on_where_it_was_left() {
    for killed in [false, true] {
        let mut node = Node { only: true, ..Node::new(AuditStart::Beginning) };
        node.write(0..2);
        node.read();
        node.path = "/logs/other.log";
        append(&node.file("other.log"), &lines(2..4));
        node.read();
        if killed {
            node.kill();
        }
        node.write(4..5);
        append(&node.file("other.log"), &lines(5..6));
        node.read();
        node.path = "/logs/audit.log";
        node.read();
        node.path = "/logs/other.log";
        node.read();
        assert_eq!(node.found().0, once(&[0..6]), "killed: {killed}");
    }
}

#[test]
fn a_log_that_was_deleted_while_its_writer_holds_it_is_in_the_status() {
    let mut node = Node::new(AuditStart::Beginning);
    node.write(0..2);
    node.read();
    assert!(node.board.read().audit.deleted.is_empty());
    let mut writer = OpenOptions::new().append(true).open(node.log()).unwrap();
    fs::remove_file(node.log()).unwrap();
    node.read();
    assert_eq!(node.board.read().audit.deleted, ["/logs/audit.log"]);
    writer.write_all(line(2).as_bytes()).unwrap();
    // Somebody puts another file in its place.
    node.write(3..4);
    node.read();
    assert_eq!(node.board.read().audit.deleted, ["/logs/audit.log"]);
    assert_eq!(node.found().0, once(&[0..4]));
}
