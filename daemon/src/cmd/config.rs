//! `picketd config`: the node's effective configuration, from files, unit, environment files and defaults.

use std::io::{self, Write};

use picket_model::Role;

use super::{Node, RoleAsked};
use crate::cli::{Failure, Outcome};
use crate::report::table::{self, Style};
use crate::report::text::printable;
use crate::source::Configuration;
use crate::source::config::effective;

/// Options of `picketd config`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which node.
    #[command(flatten)]
    pub node: Node,
    /// Role of the node, where its files do not tell
    #[arg(long, value_enum, default_value_t = RoleAsked::Auto)]
    pub role: RoleAsked,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = super::certs::Form::Table)]
    pub output: super::certs::Form,
}

/// Runs the command.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Args, out: &mut dyn Write) -> Result<Outcome, Failure> {
    let host = args.node.host(None)?;
    let configuration = effective(&host, args.role.role());
    match args.output {
        super::certs::Form::Json => crate::report::json(&configuration, out),
        super::certs::Form::Table => print(&configuration, Style::of_stdout(), out),
    }
    .map_err(Failure::output)?;
    Ok(Outcome::Clean)
}

fn print(configuration: &Configuration, style: Style, out: &mut dyn Write) -> io::Result<()> {
    let role = configuration.role.map_or("not known", Role::as_str);
    let version = configuration.version.map_or_else(|| "not known".to_owned(), |v| v.to_string());
    writeln!(out, "Role: {role}    Version: {version}    Data dir: {}\n", configuration.data_dir())?;
    let place = |path: &Option<String>, line: Option<u32>| match (path, line) {
        (Some(path), Some(line)) => format!("{}:{line}", printable(path)),
        (Some(path), None) => printable(path),
        _ => String::new(),
    };
    if configuration.options.is_empty() {
        writeln!(out, "No options are set.")?;
    } else {
        let mut options = table::table(style, &["OPTION", "VALUE", "LAYER", "WHERE"]);
        for (name, values) in &configuration.options {
            for v in values {
                let name = if v.known { printable(name) } else { format!("{} (unknown to K3s)", printable(name)) };
                options.add_row([name, printable(&v.value), v.layer.as_str().to_owned(), place(&v.path, v.line)]);
            }
        }
        table::print(&options, out)?;
    }
    for (component, flags) in &configuration.components {
        writeln!(out, "\n{component}")?;
        let mut rows = table::table(style, &["FLAG", "VALUE", "LAYER", "WHERE"]);
        for (name, values) in flags {
            for v in values {
                let layer = v.layer.as_str().to_owned();
                rows.add_row([format!("  --{}", printable(name)), printable(&v.value), layer, place(&v.path, v.line)]);
            }
        }
        table::print(&rows, out)?;
    }
    if !configuration.problems.is_empty() {
        writeln!(out, "\nK3s would not start:")?;
        for p in &configuration.problems {
            writeln!(out, "  {} {}", place(&p.path, p.line), printable(&p.detail))?;
        }
    }
    if !configuration.warnings.is_empty() {
        writeln!(out, "\nNot what it looks like:")?;
        for w in &configuration.warnings {
            writeln!(out, "  {} {}", place(&w.path, w.line), printable(&w.detail))?;
        }
    }
    Ok(())
}
