//! Over real databases: those of two K3s servers, and live ones written to while they are read.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use picket_checks::{StoredSecrets, Tally};
use picket_host::Host;
use picket_model::Observation;
use picket_service::clock::SystemClock;
use picket_tests::node::{Profile, SampleNode};
use rusqlite::{Connection, params};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::{Files, Kept, LARGEST, look};

const DB: &str = "/var/lib/rancher/k3s/server/db/state.db";
const AESCBC: &[u8] = b"k8s:enc:aescbc:v1:aescbckey:\x01\x02\x03";
const PLAIN: &[u8] = b"k8s\0\n\x0c\n\x02v1\x12\x06Secret hunter2";

const SCHEMA: &str = "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;
    CREATE TABLE IF NOT EXISTS kine (id INTEGER PRIMARY KEY AUTOINCREMENT, name INTEGER, created INTEGER,
      deleted INTEGER, create_revision INTEGER, prev_revision INTEGER, lease INTEGER, value BLOB, old_value BLOB);
    CREATE INDEX IF NOT EXISTS kine_name_id_index ON kine (name, id);";

/// A root folder with an empty datastore in it.
struct Store {
    dir: TempDir,
    path: PathBuf,
}

impl Store {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(DB.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        Self { dir, path }
    }

    /// As kine opens it.
    fn writer(&self) -> Connection {
        let db = Connection::open(&self.path).unwrap();
        db.execute_batch(SCHEMA).unwrap();
        db
    }

    fn host(&self) -> Host {
        Host::rooted(self.dir.path(), Arc::new(SystemClock)).unwrap()
    }

    fn look(&self) -> Observation<StoredSecrets> {
        look(&self.host(), DB, &[], &mut Kept::default())
    }

    fn stored(&self) -> StoredSecrets {
        match self.look() {
            Observation::Value { value } => value,
            other => panic!("{other:?}"),
        }
    }

    fn reason(&self) -> String {
        match self.look() {
            Observation::Unreadable { reason } => reason,
            other => panic!("{other:?}"),
        }
    }

    /// Every file of the folder with its content.
    fn bytes(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let folder = self.path.parent().unwrap();
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).map(|p| (p.clone(), fs::read(p).unwrap())).collect()
    }

    /// Every file of the folder: its size, time of the last write, and hash.
    fn prints(&self) -> BTreeMap<PathBuf, (usize, std::time::SystemTime, String)> {
        let print = |(path, bytes): (PathBuf, Vec<u8>)| {
            let written = fs::metadata(&path).unwrap().modified().unwrap();
            (path, (bytes.len(), written, hex::encode(Sha256::digest(&bytes))))
        };
        self.bytes().into_iter().map(print).collect()
    }
}

fn put(db: &Connection, name: &str, deleted: bool, value: &[u8], old: Option<&[u8]>) {
    db.execute(
        "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value, old_value)
         VALUES (?1, 0, ?2, 0, 0, 0, ?3, ?4)",
        params![format!("/registry/{name}"), deleted, value, old],
    )
    .unwrap();
}

fn tally(plain: u64, aescbc: u64, unclear: u64) -> Tally {
    let encrypted = (aescbc > 0).then(|| (("aescbc".to_owned(), "aescbckey".to_owned()), aescbc));
    Tally { plain, encrypted: encrypted.into_iter().collect(), unclear }
}

#[test]
fn real_servers_say_how_their_secrets_are_stored() {
    for (profile, encrypted) in [(Profile::DefaultServer, false), (Profile::HardenedServer, true)] {
        let dir = tempfile::tempdir().unwrap();
        let node = SampleNode::build(profile, dir.path()).unwrap();
        let host = Host::rooted(node.root(), Arc::new(SystemClock)).unwrap();
        let seen = look(&host, DB, &[], &mut Kept::default());
        let stored = seen.value().unwrap();
        assert!(stored.complete && stored.live.total() > 0, "{stored:?}");
        assert_eq!(stored.live.unclear + stored.history.unclear + stored.deleted.unclear, 0, "{stored:?}");
        assert_eq!(stored.live.plain == 0, encrypted, "{stored:?}");
        assert_eq!(stored.live.encrypted.keys().any(|(p, k)| p == "aescbc" && k == "aescbckey"), encrypted);
        let names: Vec<_> =
            fs::read_dir(node.path(DB).parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["state.db"], "reading left files behind");
    }
}

#[test]
fn rows_count_as_what_they_are() {
    let store = Store::new();
    let db = store.writer();
    // Encrypted after it was written plain: the row before and old_value still hold it.
    put(&db, "secrets/a/reencrypted", false, PLAIN, None);
    put(&db, "secrets/a/reencrypted", false, AESCBC, Some(PLAIN));
    // Written twice since.
    put(&db, "secrets/a/clean", false, AESCBC, Some(AESCBC));
    put(&db, "secrets/a/plain", false, b"{\"kind\":\"Secret\"}", Some(b""));
    put(&db, "secrets/b/gone", false, PLAIN, None);
    put(&db, "secrets/b/gone", true, PLAIN, Some(PLAIN));
    // Others are no Secrets, whatever their names begin with.
    put(&db, "secretstores/a/x", false, PLAIN, None);
    put(&db, "configmaps/a/x", false, PLAIN, None);
    put(&db, "secrets/a/odd", false, b"\x00\x01", None);
    let stored = store.stored();
    assert_eq!(stored.live, tally(1, 2, 1));
    assert_eq!(stored.history, tally(3, 1, 0));
    assert_eq!(stored.deleted, tally(2, 0, 0));
    assert!(stored.complete);
}

/// A writer in a process of its own, as kine is: within one process SQLite's connections share their locks.
struct Writer {
    process: std::process::Child,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Writer {
    fn start(store: &Store) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["source::datastore::tests::writer_process", "--exact", "--ignored", "--nocapture"])
            .env("PICKET_TEST_DATABASE", &store.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, answers }
    }

    fn say(&mut self, sql: &str) -> String {
        writeln!(self.process.stdin.as_mut().unwrap(), "{sql}").unwrap();
        self.answers.find_map(|line| line.unwrap().strip_prefix("answer ").map(str::to_owned)).unwrap()
    }

    fn run(&mut self, sql: &str) {
        assert_eq!(self.say(sql), "ok", "{sql}");
    }

    fn put(&mut self, name: &str, value: &[u8]) {
        let value = hex::encode(value);
        self.run(&format!(
            "INSERT INTO kine (name, deleted, value) VALUES ('/registry/secrets/{name}', 0, x'{value}')"
        ));
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// The other end of [`Writer`]: one statement a line. `loop` writes as fast as it can for a while.
#[test]
#[ignore = "started by the tests that need a writer"]
fn writer_process() {
    let Some(path) = std::env::var_os("PICKET_TEST_DATABASE") else { return };
    let db = Connection::open(path).unwrap();
    // Waiting for a lock would be an error.
    db.busy_timeout(Duration::ZERO).unwrap();
    db.execute_batch(SCHEMA).unwrap();
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let done = if line == "loop" {
            (0..3000).try_for_each(|n| {
                db.execute(
                    "INSERT INTO kine (name, deleted, value) VALUES (?1, 0, ?2)",
                    params![format!("/registry/secrets/a/{n:09}"), AESCBC],
                )
                .map(|_| ())
            })
        } else {
            db.execute_batch(&line)
        };
        println!("\nanswer {}", done.map_or_else(|e| e.to_string(), |()| "ok".to_owned()));
    }
}

#[test]
fn fresh_writes_in_the_wal_are_seen_and_nothing_is_touched() {
    let store = Store::new();
    let mut writer = Writer::start(&store);
    writer.run("PRAGMA wal_autocheckpoint=0");
    writer.put("a/a", AESCBC);
    // The main file holds no row at all yet.
    let before = store.prints();
    assert!(before.len() == 3, "{before:?}");
    assert_eq!(store.stored().live, tally(0, 1, 0));
    assert_eq!(store.prints(), before, "the reader changed the database of another");
    // Nor does it see or end what the writer began.
    writer.run("BEGIN IMMEDIATE");
    writer.put("a/b", PLAIN);
    let before = store.prints();
    assert_eq!(store.stored().live, tally(0, 1, 0), "not committed, so not there");
    assert_eq!(store.prints(), before);
    writer.run("COMMIT");
    assert_eq!(store.stored().live, tally(1, 1, 0));
    // Checkpointed and begun anew.
    writer.run("PRAGMA wal_checkpoint(TRUNCATE)");
    assert_eq!(store.stored().live, tally(1, 1, 0));
    writer.put("a/c", PLAIN);
    assert_eq!(store.stored().live, tally(2, 1, 0));
    assert_eq!(store.prints().len(), 3);
}

#[test]
fn a_writer_is_never_held_up() {
    let store = Store::new();
    let mut writer = Writer::start(&store);
    writer.put("a/first", AESCBC);
    let (done, mut last) = (Arc::new(AtomicBool::new(false)), 0);
    let looping = {
        let done = done.clone();
        std::thread::spawn(move || {
            let answer = writer.say("loop");
            done.store(true, Ordering::Release);
            (answer, writer)
        })
    };
    while !done.load(Ordering::Acquire) {
        let stored = match store.look() {
            Observation::Value { value } => value,
            // A reader that met it in the middle of a commit waits its time and comes back.
            Observation::Unreadable { reason } if reason.contains("looked at again later") => continue,
            other => panic!("{other:?}"),
        };
        assert_eq!(stored.live.plain + stored.live.unclear, 0, "{stored:?}");
        assert!(stored.complete && stored.live.total() >= last, "{stored:?} after {last}");
        last = stored.live.total();
    }
    let (answer, mut writer) = looping.join().unwrap();
    assert_eq!(answer, "ok", "the writer was held up");
    assert_eq!(store.stored().live.total(), 3001);
    // And the log can be checkpointed and cut: no lock was left.
    writer.run("PRAGMA wal_checkpoint(TRUNCATE)");
    assert_eq!(fs::metadata(store.path.with_file_name("state.db-wal")).unwrap().len(), 0);
}

/// Makes the two copies of the WAL index's header differ, as they do while its user writes it; again mends them.
/// (<https://sqlite.org/walformat.html> section 2.1: each copy is 48 bytes; byte 8 counts the transactions.)
fn tear_index(store: &Store) {
    let path = store.path.with_file_name("state.db-shm");
    let index = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    index.read_exact_at(&mut byte, 8).unwrap();
    index.write_all_at(&[byte[0] ^ 0xff], 8).unwrap();
}

#[test]
fn an_index_met_half_written_is_read_again() {
    let store = Store::new();
    let mut writer = Writer::start(&store);
    writer.put("a/a", AESCBC);
    tear_index(&store);
    let files = Files::of(&store.host(), DB).unwrap();
    let until = Instant::now() + Duration::from_secs(600);
    let mut pauses = 0;
    let read = files.read_pausing(&[], until, || {
        pauses += 1;
        if pauses == 2 {
            tear_index(&store);
        }
        true
    });
    assert_eq!((read.map(|stored| stored.live), pauses), (Ok(tally(0, 1, 0)), 2));
    // One that stays so is no hang, and says what it is.
    tear_index(&store);
    assert!(store.reason().contains("half written"), "{}", store.reason());
    tear_index(&store);
    writer.put("a/b", AESCBC);
    assert_eq!(store.stored().live, tally(0, 2, 0));
}

#[test]
fn a_stopped_server_gets_no_new_files() {
    let store = Store::new();
    let db = store.writer();
    put(&db, "secrets/a/a", false, PLAIN, None);
    db.close().unwrap();
    let before = store.prints();
    assert_eq!(before.len(), 1, "closing removes the WAL");
    assert_eq!(store.stored().live, tally(1, 0, 0));
    assert_eq!(store.prints(), before);
}

#[test]
fn what_a_crash_left_is_read_without_recovering_it() {
    let store = Store::new();
    let db = store.writer();
    db.execute_batch("PRAGMA wal_autocheckpoint=0").unwrap();
    put(&db, "secrets/a/a", false, AESCBC, None);
    put(&db, "secrets/a/b", false, PLAIN, None);
    let crashed = Store::new();
    for (from, bytes) in store.bytes() {
        fs::write(crashed.path.parent().unwrap().join(from.file_name().unwrap()), bytes).unwrap();
    }
    let before = crashed.prints();
    assert_eq!(crashed.stored().live, tally(1, 1, 0));
    assert_eq!(crashed.prints(), before);
    // A copy that lost its -shm cannot be read without writing one; one that lost its WAL would show old rows.
    fs::remove_file(crashed.path.with_file_name("state.db-shm")).unwrap();
    assert!(crashed.reason().contains("-shm"), "{}", crashed.reason());
    assert_eq!(crashed.bytes().len(), 2);
}

#[test]
fn what_is_no_datastore_is_unreadable_with_its_reason() {
    let write = |bytes: &[u8]| {
        let store = Store::new();
        fs::write(&store.path, bytes).unwrap();
        store.reason()
    };
    assert!(write(b"").contains("empty"));
    assert!(write(b"hello").contains("not an SQLite"), "{}", write(b"hello"));
    assert!(write(&[7; 8192]).contains("not an SQLite"));
    let store = Store::new();
    assert_eq!(store.look(), Observation::Absent);
    fs::create_dir(&store.path).unwrap();
    assert!(store.reason().contains("folder") || store.reason().contains("directory"), "{}", store.reason());
    // Another database.
    let store = Store::new();
    Connection::open(&store.path).unwrap().execute_batch("CREATE TABLE other (a)").unwrap();
    assert!(store.reason().contains("no table kine"));
    // A view of that name could run anything.
    let store = Store::new();
    Connection::open(&store.path).unwrap().execute_batch("CREATE VIEW kine AS SELECT 1 AS name").unwrap();
    assert!(store.reason().contains("no table kine"));
    // A table without the columns.
    let store = Store::new();
    Connection::open(&store.path).unwrap().execute_batch("CREATE TABLE kine (a)").unwrap();
    assert!(store.reason().contains("cannot be read"));
    // An interrupted transaction.
    let store = Store::new();
    store.writer().close().unwrap();
    fs::write(store.path.with_file_name("state.db-journal"), b"x").unwrap();
    assert!(store.reason().contains("journal"));
    // Anything in the place of the WAL.
    let store = Store::new();
    store.writer().close().unwrap();
    fs::create_dir(store.path.with_file_name("state.db-wal")).unwrap();
    assert!(store.reason().contains("-wal"));
}

#[test]
fn what_is_put_in_the_place_of_a_database_is_seen_at_once() {
    for garbage in [&b""[..], b"x", b"{ not what it was", &[7; 100_000]] {
        let store = Store::new();
        let db = store.writer();
        put(&db, "secrets/a/a", false, PLAIN, None);
        db.close().unwrap();
        let (host, mut kept) = (store.host(), Kept::default());
        assert!(look(&host, DB, &[], &mut kept).value().is_some());
        // In place: the same file with another content.
        fs::write(&store.path, garbage).unwrap();
        let seen = look(&host, DB, &[], &mut kept);
        assert!(matches!(seen, Observation::Unreadable { .. }), "{} bytes: {seen:?}", garbage.len());
    }
}

#[test]
fn every_cut_and_every_bit_flip_is_taken() {
    let store = Store::new();
    let db = store.writer();
    for n in 0..40 {
        put(&db, &format!("secrets/a/{n}"), false, AESCBC, Some(AESCBC));
    }
    db.close().unwrap();
    let whole = fs::read(&store.path).unwrap();
    let full = store.stored();
    for cut in (1..whole.len()).step_by(1709) {
        fs::write(&store.path, &whole[..cut]).unwrap();
        // Damage may go unnoticed where it hits no row of ours; it must never make a value plain.
        if let Observation::Value { value } = store.look() {
            assert!(value.live.total() <= full.live.total() && value.live.plain == 0, "{value:?}");
        }
    }
    for at in (0..whole.len()).step_by(397) {
        let mut broken = whole.clone();
        broken[at] ^= 0xff;
        fs::write(&store.path, &broken).unwrap();
        let _ = store.look();
    }
}

#[test]
fn links_do_not_lead_out_of_the_root() {
    let outside = Store::new();
    let db = outside.writer();
    put(&db, "secrets/a/a", false, PLAIN, None);
    db.close().unwrap();
    let store = Store::new();
    std::os::unix::fs::symlink(&outside.path, &store.path).unwrap();
    assert_eq!(store.look(), Observation::Absent);
    // A link inside leads where the node would go.
    let inside = store.dir.path().join("data");
    fs::create_dir(&inside).unwrap();
    fs::copy(&outside.path, inside.join("kine.db")).unwrap();
    fs::remove_file(&store.path).unwrap();
    std::os::unix::fs::symlink("/data/kine.db", &store.path).unwrap();
    assert_eq!(store.stored().live, tally(1, 0, 0));
}

#[test]
fn a_strange_path_is_no_option_of_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("a?mode=rwc&x#% ü");
    let path = root.join(DB.trim_start_matches('/'));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let store = Store { dir, path };
    let db = store.writer();
    put(&db, "secrets/a/a", false, PLAIN, None);
    db.close().unwrap();
    let host = Host::rooted(&root, Arc::new(SystemClock)).unwrap();
    let seen = look(&host, DB, &[], &mut Kept::default());
    assert_eq!(seen.value().map(|s| s.live.plain), Some(1), "{seen:?}");
}

#[test]
fn a_value_larger_than_any_real_one_is_not_read() {
    let store = Store::new();
    let db = store.writer();
    let mut huge = AESCBC.to_vec();
    huge.resize(usize::try_from(LARGEST).unwrap() + 1, 0);
    put(&db, "secrets/a/huge", false, &huge, None);
    huge.pop();
    put(&db, "secrets/a/large", false, &huge, None);
    assert_eq!(store.stored().live, tally(0, 1, 1));
}

#[test]
fn a_reading_that_takes_too_long_says_that_it_is_not_whole() {
    let store = Store::new();
    let db = store.writer();
    for n in 0..2000 {
        put(&db, &format!("secrets/a/{n}"), false, AESCBC, None);
    }
    let files = Files::of(&store.host(), DB).unwrap();
    match files.read(&[], Instant::now()) {
        Ok(stored) => assert!(!stored.complete && stored.live.total() < 2000),
        Err(reason) => assert_eq!(reason, super::Refused::Busy),
    }
}

#[test]
fn a_database_in_use_is_not_read_at_every_change() {
    let store = Store::new();
    let db = store.writer();
    put(&db, "secrets/a/a", false, AESCBC, None);
    let (host, mut kept) = (store.host(), Kept::default());
    let first = look(&host, DB, &[], &mut kept);
    put(&db, "secrets/a/b", false, PLAIN, None);
    assert_eq!(look(&host, DB, &[], &mut kept), first, "within the pause the last reading counts");
    for reading in kept.0.values_mut() {
        reading.at = reading.at.checked_sub(Duration::from_secs(3600)).unwrap();
    }
    assert_eq!(look(&host, DB, &[], &mut kept).value().unwrap().live, tally(1, 1, 0));
    // Another file in its place is another database, read at once.
    drop(db);
    let other = Store::new();
    other.writer().close().unwrap();
    fs::rename(&other.path, &store.path).unwrap();
    assert_eq!(look(&host, DB, &[], &mut kept).value().unwrap().live, tally(0, 0, 0));
    assert!(Path::new(&store.path).exists());
}

#[test]
fn a_copy_of_a_database_in_use_is_whole_or_says_that_it_is_not() {
    let store = Store::new();
    let mut writer = Writer::start(&store);
    writer.put("a/first", AESCBC);
    let host = store.host();
    let files = Files::of(&host, DB).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let looping = {
        let done = done.clone();
        std::thread::spawn(move || {
            let answers = [writer.say("loop"), writer.say("PRAGMA wal_checkpoint(TRUNCATE)"), writer.say("loop")];
            done.store(true, Ordering::Release);
            (answers, writer)
        })
    };
    let (mut whole, mut last) = (0, 0);
    while !done.load(Ordering::Acquire) || whole == 0 {
        let Some(copy) = super::copy::Copy::of(&host, &files.inside, &files.wal_inside()).unwrap() else { continue };
        let folder = copy.path().parent().unwrap().to_owned();
        let stored = super::count_in(&copy.path(), super::Way::Copy, &[], Instant::now() + Duration::from_secs(60));
        let stored = stored.unwrap();
        assert!(stored.complete && stored.live.plain + stored.live.unclear == 0, "{stored:?}");
        assert!(stored.live.total() >= last, "{stored:?} after {last}");
        last = stored.live.total();
        whole += 1;
        assert!(folder.starts_with("/dev/shm"));
        drop(copy);
        assert!(!folder.exists(), "a copy was left behind");
    }
    let (answers, _writer) = looping.join().unwrap();
    assert!(answers.iter().all(|answer| answer == "ok"), "{answers:?}");
    // A log that was begun anew while its database was copied would not repair it: seen by its header.
    assert_eq!(store.stored().live.total(), 3001);
}
