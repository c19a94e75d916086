//! Who calls. Credentials are read once, in a tower layer that gRPC and REST both pass; handlers ask for the [`Principal`].

mod access_token;
mod api_key;
mod auth_service;
mod authenticator;
mod caller;
mod calls;
mod claim;
mod grants;
mod held;
mod identity;
mod jwt;
mod keyring;
mod layer;
mod password;
mod permission;
mod principal;
mod rbac_service;
mod recent;
mod refresh_token;
mod refusal;
mod role;
mod service_token;
mod sign_in;

use uuid::Uuid;

pub use api_key::{NewKey, generate_key};
pub use authenticator::Authenticator;
pub use caller::{Caller, Reach};
pub use calls::{CALLS, Needs};
pub(crate) use grants::{may_give, may_give_all};
pub use identity::{IdentityError, check_secret};
pub use keyring::Keyring;
pub use layer::{AuthLayer, AuthService};
pub(crate) use password::Passwords;
pub(crate) use password::check as check_password;
pub use permission::{PERMISSIONS, Permissions};
pub use principal::{Kind as PrincipalKind, Origin, Principal, Tagged};
pub(crate) use role::built_in;
pub use role::{ADMIN, BUILT_IN, BuiltIn};
pub(crate) use service_token::BELOW as INTERNAL;
pub(crate) use sign_in::{Signed, principal as user_principal};

use crate::error::{Error, Kind};

/// The tenant of `orrery dev`, and of keys made without one.
pub const DEFAULT_TENANT: Uuid = Uuid::from_u128(1);

tokio::task_local! {
    /// The caller of the call being served; set by the layer, and absent where a call has not passed it or needs no caller.
    static CALLER: Caller;
    /// Where the call being served comes from.
    static ORIGIN: Origin;
}

/// Serves a call for a principal, about all that its tenant has.
pub async fn scope<F: Future>(principal: Principal, origin: Origin, call: F) -> F::Output {
    serve(Caller::new(principal, Reach::Everything), origin, call).await
}

/// Serves a call for a caller, about what is within its reach.
async fn serve<F: Future>(caller: Caller, origin: Origin, call: F) -> F::Output {
    ORIGIN.scope(origin, CALLER.scope(caller, call)).await
}

/// Serves a call for which nobody need be known, such as a login.
pub(crate) async fn unknown<F: Future>(origin: Origin, call: F) -> F::Output {
    ORIGIN.scope(origin, call).await
}

/// Does something for whoever runs this command on the database itself.
pub(crate) async fn as_operator<F: Future>(work: F) -> F::Output {
    let name = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_default();
    let operator = Principal {
        kind: PrincipalKind::Operator,
        tenant_id: None,
        subject: Uuid::nil(),
        name: if name.is_empty() { "operator".to_owned() } else { name },
        roles: Vec::new(),
        permissions: Permissions::All,
        tagged: Vec::new(),
    };
    scope(operator, Origin::default(), work).await
}

/// Where the call being served comes from; nothing is known of it where a call has not passed the layer.
pub fn origin() -> Origin {
    ORIGIN.try_with(Origin::clone).unwrap_or_default()
}

/// The caller, whom the layer has let pass: it has what [`CALLS`] says of this call, for the whole tenant or, where that says so, for the jobs
/// within its reach.
///
/// # Errors
/// UNAUTHENTICATED where the call has not passed the layer.
pub fn caller() -> Result<Caller, Error> {
    CALLER.try_with(Caller::clone).map_err(|_| unauthenticated("credentials are needed"))
}

fn unauthenticated(message: &str) -> Error {
    Error::new(Kind::Unauthenticated, "UNAUTHENTICATED", message)
}
