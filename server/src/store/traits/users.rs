use async_trait::async_trait;
use uuid::Uuid;

use crate::store::*;

/// People who sign in with a password, and their sessions.
#[async_trait]
pub trait Users: Send + Sync {
    /// Makes a user. `made_roles`: those of its roles that the tenant has made, and that must be there.
    ///
    /// # Errors
    /// [`StoreError::Refused`] (USER_NAME_TAKEN, INVALID_ROLE).
    async fn create_user(&self, user: &User, made_roles: &[String]) -> Result<()>;

    /// One user, unless another tenant's.
    async fn user(&self, tenant: Uuid, id: Uuid) -> Result<Option<User>>;

    /// The user of a name, in lower case.
    async fn user_by_name(&self, tenant: Uuid, name: &str) -> Result<Option<User>>;

    /// Users, newest first.
    async fn users(&self, tenant: Uuid, page: &Page) -> Result<Vec<User>>;

    /// Changes a user, and ends the sessions that the change says.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Refused`] (INVALID_ROLE) where a role that it is given is not there.
    async fn change_user(&self, tenant: Uuid, id: Uuid, change: &UserChange) -> Result<User>;

    /// Begins a session, and notes the login. `false` where the user has been disabled, or is none.
    async fn begin_user_session(&self, session: &NewUserSession) -> Result<bool>;

    /// A session, unless it is over or its user is disabled.
    async fn user_session(&self, id: Uuid) -> Result<Option<UserSession>>;

    /// Uses a refresh token, in whose place `next` counts from now on. A token that was used before ends its session.
    async fn rotate_refresh_token(&self, hash: &[u8; 32], next: &[u8; 32]) -> Result<Rotation>;

    /// Ends the session that a refresh token belongs to; answers with its id where there was one.
    async fn end_user_session(&self, hash: &[u8; 32]) -> Result<Option<Uuid>>;

    /// Deletes sessions whose time was over more than a day ago, with their tokens; answers with how many.
    async fn forget_user_sessions(&self) -> Result<u64>;
}
