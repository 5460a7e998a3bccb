//! What judging looks at: the snapshot, one of its configurations, and the preconditions on them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use picket_model::{Evidence, Observation, Role, name};
use serde_json::Value;

use crate::admission::AdmissionConfig;
use crate::audit_policy::AuditPolicy;
use crate::catalogue::{Control, Term};
use crate::node_config::{NodeConfig, Setting, Traps};
use crate::policy::Policy;
use crate::registries::Registries;
use crate::snapshot::{DEFAULT_DATA_DIR, Snapshot};

/// The answer to a precondition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Yes,
    No(String),
    Unknown(String),
}

impl Answer {
    fn of(yes: bool, otherwise: &str) -> Self {
        if yes { Self::Yes } else { Self::No(otherwise.to_owned()) }
    }
}

/// A document, if it was looked at. Not known is how it was at a start, where it was changed since.
pub(crate) type Seen<'a, T> = Result<Option<&'a Observation<T>>, Forgotten>;

/// How a file was when the running process started is not known; why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Forgotten(pub(crate) String);

/// Why nothing is known of the kubelet's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unseen {
    /// They cannot be read, or which ones they are cannot be told.
    Unknown(String),
    /// How they were at the start is not known.
    Forgotten(String),
}

impl From<String> for Unseen {
    fn from(reason: String) -> Self {
        Self::Unknown(reason)
    }
}

impl From<Forgotten> for Unseen {
    fn from(Forgotten(reason): Forgotten) -> Self {
        Self::Forgotten(reason)
    }
}

type Dropins = BTreeMap<String, Observation<Value>>;

fn changed_since(path: &str) -> String {
    format!("{path} was changed after K3s started; what it held at the start is not known")
}

/// A snapshot seen through one of its configurations.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) snap: &'a Snapshot,
    pub(crate) policy: &'a Policy,
    config: &'a Observation<std::sync::Arc<NodeConfig>>,
    in_force: bool,
}

impl<'a> Context<'a> {
    pub(crate) fn declared(snap: &'a Snapshot, policy: &'a Policy) -> Self {
        Self { snap, policy, config: &snap.declared, in_force: false }
    }

    pub(crate) fn running(snap: &'a Snapshot, policy: &'a Policy) -> Self {
        Self { snap, policy, config: &snap.running, in_force: true }
    }

    /// What is in force where it is known, else what is on disk.
    pub(crate) fn in_force(snap: &'a Snapshot, policy: &'a Policy) -> Self {
        if snap.running.value().is_some() { Self::running(snap, policy) } else { Self::declared(snap, policy) }
    }

    /// The configuration, or why it is not known.
    pub(crate) fn config(&self) -> Result<&'a NodeConfig, String> {
        match self.config {
            Observation::Value { value } => Ok(value),
            Observation::Absent => Err("no K3s unit, environment file or config.yaml was found".to_owned()),
            Observation::Unreadable { reason } => Err(format!("the configuration of K3s cannot be read: {reason}")),
        }
    }

    /// Traps of this configuration, or why they are not known.
    pub(crate) fn traps(&self) -> Result<&'a Traps, String> {
        if self.in_force {
            return self.config().map(|config| config.traps.as_ref());
        }
        match &self.snap.traps {
            Observation::Value { value } => Ok(value),
            Observation::Absent => Err("no K3s unit, environment file or config.yaml was found".to_owned()),
            Observation::Unreadable { reason } => Err(format!("the configuration of K3s cannot be read: {reason}")),
        }
    }

    /// A path of the catalogue with the node's own data dir.
    pub(crate) fn path(&self, text: &str) -> String {
        match text.strip_prefix("<data-dir>").or_else(|| text.strip_prefix(DEFAULT_DATA_DIR)) {
            Some(rest) => format!("{}{rest}", self.snap.data_dir),
            None => text.to_owned(),
        }
    }

    /// A remedy with the node's own data dir.
    pub(crate) fn remedy(&self, text: &str) -> String {
        if self.snap.data_dir == DEFAULT_DATA_DIR {
            text.to_owned()
        } else {
            text.replace(DEFAULT_DATA_DIR, &self.snap.data_dir)
        }
    }

    /// The possible values of a component's flag: several where K3s versions differ.
    pub(crate) fn flag(&self, component: &str, name: &str) -> Result<Vec<&'a [Setting]>, String> {
        let config = self.config()?;
        let flags =
            config.components.get(component).ok_or_else(|| format!("the flags of {component} are not known"))?;
        // The kubelet's are spelled as it reads them.
        let spelled = |other: &&String| other.contains('_') && other.replace('_', "-") == name;
        if let Some(other) = flags.keys().find(spelled).filter(|_| component != "kubelet") {
            return Err(format!("--{other} is given: {component} knows no such flag and ends at its start"));
        }
        Ok(match flags.get(name) {
            Some(flag) if !flag.possible.is_empty() => flag.possible.iter().map(Vec::as_slice).collect(),
            _ => vec![&[][..]],
        })
    }

    /// The one value of a flag that names a file; none when it is not passed.
    pub(crate) fn file_flag(&self, name: &str) -> Result<Option<&'a Setting>, String> {
        self.file_flag_of("kube-apiserver", name)
    }

    fn file_flag_of(&self, component: &str, name: &str) -> Result<Option<&'a Setting>, String> {
        let possible = self.flag(component, name)?;
        let mut last: Vec<Option<&Setting>> = possible.iter().map(|values| values.last()).collect();
        last.dedup_by(|a, b| a.map(|s| &s.value) == b.map(|s| &s.value));
        match last.as_slice() {
            [one] => Ok(one.filter(|s| !s.value.is_empty())),
            _ => Err(format!("--{name} differs between K3s versions, and the version is not known")),
        }
    }

    /// An audit policy: what the running API server read, or what is on disk.
    pub(crate) fn audit_policy(&self, path: &str) -> Seen<'a, AuditPolicy> {
        self.document(path, &self.snap.audit_policies, &self.snap.read_at_start.audit_policies)
    }

    /// Whether what is in force is asked for, not what comes with the next start.
    pub(crate) const fn is_in_force(&self) -> bool {
        self.in_force
    }

    /// An admission configuration, likewise.
    pub(crate) fn admission_config(&self, path: &str) -> Seen<'a, AdmissionConfig> {
        self.document(path, &self.snap.admission_configs, &self.snap.read_at_start.admission_configs)
    }

    fn document<T>(
        &self,
        path: &str,
        on_disk: &'a BTreeMap<String, Observation<T>>,
        at_start: &'a BTreeMap<String, Observation<T>>,
    ) -> Seen<'a, T> {
        if !self.in_force {
            return Ok(on_disk.get(path));
        }
        at_start.get(path).map(Some).ok_or_else(|| Forgotten(changed_since(path)))
    }

    /// `registries.yaml`, likewise.
    pub(crate) fn registries(&self, path: &str) -> Result<&'a Observation<Registries>, Forgotten> {
        if self.in_force {
            self.snap.read_at_start.registries.as_ref().ok_or_else(|| Forgotten(changed_since(path)))
        } else {
            Ok(&self.snap.registries)
        }
    }

    /// The folder of the kubelet's drop-ins.
    pub(crate) fn kubelet_folder(&self) -> String {
        format!("{}/agent/etc/kubelet.conf.d", self.snap.data_dir)
    }

    /// The kubelet's drop-ins, likewise. K3s writes some of them at its start.
    pub(crate) fn kubelet_dropins(&self) -> Result<Cow<'a, Dropins>, Forgotten> {
        let snap = self.snap;
        if self.in_force {
            let forgotten = || Forgotten(changed_since(&self.kubelet_folder()));
            return snap.read_at_start.kubelet_dropins.as_ref().map(Cow::Borrowed).ok_or_else(forgotten);
        }
        if snap.kubelet_next.is_empty() {
            return Ok(Cow::Borrowed(&snap.kubelet_dropins));
        }
        let mut dropins = snap.kubelet_dropins.clone();
        dropins.extend(snap.kubelet_next.iter().map(|(path, seen)| (path.clone(), seen.clone())));
        Ok(Cow::Owned(dropins))
    }

    /// Where a drop-in stands now: one that will be copied, at its source.
    pub(crate) fn dropin_place<'p>(&self, path: &'p str) -> &'p str
    where
        'a: 'p,
    {
        let copied = self.snap.kubelet_copied_from.get(path).filter(|_| !self.in_force);
        copied.map_or(path, String::as_str)
    }

    /// The flag that names the kubelet a file of its own, beneath the drop-ins.
    pub(crate) fn kubelet_config_file(&self) -> Result<Option<&'a Setting>, String> {
        self.file_flag_of("kubelet", "config")
    }

    /// The kubelet's configuration, leaf by leaf: the file its flag `--config` names, and the drop-ins laid over it.
    /// `Ok(None)`: this K3s passes flags only.
    pub(crate) fn kubelet_leaves(
        &self,
        dropins: Result<&Dropins, &Forgotten>,
    ) -> Result<Option<BTreeMap<String, Setting>>, Unseen> {
        let mut merged = Value::Object(serde_json::Map::new());
        let mut leaves: BTreeMap<String, Setting> = BTreeMap::new();
        let base = self.kubelet_config_file()?;
        if let Some(Setting { value: path, .. }) = base {
            if !path.starts_with('/') {
                return Err(format!("the kubelet's --config is {path}: relative to what, is not known").into());
            }
            match self.document(path, &self.snap.kubelet_configs, &self.snap.read_at_start.kubelet_configs)? {
                Some(Observation::Value { value }) if is_other(value) => return Err(of_another_kind(path).into()),
                Some(Observation::Value { value }) => patch(&mut merged, value, "", path, &mut leaves, 0),
                Some(Observation::Unreadable { reason }) => {
                    return Err(format!("{path} cannot be read: {reason}").into());
                }
                Some(Observation::Absent) => return Err(format!("{path} does not exist").into()),
                None => return Err(format!("{path} was not looked at").into()),
            }
        }
        let folder = self.kubelet_folder();
        let version = version(self.snap.k3s_version.as_deref());
        let named = self.file_flag_of("kubelet", "config-dir").ok().flatten().filter(|named| named.value != folder);
        if let Some(named) = named {
            return Err(format!("the kubelet takes its drop-ins from {}, which is not read", named.value).into());
        }
        if version.is_some_and(|version| version < (1, 32, 0)) {
            return Ok(base.map(|_| leaves));
        }
        let dropins = dropins.map_err(|forgotten| forgotten.clone())?;
        match self.snap.folders.get(&folder) {
            Some(Observation::Value { .. }) => {}
            // What the kubelet read holds, whatever became of the folder.
            _ if self.in_force && !dropins.is_empty() => {}
            Some(Observation::Absent) if version.is_some() => {
                return Err(format!("{folder} does not exist: the kubelet has not been started yet").into());
            }
            Some(Observation::Absent) => {
                return Err(format!("{folder} does not exist, and the version of K3s is not known").into());
            }
            Some(Observation::Unreadable { reason }) => {
                return Err(format!("{folder} cannot be read: {reason}").into());
            }
            None => return Err(format!("{folder} was not looked at").into()),
        }
        let mut defaults = false;
        let mut dropins: Vec<_> = dropins.iter().collect();
        // The kubelet goes folder by folder, by the names themselves, not by how they are written.
        dropins.sort_by_cached_key(|(path, _)| {
            name::bytes(path.as_bytes()).split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>()
        });
        for (path, dropin) in dropins {
            let unseen = matches!(dropin, Observation::Unreadable { .. });
            if !path.starts_with(&folder) || !path.ends_with(".conf") && !unseen {
                continue;
            }
            let place = self.dropin_place(path);
            match dropin {
                Observation::Value { value } if is_other(value) => return Err(of_another_kind(place).into()),
                Observation::Value { value } => {
                    defaults |= path.ends_with("/00-k3s-defaults.conf");
                    patch(&mut merged, &as_laid_over(value), "", place, &mut leaves, 0);
                }
                Observation::Absent => {}
                Observation::Unreadable { reason } => return Err(format!("{place} cannot be read: {reason}").into()),
            }
        }
        if !defaults {
            return Err(format!("{folder} has no 00-k3s-defaults.conf: the kubelet has not been started yet").into());
        }
        Ok(Some(leaves))
    }

    /// Whether a component runs on this server at all; why not otherwise.
    pub(crate) fn disabled(&self, component: &str) -> Option<String> {
        let option = match component {
            "kube-apiserver" => "disable-apiserver",
            "kube-controller-manager" => "disable-controller-manager",
            "kube-scheduler" => "disable-scheduler",
            _ => return None,
        };
        self.config().ok()?.is_true(option).then(|| format!("{component} does not run here: {option}"))
    }

    /// Judges all terms of a control's precondition. False beats unknown: a part that certainly is not there needs no
    /// further evidence.
    pub(crate) fn applies(&self, control: &Control) -> Answer {
        let mut doubt = None;
        for term in &control.applies_when.0 {
            match self.term(*term) {
                Answer::Yes => {}
                Answer::Unknown(reason) => doubt = doubt.or(Some(reason)),
                no @ Answer::No(_) => return no,
            }
        }
        doubt.map_or(Answer::Yes, Answer::Unknown)
    }

    fn term(&self, term: Term) -> Answer {
        let with_config = |judge: &dyn Fn(&NodeConfig) -> Answer| match self.config() {
            Ok(config) => judge(config),
            Err(reason) => Answer::Unknown(reason),
        };
        match term {
            Term::Always => Answer::Yes,
            Term::NeverOnK3s => Answer::No("the component runs inside the k3s process".to_owned()),
            Term::NodeWithKubelet => self.kubelet(),
            Term::KubeProxyEnabled => self.kubelet_and(&|config| {
                Answer::of(!config.is_true("disable-kube-proxy"), "kube-proxy is off: disable-kube-proxy")
            }),
            Term::FlannelOrKubeProxy => self.kubelet_and(&|config| {
                let flannel = config.option("flannel-backend").is_none_or(|s| s.value != "none");
                Answer::of(flannel || !config.is_true("disable-kube-proxy"), "neither flannel nor kube-proxy runs here")
            }),
            Term::CloudControllerEnabled => match self.snap.role {
                Some(Role::Agent) => Answer::No("agents run no cloud controller".to_owned()),
                None => Answer::Unknown(NO_ROLE.to_owned()),
                Some(Role::Server) => with_config(&|config| {
                    let off = config.is_true("disable-cloud-controller") && config.list_has("disable", "servicelb");
                    Answer::of(
                        !off,
                        "the cloud controller does not run: disable-cloud-controller, and servicelb is off",
                    )
                }),
            },
            Term::FlannelOrHostLocalCni => {
                self.exists("/var/lib/cni/networks", "no leases of host-local: /var/lib/cni/networks does not exist")
            }
            Term::K3sAtLeast132 => self.at_least_132(),
            Term::MultiNode => match self.snap.role {
                Some(Role::Agent) => Answer::Yes,
                Some(Role::Server) => Answer::Unknown(
                    "a server cannot tell from its files whether other nodes exist; the collector can".to_owned(),
                ),
                None => Answer::Unknown(NO_ROLE.to_owned()),
            },
            Term::JoinedNode => with_config(&|config| {
                Answer::of(joined(config), "this node joins no other: neither server nor K3S_URL is set")
            }),
            Term::EmbeddedEtcd => self.embedded_etcd(),
            Term::Sqlite => self.sqlite(),
            Term::ExternalDatastore => with_config(&|config| {
                if config.option("datastore-endpoint").is_none_or(|s| s.value.is_empty()) {
                    return Answer::No("no external datastore: datastore-endpoint is not set".to_owned());
                }
                Answer::of(external_datastore(config), "the datastore is SQLite")
            }),
            Term::SecretsEncryptionOn => self.exists(
                &format!("{}/server/cred/encryption-config.json", self.snap.data_dir),
                "secrets encryption is off: there is no encryption-config.json",
            ),
            Term::AuditPolicyFileSet => self.flag_set("audit-policy-file"),
            Term::AuditLogPathSet => self.flag_set("audit-log-path"),
            Term::PsaConfigPresent => self.flag_set("admission-control-config-file"),
            Term::SelinuxEnforcing => match &self.snap.selinux_enforcing {
                Observation::Value { value: true } => Answer::Yes,
                Observation::Value { value: false } => Answer::No("SELinux does not enforce".to_owned()),
                Observation::Absent => Answer::No("this kernel has no SELinux".to_owned()),
                Observation::Unreadable { reason } => {
                    Answer::Unknown(format!("whether SELinux enforces cannot be read: {reason}"))
                }
            },
        }
    }

    fn kubelet(&self) -> Answer {
        match self.snap.role {
            Some(Role::Agent) => Answer::Yes,
            Some(Role::Server) => match self.config() {
                Ok(config) => Answer::of(!config.is_true("disable-agent"), "no kubelet here: disable-agent"),
                Err(reason) => Answer::Unknown(reason),
            },
            None => Answer::Unknown(NO_ROLE.to_owned()),
        }
    }

    /// A kubelet, and on a server a condition on its options; an agent takes the defaults of options of servers.
    fn kubelet_and(&self, judge: &dyn Fn(&NodeConfig) -> Answer) -> Answer {
        match (self.kubelet(), self.snap.role, self.config()) {
            (Answer::Yes, Some(Role::Server), Ok(config)) => judge(config),
            (answer, ..) => answer,
        }
    }

    fn at_least_132(&self) -> Answer {
        if let Some(version) = version(self.snap.k3s_version.as_deref()) {
            return Answer::of(version >= (1, 32, 0), "K3s before 1.32 has no drop-ins of the kubelet");
        }
        let folder = format!("{}/agent/etc/kubelet.conf.d", self.snap.data_dir);
        match self.snap.files.get(&folder) {
            Some(Observation::Value { .. }) => Answer::Yes,
            Some(Observation::Absent) => {
                Answer::Unknown(format!("the version of K3s is not known, and {folder} does not exist"))
            }
            Some(Observation::Unreadable { reason }) => Answer::Unknown(format!("{folder} cannot be read: {reason}")),
            None => Answer::Unknown("the version of K3s is not known".to_owned()),
        }
    }

    pub(crate) fn embedded_etcd(&self) -> Answer {
        let folder = self.exists(
            &format!("{}/server/db/etcd", self.snap.data_dir),
            "no embedded etcd: neither its folder nor an option that starts it",
        );
        if folder == Answer::Yes {
            return Answer::Yes;
        }
        match self.config() {
            Ok(config) => {
                let joins = self.snap.role == Some(Role::Server)
                    && joined(config)
                    && config.option("datastore-endpoint").is_none_or(|s| s.value.is_empty());
                if config.is_true("cluster-init") || joins { Answer::Yes } else { folder }
            }
            Err(reason) => Answer::Unknown(reason),
        }
    }

    pub(crate) fn sqlite(&self) -> Answer {
        // K3s follows the endpoint, whatever file of former days lies about.
        if self.config().is_ok_and(external_datastore) {
            return Answer::No("the datastore is external: datastore-endpoint".to_owned());
        }
        let db = format!("{}/server/db", self.snap.data_dir);
        match self.exists(&format!("{db}/state.db"), "the datastore is not SQLite: there is no state.db") {
            Answer::Yes => {}
            other => return other,
        }
        match self.exists(&format!("{db}/etcd/member"), "") {
            Answer::Yes => Answer::No("the datastore is embedded etcd".to_owned()),
            Answer::No(_) => Answer::Yes,
            unknown @ Answer::Unknown(_) => unknown,
        }
    }

    fn flag_set(&self, name: &str) -> Answer {
        if let Some(reason) = self.disabled("kube-apiserver") {
            return Answer::No(reason);
        }
        match self.file_flag(name) {
            Ok(Some(_)) => Answer::Yes,
            Ok(None) => Answer::No(format!("--{name} is not set")),
            Err(reason) => Answer::Unknown(reason),
        }
    }

    fn exists(&self, path: &str, otherwise: &str) -> Answer {
        match self.snap.files.get(path) {
            Some(Observation::Value { .. }) => Answer::Yes,
            Some(Observation::Absent) => Answer::No(otherwise.to_owned()),
            Some(Observation::Unreadable { reason }) => Answer::Unknown(format!("{path} cannot be read: {reason}")),
            None => Answer::Unknown(format!("{path} was not looked at")),
        }
    }
}

pub(crate) const NO_ROLE: &str = "the role of this node is not known: no K3s server or agent was found";

/// Whether an endpoint is set that is not SQLite's own.
pub(crate) fn external_datastore(config: &NodeConfig) -> bool {
    config.option("datastore-endpoint").is_some_and(|s| !s.value.is_empty() && !s.value.starts_with("sqlite://"))
}

fn joined(config: &NodeConfig) -> bool {
    config.option("server").is_some_and(|s| !s.value.is_empty())
}

/// `v1.36.2+k3s1` as (1, 36, 2).
pub(crate) fn version(text: Option<&str>) -> Option<(u32, u32, u32)> {
    let text = text?.trim().trim_start_matches('v');
    let core = text.split(['+', '-']).next()?;
    let mut parts = core.split('.').map(str::parse::<u32>);
    Some((parts.next()?.ok()?, parts.next()?.ok()?, parts.next().and_then(Result::ok).unwrap_or(0)))
}

/// Whether a file says that it is something else than settings of the kubelet. Without a word it is another matter.
fn is_other(file: &Value) -> bool {
    [("kind", "KubeletConfiguration"), ("apiVersion", "kubelet.config.k8s.io/v1beta1")]
        .iter()
        .any(|(key, own)| file.get(*key).and_then(Value::as_str).is_some_and(|said| said != *own))
}

fn of_another_kind(path: &str) -> String {
    format!(
        "{path} is no KubeletConfiguration of kubelet.config.k8s.io/v1beta1: what the kubelet makes of it is not known"
    )
}

/// Deepest level of a drop-in that is looked at; the kubelet's own configuration has five.
const MAX_DEPTH: usize = 16;

/// A drop-in as the kubelet lays it over what comes before: a zero of this field gets lost on the way.
fn as_laid_over(dropin: &Value) -> Cow<'_, Value> {
    let mut dropin = Cow::Borrowed(dropin);
    if dropin.get("readOnlyPort").and_then(Value::as_i64) == Some(0)
        && let Some(map) = dropin.to_mut().as_object_mut()
    {
        map.remove("readOnlyPort");
    }
    dropin
}

/// Lays a drop-in over what is merged so far, as a JSON merge patch, and keeps which file set each leaf.
fn patch(
    merged: &mut Value,
    new: &Value,
    prefix: &str,
    path: &str,
    leaves: &mut BTreeMap<String, Setting>,
    depth: usize,
) {
    let Value::Object(new) = new else { return };
    let Value::Object(target) = merged else { return };
    for (key, value) in new {
        if prefix.is_empty() && matches!(key.as_str(), "apiVersion" | "kind") {
            continue;
        }
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            Value::Object(_) if depth < MAX_DEPTH => {
                let slot = target.entry(key.clone()).or_insert_with(|| Value::Object(serde_json::Map::new()));
                if !slot.is_object() {
                    *slot = Value::Object(serde_json::Map::new());
                    leaves.remove(&name);
                }
                patch(slot, value, &name, path, leaves, depth + 1);
            }
            Value::Null => {
                target.remove(key);
                let below = format!("{name}.");
                leaves.retain(|leaf, _| leaf != &name && !leaf.starts_with(&below));
            }
            _ => {
                let below = format!("{name}.");
                leaves.retain(|leaf, _| !leaf.starts_with(&below));
                let text = match value {
                    Value::Array(items) => {
                        items.iter().filter_map(crate::document::scalar).collect::<Vec<_>>().join(",")
                    }
                    other => crate::document::scalar(other).unwrap_or_default(),
                };
                let layer = if path.ends_with("/00-k3s-defaults.conf") { "k3s-default" } else { "drop-in" };
                leaves.insert(name, Setting::new(text, Evidence::at(path, "").layer(layer)));
                target.insert(key.clone(), value.clone());
            }
        }
    }
}
