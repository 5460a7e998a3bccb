//! Random writers, rotators and reader crashes against a plain account of what was written.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use picket_tail::{Batch, Config, Cursor, Oddity, Reader, StartAt};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Action {
    Append(u8),
    Half,
    /// lumberjack's rotation; with `create` the new file is there at once.
    Rotate {
        create: bool,
    },
    /// lumberjack's compression of the nth plain backup.
    Gzip(u8),
    /// lumberjack's retention.
    Prune,
    CopyTruncate {
        hole: bool,
    },
    /// The last lines are cut off and others written instead. Not among the random acts: a log that is cut and then also
    /// renamed while nobody reads is not recognised yet.
    CutTail {
        cut: u8,
        grow: u8,
    },
    Delete,
    /// logrotate without copytruncate: the writer keeps the old file.
    ForeignRename,
    /// The writer starts again and opens the log by name.
    Reopen,
    Poll(u16),
    /// What was read is not committed before a crash.
    PollAndCrash(u16),
    Restart,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => (1u8..6).prop_map(Action::Append),
        1 => Just(Action::Half),
        3 => any::<bool>().prop_map(|create| Action::Rotate { create }),
        2 => any::<u8>().prop_map(Action::Gzip),
        1 => Just(Action::Prune),
        1 => any::<bool>().prop_map(|hole| Action::CopyTruncate { hole }),
        1 => Just(Action::Delete),
        1 => Just(Action::ForeignRename),
        1 => Just(Action::Reopen),
        6 => (1u16..400).prop_map(Action::Poll),
        1 => (1u16..400).prop_map(Action::PollAndCrash),
        2 => Just(Action::Restart),
    ]
}

/// One file's life: what was written into it.
#[derive(Debug, Default)]
struct Life {
    /// Complete lines in it now.
    lines: Vec<u32>,
    /// It was renamed by another rotator before anything was read of it: nobody can know that it is part of the log.
    unseen: bool,
}

struct World {
    folder: tempfile::TempDir,
    /// The writer's open file: handle, its life, where the next write goes, the half line begun.
    writer: Option<(File, usize, u64, Option<u32>)>,
    lives: Vec<Life>,
    live_at: BTreeMap<PathBuf, usize>,
    next: u32,
    stamp: u32,
    reader: Reader,
    committed: Option<Cursor>,
    delivered: Vec<u32>,
    gaps: usize,
    /// Lines that may be lost, with or without a word.
    excused: BTreeSet<u32>,
    silent: BTreeSet<u32>,
    /// Lines of a log that was cut behind them: it is read again from its start.
    again: BTreeSet<u32>,
}

fn text(id: u32) -> String {
    format!("{{\"id\":{id},\"pad\":\"{}\"}}", "x".repeat((id as usize * 7) % 90))
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let reader = Reader::open(Config::new(folder.path().join("audit.log"), StartAt::Beginning), None).unwrap();
        Self {
            folder,
            writer: None,
            lives: Vec::new(),
            live_at: BTreeMap::new(),
            next: 0,
            stamp: 0,
            reader,
            committed: None,
            delivered: Vec::new(),
            gaps: 0,
            excused: BTreeSet::new(),
            silent: BTreeSet::new(),
            again: BTreeSet::new(),
        }
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("audit.log")
    }

    fn config(&self) -> Config {
        Config::new(self.log(), StartAt::Beginning)
    }

    fn create(&mut self, path: &Path) -> usize {
        File::create(path).unwrap();
        self.lives.push(Life::default());
        self.live_at.insert(path.to_owned(), self.lives.len() - 1);
        self.lives.len() - 1
    }

    fn ensure_open(&mut self) {
        if self.writer.is_none() {
            let path = self.log();
            let life = match self.live_at.get(&path) {
                Some(life) => *life,
                None => self.create(&path),
            };
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            let end = file.metadata().unwrap().len();
            self.writer = Some((file, life, end, None));
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        let (file, _, at, _) = self.writer.as_mut().unwrap();
        file.write_all_at(bytes, *at).unwrap();
        *at += bytes.len() as u64;
    }

    fn append(&mut self) {
        self.ensure_open();
        let begun = self.writer.as_mut().unwrap().3.take();
        let id = match begun {
            Some(id) => {
                self.write(format!("{}\n", &text(id)[5..]).as_bytes());
                id
            }
            None => {
                self.next += 1;
                let id = self.next;
                self.write(format!("{}\n", text(id)).as_bytes());
                id
            }
        };
        let life = self.writer.as_ref().unwrap().1;
        self.lives[life].lines.push(id);
    }

    fn undelivered(&self, life: usize) -> Vec<u32> {
        self.lives[life].lines.iter().copied().filter(|id| !self.delivered.contains(id)).collect()
    }

    fn touched(&self, life: usize) -> bool {
        self.lives[life].lines.iter().any(|id| self.delivered.contains(id))
    }

    fn lose(&mut self, life: usize) {
        let lost = self.undelivered(life);
        if !self.touched(life) {
            self.silent.extend(lost.iter().copied());
        }
        self.excused.extend(lost);
    }

    fn backups(&self) -> Vec<PathBuf> {
        self.live_at
            .keys()
            .filter(|p| p.file_name().unwrap().to_str().unwrap().starts_with("audit-"))
            .cloned()
            .collect()
    }

    fn keep(&mut self, batch: &Batch) {
        for line in &batch.lines {
            let got = String::from_utf8_lossy(&line.bytes);
            let id = got.strip_prefix("{\"id\":").and_then(|r| r.split(',').next()).and_then(|n| n.parse().ok());
            // What is left of a torn line is delivered for the parser to refuse.
            if let Some(id) = id.filter(|id| text(*id) == got) {
                self.delivered.push(id);
            }
        }
        self.gaps += batch.gaps.len();
        self.committed = Some(batch.cursor.clone());
    }

    fn restart(&mut self) {
        let cursor = self.committed.as_ref().map(|c| serde_json::from_slice(&serde_json::to_vec(c).unwrap()).unwrap());
        self.reader = Reader::open(self.config(), cursor).unwrap();
    }

    fn act(&mut self, action: &Action) {
        let log = self.log();
        match action {
            Action::Append(count) => (0..*count).for_each(|_| self.append()),
            Action::Half => {
                self.ensure_open();
                if self.writer.as_ref().unwrap().3.is_none() {
                    self.next += 1;
                    let id = self.next;
                    self.write(&text(id).as_bytes()[..5]);
                    self.writer.as_mut().unwrap().3 = Some(id);
                }
            }
            Action::Rotate { create } => {
                let Some(life) = self.live_at.remove(&log) else { return };
                if self.writer.as_ref().is_some_and(|w| w.1 != life) {
                    // The writer is in another file and does not rotate this one.
                    self.live_at.insert(log, life);
                    return;
                }
                self.stamp += 1;
                let name = format!("audit-2026-01-15T10-{:02}-{:02}.{:03}.log", self.stamp / 60, self.stamp % 60, 7);
                let backup = self.folder.path().join(name);
                fs::rename(&log, &backup).unwrap();
                self.live_at.insert(backup, life);
                self.writer = None;
                if *create {
                    self.ensure_open();
                }
            }
            Action::Gzip(which) => {
                let plain: Vec<_> =
                    self.backups().into_iter().filter(|p| p.extension().is_some_and(|e| e == "log")).collect();
                if plain.is_empty() {
                    return;
                }
                let path = &plain[usize::from(*which) % plain.len()];
                let mut content = Vec::new();
                File::open(path).unwrap().read_to_end(&mut content).unwrap();
                let packed = PathBuf::from(format!("{}.gz", path.display()));
                let mut encoder =
                    flate2::write::GzEncoder::new(File::create(&packed).unwrap(), flate2::Compression::fast());
                encoder.write_all(&content).unwrap();
                encoder.finish().unwrap();
                fs::remove_file(path).unwrap();
                let life = self.live_at.remove(path).unwrap();
                self.live_at.insert(packed, life);
            }
            Action::Prune => {
                let Some(oldest) = self.backups().into_iter().next() else { return };
                fs::remove_file(&oldest).unwrap();
                let life = self.live_at.remove(&oldest).unwrap();
                self.lose(life);
            }
            Action::CopyTruncate { hole } => {
                let Some(life) = self.live_at.get(&log).copied() else { return };
                self.lose(life);
                OpenOptions::new().write(true).open(&log).unwrap().set_len(0).unwrap();
                self.lives.push(Life::default());
                let new = self.lives.len() - 1;
                self.live_at.insert(log, new);
                if let Some((_, current, at, half)) = &mut self.writer
                    && *current == life
                {
                    *current = new;
                    *half = None;
                    if !hole {
                        *at = 0;
                    }
                }
            }
            Action::CutTail { cut, grow } => {
                let Some(life) = self.live_at.get(&log).copied() else { return };
                let content = fs::read(&log).unwrap();
                let whole = content.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
                let gone = usize::from(*cut);
                let left =
                    content[..whole].split_inclusive(|b| *b == b'\n').rev().skip(gone).map(|l| l.len() as u64).sum();
                // What a writer that began anew left as half a line is a line too, and none of ours.
                let stays = String::from_utf8_lossy(&content[..left as usize]).into_owned();
                let lines = &mut self.lives[life].lines;
                let cut: Vec<_> = lines.extract_if(.., |id| !stays.contains(&format!("{{\"id\":{id},"))).collect();
                // What nobody has read yet can be taken away without a trace.
                self.again.extend(lines.iter().copied());
                self.excused.extend(cut.iter().copied());
                self.silent.extend(cut);
                OpenOptions::new().write(true).open(&log).unwrap().set_len(left).unwrap();
                if let Some((_, current, at, half)) = &mut self.writer
                    && *current == life
                {
                    (*at, *half) = (left, None);
                    (0..*grow).for_each(|_| self.append());
                }
            }
            Action::Delete => {
                let Some(life) = self.live_at.remove(&log) else { return };
                fs::remove_file(&log).unwrap();
                self.lose(life);
                if self.writer.as_ref().is_some_and(|w| w.1 == life) {
                    self.writer = None;
                }
            }
            Action::ForeignRename => {
                let aside = self.folder.path().join("audit.log.1");
                if aside.exists() {
                    return;
                }
                let Some(life) = self.live_at.remove(&log) else { return };
                self.ensure_open_at(life, &log);
                fs::rename(&log, &aside).unwrap();
                self.live_at.insert(aside, life);
                self.lives[life].unseen = !self.touched(life);
                self.create(&log);
            }
            Action::Reopen => {
                // A half line stays half for ever, and what comes next is glued to it: end it first.
                if self.writer.as_ref().is_some_and(|w| w.3.is_some()) {
                    self.write(b"\n");
                }
                self.writer = None;
            }
            Action::Poll(budget) => {
                let batch = self.reader.poll(usize::from(*budget)).unwrap();
                self.keep(&batch);
            }
            Action::PollAndCrash(budget) => {
                self.reader.poll(usize::from(*budget)).unwrap();
                self.restart();
            }
            Action::Restart => self.restart(),
        }
    }

    fn ensure_open_at(&mut self, life: usize, path: &Path) {
        if self.writer.is_none() {
            let file = OpenOptions::new().write(true).open(path).unwrap();
            let end = file.metadata().unwrap().len();
            self.writer = Some((file, life, end, None));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_line_once_or_a_gap(actions in proptest::collection::vec(action(), 1..60)) {
        check(&actions)?;
    }
}

/// Acts, reads to the end, and compares what was delivered with what was written.
fn check(actions: &[Action]) -> Result<(), TestCaseError> {
    let mut world = World::new();
    for action in actions {
        world.act(action);
    }
    for _ in 0..200 {
        let batch = world.reader.poll(1 << 20).unwrap();
        let idle = batch.lines.is_empty() && !batch.more;
        world.keep(&batch);
        if idle {
            break;
        }
    }
    let mut seen = BTreeSet::new();
    for id in &world.delivered {
        prop_assert!(seen.insert(*id) || world.again.contains(id), "line {id} was delivered twice");
    }
    let mut told = true;
    for life in &world.lives {
        for id in &life.lines {
            if !seen.contains(id) && !life.unseen {
                prop_assert!(world.excused.contains(id), "line {id} was lost without need");
                told &= world.gaps > 0 || world.silent.contains(id);
            }
        }
    }
    prop_assert!(told, "lines were lost and no gap was reported");
    Ok(())
}

#[test]
fn a_tail_that_is_cut_off_may_be_half_a_line() {
    use Action::{Append, CutTail, Half, Poll, Reopen};
    let cut = CutTail { cut: 1, grow: 0 };
    check(&[Append(1), Half, Poll(1), Reopen, cut.clone(), cut]).unwrap();
}

#[test]
fn half_a_line_after_a_hole_is_no_place_to_go_on_at_once_the_log_was_cut_again() {
    use Action::{Append, CopyTruncate, Half, Poll, PollAndCrash};
    let (hole, none) = (CopyTruncate { hole: true }, CopyTruncate { hole: false });
    check(&[Append(1), hole, Half, Poll(1), none, Append(1), Append(1), PollAndCrash(1)]).unwrap();
}

fn lines(batch: &Batch) -> Vec<(String, u64, String)> {
    batch.lines.iter().map(|l| (l.file.to_string(), l.number, String::from_utf8_lossy(&l.bytes).into_owned())).collect()
}

#[test]
fn a_half_line_is_held_until_its_end_comes() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    fs::write(&log, "one\ntw").unwrap();
    let mut config = Config::new(&log, StartAt::Beginning);
    config.shown = "/var/log/audit.log".into();
    let mut reader = Reader::open(config.clone(), None).unwrap();
    let first = reader.poll(1 << 20).unwrap();
    assert_eq!(lines(&first), [("/var/log/audit.log".into(), 1, "one".into())]);
    OpenOptions::new().append(true).open(&log).unwrap().write_all(b"o\n").unwrap();
    // Also by another process that knows only the cursor.
    let mut other = Reader::open(config, Some(first.cursor)).unwrap();
    for reader in [&mut reader, &mut other] {
        assert_eq!(lines(&reader.poll(1 << 20).unwrap()), [("/var/log/audit.log".into(), 2, "two".into())]);
    }
}

#[test]
fn a_line_over_the_limit_is_counted_and_the_next_one_read() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    fs::write(&log, format!("{}\nok\n", "x".repeat(300_000))).unwrap();
    let config = Config { max_line: 200_000, ..Config::new(&log, StartAt::Beginning) };
    let batch = Reader::open(config, None).unwrap().poll(1 << 20).unwrap();
    assert_eq!(lines(&batch).iter().map(|l| (l.1, l.2.as_str())).collect::<Vec<_>>(), [(2, "ok")]);
    assert_eq!(batch.gaps.len(), 1);
    assert_eq!(batch.gaps[0].count, 1);
    assert!(batch.gaps[0].detail.contains("300000 bytes"), "{}", batch.gaps[0].detail);
}

#[test]
fn where_reading_begins_is_a_choice() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    fs::write(dir.path().join("audit-2026-01-14T10-00-00.000.log"), "old\n").unwrap();
    fs::write(dir.path().join("audit-2026-01-15T10-00-00.000.log"), "recent\n").unwrap();
    fs::write(&log, "now\nhal").unwrap();
    let read = |start| {
        let mut reader = Reader::open(Config::new(&log, start), None).unwrap();
        reader.poll(1 << 20).unwrap().lines.into_iter().map(|l| String::from_utf8(l.bytes).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(read(StartAt::Beginning), ["old", "recent", "now"]);
    assert_eq!(read(StartAt::Since("2026-01-15T00:00:00Z".parse().unwrap())), ["recent", "now"]);
    let mut reader = Reader::open(Config::new(&log, StartAt::End), None).unwrap();
    assert!(reader.poll(1 << 20).unwrap().lines.is_empty());
    OpenOptions::new().append(true).open(&log).unwrap().write_all(b"f\nnew\n").unwrap();
    let batch = reader.poll(1 << 20).unwrap();
    assert_eq!(lines(&batch).iter().map(|l| (l.1, l.2.as_str())).collect::<Vec<_>>(), [(0, "new")]);
}

#[test]
fn a_gzipped_log_that_is_broken_is_a_gap_and_no_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    fs::write(dir.path().join("audit-2026-01-14T10-00-00.000.log.gz"), b"\x1f\x8b\x08not gzip").unwrap();
    fs::write(&log, "now\n").unwrap();
    let batch = Reader::open(Config::new(&log, StartAt::Beginning), None).unwrap().poll(1 << 20).unwrap();
    assert_eq!(lines(&batch).iter().map(|l| l.2.as_str()).collect::<Vec<_>>(), ["now"]);
    assert!(batch.gaps[0].detail.contains("audit-2026-01-14T10-00-00.000.log.gz"), "{}", batch.gaps[0].detail);
}

#[test]
fn a_pipe_with_the_logs_name_is_refused_and_does_not_hang() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    nix::unistd::mkfifo(&log, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let error = Reader::open(Config::new(&log, StartAt::Beginning), None).unwrap().poll(1 << 20).unwrap_err();
    assert!(error.to_string().contains("audit.log"), "{error}");
}

fn append(path: &Path, text: &str) {
    OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

fn texts(batch: &Batch) -> Vec<String> {
    lines(batch).into_iter().map(|l| l.2).collect()
}

fn oddities(batch: &Batch) -> Vec<Oddity> {
    batch.signs.iter().map(|sign| sign.oddity).collect()
}

fn everything(reader: &mut Reader) -> Batch {
    reader.poll(1 << 20).unwrap()
}

#[test]
fn a_clock_that_was_set_back_while_nobody_read_loses_no_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    let rotate = |stamp: &str| fs::rename(&log, dir.path().join(format!("audit-{stamp}.log"))).unwrap();
    append(&log, "one\n");
    let mut reader = Reader::open(Config::new(&log, StartAt::Beginning), None).unwrap();
    assert_eq!(texts(&everything(&mut reader)), ["one"]);
    rotate("2026-06-01T10-00-00.000");
    append(&log, "two\n");
    let batch = everything(&mut reader);
    assert_eq!(texts(&batch), ["two"]);
    drop(reader);
    // Names of the past, for logs of now.
    for (line, stamp) in [("three\n", "2026-01-01T00-00-01.000"), ("four\n", "2026-01-01T00-00-02.000")] {
        append(&log, line);
        rotate(stamp);
    }
    append(&log, "five\n");
    let mut reader = Reader::open(Config::new(&log, StartAt::Beginning), Some(batch.cursor)).unwrap();
    let batch = everything(&mut reader);
    assert_eq!((texts(&batch), batch.gaps), (vec!["three".into(), "four".into(), "five".into()], vec![]));
}

#[test]
fn a_log_replaced_by_a_copy_is_told_and_read_on_where_it_was_as_is_the_one_the_writer_still_holds() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    append(&log, "one\ntwo\n");
    let mut reader = Reader::open(Config::new(&log, StartAt::Beginning), None).unwrap();
    assert_eq!(texts(&everything(&mut reader)), ["one", "two"]);
    let mut held = OpenOptions::new().append(true).open(&log).unwrap();
    fs::copy(&log, dir.path().join("new")).unwrap();
    fs::rename(dir.path().join("new"), &log).unwrap();
    append(&log, "three\n");
    held.write_all(b"hidden\n").unwrap();
    let batch = everything(&mut reader);
    assert_eq!(texts(&batch), ["hidden", "three"]);
    assert_eq!(oddities(&batch), [Oddity::Truncated, Oddity::Unlinked]);
    held.write_all(b"hidden too\n").unwrap();
    append(&log, "four\n");
    let batch = everything(&mut reader);
    assert_eq!((texts(&batch), oddities(&batch)), (vec!["four".into(), "hidden too".into()], vec![]));
    // A file without a name cannot be found again.
    let mut reader = Reader::open(Config::new(&log, StartAt::Beginning), Some(batch.cursor)).unwrap();
    let batch = everything(&mut reader);
    assert_eq!(texts(&batch), Vec::<String>::new());
    assert!(batch.gaps[0].detail.contains("lost its name"), "{}", batch.gaps[0].detail);
}

#[test]
fn a_log_moved_away_while_its_writer_holds_it_is_read_on_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    append(&log, "one\n");
    let mut reader = Reader::open(Config::new(&log, StartAt::Beginning), None).unwrap();
    assert_eq!(texts(&everything(&mut reader)), ["one"]);
    let mut held = OpenOptions::new().append(true).open(&log).unwrap();
    fs::rename(&log, dir.path().join("audit.log.aside")).unwrap();
    append(&log, "decoy\n");
    let batch = everything(&mut reader);
    assert_eq!((texts(&batch), oddities(&batch)), (vec!["decoy".into()], vec![]), "a rotator might have done it");
    held.write_all(b"hidden\n").unwrap();
    let batch = everything(&mut reader);
    assert_eq!((texts(&batch), oddities(&batch)), (vec!["hidden".into()], vec![Oddity::Unlinked]));
    held.write_all(b"hidden too\n").unwrap();
    let mut reader = Reader::open(Config::new(&log, StartAt::Beginning), Some(batch.cursor)).unwrap();
    let batch = everything(&mut reader);
    assert_eq!((texts(&batch), batch.gaps), (vec!["hidden too".into()], vec![]));
}

#[test]
fn a_tail_that_is_cut_and_grows_past_the_place_again_is_told_and_every_new_line_read() {
    let old: Vec<_> = (0..10).map(|n| format!("{{\"id\":{n}}}\n")).collect();
    let new: Vec<_> = (20..30).map(|n| format!("{{\"id\":{n},\"longer\":true}}\n")).collect();
    // A half line, a file over the length of a fingerprint, and a log replaced by one without some of its lines.
    for (first, running, replace) in [
        ("", true, false),
        ("", false, false),
        (&*"x".repeat(5000), true, false),
        (&*"x".repeat(5000), false, false),
        ("", false, true),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("audit.log");
        let first = format!("{first}{}", "y\n".repeat(700));
        append(&log, &(first.clone() + &old.concat() + "{\"half"));
        let mut reader = Reader::open(Config::new(&log, StartAt::Beginning), None).unwrap();
        let cursor = everything(&mut reader).cursor;
        if replace {
            fs::write(dir.path().join("new"), first + &old[..4].concat() + &old[6..].concat() + &new.concat()).unwrap();
            fs::rename(dir.path().join("new"), &log).unwrap();
        } else {
            let left = first.len() + old[..6].concat().len();
            OpenOptions::new().write(true).open(&log).unwrap().set_len(left as u64).unwrap();
            append(&log, &new.concat());
        }
        if !running {
            reader = Reader::open(Config::new(&log, StartAt::Beginning), Some(cursor)).unwrap();
        }
        let batch = everything(&mut reader);
        assert_eq!(oddities(&batch), [Oddity::Truncated], "running {running}, replace {replace}");
        let got = texts(&batch);
        for line in &new {
            assert_eq!(got.iter().filter(|l| *l == line.trim_end()).count(), 1, "{line} of {got:?}");
        }
    }
}

#[test]
fn a_place_of_before_there_was_a_print_of_the_tail_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    append(&log, "one\n");
    let cursor = everything(&mut Reader::open(Config::new(&log, StartAt::Beginning), None).unwrap()).cursor;
    let mut old = serde_json::to_value(&cursor).unwrap();
    assert!(old["file"].as_object_mut().unwrap().remove("tail").is_some());
    append(&log, "two\n");
    let cursor = serde_json::from_value(old).unwrap();
    let batch = everything(&mut Reader::open(Config::new(&log, StartAt::Beginning), Some(cursor)).unwrap());
    assert_eq!((texts(&batch), oddities(&batch)), (vec!["two".into()], vec![]));
}

#[test]
fn rotated_logs_that_are_removed_before_they_are_read_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    let backup = |second: u32| dir.path().join(format!("audit-2026-01-15T10-00-{second:02}.000.log"));
    for second in 1..=3 {
        fs::write(backup(second), format!("line {second}\n")).unwrap();
    }
    append(&log, "now\n");
    let mut reader = Reader::open(Config::new(&log, StartAt::Beginning), None).unwrap();
    let first = reader.poll(1).unwrap();
    assert_eq!(texts(&first), ["line 1"]);
    assert!(reader.behind() > 0);
    let first = reader.cursor();
    fs::remove_file(backup(2)).unwrap();
    // The same reader, and one that knows only the cursor.
    let mut other = Reader::open(Config::new(&log, StartAt::Beginning), Some(first)).unwrap();
    for reader in [&mut reader, &mut other] {
        let batch = everything(reader);
        assert_eq!((texts(&batch), oddities(&batch)), (vec!["line 3".into(), "now".into()], vec![Oddity::Lost]));
        assert!(batch.gaps[0].detail.contains("2026-01-15T10-00-02.000"), "{}", batch.gaps[0].detail);
    }
}

#[test]
fn a_hole_larger_than_the_disk_is_passed_over_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    append(&log, "one\n");
    let mut reader = Reader::open(Config::new(&log, StartAt::Beginning), None).unwrap();
    assert_eq!(texts(&everything(&mut reader)), ["one"]);
    let file = OpenOptions::new().write(true).open(&log).unwrap();
    file.set_len(0).unwrap();
    file.write_all_at(b"after\n", 1 << 42).unwrap();
    let batch = everything(&mut reader);
    assert_eq!((texts(&batch), oddities(&batch)), (vec!["after".into()], vec![Oddity::Truncated]));
    file.write_all_at(b"more\n", (1 << 42) + 6).unwrap();
    let mut reader = Reader::open(Config::new(&log, StartAt::Beginning), Some(batch.cursor)).unwrap();
    assert_eq!(texts(&everything(&mut reader)), ["more"]);
}

#[test]
fn a_folder_that_is_swapped_by_its_link_is_followed_and_what_is_open_read_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old/audit.log"), dir.path().join("new/audit.log"));
    for log in [&old, &new] {
        fs::create_dir(log.parent().unwrap()).unwrap();
    }
    append(&old, "one\n");
    let mut reader = Reader::open(Config::new(&old, StartAt::Beginning), None).unwrap();
    assert_eq!(texts(&everything(&mut reader)), ["one"]);
    append(&new, "three\n");
    reader.relocate(new.clone());
    append(&old, "two\n");
    let batch = everything(&mut reader);
    assert_eq!(texts(&batch), ["two", "three"]);
    // K3s has it open until it rotates.
    append(&old, "still here\n");
    append(&new, "four\n");
    let batch = everything(&mut reader);
    assert_eq!((texts(&batch), oddities(&batch)), (vec!["four".into(), "still here".into()], vec![Oddity::Unlinked]));
    reader.relocate(dir.path().join("gone/audit.log"));
    assert_eq!(reader.path(), new);
}

#[test]
fn a_log_that_was_rotated_and_compressed_is_not_deleted_while_the_next_rotation_leaves_no_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    let backup = |second: u32, end: &str| dir.path().join(format!("audit-2026-01-15T10-00-{second:02}.000.log{end}"));
    append(&log, "one\n");
    let mut reader = Reader::open(Config::new(&log, StartAt::Beginning), None).unwrap();
    assert_eq!(texts(&everything(&mut reader)), ["one"]);
    fs::remove_file(&log).unwrap();
    let mut packed =
        flate2::write::GzEncoder::new(File::create(backup(1, ".gz")).unwrap(), flate2::Compression::fast());
    packed.write_all(b"one\n").unwrap();
    packed.finish().unwrap();
    fs::write(backup(2, ""), "two\n").unwrap();
    let batch = everything(&mut reader);
    assert_eq!((texts(&batch), oddities(&batch), batch.gaps), (vec!["two".into()], vec![], vec![]));
}
