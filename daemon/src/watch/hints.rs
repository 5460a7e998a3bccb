//! What was hinted at, gathered until someone looks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode};
use notify::{Event, EventKind};
use tokio::sync::Notify;

/// Files being written that are kept in mind. More at once means that everything is looked at anyway.
const MOST_OPEN: usize = 4096;

/// Flags set by the kernel's events. Clones are the same flags.
#[derive(Debug, Clone, Default)]
pub struct Hints {
    state: Arc<Mutex<State>>,
    wake: Arc<Notify>,
    audit: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    folders: BTreeSet<PathBuf>,
    everything: bool,
    /// Files written to and not closed since, and when that began.
    open: BTreeMap<PathBuf, Instant>,
    first: Option<Instant>,
    last: Option<Instant>,
    /// Folders in which only metadata counts: writes into their files (databases, logs) are no hints.
    deaf: BTreeSet<PathBuf>,
    /// The folder of the audit log: whatever happens there wakes the tail.
    audit_folder: Option<PathBuf>,
}

/// What was hinted at since the last time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken {
    /// Folders in which something happened, as they are outside.
    pub folders: BTreeSet<PathBuf>,
    /// The kernel lost events, or something else makes it necessary to look at everything.
    pub everything: bool,
}

impl Taken {
    /// Is there nothing to look at?
    pub fn is_empty(&self) -> bool {
        self.folders.is_empty() && !self.everything
    }
}

impl Hints {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Flags are good whatever panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the kernel says. Sets flags, nothing else: this runs on the watcher's own thread.
    pub fn take_event(&self, event: &notify::Result<Event>) {
        let now = Instant::now();
        let mut state = self.lock();
        match event {
            // An overflow has no paths: ask before looking at them.
            Ok(event) if event.need_rescan() => state.everything = true,
            Ok(event) => {
                let closed = matches!(event.kind, EventKind::Access(AccessKind::Close(AccessMode::Write)));
                if matches!(event.kind, EventKind::Access(_)) && !closed {
                    // Our own reading.
                    return;
                }
                let mut hinted = false;
                for (position, path) in event.paths.iter().enumerate() {
                    if state.audit_folder.as_deref().is_some_and(|folder| path.parent() == Some(folder)) {
                        self.audit.notify_one();
                    }
                    hinted |= state.touch(path, event.kind, closed, position, now);
                }
                if !hinted {
                    return;
                }
            }
            Err(_) => state.everything = true,
        }
        state.first.get_or_insert(now);
        state.last = Some(now);
        drop(state);
        self.wake.notify_one();
    }

    /// Only metadata counts in these folders, as they are outside.
    pub fn set_deaf(&self, folders: BTreeSet<PathBuf>) {
        self.lock().deaf = folders;
    }

    /// The folder of the audit log, as it is outside.
    pub fn set_audit_folder(&self, folder: Option<PathBuf>) {
        self.lock().audit_folder = folder;
    }

    /// Waits until something happens in the folder of the audit log. Safe to drop.
    pub async fn audit(&self) {
        self.audit.notified().await;
    }

    /// Files in the middle of a write, as they are outside, and since when.
    pub fn open(&self) -> BTreeMap<PathBuf, Instant> {
        self.lock().open.clone()
    }

    /// Look at everything, whatever the reason.
    pub fn everything(&self) {
        let mut state = self.lock();
        state.everything = true;
        let now = Instant::now();
        state.first.get_or_insert(now);
        // Long ago: nothing more is to be waited for.
        state.last = now.checked_sub(Duration::from_secs(60));
        drop(state);
        self.wake.notify_one();
    }

    /// Waits for a hint, then until it was quiet for `quiet`, but at most `longest` after the first. Safe to drop.
    pub async fn settled(&self, quiet: Duration, longest: Duration) {
        loop {
            let due = {
                let state = self.lock();
                state.first.zip(state.last).map(|(first, last)| (last + quiet).min(first + longest))
            };
            match due {
                None => self.wake.notified().await,
                Some(due) if due <= Instant::now() => return,
                Some(due) => tokio::time::sleep_until(due.into()).await,
            }
        }
    }

    /// What was hinted at since the last time. Files in the middle of a write stay known.
    pub fn take(&self) -> Taken {
        let mut state = self.lock();
        state.first = None;
        state.last = None;
        Taken { folders: std::mem::take(&mut state.folders), everything: std::mem::take(&mut state.everything) }
    }

    /// Forgets files that are being written for longer than this: logs and databases are never closed.
    pub fn forget_open(&self, longer_than: Duration) {
        let now = Instant::now();
        self.lock().open.retain(|_, since| now.saturating_duration_since(*since) <= longer_than);
    }
}

impl State {
    /// Takes one path of an event. Says whether it is a hint.
    fn touch(&mut self, path: &Path, kind: EventKind, closed: bool, position: usize, now: Instant) -> bool {
        let written = closed || matches!(kind, EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Any));
        if written && path.parent().is_some_and(|folder| self.deaf.contains(folder)) {
            return false;
        }
        match kind {
            EventKind::Create(CreateKind::File) | EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Any)
                if self.open.len() < MOST_OPEN =>
            {
                self.open.entry(path.to_owned()).or_insert(now);
            }
            EventKind::Remove(_) => {
                self.open.remove(path);
            }
            EventKind::Modify(ModifyKind::Name(mode)) => {
                // The name's old file is gone; the new name's file came whole, unless it was open under the old one.
                let both_new = mode == RenameMode::Both && position == 1;
                if mode == RenameMode::To || both_new || mode == RenameMode::From || mode == RenameMode::Both {
                    self.open.remove(path);
                }
            }
            _ if closed => {
                self.open.remove(path);
            }
            _ => {}
        }
        // The folder, and the path itself where it is a watched folder whose own mode changed or which went away.
        if let Some(folder) = path.parent() {
            self.folders.insert(folder.to_owned());
        }
        self.folders.insert(path.to_owned());
        true
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{DataChange, Flag};

    use super::*;

    fn event(kind: EventKind, path: &str) -> notify::Result<Event> {
        Ok(Event::new(kind).add_path(path.into()))
    }

    #[test]
    fn reading_is_no_hint_and_closing_after_a_write_is() {
        let hints = Hints::default();
        hints.take_event(&event(EventKind::Access(AccessKind::Open(AccessMode::Any)), "/a/b"));
        assert!(hints.take().is_empty());
        hints.take_event(&event(EventKind::Modify(ModifyKind::Data(DataChange::Any)), "/a/b"));
        let taken = hints.take();
        assert!(taken.folders.contains(Path::new("/a")) && hints.open().contains_key(Path::new("/a/b")));
        hints.take_event(&event(EventKind::Access(AccessKind::Close(AccessMode::Write)), "/a/b"));
        let taken = hints.take();
        assert!(taken.folders.contains(Path::new("/a")) && hints.open().is_empty());
    }

    #[test]
    fn writing_into_a_database_is_no_hint_and_its_mode_is() {
        let hints = Hints::default();
        hints.set_deaf(BTreeSet::from([PathBuf::from("/db")]));
        hints.take_event(&event(EventKind::Modify(ModifyKind::Data(DataChange::Any)), "/db/state.db-wal"));
        assert!(hints.take().is_empty() && hints.open().is_empty());
        hints.take_event(&event(
            EventKind::Modify(ModifyKind::Metadata(notify::event::MetadataKind::Any)),
            "/db/state.db",
        ));
        assert!(hints.take().folders.contains(Path::new("/db")));
    }

    #[test]
    fn lost_events_mean_everything() {
        let hints = Hints::default();
        hints.take_event(&Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan)));
        assert!(hints.take().everything);
        hints.take_event(&Err(notify::Error::generic("gone")));
        assert!(hints.take().everything);
        assert!(hints.take().is_empty());
    }

    #[tokio::test]
    async fn a_storm_is_looked_at_in_time() {
        let hints = Hints::default();
        let start = Instant::now();
        let storm = {
            let hints = hints.clone();
            tokio::spawn(async move {
                loop {
                    hints.take_event(&event(EventKind::Any, "/a/b"));
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
        };
        hints.settled(Duration::from_secs(3600), Duration::from_millis(30)).await;
        assert!(start.elapsed() >= Duration::from_millis(30));
        storm.abort();
    }
}
