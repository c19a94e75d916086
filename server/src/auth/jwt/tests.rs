//! Which tokens name somebody. The keys in `keys/` are the tests' own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::routing::get;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::*;
use crate::auth::Permissions;

const SECRET: &str = "q3v8Zk1mPw5Tn7Yc2Rb9Lx4Jd6Hf0Gs8Aa";
const TENANT: Uuid = Uuid::from_u128(9);
const ISSUER: &str = "https://idp.example";
const RSA: &[u8] = include_bytes!("keys/rsa.pem");
const RSA_PUBLIC: &[u8] = include_bytes!("keys/rsa.pub.pem");
const EC: &[u8] = include_bytes!("keys/ec.pem");
const ED: &[u8] = include_bytes!("keys/ed.pem");
const JWKS: &str = include_str!("keys/jwks.json");

fn by_secret() -> Tokens {
    Tokens::of(&Identity { jwt_secret: Some(SECRET.into()), ..Identity::default() }).unwrap()
}

fn file(name: &str) -> String {
    format!("{}/src/auth/jwt/keys/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn by_files(files: &[&str]) -> Result<Tokens, IdentityError> {
    let jwt_public_key = files.iter().map(|name| match name.split_once('=') {
        Some((kid, name)) => format!("{kid}={}", file(name)),
        None => file(name),
    });
    let issuer = Some(ISSUER.to_owned());
    Tokens::of(&Identity { jwt_public_key: jwt_public_key.collect(), jwt_issuer: issuer, ..Identity::default() })
}

fn by_set(source: &str) -> Result<Tokens, IdentityError> {
    let issuer = Some(ISSUER.to_owned());
    Tokens::of(&Identity { jwks: Some(source.to_owned()), jwt_issuer: issuer, ..Identity::default() })
}

fn claims(issuer: &str, change: impl FnOnce(&mut Value)) -> Value {
    let now = chrono::Utc::now().timestamp();
    let mut claims = json!({
        "sub": "anna", "iss": issuer, "aud": "orrery", "nbf": now - 5, "exp": now + 60, "name": "Anna", "tenant": TENANT,
        "permissions": ["jobs:read"]
    });
    change(&mut claims);
    claims
}

fn signed(algorithm: Algorithm, kid: Option<&str>, key: &EncodingKey, claims: &Value) -> String {
    let header = Header { kid: kid.map(Into::into), ..Header::new(algorithm) };
    encode(&header, claims, key).unwrap()
}

fn by_hs256(claims: &Value) -> String {
    signed(Algorithm::HS256, None, &EncodingKey::from_secret(SECRET.as_bytes()), claims)
}

fn ours(change: impl FnOnce(&mut Value)) -> String {
    by_hs256(&claims("orrery", change))
}

/// Tokens of the provider by each of its keys, with these ids.
fn theirs(kids: [Option<&str>; 3]) -> [String; 3] {
    let claims = claims(ISSUER, |_| {});
    [
        signed(Algorithm::RS256, kids[0], &EncodingKey::from_rsa_pem(RSA).unwrap(), &claims),
        signed(Algorithm::ES256, kids[1], &EncodingKey::from_ec_pem(EC).unwrap(), &claims),
        signed(Algorithm::EdDSA, kids[2], &EncodingKey::from_ed_pem(ED).unwrap(), &claims),
    ]
}

const KIDS: [Option<&str>; 3] = [Some("rsa-1"), Some("ec-1"), Some("ed-1")];

#[tokio::test]
async fn a_token_names_its_caller() {
    let principal = by_secret().principal(&ours(|_| {})).await.unwrap();
    assert_eq!((principal.tenant_id, principal.name.as_str()), (Some(TENANT), "Anna"));
    assert_eq!(principal.permissions, Permissions::Only(vec!["jobs:read".into()]));
    assert_eq!(principal.subject, subject("anna"));
    assert_eq!(principal.subject.get_version_num(), 8);
    assert_eq!(subject(&TENANT.to_string()), TENANT);
}

#[tokio::test]
async fn who_names_no_permission_has_none_and_who_names_no_tenant_is_nobody() {
    let tokens = by_secret();
    let of = async |change: fn(&mut Value)| tokens.principal(&ours(change)).await.map(|found| found.permissions);
    let nothing = |c: &mut Value| drop(c.as_object_mut().unwrap().remove("permissions"));
    assert_eq!(of(nothing).await, Ok(Permissions::Only(vec![])));
    assert_eq!(of(|c| c["permissions"] = json!([])).await, Ok(Permissions::Only(vec![])));
    assert_eq!(of(|c| c["permissions"] = json!(["*"])).await, Ok(Permissions::All));
    assert_eq!(of(|c| c["roles"] = json!(["admin"])).await, Ok(Permissions::All));
    assert_eq!(of(|c| c["roles"] = json!(["guest"])).await, Ok(Permissions::Only(vec!["jobs:read".into()])));
    assert_eq!(of(|c| drop(c.as_object_mut().unwrap().remove("tenant"))).await, Err(Refused::Invalid));
    assert_eq!(of(|c| c["tenant"] = json!("acme")).await, Err(Refused::Invalid));
}

#[tokio::test]
async fn what_is_not_valid_names_nobody() {
    let now = chrono::Utc::now().timestamp();
    let tokens = by_secret();
    let refused = async |why: &str, token: &str| {
        assert_eq!(tokens.principal(token).await.err(), Some(Refused::Invalid), "{why}: {token}");
    };
    let other = EncodingKey::from_secret(b"another secret of 32 bytes or more");
    refused("signature", &signed(Algorithm::HS256, None, &other, &claims("orrery", |_| {}))).await;
    let same = EncodingKey::from_secret(SECRET.as_bytes());
    refused("algorithm", &signed(Algorithm::HS512, None, &same, &claims("orrery", |_| {}))).await;
    for (name, value) in [
        ("exp", json!(now - 120)),
        ("exp", json!((now + 60).to_string())),
        ("exp", json!(null)),
        ("exp", json!(-1)),
        ("nbf", json!(now + 120)),
        ("nbf", json!("0")),
        ("aud", json!("others")),
        ("aud", json!([])),
        ("aud", json!(["others", "more"])),
        ("aud", json!(5)),
        ("iss", json!("others")),
        ("iss", json!(["orrery"])),
        ("iss", json!("")),
        ("sub", json!(5)),
        ("permissions", json!("*")),
    ] {
        refused(name, &ours(|c| c[name] = value)).await;
    }
    for missing in ["exp", "nbf", "iss", "aud", "sub", "tenant"] {
        refused(missing, &ours(|c| drop(c.as_object_mut().unwrap().remove(missing)))).await;
    }
    let good = ours(|_| {});
    let (message, _) = good.rsplit_once('.').unwrap();
    let (_, payload) = message.split_once('.').unwrap();
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
    for bad in [
        format!("{none}.{payload}."),
        format!("{none}.{payload}"),
        format!("{message}."),
        message.to_owned(),
        "x".into(),
        String::new(),
    ] {
        refused("shape", &bad).await;
    }
    refused("length", &ours(|c| c["name"] = json!("x".repeat(MOST)))).await;
    assert!(tokens.principal(&good).await.is_ok());
    assert!(tokens.principal(&ours(|c| c["aud"] = json!(["others", "orrery"]))).await.is_ok());
}

#[tokio::test]
async fn clocks_may_differ_by_the_leeway_and_no_more() {
    let now = chrono::Utc::now().timestamp();
    let (strict, lenient) = (0, 120);
    let tokens = |leeway| {
        let identity = Identity { jwt_secret: Some(SECRET.into()), jwt_leeway_seconds: leeway, ..Identity::default() };
        Tokens::of(&identity).unwrap()
    };
    for change in
        [|c: &mut Value, now: i64| c["exp"] = json!(now - 60), |c: &mut Value, now: i64| c["nbf"] = json!(now + 60)]
    {
        let token = ours(|c| change(c, now));
        assert!(tokens(lenient).principal(&token).await.is_ok());
        assert!(tokens(strict).principal(&token).await.is_err());
    }
}

#[tokio::test]
async fn a_token_without_nbf_is_taken_only_where_that_is_said() {
    let without = ours(|c| drop(c.as_object_mut().unwrap().remove("nbf")));
    let future = ours(|c| c["nbf"] = json!(chrono::Utc::now().timestamp() + 120));
    let identity = Identity { jwt_secret: Some(SECRET.into()), jwt_without_nbf: true, ..Identity::default() };
    let lenient = Tokens::of(&identity).unwrap();
    assert!(lenient.principal(&without).await.is_ok());
    assert!(lenient.principal(&future).await.is_err());
    assert!(by_secret().principal(&without).await.is_err());
}

#[tokio::test]
async fn a_token_of_another_type_or_with_extensions_is_refused() {
    let claims = claims("orrery", |_| {});
    let tokens = by_secret();
    let by_hand = async |header: Value| {
        let text = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let message = format!("{}.{}", text(&header), text(&claims));
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
        tokens.principal(&format!("{message}.{signature}")).await.is_ok()
    };
    for good in
        [json!({"alg": "HS256"}), json!({"alg": "HS256", "typ": "JWT"}), json!({"alg": "HS256", "typ": "at+jwt"})]
    {
        assert!(by_hand(good.clone()).await, "{good}");
    }
    for bad in [
        json!({"alg": "HS256", "crit": ["exp"]}),
        json!({"alg": "HS256", "b64": false, "crit": ["b64"]}),
        json!({"alg": "HS256", "typ": "logout+jwt"}),
        json!({"alg": "hs256"}),
        json!({"alg": "None"}),
        json!({}),
    ] {
        assert!(!by_hand(bad.clone()).await, "{bad}");
    }
}

#[tokio::test]
async fn each_kind_of_key_checks_its_own_algorithm() {
    let tokens = by_files(&["rsa.pub.pem", "ec.pub.pem", "ed.pub.pem"]).unwrap();
    for token in theirs([None; 3]).into_iter().chain(theirs(KIDS)) {
        assert!(tokens.principal(&token).await.is_ok(), "{token}");
    }
    // Signed by a secret that everybody knows: the public key itself.
    let claims = claims(ISSUER, |_| {});
    for public in [RSA_PUBLIC, include_bytes!("keys/ec.pub.pem"), include_bytes!("keys/ed.pub.pem")] {
        for kid in [None, Some("rsa-1")] {
            let confused = signed(Algorithm::HS256, kid, &EncodingKey::from_secret(public), &claims);
            assert!(tokens.principal(&confused).await.is_err());
        }
    }
    // A sound signature by another algorithm of the same key.
    for algorithm in [Algorithm::RS384, Algorithm::RS512, Algorithm::PS256] {
        let token = signed(algorithm, None, &EncodingKey::from_rsa_pem(RSA).unwrap(), &claims);
        assert!(tokens.principal(&token).await.is_err(), "{algorithm:?}");
    }
    let stranger = EncodingKey::from_rsa_pem(include_bytes!("keys/other_rsa.pem")).unwrap();
    assert!(tokens.principal(&signed(Algorithm::RS256, None, &stranger, &claims)).await.is_err());
    // Of one kind, another kind's tokens are none.
    let only_ec = by_files(&["ec.pub.pem"]).unwrap();
    let [rsa, ec, ed] = theirs([None; 3]);
    assert!(only_ec.principal(&ec).await.is_ok());
    assert!(only_ec.principal(&rsa).await.is_err() && only_ec.principal(&ed).await.is_err());
}

#[tokio::test]
async fn a_key_with_an_id_checks_tokens_of_that_id() {
    let tokens = by_files(&["rsa-1=rsa.pub.pem", "ec-1=ec.pub.pem"]).unwrap();
    let [rsa, ec, _] = theirs(KIDS);
    assert!(tokens.principal(&rsa).await.is_ok() && tokens.principal(&ec).await.is_ok());
    let [other, ..] = theirs([Some("rsa-2"); 3]);
    let [swapped, ..] = theirs([Some("ec-1"); 3]);
    assert_eq!(tokens.principal(&other).await.err(), Some(Refused::Invalid));
    assert_eq!(tokens.principal(&swapped).await.err(), Some(Refused::Invalid));
}

#[test]
fn files_that_hold_no_fit_public_key_are_refused() {
    for (name, why) in [
        ("rsa.pem", "private"),
        ("ed.pem", "private"),
        ("small_rsa.pub.pem", "2048"),
        ("p384.pub.pem", "P-256"),
        ("jwks.json", "no public key"),
        ("nothing.pem", "cannot be read"),
    ] {
        let error = by_files(&[name]).err().unwrap().to_string();
        assert!(error.contains(why) && error.contains(name), "{name}: {error}");
    }
    for (source, why) in
        [(file("rsa.pub.pem"), "JWK"), (file("nothing"), "No such file"), ("http://idp.example".into(), "https")]
    {
        let error = by_set(&source).err().unwrap().to_string();
        assert!(error.contains(why) && error.contains("ORRERY_JWKS"), "{error}");
    }
}

#[tokio::test]
async fn a_set_in_a_file_has_its_fit_keys_only() {
    let tokens = by_set(&file("jwks.json")).unwrap();
    for token in theirs(KIDS).into_iter().chain(theirs([None; 3])) {
        assert!(tokens.principal(&token).await.is_ok(), "{token}");
    }
    let claims = claims(ISSUER, |_| {});
    let rsa = EncodingKey::from_rsa_pem(RSA).unwrap();
    for (algorithm, kid) in [(Algorithm::RS256, "enc-1"), (Algorithm::RS512, "rs512-1"), (Algorithm::RS256, "unknown")]
    {
        assert!(tokens.principal(&signed(algorithm, Some(kid), &rsa, &claims)).await.is_err(), "{kid}");
    }
    let handed_out = EncodingKey::from_secret(b"a secret that is handed out to all");
    assert!(tokens.principal(&signed(Algorithm::HS256, Some("oct-1"), &handed_out, &claims)).await.is_err());
}

/// An identity provider that serves what `answer` says, and counts how often it was asked.
async fn provider(
    answer: impl Fn(usize) -> (u16, String) + Clone + Send + Sync + 'static,
) -> (String, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let serve = move || {
        let (status, body) = answer(counted.fetch_add(1, Ordering::Relaxed));
        async move { (axum::http::StatusCode::from_u16(status).unwrap(), body) }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/jwks", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/jwks", get(serve))).await.unwrap() });
    (url, asked)
}

#[tokio::test]
async fn a_set_at_an_address_is_fetched_once_and_again_for_a_key_that_it_lacks() {
    // The key of the token comes with the second answer: the provider has changed its keys.
    let old = JWKS.replace("ed-1", "ed-0");
    let (url, asked) = provider(move |n| (200, if n == 0 { old.clone() } else { JWKS.to_owned() })).await;
    let tokens = by_set(&url).unwrap();
    let [rsa, _, ed] = theirs(KIDS);
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    for _ in 0..3 {
        assert!(tokens.principal(&rsa).await.is_ok());
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    // Not at once: an id that is made up must not cost a call each time.
    for _ in 0..3 {
        assert_eq!(tokens.principal(&ed).await.err(), Some(Refused::Invalid));
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    tokens.fetched.as_ref().unwrap().a_while_later();
    assert!(tokens.principal(&ed).await.is_ok());
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn where_the_keys_cannot_be_had_nobody_comes_in() {
    let [rsa, ..] = theirs(KIDS);
    for answer in
        [(500, String::new()), (200, "{}".into()), (404, JWKS.into()), (302, JWKS.into()), (200, "x".repeat(300 << 10))]
    {
        let said = answer.clone();
        let (url, asked) = provider(move |_| said.clone()).await;
        let tokens = by_set(&url).unwrap();
        for _ in 0..3 {
            assert_eq!(tokens.principal(&rsa).await.err(), Some(Refused::NoKeys), "{}", answer.0);
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }
    // Nobody listens there.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/jwks", listener.local_addr().unwrap());
    drop(listener);
    assert_eq!(by_set(&url).unwrap().principal(&rsa).await.err(), Some(Refused::NoKeys));
}
