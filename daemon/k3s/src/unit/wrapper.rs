//! Programs before K3s on its command line: `nice -n 5 k3s server`, `env X=1 k3s server`, `sh -c 'exec k3s server'`.

use super::Start;
use crate::envfile::Variable;
use crate::words::{Word, chars, split_shell};

/// What a shell does more with a command than to cut it into words.
const OF_THE_SHELL: &[char] = &['$', '`', ';', '&', '|', '<', '>', '(', ')', '{', '}', '*', '?', '[', '~', '#', '\n'];

/// Leaves K3s and its arguments of a command line. What cannot be decided stays as it is.
pub(super) fn take_off(start: &mut Start) {
    if let Some(words) = of_shell(&start.words) {
        start.words = words;
    }
    let Some(at) = program(&start.words) else { return };
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
