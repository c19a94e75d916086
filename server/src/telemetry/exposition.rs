//! Metrics over HTTP, on a port of their own, without credentials: for Prometheus on the inner network.

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Metrics;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves `GET /metrics` and `GET /health` until `shutdown`.
///
/// # Errors
/// Where the listener fails for good.
pub async fn serve_metrics(
    listener: TcpListener,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    axum::serve(listener, routes(metrics)).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

fn routes(metrics: Metrics) -> Router {
    Router::new().route("/metrics", get(expose)).route("/health", get(async || "ok\n")).with_state(metrics)
}

async fn expose(State(metrics): State<Metrics>) -> impl IntoResponse {
    ([(CONTENT_TYPE, OPENMETRICS)], metrics.encode())
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn metrics_are_openmetrics_text() -> Result<(), Box<dyn std::error::Error>> {
        let request = axum::http::Request::get("/metrics").body(axum::body::Body::empty())?;
        let response = routes(Metrics::default()).oneshot(request).await?;
        assert_eq!(response.headers()[CONTENT_TYPE], OPENMETRICS);
        let body = response.into_body().collect().await?.to_bytes();
        assert!(body.ends_with(b"# EOF\n"));
        Ok(())
    }

    #[tokio::test]
    async fn serves_until_told_to_stop() -> Result<(), Box<dyn std::error::Error>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(serve_metrics(listener, Metrics::default(), shutdown.clone()));
        shutdown.cancel();
        serving.await??;
        Ok(())
    }
}
