//! What the sysctl folders will set at the next boot, by the rules of systemd-sysctl.
//!
//! - Folders: `/etc/sysctl.d`, `/run/sysctl.d`, `/usr/local/lib/sysctl.d`, `/usr/lib/sysctl.d`, `/lib/sysctl.d`; only `*.conf`.
//! - The same file name in two folders: the earlier folder masks the other file as a whole.
//! - The rest is read in the order of file names, whatever the folder; the last assignment of a key wins.
//! - A key with a line of its own is never touched by a glob, even when the glob stands in a later file.
//! - `-key` without a value takes the key out of globs. `-key = value` only ignores errors.
//! - `/etc/sysctl.conf` is not read, except through a link such as `/etc/sysctl.d/99-sysctl.conf`.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use globset::{GlobBuilder, GlobMatcher};
use picket_model::name;

/// The folders systemd-sysctl reads, strongest first.
pub const SYSCTL_FOLDERS: [&str; 5] =
    ["/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d", "/lib/sysctl.d"];

/// A value that will be set at boot, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersistedValue {
    /// The value, trimmed.
    pub value: String,
    /// File, in the node's own terms.
    pub path: String,
    /// Line, from 1.
    pub line: u32,
}

/// All assignments of the sysctl folders after masking and ordering.
#[derive(Debug, Clone, Default)]
pub struct PersistedSysctls {
    exact: BTreeMap<String, PersistedValue>,
    globs: Vec<(GlobMatcher, PersistedValue)>,
    excluded: BTreeSet<String>,
    /// Files that exist and could not be read, with the reason. While there is one, no key can be told for sure.
    pub unreadable: Vec<(String, String)>,
    /// Lines that systemd-sysctl would not understand: (path, line).
    pub malformed: Vec<(String, u32)>,
}

impl PartialEq for PersistedSysctls {
    fn eq(&self, other: &Self) -> bool {
        let globs = |of: &Self| -> Vec<(String, PersistedValue)> {
            of.globs.iter().map(|(glob, value)| (glob.glob().glob().to_owned(), value.clone())).collect()
        };
        self.exact == other.exact
            && self.excluded == other.excluded
            && self.unreadable == other.unreadable
            && self.malformed == other.malformed
            && globs(self) == globs(other)
    }
}

impl PersistedSysctls {
    /// Works out what files with these paths and contents set. Files outside [`SYSCTL_FOLDERS`] and names that do not
    /// end in `.conf` are left out, as systemd-sysctl does. A link to `/dev/null` is a file with empty content.
    pub fn from_files<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        // File name -> (rank of the folder, path, content): the lowest rank masks the others.
        let mut by_name: BTreeMap<Cow<'a, [u8]>, _> = BTreeMap::new();
        for (path, content) in files {
            let Some((folder, name)) = path.rsplit_once('/') else { continue };
            let Some(rank) = SYSCTL_FOLDERS.iter().position(|f| *f == folder) else { continue };
            if !name.ends_with(".conf") {
                continue;
            }
            let entry = by_name.entry(name::bytes(name.as_bytes())).or_insert((rank, path, content));
            if rank < entry.0 {
                *entry = (rank, path, content);
            }
        }
        let mut out = Self::default();
        // BTreeMap order is byte order of the file names, the order systemd uses.
        for (_, path, content) in by_name.into_values() {
            out.read(path, content);
        }
        out
    }

    fn read(&mut self, path: &str, content: &[u8]) {
        let text = String::from_utf8_lossy(content);
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            let number = u32::try_from(number).unwrap_or(u32::MAX).saturating_add(1);
            let (key, value) = match line.split_once('=') {
                Some((key, value)) => (key.trim(), Some(value.trim())),
                None => (line, None),
            };
            let (key, dash) = match key.strip_prefix('-') {
                Some(rest) => (rest.trim(), true),
                None => (key, false),
            };
            if key.is_empty() || (value.is_none() && !dash) {
                self.malformed.push((path.to_owned(), number));
                continue;
            }
            let key = normal_key(key);
            let Some(value) = value else {
                self.excluded.insert(key);
                continue;
            };
            let found = PersistedValue { value: value.to_owned(), path: path.to_owned(), line: number };
            if key.contains(['*', '?', '[']) {
                match GlobBuilder::new(&key).literal_separator(true).build() {
                    Ok(glob) => self.globs.push((glob.compile_matcher(), found)),
                    Err(_) => self.malformed.push((path.to_owned(), number)),
                }
            } else {
                self.exact.insert(key, found);
            }
        }
    }

    /// What will be set for a key in dotted form; none when nothing sets it.
    pub fn get(&self, key: &str) -> Option<&PersistedValue> {
        let key = normal_key(key);
        if let Some(found) = self.exact.get(&key) {
            return Some(found);
        }
        if self.excluded.contains(&key) {
            return None;
        }
        self.globs.iter().rev().find(|(glob, _)| glob.is_match(&key)).map(|(_, found)| found)
    }
}

/// A key as a path below `/proc/sys`: if its first separator is a dot, dots and slashes change places.
fn normal_key(key: &str) -> String {
    match key.find(['.', '/']) {
        Some(at) if key.as_bytes().get(at) == Some(&b'.') => key
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        _ => key.to_owned(),
    }
}

/// Two values are the same: runs of blanks count as one, numbers as numbers.
pub(crate) fn same_value(a: &str, b: &str) -> bool {
    let mut left = a.split_whitespace();
    let mut right = b.split_whitespace();
    loop {
        match (left.next(), right.next()) {
            (None, None) => return true,
            (Some(l), Some(r)) => {
                let same = match (l.parse::<i128>(), r.parse::<i128>()) {
                    (Ok(l), Ok(r)) => l == r,
                    _ => l == r,
                };
                if !same {
                    return false;
                }
            }
            _ => return false,
        }
    }
}
