//! Hints: the kernel says that something happened in a folder, and that is all we take from it.
//!
//! | file | idea |
//! |---|---|
//! | [`hints`] | what was hinted at, gathered until someone looks |
//! | [`inotify`] | folders under watch, armed anew when they are replaced |
//!
//! Folders are watched, never files: a watch on a file is deaf after the first rename. A look re-reads whole
//! sources, so a hint too many costs a look and a hint too few costs the time until the next sweep.

pub mod hints;
pub mod inotify;

pub use hints::{Hints, Taken};
pub use inotify::{Armed, Watcher};
