//! From the credentials of a call to its principal.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::{HeaderMap, Uri};
use uuid::Uuid;

use super::api_key::{self, Keys};
use super::auth_service::AuthService;
use super::held::{Holding, Holdings};
use super::identity::IdentityError;
use super::jwt::{Refused, Tokens};
use super::keyring::Keyring;
use super::rbac_service::RbacService;
use super::service_token::{self, ServiceToken};
use super::sign_in::SignIn;
use super::{DEFAULT_TENANT, Origin, Permissions, Principal, PrincipalKind, access_token, unauthenticated};
use crate::ca::AgentIdentity;
use crate::config::Identity;
use crate::error::{Error, Kind};
use crate::store::{DynStore, Grantee};

/// How often what was noted of keys is stored.
const NOTE: Duration = Duration::from_secs(30);
/// How often sessions that are over are deleted.
const TIDY: Duration = Duration::from_secs(3600);

/// Knows callers by API key, by token, and in development by their address. Cheap to clone.
#[derive(Clone)]
pub struct Authenticator {
    inner: Arc<Inner>,
}

struct Inner {
    store: DynStore,
    keyring: Keyring,
    keys: Keys,
    holdings: Holdings,
    sign_in: SignIn,
    tokens: Issuer,
    service_token: ServiceToken,
    /// The same, for calls of services beside this one.
    shared_token: Option<String>,
    dev_loopback: bool,
}

/// Who says whose tokens are whose, but for those that are our own.
enum Issuer {
    /// Keys that are known here.
    Keys(Tokens),
    /// A sibling service, which is asked.
    Service(AuthService),
}

/// What a call shows of its caller.
pub(super) struct Credentials<'a> {
    pub(super) headers: &'a HeaderMap,
    pub(super) uri: &'a Uri,
    pub(super) peer: Option<SocketAddr>,
    /// The agent that the connection's certificate names.
    pub(super) agent: Option<AgentIdentity>,
}

impl Credentials<'_> {
    /// Where the call comes from.
    pub(super) fn origin(&self) -> Origin {
        let id = self.headers.get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
        // Of the length that an id has at most: a caller may send any text.
        let request_id = id.chars().take(64).collect();
        Origin { address: self.peer.map(|peer| peer.ip().to_canonical()), request_id }
    }
}

impl Authenticator {
    /// With `dev_loopback`, callers on this host need no credentials: they are administrators of the default tenant.
    ///
    /// # Errors
    /// Where the configured secrets are none, or a key cannot be read.
    pub fn new(store: DynStore, identity: &Identity, dev_loopback: bool) -> Result<Self, IdentityError> {
        identity.check()?;
        let keyring = Keyring::of(identity)?;
        let shared = || identity.internal.internal_service_token.clone();
        let rbac =
            given(identity.rbac_service_url.as_deref()).map(|url| RbacService::new(url, shared())).transpose()?;
        let tokens = match given(identity.auth_service_url.as_deref()) {
            Some(url) => Issuer::Service(AuthService::new(url, shared())?),
            None => Issuer::Keys(Tokens::of(identity)?),
        };
        let inner = Inner {
            keys: Keys::new(store.clone(), keyring.clone()),
            holdings: Holdings::new(store.clone(), rbac),
            sign_in: SignIn::new(store.clone(), keyring.clone(), identity),
            tokens,
            service_token: ServiceToken::new(identity.internal.internal_service_token.as_deref()),
            shared_token: identity.internal.internal_service_token.clone(),
            keyring,
            store,
            dev_loopback,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What new keys are hashed under.
    pub fn keyring(&self) -> &Keyring {
        &self.inner.keyring
    }

    /// The token that services share, where there is one.
    pub(crate) fn shared_token(&self) -> Option<String> {
        self.inner.shared_token.clone()
    }

    /// Sessions of people.
    pub(crate) fn sign_in(&self) -> &SignIn {
        &self.inner.sign_in
    }

    /// A key was revoked: nobody comes in with it any more, here.
    pub(crate) fn forget_key(&self, id: Uuid) {
        self.inner.keys.forget(id);
    }

    /// A tenant's roles or bindings were changed: what is remembered of them counts no more, here.
    pub(crate) fn forget_roles(&self, tenant: Uuid) {
        self.inner.holdings.forget(tenant);
    }

    /// What roles allow somebody: those that are named, and those that are bound.
    pub(crate) async fn holding(&self, to: &Grantee<'_>, name: &str) -> Result<Holding, Error> {
        self.inner.holdings.of(to, name).await
    }

    /// Those of these roles that the tenant has made, and that must be there when they are given.
    pub(crate) fn made_roles(&self, roles: &[String]) -> Vec<String> {
        self.inner.holdings.made(roles)
    }

    /// Those of these roles that there are not.
    pub(crate) async fn unknown_roles(&self, tenant: Uuid, roles: &[String]) -> Result<Vec<String>, Error> {
        self.inner.holdings.unknown(tenant, roles).await
    }

    /// Who makes a call, with all that it may do.
    pub(super) async fn principal(&self, credentials: &Credentials<'_>) -> Result<Principal, Error> {
        let principal = self.known(credentials).await?;
        // Agents need no role, and come back all at once.
        if is_agents(credentials.uri.path()) { Ok(principal) } else { self.inner.holdings.complete(principal).await }
    }

    async fn known(&self, credentials: &Credentials<'_>) -> Result<Principal, Error> {
        // Whoever shows a certificate is that agent, whatever else it says.
        if let Some(identity) = credentials.agent {
            return Ok(agent(identity));
        }
        if credentials.uri.path().starts_with(service_token::BELOW) {
            return self.inner.service_token.principal(credentials.headers);
        }
        match presented(credentials.headers)? {
            Some(key) if key.starts_with(api_key::PREFIX) => self.inner.keys.principal(key).await,
            Some(token) if access_token::is_own(token) => self.inner.sign_in.principal(token).await,
            Some(token) => self.by_token(token).await,
            None if self.inner.dev_loopback && is_own_host(credentials) => Ok(developer()),
            None => Err(unauthenticated("credentials are needed: Authorization: Bearer, with an API key or a token")),
        }
    }

    async fn by_token(&self, token: &str) -> Result<Principal, Error> {
        let tokens = match &self.inner.tokens {
            Issuer::Service(service) => return service.principal(token).await,
            Issuer::Keys(tokens) => tokens,
        };
        tokens.principal(token).await.map_err(|refused| match refused {
            Refused::Invalid => unauthenticated(
                "the token is not valid: wrong signature, expired, for another audience, of another issuer, or without a tenant",
            ),
            Refused::NoKeys => {
                let message = "the keys of the identity provider cannot be had, so that the token cannot be checked; try again";
                Error::new(Kind::Unavailable, "IDENTITY_PROVIDER_UNAVAILABLE", message)
            }
        })
    }

    /// Stores what was noted of keys now and then, and forgets sessions that are over, until it is stopped.
    pub async fn keep(self, stopped: tokio_util::sync::CancellationToken) {
        let mut note = tokio::time::interval(NOTE);
        let mut tidy = tokio::time::interval(TIDY);
        loop {
            tokio::select! {
                () = stopped.cancelled() => break,
                _ = note.tick() => self.inner.keys.store_uses().await,
                _ = tidy.tick() => {
                    if let Err(error) = self.inner.store.forget_user_sessions().await {
                        tracing::debug!(%error, "sessions that are over were not deleted");
                    }
                }
            }
        }
        self.inner.keys.store_uses().await;
    }
}

/// A setting, unless it is empty.
fn given(url: Option<&str>) -> Option<&str> {
    url.map(str::trim).filter(|url| !url.is_empty())
}

/// Whether a call is one that agents make.
pub(super) fn is_agents(path: &str) -> bool {
    path.starts_with("/orrery.v1.AgentService/")
}

/// The key or token in the headers.
fn presented(headers: &HeaderMap) -> Result<Option<&str>, Error> {
    if let Some(value) = headers.get(AUTHORIZATION) {
        let malformed = || unauthenticated("the Authorization header must be: Bearer, then an API key or a token");
        let text = value.to_str().map_err(|_| malformed())?;
        let (scheme, credential) = text.split_once(' ').ok_or_else(malformed)?;
        if !scheme.eq_ignore_ascii_case("bearer") || credential.trim().is_empty() {
            return Err(malformed());
        }
        return Ok(Some(credential.trim()));
    }
    match headers.get("x-api-key").map(|value| value.to_str()) {
        None => Ok(None),
        Some(Ok(key)) if key.starts_with(api_key::PREFIX) => Ok(Some(key)),
        Some(_) => Err(unauthenticated("X-API-Key holds no API key")),
    }
}

/// Whether the call comes from this host, and not from a page of another site in a browser on it: such a page could send requests that
/// need no preflight, or have its own name resolve to this host.
fn is_own_host(credentials: &Credentials<'_>) -> bool {
    let text = |name: &str| credentials.headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let local_peer = credentials.peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback());
    let host = text(HOST.as_str()).or_else(|| credentials.uri.authority().map(|authority| authority.as_str()));
    let same_site = text("sec-fetch-site").is_none_or(|site| matches!(site, "same-origin" | "none"));
    let same_origin = text(ORIGIN.as_str())
        .is_none_or(|origin| origin.split_once("://").is_some_and(|(_, authority)| Some(authority) == host));
    local_peer && same_site && same_origin && host.is_none_or(is_local_name)
}

fn is_local_name(authority: &str) -> bool {
    let Ok(authority) = authority.parse::<http::uri::Authority>() else { return false };
    let host = authority.host().trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The agent of a certificate that has been verified. It may connect, and nothing else; whether it still may is asked where it does.
fn agent(identity: AgentIdentity) -> Principal {
    Principal {
        kind: PrincipalKind::Agent,
        tenant_id: identity.tenant_id,
        subject: identity.agent_id,
        name: format!("agent {}", identity.agent_id),
        roles: Vec::new(),
        permissions: Permissions::Only(vec!["agents:connect".to_owned()]),
        tagged: Vec::new(),
    }
}

fn developer() -> Principal {
    Principal {
        kind: PrincipalKind::Developer,
        tenant_id: Some(DEFAULT_TENANT),
        subject: Uuid::nil(),
        name: "developer".to_owned(),
        roles: Vec::new(),
        permissions: Permissions::All,
        tagged: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_host(peer: &str, headers: &[(&str, &str)]) -> bool {
        let headers: HeaderMap =
            headers.iter().map(|(n, v)| (n.parse::<http::HeaderName>().unwrap(), v.parse().unwrap())).collect();
        let peer = Some(peer.parse().unwrap());
        is_own_host(&Credentials { headers: &headers, uri: &Uri::from_static("/x"), peer, agent: None })
    }

    #[test]
    fn only_this_host_is_a_developer() {
        assert!(own_host("127.0.0.1:5", &[("host", "localhost:3009")]));
        assert!(own_host("[::1]:5", &[("host", "[::1]:3009")]));
        assert!(own_host("[::ffff:127.0.0.1]:5", &[("host", "127.0.0.1:3009")]));
        assert!(own_host("127.0.0.1:5", &[("host", "localhost:3009"), ("origin", "http://localhost:3009")]));
        assert!(!own_host("10.0.0.1:5", &[("host", "localhost:3009")]));
        // A name of somebody else's that resolves to this host.
        assert!(!own_host("127.0.0.1:5", &[("host", "evil.example:3009")]));
        assert!(!own_host("127.0.0.1:5", &[("host", "localhost:3009"), ("origin", "http://evil.example")]));
        assert!(!own_host("127.0.0.1:5", &[("host", "localhost:3009"), ("origin", "null")]));
        assert!(!own_host("127.0.0.1:5", &[("host", "localhost:3009"), ("sec-fetch-site", "cross-site")]));
    }

    #[test]
    fn a_credential_is_read_from_either_header() {
        let read = |name: &'static str, value: &str| {
            let headers = HeaderMap::from_iter([(http::HeaderName::from_static(name), value.parse().unwrap())]);
            presented(&headers).map(|found| found.map(ToOwned::to_owned)).map_err(|error| error.code)
        };
        assert_eq!(read("authorization", "Bearer ork_x"), Ok(Some("ork_x".into())));
        assert_eq!(read("authorization", "bearer  a.b.c "), Ok(Some("a.b.c".into())));
        assert_eq!(read("x-api-key", "ork_x"), Ok(Some("ork_x".into())));
        for (name, value) in [("authorization", "Basic x"), ("authorization", "Bearer"), ("x-api-key", "x")] {
            assert_eq!(read(name, value), Err("UNAUTHENTICATED"), "{value}");
        }
        assert_eq!(presented(&HeaderMap::new()).unwrap(), None);
    }
}
