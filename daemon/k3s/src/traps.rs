//! Traps that show only once all arguments are together.

use std::collections::BTreeMap;

use crate::argv::Given;
use crate::components::{KubeletArgs, cut};
use crate::effective::{Flags, Layer, REDACTED, Trap, Warning};
use crate::kubelet_config::{COPIED_FILE, COPIED_FOLDER, KubeletConfig};
use crate::version::K3sVersion;

/// Flags of the API server K3s itself looks at.
pub(crate) const LOOKED_AT: [&str; 4] =
    ["tls-cipher-suites", "tls-min-version", "authorization-config", "authentication-config"];

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
    given: &[Given],
    items: &KubeletArgs,
    kubelet: &KubeletConfig,
    variants: &[(K3sVersion, BTreeMap<String, Flags>)],
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
            // K3s ends at it: see the refusals.
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
        } else if name == "authentication-config"
            && (variants.is_empty() || !variants.iter().all(|(_, c)| says_anonymous(c)))
        {
            let detail = "K3s passes no anonymous-auth=false beside it (since its releases of May 2025): anonymous requests \
                          are allowed unless the file has an `anonymous` block";
            warn(Trap::AnonymousDefault, g, detail.to_owned());
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
        let modes = || value.into_iter().flat_map(|v| v.split(','));
        let harmless = matches!((flag, value), ("profiling" | "anonymous-auth", Some("false")))
            || matches!((flag, value), ("use-service-account-credentials", Some("true") | None))
            || (flag == "authorization-mode" && ["Node", "RBAC"].iter().all(|own| modes().any(|m| m == *own)));
        if dropped && !harmless {
            let detail = format!("`{flag}` given without `+=` drops K3s' own value of it");
            warn(Trap::DefaultDropped, first, detail);
        }
    }
    let with_files = variants.iter().any(|(v, _)| v.at_least(32, 0));
    if with_files {
        for lost in &items.swallowed {
            warnings.push(Warning {
                trap: Trap::KubeletArgSwallowed,
                path: lost.path.clone(),
                line: lost.line,
                option: Some("kubelet-arg".to_owned()),
                detail: "the kubelet-arg before this one has no `=`: K3s drops this one; write `name=true`".to_owned(),
            });
        }
    }
    stale_copies(items, kubelet, warnings);
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

/// Whether the API server is told about anonymous requests by a flag, K3s' own or the user's.
fn says_anonymous(components: &BTreeMap<String, Flags>) -> bool {
    components.get("kube-apiserver").is_some_and(|flags| flags.contains_key("anonymous-auth"))
}

/// Copies among the kubelet's files that have no source any more.
fn stale_copies(items: &KubeletArgs, kubelet: &KubeletConfig, warnings: &mut Vec<Warning>) {
    let copies = [("config", &items.config, COPIED_FILE), ("config-dir", &items.config_dir, COPIED_FOLDER)];
    for (key, source, copy) in copies {
        let Some(found) = kubelet.files.iter().find(|f| kubelet.is_copy(f, copy)) else { continue };
        if source.as_ref().is_some_and(|(_, path)| kubelet.copies(path)) {
            continue;
        }
        warnings.push(Warning {
            trap: Trap::StaleKubeletCopy,
            path: Some(found.clone()),
            line: None,
            option: Some(format!("kubelet-arg {key}")),
            detail: format!(
                "K3s made this copy for a kubelet-arg `{key}=` that is gone, and the kubelet still obeys it; remove the copy"
            ),
        });
    }
}
