//! The file of `--admission-control-config-file`: which plugins it configures, and the Pod Security defaults in it.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::document::{DocumentError, parse_yaml_map, strings};

/// An `AdmissionConfiguration`.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct AdmissionConfig {
    /// Plugins with a configuration, by name, in alphabetical order.
    pub plugins: Vec<String>,
    /// The configuration of `PodSecurity`, when it stands in this file.
    pub pod_security: Option<PodSecurity>,
}

/// Cluster-wide Pod Security settings.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct PodSecurity {
    /// `defaults`: `enforce`, `audit`, `warn` and their versions.
    pub defaults: BTreeMap<String, String>,
    /// Exempted user names.
    pub exempt_usernames: Vec<String>,
    /// Exempted runtime classes.
    pub exempt_runtime_classes: Vec<String>,
    /// Exempted namespaces.
    pub exempt_namespaces: Vec<String>,
    /// `configuration` stands in another file (`path`), which is not read.
    pub elsewhere: Option<String>,
}

impl AdmissionConfig {
    /// Reads an `AdmissionConfiguration` from YAML or JSON.
    ///
    /// # Errors
    /// When it is not one.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let value = parse_yaml_map(bytes)?;
        if value.get("kind").and_then(Value::as_str) != Some("AdmissionConfiguration") {
            return Err(DocumentError::shape("kind must be AdmissionConfiguration"));
        }
        let mut config = Self::default();
        let plugins = match value.get("plugins") {
            None | Some(Value::Null) => return Ok(config),
            Some(Value::Array(plugins)) => plugins,
            Some(_) => return Err(DocumentError::shape("plugins must be a list")),
        };
        for plugin in plugins {
            let name = plugin
                .get("name")
                .and_then(Value::as_str)
                .ok_or_else(|| DocumentError::shape("every plugin needs a name"))?;
            let inline = plugin.get("configuration").filter(|c| !c.is_null());
            let path = plugin.get("path").and_then(Value::as_str).filter(|p| !p.is_empty());
            if inline.is_some() || path.is_some() {
                config.plugins.push(name.to_owned());
            }
            if name == "PodSecurity" {
                config.pod_security = match (inline, path) {
                    (Some(inline), _) => Some(pod_security(inline)?),
                    (None, Some(path)) => {
                        Some(PodSecurity { elsewhere: Some(path.to_owned()), ..PodSecurity::default() })
                    }
                    (None, None) => Some(PodSecurity::default()),
                };
            }
        }
        config.plugins.sort();
        Ok(config)
    }
}

/// The plugin refuses a section that does not say what it is, and the API server ends.
fn pod_security(value: &Value) -> Result<PodSecurity, DocumentError> {
    let says = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    if says("kind") != "PodSecurityConfiguration"
        || !says("apiVersion").starts_with("pod-security.admission.config.k8s.io/")
    {
        return Err(DocumentError::shape(
            "PodSecurity: its configuration must be a PodSecurityConfiguration of pod-security.admission.config.k8s.io",
        ));
    }
    let mut out = PodSecurity::default();
    match value.get("defaults") {
        None | Some(Value::Null) => {}
        Some(Value::Object(defaults)) => {
            for (key, level) in defaults {
                if let Some(level) = level.as_str() {
                    out.defaults.insert(key.clone(), level.to_owned());
                }
            }
        }
        Some(_) => return Err(DocumentError::shape("PodSecurity: defaults must be a map")),
    }
    if let Some(exemptions) = value.get("exemptions").filter(|e| !e.is_null()) {
        out.exempt_usernames = strings(exemptions.get("usernames"), "exemptions.usernames")?;
        out.exempt_runtime_classes = strings(exemptions.get("runtimeClasses"), "exemptions.runtimeClasses")?;
        out.exempt_namespaces = strings(exemptions.get("namespaces"), "exemptions.namespaces")?;
    }
    Ok(out)
}
