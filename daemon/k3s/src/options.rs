//! The options K3s knows, per role.

use std::borrow::Cow;
use std::collections::BTreeMap;

use picket_model::Role;
use serde::Deserialize;

use crate::effective::REDACTED;

/// The table, made from K3s' own sources (v1.31 to v1.36; names were only added in that span).
const TABLE: &str = include_str!("../data/k3s-cli-flags.json");

/// The type of an option's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    String,
    Bool,
    Int,
    Duration,
    /// Every value counts, in order.
    List,
}

/// One option.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Opt {
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) kind: Kind,
    #[serde(default)]
    pub(crate) aliases: Vec<String>,
    #[serde(default)]
    pub(crate) env: Vec<String>,
    #[serde(default)]
    pub(crate) default: Option<String>,
}

#[derive(Deserialize)]
struct Table {
    server: Vec<Opt>,
    agent: Vec<Opt>,
}

/// The options of one role.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    options: Vec<Opt>,
    by_name: BTreeMap<String, usize>,
}

impl Known {
    pub(crate) fn of(role: Role) -> Self {
        // The table is compiled in and read by the tests: it is either right in every build or in none.
        let table = serde_json::from_str::<Table>(TABLE).unwrap_or(Table { server: Vec::new(), agent: Vec::new() });
        let options = match role {
            Role::Server => table.server,
            Role::Agent => table.agent,
        };
        let mut by_name = BTreeMap::new();
        for (i, option) in options.iter().enumerate() {
            for name in std::iter::once(&option.name).chain(&option.aliases) {
                by_name.insert(name.clone(), i);
            }
        }
        Self { options, by_name }
    }

    /// The option of this name or one-letter alias.
    pub(crate) fn get(&self, name: &str) -> Option<&Opt> {
        self.by_name.get(name).and_then(|i| self.options.get(*i))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Opt> {
        self.options.iter()
    }
}

/// Old names of list options, each with the new name whose list it feeds.
pub const OLD_NAMES: [(&str, &str); 2] = [
    ("kube-controller-arg", "kube-controller-manager-arg"),
    ("kube-cloud-controller-arg", "kube-cloud-controller-manager-arg"),
];

/// Options whose value is a secret.
pub(crate) const SECRET: [&str; 7] = [
    "token",
    "agent-token",
    "etcd-s3-access-key",
    "etcd-s3-secret-key",
    "etcd-s3-session-token",
    "vpn-auth",
    "cluster-secret",
];

/// Options whose value is a URL or connection string that may carry a password.
const CONNECTION: [&str; 2] = ["datastore-endpoint", "etcd-s3-proxy"];

/// Options whose value is a host: what stands before an `@` in it is a user with a password.
const HOST: [&str; 3] = ["system-default-registry", "server", "etcd-s3-endpoint"];

/// The value as it may be shown. Called at the point of reading; nothing later sees the secret.
pub(crate) fn redact(name: &str, value: &str, known: bool) -> String {
    if value.is_empty() {
        return String::new();
    }
    if SECRET.contains(&name) || (!known && sounds_secret(name)) {
        return REDACTED.to_owned();
    }
    // The secret itself, where the file with it is meant.
    if name.ends_with("-file") && SECRET.contains(&name.trim_end_matches("-file")) && !value.starts_with('/') {
        return REDACTED.to_owned();
    }
    // A map where a text was meant, as Go prints it.
    if value.starts_with("[{") && sounds_secret(value) {
        return REDACTED.to_owned();
    }
    let value = &*without_tokens(value);
    if CONNECTION.contains(&name) {
        return redact_connection(value);
    }
    if name.ends_with("-arg")
        && let Some((flag, inner)) = value.split_once('=')
        && !inner.is_empty()
    {
        let flag_name = flag.trim_start_matches('-').trim_end_matches(['+', '-']);
        if secret_flag(flag_name) {
            return format!("{flag}={REDACTED}");
        }
        if flag_name == "etcd-servers" || inner.contains("://") {
            return format!("{flag}={}", redact_connection(inner));
        }
    }
    if known
        && HOST.contains(&name)
        && !value.contains("://")
        && let Some((_, host)) = value.rsplit_once('@')
    {
        return format!("{REDACTED}@{host}");
    }
    // A mistyped name says nothing of its value.
    if known { without_user_info(value) } else { redact_connection(value) }
}

/// A value without `user:password@` of a URL in it. A password may hold any character: all up to the last `@` goes.
fn without_user_info(value: &str) -> String {
    match value.split_once("://") {
        Some((scheme, rest)) => match rest.rsplit_once('@') {
            Some((_, host)) => format!("{scheme}://{REDACTED}@{host}"),
            None => value.to_owned(),
        },
        None => value.to_owned(),
    }
}

/// A text without K3s' secure tokens (`K10<hash of the CA>::<user>:<password>`), wherever they ended up. A password may hold
/// any character: all from the token on goes.
pub(crate) fn without_tokens(text: &str) -> Cow<'_, str> {
    let token = text.match_indices("K10").map(|(at, _)| at).find(|at| {
        let hash = text.get(at + 3..).unwrap_or_default();
        let digits = hash.bytes().take_while(u8::is_ascii_hexdigit).count();
        digits >= MIN_HASH && hash.get(digits..).is_some_and(|rest| rest.starts_with("::"))
    });
    match token.and_then(|at| text.get(..at)) {
        Some(before) => Cow::Owned(format!("{before}{REDACTED}")),
        None => Cow::Borrowed(text),
    }
}

/// Digits after `K10` from which on it is taken for a token. A whole one has 64.
const MIN_HASH: usize = 8;

/// Flags of components that take a secret itself rather than a file.
fn secret_flag(flag: &str) -> bool {
    flag.ends_with("password") || flag.ends_with("-secret") || flag == "token" || flag.ends_with("-token")
}

/// A connection string without its credentials.
pub(crate) fn redact_connection(value: &str) -> String {
    let lower = value.to_ascii_lowercase();
    let carries =
        value.contains('@') || ["password", "passwd", "pwd=", "token", "secret"].iter().any(|w| lower.contains(w));
    if !carries {
        return value.to_owned();
    }
    // A list of endpoints: each keeps its scheme, since one in clear is enough to matter.
    let web =
        |part: &str| ["https", "http"].into_iter().find(|s| part.strip_prefix(s).is_some_and(|r| r.starts_with("://")));
    if value.contains(',')
        && let Some(schemes) = value.split(',').map(web).collect::<Option<Vec<_>>>()
    {
        return schemes.into_iter().map(|scheme| format!("{scheme}://{REDACTED}")).collect::<Vec<_>>().join(",");
    }
    let encryption = encryption_parameter(value);
    match value.split_once("://") {
        Some((scheme, _)) if scheme.bytes().all(|b| b.is_ascii_alphanumeric()) => {
            format!("{scheme}://{REDACTED}{encryption}")
        }
        _ => format!("{REDACTED}{encryption}"),
    }
}

/// `?sslmode=…` (PostgreSQL) or `?tls=…` (MySQL) of a connection string: whether it is encrypted is no secret. Empty
/// where there is none, or its value is not one short word.
fn encryption_parameter(value: &str) -> String {
    let query = value.rsplit_once('?').map_or("", |(_, query)| query);
    let word = |text: &str| {
        text.len() <= 16 && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, mode)| matches!(*key, "sslmode" | "tls") && word(mode))
        .map_or_else(String::new, |(key, mode)| format!("?{key}={mode}"))
}

/// Whether an unknown key's name promises a secret (a mistyped `tokens:`).
fn sounds_secret(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    name == "t"
        || ["token", "secret", "password", "passwd", "credential", "vpn-auth", "vpn_auth", "access-key", "access_key"]
            .iter()
            .any(|w| lower.contains(w))
            && !lower.starts_with("secret-encryption")
            && !lower.starts_with("secrets-encryption")
            && !lower.starts_with("secret_encryption")
            && !lower.starts_with("secrets_encryption")
            && !lower.ends_with("-file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_complete() {
        assert_eq!(Known::of(Role::Server).by_name.len(), 124 + 7);
        assert_eq!(Known::of(Role::Agent).iter().count(), 46);
        assert_eq!(Known::of(Role::Agent).get("t").unwrap().name, "token");
    }

    #[test]
    fn secrets_do_not_pass() {
        assert_eq!(redact("token", "K10abc", true), REDACTED);
        assert_eq!(redact("tokens", "K10abc", false), REDACTED);
        assert_eq!(redact("datastore-endpoint", "mysql://u:p@tcp(db)/k", true), "mysql://<redacted>");
        for (given, shown) in [
            ("postgres://u:p@db/k?x=1&sslmode=verify-full", "postgres://<redacted>?sslmode=verify-full"),
            ("u:p@tcp(db)/k?tls=true", "<redacted>?tls=true"),
            ("postgres://u:p?tls=geheim@db/k", "postgres://<redacted>"),
            ("https://u:p@a:2379,http://b:2379", "https://<redacted>,http://<redacted>"),
            ("postgres://u:a,b://c@db/k", "postgres://<redacted>"),
        ] {
            assert_eq!(redact("datastore-endpoint", given, true), shown, "whether it is encrypted is no secret");
        }
        assert_eq!(redact("datastore-endpoint", "https://10.0.0.1:2379", true), "https://10.0.0.1:2379");
        assert_eq!(redact("datastore-endpont", "mysql://u:p@tcp(db)/k", false), "mysql://<redacted>");
        assert_eq!(redact("server", "https://u:p/@x@h:6443", true), "https://<redacted>@h:6443");
        assert_eq!(redact("secret-encryption", "true", false), "true");
        assert_eq!(redact("system-default-registry", "u:p@r.example", true), "<redacted>@r.example");
        assert_eq!(redact("token-file", "s3cr3t", true), REDACTED);
        assert_eq!(redact("agent-token-file", "/etc/k3s/token", true), "/etc/k3s/token");
        assert_eq!(redact("kubelet-arg", "[{token s3cr3t}]", true), REDACTED);
        assert_eq!(redact("node-label", "K10::x", true), "K10::x");
        assert_eq!(redact("kubelet-arg", "etcd-servers=http://u:p@h", true), "etcd-servers=http://<redacted>");
    }
}
