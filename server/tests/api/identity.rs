//! Who may call what.

use serde_json::json;
use uuid::Uuid;

use crate::world::{EXECUTIONS, JOBS, SECRET, World, hourly, id, limits};

#[tokio::test]
async fn credentials_are_needed() {
    let world = World::with(false, limits()).await;
    let answer = world.get(JOBS).await;
    answer.refused(401, "UNAUTHENTICATED");
    assert_eq!(answer.headers["www-authenticate"], "Bearer");
    world.send(world.client.get(world.url(JOBS)).bearer_auth("ork_unknown")).await.refused(401, "UNAUTHENTICATED");
    world.send(world.client.get(world.url(JOBS)).bearer_auth("a.b.c")).await.refused(401, "UNAUTHENTICATED");
    for path in ["/health", "/ready", "/openapi.json", "/docs"] {
        assert_eq!(world.get(path).await.status, 200, "{path}");
    }
    let key = world.make_key(Some(Uuid::from_u128(7)), &["*"]).await;
    world.send(world.client.get(world.url(JOBS)).bearer_auth(&key)).await.ok();
    world.send(world.client.get(world.url(JOBS)).header("x-api-key", &key)).await.ok();
}

#[tokio::test]
async fn another_tenants_things_do_not_exist() {
    let a = World::new().await;
    let job = a.job("mine", json!({})).await;
    let execution = a.trigger(&job).await;
    let b = a.with_key(Some(Uuid::from_u128(77)), &["*"]).await;
    let path = format!("{JOBS}/{}", id(&job));
    b.get(&path).await.refused(404, "JOB_NOT_FOUND");
    b.put(&path, hourly("theirs")).await.refused(404, "JOB_NOT_FOUND");
    b.delete(&path).await.refused(404, "JOB_NOT_FOUND");
    for verb in ["trigger", "pause", "resume", "stop"] {
        b.post(&format!("{path}/{verb}"), json!({})).await.refused(404, "JOB_NOT_FOUND");
    }
    b.get(&format!("{path}/executions")).await.refused(404, "JOB_NOT_FOUND");
    let path = format!("{EXECUTIONS}/{}", id(&execution));
    for below in ["", "/explain", "/logs", "/watch"] {
        b.get(&format!("{path}{below}")).await.refused(404, "EXECUTION_NOT_FOUND");
    }
    b.post(&format!("{path}/cancel"), json!({})).await.refused(404, "EXECUTION_NOT_FOUND");
    assert_eq!(b.get(JOBS).await.ok()["jobs"], json!([]));
    assert_eq!(b.get(EXECUTIONS).await.ok()["executions"], json!([]));
    // Names are each tenant's own.
    b.job("mine", json!({})).await;
}

#[tokio::test]
async fn a_key_may_do_what_it_names() {
    let world = World::new().await.with_key(Some(Uuid::from_u128(5)), &["jobs:read"]).await;
    world.get(JOBS).await.ok();
    let error = world.post(JOBS, hourly("x")).await.refused(403, "PERMISSION_DENIED");
    assert!(error["message"].as_str().unwrap().contains("jobs:create"));
    world.get(EXECUTIONS).await.refused(403, "PERMISSION_DENIED");
    world.get("/api/v1/scheduler/status").await.refused(403, "PERMISSION_DENIED");
}

#[tokio::test]
async fn a_token_is_a_credential_too() {
    let mut world = World::with(false, limits()).await;
    let now = chrono::Utc::now().timestamp();
    let sign = |claims: serde_json::Value| {
        let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
        jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
    };
    let tenant = Uuid::from_u128(8);
    world.key = Some(sign(json!({
        "sub": "anna", "iss": "orrery", "aud": "orrery", "nbf": now - 60, "exp": now + 60, "tenant": tenant, "permissions": ["*"]
    })));
    let job = world.job("hers", json!({})).await;
    assert_eq!(Uuid::parse_str(job["createdBy"].as_str().unwrap()).unwrap().get_version_num(), 8);
    world.key = Some(sign(json!({
        "sub": "anna", "iss": "orrery", "aud": "orrery", "nbf": now - 900, "exp": now - 600, "tenant": tenant, "permissions": ["*"]
    })));
    world.get(JOBS).await.refused(401, "UNAUTHENTICATED");
}

#[tokio::test]
async fn a_page_of_another_site_is_no_developer() {
    let world = World::new().await;
    let request = |name: &'static str, value: &'static str| world.client.get(world.url(JOBS)).header(name, value);
    world.send(request("origin", "https://evil.example")).await.refused(401, "UNAUTHENTICATED");
    world.send(request("sec-fetch-site", "cross-site")).await.refused(401, "UNAUTHENTICATED");
    world.send(request("host", "evil.example")).await.refused(401, "UNAUTHENTICATED");
    world.send(request("x-request-id", "abc-1")).await.ok();
}
