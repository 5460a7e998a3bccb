//! The ledger, shared by tasks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use picket_model::Seq;
use tokio::sync::watch;

use crate::Ledger;

/// The ledger, shared: a lock and a signal. Clones are the same ledger.
#[derive(Debug, Clone)]
pub struct LedgerHandle {
    ledger: Arc<Mutex<Ledger>>,
    last: Arc<watch::Sender<Seq>>,
}

impl LedgerHandle {
    /// Shares a ledger.
    pub fn new(ledger: Ledger) -> Self {
        let last = Seq(ledger.next_seq().0 - 1);
        Self { ledger: Arc::new(Mutex::new(ledger)), last: Arc::new(watch::Sender::new(last)) }
    }

    /// Does something with the ledger, then tells the listeners if numbers were given out. It blocks for as long as
    /// the disk takes to sync; never hold the guard of another lock meanwhile, and do not wait inside.
    pub fn with<T>(&self, work: impl FnOnce(&mut Ledger) -> T) -> T {
        let mut ledger = self.lock();
        let done = work(&mut ledger);
        let last = Seq(ledger.next_seq().0 - 1);
        drop(ledger);
        self.last.send_if_modified(|seen| std::mem::replace(seen, last) != last);
        done
    }

    /// The last number given out, as it grows. A new epoch sets it back.
    pub fn watch(&self) -> watch::Receiver<Seq> {
        self.last.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        // A panic in the middle of an append leaves a record that recovery would cut; memory may be ahead of it.
        // The daemon aborts on panic, so this is for tests only.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
