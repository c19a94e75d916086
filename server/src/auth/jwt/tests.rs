use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::*;

const SECRET: &str = "q3v8Zk1mPw5Tn7Yc2Rb9Lx4Jd6Hf0Gs8Aa";

fn tokens(issuer: Option<&str>) -> Tokens {
    Tokens::of(&Identity {
        jwt_secret: Some(SECRET.into()),
        jwt_public_key: None,
        jwt_issuer: issuer.map(Into::into),
        jwt_audience: "orrery".into(),
    })
    .unwrap()
}

fn signed(algorithm: Algorithm, secret: &str, claims: &Value) -> String {
    encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

fn claims(change: impl FnOnce(&mut Value)) -> Value {
    let now = chrono::Utc::now().timestamp();
    let mut claims = json!({"sub": "anna", "aud": "orrery", "exp": now + 60, "name": "Anna"});
    change(&mut claims);
    claims
}

#[test]
fn a_token_names_its_caller() {
    let tenant = Uuid::from_u128(9);
    let token = signed(Algorithm::HS256, SECRET, &claims(|c| c["tenant"] = json!(tenant)));
    let principal = tokens(None).principal(&token).unwrap();
    assert_eq!(principal.tenant_id, Some(tenant));
    assert_eq!(principal.name, "Anna");
    assert_eq!(principal.permissions, Permissions::All);
    assert_eq!(principal.subject, subject("anna"));
    assert_eq!(principal.subject.get_version_num(), 8);
    assert_eq!(subject(&tenant.to_string()), tenant);
}

#[test]
fn permissions_and_roles_bound_it() {
    let of = |change: fn(&mut Value)| {
        tokens(None).principal(&signed(Algorithm::HS256, SECRET, &claims(change))).unwrap().permissions
    };
    assert_eq!(of(|c| c["permissions"] = json!(["jobs:read"])), Permissions::Only(vec!["jobs:read".into()]));
    assert_eq!(of(|c| c["permissions"] = json!(["*"])), Permissions::All);
    assert_eq!(of(|c| c["roles"] = json!(["admin"])), Permissions::All);
    assert_eq!(of(|c| c["roles"] = json!(["guest"])), Permissions::Only(vec![]));
}

#[test]
fn what_is_not_valid_names_nobody() {
    let now = chrono::Utc::now().timestamp();
    let refused = |token: &str| assert!(tokens(None).principal(token).is_none(), "{token}");
    refused(&signed(Algorithm::HS256, "another secret of 32 bytes or more", &claims(|_| {})));
    refused(&signed(Algorithm::HS512, SECRET, &claims(|_| {})));
    refused(&signed(Algorithm::HS256, SECRET, &claims(|c| c["exp"] = json!(now - 120))));
    refused(&signed(Algorithm::HS256, SECRET, &claims(|c| c["nbf"] = json!(now + 120))));
    refused(&signed(Algorithm::HS256, SECRET, &claims(|c| c["aud"] = json!("others"))));
    for missing in ["exp", "aud", "sub"] {
        let token = signed(Algorithm::HS256, SECRET, &claims(|c| drop(c.as_object_mut().unwrap().remove(missing))));
        refused(&token);
    }
    // No algorithm at all.
    refused("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbm5hIiwiYXVkIjoib3JyZXJ5IiwiZXhwIjo0MTAyNDQ0ODAwfQ.");
    refused("x");
    let token = signed(Algorithm::HS256, SECRET, &claims(|_| {}));
    assert!(tokens(Some("https://issuer")).principal(&token).is_none());
    let token = signed(Algorithm::HS256, SECRET, &claims(|c| c["iss"] = json!("https://issuer")));
    assert!(tokens(Some("https://issuer")).principal(&token).is_some());
}

#[test]
fn a_token_with_extensions_is_refused() {
    let claims = claims(|_| {});
    let by_hand = |header: Value| {
        let text = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let message = format!("{}.{}", text(&header), text(&claims));
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
        tokens(None).principal(&format!("{message}.{signature}"))
    };
    assert!(by_hand(json!({"alg": "HS256"})).is_some());
    assert!(by_hand(json!({"alg": "HS256", "crit": ["exp"]})).is_none());
    assert!(by_hand(json!({"alg": "HS256", "b64": false, "crit": ["b64"]})).is_none());
}
