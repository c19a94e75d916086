//! Public keys of token signers. Each key has one algorithm, which is that of its type, whatever a token says of itself (RFC 8725, 3.1).

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;

/// The most keys of a set.
const MOST: usize = 64;
/// The fewest bytes of an RSA modulus: 2048 bits (RFC 7518, 3.3).
const RSA_BYTES: usize = 256;
/// A point of P-256 as SEC 1 writes it without compression.
const P256_BYTES: usize = 65;

/// A key that tokens are checked with.
#[derive(Clone)]
pub(super) struct VerifyingKey {
    /// `None`: it may be meant by tokens of any id.
    pub(super) kid: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

impl VerifyingKey {
    /// A shared secret: HS256.
    pub(super) fn secret(secret: &[u8]) -> Self {
        Self { kid: None, algorithm: Algorithm::HS256, key: DecodingKey::from_secret(secret) }
    }

    /// Whether it may have signed a token that says this of itself.
    pub(super) fn fits(&self, kid: Option<&str>, algorithm: Algorithm) -> bool {
        self.algorithm == algorithm && (kid.is_none() || self.kid.is_none() || self.kid.as_deref() == kid)
    }
}

/// A public key in PEM form: RSA (RS256), P-256 (ES256) or Ed25519 (EdDSA).
///
/// # Errors
/// What is wrong with it.
pub(super) fn of_pem(kid: Option<String>, pem: &[u8]) -> Result<VerifyingKey, &'static str> {
    if String::from_utf8_lossy(pem).contains("PRIVATE KEY") {
        return Err("holds a private key; give the public one, which is enough to check tokens");
    }
    let bytes = |key: &DecodingKey| key.try_get_as_bytes().map_or(0, <[u8]>::len);
    if let Ok(key) = DecodingKey::from_rsa_pem(pem) {
        // As DER, a little longer than its modulus.
        return if bytes(&key) > RSA_BYTES {
            Ok(VerifyingKey { kid, algorithm: Algorithm::RS256, key })
        } else {
            Err("holds an RSA key of less than 2048 bits")
        };
    }
    if let Ok(key) = DecodingKey::from_ec_pem(pem) {
        return if bytes(&key) == P256_BYTES {
            Ok(VerifyingKey { kid, algorithm: Algorithm::ES256, key })
        } else {
            Err("holds a key of another curve than P-256")
        };
    }
    match DecodingKey::from_ed_pem(pem) {
        Ok(key) => Ok(VerifyingKey { kid, algorithm: Algorithm::EdDSA, key }),
        Err(_) => Err("holds no public key in PEM form: RSA, P-256 or Ed25519"),
    }
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

/// The keys of a JWK set (RFC 7517) that may sign tokens for us. What is of another kind or use is passed over, as are symmetric keys: a
/// secret has no place in a document that is handed out.
///
/// # Errors
/// Where it is no JWK set, or no key of it is left.
pub(super) fn of_set(json: &[u8]) -> Result<Vec<VerifyingKey>, &'static str> {
    let set: Set = serde_json::from_slice(json).map_err(|_| "is no JWK set")?;
    if set.keys.len() > MOST {
        return Err("has more than 64 keys");
    }
    let keys: Vec<VerifyingKey> = set
        .keys
        .into_iter()
        .filter_map(|key| serde_json::from_value::<Jwk>(key).ok())
        .filter_map(|jwk| of_jwk(&jwk))
        .collect();
    if keys.is_empty() { Err("has no key for RS256, ES256 or EdDSA") } else { Ok(keys) }
}

fn of_jwk(jwk: &Jwk) -> Option<VerifyingKey> {
    let common = &jwk.common;
    let is_for_signing = common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature)
        && common.key_operations.as_ref().is_none_or(|operations| operations.contains(&KeyOperations::Verify));
    let (algorithm, named) = match &jwk.algorithm {
        AlgorithmParameters::RSA(rsa) if modulus_bytes(&rsa.n) >= RSA_BYTES => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(okp) if okp.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        _ => return None,
    };
    if !is_for_signing || common.key_algorithm.is_some_and(|stated| stated != named) {
        return None;
    }
    let key = DecodingKey::from_jwk(jwk).ok()?;
    Some(VerifyingKey { kid: common.key_id.clone(), algorithm, key })
}

/// Three bytes in four characters, without padding.
fn modulus_bytes(base64: &str) -> usize {
    base64.trim_start_matches('A').len() * 3 / 4
}
