//! `picketd config`: the node's effective configuration, from files, unit, environment files and defaults.

use std::io::{self, Write};

use picket_model::Role;
use serde_json::Value;

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
    // What was not read may set any of them.
    let doubt = if configuration.unread.is_empty() { "" } else { " (as far as could be read; see below)" };
    for (component, flags) in &configuration.components {
        writeln!(out, "\n{component}{doubt}")?;
        let mut rows = table::table(style, &["FLAG", "VALUE", "LAYER", "WHERE"]);
        for (name, values) in flags {
            for v in values {
                let layer = v.layer.as_str().to_owned();
                rows.add_row([format!("  --{}", printable(name)), printable(&v.value), layer, place(&v.path, v.line)]);
            }
        }
        table::print(&rows, out)?;
    }
    let files = [
        ("kubelet files (kubelet.conf.d)", &configuration.kubelet_config),
        ("etcd file (server/db/etcd/config)", &configuration.etcd_config),
    ];
    for (title, config) in files {
        let Some(config) = config else { continue };
        writeln!(out, "\n{title}{doubt}")?;
        let mut rows = table::table(style, &["SETTING", "VALUE"]);
        leaves("", config, &mut |name, value| {
            rows.add_row([format!("  {}", printable(name)), printable(&value)]);
        });
        table::print(&rows, out)?;
    }
    let mut said = |title: &str, lines: &[(&Option<String>, Option<u32>, &str)]| {
        if lines.is_empty() {
            return Ok(());
        }
        writeln!(out, "\n{title}:")?;
        lines
            .iter()
            .try_for_each(|(path, line, detail)| writeln!(out, "  {} {}", place(path, *line), printable(detail)))
    };
    let refused: Vec<_> = configuration.problems.iter().filter(|p| !p.is_blindness()).collect();
    said("K3s would not start", &refused.iter().map(|p| (&p.path, p.line, p.detail.as_str())).collect::<Vec<_>>())?;
    let unread = configuration.unread.iter().map(|p| (&p.path, p.line, p.detail.as_str()));
    said("Not read, and it may decide (run as root)", &unread.collect::<Vec<_>>())?;
    let odd = configuration.warnings.iter().filter(|w| w.unread().is_none());
    said("Not what it looks like", &odd.map(|w| (&w.path, w.line, w.detail.as_str())).collect::<Vec<_>>())?;
    Ok(())
}

/// The settings of a file, maps leaf by leaf.
fn leaves(prefix: &str, value: &Value, row: &mut impl FnMut(&str, String)) {
    let word = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                leaves(&name, value, row);
            }
        }
        Value::Array(items) if items.iter().all(|item| !item.is_object() && !item.is_array()) => {
            row(prefix, items.iter().map(word).collect::<Vec<_>>().join(", "));
        }
        other => row(prefix, word(other)),
    }
}
