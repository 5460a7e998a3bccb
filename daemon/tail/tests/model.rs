//! Random writers, rotators and reader crashes against a plain account of what was written.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use picket_tail::{Batch, Config, Cursor, Reader, StartAt};
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
    /// The last lines are cut off and others written instead.
    CutTail {
        cut: u8,
        grow: u8,
    },
    Delete,
    /// logrotate without copytruncate: the writer keeps the old file.
    ForeignRename,
    /// Somebody gives the log lumberjack's name while its writer holds it.
    Disguise {
        create: bool,
    },
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
        1 => (1u8..4, 0u8..6).prop_map(|(cut, grow)| Action::CutTail { cut, grow }),
        1 => Just(Action::Delete),
        1 => Just(Action::ForeignRename),
        1 => any::<bool>().prop_map(|create| Action::Disguise { create }),
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
    /// Its tail was cut within its first kibibyte: renamed after that too, there is nothing left to recognise it by but
    /// its inode, and inodes are used again. The loss is told.
    cut: bool,
    /// How many lines were cut off, at most.
    lost: usize,
}

/// Ends of the last lines that a reader remembers one by one.
const REMEMBERED: usize = 16;

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

fn unpacked(path: &Path) -> Vec<u8> {
    let mut content = Vec::new();
    let file = File::open(path).unwrap();
    if path.extension().is_some_and(|e| e == "gz") {
        flate2::read::GzDecoder::new(file).read_to_end(&mut content).unwrap();
    } else {
        (&file).read_to_end(&mut content).unwrap();
    }
    content
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
                let life = self.writer.as_ref().unwrap().1;
                if self.backups().iter().any(|path| self.live_at[path] == life) {
                    // The half of it may have been delivered when the rotated log was done with, for the parser to refuse.
                    self.excused.insert(id);
                    self.silent.insert(id);
                }
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

    /// By what was committed, this rotated log was read to its end, and nobody wrote to it since.
    fn is_done_with(&self, path: &Path) -> bool {
        let name = path.file_name().unwrap().to_str().unwrap();
        let Some(cursor) = &self.committed else { return false };
        let is_it = |stamp: &String| name.contains(stamp.as_str());
        let mut orphans = cursor.orphans.iter().chain(&cursor.orphan);
        cursor.read.iter().flatten().any(is_it)
            && !orphans.any(|(mark, alive)| *alive && mark.stamp.as_ref().is_some_and(is_it))
    }

    fn is_held(&self, path: &Path) -> bool {
        self.writer.as_ref().is_some_and(|writer| self.live_at[path] == writer.1)
    }

    fn next_backup(&mut self) -> PathBuf {
        self.stamp += 1;
        let name = format!("audit-2026-01-15T10-{:02}-{:02}.{:03}.log", self.stamp / 60, self.stamp % 60, 7);
        self.folder.path().join(name)
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
        for (mark, _) in self.committed.iter().flat_map(|cursor| cursor.orphans.iter().chain(&cursor.orphan)) {
            for (path, life) in &self.live_at {
                let is_it = fs::metadata(path).unwrap().ino() == mark.ino
                    || mark.stamp.as_ref().is_some_and(|stamp| path.to_str().unwrap().contains(stamp.as_str()));
                let mut before = unpacked(path);
                before.truncate(mark.offset as usize);
                if is_it && before.len() < 128 && !before.ends_with(b"\n") {
                    // Every log begins like this one: after a restart nobody can tell it from another with its inode.
                    self.lives[*life].unseen = true;
                }
            }
        }
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
                let backup = self.next_backup();
                fs::rename(&log, &backup).unwrap();
                self.live_at.insert(backup, life);
                self.writer = None;
                if *create {
                    self.ensure_open();
                }
            }
            Action::Gzip(which) => {
                let mut plain = self.backups();
                plain.retain(|p| p.extension().is_some_and(|e| e == "log") && !self.is_held(p));
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
                if self.lives[life].cut {
                    // What is left of it is looked for only where it is not packed.
                    self.again.extend(self.lives[life].lines.iter().copied());
                }
            }
            Action::Prune => {
                let Some(oldest) = self.backups().into_iter().find(|p| !self.is_held(p)) else { return };
                fs::remove_file(&oldest).unwrap();
                let life = self.live_at.remove(&oldest).unwrap();
                if self.is_done_with(&oldest) {
                    // Removed is what every rotated log is some day. Who kept no word of a write after the end cannot
                    // know, once it is gone, that there was one.
                    self.silent.extend(self.undelivered(life));
                }
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
                let left =
                    content.split_inclusive(|b| *b == b'\n').rev().skip(usize::from(*cut)).map(<[u8]>::len).sum();
                let rest = String::from_utf8_lossy(&content[..left]).into_owned();
                self.lives[life].cut = true;
                self.lives[life].lost += usize::from(*cut);
                let lines = &mut self.lives[life].lines;
                let (kept, cut): (Vec<_>, Vec<_>) = lines.iter().partition(|id| rest.contains(&text(**id)));
                lines.clone_from(&kept);
                // Of so many lines the ends are remembered one by one: what is kept before them is not read again.
                if self.lives[life].lost > REMEMBERED {
                    self.again.extend(kept);
                }
                // What nobody has read yet can be taken away without a trace.
                self.excused.extend(cut.iter().copied());
                self.silent.extend(cut);
                OpenOptions::new().write(true).open(&log).unwrap().set_len(left as u64).unwrap();
                if let Some((_, current, at, half)) = &mut self.writer
                    && *current == life
                {
                    (*at, *half) = (left as u64, None);
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
                self.lives[life].unseen = !self.touched(life) || self.lives[life].cut;
                self.create(&log);
            }
            Action::Disguise { create } => {
                let Some(life) = self.live_at.get(&log).copied() else { return };
                if self.writer.as_ref().is_none_or(|writer| writer.1 != life) {
                    return;
                }
                self.live_at.remove(&log);
                let backup = self.next_backup();
                fs::rename(&log, &backup).unwrap();
                self.live_at.insert(backup, life);
                if *create {
                    self.create(&log);
                }
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

#[test]
fn a_rotated_log_that_was_read_and_grew_and_was_removed_before_the_next_look_is_no_loss_that_can_be_told() {
    use Action::{Append, Disguise, Poll, PollAndCrash, Prune, Reopen};
    let disguise = Disguise { create: false };
    check(&[Append(1), disguise, Append(1), Poll(58), Append(1), Reopen, Prune, Append(1), PollAndCrash(1)]).unwrap();
}
