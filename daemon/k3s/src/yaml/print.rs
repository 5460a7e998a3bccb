//! How Go prints what a YAML file held, as K3s' loader does it.

use super::{Node, Value, float_text};

/// Longest text made of one value.
const TEXT_LIMIT: usize = 256 * 1024;

/// A value as the text of an argument: a list gives its first item, null gives nothing, blanks around are cut.
pub(crate) fn to_text(node: &Node) -> String {
    let mut out = String::new();
    match &*node.value {
        Value::Null => {}
        Value::List(items) => {
            if let Some(first) = items.first()
                && !matches!(&*first.value, Value::Null)
            {
                print(first, &mut out);
            }
        }
        _ => print(node, &mut out),
    }
    out.trim().to_owned()
}

/// A value as Go's `%v` prints it.
pub(crate) fn print(node: &Node, out: &mut String) {
    if out.len() > TEXT_LIMIT {
        return;
    }
    match &*node.value {
        Value::Null => out.push_str("<nil>"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Int(int) => out.push_str(&int.to_string()),
        Value::Float(float) => out.push_str(&float_text(*float)),
        Value::Text(text) => out.push_str(text),
        Value::List(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(' ');
                }
                print(item, out);
            }
            out.push(']');
        }
        Value::Map(pairs) => {
            out.push('[');
            for (i, (key, value)) in pairs.iter().enumerate() {
                if i > 0 {
                    out.push(' ');
                }
                out.push('{');
                print(key, out);
                out.push(' ');
                print(value, out);
                out.push('}');
            }
            out.push(']');
        }
    }
}

/// A value as JSON, for files that are read as such (kubelet, etcd). Keys become text; the last of equal keys counts.
pub(crate) fn to_json(node: &Node) -> serde_json::Value {
    use serde_json::{Map, Number, Value as Json};
    match &*node.value {
        Value::Null => Json::Null,
        Value::Bool(b) => Json::Bool(*b),
        Value::Int(int) => {
            if let Ok(small) = i64::try_from(*int) {
                Json::Number(small.into())
            } else {
                u64::try_from(*int).map_or(Json::Null, |big| Json::Number(big.into()))
            }
        }
        Value::Float(float) => Number::from_f64(*float).map_or_else(|| Json::String(float_text(*float)), Json::Number),
        Value::Text(text) => Json::String(text.clone()),
        Value::List(items) => Json::Array(items.iter().map(to_json).collect()),
        Value::Map(pairs) => {
            let mut map = Map::new();
            for (key, value) in pairs {
                map.insert(to_text(key), to_json(value));
            }
            Json::Object(map)
        }
    }
}
