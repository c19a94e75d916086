//! API keys over the API.

use orrery_server::auth::DEFAULT_TENANT;
use orrery_server::store::{Keys, KeysOf, Page};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::world::{JOBS, World, limits};

const KEYS: &str = "/api/v1/auth/keys";

async fn world() -> World {
    World::with(false, limits()).await.with_key(Some(DEFAULT_TENANT), &["*"]).await
}

async fn opens(world: &World, secret: &Value) -> u16 {
    let request = world.client.get(world.url(JOBS)).bearer_auth(secret.as_str().unwrap());
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_key_is_made_used_listed_and_revoked() {
    let world = world().await;
    let made = world.post(KEYS, json!({"name": "ci", "permissions": ["jobs:read"], "expiresInDays": 30})).await.ok();
    let (secret, key) = (&made["secret"], &made["key"]);
    assert!(secret.as_str().unwrap().starts_with(key["prefix"].as_str().unwrap()));
    assert_eq!(secret.as_str().unwrap().len(), 47);
    assert_eq!(opens(&world, secret).await, 200);
    let listed = world.get(KEYS).await;
    assert!(!listed.text.contains(secret.as_str().unwrap()));
    let listed = listed.ok();
    let found = listed["keys"].as_array().unwrap().iter().find(|found| found["id"] == key["id"]).unwrap();
    assert_eq!((&found["name"], &found["permissions"]), (&json!("ci"), &json!(["jobs:read"])));
    assert!(found["expiresAt"].is_string() && found["revokedAt"].is_null() && found["createdBy"] != "");

    let path = format!("{KEYS}/{}", key["id"].as_str().unwrap());
    assert!(world.delete(&path).await.ok()["revokedAt"].is_string());
    // At once, though it was used a moment ago.
    assert_eq!(opens(&world, secret).await, 401);
    world.delete(&format!("{KEYS}/{}", Uuid::new_v4())).await.refused(404, "KEY_NOT_FOUND");
}

#[tokio::test]
async fn the_store_keeps_nothing_that_opens() {
    let world = world().await;
    let made = world.post(KEYS, json!({"name": "ci", "permissions": ["*"]})).await.ok();
    let stored = world.store.keys(KeysOf::Everybody, &Page { after: None, limit: 10 }).await.unwrap();
    let secret = made["secret"].as_str().unwrap();
    let stored = stored.iter().find(|key| key.id.to_string() == made["key"]["id"]).unwrap();
    assert!(stored.hash.pepper.is_some() && !format!("{stored:?}").contains(secret));
    let sha: [u8; 32] = <sha2::Sha256 as sha2::Digest>::digest(secret.as_bytes()).into();
    assert_ne!(stored.hash.hash, sha);
}

#[tokio::test]
async fn nobody_makes_a_key_that_may_more() {
    let world = world().await;
    for (body, code) in [
        (json!({"permissions": ["*"]}), "INVALID_NAME"),
        (json!({"name": "x"}), "INVALID_PERMISSION"),
        (json!({"name": "x", "permissions": ["jobs:fly"]}), "INVALID_PERMISSION"),
        (json!({"name": "x", "permissions": ["*"], "expiresInDays": 0}), "INVALID_ARGUMENT"),
    ] {
        world.post(KEYS, body).await.refused(400, code);
    }
    let some = world.with_key(Some(DEFAULT_TENANT), &["keys:write", "jobs:read"]).await;
    for more in ["*", "jobs:create"] {
        let body = json!({"name": "x", "permissions": ["jobs:read", more]});
        some.post(KEYS, body).await.refused(403, "PERMISSION_DENIED");
    }
    some.post(KEYS, json!({"name": "x", "permissions": ["jobs:read"]})).await.ok();
    some.get(KEYS).await.refused(403, "PERMISSION_DENIED");
}

#[tokio::test]
async fn keys_are_their_tenants() {
    let world = world().await;
    let made = world.post(KEYS, json!({"name": "ci", "permissions": ["*"]})).await.ok();
    let path = format!("{KEYS}/{}", made["key"]["id"].as_str().unwrap());
    let agents = world.make_key(None, &["agents:connect"]).await;
    let other = world.with_key(Some(Uuid::from_u128(77)), &["*"]).await;
    other.delete(&path).await.refused(404, "KEY_NOT_FOUND");
    let listed = other.get(KEYS).await.ok();
    assert_eq!(listed["keys"].as_array().unwrap().len(), 1, "{listed}");
    // Keys of the deployment are nobody's to see or revoke over the API.
    let stored = other.store.keys(KeysOf::Everybody, &Page { after: None, limit: 10 }).await.unwrap();
    let of_agents = stored.iter().find(|key| agents.starts_with(&key.prefix)).unwrap();
    other.delete(&format!("{KEYS}/{}", of_agents.id)).await.refused(404, "KEY_NOT_FOUND");
}
