//! The names of rotated logs: `audit-2026-01-15T10-00-00.123.log`, and the same with `.gz`.
//!
//! lumberjack puts the UTC time of the rotation before the last extension; the order of names is the order of time.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// What a rotated log is known by: its stamp, such as `2026-01-15T10-00-00.123`.
pub(crate) type Stamp = String;

/// A rotated log. Both files exist while lumberjack compresses; the plain one is then the complete one.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Backup {
    pub(crate) plain: Option<PathBuf>,
    pub(crate) gzip: Option<PathBuf>,
}

/// Where a link in the log's folder leads, as a path without links that can be opened by this process. The node whose log
/// it is may be another machine than this one, in a folder: then a link leads to somewhere in that folder.
#[derive(Clone)]
pub struct Follow(Arc<dyn Fn(&Path) -> PathBuf + Send + Sync>);

impl Follow {
    /// With the answer of this function.
    pub fn new(answer: impl Fn(&Path) -> PathBuf + Send + Sync + 'static) -> Self {
        Self(Arc::new(answer))
    }
}

impl Default for Follow {
    /// As this machine follows links.
    fn default() -> Self {
        Self::new(Path::to_owned)
    }
}

impl fmt::Debug for Follow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Follow")
    }
}

/// How the rotated logs of one log are called.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    pub(crate) folder: PathBuf,
    /// `audit-`
    prefix: String,
    /// `.log`, or nothing for a log without extension.
    suffix: String,
    /// `audit`, what other rotators' names begin with.
    stem: String,
    follow: Follow,
}

impl Names {
    pub(crate) fn of(path: &Path, follow: Follow) -> Self {
        let text = |part: Option<&OsStr>| part.map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
        let stem = text(path.file_stem());
        let extension = text(path.extension());
        Self {
            folder: match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
                Some(_) | None => PathBuf::from("."),
            },
            prefix: format!("{stem}-"),
            suffix: if extension.is_empty() { String::new() } else { format!(".{extension}") },
            stem,
            follow,
        }
    }

    fn stamp(&self, name: &str) -> Option<(Stamp, bool)> {
        let rest = name.strip_prefix(&self.prefix)?;
        let (rest, gzip) = rest.strip_suffix(".gz").map_or((rest, false), |rest| (rest, true));
        let stamp = rest.strip_suffix(&self.suffix)?;
        time_of(stamp)?;
        Some((stamp.to_owned(), gzip))
    }

    /// What a rotated log is called, whatever it may be a link to.
    pub(crate) fn name(&self, stamp: &str, gzip: bool) -> PathBuf {
        format!("{}{stamp}{}{}", self.prefix, self.suffix, if gzip { ".gz" } else { "" }).into()
    }

    /// The rotated logs there are now, oldest first.
    pub(crate) fn list(&self) -> io::Result<BTreeMap<Stamp, Backup>> {
        let mut found: BTreeMap<Stamp, Backup> = BTreeMap::new();
        for (name, path) in self.entries()? {
            let Some((stamp, gzip)) = self.stamp(&name) else { continue };
            let backup = found.entry(stamp).or_default();
            *(if gzip { &mut backup.gzip } else { &mut backup.plain }) = Some(path);
        }
        Ok(found)
    }

    /// Every file whose name begins like the log's, but for lumberjack's: where other rotators may have put it.
    pub(crate) fn relatives(&self) -> io::Result<Vec<PathBuf>> {
        let mut all = self.entries()?;
        all.retain(|(name, _)| self.stamp(name).is_none());
        all.sort();
        Ok(all.into_iter().map(|(_, path)| path).collect())
    }

    /// The files whose name begins like the log's, and where they lie.
    fn entries(&self) -> io::Result<Vec<(String, PathBuf)>> {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut all = Vec::new();
        for entry in entries {
            let entry = entry?;
            let Some(name) = entry.file_name().to_str().filter(|n| n.starts_with(&self.stem)).map(str::to_owned) else {
                continue;
            };
            let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
            let path = if is_link { (self.follow.0)(&entry.path()) } else { entry.path() };
            all.push((name, path));
        }
        Ok(all)
    }
}

/// When the log with this stamp was rotated.
pub(crate) fn time_of(stamp: &str) -> Option<Timestamp> {
    let time: DateTime = jiff::fmt::strtime::parse("%Y-%m-%dT%H-%M-%S%.f", stamp).ok()?.to_datetime().ok()?;
    // Without the fraction it is not lumberjack's.
    stamp.contains('.').then_some(())?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lumberjacks_names_are_backups() {
        let names = Names::of(Path::new("/logs/audit.log"), Follow::default());
        assert_eq!(
            names.stamp("audit-2026-11-22T01-36-47.910.log.gz"),
            Some(("2026-11-22T01-36-47.910".to_owned(), true))
        );
        assert_eq!(
            names.stamp("audit-2026-11-22T01-36-47.910.log"),
            Some(("2026-11-22T01-36-47.910".to_owned(), false))
        );
        for other in
            ["audit.log", "audit.log.1", "audit-x.log", "audit-2026-11-22.log", "audit-2026-11-22T01-36-47.910.txt"]
        {
            assert_eq!(names.stamp(other), None, "{other}");
        }
        assert_eq!(time_of("2026-11-22T01-36-47.910"), "2026-11-22T01:36:47.910Z".parse().ok());
    }
}
