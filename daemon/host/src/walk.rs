//! A look-up inside a root without `openat2`: one name after the other, each from a descriptor of the folder before it.
//!
//! The answers are those of `openat2` with `RESOLVE_IN_ROOT` and `RESOLVE_NO_MAGICLINKS`. No step follows a link: what
//! a link says is read from the link itself and walked like the rest, absolute ones from the root. `..` goes back to
//! the descriptor the walk came from, not to what is above the folder by now: a folder that is moved out of the root in
//! the middle of a walk takes nobody along. Only descriptors of folders that were reached from the root are ever used.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, PROC_SUPER_MAGIC};
use rustix::io::Errno;

use crate::root::link_text;

#[cfg(test)]
mod tests;

/// The kernel's own limit of links in one look-up.
const MOST_LINKS: usize = 40;
/// The kernel's own limit of a path's bytes, with the zero that ends it.
const MOST_BYTES: usize = 4096;
/// The most folders that are held open on the way down. The kernel has no such limit; nothing a node is judged by lies
/// this deep, and a tree made deep on purpose must not use up the daemon's descriptors.
const DEEPEST: usize = 256;
/// The first inode number of links in `/proc` that are nothing but text (`/proc/net`, `/proc/self`). Those of a process
/// (`cwd`, `fd/3`) have numbers below, and lead to where no path may lead.
const PROC_TEXT_LINKS: u64 = 0xF000_0000;

/// One name of a path.
struct Step {
    name: OsString,
    /// Whether a slash follows: what has the name must be a folder, and a link of that name is followed.
    slash: bool,
}

/// Opens a path below a root; links, absolute ones too, stay inside.
pub(crate) fn open_by_steps(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut flags = flags;
    let mut follow = !flags.contains(OFlags::NOFOLLOW);
    let mut way = Descent { root, folders: Vec::new() };
    // The next step is the last of the list.
    let mut todo = Vec::new();
    add_steps(&mut todo, path)?;
    let mut links = 0;
    while let Some(step) = todo.pop() {
        let last = todo.is_empty();
        match step.name.as_bytes() {
            b"." if !last => {
                way.may_search()?;
                continue;
            }
            b".." => {
                way.may_search()?;
                way.folders.pop();
                if last {
                    return open(way.here(), Path::new("."), flags);
                }
                continue;
            }
            _ => {}
        }
        if last && step.slash {
            flags |= OFlags::DIRECTORY;
            follow = true;
        }
        let name = Path::new(&step.name);
        let opened = if last { open(way.here(), name, flags) } else { way.down(name) };
        let link = match opened {
            Ok(fd) if !last => {
                way.folders.push(fd);
                continue;
            }
            // Only O_PATH opens a link itself.
            Ok(fd) if follow && flags.contains(OFlags::PATH) && kind(fd.as_fd())? == FileType::Symlink => fd,
            Ok(fd) => return Ok(fd),
            // What the kernel says of a link where it may not follow one.
            Err(errno @ (Errno::LOOP | Errno::NOTDIR)) if follow || !last => {
                let fd = open(way.here(), name, OFlags::PATH)?;
                let kind = kind(fd.as_fd())?;
                if kind != FileType::Symlink && kind != FileType::Directory && errno == Errno::NOTDIR {
                    return Err(errno);
                }
                fd
            }
            Err(errno) => return Err(errno),
        };
        links += 1;
        if links > MOST_LINKS || is_magic(link.as_fd())? {
            return Err(Errno::LOOP);
        }
        if kind(link.as_fd())? != FileType::Symlink {
            // There was a link when the name was opened, and by now there is none: it was replaced in between.
            todo.push(step);
            continue;
        }
        let target = link_text(link.as_fd())?;
        if target.is_absolute() {
            way.folders.clear();
        }
        add_steps(&mut todo, &target)?;
    }
    // Nothing but slashes: the root itself.
    open(way.here(), Path::new("."), flags)
}

/// The folders from the root down to where the walk is.
struct Descent<'a> {
    root: BorrowedFd<'a>,
    folders: Vec<OwnedFd>,
}

impl Descent<'_> {
    fn here(&self) -> BorrowedFd<'_> {
        self.folders.last().map_or(self.root, AsFd::as_fd)
    }

    /// Opens a folder below this one. `O_DIRECTORY` also has file systems mounted that come with the first look.
    fn down(&self, name: &Path) -> Result<OwnedFd, Errno> {
        if self.folders.len() >= DEEPEST {
            return Err(Errno::NAMETOOLONG);
        }
        open(self.here(), name, OFlags::PATH | OFlags::DIRECTORY)
    }

    /// Whether names may be looked up here; `.` and `..` are names too.
    fn may_search(&self) -> Result<(), Errno> {
        open(self.here(), Path::new("."), OFlags::PATH | OFlags::DIRECTORY).map(drop)
    }
}

/// Opens one name; a link is never followed.
fn open(folder: BorrowedFd<'_>, name: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    loop {
        match rustix::fs::openat(folder, name, flags, Mode::empty()) {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

fn kind(fd: BorrowedFd<'_>) -> Result<FileType, Errno> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode))
}

/// Whether a link is one of `/proc` that leads to a file itself rather than to the text it shows.
fn is_magic(link: BorrowedFd<'_>) -> Result<bool, Errno> {
    let in_proc = rustix::fs::fstatfs(link)?.f_type == PROC_SUPER_MAGIC;
    Ok(in_proc && kind(link)? == FileType::Symlink && rustix::fs::fstat(link)?.st_ino < PROC_TEXT_LINKS)
}

/// Puts the names of a path before those that are still to be walked.
fn add_steps(todo: &mut Vec<Step>, path: &Path) -> Result<(), Errno> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() {
        return Err(Errno::NOENT);
    }
    if bytes.len() >= MOST_BYTES {
        return Err(Errno::NAMETOOLONG);
    }
    let mut slash = false;
    for name in bytes.rsplit(|byte| *byte == b'/') {
        if name.is_empty() {
            slash = true;
            continue;
        }
        todo.push(Step { name: OsString::from_vec(name.to_vec()), slash });
        slash = true;
    }
    Ok(())
}
