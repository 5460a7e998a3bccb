//! House rules that a compiler does not know.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};

/// Lines a source file may have. One idea a file; most stay under 400.
const MOST_LINES: usize = 800;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every file of the repository, without build output and what git does not keep.
fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if entry.file_type().unwrap().is_dir() {
            if name != "target" && name != ".git" && name != ".demo" {
                files(&entry.path(), found);
            }
        } else {
            found.push(entry.path());
        }
    }
}

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    files(&repository(), &mut found);
    found.retain(|f| f.extension().is_some_and(|e| e == "rs"));
    assert!(found.len() > 50, "the sources were not found");
    found
}

#[test]
fn files_are_short_and_without_trailing_blanks() {
    let mut wrong = Vec::new();
    for file in sources() {
        let text = std::fs::read_to_string(&file).unwrap();
        let lines = text.lines().count();
        if lines > MOST_LINES {
            wrong.push(format!("{}: {lines} lines", file.display()));
        }
        if let Some(at) = text.lines().position(|l| l.ends_with([' ', '\t'])) {
            wrong.push(format!("{}:{}: blanks at the end", file.display(), at + 1));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn nothing_is_called_by_a_name_that_says_nothing() {
    let empty = ["util", "utils", "common", "helper", "helpers", "misc", "kit"];
    let wrong: Vec<PathBuf> =
        sources().into_iter().filter(|f| f.file_stem().is_some_and(|s| empty.iter().any(|e| s == *e))).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_repository_holds_no_private_key() {
    let mut found = Vec::new();
    files(&repository(), &mut found);
    // Written in two parts so that this file does not find itself.
    let marks =
        ["-----BEGIN PRIVATE", "-----BEGIN EC PRIVATE", "-----BEGIN RSA PRIVATE"].map(|m| format!("{m} KEY-----"));
    let wrong: Vec<PathBuf> = found
        .into_iter()
        .filter(|f| {
            let content = std::fs::read(f).unwrap_or_default();
            let text = String::from_utf8_lossy(&content);
            // A key has a body; code that talks about keys has only the mark.
            marks.iter().any(|m| {
                text.split(m.as_str())
                    .skip(1)
                    .any(|rest| rest.trim_start().chars().take(60).filter(char::is_ascii_alphanumeric).count() > 50)
            })
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn unit_files_start_what_the_packages_install() {
    for (unit, program) in
        [("picketd", "/usr/bin/picketd run"), ("picket-collector", "/usr/bin/picket-collector serve")]
    {
        let text = std::fs::read_to_string(repository().join(format!("systemd/{unit}.service"))).unwrap();
        assert!(text.contains(&format!("ExecStart={program}\n")), "{unit}");
        assert!(text.contains("Type=notify\n"), "{unit}");
    }
}
