//! The connection to an external datastore.

use picket_model::{Evidence, Status};

use crate::catalogue::{Control, Op};
use crate::context::{Context, external_datastore};
use crate::judge_files::subject;
use crate::node_config::Setting;
use crate::row::Row;

pub(crate) fn judge(ctx: Context<'_>, control: &Control) -> Vec<Row> {
    match control.expected.op {
        Op::DatastoreTls => vec![tls(ctx)],
        Op::StoredSecrets => vec![crate::judge_stored::judge(ctx, control)],
        other => vec![Row::unknown(subject(ctx, control), format!("op {other:?} does not judge a datastore"))],
    }
}

/// The endpoint holds a password: its value is never repeated.
fn tls(ctx: Context<'_>) -> Row {
    let name = "datastore-endpoint";
    let config = match ctx.config() {
        Ok(config) => config,
        Err(reason) => return Row::unknown(name, reason),
    };
    let Some(endpoint) = config.option(name) else { return Row::unknown(name, "not set") };
    let evidence = Evidence { detail: "datastore-endpoint (value not shown)".to_owned(), ..endpoint.evidence.clone() };
    let files: Vec<&str> = ["datastore-cafile", "datastore-certfile", "datastore-keyfile"]
        .into_iter()
        .filter(|file| config.option(file).is_some_and(|s| !s.value.is_empty()))
        .collect();
    let row = match judge_endpoint(&endpoint.value, !files.is_empty(), files.contains(&"datastore-cafile")) {
        Ok((good, words)) => Row::pass_if(name, good, words),
        Err(reason) => Row::unknown(name, reason),
    };
    row.with(evidence)
}

fn judge_endpoint(value: &str, any_file: bool, ca_file: bool) -> Result<(bool, &'static str), &'static str> {
    let (scheme, rest) = match value.split_once("://") {
        Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
        None if value == Setting::HIDDEN => return Err("the value is a secret and nothing of it was kept"),
        // K3s takes anything without a scheme for a MySQL DSN.
        None => ("mysql".to_owned(), value),
    };
    let query = rest.split_once('?').map_or("", |(_, query)| query);
    let parameter = |wanted: &str| {
        query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == wanted).map(|(_, value)| value)
    };
    Ok(match scheme.as_str() {
        "postgres" | "postgresql" => match parameter("sslmode") {
            Some("require" | "verify-ca" | "verify-full") => (true, "PostgreSQL with TLS"),
            Some(_) => (false, "PostgreSQL, sslmode allows a connection in clear"),
            None if any_file => (true, "PostgreSQL with TLS: datastore-*file is set"),
            None => (false, "PostgreSQL without sslmode"),
        },
        "mysql" => match parameter("tls") {
            Some("false" | "preferred" | "0") => (false, "MySQL, tls allows a connection in clear"),
            Some("skip-verify") => (false, "MySQL with TLS, but without checking the server"),
            Some(_) => (true, "MySQL with TLS"),
            None if any_file => (true, "MySQL with TLS: datastore-*file is set"),
            None => (false, "MySQL without TLS"),
        },
        "https" => {
            let clear = rest.split(',').any(|part| part.to_ascii_lowercase().contains("http://"));
            (!clear, if clear { "one of the etcd endpoints is in clear" } else { "etcd with TLS" })
        }
        "http" => (false, "etcd in clear"),
        "tls" => (true, "NATS with TLS"),
        "nats" => (ca_file, if ca_file { "NATS with TLS: datastore-cafile is set" } else { "NATS in clear" }),
        _ => return Err("a scheme that is not known"),
    })
}

/// What holds the cluster's state, for a person.
pub(crate) fn known(ctx: Context<'_>) -> Row {
    use crate::snapshot::FileMeta;
    use picket_model::Observation;
    let db = format!("{}/server/db", ctx.snap.data_dir);
    let there =
        |path: String| -> bool { matches!(ctx.snap.files.get(&path), Some(Observation::<FileMeta>::Value { .. })) };
    let endpoint = ctx.config().is_ok_and(external_datastore);
    let words = if there(format!("{db}/etcd/member")) || there(format!("{db}/etcd")) {
        "embedded etcd"
    } else if endpoint {
        "an external datastore"
    } else if there(format!("{db}/state.db")) {
        "SQLite"
    } else {
        "not known"
    };
    Row::new("datastore", Status::Manual, words).with(Evidence::at(db, words))
}

#[cfg(test)]
mod tests {
    use super::judge_endpoint;

    #[test]
    fn clear_text_connections_fail_by_scheme() {
        for (endpoint, files, good) in [
            ("postgres://u:p@db/k?sslmode=disable", false, false),
            ("postgres://u:p@db/k?sslmode=verify-full", false, true),
            ("postgres://u:p@db/k", true, true),
            ("postgres://u:p@db/k", false, false),
            ("mysql://u:p@tcp(db)/k", false, false),
            ("u:p@tcp(db)/k?tls=true", false, true),
            ("https://a:2379,https://b:2379", false, true),
            ("https://a:2379,http://b:2379", false, false),
            ("http://a:2379", false, false),
            ("nats://a", false, false),
            // As they come without their credentials.
            ("postgres://<redacted>?sslmode=verify-full", false, true),
            ("postgres://<redacted>", false, false),
            ("<redacted>?tls=true", false, true),
            ("https://<redacted>,http://<redacted>", false, false),
        ] {
            assert_eq!(judge_endpoint(endpoint, files, files).map(|(g, _)| g), Ok(good), "{endpoint}");
        }
        assert!(judge_endpoint("oracle://x", false, false).is_err());
    }
}
