//! AUTH_SERVICE_URL: a sibling service that knows whose tokens are whose. Where it is set, tokens are asked of it and of nobody else.
//!
//! The request is `POST {AUTH_SERVICE_URL}/api/v1/auth/verify` with `{"token": "..."}`, and the `X-Service-Token` that services share where there
//! is one. The answer to a good token is 200 with the principal:
//!
//! ```json
//! {"active": true, "sub": "anna", "name": "Anna", "tenant": "UUID", "roles": ["developer"], "permissions": ["jobs:read"], "exp": 1790000000}
//! ```
//!
//! `sub` and `tenant` are needed, the rest is optional; without roles and permissions it may do nothing. Anything from 400 to 499, and
//! `{"active": false}`, says that the token is not good. No answer in two seconds, any other status or body, and an open breaker refuse the
//! call with 503: what nobody vouches for does not come in.

use std::time::Duration;

use chrono::Utc;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::principal::Kind;
use super::recent::Recent;
use super::{Principal, grants, jwt, unauthenticated};
use crate::error::{Error, Kind as ErrorKind};
use crate::sibling::{AddressError, Answer, Sibling};

const PATH: &str = "/api/v1/auth/verify";
/// How long an answer counts; a token that was revoked there lives so much longer.
const GOOD: Duration = Duration::from_secs(30);
/// How long a refusal counts, so that a loop with a bad token costs little.
const BAD: Duration = Duration::from_secs(5);

pub(super) struct AuthService {
    sibling: Sibling,
    service_token: Option<String>,
    /// By the token's SHA-256; `None`: it is not good.
    answers: Recent<[u8; 32], Option<Principal>>,
}

#[derive(Deserialize)]
struct Vouched {
    #[serde(default = "yes")]
    active: bool,
    #[serde(default)]
    sub: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default, alias = "tenant_id", alias = "tenantId")]
    tenant: Option<Uuid>,
    #[serde(default)]
    roles: Vec<String>,
    #[serde(default)]
    permissions: Option<Vec<String>>,
    #[serde(default)]
    exp: Option<i64>,
}

fn yes() -> bool {
    true
}

/// What an answer means.
#[derive(Debug, PartialEq)]
enum Verdict {
    Good(Box<Principal>, Duration),
    Bad,
    /// It says nothing that can be understood.
    None,
}

impl AuthService {
    pub(super) fn new(url: &str, service_token: Option<String>) -> Result<Self, AddressError> {
        if url.starts_with("http://") {
            tracing::warn!("AUTH_SERVICE_URL is not https: tokens are readable on their way to it");
        }
        let sibling = Sibling::new("AUTH_SERVICE_URL", url)?;
        Ok(Self { sibling, service_token, answers: Recent::default() })
    }

    /// Who calls with a token.
    ///
    /// # Errors
    /// UNAUTHENTICATED where it is not good; AUTH_SERVICE_UNAVAILABLE.
    pub(super) async fn principal(&self, token: &str) -> Result<Principal, Error> {
        let refused = || unauthenticated("the authentication service does not know the token, or it is over");
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(known) = self.answers.get(&key) {
            return known.ok_or_else(refused);
        }
        let away = || {
            let message = "the authentication service does not answer, so that the token cannot be checked; try again";
            Error::new(ErrorKind::Unavailable, "AUTH_SERVICE_UNAVAILABLE", message)
        };
        let header = self.service_token.as_deref().map(|token| ("x-service-token", token));
        let answer = self.sibling.post(PATH, &json!({"token": token}), header.as_slice()).await.map_err(|_| away())?;
        match verdict(&answer, Utc::now().timestamp()) {
            Verdict::Good(principal, life) => {
                self.answers.put(key, Some((*principal).clone()), life);
                Ok(*principal)
            }
            Verdict::Bad => {
                self.answers.put(key, None, BAD);
                Err(refused())
            }
            Verdict::None => {
                tracing::warn!(status = %answer.status, "AUTH_SERVICE_URL gave an answer that is none");
                Err(away())
            }
        }
    }
}

fn verdict(answer: &Answer, now: i64) -> Verdict {
    if answer.status.is_client_error() {
        return Verdict::Bad;
    }
    let Some(vouched) = Some(&answer.body)
        .filter(|_| answer.status.is_success())
        .and_then(|body| serde_json::from_slice::<Vouched>(body).ok())
    else {
        return Verdict::None;
    };
    let left = vouched.exp.map_or(GOOD.as_secs(), |exp| u64::try_from(exp.saturating_sub(now)).unwrap_or(0));
    if !vouched.active || left == 0 {
        return Verdict::Bad;
    }
    let Some(tenant) = vouched.tenant.filter(|_| !vouched.sub.is_empty()) else { return Verdict::None };
    let principal = Principal {
        kind: Kind::User,
        tenant_id: Some(tenant),
        subject: jwt::subject(&vouched.sub),
        name: vouched.name.unwrap_or(vouched.sub),
        permissions: grants::permissions(vouched.permissions, &vouched.roles),
        tagged: Vec::new(),
        roles: vouched.roles,
    };
    Verdict::Good(Box::new(principal), GOOD.min(Duration::from_secs(left)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::Router;
    use axum::http::{HeaderMap, StatusCode};
    use axum::routing::post;
    use serde_json::Value;

    use super::*;
    use crate::auth::Permissions;

    fn answer(status: u16, body: &Value) -> Answer {
        Answer { status: StatusCode::from_u16(status).unwrap(), body: body.to_string().into() }
    }

    #[test]
    fn only_a_whole_answer_lets_in() {
        let tenant = Uuid::from_u128(5);
        let said = |body: Value| verdict(&answer(200, &body), 1000);
        let Verdict::Good(principal, life) =
            said(json!({"sub": "anna", "tenant": tenant, "roles": ["admin"], "exp": 1010}))
        else {
            panic!("refused")
        };
        assert_eq!((principal.tenant_id, principal.permissions), (Some(tenant), Permissions::All));
        assert_eq!(life, Duration::from_secs(10));
        let Verdict::Good(principal, life) = said(json!({"sub": "anna", "tenantId": tenant})) else {
            panic!("refused")
        };
        assert_eq!((principal.permissions, life), (Permissions::Only(vec![]), GOOD));
        assert_eq!(said(json!({"active": false, "sub": "anna", "tenant": tenant})), Verdict::Bad);
        assert_eq!(said(json!({"sub": "anna", "tenant": tenant, "exp": 1000})), Verdict::Bad);
        for nothing in [json!({}), json!({"sub": "anna"}), json!({"tenant": tenant}), json!("yes"), json!({"sub": 1})] {
            assert_eq!(said(nothing.clone()), Verdict::None, "{nothing}");
        }
        assert_eq!(verdict(&answer(401, &json!({})), 0), Verdict::Bad);
        assert_eq!(verdict(&answer(204, &json!({"sub": "anna"})), 0), Verdict::None);
    }

    #[tokio::test]
    async fn it_is_asked_once_in_a_while_and_nobody_comes_in_where_it_is_away() {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        let verify = move |headers: HeaderMap, body: String| async move {
            counted.fetch_add(1, Ordering::Relaxed);
            let token = serde_json::from_str::<Value>(&body).unwrap()["token"].clone();
            match token.as_str().unwrap() {
                "good" if headers["x-service-token"] == "shared" => {
                    (StatusCode::OK, json!({"sub": "anna", "tenant": Uuid::from_u128(5)}).to_string())
                }
                "broken" => (StatusCode::INTERNAL_SERVER_ERROR, String::new()),
                _ => (StatusCode::UNAUTHORIZED, String::new()),
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, Router::new().route(PATH, post(verify))).await.unwrap() });
        let service = AuthService::new(&url, Some("shared".into())).unwrap();
        for _ in 0..3 {
            assert_eq!(service.principal("good").await.unwrap().name, "anna");
            assert_eq!(service.principal("bad").await.unwrap_err().code, "UNAUTHENTICATED");
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        for _ in 0..5 {
            assert_eq!(service.principal("broken").await.unwrap_err().code, "AUTH_SERVICE_UNAVAILABLE");
        }
        // The breaker is open now: nobody new comes in, and nobody is asked.
        assert_eq!(asked.load(Ordering::Relaxed), 5);
        assert_eq!(service.principal("another").await.unwrap_err().code, "AUTH_SERVICE_UNAVAILABLE");
    }
}
