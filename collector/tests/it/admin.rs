//! The collector's own command line, against a running collector.

use picket_collector::admin::Admin;
use picket_collector::cli::{Cli, Command};
use picket_service::operator_file::OperatorFile;

use crate::support::{Link, Site, epoch};

async fn run(site: &Site, line: &[&str]) -> anyhow::Result<String> {
    use clap::Parser as _;
    let admin = Admin::connect(site.state_dir()).await?;
    match Cli::try_parse_from(std::iter::once("picket-collector").chain(line.iter().copied()))?.command {
        Command::Token(command) => admin.token(command).await,
        Command::Node(command) => admin.node(command).await,
        Command::Operator(command) => admin.operator(command).await,
        Command::Serve(_) | Command::Dev(_) => panic!("not a question"),
    }
}

#[tokio::test]
async fn a_token_is_printed_as_a_command_that_works_and_listed_without_its_secret() {
    let site = Site::start().await;
    let line = ["token", "create", "--ttl", "1h", "--uses", "2", "--label", "site=berlin"];
    let text = run(&site, &line).await.unwrap();
    let token = text.split_whitespace().find(|w| w.starts_with("pkt1.")).unwrap();
    let command = format!("picketd enroll --collector {} --token {token}", site.app.advertised);
    assert!(text.contains(&command) && text.contains("2 nodes"), "{text}");
    site.enroll(token, "edge-1").await.unwrap();
    let list = run(&site, &["token", "list"]).await.unwrap();
    let id = token.split('.').nth(1).unwrap();
    assert!(list.contains(id) && list.contains("site=berlin") && list.contains("local-admin"), "{list}");
    assert!(!list.contains(token.split('.').nth(2).unwrap()));
    run(&site, &["token", "revoke", id]).await.unwrap();
    assert!(!run(&site, &["token", "list"]).await.unwrap().contains(id));
    let error = run(&site, &["token", "revoke", id]).await.unwrap_err().to_string();
    assert!(error.contains(id) && error.contains("token list"), "{error}");
}

#[tokio::test]
async fn nodes_are_listed_and_revoked_by_name() {
    let site = Site::start().await;
    let node = site.node("edge-1").await;
    let _link = Link::hello(&site, &node, epoch(1), 1).await.unwrap();
    let nasty = site.token(1).await;
    site.enroll(&nasty, "ev\u{1b}[2Jil").await.unwrap();
    let list = run(&site, &["node", "list"]).await.unwrap();
    assert!(list.contains(&node.id.to_string()) && list.contains("connected") && list.contains("never seen"), "{list}");
    assert!(!list.contains('\u{1b}'), "a host name steers the terminal");
    run(&site, &["node", "revoke", "edge-1", "--reason", "stolen"]).await.unwrap();
    assert!(run(&site, &["node", "list"]).await.unwrap().contains("revoked"));
    let error = run(&site, &["node", "revoke", "edge-9"]).await.unwrap_err().to_string();
    assert!(error.contains("edge-9") && error.contains("node list"), "{error}");
}

#[tokio::test]
async fn an_operators_file_works_as_it_is_and_is_never_written_over() {
    use picket_proto::v1;
    let site = Site::start().await;
    let out = site.state_dir().join("ada.picket");
    let path = out.to_str().unwrap();
    run(&site, &["operator", "create", "ada", "--role", "viewer", "--out", path]).await.unwrap();
    let channel = OperatorFile::read(&out).unwrap().dialer(&out).unwrap().connect().await.unwrap();
    let mut fleet = v1::fleet_client::FleetClient::new(channel);
    fleet.list_nodes(v1::ListNodesRequest::default()).await.unwrap();
    let error = run(&site, &["operator", "create", "bob", "--role", "viewer", "--out", path]).await.unwrap_err();
    assert!(error.to_string().contains("--force"), "{error}");
    assert!(!run(&site, &["operator", "list"]).await.unwrap().contains("bob"));
    run(&site, &["operator", "revoke", "ada"]).await.unwrap();
    assert!(fleet.list_nodes(v1::ListNodesRequest::default()).await.is_err());
}

#[tokio::test]
async fn when_no_collector_runs_the_command_line_says_so() {
    let site = Site::start().await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(site.state_dir().join("admin.conf"), dir.path().join("admin.conf")).unwrap();
    site.app.stop().await;
    let error = Admin::connect(dir.path()).await.unwrap_err().to_string();
    assert!(error.contains("does not run") && error.contains("systemctl start"), "{error}");
    let error = Admin::connect(&dir.path().join("other")).await.unwrap_err().to_string();
    assert!(error.contains("--state-dir"), "{error}");
}
