//! The site's rules for the audit log: Sigma files in a folder, and `tuning.yml` beside them.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use picket_audit::{Detector, Library, Notice, RuleError, Settings, builtin_needs, needs};
use picket_checks::{CatalogueError, Policy};
use picket_model::DetectionNeed;

/// Where the site's rules lie unless told otherwise.
pub const DEFAULT_DIR: &str = "/etc/picket/detections.d";
/// The file that changes rules which are there already.
pub const TUNING: &str = "tuning.yml";
/// Largest file, bytes.
const LARGEST: u64 = 1 << 20;
/// Most files.
const MOST_FILES: usize = 1000;

/// The rules that are compiled in, with those of the folder. A folder that is not there holds none.
///
/// # Errors
/// Only when a rule that is compiled in does not load. What is wrong in the folder stands in the library's notices.
pub fn of_folder(folder: &Path) -> Result<Library, RuleError> {
    let mut notices = Vec::new();
    let mut files = match list(folder) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            notices.push(notice(folder, format!("the folder of rules cannot be read: {error}")));
            Vec::new()
        }
    };
    files.sort();
    if files.len() > MOST_FILES {
        notices.push(notice(folder, format!("there are more than {MOST_FILES} files; the last ones are not used")));
        files.truncate(MOST_FILES);
    }
    load(&files, notices)
}

/// The rules that are compiled in, with those of these files.
///
/// # Errors
/// As [`of_folder`].
pub fn of_files(files: &[PathBuf]) -> Result<Library, RuleError> {
    load(files, Vec::new())
}

/// The same beside all that the folder holds, its `tuning.yml` included: a correlation may be over a rule of another
/// file, and its lists are what placeholders stand for. What is wrong elsewhere is left to a check of the folder.
///
/// # Errors
/// As [`of_folder`].
pub fn of_files_with(files: &[PathBuf], folder: &Path) -> Result<Library, RuleError> {
    let is_tuning = |path: &PathBuf| path.file_name().is_some_and(|name| name == TUNING);
    let is_named = |path: &PathBuf| {
        let known = path.canonicalize().ok();
        files.iter().any(|file| file == path || known.is_some() && file.canonicalize().ok() == known)
    };
    // The named ones come first: of two rules with one id theirs is used.
    let mut all = files.to_vec();
    let mut others: Vec<_> = list(folder).unwrap_or_default().into_iter().filter(|path| !is_named(path)).collect();
    if files.iter().any(is_tuning) {
        others.retain(|path| !is_tuning(path));
    }
    others.sort();
    others.truncate(MOST_FILES);
    all.extend(others);
    let mut library = of_files(&all)?;
    let shown = |path: &PathBuf| path.display().to_string();
    let (named, tuning) = (files.iter().map(shown).collect::<Vec<_>>(), shown(&folder.join(TUNING)));
    library.notices.retain(|notice| {
        let RuleError { file, what, .. } = notice.about();
        named.contains(file) || (*file == tuning && !what.starts_with("there is no rule"))
    });
    Ok(library)
}

fn load(files: &[PathBuf], mut notices: Vec<Notice>) -> Result<Library, RuleError> {
    let mut tuning = None;
    let mut texts = Vec::new();
    for path in files {
        match read(path) {
            Ok(text) if path.file_name().is_some_and(|name| name == TUNING) => {
                tuning = Some((path.display().to_string(), text));
            }
            Ok(text) => texts.push((path.display().to_string(), text)),
            Err(error) => notices.push(notice(path, format!("it cannot be read: {error}"))),
        }
    }
    let tuning = tuning.as_ref().map(|(file, text)| (file.as_str(), text.as_str()));
    let mut library = Library::load(&texts, tuning)?;
    library.notices.splice(0..0, notices);
    Ok(library)
}

/// The controls that are compiled in, with what the rules that are compiled in look for in the audit log.
///
/// # Errors
/// Never for the catalogue as shipped.
pub fn policy() -> Result<Policy, CatalogueError> {
    Ok(Policy { detections: builtin_needs().into(), ..Policy::built_in()? })
}

/// What the rules in use look for, those of the folder and its tuning included.
pub fn needs_of_folder(folder: &Path) -> Arc<[DetectionNeed]> {
    // Compiling all rules for a site that has none of its own would be for nothing.
    let site = list(folder).is_ok_and(|files| !files.is_empty());
    let library = site.then(|| of_folder(folder).ok()).flatten();
    library.map_or_else(builtin_needs, |library| needs(&library.active())).into()
}

/// A detector with the library's rules.
pub fn detector(library: &Library, settings: Settings) -> Detector {
    Detector::new(library.active(), Settings { site: library.site.clone(), ..settings })
}

fn notice(path: &Path, what: String) -> Notice {
    Notice::Error(RuleError { file: path.display().to_string(), line: 1, what })
}

fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "yml" || end == "yaml") {
            files.push(path);
        }
    }
    Ok(files)
}

fn read(path: &Path) -> io::Result<String> {
    // Asked of the name first: opening a pipe would wait for its other end.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut text = String::new();
    let read = std::fs::File::open(path)?.take(LARGEST + 1).read_to_string(&mut text)?;
    if read as u64 > LARGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is larger than {LARGEST} bytes")));
    }
    Ok(text)
}
