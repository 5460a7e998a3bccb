//! A file being read, plain or gzipped, that knows what it will be recognised by.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use memchr::memchr_iter;
use nix::errno::Errno;
use nix::libc::O_NONBLOCK;
use nix::unistd::{Whence, lseek};

use crate::cursor::{Fingerprint, PRINT_BYTES};
use crate::marks::Mark;
use crate::splitter::{content, last_of};

/// Most bytes that are unpacked in order to recognise a file. A log is rotated long before, unless it holds a hole that is
/// larger than any disk.
const MOST_UNPACKED: u64 = 4 << 30;
/// Most bytes of two files that are compared: what they have in common after that is read again.
const MOST_COMPARED: u64 = 512 << 20;

/// Most NULs that are read to find where the content of a log begins.
const MOST_LOOKED: u64 = 64 << 20;

/// What the decoder says where another member of a gzipped file should begin and none does.
const NO_MEMBER: &str = "invalid gzip header";

enum Bytes {
    Plain(File),
    Gzip(Box<MultiGzDecoder<BufReader<File>>>),
}

/// Device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
}

impl Identity {
    /// Of what a path leads to; none when it leads nowhere.
    pub(crate) fn at(path: &Path) -> io::Result<Option<(Self, u64)>> {
        match std::fs::metadata(path) {
            Ok(meta) => Ok(Some((Self { dev: meta.dev(), ino: meta.ino() }, meta.len()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

pub(crate) struct Source {
    bytes: Bytes,
    pub(crate) identity: Identity,
    /// Where the content begins, and its first bytes, as far as they were read.
    print_at: u64,
    print: Vec<u8>,
    pos: u64,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("identity", &self.identity).field("pos", &self.pos).finish_non_exhaustive()
    }
}

impl Source {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        // Non-blocking, so that a pipe with the log's name cannot hold the daemon.
        let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        let identity = Identity { dev: meta.dev(), ino: meta.ino() };
        let bytes = if path.extension().is_some_and(|e| e == "gz") {
            Bytes::Gzip(Box::new(MultiGzDecoder::new(BufReader::new(file))))
        } else {
            Bytes::Plain(file)
        };
        Ok(Self { bytes, identity, print_at: 0, print: Vec::new(), pos: 0 })
    }

    pub(crate) const fn pos(&self) -> u64 {
        self.pos
    }

    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = loop {
            let result = match &mut self.bytes {
                Bytes::Plain(file) => file.read(buffer),
                Bytes::Gzip(decoder) => decoder.read(buffer),
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if self.pos > 0 && error.to_string() == NO_MEMBER && self.is_padded()? => break 0,
                other => break other?,
            }
        };
        let fresh = buffer.get(..read).unwrap_or_default();
        if self.print.is_empty() {
            match content(fresh) {
                Some(first) => {
                    self.print_at = self.pos + first as u64;
                    self.remember(fresh.get(first..).unwrap_or_default());
                }
                None => self.print_at = self.pos + read as u64,
            }
        } else if self.print_at + self.print.len() as u64 == self.pos {
            self.remember(fresh);
        }
        self.pos += read as u64;
        Ok(read)
    }

    /// Whether a gzipped file ends with NULs, as some copies do. What was packed has its check sum at the end, so it is
    /// there as a whole where it was unpacked up to these.
    fn is_padded(&self) -> io::Result<bool> {
        let Bytes::Gzip(decoder) = &self.bytes else { return Ok(false) };
        let file = decoder.get_ref().get_ref();
        let mut last = [1; 16];
        let from = file.metadata()?.len().saturating_sub(last.len() as u64);
        file.read_exact_at(&mut last, from)?;
        Ok(last == [0; 16])
    }

    fn remember(&mut self, bytes: &[u8]) {
        let room = PRINT_BYTES.saturating_sub(self.print.len()).min(bytes.len());
        self.print.extend_from_slice(bytes.get(..room).unwrap_or_default());
    }

    /// Somebody may write to it.
    pub(crate) const fn is_plain(&self) -> bool {
        matches!(self.bytes, Bytes::Plain(_))
    }

    /// Its size on disk.
    pub(crate) fn size(&self) -> io::Result<u64> {
        match &self.bytes {
            Bytes::Plain(file) => Ok(file.metadata()?.len()),
            Bytes::Gzip(_) => Ok(0),
        }
    }

    /// Whether the file was deleted and is only held open.
    pub(crate) fn has_no_name(&self) -> bool {
        match &self.bytes {
            Bytes::Plain(file) => file.metadata().is_ok_and(|meta| meta.nlink() == 0),
            Bytes::Gzip(_) => false,
        }
    }

    /// What the file is recognised by, from what lies before `end`.
    pub(crate) fn fingerprint(&self, end: u64) -> Fingerprint {
        let len = usize::try_from(end.saturating_sub(self.print_at)).unwrap_or(usize::MAX).min(self.print.len());
        Fingerprint::of(self.print_at, self.print.get(..len).unwrap_or_default())
    }

    /// Is what was read still what the file begins with, and do these bytes still end at that place? Not after it was
    /// truncated and written again.
    pub(crate) fn intact(&self, recent: &[u8], place: u64) -> io::Result<bool> {
        let Bytes::Plain(file) = &self.bytes else { return Ok(true) };
        if file.metadata()?.len() < self.pos || !begins_with_hole(file, self.print_at)? {
            return Ok(false);
        }
        let holds =
            |bytes: &[u8], at| Ok::<_, io::Error>(bytes_at(file, bytes.len(), at)?.is_some_and(|now| now == bytes));
        Ok(holds(&self.print, self.print_at)? && holds(recent, place.saturating_sub(recent.len() as u64))?)
    }

    /// The last bytes before a place, as far as a mark is recognised by them.
    pub(crate) fn before(&self, place: u64) -> io::Result<Vec<u8>> {
        let Bytes::Plain(file) = &self.bytes else { return Ok(Vec::new()) };
        let len = usize::try_from(place).unwrap_or(usize::MAX).min(PRINT_BYTES);
        Ok(bytes_at(file, len, place - len as u64)?.unwrap_or_default())
    }

    /// Back to the start of a file that was truncated.
    pub(crate) fn rewind(&mut self) -> io::Result<()> {
        if let Bytes::Plain(file) = &mut self.bytes {
            file.seek(SeekFrom::Start(0))?;
        }
        self.print = Vec::new();
        self.print_at = 0;
        self.pos = 0;
        Ok(())
    }

    /// Goes to the offset, if this is the file with that fingerprint, it is that long, and these bytes are before the
    /// offset. Called on a fresh source; after none the source is of no use. Says what is before the offset.
    pub(crate) fn resume(
        &mut self,
        print: Fingerprint,
        tail: Option<Fingerprint>,
        offset: u64,
    ) -> io::Result<Option<Vec<u8>>> {
        let limit = usize::try_from(print.len).unwrap_or(usize::MAX);
        if limit > PRINT_BYTES || tail.is_some_and(|t| t.at.checked_add(u64::from(t.len)) != Some(offset)) {
            return Ok(None);
        }
        let last = if let Bytes::Plain(file) = &mut self.bytes {
            if file.metadata()?.len() < offset || !begins_with_hole(file, print.at)? {
                return Ok(None);
            }
            let Some(first) = bytes_at(file, limit, print.at)? else { return Ok(None) };
            if Fingerprint::of(print.at, &first) != print {
                return Ok(None);
            }
            file.seek(SeekFrom::Start(offset))?;
            self.print_at = print.at;
            self.print = first;
            self.pos = offset;
            self.before(offset)?
        } else {
            let Some(last) = self.unpack_to(print, offset)? else { return Ok(None) };
            last
        };
        let Some(tail) = tail else { return Ok(Some(last)) };
        let len = usize::try_from(tail.len).unwrap_or(usize::MAX);
        let part = last.len().checked_sub(len).and_then(|from| last.get(from..));
        Ok(if part.is_some_and(|part| Fingerprint::of(tail.at, part) == tail) { Some(last) } else { None })
    }

    /// Goes to the first of these ends of lines that is as it was, in a file that begins with that fingerprint. Says
    /// which, and what is before it.
    pub(crate) fn back_to(
        &mut self,
        print: Fingerprint,
        mut marks: impl Iterator<Item = Mark>,
    ) -> io::Result<Option<(Mark, Vec<u8>)>> {
        let Bytes::Plain(file) = &self.bytes else { return Ok(None) };
        let len = usize::try_from(print.len).unwrap_or(usize::MAX);
        if len > PRINT_BYTES || !begins_with_hole(file, print.at)? {
            return Ok(None);
        }
        let begins = bytes_at(file, len, print.at)?.is_some_and(|first| Fingerprint::of(print.at, &first) == print);
        let found = marks.find_map(|mark| {
            let from = mark.offset - mark.len() as u64;
            // What is cut off may be part of what the file was recognised by.
            let before = bytes_at(file, mark.len(), from).ok().flatten().filter(|_| begins || from <= print.at)?;
            mark.holds(&before).then_some((mark, before))
        });
        if let Some((mark, _)) = &found {
            self.jump(mark.offset)?;
        }
        Ok(found)
    }

    /// Reads on to the offset of a gzipped file with that fingerprint. Says what is before the offset.
    fn unpack_to(&mut self, print: Fingerprint, offset: u64) -> io::Result<Option<Vec<u8>>> {
        let mut buffer = vec![0; 64 * 1024];
        let mut last = Vec::new();
        let known = print.at.saturating_add(u64::from(print.len));
        if offset > MOST_UNPACKED {
            return Ok(None);
        }
        while self.pos < offset {
            let want = usize::try_from(offset - self.pos).unwrap_or(usize::MAX).min(buffer.len());
            let Some(part) = buffer.get_mut(..want) else { return Ok(None) };
            let read = self.read(part)?;
            if read == 0 {
                return Ok(None);
            }
            last = last_of(&[&last, part.get(..read).unwrap_or_default()]);
            // Another file shows at its beginning: it need not be unpacked to its end.
            if self.pos >= known && self.fingerprint(known) != print {
                return Ok(None);
            }
        }
        Ok((self.fingerprint(known) == print).then_some(last))
    }

    /// How much of what was read of this file another one begins with, in whole lines: bytes and lines.
    pub(crate) fn shared(&self, other: &Self) -> io::Result<(u64, u64)> {
        let (Bytes::Plain(mine), Bytes::Plain(theirs)) = (&self.bytes, &other.bytes) else { return Ok((0, 0)) };
        let (mut left, mut right) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
        let (mut at, mut shared, mut lines) = (0, 0, 0);
        let mut compared = 0;
        while at < self.pos && compared < MOST_COMPARED {
            let most = usize::try_from(self.pos - at).unwrap_or(usize::MAX).min(left.len());
            let (Some(left), Some(right)) = (left.get_mut(..most), right.get_mut(..most)) else { break };
            let read = mine.read_at(left, at)?.min(theirs.read_at(right, at)?);
            let same = left.iter().zip(right.iter()).take(read).take_while(|(left, right)| left == right).count();
            for end in memchr_iter(b'\n', left.get(..same).unwrap_or_default()) {
                shared = at + end as u64 + 1;
                lines += 1;
            }
            if read == 0 || same < read {
                break;
            }
            at += same as u64;
            compared += same as u64;
            if left.iter().take(same).all(|byte| *byte == 0) {
                // A hole can be larger than any disk.
                at = data_from(mine, at)?.min(data_from(theirs, at)?);
                // Asking moves the place that is read from.
                for (mut file, pos) in [(mine, self.pos), (theirs, other.pos)] {
                    file.seek(SeekFrom::Start(pos))?;
                }
            }
        }
        Ok((shared, lines))
    }

    /// Goes to an offset as if everything before it had been read.
    pub(crate) fn jump(&mut self, offset: u64) -> io::Result<()> {
        let Bytes::Plain(file) = &mut self.bytes else { return Ok(()) };
        (self.print_at, self.print) = beginning(file, offset)?;
        self.pos = file.seek(SeekFrom::Start(offset))?;
        Ok(())
    }

    /// Over bytes that no disk holds, to the next that one does or to the end. Says how many there were.
    pub(crate) fn skip_hole(&mut self) -> io::Result<u64> {
        let Bytes::Plain(file) = &mut self.bytes else { return Ok(0) };
        let to = data_from(file, self.pos)?;
        file.seek(SeekFrom::Start(to))?;
        let skipped = to - self.pos.min(to);
        self.pos = to;
        if self.print.is_empty() {
            self.print_at = to;
        }
        Ok(skipped)
    }

    /// To the end of what is there now. Says whether that is the end of a line.
    pub(crate) fn skip_to_end(&mut self) -> io::Result<bool> {
        let Bytes::Plain(file) = &mut self.bytes else { return Ok(true) };
        let len = file.metadata()?.len();
        (self.print_at, self.print) = beginning(file, len)?;
        let mut last = [b'\n'];
        if len > 0 {
            file.read_exact_at(&mut last, len - 1)?;
        }
        self.pos = file.seek(SeekFrom::Start(len))?;
        Ok(last == [b'\n'])
    }
}

/// Where the next byte is that a disk holds, or the end of the file. It is read from somewhere else after that.
fn data_from(file: &File, at: u64) -> io::Result<u64> {
    match i64::try_from(at).map(|at| lseek(file, at, Whence::SeekData)) {
        Ok(Ok(to)) => Ok(u64::try_from(to).unwrap_or(at)),
        Ok(Err(Errno::ENXIO)) => Ok(file.metadata()?.len().max(at)),
        // This file system knows no holes.
        Ok(Err(_)) | Err(_) => Ok(at),
    }
}

/// Where the content before `end` begins, and its first bytes. Of a log with a longer hole that a disk holds only the
/// inode is known, until it is rotated.
fn beginning(file: &File, end: u64) -> io::Result<(u64, Vec<u8>)> {
    let mut at = 0;
    let mut buffer = vec![0; 64 * 1024];
    let mut looked = 0;
    while at < end && looked < MOST_LOOKED {
        let read = file.read_at(&mut buffer, at)?;
        let Some(part) = buffer.get(..read).filter(|part| !part.is_empty()) else { break };
        if let Some(first) = content(part) {
            at += first as u64;
            let len = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX).min(PRINT_BYTES);
            return Ok((at.min(end), bytes_at(file, len, at)?.unwrap_or_default()));
        }
        looked += read as u64;
        at = data_from(file, at + read as u64)?;
    }
    Ok((end, Vec::new()))
}

/// So many bytes of a file; none where it is shorter.
fn bytes_at(file: &File, len: usize, at: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; len];
    match file.read_exact_at(&mut bytes, at) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a file whose content begins at `at` still has its hole before it. Where nothing is known of the content yet,
/// this alone tells it from one that was cut and written anew.
fn begins_with_hole(file: &File, at: u64) -> io::Result<bool> {
    let mut first = [0];
    Ok(at == 0 || file.read_at(&mut first, 0)? == 1 && first == [0])
}

/// Whether opening failed for want of something that will be there again: the file is as good as before.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::EINTR | Errno::EAGAIN)
    )
}
