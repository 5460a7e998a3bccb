//! From characters to tokens, with the rules of go-yaml v2's scanner: YAML 1.1 as libyaml reads it.
//!
//! Parsers for Rust read YAML 1.2, or libyaml's later compromise between the two. They differ in what may stand in a
//! flow collection, where tabs may, how far quoted text may reach to the left: enough for other settings, or none.

mod tag;
mod text;

use std::collections::VecDeque;

use super::LoadError;
use super::cursor::{Cursor, Mark};

/// Characters between a key and its colon, at most.
const KEY_LENGTH: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    VersionDirective,
    TagDirective,
    DocumentStart,
    DocumentEnd,
    StreamEnd,
    BlockSequenceStart,
    BlockMappingStart,
    BlockEnd,
    FlowSequenceStart,
    FlowSequenceEnd,
    FlowMappingStart,
    FlowMappingEnd,
    BlockEntry,
    FlowEntry,
    Key,
    Value,
    Alias,
    Anchor,
    Tag,
    /// Text without quotes.
    Plain,
    /// Text in quotes or in a block.
    Quoted,
}

#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) kind: Kind,
    /// Line it begins on, from 1.
    pub(super) line: u32,
    /// A scalar's text, an anchor's name, a version, the handle of a tag.
    pub(super) text: String,
    /// The rest of a tag, the prefix its handle stands for.
    pub(super) rest: String,
}

impl Token {
    fn of(kind: Kind, line: u32) -> Self {
        Self { kind, line, text: String::new(), rest: String::new() }
    }
}

/// Something that is a key if a colon follows.
#[derive(Debug, Clone, Copy)]
struct PossibleKey {
    /// Whether nothing else may stand there.
    required: bool,
    /// Number of its first token.
    token: usize,
    mark: Mark,
    /// Whether go-yaml holds the token back until the colon comes. It forgets to for an empty flow collection.
    held: bool,
}

/// The block, or an open flow collection.
#[derive(Debug, Clone, Copy, Default)]
struct Level {
    key: Option<PossibleKey>,
    /// Number of the last possible key's first token; before any of the token that opened it.
    number: usize,
}

pub(super) struct Scanner<'a> {
    cursor: Cursor<'a>,
    tokens: VecDeque<Token>,
    /// Tokens handed out.
    parsed: usize,
    /// Whether it is certain that nothing comes before the first token.
    ready: bool,
    /// Column of the block we are in; -1 outside of all.
    indent: i64,
    indents: Vec<i64>,
    /// Open flow collections.
    flow: usize,
    /// Whether a key may begin here.
    key_allowed: bool,
    levels: Vec<Level>,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            cursor: Cursor::new(text),
            tokens: VecDeque::new(),
            parsed: 0,
            ready: false,
            indent: -1,
            indents: Vec::new(),
            flow: 0,
            key_allowed: true,
            levels: vec![Level::default()],
        }
    }

    /// Kind and line of the next token.
    pub(super) fn peek(&mut self) -> Result<(Kind, u32), LoadError> {
        while !self.ready {
            if !self.tokens.is_empty() && !self.first_may_be_key()? {
                self.ready = true;
            } else {
                self.fetch()?;
            }
        }
        let line = self.cursor.mark().line;
        Ok(self.tokens.front().map_or((Kind::StreamEnd, line), |t| (t.kind, t.line)))
    }

    /// The next token. The last one, the end, stays.
    pub(super) fn next(&mut self) -> Result<Token, LoadError> {
        let (kind, line) = self.peek()?;
        if kind == Kind::StreamEnd {
            return Ok(Token::of(kind, line));
        }
        self.parsed += 1;
        self.ready = false;
        Ok(self.tokens.pop_front().unwrap_or_else(|| Token::of(kind, line)))
    }

    fn first_may_be_key(&mut self) -> Result<bool, LoadError> {
        let number = self.parsed;
        match self.levels.iter().position(|l| l.key.is_some_and(|k| k.token == number && k.held)) {
            Some(level) => self.still_possible(level),
            None => Ok(false),
        }
    }

    /// Whether the possible key of this level is one still: keys are short and on one line.
    fn still_possible(&mut self, level: usize) -> Result<bool, LoadError> {
        let Some(level) = self.levels.get_mut(level) else { return Ok(false) };
        let Some(key) = level.key else { return Ok(false) };
        let here = self.cursor.mark();
        if key.mark.line < here.line || key.mark.index + KEY_LENGTH < here.index {
            if key.required {
                return Err(no_colon(key.mark));
            }
            level.key = None;
            return Ok(false);
        }
        Ok(true)
    }

    fn save_key(&mut self) -> Result<(), LoadError> {
        if self.key_allowed {
            let mark = self.cursor.mark();
            let required = self.flow == 0 && self.indent == mark.column;
            self.remove_key()?;
            let token = self.parsed + self.tokens.len();
            if let Some(level) = self.levels.last_mut() {
                *level = Level { key: Some(PossibleKey { required, token, mark, held: true }), number: token };
            }
        }
        Ok(())
    }

    fn take_key(&mut self) -> Option<PossibleKey> {
        self.levels.last_mut().and_then(|level| level.key.take())
    }

    fn remove_key(&mut self) -> Result<(), LoadError> {
        match self.take_key() {
            Some(key) if key.required => Err(no_colon(key.mark)),
            _ => Ok(()),
        }
    }

    /// At the end nothing is a key any more, in the open flow collections neither.
    fn no_keys(&mut self) -> Result<(), LoadError> {
        match self.levels.iter_mut().filter_map(|level| level.key.take()).find(|key| key.required) {
            Some(key) => Err(no_colon(key.mark)),
            None => Ok(()),
        }
    }

    fn fail<T>(&self, detail: &str) -> Result<T, LoadError> {
        Err(LoadError::at(self.cursor.mark().line, format!("broken YAML: {detail}")))
    }

    /// Adds at least one token, or forgets a key.
    fn fetch(&mut self) -> Result<(), LoadError> {
        self.skip_gap();
        let here = self.cursor.mark();
        self.unroll(here.column);
        if self.cursor.at_end() {
            self.unroll(-1);
            self.no_keys()?;
            self.key_allowed = false;
            self.push(Kind::StreamEnd);
            return Ok(());
        }
        if here.column == 0 && self.cursor.byte(0) == b'%' {
            self.unroll(-1);
            self.remove_key()?;
            self.key_allowed = false;
            return self.directive();
        }
        for (indicator, kind) in [(b'-', Kind::DocumentStart), (b'.', Kind::DocumentEnd)] {
            if self.cursor.is_document_indicator(indicator) {
                self.unroll(-1);
                self.remove_key()?;
                self.key_allowed = false;
                self.push(kind);
                (0..3).for_each(|_| self.cursor.skip());
                return Ok(());
            }
        }
        let (gap, in_flow) = (self.cursor.is_gap(1), self.flow > 0);
        match self.cursor.byte(0) {
            b'[' => self.flow_start(Kind::FlowSequenceStart),
            b'{' => self.flow_start(Kind::FlowMappingStart),
            b']' => self.flow_end(Kind::FlowSequenceEnd),
            b'}' => self.flow_end(Kind::FlowMappingEnd),
            b',' => {
                self.remove_key()?;
                self.key_allowed = true;
                self.indicator(Kind::FlowEntry);
                Ok(())
            }
            b'-' if gap => self.block_entry(),
            b'?' if gap || in_flow => self.explicit_key(),
            b':' if gap || in_flow => self.value(),
            b'*' => self.anchor(Kind::Alias),
            b'&' => self.anchor(Kind::Anchor),
            b'!' => self.tag(),
            b'|' if !in_flow => self.block_text(true),
            b'>' if !in_flow => self.block_text(false),
            b'\'' => self.quoted(true),
            b'"' => self.quoted(false),
            // A dash before a letter, and outside of flow collections a question mark or colon, begin plain text.
            b'-' | b'?' | b':' => self.plain(),
            b'\t' => self.fail(
                "found character that cannot start any token (a tab in the indentation or after a list dash); use spaces",
            ),
            b'#' | b'|' | b'>' | b'%' | b'@' | b'`' => self.fail("found character that cannot start any token"),
            _ => self.plain(),
        }
    }

    fn skip_gap(&mut self) {
        loop {
            let tabs = self.flow > 0 || !self.key_allowed;
            while self.cursor.byte(0) == b' ' || (tabs && self.cursor.byte(0) == b'\t') {
                self.cursor.skip();
            }
            self.cursor.skip_comment();
            if !self.cursor.is_break(0) {
                return;
            }
            self.cursor.skip_break();
            if self.flow == 0 {
                self.key_allowed = true;
            }
        }
    }

    fn push(&mut self, kind: Kind) {
        self.tokens.push_back(Token::of(kind, self.cursor.mark().line));
    }

    fn indicator(&mut self, kind: Kind) {
        self.push(kind);
        self.cursor.skip();
    }

    /// Begins a block at `column`, unless we are in it or in a flow collection. `number`: of the token it stands before.
    fn roll(&mut self, column: i64, number: Option<usize>, kind: Kind, line: u32) {
        if self.flow > 0 || self.indent >= column {
            return;
        }
        self.indents.push(self.indent);
        self.indent = column;
        self.insert(number, Token::of(kind, line));
    }

    fn insert(&mut self, number: Option<usize>, token: Token) {
        let end = self.tokens.len();
        let at = number.and_then(|n| n.checked_sub(self.parsed)).map_or(end, |n| n.min(end));
        self.tokens.insert(at, token);
    }

    /// Ends the blocks that stand further right.
    fn unroll(&mut self, column: i64) {
        if self.flow > 0 {
            return;
        }
        while self.indent > column {
            self.push(Kind::BlockEnd);
            self.indent = self.indents.pop().unwrap_or(-1);
        }
    }

    fn flow_start(&mut self, kind: Kind) -> Result<(), LoadError> {
        self.save_key()?;
        self.levels.push(Level { key: None, number: self.parsed + self.tokens.len() });
        self.flow += 1;
        self.key_allowed = true;
        self.indicator(kind);
        Ok(())
    }

    fn flow_end(&mut self, kind: Kind) -> Result<(), LoadError> {
        self.remove_key()?;
        if self.flow > 0 {
            self.flow -= 1;
            let closed = self.levels.pop().unwrap_or_default();
            if let Some(outer) = self.levels.last_mut().and_then(|level| level.key.as_mut())
                && outer.token == closed.number
            {
                outer.held = false;
            }
        }
        self.key_allowed = false;
        self.indicator(kind);
        Ok(())
    }

    fn block_entry(&mut self) -> Result<(), LoadError> {
        if self.flow == 0 {
            if !self.key_allowed {
                return self.fail("block sequence entries are not allowed in this context");
            }
            let here = self.cursor.mark();
            self.roll(here.column, None, Kind::BlockSequenceStart, here.line);
        }
        self.remove_key()?;
        self.key_allowed = true;
        self.indicator(Kind::BlockEntry);
        Ok(())
    }

    fn explicit_key(&mut self) -> Result<(), LoadError> {
        if self.flow == 0 {
            if !self.key_allowed {
                return self.fail("mapping keys are not allowed in this context");
            }
            let here = self.cursor.mark();
            self.roll(here.column, None, Kind::BlockMappingStart, here.line);
        }
        self.remove_key()?;
        self.key_allowed = self.flow == 0;
        self.indicator(Kind::Key);
        Ok(())
    }

    fn value(&mut self) -> Result<(), LoadError> {
        let level = self.levels.len().saturating_sub(1);
        let key = if self.still_possible(level)? { self.take_key() } else { None };
        if let Some(key) = key {
            self.insert(Some(key.token), Token::of(Kind::Key, key.mark.line));
            self.roll(key.mark.column, Some(key.token), Kind::BlockMappingStart, key.mark.line);
            self.key_allowed = false;
        } else {
            if self.flow == 0 {
                if !self.key_allowed {
                    return self.fail("mapping values are not allowed in this context");
                }
                let here = self.cursor.mark();
                self.roll(here.column, None, Kind::BlockMappingStart, here.line);
            }
            self.key_allowed = self.flow == 0;
        }
        self.indicator(Kind::Value);
        Ok(())
    }
}

fn no_colon(mark: Mark) -> LoadError {
    LoadError::at(mark.line, "broken YAML: could not find expected ':' after a key")
}
