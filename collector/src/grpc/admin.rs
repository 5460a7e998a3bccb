//! `Admin`: what steers the collector.

use std::sync::Arc;
use std::time::Duration;

use picket_model::{Labels, NodeId};
use picket_proto::{limits, v1};
use picket_service::chain::Chain;
use picket_service::tls::accept::Live;
use picket_service::tls::connector::Address;
use picket_service::tls::peer::{OperatorName, Peer};
use picket_service::tls::token::{EnrollToken, TokenId};
use picket_store::OperatorRole;
use tonic::{Request, Response, Status};

use crate::authz::{Caller, broken};
use crate::ca::{Ca, CaError};
use crate::metrics::Metrics;
use crate::registry::{Registry, RegistryError};

const DAY: u32 = 86_400;

/// The service.
#[derive(Debug)]
pub struct AdminService {
    /// Who belongs to the fleet.
    pub registry: Arc<Registry>,
    /// Makes certificates.
    pub ca: Arc<Ca>,
    /// Connections to cut.
    pub live: Live,
    /// Where nodes and operators should connect.
    pub advertised: Address,
    /// Counters.
    pub metrics: Metrics,
}

fn status(error: &RegistryError) -> Status {
    match error {
        RegistryError::NoNode(_) | RegistryError::NoToken(_) | RegistryError::NoOperator(_) => {
            Status::not_found(error.to_string())
        }
        RegistryError::Ambiguous { .. } => Status::failed_precondition(error.to_string()),
        RegistryError::OperatorExists(_) => Status::already_exists(error.to_string()),
        RegistryError::Certificate(CaError::Request(_)) => Status::invalid_argument(format!("csr_der: {error}")),
        RegistryError::Store(_) => Status::unavailable(Chain(error).to_string()),
        RegistryError::Certificate(_) | RegistryError::Token(_) | RegistryError::Refused(_) => {
            Status::internal(Chain(error).to_string())
        }
    }
}

impl AdminService {
    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Registry) -> Result<T, RegistryError> + Send + 'static,
    ) -> Result<T, Status> {
        let registry = Arc::clone(&self.registry);
        tokio::task::spawn_blocking(move || change(&registry)).await.map_err(|e| broken(&e))?.map_err(|e| status(&e))
    }

    fn cut(&self, which: impl Fn(&Peer) -> bool) {
        let cut = self.live.cut(which);
        self.metrics.cut.inc_by(u64::try_from(cut).unwrap_or(u64::MAX));
    }
}

/// Labels as Kubernetes has them: an optional DNS prefix, then at most 63 letters, digits, `-`, `_`, `.`, beginning
/// and ending with a letter or digit; values alike, or empty.
fn labels(given: impl IntoIterator<Item = (String, String)>) -> Result<Labels, Status> {
    let part = |text: &str| {
        let alnum = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
        text.len() <= 63
            && alnum(text.bytes().next())
            && alnum(text.bytes().next_back())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    let mut labels = Labels::new();
    for (key, value) in given {
        let (prefix, name) = key.split_once('/').map_or((None, key.as_str()), |(p, n)| (Some(p), n));
        let good_prefix = prefix.is_none_or(|p| p.len() <= 253 && p.split('.').all(part));
        if !good_prefix || !part(name) || !(value.is_empty() || part(&value)) {
            let message = format!(
                "label {key:?}={value:?}: at most 63 letters, digits, '-', '_' or '.', beginning and ending with a \
                 letter or digit, as in Kubernetes"
            );
            return Err(Status::invalid_argument(message));
        }
        labels.insert(key, value);
    }
    if labels.len() > 32 {
        return Err(Status::invalid_argument(format!("{} labels, at most 32 are taken", labels.len())));
    }
    Ok(labels)
}

fn role_from_wire(role: i32) -> Result<OperatorRole, Status> {
    match v1::OperatorRole::try_from(role) {
        Ok(v1::OperatorRole::Viewer) => Ok(OperatorRole::Viewer),
        Ok(v1::OperatorRole::Operator) => Ok(OperatorRole::Operator),
        Ok(v1::OperatorRole::Admin) => Ok(OperatorRole::Admin),
        Ok(v1::OperatorRole::Unspecified) | Err(_) => {
            Err(Status::invalid_argument("role: viewer, operator or admin is needed"))
        }
    }
}

const fn role_to_wire(role: OperatorRole) -> v1::OperatorRole {
    match role {
        OperatorRole::Viewer => v1::OperatorRole::Viewer,
        OperatorRole::Operator => v1::OperatorRole::Operator,
        OperatorRole::Admin => v1::OperatorRole::Admin,
    }
}

fn operator_name(text: &str) -> Result<OperatorName, Status> {
    text.parse().map_err(|e: picket_service::tls::peer::PeerError| Status::invalid_argument(format!("name: {e}")))
}

#[tonic::async_trait]
impl v1::admin_server::Admin for AdminService {
    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        let by = Caller::operator(&request)?.to_string();
        let request = request.into_inner();
        let ttl = if request.ttl_s == 0 { 900 } else { request.ttl_s };
        let uses = request.uses.max(1);
        if ttl > 30 * DAY {
            return Err(Status::invalid_argument("ttl_s: at most 30 days"));
        }
        if uses > 10_000 {
            return Err(Status::invalid_argument("uses: at most 10000"));
        }
        let labels = labels(request.labels)?;
        let token = EnrollToken::generate(self.ca.pin()).map_err(|e| Status::internal(e.to_string()))?;
        let text = token.reveal();
        let record = self
            .change(move |r| Ok(r.add_token(&token, Duration::from_secs(u64::from(ttl)), uses, labels, &by)?))
            .await?;
        tracing::info!(token = record.id, by = record.created_by, uses, ttl_s = ttl, "enrolment token made");
        Ok(Response::new(v1::CreateTokenResponse {
            token: text.as_str().to_owned(),
            id: record.id,
            expires_at_unix_ms: record.expires_at.as_millisecond(),
            collector: self.advertised.to_string(),
        }))
    }

    async fn list_tokens(
        &self,
        _request: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        let tokens = self.change(|r| Ok(r.tokens()?)).await?;
        let tokens = tokens
            .into_iter()
            .map(|t| v1::Token {
                id: t.id,
                created_at_unix_ms: t.created_at.as_millisecond(),
                expires_at_unix_ms: t.expires_at.as_millisecond(),
                uses_left: t.uses_left,
                labels: t.labels.into_iter().collect(),
                created_by: t.created_by,
            })
            .collect();
        Ok(Response::new(v1::ListTokensResponse { tokens }))
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        let by = Caller::operator(&request)?;
        let id: TokenId = request
            .into_inner()
            .id
            .parse()
            .map_err(|e: picket_service::tls::token::TokenError| Status::invalid_argument(format!("id: {e}")))?;
        let revoked = id.clone();
        self.change(move |r| r.revoke_token(&id)).await?;
        tracing::info!(token = %revoked, by = %by, "enrolment token revoked");
        Ok(Response::new(v1::RevokeTokenResponse {}))
    }

    async fn revoke_node(
        &self,
        request: Request<v1::RevokeNodeRequest>,
    ) -> Result<Response<v1::RevokeNodeResponse>, Status> {
        let by = Caller::operator(&request)?.to_string();
        let request = request.into_inner();
        if request.reason.len() > limits::NAME_BYTES {
            return Err(Status::invalid_argument(format!("reason: at most {} bytes", limits::NAME_BYTES)));
        }
        let who = by.clone();
        let id: NodeId = self
            .change(move |r| {
                let id = r.find_node(&request.node)?.id;
                r.revoke_node(id, &who, &request.reason)?;
                Ok(id)
            })
            .await?;
        self.cut(|peer| matches!(peer, Peer::Node { id: open, .. } if *open == id));
        tracing::warn!(node = %id, by, "node revoked");
        Ok(Response::new(v1::RevokeNodeResponse { node_id: id.to_string() }))
    }

    async fn create_operator(
        &self,
        request: Request<v1::CreateOperatorRequest>,
    ) -> Result<Response<v1::CreateOperatorResponse>, Status> {
        let by = Caller::operator(&request)?;
        let request = request.into_inner();
        let name = operator_name(&request.name)?;
        let role = role_from_wire(request.role)?;
        let days = if request.days == 0 { 365 } else { request.days };
        if days > 3650 {
            return Err(Status::invalid_argument("days: at most 3650"));
        }
        if request.csr_der.len() > limits::DER_BYTES {
            return Err(Status::invalid_argument(format!("csr_der: at most {} bytes", limits::DER_BYTES)));
        }
        let (ca, operator) = (Arc::clone(&self.ca), name.clone());
        let issued = self
            .change(move |r| {
                let life = Duration::from_secs(u64::from(days) * u64::from(DAY));
                let issued = ca.issue_operator(&request.csr_der, &operator, life)?;
                r.add_operator(&operator, role, &issued.certificate, false)?;
                Ok(issued)
            })
            .await?;
        tracing::info!(operator = %name, role = ?role, by = %by, "operator made");
        Ok(Response::new(v1::CreateOperatorResponse {
            certificate_chain_der: vec![issued.der.to_vec()],
            ca_der: self.ca.authorities().iter().map(|c| c.to_vec()).collect(),
            collector: self.advertised.to_string(),
            server_name: self.advertised.host.clone(),
        }))
    }

    async fn list_operators(
        &self,
        _request: Request<v1::ListOperatorsRequest>,
    ) -> Result<Response<v1::ListOperatorsResponse>, Status> {
        let operators = self
            .registry
            .operators()
            .into_iter()
            .map(|o| v1::Operator {
                name: o.name,
                role: role_to_wire(o.role).into(),
                created_at_unix_ms: o.created_at.as_millisecond(),
                expires_at_unix_ms: o.certificate.not_after.as_millisecond(),
                revoked: o.revoked.is_some(),
            })
            .collect();
        Ok(Response::new(v1::ListOperatorsResponse { operators }))
    }

    async fn revoke_operator(
        &self,
        request: Request<v1::RevokeOperatorRequest>,
    ) -> Result<Response<v1::RevokeOperatorResponse>, Status> {
        let by = Caller::operator(&request)?.to_string();
        let name = operator_name(&request.into_inner().name)?;
        let (operator, who) = (name.clone(), by.clone());
        self.change(move |r| r.revoke_operator(&operator, &who)).await?;
        self.cut(|peer| matches!(peer, Peer::Operator { name: open, .. } if *open == name));
        tracing::warn!(operator = %name, by, "operator revoked");
        Ok(Response::new(v1::RevokeOperatorResponse {}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_what_kubernetes_takes() {
        let one = |k: &str, v: &str| labels([(k.to_owned(), v.to_owned())]);
        for (key, value) in [("site", "berlin"), ("picket.example/tier", "lab-1"), ("owner", ""), ("a", "B_2.c")] {
            assert!(one(key, value).is_ok(), "{key}={value}");
        }
        let long = "x".repeat(64);
        for (key, value) in
            [("", "x"), ("-a", "x"), ("a", "x y"), (&long, "x"), ("a", &long), ("a/b/c", "x"), ("/a", "x")]
        {
            assert!(one(key, value).unwrap_err().message().contains("label"), "{key}={value}");
        }
        let many = (0..33).map(|n| (format!("l{n}"), String::new()));
        assert!(labels(many).is_err());
    }
}
