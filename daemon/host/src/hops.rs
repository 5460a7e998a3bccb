//! The way a path takes through folders and links: what a watcher must look at.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use rustix::fs::OFlags;
use std::os::fd::AsFd;

use crate::root::{link_text, shown};
use crate::{Host, Kind, Meta, ReadError};

/// The kernel's own limit of links in one look-up.
const MOST_LINKS: usize = 40;

/// The way of a path: every folder in which one of its names was looked up, every link on the way, the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trail {
    /// Folders in which a name was looked up, without links in them, in the order of the walk and each once. A change
    /// of what the path leads to is a change in one of these.
    pub folders: Vec<PathBuf>,
    /// The links on the way, each by its own path.
    pub links: Vec<PathBuf>,
    /// Where the path leads, without links; the last place that exists is the folder before it if it is missing.
    pub end: PathBuf,
    /// Whether the end exists, or why that cannot be said.
    pub outcome: Result<Kind, ReadError>,
}

impl Host {
    /// Follows a path hop by hop inside the root. `..` at the root stays at the root.
    pub fn trail(&self, path: &Path) -> Trail {
        let mut trail =
            Trail { folders: Vec::new(), links: Vec::new(), end: PathBuf::from("/"), outcome: Ok(Kind::Folder) };
        let mut todo: VecDeque<OsString> = VecDeque::new();
        push_front(&mut todo, path);
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                trail.end.pop();
                continue;
            }
            if !trail.folders.contains(&trail.end) {
                trail.folders.push(trail.end.clone());
            }
            let here = trail.end.join(&name);
            match self.look(&here) {
                Ok((Kind::Link, Some(target))) => {
                    trail.links.push(here);
                    if trail.links.len() > MOST_LINKS {
                        trail.outcome = Err(ReadError::Loop);
                        return trail;
                    }
                    if target.is_absolute() {
                        trail.end = PathBuf::from("/");
                    }
                    push_front(&mut todo, &target);
                }
                Ok((kind, _)) => {
                    trail.end = here;
                    trail.outcome = Ok(kind);
                    if kind != Kind::Folder && !todo.is_empty() {
                        trail.outcome = Err(ReadError::Absent);
                        return trail;
                    }
                }
                Err(reason) => {
                    trail.end = here;
                    trail.outcome = Err(reason);
                    return trail;
                }
            }
        }
        trail
    }

    fn look(&self, path: &Path) -> Result<(Kind, Option<PathBuf>), ReadError> {
        let fd = self.open_at(path, OFlags::PATH | OFlags::NOFOLLOW)?;
        let kind = Meta::of(&rustix::fs::fstat(&fd)?).kind;
        let target = if kind == Kind::Link { Some(PathBuf::from(shown(&link_text(fd.as_fd())?))) } else { None };
        Ok((kind, target))
    }
}

fn push_front(todo: &mut VecDeque<OsString>, path: &Path) {
    for part in path.components().rev() {
        match part {
            Component::Normal(name) => todo.push_front(name.to_owned()),
            Component::ParentDir => todo.push_front(OsString::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
}
