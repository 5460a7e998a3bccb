//! The identity in a certificate: exactly one URI SAN, a SPIFFE ID, parsed once, at the handshake.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use picket_model::NodeId;
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;

/// The name before the first slash of every SPIFFE ID of an installation, such as `picket.example`: lower-case
/// letters, digits, `.`, `-`, `_` (SPIFFE ID specification, section 2.1); at most 253 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TrustDomain(String);

impl TrustDomain {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = PeerError;

    fn from_str(text: &str) -> Result<Self, PeerError> {
        let good = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > 253 || !text.bytes().all(good) {
            return Err(PeerError::TrustDomain(text.chars().take(64).collect()));
        }
        Ok(Self(text.to_owned()))
    }
}

/// The name of an operator: lower-case letters, digits, `-`, `.`; at most 63 bytes; begins with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperatorName(String);

impl OperatorName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OperatorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for OperatorName {
    type Err = PeerError;

    fn from_str(text: &str) -> Result<Self, PeerError> {
        let good = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-');
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !first || text.len() > 63 || !text.bytes().all(good) {
            return Err(PeerError::OperatorName(text.chars().take(64).collect()));
        }
        Ok(Self(text.to_owned()))
    }
}

/// A certificate's serial number: the content of its DER integer, as it stands in the certificate. Serials are
/// compared as these bytes, never as a number of fixed width.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(Vec<u8>);

impl Serial {
    /// The serial with this DER content.
    pub fn from_der_content(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// The DER content.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

impl FromStr for Serial {
    type Err = PeerError;

    fn from_str(text: &str) -> Result<Self, PeerError> {
        hex::decode(text).map(Self).map_err(|_| PeerError::Certificate)
    }
}

/// What of a certificate is needed after the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Its serial number.
    pub serial: Serial,
    /// When it becomes valid.
    pub not_before: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
}

impl Certificate {
    /// Reads the parts from DER.
    ///
    /// # Errors
    /// [`PeerError::Certificate`].
    pub fn parse(der: &CertificateDer<'_>) -> Result<Self, PeerError> {
        let (_, parsed) = x509_parser::parse_x509_certificate(der).map_err(|_| PeerError::Certificate)?;
        Self::of(&parsed)
    }

    fn of(parsed: &x509_parser::certificate::X509Certificate<'_>) -> Result<Self, PeerError> {
        let time =
            |t: x509_parser::time::ASN1Time| Timestamp::from_second(t.timestamp()).map_err(|_| PeerError::Certificate);
        Ok(Self {
            serial: Serial::from_der_content(parsed.raw_serial()),
            not_before: time(parsed.validity().not_before)?,
            not_after: time(parsed.validity().not_after)?,
        })
    }
}

/// Who is at the other end of a connection. What it may do (roles, revocation) is not in the certificate: the
/// collector looks that up at every call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// Showed no certificate.
    Anonymous,
    /// A node.
    Node {
        /// Its identity.
        id: NodeId,
        /// The certificate it showed.
        certificate: Certificate,
    },
    /// A person or program that asks and steers.
    Operator {
        /// Its name.
        name: OperatorName,
        /// The certificate it showed.
        certificate: Certificate,
    },
}

/// A certificate that names nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Not X.509.
    #[error("not a certificate that can be read")]
    Certificate,
    /// No SPIFFE ID, or several.
    #[error("the certificate has {0} URI names; exactly one SPIFFE ID is expected")]
    Names(usize),
    /// Not `spiffe://domain/node/uuid` or `spiffe://domain/operator/name`.
    #[error("{0:?} is neither spiffe://<trust domain>/node/<uuid> nor spiffe://<trust domain>/operator/<name>")]
    SpiffeId(String),
    /// Another installation's.
    #[error("the certificate belongs to trust domain {got:?}; this collector is {expected:?}")]
    Foreign {
        /// Whose it is.
        got: String,
        /// Whose it should be.
        expected: String,
    },
    /// Not a trust domain.
    #[error("{0:?} is not a trust domain: lower-case letters, digits, '.', '-', '_', at most 253 bytes")]
    TrustDomain(String),
    /// Not an operator's name.
    #[error("{0:?} is not an operator's name: lower-case letters, digits, '-', '.', at most 63 bytes")]
    OperatorName(String),
}

impl Peer {
    /// Reads the identity from a certificate whose chain was verified.
    ///
    /// # Errors
    /// [`PeerError`] when it names nobody, or somebody of another trust domain.
    pub fn parse(der: &CertificateDer<'_>, domain: &TrustDomain) -> Result<Self, PeerError> {
        let (_, parsed) = x509_parser::parse_x509_certificate(der).map_err(|_| PeerError::Certificate)?;
        let certificate = Certificate::of(&parsed)?;
        let names = parsed.subject_alternative_name().map_err(|_| PeerError::Certificate)?;
        let uris: Vec<&str> = names
            .iter()
            .flat_map(|n| &n.value.general_names)
            .filter_map(|n| if let GeneralName::URI(uri) = n { Some(*uri) } else { None })
            .collect();
        let [uri] = uris.as_slice() else { return Err(PeerError::Names(uris.len())) };
        let unknown = || PeerError::SpiffeId(uri.chars().take(128).collect());
        let rest = uri.strip_prefix("spiffe://").ok_or_else(unknown)?;
        let (got, path) = rest.split_once('/').ok_or_else(unknown)?;
        if got != domain.as_str() {
            return Err(PeerError::Foreign { got: got.chars().take(64).collect(), expected: domain.to_string() });
        }
        match path.split_once('/').ok_or_else(unknown)? {
            ("node", id) => {
                let parsed: NodeId = id.parse().map_err(|_| unknown())?;
                // One spelling only: the UUID's usual form in lower case.
                if parsed.to_string() != id {
                    return Err(unknown());
                }
                Ok(Self::Node { id: parsed, certificate })
            }
            ("operator", name) => Ok(Self::Operator { name: name.parse()?, certificate }),
            _ => Err(unknown()),
        }
    }

    /// The certificate, where one was shown.
    pub const fn certificate(&self) -> Option<&Certificate> {
        match self {
            Self::Anonymous => None,
            Self::Node { certificate, .. } | Self::Operator { certificate, .. } => Some(certificate),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::Node { id, .. } => write!(f, "node/{id}"),
            Self::Operator { name, .. } => write!(f, "operator/{name}"),
        }
    }
}

/// The SPIFFE ID of a node.
pub fn node_uri(domain: &TrustDomain, id: NodeId) -> String {
    format!("spiffe://{domain}/node/{id}")
}

/// The SPIFFE ID of an operator.
pub fn operator_uri(domain: &TrustDomain, name: &OperatorName) -> String {
    format!("spiffe://{domain}/operator/{name}")
}
