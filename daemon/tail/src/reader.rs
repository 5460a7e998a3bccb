//! The state machine over files.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use picket_model::{Gap, GapReason};

use crate::backup::{Backup, Follow, Names, Stamp};
use crate::cursor::{Cursor, FileMark, Fingerprint};
use crate::orphan::Orphan;
use crate::resume::SEARCHES;
use crate::source::{Identity, Source, is_shortage};
use crate::splitter::{Piece, Splitter};

/// Longest line read, in bytes. The API server's own limit for a request is 3 MiB; a list in a response can be more.
const MAX_LINE: usize = 16 << 20;
/// How much is read at once.
const CHUNK: usize = 128 << 10;
/// Where reading begins on a node that has no cursor yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// With everything there is.
    Beginning,
    /// With what is written from now on.
    End,
    /// With the logs rotated at this time or later, and the current one.
    Since(Timestamp),
}

/// What to follow.
#[derive(Debug, Clone)]
pub struct Config {
    /// The log, as it can be opened by this process.
    pub path: PathBuf,
    /// The log in the node's own terms, for people.
    pub shown: String,
    /// Where to begin without a cursor.
    pub start: StartAt,
    /// Longest line in bytes; a longer one is passed over and counted.
    pub max_line: usize,
    /// Where links beside the log lead.
    pub follow: Follow,
}

impl Config {
    /// The log with the usual limits.
    pub fn new(path: impl Into<PathBuf>, start: StartAt) -> Self {
        let path = path.into();
        Self { shown: path.display().to_string(), path, start, max_line: MAX_LINE, follow: Follow::default() }
    }
}

/// A complete line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its bytes, without the line end.
    pub bytes: Vec<u8>,
    /// The file it was read from, in the node's own terms.
    pub file: Arc<str>,
    /// Its number in that file, from 1; 0 when reading began in the middle.
    pub number: u64,
    /// Where it begins in that file's content, in bytes.
    pub offset: u64,
}

/// What nobody who only writes to the log does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oddity {
    /// The log was made shorter, written anew, or has a hole of NUL bytes.
    Truncated,
    /// The log has no name any more, and its writer still holds it.
    Unlinked,
    /// A line is longer than the limit.
    TooLong,
    /// A file of the log went away, or cannot be read, before all of it was read.
    Lost,
}

/// Something odd, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sign {
    /// What.
    pub oddity: Oddity,
    /// The file, in the node's own terms.
    pub file: Arc<str>,
    /// The line, 0 when not known.
    pub line: u64,
}

/// What a look brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Complete lines, oldest first.
    pub lines: Vec<Line>,
    /// Where to go on after these lines. To be committed with what they led to.
    pub cursor: Cursor,
    /// What was lost. Counts of lines are 0 where nobody can know.
    pub gaps: Vec<Gap>,
    /// What was odd about the log itself.
    pub signs: Vec<Sign>,
    /// The budget was used up: there is more to read at once.
    pub more: bool,
}

/// Why a look failed. The place is kept; the next look tries again.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// The log is there and cannot be opened.
    #[error("cannot open the audit log {}", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The log cannot be read on.
    #[error("cannot read the audit log {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The folder with rotated logs cannot be listed.
    #[error("cannot list the folder {} for rotated audit logs", path.display())]
    List {
        /// Which folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

#[derive(Debug)]
pub(crate) enum Kind {
    /// The log itself, or what was the log when it was opened.
    Live {
        /// Another file has the name now.
        replaced: bool,
    },
    /// A rotated log. Lumberjack does not write to it any more.
    Backup(Stamp),
    /// A log some other rotator put away. Nobody writes to it any more.
    Moved,
}

#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) kind: Kind,
    pub(crate) path: PathBuf,
    pub(crate) shown: Arc<str>,
    pub(crate) source: Source,
    pub(crate) splitter: Splitter,
    /// It was told that the file lost its name while its writer held it.
    pub(crate) unlinked: bool,
    /// It was read to its end after it had lost its name: what comes now comes from a writer who does not know.
    pub(crate) away: bool,
}

/// Follows one audit log.
#[derive(Debug)]
pub struct Reader {
    pub(crate) config: Config,
    pub(crate) names: Names,
    /// Rotated logs that are done with.
    pub(crate) known: BTreeSet<Stamp>,
    /// Rotated logs that were seen and not begun.
    pub(crate) waiting: BTreeSet<Stamp>,
    /// Those of them that this look finds, listed once.
    ahead: BTreeMap<Stamp, Backup>,
    pub(crate) active: Option<Active>,
    /// The newest last.
    pub(crate) orphans: Vec<Orphan>,
    gaps: Vec<Gap>,
    signs: Vec<Sign>,
    buffer: Vec<u8>,
}

impl Reader {
    /// A reader at the cursor, or at the configured start when there is none or it belongs to another log.
    ///
    /// # Errors
    /// When the log or its folder is there and cannot be read.
    pub fn open(config: Config, cursor: Option<Cursor>) -> Result<Self, TailError> {
        let names = Names::of(&config.path, config.follow.clone());
        let mut reader = Self {
            config,
            names,
            known: BTreeSet::new(),
            waiting: BTreeSet::new(),
            ahead: BTreeMap::new(),
            active: None,
            orphans: Vec::new(),
            gaps: Vec::new(),
            signs: Vec::new(),
            buffer: Vec::new(),
        };
        match cursor.filter(|c| c.path == reader.config.shown) {
            Some(cursor) => reader.resume(cursor)?,
            None => reader.begin()?,
        }
        Ok(reader)
    }

    /// The file being read, in the node's own terms, and how far.
    pub fn place(&self) -> Option<(Arc<str>, u64)> {
        self.active.as_ref().map(|a| (Arc::clone(&a.shown), a.splitter.start()))
    }

    /// Files of the log that were deleted while their writer held them, which was told, and are read on.
    pub fn deleted(&self) -> impl Iterator<Item = String> {
        let held = self.active.iter().chain(self.orphans.iter().map(|orphan| &orphan.active));
        held.filter(|a| a.unlinked && a.source.has_no_name()).map(|a| a.shown.to_string())
    }

    /// The log lies elsewhere now: a link on the way to it leads to another folder. What is open is read to its end.
    pub fn relocate(&mut self, path: PathBuf) {
        if path != self.config.path && path.parent().is_some_and(Path::is_dir) {
            self.names = Names::of(&path, self.config.follow.clone());
            self.config.path = path;
            self.waiting.clear();
        }
    }

    /// Where the log is looked for.
    pub fn path(&self) -> &Path {
        &self.config.path
    }

    /// Where the reader stands.
    pub fn cursor(&self) -> Cursor {
        let newest = |stamps: &BTreeSet<Stamp>| stamps.iter().rev().take(Cursor::MOST_NAMED).cloned().collect();
        let mut orphans: Vec<_> = self.orphans.iter().map(Orphan::mark).collect();
        Cursor {
            path: self.config.shown.clone(),
            done: self.known.last().cloned(),
            read: Some(newest(&self.known)),
            more: Some(self.known.len().saturating_sub(Cursor::MOST_NAMED)),
            waiting: newest(&self.waiting),
            file: self.active.as_ref().map(Active::mark),
            orphan: orphans.pop(),
            orphans,
        }
    }

    /// Reads on, up to about `budget` bytes.
    ///
    /// # Errors
    /// When a file cannot be read. Lines read before that are returned first, and the error by the next call.
    pub fn poll(&mut self, budget: usize) -> Result<Batch, TailError> {
        let mut lines = Vec::new();
        self.ahead.clear();
        let outcome = match self.read_on(budget, &mut lines) {
            Ok(false) => self.read_orphans(budget, &mut lines),
            other => other,
        };
        let more = match outcome {
            Ok(more) => more,
            Err(error) if lines.is_empty() && self.gaps.is_empty() && self.signs.is_empty() => return Err(error),
            Err(_) => false,
        };
        let (gaps, signs) = (std::mem::take(&mut self.gaps), std::mem::take(&mut self.signs));
        Ok(Batch { lines, cursor: self.cursor(), gaps, signs, more })
    }

    fn read_on(&mut self, budget: usize, lines: &mut Vec<Line>) -> Result<bool, TailError> {
        let mut used = 0;
        while used < budget {
            if self.active.is_none() && !self.advance()? {
                return Ok(false);
            }
            match self.read(lines)? {
                0 if self.at_end(lines)? => {}
                0 => return Ok(false),
                read => {
                    used += read;
                    if self.active.as_ref().is_some_and(|active| active.away && !active.unlinked) {
                        self.tell_unlinked();
                    }
                    for orphan in &mut self.orphans {
                        orphan.quiet += read as u64;
                    }
                }
            }
        }
        Ok(true)
    }

    /// How many bytes are there that were not read yet, as far as can be seen from outside: a gzipped log counts with
    /// its size on disk, and the one being read not at all.
    pub fn behind(&mut self) -> u64 {
        let unread = self.look_around().unwrap_or_default();
        let size = |path: &Path| Identity::at(path).ok().flatten().map_or(0, |(_, size)| size);
        let left = |active: &Active| active.source.size().unwrap_or(0).saturating_sub(active.source.pos());
        let orphan: u64 = self.orphans.iter().map(|orphan| left(&orphan.active)).sum();
        let (here, rest) = match &self.active {
            None => (0, true),
            Some(active) => (left(active), !matches!(active.kind, Kind::Live { replaced: false })),
        };
        if !rest {
            return orphan + here;
        }
        let rotated: u64 = unread.into_values().map(|b| b.plain.or(b.gzip).map_or(0, |path| size(&path))).sum();
        orphan + here + rotated + size(&self.config.path)
    }

    /// Lists the rotated logs that are not begun yet, and tells of those that were there at the last look and are gone.
    fn look_around(&mut self) -> Result<BTreeMap<Stamp, Backup>, TailError> {
        let mut there = self.list()?;
        let reading = match &self.active {
            Some(Active { kind: Kind::Backup(stamp), .. }) => Some(stamp.clone()),
            _ => None,
        };
        let waiting = std::mem::take(&mut self.waiting);
        let mut seen = waiting.iter().chain(self.known.iter().rev().skip(1));
        if seen.any(|stamp| !there.contains_key(stamp)) {
            // Of a log that is compressed meanwhile a listing can show neither name.
            there = self.list()?;
        }
        for gone in waiting {
            if !there.contains_key(&gone) {
                self.sign(Oddity::Lost, self.config.shown.as_str().into(), 0);
                let log = &self.config.shown;
                self.gap(0, format!("{log}, rotated {gone}, was removed before it was read; its lines are lost"));
            }
        }
        // Names of logs removed since are forgotten, but for the newest: it stands in the cursor.
        let newest = self.known.last().cloned();
        self.known.retain(|s| there.contains_key(s) || Some(s) == newest.as_ref());
        there.retain(|stamp, _| !self.known.contains(stamp) && reading.as_ref() != Some(stamp));
        // The oldest may be the very file that is open as the log.
        let open = matches!(&self.active, Some(Active { kind: Kind::Live { .. }, .. }));
        self.waiting = there.keys().skip(usize::from(open)).cloned().collect();
        Ok(there)
    }

    pub(crate) fn sign(&mut self, oddity: Oddity, file: Arc<str>, line: u64) {
        self.signs.push(Sign { oddity, file, line });
    }

    pub(crate) fn gap(&mut self, count: u64, detail: String) {
        self.gaps.push(Gap { reason: GapReason::AuditLog, count, first: None, last: None, detail });
    }

    pub(crate) fn list(&self) -> Result<BTreeMap<Stamp, Backup>, TailError> {
        self.names.list().map_err(|source| TailError::List { path: self.names.folder.clone(), source })
    }

    /// A path in the node's own terms: the log's folder is what it is called there.
    pub(crate) fn shown(&self, path: &Path) -> Arc<str> {
        let name = path.file_name().map(|n| n.to_string_lossy()).unwrap_or_default();
        match self.config.shown.rsplit_once('/') {
            Some((folder, _)) => format!("{folder}/{name}").into(),
            None => name.into(),
        }
    }

    pub(crate) fn open_if_there(&self, path: &Path) -> Result<Option<Source>, TailError> {
        match Source::open(path) {
            Ok(source) => Ok(Some(source)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(TailError::Open { path: path.to_owned(), source }),
        }
    }

    pub(crate) fn start(&mut self, kind: Kind, path: &Path, source: Source) {
        if let Kind::Backup(stamp) = &kind {
            self.waiting.remove(stamp);
        }
        let (shown, path) = (self.shown(path), path.to_owned());
        // It may have lost the log's name before, and got it or another one now: it is read on then.
        let held = self.orphans.iter().position(|orphan| orphan.active.source.identity == source.identity);
        let active = match held.map(|at| self.orphans.remove(at).active) {
            Some(held) if source.is_plain() => Active { kind, shown, path, unlinked: false, away: false, ..held },
            _ => {
                let splitter = Splitter::new(self.config.max_line, 0, Some(0));
                Active { kind, shown, path, source, splitter, unlinked: false, away: false }
            }
        };
        self.active = Some(active);
    }

    /// Opens the next file: the oldest rotated log that is not done with, else the log itself.
    fn advance(&mut self) -> Result<bool, TailError> {
        loop {
            if self.ahead.is_empty() {
                self.ahead = self.look_around()?;
            }
            if let Some((stamp, backup)) = self.ahead.pop_first() {
                if self.known.contains(&stamp) {
                    continue;
                }
                self.start_backup(stamp, &backup)?;
                if self.active.is_some() {
                    return Ok(true);
                }
                continue;
            }
            let path = self.config.path.clone();
            let Some(source) = self.open_if_there(&path)? else { return Ok(false) };
            // A rotation between the listing and the opening would put a log in between.
            let unread = self.list()?.into_iter().filter(|(stamp, _)| !self.known.contains(stamp));
            let mut ours = None;
            let mut earlier = false;
            for (stamp, backup) in unread {
                if is_file(&backup, source.identity) {
                    ours = Some(stamp);
                } else if ours.is_none() {
                    earlier = true;
                }
            }
            if earlier {
                continue;
            }
            match ours {
                Some(stamp) => self.start(Kind::Backup(stamp), &path, source),
                None => self.start(Kind::Live { replaced: false }, &path, source),
            }
            return Ok(true);
        }
    }

    fn start_backup(&mut self, stamp: Stamp, backup: &Backup) -> Result<(), TailError> {
        let mut reason = None;
        for path in backup.plain.iter().chain(&backup.gzip) {
            let shown = self.shown(&self.names.name(&stamp, backup.gzip.as_ref() == Some(path)));
            match Source::open(path) {
                Ok(source) => {
                    self.start(Kind::Backup(stamp), path, source);
                    if let Some(active) = &mut self.active {
                        active.shown = shown;
                    }
                    return Ok(());
                }
                Err(source) if is_shortage(&source) => return Err(TailError::Open { path: path.clone(), source }),
                Err(error) => reason = Some((shown, error)),
            }
        }
        // It may have been compressed since it was listed.
        if let Ok(fresh) = self.list()
            && let Some(fresh) = fresh.get(&stamp)
            && fresh != backup
        {
            return self.start_backup(stamp, &fresh.clone());
        }
        // It is given up also where it may only not be read now: judging goes by the order of time, so what comes after
        // it would have to wait, and an attacker could hold up the log itself by a file that nobody may read.
        if let Some((path, error)) = reason {
            self.sign(Oddity::Lost, Arc::clone(&path), 0);
            self.gap(0, format!("the rotated log {path} cannot be opened ({error}); its lines are lost"));
        }
        self.waiting.remove(&stamp);
        self.known.insert(stamp);
        Ok(())
    }

    /// Reads one chunk of the active file.
    pub(crate) fn read(&mut self, lines: &mut Vec<Line>) -> Result<usize, TailError> {
        let Some(active) = &mut self.active else { return Ok(0) };
        self.buffer.resize(CHUNK, 0);
        let before = active.source.pos();
        let result = active.source.read(&mut self.buffer);
        let recent = active.splitter.recent();
        if matches!(active.kind, Kind::Live { .. })
            && before > 0
            && !active.source.intact(&recent, before).unwrap_or(true)
        {
            self.truncated(before)?;
            // Not the end: it is read again from the start, or from the last line that was kept.
            return Ok(1);
        }
        let read = match result {
            Ok(read) => read,
            Err(error) => {
                let detail =
                    format!("{} cannot be read after byte {} ({error}); its rest is lost", active.shown, before);
                let path = active.path.clone();
                if matches!(active.kind, Kind::Live { .. }) {
                    return Err(TailError::Read { path, source: error });
                }
                let shown = Arc::clone(&active.shown);
                self.sign(Oddity::Lost, shown, 0);
                self.gap(0, detail);
                self.finish(lines, false)?;
                return Ok(1);
            }
        };
        let mut pieces = Vec::new();
        active.splitter.feed(self.buffer.get(..read).unwrap_or_default(), &mut pieces);
        if read == CHUNK && active.splitter.in_hole() {
            // A hole can be larger than any disk.
            let path = &active.path;
            let skipped = active.source.skip_hole().map_err(|source| TailError::Read { path: path.clone(), source })?;
            active.splitter.skip(skipped);
        }
        self.deliver(pieces, lines);
        Ok(read)
    }

    fn deliver(&mut self, pieces: Vec<Piece>, lines: &mut Vec<Line>) {
        let Some(file) = self.active.as_ref().map(|a| Arc::clone(&a.shown)) else { return };
        for piece in pieces {
            match piece {
                Piece::Line { bytes, offset, number } => {
                    lines.push(Line { bytes, file: Arc::clone(&file), number, offset });
                }
                Piece::TooLong { number } => {
                    let limit = self.config.max_line;
                    self.sign(Oddity::TooLong, Arc::clone(&file), number);
                    self.gap(1, format!("line {number} of {file} has more than {limit} bytes and is passed over"));
                }
                Piece::Torn { offset } => {
                    self.sign(Oddity::Truncated, Arc::clone(&file), 0);
                    self.gap(0, format!("{file} was cut while it was written: lines before byte {offset} are missing"));
                }
            }
        }
    }

    /// The active file is shorter, or another, than what was read of it up to this byte.
    fn truncated(&mut self, read: u64) -> Result<(), TailError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let detail = format!(
            "{} was truncated; what was written after byte {} and before the cut may be lost",
            active.shown,
            active.splitter.start()
        );
        let (print, marks, max) =
            (active.source.fingerprint(read), active.splitter.marks().clone(), self.config.max_line);
        if let Ok(Some((mark, before))) = active.source.back_to(print, marks.backwards()) {
            active.splitter = Splitter::back_at(max, mark, marks, before);
        } else {
            active.source.rewind().map_err(|source| TailError::Read { path: active.path.clone(), source })?;
            active.splitter = Splitter::new(max, 0, Some(0));
        }
        let shown = Arc::clone(&active.shown);
        self.sign(Oddity::Truncated, shown, 0);
        self.gap(0, detail);
        Ok(())
    }

    /// The active file has nothing more. Says whether there is something to go on with.
    fn at_end(&mut self, lines: &mut Vec<Line>) -> Result<bool, TailError> {
        let Some(active) = &mut self.active else { return Ok(false) };
        let Kind::Live { replaced } = &mut active.kind else {
            self.finish(lines, true)?;
            return Ok(true);
        };
        let identity = active.source.identity;
        let now = Identity::at(&self.config.path)
            .map_err(|source| TailError::Open { path: self.config.path.clone(), source })?;
        let size = match now {
            Some((now, _)) if now == identity => {
                *replaced = false;
                active.away = false;
                return Ok(false);
            }
            Some((_, size)) => size,
            None => 0,
        };
        if size == 0 && !self.has_unread()? {
            // Nothing follows yet. A foreign rename leaves the API server writing to the old file.
            return Ok(self.wait_for_next());
        }
        let Some(Active { kind: Kind::Live { replaced }, .. }) = &mut self.active else { return Ok(false) };
        if !std::mem::replace(replaced, true) {
            // What was written between the last read and the rename.
            return Ok(true);
        }
        if size > 0 && self.replaced()? {
            return Ok(true);
        }
        self.finish(lines, true)?;
        Ok(true)
    }

    /// Are there rotated logs that are not done with? With them, a file without a name is one of theirs, compressed.
    pub(crate) fn has_unread(&self) -> Result<bool, TailError> {
        Ok(self.list()?.keys().any(|s| !self.known.contains(s)))
    }

    /// The active file has lost its name, and there is no other to go on with. Says whether it may have been written to
    /// before that and since it was read.
    fn wait_for_next(&mut self) -> bool {
        let Some(active) = &mut self.active else { return false };
        let Kind::Live { replaced } = &mut active.kind else { return false };
        if !std::mem::replace(replaced, true) {
            return true;
        }
        active.away = true;
        // Between a rename and the new file the name is missing for a moment, but the old file has another then.
        if !active.unlinked && active.source.has_no_name() {
            self.tell_unlinked();
        }
        false
    }

    fn tell_unlinked(&mut self) {
        let Some(active) = &mut self.active else { return };
        active.unlinked = true;
        let (file, line) = (Arc::clone(&active.shown), active.splitter.lines().unwrap_or(0));
        self.sign(Oddity::Unlinked, file, line);
    }

    /// Another file has the log's name. Unless lumberjack put the one being read away, its writer may go on writing to
    /// it. Says whether reading goes on in the new file, after what it has in common with this one.
    fn replaced(&mut self) -> Result<bool, TailError> {
        let Some(active) = &self.active else { return Ok(false) };
        let (identity, end) = (active.source.identity, active.source.pos());
        let print = active.source.fingerprint(end);
        if print.len == 0 || self.rotated_as(identity, print, end)?.is_some() || self.has_unread()? {
            return Ok(false);
        }
        let path = self.config.path.clone();
        let Some(mut source) = self.open_if_there(&path)? else { return Ok(false) };
        if self.orphans.iter().any(|orphan| orphan.active.source.identity == source.identity) {
            return Ok(false);
        }
        let Some(mut old) = self.active.take() else { return Ok(false) };
        // A copy, perhaps with changes: what it has in common with what was read is not read again.
        let (offset, lines) = old.source.shared(&source).unwrap_or((0, 0));
        if offset > 0 && source.jump(offset).is_ok() {
            self.sign(Oddity::Truncated, Arc::clone(&old.shown), lines);
        }
        let lines = if source.pos() == 0 { 0 } else { lines };
        let tail = source.before(source.pos()).unwrap_or_default();
        let splitter = Splitter::new(self.config.max_line, source.pos(), Some(lines)).after(tail);
        let splitter = splitter.with(old.splitter.marks().clone());
        let nameless = old.source.has_no_name();
        if nameless && !std::mem::replace(&mut old.unlinked, true) {
            self.sign(Oddity::Unlinked, Arc::clone(&old.shown), old.splitter.lines().unwrap_or(0));
        }
        let kind = Kind::Live { replaced: false };
        let shown = self.shown(&path);
        self.active = Some(Active { kind, path, shown, source, splitter, unlinked: false, away: false });
        let alive = old.unlinked;
        self.hold(old, alive, None);
        Ok(true)
    }

    /// The active file is done with, but for what its writer may still write to it if that is to be watched.
    fn finish(&mut self, lines: &mut Vec<Line>, watch: bool) -> Result<(), TailError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let done = match &active.kind {
            Kind::Backup(stamp) => Some(stamp.clone()),
            Kind::Moved => None,
            Kind::Live { .. } => {
                let (identity, end) = (active.source.identity, active.source.pos());
                let print = active.source.fingerprint(end);
                self.rotated_as(identity, print, end)?
            }
        };
        let mut pieces = Vec::new();
        if let Some(active) = &mut self.active {
            active.splitter.close(&mut pieces);
        }
        self.deliver(pieces, lines);
        if let Some(done) = &done {
            self.waiting.remove(done);
            self.known.insert(done.clone());
        }
        if let Some(active) = self.active.take().filter(|active| watch && active.source.is_plain()) {
            let alive = active.unlinked;
            self.hold(active, alive, done);
        }
        Ok(())
    }

    /// Which rotated log the finished file has become.
    fn rotated_as(&self, identity: Identity, print: Fingerprint, end: u64) -> Result<Option<Stamp>, TailError> {
        // Compressed already. It is then exactly as long as what was read.
        let same = |path: &Path| -> io::Result<bool> {
            let mut source = Source::open(path)?;
            Ok(source.resume(print, None, end)?.is_some() && source.read(&mut [0])? == 0)
        };
        let mut there = self.list()?;
        for _ in 0..SEARCHES {
            let unread = || there.iter().filter(|(s, _)| !self.known.contains(*s));
            if let Some((stamp, _)) = unread().find(|(_, b)| is_file(b, identity)) {
                return Ok(Some(stamp.clone()));
            }
            for (stamp, backup) in unread() {
                if print.len > 0 && backup.gzip.as_deref().is_some_and(|path| same(path).unwrap_or(false)) {
                    return Ok(Some(stamp.clone()));
                }
            }
            // Compressed between the listing and the look: then it was under neither name.
            let now = self.list()?;
            if now == there {
                break;
            }
            there = now;
        }
        Ok(None)
    }
}

impl Active {
    pub(crate) fn mark(&self) -> FileMark {
        let offset = self.splitter.start();
        FileMark {
            stamp: match &self.kind {
                Kind::Backup(stamp) => Some(stamp.clone()),
                Kind::Live { .. } | Kind::Moved => None,
            },
            dev: self.source.identity.dev,
            ino: self.source.identity.ino,
            print: self.source.fingerprint(offset),
            offset,
            tail: Some(self.splitter.tail())
                .filter(|tail| !tail.is_empty())
                .map(|tail| Fingerprint::of(offset.saturating_sub(tail.len() as u64), tail)),
            passing: self.splitter.is_passing(),
            marks: self.splitter.marks().kept(offset, self.splitter.lines()),
            lines: self.splitter.lines(),
        }
    }
}

fn is_file(backup: &Backup, identity: Identity) -> bool {
    backup.plain.as_deref().is_some_and(|path| matches!(Identity::at(path), Ok(Some((i, _))) if i == identity))
}
