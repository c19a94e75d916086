//! A trace that goes on in another process: the W3C `traceparent` of a span, out and in.

use std::collections::HashMap;

use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

const TRACEPARENT: &str = "traceparent";

/// The `traceparent` of the current span; `None` where tracing is off.
pub fn current_traceparent() -> Option<String> {
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut carrier);
    carrier.remove(TRACEPARENT)
}

/// Makes `span` a child of the span that `traceparent` names, and is to be called before the span is entered. What is no `traceparent`
/// starts a trace of its own: tracing never fails what is traced.
pub fn set_parent(span: &Span, traceparent: &str) {
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier);
    if !parent.span().span_context().is_valid() {
        return;
    }
    if let Err(error) = span.set_parent(parent) {
        tracing::trace!(%error, "a span goes without its parent");
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TracerProvider;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn traced<R>(body: impl FnOnce() -> R) -> R {
        let tracer = SdkTracerProvider::builder().build().tracer("test");
        let layer = tracing_opentelemetry::layer().with_tracer(tracer);
        let subscriber = tracing_subscriber::registry().with(super::super::logging::exported(layer));
        tracing::subscriber::with_default(subscriber, body)
    }

    #[test]
    fn a_span_goes_on_with_the_trace_of_its_parent() {
        let seen = traced(|| {
            let span = tracing::info_span!(target: "orrery_server", "run");
            set_parent(&span, PARENT);
            span.in_scope(current_traceparent)
        });
        let seen = seen.unwrap_or_default();
        assert!(seen.starts_with("00-0af7651916cd43dd8448eb211c80319c-"), "{seen}");
        assert!(seen.ends_with("-01") && !seen.contains("b7ad6b7169203331"), "{seen}");
    }

    #[test]
    fn what_is_no_traceparent_starts_a_trace() {
        for text in ["", "nonsense", "00-00000000000000000000000000000000-0000000000000000-01"] {
            let seen = traced(|| {
                let span = tracing::info_span!(target: "orrery_server", "run");
                set_parent(&span, text);
                span.in_scope(current_traceparent)
            });
            assert_eq!(seen.map(|t| t.len()), Some(PARENT.len()), "{text}");
        }
    }

    #[test]
    fn nothing_is_said_without_tracing() {
        assert_eq!(current_traceparent(), None);
        set_parent(&Span::none(), PARENT);
    }
}
