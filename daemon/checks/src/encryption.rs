//! Encryption of Secrets at rest: the configuration without its keys, and K3s's state file.

use jiff::Timestamp;
use serde_json::Value;

use crate::document::{DocumentError, parse_yaml_map, strings};

/// An `EncryptionConfiguration` without its keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EncryptionConfig {
    /// SHA-256 of the file's bytes, lower-case hex. The host side fills it (parsing leaves it empty).
    pub sha256: String,
    /// When the file was last changed; none when not known. The host side fills it.
    pub mtime: Option<Timestamp>,
    /// When picket first saw the key that writes (by its name and place). The host side fills it from its own state.
    pub write_key_first_seen: Option<Timestamp>,
    /// Groups of resources with their providers; for a resource the first group that names it counts.
    pub groups: Vec<EncryptionGroup>,
}

/// One entry of `resources`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EncryptionGroup {
    /// Resources, such as `secrets`, `configmaps`, `*.*`.
    pub resources: Vec<String>,
    /// Providers in order: the first one writes.
    pub providers: Vec<Provider>,
}

/// One provider.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Provider {
    /// `aescbc`, `secretbox`, `aesgcm`, `kms`, `identity`.
    pub kind: String,
    /// Names of its keys in order: the first one writes. K3s's rotated keys carry the time of their making.
    pub key_names: Vec<String>,
}

impl EncryptionConfig {
    /// Reads an `EncryptionConfiguration` from JSON or YAML; keys are dropped.
    ///
    /// # Errors
    /// When it is not one.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let value = parse_yaml_map(bytes)?;
        if value.get("kind").and_then(Value::as_str) != Some("EncryptionConfiguration") {
            return Err(DocumentError::shape("kind must be EncryptionConfiguration"));
        }
        let Some(Value::Array(entries)) = value.get("resources") else {
            return Err(DocumentError::shape("resources must be a list"));
        };
        let groups = entries.iter().map(group).collect::<Result<_, _>>()?;
        Ok(Self { groups, ..Self::default() })
    }

    /// The group that decides for a resource of the core group, such as `secrets`: the first one that names it or
    /// covers it with a wildcard (`*.` is the core group, `*.*` everything).
    pub fn group_for(&self, resource: &str) -> Option<&EncryptionGroup> {
        self.groups.iter().find(|g| g.resources.iter().any(|r| r == resource || r == "*." || r == "*.*"))
    }
}

fn group(entry: &Value) -> Result<EncryptionGroup, DocumentError> {
    let resources = strings(entry.get("resources"), "resources[].resources")?;
    let Some(Value::Array(list)) = entry.get("providers") else {
        return Err(DocumentError::shape("resources[].providers must be a list"));
    };
    let mut providers = Vec::with_capacity(list.len());
    for item in list {
        let Some((kind, body)) = item.as_object().filter(|o| o.len() == 1).and_then(|o| o.iter().next()) else {
            return Err(DocumentError::shape("every provider must be a map with one key"));
        };
        let keys: &[Value] = match body.get("keys") {
            Some(Value::Array(keys)) => keys,
            _ => &[],
        };
        // The API server refuses such a file (apiserver/pkg/apis/apiserver/validation).
        let lengths: &[usize] = match kind.as_str() {
            "aescbc" | "aesgcm" => &[16, 24, 32],
            "secretbox" => &[32],
            _ => &[],
        };
        if !lengths.is_empty() {
            if keys.is_empty() {
                return Err(DocumentError::shape(format!("{kind} needs keys")));
            }
            let fits = |key: &Value| key.get("secret").and_then(Value::as_str).and_then(decoded_length);
            if !keys.iter().all(|key| fits(key).is_some_and(|length| lengths.contains(&length))) {
                let wanted = lengths.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
                return Err(DocumentError::shape(format!(
                    "a secret of {kind} is not base64 of {wanted} bytes: the API server refuses this file"
                )));
            }
        }
        let name = |key: &Value| key.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let key_names = keys.iter().map(name).collect();
        providers.push(Provider { kind: kind.clone(), key_names });
    }
    Ok(EncryptionGroup { resources, providers })
}

/// How many bytes a key in base64 has. It is not decoded: nothing of it is kept.
fn decoded_length(text: &str) -> Option<usize> {
    // Go's decoder passes over the ends of lines.
    let length = text.bytes().filter(|b| !matches!(b, b'\r' | b'\n')).count();
    let digits = text.trim_end_matches(['=', '\r', '\n']);
    let alphabet = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'\r' | b'\n');
    let kept = digits.bytes().filter(|b| !matches!(b, b'\r' | b'\n')).count();
    let good = length % 4 == 0 && length - kept <= 2 && digits.bytes().all(alphabet);
    good.then_some(kept * 6 / 8)
}

/// `encryption-state.json`: in spite of its name one line `<stage>-<sha256 of the configuration>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncryptionState {
    /// `start`, `prepare`, `rotate`, `rotate_keys`, `reencrypt_request`, `reencrypt_active`, `reencrypt_finished`.
    pub stage: String,
    /// SHA-256 K3s noted for the configuration, lower-case hex.
    pub sha256: String,
    /// When the file was last changed; none when not known. The host side fills it.
    pub mtime: Option<Timestamp>,
}

impl EncryptionState {
    /// Reads the state file.
    ///
    /// # Errors
    /// When it has another form.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let text = std::str::from_utf8(bytes).map_err(|_| DocumentError::NotText)?.trim();
        let shape = || DocumentError::shape("one line of the form <stage>-<sha256> was expected");
        let (stage, hash) = text.rsplit_once('-').ok_or_else(shape)?;
        let is_hash = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
        let is_stage =
            !stage.is_empty() && stage.len() <= 64 && stage.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        if !is_hash || !is_stage {
            return Err(shape());
        }
        Ok(Self { stage: stage.to_owned(), sha256: hash.to_ascii_lowercase(), mtime: None })
    }
}

/// The time in the name of a rotated key (`aescbckey-2025-12-10T22:54:38Z`), if it has one.
pub(crate) fn time_in_key_name(name: &str) -> Option<Timestamp> {
    let (_, time) = name.split_once('-')?;
    time.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::decoded_length;

    #[test]
    fn lengths_are_those_of_the_decoded_text() {
        for (text, length) in [("", 0), ("YQ==", 1), ("YWI=", 2), ("YWJj", 3), ("YW\nJj\r\n", 3), ("+/+/YQ==", 4)] {
            assert_eq!(decoded_length(text), Some(length), "{text:?}");
        }
        for text in ["YQ", "YQ=", "Y===", "====", "Y=Q=", "YWJ", "***", "YWJ-", " YWJj", "YWJjé"] {
            assert_eq!(decoded_length(text), None, "{text:?}");
        }
    }
}
