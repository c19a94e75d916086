//! What becomes of a fire that comes while its job runs.

use serde_json::{Value, json};

use crate::rest::{Rest, id};
use crate::wait::{SOON, until};
use crate::world::World;

on_each_engine!(
    forbid_omits,
    queue_one_keeps_one,
    replace_cancels_what_runs,
    allow_runs_them_all,
    a_trigger_at_the_limit_is_refused
);

/// A job that fires each half second and takes longer than that, or for ever.
async fn crowded(rest: &Rest, overlap: &str, seconds: &str, most: Option<i64>) -> String {
    rest.create(json!({
        "name": overlap, "intervalMs": 500, "jobType": "command", "overlap": overlap, "maxExecutions": most,
        "config": {"command": "sleep", "args": [seconds]},
    }))
    .await
}

async fn forbid_omits(world: World) {
    let system = world.system().await;
    let rest = system.rest();
    let job = crowded(&rest, "forbid", "600", None).await;
    let omissions = until("two fires are omitted", SOON, async || {
        Some(rest.omissions(&job).await).filter(|omissions| omissions.len() >= 2)
    })
    .await;
    for omission in &omissions {
        assert_eq!((&omission["reason"], &omission["count"]), (&json!("overlap"), &json!(1)), "{omission:#}");
        assert!(omission["detail"].as_str().unwrap().contains("1 of 1"), "{omission:#}");
    }
    assert_eq!(due(&rest, &job).await.len(), 1);
    assert_eq!(rest.job(&job).await["executionCount"], 1, "what was omitted is counted");
}

async fn queue_one_keeps_one(world: World) {
    let system = world.system().await;
    let rest = system.rest();
    let job = crowded(&rest, "queue_one", "600", None).await;
    until("fires are omitted", SOON, async || Some(rest.omissions(&job).await).filter(|o| o.len() >= 2)).await;
    let states = statuses(&due(&rest, &job).await);
    assert_eq!(states, ["pending", "running"], "one runs and one waits");
    let waiting = due(&rest, &job).await.into_iter().find(|e| e["status"] == "pending").unwrap();
    let why = rest.get(&format!("/executions/{}/explain", id(&waiting))).await.ok();
    assert_eq!(why["reasons"][0]["code"], "CONCURRENCY_LIMIT", "{why:#}");
}

async fn replace_cancels_what_runs(world: World) {
    let system = world.system().await;
    let rest = system.rest();
    let job = crowded(&rest, "replace", "600", Some(3)).await;
    let last = until("the third runs, the others are cancelled", SOON, async || {
        let all = due(&rest, &job).await;
        (statuses(&all) == ["cancelled", "cancelled", "running"]).then_some(all)
    })
    .await;
    let newest = last.iter().max_by_key(|e| e["scheduledAt"].as_str().unwrap().to_owned()).unwrap();
    assert_eq!(newest["status"], "running", "{last:#?}");
    let replaced = last.iter().find(|e| e["status"] == "cancelled").unwrap();
    assert!(!replaced["cancelRequestedAt"].is_null(), "{replaced:#}");
}

async fn allow_runs_them_all(world: World) {
    let system = world.system().await;
    let rest = system.rest();
    let job = crowded(&rest, "allow", "0.8", Some(3)).await;
    let all = until("all three complete", SOON, async || {
        Some(rest.executions(&job).await).filter(|all| statuses(all) == ["completed"; 3])
    })
    .await;
    let mut times: Vec<_> = all.iter().map(|e| (text(e, "startedAt"), text(e, "completedAt"))).collect();
    times.sort();
    assert!(times.windows(2).all(|pair| pair[0].1 <= pair[1].0), "maxConcurrent is 1, and two ran at once: {times:?}");
    assert!(rest.omissions(&job).await.is_empty());
}

async fn a_trigger_at_the_limit_is_refused(world: World) {
    let system = world.system().await;
    let rest = system.rest();
    let job = rest.create_manual("busy", "command", json!({"command": "sleep", "args": ["600"]})).await;
    let run = rest.trigger(&job).await;
    rest.running(&run).await;
    let refused = rest.post(&format!("/jobs/{job}/trigger"), json!({})).await;
    refused.refused(409, "JOB_ALREADY_RUNNING");
}

/// The executions of a job that have come due.
async fn due(rest: &Rest, job: &str) -> Vec<Value> {
    let now: chrono::DateTime<chrono::Utc> = chrono::Utc::now();
    let mut all = rest.executions(job).await;
    all.retain(|e| text(e, "scheduledAt").parse::<chrono::DateTime<chrono::Utc>>().unwrap() <= now);
    // A fire that has just come due may be on its way to an omission.
    all.retain(|e| e["status"] != "pending" || is_settled(e, now));
    all
}

fn is_settled(execution: &Value, now: chrono::DateTime<chrono::Utc>) -> bool {
    let at: chrono::DateTime<chrono::Utc> = text(execution, "runAt").parse().unwrap();
    now - at > chrono::Duration::milliseconds(450)
}

fn statuses(executions: &[Value]) -> Vec<String> {
    let mut all: Vec<String> = executions.iter().map(|e| text(e, "status")).collect();
    all.sort();
    all
}

fn text(execution: &Value, field: &str) -> String {
    execution[field].as_str().unwrap_or_default().to_owned()
}
