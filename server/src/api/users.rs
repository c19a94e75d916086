//! The calls on people who sign in with a password.

use orrery_proto::v1::user_service_server::UserService;
use orrery_proto::v1::{
    CreateUserRequest, DisableUserRequest, EnableUserRequest, GetUserRequest, GranteeKind, ListUsersRequest,
    ListUsersResponse, ResetPasswordRequest, UpdateUserRequest, User,
};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::page_token::{self, Listing, Scope, page};
use super::{Api, convert, request};
use crate::auth::{self, Principal};
use crate::error::{Error, Kind};
use crate::store::{self, Grantee, StoreError, UserChange};

/// The most characters of a name.
const NAME: usize = 200;
/// The most roles of one user.
const ROLES: usize = 50;

#[tonic::async_trait]
impl UserService for Api {
    async fn create_user(&self, request: Request<CreateUserRequest>) -> Result<Response<User>, Status> {
        let principal = auth::caller()?;
        let message = request.into_inner();
        let name = user_name(&message.name)?;
        let display_name = display_name(message.display_name)?;
        let roles = self.roles_to_give(&principal, message.roles).await?;
        let password_hash = self.authenticator.sign_in().hash("password", message.password, &name).await?;
        let now = self.store.now().await.map_err(Error::from)?;
        let user = store::User {
            id: Uuid::now_v7(),
            tenant_id: principal.tenant(),
            name,
            display_name,
            password_hash,
            roles,
            created_by: Some(principal.subject),
            created_at: now,
            updated_at: now,
            last_login_at: None,
            disabled_at: None,
        };
        let made_roles = self.authenticator.made_roles(&user.roles);
        self.store.create_user(&user, &made_roles).await.map_err(Error::from)?;
        Ok(Response::new(convert_user(user)))
    }

    async fn list_users(&self, request: Request<ListUsersRequest>) -> Result<Response<ListUsersResponse>, Status> {
        let tenant = auth::caller()?.tenant();
        let message = request.into_inner();
        let size = page_token::page_size(message.page_size, 50, 1000)?;
        let scope = Scope::new(Listing::Users, &[&tenant.to_string()]);
        let page = page(&scope, &message.page_token, size)?;
        let mut found = self.store.users(tenant, &page).await.map_err(Error::from)?;
        let next_page_token = page_token::cut(&mut found, size, |user| scope.token(user.id.as_bytes()));
        Ok(Response::new(ListUsersResponse { users: found.into_iter().map(convert_user).collect(), next_page_token }))
    }

    async fn get_user(&self, request: Request<GetUserRequest>) -> Result<Response<User>, Status> {
        let tenant = auth::caller()?.tenant();
        let id = request::id("id", &request.into_inner().id)?;
        Ok(Response::new(convert_user(self.find_user(tenant, id).await?)))
    }

    async fn update_user(&self, request: Request<UpdateUserRequest>) -> Result<Response<User>, Status> {
        let principal = auth::caller()?;
        let message = request.into_inner();
        let id = request::id("id", &message.id)?;
        self.may_change(&principal, id).await?;
        let display_name = Some(display_name(message.display_name)?);
        let roles = self.roles_to_give(&principal, message.roles).await?;
        let made_roles = self.authenticator.made_roles(&roles);
        let change = UserChange { display_name, roles: Some(roles), made_roles, ..UserChange::default() };
        self.change_user(&principal, id, change).await
    }

    async fn disable_user(&self, request: Request<DisableUserRequest>) -> Result<Response<User>, Status> {
        let principal = auth::caller()?;
        let id = request::id("id", &request.into_inner().id)?;
        if id == principal.subject {
            let message = "nobody disables themselves; have another administrator do it";
            return Err(Error::new(Kind::Conflict, "OWN_USER", message).into());
        }
        self.may_change(&principal, id).await?;
        self.change_user(&principal, id, UserChange { disabled: Some(true), ..UserChange::default() }).await
    }

    async fn enable_user(&self, request: Request<EnableUserRequest>) -> Result<Response<User>, Status> {
        let principal = auth::caller()?;
        let id = request::id("id", &request.into_inner().id)?;
        self.may_change(&principal, id).await?;
        self.change_user(&principal, id, UserChange { disabled: Some(false), ..UserChange::default() }).await
    }

    async fn reset_password(&self, request: Request<ResetPasswordRequest>) -> Result<Response<User>, Status> {
        let principal = auth::caller()?;
        let message = request.into_inner();
        let id = request::id("id", &message.id)?;
        let user = self.may_change(&principal, id).await?;
        let hash = self.authenticator.sign_in().hash("password", message.password, &user.name).await?;
        self.change_user(&principal, id, UserChange { password_hash: Some(hash), ..UserChange::default() }).await
    }
}

impl Api {
    async fn find_user(&self, tenant: Uuid, id: Uuid) -> Result<store::User, Error> {
        self.store.user(tenant, id).await?.ok_or_else(|| user_not_found(id))
    }

    /// A user whom the caller may change. Who could set the password of somebody who may do more would be that somebody.
    async fn may_change(&self, principal: &Principal, id: Uuid) -> Result<store::User, Error> {
        let user = self.find_user(principal.tenant(), id).await?;
        // With all that is bound to it.
        let to = Grantee { tenant: user.tenant_id, kind: GranteeKind::User, id, roles: &user.roles };
        auth::may_give_all(principal, &self.authenticator.holding(&to, &user.name).await?)?;
        Ok(user)
    }

    /// Roles that the caller may give to a user.
    async fn roles_to_give(&self, principal: &Principal, roles: Vec<String>) -> Result<Vec<String>, Error> {
        let roles = role_names(roles)?;
        let tenant = principal.tenant();
        let unknown = self.authenticator.unknown_roles(tenant, &roles).await?;
        if !unknown.is_empty() {
            return Err(Error::no_such_roles(&unknown));
        }
        // Of nobody yet, so that nothing else is in it.
        let to = Grantee { tenant, kind: GranteeKind::User, id: Uuid::nil(), roles: &roles };
        auth::may_give_all(principal, &self.authenticator.holding(&to, "").await?)?;
        Ok(roles)
    }

    async fn change_user(&self, principal: &Principal, id: Uuid, change: UserChange) -> Result<Response<User>, Status> {
        let changed = self.authenticator.sign_in().change(principal.tenant(), id, &change).await;
        let user = changed.map_err(|error| match error {
            StoreError::NotFound => user_not_found(id),
            other => other.into(),
        })?;
        Ok(Response::new(convert_user(user)))
    }
}

fn user_not_found(id: Uuid) -> Error {
    Error::new(Kind::NotFound, "USER_NOT_FOUND", format!("there is no user {id}"))
}

/// A name to sign in with, as it is kept. Letters that look like others, and cases of them, are left out: two names that a person reads as
/// one must not be two people.
///
/// # Errors
/// INVALID_NAME.
pub(crate) fn user_name(name: &str) -> Result<String, Error> {
    let name = name.trim().to_ascii_lowercase();
    let is_good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._@+-".contains(c);
    if name.is_empty() || name.len() > NAME || !name.chars().all(is_good) {
        let message = format!("give 1 to {NAME} of a-z, 0-9 and . _ @ + -, such as an e-mail address");
        return Err(Error::field("INVALID_NAME", "name", message));
    }
    Ok(name)
}

fn display_name(text: String) -> Result<String, Error> {
    if text.chars().count() > NAME || text.chars().any(char::is_control) {
        let message = format!("give at most {NAME} characters, none of them control characters");
        return Err(Error::field("INVALID_NAME", "displayName", message));
    }
    Ok(text)
}

fn role_names(mut roles: Vec<String>) -> Result<Vec<String>, Error> {
    let is_good = |role: &String| !role.is_empty() && role.len() <= 100 && !role.chars().any(char::is_control);
    if roles.len() > ROLES || !roles.iter().all(is_good) {
        let message = format!("give at most {ROLES} names of 1 to 100 characters");
        return Err(Error::field("INVALID_ROLE", "roles", message));
    }
    roles.sort_unstable();
    roles.dedup();
    Ok(roles)
}

/// A user, without the hash of its password.
fn convert_user(user: store::User) -> User {
    User {
        id: user.id.to_string(),
        name: user.name,
        display_name: user.display_name,
        roles: user.roles,
        disabled: user.disabled_at.is_some(),
        created_at: convert::time(Some(user.created_at)),
        created_by: user.created_by.map(|id| id.to_string()).unwrap_or_default(),
        updated_at: convert::time(Some(user.updated_at)),
        last_login_at: convert::time(user.last_login_at),
        disabled_at: convert::time(user.disabled_at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_spelling() {
        assert_eq!(user_name(" Anna@Example.COM ").unwrap(), "anna@example.com");
        for bad in ["", " ", "a b", "а", "a/b", "a\0", &"x".repeat(201)] {
            assert_eq!(user_name(bad).unwrap_err().code, "INVALID_NAME", "{bad:?}");
        }
    }
}
