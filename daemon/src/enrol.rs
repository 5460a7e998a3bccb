//! Enrolment: a one-time token becomes the node's identity.
//!
//! The token names the one CA to trust. The key is made here, 0600, and never leaves; what goes out is a request for
//! a certificate. Nothing that is in place is touched before the answer was checked.

use std::path::Path;

use jiff::Timestamp;
use picket_model::{NodeId, NodeInfo};
use picket_proto::convert::info_to_wire;
use picket_proto::limits;
use picket_proto::v1;
use picket_proto::v1::enrollment_client::EnrollmentClient;
use picket_service::tls::connector::{Address, AddressError, ConnectFailure, Dialer};
use picket_service::tls::peer::Certificate;
use picket_service::tls::pin::SpkiPin;
use picket_service::tls::request::{KeyAndRequest, RequestError};
use picket_service::tls::token::EnrollToken;
use picket_service::tls::{TlsError, client};
use rustls::CertificateError;
use rustls_pki_types::CertificateDer;

use crate::identity::{Collector, IdentityError, IdentityFolder, Issued};

/// What to enrol with.
#[derive(Debug)]
pub struct Enrolment<'a> {
    /// Where the collector is.
    pub collector: Address,
    /// The name its certificate is checked for, where that is not the address' host.
    pub server_name: Option<String>,
    /// The token.
    pub token: EnrollToken,
    /// What the node says of itself.
    pub info: NodeInfo,
    /// The state folder.
    pub state: &'a Path,
    /// Replace an identity that is there.
    pub force: bool,
}

/// A node that was taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolled {
    /// Its identity from now on.
    pub node_id: NodeId,
    /// End of its certificate.
    pub not_after: Timestamp,
}

/// Why a node was not taken in. Never shows the token.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// There is an identity already.
    #[error(
        "this node is enrolled already at {collector} as {node}; use --force to give that identity up and enrol again"
    )]
    Already {
        /// Where.
        collector: String,
        /// As whom.
        node: NodeId,
    },
    /// The folder or the name cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The server's name is none.
    #[error(transparent)]
    Name(#[from] AddressError),
    /// No key could be made.
    #[error(transparent)]
    Key(#[from] RequestError),
    /// No TLS configuration could be made.
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsError),
    /// The other side does not have the CA that the token names.
    #[error(
        "the collector at {0} does not show the authority that this token names: the token belongs to another \
         collector, the collector's CA was replaced since, or somebody is in between. Make a new token at the \
         collector you mean; nothing was sent"
    )]
    ForeignAuthority(Address),
    /// It could not be reached, or its certificate is wrong.
    #[error("cannot enrol at {address}: {why}")]
    Connect {
        /// Where.
        address: Address,
        /// Why, and what to do.
        why: String,
    },
    /// It said no.
    #[error("the collector at {address} refused: {why}")]
    Refused {
        /// Where.
        address: Address,
        /// Its words, and what to do.
        why: String,
    },
    /// Its answer makes no sense.
    #[error("the collector at {address} answered with {what}; nothing was stored")]
    Answer {
        /// Where.
        address: Address,
        /// What is wrong.
        what: String,
    },
}

/// Enrols this node.
///
/// # Errors
/// [`EnrolError`], with what to do.
pub async fn enrol(enrolment: Enrolment<'_>) -> Result<Enrolled, EnrolError> {
    let Enrolment { collector: address, server_name, token, info, state, force } = enrolment;
    let folder = IdentityFolder::of(state);
    if !force && folder.exists() {
        // One that is there but broken says so itself, with the remedy.
        let there = folder.load()?.collector;
        return Err(EnrolError::Already { collector: there.address, node: there.node_id });
    }
    let name = server_name.clone().unwrap_or_else(|| address.host.clone());
    let dialer = Dialer::with_server_name(address.clone(), &name, client::pinned(token.pin)?)?;
    let channel = dialer.connect().await.map_err(|error| match dialer.last_failure() {
        Some(ConnectFailure::Tls(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))) => {
            EnrolError::ForeignAuthority(address.clone())
        }
        Some(failure) => EnrolError::Connect { address: address.clone(), why: failure.to_string() },
        None => EnrolError::Connect { address: address.clone(), why: error.to_string() },
    })?;
    let request = KeyAndRequest::generate()?;
    // Before the token is spent: a folder that takes nothing must not cost one. The key beside the old one is not in
    // use until its certificate is there.
    folder.prepare(&request.key_pem)?;
    let answer = EnrollmentClient::new(channel)
        .max_decoding_message_size(limits::MESSAGE_BYTES)
        .enroll(v1::EnrollRequest {
            token: token.reveal().to_string(),
            csr_der: request.csr_der.clone(),
            info: Some(info_to_wire(&info)),
        })
        .await
        .map_err(|status| refused(&dialer, &status))?
        .into_inner();
    let wrong = |what: String| EnrolError::Answer { address: address.clone(), what };
    let node_id: NodeId = answer.node_id.parse().map_err(|e| wrong(format!("a node id that is none ({e})")))?;
    let issued = Issued { chain: answer.certificate_chain_der, authorities: answer.ca_der };
    check_sizes(&issued).map_err(wrong)?;
    // The authorities to trust from now on must include the one the token named: nobody can slip in another.
    let pinned = issued
        .authorities
        .iter()
        .any(|der| SpkiPin::of(&CertificateDer::from(der.as_slice())).is_ok_and(|pin| pin == token.pin));
    if !pinned {
        return Err(wrong("authorities that do not include the one this token names".to_owned()));
    }
    issued
        .check(&request.key_pem, folder.path())
        .map_err(|e| wrong(format!("a certificate that cannot be used ({e})")))?;
    let leaf = issued.chain.first().map(|der| CertificateDer::from(der.as_slice()));
    let certificate = leaf.and_then(|der| Certificate::parse(&der).ok());
    let certificate = certificate.ok_or_else(|| wrong("a certificate that cannot be read".to_owned()))?;
    let collector = Collector {
        address: address.to_string(),
        server_name,
        node_id,
        trust_domain: answer.trust_domain.chars().take(253).collect(),
        renew_after: Timestamp::from_millisecond(answer.renew_after_unix_ms).ok().filter(|t| t.as_millisecond() > 0),
    };
    folder.install(&issued, &collector)?;
    Ok(Enrolled { node_id, not_after: certificate.not_after })
}

fn check_sizes(issued: &Issued) -> Result<(), String> {
    for (list, what) in [(&issued.chain, "certificates"), (&issued.authorities, "authorities")] {
        if list.is_empty() || list.len() > 8 || list.iter().any(|der| der.len() > limits::DER_BYTES) {
            return Err(format!("{} {what}; 1 to 8 of at most {} bytes are taken", list.len(), limits::DER_BYTES));
        }
    }
    Ok(())
}

fn refused(dialer: &Dialer, status: &tonic::Status) -> EnrolError {
    use tonic::Code;
    let address = dialer.address().clone();
    match status.code() {
        Code::PermissionDenied | Code::InvalidArgument | Code::ResourceExhausted | Code::FailedPrecondition => {
            let mut why: String = status.message().chars().take(1024).collect();
            if status.code() == Code::PermissionDenied && !why.contains("token create") {
                why.push_str("; make a new one with `picket-collector token create` on the collector's host");
            }
            EnrolError::Refused { address, why }
        }
        Code::Unimplemented => EnrolError::Refused {
            address,
            why: "it does not know enrolment; is this the port of a Picket collector?".to_owned(),
        },
        _ => EnrolError::Connect { why: dialer.explain(status), address },
    }
}
