//! The kubelet's configuration from `kubelet.conf.d`: files merged in walk order as JSON merge patches.

use std::borrow::Cow;

use picket_model::name;
use serde_json::{Value, json};

use crate::components::{KubeletArgs, UserArg};
use crate::effective::{Problem, REDACTED};
use crate::files::{EntryKind, NodeFiles};
use crate::merge::FILE_LIMIT;
use crate::options::without_tokens;
use crate::yaml;

/// Sub-folders followed, and files read, at most.
const DEPTH_LIMIT: usize = 8;
const FILES_LIMIT: usize = 256;

/// Where in the folder K3s copies what `kubelet-arg` names as `config` and as `config-dir`.
pub(crate) const COPIED_FILE: &str = "10-cli-config.conf";
pub(crate) const COPIED_FOLDER: &str = "20-cli-config-dir";
/// What K3s itself writes there at every start.
pub(crate) const OWN_FILE: &str = "00-k3s-defaults.conf";

/// What the folder holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct KubeletConfig {
    /// The folder.
    pub(crate) path: String,
    /// Each file's content, in the order they are merged.
    pub(crate) parts: Vec<(String, Value)>,
    /// Files in the order they are merged.
    pub(crate) files: Vec<String>,
    pub(crate) problems: Vec<Problem>,
    /// Files the kubelet ends at.
    pub(crate) refused: Vec<Problem>,
    /// Whether the folder exists.
    pub(crate) folder: bool,
}

/// Reads and merges a folder.
pub(crate) fn read(files: &dyn NodeFiles, folder: &str) -> KubeletConfig {
    let mut out = KubeletConfig { path: folder.to_owned(), ..KubeletConfig::default() };
    walk(files, folder, 0, &mut out);
    for path in out.files.clone() {
        let file = yaml_file(files, &path);
        if let Ok(value) = &file
            && let Some(detail) = refused(value.as_ref(), false)
        {
            out.refused.push(Problem { path: Some(path.clone()), line: None, detail: detail.to_owned() });
        }
        match file {
            Ok(Some(value)) if value.is_object() => out.parts.push((path, value)),
            Ok(Some(Value::Null) | None) => {}
            Ok(Some(_)) => {
                let detail = "cannot be read: no map of settings at the top; the kubelet's settings are not known";
                out.problems.push(Problem { path: Some(path), line: None, detail: detail.to_owned() });
            }
            Err(problem) => out.problems.push(problem),
        }
    }
    out
}

impl KubeletConfig {
    /// The merged configuration; none if no file counts.
    pub(crate) fn merged(&self) -> Option<Value> {
        let mut parts = self.parts.iter().map(|(_, value)| value.clone());
        let first = merge_patch(Value::Null, parts.next()?);
        Some(parts.fold(first, merge_patch))
    }

    /// Whether K3s copies what lies at `source`: not what lies in the folder already.
    pub(crate) fn copies(&self, source: &str) -> bool {
        !source.starts_with(&self.path)
    }

    /// What the next start does to the folder.
    pub(crate) fn at_next_start(&self, args: &KubeletArgs, own: &OwnFile<'_>) -> KubeletFolder {
        let copied = |named: &Option<(UserArg, String)>| {
            let source = named.as_ref().map(|(_, source)| source).filter(|source| self.copies(source))?;
            Some(if source.len() > 1 { source.trim_end_matches('/') } else { source }.to_owned())
        };
        KubeletFolder {
            path: self.path.clone(),
            copied_file: copied(&args.config),
            copied_folder: copied(&args.config_dir),
            own: own.patch(),
        }
    }

    /// Whether `file` is the copy of that name, or in it.
    pub(crate) fn is_copy(&self, file: &str, copy: &str) -> bool {
        file.strip_prefix(&self.path)
            .and_then(|f| f.strip_prefix('/'))
            .and_then(|f| f.strip_prefix(copy))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The last file wins, so what is not looked at may decide.
    fn limit(&mut self, folder: &str, what: &str) {
        let detail = format!("cannot be looked through: {what}; the kubelet's files are not known");
        self.problems.push(Problem { path: Some(folder.to_owned()), line: None, detail });
    }
}

/// Why the kubelet ends at a file of its settings; none where it takes it, or where that is said elsewhere. `alone`: the
/// file its flag `--config` names, which has to say its version too.
pub(crate) fn refused(file: Option<&Value>, alone: bool) -> Option<&'static str> {
    let says = |key: &str| {
        let value = file.and_then(|file| file.get(key));
        value.and_then(Value::as_str).is_some_and(|text| !text.is_empty())
    };
    match file {
        None | Some(Value::Null) => Some(
            "a file of the kubelet without content: the kubelet does not start with it, nor does K3s; remove it, or write `apiVersion: \
             kubelet.config.k8s.io/v1beta1`, `kind: KubeletConfiguration` and the settings",
        ),
        Some(Value::Object(_)) if !says("kind") || alone && !says("apiVersion") => Some(
            "a file of the kubelet that does not say what it is: the kubelet does not start with it, nor does K3s; add `apiVersion: \
             kubelet.config.k8s.io/v1beta1` and `kind: KubeletConfiguration`",
        ),
        Some(_) => None,
    }
}

/// What K3s' own file follows from.
#[derive(Debug)]
pub(crate) struct OwnFile<'a> {
    pub(crate) data_dir: &'a str,
    /// `protect-kernel-defaults`.
    pub(crate) protect: bool,
    /// Pods may set the kernel parameters ServiceLB needs.
    pub(crate) service_lb: bool,
}

impl OwnFile<'_> {
    /// The settings that are judged, as K3s writes them; null for those it never writes. Others differ with the host
    /// and the version of the kubelet.
    fn patch(&self) -> Value {
        let agent = format!("{}/agent", self.data_dir);
        json!({
            "authentication": {
                "anonymous": {"enabled": false},
                "webhook": {"enabled": true},
                "x509": {"clientCAFile": format!("{agent}/client-ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": format!("{agent}/serving-kubelet.crt"),
            "tlsPrivateKeyFile": format!("{agent}/serving-kubelet.key"),
            "staticPodPath": format!("{agent}/pod-manifests"),
            "streamingConnectionIdleTimeout": "4h0m0s",
            "protectKernelDefaults": self.protect.then_some(true),
            "allowedUnsafeSysctls":
                self.service_lb.then_some(["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"]),
            "readOnlyPort": null,
            "tlsMinVersion": null,
            "tlsCipherSuites": null,
            "makeIPTablesUtilChains": null,
            "podPidsLimit": null,
            "eventRecordQPS": null,
            "rotateCertificates": null,
            "serverTLSBootstrap": null,
            "seccompDefault": null,
            "featureGates": null,
            "staticPodURL": null,
            "staticPodURLHeader": null,
        })
    }
}

/// What K3s does to the folder of the kubelet's drop-ins at its next start, from 1.32 on: it writes its own file anew,
/// and copies what `kubelet-arg` names. Nothing is ever taken away.
#[derive(Debug, Clone, PartialEq)]
pub struct KubeletFolder {
    /// The folder.
    pub path: String,
    /// The file that is copied.
    pub copied_file: Option<String>,
    /// The folder that is copied, without a slash at its end.
    pub copied_folder: Option<String>,
    own: Value,
}

impl KubeletFolder {
    /// K3s' own file.
    pub fn own_file(&self) -> String {
        format!("{}/{OWN_FILE}", self.path)
    }

    /// Where the file goes.
    pub fn copy_of_file(&self) -> String {
        format!("{}/{COPIED_FILE}", self.path)
    }

    /// Where the folder goes.
    pub fn copy_of_folder(&self) -> String {
        format!("{}/{COPIED_FOLDER}", self.path)
    }

    /// K3s' own file as it will be written: `now` without what somebody else made of it.
    #[must_use]
    pub fn own_file_anew(&self, now: &Value) -> Value {
        merge_patch(now.clone(), self.own.clone())
    }

    /// Whether somebody changed K3s' own file after K3s had written it. `same_options`: the options are still those it
    /// was written from; two of its settings follow them.
    pub fn own_file_is_changed(&self, now: &Value, same_options: bool) -> bool {
        let mut own = self.own.clone();
        if let Value::Object(own) = &mut own
            && !same_options
        {
            own.retain(|key, _| !matches!(key.as_str(), "protectKernelDefaults" | "allowedUnsafeSysctls"));
        }
        merge_patch(now.clone(), own) != *now
    }
}

/// A YAML or JSON file as JSON.
pub(crate) fn yaml_file(files: &dyn NodeFiles, path: &str) -> Result<Option<Value>, Problem> {
    let problem = |line, detail: String| Problem { path: Some(path.to_owned()), line, detail };
    let Some(bytes) =
        files.read(path, FILE_LIMIT).map_err(|reason| problem(None, format!("cannot be read: {reason}")))?
    else {
        return Ok(None);
    };
    let document = yaml::load(&bytes).map_err(|e| problem(e.line, e.detail))?;
    if let Some(line) = document.merge_keys.first() {
        let detail = "cannot be read: a merge key (<<) is not followed here; write the settings out";
        return Err(problem(Some(*line), detail.to_owned()));
    }
    Ok(document.root.map(|root| without_secrets(yaml::to_json(&root))))
}

/// A kubelet's configuration without what may be secret in it: `staticPodURLHeader` holds the headers with which the
/// kubelet fetches pods, so credentials as a rule.
pub fn without_secrets(mut config: Value) -> Value {
    if let Some(headers) = config.get_mut("staticPodURLHeader").filter(|headers| !headers.is_null()) {
        *headers = REDACTED.into();
    }
    drop_tokens(&mut config);
    config
}

/// K3s' tokens have no place here, and so may stand anywhere.
fn drop_tokens(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Cow::Owned(shown) = without_tokens(text) {
                *text = shown;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(drop_tokens),
        Value::Object(map) => {
            map.values_mut().for_each(drop_tokens);
            let named: Vec<String> =
                map.keys().filter(|key| matches!(without_tokens(key), Cow::Owned(_))).cloned().collect();
            for key in named {
                if let Some(value) = map.remove(&key) {
                    map.insert(without_tokens(&key).into_owned(), value);
                }
            }
        }
        _ => {}
    }
}

fn walk(files: &dyn NodeFiles, folder: &str, depth: usize, out: &mut KubeletConfig) {
    let entries = match files.list(folder) {
        Ok(Some(entries)) => entries,
        Ok(None) => return,
        Err(reason) => {
            let detail = format!("cannot be listed: {reason}; the kubelet's files are not known");
            out.problems.push(Problem { path: Some(folder.to_owned()), line: None, detail });
            return;
        }
    };
    if depth == 0 {
        out.folder = true;
    }
    let mut entries = entries;
    entries.sort_by_cached_key(|e| name::bytes(e.name.as_bytes()).into_owned());
    for entry in entries {
        let path = format!("{folder}/{}", entry.name);
        match entry.kind {
            EntryKind::Dir if depth < DEPTH_LIMIT => walk(files, &path, depth + 1, out),
            EntryKind::Dir => out.limit(&path, &format!("more than {DEPTH_LIMIT} folders deep")),
            EntryKind::File | EntryKind::LinkToFile | EntryKind::UnreadableLink if entry.name.ends_with(".conf") => {
                if out.files.len() >= FILES_LIMIT {
                    return out.limit(folder, &format!("more than {FILES_LIMIT} files"));
                }
                out.files.push(path);
            }
            _ => {}
        }
    }
}

/// RFC 7396: maps merge key by key, null removes, everything else replaces.
pub(crate) fn merge_patch(base: Value, patch: Value) -> Value {
    let Value::Object(patch) = patch else { return patch };
    let mut map = match base {
        Value::Object(map) => map,
        _ => serde_json::Map::new(),
    };
    for (key, value) in patch {
        if value.is_null() {
            map.remove(&key);
        } else {
            let old = map.remove(&key).unwrap_or(Value::Null);
            map.insert(key, merge_patch(old, value));
        }
    }
    Value::Object(map)
}
