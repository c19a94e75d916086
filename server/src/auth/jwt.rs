//! JSON Web Tokens of an identity provider (RFC 7519, with the rules of RFC 8725). The algorithm is that of the configured key, whatever a
//! token says of itself.

mod jwks;
mod key;

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use self::jwks::Jwks;
use self::key::VerifyingKey;
use super::identity::IdentityError;
use super::principal::Kind;
use super::{Principal, grants};
use crate::config::Identity;

/// The longest token that is looked at, in bytes.
const MOST: usize = 16 << 10;
/// The issuer of tokens that are signed with ORRERY_JWT_SECRET, where none is named.
const DEFAULT_ISSUER: &str = "orrery";

/// Reads the tokens that the configured keys have signed.
pub(super) struct Tokens {
    keys: Vec<VerifyingKey>,
    fetched: Option<Jwks>,
    rules: Rules,
}

/// What a token must say.
pub(super) struct Rules {
    issuer: String,
    audience: String,
    leeway: u64,
    without_nbf: bool,
}

/// Why a token names nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is not valid, or not now.
    Invalid,
    /// The keys to check it with cannot be had.
    NoKeys,
}

/// What of a token is read.
#[derive(Debug, Deserialize)]
struct Claims {
    sub: String,
    /// One issuer: the library would take a list of them as well.
    #[serde(rename = "iss")]
    _iss: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(alias = "tenant_id", alias = "tenantId")]
    tenant: Uuid,
    #[serde(default)]
    permissions: Option<Vec<String>>,
    #[serde(default)]
    roles: Vec<String>,
}

impl Tokens {
    pub(super) fn of(identity: &Identity) -> Result<Self, IdentityError> {
        let mut keys = Vec::new();
        if let Some(secret) = &identity.jwt_secret {
            keys.push(VerifyingKey::secret(secret.as_bytes()));
        }
        for named in &identity.jwt_public_key {
            keys.push(public_key(named)?);
        }
        let unusable = |reason| IdentityError::Jwks { reason };
        let fetched = match identity.jwks.as_deref().map(str::trim).filter(|source| !source.is_empty()) {
            Some(url) if url.contains("://") => Some(Jwks::url(url).map_err(unusable)?),
            Some(path) => Some(Jwks::file(PathBuf::from(path)).map_err(unusable)?),
            None => None,
        };
        let rules = Rules {
            issuer: identity.jwt_issuer.clone().unwrap_or_else(|| DEFAULT_ISSUER.to_owned()),
            audience: identity.jwt_audience.clone(),
            leeway: identity.jwt_leeway_seconds,
            without_nbf: identity.jwt_without_nbf,
        };
        Ok(Self { keys, fetched, rules })
    }

    /// Who calls with a token.
    pub(super) async fn principal(&self, token: &str) -> Result<Principal, Refused> {
        let header = decode_header(token).map_err(|_| Refused::Invalid)?;
        if token.len() > MOST || !is_plain(token) {
            return Err(Refused::Invalid);
        }
        let (kid, algorithm) = (header.kid.as_deref(), header.alg);
        let check = |keys: &[VerifyingKey]| {
            let fitting = keys.iter().filter(|key| key.fits(kid, algorithm));
            fitting.filter_map(|key| self.claims(token, key)).next()
        };
        if let Some(claims) = check(&self.keys) {
            return Ok(principal(claims));
        }
        let Some(fetched) = &self.fetched else { return Err(Refused::Invalid) };
        let keys = fetched.keys(kid).await.map_err(|_| Refused::NoKeys)?;
        check(&keys).map(principal).ok_or(Refused::Invalid)
    }

    fn claims(&self, token: &str, key: &VerifyingKey) -> Option<Claims> {
        match decode::<Claims>(token, &key.key, &self.rules.validation(key.algorithm)) {
            Ok(token) => Some(token.claims),
            Err(error) => {
                // Its own words only: no part of the token.
                tracing::debug!(reason = %error, "a token was refused");
                None
            }
        }
    }
}

impl Rules {
    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        let mut required = vec!["exp", "iss", "aud", "sub"];
        if !self.without_nbf {
            required.push("nbf");
        }
        validation.set_required_spec_claims(&required);
        validation.validate_nbf = true;
        validation.leeway = self.leeway;
        validation.set_audience(&[&self.audience]);
        validation.set_issuer(&[&self.issuer]);
        validation
    }
}

/// The key that `[KID=]FILE` names.
fn public_key(named: &str) -> Result<VerifyingKey, IdentityError> {
    let (kid, path) = match named.split_once('=') {
        Some((kid, path)) => (Some(kid.to_owned()), PathBuf::from(path)),
        None => (None, PathBuf::from(named)),
    };
    let pem = std::fs::read(&path).map_err(|source| IdentityError::UnreadableKey { path: path.clone(), source })?;
    key::of_pem(kid, &pem).map_err(|reason| IdentityError::NoPublicKey { path, reason })
}

/// Whether a token is one for calling with, and demands no extensions that its reader must understand: this one understands none (RFC 7515,
/// 4.1.11). Tokens of other types, such as those that tell of a logout, are signed with the same keys (RFC 8725, 3.11).
fn is_plain(token: &str) -> bool {
    #[derive(Deserialize)]
    struct Header {
        typ: Option<String>,
        crit: Option<serde_json::Value>,
    }
    let header = token.split('.').next().and_then(|header| URL_SAFE_NO_PAD.decode(header).ok()).unwrap_or_default();
    let Ok(header) = serde_json::from_slice::<Header>(&header) else { return false };
    let typ = header.typ.unwrap_or_else(|| "JWT".to_owned()).to_lowercase();
    header.crit.is_none() && matches!(typ.as_str(), "jwt" | "at+jwt" | "application/at+jwt")
}

fn principal(claims: Claims) -> Principal {
    Principal {
        kind: Kind::User,
        tenant_id: Some(claims.tenant),
        subject: subject(&claims.sub),
        name: claims.name.unwrap_or(claims.sub),
        permissions: grants::permissions(claims.permissions, &claims.roles),
        tagged: Vec::new(),
        roles: claims.roles,
    }
}

/// Subjects are stored as UUIDs; any other name has one that is derived from it, always the same.
pub(super) fn subject(sub: &str) -> Uuid {
    Uuid::try_parse(sub).unwrap_or_else(|_| {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&Sha256::digest(sub.as_bytes())[..16]);
        Uuid::new_v8(bytes)
    })
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
