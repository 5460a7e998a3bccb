//! `Uplink`: how nodes report.

use picket_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::authz::Caller;
use crate::session::Sessions;

/// Answers under way to one node.
const ANSWERS: usize = 64;

/// The service.
#[derive(Debug, Clone)]
pub struct UplinkService(pub Sessions);

#[tonic::async_trait]
impl v1::uplink_server::Uplink for UplinkService {
    type ReportStream = ReceiverStream<Result<v1::UplinkResponse, Status>>;

    async fn report(
        &self,
        request: Request<Streaming<v1::UplinkRequest>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let (node, certificate) = Caller::node(&request)?;
        let (answers, stream) = mpsc::channel(ANSWERS);
        tokio::spawn(self.0.clone().run(node, certificate, request.into_inner(), answers));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
