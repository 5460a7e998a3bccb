//! A writer that rotates and packs as fast as it can, beside a reader that is killed again and again.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use picket_tail::{Config, Reader, StartAt};

/// Lines in all, and in one file.
const LINES: u32 = 2_500;
const A_FILE: u32 = 20;
/// How far the writer gets ahead of the reader: rotation and compression are to happen where it reads.
const LEAD: u32 = 25;

fn pack(path: &Path) {
    let packed = File::create(format!("{}.gz", path.display())).unwrap();
    let mut encoder = flate2::write::GzEncoder::new(packed, flate2::Compression::fast());
    io::copy(&mut File::open(path).unwrap(), &mut encoder).unwrap();
    encoder.finish().unwrap();
    fs::remove_file(path).unwrap();
}

fn write_all(log: PathBuf, read: Arc<AtomicU32>) -> JoinHandle<()> {
    thread::spawn(move || {
        let open = || OpenOptions::new().append(true).create(true).open(&log).unwrap();
        let (mut file, mut rotations) = (open(), 0);
        for line in 1..=LINES {
            while line > read.load(Ordering::Relaxed) + LEAD {
                thread::yield_now();
            }
            writeln!(file, "{{\"id\":{line}}}").unwrap();
            if line % A_FILE == 0 {
                rotations += 1;
                let stamp = format!("2026-01-15T{:02}-{:02}-00.000", rotations / 60, rotations % 60);
                let rotated = log.with_file_name(format!("audit-{stamp}.log"));
                fs::rename(&log, &rotated).unwrap();
                file = open();
                pack(&rotated);
            }
        }
    })
}

#[test]
fn rotation_and_compression_under_a_reader_that_is_killed_lose_and_repeat_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    let config = || Config::new(&log, StartAt::Beginning);
    let read = Arc::new(AtomicU32::new(0));
    let writer = write_all(log.clone(), Arc::clone(&read));
    let (mut cursor, mut next, mut round) = (None, 1, 0_u32);
    let mut reader = Reader::open(config(), None).unwrap();
    while next <= LINES {
        round += 1;
        let batch = reader.poll(300).unwrap();
        assert_eq!(batch.gaps, [], "at line {next}");
        if round.is_multiple_of(5) {
            // Killed before the batch was committed.
            reader = Reader::open(config(), cursor.clone()).unwrap();
            continue;
        }
        for line in batch.lines {
            let text = String::from_utf8(line.bytes).unwrap();
            assert_eq!(text, format!("{{\"id\":{next}}}"), "{} line {}", line.file, line.number);
            next += 1;
        }
        read.store(next, Ordering::Relaxed);
        cursor = Some(batch.cursor);
        if round.is_multiple_of(7) {
            reader = Reader::open(config(), cursor.clone()).unwrap();
        }
    }
    writer.join().unwrap();
    assert_eq!(reader.poll(1 << 20).unwrap().lines, []);
}
