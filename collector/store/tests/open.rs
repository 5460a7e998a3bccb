//! Stores that cannot be opened, and what becomes of them.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;
use std::path::Path;

use picket_model::{Seq, Severity};
use picket_store::{DiskSettings, OpenError, SledStore, Store, open, open_or_set_aside};
use support::*;

fn settings() -> DiskSettings {
    DiskSettings { cache_bytes: 4 * 1024 * 1024, ..DiskSettings::default() }
}

/// The database itself, as soon as whoever closed it last has let go of it: sled does that in a thread of its own.
fn raw(path: &Path) -> sled::Db {
    loop {
        match sled::open(path) {
            Err(sled::Error::Io(error)) if error.to_string().contains("could not acquire lock") => {
                std::thread::yield_now();
            }
            opened => return opened.unwrap(),
        }
    }
}

/// A store with one event.
fn made(path: &Path) {
    let store = open(path, settings()).unwrap();
    commit(&store, 0, delivery(node(1), epoch(1), 1, vec![opened("a", Severity::High)])).unwrap();
}

fn through(store: &SledStore) -> Option<Seq> {
    store.cursor(node(1), epoch(1)).unwrap().map(|cursor| cursor.through)
}

#[test]
fn a_store_is_there_again_with_its_own_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history");
    let own = open(&path, settings()).unwrap().own_epoch();
    made(&path);
    let store = open(&path, settings()).unwrap();
    assert_eq!((store.own_epoch(), through(&store)), (own, Some(Seq(1))));
}

#[test]
fn a_store_in_use_is_not_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history");
    let _held = open(&path, settings()).unwrap();
    let error = open_or_set_aside(&path, settings(), at(0)).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error:?}");
}

#[test]
fn a_newer_store_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history");
    made(&path);
    let db = raw(&path);
    db.insert(b"\x01format", &2u32.to_be_bytes()).unwrap();
    drop(db);
    let error = open_or_set_aside(&path, settings(), at(0)).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 2, known: 1, .. }), "{error:?}");
}

#[test]
fn a_foreign_database_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history");
    let db = raw(&path);
    db.insert(b"x", b"y").unwrap();
    drop(db);
    let error = open_or_set_aside(&path, settings(), at(0)).unwrap_err();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error:?}");
}

#[test]
fn a_folder_that_cannot_be_made_is_an_error_of_the_file_system() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, b"").unwrap();
    let error = open(&file.join("history"), settings()).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error:?}");
}

#[test]
fn a_damaged_store_is_set_aside_and_a_new_one_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history");
    made(&path);
    let mut conf = fs::read(path.join("conf")).unwrap();
    for byte in &mut conf {
        *byte = !*byte;
    }
    fs::write(path.join("conf"), conf).unwrap();
    let (store, aside) = open_or_set_aside(&path, settings(), at(0)).unwrap();
    let aside = aside.unwrap();
    assert!(aside.reason.is_damage());
    assert!(aside.moved_to.join("db").exists());
    assert_eq!(aside.moved_to.file_name().unwrap().to_str().unwrap(), "history.damaged-20270115T080000Z");
    assert_eq!(through(&store), None);
    drop(store);
    assert!(open_or_set_aside(&path, settings(), at(0)).unwrap().1.is_none());
}

#[test]
fn a_damaged_format_record_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history");
    made(&path);
    let db = raw(&path);
    db.insert(b"\x01format", b"?").unwrap();
    drop(db);
    let (_, aside) = open_or_set_aside(&path, settings(), at(0)).unwrap();
    assert!(aside.unwrap().reason.to_string().contains("damaged"));
}

/// A start that never ends well, such as one in which sled aborts, must not repeat for ever.
#[test]
fn a_store_whose_opening_never_ends_counts_as_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history");
    made(&path);
    fs::write(folder.path().join("history.opening"), b"2").unwrap();
    assert_eq!(through(&open(&path, settings()).unwrap()), Some(Seq(1)));
    assert!(!folder.path().join("history.opening").exists());
    fs::write(folder.path().join("history.opening"), b"3").unwrap();
    let (store, aside) = open_or_set_aside(&path, settings(), at(0)).unwrap();
    assert!(aside.unwrap().reason.is_damage());
    assert_eq!(through(&store), None);
    assert!(!folder.path().join("history.opening").exists());
}
