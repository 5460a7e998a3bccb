//! Any bytes in any files of a log, any rotation and any crash, against a plain account of what was written: what is
//! done to the files in an orderly way loses no line and repeats none; whatever else is done to them ends in no panic.
#![no_main]

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use libfuzzer_sys::{arbitrary::Arbitrary, fuzz_target};
use picket_tail::{Batch, Config, Cursor, Reader, StartAt};

#[derive(Debug, Arbitrary)]
enum Step {
    Write(Vec<u8>),
    Rotate,
    Pack(u8),
    Read(u16),
    ReadAndCrash(u16),
    Restart,
    /// From here on nothing is promised but that reading goes on.
    Disorder(Disorder),
}

#[derive(Debug, Arbitrary)]
enum Disorder {
    Cut(u16),
    Delete,
    Replace(Vec<u8>),
    Hole(u32),
    Junk { name: u8, packed: bool, bytes: Vec<u8> },
    Prune(u8),
}

/// Short, so that the limit is met.
const MAX_LINE: usize = 64;

struct World {
    folder: tempfile::TempDir,
    /// What is in the log now, and the complete lines of all logs before.
    log: Vec<u8>,
    written: Vec<Vec<u8>>,
    got: Vec<Vec<u8>>,
    cursor: Option<Cursor>,
    reader: Reader,
    stamp: u32,
    orderly: bool,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let reader = open(&folder, None);
        Self {
            folder,
            log: Vec::new(),
            written: Vec::new(),
            got: Vec::new(),
            cursor: None,
            reader,
            stamp: 0,
            orderly: true,
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("audit.log")
    }

    fn backups(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.path()).expect("a folder");
        let mut all: Vec<_> = entries.flatten().map(|e| e.path()).filter(|p| *p != self.path()).collect();
        all.sort();
        all
    }

    fn keep(&mut self, batch: Batch) {
        self.got.extend(batch.lines.into_iter().map(|line| line.bytes));
        self.cursor = Some(batch.cursor);
    }

    fn crash(&mut self) {
        self.reader = open(&self.folder, self.cursor.clone());
    }

    fn step(&mut self, step: Step) {
        let log = self.path();
        match step {
            Step::Write(bytes) => {
                let bytes: Vec<u8> = bytes.into_iter().map(|b| if b == 0 { b'n' } else { b }).collect();
                let mut file = OpenOptions::new().append(true).create(true).open(&log).expect("the log");
                file.write_all(&bytes).expect("written");
                self.log.extend(bytes);
            }
            Step::Rotate if !self.log.is_empty() && log.exists() => {
                self.stamp += 1;
                let name = format!("audit-2026-01-15T{:02}-{:02}-00.000.log", self.stamp / 60 % 24, self.stamp % 60);
                fs::rename(&log, self.folder.path().join(name)).expect("renamed");
                let content = std::mem::take(&mut self.log);
                self.written.extend(lines(&content, true));
            }
            Step::Pack(which) => {
                let plain: Vec<_> =
                    self.backups().into_iter().filter(|p| p.extension().is_some_and(|e| e == "log")).collect();
                let Some(path) = plain.get(usize::from(which) % plain.len().max(1)) else { return };
                let packed = File::create(format!("{}.gz", path.display())).expect("packed");
                let mut encoder = flate2::write::GzEncoder::new(packed, flate2::Compression::fast());
                encoder.write_all(&fs::read(path).expect("read")).expect("packed");
                encoder.finish().expect("packed");
                fs::remove_file(path).expect("removed");
            }
            Step::Read(budget) => {
                if let Ok(batch) = self.reader.poll(usize::from(budget)) {
                    self.keep(batch);
                }
            }
            Step::ReadAndCrash(budget) => {
                self.reader.poll(usize::from(budget)).ok();
                self.crash();
            }
            Step::Restart => self.crash(),
            Step::Disorder(disorder) => {
                self.orderly = false;
                self.disturb(disorder);
            }
            Step::Rotate => {}
        }
    }

    fn disturb(&mut self, disorder: Disorder) {
        let log = self.path();
        let open = || OpenOptions::new().write(true).open(&log);
        match disorder {
            Disorder::Cut(len) => {
                open().and_then(|file| file.set_len(u64::from(len))).ok();
            }
            Disorder::Delete => {
                fs::remove_file(&log).ok();
            }
            Disorder::Replace(bytes) => {
                let new = self.folder.path().join("new");
                fs::write(&new, bytes).expect("written");
                fs::rename(new, &log).expect("renamed");
            }
            Disorder::Hole(len) => {
                open().and_then(|file| file.set_len(u64::from(len))).ok();
            }
            Disorder::Junk { name, packed, bytes } => {
                let end = if packed { ".gz" } else { "" };
                let name = format!("audit-2026-01-15T00-{:02}-30.000.log{end}", name % 60);
                fs::write(self.folder.path().join(name), bytes).expect("written");
            }
            Disorder::Prune(which) => {
                let all = self.backups();
                if let Some(path) = all.get(usize::from(which) % all.len().max(1)) {
                    fs::remove_file(path).ok();
                }
            }
        }
    }
}

fn open(folder: &tempfile::TempDir, cursor: Option<Cursor>) -> Reader {
    let config = Config { max_line: MAX_LINE, ..Config::new(folder.path().join("audit.log"), StartAt::Beginning) };
    Reader::open(config, cursor).expect("a folder that can be read")
}

/// The reference: complete lines that are neither blank nor too long. A file that is done with ends its last one.
fn lines(content: &[u8], done: bool) -> Vec<Vec<u8>> {
    let mut parts: Vec<&[u8]> = content.split(|b| *b == b'\n').collect();
    let last = parts.pop().unwrap_or_default();
    if done {
        parts.push(last);
    }
    parts.retain(|part| part.len() <= MAX_LINE && !part.iter().all(u8::is_ascii_whitespace));
    parts.into_iter().map(<[u8]>::to_vec).collect()
}

fuzz_target!(|steps: Vec<Step>| {
    let mut world = World::new();
    for step in steps {
        world.step(step);
    }
    for _ in 0..1000 {
        let Ok(batch) = world.reader.poll(1 << 20) else { break };
        let idle = batch.lines.is_empty() && !batch.more;
        world.keep(batch);
        if idle {
            break;
        }
    }
    if world.orderly {
        world.written.extend(lines(&world.log, false));
        assert_eq!(world.got, world.written);
    }
});
