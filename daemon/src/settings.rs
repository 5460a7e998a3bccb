//! Settings of the daemon: `/etc/picket/picketd.toml`, then `PICKET_…` variables, then flags of the command line.
//!
//! Two stages: [`Raw`] is the file as written, with nothing but types checked; [`Settings`] is what it means, whole
//! and within bounds. A key that is not known is an error that names file and line: a setting that is silently
//! ignored is worse than none.

use std::path::{Path, PathBuf};
use std::time::Duration;

use picket_model::Role;
use picket_service::value::{Bytes, Span};
use serde::Deserialize;

use crate::local::Places;

/// Where the settings are unless told otherwise.
pub const DEFAULT_PATH: &str = "/etc/picket/picketd.toml";

/// Every key and its variable.
pub const KEYS: [(&str, &str); 22] = [
    ("state_dir", "PICKET_STATE_DIR"),
    ("runtime_dir", "PICKET_RUNTIME_DIR"),
    ("root", "PICKET_ROOT"),
    ("proc", "PICKET_PROC"),
    ("role", "PICKET_ROLE"),
    ("log_level", "PICKET_LOG_LEVEL"),
    ("controls", "PICKET_CONTROLS"),
    ("waivers", "PICKET_WAIVERS"),
    ("audit.enabled", "PICKET_AUDIT_ENABLED"),
    ("audit.path", "PICKET_AUDIT_PATH"),
    ("audit.start", "PICKET_AUDIT_START"),
    ("audit.interval", "PICKET_AUDIT_INTERVAL"),
    ("audit.late_after", "PICKET_AUDIT_LATE_AFTER"),
    ("audit.rules_dir", "PICKET_AUDIT_RULES_DIR"),
    ("watch.quiet", "PICKET_WATCH_QUIET"),
    ("watch.longest", "PICKET_WATCH_LONGEST"),
    ("watch.settle", "PICKET_WATCH_SETTLE"),
    ("sweep.sysctls", "PICKET_SWEEP_SYSCTLS"),
    ("sweep.files", "PICKET_SWEEP_FILES"),
    ("sweep.full", "PICKET_SWEEP_FULL"),
    ("outbox.limit", "PICKET_OUTBOX_LIMIT"),
    ("outbox.longest_retry", "PICKET_OUTBOX_LONGEST_RETRY"),
];

/// The file as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Raw {
    state_dir: Option<PathBuf>,
    runtime_dir: Option<PathBuf>,
    root: Option<PathBuf>,
    proc: Option<PathBuf>,
    role: Option<RawRole>,
    log_level: Option<String>,
    controls: Option<PathBuf>,
    waivers: Option<PathBuf>,
    audit: RawAudit,
    watch: RawWatch,
    sweep: RawSweep,
    outbox: RawOutbox,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RawRole {
    Auto,
    Server,
    Agent,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawAudit {
    enabled: Option<bool>,
    path: Option<PathBuf>,
    start: Option<AuditStart>,
    interval: Option<Span>,
    late_after: Option<Span>,
    rules_dir: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawWatch {
    quiet: Option<Span>,
    longest: Option<Span>,
    settle: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawSweep {
    sysctls: Option<Span>,
    files: Option<Span>,
    full: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawOutbox {
    limit: Option<Bytes>,
    longest_retry: Option<Span>,
}

/// Where the audit log is read from when there is no cursor yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditStart {
    /// Everything there is.
    Beginning,
    /// What is written from now on.
    End,
    /// The current log, and those rotated within this time.
    Within(Duration),
}

impl<'de> Deserialize<'de> for AuditStart {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "beginning" => Ok(Self::Beginning),
            "end" => Ok(Self::End),
            other => other.parse().map(|Span(time)| Self::Within(time)).map_err(|_| {
                serde::de::Error::custom(format!(
                    "{other:?} is no start: write \"beginning\", \"end\" or a time such as \"24h\""
                ))
            }),
        }
    }
}

/// What the daemon was told, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where everything durable is.
    pub state_dir: PathBuf,
    /// Where the status socket is.
    pub runtime_dir: PathBuf,
    /// A folder that stands for the node; none for this machine.
    pub root: Option<PathBuf>,
    /// The proc file system whose kernel parameters are judged; none for the machine's own (or none, with a root).
    pub proc: Option<PathBuf>,
    /// The node's role where it is not to be found out.
    pub role: Option<Role>,
    /// What is logged.
    pub log_level: String,
    /// Where administrators' own controls and waivers are, in the node's terms.
    pub places: Places,
    /// The audit log.
    pub audit: Audit,
    /// Hints.
    pub watch: Watch,
    /// Looks without a hint.
    pub sweep: Sweep,
    /// Largest outbox on disk, bytes.
    pub outbox_limit: u64,
    /// Longest delay between two tries to reach the collector.
    pub longest_retry: Duration,
}

/// How the audit log is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Whether it is read at all.
    pub enabled: bool,
    /// Its path in the node's terms; none: what K3s' configuration says.
    pub path: Option<PathBuf>,
    /// Where to begin.
    pub start: AuditStart,
    /// How often to look for new lines.
    pub interval: Duration,
    /// How long the reader may be behind the log's writer, or unable to read, before that is a detection.
    pub late_after: Duration,
    /// Folder with the site's own rules.
    pub rules_dir: PathBuf,
}

/// How hints become looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watch {
    /// A look waits until it was quiet for so long,
    pub quiet: Duration,
    /// but no longer than this after the first hint.
    pub longest: Duration,
    /// How long something that looks half written must stay so before it counts.
    pub settle: Duration,
}

/// How often is looked without a hint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sweep {
    /// Kernel parameters.
    pub sysctls: Duration,
    /// Metadata of all watched folders.
    pub files: Duration,
    /// Everything.
    pub full: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            state_dir: "/var/lib/picket".into(),
            runtime_dir: "/run/picket".into(),
            root: None,
            proc: None,
            role: None,
            log_level: "info".to_owned(),
            places: Places::default(),
            audit: Audit {
                enabled: true,
                path: None,
                start: AuditStart::Within(Duration::from_secs(24 * 3600)),
                interval: Duration::from_secs(1),
                late_after: Duration::from_secs(300),
                rules_dir: crate::rules::DEFAULT_DIR.into(),
            },
            watch: Watch {
                quiet: Duration::from_millis(100),
                longest: Duration::from_millis(400),
                settle: Duration::from_secs(3),
            },
            sweep: Sweep {
                sysctls: Duration::from_secs(5),
                files: Duration::from_secs(60),
                full: Duration::from_secs(3600),
            },
            outbox_limit: 32 << 20,
            longest_retry: Duration::from_secs(60),
        }
    }
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read the settings {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file says something that cannot be.
    #[error("{}:{line}: {detail}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it, and what would be right.
        detail: String,
    },
    /// A variable says something that cannot be.
    #[error("{name} in the environment: {detail}")]
    Variable {
        /// Its name.
        name: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// Values that are out of bounds or do not fit together. All of them.
    #[error("settings cannot be used: {}", .0.join("; "))]
    Values(Vec<String>),
}

/// Flags of `picketd run` that win over file and environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--root`
    pub root: Option<PathBuf>,
    /// `--proc`
    pub proc: Option<PathBuf>,
    /// `--state-dir`
    pub state_dir: Option<PathBuf>,
    /// `--runtime-dir`
    pub runtime_dir: Option<PathBuf>,
    /// `--log-level`
    pub log_level: Option<String>,
}

/// Reads the settings. Without `path` the usual file is read if it is there.
///
/// # Errors
/// [`SettingsError`].
pub fn load(
    path: Option<&Path>,
    environment: impl Fn(&str) -> Option<String>,
    flags: &Flags,
) -> Result<Settings, SettingsError> {
    let place = path.unwrap_or(Path::new(DEFAULT_PATH));
    let text = match std::fs::read_to_string(place) {
        Ok(text) => text,
        Err(error) if path.is_none() && error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(source) => return Err(SettingsError::Read { path: place.to_owned(), source }),
    };
    let in_file = |error: toml::de::Error| SettingsError::File {
        path: place.to_owned(),
        line: error.span().map_or(1, |span| 1 + text.bytes().take(span.start).filter(|b| *b == b'\n').count()),
        detail: error.message().lines().collect::<Vec<_>>().join(" "),
    };
    // First alone, for the lines; then with the variables in it.
    toml::from_str::<Raw>(&text).map_err(in_file)?;
    let mut table: toml::Table = toml::from_str(&text).map_err(in_file)?;
    for (key, name) in KEYS {
        let Some(value) = environment(name) else { continue };
        let value = value.parse::<bool>().map_or(toml::Value::String(value), toml::Value::Boolean);
        let alone = nested(key, value);
        Raw::deserialize(alone.clone())
            .map_err(|error| SettingsError::Variable { name, detail: error.message().to_owned() })?;
        merge(&mut table, alone);
    }
    // Both parts are good by themselves, so their sum is.
    let raw = Raw::deserialize(table).map_err(in_file)?;
    raw.checked(flags)
}

fn nested(key: &str, value: toml::Value) -> toml::Table {
    let mut table = toml::Table::new();
    match key.split_once('.') {
        Some((section, key)) => table.insert(section.to_owned(), toml::Value::Table(nested(key, value))),
        None => table.insert(key.to_owned(), value),
    };
    table
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(into)), toml::Value::Table(from)) => merge(into, from),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

impl Raw {
    fn checked(self, flags: &Flags) -> Result<Settings, SettingsError> {
        let default = Settings::default();
        let mut wrong = Vec::new();
        let mut folder = |key: &str, flag: &Option<PathBuf>, raw: Option<PathBuf>| {
            let path = flag.clone().or(raw)?;
            if path.is_absolute() {
                return Some(path);
            }
            if flag.is_some() {
                // On a command line a relative path is usual.
                return std::path::absolute(&path).ok();
            }
            wrong.push(format!("{key} = {:?}: write an absolute path", path.display().to_string()));
            None
        };
        let state_dir = folder("state_dir", &flags.state_dir, self.state_dir).unwrap_or(default.state_dir);
        let runtime_dir = folder("runtime_dir", &flags.runtime_dir, self.runtime_dir).unwrap_or(default.runtime_dir);
        let root = folder("root", &flags.root, self.root).filter(|r| r != Path::new("/"));
        let proc = folder("proc", &flags.proc, self.proc);
        let audit_path = folder("audit.path", &None, self.audit.path.filter(|p| p != Path::new("auto")));
        let rules_dir = folder("audit.rules_dir", &None, self.audit.rules_dir).unwrap_or(default.audit.rules_dir);
        let places = Places {
            controls: folder("controls", &None, self.controls).unwrap_or(default.places.controls),
            waivers: folder("waivers", &None, self.waivers).unwrap_or(default.places.waivers),
        };
        let mut time = |key: &str, raw: Option<Span>, default: Duration, least: Duration, most: Duration| {
            let value = raw.map_or(default, |Span(value)| value);
            if value < least || value > most {
                wrong.push(format!(
                    "{key} = \"{}\": between {} and {} are possible",
                    Span(value),
                    Span(least),
                    Span(most)
                ));
            }
            value
        };
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        let settings = Settings {
            state_dir,
            runtime_dir,
            root,
            proc,
            role: match self.role {
                None | Some(RawRole::Auto) => None,
                Some(RawRole::Server) => Some(Role::Server),
                Some(RawRole::Agent) => Some(Role::Agent),
            },
            places,
            audit: Audit {
                enabled: self.audit.enabled.unwrap_or(true),
                path: audit_path,
                start: self.audit.start.unwrap_or(default.audit.start),
                interval: time("audit.interval", self.audit.interval, default.audit.interval, ms(10), s(60)),
                late_after: time(
                    "audit.late_after",
                    self.audit.late_after,
                    default.audit.late_after,
                    s(1),
                    s(24 * 3600),
                ),
                rules_dir,
            },
            watch: Watch {
                quiet: time("watch.quiet", self.watch.quiet, default.watch.quiet, ms(1), s(10)),
                longest: time("watch.longest", self.watch.longest, default.watch.longest, ms(1), s(60)),
                settle: time("watch.settle", self.watch.settle, default.watch.settle, ms(1), s(300)),
            },
            sweep: Sweep {
                sysctls: time("sweep.sysctls", self.sweep.sysctls, default.sweep.sysctls, ms(50), s(3600)),
                files: time("sweep.files", self.sweep.files, default.sweep.files, ms(50), s(24 * 3600)),
                full: time("sweep.full", self.sweep.full, default.sweep.full, s(1), s(24 * 3600)),
            },
            outbox_limit: self.outbox.limit.map_or(default.outbox_limit, |Bytes(n)| n),
            longest_retry: time(
                "outbox.longest_retry",
                self.outbox.longest_retry,
                default.longest_retry,
                s(1),
                s(3600),
            ),
            log_level: flags.log_level.clone().or(self.log_level).unwrap_or(default.log_level),
        };
        if settings.outbox_limit < 1 << 20 {
            wrong.push(format!("outbox.limit = {}: at least 1MiB is needed", settings.outbox_limit));
        }
        if let Err(error) = picket_service::journal::filter(&settings.log_level) {
            wrong.push(format!("log_level: {error}"));
        }
        if wrong.is_empty() { Ok(settings) } else { Err(SettingsError::Values(wrong)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, variables: &[(&str, &str)]) -> Result<Settings, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("picketd.toml");
        std::fs::write(&path, text).unwrap();
        let environment = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        load(Some(&path), environment, &Flags::default())
            .map_err(|error| error.to_string().replace(&dir.path().display().to_string(), ""))
    }

    #[test]
    fn nothing_said_is_the_usual() {
        assert_eq!(read("", &[]), Ok(Settings::default()));
        assert_eq!(load(None, |_| None, &Flags::default()).map_err(|e| e.to_string()), Ok(Settings::default()));
    }

    #[test]
    fn an_unknown_key_names_file_and_line_and_what_is_known() {
        let error = read("log_level = \"debug\"\n\n[sweep]\nsysctl = \"5s\"\n", &[]).unwrap_err();
        assert!(error.starts_with("/picketd.toml:4: unknown field `sysctl`, expected one of `sysctls`"), "{error}");
        let error = read("state-dir = \"/x\"\n", &[]).unwrap_err();
        assert!(error.starts_with("/picketd.toml:1: unknown field `state-dir`"), "{error}");
    }

    #[test]
    fn a_wrong_value_names_file_and_line_and_what_is_right() {
        for (text, line, part) in [
            ("\n[watch]\nsettle = 3", 3, "500ms"),
            ("[audit]\n\nstart = \"yesterday\"", 3, "24h"),
            ("role = \"master\"", 1, "server"),
            ("a = = b", 1, ""),
            ("root = \"/a\"\nroot = \"/b\"", 2, "duplicate"),
        ] {
            let error = read(text, &[]).unwrap_err();
            assert!(error.starts_with(&format!("/picketd.toml:{line}: ")) && error.contains(part), "{error}");
        }
    }

    #[test]
    fn all_values_out_of_bounds_are_told_at_once() {
        let error = read("state_dir = \"here\"\n[sweep]\nfull = \"0s\"\n[outbox]\nlimit = \"1KiB\"", &[]).unwrap_err();
        for part in ["state_dir", "sweep.full", "outbox.limit"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn variables_win_over_the_file_and_are_named_when_wrong() {
        let settings = read(
            "[audit]\nstart = \"end\"\ninterval = \"1s\"",
            &[("PICKET_AUDIT_START", "7d"), ("PICKET_AUDIT_ENABLED", "false"), ("PICKET_OUTBOX_LIMIT", "64MiB")],
        )
        .unwrap();
        assert_eq!(settings.audit.start, AuditStart::Within(Duration::from_secs(7 * 86400)));
        assert_eq!(settings.audit.interval, Duration::from_secs(1));
        assert!(!settings.audit.enabled);
        assert_eq!(settings.outbox_limit, 64 << 20);
        let error = read("", &[("PICKET_SWEEP_FILES", "soon")]).unwrap_err();
        assert!(error.contains("PICKET_SWEEP_FILES") && error.contains("10m"), "{error}");
    }

    #[test]
    fn every_key_has_its_variable() {
        for (key, name) in KEYS {
            assert_eq!(name, format!("PICKET_{}", key.replace('.', "_").to_uppercase()));
        }
        // The keys serde knows, by its own words.
        for section in ["", "[audit]", "[watch]", "[sweep]", "[outbox]"] {
            let error = read(&format!("{section}\nnonsense = 1"), &[]).unwrap_err();
            let prefix = section.trim_matches(['[', ']']);
            for known in error.split('`').skip(3).step_by(2) {
                let key = if prefix.is_empty() { known.to_owned() } else { format!("{prefix}.{known}") };
                let is_section = ["audit", "watch", "sweep", "outbox"].contains(&key.as_str());
                assert!(is_section || KEYS.iter().any(|(k, _)| *k == key), "{key} has no variable");
            }
        }
    }

    #[test]
    fn a_file_that_is_named_must_be_there() {
        let error = load(Some(Path::new("/nowhere/x.toml")), |_| None, &Flags::default()).unwrap_err();
        assert!(error.to_string().contains("/nowhere/x.toml"), "{error}");
    }
}
