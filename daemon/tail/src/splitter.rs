//! Bytes become lines.

use std::collections::VecDeque;

use memchr::memchr2;

use crate::cursor::{FileMark, PRINT_BYTES};
use crate::marks::{MOST_FRESH, Mark, Marks};

/// What comes out of bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// A complete line that is not blank, without its end.
    Line { bytes: Vec<u8>, offset: u64, number: u64 },
    /// A line is longer than the limit, and is passed over.
    TooLong { number: u64 },
    /// NUL bytes in the middle of a file: it was cut while it was written, and something is missing here.
    Torn { offset: u64 },
}

/// Holds the unfinished line between two reads.
#[derive(Debug)]
pub(crate) struct Splitter {
    max: usize,
    partial: Vec<u8>,
    /// Within a line that is too long, or whose start nobody saw: what was seen of it is done with.
    passing: bool,
    /// The bytes just before the unfinished line, as far as they are known, the last [`PRINT_BYTES`].
    tail: Vec<u8>,
    /// Where the unfinished line begins.
    start: u64,
    /// Where the next byte comes from.
    pos: u64,
    lines: Option<u64>,
    in_hole: bool,
    /// Ends of lines to go back to.
    marks: Marks,
    /// Those of what is being read: where the next line begins, and how many lines there are before it.
    ends: VecDeque<(u64, Option<u64>)>,
}

impl Splitter {
    pub(crate) fn new(max: usize, offset: u64, lines: Option<u64>) -> Self {
        Self {
            max,
            partial: Vec::new(),
            passing: false,
            tail: Vec::new(),
            start: offset,
            pos: offset,
            lines,
            in_hole: false,
            marks: Marks::default(),
            ends: VecDeque::new(),
        }
    }

    /// At a place before which are these bytes.
    pub(crate) fn at(max: usize, mark: &FileMark, before: Vec<u8>) -> Self {
        let marks = Marks::of(&mark.marks, mark.offset, mark.lines);
        Self { passing: mark.passing, tail: before, marks, ..Self::new(max, mark.offset, mark.lines) }
    }

    /// At one of these ends of lines, before which are these bytes.
    pub(crate) fn back_at(max: usize, mark: Mark, marks: Marks, before: Vec<u8>) -> Self {
        Self { tail: before, marks: marks.up_to(mark.offset), ..Self::new(max, mark.offset, mark.lines) }
    }

    /// With what there is of these ends of lines before the place.
    pub(crate) fn with(mut self, marks: Marks) -> Self {
        self.marks = marks.up_to(self.start);
        self
    }

    pub(crate) const fn marks(&self) -> &Marks {
        &self.marks
    }

    /// The rest of a line whose start nobody saw is dropped.
    pub(crate) fn within_line(mut self, is_within: bool) -> Self {
        self.passing = is_within;
        self
    }

    /// These bytes come just before.
    pub(crate) fn after(mut self, tail: Vec<u8>) -> Self {
        self.tail = tail;
        self
    }

    /// The bytes just before the unfinished line.
    pub(crate) fn tail(&self) -> &[u8] {
        &self.tail
    }

    /// The last bytes there were, as far as they are known.
    pub(crate) fn recent(&self) -> Vec<u8> {
        if self.start + self.partial.len() as u64 == self.pos {
            last_of(&[&self.tail, &self.partial])
        } else {
            Vec::new()
        }
    }

    /// Where the unfinished line begins: everything before is done with.
    pub(crate) const fn start(&self) -> u64 {
        self.start
    }

    /// That is within a line of which nothing is delivered.
    pub(crate) const fn is_passing(&self) -> bool {
        self.passing
    }

    pub(crate) const fn lines(&self) -> Option<u64> {
        self.lines
    }

    /// The last byte was a NUL.
    pub(crate) const fn in_hole(&self) -> bool {
        self.in_hole
    }

    /// So many more bytes of the hole were passed over.
    pub(crate) fn skip(&mut self, bytes: u64) {
        self.pos += bytes;
        self.start = self.pos;
        self.tail = Vec::new();
    }

    pub(crate) fn feed(&mut self, chunk: &[u8], out: &mut Vec<Piece>) {
        let (start, pos, recent) = (self.start, self.pos, self.recent());
        self.ends.clear();
        self.split(chunk, out);
        for (offset, lines) in self.ends.drain(..) {
            let fresh = usize::try_from(offset.saturating_sub(pos)).unwrap_or(usize::MAX);
            let fresh = chunk.get(..fresh).unwrap_or_default();
            let mark = if fresh.len() >= PRINT_BYTES {
                Mark::new(offset, lines, fresh)
            } else {
                Mark::new(offset, lines, &last_of(&[&recent, fresh]))
            };
            mark.into_iter().for_each(|mark| self.marks.push(mark));
        }
        if self.start > start {
            let fresh = usize::try_from(self.start.saturating_sub(pos)).unwrap_or(usize::MAX);
            self.tail = last_of(&[&recent, chunk.get(..fresh).unwrap_or_default()]);
        }
    }

    fn split(&mut self, mut chunk: &[u8], out: &mut Vec<Piece>) {
        while !chunk.is_empty() {
            if self.in_hole {
                let hole = chunk.iter().position(|b| *b != 0).unwrap_or(chunk.len());
                self.pos += hole as u64;
                self.start = self.pos;
                chunk = chunk.get(hole..).unwrap_or_default();
                self.in_hole = chunk.is_empty();
                continue;
            }
            let end = memchr2(b'\n', 0, chunk);
            let (head, rest) = chunk.split_at(end.unwrap_or(chunk.len()));
            self.take(head, out);
            match rest.split_first() {
                None => return,
                Some((b'\n', rest)) => {
                    self.pos += 1;
                    self.finish(out);
                    chunk = rest;
                }
                Some(_) => {
                    if self.pos > 0 {
                        out.push(Piece::Torn { offset: self.pos });
                    }
                    self.partial = Vec::new();
                    self.passing = false;
                    self.in_hole = true;
                    chunk = rest;
                }
            }
        }
    }

    fn take(&mut self, bytes: &[u8], out: &mut Vec<Piece>) {
        self.pos += bytes.len() as u64;
        if !self.passing && self.partial.len() + bytes.len() > self.max {
            self.passing = true;
            self.partial = Vec::new();
            // Told now: its end may never come.
            out.push(Piece::TooLong { number: self.number() });
        }
        if self.passing {
            self.start = self.pos;
        } else {
            self.partial.extend_from_slice(bytes);
        }
    }

    /// Of the line being read; 0 when not known.
    fn number(&self) -> u64 {
        self.lines.map_or(0, |n| n + 1)
    }

    fn finish(&mut self, out: &mut Vec<Piece>) {
        let number = self.number();
        let offset = self.start;
        self.start = self.pos;
        self.lines = self.lines.map(|n| n + 1);
        if self.ends.len() > MOST_FRESH {
            // The first one stays.
            self.ends.remove(1);
        }
        self.ends.push_back((self.start, self.lines));
        if std::mem::take(&mut self.passing) {
            return;
        }
        let bytes = std::mem::take(&mut self.partial);
        if !bytes.iter().all(u8::is_ascii_whitespace) {
            out.push(Piece::Line { bytes, offset, number });
        }
    }

    /// The file is at its end for good: a last line without an end is a line too.
    pub(crate) fn close(&mut self, out: &mut Vec<Piece>) {
        if self.passing || !self.partial.is_empty() {
            self.tail = self.recent();
            self.finish(out);
        }
    }
}

/// The last bytes of these one after another, at most [`PRINT_BYTES`].
pub(crate) fn last_of(parts: &[&[u8]]) -> Vec<u8> {
    let mut last = Vec::new();
    for part in parts {
        last.extend_from_slice(part.get(part.len().saturating_sub(PRINT_BYTES)..).unwrap_or_default());
    }
    last.split_off(last.len().saturating_sub(PRINT_BYTES))
}

/// The first byte that is not NUL, if any: where a file's content begins after a hole.
pub(crate) fn content(bytes: &[u8]) -> Option<usize> {
    match bytes.first() {
        Some(0) => bytes.iter().position(|b| *b != 0),
        Some(_) => Some(0),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(max: usize, chunks: &[&[u8]]) -> Vec<Piece> {
        let mut splitter = Splitter::new(max, 0, Some(0));
        let mut out = Vec::new();
        for chunk in chunks {
            splitter.feed(chunk, &mut out);
        }
        splitter.close(&mut out);
        out
    }

    fn line(text: &str, offset: u64, number: u64) -> Piece {
        Piece::Line { bytes: text.as_bytes().to_vec(), offset, number }
    }

    #[test]
    fn lines_holes_and_lengths() {
        assert_eq!(split(9, &[b"a\n\nbc", b"d\nx"]), [line("a", 0, 1), line("bcd", 3, 3), line("x", 7, 4)]);
        assert_eq!(split(3, &[b"abcd", b"ef\nok\n"]), [Piece::TooLong { number: 1 }, line("ok", 7, 2)]);
        assert_eq!(split(9, &[b"\0\0\0", b"\0a\n"]), [line("a", 4, 1)], "a hole at the start is no loss here");
        assert_eq!(split(9, &[b"a\nhal\0\0", b"\0b\n"]), [line("a", 0, 1), Piece::Torn { offset: 5 }, line("b", 8, 2)]);
    }

    #[test]
    fn the_rest_of_an_unseen_line_is_dropped() {
        let mut splitter = Splitter::new(9, 100, None).within_line(true);
        let mut out = Vec::new();
        splitter.feed(b"est\nnew\n", &mut out);
        assert_eq!(out, [line("new", 104, 0)]);
    }

    #[test]
    fn a_line_that_is_too_long_is_told_before_it_ends_and_what_was_passed_is_done_with() {
        let mut splitter = Splitter::new(3, 0, Some(0));
        let mut out = Vec::new();
        splitter.feed(b"a\nbcde", &mut out);
        assert_eq!(out, [line("a", 0, 1), Piece::TooLong { number: 2 }]);
        assert_eq!((splitter.start(), splitter.is_passing(), splitter.tail()), (6, true, &b"a\nbcde"[..]));
        out.clear();
        splitter.feed(b"fghijk", &mut out);
        splitter.feed(b"l\nm\n", &mut out);
        assert_eq!(out, [line("m", 14, 3)]);
    }

    proptest! {
        #[test]
        fn how_bytes_arrive_does_not_matter(bytes in proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'b'), Just(b'\n'), Just(0u8)], 0..60), cut in 0usize..60) {
            let (left, right) = bytes.split_at(cut.min(bytes.len()));
            prop_assert_eq!(split(4, &[&bytes]), split(4, &[left, right]));
        }
    }
}
