//! Who signed a certificate. A name proves nothing: after a rotation a CA made anew may bear the old one, so every step
//! rests on the signature.

use picket_model::{Evidence, Observation, Status};

use crate::context::Context;
use crate::judge_cert_files::{KUBECONFIG, is_ca_file, told};
use crate::judge_flags::why_not;
use crate::row::Row;
use crate::snapshot::CertFacts;

/// What the CAs of a list say of a certificate.
enum Maker<'a> {
    /// It bears this one's signature.
    Found(&'a CertFacts),
    /// This one bears the issuer's name, and the signature cannot be checked.
    Unchecked(&'a CertFacts),
    /// This one bears the issuer's name, and the signature is another's.
    NotBy(&'a CertFacts),
    /// None bears the issuer's name.
    Nobody,
}

fn maker<'a>(certificate: &CertFacts, list: &'a [CertFacts]) -> Maker<'a> {
    let mut answer = Maker::Nobody;
    for ca in list.iter().filter(|ca| ca.is_ca && ca.subject == certificate.issuer) {
        match (certificate.is_signed_by(ca), &answer) {
            (Some(true), _) => return Maker::Found(ca),
            (None, _) => answer = Maker::Unchecked(ca),
            (Some(false), Maker::Nobody) => answer = Maker::NotBy(ca),
            (Some(false), _) => {}
        }
    }
    answer
}

/// Each certificate of a bundle with the CAs behind it. The chain may end before a self-signed root: a CA in a file of
/// CAs is trusted whoever made it.
pub(crate) fn in_bundle(path: &str, list: &[CertFacts]) -> Option<Row> {
    if list.len() < 2 {
        return None;
    }
    let first = if is_ca_file(path) { list.first()? } else { list.iter().find(|c| !c.is_ca)? };
    let mut unchecked = None;
    for certificate in list {
        match maker(certificate, list) {
            Maker::Found(_) => {}
            Maker::NotBy(ca) => {
                let words = format!(
                    "{} names {} as its issuer, but the CA of that name in the bundle has another key and did not sign it",
                    certificate.subject, ca.subject
                );
                return Some(told(path, Status::Fail, words));
            }
            Maker::Unchecked(ca) => unchecked = Some((certificate, ca)),
            Maker::Nobody if std::ptr::eq(certificate, first) => {
                let words = format!("its issuer {} is not in the bundle", certificate.issuer);
                return Some(told(path, Status::Fail, words));
            }
            Maker::Nobody => {}
        }
    }
    if let Some((certificate, ca)) = unchecked {
        let words = format!(
            "whether {} signed {} cannot be checked ({})",
            ca.subject, certificate.subject, certificate.signature
        );
        return Some(Row::unknown(path, words));
    }
    Some(told(path, Status::Pass, format!("its issuer {} is in the bundle; {}", first.issuer, chain(first, list))))
}

/// The chain from a certificate to the last CA of the list, in words.
fn chain(first: &CertFacts, list: &[CertFacts]) -> String {
    let (mut current, mut words) = (first, Vec::new());
    // Each step takes one certificate; cross-signed CAs may point at each other.
    for _ in 0..list.len() {
        match maker(current, list) {
            Maker::Found(ca) if ca.key_sha256 == current.key_sha256 => break,
            Maker::Found(ca) => {
                words.push(format!("signed by {}", ca.subject));
                current = ca;
            }
            _ => break,
        }
    }
    if words.is_empty() { "signed by itself".to_owned() } else { words.join(", ") }
}

/// The file of the CA whose key signs a file's certificate, by K3s' names.
fn ca_of(path: &str, data_dir: &str) -> Option<String> {
    let tls = format!("{data_dir}/server/tls");
    let name = path.rsplit('/').next()?;
    if let Some(name) = path.strip_prefix(data_dir).and_then(|rest| rest.strip_prefix("/agent/")) {
        let ca = match name {
            "serving-kubelet.crt" => "server-ca.crt",
            _ if name.starts_with("client-") => "client-ca.crt",
            _ => return None,
        };
        return Some(format!("{data_dir}/agent/{ca}"));
    }
    if path == KUBECONFIG {
        return Some(format!("{tls}/client-ca.crt"));
    }
    let rest = path.strip_prefix(&tls)?.strip_prefix('/')?;
    Some(match rest {
        "etcd/peer-server-client.crt" => format!("{tls}/etcd/peer-ca.crt"),
        _ if rest.starts_with("etcd/") => format!("{tls}/etcd/server-ca.crt"),
        "client-auth-proxy.crt" => format!("{tls}/request-header-ca.crt"),
        _ if name.starts_with("client-") => format!("{tls}/client-ca.crt"),
        "dynamic-cert.json" | "serving-kube-apiserver.crt" => format!("{tls}/server-ca.crt"),
        _ if rest.starts_with("kube-scheduler/") || rest.starts_with("kube-controller-manager/") => {
            format!("{tls}/server-ca.crt")
        }
        // Somebody else's file.
        _ => return None,
    })
}

/// What is amiss with the CA in the administrators' kubeconfig: with another one they trust whoever holds its key.
fn trusted_by_administrators(ctx: Context<'_>, path: &str, list: &[CertFacts]) -> Option<Row> {
    let tls = format!("{}/server/tls", ctx.snap.data_dir);
    let mut known = Vec::new();
    for name in ["server-ca.crt", "client-ca.crt"] {
        let file = format!("{tls}/{name}");
        match ctx.snap.certificates.get(&file) {
            Some(Observation::Value { value }) => known.push((file, value)),
            Some(Observation::Absent) | None => return Some(Row::unknown(path, format!("{file} does not exist"))),
            other => return Some(Row::unknown(path, why_not(&file, other))),
        }
    }
    let among = |ca: &CertFacts| known.iter().any(|(_, cas)| cas.iter().any(|c| c.key_sha256 == ca.key_sha256));
    let foreign = list.iter().find(|ca| ca.is_ca && !among(ca))?;
    let words = format!("holds the CA {}, which is not in {tls}/server-ca.crt", foreign.subject);
    let key = format!("{}, key {}", foreign.subject, foreign.key_sha256);
    Some(told(path, Status::Fail, words).with(Evidence::at(path.to_owned(), key)))
}

/// The certificate of the node in a file, and the cluster's CA on disk.
pub(crate) fn by_ca(ctx: Context<'_>, path: &str, list: &[CertFacts]) -> Option<Row> {
    if is_ca_file(path) {
        return None;
    }
    let file = ca_of(path, &ctx.snap.data_dir)?;
    if path == KUBECONFIG
        && let Some(row) = trusted_by_administrators(ctx, path, list)
    {
        return Some(row);
    }
    let leaf = list.iter().find(|c| !c.is_ca)?;
    let cas = match ctx.snap.certificates.get(&file) {
        Some(Observation::Value { value }) => value,
        Some(Observation::Absent) | None => return Some(Row::unknown(path, format!("{file} does not exist"))),
        other => return Some(Row::unknown(path, why_not(&file, other))),
    };
    let (status, words) = match maker(leaf, cas) {
        Maker::Found(ca) if cas.first().is_some_and(|first| first.key_sha256 == ca.key_sha256) => {
            (Status::Pass, format!("signed by {}", ca.subject))
        }
        Maker::Found(ca) => (
            Status::Pass,
            format!("signed by {}, a CA that is still trusted and no longer the one K3s signs with", ca.subject),
        ),
        Maker::Unchecked(ca) => {
            let words = format!("whether {} signed it cannot be checked ({})", ca.subject, leaf.signature);
            return Some(Row::unknown(path, words).with(Evidence::at(file, "the CA")));
        }
        Maker::NotBy(ca) => (
            Status::Fail,
            format!(
                "issued by {}, but {file} holds a CA of that name with another key, which did not sign it",
                ca.subject
            ),
        ),
        Maker::Nobody => (Status::Fail, format!("issued by {}, which is not in {file}", leaf.issuer)),
    };
    let key = cas.first().map(|ca| format!("{}, key {}", ca.subject, ca.key_sha256)).unwrap_or_default();
    Some(told(path, status, words).with(Evidence::at(file, key)))
}
