//! Files that have the log's name no more, and may be written to all the same.

use std::path::PathBuf;
use std::sync::Arc;

use crate::backup::{Backup, Stamp};
use crate::cursor::FileMark;
use crate::reader::{Active, Kind, Line, Oddity, Reader, TailError};
use crate::source::{Identity, Source};
use crate::splitter::Splitter;

/// How much the log must give, and a file that lost its name nothing, for that file to be let go.
const ORPHAN_QUIET: u64 = 1 << 20;

/// Most files without the log's name that are looked at.
const MOST_ORPHANS: usize = 4;

/// Every audit log begins with the same bytes, up to the first event's id: so many tell one from another, and so does
/// a whole line.
const TELLING: u64 = 128;

/// A file that lost the log's name, or has that of a rotated log and is read to its end. Lumberjack closes a file before
/// it renames it; but somebody else may have renamed it, and its writer does not know: what comes into it is read.
#[derive(Debug)]
pub(crate) struct Orphan {
    pub(crate) active: Active,
    /// What the log itself gave since this one last gave anything.
    pub(crate) quiet: u64,
    /// It is known to be written to, or to have no name at all.
    pub(crate) alive: bool,
    /// As which rotated log it was done with.
    pub(crate) stamp: Option<Stamp>,
    /// It was followed as the log: its writer had it open then.
    pub(crate) was_log: bool,
}

impl Orphan {
    /// Where it stands, and whether it is alive.
    pub(crate) fn mark(&self) -> (FileMark, bool) {
        (FileMark { stamp: self.stamp.clone(), marks: Vec::new(), ..self.active.mark() }, self.alive)
    }
}

impl Reader {
    /// Reads what came into files that lost the log's name, once the log itself is read to its end.
    pub(crate) fn read_orphans(&mut self, budget: usize, lines: &mut Vec<Line>) -> Result<bool, TailError> {
        let mut more = Ok(false);
        for orphan in std::mem::take(&mut self.orphans) {
            if more.is_err() {
                self.orphans.push(orphan);
                continue;
            }
            match self.read_orphan(orphan, budget, lines) {
                Ok(this) => more = more.map(|before| before || this),
                Err(error) => more = Err(error),
            }
        }
        more
    }

    fn read_orphan(&mut self, orphan: Orphan, budget: usize, lines: &mut Vec<Line>) -> Result<bool, TailError> {
        let Orphan { active, mut quiet, mut alive, stamp, was_log } = orphan;
        let log = self.active.replace(active);
        let mut used = 0;
        let outcome = loop {
            if used >= budget {
                break Ok(true);
            }
            match self.read(lines) {
                Ok(0) => break Ok(false),
                Ok(read) => used += read,
                Err(error) => break Err(error),
            }
        };
        let Some(mut active) = std::mem::replace(&mut self.active, log) else { return Ok(false) };
        if used > 0 {
            (quiet, alive) = (0, true);
            if !std::mem::replace(&mut active.unlinked, true) {
                self.sign(Oddity::Unlinked, Arc::clone(&active.shown), active.splitter.lines().unwrap_or(0));
            }
        }
        // Its writer has begun anew, with the log's name.
        if quiet < ORPHAN_QUIET && outcome.is_ok() {
            self.orphans.push(Orphan { active, quiet, alive, stamp, was_log });
        }
        outcome
    }

    /// Goes on looking at a file without the log's name.
    pub(crate) fn hold(&mut self, active: Active, alive: bool, stamp: Option<Stamp>) {
        if self.orphans.len() >= MOST_ORPHANS {
            let oldest = |rank| self.orphans.iter().position(|o| (o.alive, o.was_log) <= rank);
            let least = oldest((false, false)).or_else(|| oldest((false, true))).unwrap_or(0);
            let gone = self.orphans.remove(least);
            if gone.alive {
                let (file, end) = (&gone.active.shown, gone.active.splitter.start());
                let detail = format!(
                    "{file} lost its name while its writer held it, as did others since: what is written to it after \
                     byte {end} is not read"
                );
                self.gap(0, detail);
            }
        }
        let was_log = matches!(active.kind, Kind::Live { .. });
        let active = Active { kind: Kind::Live { replaced: true }, ..active };
        self.orphans.push(Orphan { active, quiet: 0, alive, stamp, was_log });
    }

    /// The file that its writer went on writing to after it had lost its name.
    pub(crate) fn resume_orphan(&mut self, mark: &FileMark, alive: bool) -> Result<(), TailError> {
        let identity = Identity { dev: mark.dev, ino: mark.ino };
        let is_it = |path: &PathBuf| matches!(Identity::at(path), Ok(Some((now, _))) if now == identity);
        let mut backups = self.list()?;
        let Backup { plain, gzip } = mark.stamp.as_ref().and_then(|s| backups.remove(s)).unwrap_or_default();
        // Once it was compressed its inode may be another's.
        let rest = backups.into_values().filter_map(|backup| backup.plain).chain(self.relatives()?);
        let rest = rest.chain([self.config.path.clone()]).filter(is_it);
        for path in plain.into_iter().filter(is_it).chain(gzip).chain(rest) {
            if let Ok(mut source) = Source::open(&path)
                && let Some(tail) = source.resume(mark.print, mark.tail, mark.offset).unwrap_or_default()
                && (mark.offset >= TELLING || tail.ends_with(b"\n"))
            {
                let splitter = Splitter::at(self.config.max_line, mark, tail);
                let kind = Kind::Live { replaced: true };
                let active =
                    Active { kind, shown: self.shown(&path), path, source, splitter, unlinked: alive, away: true };
                self.hold(active, alive, mark.stamp.clone());
                return Ok(());
            }
        }
        if alive {
            let (log, offset) = (&self.config.shown, mark.offset);
            let detail = format!(
                "{log} had lost its name while its writer held it, and cannot be found since the reader's own start; \
                 what was written to it after byte {offset} is lost"
            );
            self.gap(0, detail);
        }
        Ok(())
    }
}
