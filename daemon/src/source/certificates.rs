//! Certificates: PEM files, kubeconfigs with embedded data, `dynamic-cert.json`.
//!
//! K3s' leaf files are bundles, leaf first (facts: every `.crt` holds the CA too), so each block of a file is a
//! certificate of its own. Its CAs have serial number 0, which RFC 5280 forbids and this reader accepts. Private keys
//! that stand beside certificates are skipped unread.

mod kubeconfig;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;

use jiff::Timestamp;
use picket_checks::{CertFacts, CertSource, FilePattern, Needs, PublicKeyKind, Snapshot};
use picket_host::Host;
use picket_model::Observation;
use sha2::{Digest, Sha256};
use x509_parser::prelude::*;
use x509_parser::public_key::PublicKey;
use x509_parser::signature_algorithm::RsaSsaPssParams;

pub(super) use kubeconfig::client_key;
pub use kubeconfig::from_kubeconfig;

/// The most certificates one file may hold; the longest real bundle has four.
const MOST_BLOCKS: usize = 64;

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Signs certificates.
    Ca,
    /// Serves.
    Server,
    /// Identifies a client.
    Client,
    /// Both of these.
    ServerAndClient,
    /// No extended key usage says what for.
    Leaf,
}

impl Purpose {
    /// The name as it stands in output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ca => "ca",
            Self::Server => "server",
            Self::Client => "client",
            Self::ServerAndClient => "server,client",
            Self::Leaf => "leaf",
        }
    }
}

/// A certificate with what only a person wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// What the controls judge.
    pub facts: CertFacts,
    /// What it is for.
    pub purpose: Purpose,
    /// The certificate itself, until its signature has been checked.
    pub(super) der: Vec<u8>,
}

/// Why a file gives no certificates. Never the content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadCertificate {
    /// No PEM block of a certificate.
    #[error("no certificate in it (no PEM block of type CERTIFICATE)")]
    None,
    /// A block that begins and does not end.
    #[error("the PEM block that begins on line {line} has no end: the file is cut short or half written")]
    Truncated {
        /// Line of the begin, from 1.
        line: usize,
    },
    /// Something in a block that is no base64.
    #[error("the PEM block that begins on line {line} is not base64")]
    NotBase64 {
        /// Line of the begin, from 1.
        line: usize,
    },
    /// A block that is no X.509 certificate.
    #[error("certificate {index} (line {line}) is not an X.509 certificate")]
    NotX509 {
        /// Position among the certificates, from 0.
        index: u32,
        /// Line of the begin, from 1.
        line: usize,
    },
    /// More certificates than can be meant.
    #[error("more than {MOST_BLOCKS} certificates in one file")]
    TooMany,
    /// A certificate in the binary form.
    #[error("a certificate in the binary form (DER); K3s reads the text form (PEM)")]
    Der,
    /// A block that begins where neither K3s nor OpenSSL sees it.
    #[error("line {line} has something before -----BEGIN, such as a byte order mark: K3s does not see this block")]
    Hidden {
        /// Line of the begin, from 1.
        line: usize,
    },
    /// No YAML with lists of clusters and users.
    #[error("not a kubeconfig that can be read (line {line})")]
    NoKubeconfig {
        /// Line, from 1; 0 where it is not known.
        line: usize,
    },
    /// Not UTF-8, so no kubeconfig.
    #[error("not a text file")]
    Binary,
    /// Not what dynamic-cert.json looks like.
    #[error("not a Kubernetes Secret in JSON with data[\"tls.crt\"]: {0}")]
    NotASecret(String),
    /// Embedded data that is no base64.
    #[error("{key} on line {line} is not base64")]
    Embedded {
        /// The key of the kubeconfig.
        key: &'static str,
        /// Line, from 1.
        line: usize,
    },
}

/// The certificates of a PEM file.
///
/// # Errors
/// [`BadCertificate`]; a file with one bad block is bad as a whole, since nobody can say what was meant.
pub fn from_pem(bytes: &[u8], source: CertSource) -> Result<Vec<Certificate>, BadCertificate> {
    // Comments around the blocks may be in any encoding.
    let text = String::from_utf8_lossy(bytes);
    let mut found = Vec::new();
    for block in pem_blocks(&text) {
        let (line, der) = block?;
        if found.len() == MOST_BLOCKS {
            return Err(BadCertificate::TooMany);
        }
        let index = u32::try_from(found.len()).unwrap_or(u32::MAX);
        found.push(parse(&der, index, source).ok_or(BadCertificate::NotX509 { index, line })?);
    }
    match found.is_empty() {
        false => Ok(found),
        true if X509Certificate::from_der(bytes).is_ok() => Err(BadCertificate::Der),
        true => Err(BadCertificate::None),
    }
}

/// The certificates of `dynamic-cert.json`. Its private key is dropped unread.
///
/// # Errors
/// [`BadCertificate`].
pub fn from_dynamic_cert(bytes: &[u8]) -> Result<Vec<Certificate>, BadCertificate> {
    #[derive(serde::Deserialize)]
    struct Secret<'a> {
        #[serde(borrow)]
        data: Data<'a>,
    }
    #[derive(serde::Deserialize)]
    struct Data<'a> {
        #[serde(rename = "tls.crt", borrow)]
        certificate: std::borrow::Cow<'a, str>,
    }
    // serde_json's own words name a line and a column, and no content beyond the wrong type's name.
    let secret: Secret<'_> = serde_json::from_slice(bytes)
        .map_err(|e| BadCertificate::NotASecret(format!("line {}, column {}", e.line(), e.column())))?;
    let pem = STANDARD
        .decode(secret.data.certificate.as_ref())
        .map_err(|_| BadCertificate::NotASecret("data[\"tls.crt\"] is not base64".to_owned()))?;
    from_pem(&pem, CertSource::DynamicCert)
}

/// The CERTIFICATE blocks of a PEM text: line of the begin, and DER. Blocks of other types are skipped.
fn pem_blocks(text: &str) -> impl Iterator<Item = Result<(usize, Vec<u8>), BadCertificate>> {
    let mut lines = text.lines().enumerate();
    let mut broken = false;
    std::iter::from_fn(move || {
        if broken {
            return None;
        }
        loop {
            let (number, line) = lines.next()?;
            let Some(label) = line.trim_end().strip_prefix("-----BEGIN ").and_then(|l| l.strip_suffix("-----")) else {
                if line.trim_end().ends_with("-----BEGIN CERTIFICATE-----") {
                    broken = true;
                    return Some(Err(BadCertificate::Hidden { line: number + 1 }));
                }
                continue;
            };
            // K3s skips every other type, that of OpenSSL's trusted certificates too.
            let wanted = label == "CERTIFICATE";
            let end = format!("-----END {label}-----");
            let mut body = String::new();
            let mut ended = false;
            for (_, line) in lines.by_ref() {
                let line = line.trim();
                if line == end {
                    ended = true;
                    break;
                }
                if line.starts_with("-----") {
                    break;
                }
                // The body of a private key is not even collected.
                if wanted {
                    body.extend(line.split_ascii_whitespace());
                }
            }
            if !ended {
                broken = true;
                return Some(Err(BadCertificate::Truncated { line: number + 1 }));
            }
            if !wanted {
                continue;
            }
            return Some(match STANDARD.decode(&body) {
                Ok(der) => Ok((number + 1, der)),
                Err(_) => {
                    broken = true;
                    Err(BadCertificate::NotBase64 { line: number + 1 })
                }
            });
        }
    })
}

/// One certificate; none if it is no X.509.
pub fn from_der(der: &[u8]) -> Option<Certificate> {
    parse(der, 0, CertSource::File)
}

fn parse(der: &[u8], index: u32, source: CertSource) -> Option<Certificate> {
    let (rest, x509) = X509Certificate::from_der(der).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let is_ca = x509.basic_constraints().ok().flatten().is_some_and(|ext| ext.value.ca);
    let usage = x509.extended_key_usage().ok().flatten();
    let (server, client) =
        usage.map_or((false, false), |e| (e.value.server_auth || e.value.any, e.value.client_auth || e.value.any));
    let purpose = match (is_ca, server, client) {
        (true, ..) => Purpose::Ca,
        (_, true, true) => Purpose::ServerAndClient,
        (_, true, false) => Purpose::Server,
        (_, false, true) => Purpose::Client,
        (_, false, false) => Purpose::Leaf,
    };
    // "No well-defined end" is the last second of the year 9999 (RFC 5280), a little beyond the last timestamp.
    let time = |t: ASN1Time| {
        let (first, last) = (Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
        Timestamp::from_second(t.timestamp().clamp(first, last)).ok()
    };
    let facts = CertFacts {
        index,
        source,
        subject: x509.subject().to_string(),
        issuer: x509.issuer().to_string(),
        serial: hex::encode(x509.raw_serial()),
        not_before: time(x509.validity().not_before)?,
        not_after: time(x509.validity().not_after)?,
        is_ca,
        key: key_kind(&x509),
        signature: signature_name(&x509),
        key_sha256: hex::encode(Sha256::digest(x509.public_key().raw)),
        sha256: hex::encode(Sha256::digest(der)),
        sans: names(&x509),
        signers: Vec::new(),
    };
    Some(Certificate { facts, purpose, der: der.to_vec() })
}

fn key_kind(x509: &X509Certificate<'_>) -> PublicKeyKind {
    let spki = x509.public_key();
    let oid = spki.algorithm.algorithm.to_id_string();
    match spki.parsed() {
        Ok(PublicKey::RSA(rsa)) => PublicKeyKind::Rsa { bits: u32::try_from(rsa.key_size()).unwrap_or(u32::MAX) },
        Ok(PublicKey::EC(_)) => {
            let curve = spki.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok()).map(|o| o.to_id_string());
            match curve.as_deref() {
                Some("1.2.840.10045.3.1.7") => PublicKeyKind::Ec { bits: 256 },
                Some("1.3.132.0.34") => PublicKeyKind::Ec { bits: 384 },
                Some("1.3.132.0.35") => PublicKeyKind::Ec { bits: 521 },
                Some("1.3.132.0.33") => PublicKeyKind::Ec { bits: 224 },
                Some("1.2.840.10045.3.1.1") => PublicKeyKind::Ec { bits: 192 },
                other => PublicKeyKind::Other(other.unwrap_or(&oid).to_owned()),
            }
        }
        _ if oid == "1.3.101.112" => PublicKeyKind::Ed25519,
        _ => PublicKeyKind::Other(oid),
    }
}

fn signature_name(x509: &X509Certificate<'_>) -> String {
    let oid = x509.signature_algorithm.algorithm.to_id_string();
    let name = match oid.as_str() {
        "1.2.840.113549.1.1.4" => "md5WithRSAEncryption",
        "1.2.840.113549.1.1.5" => "sha1WithRSAEncryption",
        "1.2.840.113549.1.1.10" => return pss_name(&x509.signature_algorithm),
        "1.2.840.113549.1.1.11" => "sha256WithRSAEncryption",
        "1.2.840.113549.1.1.12" => "sha384WithRSAEncryption",
        "1.2.840.113549.1.1.13" => "sha512WithRSAEncryption",
        "1.2.840.10045.4.1" => "ecdsa-with-SHA1",
        "1.2.840.10045.4.3.2" => "ecdsa-with-SHA256",
        "1.2.840.10045.4.3.3" => "ecdsa-with-SHA384",
        "1.2.840.10045.4.3.4" => "ecdsa-with-SHA512",
        "1.3.101.112" => "ed25519",
        other => other,
    };
    name.to_owned()
}

/// RSASSA-PSS names its hash in parameters; left out, it is SHA-1 (RFC 4055 section 3.1).
fn pss_name(algorithm: &AlgorithmIdentifier<'_>) -> String {
    let parameters = algorithm.parameters.as_ref().map(RsaSsaPssParams::try_from);
    let hash = match &parameters {
        None => "1.3.14.3.2.26".to_owned(),
        Some(Ok(parameters)) => parameters.hash_algorithm_oid().to_id_string(),
        Some(Err(_)) => return String::new(),
    };
    let hash = match hash.as_str() {
        "1.3.14.3.2.26" => "sha1",
        "2.16.840.1.101.3.4.2.1" => "sha256",
        "2.16.840.1.101.3.4.2.2" => "sha384",
        "2.16.840.1.101.3.4.2.3" => "sha512",
        other => other,
    };
    format!("rsassa-pss with {hash}")
}

fn names(x509: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(san)) = x509.subject_alternative_name() else { return Vec::new() };
    san.value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) | GeneralName::URI(name) | GeneralName::RFC822Name(name) => {
                Some((*name).to_owned())
            }
            GeneralName::IPAddress(bytes) => match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| std::net::Ipv4Addr::from(b).to_string()),
                16 => <[u8; 16]>::try_from(*bytes).ok().map(|b| std::net::Ipv6Addr::from(b).to_string()),
                _ => None,
            },
            _ => None,
        })
        .collect()
}

/// The largest file with certificates.
const LARGEST: u64 = 1024 * 1024;

/// Files that hold certificates beyond those the controls need: kubeconfigs with embedded data, custom CAs.
pub fn also(data_dir: &str) -> [String; 7] {
    [
        format!("{data_dir}/server/tls/temporary-certs/*.crt"),
        format!("{data_dir}/server/tls/**/*.pem"),
        format!("{data_dir}/server/tls/**/*.crt"),
        format!("{data_dir}/agent/*.pem"),
        format!("{data_dir}/server/cred/*.kubeconfig"),
        format!("{data_dir}/agent/*.kubeconfig"),
        "/etc/rancher/k3s/k3s.yaml".to_owned(),
    ]
}

/// Every certificate of a node by file, or why a file gives none. A kubeconfig that names files is left out.
pub fn read_all(host: &Host, needs: &Needs, data_dir: &str) -> BTreeMap<String, Observation<Vec<Certificate>>> {
    let mut found = BTreeMap::new();
    let also = also(data_dir);
    let patterns = needs.certificates.iter().map(FilePattern::as_str).chain(also.iter().map(String::as_str));
    for pattern in patterns {
        let matches = host.glob(pattern);
        for problem in matches.problems.into_iter().filter(|p| !p.reason.is_absent()) {
            found.insert(problem.path, super::observation(Err(problem.reason)));
        }
        for path in &matches.paths {
            if found.contains_key(path) {
                continue;
            }
            let seen = super::parsed(host, path, LARGEST, |bytes, _| {
                if path.ends_with(".json") {
                    from_dynamic_cert(bytes)
                } else if path.ends_with(".kubeconfig") || path.ends_with(".yaml") {
                    from_kubeconfig(bytes)
                } else {
                    from_pem(bytes, CertSource::File)
                }
            });
            if !matches!(&seen, Observation::Value { value } if value.is_empty()) {
                found.insert(path.clone(), seen);
            }
        }
    }
    super::signatures::check(found.values_mut().flat_map(|seen| match seen {
        Observation::Value { value } => value.iter_mut(),
        _ => [].iter_mut(),
    }));
    found
}

/// Puts every certificate into the snapshot.
pub fn observe(host: &Host, needs: &Needs, snapshot: &mut Snapshot) {
    snapshot.certificates = read_all(host, needs, &snapshot.data_dir)
        .into_iter()
        .map(|(path, seen)| (path, seen.map(|list| list.into_iter().map(|c| c.facts).collect())))
        .collect();
    super::keys::observe(host, snapshot);
    super::served::observe(host, snapshot);
}

#[cfg(test)]
#[path = "certificates/tests.rs"]
mod tests;
