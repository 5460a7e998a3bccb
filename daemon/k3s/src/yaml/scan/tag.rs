//! Anchors, tags and directives.

use super::{Kind, LoadError, Scanner, Token};

const ALNUM: &str = "did not find expected alphabetic or numeric character in the name of an anchor or alias";

impl Scanner<'_> {
    pub(super) fn anchor(&mut self, kind: Kind) -> Result<(), LoadError> {
        self.save_key()?;
        self.key_allowed = false;
        let mut token = Token::of(kind, self.cursor.mark().line);
        self.cursor.skip();
        self.word(&mut token.text);
        let ends = self.cursor.is_gap(0)
            || matches!(self.cursor.byte(0), b'?' | b':' | b',' | b']' | b'}' | b'%' | b'@' | b'`');
        if token.text.is_empty() || !ends {
            return self.fail(ALNUM);
        }
        self.tokens.push_back(token);
        Ok(())
    }

    pub(super) fn tag(&mut self) -> Result<(), LoadError> {
        self.save_key()?;
        self.key_allowed = false;
        let mut token = Token::of(Kind::Tag, self.cursor.mark().line);
        if self.cursor.byte(1) == b'<' {
            self.cursor.skip();
            self.cursor.skip();
            token.rest = self.uri("")?;
            if self.cursor.byte(0) != b'>' {
                return self.fail("did not find the expected '>' of a tag");
            }
            self.cursor.skip();
        } else {
            let handle = self.handle(false)?;
            if handle.len() > 1 && handle.ends_with('!') {
                token.rest = self.uri("")?;
                token.text = handle;
            } else {
                // `!name` is the primary handle with a name.
                token.rest = self.uri(&handle)?;
                "!".clone_into(&mut token.text);
                if token.rest.is_empty() {
                    std::mem::swap(&mut token.text, &mut token.rest);
                }
            }
        }
        if !self.cursor.is_gap(0) {
            return self.fail("did not find expected whitespace or line break after a tag");
        }
        self.tokens.push_back(token);
        Ok(())
    }

    pub(super) fn directive(&mut self) -> Result<(), LoadError> {
        let line = self.cursor.mark().line;
        self.cursor.skip();
        let mut name = String::new();
        self.word(&mut name);
        if name.is_empty() || !self.cursor.is_gap(0) {
            return self.fail("found unexpected character in a directive's name");
        }
        let mut token = match name.as_str() {
            "YAML" => {
                self.cursor.skip_blanks();
                let mut token = Token::of(Kind::VersionDirective, line);
                token.text = self.number()?;
                if self.cursor.byte(0) != b'.' {
                    return self.fail("did not find expected digit or '.' in a %YAML directive");
                }
                self.cursor.skip();
                token.rest = self.number()?;
                token
            }
            "TAG" => {
                self.cursor.skip_blanks();
                let mut token = Token::of(Kind::TagDirective, line);
                token.text = self.handle(true)?;
                if !self.cursor.is_blank(0) {
                    return self.fail("did not find expected whitespace in a %TAG directive");
                }
                self.cursor.skip_blanks();
                token.rest = self.uri("")?;
                if !self.cursor.is_gap(0) {
                    return self.fail("did not find expected whitespace or line break in a %TAG directive");
                }
                token
            }
            _ => return self.fail("found unknown directive name"),
        };
        token.line = line;
        self.cursor.skip_blanks();
        self.cursor.skip_comment();
        if !self.cursor.is_break_or_end(0) {
            return self.fail("did not find expected comment or line break after a directive");
        }
        self.cursor.skip_break();
        self.tokens.push_back(token);
        Ok(())
    }

    fn word(&mut self, into: &mut String) {
        while self.cursor.is_word() {
            self.cursor.take(into);
        }
    }

    /// A number of a version, without leading zeros.
    fn number(&mut self) -> Result<String, LoadError> {
        let mut digits = String::new();
        while self.cursor.byte(0).is_ascii_digit() {
            self.cursor.take(&mut digits);
        }
        match digits.parse::<u8>() {
            Ok(number) if digits.len() <= 2 => Ok(number.to_string()),
            _ => self.fail("did not find expected version number in a %YAML directive"),
        }
    }

    fn handle(&mut self, directive: bool) -> Result<String, LoadError> {
        let mut handle = String::new();
        if self.cursor.byte(0) != b'!' {
            return self.fail("did not find expected '!' of a tag");
        }
        self.cursor.take(&mut handle);
        self.word(&mut handle);
        if self.cursor.byte(0) == b'!' {
            self.cursor.take(&mut handle);
        } else if directive && handle != "!" {
            return self.fail("did not find expected '!' of a tag");
        }
        Ok(handle)
    }

    /// The rest of a tag, after what was read of it as a handle.
    fn uri(&mut self, head: &str) -> Result<String, LoadError> {
        let mut uri = head.get(1..).unwrap_or_default().as_bytes().to_vec();
        let mut any = !head.is_empty();
        loop {
            let byte = self.cursor.byte(0);
            if byte == b'%' {
                self.escape(&mut uri)?;
            } else if self.cursor.is_word() || b";/?:@&=+$,.!~*'()[]".contains(&byte) {
                uri.push(byte);
                self.cursor.skip();
            } else {
                break;
            }
            any = true;
        }
        if !any {
            return self.fail("did not find expected tag URI");
        }
        Ok(String::from_utf8_lossy(&uri).into_owned())
    }

    /// One character written as `%` and hexadecimal digits for each of its bytes.
    fn escape(&mut self, into: &mut Vec<u8>) -> Result<(), LoadError> {
        let mut left = None;
        while left != Some(0) {
            let digit = |ahead| char::from(self.cursor.byte(ahead)).to_digit(16).and_then(|d| u8::try_from(d).ok());
            let (b'%', Some(high), Some(low)) = (self.cursor.byte(0), digit(1), digit(2)) else {
                return self.fail("did not find URI escaped octet");
            };
            let octet = high << 4 | low;
            left = Some(match (left, octet) {
                (None, 0x00..=0x7F) => 0,
                (None, 0xC0..=0xDF) => 1,
                (None, 0xE0..=0xEF) => 2,
                (None, 0xF0..=0xF7) => 3,
                (Some(left), 0x80..=0xBF) => left - 1,
                _ => return self.fail("found an incorrect UTF-8 octet in a tag"),
            });
            into.push(octet);
            (0..3).for_each(|_| self.cursor.skip());
        }
        Ok(())
    }
}
