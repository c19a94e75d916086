//! The layer that gives every error the documented body, wherever it comes from.

use std::panic::AssertUnwindSafe;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use chrono::Utc;
use futures_util::FutureExt;

use super::error_body::{self, Told};
use super::internal;
use crate::error::Error;
use crate::limiter::RETRY_AFTER;

/// Serves a call, and writes the body of its error where it has one.
pub(super) async fn shape(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let mut response = match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => {
            // The panic's own message and place have been written by the panic hook.
            tracing::error!(path, "a handler panicked");
            failed(StatusCode::INTERNAL_SERVER_ERROR, of_status(StatusCode::INTERNAL_SERVER_ERROR))
        }
    };
    if path.starts_with("/api/v1/auth/") {
        // Tokens and keys are nobody's to keep on the way (RFC 6749, 5.1).
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    let extensions = response.extensions_mut();
    // The gateway leaves what to tell; the layer of authentication leaves an error.
    let told = extensions.remove::<Told>().or_else(|| extensions.remove::<Error>().map(Told::from));
    let told = match told {
        Some(told) => told,
        // Errors of the router itself, which have plain bodies or none. Bodies in JSON are answers, such as that of /health.
        None if is_error(&response) && !is_json(&response) => of_status(response.status()),
        None => return response,
    };
    let body = if internal::is_internal(&path) {
        internal::error_text(&told, Utc::now())
    } else {
        error_body::json_text(&told, &path, Utc::now())
    };
    let response_status = response.status();
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = told.details.get(RETRY_AFTER).and_then(|seconds| HeaderValue::from_str(seconds).ok()) {
        headers.insert(header::RETRY_AFTER, seconds);
    }
    if response_status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    *response.body_mut() = Body::from(body);
    response
}

/// A response without a body whose error [`shape`] writes.
pub(super) fn failed(status: StatusCode, error: Told) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response.extensions_mut().insert(error);
    response
}

fn is_error(response: &Response) -> bool {
    response.status().is_client_error() || response.status().is_server_error()
}

fn is_json(response: &Response) -> bool {
    let content_type = response.headers().get(header::CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/json"))
}

fn of_status(status: StatusCode) -> Told {
    match status {
        StatusCode::METHOD_NOT_ALLOWED => {
            Told::new("METHOD_NOT_ALLOWED", "this path has no such method; see the Allow header")
        }
        StatusCode::NOT_FOUND => Told::new("ROUTE_NOT_FOUND", "there is no such path; see /docs"),
        other if other.is_client_error() => {
            Told::new("INVALID_ARGUMENT", other.canonical_reason().unwrap_or("the request is not valid"))
        }
        _ => Told::new("INTERNAL_ERROR", "internal error; see the server's log"),
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    async fn answer(path: &str) -> (u16, serde_json::Value) {
        let routes = Router::new()
            .route(
                "/panic",
                get(|| async {
                    if true {
                        panic!("a secret")
                    }
                }),
            )
            .route(
                "/unready",
                get(|| async { (StatusCode::SERVICE_UNAVAILABLE, axum::Json(serde_json::json!({"a": 1}))) }),
            )
            .layer(axum::middleware::from_fn(shape));
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = routes.oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_error_and_tells_nothing() {
        let (status, body) = answer("/panic").await;
        assert_eq!((status, body["error"]["code"].as_str()), (500, Some("INTERNAL_ERROR")));
        assert!(!body.to_string().contains("secret"));
    }

    #[tokio::test]
    async fn errors_of_the_router_have_the_documented_body_and_answers_keep_theirs() {
        let (status, body) = answer("/nothing").await;
        assert_eq!((status, body["error"]["code"].as_str()), (404, Some("ROUTE_NOT_FOUND")));
        assert_eq!(body["path"], "/nothing");
        assert_eq!(answer("/unready").await, (503, serde_json::json!({"a": 1})));
    }
}
