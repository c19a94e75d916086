use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

/// The secret that the servers of the tests share.
pub(crate) const SECRET: &str = "k7Qx2mVz9Lw4Rt8Yp3Nb6Jd1Hs5Gf0Uc-for-the-tests";

/// A token of the default tenant that may do everything.
pub(crate) fn token() -> String {
    signed(SECRET, &json!({"sub": "tester", "aud": "orrery", "exp": chrono::Utc::now().timestamp() + 10 * 3600}))
}

/// A token of another tenant that may do everything.
pub(crate) fn token_of(tenant: &str) -> String {
    let expiry = chrono::Utc::now().timestamp() + 3600;
    signed(SECRET, &json!({"sub": "tester", "aud": "orrery", "tenant": tenant, "exp": expiry}))
}

pub(crate) fn signed(secret: &str, claims: &serde_json::Value) -> String {
    encode(&Header::default(), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}
