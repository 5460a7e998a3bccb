//! The version a K3s program was built as: Go writes how a program was built into the program itself.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};

use memchr::memmem::Finder;
use picket_host::Host;
use picket_k3s::K3sVersion;

/// What stands before the version in the options of the build.
const MARK: &[u8] = b"k3s-io/k3s/pkg/version.Version=";
/// The longest version.
const LONGEST: usize = 48;
/// How much is read at once.
const PIECE: usize = 256 * 1024;
/// The largest program that is looked through.
const LARGEST: u64 = 512 * 1024 * 1024;

/// The most programs whose version is kept: that of the unit and the unpacked one.
const MOST_KEPT: usize = 4;

/// One state of a file: whoever writes it anew changes its time of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl State {
    fn of(meta: &std::fs::Metadata) -> Self {
        Self {
            file: (meta.dev(), meta.ino()),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// Versions by the state of the program they were read from: a program has some 70 MB, and while K3s does not run
/// every look asks for it.
#[derive(Debug, Default)]
struct Versions(VecDeque<(State, Option<K3sVersion>)>);

impl Versions {
    fn get(&mut self, state: State, read: impl FnOnce() -> Option<Option<K3sVersion>>) -> Option<K3sVersion> {
        if let Some((_, version)) = self.0.iter().find(|(known, _)| *known == state) {
            return *version;
        }
        // What broke off is asked for again.
        let version = read()?;
        self.0.truncate(MOST_KEPT - 1);
        self.0.push_front((state, version));
        version
    }
}

static VERSIONS: Mutex<Versions> = Mutex::new(Versions(VecDeque::new()));

/// The version of the program at this path; none if it does not say, or cannot be read.
pub fn version(host: &Host, path: &str) -> Option<K3sVersion> {
    let file = host.open_file(path.as_ref()).ok()?;
    let state = State::of(&file.metadata().ok()?);
    VERSIONS.lock().unwrap_or_else(PoisonError::into_inner).get(state, || look_through(file))
}

/// The inner none: the program does not say.
fn look_through(file: File) -> Option<Option<K3sVersion>> {
    let mut file = file.take(LARGEST);
    let finder = Finder::new(MARK);
    let mut piece = vec![0; PIECE];
    // Bytes at the front kept from the piece before, in case the mark lies across both.
    let mut kept = 0;
    loop {
        let read = file.read(piece.get_mut(kept..)?).ok()?;
        let filled = piece.get(..kept + read)?;
        let complete = |at: usize| read == 0 || at + MARK.len() + LONGEST <= filled.len();
        if let Some(at) = finder.find(filled).filter(|at| complete(*at)) {
            let text = filled.get(at + MARK.len()..)?;
            let end = text.iter().take(LONGEST).position(|b| !is_of_version(*b)).unwrap_or(text.len().min(LONGEST));
            return Some(std::str::from_utf8(text.get(..end)?).ok().and_then(|text| text.parse().ok()));
        }
        if read == 0 {
            return Some(None);
        }
        let tail = filled.len().min(MARK.len() + LONGEST);
        let from = filled.len() - tail;
        piece.copy_within(from..from + tail, 0);
        kept = tail;
    }
}

const fn is_of_version(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'+' | b'-')
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use picket_service::clock::SystemClock;

    use super::*;

    #[test]
    fn a_program_is_read_again_only_when_it_changed() {
        let state = |changed| State { file: (1, 2), size: 3, modified: (4, 5), changed: (6, changed) };
        let old = K3sVersion::new(1, 31, 4);
        let mut versions = Versions::default();
        assert_eq!(versions.get(state(0), || None), None, "it broke off");
        assert_eq!(versions.get(state(0), || Some(Some(old))), Some(old));
        assert_eq!(versions.get(state(0), || panic!("read again")), Some(old));
        for changed in 1..20 {
            assert_eq!(versions.get(state(changed), || Some(None)), None);
        }
        assert!(versions.0.len() <= MOST_KEPT);
        assert_eq!(versions.get(state(19), || panic!("read again")), None, "that it does not say is known too");
    }

    #[test]
    fn the_version_is_found_wherever_it_lies_in_the_program() {
        let dir = tempfile::tempdir().unwrap();
        let host = Host::rooted(dir.path(), Arc::new(SystemClock)).unwrap();
        let options = b"-ldflags=\"-X github.com/k3s-io/k3s/pkg/version.Version=v1.33.5+k3s1 -X other=v9.9.9+k3s9\"";
        for before in [0, PIECE - 20, PIECE - 60, PIECE + 7, 3 * PIECE - 100] {
            let mut bytes = vec![b'v'; before];
            bytes.extend_from_slice(options);
            bytes.extend_from_slice(&[0; 1000]);
            fs::write(dir.path().join("k3s"), bytes).unwrap();
            let found = version(&host, "/k3s").map(|v| v.to_string());
            assert_eq!(found.as_deref(), Some("v1.33.5+k3s1"), "after {before} bytes");
        }
    }

    #[test]
    fn what_does_not_say_gives_none() {
        let dir = tempfile::tempdir().unwrap();
        let host = Host::rooted(dir.path(), Arc::new(SystemClock)).unwrap();
        let texts: [&[u8]; 4] =
            [b"", b"#!/bin/sh\nexec k3s v1.30.1+k3s1\n", MARK, b"k3s-io/k3s/pkg/version.Version=dev"];
        for text in texts {
            fs::write(dir.path().join("k3s"), text).unwrap();
            assert_eq!(version(&host, "/k3s"), None);
        }
        assert_eq!(version(&host, "/absent"), None);
    }
}
