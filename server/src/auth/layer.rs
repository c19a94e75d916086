//! The tower layer that gRPC and REST both pass: it finds the principal and serves the call in its scope.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::extract::ConnectInfo;
use http::{HeaderValue, Request, Response, StatusCode};
use tonic::transport::server::TcpConnectInfo;
use tower::{Layer, Service};

use super::Principal;
use super::authenticator::{Authenticator, Credentials};
use crate::error::{Error, Kind};
use crate::limiter::{Caller, Limiter, RETRY_AFTER};
use crate::tls::Peer;

/// Paths that need no credentials.
const PUBLIC: &[&str] = &[
    "/",
    "/health",
    "/ready",
    "/internal/health",
    "/openapi.json",
    "/docs",
    // Whoever enrols shows a join token.
    "/api/v1/scheduler/agents/enroll",
    "/orrery.v1.EnrolmentService/Enroll",
    "/orrery.v1.SchedulerService/GetHealth",
    "/orrery.v1.SchedulerService/GetReady",
];
/// Calls whose credentials are in their message: a password, or a refresh token.
const SIGNING_IN: [&str; 6] = [
    "/api/v1/auth/login",
    "/api/v1/auth/refresh",
    "/api/v1/auth/logout",
    "/orrery.v1.AuthService/Login",
    "/orrery.v1.AuthService/Refresh",
    "/orrery.v1.AuthService/Logout",
];
/// What paths begin with that need no credentials.
const PUBLIC_BELOW: [&str; 2] = ["/grpc.health.v1.", "/grpc.reflection."];

/// Authenticates every call but those of public paths.
#[derive(Clone)]
pub struct AuthLayer {
    authenticator: Authenticator,
    public_below: Arc<[String]>,
    limiter: Option<Limiter>,
}

impl AuthLayer {
    /// A layer that asks `authenticator`.
    pub fn new(authenticator: Authenticator) -> Self {
        Self { authenticator, public_below: Arc::new([]), limiter: None }
    }

    /// Refuses calls of those who make too many.
    #[must_use]
    pub fn limited_by(mut self, limiter: Option<Limiter>) -> Self {
        self.limiter = limiter;
        self
    }

    /// The caller, where it is known and has not called too often. Those who are not known are counted by their address, so that
    /// guessing credentials is as limited as using them.
    async fn admit(&self, credentials: &Credentials<'_>) -> Result<Principal, Error> {
        let found = self.authenticator.principal(credentials).await;
        let Some(limiter) = self.limiter.as_ref().filter(|_| !is_unlimited(credentials.uri.path())) else {
            return found;
        };
        let caller = match (&found, credentials.peer) {
            (Ok(principal), _) => Caller::Known(principal),
            (Err(error), Some(peer)) if error.kind == Kind::Unauthenticated => Caller::At(peer.ip()),
            // The database is away, or there is nobody to count.
            (Err(_), _) => return found,
        };
        limiter.admit(&caller).await?;
        found
    }

    /// Lets a call pass that signs in, where its address has not called too often.
    async fn admit_unknown(&self, credentials: &Credentials<'_>) -> Result<(), Error> {
        match (&self.limiter, credentials.peer) {
            (Some(limiter), Some(peer)) => limiter.admit(&Caller::At(peer.ip())).await,
            _ => Ok(()),
        }
    }

    /// Also lets calls pass whose paths begin so, such as those of a user interface's own files.
    #[must_use]
    pub fn and_public(mut self, below: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.public_below = self.public_below.iter().cloned().chain(below.into_iter().map(Into::into)).collect();
        self
    }

    fn is_public(&self, path: &str) -> bool {
        PUBLIC.contains(&path)
            || PUBLIC_BELOW.iter().any(|below| path.starts_with(below))
            || self.public_below.iter().any(|below| path.starts_with(below.as_str()))
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = AuthService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AuthService { inner, layer: self.clone() }
    }
}

/// A service behind an [`AuthLayer`].
#[derive(Clone)]
pub struct AuthService<S> {
    inner: S,
    layer: AuthLayer,
}

impl<S, B, R> Service<Request<B>> for AuthService<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The clone is not known to be ready; the one that is goes with the call.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        if self.layer.is_public(request.uri().path()) {
            return Box::pin(inner.call(request));
        }
        let layer = self.layer.clone();
        Box::pin(async move {
            // Without the body, which need not be Sync.
            let (parts, body) = request.into_parts();
            let agent = parts.extensions.get::<Peer>().and_then(|peer| peer.agent);
            let peer = peer(&parts.extensions);
            let credentials = Credentials { headers: &parts.headers, uri: &parts.uri, peer, agent };
            if SIGNING_IN.contains(&parts.uri.path()) {
                if let Err(error) = layer.admit_unknown(&credentials).await {
                    return Ok(refusal(error, is_grpc(&parts.headers)));
                }
                let origin = credentials.origin();
                return super::scope_unknown(origin, inner.call(Request::from_parts(parts, body))).await;
            }
            match layer.admit(&credentials).await {
                Ok(principal) => {
                    let origin = credentials.origin();
                    super::scope(principal, origin, inner.call(Request::from_parts(parts, body))).await
                }
                Err(error) => Ok(refusal(error, is_grpc(&parts.headers))),
            }
        })
    }
}

fn peer(extensions: &http::Extensions) -> Option<SocketAddr> {
    let axum = extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    let ours = || extensions.get::<Peer>().map(|peer| peer.address);
    axum.or_else(ours).or_else(|| extensions.get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr))
}

fn is_grpc(headers: &http::HeaderMap) -> bool {
    headers.get(http::header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// To gRPC a response of trailers only. To REST the error itself, which the gateway's layer of errors writes.
fn refusal<R: Default>(error: Error, grpc: bool) -> Response<R> {
    let retry_after = error.details.get(RETRY_AFTER).and_then(|seconds| HeaderValue::from_str(seconds).ok());
    let mut response = if grpc {
        tonic::Status::from(error).into_http()
    } else {
        let mut response = Response::new(R::default());
        *response.status_mut() = match error.kind {
            Kind::Exhausted => StatusCode::TOO_MANY_REQUESTS,
            Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Kind::Invalid => StatusCode::BAD_REQUEST,
            Kind::Denied => StatusCode::FORBIDDEN,
            _ => StatusCode::UNAUTHORIZED,
        };
        response.extensions_mut().insert(error);
        response
    };
    if let Some(retry_after) = retry_after {
        response.headers_mut().insert(http::header::RETRY_AFTER, retry_after);
    }
    response
}

/// Agents' streams are few and long, and a whole fleet of one key comes back at once when a coordinator goes.
fn is_unlimited(path: &str) -> bool {
    path.starts_with("/orrery.v1.AgentService/")
}
