//! The version a K3s program was built as: Go writes how a program was built into the program itself.

use std::io::Read;

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

/// The version of the program at this path; none if it does not say, or cannot be read.
pub fn version(host: &Host, path: &str) -> Option<K3sVersion> {
    let mut file = host.open_file(path.as_ref()).ok()?.take(LARGEST);
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
            return std::str::from_utf8(text.get(..end)?).ok()?.parse().ok();
        }
        if read == 0 {
            return None;
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
