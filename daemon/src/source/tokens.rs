//! Tokens: form, keyed fingerprint, and since when. The token itself is wiped from memory after the look.

use std::collections::BTreeSet;

use picket_checks::{JoinToken, Needs, Snapshot, TokenFacts, TokenForm, UnitFacts};
use picket_host::Host;
use picket_k3s::Layer;
use picket_model::{Evidence, Observation};

use super::memory::Memory;
use super::{Configuration, config, parsed};

/// The largest token file; a real one has about 120 bytes.
const LARGEST: u64 = 16 * 1024;

/// Looks at the token files, at the token this node joins with, and at tokens in units.
pub fn observe(host: &Host, needs: &Needs, configuration: &Configuration, memory: &Memory, snapshot: &mut Snapshot) {
    let now = snapshot.at;
    snapshot.tokens = needs
        .tokens
        .iter()
        .map(|path| {
            let token = parsed(host, path, LARGEST, |bytes, _| {
                let (form, password) = split(bytes)?;
                let fingerprint = memory.fingerprints.of("token", password);
                let first = memory.first_seen(&format!("token:{path}"), &fingerprint, now);
                Ok::<_, BadToken>(TokenFacts {
                    form,
                    fingerprint,
                    first_seen: first.as_ref().map(|f| f.at),
                    change_witnessed: first.is_some_and(|f| f.witnessed),
                })
            });
            (path.clone(), token)
        })
        .collect();
    snapshot.units = units(needs, configuration)
        .into_iter()
        .map(|path| {
            let told = told(configuration, &path);
            (path.clone(), parsed(host, &path, config::LARGEST, |bytes, _| unit(bytes, told)))
        })
        // A drop-in without a token says nothing that its unit does not.
        .filter(|(path, seen)| {
            !path.contains(".service.d/") || seen.value().is_none_or(|u| !u.token_options.is_empty())
        })
        .collect();
    snapshot.join_token = join_token(host, snapshot);
}

/// Why a token file is not one. Never the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// Nothing in it.
    #[error("empty: no token in it, or it is being written right now")]
    Empty,
    /// Not text.
    #[error("not text, so not a token")]
    Binary,
    /// Begins like a full token and does not go on like one.
    #[error("begins with K10 but is not of the form K10<hash>::<user>:<password>: cut short or half written")]
    Broken,
    /// More than one line.
    #[error("more than one line, so not a token")]
    Lines,
}

/// A token's form and its password part.
///
/// # Errors
/// [`BadToken`].
pub fn split(bytes: &[u8]) -> Result<(TokenForm, &[u8]), BadToken> {
    let text = std::str::from_utf8(bytes).map_err(|_| BadToken::Binary)?.trim();
    if text.is_empty() {
        return Err(BadToken::Empty);
    }
    if text.chars().any(char::is_control) {
        return Err(if text.contains('\n') { BadToken::Lines } else { BadToken::Binary });
    }
    let Some(rest) = text.strip_prefix("K10") else {
        let form = if is_bootstrap(text) { TokenForm::Bootstrap } else { TokenForm::Short };
        return Ok((form, text.as_bytes()));
    };
    let (hash, credentials) = rest.split_once("::").ok_or(BadToken::Broken)?;
    if hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit()) || credentials.is_empty() {
        return Err(BadToken::Broken);
    }
    match credentials.split_once(':') {
        Some((user, password)) if !password.is_empty() => {
            Ok((TokenForm::Full { user: user.to_owned() }, password.as_bytes()))
        }
        None if is_bootstrap(credentials) => Ok((TokenForm::PinnedBootstrap, credentials.as_bytes())),
        _ => Err(BadToken::Broken),
    }
}

/// kubeadm's form: `[a-z0-9]{6}.[a-z0-9]{16}`.
fn is_bootstrap(text: &str) -> bool {
    let plain = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    text.split_once('.').is_some_and(|(id, secret)| plain(id, 6) && plain(secret, 16))
}

/// Options whose value is a token.
const OPTIONS: [&str; 4] = ["--token", "-t", "--agent-token", "--cluster-secret"];

/// The files a command line of K3s may stand in: the units K3s installs, and the one that is in use here with its
/// drop-ins, or the script of OpenRC.
fn units(needs: &Needs, configuration: &Configuration) -> BTreeSet<String> {
    let starts =
        |path: &&String| path.ends_with(".service") || path.starts_with("/etc/init.d/") || path.contains(".service.d/");
    needs
        .units
        .iter()
        .chain(configuration.sources().iter().filter(starts))
        .chain(&configuration.unit)
        .cloned()
        .collect()
}

/// The token options that the reader of K3s' configuration found on the command line in this file.
fn told(configuration: &Configuration, path: &str) -> Vec<(String, u32)> {
    let of = |option: &&str| configuration.options.get(option.trim_start_matches('-')).into_iter().flatten();
    let found = OPTIONS.iter().flat_map(|option| of(option).map(move |value| (*option, value)));
    found
        .filter(|(_, value)| value.layer == Layer::CommandLine && value.path.as_deref() == Some(path))
        .map(|(option, value)| (option.to_owned(), value.line.unwrap_or(1)))
        .collect()
}

/// The token options of a unit's command line: those its text shows, and what else was told.
fn unit(bytes: &[u8], told: Vec<(String, u32)>) -> Result<UnitFacts, BadToken> {
    let text = std::str::from_utf8(bytes).map_err(|_| BadToken::Binary)?;
    let mut token_options: Vec<(String, u32)> = exec_words(text)
        .into_iter()
        .filter_map(|(word, line)| {
            let name = word.split('=').next().unwrap_or("");
            OPTIONS.contains(&name).then(|| (name.to_owned(), line))
        })
        .collect();
    for (name, line) in told {
        if !token_options.iter().any(|(known, _)| *known == name) {
            token_options.push((name, line));
        }
    }
    Ok(UnitFacts { token_options })
}

/// The words of `ExecStart`, unquoted, each with its line: lines that end in a backslash go on in the next one.
fn exec_words(text: &str) -> Vec<(String, u32)> {
    let mut words = Vec::new();
    let mut inside = false;
    for (number, line) in text.lines().enumerate() {
        let number = u32::try_from(number).unwrap_or(u32::MAX).saturating_add(1);
        let mut rest = line.trim();
        if !inside {
            let Some(value) = rest.strip_prefix("ExecStart").and_then(|r| r.trim_start().strip_prefix('=')) else {
                continue;
            };
            rest = value;
        } else if rest.starts_with(['#', ';']) {
            continue;
        }
        let (body, more) = match rest.strip_suffix('\\') {
            Some(body) => (body, true),
            None => (rest, false),
        };
        inside = more;
        let mut word = String::new();
        let mut open: Option<char> = None;
        let mut begun = false;
        let mut chars = body.chars();
        while let Some(c) = chars.next() {
            match (c, open) {
                ('\\', None) => {
                    word.extend(chars.next());
                    begun = true;
                }
                (q, Some(o)) if q == o => open = None,
                ('\'' | '"', None) => {
                    open = Some(c);
                    begun = true;
                }
                (c, None) if c.is_whitespace() => {
                    if begun {
                        words.push((std::mem::take(&mut word), number));
                        begun = false;
                    }
                }
                (c, _) => {
                    word.push(c);
                    begun = true;
                }
            }
        }
        if begun {
            words.push((word, number));
        }
    }
    words
}

/// The token this node joins with: `token-file` is read last and wins, then `token`, then `K3S_TOKEN`.
fn join_token(host: &Host, snapshot: &Snapshot) -> Observation<JoinToken> {
    let Some(config) = snapshot.declared.value() else {
        return match &snapshot.declared {
            Observation::Unreadable { reason } => Observation::unreadable(reason.clone()),
            _ => Observation::Absent,
        };
    };
    if let Some(file) = config.option("token-file").filter(|s| !s.value.is_empty()) {
        let token = parsed(host, &file.value, LARGEST, |bytes, _| {
            let (form, _) = split(bytes)?;
            Ok::<_, BadToken>(JoinToken { form, evidence: file.evidence.clone() })
        });
        return match token {
            // K3s waits four minutes for this file and then gives up: it has to be there.
            Observation::Absent => Observation::unreadable(format!("{}: no such file", file.value)),
            Observation::Unreadable { reason } => Observation::unreadable(format!("{}: {reason}", file.value)),
            found @ Observation::Value { .. } => found,
        };
    }
    let Some(setting) = config.option("token") else { return Observation::Absent };
    let evidence = setting.evidence.clone();
    let (Some(path), Some(line)) = (evidence.path.clone(), evidence.line) else {
        return Observation::unreadable("the token's place is not known");
    };
    let content = match host.read(path.as_ref(), config::LARGEST) {
        Ok(content) => zeroize::Zeroizing::new(content.bytes),
        Err(reason) => return Observation::unreadable(format!("{path}: {reason}")),
    };
    match form_at(&content, line, &evidence) {
        Some(Ok(form)) => Observation::from(JoinToken { form, evidence }),
        Some(Err(bad)) => Observation::unreadable(format!("{path}, line {line}: {bad}")),
        None => Observation::unreadable(format!("{path}: no token found on line {line} any more")),
    }
}

/// The form of the token that stands on a line of a configuration, environment or unit file, or what is wrong with it;
/// none where nothing stands there.
fn form_at(bytes: &[u8], line: u32, evidence: &Evidence) -> Option<Result<TokenForm, BadToken>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let index = usize::try_from(line).ok()?.checked_sub(1)?;
    let token = if evidence.layer.as_deref() == Some("command-line") {
        let words = exec_words(text);
        let at = words.iter().position(|(word, at)| {
            *at >= line && matches!(word.split('=').next(), Some("--token" | "-t" | "--agent-token"))
        });
        match at {
            Some(at) => {
                let (word, _) = words.get(at)?;
                match word.split_once('=') {
                    Some((_, value)) => value.to_owned(),
                    None => words.get(at + 1)?.0.clone(),
                }
            }
            // The line may be that of the value.
            None => words.iter().find(|(_, at)| *at == line)?.0.clone(),
        }
    } else {
        let line = text.lines().nth(index)?;
        let (_, value) = line.split_once(['=', ':'])?;
        let value = value.trim();
        let value = match value.chars().next() {
            Some(quote @ ('"' | '\'')) => value.trim_start_matches(quote).split(quote).next().unwrap_or(""),
            _ => value.split(" #").next().unwrap_or("").trim(),
        };
        value.to_owned()
    };
    let token = zeroize::Zeroizing::new(token);
    match split(token.as_bytes()) {
        Err(BadToken::Empty) => None,
        read => Some(read.map(|(form, _)| form)),
    }
}

#[cfg(test)]
mod tests {
    use picket_checks::TokenForm;
    use picket_model::Evidence;

    use super::{BadToken, exec_words, form_at, split, unit};

    const HASH: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn forms_of_a_token() {
        let full = format!("K10{HASH}::server:abc\n");
        assert_eq!(split(full.as_bytes()), Ok((TokenForm::Full { user: "server".into() }, b"abc".as_slice())));
        let pinned = format!("K10{HASH}::abcdef.0123456789abcdef");
        assert_eq!(split(pinned.as_bytes()).map(|t| t.0), Ok(TokenForm::PinnedBootstrap));
        assert_eq!(split(b"abcdef.0123456789abcdef").map(|t| t.0), Ok(TokenForm::Bootstrap));
        assert_eq!(split(b"secret"), Ok((TokenForm::Short, b"secret".as_slice())));
    }

    #[test]
    fn what_is_no_token_says_why() {
        assert_eq!(split(b" \n"), Err(BadToken::Empty));
        assert_eq!(split(&[0xff]), Err(BadToken::Binary));
        assert_eq!(split(b"K10abc"), Err(BadToken::Broken));
        assert_eq!(split(format!("K10{HASH}::server:").as_bytes()), Err(BadToken::Broken));
        assert_eq!(split(b"a\nb"), Err(BadToken::Lines));
    }

    #[test]
    fn words_of_a_unit_are_joined_and_unquoted() {
        let text = "[Service]\nExecStart=/usr/local/bin/k3s \\\n    server \\\n\t'--token' \\\n\t'it'\\''s' \\\n\t--agent-token=x\nRestart=always\n";
        let words: Vec<_> = exec_words(text);
        let texts: Vec<_> = words.iter().map(|(w, l)| (w.as_str(), *l)).collect();
        assert_eq!(
            texts,
            [("/usr/local/bin/k3s", 2), ("server", 3), ("--token", 4), ("it's", 5), ("--agent-token=x", 6)]
        );
        assert_eq!(
            unit(text.as_bytes(), Vec::new()).unwrap().token_options,
            [("--token".to_owned(), 4), ("--agent-token".to_owned(), 6)]
        );
    }

    #[test]
    fn the_join_token_is_found_where_it_stands() {
        let full = format!("K10{HASH}::server:abc");
        let check =
            |text: String, line: u32, layer: &str| form_at(text.as_bytes(), line, &Evidence::at("x", "").layer(layer));
        let want = Some(Ok(TokenForm::Full { user: "server".into() }));
        assert_eq!(check(format!("a: 1\ntoken: {full} # x\n"), 2, "config-file"), want);
        assert_eq!(check(format!("token: \"{full}\"\n"), 1, "config-file"), want);
        assert_eq!(check(format!("K3S_TOKEN='{full}'\n"), 1, "environment"), want);
        assert_eq!(check(format!("ExecStart=k3s agent \\\n '--token' \\\n '{full}' \\\n"), 2, "command-line"), want);
        assert_eq!(check(format!("ExecStart=k3s agent --token={full}\n"), 1, "command-line"), want);
        assert_eq!(check("token: short\n".into(), 1, "config-file"), Some(Ok(TokenForm::Short)));
        assert_eq!(check("K3S_TOKEN='K10abc'\n".into(), 1, "environment"), Some(Err(BadToken::Broken)));
        assert_eq!(check("K3S_TOKEN=\n".into(), 1, "environment"), None);
    }
}
