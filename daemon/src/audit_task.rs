//! The audit log: tail → detections → ledger. What was detected and how far the log was read are one append.
//!
//! K3s goes on writing to the log it was started with, whatever its configuration says meanwhile. So a log that is no
//! longer named is followed on: see [`AuditWatch::follow`].

mod kept;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use picket_audit::{Detector, Position, RuleError, each_event};
use picket_host::{Host, Kind};
use picket_ledger::{AppendError, AuditMark, LedgerHandle};
use picket_model::{Detection, EventBody, Gap, GapReason};
use picket_service::chain::Chain;
use picket_tail::{Batch, Config, Cursor, Follow, Oddity, Reader, StartAt, TailError};

use self::kept::{Places, Since, in_units, packed, places_of, unpacked};
use crate::rules;
use crate::settings::AuditStart;
use crate::status::Board;

/// How much of the log is read before the ledger hears of it. A hostile log brings a dozen detections a line, and all
/// of a piece are in memory at once.
const BUDGET: usize = 256 << 10;
/// Without a detection the place in the log is kept so often: reading that much again after a crash costs little, and
/// flash lives longer.
const KEEP_EVERY: Duration = Duration::from_secs(30);

/// After so many bytes the detector's memory goes into the ledger again: as much is read again after a crash.
const REMEMBER_AFTER: u64 = 16 << 20;

/// How much later than it happened an event may be in the log.
const GRACE: SignedDuration = SignedDuration::from_secs(10);
/// How long a log that nothing names any more must be silent before it is let go, if another one is there.
const LET_GO: Duration = Duration::from_secs(3600);
/// Most logs followed at once.
const MOST_LOGS: usize = 8;
/// Of so many logs that are followed no longer the place is kept: a configuration is often changed back.
const MOST_LEFT: usize = 2;

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

/// One log.
#[derive(Debug)]
struct Log {
    /// In the node's terms.
    path: String,
    reader: Option<Reader>,
    /// Where to begin, from the ledger, until the log is open.
    cursor: Option<Cursor>,
    /// Something still names it.
    named: bool,
    /// When it last gave a line, or was last named.
    alive_at: Instant,
    /// Last error that was logged.
    trouble: Option<String>,
    /// Since when its end was not reached, by the monotonic clock and by the node's.
    late: Option<(Instant, Timestamp)>,
    /// That was raised.
    late_told: bool,
    /// Lines still to be judged a second time, in silence, before new ones are.
    again: Option<Again>,
}

/// The detector's memory in the ledger is older than the place: what was judged since is judged again, and what comes
/// of it is known already.
#[derive(Debug)]
struct Again {
    /// What is to be judged again, and what was so far.
    wanted: Since,
    judged: Since,
    /// The place, to go on from after those lines, or when they are gone.
    place: Cursor,
}

/// Why the end of a log was not reached.
#[derive(Debug, Clone, Copy)]
enum Late {
    /// There is more to read at once.
    Behind,
    /// It cannot be read.
    Blind,
}

/// Follows the audit logs of a node: nearly always one.
#[derive(Debug)]
pub struct AuditWatch {
    host: Arc<Host>,
    start: AuditStart,
    ledger: LedgerHandle,
    board: Board,
    logs: Vec<Log>,
    /// Where the logs that are followed no longer were left, the last one last.
    left: Vec<Cursor>,
    detector: Detector,
    /// Bytes and lines read that no mark in the ledger accounts for yet.
    unkept: u64,
    kept_at: Instant,
    /// What was judged since the detector's memory last went into the ledger.
    since: Since,
    since_bytes: u64,
    remembered_at: Instant,
    /// Something changed that memory and cannot be judged again.
    remember: bool,
    /// A log was opened where the settings say, which is to count once only.
    begun: bool,
}

impl AuditWatch {
    /// A watch that goes on with the logs it followed before.
    ///
    /// # Errors
    /// [`AuditError::Rules`].
    pub fn new(
        host: Host,
        start: AuditStart,
        rules: &Path,
        ledger: LedgerHandle,
        board: Board,
    ) -> Result<Self, AuditError> {
        let mut detector = detector(rules, &board)?;
        let (places, state) =
            ledger.with(|ledger| (ledger.audit_cursor().map(places_of), ledger.detector_state().cloned()));
        let places = places.unwrap_or_default();
        let mut again = None;
        if let Some(state) = state.filter(|_| !places.logs.is_empty())
            && restore(&mut detector, &state.state)
        {
            let before = places_of(&state.cursor).logs.into_iter().next();
            again = before.filter(|_| places.since.lines > 0);
            if let Some(ticked) = places.since.ticked.filter(|_| places.since.lines == 0) {
                // What that brought is in the ledger.
                detector.tick(ticked, &mut Vec::new());
            }
        }
        let now = Instant::now();
        let logs = places.logs.into_iter().map(|place| {
            let log = Log { cursor: Some(place.clone()), named: false, ..Log::new(place.path.clone()) };
            match again.take().filter(|before| before.path == place.path) {
                Some(before) => {
                    let again = Some(Again { wanted: places.since, judged: Since::default(), place });
                    Log { cursor: Some(before), again, ..log }
                }
                None => log,
            }
        });
        Ok(Self {
            logs: logs.collect(),
            left: places.left,
            host: Arc::new(host),
            start,
            ledger,
            board,
            detector,
            unkept: 0,
            kept_at: now,
            since: places.since,
            since_bytes: 0,
            remembered_at: now,
            remember: true,
            begun: false,
        })
    }

    /// Reads the rules anew; what was counted so far is kept.
    ///
    /// # Errors
    /// [`AuditError::Rules`].
    pub fn use_rules(&mut self, folder: &Path) -> Result<(), AuditError> {
        let mut detector = detector(folder, &self.board)?;
        if let Err(error) = self.detector.state().and_then(|state| detector.restore(&state)) {
            tracing::warn!(error = %Chain(&error), "what the audit rules remembered is lost");
        }
        self.detector = detector;
        self.remember = true;
        Ok(())
    }

    /// From now on follow these logs, in the node's terms. One that was followed and is not among them is followed
    /// on as long as it is there: the running K3s writes to it until its next start, and a configuration that loses
    /// the log is what somebody with something to hide would do. It is let go when another log is there and it has
    /// given no line for an hour. With `only` these and no others are followed.
    pub fn follow(&mut self, paths: &[String], only: bool) {
        for log in &mut self.logs {
            let named = paths.contains(&log.path);
            if log.named && !named && !only {
                tracing::info!(path = log.path, "nothing names this audit log any more; it is followed until it ends");
            }
            if log.named || named {
                log.alive_at = Instant::now();
            }
            log.named = named;
        }
        for path in paths.iter().take(MOST_LOGS) {
            if !self.logs.iter().any(|log| log.path == *path) {
                let cursor = self.left.iter().position(|left| left.path == *path).map(|at| self.left.remove(at));
                self.logs.push(Log { named: true, cursor, ..Log::new(path.clone()) });
                self.remember = true;
            }
        }
        let there = |log: &Log| log.reader.as_ref().is_some_and(|reader| reader.place().is_some());
        let other = self.logs.iter().any(|log| log.named && there(log));
        let before = self.logs.len();
        let mut kept = before;
        self.logs.retain(|log| {
            // One that cannot be opened is not held on to either, once another is there.
            let done = !log.named
                && log.again.is_none()
                && (only || other && log.alive_at.elapsed() > LET_GO || kept > MOST_LOGS);
            if done {
                kept -= 1;
                self.left.extend(log.place());
                tracing::info!(path = log.path, "this audit log is followed no longer");
            }
            !done
        });
        self.left.drain(..self.left.len().saturating_sub(MOST_LEFT));
        self.remember |= kept != before;
        let (named, others): (Vec<_>, Vec<_>) =
            self.logs.iter().filter(|log| log.named || there(log)).partition(|log| log.named);
        let shown: Vec<_> = named.into_iter().chain(others).map(|log| log.path.clone()).collect();
        self.board.update(|state| {
            let mut shown = shown.into_iter();
            state.audit.path = shown.next();
            state.audit.others = shown.collect();
        });
    }

    /// Reads what is new. Says whether there is more to read at once.
    ///
    /// # Errors
    /// [`AuditError::Append`]. A log that cannot be read is no error: it is told in the log and the status, and tried
    /// again.
    pub fn step(&mut self, late_after: Duration) -> Result<bool, AuditError> {
        let mut more = false;
        for at in 0..self.logs.len() {
            if self.goes_again() && self.logs.get(at).is_some_and(|log| log.again.is_none()) {
                more = true;
                continue;
            }
            match self.read(at) {
                Ok(None) => {}
                Ok(Some(batch)) => {
                    let late = batch.more.then_some(Late::Behind);
                    if let Some(log) = self.logs.get_mut(at) {
                        log.trouble = None;
                        if !batch.lines.is_empty() {
                            log.alive_at = Instant::now();
                        }
                    }
                    more |= batch.more;
                    if self.logs.get(at).is_some_and(|log| log.again.is_some()) {
                        self.judge_again(at, &batch);
                        // What is new comes after it.
                        more = true;
                    } else {
                        self.take(at, batch)?;
                    }
                    self.lag(at, late, late_after)?;
                }
                Err(error) => {
                    let text = Chain(&error).to_string();
                    let Some(log) = self.logs.get_mut(at) else { continue };
                    if log.trouble.as_ref() != Some(&text) {
                        tracing::warn!(
                            error = text,
                            "the audit log cannot be read; detections are missing until it can"
                        );
                        log.trouble = Some(text);
                    }
                    self.lag(at, Some(Late::Blind), late_after)?;
                }
            }
        }
        let trouble = self.logs.iter().find_map(|log| log.trouble.clone());
        let behind = self.logs.iter_mut().filter_map(|log| log.reader.as_mut()).map(Reader::behind).sum();
        let deleted = self.logs.iter().filter_map(|log| log.reader.as_ref()).flat_map(Reader::deleted).collect();
        let late = self.logs.iter().filter_map(|log| log.late.map(|(_, since)| since)).min();
        self.board.update(|state| {
            state.audit.error = trouble;
            state.audit.late_since = late;
            state.audit.behind = behind;
            state.audit.deleted = deleted;
        });
        Ok(more)
    }

    /// Notes whether the end of a log was reached; raises once that it was not for too long.
    fn lag(&mut self, at: usize, late: Option<Late>, after: Duration) -> Result<(), AuditError> {
        let now = self.host.now();
        let Some(log) = self.logs.get_mut(at) else { return Ok(()) };
        let Some(late) = late else {
            (log.late, log.late_told) = (None, false);
            return Ok(());
        };
        let (since, _) = *log.late.get_or_insert_with(|| (Instant::now(), now));
        if log.late_told || since.elapsed() < after {
            return Ok(());
        }
        log.late_told = true;
        let path = log.path.clone();
        if log.again.is_some() {
            self.go_on(at, false);
        }
        self.remember = true;
        let rule = match late {
            Late::Behind => "audit-reader-behind",
            Late::Blind => "audit-gap",
        };
        let mut detections = Vec::new();
        self.detector.sign(rule, Position { file: &path, line: 0 }, now, 1, &mut detections);
        let bodies = self.told(detections);
        if bodies.is_empty() { Ok(()) } else { self.append(bodies) }
    }

    /// Logs detections and makes events of them.
    fn told(&self, detections: Vec<Detection>) -> Vec<EventBody> {
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
        let raised = detections.len() as u64;
        self.board.update(|state| state.audit.detections += raised);
        detections.into_iter().map(|detection| EventBody::Detection { detection }).collect()
    }

    /// Keeps the place in the log, for an orderly stop.
    ///
    /// # Errors
    /// [`AuditError::Append`].
    pub fn stop(&mut self) -> Result<(), AuditError> {
        self.remember = true;
        // With the memory as it is now, nothing is to be judged again.
        let due = self.unkept > 0 || self.since.lines > 0;
        if due && !self.goes_again() { self.append(Vec::new()) } else { Ok(()) }
    }

    fn read(&mut self, at: usize) -> Result<Option<Batch>, TailError> {
        let Some((path, cursor)) =
            self.logs.get(at).filter(|log| log.reader.is_none()).map(|log| (log.path.clone(), log.cursor.clone()))
        else {
            let Some(path) = self.logs.get(at).map(|log| self.outside(Path::new(&log.path))) else { return Ok(None) };
            let reader = self.logs.get_mut(at).and_then(|log| log.reader.as_mut());
            return reader
                .map(|reader| {
                    // A link on the way may lead elsewhere by now.
                    reader.relocate(path);
                    reader.poll(BUDGET)
                })
                .transpose();
        };
        self.begun |= cursor.is_none();
        let mut reader = self.open(&path, cursor)?;
        let batch = reader.poll(BUDGET);
        if let Some(log) = self.logs.get_mut(at) {
            log.reader = Some(reader);
        }
        batch.map(Some)
    }

    fn open(&self, path: &str, cursor: Option<Cursor>) -> Result<Reader, TailError> {
        let start = match self.start {
            AuditStart::Beginning => StartAt::Beginning,
            AuditStart::End => StartAt::End,
            AuditStart::Within(time) => {
                let since = SignedDuration::try_from(time).ok().and_then(|time| self.host.now().checked_sub(time).ok());
                since.map_or(StartAt::Beginning, StartAt::Since)
            }
        };
        let host = Arc::clone(&self.host);
        let follow = Follow::new(move |link| match link.strip_prefix(host.outside(Path::new("/"))) {
            Ok(inside) => host.outside(&host.trail(&Path::new("/").join(inside)).end),
            Err(_) => link.to_owned(),
        });
        let config = Config { shown: path.to_owned(), follow, ..Config::new(self.outside(Path::new(path)), start) };
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
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return self.host.outside(path) };
        let here = self.host.trail(folder).end.join(name);
        // Where the log itself is a link, its rotated files lie where it leads.
        let is_link = matches!(trail.outcome, Ok(Kind::File)) && trail.end != here;
        self.host.outside(if is_link { &trail.end } else { &here })
    }

    /// Lines are judged a second time: nothing goes into the ledger meanwhile.
    fn goes_again(&self) -> bool {
        self.logs.iter().any(|log| log.again.is_some())
    }

    /// Judges in silence what was judged before a crash. Which lines are new says the place alone: reading goes on
    /// there, whatever was found before it.
    fn judge_again(&mut self, at: usize, batch: &Batch) {
        let Some(Log { again: Some(again), path, .. }) = self.logs.get_mut(at) else { return };
        let mut known = Vec::new();
        for line in &batch.lines {
            if again.judged.lines == again.wanted.lines {
                break;
            }
            again.judged.judged(&line.bytes);
            let position = Position { file: &line.file, line: line.number };
            each_event(&line.bytes, |event| {
                if let Ok(event) = event {
                    self.detector.observe(&event, position, &mut known);
                }
            });
        }
        let done = again.judged.lines == again.wanted.lines;
        let odd = !batch.gaps.is_empty() || !batch.signs.is_empty();
        if done && !odd && again.judged.same_lines(&again.wanted) {
            self.go_on(at, true);
        } else if done || odd || !batch.more {
            tracing::warn!(path, "what the audit rules counted last is lost: its lines are gone");
            self.go_on(at, false);
        }
    }

    /// Goes on at the place, with the detector as it was there if its last lines were judged again, else as it lies in
    /// the ledger: a few counts are lost then.
    fn go_on(&mut self, at: usize, judged: bool) {
        if !judged && let Some(state) = self.ledger.with(|ledger| ledger.detector_state().cloned()) {
            restore(&mut self.detector, &state.state);
        }
        if let Some(ticked) = self.since.ticked {
            // What that brought is in the ledger.
            self.detector.tick(ticked, &mut Vec::new());
        }
        let Some(log) = self.logs.get_mut(at) else { return };
        log.cursor = log.again.take().map(|again| again.place);
        log.reader = None;
        self.remember = true;
    }

    fn take(&mut self, at: usize, batch: Batch) -> Result<(), AuditError> {
        let mut detections = Vec::new();
        let (mut events, mut malformed, mut last) = (0u64, 0u64, None);
        let mut first_bad = None;
        let now = self.host.now();
        let mut bad_in: BTreeMap<Arc<str>, (u64, u64)> = BTreeMap::new();
        for line in &batch.lines {
            self.since.judged(&line.bytes);
            let position = Position { file: &line.file, line: line.number };
            each_event(&line.bytes, |event| match event {
                Ok(event) => {
                    events += 1;
                    last = event.time().or(last);
                    self.detector.observe(&event, position, &mut detections);
                }
                Err(error) => {
                    malformed += 1;
                    bad_in.entry(Arc::clone(&line.file)).or_insert((line.number, 0)).1 += 1;
                    first_bad.get_or_insert_with(|| format!("line {} of {}: {error}", line.number, line.file));
                }
            });
        }
        for sign in &batch.signs {
            let rule = match sign.oddity {
                Oddity::Truncated | Oddity::Unlinked => "audit-log-tampered",
                Oddity::TooLong => "audit-unparsable-line",
                Oddity::Lost => "audit-gap",
            };
            let position = Position { file: &sign.file, line: sign.line };
            self.detector.sign(rule, position, now, 1, &mut detections);
            if sign.oddity == Oddity::Unlinked {
                tracing::error!(file = &*sign.file, "the audit log lost its name while its writer holds it open");
            }
        }
        // What is not in the lines cannot be judged again, nor in which order the lines of two files came.
        let two_files = batch.cursor.orphan.iter().chain(&batch.cursor.orphans).any(|(_, alive)| *alive);
        self.remember |= two_files || !batch.signs.is_empty() || !batch.gaps.is_empty() || !bad_in.is_empty();
        for (file, (line, count)) in &bad_in {
            let position = Position { file, line: *line };
            self.detector.sign("audit-unparsable-line", position, now, *count, &mut detections);
        }
        // While there is more to read, time is what the log says: the clock is ahead of events that are still to come.
        if !batch.more
            && let Ok(now) = now.checked_sub(GRACE)
        {
            self.detector.tick(now, &mut detections);
            self.since.ticked = Some(now);
        }
        let mut bodies = self.told(detections);
        if let Some(first) = first_bad {
            tracing::warn!(malformed, first, "lines of the audit log are no events");
            let detail = format!("{malformed} lines are no audit events, first {first}");
            bodies.push(gap(malformed, detail));
        }
        for lost in batch.gaps {
            tracing::warn!(count = lost.count, detail = lost.detail, "the audit log lost lines");
            bodies.push(EventBody::Gap { gap: lost });
        }
        let bytes = batch.lines.iter().map(|line| line.bytes.len() as u64 + 1).sum::<u64>();
        self.unkept += bytes;
        self.since_bytes += bytes;
        let place = self.logs.get(at).and_then(|log| log.reader.as_ref()?.place());
        let counters = self.detector.counters();
        self.board.update(|state| {
            let audit = &mut state.audit;
            audit.closed_early = counters.evicted;
            audit.facts_forgotten = counters.facts_evicted;
            audit.events += events;
            audit.malformed += malformed;
            audit.last_event = last.or(audit.last_event);
            if let Some((file, offset)) = place {
                audit.file = Some(file.to_string());
                audit.offset = offset;
            }
        });
        let due = self.begun || self.unkept > 0 && self.kept_at.elapsed() >= KEEP_EVERY;
        if !bodies.is_empty() || due {
            self.append(bodies)?;
        }
        Ok(())
    }

    /// The places of all logs stand for exactly what the detector has seen: each batch is judged before the next is
    /// read. So they always go together. The detector's memory is large: it goes along from time to time, and what was
    /// judged since is judged again after a crash.
    fn append(&mut self, mut bodies: Vec<EventBody>) -> Result<(), AuditError> {
        let logs: Vec<_> = self.logs.iter().filter_map(Log::place).collect();
        // In which order the lines of several logs were judged is not written down.
        let remember = self.remember
            || logs.len() != 1
            || self.since_bytes >= REMEMBER_AFTER
            || self.remembered_at.elapsed() >= KEEP_EVERY;
        let mut detector = None;
        if remember {
            self.since = Since::default();
            let mut closed = Vec::new();
            detector = self
                .detector
                .state_within(AuditMark::DETECTOR_MAX, &mut closed)
                .inspect_err(
                    |error| tracing::warn!(error = %Chain(error), "what the audit rules remember cannot be kept"),
                )
                .ok()
                .map(|state| packed(&state));
            bodies.extend(closed.into_iter().map(|detection| EventBody::Detection { detection }));
            (self.remember, self.since_bytes, self.remembered_at) = (false, 0, Instant::now());
        }
        // Plain structures always serialise.
        let cursor =
            serde_json::to_vec(&Places { logs, left: self.left.clone(), since: self.since }).unwrap_or_default();
        let now = self.host.now();
        let mut units = in_units(bodies);
        let last = units.pop().unwrap_or_default();
        self.ledger.with(|ledger| {
            units.into_iter().try_for_each(|unit| ledger.append(unit, None, now).map(drop))?;
            ledger.append(last, Some(AuditMark { cursor, detector }), now)
        })?;
        (self.unkept, self.begun) = (0, false);
        self.kept_at = Instant::now();
        Ok(())
    }
}

impl Log {
    fn new(path: String) -> Self {
        Self {
            path,
            reader: None,
            cursor: None,
            named: false,
            alive_at: Instant::now(),
            trouble: None,
            late: None,
            late_told: false,
            again: None,
        }
    }

    /// How far it is accounted for.
    fn place(&self) -> Option<Cursor> {
        self.reader.as_ref().map(Reader::cursor).or_else(|| self.cursor.clone())
    }
}

/// Gives a detector back its memory from the ledger. Says whether that was possible.
fn restore(detector: &mut Detector, state: &[u8]) -> bool {
    detector
        .restore(&unpacked(state))
        .inspect_err(|error| tracing::warn!(error = %Chain(error), "what the audit rules remembered is lost"))
        .is_ok()
}

/// A detector with the rules that are compiled in and those of the site. What cannot be used is told in the log and in
/// the status; the others run.
fn detector(folder: &Path, board: &Board) -> Result<Detector, RuleError> {
    let library = rules::of_folder(folder)?;
    for notice in &library.notices {
        let RuleError { file, line, what } = notice.about();
        if notice.is_error() {
            tracing::error!(file, line, what, "a rule for the audit log cannot be used; the others run");
        } else {
            tracing::warn!(file, line, what, "a rule for the audit log does most likely not do what was meant");
        }
    }
    let detector = rules::detector(&library, picket_audit::Settings::default());
    let site = library.rules.iter().filter(|rule| rule.origin.is_some()).count();
    let tuned = library.rules.iter().filter(|rule| rule.tuned).count();
    tracing::info!(rules = detector.rules().len(), site, tuned, "the rules for the audit log are loaded");
    board.update(|state| {
        state.audit.rules = detector.rules().len() as u64;
        state.audit.rule_problems =
            library.notices.iter().filter(|notice| notice.is_error()).map(|n| n.about().to_string()).collect();
    });
    Ok(detector)
}

fn gap(count: u64, detail: String) -> EventBody {
    EventBody::Gap { gap: Gap { reason: GapReason::AuditLog, count, first: None, last: None, detail } }
}
