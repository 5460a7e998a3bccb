//! Where reading begins: at the configured start, or where a cursor says.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::backup::{Backup, Stamp, time_of};
use crate::cursor::{Cursor, FileMark};
use crate::marks::Marks;
use crate::reader::{Active, Kind, Oddity, Reader, StartAt, TailError};
use crate::source::{Identity, Source, is_shortage};
use crate::splitter::Splitter;

/// How often a folder that changes while it is searched is searched again.
pub(crate) const SEARCHES: usize = 8;

impl Reader {
    pub(crate) fn begin(&mut self) -> Result<(), TailError> {
        let backups = self.list()?;
        match self.config.start {
            StartAt::Beginning => {}
            StartAt::Since(time) => {
                self.known = backups.into_keys().filter(|s| time_of(s).is_none_or(|t| t < time)).collect();
            }
            StartAt::End => {
                self.known = backups.into_keys().collect();
                let path = self.config.path.clone();
                if let Some(mut source) = self.open_if_there(&path)? {
                    let whole =
                        source.skip_to_end().map_err(|source| TailError::Read { path: path.clone(), source })?;
                    let splitter = Splitter::new(self.config.max_line, source.pos(), None)
                        .after(source.before(source.pos()).unwrap_or_default());
                    self.active = Some(Active {
                        kind: Kind::Live { replaced: false },
                        shown: self.shown(&path),
                        path,
                        source,
                        unlinked: false,
                        away: false,
                        splitter: splitter.within_line(!whole),
                    });
                }
            }
        }
        Ok(())
    }

    pub(crate) fn resume(&mut self, cursor: Cursor) -> Result<(), TailError> {
        let backups = self.list()?;
        let reading = cursor.file.as_ref().and_then(|f| f.stamp.clone());
        // A clock that was set back gives new logs old stamps: which ones are done with is asked of the list, and of
        // the newest stamp only for what the list has no room for.
        let oldest = cursor.read.as_ref().map(|read| read.iter().min().cloned());
        let whole = cursor.read.as_ref().is_some_and(|read| read.len() < Cursor::MOST_NAMED);
        let is_done = |stamp: &Stamp| match (&cursor.read, &oldest) {
            (Some(read), Some(oldest)) => {
                read.contains(stamp) || !whole && oldest.as_ref().is_some_and(|oldest| stamp < oldest)
            }
            _ => cursor.done.as_ref().is_some_and(|done| stamp <= done),
        };
        self.known = backups.keys().filter(|s| is_done(s) && reading.as_ref() != Some(*s)).cloned().collect();
        // Kept also when that file is gone, so that the next cursor does not forget it.
        self.known.extend(cursor.done.clone().filter(|done| reading.as_ref() != Some(done)));
        if let (Some(more), Some(read)) = (cursor.more, &cursor.read) {
            self.tell_unknown(more, read);
        }
        self.waiting = cursor.waiting.iter().filter(|s| !self.known.contains(*s)).cloned().collect();
        for (mark, alive) in cursor.orphans.iter().chain(&cursor.orphan) {
            self.resume_orphan(mark, *alive)?;
        }
        let Some(mark) = cursor.file else { return Ok(()) };
        if mark.offset == 0 {
            return self.resume_unread(Identity { dev: mark.dev, ino: mark.ino });
        }
        if self.find(&mark, backups)? {
            return Ok(());
        }
        if self.find_cut(&mark)? {
            return Ok(());
        }
        let begins = self.begins_as(&self.config.path, &mark);
        if !begins && let Some((path, source)) = self.cut_and_renamed(&mark)? {
            self.start(Kind::Live { replaced: true }, &path, source);
            let shown = self.shown(&path);
            self.gap(0, cut(&shown, &mark));
            self.sign(Oddity::Truncated, shown, 0);
            return Ok(());
        }
        let detail = match (Identity::at(&self.config.path), &mark.stamp) {
            // Inodes are used again: with rotated logs to read, this is a younger log, unless it begins as the one did.
            (Ok(Some((identity, _))), None)
                if begins || identity == (Identity { dev: mark.dev, ino: mark.ino }) && !self.has_unread()? =>
            {
                self.sign(Oddity::Truncated, self.config.shown.as_str().into(), 0);
                cut(&self.config.shown, &mark)
            }
            (_, stamp) => {
                self.sign(Oddity::Lost, self.config.shown.as_str().into(), 0);
                let which = stamp.as_ref().map_or_else(String::new, |s| format!(" (rotated {s})"));
                let next = self.list()?.into_keys().find(|s| !self.known.contains(s));
                let next = next.map_or_else(
                    || "reading goes on with the log itself".to_owned(),
                    |s| format!("reading goes on with the log rotated {s}"),
                );
                format!(
                    "the log that was being read{which} is gone from {}; what was written to it after byte {} is lost, \
                     and so are logs rotated and removed since; {next}",
                    self.config.shown, mark.offset
                )
            }
        };
        self.gap(0, detail);
        Ok(())
    }

    /// Of logs with stamps older than those that are named, only the number is known.
    fn tell_unknown(&mut self, more: usize, read: &[Stamp]) {
        let unnamed = self.known.iter().filter(|stamp| !read.contains(stamp)).count();
        if let Some(new) = unnamed.checked_sub(more).filter(|new| *new > 0) {
            self.sign(Oddity::Lost, self.config.shown.as_str().into(), 0);
            let log = &self.config.shown;
            self.gap(
                0,
                format!(
                    "{new} rotated logs of {log} with old names appeared while nobody was reading, as after a clock that \
                     was set back; which ones they are is not known among so many, and they are not read"
                ),
            );
        }
    }

    /// The log begins with the very bytes of the mark: it is that file, or was made from it.
    fn begins_as(&self, path: &Path, mark: &FileMark) -> bool {
        mark.print.len > 0
            && self.open_if_there(path).ok().flatten().is_some_and(|mut source| {
                let end = mark.print.at.saturating_add(u64::from(mark.print.len));
                source.resume(mark.print, None, end).is_ok_and(|tail| tail.is_some())
            })
    }

    /// The file of the mark, where another rotator put it after it was cut.
    fn cut_and_renamed(&self, mark: &FileMark) -> Result<Option<(PathBuf, Source)>, TailError> {
        let identity = Identity { dev: mark.dev, ino: mark.ino };
        for path in self.relatives()? {
            if matches!(Identity::at(&path), Ok(Some((now, _))) if now == identity)
                && self.begins_as(&path, mark)
                && let Some(source) = self.open_if_there(&path)?
            {
                return Ok(Some((path, source)));
            }
        }
        Ok(None)
    }

    /// Goes on in the file of the mark where its tail was cut off: what was kept is not read again.
    fn find_cut(&mut self, mark: &FileMark) -> Result<bool, TailError> {
        let marks = Marks::of(&mark.marks, mark.offset, mark.lines);
        let log = mark.stamp.is_none().then(|| (self.config.path.clone(), Kind::Live { replaced: false }));
        let rotated = self.list()?.into_iter().filter(|(stamp, _)| !self.known.contains(stamp));
        let rotated = rotated.filter_map(|(stamp, backup)| Some((backup.plain?, Kind::Backup(stamp))));
        let moved = self.relatives()?.into_iter().map(|path| (path, Kind::Live { replaced: true }));
        for (path, kind) in log.into_iter().chain(rotated.collect::<Vec<_>>()).chain(moved) {
            let Ok(Some(mut source)) = self.open_if_there(&path) else { continue };
            let Ok(Some((kept, before))) = source.back_to(mark.print, marks.backwards()) else { continue };
            if let Kind::Backup(stamp) = &kind {
                self.waiting.remove(stamp);
            }
            let shown = self.shown(&path);
            self.gap(0, cut(&shown, mark));
            self.sign(Oddity::Truncated, Arc::clone(&shown), kept.lines.unwrap_or(0));
            let splitter = Splitter::back_at(self.config.max_line, kept, marks, before);
            self.active = Some(Active { kind, shown, path, source, splitter, unlinked: false, away: false });
            return Ok(true);
        }
        Ok(false)
    }

    /// Looks for the file of the mark under all names it may have by now.
    fn find(&mut self, mark: &FileMark, mut backups: BTreeMap<Stamp, Backup>) -> Result<bool, TailError> {
        for _ in 0..SEARCHES {
            let live = Kind::Live { replaced: false };
            if mark.stamp.is_none() && self.take(&self.config.path.clone(), mark, live)? {
                return Ok(true);
            }
            // First what is not done with; a log with an old stamp may be the one all the same.
            let (done, open): (Vec<_>, Vec<_>) = backups.iter().partition(|(s, _)| self.known.contains(*s));
            for (stamp, backup) in open.into_iter().chain(done) {
                for path in backup.plain.iter().chain(&backup.gzip) {
                    if self.take(path, mark, Kind::Backup(stamp.clone()))? {
                        return Ok(true);
                    }
                }
            }
            for path in self.relatives()? {
                // Whoever writes may still hold a file that was only renamed; nobody writes into a gzipped one.
                let gzip = path.extension().is_some_and(|e| e == "gz");
                let kind = if gzip { Kind::Moved } else { Kind::Live { replaced: true } };
                if self.take(&path, mark, kind)? {
                    return Ok(true);
                }
            }
            // A log that was compressed meanwhile was under neither name when it was asked for.
            let now = self.list()?;
            if now == backups {
                return Ok(false);
            }
            backups = now;
        }
        Ok(false)
    }

    /// The file was open, and nothing had been read of it. It is the log itself, or among the rotated ones to come,
    /// or some other rotator renamed it.
    fn resume_unread(&mut self, identity: Identity) -> Result<(), TailError> {
        let here = matches!(Identity::at(&self.config.path), Ok(Some((now, _))) if now == identity);
        // Listed only now: when the name has another file, the new name was there before.
        if here || self.list()?.keys().any(|s| !self.known.contains(s)) {
            return Ok(());
        }
        for path in self.relatives()? {
            if matches!(Identity::at(&path), Ok(Some((now, _))) if now == identity)
                && let Some(source) = self.open_if_there(&path)?
            {
                self.start(Kind::Live { replaced: true }, &path, source);
                return Ok(());
            }
        }
        self.gap(0, format!("the log {} was replaced before anything was read of it", self.config.shown));
        Ok(())
    }

    /// Other files with the log's name at their start, but for lumberjack's.
    pub(crate) fn relatives(&self) -> Result<Vec<PathBuf>, TailError> {
        let mut all =
            self.names.relatives().map_err(|source| TailError::List { path: self.names.folder.clone(), source })?;
        all.retain(|p| *p != self.config.path);
        Ok(all)
    }

    /// Goes on in this file, if it is the one of the mark.
    fn take(&mut self, path: &Path, mark: &FileMark, kind: Kind) -> Result<bool, TailError> {
        let here = Identity { dev: mark.dev, ino: mark.ino };
        let mut source = match Source::open(path) {
            Ok(source) => source,
            // The one that is looked for, and it may not be read now: its place is kept until it may.
            Err(source) if is_shortage(&source) || may_be(path, here, &source) => {
                return Err(TailError::Open { path: path.to_owned(), source });
            }
            Err(_) => return Ok(false),
        };
        let plausible = mark.print.len > 0 || source.identity == here;
        // What cannot be read or unpacked is not recognised: the loss is then reported.
        if !plausible {
            return Ok(false);
        }
        let Ok(Some(tail)) = source.resume(mark.print, mark.tail, mark.offset) else { return Ok(false) };
        if let Kind::Backup(stamp) = &kind {
            self.known.remove(stamp);
        }
        self.active = Some(Active {
            kind,
            shown: self.shown(path),
            path: path.to_owned(),
            source,
            splitter: Splitter::at(self.config.max_line, mark, tail),
            unlinked: false,
            away: false,
        });
        Ok(true)
    }
}

fn cut(shown: &str, mark: &FileMark) -> String {
    let offset = mark.offset;
    format!(
        "{shown} was cut or written anew while nobody was reading it; what was written after byte {offset} may be lost"
    )
}

fn may_be(path: &Path, identity: Identity, error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
        && matches!(Identity::at(path), Ok(Some((now, _))) if now == identity)
}
