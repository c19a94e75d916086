//! Limits by key, queue and tenant: set, shown, explained, and by the command line.

use orrery_server::config::Limits;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::dead_letters::{orrery, said};
use crate::world::{EXECUTIONS, JOBS, World, hourly, id, limits, merge};

const QUEUES: &str = "/api/v1/scheduler/queues";

fn manual(more: Value) -> Value {
    let mut definition = json!({"cronExpression": null, "manual": true, "maxConcurrent": 0});
    merge(&mut definition, more);
    definition
}

/// The first reason why an execution does not run.
async fn why(world: &World, run: &Value) -> Value {
    world.get(&format!("{EXECUTIONS}/{}/explain", id(run))).await.ok()["reasons"][0].clone()
}

#[tokio::test]
async fn a_queue_is_limited_and_says_so() {
    let world = World::new().await;
    let job = world.job("letters", manual(json!({"queue": "mail"}))).await;
    let set = world.put(&format!("{QUEUES}/mail"), json!({"maxConcurrent": 2})).await.ok();
    assert_eq!((&set["name"], &set["maxConcurrent"], &set["running"]), (&json!("mail"), &json!(2), &json!(0)));
    let mut runs = Vec::new();
    for _ in 0..3 {
        runs.push(world.trigger(&job).await);
    }
    let agent = world.agent().await;
    assert_eq!(world.start(&agent).await.len(), 2);
    let reason = why(&world, &runs[2]).await;
    assert_eq!(reason["code"], "QUEUE_LIMIT");
    assert_eq!(reason["message"], "the queue mail is at its limit 2 (2 running)");
    let of_job = world.get(&format!("{JOBS}/{}/explain", id(&job))).await.ok();
    assert!(of_job["reasons"].as_array().unwrap().iter().any(|r| r["code"] == "QUEUE_LIMIT"), "{of_job}");
    let listed = world.get(QUEUES).await.ok();
    let mail = listed["queues"].as_array().unwrap().iter().find(|q| q["name"] == "mail").unwrap();
    assert_eq!((&mail["maxConcurrent"], &mail["running"]), (&json!(2), &json!(2)));
    world.put(&format!("{QUEUES}/mail"), json!({"maxConcurrent": 0})).await.ok();
    assert_eq!(world.start(&agent).await.len(), 1);
    for (name, body, code) in [
        ("mail", json!({"maxConcurrent": -1}), "INVALID_MAX_CONCURRENT"),
        ("mail", json!({"maxConcurrent": 100_001}), "INVALID_MAX_CONCURRENT"),
        ("m%C3%A4il", json!({"maxConcurrent": 1}), "INVALID_QUEUE"),
    ] {
        world.put(&format!("{QUEUES}/{name}"), body).await.refused(400, code);
    }
    let other = world.with_key(Some(Uuid::from_u128(9)), &["scheduler:read"]).await;
    other.put(&format!("{QUEUES}/mail"), json!({"maxConcurrent": 1})).await.refused(403, "PERMISSION_DENIED");
    let other = other.with_key(Some(Uuid::from_u128(9)), &["queues:update"]).await;
    other.put(&format!("{QUEUES}/mail"), json!({"maxConcurrent": 1})).await.ok();
    let mine = other.with_key(None, &["*"]).await;
    let listed = mine.get(QUEUES).await.ok();
    assert!(listed["queues"].as_array().unwrap().iter().all(|q| q["maxConcurrent"] == 0), "{listed}");
}

#[tokio::test]
async fn a_key_is_defined_shown_and_explained() {
    let world = World::new().await;
    let keyed = json!({"concurrencyKey": "customer-${parameters.customer.id}", "concurrencyLimit": 1});
    let job = world.job("sync", manual(keyed)).await;
    assert_eq!(job["concurrencyKey"], "customer-${parameters.customer.id}");
    assert_eq!(job["concurrencyLimit"], 1);
    let trigger = async |customer: Value| {
        let body = json!({"parameters": {"customer": {"id": customer}}});
        world.post(&format!("{JOBS}/{}/trigger", id(&job)), body).await.ok()
    };
    let (_first, second, _other) = (trigger(json!(7)).await, trigger(json!(7)).await, trigger(json!("x")).await);
    assert_eq!(second["concurrencyKey"], "customer-7");
    let agent = world.agent().await;
    assert_eq!(world.start(&agent).await.len(), 2);
    let reason = why(&world, &second).await;
    assert_eq!(reason["code"], "KEY_LIMIT");
    assert_eq!(reason["message"], "the concurrency key \"customer-7\" is at its limit 1 (1 running)");

    let plain = world.job("plain", manual(json!({"concurrencyKey": "k"}))).await;
    assert_eq!(plain["concurrencyLimit"], 1, "where none is given");
    let path = format!("{JOBS}/{}", id(&plain));
    let mut read = world.get(&path).await.ok();
    read["concurrencyLimit"] = json!(5);
    assert_eq!(world.put(&path, read).await.ok()["concurrencyLimit"], 5);
    let mut without = world.get(&path).await.ok();
    without["concurrencyKey"] = json!("");
    world.put(&path, without.clone()).await.refused(400, "INVALID_CONCURRENCY_LIMIT");
    without["concurrencyLimit"] = json!(0);
    assert_eq!(world.put(&path, without).await.ok()["concurrencyKey"], "");
    for (wrong, code) in [
        (json!({"concurrencyKey": "${secret}"}), "INVALID_CONCURRENCY_KEY"),
        (json!({"concurrencyKey": " "}), "INVALID_CONCURRENCY_KEY"),
        (json!({"concurrencyKey": "k", "concurrencyLimit": -1}), "INVALID_CONCURRENCY_LIMIT"),
        (json!({"concurrencyLimit": 3}), "INVALID_CONCURRENCY_LIMIT"),
    ] {
        let mut definition = hourly("wrong");
        merge(&mut definition, wrong.clone());
        world.post(JOBS, definition).await.refused(400, code);
    }
}

#[tokio::test]
async fn the_tenants_limit_and_the_jobs_are_explained() {
    let world = World::with(true, Limits { tenant_max_concurrent: 1, ..limits() }).await;
    let job = world.job("two", manual(json!({"maxConcurrent": 1, "overlap": "allow"}))).await;
    world.trigger(&job).await;
    let waiting = world.trigger(&job).await;
    let agent = world.agent().await;
    assert_eq!(world.start(&agent).await.len(), 1);
    let explained = world.get(&format!("{EXECUTIONS}/{}/explain", id(&waiting))).await.ok();
    let reasons = explained["reasons"].as_array().unwrap();
    let told: Vec<(&str, &str)> =
        reasons.iter().map(|r| (r["code"].as_str().unwrap(), r["message"].as_str().unwrap())).collect();
    assert_eq!(told[0], ("TENANT_LIMIT", "the tenant is at its limit 1 (1 running)"));
    assert_eq!(told[1], ("CONCURRENCY_LIMIT", "the job is at its maxConcurrent 1 (1 running)"));
}

#[tokio::test]
async fn the_command_line_limits_queues_and_keys() {
    let world = World::new().await;
    let made = ["job", "create", "--name", "sync", "--manual", "--command", "true", "--queue", "mail"];
    let keyed = ["--concurrency-key", "k", "--concurrency-limit", "3"];
    assert_eq!(said(&orrery(&world, &[&made[..], &keyed].concat()).await).0, 0);
    let job = said(&orrery(&world, &["job", "get", "sync"]).await).1;
    assert!(job.contains("k, 3 at once"), "{job}");
    let set = said(&orrery(&world, &["queue", "set", "mail", "--max-concurrent", "5"]).await);
    assert_eq!(set, (0, "queue mail runs 5 at once; 0 running\n".to_owned()));
    let list = said(&orrery(&world, &["queue", "list"]).await);
    let row: Vec<&str> = list.1.lines().find(|line| line.starts_with("mail")).unwrap().split_whitespace().collect();
    assert_eq!((list.0, row[4]), (0, "5"), "{}", list.1);
    let json = said(&orrery(&world, &["--json", "queue", "set", "mail", "--max-concurrent", "0"]).await);
    assert_eq!(serde_json::from_str::<Value>(&json.1).unwrap()["maxConcurrent"], 0);
    let wrong = said(&orrery(&world, &["queue", "set", "ma il", "--max-concurrent", "1"]).await);
    assert!(wrong.0 == 2 && wrong.1.contains("INVALID_QUEUE"), "{wrong:?}");
    assert_eq!(said(&orrery(&world, &["queue", "set", "mail", "--max-concurrent", "x"]).await).0, 2);
    let alone = said(&orrery(&world, &[&made[..], &["--concurrency-limit", "3"]].concat()).await);
    assert_eq!(alone.0, 2, "{alone:?}");
}
