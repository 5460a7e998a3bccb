//! The yardstick of a scan: what a scanner made of shell pipelines runs for the same verdicts, one pipeline each, as
//! `sh -c 'stat … | grep …'`.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::node::{DATA_DIR, SampleNode};

/// The pipeline for one verdict; none for what was not decided, which a shell would not decide either.
pub fn pipeline(node: &SampleNode, verdict: &Value) -> Option<String> {
    let text = |key: &str| verdict[key].as_str().unwrap_or_default();
    if !matches!(text("status"), "pass" | "fail") {
        return None;
    }
    let (control, subject) = (text("control"), text("subject"));
    let place = |path: &str| quoted(&node.path(path).to_string_lossy());
    let config = format!("{} {}/*", place("/etc/rancher/k3s/config.yaml"), place("/etc/rancher/k3s/config.yaml.d"));
    if control.starts_with("cert-") && subject.starts_with('/') {
        let path = subject.split('#').next().unwrap_or(subject);
        return Some(certificate(node, control, path));
    }
    Some(match subject {
        // Who owns it and what its mode is are two questions, and two controls.
        path if path.starts_with('/') && control.ends_with("owner") => {
            format!("stat -c %U:%G {} 2>/dev/null | grep -q '^root:root$'", place(path))
        }
        path if path.starts_with('/') => {
            format!("stat -c %a {} 2>/dev/null | grep -qE '^[0-7]?[0-6]00$'", place(path))
        }
        flag if flag.starts_with("--") => {
            let name = quoted(flag.trim_start_matches('-').split(' ').next().unwrap_or(flag));
            format!("cat {config} 2>/dev/null | grep -e {name} | tail -n1 | grep -qE '[=:]'")
        }
        key if control.starts_with("sysctl") => format!("sysctl -n {} 2>/dev/null | grep -qE '^[0-9]+$'", quoted(key)),
        option => format!("cat {config} 2>/dev/null | grep -qe {}", quoted(option)),
    })
}

fn certificate(node: &SampleNode, control: &str, path: &str) -> String {
    let file = quoted(&node.path(path).to_string_lossy());
    let pem = match path.strip_suffix(".json") {
        Some(_) => format!("jq -r '.data[\"tls.crt\"]' {file} | base64 -d"),
        None => format!("cat {file}"),
    };
    match control {
        "cert-key-match" => {
            let key = match path.strip_suffix(".crt") {
                Some(stem) => format!("cat {}", quoted(&node.path(&format!("{stem}.key")).to_string_lossy())),
                None => format!("jq -r '.data[\"tls.key\"]' {file} | base64 -d"),
            };
            format!("{pem} | openssl x509 -noout -pubkey | grep -qF \"$({key} | openssl pkey -pubout | sed -n 2p)\"")
        }
        "cert-signed-by-ca" | "cert-issuer-in-bundle" => {
            let ca = quoted(&node.path(&format!("{DATA_DIR}/server/tls/server-ca.crt")).to_string_lossy());
            format!("{pem} | openssl verify -partial_chain -CAfile {ca} 2>/dev/null | grep -q OK")
        }
        _ => format!("{pem} | openssl x509 -noout -text | grep -qE 'Not (Before|After)|Signature Algorithm'"),
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Runs pipelines one after another.
///
/// # Errors
/// When no shell can be started.
pub fn run(pipelines: &[String]) -> std::io::Result<Duration> {
    let begun = Instant::now();
    for pipeline in pipelines {
        Command::new("sh").args(["-c", pipeline]).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    }
    Ok(begun.elapsed())
}
