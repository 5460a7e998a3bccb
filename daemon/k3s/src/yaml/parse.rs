//! From bytes to resolved nodes, with go-yaml's refusals.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::rc::Rc;

use granit_parser::{Event, Options, Parser, ScalarStyle, Tag};

use super::{Node, Value, resolve};

/// Nested lists and maps we follow. K3s' own options need three.
const DEPTH_LIMIT: usize = 100;
/// Nodes after all aliases are followed, for a document that has aliases.
const EXPANDED_LIMIT: usize = 100_000;

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
    check_list_tabs(&text)?;
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.flow_nesting_limit = DEPTH_LIMIT;
    options.block_nesting_limit = DEPTH_LIMIT;
    let mut parser = Parser::new_from_str_with_options(&text, options);
    let mut builder = Builder::default();
    loop {
        let Some(next) = parser.next_event() else { break };
        let (event, span) = next.map_err(|e| {
            LoadError::at(line_of(e.marker().line()), format!("broken YAML: {}", scrub(&e.info())))
        })?;
        let line = line_of(span.start.line());
        match event {
            Event::DocumentStart(_, Some(version)) if (version.major, version.minor) != (1, 1) => {
                return Err(LoadError::at(line, "broken YAML: K3s takes no %YAML directive but 1.1; remove the line"));
            }
            Event::DocumentEnd => break,
            Event::StreamEnd => break,
            event => builder.take(event, line)?,
        }
    }
    let second = loop {
        match parser.next_event() {
            Some(Ok((Event::DocumentStart(..), span))) => break Some(line_of(span.start.line())),
            Some(Ok((Event::StreamEnd, _))) | Some(Err(_)) | None => break None,
            Some(Ok(_)) => {}
        }
    };
    if builder.aliases > 0 && builder.weight > EXPANDED_LIMIT {
        return Err(LoadError::whole("broken YAML: the document contains excessive aliasing"));
    }
    Ok(Document { root: builder.root, second, merge_keys: builder.merge_keys })
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
            | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..='\u{10FFFF}')
            && c != '\u{FEFF}';
        if !allowed {
            return Err(LoadError::at(line_of(line), "broken YAML: control characters are not allowed"));
        }
        if c == '\n' {
            line += 1;
        }
    }
    Ok(())
}

/// go-yaml refuses a tab between the dash of a list item and a value on the same line.
fn check_list_tabs(text: &str) -> Result<(), LoadError> {
    let mut block: Option<usize> = None;
    for (number, line) in text.lines().enumerate() {
        let indent = line.len() - line.trim_start_matches(' ').len();
        let body = line.trim_start_matches(' ');
        // The text of a block scalar is no list.
        if let Some(parent) = block {
            if body.is_empty() || indent > parent {
                continue;
            }
            block = None;
        }
        let ends = body.trim_end();
        if ends.ends_with(['|', '>']) || ends.ends_with("|-") || ends.ends_with(">-") {
            block = Some(indent);
        }
        let mut rest = body;
        while let Some(after) = rest.strip_prefix('-') {
            if after.trim_start_matches(' ').starts_with('\t') && (after.starts_with(' ') || after.starts_with('\t')) {
                return Err(LoadError::at(
                    line_of(number + 1),
                    "broken YAML: found character that cannot start any token (a tab after a list dash); use spaces",
                ));
            }
            if !after.starts_with(' ') {
                break;
            }
            rest = after.trim_start_matches(' ');
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
}

impl Builder {
    fn take(&mut self, event: Event<'_>, line: u32) -> Result<(), LoadError> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let node = scalar(&text, style, tag.as_deref(), line)?;
                self.put(node, anchor, 1)
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

    fn open(&mut self, anchor: usize, is_map: bool, line: u32) -> Result<(), LoadError> {
        if self.stack.len() >= DEPTH_LIMIT {
            return Err(LoadError::at(line, format!("nested more than {DEPTH_LIMIT} levels deep; not followed")));
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
    let kind = tag.core_suffix().unwrap_or("");
    let value = resolve(text);
    let fits = match (kind, &value) {
        ("int", Value::Int(_)) | ("float", Value::Float(_)) | ("bool", Value::Bool(_)) | ("null", Value::Null) => true,
        #[allow(clippy::cast_precision_loss, reason = "Go converts the same way")]
        ("float", Value::Int(int)) => return Ok(Value::Float(*int as f64)),
        ("int" | "float" | "bool" | "null", _) => false,
        _ => return Ok(Value::Text(text.to_owned())),
    };
    if fits { Ok(value) } else { Err(LoadError::at(line, format!("broken YAML: the value is no !!{kind}"))) }
}
