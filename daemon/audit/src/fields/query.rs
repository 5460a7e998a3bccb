//! Parameters of a request's query.

use std::borrow::Cow;

/// Values of one query parameter, decoded.
pub(super) fn query_values<'q, 'k>(query: &'q str, key: &'k str) -> impl Iterator<Item = Cow<'q, str>> + use<'q, 'k> {
    query.split('&').filter_map(move |pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (percent_decode(name) == key).then(|| percent_decode(value))
    })
}

fn percent_decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.as_bytes();
    while let [first, rest @ ..] = bytes {
        bytes = rest;
        match first {
            b'+' => out.push(b' '),
            b'%' => match rest {
                [high, low, tail @ ..] => match (hex(*high), hex(*low)) {
                    (Some(high), Some(low)) => {
                        out.push(high << 4 | low);
                        bytes = tail;
                    }
                    _ => out.push(b'%'),
                },
                _ => out.push(b'%'),
            },
            byte => out.push(*byte),
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}
