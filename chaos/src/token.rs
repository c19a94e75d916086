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
    let claims = json!({"sub": "chaos", "aud": "orrery", "exp": Utc::now().timestamp() + 86_400});
    encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes()))
        .map_err(|error| world(format!("signing a token: {error}")))
}
