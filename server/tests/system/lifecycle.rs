//! A job's life: paused, resumed, stopped, at its end, deleted.

use chrono::{DateTime, Duration, SecondsFormat, Utc};
use serde_json::{Value, json};

use crate::rest::{Rest, id};
use crate::wait::{SOON, until, until_true};
use crate::world::World;

on_each_engine!(
    a_pause_leaves_one_omission,
    pauses_in_quick_succession_account_for_every_instant,
    a_paused_job_can_be_triggered,
    a_stopped_job_cannot,
    it_ends_after_its_last_execution,
    it_ends_at_its_end_date,
    one_instant_fires_once,
    intervals_keep_their_distance,
    deleting_keeps_history_and_frees_the_name,
);

fn scheduled(name: &str, schedule: Value) -> Value {
    let mut job = json!({"name": name, "jobType": "command", "config": {"command": "true"}});
    job.as_object_mut().unwrap().extend(schedule.as_object().unwrap().clone());
    job
}

async fn act(rest: &Rest, job: &str, verb: &str) -> Value {
    rest.post(&format!("/jobs/{job}/{verb}"), json!({})).await.ok()
}

async fn a_pause_leaves_one_omission(world: World) {
    let system = world.system().await;
    let rest = system.rest();
    let job = rest.create(scheduled("pauses", json!({"intervalMs": 200}))).await;
    until_true("it fires", SOON, async || rest.job(&job).await["executionCount"].as_i64() > Some(0)).await;
    assert_eq!(act(&rest, &job, "pause").await["status"], "paused");
    let paused = rest.job(&job).await;
    // What goes on meanwhile can be watched from outside only: a second of its clock passes.
    let then: DateTime<Utc> = now(&rest).await + Duration::seconds(1);
    until_true("a second has passed", SOON, async || now(&rest).await > then).await;
    assert_eq!(rest.job(&job).await["executionCount"], paused["executionCount"], "it fired while it was paused");
    let why = rest.get(&format!("/jobs/{job}/explain")).await.ok();
    assert_eq!(why["reasons"][0]["code"], "JOB_PAUSED", "{why:#}");

    assert_eq!(act(&rest, &job, "resume").await["status"], "active");
    let before = paused["executionCount"].as_i64();
    until_true("it fires again", SOON, async || rest.job(&job).await["executionCount"].as_i64() > before).await;
    act(&rest, &job, "pause").await;
    let ranges: Vec<Value> = rest.omissions(&job).await.into_iter().filter(|o| o["count"].as_i64() > Some(1)).collect();
    assert_eq!(ranges.len(), 1, "{ranges:#?}");
    assert_eq!(ranges[0]["reason"], "paused");
    assert!(ranges[0]["count"].as_i64() >= Some(4), "{ranges:#?}");
    every_instant_is_accounted_for(&rest, &job, 200).await;
}

/// A pause may come between a fire's instant and its release, and the next one before the planner has seen the resumption.
async fn pauses_in_quick_succession_account_for_every_instant(world: World) {
    let system = world.system().await;
    let rest = system.rest();
    let job = rest.create(scheduled("flickers", json!({"intervalMs": 100, "maxConcurrent": 0}))).await;
    for round in 0..30 {
        act(&rest, &job, "pause").await;
        let then = now(&rest).await + Duration::milliseconds(round * 37 % 220);
        until_true("the pause has lasted", SOON, async || now(&rest).await >= then).await;
        act(&rest, &job, "resume").await;
    }
    let before = rest.job(&job).await["executionCount"].as_i64();
    until_true("it fires again", SOON, async || rest.job(&job).await["executionCount"].as_i64() > before).await;
    act(&rest, &job, "pause").await;
    every_instant_is_accounted_for(&rest, &job, 100).await;
}

/// Each instant of an interval is an execution or lies in one omission: none is silent, none is told twice.
async fn every_instant_is_accounted_for(rest: &Rest, job: &str, interval_ms: i64) {
    let executions = until("what has fired is over", SOON, async || {
        Some(rest.executions(job).await).filter(|all| all.iter().all(|e| e["status"] == "completed"))
    })
    .await;
    let mut instants: Vec<DateTime<Utc>> = executions.iter().map(|e| time(&e["scheduledAt"])).collect();
    let omissions = rest.omissions(job).await;
    for omission in &omissions {
        let (from, count) = (time(&omission["from"]), omission["count"].as_i64().unwrap());
        instants.extend((0..count).map(|n| from + Duration::milliseconds(n * interval_ms)));
        assert_eq!(time(&omission["to"]), instants[instants.len() - 1], "the count and the range do not agree");
    }
    instants.sort();
    let gaps: Vec<i64> = instants.windows(2).map(|pair| (pair[1] - pair[0]).num_milliseconds()).collect();
    assert!(gaps.iter().all(|gap| *gap == interval_ms), "{gaps:?} {omissions:#?}");
}

async fn a_paused_job_can_be_triggered(world: World) {
    let system = world.system().await;
    let rest = system.rest();
    let job = rest.create(scheduled("rests", json!({"cronExpression": "0 0 1 1 *"}))).await;
    act(&rest, &job, "pause").await;
    let run = rest.run(&job).await;
    assert_eq!((&run["status"], &run["triggerType"]), (&json!("completed"), &json!("manual")), "{run:#}");
}

async fn a_stopped_job_cannot(world: World) {
    let system = world.system().await;
    let rest = system.rest();
    let job = rest.create(scheduled("stops", json!({"cronExpression": "0 0 1 1 *"}))).await;
    assert_eq!(act(&rest, &job, "stop").await["status"], "inactive");
    rest.post(&format!("/jobs/{job}/trigger"), json!({})).await.refused(409, "JOB_INACTIVE");
    assert_eq!(act(&rest, &job, "resume").await["status"], "active");
    assert_eq!(rest.run(&job).await["status"], "completed");
}

async fn it_ends_after_its_last_execution(world: World) {
    let system = world.system().await;
    let rest = system.rest();
    let job = rest.create(scheduled("three", json!({"intervalMs": 150, "maxExecutions": 3}))).await;
    inactive(&rest, &job).await;
    let all = until("they end", SOON, async || {
        Some(rest.executions(&job).await).filter(|all| all.iter().all(|e| e["status"] == "completed"))
    })
    .await;
    assert_eq!(all.len(), 3);
    assert_eq!(rest.job(&job).await["executionCount"], 3);
    let why = rest.get(&format!("/jobs/{job}/explain")).await.ok();
    assert!(why["summary"].as_str().unwrap().contains("all of its 3 executions"), "{why:#}");
}

async fn it_ends_at_its_end_date(world: World) {
    let system = world.system().await;
    let rest = system.rest();
    let end = now(&rest).await + Duration::milliseconds(1500);
    let job = rest.create(scheduled("ends", json!({"intervalMs": 300, "endDate": written(end)}))).await;
    inactive(&rest, &job).await;
    let all = rest.executions(&job).await;
    assert!((3..=5).contains(&all.len()), "{} fires in 1500 ms", all.len());
    assert!(all.iter().all(|e| time(&e["scheduledAt"]) <= end), "it fired after its end");
}

async fn one_instant_fires_once(world: World) {
    let system = world.system().await;
    let rest = system.rest();
    let at = now(&rest).await + Duration::milliseconds(1200);
    let job = rest.create(scheduled("once", json!({"runAt": written(at)}))).await;
    assert_eq!(rest.job(&job).await["nextExecutionAt"], written(at));
    let run = until("it completes", SOON, async || {
        rest.executions(&job).await.into_iter().find(|e| e["status"] == "completed")
    })
    .await;
    assert_eq!(run["scheduledAt"], written(at));
    assert!(time(&run["startedAt"]) >= at, "it started early: {run:#}");
    inactive(&rest, &job).await;
    assert_eq!(rest.executions(&job).await.len(), 1);
}

async fn intervals_keep_their_distance(world: World) {
    let system = world.system().await;
    let rest = system.rest();
    let job = rest.create(scheduled("beats", json!({"intervalMs": 250, "maxExecutions": 6}))).await;
    inactive(&rest, &job).await;
    let mut times: Vec<_> = rest.executions(&job).await.iter().map(|e| time(&e["scheduledAt"])).collect();
    times.sort();
    let gaps: Vec<i64> = times.windows(2).map(|pair| (pair[1] - pair[0]).num_milliseconds()).collect();
    // A fire that found the one before still running is an omission, and then the gap is a multiple.
    let omitted: i64 = rest.omissions(&job).await.iter().map(|o| o["count"].as_i64().unwrap()).sum();
    assert!(gaps.iter().all(|gap| gap % 250 == 0 && *gap > 0), "{gaps:?}");
    assert_eq!(gaps.iter().sum::<i64>() / 250, 5 + omitted, "{gaps:?}");
}

async fn deleting_keeps_history_and_frees_the_name(world: World) {
    let system = world.system().await;
    let rest = system.rest();
    let job = rest.create_manual("fleeting", "command", json!({"command": "true"})).await;
    let run = rest.run(&job).await;
    rest.post("/jobs", scheduled("fleeting", json!({"manual": true}))).await.refused(409, "JOB_NAME_TAKEN");

    assert_eq!(rest.delete(&format!("/jobs/{job}")).await.ok()["deleted"], true);
    rest.get(&format!("/jobs/{job}")).await.refused(404, "JOB_NOT_FOUND");
    assert_eq!(rest.execution(&id(&run)).await["status"], "completed");
    assert_eq!(rest.executions(&job).await.len(), 1, "its history is gone");
    let again = rest.create_manual("fleeting", "command", json!({"command": "true"})).await;
    assert_ne!(again, job);
    assert_eq!(rest.run(&again).await["status"], "completed");
}

async fn inactive(rest: &Rest, job: &str) {
    until_true("the job becomes inactive", SOON, async || rest.job(job).await["status"] == "inactive").await;
}

/// The database's clock.
async fn now(rest: &Rest) -> DateTime<Utc> {
    time(&rest.get("/status").await.ok()["now"])
}

fn written(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap_or_else(|| panic!("no instant: {value}")).parse().unwrap()
}
