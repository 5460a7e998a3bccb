//! `registries.yaml`: how images are fetched. Passwords in it are dropped while parsing.

use serde_json::Value;

use crate::document::{DocumentError, parse_yaml_map, scalar, strings};

/// What matters of `registries.yaml`.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Registries {
    /// Registries whose certificate is not verified.
    pub unverified: Vec<String>,
    /// (mirror, endpoint) pairs that speak plain HTTP.
    pub plain_http: Vec<(String, String)>,
    /// How many registries and mirrors it names.
    pub entries: usize,
}

impl Registries {
    /// Reads `registries.yaml`.
    ///
    /// # Errors
    /// When it is not well-formed.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let value = parse_yaml_map(bytes)?;
        let mut out = Self::default();
        for (name, config) in map(value.get("configs"), "configs")? {
            out.entries += 1;
            let skip = config.get("tls").and_then(|tls| tls.get("insecure_skip_verify"));
            if skip
                .and_then(scalar)
                .is_some_and(|s| matches!(s.to_ascii_lowercase().as_str(), "true" | "yes" | "on" | "y"))
            {
                out.unverified.push(name.clone());
            }
        }
        for (name, mirror) in map(value.get("mirrors"), "mirrors")? {
            out.entries += 1;
            for endpoint in strings(mirror.get("endpoint"), "endpoint")? {
                if endpoint.to_ascii_lowercase().starts_with("http://") {
                    out.plain_http.push((name.clone(), without_credentials(&endpoint)));
                }
            }
        }
        Ok(out)
    }
}

/// A URL without `user:password@`.
fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

fn map<'a>(value: Option<&'a Value>, what: &str) -> Result<Vec<(&'a String, &'a Value)>, DocumentError> {
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Object(map)) => Ok(map.iter().collect()),
        Some(_) => Err(DocumentError::shape(format!("{what} must be a map"))),
    }
}
