//! Checked reading of fields.

use jiff::Timestamp;

use crate::limits;

/// A field that is not what it should be, by its path in the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field {field}: {problem}")]
pub struct FieldError {
    /// Path of the field, such as `finding.evidence[3].path`.
    pub field: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl FieldError {
    /// A problem with a field.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }

    /// The same problem, one message further out.
    #[must_use]
    pub fn within(mut self, outer: &str) -> Self {
        self.field = format!("{outer}.{}", self.field);
        self
    }
}

pub(crate) fn text(value: String, field: &str, max_bytes: usize) -> Result<String, FieldError> {
    if value.len() > max_bytes {
        return Err(FieldError::new(field, format!("{} bytes, at most {max_bytes} are taken", value.len())));
    }
    Ok(value)
}

pub(crate) fn required(value: String, field: &str, max_bytes: usize) -> Result<String, FieldError> {
    if value.is_empty() {
        return Err(FieldError::new(field, "empty, a value is required"));
    }
    text(value, field, max_bytes)
}

pub(crate) fn optional(value: String, field: &str, max_bytes: usize) -> Result<Option<String>, FieldError> {
    Ok(Some(text(value, field, max_bytes)?).filter(|t| !t.is_empty()))
}

pub(crate) fn count(len: usize, field: &str, max: usize) -> Result<(), FieldError> {
    if len > max {
        return Err(FieldError::new(field, format!("{len} entries, at most {max} are taken")));
    }
    Ok(())
}

pub(crate) fn names(values: Vec<String>, field: &str, max: usize) -> Result<Vec<String>, FieldError> {
    count(values.len(), field, max)?;
    for value in &values {
        if value.len() > limits::NAME_BYTES {
            return Err(FieldError::new(field, format!("an entry of {} bytes", value.len())));
        }
    }
    Ok(values)
}

pub(crate) fn time_ns(value: i64, field: &str) -> Result<Timestamp, FieldError> {
    Timestamp::from_nanosecond(i128::from(value)).map_err(|e| FieldError::new(field, e.to_string()))
}

/// Nanoseconds since 1970; times outside the years 1678 to 2262 are held at the nearest end.
pub(crate) fn ns(time: Timestamp) -> i64 {
    let ns = time.as_nanosecond();
    i64::try_from(ns).unwrap_or(if ns < 0 { i64::MIN } else { i64::MAX })
}
