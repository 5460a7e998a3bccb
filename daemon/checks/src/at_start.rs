//! Files that K3s and its components read at their start only, as they were then: what is in force, whatever became of
//! the files since.

use std::collections::BTreeMap;

use picket_model::Observation;
use serde_json::Value;

use crate::admission::AdmissionConfig;
use crate::audit_policy::AuditPolicy;
use crate::registries::Registries;

/// What the running process and its components read. A file that is not in here may have been anything then.
///
/// Authentication and authorization configurations are not among them: the API server reads those anew when they change.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ReadAtStart {
    /// Audit policies by path.
    pub audit_policies: BTreeMap<String, Observation<AuditPolicy>>,
    /// Admission configurations by path.
    pub admission_configs: BTreeMap<String, Observation<AdmissionConfig>>,
    /// Drop-ins of the kubelet by path, all of them.
    pub kubelet_dropins: Option<BTreeMap<String, Observation<Value>>>,
    /// Configurations of the kubelet by path.
    pub kubelet_configs: BTreeMap<String, Observation<Value>>,
    /// `registries.yaml`.
    pub registries: Option<Observation<Registries>>,
}
