//! The calls on API keys: make, list, revoke.

use orrery_proto::v1::key_service_server::KeyService;
use orrery_proto::v1::{
    ApiKey, CreateKeyRequest, CreateKeyResponse, ListKeysRequest, ListKeysResponse, RevokeKeyRequest,
};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::page_token::{self, Listing, Scope, page};
use super::{Api, convert, request};
use crate::auth::{self, NewKey, PERMISSIONS};
use crate::error::{Error, FieldProblem, Kind};
use crate::store::{self, KeysOf, StoreError};

/// The most characters of a key's name.
const NAME: usize = 200;

#[tonic::async_trait]
impl KeyService for Api {
    async fn create_key(&self, request: Request<CreateKeyRequest>) -> Result<Response<CreateKeyResponse>, Status> {
        let principal = auth::caller()?;
        let message = request.into_inner();
        let problems = problems(&message);
        if !problems.is_empty() {
            return Err(Error::fields(problems).into());
        }
        auth::may_give(&principal, &message.permissions, "")?;
        let now = self.store.now().await.map_err(Error::from)?;
        let new = NewKey {
            tenant_id: Some(principal.tenant()),
            name: message.name.trim().to_owned(),
            permissions: message.permissions,
            expires_at: message.expires_in_days.map(|days| now + chrono::Duration::days(i64::from(days))),
            created_by: Some(principal.subject),
        };
        let (secret, key) = auth::generate_key(self.authenticator.keyring(), new, now);
        self.store.insert_key(&key).await.map_err(Error::from)?;
        Ok(Response::new(CreateKeyResponse { secret, key: Some(convert_key(key)) }))
    }

    async fn list_keys(&self, request: Request<ListKeysRequest>) -> Result<Response<ListKeysResponse>, Status> {
        let tenant = auth::caller()?.tenant();
        let message = request.into_inner();
        let size = page_token::page_size(message.page_size, 50, 1000)?;
        let scope = Scope::new(Listing::Keys, &[&tenant.to_string()]);
        let page = page(&scope, &message.page_token, size)?;
        let mut found = self.store.keys(KeysOf::Tenant(tenant), &page).await.map_err(Error::from)?;
        let next_page_token = page_token::cut(&mut found, size, |key| scope.token(key.id.as_bytes()));
        Ok(Response::new(ListKeysResponse { keys: found.into_iter().map(convert_key).collect(), next_page_token }))
    }

    async fn revoke_key(&self, request: Request<RevokeKeyRequest>) -> Result<Response<ApiKey>, Status> {
        let tenant = auth::caller()?.tenant();
        let id = request::id("id", &request.into_inner().id)?;
        let key = self.store.revoke_key(KeysOf::Tenant(tenant), id).await.map_err(of_key(id))?;
        self.authenticator.forget_key(id);
        Ok(Response::new(convert_key(key)))
    }
}

fn of_key(id: Uuid) -> impl FnOnce(StoreError) -> Error {
    move |error| match error {
        StoreError::NotFound => Error::new(Kind::NotFound, "KEY_NOT_FOUND", format!("there is no API key {id}")),
        other => other.into(),
    }
}

/// What is wrong with a key to make.
fn problems(asked: &CreateKeyRequest) -> Vec<FieldProblem> {
    let mut problems = Vec::new();
    let mut problem = |code, field: &str, message: String| {
        problems.push(FieldProblem { field: field.to_owned(), code, message });
    };
    if asked.name.trim().is_empty() || asked.name.chars().count() > NAME {
        problem("INVALID_NAME", "name", format!("give 1 to {NAME} characters"));
    }
    problems.extend(permission_problems(&asked.permissions));
    let mut problem = |code, field: &str, message: String| {
        problems.push(FieldProblem { field: field.to_owned(), code, message });
    };
    if asked.expires_in_days.is_some_and(|days| !(1..=36_500).contains(&days)) {
        problem(
            "INVALID_ARGUMENT",
            "expiresInDays",
            "give 1 to 36500 days, or none for a key that never expires".into(),
        );
    }
    problems
}

/// What is wrong with permissions that are to be given.
pub(super) fn permission_problems(permissions: &[String]) -> Vec<FieldProblem> {
    const CODE: &str = "INVALID_PERMISSION";
    if permissions.is_empty() {
        let message = "name at least one, such as jobs:read; * is everything".to_owned();
        return vec![FieldProblem { field: "permissions".to_owned(), code: CODE, message }];
    }
    let unknown =
        permissions.iter().enumerate().filter(|(_, name)| *name != "*" && !PERMISSIONS.contains(&name.as_str()));
    let message = format!("is unknown; there are {}, and * for all", PERMISSIONS.join(", "));
    unknown
        .map(|(index, _)| FieldProblem { field: format!("permissions[{index}]"), code: CODE, message: message.clone() })
        .collect()
}

/// A key, without its hash.
fn convert_key(key: store::ApiKey) -> ApiKey {
    ApiKey {
        id: key.id.to_string(),
        name: key.name,
        prefix: key.prefix,
        permissions: key.permissions,
        created_at: convert::time(Some(key.created_at)),
        created_by: key.created_by.map(|id| id.to_string()).unwrap_or_default(),
        expires_at: convert::time(key.expires_at),
        last_used_at: convert::time(key.last_used_at),
        revoked_at: convert::time(key.revoked_at),
    }
}
