//! The internal API of sibling services.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::world::{Answer, JOBS, SERVICE_TOKEN, World, hourly, limits};

async fn call(world: &World, method: &str, path: &str, tenant: Option<Uuid>, body: Value) -> Answer {
    let mut request =
        world.client.request(method.parse().unwrap(), world.url(path)).header("x-service-token", SERVICE_TOKEN);
    if let Some(tenant) = tenant {
        request = request.header("x-tenant-id", tenant.to_string());
    }
    world.send(request.body(body.to_string())).await
}

fn data(answer: &Answer) -> Value {
    let body = answer.json();
    assert!(matches!(answer.status, 200 | 201) && body["success"] == true, "{}", answer.text);
    assert_eq!(body["serviceName"], "scheduler-service");
    assert!(body["timestamp"].as_str().unwrap().ends_with('Z'));
    body["data"].clone()
}

/// The code of an error in the documented body, which has these fields and no others.
fn code(answer: &Answer, status: u16) -> String {
    let body = answer.json();
    assert_eq!(answer.status, status, "{}", answer.text);
    let mut names: Vec<&String> = body.as_object().unwrap().keys().collect();
    names.sort_unstable();
    assert_eq!(names, ["errorCode", "message", "serviceName", "success", "timestamp"]);
    assert_eq!((&body["success"], &body["serviceName"]), (&json!(false), &json!("scheduler-service")));
    body["errorCode"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_seven_calls_do_what_they_say() {
    let world = World::with(false, limits()).await;
    let tenant = Some(Uuid::from_u128(7));
    let mut definition = hourly("mine");
    definition["config"] = serde_json::from_str(r#"{"url":"https://example.com","body":{"n":1.50}}"#).unwrap();
    let made = call(&world, "POST", "/internal/jobs/create", tenant, definition).await;
    let job = data(&made);
    let id = job["id"].as_str().unwrap().to_owned();
    let batch = json!({"jobs": [hourly("two"), hourly("three")]});
    let batch = data(&call(&world, "POST", "/internal/jobs/batch-create", tenant, batch).await);
    assert_eq!(batch["jobs"].as_array().unwrap().len(), 2);

    let below = |verb: &str| format!("/internal/jobs/{id}/{verb}");
    let run = data(&call(&world, "POST", &below("trigger"), tenant, json!({})).await);
    assert_eq!((&run["jobId"], &run["triggerType"]), (&json!(id), &json!("manual")));
    assert_eq!(data(&call(&world, "POST", &below("pause"), tenant, json!({})).await)["status"], "paused");
    let status = data(&call(&world, "GET", &below("status"), tenant, json!({})).await);
    assert_eq!((&status["status"], &status["name"]), (&json!("paused"), &json!("mine")));
    assert!(status.get("config").is_none());
    assert_eq!(data(&call(&world, "POST", &below("resume"), tenant, json!({})).await)["status"], "active");

    // Another tenant's service call does not see it.
    for verb in ["trigger", "pause", "resume"] {
        let answer = call(&world, "POST", &below(verb), Some(Uuid::from_u128(8)), json!({})).await;
        assert_eq!(code(&answer, 404), "JOB_NOT_FOUND");
    }
    assert_eq!(code(&call(&world, "GET", &below("status"), None, json!({})).await, 404), "JOB_NOT_FOUND");
}

#[tokio::test]
async fn errors_have_the_body_of_the_internal_api() {
    let world = World::with(false, limits()).await;
    let post = async |path: &str, body: Value| call(&world, "POST", path, None, body).await;
    assert_eq!(
        code(&post("/internal/jobs/create", json!({"name": "x", "cronExpression": "nope"})).await, 400),
        "INVALID_CRON_EXPRESSION"
    );
    assert_eq!(code(&post("/internal/jobs/create", json!({"nmae": "x"})).await, 400), "INVALID_ARGUMENT");
    assert_eq!(code(&post("/internal/jobs/x/trigger", json!({})).await, 400), "INVALID_ID");
    assert_eq!(code(&post("/internal/jobs", json!({})).await, 404), "ROUTE_NOT_FOUND");
    assert_eq!(
        code(&call(&world, "DELETE", "/internal/jobs/create", None, json!({})).await, 405),
        "METHOD_NOT_ALLOWED"
    );
    let bad_tenant = world.client.post(world.url("/internal/jobs/create")).header("x-service-token", SERVICE_TOKEN);
    assert_eq!(code(&world.send(bad_tenant.header("x-tenant-id", "acme").body("{}")).await, 400), "INVALID_ID");
    post("/internal/jobs/create", hourly("taken")).await;
    assert_eq!(code(&post("/internal/jobs/create", hourly("taken")).await, 409), "JOB_NAME_TAKEN");
}

#[tokio::test]
async fn a_job_made_inside_is_a_job_outside_with_its_digits() {
    let world = World::new().await;
    let body = r#"{"name":"digits","cronExpression":"@hourly","jobType":"http","config":{"url":"https://example.com","body":{"n":1.50,"big":123456789012345678901234567890}}}"#;
    let request =
        world.client.post(world.url("/internal/jobs/create")).header("x-service-token", SERVICE_TOKEN).body(body);
    let answer = world.send(request).await;
    assert!(answer.text.contains("1.50") && answer.text.contains("123456789012345678901234567890"), "{}", answer.text);
    let listed = world.get(JOBS).await.ok();
    assert_eq!(listed["jobs"][0]["name"], "digits");
    let health = world.get("/internal/health").await.ok();
    assert_eq!((&health["status"], &health["service"]), (&json!("healthy"), &json!("scheduler-service")));
}
