//! What browsers are told with every answer.

use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use tower_http::cors::CorsLayer;

use crate::edge::Origins;

/// For how long a browser need not ask again whether a page may call.
const PREFLIGHT: Duration = Duration::from_secs(600);

/// What answers say to browsers, beside what they are asked for.
#[derive(Clone, Debug, Default)]
pub struct Face {
    /// Pages of other origins that may call.
    pub origins: Origins,
    /// For how many seconds browsers are told to come by HTTPS only.
    pub hsts_seconds: Option<u64>,
}

impl Face {
    /// Dresses routes. To be called last, so that refusals and answers to preflights are dressed as well.
    pub(super) fn on(&self, routes: Router) -> Router {
        let strict = self
            .hsts_seconds
            .and_then(|seconds| HeaderValue::from_str(&format!("max-age={seconds}; includeSubDomains")).ok());
        let routes = if self.origins.is_empty() { routes } else { routes.layer(self.cors()) };
        routes.layer(from_fn_with_state(strict, dress))
    }

    /// Pages show the credentials that they were given, in a header; no cookie is ever asked for, so that a page cannot use what its user's
    /// browser has.
    fn cors(&self) -> CorsLayer {
        let name = HeaderName::from_static;
        CorsLayer::new()
            .allow_origin(self.origins.values().cloned().collect::<Vec<_>>())
            .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
            .allow_headers([
                header::AUTHORIZATION,
                header::CONTENT_TYPE,
                name("x-api-key"),
                name("x-request-id"),
                name("idempotency-key"),
                name("traceparent"),
            ])
            .expose_headers([
                header::RETRY_AFTER,
                name("x-request-id"),
                name("ratelimit-limit"),
                name("ratelimit-remaining"),
                name("ratelimit-reset"),
                name("ratelimit-policy"),
            ])
            .max_age(PREFLIGHT)
    }
}

/// The headers of the OWASP REST Security Cheat Sheet. Pages have policies of their own, which stay.
async fn dress(State(strict): State<Option<HeaderValue>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let set = |headers: &mut HeaderMap, name: HeaderName, value| {
        headers.entry(name).or_insert_with(|| HeaderValue::from_static(value));
    };
    // Markup that somebody has stored, such as in a job's name, is never taken for a page.
    set(headers, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(headers, header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'");
    set(headers, header::X_FRAME_OPTIONS, "DENY");
    set(headers, header::REFERRER_POLICY, "no-referrer");
    set(headers, HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    set(headers, HeaderName::from_static("cross-origin-opener-policy"), "same-origin");
    // Answers are about the moment, and some are for their caller only.
    set(headers, header::CACHE_CONTROL, "no-store");
    if let Some(strict) = strict {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, strict);
    }
    response
}
