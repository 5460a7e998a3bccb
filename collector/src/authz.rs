//! Who may call what. Asked before any service sees a call; a method that is not in the table is refused.

use std::sync::Arc;
use std::task::{Context, Poll};

use picket_model::NodeId;
use picket_service::chain::Chain;
use picket_service::tls::accept::ConnectionInfo;
use picket_service::tls::peer::{Certificate, OperatorName, Peer};
use picket_store::OperatorRole;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};

use crate::metrics::Metrics;
use crate::notice::{Notice, Notices};
use crate::registry::{Refusal, Registry, Standing};

/// What a method demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing: the caller has no certificate yet.
    Anyone,
    /// A node, for itself.
    Node,
    /// A node, for itself, also with a certificate that expired within the grace.
    NodeRenewing,
    /// An operator with at least this role.
    Operator(OperatorRole),
    /// Any certificate that is good.
    Member,
}

/// The table. Paths as gRPC has them.
pub fn access(path: &str) -> Option<Access> {
    use OperatorRole::{Admin, Operator, Viewer};
    Some(match path {
        "/picket.v1.Enrollment/Enroll" => Access::Anyone,
        "/picket.v1.Enrollment/Renew" => Access::NodeRenewing,
        "/picket.v1.Uplink/Report" => Access::Node,
        "/picket.v1.Fleet/ListNodes"
        | "/picket.v1.Fleet/ListFindings"
        | "/picket.v1.Fleet/ListDetections"
        | "/picket.v1.Fleet/ListHistory"
        | "/picket.v1.Fleet/Watch" => Access::Operator(Viewer),
        "/picket.v1.Admin/CreateToken" | "/picket.v1.Admin/ListTokens" | "/picket.v1.Admin/RevokeToken" => {
            Access::Operator(Operator)
        }
        "/picket.v1.Admin/RevokeNode"
        | "/picket.v1.Admin/CreateOperator"
        | "/picket.v1.Admin/ListOperators"
        | "/picket.v1.Admin/RevokeOperator" => Access::Operator(Admin),
        "/grpc.health.v1.Health/Check" | "/grpc.health.v1.Health/List" | "/grpc.health.v1.Health/Watch" => {
            Access::Member
        }
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        | "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => Access::Operator(Viewer),
        _ => return None,
    })
}

/// Who calls, after the check. In the extensions of every call that got through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Nobody yet.
    Anonymous,
    /// A node.
    Node {
        /// Its identity.
        id: NodeId,
        /// The certificate it showed.
        certificate: Certificate,
    },
    /// An operator.
    Operator {
        /// Its name.
        name: OperatorName,
        /// What it may do.
        role: OperatorRole,
    },
}

impl Caller {
    /// The caller of a request that came through [`Guard`].
    ///
    /// # Errors
    /// `INTERNAL` when the guard is missing: nothing is allowed by accident.
    pub fn of<T>(request: &tonic::Request<T>) -> Result<Self, Status> {
        request.extensions().get::<Self>().cloned().ok_or_else(|| Status::internal("the caller was not checked"))
    }

    /// The node that calls.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` for anyone else.
    pub fn node<T>(request: &tonic::Request<T>) -> Result<(NodeId, Certificate), Status> {
        match Self::of(request)? {
            Self::Node { id, certificate } => Ok((id, certificate)),
            Self::Anonymous | Self::Operator { .. } => Err(Status::permission_denied("only nodes may call this")),
        }
    }

    /// The operator who calls.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` for anyone else.
    pub fn operator<T>(request: &tonic::Request<T>) -> Result<OperatorName, Status> {
        match Self::of(request)? {
            Self::Operator { name, .. } => Ok(name),
            Self::Anonymous | Self::Node { .. } => Err(Status::permission_denied("only operators may call this")),
        }
    }
}

/// A refusal as gRPC says it.
pub fn refused(refusal: Refusal) -> Status {
    Status::unauthenticated(refusal.to_string())
}

/// A failed blocking task: only a panic ends one.
pub fn broken(error: &tokio::task::JoinError) -> Status {
    tracing::error!(%error, "a task broke");
    Status::internal("the collector could not finish this call; its log says more")
}

/// Asks whether a peer may do what a method demands.
///
/// # Errors
/// `UNAUTHENTICATED` without a certificate that is good now, `PERMISSION_DENIED` with one that is not enough.
async fn check(guard: &Guard, access: Access, peer: &Peer) -> Result<Caller, Status> {
    let registry = &guard.registry;
    let denied = |what: &str| Err(Status::permission_denied(format!("{peer} may not call this: {what} is needed")));
    match peer {
        Peer::Anonymous => match access {
            Access::Anyone => Ok(Caller::Anonymous),
            Access::Node | Access::NodeRenewing | Access::Operator(_) | Access::Member => {
                Err(Status::unauthenticated("a client certificate is needed; nodes enrol, operators use their file"))
            }
        },
        Peer::Node { id, certificate } => {
            let caller = || Caller::Node { id: *id, certificate: certificate.clone() };
            if let Access::Operator(_) = access {
                return denied("an operator's certificate");
            }
            match registry.node_standing(*id, certificate) {
                Ok(Standing::Active) => Ok(caller()),
                Ok(Standing::Pending) => {
                    let (registry, id, shown) = (Arc::clone(registry), *id, certificate.clone());
                    tokio::task::spawn_blocking(move || registry.promote(id, &shown))
                        .await
                        .map_err(|e| broken(&e))?
                        .map_err(|e| Status::unavailable(Chain(&e).to_string()))?;
                    Ok(caller())
                }
                Err(Refusal::Expired) if access == Access::NodeRenewing => Ok(caller()),
                // A node that was revoked may come back with a new token.
                Err(_) if access == Access::Anyone => Ok(Caller::Anonymous),
                Err(refusal) => {
                    if refusal == Refusal::Replaced {
                        // The node itself took the newer one into use and never goes back.
                        guard.metrics.reject("identity_twice");
                        let observed = "a certificate of this node was shown that a newer one had replaced";
                        guard.notices.raise(*id, Notice::IdentityTwice, observed).await;
                    }
                    Err(refused(refusal))
                }
            }
        }
        Peer::Operator { name, certificate } => {
            let role = match registry.operator_role(name, certificate) {
                Ok(role) => role,
                Err(_) if access == Access::Anyone => return Ok(Caller::Anonymous),
                Err(refusal) => return Err(refused(refusal)),
            };
            match access {
                Access::Node | Access::NodeRenewing => denied("a node's certificate"),
                Access::Operator(needed) if role < needed => denied(match needed {
                    OperatorRole::Viewer => "role viewer",
                    OperatorRole::Operator => "role operator",
                    OperatorRole::Admin => "role admin",
                }),
                Access::Operator(_) | Access::Member | Access::Anyone => {
                    Ok(Caller::Operator { name: name.clone(), role })
                }
            }
        }
    }
}

/// Puts [`check`] before all services.
#[derive(Debug, Clone)]
pub struct Guard {
    /// Who belongs to the fleet.
    pub registry: Arc<Registry>,
    /// Refusals are counted.
    pub metrics: Metrics,
    /// A certificate that should be gone is a finding.
    pub notices: Arc<Notices>,
}

impl<S> tower::Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { guard: self.clone(), inner }
    }
}

/// Services behind a [`Guard`].
#[derive(Debug, Clone)]
pub struct Guarded<S> {
    guard: Guard,
    inner: S,
}

type Answer<E> = std::pin::Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl<S> tower::Service<Request<Body>> for Guarded<S>
where
    S: tower::Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let guard = self.guard.clone();
        // The one that was polled ready goes, a fresh one stays.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        Box::pin(async move {
            let checked = match (access(request.uri().path()), request.extensions().get::<ConnectionInfo>()) {
                (Some(access), Some(info)) => check(&guard, access, &info.peer.clone()).await,
                (None, _) => Err(Status::unimplemented("no such method")),
                (Some(_), None) => Err(Status::internal("the connection was not authenticated")),
            };
            match checked {
                Ok(caller) => {
                    request.extensions_mut().insert(caller);
                    inner.call(request).await
                }
                Err(status) => {
                    guard.metrics.refused_calls.inc();
                    if let Some(info) = request.extensions().get::<ConnectionInfo>() {
                        tracing::debug!(
                            remote = %info.remote, peer = %info.peer, path = request.uri().path(),
                            reason = status.message(), "call refused"
                        );
                    }
                    Ok(status.into_http())
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn every_method_of_the_contract_is_in_the_table_and_only_enrolling_is_open_to_anyone() {
        let files = prost_types::FileDescriptorSet::decode(picket_proto::v1::DESCRIPTORS).unwrap();
        let mut open = Vec::new();
        let mut methods = 0;
        for file in files.file {
            for service in &file.service {
                for method in &service.method {
                    methods += 1;
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    match access(&path) {
                        Some(Access::Anyone) => open.push(path),
                        Some(_) => {}
                        None => panic!("{path} is not in the table"),
                    }
                }
            }
        }
        assert!(methods >= 15, "{methods}");
        assert_eq!(open, ["/picket.v1.Enrollment/Enroll"]);
        assert_eq!(access("/picket.v1.Admin/Whatever"), None);
    }
}
