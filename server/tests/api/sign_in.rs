//! Logging in, refreshing and logging out, and the people who do.

use orrery_server::auth::DEFAULT_TENANT;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::world::{Answer, JOBS, World, limits};

const AUTH: &str = "/api/v1/auth";
const USERS: &str = "/api/v1/auth/users";
const PASSWORD: &str = "correct horse battery staple";

/// A server that knows its callers, and a key of an administrator of the default tenant for it.
async fn world() -> World {
    World::with(false, limits()).await.with_key(Some(DEFAULT_TENANT), &["*"]).await
}

async fn user(world: &World, name: &str, roles: &[&str]) -> Value {
    world.post(USERS, json!({"name": name, "password": PASSWORD, "roles": roles})).await.ok()
}

/// A call without the world's key, with a token if there is one.
async fn call(world: &World, token: Option<&Value>, method: &str, path: &str, body: Value) -> Answer {
    let mut request = world.client.request(method.parse().unwrap(), world.url(path));
    if let Some(token) = token {
        request = request.bearer_auth(token.as_str().unwrap());
    }
    let request = if method == "GET" { request } else { request.body(body.to_string()) };
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Answer { status, headers, text: response.text().await.unwrap() }
}

async fn post(world: &World, path: &str, body: Value) -> Answer {
    call(world, None, "POST", &format!("{AUTH}{path}"), body).await
}

async fn login(world: &World, name: &str, password: &str) -> Answer {
    post(world, "/login", json!({"name": name, "password": password})).await
}

async fn refresh(world: &World, token: &Value) -> Answer {
    post(world, "/refresh", json!({"refreshToken": token})).await
}

async fn me(world: &World, token: &Value) -> Answer {
    call(world, Some(token), "GET", &format!("{AUTH}/me"), Value::Null).await
}

#[tokio::test]
async fn somebody_signs_in_and_works() {
    let world = world().await;
    let anna = user(&world, "Anna@Example.com", &["admin"]).await;
    assert_eq!(anna["name"], "anna@example.com");
    assert!(!anna.to_string().contains("argon2") && anna.get("password").is_none());
    let answer = login(&world, "ANNA@example.com", PASSWORD).await;
    assert_eq!(answer.headers["cache-control"], "no-store");
    let signed = answer.ok();
    assert_eq!((&signed["tokenType"], &signed["expiresIn"]), (&json!("Bearer"), &json!(900)));
    let token = &signed["accessToken"];
    let caller = me(&world, token).await.ok();
    assert_eq!((&caller["id"], &caller["kind"], &caller["roles"]), (&anna["id"], &json!("user"), &json!(["admin"])));
    assert_eq!(caller["tenantId"], DEFAULT_TENANT.to_string());
    call(&world, Some(token), "GET", JOBS, Value::Null).await.ok();
    assert!(world.get(&format!("{USERS}/{}", anna["id"].as_str().unwrap())).await.ok()["lastLoginAt"].is_string());
}

#[tokio::test]
async fn whoever_cannot_sign_in_learns_nothing_of_why() {
    let world = world().await;
    let anna = user(&world, "anna", &[]).await;
    user(&world, "bert", &[]).await;
    world.post(&format!("{USERS}/{}/disable", anna["id"].as_str().unwrap()), json!({})).await.ok();
    let mut answers = Vec::new();
    for (name, password) in [("anna", PASSWORD), ("bert", "wrong password"), ("nobody", PASSWORD), ("bert", " ")] {
        let error = login(&world, name, password).await.refused(401, "WRONG_CREDENTIALS");
        answers.push(error["message"].clone());
    }
    answers.dedup();
    assert_eq!(answers.len(), 1);
    let elsewhere = json!({"name": "bert", "password": PASSWORD, "tenantId": Uuid::from_u128(5)});
    post(&world, "/login", elsewhere).await.refused(401, "WRONG_CREDENTIALS");
    login(&world, "bert", PASSWORD).await.ok();
}

#[tokio::test]
async fn a_refresh_token_that_comes_again_ends_the_session() {
    let world = world().await;
    user(&world, "anna", &[]).await;
    let first = login(&world, "anna", PASSWORD).await.ok();
    let other = login(&world, "anna", PASSWORD).await.ok();
    let second = refresh(&world, &first["refreshToken"]).await.ok();
    assert_ne!(second["refreshToken"], first["refreshToken"]);
    me(&world, &second["accessToken"]).await.ok();
    refresh(&world, &first["refreshToken"]).await.refused(401, "REFRESH_TOKEN_REUSED");
    // Neither the thief nor the owner goes on, whoever was who.
    for token in [&second["refreshToken"], &first["refreshToken"]] {
        assert_eq!(refresh(&world, token).await.status, 401);
    }
    for token in [&first["accessToken"], &second["accessToken"]] {
        me(&world, token).await.refused(401, "UNAUTHENTICATED");
    }
    me(&world, &other["accessToken"]).await.ok();
    refresh(&world, &json!("orr_made-up")).await.refused(401, "UNKNOWN_REFRESH_TOKEN");
    // One kind of token is no other kind.
    me(&world, &other["refreshToken"]).await.refused(401, "UNAUTHENTICATED");
    refresh(&world, &other["accessToken"]).await.refused(401, "UNKNOWN_REFRESH_TOKEN");
}

#[tokio::test]
async fn logging_out_ends_the_session_at_once() {
    let world = world().await;
    user(&world, "anna", &[]).await;
    let signed = login(&world, "anna", PASSWORD).await.ok();
    me(&world, &signed["accessToken"]).await.ok();
    for _ in 0..2 {
        post(&world, "/logout", json!({"refreshToken": signed["refreshToken"]})).await.ok();
    }
    me(&world, &signed["accessToken"]).await.refused(401, "UNAUTHENTICATED");
    refresh(&world, &signed["refreshToken"]).await.refused(401, "UNKNOWN_REFRESH_TOKEN");
}

#[tokio::test]
async fn what_is_changed_of_a_user_counts_in_sessions_that_live() {
    let world = world().await;
    let anna = user(&world, "anna", &["admin"]).await;
    let path = format!("{USERS}/{}", anna["id"].as_str().unwrap());
    let signed = login(&world, "anna", PASSWORD).await.ok();
    let token = &signed["accessToken"];
    call(&world, Some(token), "GET", JOBS, Value::Null).await.ok();
    world.put(&path, json!({"displayName": "Anna", "roles": []})).await.ok();
    call(&world, Some(token), "GET", JOBS, Value::Null).await.refused(403, "PERMISSION_DENIED");
    assert_eq!(me(&world, token).await.ok()["permissions"], json!([]));
    world.post(&format!("{path}/disable"), json!({})).await.ok();
    me(&world, token).await.refused(401, "UNAUTHENTICATED");
    assert_eq!(world.post(&format!("{path}/enable"), json!({})).await.ok()["disabled"], false);
    me(&world, token).await.refused(401, "UNAUTHENTICATED");
    login(&world, "anna", PASSWORD).await.ok();
}

#[tokio::test]
async fn a_new_password_ends_the_sessions_of_the_old_one() {
    let world = world().await;
    let anna = user(&world, "anna", &[]).await;
    let (mine, stolen) = (login(&world, "anna", PASSWORD).await.ok(), login(&world, "anna", PASSWORD).await.ok());
    let change = async |current: &str, new: &str| {
        let body = json!({"currentPassword": current, "newPassword": new});
        call(&world, Some(&mine["accessToken"]), "POST", &format!("{AUTH}/password"), body).await
    };
    change("wrong", "another good password").await.refused(403, "WRONG_CREDENTIALS");
    change(PASSWORD, "short").await.refused(400, "INVALID_PASSWORD");
    let changed = change(PASSWORD, "another good password").await.ok();
    me(&world, &changed["accessToken"]).await.ok();
    for old in [&mine, &stolen] {
        me(&world, &old["accessToken"]).await.refused(401, "UNAUTHENTICATED");
        refresh(&world, &old["refreshToken"]).await.refused(401, "UNKNOWN_REFRESH_TOKEN");
    }
    login(&world, "anna", PASSWORD).await.refused(401, "WRONG_CREDENTIALS");
    // An administrator gives another one.
    let path = format!("{USERS}/{}/password", anna["id"].as_str().unwrap());
    world.post(&path, json!({"password": "a third good password"})).await.ok();
    me(&world, &changed["accessToken"]).await.refused(401, "UNAUTHENTICATED");
    login(&world, "anna", "a third good password").await.ok();
    // A key has no password to change.
    let body = json!({"currentPassword": PASSWORD, "newPassword": "another good password"});
    world.post(&format!("{AUTH}/password"), body).await.refused(403, "WRONG_CREDENTIALS");
}

#[tokio::test]
async fn users_are_their_tenants_and_bad_ones_are_refused() {
    let world = world().await;
    let anna = user(&world, "anna", &[]).await;
    for (body, code) in [
        (json!({"name": "a b", "password": PASSWORD}), "INVALID_NAME"),
        (json!({"password": PASSWORD}), "INVALID_NAME"),
        (json!({"name": "c", "password": "short"}), "INVALID_PASSWORD"),
        (json!({"name": "c"}), "INVALID_PASSWORD"),
        (json!({"name": "c", "password": PASSWORD, "displayName": "a\nb"}), "INVALID_NAME"),
        (json!({"name": "c", "password": PASSWORD, "roles": [""]}), "INVALID_ROLE"),
    ] {
        world.post(USERS, body).await.refused(400, code);
    }
    world.post(USERS, json!({"name": "ANNA", "password": PASSWORD})).await.refused(409, "USER_NAME_TAKEN");
    let page = world.get(&format!("{USERS}?pageSize=1")).await.ok();
    assert_eq!((page["users"].as_array().unwrap().len(), &page["nextPageToken"]), (1, &json!("")));

    let path = format!("{USERS}/{}", anna["id"].as_str().unwrap());
    let other = world.with_key(Some(Uuid::from_u128(77)), &["*"]).await;
    assert_eq!(other.get(USERS).await.ok()["users"], json!([]));
    other.get(&path).await.refused(404, "USER_NOT_FOUND");
    other.put(&path, json!({})).await.refused(404, "USER_NOT_FOUND");
    for (verb, body) in [("disable", json!({})), ("enable", json!({})), ("password", json!({"password": PASSWORD}))] {
        other.post(&format!("{path}/{verb}"), body).await.refused(404, "USER_NOT_FOUND");
    }
    user(&other, "anna", &[]).await;
}

#[tokio::test]
async fn nobody_makes_somebody_who_may_more() {
    let admin = world().await;
    let boss = user(&admin, "boss", &["admin"]).await;
    let some = admin.with_key(Some(DEFAULT_TENANT), &["users:write", "users:read"]).await;
    let body = json!({"name": "x", "password": PASSWORD, "roles": ["admin"]});
    some.post(USERS, body).await.refused(403, "PERMISSION_DENIED");
    // Nor becomes them by setting their password, or keeps them out.
    let path = format!("{USERS}/{}", boss["id"].as_str().unwrap());
    some.post(&format!("{path}/password"), json!({"password": PASSWORD})).await.refused(403, "PERMISSION_DENIED");
    some.post(&format!("{path}/disable"), json!({})).await.refused(403, "PERMISSION_DENIED");
    some.put(&path, json!({"roles": []})).await.refused(403, "PERMISSION_DENIED");
    user(&some, "plain", &[]).await;
}

/// By account, whether there is one or not: nobody learns which, and nobody tries a list of passwords.
#[tokio::test]
async fn who_guesses_at_a_password_waits() {
    let world = world().await;
    user(&world, "anna", &["viewer"]).await;
    for name in ["anna", "nobody"] {
        for n in 0..6 {
            login(&world, name, &format!("wrong password {n}")).await.refused(401, "WRONG_CREDENTIALS");
        }
        let refused = login(&world, &name.to_uppercase(), PASSWORD).await;
        refused.refused(429, "TOO_MANY_ATTEMPTS");
        assert_eq!(refused.headers["retry-after"], "1");
    }
    user(&world, "berta", &["viewer"]).await;
    login(&world, "berta", PASSWORD).await.ok();
    // Not for ever: the right one is let in as soon as the wait is over.
    let began = std::time::Instant::now();
    loop {
        let answer = login(&world, "anna", PASSWORD).await;
        if answer.status == 200 {
            break;
        }
        answer.refused(429, "TOO_MANY_ATTEMPTS");
        assert!(began.elapsed() < std::time::Duration::from_secs(30));
    }
}

/// An open session that somebody has found does not tell its owner's password.
#[tokio::test]
async fn a_session_does_not_give_the_password_away() {
    let world = world().await;
    user(&world, "anna", &["viewer"]).await;
    let token = login(&world, "anna", PASSWORD).await.ok()["accessToken"].clone();
    let guess = |password: String| {
        let body = json!({"currentPassword": password, "newPassword": "another long enough one"});
        let (world, token) = (&world, &token);
        async move { call(world, Some(token), "POST", &format!("{AUTH}/password"), body).await }
    };
    for n in 0..6 {
        guess(format!("wrong password {n}")).await.refused(403, "WRONG_CREDENTIALS");
    }
    guess(PASSWORD.to_owned()).await.refused(429, "TOO_MANY_ATTEMPTS");
}
