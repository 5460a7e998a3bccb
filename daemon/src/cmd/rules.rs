//! `picketd rules`: the rules for the audit log, listed, checked and tried out.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use picket_audit::{FIELDS, Library, Notice, Rule, RuleError, Settings};
use serde_json::json;

use super::audit;
use crate::cli::{Failure, Outcome};
use crate::report::table::{self, Style};
use crate::report::text::printable;
use crate::rules;

/// Options of `picketd rules`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List all rules: those compiled in and those of the site, with what the site changed
    List {
        #[command(flatten)]
        folder: Folder,
        /// Form of the output
        #[arg(short, long, value_enum, default_value_t = audit::Form::Table)]
        output: audit::Form,
    },
    /// Check Sigma files, or the whole folder of the site; ends with exit code 1 if something cannot be used
    Check {
        /// Files to check; none: those of the folder
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
        #[command(flatten)]
        folder: Folder,
    },
    /// Run only the rules of one file over audit logs
    Test {
        /// The Sigma file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Audit logs, rotated and gzipped ones too; - is standard input
        #[arg(long = "log", value_name = "LOG", required = true, num_args = 1..)]
        logs: Vec<PathBuf>,
        #[command(flatten)]
        folder: Folder,
        /// Form of the output
        #[arg(short, long, value_enum, default_value_t = audit::Form::Table)]
        output: audit::Form,
    },
    /// Explain the fields of an audit event that rules may ask for
    Fields,
}

/// Where the site's rules lie.
#[derive(Debug, Clone, clap::Args)]
pub struct Folder {
    /// Folder with the site's Sigma rules and tuning.yml
    #[arg(long, value_name = "DIR", env = "PICKET_AUDIT_RULES_DIR", default_value = rules::DEFAULT_DIR)]
    pub rules_dir: PathBuf,
}

impl Folder {
    /// The folder; one that was named must be there.
    ///
    /// # Errors
    /// [`Failure::Usage`].
    pub fn existing(&self) -> Result<&Path, Failure> {
        let folder = self.rules_dir.as_path();
        if folder != Path::new(rules::DEFAULT_DIR) && !folder.is_dir() {
            return Err(Failure::Usage(format!("--rules-dir {}: there is no such folder", folder.display())));
        }
        Ok(folder)
    }
}

/// Runs the command.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Args, out: &mut dyn Write) -> Result<Outcome, Failure> {
    match &args.command {
        Command::List { folder, output } => {
            let library = usable(rules::of_folder(folder.existing()?))?;
            tell(&library.notices);
            list(&library, *output, out).map_err(Failure::output)?;
            Ok(Outcome::Clean)
        }
        Command::Check { files, folder } => {
            let folder = folder.existing()?;
            let library = if files.is_empty() { rules::of_folder(folder) } else { rules::of_files_with(files, folder) };
            let library = usable(library)?;
            check(&library, files, out).map_err(Failure::output)
        }
        Command::Test { file, logs, folder, output } => {
            let mut library = usable(rules::of_files_with(std::slice::from_ref(file), folder.existing()?))?;
            tell(&library.notices);
            if let Some(notice) = library.notices.iter().find(|notice| notice.is_error()) {
                return Err(Failure::failed("the rules cannot be tested", notice.about().clone()));
            }
            let named = file.display().to_string();
            library.keep_only(|rule| rule.origin.as_ref().is_some_and(|(file, _)| *file == named));
            let detector = rules::detector(&library, Settings::replay());
            audit::replay(detector, &audit::Args::of(logs.clone(), *output), out)
        }
        Command::Fields => {
            out.write_all(FIELDS.as_bytes()).map_err(Failure::output)?;
            Ok(Outcome::Clean)
        }
    }
}

fn usable(library: Result<Library, RuleError>) -> Result<Library, Failure> {
    library.map_err(|error| Failure::failed("cannot load the detections", error))
}

/// Tells what is wrong with the site's files, on standard error.
pub fn tell(notices: &[Notice]) {
    for notice in notices {
        let word = if notice.is_error() { "not used" } else { "warning" };
        eprintln!("{word}: {}", printable(&notice.about().to_string()));
    }
}

fn check(library: &Library, files: &[PathBuf], out: &mut dyn Write) -> io::Result<Outcome> {
    for notice in &library.notices {
        let word = if notice.is_error() { "error" } else { "warning" };
        writeln!(out, "{word}: {}", printable(&notice.about().to_string()))?;
    }
    let named: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
    let is_asked =
        |rule: &&Rule| rule.origin.as_ref().is_some_and(|(file, _)| named.is_empty() || named.contains(file));
    let site = library.rules.iter().filter(is_asked).count();
    let tuned = library.rules.iter().filter(|rule| rule.tuned).count();
    let errors = library.errors();
    writeln!(out, "{site} rules of the site can be used, {tuned} rules are tuned, {errors} errors")?;
    Ok(if errors == 0 { Outcome::Clean } else { Outcome::Findings })
}

fn origin(rule: &Rule) -> String {
    match &rule.origin {
        None => "built in".to_owned(),
        Some((file, line)) => format!("{file}:{line}"),
    }
}

fn list(library: &Library, form: audit::Form, out: &mut dyn Write) -> io::Result<()> {
    if form == audit::Form::Json {
        for rule in &library.rules {
            let line = json!({
                "id": rule.id, "title": rule.title, "severity": rule.severity, "mitre": rule.mitre,
                "enabled": rule.enabled, "silent": rule.silent, "tuned": rule.tuned, "origin": origin(rule),
            });
            writeln!(out, "{line}")?;
        }
        return Ok(());
    }
    let mut rows = table::table(Style::of_stdout(), &["RULE", "SEVERITY", "STATE", "FROM", "TITLE"]);
    for rule in &library.rules {
        let state = match (rule.enabled, rule.tuned) {
            (false, _) => "off",
            // A correlation counts it.
            (true, _) if rule.silent => "silent",
            (true, true) => "tuned",
            (true, false) => "on",
        };
        rows.add_row([
            printable(&rule.id),
            rule.severity.to_string(),
            state.to_owned(),
            printable(&origin(rule)),
            printable(&rule.title),
        ]);
    }
    table::print(&rows, out)
}
