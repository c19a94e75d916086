//! Who calls. Credentials are read once, in a tower layer that gRPC and REST both pass; handlers ask for the [`Principal`].

mod api_key;
mod authenticator;
mod identity;
mod jwt;
mod layer;

use uuid::Uuid;

pub use api_key::generate_key;
pub use authenticator::Authenticator;
pub use identity::{IdentityError, check_secret};
pub use layer::{AuthLayer, AuthService};

use crate::error::{Error, Kind};

/// The tenant of `orrery dev`, and of keys made without one.
pub const DEFAULT_TENANT: Uuid = Uuid::from_u128(1);

/// All permissions that a call may need.
pub const PERMISSIONS: [&str; 12] = [
    "agents:connect",
    "executions:cancel",
    "executions:read",
    "jobs:create",
    "jobs:delete",
    "jobs:read",
    "jobs:trigger",
    "jobs:update",
    "logs:read",
    "queues:update",
    "scheduler:read",
    "workers:drain",
];

/// Who makes a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Principal {
    /// `None`: the deployment itself, for agents that serve all tenants.
    pub tenant_id: Option<Uuid>,
    pub subject: Uuid,
    /// For people and logs.
    pub name: String,
    pub permissions: Permissions,
}

/// What a principal may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permissions {
    All,
    /// `resource:action`.
    Only(Vec<String>),
}

impl Permissions {
    /// Whether `resource:action` is among them.
    pub fn allow(&self, permission: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(named) => named.iter().any(|n| n == permission || n == "*"),
        }
    }
}

tokio::task_local! {
    /// The principal of the call being served; set by the layer, and absent where a call has not passed it.
    static CALLER: Principal;
}

/// Serves a call for a principal.
pub async fn scope<F: Future>(principal: Principal, call: F) -> F::Output {
    CALLER.scope(principal, call).await
}

/// The caller, if it may do `permission` (`resource:action`).
///
/// # Errors
/// UNAUTHENTICATED where the call has not passed the layer; PERMISSION_DENIED where it may not.
pub fn caller(permission: &str) -> Result<Principal, Error> {
    debug_assert!(PERMISSIONS.contains(&permission), "{permission} is not listed, so that no key can be made for it");
    let principal = CALLER
        .try_with(Clone::clone)
        .map_err(|_| Error::new(Kind::Unauthenticated, "UNAUTHENTICATED", "credentials are needed"))?;
    if !principal.permissions.allow(permission) {
        let message = format!("{permission} is needed, and {} does not have it", principal.name);
        return Err(Error::new(Kind::Denied, "PERMISSION_DENIED", message));
    }
    Ok(principal)
}

impl Principal {
    /// The tenant whose rows the caller sees.
    pub fn tenant(&self) -> Uuid {
        self.tenant_id.unwrap_or(DEFAULT_TENANT)
    }
}
