//! What happens to logs, case by case.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use picket_tail::{Batch, Config, Cursor, Follow, Oddity, Reader, StartAt};

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
    assert!(batch.gaps[0].detail.contains("more than 200000 bytes"), "{}", batch.gaps[0].detail);
}

#[test]
fn a_line_without_an_end_is_told_once_and_not_read_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    let open =
        |cursor| Reader::open(Config { max_line: 200_000, ..Config::new(&log, StartAt::Beginning) }, cursor).unwrap();
    append(&log, &format!("one\n{}", "x".repeat(300_000)));
    let mut reader = open(None);
    let batch = everything(&mut reader);
    assert_eq!((texts(&batch), oddities(&batch)), (vec!["one".into()], vec![Oddity::TooLong]));
    assert_eq!(batch.gaps.iter().map(|gap| gap.count).collect::<Vec<_>>(), [1]);
    append(&log, &"y".repeat(300_000));
    let mut cursor = None;
    for reader in [&mut reader, &mut open(Some(batch.cursor))] {
        let batch = everything(reader);
        assert_eq!((texts(&batch), oddities(&batch), batch.gaps), (vec![], vec![], vec![]));
        assert_eq!(reader.place().unwrap().1, 600_004);
        cursor = Some(batch.cursor);
    }
    append(&log, "\ntwo\n");
    let batch = everything(&mut open(cursor.clone()));
    assert_eq!((lines(&batch).pop().map(|l| (l.1, l.2)), batch.gaps), (Some((3, "two".into())), vec![]));
    // It is recognised by what it holds, like any other place.
    File::create(&log).unwrap().write_all(&[b'z'; 700_000]).unwrap();
    append(&log, "\nthree\n");
    let batch = everything(&mut open(cursor));
    assert_eq!((texts(&batch), oddities(&batch)), (vec!["three".into()], vec![Oddity::Truncated, Oddity::TooLong]));
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
    let batch = reader.poll(1 << 20).unwrap();
    assert!(batch.lines.is_empty());
    OpenOptions::new().append(true).open(&log).unwrap().write_all(b"f\nnew\n").unwrap();
    // Also by another process that knows only the cursor.
    let mut other = Reader::open(Config::new(&log, StartAt::End), Some(batch.cursor)).unwrap();
    for reader in [&mut reader, &mut other] {
        let batch = reader.poll(1 << 20).unwrap();
        assert_eq!(lines(&batch).iter().map(|l| (l.1, l.2.as_str())).collect::<Vec<_>>(), [(0, "new")]);
    }
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

/// A log of which one line was read, and its writer, who goes on whatever becomes of the name.
fn written_to(dir: &Path) -> (PathBuf, Reader, File) {
    let log = dir.join("audit.log");
    append(&log, "one\n");
    let mut reader = Reader::open(Config::new(&log, StartAt::Beginning), None).unwrap();
    assert_eq!(texts(&everything(&mut reader)), ["one"]);
    let writer = OpenOptions::new().append(true).open(&log).unwrap();
    (log, reader, writer)
}

#[test]
fn a_log_moved_away_while_its_writer_holds_it_is_read_on_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (log, mut reader, mut held) = written_to(dir.path());
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
fn a_log_moved_away_with_nothing_or_an_empty_file_in_its_place_is_told_once_it_is_written_to() {
    for (empty, removed) in [(false, false), (true, false), (true, true)] {
        let case = format!("empty {empty}, removed {removed}");
        let dir = tempfile::tempdir().unwrap();
        let (log, mut reader, mut held) = written_to(dir.path());
        // What was written before is no sign.
        held.write_all(b"two\n").unwrap();
        if removed {
            fs::remove_file(&log).unwrap();
        } else {
            fs::rename(&log, dir.path().join("elsewhere")).unwrap();
        }
        if empty {
            append(&log, "");
        }
        let batch = everything(&mut reader);
        let told = if removed { vec![Oddity::Unlinked] } else { vec![] };
        assert_eq!((texts(&batch), oddities(&batch)), (vec!["two".into()], told), "{case}");
        assert_eq!(oddities(&everything(&mut reader)), [], "{case}");
        held.write_all(b"three\n").unwrap();
        let batch = everything(&mut reader);
        let told = if removed { vec![] } else { vec![Oddity::Unlinked] };
        assert_eq!((texts(&batch), oddities(&batch)), (vec!["three".into()], told), "{case}");
        held.write_all(b"four\n").unwrap();
        append(&log, "five\n");
        let batch = everything(&mut reader);
        assert_eq!((batch.lines.len(), oddities(&batch), batch.gaps), (2, vec![], vec![]), "{case}");
        held.write_all(b"six\n").unwrap();
        let batch = everything(&mut reader);
        assert_eq!((texts(&batch), oddities(&batch)), (vec!["six".into()], vec![]), "{case}");
    }
}

#[test]
fn a_log_that_gets_its_name_back_unwritten_is_no_sign() {
    let dir = tempfile::tempdir().unwrap();
    let (log, mut reader, _) = written_to(dir.path());
    let aside = dir.path().join("aside");
    fs::rename(&log, &aside).unwrap();
    everything(&mut reader);
    fs::rename(&aside, &log).unwrap();
    everything(&mut reader);
    append(&log, "two\n");
    let batch = everything(&mut reader);
    assert_eq!((texts(&batch), oddities(&batch)), (vec!["two".into()], vec![]));
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
fn a_log_renamed_as_lumberjack_does_while_its_writer_goes_on_is_read_on_and_told() {
    for (create, restart) in [(true, false), (false, false), (true, true), (false, true)] {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("audit.log");
        let rotated = |second: u32| dir.path().join(format!("audit-2026-01-15T10-00-{second:02}.000.log"));
        append(&log, "one\n");
        let mut held = OpenOptions::new().append(true).open(&log).unwrap();
        let mut reader = Reader::open(Config::new(&log, StartAt::Beginning), None).unwrap();
        everything(&mut reader);
        fs::rename(&log, rotated(1)).unwrap();
        if create {
            // And once more, so that another file is the last that had the name.
            append(&log, "");
            everything(&mut reader);
            fs::rename(&log, rotated(2)).unwrap();
            append(&log, "");
        }
        let batch = everything(&mut reader);
        assert_eq!((texts(&batch), oddities(&batch)), (vec![], vec![]), "a rotation may look so");
        if restart {
            reader = Reader::open(Config::new(&log, StartAt::Beginning), Some(batch.cursor)).unwrap();
        }
        held.write_all(b"two\n").unwrap();
        let batch = everything(&mut reader);
        assert_eq!((texts(&batch), oddities(&batch)), (vec!["two".into()], vec![Oddity::Unlinked]));
        held.write_all(b"three\n").unwrap();
        let mut reader = Reader::open(Config::new(&log, StartAt::Beginning), Some(batch.cursor)).unwrap();
        let batch = everything(&mut reader);
        assert_eq!((texts(&batch), batch.gaps), (vec!["three".into()], vec![]));
        // It gets its name back.
        fs::rename(rotated(1), &log).unwrap();
        held.write_all(b"four\n").unwrap();
        assert_eq!(texts(&everything(&mut reader)), ["four"]);
    }
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
    // So it is when the log is compared with a copy of it.
    let copy = File::create(dir.path().join("copy")).unwrap();
    copy.write_all_at(b"after\nmore\nlast\n", 1 << 42).unwrap();
    fs::rename(dir.path().join("copy"), &log).unwrap();
    let batch = everything(&mut reader);
    assert_eq!((texts(&batch), oddities(&batch)), (vec!["last".into()], vec![Oddity::Truncated, Oddity::Unlinked]));
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

#[test]
fn thousands_of_rotated_logs_are_read_without_listing_them_for_each() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    for number in 0..2000 {
        let name = format!("audit-2026-01-15T10-{:02}-{:02}.000.log", number / 60, number % 60);
        fs::write(dir.path().join(name), format!("line {number}\n")).unwrap();
    }
    append(&log, "now\n");
    // What other programs do meanwhile does not count.
    let spent = || nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
    let before = spent();
    let mut reader = Reader::open(Config::new(&log, StartAt::Beginning), None).unwrap();
    assert_eq!(everything(&mut reader).lines.len(), 2001);
    assert!((spent() - before).tv_sec() < 2, "{:?}", spent() - before);
}

#[test]
fn a_rotated_log_that_is_a_link_is_looked_for_where_it_leads_on_its_node() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    let rotated = |second: u32| dir.path().join(format!("audit-2026-01-15T10-00-{second:02}.000.log"));
    let (outside, inside) = (tempfile::NamedTempFile::new().unwrap(), dir.path().join("inside"));
    fs::write(outside.path(), "not of this node\n").unwrap();
    fs::write(&inside, "old\n").unwrap();
    std::os::unix::fs::symlink(outside.path(), rotated(1)).unwrap();
    append(&log, "now\n");
    let link = rotated(1);
    let follow = Follow::new(move |path| if path == link { inside.clone() } else { path.to_owned() });
    let config = Config { follow, ..Config::new(&log, StartAt::Beginning) };
    let batch = everything(&mut Reader::open(config, None).unwrap());
    assert_eq!(texts(&batch), ["old", "now"]);
    assert!(lines(&batch)[0].0.ends_with("/audit-2026-01-15T10-00-01.000.log"), "{}", lines(&batch)[0].0);
}

#[test]
fn a_rotated_log_with_an_old_name_among_more_than_are_named_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    let write = |day: u32, number: usize| {
        let name = format!("audit-2026-01-{day:02}T10-{:02}-{:02}.000.log", number / 60, number % 60);
        fs::write(dir.path().join(name), "line\n").unwrap();
    };
    (0..Cursor::MOST_NAMED + 6).for_each(|number| write(20, number));
    append(&log, "now\n");
    let open = |cursor| Reader::open(Config::new(&log, StartAt::Beginning), cursor).unwrap();
    let first = everything(&mut open(None));
    let batch = everything(&mut open(Some(first.cursor.clone())));
    assert_eq!((texts(&batch), batch.gaps), (vec![], vec![]));
    write(2, 0);
    let batch = everything(&mut open(Some(first.cursor)));
    assert_eq!(oddities(&batch), [Oddity::Lost]);
    assert!(batch.gaps[0].detail.contains("1 rotated logs"), "{}", batch.gaps[0].detail);
    // Once.
    let batch = everything(&mut open(Some(batch.cursor)));
    assert_eq!((texts(&batch), batch.gaps), (vec![], vec![]));
}

#[test]
fn a_gzipped_log_that_is_padded_with_nuls_is_whole_and_one_that_is_cut_or_overwritten_with_them_is_not() {
    let text: String = (0..2000).map(|n| format!("{n} {}\n", n * 7919 % 1013)).collect();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(text.as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    for (keep, nuls, whole) in [
        (packed.len(), 0, true),
        (packed.len(), 512, true),
        (packed.len() - 8, 512, false),
        (packed.len() / 2, 512, false),
        (packed.len() / 2, 0, false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("audit.log");
        let bytes = [packed.get(..keep).unwrap(), &vec![0; nuls]].concat();
        fs::write(dir.path().join("audit-2026-01-14T10-00-00.000.log.gz"), bytes).unwrap();
        append(&log, "now\n");
        let batch = everything(&mut Reader::open(Config::new(&log, StartAt::Beginning), None).unwrap());
        assert_eq!(batch.gaps.is_empty(), whole, "{keep} {nuls}: {:?}", batch.gaps);
        assert!(!whole || batch.lines.len() == 2001, "{}", batch.lines.len());
        assert_eq!(batch.lines.last().unwrap().bytes, b"now");
    }
}

#[test]
fn a_log_with_a_hole_that_was_read_from_its_end_is_found_again_once_it_is_compressed() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    File::create(&log).unwrap().set_len(500_000).unwrap();
    append(&log, "old\n");
    let config = Config::new(&log, StartAt::End);
    let mut reader = Reader::open(config.clone(), None).unwrap();
    append(&log, "one\n");
    let batch = everything(&mut reader);
    assert_eq!(texts(&batch), ["one"]);
    append(&log, "two\n");
    let rotated = dir.path().join("audit-2026-01-14T10-00-00.000.log.gz");
    let mut gzip = flate2::write::GzEncoder::new(File::create(rotated).unwrap(), flate2::Compression::fast());
    gzip.write_all(&fs::read(&log).unwrap()).unwrap();
    gzip.finish().unwrap();
    // With an inode of its own.
    fs::rename(&log, dir.path().join("away")).unwrap();
    fs::write(&log, "three\n").unwrap();
    let batch = everything(&mut Reader::open(config, Some(batch.cursor)).unwrap());
    assert_eq!((texts(&batch), batch.gaps, batch.signs), (vec!["two".into(), "three".into()], vec![], vec![]));
}

/// Its tail was cut off, also by an editor that writes a file of its own.
#[test]
fn what_was_kept_of_a_log_whose_tail_was_cut_is_not_read_again() {
    let long = |number: usize| format!("{number} {}\n", "x".repeat(900));
    let all: Vec<_> = (0..3000).map(long).collect();
    for (keep, running, anew) in [
        (2999, true, false),
        (2990, false, false),
        (2500, true, false),
        (300, false, false),
        (2990, false, true),
        (2500, true, true),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("audit.log");
        let config = Config::new(&log, StartAt::Beginning);
        append(&log, &all.concat());
        let mut reader = Reader::open(config.clone(), None).unwrap();
        let cursor = reader.poll(8 << 20).unwrap().cursor;
        assert!(serde_json::to_vec(&cursor).unwrap().len() < 2000);
        let kept = all[..keep].concat();
        if anew {
            fs::write(dir.path().join("sedX"), &kept).unwrap();
            fs::rename(dir.path().join("sedX"), &log).unwrap();
        } else {
            OpenOptions::new().write(true).open(&log).unwrap().set_len(kept.len() as u64).unwrap();
        }
        if !running {
            append(&log, "new\n");
            reader = Reader::open(config, Some(cursor)).unwrap();
        }
        let mut batch = reader.poll(8 << 20).unwrap();
        if running {
            assert_eq!(batch.lines.last().map_or(keep as u64, |line| line.number), keep as u64);
            append(&log, "new\n");
            batch.lines.extend(reader.poll(8 << 20).unwrap().lines);
        }
        let what = format!("{keep} {running} {anew}");
        assert_eq!(batch.lines.pop().map(|l| (l.number, l.bytes)), Some((keep as u64 + 1, b"new".to_vec())), "{what}");
        let again = batch.lines.len();
        assert!(again <= if 3000 - keep > 16 { 3000 - keep } else { 0 }, "{what}: {again} lines were read again");
        assert_eq!(batch.signs.iter().filter(|sign| sign.oddity == Oddity::Truncated).count(), 1, "{what}");
    }
}
