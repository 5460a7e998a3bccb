//! A log that never repeats itself: the examples of all rules, with ever new users, addresses, agents, ids and objects,
//! many of them as long as their writer likes.

use serde_json::{Value, json};

/// Bytes of a long name.
const LONG: usize = 1024;

/// The lines, without end.
pub(crate) fn lines() -> impl Iterator<Item = String> {
    let catalogue: Vec<Value> = serde_json::from_str(include_str!("../data/examples.json")).expect("examples.json");
    let examples: Vec<Value> = catalogue
        .iter()
        .filter_map(|entry| entry.get("example")?.as_array())
        .flatten()
        .filter(|example| example.is_object())
        .cloned()
        .collect();
    (0u64..).zip(examples.into_iter().cycle()).map(|(at, example)| altered(example, at).to_string())
}

fn altered(mut event: Value, at: u64) -> Value {
    let tail = if at.is_multiple_of(3) { "y".repeat(LONG) } else { String::new() };
    for path in ["/user/username", "/objectRef/name", "/objectRef/namespace", "/userAgent", "/auditID"] {
        // Some rules are about one namespace, or one user.
        let kept = (at / 7).is_multiple_of(2) && path != "/auditID";
        if let Some(Value::String(text)) = event.pointer_mut(path).filter(|_| !kept || path == "/objectRef/name") {
            text.push_str(&format!("-{at}{tail}"));
        }
    }
    let Some(fields) = event.as_object_mut() else { return event };
    fields.insert("auditID".into(), format!("{at:08x}-0000-4000-8000-000000000000{tail}").into());
    let address = |at: u64| format!("10.{}.{}.{}", at >> 16 & 255, at >> 8 & 255, at & 255);
    fields.insert("sourceIPs".into(), json!([format!("{}{tail}", address(at + 1)), address(at)]));
    // A few hundred a second, so that windows overlap.
    let time = format!(
        "2026-01-01T{:02}:{:02}:{:02}.{:06}Z",
        at / 720_000 % 24,
        at / 12_000 % 60,
        at / 200 % 60,
        at % 200 * 5000
    );
    fields.insert("requestReceivedTimestamp".into(), time.clone().into());
    fields.insert("stageTimestamp".into(), time.into());
    event
}
