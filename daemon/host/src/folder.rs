//! Listing folders and expanding patterns.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

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
    pub name: OsString,
    /// The kind of the entry itself: a link is a link.
    pub kind: Kind,
}

/// A place a pattern could not look into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The folder.
    pub path: PathBuf,
    /// Why it could not be read.
    pub reason: ReadError,
}

/// What a pattern leads to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Matches {
    /// Paths that exist, in byte order.
    pub paths: Vec<PathBuf>,
    /// Folders that were listed in full.
    pub folders: Vec<PathBuf>,
    /// Folders that could not be read: what lies in them is not known. `Absent` for a fixed folder that is missing.
    pub problems: Vec<Problem>,
}

impl Host {
    /// The names in a folder, in byte order, `.` and `..` left out.
    ///
    /// # Errors
    /// [`ReadError::TooLarge`] with more than `limit` names; `NotRegular` if it is no folder.
    pub fn list(&self, path: &Path, limit: usize) -> Result<Vec<Entry>, ReadError> {
        let look = self.stat(path)?;
        if look.kind != Kind::Folder {
            return Err(ReadError::NotRegular(look.kind));
        }
        let fd = self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK)?;
        let mut entries = Vec::new();
        for entry in Dir::read_from(&fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            if entries.len() == limit {
                return Err(ReadError::TooLarge { limit: limit as u64 });
            }
            let name = OsString::from_vec(name.to_vec());
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
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// The paths a pattern leads to: `*`, `?` and `[…]` within a name, `**` for any depth of folders (as the last part:
    /// everything below). Unlike in a shell `*` takes names that begin with a dot too: a hidden file is still a file.
    /// A pattern without any of these gives the path itself if it exists, be it a link that leads nowhere.
    pub fn glob(&self, pattern: &str) -> Matches {
        let mut matches = Matches::default();
        let parts: Vec<&str> = pattern.split('/').filter(|p| !p.is_empty()).collect();
        self.expand(Path::new("/"), &parts, 0, &mut matches);
        matches.paths.sort();
        matches.paths.dedup();
        matches.folders.sort();
        matches.folders.dedup();
        matches
    }

    fn expand(&self, folder: &Path, parts: &[&str], depth: usize, matches: &mut Matches) {
        let problem = |matches: &mut Matches, path: &Path, reason: ReadError| {
            if !matches.problems.iter().any(|p| p.path == path) {
                matches.problems.push(Problem { path: path.to_path_buf(), reason });
            }
        };
        let Some((first, rest)) = parts.split_first() else {
            if matches.paths.len() < MOST_MATCHES {
                matches.paths.push(folder.to_path_buf());
            } else {
                problem(matches, folder, ReadError::TooLarge { limit: MOST_MATCHES as u64 });
            }
            return;
        };
        if !first.contains(['*', '?', '[']) {
            let path = folder.join(first);
            match self.lstat(&path) {
                Ok(_) => self.expand(&path, rest, depth, matches),
                Err(ReadError::Absent) if rest.is_empty() => {
                    // The name is missing; whether its folder is there decides what that means.
                    if let Err(reason) = self.stat(folder) {
                        problem(matches, folder, reason);
                    }
                }
                Err(reason) => problem(matches, &path, reason),
            }
            return;
        }
        let entries = match self.list(folder, MOST_ENTRIES) {
            Ok(entries) => entries,
            Err(reason) => return problem(matches, folder, reason),
        };
        matches.folders.push(folder.to_path_buf());
        if *first == "**" {
            if !rest.is_empty() {
                self.expand(folder, rest, depth, matches);
            }
            for entry in entries {
                let path = folder.join(&entry.name);
                if rest.is_empty() {
                    self.expand(&path, rest, depth, matches);
                }
                // Links are not followed here: a link to a folder above would never end.
                if entry.kind != Kind::Folder {
                    continue;
                }
                if depth >= DEEPEST {
                    problem(matches, &path, ReadError::TooLarge { limit: DEEPEST as u64 });
                } else {
                    self.expand(&path, parts, depth + 1, matches);
                }
            }
            return;
        }
        for entry in entries {
            if !name_matches(first.as_bytes(), entry.name.as_encoded_bytes()) {
                continue;
            }
            let path = folder.join(&entry.name);
            if rest.is_empty() || matches!(entry.kind, Kind::Folder | Kind::Link) {
                self.expand(&path, rest, depth, matches);
            }
        }
    }
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
