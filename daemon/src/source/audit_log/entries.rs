//! The entries of an audit log, counted once: what was counted of a file is kept by the file's identity, so that a look
//! reads only what was appended since, whatever the files are called meanwhile.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;

use flate2::bufread::MultiGzDecoder;
use picket_checks::AuditEntries;
use picket_host::{Host, ReadError};

/// Most bytes of one line; the API server is told to cut events long before.
const LONGEST: u64 = 16 << 20;
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
    /// Bytes of the file that are accounted for: up to the end of a line.
    read: u64,
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
        let mut reader = BufReader::with_capacity(BUFFER, file);
        let mut line = Vec::new();
        while *budget > 0 {
            match next_line(&mut reader, &mut line)? {
                Some((bytes, true)) => {
                    *budget = budget.saturating_sub(bytes);
                    self.read += bytes;
                    self.line(path, &line, bytes);
                }
                // One that is being written counts when it is whole.
                Some((_, false)) | None => return Ok(true),
            }
        }
        Ok(reader.fill_buf()?.is_empty())
    }

    /// Reads a packed file, which does not change any more, in one go. What is damaged is not read again.
    fn packed(&mut self, path: &str, file: File, size: u64, budget: &mut u64) {
        let unpacked = MultiGzDecoder::new(BufReader::with_capacity(BUFFER, file)).take(LARGEST);
        let mut reader = BufReader::with_capacity(BUFFER, unpacked);
        let mut line = Vec::new();
        *self = Self { read: size, ..Self::default() };
        loop {
            match next_line(&mut reader, &mut line) {
                Ok(Some((bytes, _))) => {
                    *budget = budget.saturating_sub(bytes);
                    self.line(path, &line, bytes);
                }
                Ok(None) => break,
                Err(error) => {
                    self.entries.unread = Some(format!("{path} cannot be read to its end: {error}"));
                    return;
                }
            }
        }
        if reader.get_ref().limit() == 0 {
            self.entries.unread = Some(format!("{path} is larger than is read"));
        }
    }

    fn line(&mut self, path: &str, line: &[u8], bytes: u64) {
        self.lines = self.lines.saturating_add(1);
        if bytes > LONGEST {
            self.entries.malformed += 1;
            self.entries.unread = Some(format!("line {} of {path} is longer than is read", self.lines));
        } else {
            self.entries.add(line, path, self.lines);
        }
    }
}

/// The next line, how many bytes it takes in the file, and whether it ends with a newline. Of one that is too long only
/// the beginning is given.
fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Option<(u64, bool)>> {
    line.clear();
    line.shrink_to(BUFFER);
    let mut bytes = reader.by_ref().take(LONGEST + 1).read_until(b'\n', line)? as u64;
    let mut whole = line.last() == Some(&b'\n');
    if bytes > LONGEST && !whole {
        line.truncate(BUFFER);
        loop {
            let buffer = reader.fill_buf()?;
            let end = buffer.iter().position(|b| *b == b'\n');
            let step = end.map_or(buffer.len(), |at| at + 1);
            whole = end.is_some();
            reader.consume(step);
            bytes += step as u64;
            if whole || step == 0 {
                break;
            }
        }
    }
    Ok((bytes > 0).then_some((bytes, whole)))
}
