//! The main job, end to end: builds Picket, starts a collector and a daemon on a sample node, changes things one after
//! another, and shows each finding arrive at the collector with the time it took.
//!
//! `cargo run -p picket-tests --bin demo [-- --keep]`

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use picket_tests::binaries::Binaries;
use picket_tests::collector::Collector;
use picket_tests::daemon::Daemon;
use picket_tests::live::Live;
use picket_tests::node::{DATA_DIR, Profile, SampleNode};
use picket_tests::wait;
use serde_json::Value;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let keep = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--keep"] => true,
        _ => anyhow::bail!("usage: demo [--keep]"),
    };
    println!("Building picketd, picket-collector and picketctl …");
    let binaries = Binaries::build(true)?;
    let dir = tempfile::Builder::new().prefix("picket-demo-").tempdir()?;

    println!("\n1. A collector (sled, its own CA) in {}", dir.path().join("collector").display());
    let collector = Collector::start(&binaries, &dir.path().join("collector"))?;
    let operator = collector.operator("demo", "admin")?;
    println!("   listens on {}", collector.address());

    println!("\n2. A sample node: a hardened K3s v1.36.2 server, as a folder tree with fresh keys and certificates");
    let node = SampleNode::build_now(Profile::HardenedServer, &dir.path().join("node"))?;
    println!("   below {}", node.root().display());

    println!("\n3. picketd enrols with a one-time token and watches the tree and this machine's kernel parameters");
    let mut daemon = Daemon::new(&binaries, &dir.path().join("picketd"), node.root())?;
    let token = collector.token(&["site=berlin"])?;
    daemon.enroll(&collector, &token)?;
    let refused = daemon.try_enroll(&collector.address().to_string(), &token)?;
    anyhow::ensure!(!refused.status.success(), "a used-up token was taken again");
    daemon.start()?;
    wait::until("the first findings are at the collector", || {
        daemon.process().ok()?.check_alive().err().map(Err).or_else(|| {
            let some = collector.get(&operator, &["findings"]).ok()?;
            (!some.is_empty()).then_some(Ok(()))
        })
    })??;
    wait::until("the node has nothing left to send", || {
        let status: Value = serde_json::from_slice(&daemon.status_json().ok()?.stdout).ok()?;
        (status["outbox"]["waiting"].as_u64() == Some(0)).then_some(())
    })?;
    print(&collector, &operator, &["get", "nodes"])?;

    println!("\n4. Changes on the node, and what arrives at the collector");
    let live = Live::watch(&binaries, &operator)?;
    let key = format!("{DATA_DIR}/server/tls/client-admin.key");
    show(
        &live,
        "chmod 644 client-admin.key",
        || node.chmod(&key, 0o644),
        |e| e["kind"] == "finding_opened" && e["finding"]["subject"] == key.as_str(),
    )?;
    show(
        &live,
        "chmod 600 client-admin.key",
        || node.chmod(&key, 0o600),
        |e| e["kind"] == "finding_resolved" && e["finding"]["subject"] == key.as_str(),
    )?;
    show(
        &live,
        "config.yaml.d/50-oidc.yaml replaces kube-apiserver-arg (no `+`): audit and admission arguments are lost",
        || {
            let drop_in = "/etc/rancher/k3s/config.yaml.d/50-oidc.yaml";
            node.write(drop_in, "kube-apiserver-arg:\n  - oidc-issuer-url=https://idp.example\n")
        },
        |e| {
            let control = e["finding"]["control"].as_str().unwrap_or_default();
            e["kind"] == "finding_opened" && control.contains("audit-log-path")
        },
    )?;
    show(
        &live,
        "the drop-in is mended (`kube-apiserver-arg+:`)",
        || {
            let drop_in = "/etc/rancher/k3s/config.yaml.d/50-oidc.yaml";
            node.write(drop_in, "kube-apiserver-arg+:\n  - oidc-issuer-url=https://idp.example\n")
        },
        |e| {
            let control = e["finding"]["control"].as_str().unwrap_or_default();
            e["kind"] == "finding_resolved" && control.contains("audit-log-path")
        },
    )?;
    show(
        &live,
        "k3s token rotate",
        || node.rotate_token(),
        |e| e["kind"] == "inventory" && e["node"]["token_since"].is_string(),
    )?;
    let certificate = format!("{DATA_DIR}/server/tls/client-scheduler.crt");
    show(
        &live,
        "client-scheduler.crt: five days left",
        || {
            let now = jiff::Timestamp::now().as_second();
            node.reissue(&certificate, now - 360 * 86_400, now + 5 * 86_400)
        },
        |e| {
            e["kind"] == "finding_opened"
                && e["finding"]["subject"].as_str().is_some_and(|s| s.starts_with(&certificate))
        },
    )?;
    show(
        &live,
        "an attack in the audit log: mallory lists every Secret of the cluster",
        || node.append(&format!("{DATA_DIR}/server/logs/audit.log"), attack()),
        |e| e["kind"] == "detection" && e["detection"]["rule"] == "secret-list-cluster-wide",
    )?;
    drop(live);

    println!("\n5. What the operator sees: picketctl get findings --severity medium");
    print(&collector, &operator, &["get", "findings", "--severity", "medium"])?;
    println!("\n   picketctl get detections");
    print(&collector, &operator, &["get", "detections", "--severity", "medium"])?;

    let ctl = format!("{} --config {}", binaries.ctl.display(), operator.display());
    if keep {
        let (collector_pid, picketd_pid) = (collector.process()?.pid(), daemon.process()?.pid());
        println!(
            "\nStill running. Collector: {} (pid {collector_pid}), picketd: pid {picketd_pid}",
            collector.address()
        );
        println!("  state        {}", dir.path().display());
        println!("  node's tree  {}   (change it and watch)", node.root().display());
        println!("  ask          {ctl} get findings --watch");
        println!("               {ctl} get history");
        println!(
            "  status       {} status --runtime-dir {}",
            binaries.picketd.display(),
            dir.path().join("picketd/run").display()
        );
        println!("  stop         kill {picketd_pid} {collector_pid}; rm -r {}", dir.path().display());
        // The processes and their folder outlive the demo.
        std::mem::forget((collector, daemon));
        let _kept: PathBuf = dir.keep();
    } else {
        daemon.stop()?;
        let mut collector = collector;
        collector.stop()?;
        println!("\nDone; everything was stopped and removed. Run it with `-- --keep` to go on by hand.");
    }
    Ok(())
}

fn show<E>(
    live: &Live,
    what: &str,
    change: impl FnOnce() -> Result<(), E>,
    arrives: impl Fn(&Value) -> bool,
) -> anyhow::Result<()>
where
    anyhow::Error: From<E>,
{
    println!("   ▸ {what}");
    let begun = Instant::now();
    change()?;
    let mut others = 0_u32;
    loop {
        let left = wait::PATIENCE.saturating_sub(begun.elapsed());
        let event = live.next(left).with_context(|| format!("nothing arrived for: {what}"))?;
        if !arrives(&event) {
            others += 1;
            continue;
        }
        let took = begun.elapsed();
        let (severity, name, detail) = match event["kind"].as_str() {
            Some("detection") => {
                let d = &event["detection"];
                (&d["severity"], &d["rule"], format!("{} from {}", text(&d["user"]), text(&d["source"])))
            }
            Some("inventory") => {
                let n = &event["node"];
                (&n["role"], &n["hostname"], format!("server token in use since {}", text(&n["token_since"])))
            }
            _ => {
                let f = &event["finding"];
                (&f["severity"], &f["control"], text(&f["observed"]).to_owned())
            }
        };
        println!(
            "     {:>4} ms  {} {} {}: {detail}{}",
            took.as_millis(),
            text(&event["kind"]),
            text(severity),
            text(name),
            if others > 0 { format!("  (and {others} more with it)") } else { String::new() },
        );
        // What else came of the same change belongs to it.
        while live.next(Duration::from_millis(300)).is_some() {}
        return Ok(());
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn print(collector: &Collector, operator: &Path, args: &[&str]) -> anyhow::Result<()> {
    let output = collector.ctl(operator, args)?;
    anyhow::ensure!(output.status.success(), "picketctl: {}", String::from_utf8_lossy(&output.stderr));
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        println!("   {line}");
    }
    Ok(())
}

fn attack() -> String {
    let now = jiff::Timestamp::now();
    let event = serde_json::json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata",
        "auditID": "5d2f7a34-2b0e-4f4a-9a53-0d7a0b1c9e11", "stage": "ResponseComplete",
        "requestURI": "/api/v1/secrets?limit=500", "verb": "list",
        "user": {"username": "mallory", "groups": ["system:authenticated"]},
        "sourceIPs": ["203.0.113.9"], "userAgent": "kubectl/v1.33.1 (linux/amd64) kubernetes/abcdef0",
        "objectRef": {"resource": "secrets", "apiVersion": "v1"},
        "responseStatus": {"metadata": {}, "code": 200},
        "requestReceivedTimestamp": format!("{now:.6}"), "stageTimestamp": format!("{now:.6}"),
        "annotations": {"authorization.k8s.io/decision": "allow", "authorization.k8s.io/reason": "RBAC: allowed"},
    });
    format!("{event}\n")
}
