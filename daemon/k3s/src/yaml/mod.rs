//! YAML as K3s reads it: go-yaml v2, YAML 1.1 scalars, first document only.

mod cursor;
mod input;
mod parse;
mod print;
mod scalar;
mod scan;
mod tagged;

pub(crate) use parse::{Document, load};
pub(crate) use print::{to_json, to_text};
pub(crate) use scalar::{float_text, resolve};

use std::rc::Rc;

/// Why a file is no YAML that K3s takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub(crate) struct LoadError {
    /// Line, from 1, where it is known.
    pub(crate) line: Option<u32>,
    /// What is wrong. Never the file's text.
    pub(crate) detail: String,
}

impl LoadError {
    fn at(line: u32, detail: impl Into<String>) -> Self {
        Self { line: Some(line), detail: detail.into() }
    }

    fn whole(detail: impl Into<String>) -> Self {
        Self { line: None, detail: detail.into() }
    }
}

/// A value with the place it stands at.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// Line, from 1.
    pub(crate) line: u32,
    /// The text as written, for a scalar without quotes.
    pub(crate) plain: Option<Rc<str>>,
    pub(crate) value: Rc<Value>,
}

/// A resolved value. Aliases share what they lead to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    /// Integers of 64 bits, signed or not.
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl Node {
    pub(crate) fn items(&self) -> Option<&[Self]> {
        match &*self.value {
            Value::List(items) => Some(items),
            _ => None,
        }
    }
}
