//! Traces to an OpenTelemetry collector, over OTLP and gRPC, as the OTEL_* variables say.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry_otlp::{SpanExporter, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData};
use tonic::transport::{ClientTlsConfig, Endpoint};

use super::logging::LoggingError;

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";
const DISABLED: &str = "OTEL_SDK_DISABLED";

/// How long the end of the process waits for the last spans to be sent.
const FLUSH: Duration = Duration::from_secs(3);

/// The provider of spans that are sent to the collector; `None` where none is configured.
pub(super) fn provider() -> Result<Option<SdkTracerProvider>, LoggingError> {
    let Some(endpoint) = setting(TRACES_ENDPOINT).or_else(|| setting(ENDPOINT)) else {
        return Ok(None);
    };
    if setting(DISABLED).is_some_and(|text| text.eq_ignore_ascii_case("true")) {
        return Ok(None);
    }
    if tokio::runtime::Handle::try_current().is_err() {
        return Err(LoggingError::NoRuntime);
    }
    let mut resource = Resource::builder();
    if setting(SERVICE_NAME).is_none() {
        resource = resource.with_service_name("orrery");
    }
    let provider =
        SdkTracerProvider::builder().with_resource(resource.build()).with_batch_exporter(exporter(&endpoint)?).build();
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    Ok(Some(provider))
}

/// Sends what is left.
pub(super) fn flush(provider: &SdkTracerProvider) {
    if let Err(error) = provider.shutdown_with_timeout(FLUSH) {
        tracing::warn!(%error, "the last spans were not sent");
    }
}

fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// The exporter has no TLS of its own here: an https collector gets a channel of ours, with the machine's root certificates.
fn exporter(endpoint: &str) -> Result<Telling, LoggingError> {
    let mut builder = SpanExporter::builder().with_tonic();
    if endpoint.starts_with("https:") {
        let wrong = |error: tonic::transport::Error| LoggingError::Endpoint(endpoint.to_owned(), error.to_string());
        let channel = Endpoint::from_shared(endpoint.to_owned())
            .and_then(|endpoint| endpoint.tls_config(ClientTlsConfig::new().with_native_roots()))
            .map_err(wrong)?
            .timeout(Duration::from_secs(10))
            .connect_lazy();
        builder = builder.with_channel(channel);
    }
    let inner = builder.build().map_err(|error| LoggingError::Endpoint(endpoint.to_owned(), error.to_string()))?;
    Ok(Telling { inner, failing: AtomicBool::new(false) })
}

/// An exporter that says once that it fails, and once that it works again: lost traces would be silent otherwise.
#[derive(Debug)]
struct Telling {
    inner: SpanExporter,
    failing: AtomicBool,
}

impl opentelemetry_sdk::trace::SpanExporter for Telling {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.inner.export(batch).await;
        match (&result, self.failing.swap(result.is_err(), Ordering::Relaxed)) {
            (Err(error), false) => tracing::warn!(%error, "traces cannot be sent, and are dropped"),
            (Ok(()), true) => tracing::info!("traces are sent again"),
            _ => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}
