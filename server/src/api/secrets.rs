//! The calls on secrets. No answer holds a value.

use orrery_proto::v1::secret_service_server::SecretService;
use orrery_proto::v1::{
    DeleteSecretRequest, DeleteSecretResponse, ListSecretsRequest, ListSecretsResponse, PutSecretRequest,
    RotateSecretsRequest, RotateSecretsResponse, Secret,
};
use orrery_sdk::secret::{MIN_VALUE, name_problem};
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use super::page_token::{self, Listing, Scope};
use super::{Api, convert};
use crate::auth;
use crate::error::{Error, Kind};
use crate::secret::MAX_VALUE;
use crate::store::SecretRow;

#[tonic::async_trait]
impl SecretService for Api {
    async fn put_secret(&self, request: Request<PutSecretRequest>) -> Result<Response<Secret>, Status> {
        let principal = auth::caller()?;
        let PutSecretRequest { name, value } = request.into_inner();
        let value = Zeroizing::new(value);
        check_name(&name)?;
        check_value(&value)?;
        let row = self.vault.put(principal.tenant(), &name, &value, principal.subject).await?;
        Ok(Response::new(secret(row)))
    }

    async fn list_secrets(
        &self,
        request: Request<ListSecretsRequest>,
    ) -> Result<Response<ListSecretsResponse>, Status> {
        let tenant = auth::caller()?.tenant();
        let message = request.into_inner();
        let size = page_token::page_size(message.page_size, 50, 1000)?;
        let scope = Scope::new(Listing::Secrets, &[&tenant.to_string()]);
        let after = scope.position(&message.page_token)?.map(|name| String::from_utf8_lossy(&name).into_owned());
        let limit = i64::try_from(size).unwrap_or(i64::MAX - 1) + 1;
        let mut found = self.store.list_secrets(tenant, after.as_deref(), limit).await.map_err(Error::from)?;
        let next_page_token = page_token::cut(&mut found, size, |row| scope.token(row.name.as_bytes()));
        Ok(Response::new(ListSecretsResponse { secrets: found.into_iter().map(secret).collect(), next_page_token }))
    }

    async fn delete_secret(
        &self,
        request: Request<DeleteSecretRequest>,
    ) -> Result<Response<DeleteSecretResponse>, Status> {
        let principal = auth::caller()?;
        let DeleteSecretRequest { name, version } = request.into_inner();
        check_name(&name)?;
        let deleted = self.vault.delete(principal.tenant(), &name, version, principal.subject).await;
        deleted.map_err(|error| if error.code == "NOT_FOUND" { not_found(&name, version) } else { error })?;
        Ok(Response::new(DeleteSecretResponse { name, deleted: true }))
    }

    async fn rotate_secrets(
        &self,
        request: Request<RotateSecretsRequest>,
    ) -> Result<Response<RotateSecretsResponse>, Status> {
        let principal = auth::caller()?;
        let rotated = self.vault.rotate(principal.tenant_id, request.into_inner().data_keys).await?.complete()?;
        Ok(Response::new(RotateSecretsResponse {
            key_id: rotated.key_id,
            rotated: i64::try_from(rotated.changed).unwrap_or(i64::MAX),
            retired_keys: rotated.retired,
            keys_in_use: rotated.in_use,
        }))
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    match name_problem(name) {
        Some(problem) => Err(Error::field("INVALID_SECRET_NAME", "name", problem)),
        None => Ok(()),
    }
}

/// What is wrong with a value is said without any part of it.
fn check_value(value: &str) -> Result<(), Error> {
    let problem = if value.len() < MIN_VALUE {
        format!("has less than {MIN_VALUE} bytes: so short a text could not be hidden in output; give a longer one")
    } else if value.len() > MAX_VALUE {
        format!("has {} bytes; at most {MAX_VALUE} are allowed", value.len())
    } else if value.contains('\0') {
        "has a NUL character, which no environment can hold; encode it, in base64 for instance".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::field("INVALID_SECRET_VALUE", "value", problem))
}

fn not_found(name: &str, version: Option<i64>) -> Error {
    let what = match version {
        Some(version) => format!("there is no version {version} of a secret {name}"),
        None => format!("there is no secret {name}"),
    };
    Error::new(Kind::NotFound, "SECRET_NOT_FOUND", what)
}

fn secret(row: SecretRow) -> Secret {
    Secret {
        name: row.name,
        version: row.version,
        versions: row.versions.into_iter().map(|version| i32::try_from(version).unwrap_or(i32::MAX)).collect(),
        created_at: convert::time(Some(row.created_at)),
        updated_at: convert::time(Some(row.updated_at)),
        updated_by: row.updated_by.to_string(),
    }
}
