//! The audit log: tail → detections → ledger. What was detected and how far the log was read are one append.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use picket_audit::{Detector, Mode, Position, RuleError, each_event};
use picket_host::{Host, Kind};
use picket_ledger::{AppendError, AuditMark, LedgerHandle};
use picket_model::{EventBody, Gap, GapReason};
use picket_service::chain::Chain;
use picket_tail::{Batch, Config, Cursor, Reader, StartAt, TailError};

use crate::settings::AuditStart;
use crate::status::Board;

/// How much of the log is read before the ledger hears of it.
const BUDGET: usize = 1 << 20;
/// Without a detection the place in the log is kept so often: reading that much again after a crash costs little, and
/// flash lives longer.
const KEEP_EVERY: Duration = Duration::from_secs(30);
/// A detector's memory up to this size goes with every append; a larger one only with detections or once in a while.
const SMALL_STATE: usize = 16 << 10;

/// A tail that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The rules that are compiled in do not load.
    #[error("the audit rules cannot be used")]
    Rules(#[from] RuleError),
    /// The ledger refused events. A disk that is full is no such case.
    #[error("the ledger does not take detections")]
    Append(#[from] AppendError),
    /// The thread that reads is gone.
    #[error("reading the audit log was interrupted")]
    Read(#[from] tokio::task::JoinError),
}

/// Follows the audit log of a node.
#[derive(Debug)]
pub struct AuditWatch {
    host: Host,
    start: AuditStart,
    ledger: LedgerHandle,
    board: Board,
    path: Option<String>,
    reader: Option<Reader>,
    detector: Detector,
    /// Bytes and lines read that no mark in the ledger accounts for yet.
    unkept: u64,
    kept_at: Instant,
    full_at: Instant,
    /// Last error that was logged.
    trouble: Option<String>,
}

impl AuditWatch {
    /// A watch that follows nothing yet.
    ///
    /// # Errors
    /// [`AuditError::Rules`].
    pub fn new(host: Host, start: AuditStart, ledger: LedgerHandle, board: Board) -> Result<Self, AuditError> {
        let detector = detector()?;
        let now = Instant::now();
        Ok(Self {
            host,
            start,
            ledger,
            board,
            path: None,
            reader: None,
            detector,
            unkept: 0,
            kept_at: now,
            full_at: now,
            trouble: None,
        })
    }

    /// From now on follow this log, in the node's terms.
    pub fn follow(&mut self, path: Option<String>) {
        if self.path != path {
            self.board.update(|state| state.audit.path.clone_from(&path));
            self.path = path;
            self.reader = None;
            self.trouble = None;
        }
    }

    /// Reads what is new. Says whether there is more to read at once.
    ///
    /// # Errors
    /// [`AuditError::Append`]. A log that cannot be read is no error: it is told in the log and the status, and tried
    /// again.
    pub fn step(&mut self) -> Result<bool, AuditError> {
        match self.read() {
            Ok(None) => Ok(false),
            Ok(Some(batch)) => {
                self.trouble = None;
                let more = batch.more;
                self.take(batch)?;
                Ok(more)
            }
            Err(error) => {
                let text = Chain(&error).to_string();
                if self.trouble.as_ref() != Some(&text) {
                    tracing::warn!(error = text, "the audit log cannot be read; detections are missing until it can");
                    self.board.update(|state| state.audit.error = Some(text.clone()));
                    self.trouble = Some(text);
                }
                Ok(false)
            }
        }
    }

    /// Keeps the place in the log, for an orderly stop.
    ///
    /// # Errors
    /// [`AuditError::Append`].
    pub fn stop(&mut self) -> Result<(), AuditError> {
        match self.reader.as_ref().map(Reader::cursor) {
            Some(cursor) if self.unkept > 0 => self.append(Vec::new(), &cursor, true),
            _ => Ok(()),
        }
    }

    fn read(&mut self) -> Result<Option<Batch>, TailError> {
        let Some(path) = self.path.clone() else { return Ok(None) };
        let reader = match &mut self.reader {
            Some(reader) => reader,
            None => {
                let reader = self.open(&path)?;
                self.reader.insert(reader)
            }
        };
        reader.poll(BUDGET).map(Some)
    }

    fn open(&mut self, path: &str) -> Result<Reader, TailError> {
        let start = match self.start {
            AuditStart::Beginning => StartAt::Beginning,
            AuditStart::End => StartAt::End,
            AuditStart::Within(time) => {
                let since = SignedDuration::try_from(time).ok().and_then(|time| self.host.now().checked_sub(time).ok());
                since.map_or(StartAt::Beginning, StartAt::Since)
            }
        };
        let config = Config { shown: path.to_owned(), ..Config::new(self.outside(Path::new(path)), start) };
        let (cursor, state) = self.ledger.with(|ledger| {
            (ledger.audit_cursor().map(<[u8]>::to_vec), ledger.detector_state().map(|state| state.state.clone()))
        });
        let cursor = cursor.and_then(|bytes| {
            serde_json::from_slice::<Cursor>(&bytes)
                .inspect_err(
                    |error| tracing::warn!(%error, "the place in the audit log cannot be read; reading begins anew"),
                )
                .ok()
        });
        if let Some(state) = state.filter(|_| cursor.is_some())
            && let Err(error) = self.detector.restore(&state)
        {
            tracing::warn!(error = %Chain(&error), "what the audit rules remembered is lost");
        }
        let reader = Reader::open(config, cursor)?;
        match reader.place() {
            Some((file, offset)) => tracing::info!(path, file = &*file, offset, "the audit log is read on"),
            None => tracing::info!(path, "the audit log is read"),
        }
        Ok(reader)
    }

    /// Where the log lies on this machine; links are followed inside the root. The name may not exist yet.
    fn outside(&self, path: &Path) -> PathBuf {
        let trail = self.host.trail(path);
        if matches!(trail.outcome, Ok(Kind::File)) && trail.end.file_name() != path.file_name() {
            // The log itself is a link: its rotated files lie where it leads.
            return self.host.outside(&trail.end);
        }
        match (path.parent(), path.file_name()) {
            (Some(folder), Some(name)) => self.host.outside(&self.host.trail(folder).end).join(name),
            _ => self.host.outside(path),
        }
    }

    fn take(&mut self, batch: Batch) -> Result<(), AuditError> {
        let mut detections = Vec::new();
        let (mut events, mut malformed, mut last) = (0u64, 0u64, None);
        let mut first_bad = None;
        for line in &batch.lines {
            let position = Position { file: &line.file, line: line.number };
            each_event(&line.bytes, |event| match event {
                Ok(event) => {
                    events += 1;
                    last = event.time().or(last);
                    self.detector.observe(&event, position, &mut detections);
                }
                Err(error) => {
                    malformed += 1;
                    first_bad.get_or_insert_with(|| format!("line {} of {}: {error}", line.number, line.file));
                }
            });
        }
        self.detector.tick(self.host.now(), &mut detections);
        let raised = detections.len() as u64;
        for detection in &detections {
            tracing::warn!(
                rule = detection.rule,
                severity = detection.severity.as_str(),
                user = detection.user,
                source = detection.source,
                audit_id = detection.audit_id,
                count = detection.count,
                "detection in the audit log: {}",
                detection.title
            );
        }
        let mut bodies: Vec<_> = detections.into_iter().map(|detection| EventBody::Detection { detection }).collect();
        if let Some(first) = first_bad {
            tracing::warn!(malformed, first, "lines of the audit log are no events");
            let detail = format!("{malformed} lines are no audit events, first {first}");
            bodies.push(gap(malformed, detail));
        }
        for lost in batch.gaps {
            tracing::warn!(count = lost.count, detail = lost.detail, "the audit log lost lines");
            bodies.push(EventBody::Gap { gap: lost });
        }
        self.unkept += batch.lines.iter().map(|line| line.bytes.len() as u64 + 1).sum::<u64>();
        let place = self.reader.as_ref().and_then(Reader::place);
        self.board.update(|state| {
            let audit = &mut state.audit;
            audit.events += events;
            audit.detections += raised;
            audit.malformed += malformed;
            audit.last_event = last.or(audit.last_event);
            audit.error = None;
            if let Some((file, offset)) = place {
                audit.file = Some(file.to_string());
                audit.offset = offset;
            }
        });
        let due = self.unkept > 0 && self.kept_at.elapsed() >= KEEP_EVERY;
        if !bodies.is_empty() || due {
            let full = self.full_at.elapsed() >= KEEP_EVERY || raised > 0;
            self.append(bodies, &batch.cursor, full)?;
        }
        Ok(())
    }

    fn append(&mut self, bodies: Vec<EventBody>, cursor: &Cursor, full: bool) -> Result<(), AuditError> {
        // Plain structures always serialise.
        let cursor = serde_json::to_vec(cursor).unwrap_or_default();
        let state = self
            .detector
            .state()
            .inspect_err(|error| tracing::warn!(error = %Chain(error), "what the audit rules remember cannot be kept"))
            .ok()
            .filter(|state| (full || state.len() <= SMALL_STATE) && state.len() <= AuditMark::DETECTOR_MAX);
        let now = self.host.now();
        let mark = AuditMark { cursor, detector: state };
        self.ledger.with(|ledger| ledger.append(bodies, Some(mark), now))?;
        self.unkept = 0;
        self.kept_at = Instant::now();
        if full {
            self.full_at = self.kept_at;
        }
        Ok(())
    }
}

fn detector() -> Result<Detector, RuleError> {
    let settings = picket_audit::Settings { mode: Mode::default(), ..picket_audit::Settings::default() };
    Ok(Detector::new(picket_audit::builtin()?, settings))
}

fn gap(count: u64, detail: String) -> EventBody {
    EventBody::Gap { gap: Gap { reason: GapReason::AuditLog, count, first: None, last: None, detail } }
}
