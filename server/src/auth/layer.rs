//! The tower layer that gRPC and REST both pass: it finds the principal and serves the call in its scope.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::extract::ConnectInfo;
use http::{HeaderValue, Request, Response};
use tonic::transport::server::TcpConnectInfo;
use tower::{Layer, Service};

use super::authenticator::{Authenticator, Credentials, is_agents};
use super::calls::{self, Asked, Needs};
use super::claim::Claim;
use super::refusal::{Refusals, Seen, is_denied, is_exhausted, is_unauthenticated, refusal};
use super::{Principal, Reach};
use crate::audit::Denials;
use crate::edge::Edge;
use crate::error::{Error, Kind};
use crate::limiter::{Budget, Caller, Guard, Limiter, guarded};
use crate::telemetry::Metrics;
use crate::tenant::Directory;
use crate::tls::Peer;

/// Paths of no call that need no credentials: pages, and the document of the contract.
const PUBLIC: [&str; 3] = ["/", "/openapi.json", "/docs"];
/// Paths that are for whoever watches over the process: they are served whatever the list of addresses says.
const PROBES: [&str; 3] = ["/health", "/ready", "/internal/health"];
/// What paths begin with that need no credentials.
const PUBLIC_BELOW: [&str; 2] = [GRPC_HEALTH, "/grpc.reflection."];
const GRPC_HEALTH: &str = "/grpc.health.v1.";

/// Knows the caller of every call but of public ones, and lets nobody make one that they may not.
#[derive(Clone)]
pub struct AuthLayer {
    authenticator: Authenticator,
    public_below: Arc<[String]>,
    limiter: Option<Limiter>,
    guard: Guard,
    edge: Edge,
    tenants: Option<Directory>,
    refusals: Refusals,
}

/// Why a call is not served, and what is left of its caller's budget where that was asked.
type Refused = (Error, Option<Budget>);

impl AuthLayer {
    /// A layer that asks `authenticator`.
    pub fn new(authenticator: Authenticator) -> Self {
        let refusals = Refusals::default();
        let guard = Guard::new(0, None, refusals.metrics.clone());
        Self {
            authenticator,
            public_below: Arc::new([]),
            limiter: None,
            guard,
            edge: Edge::default(),
            tenants: None,
            refusals,
        }
    }

    /// Refuses calls of those who make too many.
    #[must_use]
    pub fn limited_by(mut self, limiter: Option<Limiter>) -> Self {
        self.limiter = limiter;
        self
    }

    /// Makes those wait who guess at credentials.
    #[must_use]
    pub fn guarded_by(mut self, guard: Guard) -> Self {
        self.guard = guard;
        self
    }

    /// Refuses calls from where none may come, and knows whom proxies speak for.
    #[must_use]
    pub fn behind(mut self, edge: Edge) -> Self {
        self.edge = edge;
        self
    }

    /// Refuses callers of tenants that are suspended, or let them call from elsewhere only.
    #[must_use]
    pub fn of_tenants(mut self, tenants: Directory) -> Self {
        self.tenants = Some(tenants);
        self
    }

    /// Counts what it refuses.
    #[must_use]
    pub fn counting(mut self, metrics: Metrics) -> Self {
        self.refusals.metrics = metrics;
        self
    }

    /// Tells the audit log of what it denies.
    #[must_use]
    pub fn telling(mut self, denials: Denials) -> Self {
        self.refusals.denials = Some(denials);
        self
    }

    /// The caller, where it is known, may call from where it does, and has not called too often; with what is left of its budget. Those who
    /// are not known are counted by their address, so that guessing credentials is as limited as using them.
    async fn admit(&self, credentials: &Credentials<'_>, seen: &Seen) -> Result<(Principal, Option<Budget>), Refused> {
        let address = credentials.peer.map(|peer| peer.ip());
        let found = self.known(credentials, address, seen).await;
        let is_agent = is_agents(credentials.uri.path());
        let admitted = match found {
            Ok(principal) => self.admit_principal(&principal, address, is_agent, seen).await.map(|()| principal),
            Err(error) => Err(error),
        };
        let (Some(limiter), Ok(_) | Err(Error { kind: Kind::Unauthenticated, .. })) = (&self.limiter, &admitted) else {
            return admitted.map(|principal| (principal, None)).map_err(|error| (error, None));
        };
        let caller = match (&admitted, address) {
            // Agents' streams are few and long, and a whole fleet of one key comes back at once when a coordinator goes.
            (Ok(_), _) if is_agent => None,
            (Ok(principal), _) => Some(Caller::Known(principal)),
            (Err(_), address) => address.map(Caller::At),
        };
        let budget = match caller {
            Some(caller) => limiter.admit(&caller).await.map_err(|(error, budget)| {
                self.refusals.limited(admitted.as_ref().ok(), seen, error.code);
                (error, Some(budget))
            })?,
            None => None,
        };
        admitted.map(|principal| (principal, budget)).map_err(|error| (error, budget))
    }

    /// Whether somebody who is known may call from an address.
    async fn admit_principal(
        &self,
        principal: &Principal,
        address: Option<IpAddr>,
        is_agent: bool,
        seen: &Seen,
    ) -> Result<(), Error> {
        // Agents of the whole deployment administer nothing.
        if !is_agent {
            let admitted = self.edge.admit_principal(principal, address);
            admitted.inspect_err(|error| self.refusals.denied("address", Some(principal), seen, error.code))?;
        }
        if let (Some(tenants), Some(tenant)) = (&self.tenants, principal.tenant_id) {
            let admitted = tenants.admit(tenant, address, is_agent).await;
            admitted.inspect_err(|error| {
                let why = if error.code == "TENANT_SUSPENDED" { "tenant" } else { "address" };
                if error.kind == Kind::Denied {
                    self.refusals.denied(why, Some(principal), seen, error.code);
                }
            })?;
        }
        Ok(())
    }

    /// Who calls. Where credentials are shown, whoever shows wrong ones has to wait, and they are not looked at meanwhile.
    async fn known(
        &self,
        credentials: &Credentials<'_>,
        address: Option<IpAddr>,
        seen: &Seen,
    ) -> Result<Principal, Error> {
        let Some(shown) = shown(credentials.headers) else { return self.authenticator.principal(credentials).await };
        let waited = self.guard.before_call(address, shown).await;
        waited.inspect_err(|error| self.refusals.limited(None, seen, error.code))?;
        let found = self.authenticator.principal(credentials).await;
        match &found {
            Ok(_) => self.guard.was_right(shown),
            Err(error) if error.kind == Kind::Unauthenticated => {
                self.refusals.denied("credentials", None, seen, error.code);
                self.guard.was_wrong(address, shown).await;
            }
            // The database is away: nobody knows.
            Err(_) => {}
        }
        found
    }

    /// Lets a call pass whose credentials are in its message, where its address has neither called nor guessed too often.
    async fn admit_unknown(&self, address: Option<IpAddr>, signs_in: bool) -> Result<(), Error> {
        if let (true, Some(limiter), Some(address)) = (signs_in, &self.limiter, address) {
            limiter.admit(&Caller::At(address)).await.map_err(|(error, _)| error)?;
        }
        self.guard.before(address).await
    }

    /// Serves a call whose credentials are in its message, and tells of it where they are wrong.
    async fn serve_unknown<F, R, E>(&self, call: F, seen: &Seen) -> Result<Response<R>, E>
    where
        F: Future<Output = Result<Response<R>, E>>,
    {
        let claim = Claim::default();
        let call = claim.of(super::unknown(seen.origin.clone(), call));
        let response = guarded(self.guard.clone(), call).await?;
        if is_unauthenticated(&response) {
            self.refusals.not_signed_in("credentials", claim.claimed(), seen, "UNAUTHENTICATED");
            self.guard.failed(seen.origin.address).await;
        } else if is_denied(&response) {
            // Nothing was guessed: the credentials are right, and their tenant is suspended.
            self.refusals.not_signed_in("tenant", claim.claimed(), seen, "PERMISSION_DENIED");
        } else if is_exhausted(&response) {
            self.refusals.limited(None, seen, "RESOURCE_EXHAUSTED");
        }
        Ok(response)
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
    R: Default + Send,
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
        let layer = self.layer.clone();
        let path = request.uri().path();
        if PROBES.contains(&path) || path.starts_with(GRPC_HEALTH) {
            return Box::pin(inner.call(request));
        }
        Box::pin(async move {
            // Without the body, which need not be Sync.
            let (parts, body) = request.into_parts();
            let agent = parts.extensions.get::<Peer>().and_then(|peer| peer.agent);
            // From here on the caller's own address, where a trusted proxy has told it.
            let peer = peer(&parts.extensions).map(|peer| layer.edge.caller(peer, &parts.headers));
            let address = peer.map(|peer| peer.ip());
            let grpc = is_grpc(&parts.headers);
            let credentials = Credentials { headers: &parts.headers, uri: &parts.uri, peer, agent };
            let (asked, call) = calls::asked(&parts.method, parts.uri.path());
            let seen = Seen { asked, call, origin: credentials.origin() };
            let (asked, origin) = (&seen.asked, seen.origin.clone());
            if let Err(error) = layer.edge.admit(address) {
                layer.refusals.denied("address", None, &seen, error.code);
                return Ok(refusal(error, grpc));
            }
            let signs_in = *asked == Asked::Call(Needs::SignsIn);
            if signs_in || *asked == Asked::Call(Needs::Joins) {
                if let Err(error) = layer.admit_unknown(address, signs_in).await {
                    layer.refusals.limited(None, &seen, error.code);
                    return Ok(refusal(error, grpc));
                }
                return layer.serve_unknown(inner.call(Request::from_parts(parts, body)), &seen).await;
            }
            if *asked == Asked::Call(Needs::Nobody) || (*asked == Asked::Nothing && layer.is_public(parts.uri.path())) {
                return super::unknown(origin, inner.call(Request::from_parts(parts, body))).await;
            }
            match layer.admit(&credentials, &seen).await {
                Ok((principal, budget)) => {
                    let may = match asked {
                        Asked::Call(needs) => needs.admit(&principal),
                        Asked::Unlisted => Err(calls::unlisted()),
                        // There is no handler behind it.
                        Asked::Nothing => Ok(Reach::Everything),
                    };
                    let mut code = "PERMISSION_DENIED";
                    let mut response = match may {
                        Ok(reach) => {
                            let caller = super::Caller::new(principal.clone(), reach);
                            let call = super::serve(caller, origin, inner.call(Request::from_parts(parts, body)));
                            guarded(layer.guard.clone(), call).await?
                        }
                        Err(error) => {
                            code = error.code;
                            refusal(error, grpc)
                        }
                    };
                    if is_denied(&response) {
                        layer.refusals.denied("permission", Some(&principal), &seen, code);
                    } else if *asked == Asked::Call(Needs::Anybody) && is_exhausted(&response) {
                        // Of a password that is to be changed. Elsewhere it is a quota, which is no matter of who may what.
                        layer.refusals.limited(Some(&principal), &seen, "RESOURCE_EXHAUSTED");
                    }
                    write(budget, &mut response);
                    Ok(response)
                }
                Err((error, budget)) => {
                    let mut response = refusal(error, grpc);
                    write(budget, &mut response);
                    Ok(response)
                }
            }
        })
    }
}

fn peer(extensions: &http::Extensions) -> Option<SocketAddr> {
    let axum = extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    let ours = || extensions.get::<Peer>().map(|peer| peer.address);
    axum.or_else(ours).or_else(|| extensions.get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr))
}

/// The key or token of a call, as it was written.
fn shown(headers: &http::HeaderMap) -> Option<&[u8]> {
    let credential = headers.get(http::header::AUTHORIZATION).or_else(|| headers.get("x-api-key"));
    credential.or_else(|| headers.get("x-service-token")).map(HeaderValue::as_bytes)
}

fn write<R>(budget: Option<Budget>, response: &mut Response<R>) {
    if let Some(budget) = budget {
        budget.write(response.headers_mut());
    }
}

fn is_grpc(headers: &http::HeaderMap) -> bool {
    headers.get(http::header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}
