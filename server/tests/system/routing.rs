//! Work goes to agents that can do it, evenly, and what waits says for whom.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::rest::Rest;
use crate::wait::SOON;
use crate::world::World;

on_each_engine!(queues_and_labels_lead_to_agents, the_least_loaded_is_next, everyone_has_a_turn);

async fn job(rest: &Rest, name: &str, route: Value) -> String {
    let mut job = json!({"name": name, "manual": true, "jobType": "command", "config": {"command": "true"}});
    job.as_object_mut().unwrap().extend(route.as_object().unwrap().clone());
    rest.create(job).await
}

async fn queues_and_labels_lead_to_agents(world: World) {
    let server = world.server(&[]).await;
    let rest = server.rest();
    let heavy = job(&rest, "heavy", json!({"queue": "heavy"})).await;
    let european = job(&rest, "european", json!({"selector": {"zone": "eu", "disk": "ssd"}})).await;
    let waiting = rest.trigger(&heavy).await;
    let why = rest.get(&format!("/executions/{waiting}/explain")).await.ok();
    assert_eq!(why["reasons"][0]["code"], "NO_AGENT", "{why:#}");
    assert!(why["summary"].as_str().unwrap().contains("no agent is connected"), "{why:#}");

    let _plain = world.agent("plain", &[&server], &["--label", "zone=us"]).await;
    let _heavy = world.agent("heavy", &[&server], &["--queue", "heavy"]).await;
    assert_eq!(rest.finished(&waiting).await["workerName"], "heavy");
    assert_eq!(rest.run(&job(&rest, "any", json!({})).await).await["workerName"], "plain");

    let waiting = rest.trigger(&european).await;
    let why = rest.get(&format!("/executions/{waiting}/explain")).await.ok();
    let reason = &why["reasons"][0];
    assert_eq!(reason["code"], "NO_AGENT", "{why:#}");
    let message = reason["message"].as_str().unwrap();
    assert!(message.contains("zone=eu") && message.contains("disk=ssd"), "it does not say what is missing: {message}");
    assert_eq!(rest.execution(&waiting).await["status"], "pending");

    let _eu = world.agent("eu", &[&server], &["--label", "zone=eu", "--label", "disk=ssd"]).await;
    assert_eq!(rest.finished(&waiting).await["workerName"], "eu");
}

async fn the_least_loaded_is_next(world: World) {
    let server = world.server(&[]).await;
    let rest = server.rest();
    let _a = world.agent("a", &[&server], &["--slots", "3", "--label", "who=a"]).await;
    let _b = world.agent("b", &[&server], &["--slots", "3", "--label", "who=b"]).await;
    at_work(&rest, "a").await;
    at_work(&rest, "b").await;
    let config = json!({"command": "sleep", "args": ["600"]});
    let job = rest
        .create(json!({"name": "long", "manual": true, "jobType": "command", "maxConcurrent": 0, "config": config}))
        .await;
    let mut taken: BTreeMap<String, u32> = BTreeMap::new();
    for pair in 1..=3 {
        for _ in 0..2 {
            let run = rest.trigger(&job).await;
            let by = rest.running(&run).await["workerName"].as_str().unwrap().to_owned();
            *taken.entry(by).or_default() += 1;
        }
        assert_eq!(taken.values().copied().collect::<Vec<_>>(), [pair, pair], "{taken:?}");
    }
    let waiting = rest.trigger(&job).await;
    let busy = rest.get(&format!("/executions/{waiting}/explain")).await.ok();
    assert_eq!(busy["reasons"][0]["code"], "AGENTS_BUSY", "{busy:#}");
}

async fn everyone_has_a_turn(world: World) {
    let server = world.server(&[("ORRERY_STRATEGY", "round-robin")]).await;
    let rest = server.rest();
    let _a = world.agent("a", &[&server], &["--label", "who=a"]).await;
    let _b = world.agent("b", &[&server], &["--label", "who=b"]).await;
    at_work(&rest, "a").await;
    at_work(&rest, "b").await;
    let job = job(&rest, "short", json!({"maxConcurrent": 0})).await;
    let triggers: Vec<Value> = (0..8).map(|_| json!({"id": job})).collect();
    rest.post("/jobs/batch-trigger", json!({"triggers": triggers})).await.ok();
    let all = crate::wait::until("all are done", SOON, async || {
        Some(rest.executions(&job).await).filter(|all| all.iter().all(|e| e["status"] == "completed"))
    })
    .await;
    let by_a = all.iter().filter(|e| e["workerName"] == "a").count();
    assert_eq!((by_a, all.len()), (4, 8));
}

/// Gives an agent something to do: one that is connected may not have said yet how much it takes.
async fn at_work(rest: &Rest, name: &str) {
    let only = job(rest, &format!("only-{name}"), json!({"selector": {"who": name}})).await;
    assert_eq!(rest.run(&only).await["workerName"], name);
}
