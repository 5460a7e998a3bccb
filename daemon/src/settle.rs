//! Nothing opens or resolves because a file was caught in the middle of a write.
//!
//! K3s rewrites some forty files at each start, in place: truncated, then written. Editors and tools remove and make
//! anew. A reader that looks at the wrong moment sees an empty, half or missing file. So what a look saw is compared
//! with what was seen before, place by place: an observation that looks unfinished (gone, no longer readable, empty,
//! or the file is open for writing right now) does not count yet; the one before it is kept, until the place has
//! looked like this for the settle time. Whatever looks complete counts at once, and so do modes, owners, and kernel
//! parameters.
//!
//! This works on observations, not on verdicts: controls that combine several places then never see a mixture.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use picket_checks::{FileMeta, SYSCTL_FOLDERS, Snapshot};
use picket_host::Host;
use picket_model::Observation;

use crate::source::{Seen, Source};

/// A file written so short a time ago may be in the middle of it, even if no hint said so yet.
const FRESH: Duration = Duration::from_millis(40);
/// An empty file touched so short a time ago may be about to be written. One that has been empty for longer is meant so:
/// the installer of K3s leaves an empty environment file.
const FRESHLY_EMPTY: Duration = Duration::from_secs(3);

/// Places whose last observation does not count yet, and since when.
#[derive(Debug)]
pub struct Settle {
    time: Duration,
    held: BTreeMap<(Source, String), Instant>,
}

/// What a merge needs to know beside the two looks.
#[derive(Debug)]
pub struct Moment<'a> {
    /// The node.
    pub host: &'a Host,
    /// Files open for writing, as they are outside.
    pub open: &'a BTreeMap<PathBuf, Instant>,
    /// Nothing announced this look: every change of content has to be confirmed by a second one.
    pub distrust: bool,
    /// Now.
    pub now: Instant,
}

impl Moment<'_> {
    /// Is the content at this path perhaps unfinished?
    fn unfinished(&self, path: &str) -> bool {
        if self.distrust {
            return true;
        }
        let trail = self.host.trail(path.as_ref());
        if self.open.contains_key(&self.host.outside(&trail.end)) {
            return true;
        }
        let within = |meta: &picket_host::Meta| if meta.size == 0 { FRESHLY_EMPTY } else { FRESH };
        self.host.stat(path.as_ref()).is_ok_and(|meta| fresh(meta.mtime, self.host.now(), within(&meta)))
    }

    fn open_below(&self, folders: &[&str]) -> bool {
        folders.iter().any(|folder| {
            let folder = self.host.outside(&self.host.trail(folder.as_ref()).end);
            self.open.keys().any(|path| path.starts_with(&folder))
        })
    }
}

fn fresh(mtime: Timestamp, now: Timestamp, within: Duration) -> bool {
    Duration::try_from(now.duration_since(mtime)).is_ok_and(|age| age < within)
}

impl Settle {
    /// Doubtful observations count after this time.
    pub const fn new(time: Duration) -> Self {
        Self { time, held: BTreeMap::new() }
    }

    /// Sources with places that have to be looked at again.
    pub fn waiting(&self) -> BTreeSet<Source> {
        self.held.keys().map(|(source, _)| *source).collect()
    }

    /// Places that do not count yet.
    pub fn held(&self) -> impl Iterator<Item = &str> {
        self.held.keys().map(|(_, place)| place.as_str())
    }

    /// Does a doubtful observation of the place count by now?
    fn counts(&mut self, source: Source, place: &str, now: Instant) -> bool {
        let key = (source, place.to_owned());
        let since = *self.held.entry(key.clone()).or_insert(now);
        let counts = now.saturating_duration_since(since) >= self.time;
        if counts {
            // What comes next is doubted anew.
            self.held.remove(&key);
        }
        counts
    }

    fn sure(&mut self, source: Source, place: &str) {
        if !self.held.is_empty() {
            self.held.remove(&(source, place.to_owned()));
        }
    }

    /// Are the configuration's files as complete as they were? If not, the configuration seen before still counts.
    pub fn takes_configuration(&mut self, before: &Seen, after: &Seen, moment: &Moment<'_>) -> bool {
        let was = before.snapshot.declared.value();
        let is = after.snapshot.declared.value();
        let same = match (was, is) {
            (Some(was), Some(is)) => was == is && before.configuration == after.configuration,
            (None, None) => before.snapshot.declared == after.snapshot.declared,
            _ => false,
        };
        let mut doubtful = was.is_some() && is.is_none();
        if !same && !doubtful {
            let paths: BTreeSet<_> =
                before.configuration.sources().iter().chain(after.configuration.sources()).cloned().collect();
            doubtful = paths.iter().any(|path| {
                moment.host.stat(path.as_ref()).is_ok_and(|m| m.kind == picket_host::Kind::File)
                    && moment.unfinished(path)
            });
            // A file that gave values is gone, perhaps for the moment of a replacement.
            let gave = |seen: &Seen| -> BTreeSet<String> {
                let options = seen.snapshot.declared.value().map(|c| c.options.values());
                options.into_iter().flatten().flatten().filter_map(|s| s.evidence.path.clone()).collect()
            };
            doubtful |= gave(before).iter().any(|path| moment.host.stat(path.as_ref()).is_err());
        }
        if !doubtful || same {
            self.sure(Source::Config, "configuration");
            return true;
        }
        self.counts(Source::Config, "configuration", moment.now)
    }

    /// Puts back into `after` what was seen `before`, wherever the new observation does not count yet.
    pub fn merge(&mut self, before: &Snapshot, after: &mut Snapshot, looked: &BTreeSet<Source>, moment: &Moment<'_>) {
        if looked.contains(&Source::Files) {
            self.files(before, after, moment);
            let source = Source::Files;
            self.map(source, "folder", &before.folders, &mut after.folders, moment, |_| false);
        }
        macro_rules! maps {
            ($($source:ident: $($field:ident),+;)+) => {$(
                if looked.contains(&Source::$source) {
                    $(self.map(
                        Source::$source, stringify!($field), &before.$field, &mut after.$field, moment,
                        |path| moment.unfinished(path),
                    );)+
                }
            )+};
        }
        maps! {
            Certificates: certificates, keys;
            Tokens: tokens, units;
            Documents: encryption_configs, audit_policies, admission_configs, authentication_configs,
                authorization_configs, kubelet_dropins, kubelet_configs;
            AuditLog: audit_logs;
            Datastore: datastores;
        }
        if looked.contains(&Source::Documents) {
            let copied_from = after.kubelet_copied_from.clone();
            let source = |path: &str| copied_from.get(path).cloned().unwrap_or_else(|| path.to_owned());
            self.map(
                Source::Documents,
                "kubelet_next",
                &before.kubelet_next,
                &mut after.kubelet_next,
                moment,
                |path| moment.unfinished(&source(path)),
            );
            let data = before.data_dir.clone();
            let state = format!("{data}/server/cred/encryption-state.json");
            let etcd = format!("{data}/server/db/etcd/config");
            let registries = after.registries_file();
            let source = Source::Documents;
            self.one(source, &state, &before.encryption_state, &mut after.encryption_state, moment);
            self.one(source, &etcd, &before.etcd_config, &mut after.etcd_config, moment);
            self.one(source, &registries, &before.registries, &mut after.registries, moment);
        }
        if looked.contains(&Source::Tokens) {
            let path = before.join_token.value().and_then(|t| t.evidence.path.clone()).unwrap_or_default();
            self.one(Source::Tokens, &path, &before.join_token, &mut after.join_token, moment);
        }
        if looked.contains(&Source::PersistedSysctls) {
            let place = "persisted sysctls";
            let lost = before.persisted_sysctls.value().is_some() && after.persisted_sysctls.value().is_none();
            let doubtful = lost || moment.distrust || moment.open_below(&SYSCTL_FOLDERS);
            if doubtful && before.persisted_sysctls.value().is_some() {
                if !self.counts(Source::PersistedSysctls, place, moment.now) {
                    after.persisted_sysctls = before.persisted_sysctls.clone();
                }
            } else {
                self.sure(Source::PersistedSysctls, place);
            }
        }
    }

    /// Metadata: modes and owners count at once. Only a thing that is gone, or that is being made, does not.
    fn files(&mut self, before: &Snapshot, after: &mut Snapshot, moment: &Moment<'_>) {
        let leads = |seen: &Observation<FileMeta>| seen.value().is_some_and(|meta| meta.resolved().is_some());
        let mut paths: BTreeSet<String> = before.files.keys().cloned().collect();
        paths.extend(after.files.keys().cloned());
        for path in paths {
            let (was, is) = (before.files.get(&path), after.files.get(&path));
            let gone = was.is_some_and(leads) && !is.is_some_and(leads);
            let made = !was.is_some_and(leads)
                && is.is_some_and(leads)
                && moment.open.contains_key(&moment.host.outside(Path::new(&path)));
            if !(gone || made) {
                self.sure(Source::Files, &path);
            } else if !self.counts(Source::Files, &path, moment.now) {
                put_back(&mut after.files, path, was);
            }
        }
    }

    fn map<T: Clone + PartialEq>(
        &mut self,
        source: Source,
        kind: &str,
        before: &BTreeMap<String, Observation<T>>,
        after: &mut BTreeMap<String, Observation<T>>,
        moment: &Moment<'_>,
        unfinished: impl Fn(&str) -> bool,
    ) {
        let mut paths: BTreeSet<String> = before.keys().cloned().collect();
        paths.extend(after.keys().cloned());
        for path in paths {
            let place = format!("{kind} {path}");
            let (was, is) = (before.get(&path), after.get(&path));
            let doubtful = match (was, is) {
                (Some(was), Some(is)) if was == is => false,
                (Some(Observation::Value { .. }), Some(Observation::Value { .. })) => unfinished(&path),
                (Some(Observation::Value { .. }), _) => true,
                (_, Some(Observation::Unreadable { .. })) => was.is_none_or(|w| matches!(w, Observation::Absent)),
                (_, Some(Observation::Value { .. })) => unfinished(&path),
                (_, Some(Observation::Absent) | None) => false,
            };
            if !doubtful {
                self.sure(source, &place);
            } else if !self.counts(source, &place, moment.now) {
                put_back(after, path, was);
            }
        }
    }

    fn one<T: Clone + PartialEq>(
        &mut self,
        source: Source,
        path: &str,
        before: &Observation<T>,
        after: &mut Observation<T>,
        moment: &Moment<'_>,
    ) {
        let doubtful = match (before, &*after) {
            (was, is) if was == is => false,
            (Observation::Value { .. }, Observation::Absent | Observation::Unreadable { .. })
            | (Observation::Absent, Observation::Unreadable { .. }) => true,
            (_, Observation::Value { .. }) => !path.is_empty() && moment.unfinished(path),
            _ => false,
        };
        if !doubtful {
            self.sure(source, path);
        } else if !self.counts(source, path, moment.now) {
            *after = before.clone();
        }
    }
}

fn put_back<T: Clone>(after: &mut BTreeMap<String, Observation<T>>, path: String, was: Option<&Observation<T>>) {
    match was {
        Some(was) => after.insert(path, was.clone()),
        None => after.remove(&path),
    };
}
