//! Modes, owners and links.

use std::path::Path;

use picket_checks::{FileKind, FileMeta, FilePattern, Folder, LinkTarget, Needs, Snapshot};
use picket_host::{Host, Kind, Meta, ReadError};
use picket_model::Observation;

use super::observation;

/// Looks at every file and folder the controls need.
pub fn observe(host: &Host, needs: &Needs, snapshot: &mut Snapshot) {
    snapshot.files.clear();
    snapshot.folders.clear();
    for pattern in &needs.files {
        look(host, pattern, snapshot);
    }
}

fn look(host: &Host, pattern: &FilePattern, snapshot: &mut Snapshot) {
    let base = pattern.base();
    if pattern.is_plain() {
        folder(host, base, snapshot);
        file(host, pattern.as_str(), snapshot);
        return;
    }
    let matches = host.glob(pattern.as_str());
    for path in matches.folders {
        // Another pattern may have found more in it than it could take.
        snapshot.folders.entry(path).or_insert_with(|| Observation::from(Folder { complete: true }));
    }
    for problem in matches.problems {
        let seen = match problem.reason {
            ReadError::TooMany { .. } | ReadError::TooDeep { .. } => Observation::from(Folder { complete: false }),
            other => observation(Err(other)),
        };
        snapshot.folders.insert(problem.path, seen);
    }
    if !snapshot.folders.contains_key(base) {
        folder(host, base, snapshot);
    }
    for path in &matches.paths {
        file(host, path, snapshot);
    }
}

/// Notes whether a folder can be looked into.
fn folder(host: &Host, path: &str, snapshot: &mut Snapshot) {
    if snapshot.folders.contains_key(path) {
        return;
    }
    let seen = match host.stat(path.as_ref()) {
        Ok(meta) if meta.kind == Kind::Folder => Observation::from(Folder { complete: true }),
        Ok(meta) => Observation::unreadable(ReadError::NotRegular(meta.kind).to_string()),
        Err(reason) => observation(Err(reason)),
    };
    snapshot.folders.insert(path.to_owned(), seen);
}

fn file(host: &Host, path: &str, snapshot: &mut Snapshot) {
    if snapshot.files.contains_key(path) {
        return;
    }
    let seen = observation(host.lstat(path.as_ref()).map(|meta| facts(host, path.as_ref(), &meta)));
    snapshot.files.insert(path.to_owned(), seen);
}

/// Metadata of a path, with the end of the chain if it is a link.
pub(crate) fn facts(host: &Host, path: &Path, meta: &Meta) -> FileMeta {
    let link = (meta.kind == Kind::Link).then(|| {
        let trail = host.trail(path);
        let text = host.read_link(path).map(|t| t.to_string_lossy().into_owned()).unwrap_or_default();
        let end = trail.end.to_string_lossy().into_owned();
        match trail.outcome {
            Ok(_) => {
                let meta = observation(host.lstat(&trail.end).map(|m| Box::new(plain(&m))));
                LinkTarget { text, path: Some(end), meta }
            }
            Err(ReadError::Absent) => LinkTarget { text, path: None, meta: Observation::Absent },
            Err(reason) => LinkTarget { text, path: None, meta: observation(Err(reason)) },
        }
    });
    FileMeta { link, ..plain(meta) }
}

fn plain(meta: &Meta) -> FileMeta {
    FileMeta {
        kind: match meta.kind {
            Kind::File => FileKind::File,
            Kind::Folder => FileKind::Folder,
            Kind::Link => FileKind::Link,
            Kind::Socket => FileKind::Socket,
            Kind::Pipe | Kind::Device | Kind::Other => FileKind::Other,
        },
        mode: meta.mode,
        uid: meta.uid,
        gid: meta.gid,
        size: meta.size,
        mtime: meta.mtime,
        link: None,
    }
}
