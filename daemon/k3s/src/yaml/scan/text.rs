//! Scalars: in quotes, in blocks, plain.

use super::{Kind, LoadError, Scanner, Token};

/// Blanks and line breaks between two words, until it is known what becomes of them.
#[derive(Default)]
struct Gap {
    blanks: String,
    /// Whether a line ended; its blanks are then lost.
    lines: bool,
    first: String,
    more: String,
}

impl Gap {
    /// Adds them to a text: one line break folds to a space, of several all but the first stay.
    fn fold(&mut self, into: &mut String) {
        if !self.lines {
            into.push_str(&self.blanks);
        } else if self.first.starts_with('\n') {
            into.push_str(if self.more.is_empty() { " " } else { &self.more });
        } else {
            into.push_str(&self.first);
            into.push_str(&self.more);
        }
        *self = Self::default();
    }

    fn is_empty(&self) -> bool {
        !self.lines && self.blanks.is_empty()
    }
}

impl Scanner<'_> {
    fn document_indicator(&self) -> bool {
        self.cursor.is_document_indicator(b'-') || self.cursor.is_document_indicator(b'.')
    }

    pub(super) fn quoted(&mut self, single: bool) -> Result<(), LoadError> {
        self.save_key()?;
        self.key_allowed = false;
        let mut token = Token::of(Kind::Quoted, self.cursor.mark().line);
        let quote = if single { b'\'' } else { b'"' };
        self.cursor.skip();
        let mut gap = Gap::default();
        loop {
            if self.document_indicator() {
                return self.fail("found unexpected document indicator in a quoted text");
            }
            if self.cursor.at_end() {
                let detail = "broken YAML: found unexpected end of the file in a quoted text that begins here";
                return Err(LoadError::at(token.line, detail));
            }
            while !self.cursor.is_gap(0) {
                match self.cursor.byte(0) {
                    b'\'' if single && self.cursor.byte(1) == b'\'' => {
                        self.cursor.skip();
                        self.cursor.take(&mut token.text);
                    }
                    byte if byte == quote => break,
                    b'\\' if !single && self.cursor.is_break(1) => {
                        self.cursor.skip();
                        self.cursor.skip_break();
                        gap.lines = true;
                        break;
                    }
                    b'\\' if !single => self.escaped(&mut token.text)?,
                    _ => self.cursor.take(&mut token.text),
                }
            }
            if self.cursor.byte(0) == quote {
                break;
            }
            self.gap(&mut gap);
            gap.fold(&mut token.text);
        }
        self.cursor.skip();
        self.tokens.push_back(token);
        Ok(())
    }

    fn gap(&mut self, gap: &mut Gap) {
        loop {
            if self.cursor.is_blank(0) {
                if gap.lines {
                    self.cursor.skip();
                } else {
                    self.cursor.take(&mut gap.blanks);
                }
            } else if self.cursor.is_break(0) {
                self.cursor.take_break(if gap.lines { &mut gap.more } else { &mut gap.first });
                gap.lines = true;
            } else {
                return;
            }
        }
    }

    /// A backslash and what it stands for.
    fn escaped(&mut self, into: &mut String) -> Result<(), LoadError> {
        let digits = match self.cursor.byte(1) {
            b'x' => 2,
            b'u' => 4,
            b'U' => 8,
            _ => 0,
        };
        let plain = match self.cursor.byte(1) {
            b'0' => '\0',
            b'a' => '\x07',
            b'b' => '\x08',
            b't' | b'\t' => '\t',
            b'n' => '\n',
            b'v' => '\x0B',
            b'f' => '\x0C',
            b'r' => '\r',
            b'e' => '\x1B',
            b' ' => ' ',
            b'"' => '"',
            b'\'' => '\'',
            b'\\' => '\\',
            b'N' => '\u{85}',
            b'_' => '\u{A0}',
            b'L' => '\u{2028}',
            b'P' => '\u{2029}',
            b'x' | b'u' | b'U' => {
                let mut code = 0u32;
                for ahead in 0..digits {
                    let Some(digit) = char::from(self.cursor.byte(2 + ahead)).to_digit(16) else {
                        return self.fail("did not find expected hexadecimal number in a quoted text");
                    };
                    code = code << 4 | digit;
                }
                let Some(c) = char::from_u32(code) else {
                    return self.fail("found invalid Unicode character escape code");
                };
                c
            }
            _ => return self.fail("found unknown escape character in a quoted text"),
        };
        into.push(plain);
        (0..2 + digits).for_each(|_| self.cursor.skip());
        Ok(())
    }

    pub(super) fn plain(&mut self) -> Result<(), LoadError> {
        self.save_key()?;
        self.key_allowed = false;
        let mut token = Token::of(Kind::Plain, self.cursor.mark().line);
        let indent = self.indent + 1;
        let mut gap = Gap::default();
        loop {
            if self.document_indicator() || self.cursor.byte(0) == b'#' {
                break;
            }
            while !self.cursor.is_gap(0) {
                let byte = self.cursor.byte(0);
                if (byte == b':' && self.cursor.is_gap(1)) || (self.flow > 0 && b",?[]{}".contains(&byte)) {
                    break;
                }
                if !gap.is_empty() {
                    gap.fold(&mut token.text);
                }
                self.cursor.take(&mut token.text);
            }
            if !self.cursor.is_blank(0) && !self.cursor.is_break(0) {
                break;
            }
            self.plain_gap(&mut gap, indent)?;
            if self.flow == 0 && self.cursor.column() < indent {
                break;
            }
        }
        if gap.lines {
            self.key_allowed = true;
        }
        self.tokens.push_back(token);
        Ok(())
    }

    fn plain_gap(&mut self, gap: &mut Gap, indent: i64) -> Result<(), LoadError> {
        while self.cursor.is_blank(0) || self.cursor.is_break(0) {
            if gap.lines && self.cursor.column() < indent && self.cursor.byte(0) == b'\t' {
                return self.fail("found a tab character that violates indentation; use spaces");
            }
            if self.cursor.is_break(0) {
                self.cursor.take_break(if gap.lines { &mut gap.more } else { &mut gap.first });
                gap.lines = true;
            } else if gap.lines {
                self.cursor.skip();
            } else {
                self.cursor.take(&mut gap.blanks);
            }
        }
        Ok(())
    }

    pub(super) fn block_text(&mut self, literal: bool) -> Result<(), LoadError> {
        self.remove_key()?;
        self.key_allowed = true;
        let mut token = Token::of(Kind::Quoted, self.cursor.mark().line);
        self.cursor.skip();
        let (mut keep, mut deeper) = (None, 0);
        for _ in 0..2 {
            match self.cursor.byte(0) {
                sign @ (b'+' | b'-') if keep.is_none() => keep = Some(sign == b'+'),
                b'0' if deeper == 0 => return self.fail("found an indentation indicator equal to 0"),
                digit @ b'1'..=b'9' if deeper == 0 => deeper = i64::from(digit - b'0'),
                _ => break,
            }
            self.cursor.skip();
        }
        self.cursor.skip_blanks();
        self.cursor.skip_comment();
        if !self.cursor.is_break_or_end(0) {
            return self.fail("did not find expected comment or line break after the begin of a block text");
        }
        self.cursor.skip_break();
        let mut indent = if deeper > 0 { self.indent.max(0) + deeper } else { 0 };
        let (mut last, mut empty) = (String::new(), String::new());
        self.empty_lines(&mut indent, &mut empty)?;
        let mut was_blank = false;
        while self.cursor.column() == indent && !self.cursor.at_end() {
            let blank = self.cursor.is_blank(0);
            if !literal && !was_blank && !blank && last.starts_with('\n') {
                if empty.is_empty() {
                    token.text.push(' ');
                }
            } else {
                token.text.push_str(&last);
            }
            last.clear();
            token.text.push_str(&empty);
            empty.clear();
            was_blank = blank;
            while !self.cursor.is_break_or_end(0) {
                self.cursor.take(&mut token.text);
            }
            self.cursor.take_break(&mut last);
            self.empty_lines(&mut indent, &mut empty)?;
        }
        if keep != Some(false) {
            token.text.push_str(&last);
        }
        if keep == Some(true) {
            token.text.push_str(&empty);
        }
        self.tokens.push_back(token);
        Ok(())
    }

    /// The indentation and empty lines before the next line of a block text. Finds the indentation, where it is 0.
    fn empty_lines(&mut self, indent: &mut i64, breaks: &mut String) -> Result<(), LoadError> {
        let mut widest = 0;
        loop {
            let inside = |column: i64| *indent == 0 || column < *indent;
            while inside(self.cursor.column()) && self.cursor.byte(0) == b' ' {
                self.cursor.skip();
            }
            widest = widest.max(self.cursor.column());
            if inside(self.cursor.column()) && self.cursor.byte(0) == b'\t' {
                return self.fail("found a tab character where an indentation space is expected");
            }
            if !self.cursor.is_break(0) {
                break;
            }
            self.cursor.take_break(breaks);
        }
        if *indent == 0 {
            *indent = widest.max(self.indent + 1).max(1);
        }
        Ok(())
    }
}
