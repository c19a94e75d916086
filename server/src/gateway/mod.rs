//! The REST face of the gRPC services: routes, JSON and their document are generated from the contract; here they are served.

pub(crate) mod connections;
mod error_body;
mod face;
mod failure;
mod internal;
mod json_place;
mod responses;
mod routes;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::get;
use http_body_util::Full;
use orrery_proto::rest::Transcoder;
use orrery_proto::v1::__rest_over_grpc_bridge_AuditService::AuditServiceRestBridge;
use orrery_proto::v1::__rest_over_grpc_bridge_AuthService::AuthServiceRestBridge;
use orrery_proto::v1::__rest_over_grpc_bridge_DeadLetterService::DeadLetterServiceRestBridge;
use orrery_proto::v1::__rest_over_grpc_bridge_EnrolmentService::EnrolmentServiceRestBridge;
use orrery_proto::v1::__rest_over_grpc_bridge_ExecutionService::ExecutionServiceRestBridge;
use orrery_proto::v1::__rest_over_grpc_bridge_JobService::JobServiceRestBridge;
use orrery_proto::v1::__rest_over_grpc_bridge_KeyService::KeyServiceRestBridge;
use orrery_proto::v1::__rest_over_grpc_bridge_RoleService::RoleServiceRestBridge;
use orrery_proto::v1::__rest_over_grpc_bridge_SchedulerService::SchedulerServiceRestBridge;
use orrery_proto::v1::__rest_over_grpc_bridge_SecretService::SecretServiceRestBridge;
use orrery_proto::v1::__rest_over_grpc_bridge_TenantService::TenantServiceRestBridge;
use orrery_proto::v1::__rest_over_grpc_bridge_UserService::UserServiceRestBridge;
use rest_over_grpc::serving::RestService;
use rest_over_grpc::transcoding::Transcode;
use tower::Service;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::trace::TraceLayer;

pub use self::face::Face;
pub(crate) use self::routes::called;
use crate::api::{Api, HTTP_STATUS};
use crate::auth::AuthLayer;

/// The REST API with its document and its pages. Serve it with `into_make_service_with_connect_info::<SocketAddr>()`, so that the
/// address of callers is known.
///
/// Routes that are added to the answer do not pass its layers; [`dressed`] gives them those that are not about errors.
pub fn router(api: Api, auth: AuthLayer, face: &Face) -> Router {
    let most = api.limits.max_body_bytes;
    let transcoder = Transcoder::new(
        // Whoever reaches them has passed the layer of authentication.
        ExecutionServiceRestBridge::externally_authenticated(api.clone()),
        JobServiceRestBridge::externally_authenticated(api.clone()),
        DeadLetterServiceRestBridge::externally_authenticated(api.clone()),
        SchedulerServiceRestBridge::externally_authenticated(api.clone()),
        EnrolmentServiceRestBridge::externally_authenticated(api.clone()),
        SecretServiceRestBridge::externally_authenticated(api.clone()),
        AuditServiceRestBridge::externally_authenticated(api.clone()),
        AuthServiceRestBridge::externally_authenticated(api.clone()),
        KeyServiceRestBridge::externally_authenticated(api.clone()),
        UserServiceRestBridge::externally_authenticated(api.clone()),
        TenantServiceRestBridge::externally_authenticated(api.clone()),
        RoleServiceRestBridge::externally_authenticated(api),
    );
    let service = RestService::new(std::sync::Arc::new(transcoder)).with_max_body_bytes(most);
    let routes = Router::new()
        .route("/openapi.json", get(openapi))
        .route("/docs", get(docs))
        .fallback(move |request: Request| call(service.clone(), most, request));
    let shaped = routes.layer(auth).layer(axum::middleware::from_fn(responses::shape));
    traced(face.on(shaped))
}

/// Gives other routes of the same listener what [`router`] has: authentication, request ids, traces, and what browsers are told.
pub fn dressed(routes: Router, auth: AuthLayer, face: &Face) -> Router {
    traced(face.on(routes.layer(auth)))
}

fn traced(routes: Router) -> Router {
    routes
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(TraceLayer::new_for_http().make_span_with(|request: &axum::http::Request<Body>| {
            let id = request.headers().get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
            tracing::debug_span!("http", method = %request.method(), path = request.uri().path(), request_id = id)
        }))
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
}

/// Serves one call of the generated API.
async fn call<T>(service: RestService<T>, most: usize, request: Request) -> Response
where
    T: Transcode + Clone + Send + Sync + 'static,
{
    if request.uri().path() == "/" && matches!(*request.method(), Method::GET | Method::HEAD) {
        return Redirect::temporary("/docs").into_response();
    }
    if internal::is_internal(request.uri().path()) {
        return call_internal(service, most, request).await;
    }
    call_public(service, most, request).await
}

/// Serves a call of the internal API by the public one.
async fn call_internal<T>(service: RestService<T>, most: usize, mut request: Request) -> Response
where
    T: Transcode + Clone + Send + Sync + 'static,
{
    let called = internal::Call::of(request.method(), request.uri());
    let called = called.and_then(|called| match called.path.parse() {
        Ok(uri) => Ok((called, uri)),
        Err(_) => Err((StatusCode::NOT_FOUND, error_body::Told::new("ROUTE_NOT_FOUND", "there is no such path"))),
    });
    let (called, uri) = match called {
        Ok(found) => found,
        Err((status, told)) => return responses::failed(status, told),
    };
    *request.method_mut() = called.method.clone();
    *request.uri_mut() = uri;
    let answer = call_public(service, most, request).await;
    called.answered(answer, chrono::Utc::now()).await
}

async fn call_public<T>(mut service: RestService<T>, most: usize, request: Request) -> Response
where
    T: Transcode + Clone + Send + Sync + 'static,
{
    let (mut parts, body) = request.into_parts();
    let body = match failure::read_body(body, most).await {
        Ok(body) => body,
        Err(error) => return responses::failed(error.0, error.1),
    };
    parts.method = routes::served_as(&parts.method).clone();
    parts.uri = routes::given(parts.uri);
    let about = failure::Call { method: parts.method.clone(), uri: parts.uri.clone(), body: body.clone() };
    let Ok(answer) = service.call(Request::from_parts(parts, Full::new(body))).await;
    let mut answer = answer.map(Body::new);
    if let Some(status) = answer.headers_mut().remove(HTTP_STATUS) {
        let status = StatusCode::from_bytes(status.as_bytes()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        *answer.status_mut() = status;
        return answer;
    }
    if answer.status().is_client_error() || answer.status().is_server_error() {
        return failure::explained(answer, &about).await;
    }
    answer
}

async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], orrery_proto::OPENAPI)
}

async fn docs() -> impl IntoResponse {
    // The page takes nothing from anywhere but this server, and the browser holds it to that.
    const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                          connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
                          frame-ancestors 'none'";
    ([(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY))], Html(include_str!("docs.html")))
}
