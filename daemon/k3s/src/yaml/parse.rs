//! From tokens to resolved nodes, with go-yaml's refusals.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::scan::{Kind, Scanner, Token};
use super::tagged::{OWN, tagged};
use super::{LoadError, Node, Value, input, resolve};

/// Nested lists and maps we follow. K3s' own options need three.
const DEPTH_LIMIT: usize = 100;
/// Nodes after all aliases are followed, for a document that has aliases.
const EXPANDED_LIMIT: usize = 100_000;
/// Nodes of one document we keep. K3s itself knows no such limit.
const NODES_LIMIT: usize = 250_000;
/// So many bytes of text weigh as much as a node.
const TEXT_WEIGHT: usize = 32;

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
    let text = input::characters(bytes)?;
    let mut parser = Parser::new(&text);
    let root = parser.document()?;
    if parser.aliases > 0 && root.as_ref().is_some_and(|r| r.weight > EXPANDED_LIMIT) {
        return Err(LoadError::whole("broken YAML: the document contains excessive aliasing"));
    }
    let second = parser.second();
    Ok(Document { root: root.map(|r| r.node), second, merge_keys: parser.merge_keys })
}

/// A node with what matters only until its parent is complete.
struct Parsed {
    node: Node,
    /// Nodes in it, aliases followed.
    weight: usize,
    alias: bool,
    /// Whether it is a merge key, if it is a key.
    merge: bool,
}

enum Anchor {
    /// The value is not complete; the number tells one from a later one of the same name.
    Open(usize),
    Done(Node, usize),
}

/// What may begin a node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Flow,
    Block,
    /// A list may begin here on the column of its key.
    KeyOrValue,
}

struct Parser<'a> {
    scanner: Scanner<'a>,
    anchors: BTreeMap<String, Anchor>,
    /// Handles of tags with what they stand for.
    handles: BTreeMap<String, String>,
    merge_keys: Vec<u32>,
    aliases: usize,
    nodes: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            scanner: Scanner::new(text),
            anchors: BTreeMap::new(),
            handles: BTreeMap::new(),
            merge_keys: Vec::new(),
            aliases: 0,
            nodes: 0,
            depth: 0,
        }
    }

    fn document(&mut self) -> Result<Option<Parsed>, LoadError> {
        let (kind, _) = self.scanner.peek()?;
        if kind == Kind::StreamEnd {
            return Ok(None);
        }
        self.directives()?;
        let (next, next_line) = self.scanner.peek()?;
        let root = if next == Kind::DocumentStart {
            self.scanner.next()?;
            match self.scanner.peek()? {
                (
                    Kind::VersionDirective
                    | Kind::TagDirective
                    | Kind::DocumentStart
                    | Kind::DocumentEnd
                    | Kind::StreamEnd,
                    line,
                ) => self.empty(line)?,
                _ => self.node(Place::Block)?,
            }
        } else if matches!(kind, Kind::VersionDirective | Kind::TagDirective) {
            return broken(next_line, "did not find expected document start (`---`) after a directive");
        } else {
            self.node(Place::Block)?
        };
        if self.scanner.peek()?.0 == Kind::DocumentEnd {
            self.scanner.next()?;
        }
        Ok(Some(root))
    }

    fn directives(&mut self) -> Result<(), LoadError> {
        let mut version = false;
        loop {
            match self.scanner.peek()? {
                (Kind::VersionDirective, line) => {
                    let token = self.scanner.next()?;
                    if version {
                        return broken(line, "found duplicate %YAML directive");
                    }
                    if (token.text.as_str(), token.rest.as_str()) != ("1", "1") {
                        return broken(line, "K3s takes no %YAML directive but 1.1; remove the line");
                    }
                    version = true;
                }
                (Kind::TagDirective, line) => {
                    let token = self.scanner.next()?;
                    if self.handles.insert(token.text, token.rest).is_some() {
                        return broken(line, "found duplicate %TAG directive");
                    }
                }
                _ => break,
            }
        }
        for (handle, prefix) in [("!", "!"), ("!!", OWN)] {
            self.handles.entry(handle.to_owned()).or_insert_with(|| prefix.to_owned());
        }
        Ok(())
    }

    /// Where something stands behind the first document.
    fn second(&mut self) -> Option<u32> {
        loop {
            match self.scanner.peek() {
                Ok((Kind::DocumentEnd, _)) => {
                    self.scanner.next().ok()?;
                }
                Ok((Kind::StreamEnd, _)) => return None,
                Ok((_, line)) => return Some(line),
                Err(error) => return error.line,
            }
        }
    }

    fn node(&mut self, place: Place) -> Result<Parsed, LoadError> {
        let (mut kind, line) = self.scanner.peek()?;
        if kind == Kind::Alias {
            return self.alias();
        }
        let (mut anchor, mut tag) = (None, None);
        // In either order, each once.
        while (kind == Kind::Anchor && anchor.is_none()) || (kind == Kind::Tag && tag.is_none()) {
            let token = self.scanner.next()?;
            if kind == Kind::Anchor {
                anchor = Some(token.text);
            } else {
                tag = Some(self.tag(token)?);
            }
            kind = self.scanner.peek()?.0;
        }
        match kind {
            Kind::BlockEntry if place == Place::KeyOrValue => {
                self.list(line, anchor, |p, items| p.block_list(true, items))
            }
            Kind::BlockSequenceStart if place != Place::Flow => {
                self.list(line, anchor, |p, items| p.block_list(false, items))
            }
            Kind::BlockMappingStart if place != Place::Flow => self.map(line, anchor, Self::block_map),
            Kind::FlowSequenceStart => self.list(line, anchor, Self::flow_list),
            Kind::FlowMappingStart => self.map(line, anchor, Self::flow_map),
            Kind::Plain | Kind::Quoted => {
                let token = self.scanner.next()?;
                self.scalar(&token.text, kind == Kind::Plain, tag.as_deref(), anchor, line)
            }
            _ if anchor.is_some() || tag.is_some() => self.scalar("", true, tag.as_deref(), anchor, line),
            _ => broken(self.scanner.peek()?.1, "did not find expected node content"),
        }
    }

    fn count(&mut self, line: u32) -> Result<(), LoadError> {
        self.nodes += 1;
        if self.nodes > NODES_LIMIT {
            let detail = format!("cannot be read: more than {NODES_LIMIT} values; its settings are not known");
            return Err(LoadError::at(line, detail));
        }
        Ok(())
    }

    fn tag(&self, token: Token) -> Result<String, LoadError> {
        if token.text.is_empty() {
            return Ok(token.rest);
        }
        match self.handles.get(&token.text) {
            Some(prefix) => Ok(format!("{prefix}{}", token.rest)),
            None => broken(token.line, "found undefined tag handle"),
        }
    }

    fn alias(&mut self) -> Result<Parsed, LoadError> {
        let token = self.scanner.next()?;
        self.count(token.line)?;
        self.aliases += 1;
        match self.anchors.get(&token.text) {
            Some(Anchor::Done(node, weight)) => Ok(Parsed {
                node: Node { line: token.line, ..node.clone() },
                weight: *weight,
                alias: true,
                merge: false,
            }),
            Some(Anchor::Open(_)) => broken(token.line, "an anchor's value contains itself"),
            None => broken(token.line, "an alias without an anchor of this name before it"),
        }
    }

    fn scalar(
        &mut self,
        text: &str,
        plain: bool,
        tag: Option<&str>,
        anchor: Option<String>,
        line: u32,
    ) -> Result<Parsed, LoadError> {
        self.count(line)?;
        let value = match tag {
            None if plain => resolve(text),
            None => Value::Text(text.to_owned()),
            Some(tag) => tagged(text, tag, line)?,
        };
        let untagged = plain && tag.is_none();
        let is_merge_tag = |t: &str| t == "!" || t.strip_prefix(OWN) == Some("merge");
        let merge = text == "<<" && (untagged || tag.is_some_and(is_merge_tag));
        let node = Node { line, plain: untagged.then(|| Rc::from(text)), value: Rc::new(value) };
        let weight = 1 + text.len() / TEXT_WEIGHT;
        if let Some(name) = anchor {
            self.anchors.insert(name, Anchor::Done(node.clone(), weight));
        }
        Ok(Parsed { node, weight, alias: false, merge })
    }

    /// A value that is not there.
    fn empty(&mut self, line: u32) -> Result<Parsed, LoadError> {
        self.scalar("", true, None, None, line)
    }

    fn list(
        &mut self,
        line: u32,
        anchor: Option<String>,
        read: impl FnOnce(&mut Self, &mut Vec<Parsed>) -> Result<(), LoadError>,
    ) -> Result<Parsed, LoadError> {
        self.collection(line, anchor, read, |_, items| Ok(Value::List(items.into_iter().map(|i| i.node).collect())))
    }

    /// `read` gives keys and values in turn.
    fn map(
        &mut self,
        line: u32,
        anchor: Option<String>,
        read: impl FnOnce(&mut Self, &mut Vec<Parsed>) -> Result<(), LoadError>,
    ) -> Result<Parsed, LoadError> {
        self.collection(line, anchor, read, |p, items| p.pairs(items).map(Value::Map))
    }

    fn collection(
        &mut self,
        line: u32,
        anchor: Option<String>,
        read: impl FnOnce(&mut Self, &mut Vec<Parsed>) -> Result<(), LoadError>,
        close: impl FnOnce(&mut Self, Vec<Parsed>) -> Result<Value, LoadError>,
    ) -> Result<Parsed, LoadError> {
        self.count(line)?;
        if self.depth >= DEPTH_LIMIT {
            let detail =
                format!("cannot be read: nested more than {DEPTH_LIMIT} levels deep; its settings are not known");
            return Err(LoadError::at(line, detail));
        }
        let id = self.nodes;
        if let Some(name) = &anchor {
            self.anchors.insert(name.clone(), Anchor::Open(id));
        }
        self.depth += 1;
        let mut items = Vec::new();
        read(self, &mut items)?;
        self.depth -= 1;
        let weight = items.iter().fold(1usize, |sum, item| sum.saturating_add(item.weight));
        let node = Node { line, plain: None, value: Rc::new(close(self, items)?) };
        if let Some(open) = anchor.and_then(|name| self.anchors.get_mut(&name))
            && matches!(open, Anchor::Open(other) if *other == id)
        {
            *open = Anchor::Done(node.clone(), weight);
        }
        Ok(Parsed { node, weight, alias: false, merge: false })
    }

    /// Keys with values. Merge keys are checked and lost, as K3s' loader loses them.
    fn pairs(&mut self, items: Vec<Parsed>) -> Result<Vec<(Node, Node)>, LoadError> {
        let mut pairs = Vec::with_capacity(items.len() / 2);
        let mut items = items.into_iter();
        while let (Some(key), Some(value)) = (items.next(), items.next()) {
            if !key.merge {
                pairs.push((key.node, value.node));
                continue;
            }
            let is_map = |n: &Node| matches!(&*n.value, Value::Map(_));
            let maps = |n: &Node| n.items().is_some_and(|items| items.iter().all(is_map));
            if !is_map(&value.node) && (value.alias || !maps(&value.node)) {
                return broken(key.node.line, "a merge key (<<) needs a map");
            }
            self.merge_keys.push(key.node.line);
        }
        Ok(pairs)
    }

    /// `beside_key`: its dashes stand on the column of the key before it, and its end shows in what comes next.
    fn block_list(&mut self, beside_key: bool, items: &mut Vec<Parsed>) -> Result<(), LoadError> {
        if !beside_key {
            self.scanner.next()?;
        }
        loop {
            let (kind, line) = self.scanner.peek()?;
            match kind {
                Kind::BlockEntry => {
                    self.scanner.next()?;
                    let item = match self.scanner.peek()?.0 {
                        Kind::BlockEntry | Kind::BlockEnd => self.empty(line)?,
                        Kind::Key | Kind::Value if beside_key => self.empty(line)?,
                        _ => self.node(Place::Block)?,
                    };
                    items.push(item);
                }
                _ if beside_key => return Ok(()),
                Kind::BlockEnd => {
                    self.scanner.next()?;
                    return Ok(());
                }
                _ => return broken(line, "did not find expected '-' indicator of a list"),
            }
        }
    }

    fn block_map(&mut self, items: &mut Vec<Parsed>) -> Result<(), LoadError> {
        self.scanner.next()?;
        loop {
            let (kind, line) = self.scanner.peek()?;
            match kind {
                Kind::Key => {
                    self.scanner.next()?;
                    items.push(self.block_key_or_value(line)?);
                }
                Kind::BlockEnd => {
                    self.scanner.next()?;
                    return Ok(());
                }
                Kind::Value => return broken(line, "a colon without a key before it"),
                _ => return broken(line, "did not find expected key"),
            }
            let (kind, line) = self.scanner.peek()?;
            let value = if kind == Kind::Value {
                self.scanner.next()?;
                self.block_key_or_value(line)?
            } else {
                self.empty(line)?
            };
            items.push(value);
        }
    }

    fn block_key_or_value(&mut self, line: u32) -> Result<Parsed, LoadError> {
        match self.scanner.peek()?.0 {
            Kind::Key | Kind::Value | Kind::BlockEnd => self.empty(line),
            _ => self.node(Place::KeyOrValue),
        }
    }

    /// Whether another item of a flow collection follows; reads over the comma.
    fn flow_item(&mut self, first: bool, end: Kind, detail: &str) -> Result<bool, LoadError> {
        let (mut kind, line) = self.scanner.peek()?;
        if kind != end && !first {
            if kind != Kind::FlowEntry {
                return broken(line, detail);
            }
            self.scanner.next()?;
            kind = self.scanner.peek()?.0;
        }
        if kind == end {
            self.scanner.next()?;
        }
        Ok(kind != end)
    }

    fn flow_list(&mut self, items: &mut Vec<Parsed>) -> Result<(), LoadError> {
        self.scanner.next()?;
        while self.flow_item(items.is_empty(), Kind::FlowSequenceEnd, "did not find expected ',' or ']'")? {
            let (kind, line) = self.scanner.peek()?;
            let item = if kind == Kind::Key { self.map(line, None, Self::flow_pair)? } else { self.node(Place::Flow)? };
            items.push(item);
        }
        Ok(())
    }

    /// `key: value` as an item of a list.
    fn flow_pair(&mut self, items: &mut Vec<Parsed>) -> Result<(), LoadError> {
        self.scanner.next()?;
        let (kind, line) = self.scanner.peek()?;
        let key = if matches!(kind, Kind::Value | Kind::FlowEntry | Kind::FlowSequenceEnd) {
            // go-yaml loses this token.
            self.scanner.next()?;
            self.empty(line)?
        } else {
            self.node(Place::Flow)?
        };
        items.push(key);
        items.push(self.flow_value(Kind::FlowSequenceEnd)?);
        Ok(())
    }

    fn flow_map(&mut self, items: &mut Vec<Parsed>) -> Result<(), LoadError> {
        self.scanner.next()?;
        while self.flow_item(items.is_empty(), Kind::FlowMappingEnd, "did not find expected ',' or '}'")? {
            let (kind, line) = self.scanner.peek()?;
            if kind != Kind::Key {
                items.push(self.node(Place::Flow)?);
                let line = self.scanner.peek()?.1;
                items.push(self.empty(line)?);
                continue;
            }
            self.scanner.next()?;
            let key = match self.scanner.peek()?.0 {
                Kind::Value | Kind::FlowEntry | Kind::FlowMappingEnd => self.empty(line)?,
                _ => self.node(Place::Flow)?,
            };
            items.push(key);
            items.push(self.flow_value(Kind::FlowMappingEnd)?);
        }
        Ok(())
    }

    fn flow_value(&mut self, end: Kind) -> Result<Parsed, LoadError> {
        let (mut kind, line) = self.scanner.peek()?;
        if kind == Kind::Value {
            self.scanner.next()?;
            kind = self.scanner.peek()?.0;
            if kind != Kind::FlowEntry && kind != end {
                return self.node(Place::Flow);
            }
        }
        self.empty(line)
    }
}

fn broken<T>(line: u32, detail: &str) -> Result<T, LoadError> {
    Err(LoadError::at(line, format!("broken YAML: {detail}")))
}
