use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

/// The secret that the servers of the tests share.
pub(crate) const SECRET: &str = "k7Qx2mVz9Lw4Rt8Yp3Nb6Jd1Hs5Gf0Uc-for-the-tests";

/// The default tenant.
const TENANT: &str = "00000000-0000-0000-0000-000000000001";

/// A token of the default tenant that may do everything.
pub(crate) fn token() -> String {
    token_of(TENANT)
}

/// A token of a tenant that may do everything.
pub(crate) fn token_of(tenant: &str) -> String {
    signed(SECRET, &claims(tenant, "orrery", chrono::Utc::now().timestamp() + 10 * 3600))
}

/// What such a token says. It is good where a clock is an hour off, too.
pub(crate) fn claims(tenant: &str, audience: &str, expiry: i64) -> serde_json::Value {
    let nbf = chrono::Utc::now().timestamp() - 2 * 3600;
    json!({
        "sub": "tester", "iss": "orrery", "aud": audience, "nbf": nbf, "exp": expiry, "tenant": tenant, "permissions": ["*"]
    })
}

pub(crate) fn signed(secret: &str, claims: &serde_json::Value) -> String {
    encode(&Header::default(), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}
