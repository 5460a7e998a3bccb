//! What can go wrong.

use std::io;
use std::path::PathBuf;

use crate::Table;

/// A store that does not do what was asked. Nothing may be acknowledged after it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The engine refused, most often because the disk did.
    #[error("the store cannot {doing}: look at the free space and the health of the disk it is on")]
    Engine {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A record does not read back as what it was written as.
    #[error("the store's {what} under key {key} cannot be read: {detail}; export what is left and start a new store")]
    Damaged {
        /// What kind of record.
        what: &'static str,
        /// Its key, in hexadecimal.
        key: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A record was changed by someone else in between: read it again and repeat.
    #[error("{table} record {key:?} was changed in between: read it again and repeat")]
    Conflict {
        /// Which table.
        table: Table,
        /// Which record.
        key: String,
    },
    /// A key or value over what the store takes.
    #[error("{table} record {key:?} is too large: {bytes} bytes, at most {limit} are taken")]
    TooLarge {
        /// Which table.
        table: Table,
        /// The key, shortened.
        key: String,
        /// Its size.
        bytes: usize,
        /// What is taken.
        limit: usize,
    },
}

impl StoreError {
    pub(crate) fn damaged(what: &'static str, key: &[u8], detail: impl Into<String>) -> Self {
        let key = key.iter().take(64).map(|byte| format!("{byte:02x}")).collect();
        Self::Damaged { what, key, detail: detail.into() }
    }
}

/// A store that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error(
        "store {path} is in use by another process: stop the other picket-collector, or give this one a folder of its own"
    )]
    InUse {
        /// The store's folder.
        path: PathBuf,
    },
    /// It was written by a newer version.
    #[error(
        "store {path} has format {found}, this version reads up to {known}: install the newer picket-collector again"
    )]
    Newer {
        /// The store's folder.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format known here.
        known: u32,
    },
    /// It is not a store of Picket.
    #[error("{path} holds a database that is not Picket's: choose another folder")]
    Foreign {
        /// The folder.
        path: PathBuf,
    },
    /// Its content does not hold together.
    #[error("store {path} is damaged: set it aside and start a new one; nodes send again what they still have")]
    Damaged {
        /// The store's folder.
        path: PathBuf,
        /// What was found.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file system refused.
    #[error("store {path} cannot be opened: look at the folder's owner, mode and free space")]
    Io {
        /// The store's folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl OpenError {
    /// Is setting the store aside a remedy?
    pub const fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. })
    }
}
