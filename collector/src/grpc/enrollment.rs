//! `Enrollment`: how nodes get their certificates.

use std::sync::Arc;

use arc_swap::ArcSwap;
use picket_model::NodeId;
use picket_proto::{convert, limits, v1};
use picket_service::chain::Chain;
use picket_service::clock::Clock;
use picket_service::tls::peer::Certificate;
use picket_service::tls::token::EnrollToken;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use crate::authz::{Caller, broken, refused};
use crate::ca::{Ca, CaError, Issued};
use crate::metrics::Metrics;
use crate::registry::{Registry, RegistryError};
use crate::settings::Settings;

/// Enrolments under way at once: whoever has no certificate may not keep the collector busy.
const AT_ONCE: usize = 32;

/// The service.
#[derive(Debug)]
pub struct EnrollmentService {
    registry: Arc<Registry>,
    ca: Arc<Ca>,
    settings: Arc<ArcSwap<Settings>>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    places: Semaphore,
}

impl EnrollmentService {
    /// The service from its parts.
    pub fn new(
        registry: Arc<Registry>,
        ca: Arc<Ca>,
        settings: Arc<ArcSwap<Settings>>,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> Self {
        Self { registry, ca, settings, clock, metrics, places: Semaphore::new(AT_ONCE) }
    }

    /// Half the life, 10 % more or less, so that a fleet enrolled in one hour does not come back in one hour.
    fn renew_after(&self, certificate: &Certificate) -> i64 {
        let now = self.clock.now().as_millisecond();
        let life = certificate.not_after.as_millisecond().saturating_sub(now);
        let percent: i64 = rand::random_range(45..=55);
        now.saturating_add(life.saturating_div(100).saturating_mul(percent))
    }

    fn authorities(&self) -> Vec<Vec<u8>> {
        self.ca.authorities().iter().map(|c| c.to_vec()).collect()
    }
}

fn csr(der: &[u8]) -> Result<(), Status> {
    if der.len() > limits::DER_BYTES {
        let message = format!("csr_der: {} bytes, at most {} are taken", der.len(), limits::DER_BYTES);
        return Err(Status::invalid_argument(message));
    }
    Ok(())
}

fn status(error: &RegistryError) -> Status {
    match error {
        RegistryError::Token(refusal) => Status::permission_denied(refusal.to_string()),
        RegistryError::Certificate(CaError::Request(_)) => Status::invalid_argument(format!("csr_der: {error}")),
        RegistryError::Refused(refusal) => refused(*refusal),
        RegistryError::Store(_) => Status::unavailable(Chain(error).to_string()),
        other => {
            tracing::error!(error = %Chain(other), "a certificate cannot be given out");
            Status::internal("the collector cannot give out a certificate; its log says more")
        }
    }
}

#[tonic::async_trait]
impl v1::enrollment_server::Enrollment for EnrollmentService {
    async fn enroll(&self, request: Request<v1::EnrollRequest>) -> Result<Response<v1::EnrollResponse>, Status> {
        let _place = self
            .places
            .try_acquire()
            .map_err(|_| Status::resource_exhausted("too many enrolments at once; try again in a moment"))?;
        let request = request.into_inner();
        let refuse = |status: Status| {
            self.metrics.enrolments_refused.inc();
            tracing::warn!(reason = status.message(), "enrolment refused");
            status
        };
        if request.token.len() > limits::TOKEN_BYTES {
            return Err(refuse(Status::invalid_argument(format!("token: at most {} bytes", limits::TOKEN_BYTES))));
        }
        let token: EnrollToken =
            request.token.parse().map_err(|e| refuse(Status::permission_denied(format!("token: {e}"))))?;
        if token.pin != self.ca.pin() {
            return Err(refuse(Status::permission_denied("the enrolment token belongs to another collector")));
        }
        csr(&request.csr_der).map_err(refuse)?;
        let info = convert::info_from_wire(request.info.unwrap_or_default())
            .map_err(|e| refuse(Status::invalid_argument(format!("info.{e}"))))?;
        let id = NodeId::from_uuid(uuid::Uuid::new_v4());
        let life = self.settings.load().enrolment.certificate_life;
        let (registry, ca) = (Arc::clone(&self.registry), Arc::clone(&self.ca));
        let done = tokio::task::spawn_blocking(move || {
            let mut made: Option<Issued> = None;
            let node = registry.enroll(&token, id, info, || {
                let issued = ca.issue_node(&request.csr_der, id, life)?;
                let certificate = issued.certificate.clone();
                made = Some(issued);
                Ok(certificate)
            })?;
            Ok::<_, RegistryError>((node, made))
        })
        .await
        .map_err(|e| broken(&e))?;
        let (node, issued) = match done {
            Ok((node, Some(issued))) => (node, issued),
            Ok((_, None)) => return Err(Status::internal("no certificate was made")),
            Err(error) => return Err(refuse(status(&error))),
        };
        self.metrics.enrolled.inc();
        tracing::info!(node = %id, hostname = node.hostname, labels = ?node.labels, "node enrolled");
        Ok(Response::new(v1::EnrollResponse {
            node_id: id.to_string(),
            renew_after_unix_ms: self.renew_after(&issued.certificate),
            certificate_chain_der: vec![issued.der.to_vec()],
            ca_der: self.authorities(),
            trust_domain: self.ca.domain().to_string(),
        }))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        let (id, shown) = Caller::node(&request)?;
        let csr_der = request.into_inner().csr_der;
        csr(&csr_der)?;
        let life = self.settings.load().enrolment.certificate_life;
        let (registry, ca) = (Arc::clone(&self.registry), Arc::clone(&self.ca));
        let done = tokio::task::spawn_blocking(move || {
            let mut made: Option<Issued> = None;
            registry.renew(id, &shown, || {
                let issued = ca.issue_node(&csr_der, id, life)?;
                let certificate = issued.certificate.clone();
                made = Some(issued);
                Ok(certificate)
            })?;
            Ok::<_, RegistryError>(made)
        })
        .await
        .map_err(|e| broken(&e))?;
        let issued = done.map_err(|e| status(&e))?.ok_or_else(|| Status::internal("no certificate was made"))?;
        self.metrics.renewed.inc();
        tracing::info!(node = %id, not_after = %issued.certificate.not_after, "certificate renewed");
        Ok(Response::new(v1::RenewResponse {
            renew_after_unix_ms: self.renew_after(&issued.certificate),
            certificate_chain_der: vec![issued.der.to_vec()],
            ca_der: self.authorities(),
        }))
    }
}
