//! The loop of the node: a hint, a sweep or a deadline leads to a look; a look re-reads whole sources; what was seen
//! is judged; what the verdicts change becomes events in the ledger.
//!
//! There is one engine and one path through it, whatever the reason of a look.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use picket_checks::{Changes, Policy, evaluate, evaluate_changes};
use picket_host::Host;
use picket_ledger::{AppendError, Applied, LedgerHandle};
use picket_model::{EventBody, Finding, Observation, Role, Severity};
use picket_service::chain::Chain;
use tokio::sync::watch;

use crate::local::{self, Local, Places, Waivers};
use crate::remembered::{Remembered, Running};
use crate::rules;
use crate::said::Said;
use crate::settings::Watch;
use crate::settle::{Moment, Settle};
use crate::source::memory::same_start;
use crate::source::watches::watches;
use crate::source::{self, Ask, Seen, Source, at_start, sysctls};
use crate::status::{Board, Unreadable};
use crate::uplink::Vitals;
use crate::watch::{Hints, Watcher};

/// Days before the end of a certificate at which something may change: a superset of the catalogue's thresholds, so
/// that a verdict changes on time and not with the next full look.
const THRESHOLDS: [i64; 12] = [0, 1, 3, 7, 14, 21, 30, 45, 60, 90, 120, 180];

/// Why the engine looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The kernel said that something happened.
    Hint,
    /// Only to see whether a hint was missed.
    Sweep,
    /// Something looked unfinished before.
    Settle,
    /// The first look, a deadline, a reload, or the hour is over: everything.
    Whole,
}

/// An engine that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The ledger refused events. A disk that is full is no such case.
    #[error("the ledger does not take the changes of findings")]
    Append(#[from] AppendError),
    /// The thread that looks is gone.
    #[error("a look at the node was interrupted")]
    Look(#[from] tokio::task::JoinError),
}

/// Where the rest of the daemon learns what the engine knows.
#[derive(Debug, Clone)]
pub struct Outlets {
    /// For hellos and heartbeats.
    pub vitals: watch::Sender<Vitals>,
    /// For `picketd status`.
    pub board: Board,
    /// Paths of the audit logs that the configurations name, in the node's terms, for the tail.
    pub audit_logs: watch::Sender<Vec<String>>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Engine {
    host: Host,
    role: Option<Role>,
    /// Where kernel parameters lie outside, for hints.
    proc: Option<PathBuf>,
    /// The controls that are compiled in.
    built_in: Policy,
    /// Where administrators' own controls and waivers are, in the node's terms.
    places: Places,
    /// The folder of the site's rules for the audit log.
    rules: PathBuf,
    local: Local,
    remembered: Remembered,
    ledger: LedgerHandle,
    hints: Hints,
    watcher: Watcher,
    settle: Settle,
    settle_time: Duration,
    outlets: Outlets,
    seen: Option<Seen>,
    /// Folder outside to the sources it concerns.
    folders: BTreeMap<PathBuf, BTreeSet<Source>>,
    /// Metadata of each watched folder at the last sweep, hashed.
    prints: BTreeMap<PathBuf, u64>,
    missed: u64,
    /// What is held now was found by a sweep.
    held_by_sweep: bool,
    /// Something is remembered that is not on disk yet.
    unsaved: bool,
    /// What was said of each control last.
    said: Said,
}

/// The parts of an engine.
#[derive(Debug)]
pub struct Parts {
    /// The node.
    pub host: Host,
    /// The role a person gave.
    pub role: Option<Role>,
    /// The proc file system, as it is outside; none where it is not known.
    pub proc: Option<PathBuf>,
    /// The controls.
    pub policy: Policy,
    /// Where administrators' own controls and waivers are, in the node's terms.
    pub places: Places,
    /// The folder of the site's rules for the audit log: what they look for is judged against the node's audit policy.
    pub rules: PathBuf,
    /// What was remembered.
    pub remembered: Remembered,
    /// Where changes go.
    pub ledger: LedgerHandle,
    /// Hints.
    pub hints: Hints,
    /// Times.
    pub watch: Watch,
    /// Who listens.
    pub outlets: Outlets,
}

impl Engine {
    /// An engine that has not looked yet.
    pub fn new(parts: Parts) -> Self {
        Self {
            host: parts.host,
            role: parts.role,
            proc: parts.proc,
            local: Local { policy: parts.policy.clone(), waivers: Waivers::default(), problems: Vec::new() },
            built_in: parts.policy,
            places: parts.places,
            rules: parts.rules,
            remembered: parts.remembered,
            ledger: parts.ledger,
            watcher: Watcher::new(parts.hints.clone()),
            hints: parts.hints,
            settle: Settle::new(parts.watch.settle),
            settle_time: parts.watch.settle,
            outlets: parts.outlets,
            seen: None,
            folders: BTreeMap::new(),
            prints: BTreeMap::new(),
            missed: 0,
            held_by_sweep: false,
            unsaved: false,
            said: Said::default(),
        }
    }

    /// Looks at what was hinted at since the last time.
    ///
    /// # Errors
    /// [`EngineError::Append`].
    pub fn follow_hints(&mut self) -> Result<Applied, EngineError> {
        let taken = self.hints.take();
        if taken.everything {
            return self.look(Why::Whole, &Source::ALL.into());
        }
        let mut sources = BTreeSet::new();
        for folder in &taken.folders {
            sources.extend(self.folders.get(folder).into_iter().flatten().copied());
        }
        if sources.is_empty() { Ok(Applied::default()) } else { self.look(Why::Hint, &sources) }
    }

    /// Reads the kernel parameters, which takes less than checking whether one has to.
    ///
    /// # Errors
    /// [`EngineError::Append`].
    pub fn sweep_sysctls(&mut self) -> Result<Applied, EngineError> {
        // A disk that took nothing before may take it now.
        let now = self.host.now();
        self.ledger.with(|ledger| {
            if ledger.stats().waiting_events > 0 {
                ledger.retry(now);
            }
        });
        let Some(seen) = &self.seen else { return Ok(Applied::default()) };
        if self.deadline().is_some_and(|at| at <= self.host.now()) {
            return self.look(Why::Whole, &Source::ALL.into());
        }
        let changed = seen.snapshot.sysctls.iter().any(|(key, was)| {
            was.value().is_some_and(|was| self.host.sysctl(&sysctls::as_path(key)).ok().as_ref() != Some(was))
        });
        if changed { self.look(Why::Sweep, &BTreeSet::from([Source::Sysctls])) } else { Ok(Applied::default()) }
    }

    /// Compares the metadata of all watched folders with the last sweep's.
    ///
    /// # Errors
    /// [`EngineError::Append`].
    pub fn sweep_files(&mut self) -> Result<Applied, EngineError> {
        if self.another_process() {
            return self.look(Why::Whole, &Source::ALL.into());
        }
        let mut sources = BTreeSet::new();
        let mut prints = BTreeMap::new();
        for (folder, concerns) in &self.folders {
            if concerns.len() == 1 && concerns.contains(&Source::Sysctls) {
                continue;
            }
            let print = self.print(folder);
            if self.prints.get(folder).is_some_and(|old| *old != print) {
                sources.extend(concerns.iter().copied());
            }
            prints.insert(folder.clone(), print);
        }
        self.prints = prints;
        if sources.is_empty() { Ok(Applied::default()) } else { self.look(Why::Sweep, &sources) }
    }

    /// Whether another K3s process runs than at the last look, or none any more. A start writes many files, but on an
    /// agent none of those that configure it.
    fn another_process(&self) -> bool {
        let Some(seen) = &self.seen else { return false };
        let Ok(process) = self.host.k3s_process() else { return false };
        match (seen.snapshot.k3s_started_at.value(), process) {
            (Some(was), Some(is)) => !same_start(*was, is.started),
            (None, None) => false,
            (Some(_), None) | (None, Some(_)) => true,
        }
    }

    /// Looks again at what looked unfinished.
    ///
    /// # Errors
    /// [`EngineError::Append`].
    pub fn look_again(&mut self) -> Result<Applied, EngineError> {
        let sources = self.settle.waiting();
        if sources.is_empty() { Ok(Applied::default()) } else { self.look(Why::Settle, &sources) }
    }

    /// What was seen last.
    pub const fn seen(&self) -> Option<&Seen> {
        self.seen.as_ref()
    }

    /// Is something held that has to be looked at again?
    pub fn waits(&self) -> bool {
        !self.settle.waiting().is_empty()
    }

    /// When a verdict will change without anything being written: a certificate comes near its end.
    pub fn deadline(&self) -> Option<Timestamp> {
        let snapshot = &self.seen.as_ref()?.snapshot;
        let waivers = self.local.waivers.next_end(snapshot.at);
        let ends = snapshot.certificates.values().filter_map(Observation::value).flatten();
        ends.flat_map(|cert| {
            let before_end = THRESHOLDS
                .iter()
                .filter_map(|days| cert.not_after.checked_sub(SignedDuration::from_hours(days * 24)).ok());
            before_end.chain([cert.not_before])
        })
        .chain(waivers)
        .filter_map(|at| at.checked_add(SignedDuration::from_secs(1)).ok())
        .filter(|at| *at > snapshot.at)
        .min()
    }

    /// Looks at sources, judges, and appends what changed.
    ///
    /// # Errors
    /// [`EngineError::Append`].
    pub fn look(&mut self, why: Why, sources: &BTreeSet<Source>) -> Result<Applied, EngineError> {
        let mut total = Applied::default();
        let mut sources = sources.clone();
        if why == Why::Whole {
            self.read_local();
        }
        // A folder that is armed only after it was read may have changed in between: look once more. Links that keep
        // changing must not keep us here.
        for round in 0..3 {
            let distrust = why == Why::Sweep && round == 0;
            let started = Instant::now();
            let changes = self.observe(&sources, distrust);
            let (applied, judged) = self.judge(changes.filter(|_| why != Why::Whole))?;
            log_changes(&applied);
            let changes = (applied.opened.len() + applied.changed.len() + applied.resolved.len()) as u64;
            if changes > 0 && (why == Why::Sweep || (why == Why::Settle && self.held_by_sweep)) {
                self.missed += changes;
                tracing::info!(changes, "a sweep found changes that no hint had announced");
            }
            self.held_by_sweep = self.waits() && (self.held_by_sweep || why == Why::Sweep);
            tracing::debug!(
                ?why,
                ?sources,
                judged,
                changes,
                took_us = started.elapsed().as_micros(),
                "looked at the node"
            );
            total.opened.extend(applied.opened);
            total.changed.extend(applied.changed);
            total.resolved.extend(applied.resolved);
            self.remember()?;
            let fresh = self.arm();
            self.publish(why == Why::Whole);
            if fresh.is_empty() {
                break;
            }
            sources = fresh;
        }
        Ok(total)
    }

    /// Judges what depends on the changes, or everything where they are not known, and appends what that changes.
    /// Answers also how many controls were judged.
    fn judge(&mut self, changes: Option<Changes>) -> Result<(Applied, usize), EngineError> {
        let Some(seen) = &self.seen else { return Ok((Applied::default(), 0)) };
        let (snapshot, policy, now) = (&seen.snapshot, &self.local.policy, self.host.now());
        // Whatever ends this early leaves nothing said, and so everything to be judged.
        let mut said = std::mem::take(&mut self.said);
        let (applied, judged);
        // Whether a verdict is waived shows in it, and depends on the time.
        let waivers = &self.local.waivers;
        let same_waivers =
            |was: Timestamp| was <= snapshot.at && waivers.next_end(was).is_none_or(|end| end > snapshot.at);
        match changes.filter(|_| said.at.is_some_and(same_waivers)) {
            Some(changes) => {
                let mut again = evaluate_changes(snapshot, policy, &changes);
                judged = again.controls.len();
                self.local.overlay(&mut again.verdicts, snapshot.at);
                again.controls.extend(local::OWN.map(str::to_owned));
                applied = self.ledger.with(|ledger| ledger.apply_of(&again.controls, &again.verdicts, now))?;
                said.again(&again.controls, &again.verdicts, snapshot.at);
            }
            None => {
                let mut verdicts = evaluate(snapshot, policy);
                judged = policy.catalogue.controls().len();
                self.local.overlay(&mut verdicts, snapshot.at);
                applied = self.ledger.with(|ledger| ledger.apply(&verdicts, true, now))?;
                said = Said::everything(&verdicts, snapshot.at);
            }
        }
        self.said = said;
        Ok((applied, judged))
    }

    /// Reads what administrators added. Their files are not watched: a reload and each whole look read them.
    fn read_local(&mut self) {
        let (controls, waivers) = (self.places.controls.as_path(), self.places.waivers.as_path());
        let mut local = Local::read(&self.built_in, (&self.host, controls), (&self.host, waivers));
        local.policy.detections = rules::needs_of_folder(&self.rules);
        if local.problems != self.local.problems {
            for problem in &local.problems {
                tracing::warn!(%problem, "an entry of the node's own controls or waivers cannot be used");
            }
        }
        self.outlets.board.update(|state| {
            state.waivers = local.waivers.len();
            state.local_problems = local.problems.iter().map(ToString::to_string).collect();
        });
        self.local = local;
    }

    /// Looks at sources. The answer is what differs from the look before; none where there was none.
    fn observe(&mut self, sources: &BTreeSet<Source>, distrust: bool) -> Option<Changes> {
        let open = self.hints.open();
        let memory = &self.remembered.memory;
        let ask = Ask { role: self.role, memory, catalogue: &self.local.policy.catalogue };
        let Some(before) = self.seen.take() else {
            self.seen = Some(source::observe(&self.host, &ask));
            self.note_running();
            return None;
        };
        let mut sources = sources.clone();
        let mut after = before.clone();
        after.snapshot.at = self.host.now();
        let mut moment = Moment { host: &self.host, open: &open, distrust, now: Instant::now() };
        if sources.contains(&Source::Config) {
            let mut probe = before.clone();
            probe.configuration = source::config::observe(&self.host, &ask, &mut probe.snapshot);
            // What runs is no matter of files.
            let (started, running) = (probe.snapshot.k3s_started_at.clone(), probe.snapshot.running.clone());
            if self.settle.takes_configuration(&before, &probe, &moment) {
                // It says where the others look.
                sources = Source::ALL.into();
                after = probe;
            }
            after.snapshot.k3s_started_at = started;
            after.snapshot.running = running;
        }
        let others = Source::ALL.into_iter().filter(|source| *source != Source::Config && sources.contains(source));
        source::refresh(&self.host, &ask, &mut after, others);
        // Files opened for writing while we read count too.
        let mut open = open.clone();
        open.extend(self.hints.open());
        moment.open = &open;
        self.settle.merge(&before.snapshot, &mut after.snapshot, &sources, &moment);
        self.hints.forget_open(self.settle_time);
        self.seen = Some(after);
        self.note_running();
        self.seen.as_ref().map(|after| Changes::between(&before.snapshot, &after.snapshot))
    }

    /// K3s reads its configuration only at start: what was on disk then is what runs, if no file was written since.
    fn note_running(&mut self) {
        let Some(seen) = &mut self.seen else { return };
        let version = || seen.configuration.version.map(|v| v.to_string());
        match (seen.snapshot.k3s_started_at.value().copied(), &mut self.remembered.running) {
            (Some(started), Some(running)) if running.is_of(started) => {
                if running.version.is_none() && seen.configuration.version.is_some() {
                    running.version = version();
                    // What was remembered without it left open what depends on it.
                    if let Some(config) = seen.snapshot.running.value() {
                        running.config = Some(config.clone());
                    }
                    self.unsaved = true;
                }
            }
            (Some(started), _) => {
                // The look that was just taken has compared the files with this start.
                let config = seen.snapshot.running.value().cloned();
                tracing::info!(%started, configuration_known = config.is_some(), "a K3s process is seen for the first time");
                let documents = Arc::default();
                self.remembered.running = Some(Running { started, config, documents, version: version() });
                self.unsaved = true;
            }
            // It stopped, or cannot be seen: the next one is another.
            (None, Some(_)) => {
                self.remembered.running = None;
                self.unsaved = true;
            }
            (None, None) => {}
        }
        self.note_documents();
        self.remembered.tell();
        let Some(seen) = &mut self.seen else { return };
        seen.snapshot.running = self.remembered.memory.running.clone().map_or(Observation::Absent, Observation::from);
    }

    /// The same for the files that are read at start only.
    fn note_documents(&mut self) {
        let (Some(seen), Some(running)) = (&mut self.seen, &mut self.remembered.running) else { return };
        let documents = {
            let folder = seen.configuration.kubelet_folder();
            at_start::observe(&self.host, &seen.snapshot, folder, &running.documents)
        };
        seen.snapshot.read_at_start = Arc::new(documents.as_read(&seen.snapshot));
        // What does not count yet may be older than the start; it is looked at again.
        let waiting = self.settle.waiting();
        let sure = !waiting.contains(&Source::Documents) && !waiting.contains(&Source::Config);
        if sure && *running.documents != documents {
            running.documents = Arc::new(documents);
            self.unsaved = true;
        }
    }

    fn remember(&mut self) -> Result<(), EngineError> {
        let Some(seen) = &self.seen else { return Ok(()) };
        let mut news = self.remembered.memory.remember(&seen.snapshot) | std::mem::take(&mut self.unsaved);
        let info = crate::cmd::scan::describe(&self.host, seen).info;
        if self.remembered.info.as_ref() != Some(&info) {
            let now = self.host.now();
            self.ledger.with(|l| l.append(vec![EventBody::Inventory { node: info.clone() }], None, now))?;
            tracing::info!(hostname = info.hostname, "the node says something new of itself");
            self.remembered.info = Some(info);
            news = true;
        }
        if news && let Err(error) = self.remembered.save() {
            self.unsaved = true;
            tracing::warn!(error = %Chain(&error), "what was seen of the node is not kept across a restart");
        }
        Ok(())
    }

    /// Watches the folders of the node as it was seen. Returns the sources of folders that are new.
    fn arm(&mut self) -> BTreeSet<Source> {
        let Some(seen) = &self.seen else { return BTreeSet::new() };
        let mut folders = BTreeMap::new();
        for (folder, concerns) in watches(&self.host, &self.local.policy.catalogue, seen).folders {
            folders.entry(self.host.outside(&folder)).or_insert_with(BTreeSet::new).extend(concerns);
        }
        if let Some(proc) = &self.proc {
            for key in seen.snapshot.sysctls.iter().filter(|(_, o)| o.value().is_some()).map(|(key, _)| key) {
                if let Some(folder) = proc.join("sys").join(sysctls::as_path(key)).parent() {
                    folders.entry(folder.to_owned()).or_default().insert(Source::Sysctls);
                }
            }
        }
        let deaf = |concerns: &BTreeSet<Source>| {
            concerns.iter().all(|s| matches!(s, Source::Files | Source::AuditLog | Source::Datastore))
        };
        let needs = source::needs(&self.local.policy.catalogue, &seen.snapshot);
        let (logs, printed) = (needs.audit_logs, needs.audit_log_printed);
        let log_folder = logs
            .first()
            .and_then(|log| std::path::Path::new(log).parent())
            .map(|folder| self.host.outside(&self.host.trail(folder).end));
        self.hints.set_deaf(folders.iter().filter(|(_, c)| deaf(c)).map(|(path, _)| path.clone()).collect());
        self.hints.set_audit_folder(log_folder);
        let armed = self.watcher.arm(folders.keys().map(PathBuf::as_path));
        let fresh = armed.fresh.iter().filter_map(|path| folders.get(path)).flatten().copied().collect();
        self.folders = folders;
        self.outlets.audit_logs.send_if_modified(|current| {
            let changed = *current != logs;
            *current = logs;
            changed
        });
        self.outlets.board.update(|state| {
            state.audit.printed = printed;
            state.folders_watched = armed.watched;
            state.folders_unwatched =
                armed.failed.into_iter().map(|(path, reason)| (path.display().to_string(), reason)).collect();
        });
        fresh
    }

    fn print(&self, folder: &std::path::Path) -> u64 {
        let inside = std::path::Path::new("/").join(folder.strip_prefix(self.host.root()).unwrap_or(folder));
        let mut hasher = DefaultHasher::new();
        match self.host.list(&inside, 4096) {
            Ok(entries) => {
                for entry in entries {
                    entry.name.hash(&mut hasher);
                    match self.host.lstat(&inside.join(&entry.name)) {
                        Ok(meta) => (meta.mode, meta.uid, meta.gid, meta.size, meta.mtime).hash(&mut hasher),
                        Err(reason) => reason.to_string().hash(&mut hasher),
                    }
                }
            }
            Err(reason) => reason.to_string().hash(&mut hasher),
        }
        hasher.finish()
    }

    fn publish(&self, whole: bool) {
        let Some(seen) = &self.seen else { return };
        let snapshot = &seen.snapshot;
        let unreadable = unreadable(snapshot);
        self.outlets.vitals.send_modify(|vitals| {
            vitals.info = self.remembered.info.clone().unwrap_or_default();
            vitals.missed_hints = self.missed;
            vitals.unreadable_sources = u32::try_from(unreadable.len()).unwrap_or(u32::MAX);
            if whole {
                vitals.sweep_ended = Some(snapshot.at);
            }
        });
        self.outlets.board.update(|state| {
            state.node = self.remembered.info.clone().unwrap_or_default();
            state.data_dir = snapshot.data_dir.clone();
            state.last_look = Some(snapshot.at);
            if whole {
                state.last_full_look = Some(snapshot.at);
            }
            state.next_deadline = self.deadline();
            state.missed_hints = self.missed;
            state.unsettled = self.settle.held().map(str::to_owned).collect();
            state.unreadable = unreadable;
            state.verdicts = self.said.summary();
        });
    }
}

fn log_changes(applied: &Applied) {
    let say = |finding: &Finding, what: &'static str| {
        let Finding { control, subject, observed, expected, title, .. } = finding;
        let (severity, state) = (finding.severity.as_str(), finding.state.as_str());
        if finding.severity >= Severity::High && what != "finding resolved" {
            tracing::warn!(control, subject, severity, state, title, observed, expected, "{what}");
        } else {
            tracing::info!(control, subject, severity, state, title, observed, expected, "{what}");
        }
    };
    applied.opened.iter().for_each(|f| say(f, "finding opened"));
    applied.changed.iter().for_each(|f| say(f, "finding changed"));
    applied.resolved.iter().for_each(|f| say(f, "finding resolved"));
}

/// Everything that could not be read, with the reason.
fn unreadable(snapshot: &picket_checks::Snapshot) -> Vec<Unreadable> {
    let mut all = Vec::new();
    let mut say = |source: Source, place: &str, reason: Option<&str>| {
        if let Some(reason) = reason {
            all.push(Unreadable {
                source: source.as_str().to_owned(),
                place: place.to_owned(),
                reason: reason.to_owned(),
            });
        }
    };
    fn why<T>(seen: &Observation<T>) -> Option<&str> {
        match seen {
            Observation::Unreadable { reason } => Some(reason),
            Observation::Value { .. } | Observation::Absent => None,
        }
    }
    macro_rules! maps {
        ($($source:ident: $($field:ident),+;)+) => {
            $($(snapshot.$field.iter().for_each(|(path, seen)| say(Source::$source, path, why(seen)));)+)+
        };
    }
    maps! {
        Files: files, folders;
        Certificates: certificates, keys;
        Tokens: tokens, units;
        Sysctls: sysctls;
        Documents: encryption_configs, audit_policies, admission_configs, authentication_configs, authorization_configs,
            kubelet_dropins, kubelet_next, kubelet_configs;
        AuditLog: audit_logs;
        Datastore: datastores;
    }
    say(Source::Config, "K3s configuration", why(&snapshot.declared));
    say(Source::Tokens, "join token", why(&snapshot.join_token));
    say(Source::PersistedSysctls, "sysctl folders", why(&snapshot.persisted_sysctls));
    say(Source::Documents, "encryption state", why(&snapshot.encryption_state));
    say(Source::Documents, "etcd configuration", why(&snapshot.etcd_config));
    say(Source::Documents, "registries.yaml", why(&snapshot.registries));
    all
}
