//! One trace goes from the call through the lease to the target, with and without a collector.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use reqwest::Method;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::engine::Engine;
use crate::rest::{Rest, id};
use crate::secrets::{CANARY, KEY, assert_without};
use crate::target::Target;
use crate::wait::{SOON, until};
use crate::world::World;

on_each_engine!(the_target_is_told_the_callers_trace);

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// Triggers an http job within the caller's trace; the traceparent that the target was told.
async fn traced(rest: &Rest) -> String {
    let target = Target::start().await;
    let job = rest.create_manual("traced", "http", serde_json::json!({"url": target.url("/")})).await;
    let header = format!("00-{TRACE}-{CALLER}-01");
    let path = format!("/jobs/{job}/trigger");
    let made = rest.send(Method::POST, &path, &[("traceparent", &header)], Some("{}".into())).await.ok();
    rest.finished(&id(&made)).await;
    let traceparent = target.arrivals()[0].header("traceparent").to_owned();
    assert_eq!(traceparent.split('-').nth(1), Some(TRACE), "{traceparent:?}");
    traceparent
}

async fn the_target_is_told_the_callers_trace(world: World) {
    let system = world.system().await;
    traced(&system.rest()).await;
}

/// What a collector was sent.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans.into_iter();
        let spans = resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans);
        self.0.lock().unwrap().extend(spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        address
    }

    /// All that it was sent, as it came.
    fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().iter().flat_map(Message::encode_to_vec).collect()
    }

    /// The span of this name in the caller's trace.
    fn span(&self, name: &str) -> Option<Span> {
        let spans = self.0.lock().unwrap();
        spans.iter().find(|span| span.name == name && hex(&span.trace_id) == TRACE).cloned()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_collector_has_the_whole_trace() {
    let world = World::new(Engine::Sqlite).await;
    let collector = Collector::default();
    let endpoint = format!("http://{}", collector.start().await);
    let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_BSP_SCHEDULE_DELAY", "100")];
    let server = world.server(&environment).await;
    let _agent = world.agent("a", &[&server], &[]).await;
    let traceparent = traced(&server.rest()).await;

    let (call, lease) =
        until("the spans arrive", SOON, async || collector.span("call").zip(collector.span("lease"))).await;
    assert_eq!(hex(&call.parent_span_id), CALLER, "the call is not below its caller");
    assert_eq!(hex(&lease.parent_span_id), hex(&call.span_id), "the lease is not below the call");
    assert_eq!(traceparent.split('-').nth(2), Some(hex(&lease.span_id).as_str()), "the target is not below the lease");
}

#[tokio::test]
async fn a_canary_is_in_no_trace() {
    let world = World::new(Engine::Sqlite).await;
    let collector = Collector::default();
    let endpoint = format!("http://{}", collector.start().await);
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("ORRERY_ENCRYPTION_KEY", KEY),
    ];
    let server = world.server(&environment).await;
    let _agent = world.agent("a", &[&server], &[]).await;
    let rest = server.rest();
    rest.put("/secrets/CANARY", serde_json::json!({"value": CANARY})).await.ok();
    // Told to the target, said back by it, and the reason of the failure.
    let echo = Target::answering(|_, arrival| arrival.body.clone()).await;
    let config = serde_json::json!({
        "url": echo.url("/"), "method": "POST", "headers": {"X-Token": "${secret:CANARY}"},
        "body": "${secret:CANARY}", "expectedStatusCode": 201,
    });
    let job = rest.create_manual("traced", "http", config).await;
    let header = format!("00-{TRACE}-{CALLER}-01");
    let path = format!("/jobs/{job}/trigger");
    let made = rest.send(Method::POST, &path, &[("traceparent", &header)], Some("{}".into())).await.ok();
    let run = rest.finished(&id(&made)).await;
    assert_eq!(run["status"], "failed", "{run:#}");
    until("the spans arrive", SOON, async || collector.span("call").zip(collector.span("lease"))).await;
    assert_without("a trace", &collector.bytes());
}
