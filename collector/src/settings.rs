//! Settings: the file as it is written, overlaid by the environment and flags, made valid in one place.
//!
//! `/etc/picket/collector.toml`; every key also as a variable: `fleet.silent_after` is
//! `PICKET_COLLECTOR_FLEET_SILENT_AFTER`. Unknown keys and variables are errors.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use picket_service::tls::connector::Address;
use picket_service::tls::peer::TrustDomain;
use picket_service::value::{Bytes, Span};
use serde::Deserialize;

/// Where the settings are when nothing else is said. It may be absent.
pub const DEFAULT_FILE: &str = "/etc/picket/collector.toml";
/// First part of every variable.
pub const ENV_PREFIX: &str = "PICKET_COLLECTOR_";
/// Names the settings file; not a key of it.
pub const ENV_CONFIG: &str = "PICKET_COLLECTOR_CONFIG";

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read the settings file {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML, or has a key or value that is not known. The problem names line and column.
    #[error("settings file {}: {problem}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong and where.
        problem: String,
    },
    /// A variable that names no key.
    #[error("environment variable {name} names no setting; known are: {known}")]
    UnknownVariable {
        /// The variable.
        name: String,
        /// What exists.
        known: String,
    },
    /// A variable whose value does not fit.
    #[error("environment variable {name}: {problem}")]
    Variable {
        /// The variable.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// A value that makes no sense.
    #[error("setting {key}: {problem}")]
    Value {
        /// Which.
        key: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
}

/// The file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Raw {
    state_dir: Option<PathBuf>,
    listen: Option<String>,
    advertise: Option<String>,
    names: Option<Vec<String>>,
    trust_domain: Option<String>,
    log_level: Option<String>,
    http: RawHttp,
    enrolment: RawEnrolment,
    fleet: RawFleet,
    limits: RawLimits,
    store: RawStore,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawHttp {
    listen: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawEnrolment {
    certificate_life: Option<Span>,
    renew_grace: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawFleet {
    heartbeat: Option<Span>,
    silent_after: Option<Span>,
    clock_tolerance: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawLimits {
    connections: Option<usize>,
    pending_handshakes: Option<usize>,
    streams_per_connection: Option<u32>,
    window_events: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawStore {
    cache: Option<Bytes>,
    keep: Option<Span>,
    max_events: Option<u64>,
}

/// Every key, for variables.
const KEYS: [(&str, &str); 20] = [
    ("", "state_dir"),
    ("", "listen"),
    ("", "advertise"),
    ("", "names"),
    ("", "trust_domain"),
    ("", "log_level"),
    ("http", "listen"),
    ("enrolment", "certificate_life"),
    ("enrolment", "renew_grace"),
    ("fleet", "heartbeat"),
    ("fleet", "silent_after"),
    ("fleet", "clock_tolerance"),
    ("limits", "connections"),
    ("limits", "pending_handshakes"),
    ("limits", "streams_per_connection"),
    ("limits", "window_events"),
    ("store", "cache"),
    ("store", "keep"),
    ("store", "max_events"),
    ("", "config"),
];

fn variable(section: &str, key: &str) -> String {
    let path = if section.is_empty() { key.to_owned() } else { format!("{section}_{key}") };
    format!("{ENV_PREFIX}{}", path.to_ascii_uppercase())
}

/// What flags say; it wins over everything else.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--state-dir`.
    pub state_dir: Option<PathBuf>,
    /// `--listen`.
    pub listen: Option<String>,
    /// `--advertise`.
    pub advertise: Option<String>,
    /// `--http-listen`.
    pub http_listen: Option<String>,
}

/// How long certificates live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enrolment {
    /// Life of a node's certificate.
    pub certificate_life: Duration,
    /// How long after its end a certificate may still renew itself.
    pub renew_grace: Duration,
}

/// How nodes are looked after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fleet {
    /// Nodes send a sign of life at this interval.
    pub heartbeat: Duration,
    /// A node that was not heard of for so long is silent: a finding.
    pub silent_after: Duration,
    /// A node's clock that is off by more is a finding.
    pub clock_tolerance: Duration,
}

/// How much is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// TLS handshakes under way at once.
    pub pending_handshakes: usize,
    /// Calls at once over one connection.
    pub streams_per_connection: u32,
    /// Events under way without acknowledgement, per node.
    pub window_events: u32,
}

/// How history is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// Memory for sled's cache, bytes.
    pub cache: u64,
    /// How long events are kept.
    pub keep: Duration,
    /// How many events are kept.
    pub max_events: u64,
}

/// Valid settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Everything the collector must not lose.
    pub state_dir: PathBuf,
    /// Where nodes and operators connect.
    pub listen: SocketAddr,
    /// The address that tokens and operators' files name; none: made from the first name and the port.
    pub advertise: Option<Address>,
    /// Names and addresses in the server's certificate, beside `localhost`, the loopback addresses and the host name.
    pub names: Vec<String>,
    /// Of SPIFFE IDs. Only read when the CA is made; after that it is what it was.
    pub trust_domain: TrustDomain,
    /// Log filter.
    pub log_level: String,
    /// Metrics and health; none: not served.
    pub http: Option<SocketAddr>,
    /// Certificates.
    pub enrolment: Enrolment,
    /// Nodes.
    pub fleet: Fleet,
    /// The door.
    pub limits: Limits,
    /// History.
    pub history: History,
}

impl Settings {
    /// Reads the file, then the environment, then flags. `file` none: [`DEFAULT_FILE`], which may be absent.
    ///
    /// # Errors
    /// [`SettingsError`], naming file and line, variable or key.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        overrides: &Overrides,
    ) -> Result<Self, SettingsError> {
        let (path, must_exist) = file.map_or((Path::new(DEFAULT_FILE), false), |f| (f, true));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if !must_exist && error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(SettingsError::Read { path: path.to_owned(), source }),
        };
        let bad = |e: toml::de::Error| SettingsError::File { path: path.to_owned(), problem: e.to_string() };
        // Read as what it should be first: only this error knows the line.
        let mut raw: Raw = toml::from_str(&text).map_err(bad)?;
        let mut table: toml::Table = toml::from_str(&text).map_err(bad)?;
        let mut variables: Vec<_> =
            environment.into_iter().filter(|(name, _)| name.starts_with(ENV_PREFIX) && name != ENV_CONFIG).collect();
        variables.sort();
        for (name, value) in variables {
            raw = overlay(&mut table, &name, &value)?;
        }
        raw.state_dir = overrides.state_dir.clone().or(raw.state_dir);
        raw.listen = overrides.listen.clone().or(raw.listen);
        raw.advertise = overrides.advertise.clone().or(raw.advertise);
        raw.http.listen = overrides.http_listen.clone().or(raw.http.listen);
        raw.validate()
    }
}

/// Puts a variable's value into the table and reads the whole again.
fn overlay(table: &mut toml::Table, name: &str, value: &str) -> Result<Raw, SettingsError> {
    let (section, key) = KEYS.iter().find(|(s, k)| variable(s, k) == name).ok_or_else(|| {
        let known = KEYS.iter().map(|(s, k)| variable(s, k)).collect::<Vec<_>>().join(", ");
        SettingsError::UnknownVariable { name: name.to_owned(), known }
    })?;
    let value = if *key == "names" {
        let entries = value.split(',').map(str::trim).filter(|e| !e.is_empty());
        toml::Value::Array(entries.map(|e| toml::Value::String(e.to_owned())).collect())
    } else if let (false, Ok(number)) = (*section == "http", value.parse::<i64>()) {
        toml::Value::Integer(number)
    } else {
        toml::Value::String(value.to_owned())
    };
    let problem = |problem: String| SettingsError::Variable { name: name.to_owned(), problem };
    let place = if section.is_empty() {
        &mut *table
    } else {
        table
            .entry(*section)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            .as_table_mut()
            .ok_or_else(|| problem(format!("{section} in the settings file is no table")))?
    };
    place.insert((*key).to_owned(), value);
    table.clone().try_into::<Raw>().map_err(|e| problem(e.message().to_owned()))
}

impl Raw {
    fn validate(self) -> Result<Settings, SettingsError> {
        let value = |key: &'static str, problem: String| SettingsError::Value { key, problem };
        let listen = self.listen.as_deref().unwrap_or("[::]:7443");
        let listen = listen.parse::<SocketAddr>().map_err(|_| {
            value("listen", format!("{listen:?} is no address with a port, such as 0.0.0.0:7443 or [::]:7443"))
        })?;
        let http = match self.http.listen.as_deref().unwrap_or("127.0.0.1:9743") {
            "none" => None,
            text => Some(text.parse::<SocketAddr>().map_err(|_| {
                value(
                    "http.listen",
                    format!("{text:?} is no address with a port, such as 127.0.0.1:9743, and not none"),
                )
            })?),
        };
        let advertise = self
            .advertise
            .map(|text| text.parse::<Address>().map_err(|e| value("advertise", e.to_string())))
            .transpose()?;
        let names = self.names.unwrap_or_default();
        for name in &names {
            let good = name.parse::<IpAddr>().is_ok()
                || rustls_pki_types::DnsName::try_from(name.strip_prefix("*.").unwrap_or(name)).is_ok();
            if !good {
                return Err(value("names", format!("{name:?} is neither a host name nor an address")));
            }
        }
        let span = |key, given: Option<Span>, default: u64, min: u64, max: u64| {
            let seconds = |s: u64| Span(Duration::from_secs(s));
            let got = given.unwrap_or(seconds(default));
            if got < seconds(min) || got > seconds(max) {
                return Err(value(key, format!("{got} is out of bounds: {} to {}", seconds(min), seconds(max))));
            }
            Ok(got.0)
        };
        const DAY: u64 = 86_400;
        let fleet = Fleet {
            heartbeat: span("fleet.heartbeat", self.fleet.heartbeat, 30, 1, 3600)?,
            silent_after: span("fleet.silent_after", self.fleet.silent_after, 300, 2, 30 * DAY)?,
            clock_tolerance: span("fleet.clock_tolerance", self.fleet.clock_tolerance, 120, 1, DAY)?,
        };
        if fleet.silent_after < fleet.heartbeat.saturating_mul(2) {
            let problem = format!("at least two heartbeats ({}) are needed", Span(fleet.heartbeat.saturating_mul(2)));
            return Err(value("fleet.silent_after", problem));
        }
        let number = |key, given: Option<u64>, default: u64, min: u64, max: u64| {
            let got = given.unwrap_or(default);
            if got < min || got > max {
                return Err(value(key, format!("{got} is out of bounds: {min} to {max}")));
            }
            Ok(got)
        };
        let small = |key, given: Option<usize>, default: usize, max: usize| {
            let wide = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
            number(key, given.map(wide), wide(default), 1, wide(max)).map(|n| usize::try_from(n).unwrap_or(max))
        };
        let window = picket_proto::limits::WINDOW_EVENTS;
        let batch = u64::try_from(picket_proto::limits::BATCH_EVENTS).unwrap_or(u64::MAX);
        let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(Settings {
            state_dir: self.state_dir.unwrap_or_else(|| PathBuf::from("/var/lib/picket-collector")),
            listen,
            advertise,
            names,
            trust_domain: self
                .trust_domain
                .as_deref()
                .unwrap_or("picket.local")
                .parse()
                .map_err(|e: picket_service::tls::peer::PeerError| value("trust_domain", e.to_string()))?,
            log_level: self.log_level.unwrap_or_else(|| "info".to_owned()),
            http,
            enrolment: Enrolment {
                certificate_life: span(
                    "enrolment.certificate_life",
                    self.enrolment.certificate_life,
                    90 * DAY,
                    60,
                    3650 * DAY,
                )?,
                renew_grace: span("enrolment.renew_grace", self.enrolment.renew_grace, 90 * DAY, 0, 3650 * DAY)?,
            },
            fleet,
            limits: Limits {
                connections: small("limits.connections", self.limits.connections, 12_000, 1_000_000)?,
                pending_handshakes: small("limits.pending_handshakes", self.limits.pending_handshakes, 512, 100_000)?,
                streams_per_connection: narrow(number(
                    "limits.streams_per_connection",
                    self.limits.streams_per_connection.map(u64::from),
                    16,
                    1,
                    10_000,
                )?),
                window_events: narrow(number(
                    "limits.window_events",
                    self.limits.window_events.map(u64::from),
                    u64::from(window),
                    batch,
                    u64::from(window),
                )?),
            },
            history: History {
                cache: number("store.cache", self.store.cache.map(|b| b.0), 128 << 20, 1 << 20, 1 << 40)?,
                keep: span("store.keep", self.store.keep, 90 * DAY, 3600, 36_500 * DAY)?,
                max_events: number("store.max_events", self.store.max_events, 10_000_000, 1000, u64::MAX)?,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, env: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("collector.toml");
        std::fs::write(&file, text).unwrap();
        let env = env.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        Settings::load(Some(&file), env, &Overrides::default())
    }

    #[test]
    fn nothing_written_means_defaults() {
        let settings = load("", &[]).unwrap();
        assert_eq!(settings.listen.port(), 7443);
        assert_eq!(settings.fleet.silent_after, Duration::from_secs(300));
        assert!(settings.http.unwrap().ip().is_loopback());
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let text = "listen = \"127.0.0.1:1\"\nnames = [\"a.example\"]\n[fleet]\nheartbeat = \"10s\"\n";
        let env = [
            ("PICKET_COLLECTOR_LISTEN", "127.0.0.1:2"),
            ("PICKET_COLLECTOR_NAMES", "b.example, 192.0.2.1"),
            ("PICKET_COLLECTOR_LIMITS_CONNECTIONS", "77"),
            ("PICKET_COLLECTOR_CONFIG", "/ignored"),
            ("PATH", "/bin"),
        ];
        let settings = load(text, &env).unwrap();
        assert_eq!(settings.listen.port(), 2);
        assert_eq!(settings.names, ["b.example", "192.0.2.1"]);
        assert_eq!((settings.limits.connections, settings.fleet.heartbeat), (77, Duration::from_secs(10)));
        let flags = Overrides {
            listen: Some("127.0.0.1:3".to_owned()),
            http_listen: Some("none".to_owned()),
            ..Overrides::default()
        };
        let env = env.map(|(n, v)| (n.to_owned(), v.to_owned()));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("collector.toml");
        std::fs::write(&file, text).unwrap();
        let settings = Settings::load(Some(&file), env, &flags).unwrap();
        assert_eq!((settings.listen.port(), settings.http), (3, None));
    }

    #[test]
    fn errors_name_file_and_line_or_variable_or_key() {
        for (text, env, expected) in [
            ("listen = \"[::]:1\"\nlisen = 1\n", None, vec!["collector.toml", "line 2", "lisen"]),
            ("[fleet]\nheartbeat = 5\n", None, vec!["collector.toml", "line 2", "5s"]),
            ("[fleet\n", None, vec!["collector.toml", "line 1"]),
            ("listen = \"7443\"", None, vec!["listen", "0.0.0.0:7443"]),
            ("[fleet]\nheartbeat = \"1h\"", None, vec!["fleet.silent_after", "2h"]),
            ("names = [\"a b\"]", None, vec!["names", "a b"]),
            ("trust_domain = \"Big\"", None, vec!["trust_domain", "Big"]),
            ("", Some(("PICKET_COLLECTOR_LISEN", "x")), vec!["PICKET_COLLECTOR_LISEN", "PICKET_COLLECTOR_LISTEN"]),
            ("", Some(("PICKET_COLLECTOR_FLEET_HEARTBEAT", "soon")), vec!["PICKET_COLLECTOR_FLEET_HEARTBEAT", "soon"]),
        ] {
            let env: Vec<_> = env.into_iter().collect();
            let error = load(text, &env).unwrap_err().to_string();
            for part in expected {
                assert!(error.contains(part), "{part} is not in: {error}");
            }
        }
    }

    #[test]
    fn every_key_has_a_variable_that_is_taken() {
        for (section, key) in KEYS {
            let value = match key {
                "cache" => "4MiB",
                "keep" | "certificate_life" | "renew_grace" => "30d",
                "heartbeat" => "7s",
                "silent_after" => "70s",
                "clock_tolerance" => "9s",
                "listen" | "advertise" => "127.0.0.1:9",
                "trust_domain" | "names" | "log_level" | "state_dir" | "config" => "warn",
                _ => "2000",
            };
            let name = variable(section, key);
            load("", &[(&name, value)]).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
}
