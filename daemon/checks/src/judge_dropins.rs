//! The kubelet's drop-ins beside K3s' own file.

use picket_model::{Evidence, Observation, Status};
use serde_json::Value;

use crate::catalogue::{Control, Modifier, texts};
use crate::context::{Context, Forgotten, Unseen};
use crate::judge_files::subject;
use crate::judge_flags::why_not;
use crate::row::Row;
use crate::values::seconds;

/// Drop-ins after K3s's own must not weaken what it sets.
pub(crate) fn judge(ctx: Context<'_>, control: &Control) -> Vec<Row> {
    let folder = ctx.kubelet_folder();
    let dropins = match ctx.kubelet_dropins() {
        Ok(dropins) => dropins,
        Err(Forgotten(reason)) => return vec![Row::forgotten(folder, reason)],
    };
    match ctx.kubelet_leaves(Ok(&dropins)) {
        Ok(_) => {}
        Err(Unseen::Forgotten(reason)) => return vec![Row::forgotten(folder, reason)],
        Err(Unseen::Unknown(reason)) => return vec![Row::unknown(folder, reason)],
    }
    let fields = control.expected.list(Modifier::Fields);
    let mut rows = Vec::new();
    for (path, dropin) in dropins.iter() {
        if path.ends_with("/00-k3s-defaults.conf") {
            continue;
        }
        match dropin {
            Observation::Absent => {}
            Observation::Unreadable { reason } => rows.push(Row::unknown(path, format!("cannot be read: {reason}"))),
            Observation::Value { value } => {
                let weaker: Vec<String> =
                    fields.iter().filter_map(|field| weakness(ctx, field, value.get(field)?)).collect();
                let row = if weaker.is_empty() {
                    Row::new(path, Status::Pass, "weakens nothing")
                } else {
                    Row::new(path, Status::Fail, weaker.join("; "))
                };
                let detail = row.observed.clone();
                rows.push(row.with(Evidence::at(ctx.dropin_place(path), detail)));
            }
        }
    }
    if rows.is_empty() {
        rows.push(
            Row::new(&folder, Status::Pass, "only 00-k3s-defaults.conf")
                .with(Evidence::at(folder.clone(), "no other drop-in")),
        );
    }
    rows
}

/// How a field of a drop-in is weaker than what K3s sets; none when it is not. A null takes K3s's own value away.
fn weakness(ctx: Context<'_>, field: &str, value: &Value) -> Option<String> {
    if value.is_null() {
        return Some(format!("{field} is removed"));
    }
    let at = |path: &str| path.split('.').try_fold(value, |v, part| v.get(part));
    let word = |v: &Value| crate::document::scalar(v).unwrap_or_else(|| "a structure".to_owned());
    let own = |v: &Value, name: &str| v.as_str() == Some(&format!("{}/agent/{name}", ctx.snap.data_dir));
    match field {
        "authentication" => {
            let mut out = Vec::new();
            if at("anonymous.enabled").is_some_and(|v| v != &Value::Bool(false)) {
                out.push("authentication.anonymous is not off");
            }
            if at("webhook.enabled").is_some_and(|v| v != &Value::Bool(true)) {
                out.push("authentication.webhook is not on");
            }
            match at("x509.clientCAFile") {
                Some(v) if v.as_str().is_none_or(str::is_empty) => {
                    out.push("authentication.x509.clientCAFile is emptied");
                }
                Some(v) if !own(v, "client-ca.crt") => {
                    out.push("authentication.x509.clientCAFile is not the cluster's CA")
                }
                _ => {}
            }
            for part in ["anonymous", "webhook", "x509"] {
                if at(part).is_some_and(Value::is_null) {
                    out.push("a part of authentication is removed");
                }
            }
            (!out.is_empty()).then(|| out.join("; "))
        }
        "authorization" => {
            let mode = at("mode")?;
            (mode.as_str() != Some("Webhook")).then(|| format!("authorization.mode = {}", word(mode)))
        }
        "readOnlyPort" => (value.as_i64() != Some(0)).then(|| format!("readOnlyPort = {}", word(value))),
        // Weaker than what somebody asked for; K3s itself leaves both off unless told otherwise, so off is said, too.
        "protectKernelDefaults" | "seccompDefault" => {
            (value != &Value::Bool(true)).then(|| format!("{field} = {}", word(value)))
        }
        // Asking the cluster for a serving certificate replaces K3s's own and is no weakness in itself.
        "serverTLSBootstrap" => None,
        "tlsCertFile" | "tlsPrivateKeyFile" | "staticPodPath" => {
            let name = match field {
                "tlsCertFile" => "serving-kubelet.crt",
                "tlsPrivateKeyFile" => "serving-kubelet.key",
                _ => "pod-manifests",
            };
            (!own(value, name)).then(|| format!("{field} = {} replaces K3s's own", word(value)))
        }
        "tlsCipherSuites" => {
            let weak: Vec<String> = texts(value).into_iter().filter(|suite| is_weak_suite(suite)).collect();
            (!weak.is_empty()).then(|| format!("tlsCipherSuites names {}", weak.join(", ")))
        }
        "featureGates" => {
            let off = value.get("RotateKubeletServerCertificate")?;
            (off != &Value::Bool(true)).then(|| "featureGates.RotateKubeletServerCertificate is off".to_owned())
        }
        "allowedUnsafeSysctls" => {
            let more: Vec<String> = texts(value)
                .into_iter()
                .filter(|key| !matches!(key.as_str(), "net.ipv4.ip_forward" | "net.ipv6.conf.all.forwarding"))
                .collect();
            (!more.is_empty()).then(|| format!("allowedUnsafeSysctls adds {}", more.join(", ")))
        }
        other => Some(format!("{other} is set")),
    }
}

/// Suites without forward secrecy or with a broken cipher.
fn is_weak_suite(suite: &str) -> bool {
    !(suite.starts_with("TLS_ECDHE_") && (suite.contains("_GCM_") || suite.contains("CHACHA20"))
        || matches!(suite, "TLS_AES_128_GCM_SHA256" | "TLS_AES_256_GCM_SHA384" | "TLS_CHACHA20_POLY1305_SHA256"))
}

/// K3s writes its defaults file at every start; a later change is somebody else's.
pub(crate) fn own(ctx: Context<'_>, control: &Control) -> Row {
    let path = subject(ctx, control);
    let grace = control.expected.list(Modifier::Grace).first().and_then(|t| seconds(t)).unwrap_or(0.0);
    let meta = match ctx.snap.files.get(&path) {
        Some(Observation::Value { value }) => value,
        other => return Row::unknown(path.clone(), why_not(&path, other)),
    };
    let Some(started) = ctx.snap.k3s_started_at.value() else {
        return Row::unknown(path, "the start time of K3s is not known");
    };
    let late = meta.mtime.duration_since(*started).as_secs_f64();
    let words = format!("changed {}, K3s started {started}", meta.mtime);
    Row::pass_if(path.clone(), late <= grace, words.clone()).with(Evidence::at(path, words))
}
