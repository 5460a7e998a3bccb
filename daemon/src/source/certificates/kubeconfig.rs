//! Certificates embedded in kubeconfigs.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use picket_checks::CertSource;

use super::{BadCertificate, Certificate, MOST_BLOCKS, from_pem};

/// The certificates embedded in a kubeconfig; none where it names files instead.
///
/// # Errors
/// [`BadCertificate`].
pub fn from_kubeconfig(bytes: &[u8]) -> Result<Vec<Certificate>, BadCertificate> {
    let text = std::str::from_utf8(bytes).map_err(|_| BadCertificate::Binary)?;
    let mut found = Vec::new();
    for (key, line, value) in embedded(text)? {
        if value.is_empty() {
            continue;
        }
        let value: String = value.split_ascii_whitespace().collect();
        let pem = STANDARD.decode(value).map_err(|_| BadCertificate::Embedded { key, line })?;
        for mut certificate in from_pem(&pem, CertSource::Kubeconfig)? {
            if found.len() == MOST_BLOCKS {
                return Err(BadCertificate::TooMany);
            }
            certificate.facts.index = u32::try_from(found.len()).unwrap_or(u32::MAX);
            found.push(certificate);
        }
    }
    Ok(found)
}

/// The embedded key of the client, in base64, where it stands on a line of its own as K3s writes it.
pub(in crate::source) fn client_key(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut found = text.lines().filter_map(|line| {
        let line = line.trim_start().trim_start_matches("- ");
        Some(line.strip_prefix("client-key-data")?.trim_start().strip_prefix(':')?.trim().trim_matches(['"', '\'']))
    });
    // Of several users nobody can say which is meant.
    found.next().filter(|value| !value.is_empty() && found.next().is_none())
}

/// Keys of a kubeconfig that embed certificates.
const EMBEDDED: [&str; 2] = ["certificate-authority-data", "client-certificate-data"];

/// Key, line and value.
type Embedded<'a> = (&'static str, usize, Cow<'a, str>);

/// Embedded values with key and line. K3s writes one `key: value` a line; what is written in another way (flow style,
/// block scalars, JSON) goes through the YAML reader.
fn embedded(text: &str) -> Result<Vec<Embedded<'_>>, BadCertificate> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start().trim_start_matches("- ");
        for key in EMBEDDED {
            let Some(value) = line.strip_prefix(key).and_then(|rest| rest.trim_start().strip_prefix(':')) else {
                continue;
            };
            found.push((key, number + 1, Cow::Borrowed(value.trim().trim_matches(['"', '\'']))));
        }
    }
    let plain = |value: &str| value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='));
    let mentioned: usize = EMBEDDED.iter().map(|key| text.matches(key).count()).sum();
    if mentioned == found.len() && found.iter().all(|(_, _, value)| plain(value)) {
        return Ok(found);
    }
    through_yaml(text)
}

/// The same from the document's structure: `clusters[].cluster` and `users[].user`.
fn through_yaml(text: &str) -> Result<Vec<Embedded<'_>>, BadCertificate> {
    #[derive(serde::Deserialize)]
    struct Config {
        #[serde(default)]
        clusters: Vec<BTreeMap<String, serde_json::Value>>,
        #[serde(default)]
        users: Vec<BTreeMap<String, serde_json::Value>>,
    }
    let config: Config = serde_saphyr::from_str(text).map_err(|error| BadCertificate::NoKubeconfig {
        line: error.location().map_or(0, |at| usize::try_from(at.line()).unwrap_or(0)),
    })?;
    let [ca, client] = EMBEDDED;
    let mut found = Vec::new();
    for (list, inner, key) in [(&config.clusters, "cluster", ca), (&config.users, "user", client)] {
        for value in list.iter().filter_map(|one| one.get(inner)?.get(key)?.as_str()) {
            let line = text.lines().position(|l| l.contains(key)).map_or(0, |at| at + 1);
            found.push((key, line, Cow::Owned(value.to_owned())));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(name: &str) -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap().pem()
    }

    #[test]
    fn embedded_certificates_are_found_in_every_way_to_write_yaml() {
        let (ca, client) = (STANDARD.encode(pem("ca")), STANDARD.encode(pem("client")));
        let (first, rest) = client.split_at(64);
        let table = [
            format!(
                "clusters:\n- cluster:\n    certificate-authority-data: {ca}\n    server: x\nusers:\n- name: a\n  user:\n    client-certificate-data: {client}\n"
            ),
            format!(
                "clusters: [{{cluster: {{certificate-authority-data: {ca}, server: x}}}}]\nusers: [{{name: a, user: {{client-certificate-data: \"{client}\"}}}}]\n"
            ),
            format!(
                "clusters:\n- cluster:\n    \"certificate-authority-data\": {ca}\nusers:\n- user:\n    client-certificate-data: |\n      {first}\n      {rest}\n"
            ),
            format!(
                "{{\"clusters\":[{{\"cluster\":{{\"certificate-authority-data\":\"{ca}\"}}}}],\"users\":[{{\"user\":{{\"client-certificate-data\":\"{client}\"}}}}]}}"
            ),
            format!(
                "# no client-certificate-data here\nclusters:\n- cluster:\n    certificate-authority-data: {ca} # ours\nusers:\n- user:\n    client-certificate-data: {client}\n"
            ),
        ];
        for text in table {
            let found = from_kubeconfig(text.as_bytes()).unwrap_or_else(|e| panic!("{e}: {text}"));
            let names: Vec<(u32, String)> =
                found.into_iter().map(|c| (c.facts.index, c.facts.sans.join(","))).collect();
            assert_eq!(names, [(0, "ca".to_owned()), (1, "client".to_owned())], "{text}");
        }
    }

    #[test]
    fn what_is_no_kubeconfig_or_no_base64_says_so() {
        let bad = from_kubeconfig(b"users:\n- user:\n    client-certificate-data: AAA%\n");
        assert!(matches!(bad, Err(BadCertificate::Embedded { line: 3, .. })), "{bad:?}");
        let bad = from_kubeconfig(b"# certificate-authority-data\nclusters: [[[\n");
        assert!(matches!(bad, Err(BadCertificate::NoKubeconfig { .. })), "{bad:?}");
        // One that names files instead has none of its own.
        assert!(from_kubeconfig(b"users:\n- user:\n    client-certificate: /a.crt\n").unwrap().is_empty());
    }
}
