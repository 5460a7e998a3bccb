//! Traps that show only once all arguments are together.

use std::collections::BTreeMap;

use crate::argv::Given;
use crate::components::{UserArg, cut, kubelet_args};
use crate::effective::{Flags, Layer, Problem, REDACTED, Trap, Warning};
use crate::files::NodeFiles;
use crate::kubelet_config::KubeletConfig;
use crate::version::K3sVersion;

/// Flags of the API server K3s itself looks at.
const LOOKED_AT: [&str; 4] = ["tls-cipher-suites", "tls-min-version", "authorization-config", "authentication-config"];

/// K3s defaults whose loss weakens a node.
const GUARDS: [(&str, &str); 7] = [
    ("kube-apiserver-arg", "enable-admission-plugins"),
    ("kube-apiserver-arg", "authorization-mode"),
    ("kube-apiserver-arg", "anonymous-auth"),
    ("kube-apiserver-arg", "profiling"),
    ("kube-controller-manager-arg", "profiling"),
    ("kube-controller-manager-arg", "use-service-account-credentials"),
    ("kube-scheduler-arg", "profiling"),
];

pub(crate) fn judge(
    files: &dyn NodeFiles,
    given: &[Given],
    kubelet: &KubeletConfig,
    variants: &[(K3sVersion, BTreeMap<String, Flags>)],
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Warning>,
) {
    let mut warn = |trap, g: &Given, detail: String| {
        warnings.push(Warning { trap, path: g.path.clone(), line: g.line, option: Some(g.name.clone()), detail });
    };
    for g in given.iter().filter(|g| g.known && g.name == "kube-apiserver-arg") {
        let (name, _, value) = cut(&g.value);
        if !LOOKED_AT.contains(&name) {
            continue;
        }
        let plain = g.value.strip_prefix("--").unwrap_or(&g.value);
        let exact = plain.split_once('=').is_some_and(|(k, v)| k == name && !v.is_empty());
        if value.is_none() && plain == name {
            let detail = format!("`{name}` without `=`: K3s ends in a panic at start; give it a value");
            problems.push(Problem { path: g.path.clone(), line: g.line, detail });
        } else if !exact {
            let effect = match name {
                "tls-cipher-suites" => "K3s' own list joins the one given",
                "tls-min-version" => "port 6443 keeps its default",
                _ => "K3s keeps its own flag beside the file",
            };
            warn(
                Trap::TlsArgForm,
                g,
                format!("`{name}` in a form K3s does not recognise (`+=`, `-=` or empty): {effect}; write `{name}=…`"),
            );
        } else if name == "authentication-config" {
            warn(
                Trap::AnonymousDefault,
                g,
                "K3s no longer passes anonymous-auth=false: anonymous requests are allowed unless the file has an `anonymous` block".to_owned(),
            );
        }
    }
    for (option, flag) in GUARDS {
        let mut items = given.iter().filter(|g| g.known && g.name == option).filter(|g| cut(&g.value).0 == flag);
        let Some(first) = items.next() else { continue };
        let (_, mode, value) = cut(&first.value);
        let dropped = mode == crate::components::Mode::Replace
            && (flag != "enable-admission-plugins"
                || !std::iter::once(first)
                    .chain(items)
                    .any(|g| cut(&g.value).2.is_some_and(|v| v.split(',').any(|p| p.trim() == "NodeRestriction"))));
        let harmless = matches!((flag, value), ("profiling" | "anonymous-auth", Some("false")))
            || matches!((flag, value), ("use-service-account-credentials", Some("true") | None))
            || (flag == "authorization-mode" && value.is_some_and(|v| v.split(',').eq(["Node", "RBAC"])));
        if dropped && !harmless {
            let detail = format!("`{flag}` given without `+=` drops K3s' own value of it");
            warn(Trap::DefaultDropped, first, detail);
        }
    }
    let with_files = variants.iter().any(|(v, _)| v.at_least(32, 0));
    let items: Vec<UserArg> = given
        .iter()
        .filter(|g| g.known && g.name == "kubelet-arg")
        .map(|g| UserArg { text: g.value.clone(), path: g.path.clone(), line: g.line, layer: g.layer })
        .collect();
    if with_files {
        for lost in kubelet_args(items.clone()).1 {
            warnings.push(Warning {
                trap: Trap::KubeletArgSwallowed,
                path: lost.path,
                line: lost.line,
                option: Some("kubelet-arg".to_owned()),
                detail: "the kubelet-arg before this one has no `=`: K3s drops this one; write `name=true`".to_owned(),
            });
        }
    }
    kubelet_copies(files, &items, kubelet, problems, warnings);
    for g in given {
        let clear =
            g.value.contains(REDACTED) && matches!(g.layer, Layer::ConfigFile | Layer::DropIn | Layer::CommandLine);
        if clear {
            warnings.push(Warning {
                trap: Trap::PlaintextSecret,
                path: g.path.clone(),
                line: g.line,
                option: Some(g.name.clone()),
                detail: "a secret in clear text; keep it in a file only root reads and name that file, where K3s has an option for it".to_owned(),
            });
        }
    }
}

/// Copies of the kubelet's files: what has no source any more, and sources that are missing.
fn kubelet_copies(
    files: &dyn NodeFiles,
    items: &[UserArg],
    kubelet: &KubeletConfig,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Warning>,
) {
    let source = |wanted: &str| {
        items.iter().find_map(|i| {
            let (key, value) = i.text.strip_prefix("--").unwrap_or(&i.text).split_once('=')?;
            (key == wanted).then(|| (i, value.to_owned()))
        })
    };
    let stale = [("config", "/10-cli-config.conf"), ("config-dir", "/20-cli-config-dir/")];
    for (key, mark) in stale {
        let copy = kubelet.files.iter().find(|f| f.contains(mark));
        if let (None, Some(copy)) = (source(key), copy) {
            warnings.push(Warning {
                trap: Trap::StaleKubeletCopy,
                path: Some(copy.clone()),
                line: None,
                option: Some(format!("kubelet-arg {key}")),
                detail: format!("K3s made this copy for a kubelet-arg `{key}=` that is gone, and the kubelet still obeys it; remove the copy"),
            });
        }
    }
    if let Some((item, path)) = source("config")
        && path.starts_with('/')
        && matches!(files.read(&path, crate::merge::FILE_LIMIT), Ok(None))
    {
        let detail = "the kubelet's configuration file named here does not exist: K3s does not start".to_owned();
        problems.push(Problem { path: item.path.clone(), line: item.line, detail });
    }
}
