//! Committed events, as they become durable: for watchers, alerts and counters.
//!
//! The bus never waits for a listener. One that falls behind by more than the bus holds is cut off and told so.

use picket_store::StoredEvent;
use tokio::sync::broadcast;

/// Where committed events come out.
#[derive(Debug, Clone)]
pub struct Bus {
    sender: broadcast::Sender<StoredEvent>,
}

/// One that listens.
#[derive(Debug)]
pub struct Listener {
    receiver: broadcast::Receiver<StoredEvent>,
}

/// A listener hears nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// It was too slow.
    #[error(
        "{missed} events were missed: the listener is too slow; list the history from the last event seen and watch again"
    )]
    TooSlow {
        /// Events it did not get.
        missed: u64,
    },
    /// The collector stops.
    #[error("the collector is stopping: watch again in a moment")]
    Closed,
}

impl From<ListenError> for tonic::Status {
    fn from(error: ListenError) -> Self {
        match error {
            ListenError::TooSlow { .. } => Self::resource_exhausted(error.to_string()),
            ListenError::Closed => Self::unavailable(error.to_string()),
        }
    }
}

impl Bus {
    /// A bus that holds so many events for its slowest listener; at least one.
    pub fn new(capacity: usize) -> Self {
        Self { sender: broadcast::channel(capacity.max(1)).0 }
    }

    /// Hands an event to everyone who listens. Nobody may.
    pub fn publish(&self, event: StoredEvent) {
        // Err means that nobody listens, which is no error.
        drop(self.sender.send(event));
    }

    /// Hears every event from now on.
    pub fn subscribe(&self) -> Listener {
        Listener { receiver: self.sender.subscribe() }
    }

    /// How many listen.
    pub fn listeners(&self) -> usize {
        self.sender.receiver_count()
    }
}

impl Listener {
    /// The next event, in the order of the history. Cancel safe.
    ///
    /// # Errors
    /// [`ListenError`]; after it nothing more comes in order, so the listener must be dropped.
    pub async fn next(&mut self) -> Result<StoredEvent, ListenError> {
        self.receiver.recv().await.map_err(|error| match error {
            broadcast::error::RecvError::Lagged(missed) => ListenError::TooSlow { missed },
            broadcast::error::RecvError::Closed => ListenError::Closed,
        })
    }
}
