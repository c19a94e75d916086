//! The scheduler as a whole, its document and its pages.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::world::{World, id};

const BASE: &str = "/api/v1/scheduler";

#[tokio::test]
async fn health_and_readiness() {
    let world = World::new().await;
    world.job("x", json!({})).await;
    let health = world.get("/health").await.ok();
    assert_eq!((&health["status"], &health["service"]), (&json!("healthy"), &json!("scheduler-service")));
    assert_eq!(health["port"], world.http.port());
    for dependency in ["database", "redis", "jobQueue", "distributedLock", "services"] {
        assert_eq!(health["dependencies"][dependency], true);
    }
    assert_eq!((&health["metrics"]["activeJobs"], &health["metrics"]["queueSize"]), (&json!(1), &json!(0)));
    assert!(health["metrics"]["memoryUsage"].as_i64().unwrap() > 1_000_000);
    assert_eq!(world.get("/ready").await.ok(), json!({"ready": true, "reason": ""}));
    assert_eq!(world.send(world.client.head(world.url("/health"))).await.status, 200);

    world.info.draining.store(true, Ordering::Relaxed);
    let away = world.get("/ready").await;
    assert_eq!((away.status, away.json()["ready"].clone()), (503, json!(false)));
    assert!(!away.headers.contains_key("x-orrery-http-status"));
    assert_eq!(world.get(&format!("{BASE}/status")).await.ok()["state"], "draining");
}

#[tokio::test]
async fn status_metrics_queues_and_workers() {
    let world = World::new().await;
    let agent = world.agent().await;
    let job = world.job("x", json!({"maxConcurrent": 0})).await;
    world.trigger(&job).await;
    world.run_all(&agent, "{}").await;
    world.trigger(&job).await;

    let status = world.get(&format!("{BASE}/status")).await.ok();
    assert_eq!((&status["state"], &status["store"]), (&json!("running"), &json!("sqlite")));
    assert_eq!(
        (&status["activeJobs"], &status["pendingExecutions"], &status["workers"]),
        (&json!(1), &json!(1), &json!(1))
    );
    assert!(status["nextFireAt"].is_string() && status["now"].is_string());

    let metrics = world.get(&format!("{BASE}/metrics")).await.ok();
    for (name, value) in [
        ("totalJobs", json!(1)),
        ("activeJobs", json!(1)),
        ("pausedJobs", json!(0)),
        ("totalExecutions", json!(2)),
        ("successfulExecutions", json!(1)),
        ("failedExecutions", json!(0)),
        ("cancelledExecutions", json!(0)),
        ("queueLength", json!(1)),
        ("activeWorkers", json!(1)),
        ("errorRate", json!(0.0)),
        ("timeoutRate", json!(0.0)),
        ("retryRate", json!(0.0)),
    ] {
        assert_eq!(metrics[name], value, "{name}: {metrics}");
    }
    assert!(metrics["averageExecutionTime"].is_number());

    let queues = world.get(&format!("{BASE}/queues")).await.ok();
    let queue = &queues["queues"][0];
    assert_eq!((&queue["name"], &queue["pending"], &queue["slots"]), (&json!("default"), &json!(1), &json!(4)));

    let workers = world.get(&format!("{BASE}/workers")).await.ok();
    let worker = &workers["workers"][0];
    assert_eq!((id(worker), &worker["state"]), (agent.id.to_string().as_str(), &json!("connected")));
    assert_eq!((&worker["slots"], &worker["running"]), (&json!(4), &json!(0)));
    world
        .post(&format!("{BASE}/workers/{}/drain", uuid::Uuid::nil()), json!({}))
        .await
        .refused(404, "WORKER_NOT_FOUND");
}

#[tokio::test]
async fn only_the_deployment_drains_shared_agents() {
    let world = World::new().await;
    let agent = world.agent().await;
    let path = format!("{BASE}/workers/{}/drain", agent.id);
    world.post(&path, json!({})).await.refused(404, "WORKER_NOT_FOUND");
    let world = world.with_key(None, &["*"]).await;
    assert_eq!(world.post(&path, json!({})).await.ok()["state"], "draining");
}

#[tokio::test]
async fn cron_expressions_are_shown_and_told() {
    let world = World::new().await;
    let preview = |query: &str| format!("{BASE}/cron/preview?{query}");
    let after = "after=2026-01-01T00:00:00Z";
    let fires = world.get(&preview(&format!("expression=0%200%209%20*%20*%201-5&count=2&{after}"))).await.ok();
    let at: Vec<&Value> = fires["fires"].as_array().unwrap().iter().map(|fire| &fire["at"]).collect();
    assert_eq!(at, [&json!("2026-01-01T09:00:00Z"), &json!("2026-01-02T09:00:00Z")]);
    let back = world.get(&preview(&format!("expression=@daily&previous=true&count=2&{after}"))).await.ok();
    let at: Vec<&Value> = back["fires"].as_array().unwrap().iter().map(|fire| &fire["at"]).collect();
    assert_eq!(at, [&json!("2025-12-31T00:00:00Z"), &json!("2025-12-30T00:00:00Z")]);
    let gap = "expression=30+2+*+*+*&timezone=Europe/Berlin&count=1&after=2026-03-28T12:00:00Z";
    let gap = world.get(&preview(gap)).await.ok();
    assert_eq!(gap["fires"][0]["local"], "2026-03-29T03:00:00+02:00");
    assert!(!gap["fires"][0]["note"].as_str().unwrap().is_empty());
    world.get(&preview("expression=x")).await.refused(400, "INVALID_CRON_EXPRESSION");
    world.get(&preview("expression=@daily&timezone=x")).await.refused(400, "INVALID_TIMEZONE");
    world.get(&preview("expression=@daily&count=1001")).await.refused(400, "INVALID_ARGUMENT");

    let told = world.get(&format!("{BASE}/cron/explain?expression=0%209%20*%20*%201-5")).await.ok();
    assert!(told["description"].as_str().unwrap().contains("09:00"), "{told}");
    world.get(&format!("{BASE}/cron/explain?expression=")).await.refused(400, "INVALID_CRON_EXPRESSION");
}

#[tokio::test]
async fn the_document_and_its_page_are_served() {
    let world = World::new().await;
    let document = world.get("/openapi.json").await.ok();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    assert_eq!(document["components"]["schemas"]["JobStatus"]["enum"], json!(["active", "paused", "inactive"]));
    let count = &document["components"]["schemas"]["Job"]["properties"]["executionCount"];
    assert_eq!((&count["type"], &count["readOnly"]), (&json!("integer"), &json!(true)));
    let text = document.to_string();
    assert!(!text.contains("google.rpc") && !text.contains("orrery.v1"));
    let mut ids = std::collections::BTreeSet::new();
    for operation in document["paths"].as_object().unwrap().values().flat_map(|p| p.as_object().unwrap().values()) {
        assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{operation}");
        assert!(operation["summary"].is_string() && operation["responses"].get("default").is_none(), "{operation}");
    }
    let page = world.get("/docs").await;
    assert!(page.headers["content-type"].to_str().unwrap().starts_with("text/html"));
    let outside = page.text.matches("https://").count() + page.text.matches("http://").count();
    // The name space of SVG, which is no address.
    assert_eq!(outside, page.text.matches("http://www.w3.org/2000/svg").count());
    assert_eq!(world.get("/").await.text, page.text);
}

#[tokio::test]
async fn the_document_says_what_is_sent_and_what_is_always_answered() {
    let world = World::new().await;
    let document = world.get("/openapi.json").await.ok();
    let schemas = &document["components"]["schemas"];
    assert_eq!(schemas["CreateJobRequest"]["additionalProperties"], json!(false));
    assert_eq!(schemas["CreateJobRequest"]["properties"]["name"]["maxLength"], 200);
    let parameter = |path: &str, name: &str| {
        let operation = &document["paths"][format!("/api/v1/scheduler{path}")]["get"];
        operation["parameters"].as_array().unwrap().iter().find(|p| p["name"] == name).unwrap().clone()
    };
    assert_eq!(parameter("/jobs/{id}", "id")["schema"]["format"], "uuid");
    assert_eq!(parameter("/jobs", "pageSize")["schema"]["maximum"], 1000);
    assert_eq!(parameter("/executions/{id}/logs", "pageSize")["schema"]["maximum"], 10_000);
    assert_eq!(parameter("/cron/explain", "expression")["required"], true);

    let job = world.job("documented", json!({})).await;
    let execution = world.trigger(&job).await;
    let stats = world.get("/api/v1/scheduler/executions/stats").await.ok();
    let workers = world.get("/api/v1/scheduler/workers").await.ok();
    for (name, answer) in
        [("Job", &job), ("Execution", &execution), ("ExecutionStats", &stats), ("ListWorkersResponse", &workers)]
    {
        let required = schemas[name]["required"].as_array().unwrap_or_else(|| panic!("{name}: {}", schemas[name]));
        for field in required {
            assert!(answer.get(field.as_str().unwrap()).is_some(), "{name} lacks {field}: {answer}");
        }
    }
    assert!(schemas["Job"]["required"].as_array().unwrap().contains(&json!("executionCount")));
}

#[tokio::test]
async fn a_request_has_an_id() {
    let world = World::new().await;
    let given = world.send(world.client.get(world.url("/health")).header("x-request-id", "abc-1")).await;
    assert_eq!(given.headers["x-request-id"], "abc-1");
    assert!(!world.get("/health").await.headers["x-request-id"].is_empty());
    assert!(!world.get("/nothing").await.headers["x-request-id"].is_empty());
}
