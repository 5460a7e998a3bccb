//! K3s' configuration: what its files will give at the next start, and with it role, data dir and start time.

use std::collections::BTreeMap;
use std::sync::Arc;

use picket_checks::{Flag, NodeConfig, Places, Setting, Snapshot, Traps};
use picket_host::{Host, K3sProcess, Kind, ProcessRole, ReadError};
use picket_k3s::{
    AcrossVersions, DirEntry, EffectiveConfig, EntryKind, FlagValue, HostFacts, K3sVersion, NodeFiles, REDACTED, Trap,
    Unreadable,
};
use picket_model::{Evidence, Observation, Role};

use super::{Ask, Memory, program, start};

/// The largest configuration file that is read.
pub(crate) const LARGEST: u64 = 1024 * 1024;
/// The most names in a folder of the configuration.
const MOST_NAMES: usize = 4096;

/// The configuration as K3s reads it.
pub type Configuration = EffectiveConfig;

/// The files of a host, as the reader of K3s' configuration wants to see them.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a>(pub &'a Host);

impl NodeFiles for Files<'_> {
    fn read(&self, path: &str, limit: usize) -> Result<Option<Vec<u8>>, Unreadable> {
        match self.0.read(path.as_ref(), limit as u64) {
            Ok(content) => Ok(Some(content.bytes)),
            Err(ReadError::Absent) => Ok(None),
            Err(reason) => Err(Unreadable(reason.to_string())),
        }
    }

    fn list(&self, dir: &str) -> Result<Option<Vec<DirEntry>>, Unreadable> {
        let entries = match self.0.list(dir.as_ref(), MOST_NAMES) {
            Ok(entries) => entries,
            Err(ReadError::Absent) => return Ok(None),
            Err(reason) => return Err(Unreadable(reason.to_string())),
        };
        let kind = |path: String, kind: Kind| match kind {
            Kind::File => EntryKind::File,
            Kind::Folder => EntryKind::Dir,
            Kind::Link => match self.0.stat(path.as_ref()) {
                Ok(meta) if meta.kind == Kind::File => EntryKind::LinkToFile,
                Ok(meta) if meta.kind == Kind::Folder => EntryKind::LinkToDir,
                Err(ReadError::Absent) => EntryKind::DanglingLink,
                Err(ReadError::Loop) => EntryKind::LinkLoop,
                Ok(_) => EntryKind::LinkToOther,
                Err(_) => EntryKind::UnreadableLink,
            },
            Kind::Pipe | Kind::Socket | Kind::Device | Kind::Other => EntryKind::Other,
        };
        Ok(Some(
            entries
                .into_iter()
                .map(|entry| {
                    let path = format!("{}/{}", dir.trim_end_matches('/'), entry.name);
                    DirEntry { kind: kind(path, entry.kind), name: entry.name }
                })
                .collect(),
        ))
    }
}

/// The files of a host, with some written that are not.
struct Written<'a> {
    files: Files<'a>,
    written: &'a BTreeMap<String, String>,
}

impl NodeFiles for Written<'_> {
    fn read(&self, path: &str, limit: usize) -> Result<Option<Vec<u8>>, Unreadable> {
        match self.written.get(path) {
            Some(text) => Ok(Some(text.clone().into_bytes())),
            None => self.files.read(path, limit),
        }
    }

    fn list(&self, dir: &str) -> Result<Option<Vec<DirEntry>>, Unreadable> {
        let mut entries = self.files.list(dir)?;
        for name in self.written.keys().filter_map(|path| path.strip_prefix(dir)?.strip_prefix('/')) {
            let entries = entries.get_or_insert_with(Vec::new);
            if !name.contains('/') && entries.iter().all(|entry| entry.name != name) {
                entries.push(DirEntry { name: name.to_owned(), kind: EntryKind::File });
            }
        }
        Ok(entries)
    }
}

/// Puts into a snapshot what the configuration would be with these files written.
pub(crate) fn foresee(host: &Host, now: &Configuration, written: &BTreeMap<String, String>, snapshot: &mut Snapshot) {
    let files = Written { files: Files(host), written };
    let configuration = effective_with(host, &files, now.role, now.version);
    let traps = Arc::new(super::traps::observe(host, &configuration));
    snapshot.declared = declared(host, &configuration, &traps);
    snapshot.traps = Observation::from(traps);
    // What would be changed then is in force at the next start only.
    snapshot.running = Observation::Absent;
}

/// Reads the configuration and says in the snapshot what all other sources depend on.
pub fn observe(host: &Host, ask: &Ask<'_>, snapshot: &mut Snapshot) -> Configuration {
    let process = process(host, snapshot);
    let role = ask.role.or_else(|| process.as_ref().map(role_of));
    let mut start = start::observe(host, process.as_ref(), ask.memory);
    let mut configuration = effective_of(host, role, start.version);
    if configuration.version.is_none() {
        let looked = process.as_ref().is_some_and(|p| ask.memory.is_of(p.started));
        let file = start::from_file(host, &configuration, process.as_ref().map(|p| p.started));
        let version = file.version.or_else(|| program_version(host, process.as_ref(), &configuration, looked));
        if file.version.is_some() {
            start = file;
        }
        if version.is_some() {
            configuration = effective_of(host, role, version);
        }
    }
    snapshot.role = configuration.role;
    snapshot.k3s_version = configuration.version.map(|v| v.to_string());
    snapshot.data_dir = data_dir_of(process.as_ref(), &configuration);
    snapshot.places = Arc::new(places(&configuration));
    let traps = Arc::new(super::traps::observe(host, &configuration));
    snapshot.declared = declared(host, &configuration, &traps);
    // A file that is there and cannot be read is more than none.
    let nothing = matches!(snapshot.declared, Observation::Absent) && traps.seen.is_empty() && traps.blind.is_empty();
    snapshot.traps = if nothing { Observation::Absent } else { Observation::from(traps) };
    snapshot.running = match &process {
        // Only a process runs with anything, and what was remembered is of one process.
        None => Observation::Absent,
        Some(process) => {
            let known = ask.memory.is_of(process.started);
            // The version may be told only some time after the start; what was remembered then lacks it.
            let newly_told = known && ask.memory.version.is_none() && configuration.version.is_some();
            let lines = start.lines.as_deref();
            if (!known || newly_told) && start::is_in_force(host, process.started, &configuration, lines) {
                snapshot.declared.clone()
            } else if known {
                ask.memory.running.clone().map_or(Observation::Absent, Observation::from)
            } else {
                Observation::Absent
            }
        }
    };
    configuration
}

/// The configuration as K3s will read it at its next start, for the version that runs now, where it is known.
pub fn effective(host: &Host, role: Option<Role>) -> Configuration {
    let process = host.k3s_process().ok().flatten();
    let role = role.or_else(|| process.as_ref().map(role_of));
    let version = start::observe(host, process.as_ref(), &Memory::none()).version;
    let configuration = effective_of(host, role, version);
    if configuration.version.is_some() {
        return configuration;
    }
    let version = start::from_file(host, &configuration, process.as_ref().map(|p| p.started)).version;
    match version.or_else(|| program_version(host, process.as_ref(), &configuration, false)) {
        Some(version) => effective_of(host, role, Some(version)),
        None => configuration,
    }
}

/// The version by the program itself: that of the running process, or the one that the next start would run. `looked`: this process was looked at before; its program does not change.
fn program_version(
    host: &Host,
    process: Option<&K3sProcess>,
    configuration: &Configuration,
    looked: bool,
) -> Option<K3sVersion> {
    match process {
        // After an upgrade another program may lie in the place of the one that runs.
        Some(process) => {
            let exe = process.exe.as_deref().filter(|exe| !looked && !exe.ends_with(" (deleted)"))?;
            program::version(host, exe)
        }
        None => {
            let unpacked = format!("{}/data/current/bin/k3s", configuration.data_dir());
            let program = configuration.program().filter(|path| path.starts_with('/'));
            program.and_then(|path| program::version(host, path)).or_else(|| program::version(host, &unpacked))
        }
    }
}

fn effective_of(host: &Host, role: Option<Role>, version: Option<K3sVersion>) -> Configuration {
    effective_with(host, &Files(host), role, version)
}

fn effective_with(
    host: &Host,
    files: &dyn NodeFiles,
    role: Option<Role>,
    version: Option<K3sVersion>,
) -> Configuration {
    let facts = host.is_live().then(|| HostFacts { hostname: host.hostname(), node_ips: Vec::new() });
    let ask = picket_k3s::Ask { role, version, host: facts.as_ref(), journal: None };
    picket_k3s::effective(files, &ask)
}

/// The data dir of a node: that of the running server, or what the configuration says.
pub fn data_dir(host: &Host) -> String {
    let process = host.k3s_process().ok().flatten();
    let role = process.as_ref().map(role_of);
    data_dir_of(process.as_ref(), &effective_of(host, role, None))
}

/// A running server changes into `<data-dir>/server`: what is in force beats what is written.
fn data_dir_of(process: Option<&K3sProcess>, configuration: &Configuration) -> String {
    process
        .filter(|p| p.role == ProcessRole::Server)
        .and_then(|p| p.cwd.as_deref()?.strip_suffix("/server"))
        .filter(|dir| dir.starts_with('/'))
        .map_or_else(|| configuration.data_dir(), str::to_owned)
}

pub(crate) fn role_of(process: &K3sProcess) -> Role {
    match process.role {
        ProcessRole::Server => Role::Server,
        ProcessRole::Agent => Role::Agent,
    }
}

fn process(host: &Host, snapshot: &mut Snapshot) -> Option<K3sProcess> {
    let (started, process) = match host.k3s_process() {
        Ok(Some(process)) => (Observation::from(process.started), Some(process)),
        Ok(None) => (Observation::Absent, None),
        Err(ReadError::NotHere(_)) => {
            (Observation::unreadable("a folder that stands for a node has no processes"), None)
        }
        Err(reason) => (Observation::unreadable(format!("/proc: {reason}")), None),
    };
    snapshot.k3s_started_at = started;
    process
}

/// The configuration in the form the controls judge.
fn declared(host: &Host, configuration: &Configuration, traps: &Arc<Traps>) -> Observation<Arc<NodeConfig>> {
    if !configuration.files_understood() {
        let problem = configuration.problems.first();
        let place = problem.and_then(|p| p.path.as_deref()).unwrap_or("config.yaml");
        let detail = problem.map_or("cannot be read", |p| p.detail.as_str());
        return Observation::unreadable(match problem.and_then(|p| p.line) {
            Some(line) => format!("{place}, line {line}: {detail}"),
            None => format!("{place}: {detail}"),
        });
    }
    if let Some(reason) = unread(configuration) {
        return Observation::unreadable(reason);
    }
    if !configuration.sources().iter().any(|path| is_there(host, path)) {
        return Observation::Absent;
    }
    Observation::from(Arc::new(NodeConfig { traps: Arc::clone(traps), ..node_config(configuration) }))
}

/// Where K3s' own files lie, besides the usual places.
fn places(configuration: &Configuration) -> Places {
    let units = configuration.unit_files().iter().filter(|p| !p.starts_with("/etc/init.d/"));
    // That one is everybody's.
    let environment = configuration.environment_files().iter().filter(|p| *p != "/etc/environment");
    let is_config = |path: &Option<String>| path.as_ref().is_some_and(|p| configuration.config_files().contains(p));
    Places {
        config: configuration.config_files().to_vec(),
        units: units.cloned().collect(),
        environment: environment.cloned().collect(),
        program: configuration.program().filter(|path| path.starts_with('/')).map(str::to_owned),
        blind: unread_except(configuration, &is_config),
    }
}

/// A part of the configuration that cannot be read: unit, drop-in of the unit or environment file. The command line beats
/// config.yaml, so what was read elsewhere proves nothing.
fn unread(configuration: &Configuration) -> Option<String> {
    unread_except(configuration, &|_| false)
}

/// The same, leaving out problems of some files.
fn unread_except(configuration: &Configuration, left_out: &dyn Fn(&Option<String>) -> bool) -> Option<String> {
    let in_words = |path: &Option<String>, detail: &str| match path {
        Some(path) => format!("{path}: {detail}"),
        None => detail.to_owned(),
    };
    let of_kubelet = |path: &Option<String>| path.as_deref().is_some_and(|path| path.contains("/kubelet.conf.d"));
    let problem =
        configuration.problems.iter().find(|p| p.is_blindness() && !of_kubelet(&p.path) && !left_out(&p.path));
    let problem = problem.map(|p| in_words(&p.path, &p.detail));
    problem.or_else(|| {
        configuration
            .warnings
            .iter()
            .filter(|w| w.trap == Trap::UnitNotUnderstood && w.line.is_none())
            // One that is read and not understood counts unless another one is in use.
            .find(|w| w.unread().is_some() || configuration.unit.is_none())
            .map(|w| in_words(&w.path, &w.detail))
    })
}

/// Whether a file of the configuration is there, be it unreadable. Folders alone configure nothing.
fn is_there(host: &Host, path: &str) -> bool {
    match host.lstat(path.as_ref()) {
        Ok(meta) => meta.kind != Kind::Folder,
        Err(reason) => !reason.is_absent(),
    }
}

/// Options K3s does not know are left out: a server drops them, an agent dies of them (which is a problem).
pub fn node_config(configuration: &Configuration) -> NodeConfig {
    let evidence = |path: &Option<String>, line: Option<u32>, layer: &str| Evidence {
        path: path.clone(),
        line,
        layer: Some(layer.to_owned()),
        detail: String::new(),
    };
    let hidden = |value: &str| if value == REDACTED { Setting::HIDDEN.to_owned() } else { value.to_owned() };
    let flag_value = |v: &FlagValue| Setting::new(hidden(&v.value), evidence(&v.path, v.line, v.layer.as_str()));
    let settings = |values: &[FlagValue]| values.iter().map(flag_value).collect::<Vec<_>>();
    NodeConfig {
        options: configuration
            .options
            .iter()
            .map(|(name, values)| {
                let known = values.iter().filter(|v| v.known);
                let settings: Vec<_> = known
                    .map(|v| Setting::new(hidden(&v.value), evidence(&v.path, v.line, v.layer.as_str())))
                    .collect();
                (name.clone(), settings)
            })
            .filter(|(_, values)| !values.is_empty())
            .collect(),
        components: configuration
            .flags_as_read()
            .into_iter()
            .map(|(component, flags)| {
                let flags = flags
                    .into_iter()
                    .map(|(name, values)| {
                        let possible = match values {
                            AcrossVersions::Same(values) => vec![settings(&values)],
                            AcrossVersions::Differs(runs) => {
                                let mut possible: Vec<Vec<Setting>> = Vec::new();
                                for (_, values) in runs {
                                    let values = settings(&values);
                                    if !possible.contains(&values) {
                                        possible.push(values);
                                    }
                                }
                                possible
                            }
                        };
                        (name, Flag { possible })
                    })
                    .collect();
                (component, flags)
            })
            .collect(),
        certificate_days: configuration.certificate_days().map(|(value, path, line)| {
            Setting::new(value, evidence(&Some(path.to_owned()), Some(line), "environment"))
        }),
        problems: configuration
            .problems
            .iter()
            // What cannot be read is told by the controls that need it.
            .filter(|p| !p.is_blindness())
            .map(|p| Evidence { path: p.path.clone(), line: p.line, layer: None, detail: p.detail.clone() })
            .collect(),
        traps: Arc::default(),
    }
}
