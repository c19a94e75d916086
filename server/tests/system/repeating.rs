//! Calls that are safe to repeat, and calls that are all or nothing.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::rest::{Rest, id, list};
use crate::world::World;

on_each_engine!(a_key_makes_one, batches_are_all_or_nothing, a_passed_version_is_refused);

fn definition(name: &str) -> Value {
    json!({"name": name, "manual": true, "jobType": "command", "maxConcurrent": 0, "config": {"command": "true"}})
}

async fn a_key_makes_one(world: World) {
    let system = world.system().await;
    let rest = system.rest();
    let job = rest.create(definition("keyed")).await;
    let path = format!("/jobs/{job}/trigger");
    let call = |body: Value| {
        let (rest, path) = (rest.clone(), path.clone());
        async move { rest.send(Method::POST, &path, &[("idempotency-key", "order-7")], Some(body.to_string())).await }
    };
    let answers = join_all((0..8).map(|_| call(json!({"parameters": {"n": 1}})))).await;
    let first = id(&answers[0].ok());
    assert!(answers.iter().all(|answer| id(&answer.ok()) == first), "the same key made several");
    rest.finished(&first).await;
    assert_eq!(id(&call(json!({"parameters": {"n": 1}})).await.ok()), first, "the key is forgotten once it is over");
    assert_eq!(rest.executions(&job).await.len(), 1);
    let other = call(json!({"parameters": {"n": 2}})).await;
    assert_eq!(
        (other.status, other.json()["error"]["code"].as_str()),
        (409, Some("IDEMPOTENCY_KEY_REUSED")),
        "{}",
        other.text
    );

    let keyed = |name: &str| {
        let mut body = definition(name);
        body["idempotencyKey"] = json!("make-1");
        body
    };
    let made = id(&rest.post("/jobs", keyed("made")).await.ok());
    assert_eq!(id(&rest.post("/jobs", keyed("made")).await.ok()), made);
}

async fn batches_are_all_or_nothing(world: World) {
    let system = world.system().await;
    let rest = system.rest();
    let mut bad = definition("third");
    bad["config"] = json!({});
    let refused =
        rest.post("/jobs/batch-create", json!({"jobs": [definition("first"), definition("second"), bad]})).await;
    let error = refused.refused(400, "INVALID_JOB_CONFIG");
    assert!(error.to_string().contains('2'), "it does not say which: {error:#}");
    let refused = rest.post("/jobs/batch-create", json!({"jobs": [definition("same"), definition("same")]})).await;
    refused.refused(409, "JOB_NAME_TAKEN");
    assert!(jobs(&rest).await.is_empty());

    let made = rest.post("/jobs/batch-create", json!({"jobs": [definition("first"), definition("second")]})).await.ok();
    let ids: Vec<String> = list(&made, "jobs").iter().map(id).collect();
    assert_eq!(ids.len(), 2);
    let nobody = uuid::Uuid::new_v4().to_string();
    let triggers = json!({"triggers": [{"id": ids[0]}, {"id": nobody}, {"id": ids[1]}]});
    let error = rest.post("/jobs/batch-trigger", triggers).await.refused(404, "JOB_NOT_FOUND");
    assert!(error.to_string().contains('1'), "it does not say which: {error:#}");
    assert!(rest.executions(&ids[0]).await.is_empty(), "a part of it was made");

    let triggers = json!({"triggers": [{"id": ids[0]}, {"id": ids[1], "parameters": {"n": 1}}]});
    let made = rest.post("/jobs/batch-trigger", triggers).await.ok();
    for (execution, job) in list(&made, "executions").iter().zip(&ids) {
        assert_eq!(execution["jobId"], **job);
        assert_eq!(rest.finished(&id(execution)).await["status"], "completed");
    }
}

async fn jobs(rest: &Rest) -> Vec<Value> {
    list(&rest.get("/jobs").await.ok(), "jobs")
}

async fn a_passed_version_is_refused(world: World) {
    let system = world.system().await;
    let rest = system.rest();
    let job = rest.create(definition("versioned")).await;
    let path = format!("/jobs/{job}");
    let read = rest.job(&job).await;
    let version = read["version"].to_string();
    let mut change = read.clone();
    change["description"] = json!("changed");
    let update = |tag: String, body: &Value| {
        let (rest, path, body) = (rest.clone(), path.clone(), body.to_string());
        async move { rest.send(Method::PUT, &path, &[("if-match", &tag)], Some(body)).await }
    };
    let changed = update(format!("\"{version}\""), &change).await.ok();
    assert_eq!(changed["description"], "changed");
    assert!(changed["version"].as_i64() > read["version"].as_i64());
    update(format!("\"{version}\""), &change).await.refused(409, "VERSION_CONFLICT");
    // What was read carries its version, so that sending it back is guarded as well.
    rest.put(&path, read).await.refused(409, "VERSION_CONFLICT");
    rest.put(&path, definition("versioned")).await.ok();
}
