//! Replaying log files: lines in, detections out, and nothing skipped in silence.

use std::io::{self, BufRead, BufReader, Read};

use jiff::Timestamp;
use picket_model::Detection;

use crate::detector::{Detector, Position};
use crate::event::{Event, LineError, MAX_LINE, each_event, is_whole};

/// Most unreadable lines that are named; the others are only counted.
pub const MAX_NAMED: usize = 20;

const UNPARSABLE: &str = "audit-unparsable-line";

/// A line that was not judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The file.
    pub file: String,
    /// Line from 1.
    pub line: u64,
    /// What is wrong with it; never the line's own text.
    pub what: String,
}

/// Runs files through a [`Detector`], in the order they are given.
#[derive(Debug)]
pub struct Replay {
    detector: Detector,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    detections: Vec<Detection>,
    unreadable: Vec<Unreadable>,
    unreadable_count: u64,
    outside: u64,
    unfinished: u64,
    /// Whether the latest event was within the time asked for: lines that are no events have no time of their own.
    within: bool,
    /// Lines before the first event of all: file, first line and how many. They take that event's time.
    early: Vec<(String, u64, u64)>,
}

impl Replay {
    /// A replay; events outside `since..until` are not judged.
    pub fn new(detector: Detector, since: Option<Timestamp>, until: Option<Timestamp>) -> Self {
        Self {
            detector,
            since,
            until,
            detections: Vec::new(),
            unreadable: Vec::new(),
            unreadable_count: 0,
            outside: 0,
            unfinished: 0,
            within: since.is_none(),
            early: Vec::new(),
        }
    }

    /// The engine.
    pub fn detector(&self) -> &Detector {
        &self.detector
    }

    /// Lines that are no audit events: the first [`MAX_NAMED`] by name.
    pub fn unreadable(&self) -> &[Unreadable] {
        &self.unreadable
    }

    /// How many lines are no audit events.
    pub fn unreadable_count(&self) -> u64 {
        self.unreadable_count
    }

    /// Events outside the time asked for.
    pub fn outside(&self) -> u64 {
        self.outside
    }

    /// Files that end in the middle of a line: the rest had not been written yet (E12).
    pub fn unfinished(&self) -> u64 {
        self.unfinished
    }

    /// Reads one file, gzip or not, to its end. `progress` is told the bytes of text read so far.
    ///
    /// # Errors
    /// When the file cannot be read on; what came before has been judged.
    pub fn read(&mut self, file: &str, reader: impl Read, mut progress: impl FnMut(u64)) -> io::Result<()> {
        let mut reader = unpack(reader)?;
        let (mut buffer, mut line, mut bytes) = (Vec::with_capacity(64 * 1024), 0_u64, 0_u64);
        loop {
            buffer.clear();
            let read = read_line(&mut reader, &mut buffer)?;
            if read.bytes == 0 {
                return Ok(());
            }
            line += 1;
            bytes += read.bytes;
            if line.is_multiple_of(4096) {
                progress(bytes);
            }
            if read.too_long {
                self.refuse(file, line, &LineError::TooLong(usize::try_from(read.bytes).unwrap_or(usize::MAX)));
            } else if !read.ended && !is_whole(&buffer) {
                // Bytes after the last newline are neither an event nor an error, unless they are a whole event.
                self.unfinished += u64::from(!buffer.trim_ascii().is_empty());
            } else {
                self.judge(file, line, &buffer);
            }
        }
    }

    fn judge(&mut self, file: &str, line: u64, text: &[u8]) {
        let mut refused = Vec::new();
        each_event(text, |event| match event {
            Ok(event) => {
                self.within = !self.is_outside(&event);
                if !self.within {
                    self.outside += 1;
                } else {
                    if let Some(time) = event.time().filter(|_| !self.early.is_empty()) {
                        tell_early(&mut self.early, &mut self.detector, time, &mut self.detections);
                    }
                    self.detector.observe(&event, Position { file, line }, &mut self.detections);
                }
            }
            Err(error) => refused.push(error),
        });
        for error in refused {
            self.refuse(file, line, &error);
        }
    }

    fn is_outside(&self, event: &Event<'_>) -> bool {
        if self.since.is_none() && self.until.is_none() {
            return false;
        }
        let Some(time) = event.time() else { return false };
        self.since.is_some_and(|since| time < since) || self.until.is_some_and(|until| time > until)
    }

    fn refuse(&mut self, file: &str, line: u64, error: &LineError) {
        self.unreadable_count += 1;
        if self.within {
            match (self.detector.now(), self.early.last_mut()) {
                (Some(time), _) => {
                    self.detector.sign(UNPARSABLE, Position { file, line }, time, 1, &mut self.detections);
                }
                (None, Some((known, _, times))) if known == file => *times += 1,
                (None, _) => self.early.push((file.to_owned(), line, 1)),
            }
        }
        if self.unreadable.len() < MAX_NAMED {
            self.unreadable.push(Unreadable { file: file.to_owned(), line, what: error.to_string() });
        }
    }

    /// Ends every window and hands out all detections, by the time of their first event.
    pub fn finish(&mut self) -> Vec<Detection> {
        tell_early(&mut self.early, &mut self.detector, Timestamp::UNIX_EPOCH, &mut self.detections);
        self.detector.finish(&mut self.detections);
        let mut detections = std::mem::take(&mut self.detections);
        detections.sort_by(|a, b| {
            (a.time, &a.file, a.line, &a.audit_id, &a.rule).cmp(&(b.time, &b.file, b.line, &b.audit_id, &b.rule))
        });
        detections
    }
}

fn tell_early(early: &mut Vec<(String, u64, u64)>, detector: &mut Detector, time: Timestamp, out: &mut Vec<Detection>) {
    for (file, line, times) in early.drain(..) {
        detector.sign(UNPARSABLE, Position { file: &file, line }, time, times, out);
    }
}

/// When the first event of a file happened: the order in which rotated files are to be read.
///
/// # Errors
/// When the file cannot be read.
pub fn first_time(reader: impl Read) -> io::Result<Option<Timestamp>> {
    let mut reader = unpack(reader)?;
    let mut buffer = Vec::new();
    for _ in 0..64 {
        buffer.clear();
        if read_line(&mut reader, &mut buffer)?.bytes == 0 {
            break;
        }
        if let Some(time) = Event::parse(&buffer).ok().and_then(|event| event.time()) {
            return Ok(Some(time));
        }
    }
    Ok(None)
}

/// Looks for gzip's first bytes rather than at the name.
fn unpack<'r>(reader: impl Read + 'r) -> io::Result<Box<dyn BufRead + 'r>> {
    let mut reader = BufReader::with_capacity(256 * 1024, reader);
    if reader.fill_buf()?.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(BufReader::with_capacity(256 * 1024, flate2::bufread::MultiGzDecoder::new(reader))));
    }
    Ok(Box::new(reader))
}

struct Line {
    bytes: u64,
    ended: bool,
    too_long: bool,
}

/// Reads to the newline, which is left out; of a line that is too long only the length is kept.
fn read_line(reader: &mut dyn BufRead, buffer: &mut Vec<u8>) -> io::Result<Line> {
    let mut line = Line { bytes: 0, ended: false, too_long: false };
    loop {
        let chunk = reader.fill_buf()?;
        if chunk.is_empty() {
            return Ok(line);
        }
        let (text, used) = match memchr::memchr(b'\n', chunk) {
            Some(at) => {
                line.ended = true;
                (chunk.get(..at).unwrap_or_default(), at + 1)
            }
            None => (chunk, chunk.len()),
        };
        line.bytes += used as u64;
        if !line.too_long {
            if buffer.len() + text.len() > MAX_LINE {
                line.too_long = true;
                buffer.clear();
            } else {
                buffer.extend_from_slice(text);
            }
        }
        reader.consume(used);
        if line.ended {
            return Ok(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Settings, builtin};

    fn run(text: &[u8]) -> (Replay, Vec<Detection>) {
        let detector = Detector::new(builtin().expect("rules"), Settings::replay());
        let mut replay = Replay::new(detector, None, None);
        replay.read("audit.log", text, |_| {}).expect("read");
        let detections = replay.finish();
        (replay, detections)
    }

    fn deletion(name: &str, id: &str) -> String {
        format!(
            r#"{{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"{id}","stage":"ResponseComplete","requestURI":"/api/v1/namespaces/{name}","verb":"delete","user":{{"username":"bob"}},"objectRef":{{"resource":"namespaces","name":"{name}"}},"responseStatus":{{"code":200}},"stageTimestamp":"2026-01-01T00:00:00.000000Z"}}"#
        )
    }

    fn deleted(detections: &[Detection]) -> Vec<(&str, u64)> {
        detections.iter().filter(|d| d.rule == "namespace-deleted").map(|d| (d.object.name.as_str(), d.line)).collect()
    }

    #[test]
    fn e12_bytes_after_the_last_newline_are_neither_an_event_nor_an_error() {
        let whole = deletion("a", "1");
        let half = &deletion("b", "2")[..200];
        let (replay, detections) = run(format!("{whole}\n{half}").as_bytes());
        assert_eq!(deleted(&detections), [("a", 1)]);
        assert_eq!((replay.unreadable_count(), replay.unfinished()), (0, 1));
    }

    #[test]
    fn a_whole_event_counts_although_its_newline_is_missing() {
        let (replay, detections) = run(deletion("a", "1").as_bytes());
        assert_eq!(deleted(&detections), [("a", 1)]);
        assert_eq!((replay.unreadable_count(), replay.unfinished()), (0, 0));
    }

    #[test]
    fn several_events_on_one_line_and_nul_bytes_are_read() {
        let text = format!("\0\0\0{}{}\n", deletion("a", "1"), deletion("b", "2"));
        let (replay, detections) = run(text.as_bytes());
        assert_eq!(deleted(&detections), [("a", 1), ("b", 1)]);
        assert_eq!(replay.unreadable_count(), 0);
    }

    #[test]
    fn an_event_after_a_cut_one_is_read_and_the_cut_one_named() {
        let text = format!("{}{}\n{}\n", &deletion("a", "1")[..120], deletion("b", "2"), deletion("c", "3"));
        let (replay, detections) = run(text.as_bytes());
        assert_eq!(deleted(&detections), [("b", 1), ("c", 2)]);
        assert_eq!(replay.unreadable()[0].line, 1);
        assert_eq!(replay.unreadable_count(), 1);
    }

    #[test]
    fn foreign_lines_are_counted_with_file_and_line_and_never_quoted() {
        let text = format!(
            "{}\n{}\n{}\n",
            r#"{"kind":"Secret","data":{"p":"aHVudGVyMg=="}}"#,
            "plain text hunter2",
            deletion("c", "3")
        );
        let (replay, detections) = run(text.as_bytes());
        assert_eq!(deleted(&detections), [("c", 3)]);
        assert_eq!(replay.unreadable_count(), 2);
        assert_eq!(replay.unreadable()[1].file, "audit.log");
        assert!(!format!("{:?}", replay.unreadable()).contains("hunter2"));
    }

    #[test]
    fn lines_before_the_first_event_have_its_time() {
        let (_, detections) = run(format!("junk\nmore\n{}\njunk\n", deletion("a", "1")).as_bytes());
        let signs: Vec<_> = detections.iter().filter(|d| d.rule == UNPARSABLE).collect();
        assert_eq!(signs.len(), 1);
        assert_eq!((signs[0].time.to_string().as_str(), signs[0].line, signs[0].count), ("2026-01-01T00:00:00Z", 1, 3));
    }

    #[test]
    fn a_line_that_is_too_long_is_counted_and_the_next_is_read() {
        let mut text = vec![b'x'; MAX_LINE + 10];
        text.push(b'\n');
        text.extend_from_slice(deletion("c", "3").as_bytes());
        text.push(b'\n');
        let (replay, detections) = run(&text);
        assert_eq!(deleted(&detections), [("c", 2)]);
        assert!(replay.unreadable()[0].what.contains("longer than the limit"));
    }

    #[test]
    fn only_the_time_asked_for_is_judged() {
        let detector = Detector::new(builtin().expect("rules"), Settings::replay());
        let since = "2026-01-02T00:00:00Z".parse().expect("time");
        let mut replay = Replay::new(detector, Some(since), None);
        replay.read("audit.log", format!("{}\n", deletion("a", "1")).as_bytes(), |_| {}).expect("read");
        assert!(replay.finish().is_empty());
        assert_eq!(replay.outside(), 1);
    }
}
