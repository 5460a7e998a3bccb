//! The catalogue of controls: data, not code. Its vocabulary is documented at the top of `catalogue/controls.yaml`.

mod custom;

use std::collections::BTreeMap;

pub use custom::{CustomControls, CustomProblem};
use picket_model::Severity;
use serde::Deserialize;
use serde_json::Value;

use crate::background::Background;
use crate::packed::unpack;

/// A catalogue that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    /// Not the YAML or JSON it should be, or a word that is not in the vocabulary.
    #[error("the catalogue of controls cannot be read: {0}")]
    Syntax(String),
    /// Two controls of one id.
    #[error("control {0} is in the catalogue twice")]
    Twice(String),
    /// A combination names a control that does not exist, or a value has the wrong form.
    #[error("control {id}: {what}")]
    Wrong {
        /// The control.
        id: String,
        /// What is wrong with it.
        what: String,
    },
}

/// All controls.
#[derive(Debug, Clone)]
pub struct Catalogue {
    controls: Vec<Control>,
}

impl Catalogue {
    /// The catalogue that is compiled in.
    ///
    /// # Errors
    /// Never for the catalogue as shipped: a test reads it.
    pub fn built_in() -> Result<Self, CatalogueError> {
        let text = unpack(include_bytes!(concat!(env!("OUT_DIR"), "/controls.json.z")))
            .map_err(|error| CatalogueError::Syntax(error.to_string()))?;
        Self::from_json(&text)
    }

    /// Reads a catalogue from JSON.
    ///
    /// # Errors
    /// When it is not one.
    pub fn from_json(text: &[u8]) -> Result<Self, CatalogueError> {
        let controls: Vec<Control> =
            serde_json::from_slice(text).map_err(|error| CatalogueError::Syntax(error.to_string()))?;
        Self::checked(controls)
    }

    /// Reads a catalogue from YAML, in the form of `catalogue/controls.yaml`.
    ///
    /// # Errors
    /// When it is not one.
    pub fn from_yaml(text: &str) -> Result<Self, CatalogueError> {
        let controls: Vec<Control> =
            serde_saphyr::from_str(text).map_err(|error| CatalogueError::Syntax(error.to_string()))?;
        Self::checked(controls)
    }

    fn checked(mut controls: Vec<Control>) -> Result<Self, CatalogueError> {
        for control in &mut controls {
            control.what.shrink_to_fit();
        }
        let catalogue = Self { controls };
        let mut seen = std::collections::BTreeSet::new();
        for control in &catalogue.controls {
            if !seen.insert(control.id.as_str()) {
                return Err(CatalogueError::Twice(control.id.clone()));
            }
            let wrong = |what: &str| CatalogueError::Wrong { id: control.id.clone(), what: what.to_owned() };
            if control.what.is_empty() {
                return Err(wrong("`what` is empty"));
            }
            if control.expected.op == Op::ModeAtMost && control.expected.mode().is_none() {
                return Err(wrong("the value of mode_at_most is no octal mode"));
            }
        }
        Ok(catalogue)
    }

    /// All controls, in the order of the catalogue.
    pub fn controls(&self) -> &[Control] {
        &self.controls
    }

    /// The control with this id.
    pub fn get(&self, id: &str) -> Option<&Control> {
        self.controls.iter().find(|c| c.id == id)
    }
}

/// One requirement. The compiled-in catalogue lists the values in the order of these fields, see `build.rs`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// Stable key.
    pub id: String,
    /// The control in a sentence.
    pub title: String,
    /// Benchmark version to control number; empty for Picket's own controls.
    pub cis: BTreeMap<String, String>,
    /// CIS profile level; for Picket's own controls 1 = always, 2 = opt-in.
    pub level: u8,
    /// CIS's own label. It is printed and decides nothing.
    pub assessment: Assessment,
    /// Which nodes it is for.
    pub scope: Scope,
    /// Where the evidence comes from.
    pub source: Source,
    /// What is looked at; the first item is primary.
    pub what: Vec<String>,
    /// The requirement.
    pub expected: Expected,
    /// What to do about a failure.
    #[serde(rename = "how_to_fix")]
    pub remedy: String,
    /// How bad a failure is.
    pub severity: Severity,
    /// Precondition: terms that must all hold.
    pub applies_when: Terms,
    /// Whether it is only in old benchmark versions.
    pub status: Standing,
    /// What a control of the node's own says for people. For those of the catalogue: [`crate::Background::of`].
    #[serde(skip)]
    pub background: Option<Box<Background>>,
    /// For people; not kept in the packed form.
    #[serde(default, rename = "k3s_default")]
    _k3s_default: Ignored,
    #[serde(default, rename = "why")]
    _why: Ignored,
    #[serde(default, rename = "notes")]
    _notes: Ignored,
    #[serde(default, rename = "kube_bench_1_9")]
    _kube_bench: Ignored,
    #[serde(default, rename = "unverified")]
    _unverified: Ignored,
    #[serde(default, rename = "verified")]
    _verified: Ignored,
    #[serde(default, rename = "evidence")]
    _evidence: Ignored,
}

/// A field that is allowed and not kept.
#[derive(Debug, Clone, Copy, Default)]
struct Ignored;

impl<'de> Deserialize<'de> for Ignored {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

/// CIS's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Assessment {
    /// A program can tell.
    Automated,
    /// A person is asked.
    Manual,
}

/// Which nodes a control is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Servers.
    Server,
    /// Plain agents.
    Agent,
    /// Servers with embedded etcd.
    EtcdServer,
    /// All nodes.
    EveryNode,
    /// The cluster as a whole: a server answers as far as its own sources go, an agent gives no row.
    Cluster,
}

/// Where the evidence comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
pub enum Source {
    /// Permission bits.
    #[serde(rename = "file-mode")]
    FileMode,
    /// Owners.
    #[serde(rename = "file-owner")]
    FileOwner,
    /// Options of K3s.
    #[serde(rename = "flag:k3s")]
    K3s,
    /// Flags of the API server.
    #[serde(rename = "flag:kube-apiserver")]
    ApiServer,
    /// Flags of the controller manager.
    #[serde(rename = "flag:kube-controller-manager")]
    ControllerManager,
    /// Flags of the scheduler.
    #[serde(rename = "flag:kube-scheduler")]
    Scheduler,
    /// Flags of the cloud controller manager.
    #[serde(rename = "flag:cloud-controller-manager")]
    CloudController,
    /// Flags and drop-ins of the kubelet.
    #[serde(rename = "flag:kubelet")]
    Kubelet,
    /// The configuration file of embedded etcd.
    #[serde(rename = "flag:etcd")]
    Etcd,
    /// Kernel parameters, live or persisted.
    #[serde(rename = "sysctl")]
    Sysctl,
    /// The encryption configuration and its state file.
    #[serde(rename = "secrets-encryption")]
    SecretsEncryption,
    /// Token files.
    #[serde(rename = "token")]
    Token,
    /// Certificates.
    #[serde(rename = "x509")]
    X509,
    /// The audit policy.
    #[serde(rename = "audit-policy")]
    AuditPolicy,
    /// The audit log.
    #[serde(rename = "audit-log")]
    AuditLog,
    /// The datastore.
    #[serde(rename = "datastore")]
    Datastore,
    /// The API of the cluster: out of reach of a node alone.
    #[serde(rename = "cluster-api")]
    ClusterApi,
    /// What the configuration does other than its files show.
    #[serde(rename = "trap")]
    Trap,
}

impl Source {
    /// The component whose flags it speaks of.
    pub const fn component(self) -> Option<&'static str> {
        match self {
            Self::ApiServer => Some("kube-apiserver"),
            Self::ControllerManager => Some("kube-controller-manager"),
            Self::Scheduler => Some("kube-scheduler"),
            Self::CloudController => Some("cloud-controller-manager"),
            Self::Kubelet => Some("kubelet"),
            _ => None,
        }
    }

    /// Whether it speaks of the configuration K3s reads at start, which can differ on disk and in force.
    pub const fn is_configuration(self) -> bool {
        matches!(self, Self::K3s | Self::Trap) || self.component().is_some()
    }
}

/// Whether a control is in current benchmarks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It is.
    Current,
    /// Only in old ones: no row unless such a version is asked for.
    Legacy,
}

/// A precondition's terms, joined by `and`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Terms(pub Vec<Term>);

impl TryFrom<String> for Terms {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.split(" and ").map(Term::parse).collect::<Result<_, _>>().map(Self)
    }
}

/// One term of a precondition. Their meaning is in the header of the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is named as in the catalogue, whose header explains it")]
pub enum Term {
    Always,
    NeverOnK3s,
    NodeWithKubelet,
    KubeProxyEnabled,
    FlannelOrKubeProxy,
    CloudControllerEnabled,
    FlannelOrHostLocalCni,
    K3sAtLeast132,
    MultiNode,
    JoinedNode,
    EmbeddedEtcd,
    Sqlite,
    ExternalDatastore,
    SecretsEncryptionOn,
    AuditPolicyFileSet,
    AuditLogPathSet,
    PsaConfigPresent,
    SelinuxEnforcing,
}

impl Term {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(match text.trim() {
            "always" => Self::Always,
            "never-on-k3s" => Self::NeverOnK3s,
            "node-with-kubelet" => Self::NodeWithKubelet,
            "kube-proxy-enabled" => Self::KubeProxyEnabled,
            "flannel-or-kube-proxy" => Self::FlannelOrKubeProxy,
            "cloud-controller-enabled" => Self::CloudControllerEnabled,
            "flannel-or-host-local-cni" => Self::FlannelOrHostLocalCni,
            "k3s>=1.32" => Self::K3sAtLeast132,
            "multi-node" => Self::MultiNode,
            "joined-node" => Self::JoinedNode,
            "embedded-etcd" => Self::EmbeddedEtcd,
            "sqlite" => Self::Sqlite,
            "external-datastore" => Self::ExternalDatastore,
            "secrets-encryption-on" => Self::SecretsEncryptionOn,
            "audit-policy-file-set" => Self::AuditPolicyFileSet,
            "audit-log-path-set" => Self::AuditLogPathSet,
            "psa-config-present" => Self::PsaConfigPresent,
            "selinux-enforcing" => Self::SelinuxEnforcing,
            other => return Err(format!("unknown precondition {other:?}")),
        })
    }
}

/// How `expected` is compared. The vocabulary is closed: an op that is not here cannot be in the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each is named as in the catalogue, whose header explains it")]
pub enum Op {
    Eq,
    Ne,
    In,
    Has,
    NotHas,
    SubsetOf,
    EqAll,
    Ge,
    Gt,
    Prefix,
    NotPrefix,
    NotMatches,
    HostIn,
    DurationBetween,
    Only,
    Empty,
    AnonymousPathsSubsetOf,
    Set,
    Unset,
    Exists,
    AllOf,
    AnyOf,
    ModeAtMost,
    OwnerIs,
    SymlinkTo,
    NotSymlink,
    MtimeAgeAtMost,
    MtimeBeforeStart,
    MtimeBeforeStartOrEqual,
    PersistedEquals,
    FieldsNotWeaker,
    DaysLeftGe,
    NotBeforeLeNow,
    ValidityDaysAtMost,
    DistinctPublicKeys,
    FirstProviderIn,
    StageIn,
    Sha256EqualsState,
    AgeDaysAtMost,
    MaxLevel,
    MinLevel,
    DefaultLevelGe,
    DetectionsSee,
    RulesCanMatch,
    CountEq,
    UrisSubsetOf,
    OldestEntryAgeGeDays,
    ReportEach,
    DatastoreTls,
    StoredSecrets,
    LeafFirst,
    IssuedByNext,
    SignedByCa,
    MatchesKey,
    NoCaKeys,
    NoKeysInBackups,
    Served,
    Denied,
    NamesSubsetOf,
    CountGe,
    PssLevelAtLeast,
    Never,
    Manual,
    Report,
}

impl Op {
    /// Whether it compares values of options and flags, one or a list of them.
    pub(crate) const fn compares_flags(self) -> bool {
        use Op::*;
        matches!(self, Eq | EqAll | In | Ne | Ge | Gt | Prefix | NotPrefix | HostIn | DurationBetween)
            || matches!(self, Has | NotHas | SubsetOf | Set | Unset | Empty)
    }
}

/// What a readable source without the key, or a readable folder without the file, means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum IfAbsent {
    /// As it should be.
    #[serde(rename = "pass")]
    Pass,
    /// Not as it should be.
    #[serde(rename = "fail")]
    Fail,
    /// Nothing to judge.
    #[serde(rename = "not_applicable")]
    NotApplicable,
    /// Look at the authentication configuration.
    #[serde(rename = "evaluate-authentication-config")]
    AuthenticationConfig,
    /// Look at the authorization configuration.
    #[serde(rename = "evaluate-authorization-config")]
    AuthorizationConfig,
}

/// Modifiers of an op.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each is named as in the catalogue, whose header explains it")]
pub enum Modifier {
    AndOwner,
    Suggested,
    Fallback,
    Resources,
    Warn,
    Verbs,
    Recurse,
    All,
    Resolve,
    CertIndex,
    Preferred,
    Default,
    Resource,
    Strict,
    Grace,
    Exclude,
    ByVersion,
    Any,
    Subject,
    ExceptNamespaces,
    Alternative,
    AndConfigSection,
    Merge,
    Min,
    Max,
    Range,
    AndDistinctKeys,
    AndFile,
    Info,
    ExceptServiceAccounts,
    Key,
    OnlyStages,
    AndTargetMode,
    FollowSymlink,
    AndDiffersFrom,
    OlderVersions,
    Tolerance,
    Subresources,
    #[serde(rename = "or_")]
    Or,
    Postgres,
    Mysql,
    Etcd,
    Nats,
    Fields,
}

/// The requirement of a control.
#[derive(Debug, Clone, Deserialize)]
pub struct Expected {
    /// How to compare.
    pub op: Op,
    /// With what.
    #[serde(default)]
    pub value: Value,
    /// What finding nothing means.
    #[serde(default)]
    pub if_absent: Option<IfAbsent>,
    /// Modifiers.
    #[serde(flatten)]
    pub more: BTreeMap<Modifier, Value>,
}

impl Expected {
    /// A modifier.
    pub fn get(&self, modifier: Modifier) -> Option<&Value> {
        self.more.get(&modifier)
    }

    /// Whether a modifier is `true`.
    pub fn is(&self, modifier: Modifier) -> bool {
        self.get(modifier) == Some(&Value::Bool(true))
    }

    /// A modifier that is a list of strings, or one string.
    pub fn list(&self, modifier: Modifier) -> Vec<String> {
        self.get(modifier).map(texts).unwrap_or_default()
    }

    /// The value as a list of texts.
    pub fn values(&self) -> Vec<String> {
        texts(&self.value)
    }

    /// The value as text.
    pub fn text(&self) -> String {
        self.values().join(", ")
    }

    /// The value as an octal mode.
    pub fn mode(&self) -> Option<u32> {
        octal(&self.value)
    }

    /// The value as a whole number.
    pub fn number(&self) -> Option<i64> {
        self.value.as_i64()
    }
}

/// A mode written as an octal string.
pub(crate) fn octal(value: &Value) -> Option<u32> {
    u32::from_str_radix(value.as_str()?, 8).ok()
}

/// The scalars of a list, or one scalar, as text.
pub(crate) fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) => items.iter().filter_map(crate::document::scalar).collect(),
        other => crate::document::scalar(other).into_iter().collect(),
    }
}
