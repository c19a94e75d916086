//! JSON Web Tokens of an identity provider. The algorithm is that of the configured key, whatever a token says of itself.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::identity::IdentityError;
use super::principal::Kind;
use super::{DEFAULT_TENANT, Permissions, Principal};
use crate::config::Identity;

/// How far clocks may differ, in seconds.
const LEEWAY: u64 = 30;

/// Reads the tokens that the configured keys have signed.
pub(super) struct Tokens {
    keys: Vec<(DecodingKey, Validation)>,
}

/// What of a token is read.
#[derive(Debug, Deserialize)]
struct Claims {
    sub: String,
    #[serde(default)]
    name: Option<String>,
    /// The default tenant where absent.
    #[serde(default)]
    tenant: Option<Uuid>,
    #[serde(default)]
    permissions: Option<Vec<String>>,
    #[serde(default)]
    roles: Option<Vec<String>>,
}

impl Tokens {
    pub(super) fn of(identity: &Identity) -> Result<Self, IdentityError> {
        let mut keys = Vec::new();
        if let Some(secret) = &identity.jwt_secret {
            keys.push((DecodingKey::from_secret(secret.as_bytes()), validation(identity, Algorithm::HS256)));
        }
        if let Some(path) = &identity.jwt_public_key {
            let pem =
                std::fs::read(path).map_err(|source| IdentityError::UnreadableKey { path: path.clone(), source })?;
            keys.push(if let Ok(key) = DecodingKey::from_rsa_pem(&pem) {
                (key, validation(identity, Algorithm::RS256))
            } else if let Ok(key) = DecodingKey::from_ec_pem(&pem) {
                (key, validation(identity, Algorithm::ES256))
            } else {
                return Err(IdentityError::NoPublicKey { path: path.clone() });
            });
        }
        Ok(Self { keys })
    }

    /// Who calls with a token; `None` where no key has signed it or it is not valid now.
    pub(super) fn principal(&self, token: &str) -> Option<Principal> {
        let algorithm = decode_header(token).ok()?.alg;
        if has_extensions(token) {
            return None;
        }
        let fitting = self.keys.iter().filter(|(_, validation)| validation.algorithms.contains(&algorithm));
        let claims = fitting.filter_map(|(key, validation)| decode::<Claims>(token, key, validation).ok()).next()?;
        Some(principal(claims.claims))
    }
}

/// Whether the token demands extensions that its reader must understand; this one understands none (RFC 7515, 4.1.11).
fn has_extensions(token: &str) -> bool {
    let header = token.split('.').next().and_then(|header| URL_SAFE_NO_PAD.decode(header).ok()).unwrap_or_default();
    serde_json::from_slice::<serde_json::Value>(&header).map_or(true, |header| header.get("crit").is_some())
}

fn validation(identity: &Identity, algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    let mut required = vec!["exp", "aud", "sub"];
    validation.validate_nbf = true;
    validation.leeway = LEEWAY;
    validation.set_audience(&[&identity.jwt_audience]);
    if let Some(issuer) = &identity.jwt_issuer {
        validation.set_issuer(&[issuer]);
        required.push("iss");
    }
    validation.set_required_spec_claims(&required);
    validation
}

fn principal(claims: Claims) -> Principal {
    Principal {
        kind: Kind::User,
        tenant_id: Some(claims.tenant.unwrap_or(DEFAULT_TENANT)),
        subject: subject(&claims.sub),
        name: claims.name.unwrap_or(claims.sub),
        permissions: match (claims.permissions, claims.roles) {
            (Some(named), _) if named.iter().any(|permission| permission == "*") => Permissions::All,
            (Some(named), _) => Permissions::Only(named),
            (None, Some(roles)) => of_roles(&roles),
            (None, None) => Permissions::All,
        },
    }
}

/// What roles allow. Roles of its own are not kept yet: only that of the administrator means something.
fn of_roles(roles: &[String]) -> Permissions {
    if roles.iter().any(|role| role == "admin") { Permissions::All } else { Permissions::Only(Vec::new()) }
}

/// Subjects are stored as UUIDs; any other name has one that is derived from it, always the same.
fn subject(sub: &str) -> Uuid {
    Uuid::try_parse(sub).unwrap_or_else(|_| {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&Sha256::digest(sub.as_bytes())[..16]);
        Uuid::new_v8(bytes)
    })
}

#[cfg(test)]
mod tests;
