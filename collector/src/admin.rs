//! What the command line asks of the running collector, over the same gRPC as everyone else, as the local
//! administrator whose file `serve` wrote into the state folder.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use comfy_table::{ContentArrangement, Table, presets};
use jiff::Timestamp;
use picket_proto::v1;
use picket_proto::v1::admin_client::AdminClient;
use picket_proto::v1::fleet_client::FleetClient;
use picket_service::operator_file::{OperatorFile, OperatorFileError};
use picket_service::tls::connector::{ConnectFailure, Dialer};
use picket_service::tls::material::{self, MaterialError};
use picket_service::tls::request::KeyAndRequest;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::app::admin_file;
use crate::cli::{NodeCommand, OperatorCommand, Role, TokenCommand};

/// A connection as the local administrator.
#[derive(Debug)]
pub struct Admin {
    dialer: Dialer,
    channel: Channel,
}

impl Admin {
    /// Connects to the collector whose state folder this is.
    ///
    /// # Errors
    /// When it does not run, or the folder is not readable.
    pub async fn connect(state_dir: &Path) -> anyhow::Result<Self> {
        let path = admin_file(state_dir);
        let file = match OperatorFile::read(&path) {
            Ok(file) => file,
            Err(OperatorFileError::Material(MaterialError::Read { source, .. })) => match source.kind() {
                std::io::ErrorKind::NotFound => bail!(
                    "no collector has run with state folder {}: start one (systemctl start picket-collector, or \
                     picket-collector serve), or name its folder with --state-dir",
                    state_dir.display()
                ),
                std::io::ErrorKind::PermissionDenied => bail!(
                    "{} can be read only by the user the collector runs as: use sudo, or an operator's file with picketctl",
                    path.display()
                ),
                _ => return Err(source).with_context(|| format!("cannot read {}", path.display())),
            },
            Err(error) => return Err(error.into()),
        };
        let dialer = file.dialer(&path)?;
        match dialer.connect().await {
            Ok(channel) => Ok(Self { dialer, channel }),
            Err(error) => match dialer.last_failure() {
                Some(ConnectFailure::Tcp(_) | ConnectFailure::Timeout) => bail!(
                    "the collector does not run, or not at {}: start it (systemctl start picket-collector, or \
                     picket-collector serve); {error}",
                    file.collector
                ),
                Some(ConnectFailure::Tls(_)) | None => Err(error.into()),
            },
        }
    }

    fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel.clone())
    }

    fn failed(&self, status: &Status) -> anyhow::Error {
        anyhow::anyhow!("{}", self.dialer.explain(status))
    }

    /// `token …`; returns what to print.
    ///
    /// # Errors
    /// What the collector says.
    pub async fn token(&self, command: TokenCommand) -> anyhow::Result<String> {
        match command {
            TokenCommand::Create { ttl, uses, labels } => {
                let ttl_s = u32::try_from(ttl.0.as_secs()).ok().filter(|s| *s > 0);
                let ttl_s = ttl_s.with_context(|| format!("--ttl {ttl}: one second to 30 days"))?;
                let request = v1::CreateTokenRequest { ttl_s, uses, labels: labels.into_iter().collect() };
                let made = self.admin().create_token(request).await.map_err(|e| self.failed(&e))?.into_inner();
                let mut out = String::new();
                let nodes = if uses == 1 { "one node".to_owned() } else { format!("{uses} nodes") };
                let until = time(made.expires_at_unix_ms);
                writeln!(out, "Token {} is for {nodes}, until {until} ({ttl}). Run on the node:\n", made.id)?;
                writeln!(out, "  picketd enroll --collector {} --token {}", made.collector, made.token)?;
                Ok(out)
            }
            TokenCommand::List => {
                let list = self.admin().list_tokens(v1::ListTokensRequest {}).await.map_err(|e| self.failed(&e))?;
                let rows = list.into_inner().tokens.into_iter().map(|t| {
                    let (expires, created) = (time(t.expires_at_unix_ms), time(t.created_at_unix_ms));
                    vec![t.id, t.uses_left.to_string(), expires, labels(t.labels), created, t.created_by]
                });
                Ok(table(&["ID", "USES LEFT", "EXPIRES", "LABELS", "CREATED", "BY"], rows))
            }
            TokenCommand::Revoke { id } => {
                let request = v1::RevokeTokenRequest { id: id.clone() };
                self.admin().revoke_token(request).await.map_err(|e| self.failed(&e))?;
                Ok(format!("Token {id} is worthless now.\n"))
            }
        }
    }

    /// `node …`; returns what to print.
    ///
    /// # Errors
    /// What the collector says.
    pub async fn node(&self, command: NodeCommand) -> anyhow::Result<String> {
        match command {
            NodeCommand::List => {
                let mut fleet = FleetClient::new(self.channel.clone());
                let (mut nodes, mut token) = (Vec::new(), String::new());
                loop {
                    let page = Some(v1::Page { size: 0, token: std::mem::take(&mut token) });
                    let request = Request::new(v1::ListNodesRequest { filter: None, page });
                    let answer = fleet.list_nodes(request).await.map_err(|e| self.failed(&e))?.into_inner();
                    nodes.extend(answer.nodes);
                    token = answer.next_page_token;
                    if token.is_empty() {
                        break;
                    }
                }
                let rows = nodes.into_iter().map(|node| {
                    let presence = node.presence().as_str_name().trim_start_matches("PRESENCE_").to_ascii_lowercase();
                    let open: u32 = node.open_findings.values().sum();
                    let seen =
                        if node.last_seen_unix_ms == 0 { "never".to_owned() } else { time(node.last_seen_unix_ms) };
                    let hostname = node.info.map(|i| i.hostname).unwrap_or_default();
                    let until = time(node.certificate_not_after_unix_ms);
                    vec![
                        hostname,
                        node.id,
                        presence.replace('_', " "),
                        seen,
                        open.to_string(),
                        until,
                        labels(node.labels),
                    ]
                });
                Ok(table(&["NAME", "ID", "PRESENCE", "LAST SEEN", "FINDINGS", "CERTIFICATE UNTIL", "LABELS"], rows))
            }
            NodeCommand::Revoke { node, reason } => {
                let request = v1::RevokeNodeRequest { node: node.clone(), reason };
                let answer = self.admin().revoke_node(request).await.map_err(|e| self.failed(&e))?;
                Ok(format!("Node {node} ({}) is revoked: its connection is cut.\n", answer.into_inner().node_id))
            }
        }
    }

    /// `operator …`; returns what to print.
    ///
    /// # Errors
    /// What the collector says.
    pub async fn operator(&self, command: OperatorCommand) -> anyhow::Result<String> {
        match command {
            OperatorCommand::Create { name, role, days, out, force } => {
                let out = out.unwrap_or_else(|| PathBuf::from(format!("{name}.picket")));
                // Before anything is made: nobody wants an operator whose file could not be written.
                if !force && out.try_exists().with_context(|| format!("cannot look at {}", out.display()))? {
                    bail!("{} is there already: choose another file with --out, or use --force", out.display());
                }
                self.create_operator(name, role, days, out).await
            }
            OperatorCommand::List => {
                let request = v1::ListOperatorsRequest {};
                let list = self.admin().list_operators(request).await.map_err(|e| self.failed(&e))?;
                let rows = list.into_inner().operators.into_iter().map(|o| {
                    let role = o.role().as_str_name().trim_start_matches("OPERATOR_ROLE_").to_ascii_lowercase();
                    let state = if o.revoked { "revoked" } else { "good" };
                    let (created, expires) = (time(o.created_at_unix_ms), time(o.expires_at_unix_ms));
                    vec![o.name, role, state.to_owned(), created, expires]
                });
                Ok(table(&["NAME", "ROLE", "STATE", "CREATED", "EXPIRES"], rows))
            }
            OperatorCommand::Revoke { name } => {
                let request = v1::RevokeOperatorRequest { name: name.clone() };
                self.admin().revoke_operator(request).await.map_err(|e| self.failed(&e))?;
                Ok(format!("Operator {name} is revoked: open connections are cut.\n"))
            }
        }
    }

    async fn create_operator(&self, name: String, role: Role, days: u32, out: PathBuf) -> anyhow::Result<String> {
        let made = KeyAndRequest::generate()?;
        let role = match role {
            Role::Viewer => v1::OperatorRole::Viewer,
            Role::Operator => v1::OperatorRole::Operator,
            Role::Admin => v1::OperatorRole::Admin,
        };
        let request = v1::CreateOperatorRequest { name: name.clone(), role: role.into(), days, csr_der: made.csr_der };
        let answer = self.admin().create_operator(request).await.map_err(|e| self.failed(&e))?.into_inner();
        let file = OperatorFile::new(
            &answer.collector.parse()?,
            &answer.server_name,
            &name,
            material::certificates_to_pem(answer.ca_der.iter().map(Vec::as_slice)),
            material::certificates_to_pem(answer.certificate_chain_der.iter().map(Vec::as_slice)),
            made.key_pem,
        );
        file.write(&out)?;
        let out = out.display();
        Ok(format!(
            "{out} is for {name} alone (mode 0600). Use it with: picketctl --config {out} get nodes\n\
             or as the default: ~/.config/picket/config\n"
        ))
    }
}

fn time(unix_ms: i64) -> String {
    Timestamp::from_millisecond(unix_ms).map(|t| format!("{t:.0}")).unwrap_or_default()
}

fn labels(labels: impl IntoIterator<Item = (String, String)>) -> String {
    let mut all: Vec<_> = labels.into_iter().map(|(k, v)| format!("{k}={v}")).collect();
    all.sort();
    all.join(",")
}

fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(head);
    for row in rows {
        table.add_row(row.into_iter().map(|cell| clean(&cell)));
    }
    let mut out: String = table.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    if out.is_empty() {
        out.push('\n');
    }
    out
}

/// Host names come from nodes: nothing in them may steer a terminal.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
