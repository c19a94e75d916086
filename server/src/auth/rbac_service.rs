//! RBAC_SERVICE_URL: a sibling service that knows what people may do. Where it is set, it is asked instead of the roles and bindings that are
//! stored here, and of the permissions that tokens name. API keys carry their scopes themselves, so that programs and agents are not asked for.
//!
//! The request is `POST {RBAC_SERVICE_URL}/api/v1/rbac/permissions`, with the `X-Service-Token` that services share where there is one:
//!
//! ```json
//! {"tenant": "UUID", "kind": "user", "id": "UUID", "name": "anna", "roles": ["developer"]}
//! ```
//!
//! `id` and `name` are those that `GET /api/v1/auth/me` shows; `roles` are those that the user or the token names. The answer is 200 with
//! what it may do in its tenant, and for jobs with a tag; both may be absent:
//!
//! ```json
//! {"permissions": ["jobs:read", "jobs:trigger"], "byTag": {"mail": ["jobs:update"]}}
//! ```
//!
//! `*` is everything. Permissions that are not known here allow nothing. Anything from 400 to 499 says that it may do nothing. No answer in two
//! seconds, any other status or body, and an open breaker refuse the call with 503.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::held::Holding;
use crate::error::{Error, Kind};
use crate::sibling::{AddressError, Answer, Sibling};

const PATH: &str = "/api/v1/rbac/permissions";
/// The most tags of one answer: each is looked for in the jobs of a list.
const TAGS: usize = 1000;

pub(super) struct RbacService {
    sibling: Sibling,
    service_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    #[serde(default)]
    permissions: Vec<String>,
    #[serde(default)]
    by_tag: BTreeMap<String, Vec<String>>,
}

/// Somebody whose permissions are asked for.
pub(super) struct Somebody<'a> {
    pub(super) tenant: Uuid,
    pub(super) id: Uuid,
    pub(super) name: &'a str,
    pub(super) roles: &'a [String],
}

impl RbacService {
    pub(super) fn new(url: &str, service_token: Option<String>) -> Result<Self, AddressError> {
        Ok(Self { sibling: Sibling::new("RBAC_SERVICE_URL", url)?, service_token })
    }

    /// What somebody may do.
    ///
    /// # Errors
    /// RBAC_SERVICE_UNAVAILABLE.
    pub(super) async fn of(&self, somebody: &Somebody<'_>) -> Result<Holding, Error> {
        let Somebody { tenant, id, name, roles } = somebody;
        let request = json!({"tenant": tenant, "kind": "user", "id": id, "name": name, "roles": roles});
        let header = self.service_token.as_deref().map(|token| ("x-service-token", token));
        let answer = self.sibling.post(PATH, &request, header.as_slice()).await.map_err(|_| away())?;
        holding(&answer).ok_or_else(|| {
            tracing::warn!(status = %answer.status, "RBAC_SERVICE_URL gave an answer that is none");
            away()
        })
    }
}

fn away() -> Error {
    let message = "the service that knows what callers may do does not answer; try again";
    Error::new(Kind::Unavailable, "RBAC_SERVICE_UNAVAILABLE", message)
}

/// What an answer allows; `None` where it says nothing that can be understood.
fn holding(answer: &Answer) -> Option<Holding> {
    if answer.status.is_client_error() {
        return Some(Holding::default());
    }
    let body = Some(&answer.body).filter(|_| answer.status.is_success())?;
    // An object: an array would be read as its fields, one after the other.
    let body: Map<String, Value> = serde_json::from_slice(body).ok()?;
    let Said { permissions, by_tag } = serde_json::from_value(Value::Object(body)).ok()?;
    // A tag without a name would be the whole tenant to whoever reads it as that.
    let is_whole = by_tag.len() <= TAGS && !by_tag.contains_key("");
    is_whole.then_some(Holding { everywhere: permissions, by_tag })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::Router;
    use axum::routing::post;
    use http::{HeaderMap, StatusCode};

    use super::super::held::Holdings;
    use super::super::principal::Kind as PrincipalKind;
    use super::super::{Permissions, Principal};
    use super::*;
    use crate::store::sqlite::SqliteStore;

    fn said(status: u16, body: &Value) -> Option<Holding> {
        holding(&Answer { status: StatusCode::from_u16(status).unwrap(), body: body.to_string().into() })
    }

    #[test]
    fn only_an_answer_that_is_understood_allows_anything() {
        let found = said(200, &json!({"permissions": ["jobs:read"], "byTag": {"a": ["jobs:update"]}})).unwrap();
        assert_eq!(found.everywhere, ["jobs:read"]);
        assert_eq!(found.by_tag["a"], ["jobs:update"]);
        assert_eq!(said(200, &json!({})), Some(Holding::default()));
        assert_eq!(said(404, &json!({"permissions": ["*"]})), Some(Holding::default()));
        for none in [json!([]), json!({"permissions": "*"}), json!({"permissions": [1]}), json!({"byTag": {"": ["*"]}})]
        {
            assert_eq!(said(200, &none), None, "{none}");
        }
    }

    fn somebody(name: &str) -> Principal {
        Principal {
            kind: PrincipalKind::User,
            tenant_id: Some(Uuid::from_u128(5)),
            subject: Uuid::from_u128(7),
            name: name.to_owned(),
            roles: vec!["admin".into(), name.to_owned()],
            permissions: Permissions::All,
            tagged: Vec::new(),
        }
    }

    #[tokio::test]
    async fn it_is_asked_instead_and_nobody_may_anything_where_it_is_away() {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        let permissions = move |headers: HeaderMap, body: String| async move {
            counted.fetch_add(1, Ordering::Relaxed);
            let body: Value = serde_json::from_str(&body).unwrap();
            match body["name"].as_str().unwrap() {
                "anna" if headers["x-service-token"] == "shared" && body["roles"] == json!(["admin", "anna"]) => {
                    (StatusCode::OK, json!({"permissions": ["jobs:read"], "byTag": {"a": ["jobs:update"]}}).to_string())
                }
                "broken" => (StatusCode::INTERNAL_SERVER_ERROR, String::new()),
                _ => (StatusCode::NOT_FOUND, String::new()),
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, Router::new().route(PATH, post(permissions))).await.unwrap() });
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(directory.path().join("orrery.db")).await.unwrap());
        let holdings = Holdings::new(store, Some(RbacService::new(&url, Some("shared".into())).unwrap()));
        for _ in 0..3 {
            // What its token and its roles name counts for nothing, though one of them is admin.
            let anna = holdings.complete(somebody("anna")).await.unwrap();
            assert_eq!(anna.permissions, Permissions::Only(vec!["jobs:read".into()]));
            assert!(anna.may_of("jobs:update", &["a".into()]) && !anna.may_of("jobs:update", &["b".into()]));
            let bert = holdings.complete(somebody("bert")).await.unwrap();
            assert_eq!((bert.permissions, bert.tagged), (Permissions::Only(vec![]), vec![]));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2, "what was said lately is not asked again");
        // Keys carry their scopes.
        let key = Principal { kind: PrincipalKind::Key, ..somebody("key") };
        assert_eq!(holdings.complete(key.clone()).await.unwrap(), key);
        for _ in 0..5 {
            assert_eq!(holdings.complete(somebody("broken")).await.unwrap_err().code, "RBAC_SERVICE_UNAVAILABLE");
        }
        // The breaker is open now: it is not asked, and nobody new may anything.
        assert_eq!(asked.load(Ordering::Relaxed), 5);
        assert_eq!(holdings.complete(somebody("carl")).await.unwrap_err().code, "RBAC_SERVICE_UNAVAILABLE");
    }
}
