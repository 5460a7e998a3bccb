//! The walk gives what `openat2` gives, on whatever tree.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::open_by_steps;
use crate::root::{Root, open_by_kernel};

fn folder(path: &Path) -> OwnedFd {
    rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

/// What was opened, by its identity, or why not.
fn seen(opened: Result<OwnedFd, Errno>) -> Result<(u64, u64, u32), Errno> {
    let stat = rustix::fs::fstat(opened?)?;
    Ok((stat.st_dev, stat.st_ino, stat.st_mode))
}

/// None where this machine has no `openat2` to compare with, or is too busy renaming for an answer.
fn both(root: &OwnedFd, path: &Path, flags: OFlags) -> Option<(Seen, Seen)> {
    let flags = flags | OFlags::CLOEXEC;
    let kernel = open_by_kernel(root.as_fd(), path, flags);
    if matches!(kernel, Err(Errno::NOSYS | Errno::AGAIN)) {
        return None;
    }
    Some((seen(kernel), seen(open_by_steps(root.as_fd(), path, flags))))
}

type Seen = Result<(u64, u64, u32), Errno>;

/// All ways in which the crate opens something, and some more.
fn all_flags() -> Vec<OFlags> {
    let regular = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    vec![
        OFlags::PATH,
        OFlags::PATH | OFlags::NOFOLLOW,
        OFlags::PATH | OFlags::DIRECTORY,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW,
        regular,
        regular | OFlags::NOFOLLOW,
        regular | OFlags::DIRECTORY,
        regular | OFlags::DIRECTORY | OFlags::NOFOLLOW,
    ]
}

/// What a tree is made of: few names, so that they meet.
#[derive(Debug, Clone)]
enum Item {
    Folder,
    File,
    Link(String),
    Pipe,
}

fn any_path() -> impl Strategy<Value = String> {
    let name = prop_oneof![6 => "[abc]", 2 => Just("..".to_owned()), 1 => Just(".".to_owned())];
    let joint = prop_oneof![8 => Just("/"), 1 => Just("//"), 1 => Just("/./")];
    let parts = prop::collection::vec((name, joint), 1..6);
    (prop::bool::ANY, parts, prop::bool::weighted(0.2)).prop_map(|(absolute, parts, slash)| {
        let mut path = if absolute { "/".to_owned() } else { String::new() };
        let last = parts.len() - 1;
        for (at, (name, joint)) in parts.into_iter().enumerate() {
            path.push_str(&name);
            if at < last {
                path.push_str(joint);
            }
        }
        path + if slash { "/" } else { "" }
    })
}

fn any_item() -> impl Strategy<Value = Item> {
    prop_oneof![
        3 => Just(Item::Folder),
        2 => Just(Item::File),
        4 => prop_oneof![10 => any_path(), 1 => Just("/".to_owned())].prop_map(Item::Link),
        1 => Just(Item::Pipe),
    ]
}

/// Puts an item where it fits; where it does not fit, the tree is as good without it.
fn plant(root: &Path, path: &str, item: &Item) {
    let at = root.join(path);
    if at.symlink_metadata().is_ok() {
        return; // above all no write to a pipe, which waits for a reader
    }
    match item {
        Item::Folder => drop(fs::create_dir_all(at)),
        Item::File => drop(fs::write(at, "x")),
        Item::Link(target) => drop(symlink(target, at)),
        Item::Pipe => drop(nix::unistd::mkfifo(&at, nix::sys::stat::Mode::S_IRUSR)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_walk_answers_as_the_kernel_does(
        items in prop::collection::vec(("[abc](/[abc]){0,3}", any_item()), 0..14),
        paths in prop::collection::vec(any_path(), 1..24),
    ) {
        let dir = tempfile::tempdir().unwrap();
        // Names outside that a walk must not reach.
        for name in ["a", "b", "c"] {
            fs::write(dir.path().join(name), "outside").unwrap();
        }
        let top = dir.path().join("root");
        fs::create_dir(&top).unwrap();
        for (path, item) in &items {
            // Only folders are made on the way: a write through a link could land outside.
            if !links_on_the_way(&top, path) {
                plant(&top, path, item);
            }
        }
        let root = folder(&top);
        for path in &paths {
            for flags in all_flags() {
                if let Some((kernel, steps)) = both(&root, Path::new(path), flags) {
                    prop_assert_eq!(kernel, steps, "{} with {:?} in {:?}", path, flags, &items);
                }
            }
        }
    }
}

fn links_on_the_way(top: &Path, path: &str) -> bool {
    let mut at = top.to_path_buf();
    path.split('/').any(|name| {
        at.push(name);
        at.is_symlink()
    })
}

fn same(root: &OwnedFd, path: &str) {
    for flags in all_flags() {
        if let Some((kernel, steps)) = both(root, Path::new(path), flags) {
            assert_eq!(kernel, steps, "{path} with {flags:?}");
        }
    }
}

#[test]
fn what_is_odd_about_paths_is_as_in_the_kernel() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("folder/below")).unwrap();
    fs::write(dir.path().join("file"), "x").unwrap();
    for (name, target) in [
        ("to-folder", "folder"),
        ("to-folder-slash", "folder/"),
        ("to-file", "file"),
        ("to-file-slash", "file/"),
        ("to-root", "/"),
        ("above-root", "../../.."),
        ("itself", "itself"),
        ("nowhere", "none"),
        ("twice", "to-folder-slash"),
    ] {
        symlink(target, dir.path().join(name)).unwrap();
    }
    let root = folder(dir.path());
    let long_name = "x".repeat(256);
    let long_path = "folder/../".repeat(410);
    for path in [
        "",
        "/",
        "//",
        ".",
        "..",
        "./",
        "../",
        "/..",
        "/../..",
        "folder",
        "folder/",
        "folder/.",
        "folder/..",
        "file/",
        "file/.",
        "file/..",
        "none/..",
        "to-folder/",
        "to-folder/..",
        "to-folder/below/..",
        "to-folder-slash",
        "to-file/",
        "to-file-slash",
        "to-root",
        "to-root/",
        "to-root/file",
        "to-root/..",
        "above-root",
        "above-root/file",
        "itself",
        "itself/",
        "nowhere",
        "nowhere/",
        "twice",
        "twice/",
        &long_name,
        &long_path,
    ] {
        same(&root, path);
    }
}

#[test]
fn as_many_links_are_followed_as_the_kernel_follows() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("0"), "x").unwrap();
    for n in 1..=42 {
        symlink(format!("{}", n - 1), dir.path().join(format!("{n}"))).unwrap();
    }
    let root = folder(dir.path());
    for n in [1, 39, 40, 41, 42] {
        same(&root, &format!("{n}"));
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    assert!(open_by_steps(root.as_fd(), Path::new("40"), flags).is_ok());
    assert_eq!(open_by_steps(root.as_fd(), Path::new("41"), flags).unwrap_err(), Errno::LOOP);
}

#[test]
fn links_of_processes_lead_nowhere_and_those_of_plain_text_do() {
    let root = folder(Path::new("/proc"));
    for path in [
        "self/cwd",
        "self/cwd/x",
        "self/exe",
        "self/root",
        "self/root/etc",
        "self/ns/net",
        "self/fd",
        "net",
        "net/dev",
        "mounts",
        "self/stat",
        "thread-self/comm",
        "sys/kernel/ostype",
    ] {
        // A pid and what belongs to it is made anew with each look; the answer to the question is not.
        for flags in all_flags() {
            if let Some((kernel, steps)) = both(&root, Path::new(path), flags) {
                assert_eq!(kernel.map(|k| k.2), steps.map(|s| s.2), "{path} with {flags:?}");
            }
        }
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    assert_eq!(open_by_steps(root.as_fd(), Path::new("self/root/etc"), flags).unwrap_err(), Errno::LOOP);
    assert!(open_by_steps(root.as_fd(), Path::new("mounts"), flags).is_ok());
}

#[test]
fn a_folder_without_the_right_to_search_stops_the_walk_as_it_stops_the_kernel() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("shut/below")).unwrap();
    symlink("shut/below", dir.path().join("link")).unwrap();
    let shut = dir.path().join("shut");
    fs::set_permissions(&shut, fs::Permissions::from_mode(0o600)).unwrap();
    let root = folder(dir.path());
    for path in ["shut", "shut/", "shut/.", "shut/..", "shut/below", "link"] {
        same(&root, path);
    }
    fs::set_permissions(&shut, fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn a_machine_that_renames_without_pause_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path().join("root");
    fs::create_dir_all(top.join("folder")).unwrap();
    fs::write(top.join("file"), "x").unwrap();
    // Every `..` is a place where the kernel may say "try again".
    symlink("folder/../".repeat(300) + "file", top.join("long")).unwrap();
    let root = Root::open(&top).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for name in ["one", "two"] {
            let (here, there) = (dir.path().join(name), dir.path().join(name).with_extension("away"));
            fs::write(&here, "x").unwrap();
            let done = &done;
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    fs::rename(&here, &there).unwrap();
                    fs::rename(&there, &here).unwrap();
                }
            });
        }
        let refused: Vec<_> = (0..5_000).filter_map(|_| root.at(Path::new("/long"), OFlags::PATH).err()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(refused.is_empty(), "{} times {:?}", refused.len(), refused.first());
    });
}

#[test]
fn a_folder_that_is_moved_out_takes_nobody_along() {
    let dir = tempfile::tempdir().unwrap();
    let (top, away) = (dir.path().join("root"), dir.path().join("away"));
    fs::create_dir_all(top.join("moved/below")).unwrap();
    fs::create_dir(&away).unwrap();
    fs::write(dir.path().join("secret"), "outside").unwrap();
    fs::write(away.join("secret"), "outside").unwrap();
    let root = folder(&top);
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                fs::rename(top.join("moved"), away.join("moved")).unwrap();
                fs::rename(away.join("moved"), top.join("moved")).unwrap();
            }
        });
        let paths = ["moved/below/../../secret", "moved/../../secret"].map(Path::new);
        let opened = (0..20_000).flat_map(|_| paths.map(|path| open_by_steps(root.as_fd(), path, flags).map(drop)));
        let other: Vec<_> = opened.filter(|opened| *opened != Err(Errno::NOENT)).collect();
        // Before anything can fail: the other thread has to end.
        done.store(true, Ordering::Relaxed);
        assert!(other.is_empty(), "{other:?}");
    });
}

#[test]
fn a_link_that_is_replaced_again_and_again_is_never_called_a_circle() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("target"), "x").unwrap();
    let name = dir.path().join("name");
    fs::write(&name, "x").unwrap();
    let root = folder(dir.path());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let other = dir.path().join("other");
            while !done.load(Ordering::Relaxed) {
                symlink("target", &other).unwrap();
                fs::rename(&other, &name).unwrap();
                fs::write(&other, "x").unwrap();
                fs::rename(&other, &name).unwrap();
            }
        });
        let opened = (0..20_000).map(|_| open_by_steps(root.as_fd(), Path::new("name"), flags).map(drop));
        let first_error = opened.into_iter().find_map(Result::err);
        done.store(true, Ordering::Relaxed);
        assert_eq!(first_error, None);
    });
}

#[test]
fn a_tree_made_deep_on_purpose_does_not_use_up_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    let deep = |n: usize| vec!["d"; n].join("/");
    fs::create_dir_all(dir.path().join(deep(300))).unwrap();
    let root = folder(dir.path());
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    assert!(open_by_steps(root.as_fd(), Path::new(&deep(250)), flags).is_ok());
    assert_eq!(open_by_steps(root.as_fd(), Path::new(&deep(300)), flags).unwrap_err(), Errno::NAMETOOLONG);
}
