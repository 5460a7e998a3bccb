//! What `picketd status` says: gathered on a board that the tasks write to, answered as JSON on a local socket.
//!
//! The protocol is one line: whoever connects gets the status as JSON, and the connection is closed.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use picket_ledger::LedgerHandle;
use picket_model::{FindingState, NodeInfo};
use picket_service::clock::Clock;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::uplink::LinkState;

/// Name of the socket in the runtime folder.
pub const SOCKET: &str = "picketd.sock";

/// A place that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreadable {
    /// The source that wanted it.
    pub source: String,
    /// The path or name.
    pub place: String,
    /// Why, in words.
    pub reason: String,
}

/// What the engine and the tail say of themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// When the daemon started.
    pub started: Option<Timestamp>,
    /// What the node says of itself.
    pub node: NodeInfo,
    /// Below which folder it is looked at; none for this machine.
    pub root: Option<String>,
    /// K3s' data dir.
    pub data_dir: String,
    /// Folders that give hints.
    pub folders_watched: usize,
    /// Folders that give no hints, and why: they are swept.
    pub folders_unwatched: BTreeMap<String, String>,
    /// When anything was last looked at.
    pub last_look: Option<Timestamp>,
    /// When everything was last looked at.
    pub last_full_look: Option<Timestamp>,
    /// When a verdict will change by time alone.
    pub next_deadline: Option<Timestamp>,
    /// Changes that only a sweep found.
    pub missed_hints: u64,
    /// Places that look half written and do not count yet.
    pub unsettled: Vec<String>,
    /// What cannot be read.
    pub unreadable: Vec<Unreadable>,
    /// How many verdicts of each status the last look gave.
    pub verdicts: BTreeMap<String, u64>,
    /// How many waivers the node has.
    #[serde(default)]
    pub waivers: usize,
    /// What is wrong with the node's own controls and waivers.
    #[serde(default)]
    pub local_problems: Vec<String>,
    /// The audit log.
    pub audit: AuditState,
}

/// How the reading of the audit log goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditState {
    /// The log, in the node's terms; none while K3s' configuration names none.
    pub path: Option<String>,
    /// Other logs followed: K3s still writes to what an earlier configuration named.
    #[serde(default)]
    pub others: Vec<String>,
    /// Rules in use.
    #[serde(default)]
    pub rules: u64,
    /// What is wrong in the site's own rules, with file and line.
    #[serde(default)]
    pub rule_problems: Vec<String>,
    /// Bytes in the logs that are not read yet, as of the last look.
    #[serde(default)]
    pub behind: u64,
    /// Since when the end of a log was not reached.
    #[serde(default)]
    pub late_since: Option<Timestamp>,
    /// Logs that were deleted while their writer held them open, which are read on until picketd's own end.
    #[serde(default)]
    pub deleted: Vec<String>,
    /// An audit log goes to K3s' standard output, which is not read.
    #[serde(default)]
    pub printed: bool,
    /// The file being read now.
    pub file: Option<String>,
    /// How far, in bytes.
    pub offset: u64,
    /// Events read since the start.
    pub events: u64,
    /// Detections raised since the start.
    pub detections: u64,
    /// Lines since the start that were no events.
    pub malformed: u64,
    /// Counts that ended before their time so that the rules' memory stays bounded, ever.
    #[serde(default)]
    pub closed_early: u64,
    /// Facts of objects forgotten for the same reason, ever: a later change of them finds nothing to compare with.
    #[serde(default)]
    pub facts_forgotten: u64,
    /// When the last event was read.
    pub last_event: Option<Timestamp>,
    /// Why it cannot be read, if so.
    pub error: Option<String>,
}

/// The outbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outbox {
    /// The life of the state folder.
    pub epoch: String,
    /// The last number given out.
    pub last_seq: u64,
    /// Numbers the collector has not acknowledged.
    pub waiting: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Events given up since the start.
    pub given_up: u64,
    /// Why the disk takes nothing, if so.
    pub disk_error: Option<String>,
}

/// The link to the collector.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its address; none while the node is not enrolled.
    pub collector: Option<String>,
    /// This node's id there.
    pub node_id: Option<String>,
    /// End of this node's certificate.
    pub certificate_ends: Option<Timestamp>,
    /// Since when the link is up; none: it is down.
    pub connected_since: Option<Timestamp>,
    /// When the collector last said anything.
    pub last_contact: Option<Timestamp>,
    /// Why the link is or was down.
    pub last_error: Option<String>,
}

/// Everything, as it goes over the socket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// `picket.status/v1`
    pub schema: String,
    /// When this was said.
    pub at: Option<Timestamp>,
    /// Engine and tail.
    #[serde(flatten)]
    pub state: State,
    /// Findings open.
    pub findings_open: u64,
    /// Findings nobody can judge.
    pub findings_blind: u64,
    /// Open findings by severity.
    pub open_by_severity: BTreeMap<String, u64>,
    /// The outbox.
    pub outbox: Outbox,
    /// The link.
    pub link: Link,
}

/// The board. Clones are the same board.
#[derive(Debug, Clone, Default)]
pub struct Board(Arc<Mutex<State>>);

impl Board {
    /// Changes what the board says.
    pub fn update(&self, change: impl FnOnce(&mut State)) {
        // Plain values: good whatever panicked.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What the board says.
    pub fn read(&self) -> State {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Answers on the socket.
#[derive(Debug, Clone)]
pub struct Responder {
    /// What engine and tail say.
    pub board: Board,
    /// Findings and outbox.
    pub ledger: LedgerHandle,
    /// The link.
    pub link: watch::Receiver<LinkState>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// A socket that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot answer on {}; `picketd status` does not work", path.display())]
pub struct SocketError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl Responder {
    /// The whole status now.
    pub fn status(&self) -> Status {
        let link = self.link.borrow().clone();
        let mut status = Status {
            schema: "picket.status/v1".to_owned(),
            at: Some(self.clock.now()),
            state: self.board.read(),
            link: Link {
                collector: link.collector,
                node_id: link.node_id.map(|id| id.to_string()),
                certificate_ends: link.certificate_ends,
                connected_since: link.connected_since,
                last_contact: link.last_contact,
                last_error: link.last_error,
            },
            ..Status::default()
        };
        self.ledger.with(|ledger| {
            for finding in ledger.findings() {
                match finding.state {
                    FindingState::Open => {
                        status.findings_open += 1;
                        *status.open_by_severity.entry(finding.severity.as_str().to_owned()).or_default() += 1;
                    }
                    FindingState::Blind => status.findings_blind += 1,
                    FindingState::Resolved => {}
                }
            }
            let stats = ledger.stats();
            status.outbox = Outbox {
                epoch: ledger.epoch().to_string(),
                last_seq: ledger.next_seq().0.saturating_sub(1),
                waiting: stats.unacknowledged,
                bytes: stats.outbox_bytes,
                given_up: stats.given_up,
                disk_error: stats.disk_error,
            };
        });
        status
    }

    /// Answers until cancelled.
    ///
    /// # Errors
    /// [`SocketError`] when the socket cannot be made.
    pub async fn serve(self, folder: PathBuf, cancel: CancellationToken) -> Result<(), SocketError> {
        let path = folder.join(SOCKET);
        let fail = |source| SocketError { path: path.clone(), source };
        let listener = bind(&path).map_err(fail)?;
        loop {
            let stream = tokio::select! {
                () = cancel.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let mut stream = match stream {
                Ok((stream, _)) => stream,
                Err(source) => return Err(fail(source)),
            };
            let mut text = serde_json::to_vec(&self.status()).unwrap_or_default();
            text.push(b'\n');
            // Someone who asks and does not listen must not hold the next one up for long.
            let answer = async {
                stream.write_all(&text).await?;
                stream.shutdown().await
            };
            tokio::time::timeout(Duration::from_secs(2), answer).await.ok();
        }
        std::fs::remove_file(&path).ok();
        Ok(())
    }
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    // Left behind by a kill. The state folder's lock keeps a second daemon away.
    if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}
