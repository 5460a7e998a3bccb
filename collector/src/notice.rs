//! What the collector itself finds on nodes: silence, a state reset, a clock that is off, an identity used twice,
//! reports that cannot be taken.
//!
//! These are findings like all others: numbered events under the collector's own epoch, one chain per node, so that
//! history, filters, watch and metrics have them without a second way.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::SignedDuration;
use picket_model::{
    EventBody, Evidence, Finding, FindingState, NodeId, Severity, Status, Transition, Verdict, transition,
};
use picket_service::clock::Clock;
use picket_store::{FindingQuery, Store, StoreError};

use crate::writer::WriterHandle;

/// One kind of finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Notice {
    /// Not heard of for longer than the limit.
    Silent,
    /// The node's state folder is a new one.
    StateReset,
    /// The node's clock differs from the collector's.
    ClockOff,
    /// Two machines use one identity.
    IdentityTwice,
    /// What the node sends cannot be taken.
    Rejected,
    /// The node says that events will never come.
    GivenUp,
}

impl Notice {
    /// All kinds.
    pub const ALL: [Self; 6] =
        [Self::Silent, Self::StateReset, Self::ClockOff, Self::IdentityTwice, Self::Rejected, Self::GivenUp];

    /// The id under which it is listed.
    pub const fn control(self) -> &'static str {
        match self {
            Self::Silent => "collector-node-silent",
            Self::StateReset => "collector-state-reset",
            Self::ClockOff => "collector-clock-off",
            Self::IdentityTwice => "collector-identity-twice",
            Self::Rejected => "collector-report-rejected",
            Self::GivenUp => "collector-events-given-up",
        }
    }

    const fn severity(self) -> Severity {
        match self {
            Self::Silent => Severity::High,
            Self::StateReset | Self::ClockOff | Self::GivenUp => Severity::Medium,
            Self::IdentityTwice => Severity::Critical,
            Self::Rejected => Severity::High,
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Silent => "The node reports nothing",
            Self::StateReset => "The node lost its memory",
            Self::ClockOff => "The node's clock is off",
            Self::IdentityTwice => "Two machines report with the identity of this node",
            Self::Rejected => "The collector cannot take what the node reports",
            Self::GivenUp => "Events of the node were lost before they were delivered",
        }
    }

    const fn expected(self) -> &'static str {
        match self {
            Self::Silent => "a sign of life within the limit (fleet.silent_after)",
            Self::StateReset => "one state folder for as long as the node lives",
            Self::ClockOff => "the collector's time within the tolerance (fleet.clock_tolerance)",
            Self::IdentityTwice => "one machine per identity",
            Self::Rejected => "numbered events as picket.v1 describes them",
            Self::GivenUp => "every numbered event",
        }
    }

    const fn remedy(self) -> &'static str {
        match self {
            Self::Silent => {
                "See whether the machine is up and reaches the collector; on it: systemctl status picketd, picketd status. \
                 A node that is gone for good: picket-collector node revoke NODE."
            }
            Self::StateReset => {
                "If /var/lib/picket was removed or the machine was installed again, all is well. If not, somebody may \
                 have wiped what the node remembered: compare its open findings with the history before the reset. \
                 This finding goes away by itself after a day."
            }
            Self::ClockOff => "Set the node's clock right and keep it so (chrony, systemd-timesyncd).",
            Self::IdentityTwice => {
                "A key was copied, by a cloned disk image, a restored backup or a thief. Revoke the node \
                 (picket-collector node revoke NODE) and enrol each machine with a token of its own. This finding goes away by itself a day after \
                 it was last seen."
            }
            Self::Rejected => {
                "See the log of both sides. Most often the node runs a version the collector does not know: update the \
                 collector first. A node whose disk was restored from an old image begins anew by itself."
            }
            Self::GivenUp => {
                "The node's outbox was full or damaged, or the collector's history was lost and the node no longer has \
                 what was in it; gap events in the node's history say why. Without such events somebody may be hiding \
                 something: look at the node. This finding goes away by itself a day after the last loss."
            }
        }
    }

    /// How long after its last sight a finding about a moment, not a state, stays open.
    const fn fades_after(self) -> Option<SignedDuration> {
        match self {
            Self::StateReset | Self::IdentityTwice | Self::GivenUp => Some(SignedDuration::from_hours(24)),
            Self::Silent | Self::ClockOff | Self::Rejected => None,
        }
    }

    fn verdict(self, status: Status, observed: String) -> Verdict {
        Verdict {
            control: self.control().to_owned(),
            subject: SUBJECT.to_owned(),
            status,
            severity: self.severity(),
            title: self.title().to_owned(),
            evidence: vec![Evidence { detail: observed.clone(), ..Evidence::default() }],
            observed,
            expected: self.expected().to_owned(),
            state: None,
            cis: std::collections::BTreeMap::default(),
            remedy: self.remedy().to_owned(),
        }
    }
}

/// The subject of all these findings: the node as a whole.
const SUBJECT: &str = "node";

/// Raises and settles. One change at a time.
#[derive(Debug)]
pub struct Notices {
    writer: WriterHandle,
    clock: Arc<dyn Clock>,
    known: tokio::sync::Mutex<HashMap<(NodeId, Notice), Finding>>,
}

impl Notices {
    /// Reads from the store what was found before.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn load(store: &dyn Store, writer: WriterHandle, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let mut known = HashMap::new();
        let mut query = FindingQuery {
            controls: Notice::ALL.iter().map(|n| n.control().to_owned()).collect(),
            states: FindingState::ALL.to_vec(),
            limit: 1000,
            ..FindingQuery::default()
        };
        loop {
            let page = store.findings(&query)?;
            for found in page.findings {
                if let Some(notice) = Notice::ALL.into_iter().find(|n| n.control() == found.finding.control) {
                    known.insert((found.node, notice), found.finding);
                }
            }
            query.after = page.next;
            if query.after.is_none() {
                return Ok(Self { writer, clock, known: tokio::sync::Mutex::new(known) });
            }
        }
    }

    /// Opens a finding, or changes what it says.
    pub async fn raise(&self, node: NodeId, notice: Notice, observed: impl Into<String>) {
        self.judge(node, notice, Status::Fail, observed.into()).await;
    }

    /// Resolves a finding, if it is open.
    pub async fn settle(&self, node: NodeId, notice: Notice, observed: impl Into<String>) {
        self.judge(node, notice, Status::Pass, observed.into()).await;
    }

    /// Is it open now?
    pub async fn is_open(&self, node: NodeId, notice: Notice) -> bool {
        self.known.lock().await.get(&(node, notice)).is_some_and(|f| f.state == FindingState::Open)
    }

    /// Resolves findings about a moment that is long past.
    pub async fn fade(&self, node: NodeId) {
        for notice in Notice::ALL {
            let Some(after) = notice.fades_after() else { continue };
            let due = self.known.lock().await.get(&(node, notice)).is_some_and(|f| {
                f.state == FindingState::Open && self.clock.now().duration_since(f.changed_at) >= after
            });
            if due {
                self.settle(node, notice, "not seen again for a day").await;
            }
        }
    }

    async fn judge(&self, node: NodeId, notice: Notice, status: Status, observed: String) {
        let mut known = self.known.lock().await;
        let now = self.clock.now();
        let verdict = notice.verdict(status, observed);
        let Some(change) = transition(known.get(&(node, notice)), &verdict, now) else { return };
        let finding = change.finding().clone();
        let body = match change {
            Transition::Opened(finding) => EventBody::FindingOpened { finding },
            Transition::Changed(finding) => EventBody::FindingChanged { finding },
            Transition::Resolved(finding) => EventBody::FindingResolved { finding },
        };
        match self.writer.submit_own(node, body).await {
            Ok(_) => {
                tracing::warn!(
                    node = %node, control = notice.control(), state = finding.state.as_str(),
                    observed = finding.observed, "finding of the collector"
                );
                known.insert((node, notice), finding);
            }
            // Nothing is noted, so the next look tries again.
            Err(error) => tracing::error!(
                node = %node, control = notice.control(), %error, "a finding of the collector cannot be stored"
            ),
        }
    }
}
