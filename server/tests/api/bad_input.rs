//! What a caller may get wrong, and what it is told.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::world::{EXECUTIONS, JOBS, World, hourly, id, limits, merge};

#[tokio::test]
#[allow(clippy::too_many_lines)] // A table.
async fn a_wrong_definition_is_refused_with_its_code_and_field() {
    let world = World::new().await;
    let shell = |config: Value| json!({"jobType": "shell", "config": config});
    let command = |config: Value| json!({"jobType": "command", "config": config});
    let http = |config: Value| json!({"config": config});
    let cases: Vec<(Value, &str, &str)> = vec![
        (json!({"cronExpression": "every day"}), "INVALID_CRON_EXPRESSION", "cronExpression"),
        (json!({"cronExpression": "0 0 0 31 2 *"}), "INVALID_CRON_EXPRESSION", "cronExpression"),
        (json!({"cronExpression": null}), "INVALID_CRON_EXPRESSION", "cronExpression"),
        (json!({"cronExpression": "* * * * *", "manual": true}), "INVALID_SCHEDULE", "cronExpression"),
        (json!({"cronExpression": null, "runAt": "2001-01-01T00:00:00Z"}), "INVALID_SCHEDULE", "runAt"),
        (json!({"cronExpression": null, "intervalMs": 5}), "INVALID_SCHEDULE", "intervalMs"),
        (json!({"timezone": "Mars/Base"}), "INVALID_TIMEZONE", "timezone"),
        (json!({"naem": "x"}), "INVALID_ARGUMENT", "naem"),
        (json!({"retryConfig": {"retries": 3}}), "INVALID_ARGUMENT", "retryConfig.retries"),
        (json!({"maxConcurrent": "many"}), "INVALID_ARGUMENT", "maxConcurrent"),
        (json!({"maxConcurrent": 1.5}), "INVALID_ARGUMENT", "maxConcurrent"),
        (json!({"timeout": 99_999_999_999_i64}), "INVALID_ARGUMENT", "timeout"),
        (json!({"tags": "one"}), "INVALID_ARGUMENT", "tags"),
        (json!({"tags": [1]}), "INVALID_ARGUMENT", "tags[0]"),
        (json!({"jobType": "telepathy"}), "INVALID_ARGUMENT", "jobType"),
        (json!({"startDate": "yesterday"}), "INVALID_ARGUMENT", "startDate"),
        (json!({"manual": "yes"}), "INVALID_ARGUMENT", "manual"),
        (json!({"jobType": null}), "INVALID_JOB_CONFIG", "jobType"),
        (json!({"name": ""}), "INVALID_NAME", "name"),
        (json!({"name": "é".repeat(201)}), "INVALID_NAME", "name"),
        (json!({"name": "a\u{0}b"}), "INVALID_NAME", "name"),
        (json!({"timeout": -1}), "INVALID_TIMEOUT", "timeout"),
        (json!({"timeout": 10_000_000}), "INVALID_TIMEOUT", "timeout"),
        (json!({"priority": -1001}), "INVALID_PRIORITY", "priority"),
        (json!({"maxConcurrent": -1}), "INVALID_MAX_CONCURRENT", "maxConcurrent"),
        (json!({"maxExecutions": 0}), "INVALID_MAX_EXECUTIONS", "maxExecutions"),
        (json!({"retryConfig": {"maxRetries": -1}}), "INVALID_RETRY_CONFIG", "retryConfig.maxRetries"),
        (json!({"retryConfig": {"maxRetries": 1_000_000}}), "INVALID_RETRY_CONFIG", "retryConfig.maxRetries"),
        (json!({"config": null}), "INVALID_JOB_CONFIG", "config"),
        (http(json!({})), "INVALID_JOB_CONFIG", "config.url"),
        (http(json!({"url": "ftp://example.com"})), "INVALID_JOB_CONFIG", "config.url"),
        (http(json!({"url": "http://x", "method": "FROBNICATE"})), "INVALID_JOB_CONFIG", "config.method"),
        (http(json!({"url": "http://x", "headers": {"a\nb": "c"}})), "INVALID_JOB_CONFIG", "config.headers.a\nb"),
        (shell(json!({})), "INVALID_JOB_CONFIG", "config.script"),
        (command(json!({"command": "ls", "args": ["a\u{0}b"]})), "INVALID_JOB_CONFIG", "config.args"),
        (http(json!({"url": "http://x", "body": "x".repeat(2 << 20)})), "INVALID_JOB_CONFIG", "config"),
        (
            json!({"startDate": "2090-01-02T00:00:00Z", "endDate": "2090-01-01T00:00:00Z"}),
            "INVALID_DATE_RANGE",
            "endDate",
        ),
        (http(json!({"url": "https://user:pass@example.com/"})), "INVALID_JOB_CONFIG", "config.url"),
        (http(json!({"url": "http://x", "body": nested(100)})), "INVALID_JOB_CONFIG", "config"),
        (json!({"endDate": "2001-01-01T00:00:00Z"}), "INVALID_DATE_RANGE", "endDate"),
        (json!({"queue": "a b"}), "INVALID_QUEUE", "queue"),
        (json!({"tags": [""]}), "INVALID_TAGS", "tags[0]"),
        (json!({"idempotencyKey": "x".repeat(300)}), "INVALID_IDEMPOTENCY_KEY", "idempotencyKey"),
    ];
    for (changes, code, field) in cases {
        let mut definition = hourly("bad");
        merge(&mut definition, changes.clone());
        let shown: String = changes.to_string().chars().take(200).collect();
        let answer = world.post(JOBS, definition).await;
        assert_eq!(answer.status, 400, "{shown}: {}", answer.text);
        let error = answer.refused(400, code);
        assert!(error["details"]["fields"][field].is_string(), "{shown}: {field} is not in {error}");
    }
    assert_eq!(world.get(JOBS).await.ok()["jobs"], json!([]));
}

#[tokio::test]
async fn broken_bodies_are_refused() {
    let world = World::new().await;
    for text in ["{", "{\"name\": }", "nonsense", "{\"name\": \"x\"} trailing", "{\"config\": {\"a\": 01}}"] {
        let error = world.post_text(JOBS, text).await.refused(400, "INVALID_ARGUMENT");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("line 1 column"), "{text}: {message}");
    }
    for text in ["[]", "5", "null", "\"x\"", "{\"name\": \"a\", \"name\": \"b\"}"] {
        world.post_text(JOBS, text).await.refused(400, "INVALID_ARGUMENT");
    }
    world.post_text(JOBS, vec![0xff, 0xfe]).await.refused(400, "INVALID_ARGUMENT");
    // No body is an empty object.
    world.post_text(JOBS, "").await.refused(400, "INVALID_NAME");
}

#[tokio::test]
async fn a_body_has_a_limit() {
    let world = World::with(true, orrery_server::config::Limits { max_body_bytes: 10_000, ..limits() }).await;
    let error = world.post_text(JOBS, "x".repeat(10_001)).await.refused(413, "PAYLOAD_TOO_LARGE");
    assert_eq!(error["details"]["limit"], 10_000);
    world.job("small", json!({"description": "x".repeat(5000)})).await;
}

#[tokio::test]
async fn ids_and_paths_are_checked() {
    let world = World::new().await;
    let nobody = Uuid::new_v4();
    for verb in ["trigger", "pause", "resume", "stop", "validate"] {
        world.post(&format!("{JOBS}/{nobody}/{verb}"), json!({})).await.refused(404, "JOB_NOT_FOUND");
        world.post(&format!("{JOBS}/17/{verb}"), json!({})).await.refused(400, "INVALID_ID");
    }
    for path in ["", "/next", "/explain", "/omissions", "/executions"] {
        world.get(&format!("{JOBS}/{nobody}{path}")).await.refused(404, "JOB_NOT_FOUND");
        world.get(&format!("{JOBS}/x{path}")).await.refused(400, "INVALID_ID");
    }
    for path in ["", "/explain", "/logs", "/watch", "/logs/follow"] {
        world.get(&format!("{EXECUTIONS}/{nobody}{path}")).await.refused(404, "EXECUTION_NOT_FOUND");
        world.get(&format!("{EXECUTIONS}/x{path}")).await.refused(400, "INVALID_ID");
    }
    let cancel = format!("{EXECUTIONS}/{nobody}/cancel");
    world.post(&cancel, json!({})).await.refused(404, "EXECUTION_NOT_FOUND");
    world.put(&format!("{JOBS}/{nobody}"), hourly("x")).await.refused(404, "JOB_NOT_FOUND");
    world.delete(&format!("{JOBS}/x")).await.refused(400, "INVALID_ID");
    world.get("/api/v1/scheduler/nothing").await.refused(404, "ROUTE_NOT_FOUND");
    world.get("/api/v1/scheduler/jobs/").await.refused(404, "ROUTE_NOT_FOUND");
    let wrong = world.delete(JOBS).await;
    wrong.refused(405, "METHOD_NOT_ALLOWED");
    assert_eq!(wrong.headers["allow"], "GET, POST");
    let patch = world.client.patch(world.url(&format!("{JOBS}/{nobody}")));
    assert_eq!(world.send(patch).await.headers["allow"], "DELETE, GET, PUT");
    world.send(world.client.post(world.url("/docs"))).await.refused(405, "METHOD_NOT_ALLOWED");
}

#[tokio::test]
async fn queries_are_checked() {
    let world = World::new().await;
    for (query, code, field) in [
        ("pageSize=0x", "INVALID_ARGUMENT", "pageSize"),
        ("pageSize=-1", "INVALID_PAGE_SIZE", "pageSize"),
        ("pageSize=1001", "INVALID_PAGE_SIZE", "pageSize"),
        ("status=bogus", "INVALID_ARGUMENT", "status"),
        ("pageToken=bogus", "INVALID_PAGE_TOKEN", "pageToken"),
        ("colour=red", "INVALID_ARGUMENT", "colour"),
    ] {
        let error = world.get(&format!("{JOBS}?{query}")).await.refused(400, code);
        assert!(error["details"]["fields"][field].is_string(), "{query}: {error}");
    }
    let error = world.get(&format!("{EXECUTIONS}?from=yesterday")).await.refused(400, "INVALID_ARGUMENT");
    assert!(error["details"]["fields"]["from"].is_string(), "{error}");
    world
        .get(&format!("{EXECUTIONS}?from=2026-02-01T00:00:00Z&to=2026-01-01T00:00:00Z"))
        .await
        .refused(400, "INVALID_DATE_RANGE");
    world.get(&format!("{EXECUTIONS}?jobId=x")).await.refused(400, "INVALID_ID");
}

#[tokio::test]
async fn a_name_is_unique_and_the_number_of_jobs_bounded() {
    let world = World::with(true, orrery_server::config::Limits { max_jobs_per_tenant: 2, ..limits() }).await;
    world.job("a", json!({})).await;
    let taken = world.post(JOBS, hourly("a")).await.refused(409, "JOB_NAME_TAKEN");
    assert_eq!(taken["details"], json!({}));
    world.job("b", json!({})).await;
    let full = world.post(JOBS, hourly("c")).await.refused(429, "QUOTA_EXCEEDED");
    assert_eq!((&full["details"]["limit"], &full["details"]["current"]), (&json!(2), &json!(2)));
}

#[tokio::test]
async fn parameters_are_checked() {
    let world = World::new().await;
    let job = world.job("p", json!({"maxConcurrent": 0})).await;
    let path = format!("{JOBS}/{}/trigger", id(&job));
    for text in [r#"{"parameters": "a\u0000b"}"#, r#"{"parameters": 1e999999}"#, r#"{"parameters": ["\ud800"]}"#] {
        world.post_text(&path, text).await.refused(400, "INVALID_PARAMETERS");
    }
    world.post(&path, json!({"parameters": "x".repeat(1 << 20)})).await.refused(400, "INVALID_PARAMETERS");
    world.post(&path, json!({"parameters": null})).await.ok();
}

/// Lists within lists.
fn nested(levels: usize) -> Value {
    (0..levels).fold(json!(1), |inner, _| json!([inner]))
}

#[tokio::test]
async fn a_body_that_nests_without_end_is_refused() {
    let world = World::new().await;
    for levels in [200, 10_000, 1_000_000] {
        let deep = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        world.post_text(JOBS, deep.clone()).await.refused(400, "INVALID_ARGUMENT");
        let config =
            format!(r#"{{"name":"x","manual":true,"jobType":"http","config":{{"url":"http://x","body":{deep}}}}}"#);
        world.post_text(JOBS, config).await.refused(400, "INVALID_JOB_CONFIG");
        let job = world.job(&format!("levels {levels}"), json!({})).await;
        let parameters = format!(r#"{{"parameters":{deep}}}"#);
        world.post_text(&format!("{JOBS}/{}/trigger", id(&job)), parameters).await.refused(400, "INVALID_PARAMETERS");
    }
}
