//! How K3s is started: the systemd unit with its drop-ins and environment files, or the OpenRC script.

use std::collections::BTreeMap;

use picket_model::{Role, name};

use crate::HostFacts;
use crate::effective::{Problem, Trap, Warning};
use crate::envfile::{self, Variable};
use crate::files::{EntryKind, NodeFiles, Unreadable};
use crate::merge::FILE_LIMIT;
use crate::words::{Chars, Word, chars, split_shell, split_systemd};

/// Folders of units, strongest first.
const UNIT_DIRS: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// The start of K3s, as declared.
#[derive(Debug, Clone, Default)]
pub(crate) struct Start {
    /// Unit file or script.
    pub(crate) path: String,
    /// Words of the command, program first, with the file each stands in.
    pub(crate) words: Vec<(Word, String)>,
    /// Environment, with the file each variable stands in; later ones have replaced earlier ones.
    pub(crate) environment: BTreeMap<String, (Variable, String)>,
    pub(crate) problems: Vec<Problem>,
    pub(crate) warnings: Vec<Warning>,
    pub(crate) sources: Vec<String>,
    /// The unit's drop-ins.
    pub(crate) drop_ins: Vec<String>,
    /// Files with its environment, present or not.
    pub(crate) environment_files: Vec<String>,
}

impl Start {
    /// Role and place of its word in the command.
    pub(crate) fn role(&self) -> Option<(Role, usize)> {
        self.words.iter().enumerate().skip(1).find_map(|(i, (word, _))| match word.text.as_str() {
            "server" => Some((Role::Server, i)),
            "agent" => Some((Role::Agent, i)),
            _ => None,
        })
    }

    fn warn_whole(&mut self, detail: &str) {
        let path = self.path.clone();
        self.warn(&path, None, detail);
    }

    fn warn(&mut self, path: &str, line: Option<u32>, detail: impl Into<String>) {
        self.warnings.push(Warning {
            trap: Trap::UnitNotUnderstood,
            path: Some(path.to_owned()),
            line,
            option: None,
            detail: detail.into(),
        });
    }
}

/// What the search for the start of K3s gave.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) start: Option<Start>,
    /// Files and folders that were looked at.
    pub(crate) looked: Vec<String>,
    /// What could not be read on the way: the command line may stand there.
    pub(crate) blind: Vec<Warning>,
}

/// A unit's name, and the name of its host where that is known: what specifiers stand for.
#[derive(Clone, Copy)]
struct Unit<'a> {
    name: &'a str,
    hostname: Option<&'a str>,
}

/// The host's name by its file.
fn hostname(files: &dyn NodeFiles) -> Option<String> {
    let bytes = files.read("/etc/hostname", 4096).ok()??;
    let text = String::from_utf8(bytes).ok()?;
    text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned)
}

/// Finds how K3s is started on this node; with a role only units of that role count.
pub(crate) fn find(files: &dyn NodeFiles, role: Option<Role>, host: Option<&HostFacts>) -> Found {
    let hostname = host.and_then(|host| host.hostname.clone()).or_else(|| hostname(files));
    let mut out = Found { looked: UNIT_DIRS.iter().map(|d| (*d).to_owned()).collect(), ..Found::default() };
    out.looked.push("/etc/init.d".to_owned());
    for dir in UNIT_DIRS {
        if let Err(reason) = files.list(dir) {
            out.blind.push(Warning {
                trap: Trap::UnitNotUnderstood,
                path: Some(dir.to_owned()),
                line: None,
                option: None,
                detail: format!(
                    "the folder of units cannot be listed: {reason}; K3s' command line may be missing here"
                ),
            });
        }
    }
    let mut found: Vec<(bool, u8, Start)> = Vec::new();
    for name in unit_names(files) {
        let Some(mut start) = read_unit(files, &name, hostname.as_deref()) else { continue };
        let Some((unit_role, _)) = start.role() else {
            let plain = matches!(name.as_str(), "k3s.service" | "k3s-agent.service") || wrapper::may_start_k3s(&start);
            if plain && start.warnings.is_empty() {
                start.warn_whole("its ExecStart= names neither server nor agent: the command line is not known");
            }
            out.blind.extend(start.warnings);
            continue;
        };
        if role.is_some_and(|r| r != unit_role) {
            continue;
        }
        let rank = match name.as_str() {
            "k3s.service" => 0,
            "k3s-agent.service" => 1,
            _ => 2,
        };
        found.push((!enabled(files, &name), rank, start));
    }
    if found.is_empty() {
        let unseen = |path: &str, detail: String| Warning {
            trap: Trap::UnitNotUnderstood,
            path: Some(path.to_owned()),
            line: None,
            option: None,
            detail,
        };
        let names = openrc_names(files).unwrap_or_else(|reason| {
            let detail = format!("cannot be listed: {reason}; a script of OpenRC that starts K3s may be missing here");
            out.blind.push(unseen("/etc/init.d", detail));
            Vec::new()
        });
        for name in names {
            match read_openrc(files, &name) {
                Ok(Some(start)) if start.role().is_some_and(|(r, _)| role.is_none_or(|asked| asked == r)) => {
                    found.push((false, 3, start));
                }
                Ok(Some(start)) if start.role().is_none() => out.blind.extend(start.warnings),
                Ok(_) => {}
                Err(reason) => {
                    let detail = format!("cannot be read: {reason}; K3s' command line may stand there");
                    out.blind.push(unseen(&format!("/etc/init.d/{name}"), detail));
                }
            }
        }
    }
    found.sort_by_key(|(disabled, rank, _)| (*disabled, *rank));
    out.start = found.into_iter().next().map(|(_, _, start)| start);
    out
}

fn is_k3s_name(name: &str) -> bool {
    name == "k3s" || name.starts_with("k3s-")
}

fn unit_names(files: &dyn NodeFiles) -> Vec<String> {
    let mut names: Vec<String> = UNIT_DIRS
        .iter()
        .filter_map(|dir| files.list(dir).ok().flatten())
        .flatten()
        .filter(|e| !e.kind.is_dir())
        .map(|e| e.name)
        .filter(|n| n.strip_suffix(".service").is_some_and(is_k3s_name))
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Whether some target wants the unit.
fn enabled(files: &dyn NodeFiles, name: &str) -> bool {
    ["multi-user.target.wants", "default.target.wants", "multi-user.target.requires"].iter().any(|target| {
        files
            .list(&format!("/etc/systemd/system/{target}"))
            .ok()
            .flatten()
            .is_some_and(|entries| entries.iter().any(|e| e.name == name && !e.kind.is_dir()))
    })
}

/// One `Key=value` of the `[Service]` section.
struct Setting {
    key: String,
    value: Chars,
    path: String,
    line: u32,
}

fn read_unit(files: &dyn NodeFiles, name: &str, hostname: Option<&str>) -> Option<Start> {
    let mut start = Start::default();
    let mut settings = Vec::new();
    let mut base = None;
    for dir in UNIT_DIRS {
        let path = format!("{dir}/{name}");
        match files.read(&path, FILE_LIMIT) {
            Ok(Some(bytes)) => {
                base = Some((path, bytes));
                break;
            }
            // A unit that is a link to /dev/null is masked, whatever lies in weaker folders; a link that leads nowhere
            // (as /dev/null does where a folder stands for the node) gives no unit either.
            Ok(None) | Err(_) if leads_nowhere(files, dir, name) => return None,
            Ok(None) => {}
            Err(reason) => {
                start.warn(&path, None, format!("the unit cannot be read: {reason}"));
                start.path = path;
                return Some(start);
            }
        }
    }
    let (path, bytes) = base?;
    if bytes.is_empty() {
        // A unit that is empty is masked.
        return None;
    }
    parse_unit(&String::from_utf8_lossy(&bytes), &path, &mut settings);
    start.sources.push(path.clone());
    start.path = path;
    for drop_in in drop_ins(files, name, &mut start) {
        match files.read(&drop_in, FILE_LIMIT) {
            Ok(Some(bytes)) => parse_unit(&String::from_utf8_lossy(&bytes), &drop_in, &mut settings),
            Ok(None) => {}
            Err(reason) => start.warn(&drop_in, None, format!("the unit's drop-in cannot be read: {reason}")),
        }
        start.sources.push(drop_in.clone());
        start.drop_ins.push(drop_in);
    }
    apply(files, Unit { name, hostname }, settings, &mut start);
    Some(start)
}

/// Whether a name in this folder is a link to a device or to nothing.
fn leads_nowhere(files: &dyn NodeFiles, dir: &str, name: &str) -> bool {
    files.list(dir).ok().flatten().is_some_and(|entries| {
        entries.iter().any(|e| e.name == name && matches!(e.kind, EntryKind::DanglingLink | EntryKind::LinkToOther))
    })
}

/// Drop-ins in systemd's order: by file name; of equal names the one in the strongest folder.
fn drop_ins(files: &dyn NodeFiles, name: &str, start: &mut Start) -> Vec<String> {
    let mut by_name: BTreeMap<Vec<u8>, String> = BTreeMap::new();
    for folder in drop_in_folders(name) {
        let entries = match files.list(&folder) {
            Ok(Some(entries)) => entries,
            Ok(None) => continue,
            Err(reason) => {
                start.warn(&folder, None, format!("the folder of the unit's drop-ins cannot be listed: {reason}"));
                continue;
            }
        };
        for entry in entries {
            let is_file = matches!(
                entry.kind,
                EntryKind::File | EntryKind::LinkToFile | EntryKind::LinkToOther | EntryKind::UnreadableLink
            );
            if is_file && entry.name.ends_with(".conf") {
                let path = format!("{folder}/{}", entry.name);
                by_name.entry(name::bytes(entry.name.as_bytes()).into_owned()).or_insert(path);
            }
        }
        start.sources.push(folder);
    }
    by_name.into_values().collect()
}

/// Folders that may hold drop-ins of a unit, strongest first.
fn drop_in_folders(name: &str) -> impl Iterator<Item = String> {
    let mut names = vec![format!("{name}.d")];
    let stem = name.strip_suffix(".service").unwrap_or(name);
    for (i, _) in stem.rmatch_indices('-') {
        names.push(format!("{}-.service.d", stem.get(..i).unwrap_or_default()));
    }
    names.push("service.d".to_owned());
    names.into_iter().flat_map(|name| UNIT_DIRS.map(|dir| format!("{dir}/{name}")))
}

fn parse_unit(text: &str, path: &str, settings: &mut Vec<Setting>) {
    let mut section = String::new();
    let mut logical: Chars = Vec::new();
    let mut continued = false;
    for (number, raw) in text.lines().enumerate() {
        let line = u32::try_from(number + 1).unwrap_or(u32::MAX);
        let trimmed = raw.trim_start();
        if trimmed.starts_with(['#', ';']) {
            continue;
        }
        if !continued && trimmed.is_empty() {
            continue;
        }
        let (body, more) = raw.strip_suffix('\\').map_or((raw, false), |b| (b, true));
        logical.extend(chars(body, line));
        if more {
            logical.push((' ', line));
            continued = true;
            continue;
        }
        continued = false;
        finish_line(std::mem::take(&mut logical), path, &mut section, settings);
    }
    finish_line(logical, path, &mut section, settings);
}

fn finish_line(logical: Chars, path: &str, section: &mut String, settings: &mut Vec<Setting>) {
    let text: String = logical.iter().map(|(c, _)| *c).collect();
    let text = text.trim();
    if text.is_empty() {
        return;
    }
    if let Some(name) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        name.clone_into(section);
        return;
    }
    if section != "Service" {
        return;
    }
    let Some(equals) = logical.iter().position(|(c, _)| *c == '=') else { return };
    let mut value = logical;
    let rest = value.split_off(equals + 1);
    value.pop();
    let key: String = value.iter().map(|(c, _)| *c).collect();
    let line = value.iter().find(|(c, _)| !c.is_whitespace()).map_or(1, |(_, l)| *l);
    settings.push(Setting { key: key.trim().to_owned(), value: rest, path: path.to_owned(), line });
}

/// Whether a mount of a unit (systemd.exec(5): `[-]SOURCE[:PLACE[:OPTIONS]]`, and `PLACE[:OPTIONS]` of a file system in
/// memory) puts other files where K3s' may be. What lies on the node's volatile places is none of them.
fn puts_other_files(setting: &Setting) -> bool {
    const VOLATILE: [&str; 5] = ["/dev", "/proc", "/sys", "/run", "/tmp"];
    let (words, good) = split_systemd(&setting.value);
    !good
        || words.iter().any(|word| {
            let mut parts = word.text.split(':');
            let source = parts.next().unwrap_or_default().trim_start_matches('-');
            let place = match setting.key.as_str() {
                "TemporaryFileSystem" => source,
                _ => parts.next().filter(|place| *place != source).unwrap_or_default(),
            };
            let top = place.split('/').nth(1).map(|top| format!("/{top}")).unwrap_or_default();
            !place.is_empty() && !VOLATILE.contains(&top.as_str())
        })
}

fn apply(files: &dyn NodeFiles, unit: Unit<'_>, settings: Vec<Setting>, start: &mut Start) {
    let is_blank = |s: &Setting| s.value.iter().all(|(c, _)| c.is_whitespace());
    let mut commands: Vec<Setting> = Vec::new();
    let mut assignments: Vec<Setting> = Vec::new();
    let mut env_files: Vec<Setting> = Vec::new();
    let mut unset: Vec<Setting> = Vec::new();
    let mut oneshot = false;
    let mut root: Option<Setting> = None;
    let mut mounts: Vec<Setting> = Vec::new();
    for setting in settings {
        let list = match setting.key.as_str() {
            "Type" => {
                oneshot = setting.value.iter().map(|(c, _)| *c).collect::<String>().trim() == "oneshot";
                continue;
            }
            "RootDirectory" | "RootImage" => {
                let text: String = setting.value.iter().map(|(c, _)| *c).collect();
                if matches!(text.trim(), "" | "/") {
                    root = root.filter(|old| old.key != setting.key);
                } else {
                    root = Some(setting);
                }
                continue;
            }
            "BindPaths" | "BindReadOnlyPaths" | "TemporaryFileSystem" => &mut mounts,
            "ExecStart" => &mut commands,
            "Environment" => &mut assignments,
            "EnvironmentFile" => &mut env_files,
            "UnsetEnvironment" => &mut unset,
            _ => continue,
        };
        // An empty assignment throws away what was gathered.
        if is_blank(&setting) {
            let key = setting.key;
            list.retain(|old| old.key != key);
        } else {
            list.push(setting);
        }
    }
    root = root.or_else(|| mounts.into_iter().find(puts_other_files));
    for setting in assignments {
        let (words, good) = split_systemd(&setting.value);
        if !good {
            start.warn(&setting.path, Some(setting.line), "Environment= with a quote or escape systemd refuses");
        }
        for word in words {
            let text = specifiers(&word.text, unit);
            if let Some((key, value)) = text.split_once('=') {
                let variable = Variable { name: key.to_owned(), value: value.to_owned(), line: word.line };
                start.environment.insert(key.to_owned(), (variable, setting.path.clone()));
            }
        }
    }
    for setting in env_files {
        let text: String = setting.value.iter().map(|(c, _)| *c).collect();
        let text = specifiers(text.trim(), unit);
        let (optional, path) = text.strip_prefix('-').map_or((false, text.as_str()), |p| (true, p));
        let path = path.trim_matches(['"', '\'']).to_owned();
        if path.contains(['*', '?', '[']) {
            start.warn(&setting.path, Some(setting.line), "EnvironmentFile= with a pattern is not followed");
            continue;
        }
        start.sources.push(path.clone());
        start.environment_files.push(path.clone());
        read_env_file(files, &path, optional, &setting, start);
    }
    for setting in unset {
        for word in split_systemd(&setting.value).0 {
            let text = specifiers(&word.text, unit);
            // With a value it counts only for a variable of that value.
            let (key, value) = text.split_once('=').map_or((text.as_str(), None), |(key, value)| (key, Some(value)));
            if start.environment.get(key).is_some_and(|(v, _)| value.is_none_or(|value| v.value == value)) {
                start.environment.remove(key);
            }
        }
    }
    if let Some(root) = root {
        let detail = format!("{}=: the files K3s sees are not those looked at here, and not known", root.key);
        start.warn(&root.path, Some(root.line), detail);
        return;
    }
    let mut commands = commands.into_iter();
    let Some(command) = commands.next() else { return };
    if let Some(second) = commands.next().filter(|_| !oneshot) {
        start.problems.push(Problem {
            path: Some(second.path),
            line: Some(second.line),
            detail: "a second ExecStart=: systemd refuses the unit; an empty ExecStart= before it takes the first away"
                .to_owned(),
        });
    }
    let (words, good) = split_systemd(&command.value);
    if !good {
        start.problems.push(Problem {
            path: Some(command.path.clone()),
            line: Some(command.line),
            detail: "ExecStart= with an open quote or an escape systemd refuses: the unit does not start".to_owned(),
        });
    }
    start.words = expand(words, unit, start).into_iter().map(|w| (w, command.path.clone())).collect();
    wrapper::take_off(start);
}

fn read_env_file(files: &dyn NodeFiles, path: &str, optional: bool, setting: &Setting, start: &mut Start) {
    match files.read(path, FILE_LIMIT) {
        Ok(Some(bytes)) => {
            let (variables, ignored) = envfile::systemd(&String::from_utf8_lossy(&bytes));
            for variable in variables {
                start.environment.insert(variable.name.clone(), (variable, path.to_owned()));
            }
            for line in ignored {
                start.warn(path, Some(line), "no valid variable name: systemd ignores this line");
            }
        }
        Ok(None) if optional => {}
        Ok(None) => start.problems.push(Problem {
            path: Some(setting.path.clone()),
            line: Some(setting.line),
            detail: format!(
                "environment file {path} does not exist: the unit does not start; create it or put a - before its name"
            ),
        }),
        Err(reason) => start.problems.push(Problem {
            path: Some(path.to_owned()),
            line: None,
            detail: format!("the environment file cannot be read: {reason}; its variables are not known"),
        }),
    }
}

/// Command prefixes, specifiers and variables.
fn expand(words: Vec<Word>, unit: Unit<'_>, start: &Start) -> Vec<Word> {
    let mut out: Vec<Word> = Vec::new();
    let mut words = words.into_iter();
    let Some(mut program) = words.next() else { return out };
    let prefixes: String = program.text.chars().take_while(|c| "-@:+!|".contains(*c)).collect();
    program.text = specifiers(program.text.get(prefixes.len()..).unwrap_or_default(), unit);
    out.push(program);
    if prefixes.contains('@') {
        // The second word is what the program is called, not an argument.
        words.next();
    }
    for word in words {
        let text = specifiers(&word.text, unit);
        if text == ";" {
            break;
        }
        if prefixes.contains(':') {
            out.push(Word { text, line: word.line });
            continue;
        }
        let lookup = |key: &str| start.environment.get(key).map_or("", |(v, _)| v.value.as_str());
        let whole = text.strip_prefix('$').filter(|k| {
            !k.is_empty() && !k.starts_with(['{', '$']) && k.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        });
        if let Some(key) = whole {
            let (parts, _) = split_systemd(&chars(lookup(key), word.line));
            out.extend(parts.into_iter().map(|p| Word { line: word.line, ..p }));
        } else {
            out.push(Word { text: braces(&text, lookup), line: word.line });
        }
    }
    out
}

/// Replaces `${NAME}` and `$$`.
fn braces<'a>(text: &str, lookup: impl Fn(&str) -> &'a str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((key, tail)) = after.strip_prefix('{').and_then(|a| a.split_once('}')) {
            out.push_str(lookup(key));
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// The specifiers install scripts use.
fn specifiers(text: &str, unit: Unit<'_>) -> String {
    let stem = unit.name.rsplit_once('.').map_or(unit.name, |(s, _)| s);
    let mut out = String::new();
    let mut letters = text.chars();
    while let Some(c) = letters.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match letters.next() {
            Some('%') => out.push('%'),
            Some('N' | 'p' | 'P') => out.push_str(stem),
            Some('n') => out.push_str(unit.name),
            Some('i' | 'I') => {}
            Some('E') => out.push_str("/etc"),
            Some('S') => out.push_str("/var/lib"),
            Some('C') => out.push_str("/var/cache"),
            Some('L') => out.push_str("/var/log"),
            Some('t') => out.push_str("/run"),
            Some('T') => out.push_str("/tmp"),
            Some('V') => out.push_str("/var/tmp"),
            Some(letter @ ('H' | 'l')) if unit.hostname.is_some() => {
                let whole = unit.hostname.unwrap_or_default();
                let short = whole.split_once('.').map_or(whole, |(short, _)| short);
                out.push_str(if letter == 'l' { short } else { whole });
            }
            Some(other) => {
                out.push('%');
                out.push(other);
            }
            None => out.push('%'),
        }
    }
    out
}

fn openrc_names(files: &dyn NodeFiles) -> Result<Vec<String>, Unreadable> {
    let mut names: Vec<String> = files
        .list("/etc/init.d")?
        .unwrap_or_default()
        .into_iter()
        .filter(|e| !e.kind.is_dir() && is_k3s_name(&e.name))
        .map(|e| e.name)
        .collect();
    names.sort();
    Ok(names)
}

fn read_openrc(files: &dyn NodeFiles, name: &str) -> Result<Option<Start>, Unreadable> {
    let path = format!("/etc/init.d/{name}");
    let mut start = Start { path: path.clone(), ..Start::default() };
    start.sources.push(path.clone());
    let Some(bytes) = files.read(&path, FILE_LIMIT)? else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let program = openrc_value(&text, "command").map_or_else(
        || Word { text: "/usr/local/bin/k3s".to_owned(), line: 1 },
        |v| Word { text: v.iter().map(|(c, _)| *c).collect(), line: v.first().map_or(1, |(_, l)| *l) },
    );
    let Some(arguments) = openrc_value(&text, "command_args") else { return Ok(None) };
    let arguments = split_shell(&arguments);
    start.words = std::iter::once(program).chain(arguments).map(|w| (w, path.clone())).collect();
    for env in ["/etc/environment".to_owned(), format!("/etc/rancher/k3s/{name}.env")] {
        start.sources.push(env.clone());
        start.environment_files.push(env.clone());
        match files.read(&env, FILE_LIMIT) {
            Ok(Some(bytes)) => {
                for variable in envfile::shell(&String::from_utf8_lossy(&bytes)) {
                    start.environment.insert(variable.name.clone(), (variable, env.clone()));
                }
            }
            Ok(None) => {}
            Err(reason) => start.problems.push(Problem {
                path: Some(env),
                line: None,
                detail: format!("the environment file cannot be read: {reason}; its variables are not known"),
            }),
        }
    }
    wrapper::take_off(&mut start);
    Ok(Some(start))
}

/// The text of a shell assignment `name="…"`, unquoted once.
fn openrc_value(text: &str, name: &str) -> Option<Chars> {
    let all = chars(text, 1);
    let prefix = format!("{name}=");
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        if line.trim_start().starts_with(&prefix) {
            let lead = line.len() - line.trim_start().len();
            let skip = offset + lead + prefix.chars().count();
            let rest = all.get(skip..)?;
            let mut out = Vec::new();
            let (quote, body) = match rest.first() {
                Some(('"', _)) => (Some('"'), rest.get(1..)?),
                Some(('\'', _)) => (Some('\''), rest.get(1..)?),
                _ => (None, rest),
            };
            let mut i = 0;
            while let Some(&(c, l)) = body.get(i) {
                i += 1;
                match (quote, c) {
                    (Some(q), c) if q == c => break,
                    (None, c) if c.is_whitespace() => break,
                    (Some('"'), '\\') => match body.get(i) {
                        Some(&(n @ ('"' | '\\' | '$' | '`'), l)) => {
                            out.push((n, l));
                            i += 1;
                        }
                        Some(&('\n', _)) => i += 1,
                        _ => out.push((c, l)),
                    },
                    _ => out.push((c, l)),
                }
            }
            return Some(out);
        }
        offset += line.chars().count();
    }
    None
}

mod wrapper;

#[cfg(test)]
mod tests;
