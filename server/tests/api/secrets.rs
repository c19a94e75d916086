//! Secrets, as callers meet them.

use orrery_server::secret::{KeySource, Vault};
use orrery_server::store::{Jobs, Page, Secrets};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::world::{JOBS, KEY, World, hourly, id, merge};

const SECRETS: &str = "/api/v1/scheduler/secrets";
const CANARY: &str = "canary-5f1c9a-value";

fn definition(name: &str, changes: Value) -> Value {
    let mut definition = hourly(name);
    merge(&mut definition, changes);
    definition
}

fn with_header(name: &str, value: &str) -> Value {
    definition(name, json!({"config": {"url": "https://example.com", "headers": {"Authorization": value}}}))
}

async fn put(world: &World, name: &str, value: &str) -> Value {
    world.put(&format!("{SECRETS}/{name}"), json!({"value": value})).await.ok()
}

/// Calls are a tenant's from now on, with these permissions.
async fn act(world: &mut World, tenant: u128, permissions: &[&str]) {
    world.key = Some(world.make_key(Some(Uuid::from_u128(tenant)), permissions).await);
}

#[tokio::test]
async fn a_secret_is_put_listed_and_deleted_and_never_read() {
    let world = World::new().await;
    assert_eq!(put(&world, "DB", CANARY).await["version"], 1);
    let second = put(&world, "DB", "another value").await;
    assert_eq!((&second["version"], &second["versions"]), (&json!(2), &json!([1, 2])));
    put(&world, "team%2Fapi", CANARY).await;
    let listed = world.get(SECRETS).await;
    assert!(!listed.text.contains(CANARY) && !listed.text.contains("value"), "{}", listed.text);
    let names: Vec<Value> = listed.ok()["secrets"].as_array().unwrap().iter().map(|s| s["name"].clone()).collect();
    assert_eq!(names, ["DB", "team/api"]);
    let page = world.get(&format!("{SECRETS}?pageSize=1")).await.ok();
    let rest =
        world.get(&format!("{SECRETS}?pageSize=1&pageToken={}", page["nextPageToken"].as_str().unwrap())).await.ok();
    assert_eq!((&rest["secrets"][0]["name"], &rest["nextPageToken"]), (&json!("team/api"), &json!("")));

    world.delete(&format!("{SECRETS}/DB?version=2")).await.refused(409, "SECRET_VERSION_IN_USE");
    world.delete(&format!("{SECRETS}/DB?version=1")).await.ok();
    world.delete(&format!("{SECRETS}/DB")).await.ok();
    world.delete(&format!("{SECRETS}/DB")).await.refused(404, "SECRET_NOT_FOUND");
}

#[tokio::test]
async fn what_cannot_be_a_secret_is_refused_without_being_shown() {
    let world = World::new().await;
    for (name, value, code) in [
        ("1x", CANARY, "INVALID_SECRET_NAME"),
        ("~0", CANARY, "INVALID_SECRET_NAME"),
        ("a", "abc", "INVALID_SECRET_VALUE"),
        ("a", "", "INVALID_SECRET_VALUE"),
        ("a", "has a \0 in it", "INVALID_SECRET_VALUE"),
        ("a", &"x".repeat(32 * 1024 + 1), "INVALID_SECRET_VALUE"),
    ] {
        let answer = world.put(&format!("{SECRETS}/{name}"), json!({"value": value})).await;
        answer.refused(400, code);
        assert!(value.len() < 4 || !answer.text.contains(value), "{}", answer.text);
    }
}

#[tokio::test]
async fn another_tenants_secrets_do_not_exist() {
    let mut world = World::new().await;
    put(&world, "DB", CANARY).await;
    act(&mut world, 77, &["*"]).await;
    assert_eq!(world.get(SECRETS).await.ok()["secrets"], json!([]));
    world.delete(&format!("{SECRETS}/DB")).await.refused(404, "SECRET_NOT_FOUND");
    world.post(JOBS, with_header("j", "${secret:DB}")).await.refused(400, "UNKNOWN_SECRET");
}

#[tokio::test]
async fn references_are_checked_when_a_job_is_saved() {
    let world = World::new().await;
    put(&world, "TOKEN", CANARY).await;
    let error = world.post(JOBS, with_header("a", "Bearer ${secret:TOKEM}")).await.refused(400, "UNKNOWN_SECRET");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("config.headers.Authorization") && message.contains("TOKEM"), "{message}");
    world.post(JOBS, with_header("a", "${secret:TOKEN@7}")).await.refused(400, "UNKNOWN_SECRET");
    world.post(JOBS, with_header("a", "${secret:a b}")).await.refused(400, "INVALID_SECRET_REFERENCE");
    world.post(JOBS, with_header("a", "${secret:~0f}")).await.refused(400, "INVALID_SECRET_REFERENCE");
    let script = json!({"jobType": "shell", "config": {"script": "echo ${secret:TOKEN}"}});
    world.post(JOBS, definition("a", script)).await.refused(400, "INVALID_SECRET_REFERENCE");
    let batch = json!({"jobs": [hourly("a"), with_header("b", "${secret:NONE}")]});
    let error = world.post(&format!("{JOBS}/batch-create"), batch).await.refused(400, "UNKNOWN_SECRET");
    assert!(error["message"].as_str().unwrap().contains("jobs[1].config.headers"), "{error}");

    let job = world.post(JOBS, with_header("a", "Bearer ${secret:TOKEN@1}")).await.ok();
    assert_eq!(job["config"]["headers"]["Authorization"], "Bearer ${secret:TOKEN@1}", "a reference is no secret");
    let path = format!("{JOBS}/{}", id(&job));
    world.put(&path, with_header("a", "${secret:NONE}")).await.refused(400, "UNKNOWN_SECRET");
    let checked = world.post(&format!("{JOBS}/validate"), with_header("x", "${secret:NONE}")).await.ok();
    assert_eq!((&checked["valid"], &checked["errors"][0]["code"]), (&json!(false), &json!("UNKNOWN_SECRET")));
}

#[tokio::test]
async fn whoever_saves_a_job_that_uses_a_secret_may_use_secrets() {
    let mut world = World::new().await;
    act(&mut world, 5, &["*"]).await;
    put(&world, "TOKEN", CANARY).await;
    let made = world.post(JOBS, with_header("a", "${secret:TOKEN}")).await.ok();
    let may_write = ["jobs:create", "jobs:update", "jobs:read", "secrets:write"];
    act(&mut world, 5, &may_write).await;
    let error = world.post(JOBS, with_header("b", "${secret:TOKEN}")).await.refused(403, "PERMISSION_DENIED");
    assert!(error["message"].as_str().unwrap().contains("secrets:read"), "{error}");
    let path = format!("{JOBS}/{}", id(&made));
    world.put(&path, with_header("a", "${secret:TOKEN}")).await.refused(403, "PERMISSION_DENIED");
    world.post(JOBS, hourly("c")).await.ok();
    world.get(SECRETS).await.refused(403, "PERMISSION_DENIED");
    act(&mut world, 5, &["secrets:read"]).await;
    world.get(SECRETS).await.ok();
    world.put(&format!("{SECRETS}/X"), json!({"value": CANARY})).await.refused(403, "PERMISSION_DENIED");
    world.delete(&format!("{SECRETS}/TOKEN")).await.refused(403, "PERMISSION_DENIED");
    world.post(&format!("{SECRETS}/rotate"), json!({})).await.refused(403, "PERMISSION_DENIED");
}

/// Nothing that the database holds, byte for byte.
fn assert_not_stored(world: &World, canary: &str) {
    for file in std::fs::read_dir(world.directory()).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap_or_default();
        assert!(!bytes.windows(canary.len()).any(|part| part == canary.as_bytes()), "it is in {}", path.display());
    }
}

#[tokio::test]
async fn sensitive_fields_are_stored_encrypted_and_shown_hidden() {
    let world = World::new().await;
    let mut sensitive = with_header("a", CANARY);
    merge(&mut sensitive, json!({"sensitive": ["config.headers.Authorization"], "idempotencyKey": "once"}));
    let job = world.post(JOBS, sensitive.clone()).await.ok();
    assert_eq!(job["config"]["headers"]["Authorization"], "***");
    assert_eq!(job["sensitive"], json!(["headers.Authorization"]));
    assert_eq!(id(&world.post(JOBS, sensitive).await.ok()), id(&job), "the same request is the same job");
    let path = format!("{JOBS}/{}", id(&job));
    for answer in [world.get(&path).await, world.get(JOBS).await, world.get(SECRETS).await] {
        assert!(!answer.text.contains(CANARY) && !answer.text.contains("${secret:~"), "{}", answer.text);
    }
    assert_not_stored(&world, CANARY);

    // Sent back as it was read, it stays; beside a change, too.
    let stored = async || {
        let jobs =
            world.store.jobs(Uuid::from_u128(1), &Default::default(), &Page { after: None, limit: 9 }).await.unwrap();
        let spec = jobs[0].spec.clone();
        let reference: Value = serde_json::from_str(&spec.config).unwrap();
        (reference["headers"]["Authorization"].as_str().unwrap().to_owned(), spec.description)
    };
    let (reference, _) = stored().await;
    assert!(reference.starts_with("${secret:~"), "{reference}");
    let mut read = world.get(&path).await.ok();
    read["description"] = json!("changed");
    let checked = world.post(&format!("{path}/validate"), read.clone()).await.ok();
    assert_eq!(checked["valid"], true, "{checked}");
    assert_eq!(world.put(&path, read.clone()).await.ok()["config"]["headers"]["Authorization"], "***");
    assert_eq!(stored().await, (reference.clone(), "changed".to_owned()));
    // A mask that would become the value is refused.
    merge(&mut read, json!({"version": null, "sensitive": []}));
    world.put(&path, read.clone()).await.refused(400, "INVALID_SENSITIVE");
    // A new value replaces it.
    merge(
        &mut read,
        json!({"sensitive": ["headers.Authorization"], "config": {"url": "https://h", "headers": {"Authorization": "another-canary"}}}),
    );
    world.put(&path, read).await.ok();
    assert_ne!(stored().await.0, reference);
    assert_not_stored(&world, "another-canary");
    // Its value is what was put, for who is sent it.
    let vault = Vault::open(world.store.clone(), KeySource::Text(KEY.to_owned().into())).await.unwrap();
    let name = stored().await.0.trim_start_matches("${secret:").trim_end_matches('}').to_owned();
    let reference = orrery_sdk::secret::Reference { name, version: None };
    let resolved = vault.resolve(Uuid::from_u128(1), [reference.clone()].into()).await.unwrap();
    assert_eq!(resolved[&reference].as_ref().unwrap().expose(), "another-canary");
}

#[tokio::test]
async fn what_cannot_be_sensitive_is_said() {
    let world = World::new().await;
    for (field, value) in [
        ("headers.Missing", CANARY),
        ("headers", CANARY),
        ("method", CANARY),
        ("headers.Authorization", "***"),
        ("headers.Authorization", "abc"),
    ] {
        let mut definition = with_header("a", value);
        definition["sensitive"] = json!([field]);
        let answer = world.post(JOBS, definition).await;
        let error = answer.refused(400, "INVALID_SENSITIVE");
        assert!(error["message"].as_str().unwrap().contains(&format!("config.{field}")), "{error}");
        assert!(!answer.text.contains(CANARY), "{}", answer.text);
    }
}

#[tokio::test]
async fn keeping_a_sensitive_value_takes_the_right_to_use_it() {
    let mut world = World::new().await;
    act(&mut world, 5, &["jobs:create", "jobs:update", "jobs:read"]).await;
    let mut definition = with_header("a", CANARY);
    definition["sensitive"] = json!(["headers.Authorization"]);
    let job = world.post(JOBS, definition).await.ok();
    let mut stolen = world.get(&format!("{JOBS}/{}", id(&job))).await.ok();
    stolen["config"]["url"] = json!("https://attacker.example");
    world.put(&format!("{JOBS}/{}", id(&job)), stolen).await.refused(403, "PERMISSION_DENIED");
}

#[tokio::test]
async fn keys_are_rotated_by_a_call() {
    let world = World::new().await;
    put(&world, "DB", CANARY).await;
    let before = world.store.sealed_secrets(Uuid::from_u128(1), &[("DB".to_owned(), None)]).await.unwrap();
    let rotated = world.post(&format!("{SECRETS}/rotate"), json!({"dataKeys": true})).await.ok();
    assert_eq!(
        (&rotated["keyId"], &rotated["rotated"], &rotated["keysInUse"]),
        (&json!("test"), &json!(1), &json!([]))
    );
    let after = world.store.sealed_secrets(Uuid::from_u128(1), &[("DB".to_owned(), None)]).await.unwrap();
    assert_ne!(before, after);
}
