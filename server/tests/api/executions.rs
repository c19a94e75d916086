//! Executions: read, list, count, cancel, repeat, explain.

use orrery_proto::v1::ExecutionStatus;
use serde_json::{Value, json};

use crate::world::{EXECUTIONS, JOBS, World, id};

fn free() -> Value {
    json!({"maxConcurrent": 0, "cronExpression": null, "manual": true})
}

#[tokio::test]
async fn an_execution_runs_and_is_shown() {
    let world = World::new().await;
    let agent = world.agent().await;
    let job = world.job("run", free()).await;
    let made = world.trigger(&job).await;
    for (field, value) in [
        ("status", json!("pending")),
        ("triggerType", json!("manual")),
        ("progress", json!(0)),
        ("retryCount", json!(0)),
        ("jobName", json!("run")),
        ("workerId", json!("")),
        ("epoch", json!(0)),
    ] {
        assert_eq!(made[field], value, "{field}: {made}");
    }
    let path = format!("{EXECUTIONS}/{}", id(&made));
    let grants = world.start(&agent).await;
    let running = world.get(&path).await.ok();
    assert_eq!((&running["status"], &running["workerId"]), (&json!("running"), &json!(agent.id)));
    assert_eq!(running["attempts"][0]["outcome"], "running");
    world.finish(&agent, &grants[0], ExecutionStatus::Completed, r#"{"success":true}"#).await;
    let done = world.get(&path).await.ok();
    for (field, value) in [
        ("status", json!("completed")),
        ("progress", json!(100)),
        ("durationMs", json!(25)),
        ("result", json!({"success": true})),
        ("memoryPeakMb", json!(1.5)),
        ("cpuTimeMs", json!(10)),
        ("jobVersion", json!(1)),
        ("workerName", json!("agent-1")),
    ] {
        assert_eq!(done[field], value, "{field}: {done}");
    }
    assert_eq!(world.get(&format!("{JOBS}/{}", id(&job))).await.ok()["executionCount"], 1);
}

#[tokio::test]
async fn executions_are_listed_and_counted() {
    let world = World::new().await;
    let agent = world.agent().await;
    let (a, b) = (world.job("a", free()).await, world.job("b", free()).await);
    world.trigger(&a).await;
    world.trigger(&b).await;
    let grants = world.start(&agent).await;
    world.finish(&agent, &grants[0], ExecutionStatus::Completed, "1").await;
    world.finish(&agent, &grants[1], ExecutionStatus::Failed, "2").await;
    world.trigger(&a).await;
    let count = |query: String| {
        let world = &world;
        async move { world.get(&query).await.ok()["executions"].as_array().unwrap().len() }
    };
    assert_eq!(count(EXECUTIONS.into()).await, 3);
    assert_eq!(count(format!("{EXECUTIONS}?status=failed")).await, 1);
    assert_eq!(count(format!("{EXECUTIONS}?status=pending")).await, 1);
    assert_eq!(count(format!("{EXECUTIONS}?triggerType=scheduled")).await, 0);
    assert_eq!(count(format!("{EXECUTIONS}?jobId={}", id(&b))).await, 1);
    assert_eq!(count(format!("{JOBS}/{}/executions", id(&a))).await, 2);
    assert_eq!(count(format!("{EXECUTIONS}?from=2100-01-01T00:00:00Z")).await, 0);
    assert_eq!(count(format!("{EXECUTIONS}?to=2100-01-01T00:00:00Z")).await, 3);
    let nobody = uuid::Uuid::nil();
    world.get(&format!("{JOBS}/{nobody}/executions")).await.refused(404, "JOB_NOT_FOUND");

    let stats = world.get(&format!("{EXECUTIONS}/stats")).await.ok();
    for (field, value) in [
        ("total", json!(3)),
        ("pending", json!(1)),
        ("running", json!(0)),
        ("completed", json!(1)),
        ("failed", json!(1)),
        ("cancelled", json!(0)),
        ("successRate", json!(0.5)),
        ("errorRate", json!(0.5)),
        ("timeoutRate", json!(0.0)),
    ] {
        assert_eq!(stats[field], value, "{field}: {stats}");
    }
    assert!(stats["p50DurationMs"].as_f64().unwrap() > 0.0 && stats["from"].is_string());
    let of_b = world.get(&format!("{EXECUTIONS}/stats?jobId={}", id(&b))).await.ok();
    assert_eq!(of_b["total"], 1);
    let wrong = format!("{EXECUTIONS}/stats?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z");
    world.get(&wrong).await.refused(400, "INVALID_DATE_RANGE");
}

#[tokio::test]
async fn an_execution_is_cancelled_once() {
    let world = World::new().await;
    let agent = world.agent().await;
    let job = world.job("cancel", free()).await;
    let waiting = world.trigger(&job).await;
    let path = format!("{EXECUTIONS}/{}/cancel", id(&waiting));
    let ended = world.post(&path, json!({"reason": "not needed"})).await.ok();
    assert_eq!((&ended["status"], &ended["errorMessage"]), (&json!("cancelled"), &json!("not needed")));
    let refused = world.post(&path, json!({})).await.refused(409, "EXECUTION_ALREADY_FINISHED");
    assert_eq!(refused["details"]["status"], "cancelled");

    let running = world.trigger(&job).await;
    let grants = world.start(&agent).await;
    let path = format!("{EXECUTIONS}/{}", id(&running));
    let asked = world.send(world.client.post(world.url(&format!("{path}/cancel")))).await.ok();
    assert_eq!(asked["status"], "running");
    assert!(asked["cancelRequestedAt"].is_string());
    let why = world.get(&format!("{path}/explain")).await.ok();
    assert_eq!(why["reasons"][0]["code"], "CANCELLING");
    world.finish(&agent, &grants[0], ExecutionStatus::Cancelled, "null").await;
    assert_eq!(world.get(&path).await.ok()["status"], "cancelled");
    assert_eq!(world.get(&format!("{path}/explain")).await.ok()["reasons"][0]["code"], "FINISHED");
}

#[tokio::test]
async fn a_finished_execution_is_repeated() {
    let world = World::new().await;
    let agent = world.agent().await;
    let job = world.job("again", free()).await;
    let path = format!("{JOBS}/{}/trigger", id(&job));
    let first = world.post(&path, json!({"parameters": {"n": 1}})).await.ok();
    let retry = format!("{EXECUTIONS}/{}/retry", id(&first));
    world.post(&retry, json!({})).await.refused(409, "EXECUTION_NOT_FINISHED");
    world.run_all(&agent, "{}").await;
    let again = world.post(&retry, json!({"idempotencyKey": "r"})).await.ok();
    assert_eq!((&again["triggerType"], &again["retryOf"]), (&json!("retry"), &first["id"]));
    assert_eq!(again["parameters"], json!({"n": 1}));
    assert_ne!(again["id"], first["id"]);
    assert_eq!(world.post(&retry, json!({"idempotencyKey": "r"})).await.ok()["id"], again["id"]);
    let nobody = format!("{EXECUTIONS}/{}/retry", uuid::Uuid::nil());
    world.post(&nobody, json!({})).await.refused(404, "EXECUTION_NOT_FOUND");
}
