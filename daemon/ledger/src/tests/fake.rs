//! A disk in memory that can lose its power, be full, and rot.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::disk::{Disk, DiskFile};

#[derive(Debug, Clone, Default)]
pub(crate) struct Content {
    pub(crate) bytes: Vec<u8>,
    /// So many of them are durable.
    pub(crate) synced: usize,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) files: BTreeMap<String, Content>,
    /// Bytes that can still be written; none: no limit.
    pub(crate) room: Option<usize>,
    /// Syncs fail.
    pub(crate) sync_fails: bool,
    /// The power goes after so many operations that change something.
    pub(crate) power: Option<u64>,
}

impl State {
    fn step(&mut self) -> io::Result<()> {
        match &mut self.power {
            Some(0) => Err(io::Error::other("no power")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct FakeDisk(Arc<Mutex<State>>);

impl FakeDisk {
    pub(crate) fn handle(&self) -> Box<dyn Disk> {
        Box::new(self.clone())
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// A disk with what is durable here and, of each file's rest, as much as `tear` says (0 to 255: none to all).
    pub(crate) fn after_power_cut(&self, tear: u8) -> Self {
        let mut state = State::default();
        for (name, content) in &self.state().files {
            let rest = content.bytes.len() - content.synced;
            let kept = content.synced + rest * usize::from(tear) / 255;
            state.files.insert(name.clone(), Content { bytes: content.bytes[..kept].to_vec(), synced: kept });
        }
        Self(Arc::new(Mutex::new(state)))
    }

    pub(crate) fn segments(&self) -> Vec<String> {
        self.state().files.keys().filter(|n| n.ends_with(".seg")).cloned().collect()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.state().files.iter().filter(|(n, _)| n.ends_with(".seg")).map(|(_, c)| c.bytes.len()).sum()
    }
}

#[derive(Debug)]
struct FakeFile(FakeDisk, String);

impl DiskFile for FakeFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.0.state();
        state.step()?;
        let fits = state.room.map_or(bytes.len(), |room| room.min(bytes.len()));
        if let Some(room) = &mut state.room {
            *room -= fits;
        }
        let file = state.files.get_mut(&self.1).ok_or(io::ErrorKind::NotFound)?;
        file.bytes.extend_from_slice(&bytes[..fits]);
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.0.state();
        state.step()?;
        if state.sync_fails {
            return Err(io::Error::other("I/O error"));
        }
        let file = state.files.get_mut(&self.1).ok_or(io::ErrorKind::NotFound)?;
        file.synced = file.bytes.len();
        Ok(())
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        let mut state = self.0.state();
        state.step()?;
        if state.sync_fails {
            return Err(io::Error::other("I/O error"));
        }
        let file = state.files.get_mut(&self.1).ok_or(io::ErrorKind::NotFound)?;
        file.bytes.truncate(length as usize);
        file.synced = file.bytes.len();
        Ok(())
    }
}

impl Disk for FakeDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().files.keys().cloned().collect())
    }

    fn read(&self, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let state = self.state();
        let file = state.files.get(name).ok_or(io::ErrorKind::NotFound)?;
        let rest = file.bytes.get(offset as usize..).unwrap_or_default();
        Ok(rest[..length.min(rest.len())].to_vec())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.state().step()?;
        self.state().files.insert(name.to_owned(), Content::default());
        Ok(Box::new(FakeFile(self.clone(), name.to_owned())))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.state().files.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(FakeFile(self.clone(), name.to_owned())))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        let content = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        if let Some(gone) = state.files.remove(name)
            && let Some(room) = &mut state.room
        {
            *room += gone.bytes.len();
        }
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        self.state().step()
    }
}
