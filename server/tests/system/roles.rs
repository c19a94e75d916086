//! What somebody may do is known for seconds at each coordinator, and no longer.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::engine::Engine;
use crate::rest::Rest;
use crate::wait::{SOON, until_true};
use crate::world::World;

const USERS: &str = "/api/v1/auth/users";
const PASSWORD: &str = "correct horse battery staple";

/// How long something that has changed elsewhere may go unnoticed.
const KNOWN: Duration = Duration::from_secs(10);

/// Between two calls.
const PAUSE: Duration = Duration::from_millis(50);

/// A user with these roles, by its id, and as it calls another coordinator, which knows from then on what it may.
async fn reader(admin: &Rest, elsewhere: &Rest, name: &str, roles: &[&str]) -> (String, Rest) {
    let user = json!({"name": name, "password": PASSWORD, "roles": roles}).to_string();
    let user = admin.call(Method::POST, USERS, Some(user)).await.ok();
    let signed = elsewhere.at("/api/v1/auth/login", &json!({"name": name, "password": PASSWORD})).await;
    let signed: Value = serde_json::from_str(&signed).unwrap();
    (user["id"].as_str().unwrap().to_owned(), elsewhere.with(signed["accessToken"].as_str()))
}

/// No call that begins so long after the change is let pass.
async fn is_shut_out(name: &str, who: &Rest, changed: Instant) {
    loop {
        let begun = Instant::now();
        let answer = who.get("/jobs").await;
        if answer.status != 200 {
            answer.refused(403, "PERMISSION_DENIED");
            return;
        }
        let since = begun.saturating_duration_since(changed);
        assert!(since < KNOWN, "{name} is let pass {since:?} after the role was taken away");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether it was one of the user's own, was bound to it, or allows less from now on.
#[tokio::test]
async fn a_role_that_is_taken_away_counts_at_every_coordinator() {
    let world = World::new(Engine::Postgres).await;
    let (first, second) = (world.server(&[]).await, world.server(&[]).await);
    let (admin, elsewhere) = (first.rest(), second.rest());
    for name in ["reader", "narrowed"] {
        admin.post("/roles", json!({"name": name, "permissions": ["jobs:read"]})).await.ok();
    }
    let (anna, as_anna) = reader(&admin, &elsewhere, "anna", &["reader"]).await;
    let (bert, as_bert) = reader(&admin, &elsewhere, "bert", &[]).await;
    let (_, as_cleo) = reader(&admin, &elsewhere, "cleo", &["narrowed"]).await;
    let binding = json!({"role": "reader", "principalKind": "user", "principalId": bert});
    let binding = admin.post("/role-bindings", binding).await.ok();
    for who in [&as_anna, &as_bert, &as_cleo] {
        until_true("the other coordinator lets them read", SOON, async || who.get("/jobs").await.status == 200).await;
    }

    let fewer = json!({"displayName": "Anna", "roles": []}).to_string();
    admin.call(Method::PUT, &format!("{USERS}/{anna}"), Some(fewer)).await.ok();
    admin.delete(&format!("/role-bindings/{}", binding["id"].as_str().unwrap())).await.ok();
    admin.put("/roles/narrowed", json!({"permissions": ["logs:read"]})).await.ok();
    let changed = Instant::now();
    tokio::join!(
        is_shut_out("anna", &as_anna, changed),
        is_shut_out("bert", &as_bert, changed),
        is_shut_out("cleo", &as_cleo, changed)
    );
    // It is the roles: they are signed in as before.
    for who in [&as_anna, &as_bert, &as_cleo] {
        who.call(Method::GET, "/api/v1/auth/me", None).await.ok();
    }
}
