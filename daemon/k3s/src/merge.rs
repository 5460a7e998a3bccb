//! `config.yaml` and its drop-ins, folded into arguments as K3s' loader does it.

use std::collections::BTreeMap;

use picket_model::name;

use crate::effective::{Layer, Problem, Trap, Warning};
use crate::files::{EntryKind, NodeFiles};
use crate::options::without_tokens;
use crate::yaml::{self, Node, Value};

/// Largest configuration file read.
pub(crate) const FILE_LIMIT: usize = 1 << 20;

/// Bytes read of a configuration with all its drop-ins.
const ALL_LIMIT: usize = 4 << 20;

/// Values of one option, and of all options for components together: those are kept for every version that may run.
const ARGUMENTS_LIMIT: usize = 10_000;

/// One argument made from the files: `--name=value`.
#[derive(Debug, Clone)]
pub(crate) struct FileArg {
    /// The key as K3s prints it, without dashes. May be empty or hold anything.
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) path: String,
    pub(crate) line: u32,
    pub(crate) layer: Layer,
    /// The scalar as written, if it stood without quotes.
    pub(crate) plain: Option<String>,
}

/// What the files gave.
#[derive(Debug, Default)]
pub(crate) struct Merged {
    /// Arguments in K3s' order. Empty if anything was refused.
    pub(crate) args: Vec<FileArg>,
    pub(crate) problems: Vec<Problem>,
    pub(crate) warnings: Vec<Warning>,
    /// Files that were looked at, present or not.
    pub(crate) sources: Vec<String>,
    /// The file and its drop-ins, present or not.
    pub(crate) files: Vec<String>,
    /// Whether any configuration file exists.
    pub(crate) present: bool,
}

#[derive(Clone)]
struct Item {
    node: Node,
    path: String,
    line: u32,
    layer: Layer,
}

enum Held {
    One(Item),
    Many(Vec<Item>),
}

/// Reads `main` and `main.d` and merges them. `past_wrapper`: K3s' wrapper does not look at the files first, and so a
/// dangling link among the drop-ins does not stop K3s.
pub(crate) fn merge(files: &dyn NodeFiles, main: &str, past_wrapper: bool) -> Merged {
    let mut merged = Merged::default();
    let folder = format!("{main}.d");
    merged.sources.push(main.to_owned());
    merged.files.push(main.to_owned());
    merged.sources.push(folder.clone());
    let mut paths = vec![(main.to_owned(), Layer::ConfigFile)];
    let ignored = match drop_ins(files, &folder, past_wrapper, &mut merged) {
        DropIns::Read(names) => {
            paths.extend(names.into_iter().map(|n| (n, Layer::DropIn)));
            false
        }
        DropIns::FilesIgnored(names) => {
            paths.extend(names.into_iter().map(|n| (n, Layer::DropIn)));
            true
        }
        DropIns::Refused => return merged,
    };
    let mut order: Vec<String> = Vec::new();
    let mut values: BTreeMap<String, Held> = BTreeMap::new();
    let mut left = ALL_LIMIT;
    for (path, layer) in paths {
        if layer == Layer::DropIn {
            merged.sources.push(path.clone());
        }
        let bytes = match files.read(&path, FILE_LIMIT) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => continue,
            Err(reason) => {
                merged.problems.push(Problem {
                    path: Some(path),
                    line: None,
                    detail: format!("cannot be read: {reason}; its settings are not known"),
                });
                continue;
            }
        };
        merged.present = true;
        let Some(rest) = left.checked_sub(bytes.len()) else {
            let detail = format!(
                "cannot be read: the files together are larger than {ALL_LIMIT} bytes; their settings are not known"
            );
            merged.problems.push(Problem { path: Some(path), line: None, detail });
            break;
        };
        left = rest;
        match yaml::load(&bytes) {
            Ok(document) => fold(&document, &path, layer, &mut order, &mut values, &mut merged),
            Err(error) => {
                merged.problems.push(Problem { path: Some(path), line: error.line, detail: error.detail });
            }
        }
    }
    if !merged.problems.is_empty() || ignored {
        return merged;
    }
    let mut for_components = 0;
    for key in order {
        let Some(held) = values.remove(&key) else { continue };
        let (count, last) = match &held {
            Held::One(item) => (item.node.items().map_or(1, <[Node]>::len), Some(item)),
            Held::Many(items) => (items.len(), items.last()),
        };
        for_components += if key.ends_with("-arg") { count } else { 0 };
        if count.max(for_components) > ARGUMENTS_LIMIT {
            let detail = format!(
                "cannot be read: more than {ARGUMENTS_LIMIT} values up to those of `{}`; the settings are not known",
                key.chars().take(80).collect::<String>()
            );
            let (path, line) = (last.map(|item| item.path.clone()), last.map(|item| item.line));
            merged.problems.push(Problem { path, line, detail });
            merged.args.clear();
            break;
        }
        match held {
            Held::One(item) => match item.node.items() {
                Some(list) => {
                    let items: Vec<Item> =
                        list.iter().map(|n| Item { node: n.clone(), line: n.line, ..item.clone() }).collect();
                    for item in &items {
                        merged.args.push(argument(&key, item, true, &mut merged.warnings));
                    }
                }
                None => merged.args.push(argument(&key, &item, false, &mut merged.warnings)),
            },
            Held::Many(items) => {
                for item in &items {
                    merged.args.push(argument(&key, item, true, &mut merged.warnings));
                }
            }
        }
    }
    merged
}

enum DropIns {
    /// Paths in K3s' order.
    Read(Vec<String>),
    /// One of the links leads nowhere: K3s takes it for "no configuration file" and goes on without any. What stands
    /// before that link is read all the same.
    FilesIgnored(Vec<String>),
    /// K3s does not start, or they are not known.
    Refused,
}

fn drop_ins(files: &dyn NodeFiles, folder: &str, past_wrapper: bool, merged: &mut Merged) -> DropIns {
    let mut entries = match files.list(folder) {
        Ok(Some(entries)) => entries,
        Ok(None) => return DropIns::Read(Vec::new()),
        Err(reason) => {
            let detail = if files.has_file(folder) {
                "a file where K3s wants a folder of drop-ins: it does not start; remove or rename it".to_owned()
            } else {
                format!("cannot be listed: {reason}; drop-ins are not known")
            };
            merged.problems.push(Problem { path: Some(folder.to_owned()), line: None, detail });
            return DropIns::Refused;
        }
    };
    entries.retain(|e| {
        let name = e.name.to_ascii_lowercase();
        !e.kind.is_dir() && (name.ends_with(".yaml") || name.ends_with(".yml"))
    });
    entries.sort_by_cached_key(|e| name::bytes(e.name.as_bytes()).into_owned());
    merged.files.extend(entries.iter().map(|e| format!("{folder}/{}", e.name)));
    let mut usable = true;
    let mut names = Vec::new();
    let mut dangling = false;
    for entry in &entries {
        let path = format!("{folder}/{}", entry.name);
        let detail = match entry.kind {
            EntryKind::LinkToDir => "a link to a folder, named like a drop-in: K3s does not start; remove or rename it",
            EntryKind::LinkLoop => "a link that leads back to itself: K3s does not start; remove it",
            EntryKind::DanglingLink => {
                merged.present = true;
                merged.warnings.push(Warning {
                    trap: Trap::DanglingDropIn,
                    path: Some(path.clone()),
                    line: None,
                    option: None,
                    detail: "a link to a file that does not exist: past K3s' wrapper no configuration file counts, \
                             config.yaml included; remove the link or restore its target"
                        .to_owned(),
                });
                if past_wrapper {
                    dangling = true;
                    continue;
                }
                "a link to a file that does not exist: K3s does not start, or ignores every configuration file; \
                 remove the link or restore its target"
            }
            EntryKind::Other | EntryKind::LinkToOther => "no ordinary file: K3s cannot read it",
            EntryKind::File | EntryKind::LinkToFile | EntryKind::UnreadableLink | EntryKind::Dir => {
                if !dangling {
                    names.push(path);
                }
                continue;
            }
        };
        if dangling {
            continue;
        }
        usable = false;
        merged.present = true;
        merged.problems.push(Problem { path: Some(path), line: None, detail: detail.to_owned() });
    }
    match (usable, dangling) {
        (false, _) => DropIns::Refused,
        (true, true) => DropIns::FilesIgnored(names),
        (true, false) => DropIns::Read(names),
    }
}

fn fold(
    document: &yaml::Document,
    path: &str,
    layer: Layer,
    order: &mut Vec<String>,
    values: &mut BTreeMap<String, Held>,
    merged: &mut Merged,
) {
    let warn = |merged: &mut Merged, trap, line, option: Option<&str>, detail: &str| {
        merged.warnings.push(Warning {
            trap,
            path: Some(path.to_owned()),
            line: Some(line),
            option: option.map(str::to_owned),
            detail: detail.to_owned(),
        });
    };
    if let Some(line) = document.second {
        warn(
            merged,
            Trap::SecondDocument,
            line,
            None,
            "a second YAML document: K3s reads only the first; move its settings up",
        );
    }
    for line in &document.merge_keys {
        warn(
            merged,
            Trap::MergeKeyLost,
            *line,
            None,
            "a merge key (<<): K3s loses it, nothing of it is set; write the settings out",
        );
    }
    let Some(root) = &document.root else { return };
    let pairs = match &*root.value {
        Value::Null => return,
        Value::Map(pairs) => pairs,
        Value::List(items) if items.is_empty() => return,
        Value::List(_) => {
            let detail = "a list at the top, where K3s wants `option: value` lines".to_owned();
            merged.problems.push(Problem { path: Some(path.to_owned()), line: Some(root.line), detail });
            return;
        }
        _ => {
            let detail = "a single value at the top, where K3s wants `option: value` lines".to_owned();
            merged.problems.push(Problem { path: Some(path.to_owned()), line: Some(root.line), detail });
            return;
        }
    };
    let mut here: BTreeMap<String, bool> = BTreeMap::new();
    for (key_node, value) in pairs {
        let text = yaml::to_text(key_node);
        let text = without_tokens(&text);
        let (key, append) = text.strip_suffix('+').map_or((&*text, false), |k| (k, true));
        let line = key_node.line;
        if !values.contains_key(key) {
            order.push(key.to_owned());
        }
        let item = Item { node: value.clone(), path: path.to_owned(), line, layer };
        let old = values.remove(key);
        let held = match (old, append) {
            (Some(old), true) => {
                let mut list = into_list(old);
                list.extend(into_list(Held::One(item)));
                Held::Many(list)
            }
            (old, _) => {
                if let Some(old) = old {
                    lost(&old, key, here.contains_key(key), &item, merged);
                }
                Held::One(item)
            }
        };
        here.insert(key.to_owned(), true);
        values.insert(key.to_owned(), held);
    }
}

/// Says what a plain key throws away.
fn lost(old: &Held, key: &str, same_file: bool, new: &Item, merged: &mut Merged) {
    let dropped = match old {
        Held::One(item) => item.node.items().map_or(1, <[Node]>::len),
        Held::Many(items) => items.len(),
    };
    let (trap, detail) = if same_file {
        (Trap::DuplicateKey, "given twice in this file: the last one counts".to_owned())
    } else if key.ends_with("-arg") && dropped > 0 {
        let detail = format!("replaces {dropped} value(s) of earlier files; write `{key}+:` to add to them instead");
        (Trap::ListReplaced, detail)
    } else {
        return;
    };
    merged.warnings.push(Warning {
        trap,
        path: Some(new.path.clone()),
        line: Some(new.line),
        option: Some(key.to_owned()),
        detail,
    });
}

/// A value as a list, the way `key+` makes it: lists stay, texts become one item, what prints as nothing vanishes.
fn into_list(held: Held) -> Vec<Item> {
    match held {
        Held::Many(items) => items,
        Held::One(item) => match &*item.node.value {
            Value::List(nodes) => {
                nodes.iter().map(|n| Item { node: n.clone(), line: n.line, ..item.clone() }).collect()
            }
            Value::Text(_) => vec![item],
            _ if yaml::to_text(&item.node).is_empty() => Vec::new(),
            _ => vec![item],
        },
    }
}

fn argument(key: &str, item: &Item, in_list: bool, warnings: &mut Vec<Warning>) -> FileArg {
    let trap = match &*item.node.value {
        Value::List(inner) if in_list && inner.len() > 1 => Some((
            Trap::NestedList,
            "a list inside a list: K3s takes its first item only; write all items on one level",
        )),
        Value::Map(_) => Some((
            Trap::MapValue,
            "a map where a text is meant (`name: value` for `name=value`): K3s passes it on in a form no component takes",
        )),
        _ => None,
    };
    if let Some((trap, detail)) = trap {
        warnings.push(Warning {
            trap,
            path: Some(item.path.clone()),
            line: Some(item.line),
            option: Some(key.to_owned()),
            detail: detail.to_owned(),
        });
    }
    FileArg {
        key: key.to_owned(),
        value: yaml::to_text(&item.node),
        path: item.path.clone(),
        line: item.line,
        layer: item.layer,
        plain: item.node.plain.as_deref().map(str::to_owned),
    }
}
