//! Tenants over the API: who administers them, and what they are.

use orrery_server::auth::DEFAULT_TENANT;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::world::{Answer, JOBS, World, hourly, id, limits};

const TENANTS: &str = "/api/v1/scheduler/tenants";

/// A caller of the default tenant with these permissions.
async fn world(permissions: &[&str]) -> World {
    World::with(false, limits()).await.with_key(Some(DEFAULT_TENANT), permissions).await
}

/// The same server, for a caller of another tenant, or of the deployment.
async fn called_by(world: &mut World, tenant: Option<Uuid>, permissions: &[&str]) {
    world.key = Some(world.make_key(tenant, permissions).await);
}

fn path(tenant: &Value) -> String {
    format!("{TENANTS}/{}", id(tenant))
}

#[tokio::test]
async fn a_tenant_is_made_listed_changed_and_suspended() {
    let world = world(&["tenants:admin", "tenants:read"]).await;
    let acme = json!({"name": "Acme", "weight": 3, "quotas": {"maxJobs": 5}, "settings": {"ipAllow": ["10.0.0.0/8"]}});
    let acme = world.post(TENANTS, acme).await.ok();
    assert_eq!((&acme["name"], &acme["status"], &acme["version"]), (&json!("acme"), &json!("active"), &json!(1)));
    assert_eq!(acme["settings"]["allowShell"], false, "shells are to be asked for");
    assert_eq!((&acme["settings"]["minSandbox"], &acme["quotas"]), (&json!("none"), &json!({"maxJobs": 5})));
    world.post(TENANTS, json!({"name": "acme"})).await.refused(409, "TENANT_NAME_TAKEN");
    world.post(TENANTS, json!({"name": "b", "id": id(&acme)})).await.refused(409, "TENANT_EXISTS");

    let listed = world.get(&format!("{TENANTS}?pageSize=1")).await.ok();
    assert_eq!(listed["tenants"][0], acme);
    let next = listed["nextPageToken"].as_str().unwrap();
    let listed = world.get(&format!("{TENANTS}?pageSize=1&pageToken={next}")).await.ok();
    assert_eq!((&listed["tenants"][0]["name"], &listed["nextPageToken"]), (&json!("default"), &json!("")));

    let change = json!({"name": "acme", "version": 1, "settings": {"minSandbox": "container"}});
    let changed = world.put(&path(&acme), change.clone()).await.ok();
    assert_eq!((&changed["weight"], &changed["quotas"], &changed["version"]), (&json!(1), &json!({}), &json!(2)));
    assert_eq!(
        (&changed["settings"]["minSandbox"], &changed["settings"]["allowShell"]),
        (&json!("container"), &Value::Null)
    );
    let refused = world.put(&path(&acme), change).await.refused(409, "TENANT_VERSION_CONFLICT");
    assert_eq!(refused["details"]["currentVersion"], 2);

    let suspend = format!("{}/suspend", path(&acme));
    let suspended = world.post(&suspend, json!({"reason": "unpaid"})).await.ok();
    assert_eq!((&suspended["status"], &suspended["suspendReason"]), (&json!("suspended"), &json!("unpaid")));
    assert_eq!(world.post(&suspend, json!({"reason": "again"})).await.ok(), suspended, "it stays as it is");
    let resumed = world.post(&format!("{}/resume", path(&acme)), json!({})).await.ok();
    assert_eq!(
        (&resumed["status"], &resumed["suspendedAt"], &resumed["suspendReason"]),
        (&json!("active"), &Value::Null, &json!(""))
    );
    world.post(&format!("{TENANTS}/{DEFAULT_TENANT}/suspend"), json!({})).await.refused(409, "DEFAULT_TENANT");
    world.get(&format!("{TENANTS}/{}", Uuid::now_v7())).await.refused(404, "TENANT_NOT_FOUND");
}

#[tokio::test]
async fn what_is_wrong_with_a_tenant_names_its_field() {
    let world = world(&["*"]).await;
    for (body, code, field) in [
        (json!({}), "INVALID_NAME", "name"),
        (json!({"name": "a b"}), "INVALID_NAME", "name"),
        (json!({"name": "a", "weight": 1001}), "INVALID_WEIGHT", "weight"),
        (json!({"name": "a", "quotas": {"maxJobs": -1}}), "INVALID_QUOTA", "quotas.maxJobs"),
        (json!({"name": "a", "settings": {"ipAllow": ["x"]}}), "INVALID_SETTING", "settings.ipAllow[0]"),
        (json!({"name": "a", "settings": {"egressDeny": ["10.0.0.1/8"]}}), "INVALID_SETTING", "settings.egressDeny[0]"),
    ] {
        let refused = world.post(TENANTS, body.clone()).await.refused(400, code);
        assert!(refused["message"].as_str().unwrap().starts_with(field), "{body}: {refused}");
    }
    world.post(TENANTS, json!({"name": "a", "id": "x"})).await.refused(400, "INVALID_ID");
    let suspend = format!("{TENANTS}/{}/suspend", Uuid::now_v7());
    world.post(&suspend, json!({"reason": "a\nb"})).await.refused(400, "INVALID_REASON");
}

/// A tenant's own administrators may do everything there, and nothing with tenants: not with others, and not with what is given to their own.
#[tokio::test]
async fn a_tenants_administrator_administers_no_tenant() {
    let mut world = world(&["*"]).await;
    let (own, other) = (
        world.post(TENANTS, json!({"name": "own"})).await.ok(),
        world.post(TENANTS, json!({"name": "other"})).await.ok(),
    );
    called_by(&mut world, Some(id(&own).parse().unwrap()), &["*"]).await;
    world.post(TENANTS, json!({"name": "mine"})).await.refused(403, "PERMISSION_DENIED");
    for (tenant, status, code) in [(&own, 403, "PERMISSION_DENIED"), (&other, 404, "TENANT_NOT_FOUND")] {
        let more = json!({"name": "own", "quotas": {"maxJobs": 0}});
        world.put(&path(tenant), more).await.refused(status, code);
        for verb in ["suspend", "resume"] {
            world.post(&format!("{}/{verb}", path(tenant)), json!({})).await.refused(status, code);
        }
    }
    // Their own they see, and what it has.
    assert_eq!(world.get(&path(&own)).await.ok(), own);
    assert_eq!(world.get(TENANTS).await.ok()["tenants"], json!([own]));
    assert_eq!(world.get(&format!("{}/usage", path(&own))).await.ok()["jobs"], 0);
    for path in [path(&other), format!("{}/usage", path(&other)), format!("{TENANTS}/{DEFAULT_TENANT}")] {
        world.get(&path).await.refused(404, "TENANT_NOT_FOUND");
    }
    // A key of the deployment does administer them; without the permission nobody does.
    called_by(&mut world, None, &["tenants:admin"]).await;
    world.post(&format!("{}/suspend", path(&own)), json!({})).await.ok();
    called_by(&mut world, Some(DEFAULT_TENANT), &["tenants:read"]).await;
    assert_eq!(world.get(TENANTS).await.ok()["tenants"].as_array().unwrap().len(), 1);
    world.get(&path(&own)).await.refused(404, "TENANT_NOT_FOUND");
    world.post(TENANTS, json!({"name": "x"})).await.refused(403, "PERMISSION_DENIED");
    world.post(&format!("{}/resume", path(&own)), json!({})).await.refused(403, "PERMISSION_DENIED");
}

/// Tokens may name a tenant that nobody has made: it works by the deployment's defaults until somebody does.
#[tokio::test]
async fn a_tenant_that_tokens_name_may_be_made_by_its_id() {
    let mut world = world(&["*"]).await;
    let unnamed = Uuid::from_u128(77);
    let administrator = world.key.clone();
    called_by(&mut world, Some(unnamed), &["tenants:read"]).await;
    let seen = world.get(&format!("{TENANTS}/{unnamed}")).await.ok();
    assert_eq!(
        (&seen["name"], &seen["version"], &seen["createdAt"]),
        (&json!(unnamed.to_string()), &json!(0), &Value::Null)
    );
    world.key = administrator;
    world.get(&format!("{TENANTS}/{unnamed}")).await.refused(404, "TENANT_NOT_FOUND");
    let made = world.post(TENANTS, json!({"name": "acme", "id": unnamed})).await.ok();
    assert_eq!(id(&made), unnamed.to_string());
    let usage = world.get(&format!("{}/usage", path(&made))).await.ok();
    assert_eq!((&usage["quotas"]["maxJobs"], &usage["quotas"]["maxExecutionsPerHour"]), (&json!(1000), &json!(0)));
}

const RETRY_AFTER: &str = "retry-after";

/// A tenant with such a definition, and the credentials of somebody who may everything there.
async fn tenant(world: &World, definition: Value) -> (Value, String) {
    let made = world.post(TENANTS, definition).await.ok();
    let key = world.make_key(Some(id(&made).parse().unwrap()), &["*"]).await;
    (made, key)
}

async fn get_as(world: &World, key: &str, path: &str) -> Answer {
    world.send(world.client.get(world.url(path)).header("x-api-key", key)).await
}

async fn post_as(world: &World, key: &str, path: &str, body: Value) -> Answer {
    let request = world.client.post(world.url(path)).header("x-api-key", key).body(body.to_string());
    world.send(request).await
}

/// A server without callers of its own key, and the key of whoever administers it.
async fn administered() -> (World, String) {
    let world = World::with(false, limits()).await;
    let admin = world.make_key(None, &["*"]).await;
    (world, admin)
}

#[tokio::test]
async fn callers_of_a_suspended_tenant_are_refused() {
    let mut world = world(&["*"]).await;
    let (acme, key) = tenant(&world, json!({"name": "acme"})).await;
    let admin = world.key.take().unwrap();
    get_as(&world, &key, JOBS).await.ok();
    let anna = json!({"name": "anna", "password": "correct horse battery", "roles": ["viewer"]});
    post_as(&world, &key, "/api/v1/auth/users", anna).await.ok();
    let login = async |password: &str| {
        let body = json!({"tenantId": id(&acme), "name": "anna", "password": password});
        world.post("/api/v1/auth/login", body).await
    };
    let token = login("correct horse battery").await.ok()["accessToken"].as_str().unwrap().to_owned();
    let by_token = async || world.send(world.client.get(world.url(JOBS)).bearer_auth(&token)).await;
    by_token().await.ok();

    post_as(&world, &admin, &format!("{}/suspend", path(&acme)), json!({"reason": "unpaid"})).await.ok();
    for answer in [get_as(&world, &key, JOBS).await, by_token().await, login("correct horse battery").await] {
        let refused = answer.refused(403, "TENANT_SUSPENDED");
        assert!(refused["message"].as_str().unwrap().contains("unpaid"), "{refused}");
    }
    login("wrong horse battery").await.refused(401, "WRONG_CREDENTIALS");
    // Others, and its administrators, go on.
    get_as(&world, &admin, &path(&acme)).await.ok();
    post_as(&world, &admin, &format!("{}/resume", path(&acme)), json!({})).await.ok();
    get_as(&world, &key, JOBS).await.ok();
}

#[tokio::test]
async fn a_tenant_has_what_its_quotas_say() {
    let (world, admin) = administered().await;
    let quotas = json!({"maxJobs": 2, "maxExecutionsPerHour": 3});
    let made = post_as(&world, &admin, TENANTS, json!({"name": "acme", "quotas": quotas})).await.ok();
    let key = world.make_key(Some(id(&made).parse().unwrap()), &["*"]).await;
    let create = async |name: &str| post_as(&world, &key, JOBS, hourly(name)).await;
    let job = create("one").await.ok();
    create("two").await.ok();
    create("three").await.refused(429, "QUOTA_EXCEEDED");
    let trigger = async |key_of: &str| {
        let body = if key_of.is_empty() { json!({}) } else { json!({"idempotencyKey": key_of}) };
        post_as(&world, &key, &format!("{JOBS}/{}/trigger", id(&job)), body).await
    };
    let usage = async || get_as(&world, &key, &format!("{}/usage", path(&made))).await.ok();
    let first = trigger("k").await.ok();
    // What is refused for another reason is not counted for good.
    trigger("").await.refused(409, "JOB_ALREADY_RUNNING");
    let batch = json!({"triggers": [{"id": id(&job)}, {"id": id(&job)}, {"id": id(&job)}]});
    post_as(&world, &key, "/api/v1/scheduler/jobs/batch-trigger", batch).await.refused(429, "QUOTA_EXCEEDED");
    let agent = world.agent().await;
    world.run_all(&agent, "1").await;
    for _ in 0..2 {
        trigger("").await.ok();
        world.run_all(&agent, "1").await;
    }
    let refused = trigger("").await;
    let seconds: u64 = refused.headers[RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!((1..=3600).contains(&seconds), "{seconds}");
    refused.refused(429, "QUOTA_EXCEEDED");
    assert_eq!(trigger("k").await.ok()["id"], first["id"], "what a key has made is answered with");
    let used = usage().await;
    assert_eq!(
        (&used["jobs"], &used["executionsThisHour"], &used["quotas"]["maxJobs"]),
        (&json!(2), &json!(3), &json!(2))
    );
    // More is more at once.
    let more = json!({"name": "acme", "quotas": {"maxJobs": 3, "maxExecutionsPerHour": 0}});
    let put = world.client.put(world.url(&path(&made))).header("x-api-key", &admin).body(more.to_string());
    world.send(put).await.ok();
    create("three").await.ok();
    trigger("").await.ok();
}

#[tokio::test]
async fn a_definition_keeps_within_the_bounds_of_its_tenant() {
    let (world, admin) = administered().await;
    let settings = json!({"minSandbox": "process", "egressDeny": ["*.example.com", "192.0.2.0/24"]});
    let made = post_as(&world, &admin, TENANTS, json!({"name": "acme", "settings": settings})).await.ok();
    let key = world.make_key(Some(id(&made).parse().unwrap()), &["*"]).await;
    let job = |kind: &str, config: Value| {
        let mut job = hourly(&format!("{kind} {config}"));
        (job["jobType"], job["config"]) = (json!(kind), config);
        job
    };
    let good = post_as(&world, &key, JOBS, job("http", json!({"url": "https://example.org/"}))).await.ok();
    for (kind, config, code, field) in [
        ("shell", json!({"script": "true"}), "SHELL_NOT_ALLOWED", "jobType"),
        ("command", json!({"command": "sh", "args": ["-c", "true"]}), "SHELL_NOT_ALLOWED", "config.command"),
        (
            "command",
            json!({"command": "true", "sandbox": {"level": "none"}}),
            "SANDBOX_TOO_LOW",
            "config.sandbox.level",
        ),
        ("http", json!({"url": "http://a.example.com:8080/"}), "EGRESS_DENIED", "config.url"),
        ("http", json!({"url": "http://[::ffff:192.0.2.7]/"}), "EGRESS_DENIED", "config.url"),
    ] {
        let job = job(kind, config);
        let refused = post_as(&world, &key, JOBS, job.clone()).await.refused(400, code);
        assert!(refused["message"].as_str().unwrap().starts_with(field), "{refused}");
        let put = world.client.put(world.url(&format!("{JOBS}/{}", id(&good)))).header("x-api-key", &key);
        world.send(put.body(job.to_string())).await.refused(400, code);
        let checked = post_as(&world, &key, &format!("{JOBS}/validate"), job).await.ok();
        assert_eq!((&checked["valid"], &checked["errors"][0]["code"]), (&json!(false), &json!(code)));
    }
    post_as(&world, &key, JOBS, job("command", json!({"command": "true", "sandbox": {"level": "container"}})))
        .await
        .ok();
}

#[tokio::test]
async fn a_tenants_callers_call_from_its_networks() {
    let (world, admin) = administered().await;
    let made =
        post_as(&world, &admin, TENANTS, json!({"name": "acme", "settings": {"ipAllow": ["192.0.2.0/24"]}})).await.ok();
    let key = world.make_key(Some(id(&made).parse().unwrap()), &["*"]).await;
    get_as(&world, &key, JOBS).await.refused(403, "ADDRESS_NOT_ALLOWED");
    let body = json!({"name": "acme", "settings": {"ipAllow": ["192.0.2.0/24", "127.0.0.0/8"]}});
    let put = world.client.put(world.url(&path(&made))).header("x-api-key", &admin).body(body.to_string());
    world.send(put).await.ok();
    get_as(&world, &key, JOBS).await.ok();
}
