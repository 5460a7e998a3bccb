//! The entries of an audit log, counted once: what was counted of a file is kept by the file's identity, so that a look
//! reads only what was appended since, whatever the files are called meanwhile.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;

use flate2::bufread::MultiGzDecoder;
use memchr::memchr2;
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use picket_checks::AuditEntries;
use picket_host::{Host, ReadError};

/// Most bytes of one line; the API server is told to cut events long before.
const LONGEST: usize = 16 << 20;
/// Most bytes that come out of one packed file.
const LARGEST: u64 = 1 << 30;
/// Read at once from the disk.
const BUFFER: usize = 128 << 10;

/// What was counted in the files of one log.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts(BTreeMap<Id, Count>);

/// Device and number of a file.
type Id = (u64, u64);

#[derive(Debug, Clone, Default)]
struct Count {
    /// Bytes of the file that are accounted for: up to the end of a line, or within one that is too long.
    read: u64,
    /// Within a line that is too long: it was counted already.
    passing: bool,
    lines: u32,
    entries: AuditEntries,
}

impl Counts {
    /// Counts what is new in the files, the newest first, until about so many bytes are read. `files` are the oldest
    /// first, the log itself last.
    pub(super) fn bring_up(&mut self, host: &Host, files: &[&str], mut budget: u64) -> AuditEntries {
        let mut kept = BTreeMap::new();
        let mut unread = None;
        let mut ids = Vec::with_capacity(files.len());
        for path in files.iter().rev() {
            match self.bring_up_file(host, path, &mut kept, &mut budget) {
                Ok((id, whole)) => {
                    ids.push(id);
                    if !whole {
                        unread.get_or_insert_with(|| "not all of the log is read yet".to_owned());
                    }
                }
                Err(reason) => {
                    unread.get_or_insert_with(|| format!("{path} cannot be read: {reason}"));
                }
            }
        }
        self.0 = kept;
        let mut all = AuditEntries { unread, ..AuditEntries::default() };
        for count in ids.iter().rev().filter_map(|id| self.0.get(id)) {
            all.merge(&count.entries);
        }
        all
    }

    fn bring_up_file(
        &self,
        host: &Host,
        path: &str,
        kept: &mut BTreeMap<Id, Count>,
        budget: &mut u64,
    ) -> Result<(Id, bool), ReadError> {
        let failed = |error: io::Error| ReadError::Io(error.to_string());
        let file = host.open_file(path.as_ref())?;
        let meta = file.metadata().map_err(failed)?;
        let id = (meta.dev(), meta.ino());
        // A file that became shorter was emptied and written anew.
        let mut count = self.0.get(&id).filter(|count| count.read <= meta.size()).cloned().unwrap_or_default();
        let result = if *budget == 0 || count.read == meta.size() {
            Ok(count.read == meta.size())
        } else if path.ends_with(".gz") {
            count.packed(path, file, meta.size(), budget);
            Ok(true)
        } else {
            count.plain(path, file, budget)
        };
        kept.insert(id, count);
        Ok((id, result.map_err(failed)?))
    }
}

impl Count {
    /// Reads on in a file that grows. Says whether everything up to its last whole line is counted.
    fn plain(&mut self, path: &str, mut file: File, budget: &mut u64) -> io::Result<bool> {
        file.seek(SeekFrom::Start(self.read))?;
        let mut buffer = vec![0; BUFFER];
        let mut line = Vec::new();
        // A line that was begun is read to its end, which is not far.
        while *budget > 0 || !line.is_empty() {
            let chunk = match file.read(&mut buffer)? {
                // One that is being written counts when it is whole.
                0 => return Ok(true),
                read => buffer.get(..read).unwrap_or_default(),
            };
            *budget = budget.saturating_sub(chunk.len() as u64);
            self.feed(path, chunk, &mut line);
            if line.is_empty() && chunk.last() == Some(&0) {
                // A hole can be larger than any disk.
                self.read = behind_hole(&file, self.read)?;
                file.seek(SeekFrom::Start(self.read))?;
            }
        }
        Ok(file.read(&mut [0])? == 0)
    }

    /// Reads a packed file, which does not change any more, in one go. What is damaged is not read again.
    fn packed(&mut self, path: &str, file: File, size: u64, budget: &mut u64) {
        let mut unpacked = MultiGzDecoder::new(BufReader::with_capacity(BUFFER, file)).take(LARGEST);
        let mut buffer = vec![0; BUFFER];
        let mut line = Vec::new();
        *self = Self::default();
        loop {
            match unpacked.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => {
                    *budget = budget.saturating_sub(read as u64);
                    self.feed(path, buffer.get(..read).unwrap_or_default(), &mut line);
                }
                Err(error) => {
                    self.entries.unread = Some(format!("{path} cannot be read to its end: {error}"));
                    break;
                }
            }
        }
        if unpacked.limit() == 0 {
            self.entries.unread = Some(format!("{path} is larger than is read"));
        } else if self.entries.unread.is_none() {
            self.entries.add(&line, path, self.lines.saturating_add(1));
        }
        self.read = size;
    }

    /// Takes the next bytes of the file; `line` holds the unfinished line, at most [`LONGEST`].
    fn feed(&mut self, path: &str, mut chunk: &[u8], line: &mut Vec<u8>) {
        while let Some(first) = chunk.first() {
            if *first == 0 && line.is_empty() && !self.passing {
                // Where a log was cut while its writer went on, a hole of zeros is left.
                let hole = chunk.iter().position(|b| *b != 0).unwrap_or(chunk.len());
                self.read += hole as u64;
                chunk = chunk.get(hole..).unwrap_or_default();
                continue;
            }
            let (head, rest) = chunk.split_at(memchr2(b'\n', 0, chunk).unwrap_or(chunk.len()));
            if self.passing {
                self.read += head.len() as u64;
            } else if line.len() + head.len() > LONGEST {
                self.read += (line.len() + head.len()) as u64;
                *line = Vec::new();
                self.passing = true;
                self.entries.malformed += 1;
                let number = self.lines.saturating_add(1);
                self.entries.unread = Some(format!("line {number} of {path} is longer than is read"));
            } else {
                line.extend_from_slice(head);
            }
            let Some((end, after)) = rest.split_first() else { return };
            let number = self.lines.saturating_add(1);
            if !std::mem::take(&mut self.passing) {
                self.entries.add(line, path, number);
                self.read += line.len() as u64;
                line.clear();
                line.shrink_to(BUFFER);
            }
            // A hole in the middle of a line is no end of it, but what comes after it begins anew.
            chunk = rest;
            if *end == b'\n' {
                (self.lines, chunk) = (number, after);
                self.read += 1;
            }
        }
    }
}

/// Where the next byte is that a disk holds, or the end of the file.
fn behind_hole(file: &File, at: u64) -> io::Result<u64> {
    match i64::try_from(at).map(|at| lseek(file, at, Whence::SeekData)) {
        Ok(Ok(to)) => Ok(u64::try_from(to).unwrap_or(at)),
        Ok(Err(Errno::ENXIO)) => Ok(file.metadata()?.len().max(at)),
        // This file system knows no holes.
        Ok(Err(_)) | Err(_) => Ok(at),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;

    use picket_service::clock::SystemClock;

    use super::*;

    const SECRET: &str = r#"{"kind":"Event","auditID":"a","objectRef":{"resource":"secrets"},"requestObject":{}}"#;

    struct Node(tempfile::TempDir, Counts);

    impl Node {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap(), Counts::default())
        }

        fn log(&self) -> File {
            File::create(self.0.path().join("audit.log")).unwrap()
        }

        fn look(&mut self, budget: u64) -> AuditEntries {
            let host = Host::rooted(self.0.path(), Arc::new(SystemClock)).unwrap();
            self.1.bring_up(&host, &["/audit.log"], budget)
        }
    }

    #[test]
    fn an_event_behind_a_hole_larger_than_any_disk_is_counted_at_once() {
        let mut node = Node::new();
        let log = node.log();
        log.write_all_at(format!("{SECRET}\nhalf").as_bytes(), 0).unwrap();
        log.write_all_at(format!("{SECRET}\n{SECRET}\n").as_bytes(), 1 << 40).unwrap();
        let entries = node.look(64 << 20);
        assert_eq!((entries.total, entries.malformed, entries.unread), (3, 1, None));
        assert_eq!(entries.secret_bodies.count, 3);
        log.set_len(1 << 42).unwrap();
        assert_eq!(node.look(64 << 20).unread, None);
    }

    #[test]
    fn a_look_reads_no_more_than_its_budget_and_the_next_one_goes_on_within_a_line_that_is_too_long() {
        let mut node = Node::new();
        let mut log = node.log();
        let long = vec![b'x'; LONGEST + (8 << 20)];
        log.write_all(&long).unwrap();
        log.write_all(&long).unwrap();
        for read in [17, 18, 19] {
            let entries = node.look(if read == 17 { 17 } else { 1 } << 20);
            assert_eq!(entries.malformed, 1);
            assert_eq!(entries.unread.as_deref(), Some("not all of the log is read yet"));
            assert_eq!(node.1.0.values().map(|count| count.read >> 20).collect::<Vec<_>>(), [read]);
        }
        log.write_all(format!("\n{SECRET}\n").as_bytes()).unwrap();
        let entries = node.look(1 << 30);
        assert_eq!((entries.malformed, entries.secret_bodies.count), (1, 1));
        assert_eq!(entries.secret_bodies.first.unwrap().line, Some(2));
        assert!(entries.unread.unwrap().contains("line 1 of /audit.log is longer"));
    }
}
