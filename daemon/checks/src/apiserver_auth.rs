//! The files of `--authentication-config` and `--authorization-config`.

use serde_json::Value;

use crate::document::{DocumentError, parse_yaml_map};

/// What an `AuthenticationConfiguration` says of anonymous requests.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuthenticationConfig {
    /// The `anonymous` block; none when it is left out, and then the flag or the upstream default (true) holds.
    pub anonymous: Option<Anonymous>,
}

/// The `anonymous` block.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Anonymous {
    /// Whether anonymous requests are let in at all.
    pub enabled: bool,
    /// Paths they are restricted to; empty means every path.
    pub paths: Vec<String>,
}

impl AuthenticationConfig {
    /// Reads an `AuthenticationConfiguration` from YAML or JSON.
    ///
    /// # Errors
    /// When it is not one.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let value = parse_yaml_map(bytes)?;
        expect_kind(&value, "AuthenticationConfiguration")?;
        only(&value, "the top", &["apiVersion", "kind", "jwt", "anonymous"])?;
        let Some(block) = value.get("anonymous").filter(|b| !b.is_null()) else {
            return Ok(Self::default());
        };
        only(block, "anonymous", &["enabled", "conditions"])?;
        let enabled = match block.get("enabled") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(enabled)) => *enabled,
            Some(_) => return Err(DocumentError::shape("anonymous.enabled must be true or false")),
        };
        let mut paths = Vec::new();
        match block.get("conditions") {
            None | Some(Value::Null) => {}
            Some(Value::Array(conditions)) => {
                for condition in conditions {
                    only(condition, "an anonymous condition", &["path"])?;
                    let path = condition
                        .get("path")
                        .and_then(Value::as_str)
                        .ok_or_else(|| DocumentError::shape("every anonymous condition needs a path"))?;
                    paths.push(path.to_owned());
                }
            }
            Some(_) => return Err(DocumentError::shape("anonymous.conditions must be a list")),
        }
        Ok(Self { anonymous: Some(Anonymous { enabled, paths }) })
    }
}

/// The authorizers of an `AuthorizationConfiguration`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuthorizationConfig {
    /// `authorizers[].type`, in order.
    pub authorizers: Vec<String>,
}

impl AuthorizationConfig {
    /// Reads an `AuthorizationConfiguration` from YAML or JSON.
    ///
    /// # Errors
    /// When it is not one.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let value = parse_yaml_map(bytes)?;
        expect_kind(&value, "AuthorizationConfiguration")?;
        let Some(Value::Array(list)) = value.get("authorizers") else {
            return Err(DocumentError::shape("authorizers must be a list"));
        };
        let authorizers = list
            .iter()
            .map(|authorizer| {
                authorizer
                    .get("type")
                    .and_then(Value::as_str)
                    .map(str::to_owned)
                    .ok_or_else(|| DocumentError::shape("every authorizer needs a type"))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { authorizers })
    }
}

/// The API server ends at a key it does not know. Which one it is, is not repeated.
fn only(value: &Value, place: &str, known: &[&str]) -> Result<(), DocumentError> {
    match value.as_object() {
        Some(map) if map.keys().all(|key| known.contains(&key.as_str())) => Ok(()),
        Some(_) => {
            Err(DocumentError::shape(format!("a key that is not known in {place}: there can be {}", known.join(", "))))
        }
        None => Err(DocumentError::shape(format!("a map was expected in {place}"))),
    }
}

fn expect_kind(value: &Value, kind: &str) -> Result<(), DocumentError> {
    if value.get("kind").and_then(Value::as_str) == Some(kind) {
        Ok(())
    } else {
        Err(DocumentError::shape(format!("kind must be {kind}")))
    }
}
