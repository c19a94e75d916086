//! Whatever comes as a token or as a set of keys, nobody comes in by it and nothing breaks.

use futures_util::FutureExt;
use jsonwebtoken::{EncodingKey, Header, encode};
use proptest::prelude::*;
use serde_json::json;

use super::*;

const SECRET: &str = "q3v8Zk1mPw5Tn7Yc2Rb9Lx4Jd6Hf0Gs8Aa";

fn tokens() -> Tokens {
    Tokens::of(&Identity { jwt_secret: Some(SECRET.into()), ..Identity::default() }).unwrap()
}

/// Without keys to fetch nothing is waited for.
fn is_let_in(tokens: &Tokens, token: &str) -> bool {
    tokens.principal(token).now_or_never().unwrap().is_ok()
}

/// JSON as a header has it: known names, and values of any kind.
fn header() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        Just("alg"),
        Just("kid"),
        Just("typ"),
        Just("crit"),
        Just("jwk"),
        Just("jku"),
        Just("x5u"),
        Just("b64")
    ];
    let value = prop_oneof![
        Just(json!("HS256")),
        Just(json!("none")),
        Just(json!(null)),
        Just(json!(["exp"])),
        Just(json!({"kty": "oct", "k": "AA"})),
        any::<String>().prop_map(|text| json!(text)),
        any::<i64>().prop_map(|number| json!(number)),
    ];
    prop::collection::vec((name, value), 0..6).prop_map(|fields| {
        serde_json::Value::Object(fields.into_iter().map(|(n, v)| (n.to_owned(), v)).collect()).to_string()
    })
}

#[test]
fn no_header_opens_without_the_secret() {
    let tokens = tokens();
    proptest!(ProptestConfig::with_cases(3_000), |(header in header(), payload: Vec<u8>, signature: Vec<u8>, text: String)| {
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let token = format!("{}.{}.{}", part(header.as_bytes()), part(&payload), part(&signature));
        prop_assert!(!is_let_in(&tokens, &token));
        prop_assert!(!is_let_in(&tokens, &text));
    });
}

#[test]
fn a_token_that_was_changed_anywhere_is_none() {
    let tokens = tokens();
    let now = chrono::Utc::now().timestamp();
    let claims = json!({
        "sub": "anna", "iss": "orrery", "aud": "orrery", "nbf": now - 60, "exp": now + 600, "tenant": Uuid::from_u128(9)
    });
    let good = encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap();
    assert!(is_let_in(&tokens, &good));
    proptest!(ProptestConfig::with_cases(3_000), |(changes in prop::collection::vec((any::<usize>(), any::<u8>()), 1..4))| {
        let mut changed = good.clone().into_bytes();
        for (place, byte) in changes {
            let place = place % changed.len();
            changed[place] = byte;
        }
        let changed = String::from_utf8_lossy(&changed);
        prop_assert!(changed == good || !is_let_in(&tokens, &changed), "{changed}");
    });
}

#[test]
fn a_set_of_anything_is_read_or_refused() {
    proptest!(ProptestConfig::with_cases(3_000), |(bytes: Vec<u8>, kty in "RSA|EC|OKP|oct|.{0,4}", crv in "P-256|P-384|Ed25519|.{0,4}", n: String, x: String)| {
        let _ = key::of_set(&bytes);
        let _ = key::of_pem(None, &bytes);
        let jwk = json!({"keys": [{"kty": kty, "crv": crv, "n": n, "e": "AQAB", "x": x, "y": x}, n]});
        if let Ok(keys) = key::of_set(jwk.to_string().as_bytes()) {
            prop_assert!(keys.iter().all(|key| key.algorithm != Algorithm::HS256));
        }
    });
}
