//! The calls on the caller itself: sign in and out, who am I, change the password.

use orrery_proto::v1::auth_service_server::AuthService;
use orrery_proto::v1::{
    Caller, ChangePasswordRequest, GetCallerRequest, LoginRequest, LogoutRequest, LogoutResponse, RefreshRequest,
    SignedIn, TaggedPermissions,
};
use tonic::{Request, Response, Status};

use super::{Api, convert, request};
use crate::auth::{self, DEFAULT_TENANT, Permissions, Principal, Signed, Tagged};
use crate::error::{Error, Kind};
use crate::limiter;

#[tonic::async_trait]
impl AuthService for Api {
    async fn login(&self, request: Request<LoginRequest>) -> Result<Response<SignedIn>, Status> {
        let message = request.into_inner();
        let tenant = request::id_if_any("tenantId", &message.tenant_id)?.unwrap_or(DEFAULT_TENANT);
        for (field, text) in [("name", &message.name), ("password", &message.password)] {
            if text.is_empty() {
                return Err(Error::field("INVALID_ARGUMENT", field, "is empty").into());
            }
        }
        let sign_in = self.authenticator.sign_in();
        let origin = auth::origin();
        let login = sign_in.login(tenant, &message.name, message.password, &origin);
        let signed = limiter::guard(&format!("{tenant}/{}", message.name), login).await?;
        // Told to nobody who has not signed in.
        self.tenants.admit(tenant, origin.address, false).await?;
        Ok(Response::new(signed_in(signed)))
    }

    async fn refresh(&self, request: Request<RefreshRequest>) -> Result<Response<SignedIn>, Status> {
        let signed = self.authenticator.sign_in().refresh(&request.into_inner().refresh_token).await?;
        Ok(Response::new(signed_in(signed)))
    }

    async fn logout(&self, request: Request<LogoutRequest>) -> Result<Response<LogoutResponse>, Status> {
        let token = request.into_inner().refresh_token;
        if token.is_empty() {
            let message = "refreshToken: is needed; it says whose session ends";
            return Err(Error::new(Kind::Unauthenticated, "UNAUTHENTICATED", message).into());
        }
        self.authenticator.sign_in().logout(&token).await?;
        Ok(Response::new(LogoutResponse {}))
    }

    async fn get_caller(&self, _: Request<GetCallerRequest>) -> Result<Response<Caller>, Status> {
        Ok(Response::new(caller(auth::caller()?.principal().clone())))
    }

    async fn change_password(&self, request: Request<ChangePasswordRequest>) -> Result<Response<SignedIn>, Status> {
        let principal = auth::caller()?;
        let message = request.into_inner();
        let (current, new) = (message.current_password, message.new_password);
        let origin = auth::origin();
        // Whoever has found an open session must not find the password by it.
        let change = self.authenticator.sign_in().change_password(&principal, current, new, &origin);
        let signed = limiter::guard(&principal.subject.to_string(), change).await?;
        Ok(Response::new(signed_in(signed)))
    }
}

fn signed_in(signed: Signed) -> SignedIn {
    SignedIn {
        access_token: signed.access_token,
        token_type: "Bearer".to_owned(),
        expires_in: i32::try_from(signed.access_life.as_secs()).unwrap_or(i32::MAX),
        refresh_token: signed.refresh_token,
        session_expires_at: convert::time(Some(signed.session.expires_at)),
        user: Some(caller(auth::user_principal(&signed.session.user))),
    }
}

fn caller(principal: Principal) -> Caller {
    Caller {
        id: principal.subject.to_string(),
        kind: principal.kind.as_str().to_owned(),
        name: principal.name,
        tenant_id: principal.tenant_id.map(|id| id.to_string()).unwrap_or_default(),
        roles: principal.roles,
        permissions: named(principal.permissions),
        tagged: principal.tagged.into_iter().map(tagged).collect(),
    }
}

fn tagged(Tagged { tag, permissions }: Tagged) -> TaggedPermissions {
    TaggedPermissions { tag, permissions: named(permissions) }
}

fn named(permissions: Permissions) -> Vec<String> {
    match permissions {
        Permissions::All => vec!["*".to_owned()],
        Permissions::Only(named) => named,
    }
}
