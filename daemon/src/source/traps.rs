//! Traps of the configuration: what its reader warned of, what K3s would refuse, and secrets where others can read
//! them.

use std::collections::BTreeMap;

use picket_checks::{REGISTRIES_FILE, Trapped, Traps};
use picket_host::{Host, Kind, ReadError};
use picket_k3s::{REDACTED, Trap};
use picket_model::Evidence;

use super::config::{Configuration, LARGEST};
use crate::report::text::{printable, short};

/// Permission bits that let others than the owner read.
pub(crate) const OTHERS_READ: u32 = 0o044;
/// The most characters of an option's name in a finding.
const LONGEST_NAME: usize = 80;

/// What the configuration on disk does other than its files show.
pub fn observe(host: &Host, configuration: &Configuration) -> Traps {
    let mut traps = Traps::default();
    for warning in &configuration.warnings {
        let evidence =
            Evidence { path: warning.path.clone(), line: warning.line, layer: None, detail: warning.detail.clone() };
        match warning.trap {
            // What was not looked at may hold anything; so may what a limit cut off.
            Trap::More => traps.blind.push(evidence),
            Trap::UnitNotUnderstood if warning.line.is_none() => traps.blind.push(evidence),
            // A secret is where K3s wants it; what counts is who can read it.
            Trap::PlaintextSecret => {}
            kind => traps.seen.push(Trapped {
                kind: kind.as_str().to_owned(),
                option: warning.option.as_deref().map(name),
                evidence,
            }),
        }
    }
    for problem in &configuration.problems {
        let evidence =
            Evidence { path: problem.path.clone(), line: problem.line, layer: None, detail: problem.detail.clone() };
        if problem.is_blindness() {
            traps.blind.push(evidence);
        } else {
            traps.seen.push(Trapped { kind: "refused".to_owned(), option: None, evidence });
        }
    }
    if !configuration.files_understood()
        && let Some(refused) = traps.seen.iter().find(|t| t.kind == "refused")
    {
        // What a broken file says is not known, and so neither what of it would be a trap.
        traps.blind.push(refused.evidence.clone());
    }
    traps.read = configuration.sources().iter().filter(|path| is_file(host, path)).cloned().collect();
    secrets(host, configuration, &mut traps);
    files_of_secrets(host, configuration, &mut traps);
    registries(host, configuration, &mut traps);
    traps
}

/// The name of an option, made fit for a finding: an unknown one is whatever stands in a file.
fn name(option: &str) -> String {
    short(&printable(option), LONGEST_NAME)
}

fn is_file(host: &Host, path: &str) -> bool {
    host.stat(path.as_ref()).is_ok_and(|meta| meta.kind == Kind::File)
}

/// Options with a secret, in files that others can read.
fn secrets(host: &Host, configuration: &Configuration, traps: &mut Traps) {
    let mut modes: BTreeMap<&str, Result<u32, ReadError>> = BTreeMap::new();
    for (name, values) in &configuration.options {
        for value in values.iter().filter(|v| v.value.contains(REDACTED)) {
            let Some(path) = value.path.as_deref() else { continue };
            let mode = modes.entry(path).or_insert_with(|| host.stat(path.as_ref()).map(|meta| meta.mode));
            let at = |detail: String| Evidence {
                path: Some(path.to_owned()),
                line: value.line,
                layer: Some(value.layer.as_str().to_owned()),
                detail,
            };
            match mode {
                Ok(mode) if *mode & OTHERS_READ != 0 => traps.seen.push(Trapped {
                    kind: "readable-secret".to_owned(),
                    option: Some(self::name(name)),
                    evidence: at(format!(
                        "`{}` stands in a file of mode {mode:04o}, which others can read",
                        self::name(name)
                    )),
                }),
                Ok(_) => {}
                Err(reason) => traps.blind.push(at(format!("the mode of this file is not known: {reason}"))),
            }
        }
    }
}

/// Options that name a file with a secret in it.
const NAMES_A_SECRET: [&str; 3] = ["token-file", "agent-token-file", "vpn-auth-file"];

/// Files beside those of the configuration that are looked at for traps: a change of them is one of the configuration.
pub fn also(configuration: &Configuration) -> impl Iterator<Item = String> {
    let named = [("kubelet", "config"), ("kube-apiserver", "authentication-config")]
        .into_iter()
        .filter_map(|(component, flag)| configuration.flag(component, flag).pop())
        .map(|flag| flag.value);
    let copied = configuration.kubelet_folder().map(|folder| [&folder.copied_file, &folder.copied_folder]);
    let refused = named.chain(copied.into_iter().flatten().flatten().cloned()).filter(|path| path.starts_with('/'));
    secret_files(configuration).map(|(_, path, _)| path).chain(registries_file(configuration)).chain(refused)
}

/// Files with a secret in them, each with the option that names it and where that stands. Only those with an absolute
/// path: anything else may be the secret itself, and is not kept.
fn secret_files(
    configuration: &Configuration,
) -> impl Iterator<Item = (&'static str, String, &picket_k3s::OptionValue)> {
    NAMES_A_SECRET.into_iter().filter_map(|name| {
        let value = configuration.option(name).filter(|v| v.value.starts_with('/'))?;
        Some((name, format!("/{}", value.value.trim_start_matches('/')), value))
    })
}

/// Secrets in files of their own that others can read.
fn files_of_secrets(host: &Host, configuration: &Configuration, traps: &mut Traps) {
    for name in NAMES_A_SECRET {
        let relative = configuration.option(name).filter(|v| !v.value.is_empty() && !v.value.starts_with('/'));
        if let Some(value) = relative {
            let detail = format!("`{name}` is no absolute path: the mode of the file it names is not known");
            traps.blind.push(Evidence { path: value.path.clone(), line: value.line, layer: None, detail });
        }
    }
    for (name, path, named) in secret_files(configuration) {
        let at = |detail: String| Evidence { path: Some(path.clone()), line: None, layer: None, detail };
        match host.stat(path.as_ref()) {
            Ok(meta) if meta.mode & OTHERS_READ != 0 => traps.seen.push(Trapped {
                kind: "readable-secret".to_owned(),
                option: Some(name.to_owned()),
                evidence: at(format!(
                    "`{name}` ({}) names this file of mode {:04o}, which others can read",
                    named.path.as_deref().unwrap_or("configuration"),
                    meta.mode
                )),
            }),
            Ok(_) | Err(ReadError::Absent) => {}
            Err(reason) => traps.blind.push(at(format!("the mode of this file is not known: {reason}"))),
        }
    }
}

/// `registries.yaml`, or what `private-registry` names in its place; none where that is a relative path.
fn registries_file(configuration: &Configuration) -> Option<String> {
    match configuration.option("private-registry") {
        Some(named) => named.value.starts_with('/').then(|| named.value.clone()),
        None => Some(REGISTRIES_FILE.to_owned()),
    }
}

/// Passwords of registries, in a file that others can read.
fn registries(host: &Host, configuration: &Configuration, traps: &mut Traps) {
    let Some(path) = registries_file(configuration) else {
        let detail = "private-registry names a relative path: which file that is, is not known".to_owned();
        traps.blind.push(Evidence { path: None, line: None, layer: None, detail });
        return;
    };
    let content = match host.read(path.as_ref(), LARGEST) {
        Ok(content) => content,
        Err(ReadError::Absent) => return,
        Err(reason) => {
            traps.blind.push(Evidence::at(path, format!("cannot be read: {reason}")));
            return;
        }
    };
    let mode = content.meta.mode;
    let bytes = zeroize::Zeroizing::new(content.bytes);
    traps.read.push(path.clone());
    if mode & OTHERS_READ == 0 {
        return;
    }
    // Only the names of the keys are looked at, in block and flow form alike; their values are not.
    for (number, line) in bytes.split(|b| *b == b'\n').enumerate() {
        let Some(key) = secret_key(&String::from_utf8_lossy(line)) else { continue };
        traps.seen.push(Trapped {
            kind: "readable-secret".to_owned(),
            option: Some(key.to_owned()),
            evidence: Evidence {
                path: Some(path.clone()),
                line: u32::try_from(number).ok().map(|n| n.saturating_add(1)),
                layer: None,
                detail: format!("`{key}` of a registry stands in a file of mode {mode:04o}, which others can read"),
            },
        });
    }
}

/// The key on this line that holds a credential of a registry, if it has a value.
fn secret_key(line: &str) -> Option<&'static str> {
    let line = line.split(" #").next().unwrap_or_default();
    if line.trim_start().starts_with('#') {
        return None;
    }
    ["password", "identity_token", "auth"].into_iter().find(|key| {
        line.split(['{', ',', '-']).any(|part| {
            let Some((name, value)) = part.split_once(':') else { return false };
            let value = value.trim().trim_end_matches('}').trim();
            name.trim().trim_matches(['"', '\'']) == *key
                && !matches!(value, "" | "\"\"" | "''" | "~" | "null" | "|" | ">")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::secret_key;

    #[test]
    fn credentials_of_registries_are_known_by_their_key() {
        for (line, key) in [
            ("      password: x", Some("password")),
            ("      \"password\": x", Some("password")),
            ("  a: {auth: {username: u, password: p}}", Some("password")),
            ("      auth: dXNlcjpwYXNz", Some("auth")),
            ("      identity_token: abc", Some("identity_token")),
            ("    auth:", None),
            ("      password: \"\"", None),
            ("      # password: x", None),
            ("      username: password", None),
        ] {
            assert_eq!(secret_key(line), key, "{line}");
        }
    }
}
