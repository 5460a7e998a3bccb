//! The effective configuration of a node: what K3s will see, with the place each value comes from.

use std::collections::BTreeMap;

use picket_model::Role;
use serde::{Deserialize, Serialize};

use crate::kubelet_config::KubeletFolder;
use crate::version::K3sVersion;

/// What stands in place of a secret value. The value itself is dropped as soon as it has been read.
pub const REDACTED: &str = "<redacted>";

/// The part of the configuration a value comes from. Stronger layers come later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// K3s' own default.
    K3sDefault,
    /// Environment variable, from the unit or one of its environment files.
    Environment,
    /// `config.yaml`, or the file named in its place.
    ConfigFile,
    /// A file in `config.yaml.d`.
    DropIn,
    /// The command line, from the unit's `ExecStart`.
    CommandLine,
}

impl Layer {
    /// The name used in evidence and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::K3sDefault => "k3s-default",
            Self::Environment => "environment",
            Self::ConfigFile => "config-file",
            Self::DropIn => "drop-in",
            Self::CommandLine => "command-line",
        }
    }
}

/// One value of an option, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OptionValue {
    /// The value as K3s gets it; [`REDACTED`] for secrets.
    pub value: String,
    /// File, in the node's terms.
    pub path: Option<String>,
    /// Line in that file, from 1.
    pub line: Option<u32>,
    /// The layer.
    pub layer: Layer,
    /// Whether K3s knows this option in the node's role. A server drops unknown ones, an agent dies of them.
    pub known: bool,
}

/// One value of a component's flag, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlagValue {
    /// The value as the component gets it.
    pub value: String,
    /// File, in the node's terms; none for K3s' own defaults.
    pub path: Option<String>,
    /// Line in that file, from 1.
    pub line: Option<u32>,
    /// The layer.
    pub layer: Layer,
}

/// Flags of one component, by name without dashes; values in the order they are passed.
pub type Flags = BTreeMap<String, Vec<FlagValue>>;

/// Something with which K3s would refuse to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// File, in the node's terms.
    pub path: Option<String>,
    /// Line in that file, from 1.
    pub line: Option<u32>,
    /// What is wrong and what to do. Never a value that may be secret.
    pub detail: String,
}

/// The kinds of traps: what weakens a node, or puts other settings in force than the files show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trap {
    /// A key that a server drops.
    UnknownKey,
    /// A dangling link among the drop-ins: no configuration file counts.
    DanglingDropIn,
    /// `-config X` or `--c X`: the default file is read.
    ConfigNotRead,
    /// A list inside a list: cut to its first item.
    NestedList,
    /// A top-level merge key: nothing of it is set.
    MergeKeyLost,
    /// A map where a text was meant (`a: b` for `a=b`).
    MapValue,
    /// Old and new name of one option side by side.
    OldAndNewName,
    /// An unquoted token that reads as a number.
    NumericToken,
    /// An unquoted scalar that YAML 1.1 reads as something else than written.
    ScalarReread,
    /// A file mode written without quotes that becomes another one.
    OctalMode,
    /// A word after a boolean: later options are ignored.
    OptionsIgnored,
    /// A `kubelet-arg` without `=` that swallows the next one.
    KubeletArgSwallowed,
    /// A drop-in without `+` that throws away earlier values of a list.
    ListReplaced,
    /// A K3s default dropped by a user's argument without `+=`.
    DefaultDropped,
    /// `tls-cipher-suites`, `tls-min-version` and the like in a form K3s does not recognise.
    TlsArgForm,
    /// `authentication-config` replaces `anonymous-auth=false`.
    AnonymousDefault,
    /// A copy in `kubelet.conf.d` that outlives its argument.
    StaleKubeletCopy,
    /// A secret in clear text in a configuration file or unit.
    PlaintextSecret,
    /// More than one YAML document; only the first counts.
    SecondDocument,
    /// A key given more than once in one file; the last one counts.
    DuplicateKey,
    /// A part of the unit or an environment file that could not be read or understood.
    UnitNotUnderstood,
    /// More were found than are listed.
    More,
}

impl Trap {
    /// The name used in findings and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownKey => "unknown-key",
            Self::DanglingDropIn => "dangling-drop-in",
            Self::ConfigNotRead => "config-not-read",
            Self::NestedList => "nested-list",
            Self::MergeKeyLost => "merge-key-lost",
            Self::MapValue => "map-value",
            Self::OldAndNewName => "old-and-new-name",
            Self::NumericToken => "numeric-token",
            Self::ScalarReread => "scalar-reread",
            Self::OctalMode => "octal-mode",
            Self::OptionsIgnored => "options-ignored",
            Self::KubeletArgSwallowed => "kubelet-arg-swallowed",
            Self::ListReplaced => "list-replaced",
            Self::DefaultDropped => "default-dropped",
            Self::TlsArgForm => "tls-arg-form",
            Self::AnonymousDefault => "anonymous-default",
            Self::StaleKubeletCopy => "stale-kubelet-copy",
            Self::PlaintextSecret => "plaintext-secret",
            Self::SecondDocument => "second-document",
            Self::DuplicateKey => "duplicate-key",
            Self::UnitNotUnderstood => "unit-not-understood",
            Self::More => "more",
        }
    }
}

impl Problem {
    /// Whether this says that something could not be read, rather than that K3s would refuse it.
    pub fn is_blindness(&self) -> bool {
        ["cannot be read: ", "cannot be listed: ", "cannot be looked through: "]
            .iter()
            .any(|words| self.detail.contains(words))
    }
}

/// A trap that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// The kind.
    pub trap: Trap,
    /// File, in the node's terms.
    pub path: Option<String>,
    /// Line in that file, from 1.
    pub line: Option<u32>,
    /// The option or flag concerned, if there is one.
    pub option: Option<String>,
    /// What happens and what to do. Never a value that may be secret.
    pub detail: String,
}

impl Warning {
    /// What could not be read, if this says so.
    pub fn unread(&self) -> Option<Problem> {
        let said = Problem { path: self.path.clone(), line: self.line, detail: self.detail.clone() };
        Some(said).filter(|said| self.trap == Trap::UnitNotUnderstood && said.is_blindness())
    }
}

/// The configuration K3s will start with, as far as the files tell.
///
/// Serialises as `picketd config -o json`. Holds no secret.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EffectiveConfig {
    /// Role of the node, if it could be told.
    pub role: Option<Role>,
    /// Version of K3s, if it is known.
    pub version: Option<K3sVersion>,
    /// Options that are set, by long name; values in the order K3s sees them.
    pub options: BTreeMap<String, Vec<OptionValue>>,
    /// Components and the flags K3s passes to them. Where the version is not known: the flags all possible versions agree on.
    pub components: BTreeMap<String, Flags>,
    /// The kubelet's configuration from `kubelet.conf.d` (K3s 1.32 and later); none without the folder or with nothing in it.
    pub kubelet_config: Option<serde_json::Value>,
    /// What the next start does to that folder.
    #[serde(skip)]
    pub(crate) kubelet_folder: Option<KubeletFolder>,
    /// Embedded etcd's configuration as written at the last start; none without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etcd_config: Option<serde_json::Value>,
    /// What K3s would refuse, and what could not be read.
    pub problems: Vec<Problem>,
    /// What could not be read and may decide: options and flags may be others than are said here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<Problem>,
    /// What it would take, with an effect nobody meant.
    pub warnings: Vec<Warning>,
    /// The unit the command line was taken from, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The program the unit starts.
    #[serde(skip)]
    pub(crate) program: Option<String>,
    /// Components in each version that is possible here; one entry where the version is known.
    #[serde(skip)]
    pub(crate) variants: Vec<(K3sVersion, BTreeMap<String, Flags>)>,
    /// K3s' default of each option that has one.
    #[serde(skip)]
    pub(crate) defaults: BTreeMap<String, String>,
    /// The life of new certificates in days where the environment sets it, with path and line.
    #[serde(skip)]
    pub(crate) certificate_days: Option<(String, String, u32)>,
    /// Whether the configuration files could be read and merged; if not, their values are not known.
    #[serde(skip)]
    pub(crate) files_understood: bool,
    /// Configuration files with their drop-ins, present or not.
    #[serde(skip)]
    pub(crate) config_files: Vec<String>,
    /// The unit or script, and drop-ins of the unit.
    #[serde(skip)]
    pub(crate) unit_files: Vec<String>,
    /// Files with the environment of the service, present or not.
    #[serde(skip)]
    pub(crate) environment_files: Vec<String>,
    /// Files that were looked at, present or not: what to watch.
    #[serde(skip)]
    pub(crate) sources: Vec<String>,
}

/// Values of a flag over the versions that are possible on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AcrossVersions {
    /// All versions pass the same values (none where the flag is not passed).
    Same(Vec<FlagValue>),
    /// Versions differ: the first version of each run of equal values, oldest first.
    Differs(Vec<(K3sVersion, Vec<FlagValue>)>),
}
