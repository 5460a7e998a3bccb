//! The files of a node, as this crate wants to see them. The host implements the trait; tests use [`MemoryFiles`].

use std::collections::BTreeMap;

/// Why something could not be read, in words for a person. Never the content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(pub String);

/// What a name in a folder is. Links say what they lead to, since K3s follows some and dies on others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// An ordinary file.
    File,
    /// A folder.
    Dir,
    /// A socket, device or the like.
    Other,
    /// A symbolic link that leads to a file.
    LinkToFile,
    /// A symbolic link that leads to a folder.
    LinkToDir,
    /// A symbolic link that leads to something else.
    LinkToOther,
    /// A symbolic link whose target cannot be looked at.
    UnreadableLink,
    /// A symbolic link whose target does not exist.
    DanglingLink,
    /// A symbolic link that leads back to itself.
    LinkLoop,
}

impl EntryKind {
    /// Whether this is a folder, without following a link.
    pub const fn is_dir(self) -> bool {
        matches!(self, Self::Dir)
    }

    /// Whether this is a folder after following links.
    pub const fn leads_to_dir(self) -> bool {
        matches!(self, Self::Dir | Self::LinkToDir)
    }
}

/// One name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name, without the folder, written as [`picket_model::name`] does it.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
}

/// Reads the files of one node. Paths are absolute in the node's own terms, written as [`picket_model::name`] does it;
/// links are followed inside the node.
pub trait NodeFiles {
    /// The bytes of a file; none if it does not exist (a dangling link counts as that).
    ///
    /// # Errors
    /// If it exists and cannot be read, is not an ordinary file, or is larger than `limit` bytes.
    fn read(&self, path: &str, limit: usize) -> Result<Option<Vec<u8>>, Unreadable>;

    /// The names in a folder, in any order, without `.` and `..`; none if the folder does not exist.
    ///
    /// # Errors
    /// If it exists and cannot be listed, or is not a folder.
    fn list(&self, dir: &str) -> Result<Option<Vec<DirEntry>>, Unreadable>;

    /// Whether a folder exists at this path. What cannot be read counts as not seen.
    fn has_dir(&self, path: &str) -> bool {
        matches!(self.list(path), Ok(Some(_)))
    }

    /// Whether a file exists at this path and can be read.
    fn has_file(&self, path: &str) -> bool {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let dir = if dir.is_empty() { "/" } else { dir };
        matches!(self.list(dir), Ok(Some(entries))
            if entries.iter().any(|e| e.name == name && matches!(e.kind, EntryKind::File | EntryKind::LinkToFile)))
    }
}

#[derive(Debug, Clone)]
enum MemoryNode {
    File(Vec<u8>),
    Dir,
    Link(String),
    Unreadable(String),
}

/// A node's files in memory, for tests: files, folders, absolute or relative links, and things that cannot be read.
#[derive(Debug, Clone, Default)]
pub struct MemoryFiles {
    nodes: BTreeMap<String, MemoryNode>,
}

/// Links followed before a chain counts as a loop, as Linux does.
const LINK_LIMIT: usize = 40;

enum Found<'a> {
    Node(&'a MemoryNode, String),
    Nothing,
    Loop,
}

impl MemoryFiles {
    /// An empty node.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file; its folders appear with it.
    #[must_use]
    pub fn file(mut self, path: &str, content: impl Into<Vec<u8>>) -> Self {
        self.put(path, MemoryNode::File(content.into()));
        self
    }

    /// Adds an empty folder.
    #[must_use]
    pub fn dir(mut self, path: &str) -> Self {
        self.put(path, MemoryNode::Dir);
        self
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn link(mut self, path: &str, target: &str) -> Self {
        self.put(path, MemoryNode::Link(target.to_owned()));
        self
    }

    /// Adds something that cannot be read, with the reason.
    #[must_use]
    pub fn unreadable(mut self, path: &str, reason: &str) -> Self {
        self.put(path, MemoryNode::Unreadable(reason.to_owned()));
        self
    }

    fn put(&mut self, path: &str, node: MemoryNode) {
        let path = normal(path);
        let mut parent = path.as_str();
        while let Some((up, _)) = parent.rsplit_once('/') {
            let up = if up.is_empty() { "/" } else { up };
            self.nodes.entry(up.to_owned()).or_insert(MemoryNode::Dir);
            if up == "/" {
                break;
            }
            parent = up;
        }
        self.nodes.insert(path, node);
    }

    /// Walks a path hop by hop, links of folders included.
    fn find(&self, path: &str) -> Found<'_> {
        let mut path = normal(path);
        'again: for _ in 0..LINK_LIMIT {
            let mut at = String::new();
            let parts: Vec<String> = path.split('/').filter(|p| !p.is_empty()).map(str::to_owned).collect();
            for (i, part) in parts.iter().enumerate() {
                let parent = at.clone();
                at = format!("{at}/{part}");
                match self.nodes.get(&at) {
                    None => return Found::Nothing,
                    Some(MemoryNode::Link(target)) => {
                        let rest = parts.get(i + 1..).unwrap_or_default().join("/");
                        let base = if target.starts_with('/') { target.clone() } else { format!("{parent}/{target}") };
                        path = normal(&format!("{base}/{rest}"));
                        continue 'again;
                    }
                    Some(_) => {}
                }
            }
            let at = if at.is_empty() { "/".to_owned() } else { at };
            return match self.nodes.get(&at) {
                Some(node) => Found::Node(node, at),
                None => Found::Nothing,
            };
        }
        Found::Loop
    }
}

/// An absolute path without `.`, `..` and doubled slashes.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

impl NodeFiles for MemoryFiles {
    fn read(&self, path: &str, limit: usize) -> Result<Option<Vec<u8>>, Unreadable> {
        match self.find(path) {
            Found::Nothing => Ok(None),
            Found::Loop => Err(Unreadable("too many levels of symbolic links".to_owned())),
            Found::Node(MemoryNode::File(bytes), _) if bytes.len() > limit => {
                Err(Unreadable(format!("larger than {limit} bytes")))
            }
            Found::Node(MemoryNode::File(bytes), _) => Ok(Some(bytes.clone())),
            Found::Node(MemoryNode::Unreadable(reason), _) => Err(Unreadable(reason.clone())),
            Found::Node(MemoryNode::Dir | MemoryNode::Link(_), _) => Err(Unreadable("is a directory".to_owned())),
        }
    }

    fn list(&self, dir: &str) -> Result<Option<Vec<DirEntry>>, Unreadable> {
        let at = match self.find(dir) {
            Found::Nothing => return Ok(None),
            Found::Loop => return Err(Unreadable("too many levels of symbolic links".to_owned())),
            Found::Node(MemoryNode::Dir, at) => at,
            Found::Node(MemoryNode::Unreadable(reason), _) => return Err(Unreadable(reason.clone())),
            Found::Node(_, _) => return Err(Unreadable("not a directory".to_owned())),
        };
        let prefix = if at == "/" { at } else { format!("{at}/") };
        let mut entries = Vec::new();
        for (path, node) in self.nodes.range(prefix.clone()..) {
            let Some(name) = path.strip_prefix(&prefix) else { break };
            if name.is_empty() || name.contains('/') {
                continue;
            }
            let kind = match node {
                MemoryNode::File(_) | MemoryNode::Unreadable(_) => EntryKind::File,
                MemoryNode::Dir => EntryKind::Dir,
                MemoryNode::Link(_) => match self.find(path) {
                    Found::Nothing => EntryKind::DanglingLink,
                    Found::Loop => EntryKind::LinkLoop,
                    Found::Node(MemoryNode::Dir, _) => EntryKind::LinkToDir,
                    Found::Node(MemoryNode::Unreadable(_), _) => EntryKind::UnreadableLink,
                    Found::Node(_, _) => EntryKind::LinkToFile,
                },
            };
            entries.push(DirEntry { name: name.to_owned(), kind });
        }
        Ok(Some(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_on_and_loops_are_told_from_dangling_ones() {
        let files = MemoryFiles::new()
            .file("/etc/real/a.yaml", "a: 1")
            .link("/etc/x", "/etc/real")
            .link("/etc/dangling", "nowhere")
            .link("/etc/loop", "loop");
        assert_eq!(files.read("/etc/x/a.yaml", 100), Ok(Some(b"a: 1".to_vec())));
        let kinds: Vec<_> = files.list("/etc").unwrap().unwrap().into_iter().map(|e| (e.name, e.kind)).collect();
        assert_eq!(
            kinds,
            [
                ("dangling".to_owned(), EntryKind::DanglingLink),
                ("loop".to_owned(), EntryKind::LinkLoop),
                ("real".to_owned(), EntryKind::Dir),
                ("x".to_owned(), EntryKind::LinkToDir),
            ]
        );
        assert!(files.has_file("/etc/x/a.yaml"));
        assert!(!files.has_file("/etc/x/b.yaml"));
        assert!(files.read("/etc/x/a.yaml", 2).is_err());
    }
}
