//! The state machine over files.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use picket_model::{Gap, GapReason};

use crate::backup::{Backup, Names, Stamp, time_of};
use crate::cursor::{Cursor, FileMark, Fingerprint};
use crate::source::{Identity, Source};
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
}

impl Config {
    /// The log with the usual limits.
    pub fn new(path: impl Into<PathBuf>, start: StartAt) -> Self {
        let path = path.into();
        Self { shown: path.display().to_string(), path, start, max_line: MAX_LINE }
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
enum Kind {
    /// The log itself, or what was the log when it was opened.
    Live {
        /// Another file has the name now.
        replaced: bool,
    },
    /// A rotated log. Nobody writes to it any more.
    Backup(Stamp),
    /// A log some other rotator put away. Nobody writes to it any more.
    Moved,
}

#[derive(Debug)]
struct Active {
    kind: Kind,
    path: PathBuf,
    shown: Arc<str>,
    source: Source,
    splitter: Splitter,
    /// It was told that the file has no name any more.
    unlinked: bool,
}

/// Follows one audit log.
#[derive(Debug)]
pub struct Reader {
    config: Config,
    names: Names,
    /// Rotated logs that are done with.
    known: BTreeSet<Stamp>,
    active: Option<Active>,
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
        let names = Names::of(&config.path);
        let mut reader = Self {
            config,
            names,
            known: BTreeSet::new(),
            active: None,
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

    /// Where the reader stands.
    pub fn cursor(&self) -> Cursor {
        let file = self.active.as_ref().map(|a| {
            let offset = a.splitter.start();
            FileMark {
                stamp: match &a.kind {
                    Kind::Backup(stamp) => Some(stamp.clone()),
                    Kind::Live { .. } | Kind::Moved => None,
                },
                dev: a.source.identity.dev,
                ino: a.source.identity.ino,
                print: a.source.fingerprint(offset),
                offset,
                lines: a.splitter.lines(),
            }
        });
        Cursor { path: self.config.shown.clone(), done: self.known.last().cloned(), file }
    }

    /// Reads on, up to about `budget` bytes.
    ///
    /// # Errors
    /// When a file cannot be read. Lines read before that are returned first, and the error by the next call.
    pub fn poll(&mut self, budget: usize) -> Result<Batch, TailError> {
        let mut lines = Vec::new();
        let mut used = 0;
        let outcome = loop {
            if used >= budget {
                break Ok(true);
            }
            if self.active.is_none() {
                match self.advance() {
                    Ok(true) => {}
                    Ok(false) => break Ok(false),
                    Err(error) => break Err(error),
                }
            }
            match self.read(&mut lines) {
                Ok(0) => match self.at_end(&mut lines) {
                    Ok(true) => {}
                    Ok(false) => break Ok(false),
                    Err(error) => break Err(error),
                },
                Ok(read) => used += read,
                Err(error) => break Err(error),
            }
        };
        let more = match outcome {
            Ok(more) => more,
            Err(error) if lines.is_empty() && self.gaps.is_empty() && self.signs.is_empty() => return Err(error),
            Err(_) => false,
        };
        let (gaps, signs) = (std::mem::take(&mut self.gaps), std::mem::take(&mut self.signs));
        Ok(Batch { lines, cursor: self.cursor(), gaps, signs, more })
    }

    /// How many bytes are there that were not read yet, as far as can be seen from outside: a gzipped log counts with
    /// its size on disk, and the one being read not at all.
    pub fn behind(&self) -> u64 {
        let size = |path: &Path| Identity::at(path).ok().flatten().map_or(0, |(_, size)| size);
        let (here, reading, rest) = match &self.active {
            None => (0, None, true),
            Some(active) => {
                let here = active.source.size().unwrap_or(0).saturating_sub(active.source.pos());
                match &active.kind {
                    Kind::Live { replaced } => (here, None, *replaced),
                    Kind::Backup(stamp) => (here, Some(stamp), true),
                    Kind::Moved => (here, None, true),
                }
            }
        };
        if !rest {
            return here;
        }
        let unread = self
            .list()
            .unwrap_or_default()
            .into_iter()
            .filter(|(stamp, _)| !self.known.contains(stamp) && Some(stamp) != reading);
        let rotated: u64 = unread.map(|(_, backup)| backup.plain.or(backup.gzip).map_or(0, |path| size(&path))).sum();
        here + rotated + size(&self.config.path)
    }

    fn sign(&mut self, oddity: Oddity, file: Arc<str>, line: u64) {
        self.signs.push(Sign { oddity, file, line });
    }

    fn gap(&mut self, count: u64, detail: String) {
        self.gaps.push(Gap { reason: GapReason::AuditLog, count, first: None, last: None, detail });
    }

    fn list(&self) -> Result<std::collections::BTreeMap<Stamp, Backup>, TailError> {
        self.names.list().map_err(|source| TailError::List { path: self.names.folder.clone(), source })
    }

    /// A path in the node's own terms: the log's folder is what it is called there.
    fn shown(&self, path: &Path) -> Arc<str> {
        let name = path.file_name().map(|n| n.to_string_lossy()).unwrap_or_default();
        match self.config.shown.rsplit_once('/') {
            Some((folder, _)) => format!("{folder}/{name}").into(),
            None => name.into(),
        }
    }

    fn begin(&mut self) -> Result<(), TailError> {
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
                    let splitter = Splitter::new(self.config.max_line, source.pos(), None);
                    self.active = Some(Active {
                        kind: Kind::Live { replaced: false },
                        shown: self.shown(&path),
                        path,
                        source,
                        unlinked: false,
                        splitter: if whole { splitter } else { splitter.drop_first() },
                    });
                }
            }
        }
        Ok(())
    }

    fn resume(&mut self, cursor: Cursor) -> Result<(), TailError> {
        let backups = self.list()?;
        let reading = cursor.file.as_ref().and_then(|f| f.stamp.clone());
        self.known = backups
            .keys()
            .filter(|s| cursor.done.as_ref().is_some_and(|done| *s <= done) && reading.as_ref() != Some(*s))
            .cloned()
            .collect();
        // Kept also when that file is gone, so that the next cursor does not forget it.
        self.known.extend(cursor.done.filter(|done| reading.as_ref() != Some(done)));
        let Some(mark) = cursor.file else { return Ok(()) };
        if mark.offset == 0 {
            return self.resume_unread(&backups, Identity { dev: mark.dev, ino: mark.ino });
        }
        if mark.stamp.is_none() && self.take(&self.config.path.clone(), &mark, Kind::Live { replaced: false })? {
            return Ok(());
        }
        for (stamp, backup) in &backups {
            if self.known.contains(stamp) {
                continue;
            }
            for path in backup.plain.iter().chain(&backup.gzip) {
                if self.take(path, &mark, Kind::Backup(stamp.clone()))? {
                    return Ok(());
                }
            }
        }
        for path in self.relatives()? {
            // Whoever writes may still hold a file that was only renamed; nobody writes into a gzipped one.
            let gzip = path.extension().is_some_and(|e| e == "gz");
            let kind = if gzip { Kind::Moved } else { Kind::Live { replaced: true } };
            if self.take(&path, &mark, kind)? {
                return Ok(());
            }
        }
        let detail = match (Identity::at(&self.config.path), mark.stamp) {
            (Ok(Some((identity, _))), None) if identity == (Identity { dev: mark.dev, ino: mark.ino }) => {
                self.sign(Oddity::Truncated, self.config.shown.as_str().into(), 0);
                format!(
                    "{} was truncated while nobody was reading it; what was written after byte {} is lost",
                    self.config.shown, mark.offset
                )
            }
            _ => format!(
                "the log that was being read is gone from {}; what was written to it after byte {} is lost",
                self.config.shown, mark.offset
            ),
        };
        self.gap(0, detail);
        Ok(())
    }

    /// The file was open, and nothing had been read of it. It is the log itself, or among the rotated ones to come,
    /// or some other rotator renamed it.
    fn resume_unread(
        &mut self,
        backups: &std::collections::BTreeMap<Stamp, Backup>,
        identity: Identity,
    ) -> Result<(), TailError> {
        let here = matches!(Identity::at(&self.config.path), Ok(Some((now, _))) if now == identity);
        if here || backups.keys().any(|s| !self.known.contains(s)) {
            return Ok(());
        }
        for path in self.relatives()?.into_iter().filter(|p| !self.names.is_backup(p)) {
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

    /// Other files with the log's name at their start.
    fn relatives(&self) -> Result<Vec<PathBuf>, TailError> {
        let mut all =
            self.names.relatives().map_err(|source| TailError::List { path: self.names.folder.clone(), source })?;
        all.retain(|p| *p != self.config.path);
        Ok(all)
    }

    /// Goes on in this file, if it is the one of the mark.
    fn take(&mut self, path: &Path, mark: &FileMark, kind: Kind) -> Result<bool, TailError> {
        let Ok(mut source) = Source::open(path) else { return Ok(false) };
        let plausible = mark.print.len > 0 || source.identity == (Identity { dev: mark.dev, ino: mark.ino });
        // What cannot be read or unpacked is not recognised: the loss is then reported.
        if !plausible || !source.resume(mark.print, mark.offset).unwrap_or(false) {
            return Ok(false);
        }
        if let Kind::Backup(stamp) = &kind {
            self.known.remove(stamp);
        }
        self.active = Some(Active {
            kind,
            shown: self.shown(path),
            path: path.to_owned(),
            source,
            splitter: Splitter::new(self.config.max_line, mark.offset, mark.lines),
            unlinked: false,
        });
        Ok(true)
    }

    fn open_if_there(&self, path: &Path) -> Result<Option<Source>, TailError> {
        match Source::open(path) {
            Ok(source) => Ok(Some(source)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(TailError::Open { path: path.to_owned(), source }),
        }
    }

    fn start(&mut self, kind: Kind, path: &Path, source: Source) {
        let splitter = Splitter::new(self.config.max_line, 0, Some(0));
        self.active =
            Some(Active { kind, shown: self.shown(path), path: path.to_owned(), source, splitter, unlinked: false });
    }

    /// Opens the next file: the oldest rotated log that is not done with, else the log itself.
    fn advance(&mut self) -> Result<bool, TailError> {
        loop {
            let next = self.list()?.into_iter().find(|(stamp, _)| !self.known.contains(stamp));
            if let Some((stamp, backup)) = next {
                self.start_backup(stamp, &backup);
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

    fn start_backup(&mut self, stamp: Stamp, backup: &Backup) {
        let mut reason = None;
        for path in backup.plain.iter().chain(&backup.gzip) {
            match Source::open(path) {
                Ok(source) => {
                    self.start(Kind::Backup(stamp), path, source);
                    return;
                }
                Err(error) => reason = Some((self.shown(path), error)),
            }
        }
        // It may have been compressed since it was listed.
        if let Ok(fresh) = self.list()
            && let Some(fresh) = fresh.get(&stamp)
            && fresh != backup
        {
            self.start_backup(stamp, &fresh.clone());
            return;
        }
        if let Some((path, error)) = reason {
            self.gap(0, format!("the rotated log {path} cannot be opened ({error}); its lines are lost"));
        }
        self.known.insert(stamp);
    }

    /// Reads one chunk of the active file.
    fn read(&mut self, lines: &mut Vec<Line>) -> Result<usize, TailError> {
        let Some(active) = &mut self.active else { return Ok(0) };
        self.buffer.resize(CHUNK, 0);
        let before = active.source.pos();
        let result = active.source.read(&mut self.buffer);
        if matches!(active.kind, Kind::Live { .. }) && before > 0 && !active.source.intact().unwrap_or(true) {
            self.truncated()?;
            // Not the end: it is read again from the start.
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
                self.gap(0, detail);
                self.finish(lines)?;
                return Ok(1);
            }
        };
        let mut pieces = Vec::new();
        active.splitter.feed(self.buffer.get(..read).unwrap_or_default(), &mut pieces);
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
                Piece::TooLong { bytes, number } => {
                    let limit = self.config.max_line;
                    self.sign(Oddity::TooLong, Arc::clone(&file), number);
                    self.gap(1, format!("line {number} of {file} has {bytes} bytes, more than the limit of {limit}"));
                }
                Piece::Torn { offset } => {
                    self.sign(Oddity::Truncated, Arc::clone(&file), 0);
                    self.gap(0, format!("{file} was cut while it was written: lines before byte {offset} are missing"));
                }
            }
        }
    }

    fn truncated(&mut self) -> Result<(), TailError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let detail = format!(
            "{} was truncated; what was written after byte {} and before the cut may be lost",
            active.shown,
            active.splitter.start()
        );
        active.source.rewind().map_err(|source| TailError::Read { path: active.path.clone(), source })?;
        active.splitter = Splitter::new(self.config.max_line, 0, Some(0));
        let shown = Arc::clone(&active.shown);
        self.sign(Oddity::Truncated, shown, 0);
        self.gap(0, detail);
        Ok(())
    }

    /// The active file has nothing more. Says whether there is something to go on with.
    fn at_end(&mut self, lines: &mut Vec<Line>) -> Result<bool, TailError> {
        let Some(active) = &mut self.active else { return Ok(false) };
        let Kind::Live { replaced } = &mut active.kind else {
            self.finish(lines)?;
            return Ok(true);
        };
        let identity = active.source.identity;
        let now = Identity::at(&self.config.path)
            .map_err(|source| TailError::Open { path: self.config.path.clone(), source })?;
        let size = match now {
            Some((now, _)) if now == identity => {
                *replaced = false;
                return Ok(false);
            }
            Some((_, size)) => size,
            // Between a rename and the new file the name is missing for a moment, but the old file has another then.
            None => {
                if !active.unlinked && active.source.has_no_name() {
                    active.unlinked = true;
                    self.signs.push(Sign {
                        oddity: Oddity::Unlinked,
                        file: Arc::clone(&active.shown),
                        line: active.splitter.lines().unwrap_or(0),
                    });
                }
                0
            }
        };
        if size == 0 && self.list()?.keys().all(|s| self.known.contains(s)) {
            // Nothing follows yet. A foreign rename leaves the API server writing to the old file.
            return Ok(false);
        }
        let Some(Active { kind: Kind::Live { replaced }, .. }) = &mut self.active else { return Ok(false) };
        if !std::mem::replace(replaced, true) {
            // What was written between the last read and the rename.
            return Ok(true);
        }
        self.finish(lines)?;
        Ok(true)
    }

    /// The active file is done with.
    fn finish(&mut self, lines: &mut Vec<Line>) -> Result<(), TailError> {
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
        self.known.extend(done);
        // Names of logs removed since are forgotten, but for the newest: it stands in the cursor.
        let there = self.list()?;
        let newest = self.known.last().cloned();
        self.known.retain(|s| there.contains_key(s) || Some(s) == newest.as_ref());
        self.active = None;
        Ok(())
    }

    /// Which rotated log the finished file has become.
    fn rotated_as(&self, identity: Identity, print: Fingerprint, end: u64) -> Result<Option<Stamp>, TailError> {
        let unread: Vec<_> = self.list()?.into_iter().filter(|(s, _)| !self.known.contains(s)).collect();
        if let Some((stamp, _)) = unread.iter().find(|(_, b)| is_file(b, identity)) {
            return Ok(Some(stamp.clone()));
        }
        // Compressed already. It is then exactly as long as what was read.
        for (stamp, backup) in unread {
            let same = |path: &Path| -> io::Result<bool> {
                let mut source = Source::open(path)?;
                Ok(source.resume(print, end)? && source.read(&mut [0])? == 0)
            };
            if print.len > 0 && backup.gzip.as_deref().is_some_and(|path| same(path).unwrap_or(false)) {
                return Ok(Some(stamp));
            }
        }
        Ok(None)
    }
}

fn is_file(backup: &Backup, identity: Identity) -> bool {
    backup.plain.as_deref().is_some_and(|path| matches!(Identity::at(path), Ok(Some((i, _))) if i == identity))
}
