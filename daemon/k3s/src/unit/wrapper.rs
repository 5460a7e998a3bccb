//! Programs before K3s on its command line: `nice -n 5 k3s server`, `env X=1 k3s server`, `sh -c 'exec k3s server'`.

use super::Start;
use crate::envfile::Variable;
use crate::words::{Word, chars, split_shell};

/// What a shell does more with a command than to cut it into words.
const OF_THE_SHELL: &[char] = &['$', '`', ';', '&', '|', '<', '>', '(', ')', '{', '}', '*', '?', '[', '~', '#', '\n'];

/// Programs that show what they start other files or other variables than those read here.
const ELSEWHERE: &[&str] = &[
    "bwrap",
    "chroot",
    "ctr",
    "doas",
    "docker",
    "machinectl",
    "nerdctl",
    "nsenter",
    "podman",
    "proot",
    "runuser",
    "schroot",
    "ssh",
    "su",
    "sudo",
    "switch_root",
    "systemd-nspawn",
    "systemd-run",
    "unshare",
];

/// Leaves K3s and its arguments of a command line. What cannot be decided stays as it is.
pub(super) fn take_off(start: &mut Start) {
    if let Some(words) = of_shell(&start.words) {
        start.words = words;
    }
    let found = program(&start.words);
    let from = found.or_else(|| start.role().map(|(_, at)| at)).unwrap_or_default();
    if let Some(by) = elsewhere(start.words.get(..from).unwrap_or_default()) {
        start.warn_whole(&format!("starts K3s through {by}: the files and variables K3s sees are not known"));
        start.words.clear();
        return;
    }
    let Some(at) = found else { return };
    let rest = start.words.split_off(at);
    let before = std::mem::replace(&mut start.words, rest);
    environment(start, &before);
}

/// Whether a command that names no role may start K3s all the same.
pub(super) fn may_start_k3s(start: &Start) -> bool {
    start.words.iter().any(|(word, _)| {
        let words: Vec<&str> = word.text.split_whitespace().collect();
        words.iter().any(|word| name(word) == "k3s") && words.iter().any(|word| matches!(*word, "server" | "agent"))
    })
}

/// The program before K3s that decides what K3s sees.
fn elsewhere(before: &[(Word, String)]) -> Option<&'static str> {
    if before.first().is_none_or(|(word, _)| is_k3s(&word.text)) {
        return None;
    }
    let mut words = before.iter().map(|(word, _)| word.text.as_str());
    let program = |word: &str| ELSEWHERE.iter().copied().find(|program| *program == name(word));
    if let Some(program) = words.clone().find_map(program) {
        return Some(program);
    }
    // It cuts a word into words by rules of its own.
    let splits =
        |word: &str| word.starts_with("--s") || word.starts_with('-') && !word.starts_with("--") && word.contains('S');
    (words.any(|word| name(word) == "env") && words.any(splits)).then_some("env -S")
}

fn name(word: &str) -> &str {
    word.rsplit_once('/').map_or(word, |(_, name)| name)
}

/// The words of a script that is one plain command.
fn of_shell(words: &[(Word, String)]) -> Option<Vec<(Word, String)>> {
    let at = words.iter().position(|(word, _)| matches!(name(&word.text), "sh" | "bash" | "dash" | "ash"))?;
    let (before, rest) = words.split_at_checked(at)?;
    let [_, (flag, _), (script, path), ..] = rest else { return None };
    let is_k3s_before = before.iter().any(|(word, _)| is_k3s(&word.text));
    if flag.text != "-c" || is_k3s_before || script.text.contains(OF_THE_SHELL) {
        return None;
    }
    let words = split_shell(&chars(&script.text, script.line));
    let words: Vec<_> = words.into_iter().filter(|word| word.text != "exec").collect();
    // Variables set before a command are set as `env` sets them.
    let env = Word { text: "env".to_owned(), line: script.line };
    let inner = std::iter::once(env).chain(words).map(|word| (word, path.clone()));
    let all: Vec<_> = before.iter().cloned().chain(inner).collect();
    program(&all).map(|_| all)
}

fn is_k3s(word: &str) -> bool {
    let name = name(word);
    name == "k3s" || word.contains('/') && name.starts_with("k3s-")
}

/// Where K3s stands on a command line behind other programs; none where it comes first, or nowhere with a role after it.
fn program(words: &[(Word, String)]) -> Option<usize> {
    let at = words.iter().position(|(word, _)| is_k3s(&word.text)).filter(|at| *at > 0)?;
    let role = words.iter().skip(at + 1).any(|(word, _)| matches!(word.text.as_str(), "server" | "agent"));
    role.then_some(at)
}

/// What `env` among the programs does to the environment.
fn environment(start: &mut Start, before: &[(Word, String)]) {
    let mut words = before.iter();
    if !words.any(|(word, _)| name(&word.text) == "env") {
        return;
    }
    while let Some((word, path)) = words.next() {
        let text = word.text.as_str();
        match text {
            "-i" | "-" | "--ignore-environment" => start.environment.clear(),
            "-u" | "--unset" => {
                if let Some((name, _)) = words.next() {
                    start.environment.remove(&name.text);
                }
            }
            "-C" | "--chdir" => {
                words.next();
            }
            _ if text.starts_with("--unset=") => {
                start.environment.remove(text.trim_start_matches("--unset="));
            }
            _ if text.starts_with('-') => {}
            _ => match text.split_once('=') {
                Some((name, value)) => {
                    let variable = Variable { name: name.to_owned(), value: value.to_owned(), line: word.line };
                    start.environment.insert(name.to_owned(), (variable, path.clone()));
                }
                // Another program.
                None => return,
            },
        }
    }
}
