//! The uplink: one bidirectional stream to the collector for as long as the connection lives.
//!
//! | file | idea |
//! |---|---|
//! | [`session`] | one stream: hello, welcome, batches, acknowledgements, heartbeats |
//! | [`window`] | how much is under way |
//! | [`renew`] | the next certificate, in time |
//!
//! Invariants: only what the ledger committed is sent; only what the collector acknowledged is let go; an
//! acknowledgement of something that was never sent ends the stream and lets nothing go. A link is up when Welcome
//! came, not when the connection stands.

pub mod renew;
pub mod session;
pub mod window;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use picket_ledger::LedgerHandle;
use picket_model::{NodeId, NodeInfo, Seq};
use picket_service::backoff::Backoff;
use picket_service::chain::Chain;
use picket_service::clock::Clock;
use picket_service::tls::connector::Dialer;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::identity::{IdentityError, IdentityFolder, Loaded};
use session::{End, Session};

/// Times of the uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Delay after the first failure; it doubles with each.
    pub backoff_first: Duration,
    /// Longest delay.
    pub backoff_max: Duration,
    /// How long Welcome may take after Hello.
    pub welcome_timeout: Duration,
    /// A collector that acknowledges nothing for so long while events are under way is left and tried anew.
    pub ack_timeout: Duration,
    /// How often to look whether the identity is there, or due for renewal.
    pub identity_check: Duration,
    /// How often to try again to write what waits in memory because the disk took nothing.
    pub disk_retry: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            backoff_first: Duration::from_millis(500),
            backoff_max: Duration::from_secs(60),
            welcome_timeout: Duration::from_secs(15),
            ack_timeout: Duration::from_secs(120),
            identity_check: Duration::from_secs(60),
            disk_retry: Duration::from_secs(5),
        }
    }
}

/// What the node says of itself in hellos and heartbeats.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vitals {
    /// Inventory.
    pub info: NodeInfo,
    /// When the last full sweep ended, by the node's clock.
    pub sweep_ended: Option<Timestamp>,
    /// Changes that a sweep found and no hint had announced, since the daemon started.
    pub missed_hints: u64,
    /// Sources that cannot be read now.
    pub unreadable_sources: u32,
}

/// The link as others see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkState {
    /// The collector's address, once an identity was read.
    pub collector: Option<String>,
    /// This node's identity there.
    pub node_id: Option<NodeId>,
    /// End of the node's certificate.
    pub certificate_ends: Option<Timestamp>,
    /// Since when the link is up. None: it is down.
    pub connected_since: Option<Timestamp>,
    /// When the collector last said anything.
    pub last_contact: Option<Timestamp>,
    /// Why the link is or was down, with what to do.
    pub last_error: Option<String>,
    /// Everything up to here is durable at the collector.
    pub acknowledged_seq: Seq,
}

/// The uplink's parts.
#[derive(Debug)]
pub struct Uplink {
    settings: Settings,
    ledger: LedgerHandle,
    identity: IdentityFolder,
    clock: Arc<dyn Clock>,
    vitals: watch::Receiver<Vitals>,
    state: watch::Sender<LinkState>,
    asked: Mutex<Option<Instant>>,
}

/// What of the uplink the sessions share.
#[derive(Debug)]
pub(crate) struct Shared<'a> {
    pub(crate) settings: Settings,
    pub(crate) ledger: &'a LedgerHandle,
    pub(crate) identity: &'a IdentityFolder,
    pub(crate) clock: &'a dyn Clock,
    pub(crate) vitals: &'a watch::Receiver<Vitals>,
    pub(crate) state: &'a watch::Sender<LinkState>,
    /// When the next certificate was last asked for.
    pub(crate) asked: &'a Mutex<Option<Instant>>,
}

impl Uplink {
    /// An uplink of this ledger with the identity in this folder.
    pub fn new(
        settings: Settings,
        ledger: LedgerHandle,
        identity: IdentityFolder,
        clock: Arc<dyn Clock>,
        vitals: watch::Receiver<Vitals>,
    ) -> Self {
        let acknowledged_seq = ledger.with(|l| l.acknowledged());
        let state = watch::Sender::new(LinkState { acknowledged_seq, ..LinkState::default() });
        Self { settings, ledger, identity, clock, vitals, state, asked: Mutex::new(None) }
    }

    /// The state of the link as it changes.
    pub fn link(&self) -> watch::Receiver<LinkState> {
        self.state.subscribe()
    }

    /// Keeps the link up until `cancel`. Every failure is logged, shown in [`LinkState`] and tried again; a node that
    /// is not enrolled yet waits until it is.
    pub async fn run(self, cancel: CancellationToken) {
        let work = async { tokio::join!(Box::pin(self.keep_up(&cancel)), self.keep_trying_the_disk()) };
        cancel.run_until_cancelled(work).await;
        self.state.send_modify(|s| s.connected_since = None);
    }

    /// What waits in memory while the disk takes nothing is tried again without waiting for the next event.
    async fn keep_trying_the_disk(&self) {
        let mut again = tokio::time::interval(self.settings.disk_retry);
        again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            again.tick().await;
            let now = self.clock.now();
            self.ledger.with(|ledger| {
                if ledger.stats().disk_error.is_some() {
                    ledger.retry(now);
                }
            });
        }
    }

    async fn keep_up(&self, cancel: &CancellationToken) {
        let mut backoff = Backoff::new(self.settings.backoff_first, self.settings.backoff_max);
        loop {
            let loaded = match self.identity.load() {
                Ok(loaded) => loaded,
                Err(error) => {
                    self.down(&Chain(&error).to_string(), 0);
                    let wait = match error {
                        // Someone will enrol this node soon: looking costs one `stat`.
                        IdentityError::NotEnrolled(_) => Duration::from_secs(2).min(self.settings.identity_check),
                        _ => self.settings.identity_check,
                    };
                    tokio::time::sleep(wait).await;
                    continue;
                }
            };
            let wait = match self.identity.dialer(&loaded) {
                Ok(dialer) => self.once(&loaded, dialer, &mut backoff, cancel).await,
                Err(error) => {
                    self.down(&Chain(&error).to_string(), 0);
                    self.settings.identity_check
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// One connection. Returns how long to wait before the next.
    async fn once(
        &self,
        loaded: &Loaded,
        dialer: Dialer,
        backoff: &mut Backoff,
        cancel: &CancellationToken,
    ) -> Duration {
        self.state.send_modify(|s| {
            s.collector = Some(loaded.collector.address.clone());
            s.node_id = Some(loaded.collector.node_id);
            s.certificate_ends = Some(loaded.certificate.not_after);
        });
        let shared = Shared {
            settings: self.settings,
            ledger: &self.ledger,
            identity: &self.identity,
            clock: &*self.clock,
            vitals: &self.vitals,
            state: &self.state,
            asked: &self.asked,
        };
        let (end, welcomed) = Session::new(shared, loaded, dialer).run(cancel).await;
        if welcomed {
            backoff.reset();
        }
        self.state.send_modify(|s| s.connected_since = None);
        match end {
            End::Again(why) => {
                tracing::info!(why, "the link to the collector begins anew");
                Duration::ZERO
            }
            End::Goodbye { reason, retry_after } => {
                self.down(&format!("the collector closed the stream: {reason}"), backoff.failures());
                retry_after.min(Duration::from_secs(3600)).max(backoff.delay())
            }
            End::Failed(reason) => {
                self.down(&reason, backoff.failures());
                backoff.delay()
            }
        }
    }

    /// The link is down: said once for each new reason, and then now and then.
    fn down(&self, reason: &str, failures: u32) {
        let news = self.state.send_if_modified(|state| {
            let news = state.last_error.as_deref() != Some(reason);
            if news {
                state.last_error = Some(reason.to_owned());
            }
            news
        });
        if news {
            tracing::warn!(reason, failures, "no link to the collector");
        } else {
            tracing::debug!(reason, failures, "still no link to the collector");
        }
    }
}
