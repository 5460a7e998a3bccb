//! A copy of who belongs to the fleet, beside the history: `<state>/members.jsonl`, mode 0600, one record a line, the
//! last line on a member counts.
//!
//! A damaged history is set aside and a new one is made, and nodes send again what they still have. They can do so
//! only if they are still known; what an operator revoked must stay so. Tokens are not in the copy: they live for
//! minutes, and one that comes back could be used twice.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use picket_service::atomic;
use picket_store::{Change, Durability, NodeRecord, OperatorRecord, Store, StoreError};
use serde::{Deserialize, Serialize};

/// Members that go back into the store in one change.
const AT_ONCE: usize = 32;

/// Where the copy lies.
pub fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("members.jsonl")
}

/// A line of the copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Member {
    /// A node.
    Node(Box<NodeRecord>),
    /// An operator.
    Operator(OperatorRecord),
}

impl Member {
    fn key(&self) -> String {
        match self {
            Self::Node(node) => format!("node {}", node.id),
            Self::Operator(operator) => format!("operator {}", operator.name),
        }
    }

    fn line(&self) -> Vec<u8> {
        // Records serialise: the store writes them the same way.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// The copy, open to go on.
#[derive(Debug)]
pub struct Copy {
    path: PathBuf,
    file: Mutex<File>,
}

impl Copy {
    /// Writes the copy anew with these members.
    ///
    /// # Errors
    /// What the file system says.
    pub fn begin(path: &Path, members: impl IntoIterator<Item = Member>) -> io::Result<Self> {
        let text: Vec<u8> = members.into_iter().flat_map(|m| m.line()).collect();
        atomic::write(path, &text, 0o600).map_err(io::Error::other)?;
        let file = File::options().append(true).open(path)?;
        Ok(Self { path: path.to_owned(), file: Mutex::new(file) })
    }

    /// Adds what a member is now. A copy that takes nothing is told; the store has it.
    pub fn note(&self, member: &Member) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.write_all(&member.line()).and_then(|()| file.sync_data()) {
            tracing::warn!(path = %self.path.display(), %error, "the copy of the fleet's members takes nothing");
        }
    }
}

/// Puts the members of a copy into a store that has none. Says how many; none without a copy.
///
/// # Errors
/// [`StoreError`]. A line that cannot be read (cut off by a power loss) is told and left out.
pub fn restore(path: &Path, store: &dyn Store) -> Result<usize, StoreError> {
    let Ok(file) = File::open(path) else { return Ok(0) };
    let mut members = BTreeMap::new();
    for (number, line) in (1u64..).zip(BufReader::new(file).split(b'\n')) {
        let read = line.map_err(|e| e.to_string());
        match read.and_then(|l| serde_json::from_slice::<Member>(&l).map_err(|e| e.to_string())) {
            Ok(member) => drop(members.insert(member.key(), member)),
            Err(error) => {
                tracing::warn!(path = %path.display(), line = number, error, "a line of the members' copy is left out");
            }
        }
    }
    let changes: Vec<Change> = members
        .values()
        .map(|member| match member {
            Member::Node(node) => Change::insert(node.as_ref()),
            Member::Operator(operator) => Change::insert(operator),
        })
        .collect();
    for some in changes.chunks(AT_ONCE) {
        store.change(some, Durability::Synced)?;
    }
    Ok(members.len())
}
