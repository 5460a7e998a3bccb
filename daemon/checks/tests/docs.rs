//! `docs/controls` is written from the catalogue: one page for each control, and an index.
//!
//! After a change of the catalogue: `PICKET_UPDATE_DOCS=1 cargo test -p picket-checks --test docs`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

const UPDATE: &str = "PICKET_UPDATE_DOCS=1 cargo test -p picket-checks --test docs";

fn catalogue() -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("catalogue");
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "yaml"));
    files.sort_by_key(|path| (!path.ends_with("controls.yaml"), path.clone()));
    files
        .iter()
        .flat_map(|path| serde_saphyr::from_str::<Vec<Value>>(&fs::read_to_string(path).unwrap()).unwrap())
        .collect()
}

fn text<'a>(entry: &'a Value, key: &str) -> &'a str {
    entry[key].as_str().unwrap_or_default()
}

/// A scalar or a list of them, as code.
fn code(value: &Value) -> String {
    match value {
        Value::Array(items) => items.iter().map(code).collect::<Vec<_>>().join(", "),
        Value::String(text) if text.contains('`') => format!("`` {text} ``"),
        Value::String(text) => format!("`{text}`"),
        other => format!("`{other}`"),
    }
}

fn scope(word: &str) -> &str {
    match word {
        "server" => "servers",
        "agent" => "agents",
        "etcd-server" => "servers with embedded etcd",
        "every-node" => "every node",
        "cluster" => "the cluster as a whole; a server answers as far as its own sources go",
        other => other,
    }
}

fn source(word: &str) -> String {
    let known = match word {
        "file-mode" => "permission bits of files",
        "file-owner" => "owners of files",
        "flag:k3s" => "options of K3s: unit, environment files, config.yaml and its drop-ins",
        "flag:etcd" => "the configuration file of embedded etcd",
        "sysctl" => "kernel parameters",
        "secrets-encryption" => "the encryption configuration and its state file",
        "token" => "token files",
        "x509" => "certificates",
        "audit-policy" => "the audit policy",
        "audit-log" => "the audit log",
        "datastore" => "the datastore",
        "cluster-api" => "the API of the cluster, which a node alone cannot ask",
        "trap" => "how K3s reads its configuration",
        other => match other.strip_prefix("flag:") {
            Some("kubelet") => return "flags of the kubelet and its drop-ins".to_owned(),
            Some(component) => return format!("flags that K3s passes to {component}"),
            None => return other.to_owned(),
        },
    };
    known.to_owned()
}

/// How the value is compared, in a sentence.
fn comparison(expected: &Value) -> String {
    let value = code(&expected["value"]);
    let owner = expected.get("and_owner").map(|o| format!(", and the owner must be {}", code(o))).unwrap_or_default();
    match expected["op"].as_str().unwrap_or_default() {
        "eq" | "eq_all" => format!("The value must be {value}."),
        "ne" => format!("The value must not be {value}."),
        "in" => format!("The value must be one of {value}."),
        "has" => format!("The list must hold {value}."),
        "not_has" => format!("The list must not hold {value}."),
        "subset_of" => format!("The list must hold nothing but {value}."),
        "ge" => format!("The value must be at least {value}."),
        "gt" => format!("The value must be more than {value}."),
        "prefix" => format!("The value must begin with {value}."),
        "not_prefix" => format!("The value must not begin with {value}."),
        "not_matches" => format!("Nothing may match {value}."),
        "host_in" => format!("The host of the address must be one of {value}."),
        "duration_between" => {
            format!("The duration must lie between {} and {}.", code(&expected["min"]), code(&expected["max"]))
        }
        "only" | "names_subset_of" => format!("There may be nothing but {value}."),
        "empty" => "It must be empty.".to_owned(),
        "set" => "It must be set.".to_owned(),
        "unset" => "It must not be set.".to_owned(),
        "exists" => "It must exist.".to_owned(),
        "never" => "There may be no such place. Each one found is a row of its own.".to_owned(),
        "all_of" => format!("All of these must hold: {value}."),
        "any_of" => format!("One of these must hold: {value}."),
        "mode_at_most" => format!("The mode must have no bits beyond {value}{owner}."),
        "owner_is" => format!("The owner must be {value}."),
        "symlink_to" => format!("It must be a symbolic link to {value}."),
        "not_symlink" => "It must be a file of its own, no symbolic link.".to_owned(),
        "persisted_equals" => format!("What is set at the next boot must be {value}."),
        "days_left_ge" => format!("At least {value} days must be left."),
        "not_before_le_now" => "The validity must have begun.".to_owned(),
        "validity_days_at_most" => format!("The whole validity may be at most {value} days."),
        "distinct_public_keys" => "Each must have a public key of its own.".to_owned(),
        "first_provider_in" => format!("The first provider, with which is written, must be one of {value}."),
        "age_days_at_most" => format!("It may be at most {value} days old."),
        "max_level" => format!("The first rule that matches may log at most {value}."),
        "min_level" => format!("The first rule that matches must log at least {value}."),
        "default_level_ge" => format!("What no other rule matches must be logged at least at {value}."),
        "detections_see" => format!("No rule for the audit log may lack the {value} it looks for."),
        "rules_can_match" => {
            "No rule may be one that no request can reach; each that is, is a row of its own.".to_owned()
        }
        "count_eq" => format!("There must be {value} such entries."),
        "manual" => "A person must judge this; the verdict is `manual`.".to_owned(),
        "report" => "The value found is shown; the verdict is `manual`.".to_owned(),
        "report_each" => "Each occurrence is a detection; there is no verdict.".to_owned(),
        op if expected["value"].is_null() => format!("Compared by `{op}`."),
        op => format!("Compared by `{op}` with {value}."),
    }
}

fn absent(word: &str) -> &str {
    match word {
        "pass" => "Where it is absent: pass.",
        "fail" => "Where it is absent: fail.",
        "not_applicable" => "Where it is absent: not applicable.",
        "evaluate-authentication-config" => {
            "Where the flag is absent: the authentication configuration is judged instead."
        }
        "evaluate-authorization-config" => {
            "Where the flag is absent: the authorization configuration is judged instead."
        }
        other => other,
    }
}

fn page(entry: &Value) -> String {
    let mut out = String::new();
    let w = &mut out;
    let line =
        |w: &mut String, name: &str, value: String| writeln!(w, "| {name} | {} |", value.replace('|', "\\|")).unwrap();
    writeln!(w, "<!-- Written from daemon/checks/catalogue; do not edit. {UPDATE} -->\n").unwrap();
    writeln!(w, "# {}\n\n`{}`\n", text(entry, "title"), text(entry, "id")).unwrap();
    writeln!(w, "| | |\n|---|---|").unwrap();
    line(w, "severity", text(entry, "severity").to_owned());
    let mut numbers: Vec<(&str, &str)> =
        entry["cis"].as_object().unwrap().iter().map(|(v, n)| (v.as_str(), n.as_str().unwrap_or_default())).collect();
    numbers.sort_by_key(|(v, _)| v.split('.').map(|p| p.parse().unwrap_or(0)).collect::<Vec<u32>>());
    let cis = if numbers.is_empty() {
        "none: Picket's own".to_owned()
    } else {
        numbers.iter().map(|(v, n)| format!("{v}: {n}")).collect::<Vec<_>>().join(", ")
    };
    line(w, "CIS K3s Benchmark", cis);
    line(w, "level", entry["level"].to_string());
    if !numbers.is_empty() {
        line(w, "CIS calls it", text(entry, "assessment").to_owned());
    }
    line(w, "for", scope(text(entry, "scope")).to_owned());
    if text(entry, "applies_when") != "always" {
        line(w, "only where", format!("`{}`", text(entry, "applies_when")));
    }
    if text(entry, "status") == "legacy" {
        line(w, "status", "only in old benchmark versions: judged with `--benchmark`".to_owned());
    }
    writeln!(w, "\n## Why it matters\n\n{}", sentence(text(entry, "why"))).unwrap();
    writeln!(w, "\n## How it is judged\n").unwrap();
    writeln!(w, "Looked at: {}.\n", source(text(entry, "source"))).unwrap();
    for what in entry["what"].as_array().unwrap() {
        writeln!(w, "- {}", code(what)).unwrap();
    }
    let expected = &entry["expected"];
    writeln!(w, "\n{}", comparison(expected)).unwrap();
    if let Some(word) = expected["if_absent"].as_str() {
        writeln!(w, "{}", absent(word)).unwrap();
    }
    let shown = ["op", "value", "if_absent", "and_owner", "min", "max"];
    let more: Vec<String> = expected
        .as_object()
        .unwrap()
        .iter()
        .filter(|(key, _)| !shown.contains(&key.as_str()))
        .map(|(key, value)| format!("- `{key}`: {}", code(value)))
        .collect();
    if !more.is_empty() {
        writeln!(w, "\nMore precisely:\n\n{}", more.join("\n")).unwrap();
    }
    if !text(entry, "notes").is_empty() {
        writeln!(w, "\n{}", sentence(text(entry, "notes"))).unwrap();
    }
    if let Some(default) = entry.get("k3s_default") {
        let verdict = match text(default, "passes") {
            "pass" => "pass",
            "fail" => "fail",
            "not-applicable" => "not applicable",
            _ => "depends on the node",
        };
        writeln!(w, "\n## K3s out of the box\n\n{} Verdict: {verdict}.", sentence(text(default, "behaviour"))).unwrap();
    }
    writeln!(w, "\n## Remedy\n\n{}", sentence(text(entry, "how_to_fix"))).unwrap();
    out
}

/// Markdown would read angle brackets as markup.
fn sentence(text: &str) -> String {
    text.trim().replace('<', "\\<")
}

fn index(entries: &[Value]) -> String {
    let mut out = format!("<!-- Written from daemon/checks/catalogue; do not edit. {UPDATE} -->\n\n# Controls\n\n");
    writeln!(
        out,
        "{} controls. Numbers are those of CIS K3s Benchmark 2.1. `picketd scan` judges them, `picketd explain CONTROL` says what was seen.\n",
        entries.len()
    )
    .unwrap();
    let mut groups: BTreeMap<Vec<u32>, Vec<&Value>> = BTreeMap::new();
    for entry in entries {
        let number: Vec<u32> = entry["cis"]["2.1"]
            .as_str()
            .map(|n| n.split('.').map(|p| p.parse().unwrap_or(0)).collect())
            .unwrap_or_default();
        groups.entry(number).or_default().push(entry);
    }
    let own = groups.remove(&Vec::new()).unwrap_or_default();
    writeln!(out, "## In CIS 2.1\n\n| number | control | severity | |\n|---|---|---|---|").unwrap();
    let row = |out: &mut String, entry: &Value| {
        let (id, number) = (text(entry, "id"), entry["cis"]["2.1"].as_str().unwrap_or("-"));
        writeln!(
            out,
            "| {number} | [{id}]({id}.md) | {} | {} |",
            text(entry, "severity"),
            sentence(text(entry, "title"))
        )
        .unwrap();
    };
    groups.values().flatten().for_each(|entry| row(&mut out, entry));
    writeln!(out, "\n## Picket's own, and of older versions\n\n| number | control | severity | |\n|---|---|---|---|")
        .unwrap();
    own.iter().for_each(|entry| row(&mut out, entry));
    out
}

#[test]
fn the_pages_of_the_controls_are_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/controls");
    let entries = catalogue();
    let mut pages: BTreeMap<String, String> =
        entries.iter().map(|entry| (format!("{}.md", text(entry, "id")), page(entry))).collect();
    pages.insert("README.md".to_owned(), index(&entries));
    let there: BTreeSet<String> = fs::read_dir(&folder)
        .map(|entries| entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect())
        .unwrap_or_default();
    if std::env::var_os("PICKET_UPDATE_DOCS").is_some() {
        fs::create_dir_all(&folder).unwrap();
        for (name, page) in &pages {
            fs::write(folder.join(name), page).unwrap();
        }
        for gone in there.iter().filter(|name| !pages.contains_key(*name)) {
            fs::remove_file(folder.join(gone)).unwrap();
        }
        return;
    }
    let stale: Vec<&String> = pages
        .iter()
        .filter(|(name, page)| fs::read_to_string(folder.join(name)).ok().as_ref() != Some(page))
        .map(|(name, _)| name)
        .collect();
    assert!(stale.is_empty(), "{stale:?} are not what the catalogue says: {UPDATE}");
    let extra: Vec<&String> = there.iter().filter(|name| !pages.contains_key(*name)).collect();
    assert!(extra.is_empty(), "{extra:?} speak of no control: {UPDATE}");
}

#[test]
fn every_control_says_what_to_do() {
    for entry in catalogue() {
        assert!(!text(&entry, "how_to_fix").trim().is_empty(), "{}", text(&entry, "id"));
        assert!(!entry["what"].as_array().unwrap().is_empty(), "{}", text(&entry, "id"));
    }
}

#[test]
fn every_control_says_why_it_matters() {
    // A remark of a reviewer helps nobody who reads a verdict.
    let inside = ["seed", "inferred", "reproduced in simulation", "kube-bench", "our addition", "level 1", "unscored"];
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for entry in catalogue() {
        let (id, why, notes) = (text(&entry, "id"), text(&entry, "why"), text(&entry, "notes"));
        assert!(why.len() >= 40 && why.ends_with('.'), "{id}: {why:?}");
        assert!(why.chars().count() <= 160, "{id}: {} characters", why.chars().count());
        assert_ne!(why, text(&entry, "title"), "{id}");
        for word in inside {
            assert!(!format!("{why} {notes}").to_lowercase().contains(word), "{id}: {word}");
        }
        seen.insert(why.to_owned());
    }
    assert!(seen.len() >= 275, "only {} of them differ", seen.len());
}
