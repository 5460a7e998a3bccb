//! Folders under watch.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc::{O_DIRECTORY, O_PATH};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use super::Hints;

/// A watched folder: which one it was when it was armed, and a descriptor that keeps it (the kernel evicts entries of
/// `/proc/sys`, and a watch dies with its entry).
#[derive(Debug)]
struct Folder {
    dev: u64,
    ino: u64,
    _pin: File,
}

/// What arming brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Armed {
    /// Folders now under watch.
    pub watched: usize,
    /// Folders newly armed, or anew because they were replaced: what happened in them before was not seen.
    pub fresh: BTreeSet<PathBuf>,
    /// Folders that cannot be watched, and why. They are swept.
    pub failed: BTreeMap<PathBuf, String>,
}

/// Watches folders and turns what the kernel says into hints.
#[derive(Debug)]
pub struct Watcher {
    watcher: Option<RecommendedWatcher>,
    broken: Option<String>,
    armed: BTreeMap<PathBuf, Folder>,
}

impl Watcher {
    /// A watcher that sets these hints. Where the kernel gives none (no inotify instance left), everything is swept.
    pub fn new(hints: Hints) -> Self {
        match notify::recommended_watcher(move |event| hints.take_event(&event)) {
            Ok(watcher) => Self { watcher: Some(watcher), broken: None, armed: BTreeMap::new() },
            Err(error) => Self { watcher: None, broken: Some(error.to_string()), armed: BTreeMap::new() },
        }
    }

    /// Watches exactly these folders. One that was replaced since it was armed is armed anew: its old watch is deaf,
    /// and nothing says so.
    pub fn arm<'a>(&mut self, folders: impl Iterator<Item = &'a Path>) -> Armed {
        let mut armed = Armed::default();
        let wanted: BTreeSet<&Path> = folders.collect();
        let Some(watcher) = &mut self.watcher else {
            let reason = self.broken.clone().unwrap_or_default();
            armed.failed = wanted.into_iter().map(|p| (p.to_owned(), reason.clone())).collect();
            return armed;
        };
        self.armed.retain(|path, folder| {
            let same = std::fs::metadata(path).is_ok_and(|m| (m.dev(), m.ino()) == (folder.dev, folder.ino));
            let keep = same && wanted.contains(path.as_path());
            if !keep {
                // Gone by itself when its folder is gone.
                watcher.unwatch(path).ok();
            }
            keep
        });
        for path in wanted {
            if self.armed.contains_key(path) {
                continue;
            }
            // Opened first: the descriptor pins the very folder that is then watched by its name.
            let opened = File::options().read(true).custom_flags(O_PATH | O_DIRECTORY).open(path);
            let result =
                opened.and_then(|pin| Ok((pin.metadata()?, pin))).map_err(|e| e.to_string()).and_then(|(meta, pin)| {
                    watcher.watch(path, RecursiveMode::NonRecursive).map_err(|e| reason(&e))?;
                    Ok(Folder { dev: meta.dev(), ino: meta.ino(), _pin: pin })
                });
            match result {
                Ok(folder) => {
                    self.armed.insert(path.to_owned(), folder);
                    armed.fresh.insert(path.to_owned());
                }
                Err(error) => {
                    armed.failed.insert(path.to_owned(), error);
                }
            }
        }
        armed.watched = self.armed.len();
        armed
    }
}

fn reason(error: &notify::Error) -> String {
    match &error.kind {
        notify::ErrorKind::MaxFilesWatch => {
            "the kernel's limit of watches is reached; raise fs.inotify.max_user_watches".to_owned()
        }
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn hinted(hints: &Hints, folder: &Path) {
        tokio::time::timeout(Duration::from_secs(10), async {
            loop {
                hints.settled(Duration::from_millis(5), Duration::from_millis(50)).await;
                if hints.take().folders.contains(folder) {
                    return;
                }
            }
        })
        .await
        .expect("no hint came");
    }

    #[tokio::test]
    async fn a_replaced_folder_is_armed_anew() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("tls");
        std::fs::create_dir(&folder).unwrap();
        let hints = Hints::default();
        let mut watcher = Watcher::new(hints.clone());
        let paths = [dir.path(), folder.as_path()];
        assert_eq!(watcher.arm(paths.into_iter()).fresh.len(), 2);
        std::fs::rename(&folder, dir.path().join("old")).unwrap();
        std::fs::create_dir(&folder).unwrap();
        hinted(&hints, dir.path()).await;
        let armed = watcher.arm(paths.into_iter());
        assert_eq!(armed.fresh, BTreeSet::from([folder.clone()]));
        std::fs::write(folder.join("a.crt"), b"x").unwrap();
        hinted(&hints, &folder).await;
    }

    #[tokio::test]
    async fn a_mode_a_rename_and_a_link_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, b"x").unwrap();
        let hints = Hints::default();
        let mut watcher = Watcher::new(hints.clone());
        watcher.arm([dir.path()].into_iter());
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        hinted(&hints, dir.path()).await;
        std::fs::rename(&file, dir.path().join("other")).unwrap();
        hinted(&hints, dir.path()).await;
        std::os::unix::fs::symlink("other", &file).unwrap();
        hinted(&hints, dir.path()).await;
    }

    #[test]
    fn a_folder_that_is_not_there_is_told_and_does_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let mut watcher = Watcher::new(Hints::default());
        let missing = dir.path().join("missing");
        let armed = watcher.arm([dir.path(), missing.as_path()].into_iter());
        assert_eq!((armed.watched, armed.failed.len()), (1, 1));
    }
}
