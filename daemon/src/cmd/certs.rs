//! `picketd certs`: every certificate of the node and how long it lasts.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};

use jiff::Timestamp;
use picket_checks::{Catalogue, CertSource, Needs, Places, ServedFacts, compare_served, serving_ports};
use picket_model::Observation;
use serde::Serialize;

use super::Node;
use crate::cli::{Failure, Outcome};
use crate::report::table::{self, Style};
use crate::report::text::printable;
use crate::source::config::{effective, node_config, role_of};
use crate::source::{certificates, served};

/// Options of `picketd certs`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which node.
    #[command(flatten)]
    pub node: Node,
    /// Count days as of this moment (RFC 3339) instead of now
    #[arg(long, value_name = "RFC3339")]
    pub at: Option<Timestamp>,
    /// K3s' data dir, if it is not the usual one
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    pub output: Form,
}

/// Forms of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// For a person.
    Table,
    /// One JSON document.
    Json,
}

/// The output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Certificates {
    schema: &'static str,
    at: Timestamp,
    certificates: Vec<Row>,
    /// Files that should hold certificates and do not give any.
    unreadable: Vec<Unreadable>,
}

/// One certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Row {
    file: String,
    /// Position in the file, from 0: the first one of a K3s leaf file is the leaf, the rest are its CAs.
    index: u32,
    subject: String,
    issuer: String,
    not_before: Timestamp,
    not_after: Timestamp,
    /// Whole days left, rounded down: negative once it has expired.
    days_left: i64,
    /// `valid`, `expired` or `not_yet_valid`.
    validity: &'static str,
    /// `ca`, `server`, `client`, `server,client` or `leaf`.
    kind: &'static str,
    /// `file`, `kubeconfig` or `dynamic-cert`.
    found_in: &'static str,
    serial: String,
    sha256: String,
    sans: Vec<String>,
    /// Whether the port that should serve it does; null where that was not checked.
    served_match: Option<bool>,
    /// How what is served differs, for a person.
    #[serde(skip)]
    served: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Unreadable {
    file: String,
    reason: String,
}

/// Runs the command.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Args, out: &mut dyn Write) -> Result<Outcome, Failure> {
    let host = args.node.host(args.at)?;
    let data_dir = match &args.data_dir {
        Some(dir) => dir.trim_end_matches('/').to_owned(),
        None => crate::source::config::data_dir(&host),
    };
    let at = host.now();
    let catalogue = Catalogue::built_in().map_err(|e| Failure::failed("cannot read the catalogue of controls", e))?;
    let needs = Needs::of(&catalogue, &data_dir, &[], &Places::default());
    let mut certificates = Certificates { schema: "picket.certs/v1", at, certificates: vec![], unreadable: vec![] };
    for (file, seen) in certificates::read_all(&host, &needs, &data_dir) {
        match seen {
            Observation::Value { value } => {
                certificates.certificates.extend(value.into_iter().map(|c| row(&file, c, at)));
            }
            Observation::Unreadable { reason } => certificates.unreadable.push(Unreadable { file, reason }),
            // Its name is there, or it would not have been looked at.
            Observation::Absent => {
                let reason = "a link that leads nowhere, or gone meanwhile".to_owned();
                certificates.unreadable.push(Unreadable { file, reason });
            }
        }
    }
    let ports = ports(&host, &data_dir);
    let seen = served::look(ports.iter().map(|(port, _)| *port), &|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    compare(&mut certificates.certificates, &ports, &seen);
    match args.output {
        Form::Json => crate::report::json(&certificates, out),
        Form::Table => table(&certificates, Style::of_stdout(), out),
    }
    .map_err(Failure::output)?;
    match certificates.unreadable.first() {
        Some(first) if certificates.certificates.is_empty() => {
            let reason = format!("{}: {}", printable(&first.file), printable(&first.reason));
            Err(Failure::failed("no certificate could be read (run as root)", reason))
        }
        _ => Ok(Outcome::Clean),
    }
}

/// The ports of a live node whose K3s runs, and the file each should serve.
fn ports(host: &picket_host::Host, data_dir: &str) -> Vec<(u16, String)> {
    if !host.is_live() {
        return Vec::new();
    }
    let Some(process) = host.k3s_process().ok().flatten() else { return Vec::new() };
    let role = role_of(&process);
    let config = node_config(&effective(host, Some(role)));
    serving_ports(role, data_dir, Some(&config))
}

/// Says of the first certificate of each file whether its port serves it.
fn compare(rows: &mut [Row], ports: &[(u16, String)], served: &BTreeMap<u16, Observation<ServedFacts>>) {
    for row in rows.iter_mut().filter(|row| row.index == 0) {
        let Some((port, _)) = ports.iter().find(|(_, file)| *file == row.file) else { continue };
        let Some(facts) = served.get(port).and_then(Observation::value) else { continue };
        let (same, words) = compare_served(facts, &row.sha256, row.not_before, row.not_after);
        row.served_match = Some(same);
        row.served = (!same).then(|| format!("127.0.0.1:{port} {words}"));
    }
}

fn row(file: &str, certificate: certificates::Certificate, at: Timestamp) -> Row {
    let facts = certificate.facts;
    Row {
        file: file.to_owned(),
        index: facts.index,
        days_left: (facts.not_after.as_second() - at.as_second()).div_euclid(86_400),
        validity: match at {
            at if at > facts.not_after => "expired",
            at if at < facts.not_before => "not_yet_valid",
            _ => "valid",
        },
        subject: facts.subject,
        issuer: facts.issuer,
        not_before: facts.not_before,
        not_after: facts.not_after,
        kind: certificate.purpose.as_str(),
        found_in: match facts.source {
            CertSource::File => "file",
            CertSource::Kubeconfig => "kubeconfig",
            CertSource::DynamicCert => "dynamic-cert",
        },
        serial: facts.serial,
        sha256: facts.sha256,
        sans: facts.sans,
        served_match: None,
        served: None,
    }
}

fn table(certificates: &Certificates, style: Style, out: &mut dyn Write) -> std::io::Result<()> {
    let mut table = table::table(style, &["FILE", "SUBJECT", "ISSUER", "KIND", "NOT AFTER", "DAYS LEFT"]);
    for row in &certificates.certificates {
        table.add_row([
            if row.index == 0 { row.file.clone() } else { format!("{} #{}", row.file, row.index) },
            printable(&row.subject),
            printable(&row.issuer),
            row.kind.to_owned(),
            row.not_after.to_string(),
            match row.validity {
                "not_yet_valid" => format!("{}, not yet valid", row.days_left),
                "expired" => format!("{}, expired", row.days_left),
                _ => row.days_left.to_string(),
            },
        ]);
    }
    table::print(&table, out)?;
    for row in &certificates.certificates {
        if let Some(words) = &row.served {
            writeln!(out, "not what is served: {}: {}", printable(&row.file), printable(words))?;
        }
    }
    for bad in &certificates.unreadable {
        writeln!(out, "not read: {}: {}", printable(&bad.file), printable(&bad.reason))?;
    }
    if certificates.certificates.is_empty() && certificates.unreadable.is_empty() {
        writeln!(out, "no certificates found: is K3s installed here, and is this its data dir?")?;
    }
    Ok(())
}
