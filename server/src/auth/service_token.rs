//! The token that sibling services share (INTERNAL_SERVICE_TOKEN). It opens `/internal` and nothing else, and nothing else opens that.

use http::HeaderMap;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use uuid::Uuid;

use super::principal::Kind;
use super::{DEFAULT_TENANT, Permissions, Principal, jwt, unauthenticated};
use crate::error::{Error, Kind as ErrorKind};

/// What the paths of the internal API begin with.
pub(crate) const BELOW: &str = "/internal/";
const TOKEN: &str = "x-service-token";
/// The tenant that a sibling calls for; the default tenant where absent.
const TENANT: &str = "x-tenant-id";
/// The user that it calls for, by the id or name that it knows; the service itself where absent.
const USER: &str = "x-user-id";
/// What siblings may do.
const MAY: [&str; 4] = ["jobs:create", "jobs:pause", "jobs:read", "jobs:trigger"];

/// The SHA-256 of the token: what is compared has one length, and tells nothing of it.
pub(super) struct ServiceToken(Option<[u8; 32]>);

impl ServiceToken {
    pub(super) fn new(token: Option<&str>) -> Self {
        Self(token.map(|token| Sha256::digest(token.as_bytes()).into()))
    }

    /// Who makes an internal call.
    ///
    /// # Errors
    /// UNAUTHENTICATED; SERVICE_TOKEN_NOT_CONFIGURED where the internal API is off; INVALID_ID.
    pub(super) fn principal(&self, headers: &HeaderMap) -> Result<Principal, Error> {
        let Some(expected) = &self.0 else {
            let message = "the internal API is off: set INTERNAL_SERVICE_TOKEN to use it";
            return Err(Error::new(ErrorKind::Unauthenticated, "SERVICE_TOKEN_NOT_CONFIGURED", message));
        };
        let shown = headers.get(TOKEN).ok_or_else(|| unauthenticated("the header X-Service-Token is needed"))?;
        let shown: [u8; 32] = Sha256::digest(shown.as_bytes()).into();
        if !bool::from(shown.ct_eq(expected)) {
            return Err(unauthenticated("X-Service-Token is wrong"));
        }
        let tenant = match text(headers, TENANT)? {
            Some(text) => Uuid::try_parse(text)
                .map_err(|_| Error::field("INVALID_ID", "X-Tenant-Id", "is not a UUID; give the tenant's id"))?,
            None => DEFAULT_TENANT,
        };
        let user = text(headers, USER)?;
        Ok(Principal {
            kind: Kind::Service,
            tenant_id: Some(tenant),
            subject: jwt::subject(user.unwrap_or("internal-service")),
            name: user.map_or_else(|| "internal service".to_owned(), |user| format!("internal service for {user}")),
            roles: Vec::new(),
            permissions: Permissions::Only(MAY.map(str::to_owned).to_vec()),
            tagged: Vec::new(),
        })
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, Error> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = value.to_str().map(str::trim).ok().filter(|text| !text.is_empty() && text.len() <= 200);
    let message = "must be 1 to 200 characters of plain text";
    text.map(Some).ok_or_else(|| Error::field("INVALID_ARGUMENT", name, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| ((*name).try_into().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn only_the_token_opens_and_only_where_there_is_one() {
        let token = ServiceToken::new(Some("the right one"));
        let principal = token.principal(&headers(&[(TOKEN, "the right one")])).unwrap();
        assert_eq!((principal.kind, principal.tenant_id), (Kind::Service, Some(DEFAULT_TENANT)));
        assert!(principal.permissions.allow("jobs:trigger") && !principal.permissions.allow("jobs:delete"));
        for wrong in [
            headers(&[]),
            headers(&[(TOKEN, "")]),
            headers(&[(TOKEN, "the right on")]),
            headers(&[("authorization", "Bearer the right one")]),
        ] {
            assert_eq!(token.principal(&wrong).unwrap_err().code, "UNAUTHENTICATED");
        }
        let off = ServiceToken::new(None).principal(&headers(&[(TOKEN, "")])).unwrap_err();
        assert_eq!((off.kind, off.code), (ErrorKind::Unauthenticated, "SERVICE_TOKEN_NOT_CONFIGURED"));
    }

    #[test]
    fn it_may_name_whom_it_calls_for() {
        let token = ServiceToken::new(Some("t"));
        let tenant = Uuid::from_u128(9);
        let for_anna = headers(&[(TOKEN, "t"), (TENANT, &tenant.to_string()), (USER, "anna")]);
        let principal = token.principal(&for_anna).unwrap();
        assert_eq!((principal.tenant_id, principal.subject), (Some(tenant), jwt::subject("anna")));
        assert_eq!(token.principal(&headers(&[(TOKEN, "t"), (TENANT, "x")])).unwrap_err().code, "INVALID_ID");
    }
}
