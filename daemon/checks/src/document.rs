//! YAML and JSON documents that K3s and Kubernetes read, as plain JSON values.

use serde_json::Value;

/// The largest document that is read. Real ones are a few kilobytes; K3s's own limit for its files is not documented.
pub const MAX_DOCUMENT: usize = 1024 * 1024;

/// A document that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Too large to be looked at.
    #[error("{size} bytes, more than the {MAX_DOCUMENT} that are read")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
    },
    /// More of something than is looked at.
    #[error("{what}")]
    TooMany {
        /// Of what, and how many.
        what: String,
    },
    /// Not UTF-8.
    #[error("not UTF-8 text")]
    NotText,
    /// Not YAML or JSON. The position is where the parser gave up; the text of the document is not repeated, since it
    /// may hold secrets.
    #[error("not valid YAML or JSON (line {line})")]
    Syntax {
        /// Line, from 1; 0 where the parser does not say.
        line: u64,
    },
    /// Well-formed, but of another shape.
    #[error("{what}")]
    Shape {
        /// What was expected, and where.
        what: String,
    },
}

impl DocumentError {
    /// Whether only a limit of this reader was met: others may read the document.
    pub const fn is_limit(&self) -> bool {
        matches!(self, Self::TooLarge { .. } | Self::TooMany { .. })
    }

    pub(crate) fn shape(what: impl Into<String>) -> Self {
        Self::Shape { what: what.into() }
    }
}

/// Reads a document whose top is a map, from YAML or JSON. Of several YAML documents the first one counts, as it does
/// for K3s and Kubernetes.
///
/// # Errors
/// When it is too large, not text, not well-formed, or not a map.
pub fn parse_yaml_map(bytes: &[u8]) -> Result<Value, DocumentError> {
    if bytes.len() > MAX_DOCUMENT {
        return Err(DocumentError::TooLarge { size: bytes.len() });
    }
    let text = std::str::from_utf8(bytes).map_err(|_| DocumentError::NotText)?;
    let value = if text.trim_start().starts_with('{') {
        // JSON is much the faster way, and the only one for K3s's own encryption configuration.
        serde_json::from_str::<Value>(text).ok().map_or_else(|| from_yaml(text), Ok)?
    } else {
        from_yaml(first_document(text))?
    };
    match value {
        Value::Object(_) => Ok(value),
        Value::Null => Ok(Value::Object(serde_json::Map::new())),
        _ => Err(DocumentError::shape("a map was expected at the top")),
    }
}

fn from_yaml(text: &str) -> Result<Value, DocumentError> {
    serde_saphyr::from_str::<Value>(text)
        .map_err(|error| DocumentError::Syntax { line: error.location().map_or(0, |at| at.line()) })
}

/// The text up to where a second document begins: what follows is read by nobody. A marker at the start of a line is
/// one wherever it stands, in quotes and blocks too.
fn first_document(text: &str) -> &str {
    let mut begun = false;
    let mut end = 0;
    for line in text.split_inclusive(['\n', '\r']) {
        let bare = line.strip_prefix('\u{feff}').filter(|_| end == 0).unwrap_or(line);
        let ends = |rest: &str| rest.is_empty() || rest.starts_with([' ', '\t', '\n', '\r']);
        let marks = |marker: &str| bare.strip_prefix(marker).is_some_and(ends);
        if begun && (marks("---") || marks("...")) {
            return text.get(..end).unwrap_or(text);
        }
        let content = bare.trim();
        begun |= !(content.is_empty() || content.starts_with('#') || bare.starts_with('%'));
        end += line.len();
    }
    text
}

/// The strings of a list; a missing or null list is empty.
///
/// # Errors
/// When it is no list, or holds something that is no scalar.
pub(crate) fn strings(value: Option<&Value>, what: &str) -> Result<Vec<String>, DocumentError> {
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| scalar(item).ok_or_else(|| DocumentError::shape(format!("{what} must be a list of strings"))))
            .collect(),
        Some(_) => Err(DocumentError::shape(format!("{what} must be a list"))),
    }
}

/// The text of a scalar; none for null, lists and maps.
pub(crate) fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
