//! From bytes to resolved nodes, with go-yaml's refusals.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::rc::Rc;

use granit_parser::{Event, Options, Parser, ScalarStyle, Span, StructureStyle, Tag};

use super::{Node, Value, resolve};

/// Nested lists and maps we follow. K3s' own options need three.
const DEPTH_LIMIT: usize = 100;
/// Nodes after all aliases are followed, for a document that has aliases.
const EXPANDED_LIMIT: usize = 100_000;
/// Nodes of one document we keep. K3s itself knows no such limit.
const NODES_LIMIT: usize = 250_000;
/// So many bytes of text weigh as much as a node.
const TEXT_WEIGHT: usize = 32;

/// Why a file is no YAML that K3s takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub(crate) struct LoadError {
    /// Line, from 1, where it is known.
    pub(crate) line: Option<u32>,
    /// What is wrong. Never the file's text.
    pub(crate) detail: String,
}

impl LoadError {
    fn at(line: u32, detail: impl Into<String>) -> Self {
        Self { line: Some(line), detail: detail.into() }
    }

    fn whole(detail: impl Into<String>) -> Self {
        Self { line: None, detail: detail.into() }
    }
}

/// A document as read.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    /// The first document; none in an empty file.
    pub(crate) root: Option<Node>,
    /// Line of a second document, which K3s does not read.
    pub(crate) second: Option<u32>,
    /// Lines of merge keys, which K3s loses.
    pub(crate) merge_keys: Vec<u32>,
}

/// Reads the first document.
pub(crate) fn load(bytes: &[u8]) -> Result<Document, LoadError> {
    let text = decode(bytes)?;
    check_characters(&text)?;
    let text = breaks(text);
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.flow_nesting_limit = DEPTH_LIMIT;
    options.block_nesting_limit = DEPTH_LIMIT;
    let mut parser = Parser::new_from_str_with_options(&text, options);
    let mut builder = Builder::default();
    let mut tabs = Tabs::new(&text);
    while let Some(next) = parser.next_event() {
        let (event, span) = next.map_err(|e| {
            let line = line_of(e.marker().line());
            match scrub(&e.info()) {
                // Our limit, not one of K3s.
                info if info.contains("recursion limit") => too_deep(line),
                info => LoadError::at(line, format!("broken YAML: {info}")),
            }
        })?;
        let line = line_of(span.start.line());
        match event {
            Event::DocumentStart(_, Some(version)) if (version.major, version.minor) != (1, 1) => {
                let line = text.lines().position(|l| l.starts_with("%YAML")).map_or(line, |i| line_of(i + 1));
                return Err(LoadError::at(line, "broken YAML: K3s takes no %YAML directive but 1.1; remove the line"));
            }
            Event::DocumentEnd | Event::StreamEnd => break,
            event => {
                tabs.see(&event, &span)?;
                let empty = matches!(&event, Event::Scalar(..)) && span.is_empty();
                if empty && builder.wants_key() && colon_alone(&text, &event, &span) {
                    return Err(LoadError::at(line, "broken YAML: a colon without a key before it"));
                }
                let event = match event {
                    // The parser gives `~` for a value that is not there.
                    Event::Scalar(_, style, anchor, tag) if empty && style == ScalarStyle::Plain => {
                        Event::Scalar(Cow::Borrowed(""), style, anchor, tag)
                    }
                    event => event,
                };
                builder.take(event, line)?;
            }
        }
    }
    tabs.finish()?;
    let second = loop {
        match parser.next_event() {
            Some(Ok((Event::DocumentStart(..), span))) => break Some(line_of(span.start.line())),
            Some(Ok((Event::StreamEnd, _)) | Err(_)) | None => break None,
            Some(Ok(_)) => {}
        }
    };
    if builder.aliases > 0 && builder.weight > EXPANDED_LIMIT {
        return Err(LoadError::whole("broken YAML: the document contains excessive aliasing"));
    }
    Ok(Document { root: builder.root, second, merge_keys: builder.merge_keys })
}

fn too_deep(line: u32) -> LoadError {
    LoadError::at(
        line,
        format!("cannot be read: nested more than {DEPTH_LIMIT} levels deep; its settings are not known"),
    )
}

/// Whether a missing key stands right before its colon: go-yaml refuses that unless a `?` announced the key.
fn colon_alone(text: &str, event: &Event<'_>, span: &Span) -> bool {
    let Some((before, after)) = span.start.byte_offset().and_then(|o| text.split_at_checked(o)) else { return false };
    let bare = matches!(event, Event::Scalar(_, _, 0, None));
    bare && after.starts_with(':') && !before.trim_end().ends_with('?')
}

/// Stands for a byte order mark inside a text, which go-yaml takes and our parser does not.
const MARK_INSIDE: char = '\u{F8FE}';

/// YAML 1.1 has three more line breaks than 1.2, and takes a byte order mark anywhere.
fn breaks(text: Cow<'_, str>) -> Cow<'_, str> {
    const MORE: [char; 3] = ['\u{85}', '\u{2028}', '\u{2029}'];
    let text = if text.contains(MORE) { Cow::Owned(text.replace(MORE, "\n")) } else { text };
    if text.contains('\u{FEFF}') { Cow::Owned(text.replace('\u{FEFF}', &MARK_INSIDE.to_string())) } else { text }
}

/// go-yaml refuses tabs where a line's indentation or a list dash leads to a token.
struct Tabs<'a> {
    lines: Vec<&'a str>,
    /// Open flow collections, with the line of the outermost.
    flow: usize,
    flow_from: usize,
    /// Lines (from, to) inside of which tabs may lead: quoted and block texts, flow collections.
    free: Vec<(usize, usize)>,
    last: usize,
}

impl<'a> Tabs<'a> {
    fn new(text: &'a str) -> Self {
        Self { lines: text.lines().collect(), flow: 0, flow_from: 0, free: Vec::new(), last: 0 }
    }

    fn refuse<T>(line: usize) -> Result<T, LoadError> {
        let detail = "broken YAML: found character that cannot start any token (a tab in the indentation or after a list dash); use spaces";
        Err(LoadError::at(line_of(line), detail))
    }

    fn see(&mut self, event: &Event<'_>, span: &Span) -> Result<(), LoadError> {
        let (from, to) = (span.start.line(), span.end.line());
        self.last = self.last.max(to);
        let token = match event {
            Event::Scalar(text, style, ..) => {
                if *style != ScalarStyle::Plain {
                    self.free.push((from, to));
                }
                *style != ScalarStyle::Plain || !text.is_empty()
            }
            Event::SequenceStart(style, ..) | Event::MappingStart(style, ..) => {
                let is_flow = *style == StructureStyle::Flow;
                if is_flow || self.flow > 0 {
                    if self.flow == 0 {
                        self.flow_from = from;
                    }
                    self.flow += 1;
                    self.flow == 1
                } else {
                    false
                }
            }
            Event::SequenceEnd | Event::MappingEnd if self.flow > 0 => {
                self.flow -= 1;
                if self.flow == 0 {
                    self.free.push((self.flow_from, to));
                }
                false
            }
            Event::Alias(_) => true,
            _ => false,
        };
        let inside = self.flow > usize::from(matches!(event, Event::SequenceStart(..) | Event::MappingStart(..)));
        if token && !inside {
            let line = self.lines.get(from.saturating_sub(1)).copied().unwrap_or_default();
            let mut lead = line.chars().take(span.start.col());
            let mut tab = false;
            if lead.all(|c| {
                tab |= c == '\t';
                matches!(c, ' ' | '\t' | '-' | '?')
            }) && tab
            {
                return Self::refuse(from);
            }
        }
        Ok(())
    }

    /// Lines that begin with a tab and hold no token of their own.
    fn finish(&self) -> Result<(), LoadError> {
        // How many free stretches begin and end at each line.
        let mut steps: BTreeMap<usize, i64> = BTreeMap::new();
        for (from, to) in &self.free {
            *steps.entry(from + 1).or_default() += 1;
            *steps.entry(to + 1).or_default() -= 1;
        }
        let mut free = 0;
        for (i, line) in self.lines.iter().enumerate() {
            let number = i + 1;
            free += steps.get(&number).copied().unwrap_or_default();
            if number > self.last.max(1) + 1 {
                break;
            }
            if free == 0 && line.starts_with('\t') {
                return Self::refuse(number);
            }
        }
        Ok(())
    }
}

fn line_of(line: usize) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX).max(1)
}

/// A parser's message without what it quotes of the file, which may be secret.
fn scrub(message: &str) -> String {
    let mut out = String::new();
    let mut parts = message.split(['"', '`']);
    out.push_str(parts.next().unwrap_or_default());
    let mut inside = true;
    for part in parts {
        out.push_str(if inside { "…" } else { part });
        inside = !inside;
    }
    out
}

/// UTF-8, or UTF-16 with a byte order mark.
fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, LoadError> {
    let wide = |rest: &[u8], join: fn([u8; 2]) -> u16| {
        let units = rest.chunks(2).map(|pair| match pair {
            [a, b] => Some(join([*a, *b])),
            _ => None,
        });
        let units: Option<Vec<u16>> = units.collect();
        units
            .and_then(|u| String::from_utf16(&u).ok())
            .map(Cow::Owned)
            .ok_or_else(|| LoadError::whole("broken YAML: not valid UTF-16"))
    };
    match bytes {
        [0xFF, 0xFE, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xFE, 0xFF, rest @ ..] => wide(rest, u16::from_be_bytes),
        [0xEF, 0xBB, 0xBF, rest @ ..] => utf8(rest),
        rest => utf8(rest),
    }
}

fn utf8(bytes: &[u8]) -> Result<Cow<'_, str>, LoadError> {
    std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|e| {
        let before = bytes.get(..e.valid_up_to()).unwrap_or_default();
        let line = before.iter().filter(|b| **b == b'\n').count() + 1;
        LoadError::at(line_of(line), "broken YAML: a byte that is not UTF-8; K3s takes none, not even in a comment")
    })
}

/// go-yaml refuses control characters anywhere, comments included.
fn check_characters(text: &str) -> Result<(), LoadError> {
    let mut line = 1;
    for c in text.chars() {
        let allowed = matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{7E}' | '\u{85}' | '\u{A0}'..='\u{D7FF}'
            | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..='\u{10FFFF}');
        if !allowed {
            return Err(LoadError::at(line_of(line), "broken YAML: control characters are not allowed"));
        }
        if c == '\n' {
            line += 1;
        }
    }
    Ok(())
}

/// A list or map whose end was not seen yet.
struct Open {
    line: u32,
    anchor: usize,
    is_map: bool,
    children: Vec<Node>,
    /// Nodes below, aliases followed.
    weight: usize,
}

#[derive(Default)]
struct Builder {
    stack: Vec<Open>,
    anchors: BTreeMap<usize, (Node, usize)>,
    root: Option<Node>,
    merge_keys: Vec<u32>,
    aliases: usize,
    weight: usize,
    nodes: usize,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, line: u32) -> Result<(), LoadError> {
        self.nodes += 1;
        if self.nodes > NODES_LIMIT {
            let detail = format!("cannot be read: more than {NODES_LIMIT} values; its settings are not known");
            return Err(LoadError::at(line, detail));
        }
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let node = scalar(&text, style, tag.as_deref(), line)?;
                self.put(node, anchor, 1 + text.len() / TEXT_WEIGHT)
            }
            Event::SequenceStart(_, anchor, _) => self.open(anchor, false, line),
            Event::MappingStart(_, anchor, _) => self.open(anchor, true, line),
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(id) => {
                self.aliases += 1;
                let Some((node, weight)) = self.anchors.get(&id).cloned() else {
                    return Err(LoadError::at(line, "broken YAML: an anchor's value contains itself"));
                };
                self.put(Node { line, ..node }, 0, weight)
            }
            _ => Ok(()),
        }
    }

    /// Whether the next node is a key.
    fn wants_key(&self) -> bool {
        self.stack.last().is_some_and(|open| open.is_map && open.children.len() % 2 == 0)
    }

    fn open(&mut self, anchor: usize, is_map: bool, line: u32) -> Result<(), LoadError> {
        if self.stack.len() >= DEPTH_LIMIT {
            return Err(too_deep(line));
        }
        self.stack.push(Open { line, anchor, is_map, children: Vec::new(), weight: 1 });
        Ok(())
    }

    fn close(&mut self) -> Result<(), LoadError> {
        let Some(open) = self.stack.pop() else { return Ok(()) };
        let value = if open.is_map { Value::Map(self.pairs(open.children)?) } else { Value::List(open.children) };
        self.put(Node { line: open.line, plain: None, value: Rc::new(value) }, open.anchor, open.weight)
    }

    /// Keys with values. Merge keys are checked and lost, as K3s' loader loses them.
    fn pairs(&mut self, children: Vec<Node>) -> Result<Vec<(Node, Node)>, LoadError> {
        let mut pairs = Vec::with_capacity(children.len() / 2);
        let mut children = children.into_iter();
        while let (Some(key), Some(value)) = (children.next(), children.next()) {
            if key.plain.as_deref() == Some("<<") {
                let is_map = |n: &Node| matches!(&*n.value, Value::Map(_));
                if !is_map(&value) && !value.items().is_some_and(|items| items.iter().all(is_map)) {
                    return Err(LoadError::at(key.line, "broken YAML: a merge key (<<) needs a map"));
                }
                self.merge_keys.push(key.line);
            } else {
                pairs.push((key, value));
            }
        }
        Ok(pairs)
    }

    fn put(&mut self, node: Node, anchor: usize, weight: usize) -> Result<(), LoadError> {
        if anchor > 0 {
            self.anchors.insert(anchor, (node.clone(), weight));
        }
        if let Some(parent) = self.stack.last_mut() {
            parent.weight = parent.weight.saturating_add(weight);
            parent.children.push(node);
        } else {
            self.weight = weight;
            self.root = Some(node);
        }
        Ok(())
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, line: u32) -> Result<Node, LoadError> {
    let restored = text.contains(MARK_INSIDE).then(|| text.replace(MARK_INSIDE, "\u{FEFF}"));
    let text = restored.as_deref().unwrap_or(text);
    let plain = style == ScalarStyle::Plain;
    let value = match tag {
        None if plain => resolve(text),
        None => Value::Text(text.to_owned()),
        Some(tag) => tagged(text, tag, line)?,
    };
    let plain = (plain && tag.is_none()).then(|| Rc::from(text));
    Ok(Node { line, plain, value: Rc::new(value) })
}

/// A scalar with an explicit tag: go-yaml reads it by the usual rules and refuses what does not fit the tag.
fn tagged(text: &str, tag: &Tag, line: u32) -> Result<Value, LoadError> {
    let kind = tag.suffix_in_namespace("tag:yaml.org,2002:").unwrap_or_default();
    let kind = kind.as_ref();
    let value = resolve(text);
    let fits = match (kind, &value) {
        ("int", Value::Int(_)) | ("float", Value::Float(_)) | ("bool", Value::Bool(_)) | ("null", Value::Null) => true,
        #[allow(clippy::cast_precision_loss, reason = "Go converts the same way")]
        ("float", Value::Int(int)) => return Ok(Value::Float(*int as f64)),
        ("int" | "float" | "bool" | "null", _) => false,
        ("binary", _) => {
            let bytes =
                base64(text).ok_or_else(|| LoadError::at(line, "broken YAML: !!binary without valid base64"))?;
            return Ok(Value::Text(String::from_utf8_lossy(&bytes).into_owned()));
        }
        _ => return Ok(Value::Text(text.to_owned())),
    };
    if fits { Ok(value) } else { Err(LoadError::at(line, format!("broken YAML: the value is no !!{kind}"))) }
}

/// Standard base64 with padding, line breaks allowed, as Go decodes it.
fn base64(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|b| !matches!(b, b'\r' | b'\n')).collect();
    if !digits.len().is_multiple_of(4) {
        return None;
    }
    let mut out = Vec::with_capacity(digits.len() / 4 * 3);
    let groups = digits.len() / 4;
    for (i, group) in digits.chunks(4).enumerate() {
        let padding = group.iter().rev().take_while(|b| **b == b'=').count();
        if padding > 2 || (padding > 0 && i + 1 != groups) {
            return None;
        }
        let mut bits = 0u32;
        for digit in group.iter().take(4 - padding) {
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        bits <<= 6 * padding;
        let bytes = bits.to_be_bytes();
        out.extend(bytes.iter().skip(1).take(3 - padding));
    }
    Some(out)
}
