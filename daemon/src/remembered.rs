//! What the daemon remembers of its node across restarts: `<state>/memory.json`, and the key of its fingerprints.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use picket_checks::NodeConfig;
use picket_model::NodeInfo;
use picket_service::atomic::{self, AtomicError};
use rand::RngCore;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::source::Memory;
use crate::source::at_start::Documents;
use crate::source::memory::{FirstSeen, same_start};

/// A memory that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The key is none.
    #[error("{} is no key of 32 bytes; remove it to get a new one (first-seen times then begin anew)", .0.display())]
    Key(PathBuf),
    /// A file cannot be written.
    #[error("cannot keep what was seen of the node")]
    Write(#[from] AtomicError),
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    #[serde(default)]
    seen: BTreeMap<String, FirstSeen>,
    #[serde(default)]
    info: Option<NodeInfo>,
    #[serde(default, deserialize_with = "Documents::lenient")]
    running: Option<Running>,
}

/// What was on disk when the running K3s process started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Running {
    /// When it started.
    pub started: Timestamp,
    /// Its configuration; none when a file was written between its start and the first look.
    pub config: Option<Arc<NodeConfig>>,
    /// The files it and its components read at their start only.
    #[serde(default, deserialize_with = "Documents::lenient")]
    pub documents: Arc<Documents>,
    /// Its version, where its log told it: the log may be rotated away while it runs.
    #[serde(default)]
    pub version: Option<String>,
}

impl Running {
    /// Is this the process that started then? The kernel's idea of when it booted moves with the clock.
    pub fn is_of(&self, started: Timestamp) -> bool {
        same_start(self.started, started)
    }
}

/// The memory of a state folder.
#[derive(Debug)]
pub struct Remembered {
    path: PathBuf,
    /// What sources look things up in.
    pub memory: Memory,
    /// What the node last said of itself.
    pub info: Option<NodeInfo>,
    /// The K3s process and what it runs with.
    pub running: Option<Running>,
}

impl Remembered {
    /// Opens the memory below a state folder. A file that cannot be understood is set aside: first-seen times begin
    /// anew, which is told in the log.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn open(state_dir: &Path) -> Result<Self, MemoryError> {
        let key = key(&state_dir.join("fingerprint.key"))?;
        let path = state_dir.join("memory.json");
        let kept = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "what was remembered of this node cannot be read; it begins anew");
                Kept::default()
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Kept::default(),
            Err(source) => return Err(MemoryError::Read { path, source }),
        };
        let mut memory = Memory::lasting(*key);
        memory.seen = Some(kept.seen);
        let mut remembered = Self { path, memory, info: kept.info, running: kept.running };
        remembered.tell();
        Ok(remembered)
    }

    /// Tells the sources what is known of the running process.
    pub fn tell(&mut self) {
        let running = self.running.as_ref();
        self.memory.running = running.and_then(|r| r.config.clone());
        self.memory.running_since = running.map(|r| r.started);
        self.memory.documents = running.map(|r| Arc::clone(&r.documents)).unwrap_or_default();
        self.memory.version = running.and_then(|r| r.version.clone());
    }

    /// Writes it.
    ///
    /// # Errors
    /// [`MemoryError::Write`].
    pub fn save(&self) -> Result<(), MemoryError> {
        let kept = Kept {
            seen: self.memory.seen.clone().unwrap_or_default(),
            info: self.info.clone(),
            running: self.running.clone(),
        };
        // Maps with text as keys always serialise.
        let bytes = serde_json::to_vec(&kept).unwrap_or_default();
        Ok(atomic::write(&self.path, &bytes, 0o600)?)
    }
}

fn key(path: &Path) -> Result<Zeroizing<[u8; 32]>, MemoryError> {
    match std::fs::read(path).map(Zeroizing::new) {
        Ok(bytes) => {
            let key = bytes.as_slice().try_into().map_err(|_| MemoryError::Key(path.to_owned()))?;
            Ok(Zeroizing::new(key))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut key = Zeroizing::new([0; 32]);
            rand::rng().fill_bytes(key.as_mut());
            atomic::write(path, key.as_ref(), 0o600)?;
            Ok(key)
        }
        Err(source) => Err(MemoryError::Read { path: path.to_owned(), source }),
    }
}
