use chrono::Utc;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

use crate::error::{Result, world};

/// The secret that the coordinators share.
pub const SECRET: &str = "Vq3Lx8Tz1Rb6Ny4Kc9Wd2Hf7Mj5Gp0Sa-of-the-harness";

/// A token of the default tenant that may do everything, also where a clock is an hour off.
///
/// # Errors
/// Where it cannot be signed.
pub fn token() -> Result<String> {
    let now = Utc::now().timestamp();
    let claims = json!({
        "sub": "chaos", "iss": "orrery", "aud": "orrery", "nbf": now - 7200, "exp": now + 86_400,
        "tenant": "00000000-0000-0000-0000-000000000001", "permissions": ["*"]
    });
    encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes()))
        .map_err(|error| world(format!("signing a token: {error}")))
}
