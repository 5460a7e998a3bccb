//! The effective configuration of a node in the form the evaluator wants: every value with its place.

use std::collections::BTreeMap;
use std::sync::Arc;

use picket_model::Evidence;

/// One value and where it came from.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Setting {
    /// The value as text. Values of secret options (`token`, `etcd-s3-secret-key`, …) are never here: their text is
    /// [`Setting::HIDDEN`].
    pub value: String,
    /// Path, line and layer that won.
    pub evidence: Evidence,
}

impl Setting {
    /// Stands in for the value of a secret option.
    pub const HIDDEN: &'static str = "(hidden)";

    /// A value with its place.
    pub fn new(value: impl Into<String>, evidence: Evidence) -> Self {
        Self { value: value.into(), evidence }
    }
}

/// A flag of a component as K3s passes it.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Flag {
    /// The possible lists of values. One entry when it is certain; several when K3s versions differ and the version is
    /// not known. An empty inner list: the flag is not passed. Never empty itself.
    pub possible: Vec<Vec<Setting>>,
}

/// The effective configuration, declared or running.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize)]
pub struct NodeConfig {
    /// K3s's own options by long name, values in the order K3s sees them; what is not set is not there.
    pub options: BTreeMap<String, Vec<Setting>>,
    /// Flags of the components (`kube-apiserver`, `kubelet`, `kube-proxy`, …). A component that is not there is not
    /// known; a flag that is not there is not passed.
    pub components: BTreeMap<String, BTreeMap<String, Flag>>,
    /// The life of new certificates in days, where the service's environment sets it.
    #[serde(default)]
    pub certificate_days: Option<Setting>,
    /// What K3s would refuse and so not start with.
    pub problems: Vec<Evidence>,
    /// What takes effect in another way than its files show.
    #[serde(default)]
    pub traps: Arc<Traps>,
}

/// A setting that weakens the node, or puts something else in force than its file shows, without any message.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Trapped {
    /// The kind, as the catalogue's trap controls name it in `what`: `unknown-key`, `list-replaced`, …
    pub kind: String,
    /// The option or flag concerned, if there is one. Never a value.
    pub option: Option<String>,
    /// Where it stands; the detail says what happens. Never a value that may be secret.
    pub evidence: Evidence,
}

/// What a look for traps gave.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Traps {
    /// What was found.
    pub seen: Vec<Trapped>,
    /// Files that were read for it. Finding nothing counts only where something was read.
    pub read: Vec<String>,
    /// What could not be read or understood: more may stand there, so finding nothing proves nothing.
    pub blind: Vec<Evidence>,
}

impl NodeConfig {
    /// The value that counts of a single-valued option: the last.
    pub fn option(&self, name: &str) -> Option<&Setting> {
        self.options.get(name).and_then(|values| values.last())
    }

    /// Whether a boolean option is set to true.
    pub fn is_true(&self, name: &str) -> bool {
        self.option(name).is_some_and(|s| s.value.eq_ignore_ascii_case("true"))
    }

    /// Whether a list option holds an element, comma-separated lists included.
    pub fn list_has(&self, name: &str, element: &str) -> bool {
        self.options
            .get(name)
            .is_some_and(|values| values.iter().any(|s| s.value.split(',').any(|e| e.trim() == element)))
    }
}
