//! `Fleet`: what operators ask.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use picket_proto::v1;
use picket_service::tls::accept::ConnectionInfo;
use picket_service::tls::peer::Peer;
use picket_store::Store;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::authz::{broken, refused};
use crate::fleet::{Fleet, Presence};
use crate::query::{self, Directory, Filter, NodeView, QueryError};
use crate::registry::Registry;
use crate::settings::Settings;
use crate::writer::WriterHandle;

/// Events under way to one watcher.
const WATCHED: usize = 256;
/// A watcher's picture of the fleet (host names, labels) is not older than this.
const PICTURE: Duration = Duration::from_secs(10);
/// How often it is asked whether a watcher who hears nothing may still listen.
const STANDING: Duration = Duration::from_secs(30);

/// The service.
#[derive(Debug, Clone)]
pub struct FleetService {
    /// History.
    pub store: Arc<dyn Store>,
    /// Who belongs to the fleet.
    pub registry: Arc<Registry>,
    /// Who is connected.
    pub fleet: Fleet,
    /// Where committed events come out.
    pub writer: WriterHandle,
    /// Settings as they are now.
    pub settings: Arc<ArcSwap<Settings>>,
    /// Cancelled when the collector stops.
    pub stop: CancellationToken,
}

const fn presence_to_wire(presence: Presence) -> v1::Presence {
    match presence {
        Presence::Connected => v1::Presence::Connected,
        Presence::Away => v1::Presence::Away,
        Presence::Silent => v1::Presence::Silent,
        Presence::Revoked => v1::Presence::Revoked,
        Presence::NeverSeen => v1::Presence::NeverSeen,
    }
}

impl FleetService {
    fn directory(&self) -> Directory {
        let silent_after = self.settings.load().fleet.silent_after;
        Directory::new(self.registry.nodes().into_iter().map(|mut record| {
            let presence = presence_to_wire(self.fleet.presence(&record, silent_after));
            record.last_seen = record.last_seen.max(self.fleet.last_seen(record.id));
            NodeView { record, presence }
        }))
    }

    /// Answers on a blocking thread.
    async fn ask<Q: Send + 'static, A: Send + 'static>(
        &self,
        request: Request<Q>,
        answer: impl FnOnce(&dyn Store, &Directory, Q) -> Result<A, QueryError> + Send + 'static,
    ) -> Result<Response<A>, Status> {
        let (this, request) = (self.clone(), request.into_inner());
        tokio::task::spawn_blocking(move || answer(this.store.as_ref(), &this.directory(), request))
            .await
            .map_err(|e| broken(&e))?
            .map(Response::new)
            .map_err(Status::from)
    }

    /// Revocation cuts the connection; this also ends a watch whose certificate expires meanwhile.
    fn may_listen(&self, peer: &Peer) -> Result<(), Status> {
        match peer {
            Peer::Operator { name, certificate } => {
                self.registry.operator_role(name, certificate).map(drop).map_err(refused)
            }
            Peer::Anonymous | Peer::Node { .. } => Err(Status::permission_denied("only operators may watch")),
        }
    }

    async fn pass_on(self, peer: Peer, filter: Filter, mut directory: Directory, watcher: Watcher) {
        let mut listener = self.writer.subscribe();
        let mut standing = tokio::time::interval(STANDING);
        standing.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut made = tokio::time::Instant::now();
        loop {
            let event = tokio::select! {
                () = watcher.closed() => return,
                () = self.stop.cancelled() => Err(Status::unavailable("the collector is stopping: watch again in a moment")),
                event = listener.next() => event.map_err(Status::from).map(Some),
                _ = standing.tick() => Ok(None),
            };
            let event = self.may_listen(&peer).and(event);
            let event = match event {
                Ok(Some(event)) => event,
                Ok(None) => continue,
                Err(status) => {
                    // The watcher may be gone already.
                    watcher.send(Err(status)).await.ok();
                    return;
                }
            };
            if directory.get(event.node).is_none() || made.elapsed() > PICTURE {
                directory = self.directory();
                made = tokio::time::Instant::now();
            }
            if filter.matches(&event, &directory) {
                let answer = v1::WatchResponse { event: Some(query::event_to_wire(&event, &directory)) };
                if watcher.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
        }
    }
}

type Watcher = mpsc::Sender<Result<v1::WatchResponse, Status>>;

#[tonic::async_trait]
impl v1::fleet_server::Fleet for FleetService {
    type WatchStream = ReceiverStream<Result<v1::WatchResponse, Status>>;

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        self.ask(request, query::list_nodes).await
    }

    async fn list_findings(
        &self,
        request: Request<v1::ListFindingsRequest>,
    ) -> Result<Response<v1::ListFindingsResponse>, Status> {
        self.ask(request, query::list_findings).await
    }

    async fn list_detections(
        &self,
        request: Request<v1::ListDetectionsRequest>,
    ) -> Result<Response<v1::ListDetectionsResponse>, Status> {
        self.ask(request, query::list_detections).await
    }

    async fn list_history(
        &self,
        request: Request<v1::ListHistoryRequest>,
    ) -> Result<Response<v1::ListHistoryResponse>, Status> {
        self.ask(request, query::list_history).await
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let info = request.extensions().get::<ConnectionInfo>();
        let peer = info.ok_or_else(|| Status::internal("the connection was not authenticated"))?.peer.clone();
        let filter = Filter::from_wire(request.into_inner().filter)?;
        let directory = self.directory();
        // Nodes and selector that do not exist are told now, not by silence.
        filter.scope(&directory)?;
        let (watcher, stream) = mpsc::channel(WATCHED);
        tokio::spawn(self.clone().pass_on(peer, filter, directory, watcher));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
