//! `/metrics` for Prometheus and `/healthz` for probes, on a port of its own that listens on loopback by default.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::writer::WriterHandle;

/// What the pages need.
#[derive(Debug, Clone)]
pub struct Pages {
    /// All metrics.
    pub metrics: Arc<Registry>,
    /// Health: does the writer take events?
    pub writer: WriterHandle,
}

/// Serves until `stop`.
///
/// # Errors
/// When the socket fails.
pub async fn serve(listener: TcpListener, pages: Pages, stop: CancellationToken) -> std::io::Result<()> {
    let app = Router::new().route("/metrics", get(metrics)).route("/healthz", get(healthz)).with_state(pages);
    axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn metrics(State(pages): State<Pages>) -> impl IntoResponse {
    match crate::metrics::text(&pages.metrics) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn healthz(State(pages): State<Pages>) -> impl IntoResponse {
    if pages.writer.is_open() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the writer stopped\n")
    }
}
