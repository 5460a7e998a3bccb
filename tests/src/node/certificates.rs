//! Makes the keys and certificates of a sample node as K3s does (ECDSA P-256, bundles of leaf and CA).

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use time::OffsetDateTime;

/// One line of `certs.tsv`.
#[derive(Debug, Clone)]
pub struct CertificateRow {
    /// Where it lies on the node; `@…` for one that only stands inside other files.
    pub path: String,
    /// Path of its CA.
    pub issuer: String,
    /// Path of its key, `-` for none.
    pub key: String,
    kind: String,
    common_name: String,
    organization: String,
    names: Vec<String>,
    usages: Vec<String>,
    not_before_unix_s: i64,
    not_after_unix_s: i64,
    blocks: usize,
}

/// A CA of the node.
#[derive(Debug)]
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// A leaf with the row's names, and its key, both PEM.
    ///
    /// # Errors
    /// What certificate making says.
    pub fn issue(
        &self,
        row: &CertificateRow,
        not_before_unix_s: i64,
        not_after_unix_s: i64,
    ) -> io::Result<(String, String)> {
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let mut params = params(row, not_before_unix_s, not_after_unix_s)?;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = row
            .usages
            .iter()
            .filter_map(|u| match u.as_str() {
                "client" => Some(ExtendedKeyUsagePurpose::ClientAuth),
                "server" => Some(ExtendedKeyUsagePurpose::ServerAuth),
                _ => None,
            })
            .collect();
        let mut pem = params.signed_by(&key, &self.0).map_err(io::Error::other)?.pem();
        if row.blocks > 1 {
            pem.push_str(&self.0.pem());
        }
        Ok((pem, key.serialize_pem()))
    }
}

type Made = (BTreeMap<String, CertificateRow>, BTreeMap<String, Authority>, BTreeMap<String, Vec<u8>>);

pub(super) fn make(table: &Path, shift_s: i64) -> io::Result<Made> {
    let mut rows = read(table)?;
    for row in &mut rows {
        row.not_before_unix_s += shift_s;
        row.not_after_unix_s += shift_s;
    }
    let mut files = BTreeMap::new();
    let mut authorities = BTreeMap::new();
    let mut leaves = BTreeMap::new();
    for row in rows {
        match row.kind.as_str() {
            "ca" => {
                let key = KeyPair::generate().map_err(io::Error::other)?;
                let pem = key.serialize_pem();
                let mut params = params(&row, row.not_before_unix_s, row.not_after_unix_s)?;
                params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                params.serial_number = Some(SerialNumber::from(vec![0]));
                params.key_usages = vec![
                    KeyUsagePurpose::DigitalSignature,
                    KeyUsagePurpose::KeyEncipherment,
                    KeyUsagePurpose::KeyCertSign,
                ];
                let authority = Authority(CertifiedIssuer::self_signed(params, key).map_err(io::Error::other)?);
                files.insert(row.path.clone(), authority.0.pem().into_bytes());
                if row.key != "-" {
                    files.insert(row.key.clone(), pem.into_bytes());
                }
                authorities.insert(row.path.clone(), authority);
            }
            "leaf" => {
                let issuer: &Authority = authorities.get(&row.issuer).ok_or_else(|| {
                    io::Error::new(io::ErrorKind::InvalidData, format!("{}: issuer unknown", row.path))
                })?;
                let (pem, key) = issuer.issue(&row, row.not_before_unix_s, row.not_after_unix_s)?;
                files.insert(row.path.clone(), pem.into_bytes());
                if row.key != "-" {
                    files.insert(row.key.clone(), key.into_bytes());
                }
                leaves.insert(row.path.clone(), row);
            }
            "copy" => {
                let source = files.get(&row.issuer).cloned().unwrap_or_default();
                files.insert(row.path, source);
            }
            _ => {
                let key = KeyPair::generate().map_err(io::Error::other)?;
                files.insert(row.path, key.serialize_pem().into_bytes());
            }
        }
    }
    Ok((leaves, authorities, files))
}

fn params(row: &CertificateRow, not_before_unix_s: i64, not_after_unix_s: i64) -> io::Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, row.common_name.as_str());
    if !row.organization.is_empty() {
        params.distinguished_name.push(DnType::OrganizationName, row.organization.as_str());
    }
    for name in &row.names {
        params.subject_alt_names.push(match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.as_str().try_into().map_err(io::Error::other)?),
        });
    }
    params.not_before = OffsetDateTime::from_unix_timestamp(not_before_unix_s).map_err(io::Error::other)?;
    params.not_after = OffsetDateTime::from_unix_timestamp(not_after_unix_s).map_err(io::Error::other)?;
    Ok(params)
}

fn read(table: &Path) -> io::Result<Vec<CertificateRow>> {
    let bad = |line: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {line}", table.display()));
    let list = |text: &str| text.split(',').filter(|s| !s.is_empty()).map(str::to_owned).collect();
    std::fs::read_to_string(table)?
        .lines()
        .filter(|l| !l.starts_with('#'))
        .map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            let [path, kind, cn, o, issuer, names, usages, not_before, not_after, key, blocks] = fields[..] else {
                return Err(bad(line));
            };
            Ok(CertificateRow {
                path: path.to_owned(),
                issuer: issuer.to_owned(),
                key: key.to_owned(),
                kind: kind.to_owned(),
                common_name: cn.to_owned(),
                organization: o.to_owned(),
                names: list(names),
                usages: list(usages),
                not_before_unix_s: not_before.parse().unwrap_or_default(),
                not_after_unix_s: not_after.parse().unwrap_or_default(),
                blocks: blocks.parse().unwrap_or(1),
            })
        })
        .collect()
}
