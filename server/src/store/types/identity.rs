//! Keys, users and their sessions.

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

/// Names the pepper of a hash without telling it.
pub type PepperId = [u8; 8];

/// What a key is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyHash {
    /// The pepper under which `hash` is the key's HMAC-SHA-256. `None`: it is its SHA-256 (256 random bits need no slow hash), as keys
    /// have it that were made before there were peppers.
    pub pepper: Option<PepperId>,
    pub hash: [u8; 32],
}

/// A key by which programs are known.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiKey {
    /// UUIDv7 of the moment it was made: lists go by it.
    pub id: Uuid,
    /// `None`: of the deployment, for agents that serve all tenants and for administrators.
    pub tenant_id: Option<Uuid>,
    pub name: String,
    /// The first characters, for people to tell keys apart.
    pub prefix: String,
    pub hash: KeyHash,
    /// `*` or `resource:action`.
    pub permissions: Vec<String>,
    /// `None`: it was made on the database, by `orrery key create`.
    pub created_by: Option<Uuid>,
    pub created_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    /// To about a minute.
    pub last_used_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
}

/// Whose keys are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeysOf {
    Tenant(Uuid),
    /// All tenants' and the deployment's own.
    Everybody,
}

/// Somebody who signs in with a password.
#[derive(Clone, PartialEq)]
pub struct User {
    /// UUIDv7 of the moment it was made: lists go by it.
    pub id: Uuid,
    pub tenant_id: Uuid,
    /// In lower case; unique in its tenant.
    pub name: String,
    pub display_name: String,
    /// argon2id in the PHC string format.
    pub password_hash: String,
    pub roles: Vec<String>,
    /// `None`: made on the database, by `orrery admin create`.
    pub created_by: Option<Uuid>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub last_login_at: Option<DateTime<Utc>>,
    pub disabled_at: Option<DateTime<Utc>>,
}

impl std::fmt::Debug for User {
    /// Without the hash of the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User")
            .field("id", &self.id)
            .field("tenant_id", &self.tenant_id)
            .field("name", &self.name)
            .field("roles", &self.roles)
            .field("disabled_at", &self.disabled_at)
            .finish_non_exhaustive()
    }
}

/// What is to change of a user; `None` stays as it is.
#[derive(Clone, Default)]
pub struct UserChange {
    pub display_name: Option<String>,
    pub roles: Option<Vec<String>>,
    /// Those of `roles` that the tenant has made, and that must be there.
    pub made_roles: Vec<String>,
    /// Disabling ends the user's sessions.
    pub disabled: Option<bool>,
    /// A new password ends the user's sessions.
    pub password_hash: Option<String>,
}

/// A session to begin, with its first refresh token.
#[derive(Clone, Debug)]
pub struct NewUserSession {
    pub id: Uuid,
    pub tenant_id: Uuid,
    pub user_id: Uuid,
    /// Where the login came from; empty where that is not known.
    pub address: String,
    pub refresh_hash: [u8; 32],
    /// From now to its end, however often it is refreshed.
    pub life: Duration,
}

/// A living session of a user who may sign in.
#[derive(Clone, Debug, PartialEq)]
pub struct UserSession {
    pub id: Uuid,
    pub expires_at: DateTime<Utc>,
    pub user: User,
}

/// Why a session ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    Logout,
    /// A refresh token came a second time.
    Reuse,
    Password,
    Disabled,
}

impl SessionEnd {
    /// As it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Logout => "logout",
            Self::Reuse => "reuse",
            Self::Password => "password",
            Self::Disabled => "disabled",
        }
    }
}

/// What became of a refresh token that was shown.
#[derive(Clone, Debug, PartialEq)]
pub enum Rotation {
    /// Nobody was given it, or its session is over.
    Unknown,
    /// It had been used before: two have it. Its session ended with this call.
    Reused { session: Uuid, user: Uuid },
    /// It was used now, and the next one counts from here on.
    Rotated(Box<UserSession>),
}
