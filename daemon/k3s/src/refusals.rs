//! What K3s refuses only once all options are together: values it looks at itself, and options that exclude each other.

use std::collections::BTreeMap;

use picket_model::Role;
use picket_model::flag_value::boolean;

use crate::argv::Given;
use crate::components::KubeletArgs;
use crate::effective::{FlagValue, Flags, Layer, Problem};
use crate::files::NodeFiles;
use crate::flag_names;
use crate::kubelet_config::{COPIED_FILE, COPIED_FOLDER, KubeletConfig, OWN_FILE, read, refused, yaml_file};
use crate::traps::LOOKED_AT;
use crate::version::K3sVersion;

/// Versions of TLS the API server knows.
const TLS_VERSIONS: [&str; 4] = ["VersionTLS10", "VersionTLS11", "VersionTLS12", "VersionTLS13"];

/// Cipher suites of Go's TLS, insecure ones too, and two old names Kubernetes adds.
const CIPHERS: [&str; 27] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_RSA_WITH_RC4_128_SHA",
];

/// What is judged.
pub(crate) struct Judged<'a> {
    pub(crate) files: &'a dyn NodeFiles,
    pub(crate) role: Role,
    pub(crate) given: &'a [Given],
    pub(crate) kubelet: &'a KubeletConfig,
    pub(crate) args: &'a KubeletArgs,
}

pub(crate) fn judge(
    judged: &Judged<'_>,
    variants: &[(K3sVersion, BTreeMap<String, Flags>)],
    problems: &mut Vec<Problem>,
) {
    if judged.role == Role::Server {
        judged.looked_at(variants, problems);
        plugins(variants, problems);
        lists(variants, problems);
        judged.together(problems);
        problems.extend(in_all(variants, "kube-apiserver", authorization));
        problems.extend(in_all(variants, "kube-apiserver", |flags| judged.authentication(flags)));
    }
    judged.arguments(problems);
    let no_kubelet = judged.role == Role::Server && judged.on("disable-agent").is_some();
    if !no_kubelet {
        problems.extend(in_all(variants, "kubelet", |flags| judged.kubelet_file(flags)));
        if variants.iter().any(|(v, _)| v.at_least(32, 0)) {
            judged.kubelet_files(problems);
        }
    }
}

/// Lists of names the API server takes as they stand.
const LISTS: [&str; 4] =
    ["authorization-mode", "enable-admission-plugins", "disable-admission-plugins", "tls-cipher-suites"];

/// A name with blanks around it, or none between two commas, is none the API server knows. What quotes make of a list is
/// not judged.
fn lists(variants: &[(K3sVersion, BTreeMap<String, Flags>)], problems: &mut Vec<Problem>) {
    let odd = |name: &str| name.is_empty() || name.trim() != name;
    for name in LISTS {
        let all = variants.iter().filter_map(|(_, components)| components.get("kube-apiserver")?.get(name)).flatten();
        let wrong = |v: &&FlagValue| !v.value.is_empty() && !v.value.contains('"') && v.value.split(',').any(odd);
        if let Some(at) = all.into_iter().find(wrong) {
            let detail = format!(
                "`{name}` with blanks or nothing between two commas: to the API server such a name is unknown, and it \
                 ends at its start; write names and commas only"
            );
            problems.push(Problem { path: at.path.clone(), line: at.line, detail });
        }
    }
}

/// The API server ends where a plug-in of admission is both turned on and turned off, K3s' own NodeRestriction too.
fn plugins(variants: &[(K3sVersion, BTreeMap<String, Flags>)], problems: &mut Vec<Problem>) {
    for flags in variants.iter().filter_map(|(_, components)| components.get("kube-apiserver")) {
        let named =
            |flag: &str| flags.get(flag).into_iter().flatten().flat_map(|v| v.value.split(',').map(move |p| (p, v)));
        let both = named("disable-admission-plugins").find_map(|(plugin, off)| {
            let (_, on) = named("enable-admission-plugins").find(|(other, _)| *other == plugin)?;
            // What K3s sets by itself stands in no file.
            (!plugin.is_empty()).then_some((plugin, if off.path.is_some() { off } else { on }))
        });
        if let Some((plugin, at)) = both {
            let detail = format!(
                "{plugin} is in `enable-admission-plugins` and in `disable-admission-plugins`: the API server ends at \
                 its start; take it out of one"
            );
            problems.push(Problem { path: at.path.clone(), line: at.line, detail });
            // One possible version is enough.
            return;
        }
    }
}

/// What is refused in every version that is possible.
fn in_all(
    variants: &[(K3sVersion, BTreeMap<String, Flags>)],
    component: &str,
    judge: impl Fn(&Flags) -> Option<Problem>,
) -> Option<Problem> {
    let mut found = None;
    for (_, components) in variants {
        found = Some(judge(components.get(component)?)?);
    }
    found
}

/// The value of a flag that names a file.
fn file_of<'f>(flags: &'f Flags, name: &str) -> Option<&'f FlagValue> {
    flags.get(name)?.last().filter(|given| !given.value.is_empty())
}

/// A file of authorizers is all or nothing.
fn authorization(flags: &Flags) -> Option<Problem> {
    // Without `=` it is no file, and K3s since 2025 ends at that by itself.
    let file = file_of(flags, "authorization-config").filter(|file| file.value != "true")?;
    let excluded = |name: &&String| *name == "authorization-mode" || name.starts_with("authorization-webhook-");
    let (name, by) = flags.keys().find(excluded).map(|name| (name, passed_by(flags, name)))?;
    Some(of_flag(
        file,
        format!(
            "`authorization-config` beside the `{name}` {by}: the API server takes one of them only, and K3s does not start"
        ),
    ))
}

/// Who passes a flag.
fn passed_by(flags: &Flags, name: &str) -> &'static str {
    let own = |given: &FlagValue| given.layer == Layer::K3sDefault;
    if flags.get(name).is_some_and(|values| values.iter().all(own)) {
        "this version of K3s passes itself"
    } else {
        "given too"
    }
}

fn of_flag(flag: &FlagValue, detail: String) -> Problem {
    Problem { path: flag.path.clone(), line: flag.line, detail }
}

fn refuse(given: &Given, detail: impl Into<String>) -> Problem {
    Problem { path: given.path.clone(), line: given.line, detail: detail.into() }
}

impl Judged<'_> {
    fn last(&self, name: &str) -> Option<&Given> {
        self.given.iter().rev().find(|g| g.known && g.name == name)
    }

    fn on(&self, name: &str) -> Option<&Given> {
        self.last(name).filter(|g| boolean(&g.value) == Some(true))
    }

    fn set(&self, name: &str) -> Option<&Given> {
        self.last(name).filter(|g| !g.value.is_empty())
    }

    /// Arguments of the API server K3s reads itself, the first of each name.
    fn looked_at(&self, variants: &[(K3sVersion, BTreeMap<String, Flags>)], problems: &mut Vec<Problem>) {
        for name in LOOKED_AT {
            // K3s looks at the two files since the patches of April and May 2025 only.
            let of_2025 = |v: &K3sVersion| match v.minor {
                31 => v.at_least(31, 8),
                32 => v.at_least(32, 4),
                _ => v.at_least(33, 0),
            };
            if name.starts_with("auth") && !variants.iter().any(|(v, _)| of_2025(v)) {
                continue;
            }
            let first = self.given.iter().filter(|g| g.known && g.name == "kube-apiserver-arg").find_map(|g| {
                let text = g.value.strip_prefix("--").unwrap_or(&g.value);
                let (key, value) = text.split_once('=').map_or((text, None), |(k, v)| (k, Some(v)));
                (key == name).then_some((g, value))
            });
            let Some((given, value)) = first else { continue };
            let Some(value) = value else {
                let detail = format!("`{name}` without `=`: K3s ends in a panic at start; give it a value");
                problems.push(refuse(given, detail));
                continue;
            };
            let unknown = match name {
                "tls-min-version" => !value.is_empty() && !TLS_VERSIONS.contains(&value),
                "tls-cipher-suites" => {
                    let mut suites = value.split(',').map(str::trim);
                    // An empty first one makes K3s take its own list.
                    !value.split(',').next().is_none_or(|first| first.trim().is_empty())
                        && !suites.all(|suite| CIPHERS.contains(&suite))
                }
                _ => false,
            };
            if unknown {
                let detail = format!("`{name}` with a value Go's TLS does not know: K3s does not start; correct it");
                problems.push(refuse(given, detail));
            }
        }
    }

    /// Options that exclude or need each other.
    fn together(&self, problems: &mut Vec<Problem>) {
        if let Some(given) = self.set("cluster-reset-restore-path")
            && self.on("cluster-reset").is_none()
        {
            problems.push(refuse(given, "`cluster-reset-restore-path` without `cluster-reset`: K3s does not start"));
        }
        if let Some(given) = self.on("disable-etcd")
            && self.set("server").is_none()
        {
            problems.push(refuse(given, "`disable-etcd` without `server`: K3s does not start"));
        }
        if self.set("datastore-endpoint").is_some() {
            for name in ["disable-apiserver", "disable-etcd"] {
                if let Some(given) = self.on(name) {
                    let detail = format!("`{name}` together with `datastore-endpoint`: K3s does not start");
                    problems.push(refuse(given, detail));
                }
            }
        }
        if self.on("secrets-encryption").is_some()
            && let Some(given) = self.last("secrets-encryption-provider")
            && !matches!(given.value.as_str(), "aescbc" | "secretbox")
        {
            let detail = "`secrets-encryption-provider` is neither aescbc nor secretbox: K3s does not start";
            problems.push(refuse(given, detail));
        }
    }

    /// Arguments at which a component ends.
    fn arguments(&self, problems: &mut Vec<Problem>) {
        let server = self.role == Role::Server;
        let read = |name: &str| name != "kubelet-arg" && (server || name == "kube-proxy-arg");
        for given in self.given.iter().filter(|g| g.known && read(&g.name)) {
            problems.extend(flag_names::refused(&given.name, &given.value).map(|detail| refuse(given, detail)));
        }
        // Of the kubelet's some are lost or taken by K3s itself.
        for item in &self.args.kept {
            let problem = |detail| Problem { path: item.path.clone(), line: item.line, detail };
            problems.extend(flag_names::refused("kubelet-arg", &item.text).map(problem));
        }
    }

    /// What `kubelet-arg` names to be copied.
    fn kubelet_files(&self, problems: &mut Vec<Problem>) {
        let mut refuse = |item: &crate::components::UserArg, detail: &str| {
            problems.push(Problem { path: item.path.clone(), line: item.line, detail: detail.to_owned() });
        };
        for item in &self.args.empty {
            refuse(item, "a kubelet-arg `config` or `config-dir` without a value: K3s does not start");
        }
        let copied = |path: &str| path.starts_with('/') && self.kubelet.copies(path);
        let mut of_files: Vec<Problem> = Vec::new();
        let config = self.args.config.as_ref().filter(|(_, path)| copied(path));
        if let Some((item, path)) = config {
            if matches!(self.files.read(path, crate::merge::FILE_LIMIT), Ok(None)) {
                refuse(item, "the kubelet's configuration file named here does not exist: K3s does not start");
            } else {
                of_files.extend(self.refused_file(path, false));
            }
        }
        let config_dir = self.args.config_dir.as_ref().filter(|(_, path)| copied(path));
        if let Some((item, path)) = config_dir {
            if matches!(self.files.list(path), Ok(None)) {
                refuse(item, "the kubelet's configuration folder named here does not exist: K3s does not start");
            } else {
                of_files.extend(read(self.files, path.trim_end_matches('/')).refused);
            }
        }
        // What K3s writes anew at its start is not as it lies there now.
        let folder = &self.kubelet.path;
        let written_anew = |path: &str| {
            let copied_from = |(_, source): &(_, String)| {
                let below = path.strip_prefix(folder)?.strip_prefix('/')?.strip_prefix(COPIED_FOLDER)?;
                Some(format!("{}{below}", source.trim_end_matches('/')))
            };
            path.strip_prefix(folder) == Some(&format!("/{OWN_FILE}"))
                || config.is_some() && self.kubelet.is_copy(path, COPIED_FILE)
                || config_dir.and_then(copied_from).is_some_and(|source| self.files.has_file(&source))
        };
        let stays = |problem: &&Problem| problem.path.as_deref().is_none_or(|path| !written_anew(path));
        of_files.extend(self.kubelet.refused.iter().filter(stays).cloned());
        problems.extend(of_files);
    }

    /// Anonymous requests are a matter of the flag or of the file.
    fn authentication(&self, flags: &Flags) -> Option<Problem> {
        let file = file_of(flags, "authentication-config").filter(|file| file.value.starts_with('/'))?;
        if !flags.contains_key("anonymous-auth") {
            return None;
        }
        let content = yaml_file(self.files, &file.value).ok()??;
        content.get("anonymous").filter(|block| !block.is_null())?;
        let by = passed_by(flags, "anonymous-auth");
        Some(of_flag(
            file,
            format!(
                "`authentication-config` with an `anonymous` block beside the `anonymous-auth` {by}: the API server takes one of them only, and K3s does not start"
            ),
        ))
    }

    /// The file the kubelet's own flag names.
    fn kubelet_file(&self, flags: &Flags) -> Option<Problem> {
        let path = &file_of(flags, "config")?.value;
        let there = path.starts_with('/') && self.files.has_file(path);
        there.then(|| self.refused_file(path, true)).flatten()
    }

    fn refused_file(&self, path: &str, alone: bool) -> Option<Problem> {
        let file = yaml_file(self.files, path).ok()?;
        let detail = refused(file.as_ref(), alone)?;
        Some(Problem { path: Some(path.to_owned()), line: None, detail: detail.to_owned() })
    }
}
