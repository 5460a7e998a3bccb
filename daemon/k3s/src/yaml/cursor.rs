//! A place in a YAML text, counted as go-yaml counts: columns in characters, YAML 1.1's line breaks.

/// Where something begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    /// Line, from 1.
    pub(super) line: u32,
    /// Characters before it on its line.
    pub(super) column: i64,
    /// Characters before it in the text.
    pub(super) index: usize,
}

pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
    mark: Mark,
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self { text, at: 0, mark: Mark { line: 1, column: 0, index: 0 } }
    }

    pub(super) const fn mark(&self) -> Mark {
        self.mark
    }

    pub(super) const fn column(&self) -> i64 {
        self.mark.column
    }

    pub(super) const fn at_end(&self) -> bool {
        self.at >= self.text.len()
    }

    /// The byte so many bytes ahead; 0 past the end. No text holds a 0 itself.
    pub(super) fn byte(&self, ahead: usize) -> u8 {
        self.text.as_bytes().get(self.at + ahead).copied().unwrap_or(0)
    }

    /// A space or a tab.
    pub(super) fn is_blank(&self, ahead: usize) -> bool {
        matches!(self.byte(ahead), b' ' | b'\t')
    }

    pub(super) fn is_break(&self, ahead: usize) -> bool {
        self.break_length(ahead) > 0
    }

    /// A line break or the end.
    pub(super) fn is_break_or_end(&self, ahead: usize) -> bool {
        self.byte(ahead) == 0 || self.is_break(ahead)
    }

    /// A blank, a line break or the end.
    pub(super) fn is_gap(&self, ahead: usize) -> bool {
        self.is_blank(ahead) || self.is_break_or_end(ahead)
    }

    /// Whether `---` or `...` stands here, on its own at a line's begin.
    pub(super) fn is_document_indicator(&self, indicator: u8) -> bool {
        self.mark.column == 0 && (0..3).all(|i| self.byte(i) == indicator) && self.is_gap(3)
    }

    /// A letter, digit, `_` or `-` of ASCII.
    pub(super) fn is_word(&self) -> bool {
        self.byte(0).is_ascii_alphanumeric() || matches!(self.byte(0), b'_' | b'-')
    }

    fn break_length(&self, ahead: usize) -> usize {
        match self.byte(ahead) {
            b'\r' if self.byte(ahead + 1) == b'\n' => 2,
            b'\r' | b'\n' => 1,
            0xC2 if self.byte(ahead + 1) == 0x85 => 2,
            0xE2 if self.byte(ahead + 1) == 0x80 && matches!(self.byte(ahead + 2), 0xA8 | 0xA9) => 3,
            _ => 0,
        }
    }

    /// One character on.
    pub(super) fn skip(&mut self) {
        let _ = self.advance();
    }

    fn advance(&mut self) -> Option<char> {
        let c = self.text.get(self.at..)?.chars().next()?;
        self.at += c.len_utf8();
        self.mark.index += 1;
        self.mark.column += 1;
        Some(c)
    }

    /// One character on, which is kept.
    pub(super) fn take(&mut self, into: &mut String) {
        into.extend(self.advance());
    }

    /// Over a line break, if one stands here. It is kept: as a line feed, but for the two separators of Unicode.
    pub(super) fn take_break(&mut self, into: &mut String) {
        let length = self.break_length(0);
        let Some(found) = self.text.get(self.at..self.at + length) else { return };
        match found {
            "" => return,
            "\u{2028}" | "\u{2029}" => into.push_str(found),
            _ => into.push('\n'),
        }
        self.at += length;
        self.mark.index += found.chars().count();
        self.mark.column = 0;
        self.mark.line = self.mark.line.saturating_add(1);
    }

    /// Over a line break, if one stands here.
    pub(super) fn skip_break(&mut self) {
        self.take_break(&mut String::new());
    }

    pub(super) fn skip_blanks(&mut self) {
        while self.is_blank(0) {
            self.skip();
        }
    }

    /// To the end of the line, if a comment begins here.
    pub(super) fn skip_comment(&mut self) {
        if self.byte(0) == b'#' {
            while !self.is_break_or_end(0) {
                self.skip();
            }
        }
    }
}
