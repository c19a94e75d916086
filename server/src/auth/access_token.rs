//! Access tokens of people who signed in here: short, signed by this deployment's own key, and good only while their session is.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use uuid::Uuid;

use super::keyring::{KID, Keyring};
use crate::error::{Error, Kind};

/// Who signs them.
const ISSUER: &str = "orrery/sessions";
/// How far the clocks of coordinators may differ, in seconds.
const LEEWAY: u64 = 30;

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: Uuid,
    /// The session, whose end is the token's.
    sid: Uuid,
    iat: i64,
    nbf: i64,
    exp: i64,
}

/// Signs a token for a session of a user.
///
/// # Errors
/// INTERNAL_ERROR.
pub(super) fn sign(
    keyring: &Keyring,
    audience: &str,
    user: Uuid,
    session: Uuid,
    life: Duration,
) -> Result<String, Error> {
    let failed = || Error::new(Kind::Internal, "INTERNAL_ERROR", "the token could not be signed");
    let (kid, secret) = keyring.signing().ok_or_else(failed)?;
    let now = chrono::Utc::now().timestamp();
    let claims = Claims {
        iss: ISSUER.to_owned(),
        aud: audience.to_owned(),
        sub: user,
        sid: session,
        iat: now,
        nbf: now,
        exp: now.saturating_add_unsigned(life.as_secs()),
    };
    let header = Header { typ: Some("at+jwt".to_owned()), kid: Some(kid), ..Header::new(Algorithm::HS256) };
    encode(&header, &claims, &EncodingKey::from_secret(secret)).map_err(|_| failed())
}

/// Whether a token says that it is one of ours. Whether it is, [`session`] tells.
pub(super) fn is_own(token: &str) -> bool {
    decode_header(token).is_ok_and(|header| header.kid.is_some_and(|kid| kid.starts_with(KID)))
}

/// The user and the session of a token, where we have signed it and it is good now.
pub(super) fn session(keyring: &Keyring, audience: &str, token: &str) -> Option<(Uuid, Uuid)> {
    let header = decode_header(token).ok()?;
    let secret = keyring.signing_of(header.kid.as_deref()?)?;
    let mut validation = Validation::new(Algorithm::HS256);
    validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
    validation.validate_nbf = true;
    validation.leeway = LEEWAY;
    validation.set_issuer(&[ISSUER]);
    validation.set_audience(&[audience]);
    let claims = decode::<Claims>(token, &DecodingKey::from_secret(secret), &validation).ok()?.claims;
    Some((claims.sub, claims.sid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ServerSecret;

    fn keyring(pepper: &str) -> Keyring {
        Keyring::from_settings(&ServerSecret { key_pepper: vec![pepper.into()], key_file: None }, None).unwrap()
    }

    #[test]
    fn only_our_own_are_read() {
        let ours = keyring("q3v8Zk1mPw5Tn7Yc2Rb9Lx4Jd6Hf0Gs8Aa");
        let theirs = keyring("Zx9Lm2Qw7Er4Ty1Ui8Op5As3Df6Gh0JkBb");
        let (user, id) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let signed = |keyring, audience| sign(keyring, audience, user, id, Duration::from_secs(900)).unwrap();
        let token = signed(&ours, "orrery");
        assert!(is_own(&token));
        assert_eq!(session(&ours, "orrery", &token), Some((user, id)));
        assert_eq!(session(&theirs, "orrery", &token), None);
        assert_eq!(session(&ours, "orrery", &signed(&ours, "others")), None);
        let (head, _) = token.rsplit_once('.').unwrap();
        assert_eq!(session(&ours, "orrery", &format!("{head}.")), None);
        // Our id over somebody else's signature.
        let header = Header { kid: decode_header(&token).unwrap().kid, ..Header::new(Algorithm::HS256) };
        let forged = encode(&header, &serde_json::json!({"sub": user}), &EncodingKey::from_secret(b"x")).unwrap();
        assert!(is_own(&forged));
        assert_eq!(session(&ours, "orrery", &forged), None);
    }
}
