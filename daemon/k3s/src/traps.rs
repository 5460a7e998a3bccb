//! Traps that show only once all arguments are together.

use std::collections::BTreeMap;

use crate::argv::Given;
use crate::components::{KubeletArgs, Mode, cut};
use crate::effective::{Flags, Layer, REDACTED, Trap, Warning};
use crate::kubelet_config::{COPIED_FILE, COPIED_FOLDER, KubeletConfig};
use crate::options::OLD_NAMES;
use crate::version::K3sVersion;
use picket_model::flag_value::boolean;

/// Flags of the API server K3s itself looks at.
pub(crate) const LOOKED_AT: [&str; 4] =
    ["tls-cipher-suites", "tls-min-version", "authorization-config", "authentication-config"];

/// K3s' own value of a flag.
#[derive(Clone, Copy)]
enum Own {
    Bool(bool),
    /// Elements of a list.
    Elements(&'static [&'static str]),
}

/// K3s defaults whose loss weakens a node, or takes something from it.
const GUARDS: [(&str, &str, Own); 9] = [
    ("kube-apiserver-arg", "enable-admission-plugins", Own::Elements(&["NodeRestriction"])),
    ("kube-apiserver-arg", "authorization-mode", Own::Elements(&["Node", "RBAC"])),
    ("kube-apiserver-arg", "anonymous-auth", Own::Bool(false)),
    ("kube-apiserver-arg", "profiling", Own::Bool(false)),
    ("kube-apiserver-arg", "requestheader-allowed-names", Own::Elements(&["system:auth-proxy"])),
    ("kube-controller-manager-arg", "profiling", Own::Bool(false)),
    ("kube-controller-manager-arg", "use-service-account-credentials", Own::Bool(true)),
    ("kube-controller-manager-arg", "controllers", Own::Elements(&["*", "tokencleaner"])),
    ("kube-scheduler-arg", "profiling", Own::Bool(false)),
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
    for (option, flag, own) in GUARDS {
        let is_option =
            |name: &str| name == option || OLD_NAMES.iter().any(|(old, new)| *new == option && *old == name);
        let items: Vec<&Given> =
            given.iter().filter(|g| g.known && is_option(&g.name) && cut(&g.value).0 == flag).collect();
        let Some(first) = items.first() else { continue };
        if cut(&first.value).1 != Mode::Replace {
            continue;
        }
        let values = || items.iter().filter_map(|g| cut(&g.value).2);
        let harmless = match own {
            Own::Bool(wanted) => {
                let last = items.last().map_or("true", |g| cut(&g.value).2.unwrap_or("true"));
                boolean(last) == Some(wanted)
            }
            // A list adds up over its occurrences.
            Own::Elements(own) => {
                own.iter().all(|own| values().flat_map(|v| v.split(',')).any(|element| element.trim() == *own))
            }
        };
        if !harmless {
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
