//! Listing folders and expanding patterns.

use std::cmp::Ordering;
use std::path::Path;

use picket_model::name;
use rustix::fs::{Dir, OFlags};

use crate::{Host, Kind, Meta, ReadError};

/// The most paths one pattern may give.
const MOST_MATCHES: usize = 4096;
/// The most entries of one folder that are looked at.
const MOST_ENTRIES: usize = 16_384;
/// How deep a recursive pattern goes.
const DEEPEST: usize = 16;

/// A name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name, without the folder.
    pub name: String,
    /// The kind of the entry itself: a link is a link.
    pub kind: Kind,
}

/// A place a pattern could not look into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The folder.
    pub path: String,
    /// Why it could not be read.
    pub reason: ReadError,
}

/// What a pattern leads to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Matches {
    /// Paths that exist, folder by folder, in byte order of their names.
    pub paths: Vec<String>,
    /// Folders that were listed in full.
    pub folders: Vec<String>,
    /// Folders that could not be read: what lies in them is not known. `Absent` for a fixed folder that is missing;
    /// `TooMany` for the one the pattern begins in, where it leads to more paths than are looked at.
    pub problems: Vec<Problem>,
}

impl Matches {
    fn problem(&mut self, path: &str, reason: ReadError) {
        if !self.problems.iter().any(|p| p.path == path) {
            self.problems.push(Problem { path: path.to_owned(), reason });
        }
    }

    fn is_full(&self) -> bool {
        self.paths.len() > MOST_MATCHES
    }
}

/// A name below a folder.
fn below(folder: &str, name: &str) -> String {
    format!("{}/{name}", folder.trim_end_matches('/'))
}

fn is_wild(part: &str) -> bool {
    part.contains(['*', '?', '['])
}

impl Host {
    /// The names in a folder, in byte order, `.` and `..` left out.
    ///
    /// # Errors
    /// [`ReadError::TooMany`] with more than `limit` names; `NotRegular` if it is no folder.
    pub fn list(&self, path: &Path, limit: usize) -> Result<Vec<Entry>, ReadError> {
        // With O_DIRECTORY nothing but a folder is opened, be it a device.
        let fd = match self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK) {
            Err(ReadError::Absent) => match self.stat(path)?.kind {
                Kind::Folder => return Err(ReadError::Absent),
                other => return Err(ReadError::NotRegular(other)),
            },
            opened => opened?,
        };
        let mut entries = Vec::new();
        for entry in Dir::new(fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            if entries.len() == limit {
                return Err(ReadError::TooMany { limit });
            }
            let name = name::text(name).into_owned();
            let mut kind = Kind::from(entry.file_type());
            if kind == Kind::Other {
                // Some file systems do not say the kind in the listing.
                match self.lstat(&path.join(&name)) {
                    Ok(Meta { kind: told, .. }) => kind = told,
                    Err(ReadError::Absent) => continue,
                    Err(other) => return Err(other),
                }
            }
            entries.push(Entry { name, kind });
        }
        entries.sort_by(|a, b| name::bytes(a.name.as_bytes()).cmp(&name::bytes(b.name.as_bytes())));
        Ok(entries)
    }

    /// The paths a pattern leads to: `*`, `?` and `[…]` within a name, `**` for any depth of folders (as the last part:
    /// everything below). Unlike in a shell `*` takes names that begin with a dot too: a hidden file is still a file.
    /// A pattern without any of these gives the path itself if it exists, be it a link that leads nowhere.
    pub fn glob(&self, pattern: &str) -> Matches {
        let mut matches = Matches::default();
        let parts: Vec<&str> = pattern.split('/').filter(|p| !p.is_empty()).collect();
        self.expand("/", &parts, 0, &mut matches);
        if matches.is_full() {
            matches.paths.truncate(MOST_MATCHES);
            let fixed: Vec<&str> = parts.iter().copied().take_while(|part| !is_wild(part)).collect();
            matches.problem(&format!("/{}", fixed.join("/")), ReadError::TooMany { limit: MOST_MATCHES });
        }
        matches.paths.sort_by(in_order);
        matches.paths.dedup();
        matches.folders.sort_by(in_order);
        matches.folders.dedup();
        matches
    }

    fn expand(&self, folder: &str, parts: &[&str], depth: usize, matches: &mut Matches) {
        let (fixed, rest) = parts.split_at(parts.iter().take_while(|part| !is_wild(part)).count());
        let Some(folder) = self.fixed(folder, fixed, rest.is_empty(), matches) else { return };
        if rest.is_empty() {
            matches.paths.push(folder);
            return;
        }
        match self.list(folder.as_ref(), MOST_ENTRIES) {
            Ok(entries) => {
                matches.folders.push(folder.clone());
                self.among(&folder, &entries, rest, depth, matches);
            }
            Err(reason) => matches.problem(&folder, reason),
        }
    }

    /// Where names without wildcards lead; none, and a problem or nothing, where one is not there.
    fn fixed(&self, folder: &str, names: &[&str], last: bool, matches: &mut Matches) -> Option<String> {
        if names.is_empty() {
            return Some(folder.to_owned());
        }
        // One look-up if all is there; name by name it shows what is not.
        let whole = below(folder, &names.join("/"));
        if self.lstat(whole.as_ref()).is_ok() {
            return Some(whole);
        }
        let mut here = folder.to_owned();
        for (at, name) in names.iter().enumerate() {
            let path = below(&here, name);
            match self.lstat(path.as_ref()) {
                Ok(_) => here = path,
                Err(ReadError::Absent) if last && at + 1 == names.len() => {
                    // The name is missing; whether its folder is there decides what that means.
                    if let Err(reason) = self.stat(here.as_ref()) {
                        matches.problem(&here, reason);
                    }
                    return None;
                }
                Err(reason) => {
                    matches.problem(&path, reason);
                    return None;
                }
            }
        }
        // It came into being in between.
        Some(here)
    }

    /// Goes on with the entries of a folder; the first of the parts has a wildcard.
    fn among(&self, folder: &str, entries: &[Entry], parts: &[&str], depth: usize, matches: &mut Matches) {
        let Some((first, rest)) = parts.split_first() else { return };
        if *first == "**" {
            match rest.first() {
                Some(next) if is_wild(next) => self.among(folder, entries, rest, depth, matches),
                Some(_) => self.expand(folder, rest, depth, matches),
                None => {}
            }
        }
        for entry in entries {
            // One path more than are given says that there are more.
            if matches.is_full() {
                return;
            }
            let path = || below(folder, &entry.name);
            if *first != "**" {
                let fits = name_matches(first.as_bytes(), &name::bytes(entry.name.as_bytes()));
                if fits && (rest.is_empty() || matches!(entry.kind, Kind::Folder | Kind::Link)) {
                    self.expand(&path(), rest, depth, matches);
                }
                continue;
            }
            if rest.is_empty() {
                matches.paths.push(path());
            }
            // Links are not followed here: a link to a folder above would never end.
            if entry.kind != Kind::Folder {
                continue;
            }
            if depth >= DEEPEST {
                matches.problem(&path(), ReadError::TooDeep { limit: DEEPEST });
            } else {
                self.expand(&path(), parts, depth + 1, matches);
            }
        }
    }
}

/// The order of two paths: their names as the kernel has them, from the root down.
fn in_order(one: &String, other: &String) -> Ordering {
    let (one, other) = (name::bytes(one.as_bytes()), name::bytes(other.as_bytes()));
    // A slash ends a name, so it comes before every byte a name can have.
    let keys = |path: &u8| if *path == b'/' { 0 } else { *path };
    one.iter().map(keys).cmp(other.iter().map(keys))
}

/// Whether a name fits a pattern of `*`, `?` and `[…]`. Linear in the name for each `*`: no pattern can make it
/// explode.
fn name_matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, n));
                p += 1;
                continue;
            }
            Some(b'?') => Some(p + 1),
            Some(b'[') => class(&pattern[p..], name[n]).map(|used| p + used),
            Some(c) if *c == name[n] => Some(p + 1),
            _ => None,
        };
        match (step, star) {
            (Some(next), _) => (p, n) = (next, n + 1),
            (None, Some((after, from))) => {
                star = Some((after, from + 1));
                (p, n) = (after, from + 1);
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// Whether a byte is in the class a pattern begins with; how many bytes of the pattern the class takes.
fn class(pattern: &[u8], byte: u8) -> Option<usize> {
    let negated = matches!(pattern.get(1), Some(b'!' | b'^'));
    let start = if negated { 2 } else { 1 };
    let mut at = start;
    let mut found = false;
    loop {
        match (pattern.get(at)?, pattern.get(at + 1), pattern.get(at + 2)) {
            (b']', ..) if at > start => return (found != negated).then_some(at + 1),
            (low, Some(b'-'), Some(high)) if *high != b']' => {
                found |= (*low..=*high).contains(&byte);
                at += 3;
            }
            (c, ..) => {
                found |= *c == byte;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::name_matches;

    #[test]
    fn patterns_match_as_in_a_shell() {
        let check = |pattern: &str, name: &str, expected: bool| {
            assert_eq!(name_matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} on {name}");
        };
        check("*.crt", "client-ca.crt", true);
        check("*.crt", "client-ca.key", false);
        check("client-*.crt", "client-admin.crt", true);
        check("a*b*c", "aXbYbZc", true);
        check("a*b*c", "aXbYbZ", false);
        check("??", "ab", true);
        check("??", "abc", false);
        check("[a-c]x", "bx", true);
        check("[!a-c]x", "bx", false);
        check("[]]x", "]x", true);
        check("[abc", "a", false);
        check("*", "", true);
    }
}
