//! Who calls. Credentials are read once, in a tower layer that gRPC and REST both pass; handlers ask for the [`Principal`].

mod api_key;
mod authenticator;
mod identity;
mod jwt;
mod layer;
mod permission;
mod principal;

use uuid::Uuid;

pub use api_key::generate_key;
pub use authenticator::Authenticator;
pub use identity::{IdentityError, check_secret};
pub use layer::{AuthLayer, AuthService};
pub use permission::{PERMISSIONS, Permissions};
pub use principal::{Kind as PrincipalKind, Origin, Principal};

use crate::error::{Error, Kind};

/// The tenant of `orrery dev`, and of keys made without one.
pub const DEFAULT_TENANT: Uuid = Uuid::from_u128(1);

tokio::task_local! {
    /// The caller of the call being served and where it calls from; set by the layer, and absent where a call has not passed it.
    static CALLER: (Principal, Origin);
}

/// Serves a call for a principal.
pub async fn scope<F: Future>(principal: Principal, origin: Origin, call: F) -> F::Output {
    CALLER.scope((principal, origin), call).await
}

/// Where the call being served comes from; nothing is known of it where a call has not passed the layer.
pub fn origin() -> Origin {
    CALLER.try_with(|(_, origin)| origin.clone()).unwrap_or_default()
}

/// The caller, if it may do `permission` (`resource:action`).
///
/// # Errors
/// UNAUTHENTICATED where the call has not passed the layer; PERMISSION_DENIED where it may not.
pub fn caller(permission: &str) -> Result<Principal, Error> {
    debug_assert!(PERMISSIONS.contains(&permission), "{permission} is not listed, so that no key can be made for it");
    let principal = CALLER
        .try_with(|(principal, _)| principal.clone())
        .map_err(|_| Error::new(Kind::Unauthenticated, "UNAUTHENTICATED", "credentials are needed"))?;
    if !principal.permissions.allow(permission) {
        let message = format!("{permission} is needed, and {} does not have it", principal.name);
        return Err(Error::new(Kind::Denied, "PERMISSION_DENIED", message));
    }
    Ok(principal)
}
