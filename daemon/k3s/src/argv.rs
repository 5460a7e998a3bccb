//! Arguments and environment into options, as K3s' option parser does it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use picket_model::Role;
use picket_model::flag_value::{boolean, whole};

use crate::effective::{Layer, Problem, REDACTED, Trap, Warning};
use crate::merge::FileArg;
use crate::options::{Kind, Known, OLD_NAMES, Opt, SECRET, redact, without_tokens};
use crate::unit::Start;
use crate::words::Word;

/// One value given to an option, in the order K3s sees them.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    /// Long name, or the key as written if K3s does not know it.
    pub(crate) name: String,
    /// Redacted already.
    pub(crate) value: String,
    pub(crate) path: Option<String>,
    pub(crate) line: Option<u32>,
    pub(crate) layer: Layer,
    pub(crate) known: bool,
}

/// What parsing gathered.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    pub(crate) given: Vec<Given>,
    pub(crate) problems: Vec<Problem>,
    pub(crate) warnings: Vec<Warning>,
    /// Long name to the forms it was given in.
    forms: BTreeMap<String, Vec<String>>,
}

/// The main configuration file of a node where nothing names another.
const DEFAULT_FILE: &str = "/etc/rancher/k3s/config.yaml";

/// Words that stop K3s' wrapper from reading the configuration files, wherever they stand.
const PAST_WRAPPER: [&str; 4] = ["--help", "-h", "--version", "-v"];

/// Whether K3s' wrapper starts the program inside without a look at the configuration files.
pub(crate) fn past_wrapper(start: Option<&Start>) -> bool {
    start.is_some_and(|s| s.words.iter().skip(1).any(|(word, _)| PAST_WRAPPER.contains(&word.text.as_str())))
}

/// The file K3s' wrapper reads besides the one the program inside reads; none if they are the same. The wrapper does
/// not know `--config`.
pub(crate) fn wrapper_file(start: Option<&Start>, read: Option<&str>) -> Option<&'static str> {
    let variable = start.and_then(|s| s.environment.get("K3S_CONFIG_FILE")).is_some_and(|(v, _)| !v.value.is_empty());
    (start.is_some() && !variable && read != Some(DEFAULT_FILE) && !past_wrapper(start)).then_some(DEFAULT_FILE)
}

/// Where K3s will look for its main configuration file, and traps on the way. None: it reads none.
pub(crate) fn config_path(start: Option<&Start>, warnings: &mut Vec<Warning>) -> Option<String> {
    let Some(start) = start else { return Some(DEFAULT_FILE.to_owned()) };
    let named =
        if let Some((variable, _)) = start.environment.get("K3S_CONFIG_FILE").filter(|(v, _)| !v.value.is_empty()) {
            Some(variable.value.clone())
        } else {
            named_on_command_line(start, warnings)
        };
    match named {
        None => Some(DEFAULT_FILE.to_owned()),
        Some(path) if path.is_empty() || path.starts_with("http://") || path.starts_with("https://") => None,
        Some(path) if path.starts_with('/') => Some(path),
        // systemd starts K3s in `/`.
        Some(path) => Some(format!("/{path}")),
    }
}

fn named_on_command_line(start: &Start, warnings: &mut Vec<Warning>) -> Option<String> {
    let mut named = None;
    for (i, (word, path)) in start.words.iter().enumerate() {
        let text = word.text.as_str();
        if named.is_none() {
            if text == "--config" || text == "-c" {
                named = Some(start.words.get(i + 1).map(|(w, _)| w.text.clone()).unwrap_or_default());
            } else if let Some(value) = text.strip_prefix("--config=").or_else(|| text.strip_prefix("-c=")) {
                named = Some(value.to_owned());
            }
        }
        let head = text.split_once('=').map_or(text, |(h, _)| h);
        if head == "-config" || head == "--c" {
            warnings.push(Warning {
                trap: Trap::ConfigNotRead,
                path: Some(path.clone()),
                line: Some(word.line),
                option: Some("config".to_owned()),
                detail: format!(
                    "`{head}` does not make K3s read that file, the default one is in force; write --config"
                ),
            });
        }
    }
    named
}

impl Parsed {
    fn problem(&mut self, path: Option<&str>, line: Option<u32>, detail: impl Into<String>) {
        self.problems.push(Problem { path: path.map(str::to_owned), line, detail: detail.into() });
    }

    /// Takes the arguments made from files. `filtered`: K3s drops what it does not know (servers).
    pub(crate) fn files(&mut self, args: &[FileArg], known: &Known, role: Option<Role>, filtered: bool) {
        for arg in args {
            // K3s prints `--key=value` and its option parser cuts that at the first `=`.
            let whole = format!("{}={}", arg.key, arg.value);
            let bare = arg.key.trim_start_matches('-');
            let filter_name = bare.split_once('=').map_or(bare, |(n, _)| n);
            let place = (Some(arg.path.as_str()), Some(arg.line));
            let (name, value) = whole.split_once('=').unwrap_or((&whole, ""));
            let option = known.get(name);
            let Some(option) = option else {
                self.unknown(arg, name, value, filter_name, known, role, filtered);
                continue;
            };
            self.reread(arg, option);
            self.take(option, name, value, place, arg.layer);
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one place, and all of it is needed to say what K3s does")]
    fn unknown(
        &mut self,
        arg: &FileArg,
        name: &str,
        value: &str,
        filter_name: &str,
        known: &Known,
        role: Option<Role>,
        filtered: bool,
    ) {
        let place = (Some(arg.path.as_str()), Some(arg.line));
        let bad_syntax = name.is_empty() || name.starts_with('-');
        if filtered && known.get(filter_name).is_none() {
            self.warnings.push(Warning {
                trap: Trap::UnknownKey,
                path: Some(arg.path.clone()),
                line: Some(arg.line),
                option: Some(arg.key.clone()),
                detail: "K3s does not know this key: a server drops it and sets nothing; correct its name".to_owned(),
            });
        } else if bad_syntax {
            self.problem(
                place.0,
                place.1,
                "a key that begins with a dash or is empty: K3s does not start (bad flag syntax)",
            );
        } else if role == Some(Role::Agent) && matches!(name, "help" | "h") {
            self.problem(place.0, place.1, "`help` makes an agent print its help and end; remove the key");
        } else {
            let shown: String = name.chars().take(80).collect();
            self.problem(
                place.0,
                place.1,
                format!("K3s does not know `{shown}` here and does not start (flag provided but not defined); remove or correct it"),
            );
        }
        self.given.push(Given {
            name: name.to_owned(),
            value: redact(name, value, false),
            path: Some(arg.path.clone()),
            line: Some(arg.line),
            layer: arg.layer,
            known: false,
        });
    }

    /// Says where YAML 1.1 made another value of what is written.
    fn reread(&mut self, arg: &FileArg, option: &Opt) {
        let Some(plain) = &arg.plain else { return };
        if arg.value.is_empty() || *plain == arg.value || !matches!(option.kind, Kind::String | Kind::List) {
            return;
        }
        let mut warn = |trap, detail: String| {
            self.warnings.push(Warning {
                trap,
                path: Some(arg.path.clone()),
                line: Some(arg.line),
                option: Some(option.name.clone()),
                detail,
            });
        };
        let secret = redact(&option.name, &arg.value, true) == REDACTED;
        if secret {
            warn(
                Trap::NumericToken,
                "the unquoted value reads as a number or a boolean: another secret than the one written is in force; quote it".to_owned(),
            );
        } else if option.name == "write-kubeconfig-mode" {
            let octal = !arg.value.is_empty() && arg.value.bytes().all(|b| matches!(b, b'0'..=b'7'));
            let effect =
                if octal { "which K3s then takes as the mode" } else { "which is no mode: the file keeps 0600" };
            warn(Trap::OctalMode, format!("`{plain}` without quotes reads as {}, {effect}; quote it", arg.value));
        } else {
            warn(Trap::ScalarReread, format!("`{plain}` without quotes reads as `{}`; quote it", arg.value));
        }
    }

    /// Takes the words after `server` or `agent`.
    pub(crate) fn command_line(&mut self, words: &[(Word, String)], known: &Known) {
        let mut i = 0;
        while let Some((word, path)) = words.get(i) {
            let place = (Some(path.as_str()), Some(word.line));
            let text = word.text.as_str();
            i += 1;
            if text.len() < 2 || !text.starts_with('-') || text == "--" {
                let ignored = words.get(i..).unwrap_or_default().iter().any(|(w, _)| w.text.starts_with('-'));
                if ignored || text != "--" {
                    self.warnings.push(Warning {
                        trap: Trap::OptionsIgnored,
                        path: Some(path.clone()),
                        line: Some(word.line),
                        option: None,
                        detail: "a word that belongs to no option ends the options: all later ones are ignored; \
                                 a boolean takes its value with `=` only"
                            .to_owned(),
                    });
                }
                break;
            }
            let body = text.strip_prefix("--").or_else(|| text.strip_prefix('-')).unwrap_or(text);
            let (name, value) = body.split_once('=').map_or((body, None), |(n, v)| (n, Some(v.to_owned())));
            if name.is_empty() || name.starts_with('-') {
                self.problem(place.0, place.1, "an option with bad syntax on the command line: K3s does not start");
                break;
            }
            let Some(option) = known.get(name) else {
                let name = &*without_tokens(name);
                let (name, swallowed) = match swallowed_secret(name, value.is_some()) {
                    Some(option) => (option, true),
                    None => (name, false),
                };
                let shown: String = name.chars().take(80).collect();
                let rest = if swallowed { "…" } else { "" };
                self.problem(
                    place.0,
                    place.1,
                    format!("K3s does not know `--{shown}{rest}` here and does not start; remove or correct it"),
                );
                let value =
                    if swallowed { REDACTED.to_owned() } else { redact(name, value.as_deref().unwrap_or(""), false) };
                self.given.push(Given {
                    name: name.to_owned(),
                    value,
                    path: Some(path.clone()),
                    line: Some(word.line),
                    layer: Layer::CommandLine,
                    known: false,
                });
                break;
            };
            let value = match (value, option.kind) {
                (Some(value), _) => value,
                (None, Kind::Bool) => "true".to_owned(),
                (None, _) => {
                    let Some((next, _)) = words.get(i) else {
                        self.problem(place.0, place.1, format!("`--{name}` lacks its value: K3s does not start"));
                        break;
                    };
                    i += 1;
                    next.text.clone()
                }
            };
            self.take(option, name, &value, place, Layer::CommandLine);
        }
    }

    fn take(&mut self, option: &Opt, form: &str, value: &str, place: (Option<&str>, Option<u32>), layer: Layer) {
        self.check(option, value, place);
        let forms = self.forms.entry(option.name.clone()).or_default();
        if !forms.iter().any(|f| f == form) {
            forms.push(form.to_owned());
            if forms.len() == 2 {
                let detail = format!(
                    "`{}` is given in its long and its short form: K3s does not start (two forms of the same flag); keep one",
                    option.name
                );
                self.problem(place.0, place.1, detail);
            }
        }
        self.given.push(Given {
            name: option.name.clone(),
            value: redact(&option.name, value, true),
            path: place.0.map(str::to_owned),
            line: place.1,
            layer,
            known: true,
        });
    }

    /// Whether K3s takes the value at all.
    fn check(&mut self, option: &Opt, value: &str, place: (Option<&str>, Option<u32>)) {
        let bad = match option.kind {
            Kind::Bool => boolean(value).is_none(),
            Kind::Int => whole(value).is_none(),
            Kind::Duration => !is_duration(value),
            Kind::String | Kind::List => false,
        };
        if bad {
            let wanted = match option.kind {
                Kind::Bool => "true or false",
                Kind::Int => "a whole number",
                _ => "a duration such as 5m",
            };
            let detail = format!("`{}` needs {wanted}: K3s does not start with this value", option.name);
            self.problem(place.0, place.1, detail);
        }
        if let Some(wanted) = unfit(&option.name, value) {
            let detail = format!("`{}` is no {wanted}: K3s does not start with this value", option.name);
            self.problem(place.0, place.1, detail);
        }
    }

    /// Takes variables for options that nothing else set.
    pub(crate) fn environment(&mut self, start: &Start, known: &Known) {
        for option in known.iter() {
            for name in &option.env {
                let Some((variable, path)) = start.environment.get(name).filter(|(v, _)| !v.value.is_empty()) else {
                    continue;
                };
                let place = (Some(path.as_str()), Some(variable.line));
                // Booleans and numbers are parsed even if the option is set elsewhere.
                self.check(option, &variable.value, place);
                if !self.given.iter().any(|g| g.known && g.name == option.name) {
                    self.given.push(Given {
                        name: option.name.clone(),
                        value: redact(&option.name, &variable.value, true),
                        path: Some(path.clone()),
                        line: Some(variable.line),
                        layer: Layer::Environment,
                        known: true,
                    });
                }
                break;
            }
        }
    }

    /// Old option names beside new ones: both feed one list.
    pub(crate) fn old_names(&mut self) {
        for (old, new) in OLD_NAMES {
            let at = |name: &str| self.given.iter().find(|g| g.known && g.name == name);
            let warning = match (at(old), at(new)) {
                (Some(given), Some(_)) => Warning {
                    trap: Trap::OldAndNewName,
                    path: given.path.clone(),
                    line: given.line,
                    option: Some(old.to_owned()),
                    detail: format!(
                        "`{old}` and `{new}` feed one list: replacing one leaves the other's values in force; keep `{new}`"
                    ),
                },
                _ => continue,
            };
            self.warnings.push(warning);
        }
    }
}

/// The secret option whose value was written onto its name, as `-tSECRET`: K3s sees one name it does not know. None
/// where the name is none of that kind.
fn swallowed_secret(name: &str, has_value: bool) -> Option<&'static str> {
    let begins = |option: &&&str| name.len() > option.len() && name.starts_with(**option);
    // A mistyped name with a value of its own is more likely than a secret in it.
    let long = SECRET.iter().filter(begins).max_by_key(|option| option.len()).filter(|_| !has_value);
    let short = name.len() > 1 && name.starts_with('t') && !name.starts_with("tls-") && !name.starts_with("token");
    long.copied().or_else(|| short.then_some("t"))
}

/// What a value should be and is not, for options whose values K3s checks at start. It splits lists at commas and takes
/// each part as it is: blanks, and an empty value, are refused.
fn unfit(name: &str, value: &str) -> Option<&'static str> {
    let each = |fits: fn(&str) -> bool| value.split(',').all(fits);
    match name {
        "egress-selector-mode" => {
            (!matches!(value, "agent" | "cluster" | "pod" | "disabled")).then_some("agent, cluster, pod or disabled")
        }
        "cluster-cidr" | "service-cidr" => (!each(is_cidr)).then_some("network such as 10.42.0.0/16"),
        "cluster-dns" | "node-ip" | "node-external-ip" => {
            (!each(|v| v.parse::<IpAddr>().is_ok())).then_some("IP address")
        }
        "service-node-port-range" if !value.trim().is_empty() => {
            port_range(value).is_none().then_some("range such as 30000-32767")
        }
        _ => None,
    }
}

fn is_cidr(text: &str) -> bool {
    text.split_once('/').is_some_and(|(ip, bits)| {
        let most = match ip.parse() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        bits.parse::<u8>().is_ok_and(|b| b <= most)
    })
}

/// The ends of `from-to`, `from+count` or one port, as K3s reads a range of ports; none where it refuses it.
pub(crate) fn port_range(text: &str) -> Option<(u16, u16)> {
    let port = |t: &str| t.parse::<u16>().ok();
    let text = text.trim();
    let (from, to) = match (text.split_once('-'), text.split_once('+')) {
        (Some((from, to)), _) => (port(from)?, port(to)?),
        (None, Some((from, count))) => (port(from)?, port(from)?.checked_add(port(count)?)?),
        (None, None) => (port(text)?, port(text)?),
    };
    (from <= to).then_some((from, to))
}

/// A duration as Go's `time.ParseDuration` reads it.
fn is_duration(value: &str) -> bool {
    let mut rest = value.strip_prefix(['+', '-']).unwrap_or(value);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let number = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
        let (digits, after) = rest.split_at_checked(number).unwrap_or((rest, ""));
        if !digits.bytes().any(|b| b.is_ascii_digit()) || digits.matches('.').count() > 1 {
            return false;
        }
        let Some(after) = ["ns", "us", "µs", "μs", "ms", "s", "m", "h"].iter().find_map(|u| {
            let after = after.strip_prefix(u)?;
            // A unit ends where the next number begins.
            (after.is_empty() || after.starts_with(|c: char| c.is_ascii_digit() || c == '.')).then_some(after)
        }) else {
            return false;
        };
        rest = after;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_go_takes() {
        assert!(is_duration("1h30m") && is_duration("10ms") && is_duration("0") && is_duration("1.5s"));
        assert!(!is_duration("5") && !is_duration("m") && !is_duration("") && !is_duration("5mm"));
    }

    #[test]
    fn a_secret_written_onto_its_options_name_is_cut_off() {
        assert_eq!(swallowed_secret("tSUPERSECRET", false), Some("t"));
        assert_eq!(swallowed_secret("tc2VjcmV0", true), Some("t"), "base64 ends with =");
        assert_eq!(swallowed_secret("tokenK10abc", false), Some("token"));
        assert_eq!(swallowed_secret("agent-token:x", false), Some("agent-token"));
        for name in ["tls-sann", "serverr", "data", "node-labels"] {
            assert_eq!(swallowed_secret(name, false), None, "{name}");
        }
        assert_eq!(swallowed_secret("tokens", true), None);
    }
}
