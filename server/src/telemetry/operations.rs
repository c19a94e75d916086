//! Counts and traces every call, gRPC and REST alike, in one layer outside of everything else.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tower::{Layer, Service};
use tracing::Instrument;

use super::{Metrics, set_parent};

/// Counts calls into [`Metrics::operation`], and opens the span that the caller's `traceparent` is the parent of.
#[derive(Clone)]
pub struct OperationsLayer {
    metrics: Metrics,
}

/// See [`OperationsLayer`].
#[derive(Clone)]
pub struct Operations<S> {
    inner: S,
    metrics: Metrics,
}

impl OperationsLayer {
    /// A layer that counts into `metrics`.
    pub fn new(metrics: Metrics) -> Self {
        Self { metrics }
    }
}

impl<S> Layer<S> for OperationsLayer {
    type Service = Operations<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Operations { inner, metrics: self.metrics.clone() }
    }
}

impl<S, B, R> Service<http::Request<B>> for Operations<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
    S::Error: Send,
    R: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let span = tracing::info_span!("call", method = %request.method(), path = request.uri().path());
        if let Some(parent) = request.headers().get("traceparent").and_then(|value| value.to_str().ok()) {
            set_parent(&span, parent);
        }
        let metrics = self.metrics.clone();
        let began = Instant::now();
        // The call begins inside the span, so that a handler that starts at once is traced too.
        let answer = span.in_scope(|| self.inner.call(request));
        let counted = async move {
            let answer = answer.await;
            metrics.operation(began.elapsed(), answer.as_ref().is_ok_and(is_fine));
            answer
        };
        Box::pin(counted.instrument(span))
    }
}

/// Whether the answer is not a fault of ours. What callers did wrong is no error of the scheduler.
fn is_fine<R>(answer: &http::Response<R>) -> bool {
    // UNKNOWN, INTERNAL, UNAVAILABLE, DATA_LOSS: https://grpc.io/docs/guides/status-codes/
    let ours = ["2", "13", "14", "15"];
    let grpc = answer.headers().get("grpc-status").and_then(|status| status.to_str().ok());
    !answer.status().is_server_error() && !grpc.is_some_and(|status| ours.contains(&status))
}
