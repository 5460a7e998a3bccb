//! The detector's memory, stored and taken over.

use picket_model::Detection;
use serde::{Deserialize, Serialize};

use super::count::close;
use super::{Counters, Detector};
use crate::clock::Clock;
use crate::footprint::Length;
use crate::known::Known;
use crate::trail::Trail;
use crate::window::{Learnt, Started, Window, Windows};

/// The detector's memory as it is stored.
#[derive(Deserialize)]
struct State {
    version: u32,
    first: Option<i64>,
    #[serde(default)]
    clock: Clock,
    counters: Counters,
    started: Vec<(u64, u64)>,
    trail: Trail,
    windows: Vec<(u64, Window)>,
    #[serde(default)]
    known: Vec<(u64, u64, i64)>,
    #[serde(default)]
    learnt: Vec<u64>,
}

/// The same, to be written.
#[derive(Serialize)]
struct Kept<'d> {
    version: u32,
    first: Option<i64>,
    clock: &'d Clock,
    counters: Counters,
    started: Vec<(u64, u64)>,
    trail: &'d Trail,
    windows: Vec<(u64, &'d Window)>,
    known: Vec<(u64, u64, i64)>,
    learnt: Vec<u64>,
}

const STATE_VERSION: u32 = 1;

/// A stored memory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Not what [`Detector::state`] wrote.
    #[error("the detector's memory cannot be read, start with an empty one: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// Written by another version.
    #[error("the detector's memory has version {0}, this program reads {STATE_VERSION}: start with an empty one")]
    Version(u32),
}

impl Detector {
    /// The memory, to be stored with the reader's cursor.
    ///
    /// # Errors
    /// Never in practice: the types serialise.
    pub fn state(&self) -> Result<Vec<u8>, StateError> {
        Ok(serde_json::to_vec(&self.kept())?)
    }

    fn kept(&self) -> Kept<'_> {
        let mut windows: Vec<_> = self.windows.iter().collect();
        windows.sort_unstable_by_key(|(key, _)| *key);
        Kept {
            version: STATE_VERSION,
            first: self.first,
            clock: &self.clock,
            counters: self.counters(),
            started: self.started.entries(),
            trail: &self.trail,
            windows,
            known: self.known.entries(),
            learnt: self.learnt.entries(),
        }
    }

    /// The memory in at most `limit` bytes: what does not fit is forgotten, here as in what is stored, so that both
    /// go on alike. The windows that end first go first, with what they counted in `out`, then the requests that were
    /// seen to start.
    ///
    /// # Errors
    /// As [`Detector::state`].
    pub fn state_within(&mut self, limit: usize, out: &mut Vec<Detection>) -> Result<Vec<u8>, StateError> {
        loop {
            // Counted before it is written: what is far too long would take more memory than the limit is for.
            let mut length = Length::default();
            serde_json::to_writer(&mut length, &self.kept())?;
            if length.0 <= limit {
                let mut state = Vec::with_capacity(length.0);
                serde_json::to_writer(&mut state, &self.kept())?;
                return Ok(state);
            }
            let forgotten = self.windows.forget_quarter();
            let some = !forgotten.is_empty();
            let from = out.len();
            forgotten.into_iter().for_each(|window| close(window, out));
            self.mute(from, out);
            if !some && !self.started.forget_half() && !self.known.forget_half() && !self.learnt.forget_half() {
                // The trail's own memory is a few hundred KiB at most; a smaller limit keeps nothing of it either.
                self.trail = Trail::default();
                return self.state();
            }
        }
    }

    /// Takes over a memory that [`Detector::state`] wrote. Windows of rules that are gone are dropped.
    ///
    /// # Errors
    /// [`StateError`] when the bytes are something else; the detector then is as it was.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        let state: State = serde_json::from_slice(bytes)?;
        if state.version != STATE_VERSION {
            return Err(StateError::Version(state.version));
        }
        self.first = state.first;
        self.clock = state.clock;
        self.counters = state.counters;
        self.trail = state.trail.restored();
        self.started = Started::default();
        for (id, request) in state.started {
            self.started.insert(id, request);
        }
        self.learnt = Learnt::default();
        state.learnt.into_iter().for_each(|key| self.learnt.insert(key));
        self.windows = Windows::new(self.settings.limits());
        for (key, mut window) in state.windows {
            for waiting in &mut window.waiting {
                waiting.file = self.files.shared(&waiting.file);
            }
            if self.rules.iter().any(|rule| rule.id == window.rule) {
                self.windows.put(key, window);
            }
        }
        self.windows.evicted = state.counters.evicted;
        // Only saves looking; what is to be found says itself until when it matters.
        self.follow_until = i64::MAX;
        self.known = Known::restored(state.known);
        self.known.evicted = state.counters.facts_evicted;
        Ok(())
    }
}
