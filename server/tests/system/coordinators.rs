//! Two coordinators on one database: no leader, nothing twice, and one can die.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use orrery_proto::v1::{ExecutionStatus, FollowExecutionLogsRequest, WatchExecutionRequest};
use serde_json::{Value, json};

use crate::engine::Engine;
use crate::rest::Rest;
use crate::stopping::{dead, pid_in};
use crate::target::{Arrival, Target};
use crate::wait::{SOON, until, until_true};
use crate::world::World;

#[tokio::test]
async fn one_of_two_dies_and_nothing_is_lost() {
    let world = World::alone(Engine::Postgres).await;
    let mut first = world.server(&[]).await;
    let second = world.server(&[]).await;
    let _a = world.agent("a", &[&first, &second], &["--queue", "default", "--queue", "a"]).await;
    let _b = world.agent("b", &[&second, &first], &[]).await;
    let rest = second.rest();
    let target = Target::start().await;

    let ticks = rest
        .create(json!({
            "name": "ticks", "cronExpression": "* * * * * *", "jobType": "http", "config": {"url": target.url("/")},
        }))
        .await;
    // What runs on an agent of the coordinator that will die goes on through its death.
    let script = r#"echo $$ > "$DIR/pid"; until [ -e "$DIR/go" ]; do sleep 0.05; done"#;
    let config = json!({"command": script, "environment": {"DIR": world.directory().display().to_string()}});
    let long =
        rest.create(json!({"name": "long", "manual": true, "queue": "a", "jobType": "shell", "config": config})).await;
    let long = rest.trigger(&long).await;
    pid_in(&world.path("pid")).await;
    rest.running(&long).await;
    target.after(4, SOON).await;
    assert_ne!(coordinator_of(&rest, "a").await, coordinator_of(&rest, "b").await, "both are at the same coordinator");

    first.process.kill();
    let survivor = coordinator_of(&rest, "b").await;
    until_true("agent a has moved to the other coordinator", SOON, async || {
        coordinator_of(&rest, "a").await == survivor
    })
    .await;
    std::fs::write(world.path("go"), "").unwrap();
    let run = rest.finished(&long).await;
    assert_eq!(
        (&run["status"], &run["epoch"], &run["workerName"]),
        (&json!("completed"), &json!(1), &json!("a")),
        "{run:#}"
    );

    let before = target.arrivals().len();
    target.after(before + 4, SOON).await;
    rest.post(&format!("/jobs/{ticks}/pause"), json!({})).await.ok();
    agree(&rest, &ticks, || target.arrivals()).await;
}

/// Every second had one execution, and it arrived once.
pub(crate) async fn agree(rest: &Rest, job: &str, arrived: impl Fn() -> Vec<Arrival>) {
    let history = until("what has fired is over", SOON * 2, async || {
        let all = rest.executions(job).await;
        all.iter().all(|e| e["status"] == "completed").then_some(all)
    })
    .await;
    let arrivals = arrived();
    let arrived: BTreeSet<String> = arrivals.iter().map(Arrival::execution).collect();
    let known: BTreeSet<String> = history.iter().map(crate::rest::id).collect();
    assert_eq!(arrived, known);
    assert_eq!(arrivals.len(), known.len(), "one arrived twice");
    let instant = |value: &Value| value.as_str().unwrap().parse::<DateTime<Utc>>().unwrap();
    let mut seconds: Vec<DateTime<Utc>> = history.iter().map(|e| instant(&e["scheduledAt"])).collect();
    // A second may be an omission where the run before was held up by the death; it is then on record.
    let omissions = rest.omissions(job).await;
    seconds.extend(omissions.iter().filter(|o| o["reason"] == "overlap").map(|o| instant(&o["from"])));
    seconds.sort();
    for pair in seconds.windows(2) {
        assert_eq!((pair[1] - pair[0]).num_milliseconds(), 1000, "a second is missed or doubled: {seconds:#?}");
    }
}

async fn coordinator_of(rest: &Rest, agent: &str) -> String {
    let workers = rest.workers().await;
    let found = workers.iter().find(|w| w["name"] == agent && w["state"] == "connected");
    found.map(|w| w["coordinatorId"].as_str().unwrap().to_owned()).unwrap_or_default()
}

#[tokio::test]
async fn a_drained_coordinator_hands_over() {
    let world = World::new(Engine::Postgres).await;
    let mut first = world.server(&[]).await;
    let second = world.server(&[]).await;
    let _agent = world.agent("a", &[&first, &second], &[]).await;
    let rest = second.rest();
    let config = json!({"command": "sleep", "args": ["2"]});
    let run = rest.trigger(&rest.create_manual("sleeps", "command", config).await).await;
    rest.running(&run).await;
    first.process.signal(rustix::process::Signal::TERM);
    let status = first.process.ended(Duration::from_secs(15)).await;
    assert!(status.success(), "{status}: {}", first.process.stderr());
    let run = rest.finished(&run).await;
    assert_eq!((&run["status"], &run["epoch"]), (&json!("completed"), &json!(1)), "{run:#}");
}

/// It keeps its connections open and answers nothing.
#[tokio::test]
async fn a_frozen_coordinator_is_left() {
    let world = World::new(Engine::Postgres).await;
    let first = world.server(&[]).await;
    let second = world.server(&[]).await;
    let _agent = world.agent("a", &[&first, &second], &[]).await;
    let rest = second.rest();
    let script = r#"echo $$ > "$DIR/pid"; until [ -e "$DIR/go" ]; do sleep 0.05; done"#;
    let config = json!({"command": script, "environment": {"DIR": world.directory().display().to_string()}});
    let run = rest.trigger(&rest.create_manual("long", "shell", config).await).await;
    pid_in(&world.path("pid")).await;
    rest.running(&run).await;
    let before = coordinator_of(&rest, "a").await;
    first.process.signal(rustix::process::Signal::STOP);
    until_true("the agent has moved", Duration::from_secs(15), async || {
        let now = coordinator_of(&rest, "a").await;
        !now.is_empty() && now != before
    })
    .await;
    // What it wakes to is not its own any more.
    first.process.signal(rustix::process::Signal::CONT);
    std::fs::write(world.path("go"), "").unwrap();
    let run = rest.finished(&run).await;
    assert_eq!((&run["status"], &run["epoch"]), (&json!("completed"), &json!(1)), "{run:#}");
    assert_eq!(run["attempts"].as_array().unwrap().len(), 1, "{run:#}");
    assert_ne!(coordinator_of(&rest, "a").await, before);
}

/// Whichever coordinator is asked, it answers for the agents of all.
#[tokio::test]
async fn either_coordinator_answers_for_both() {
    let world = World::new(Engine::Postgres).await;
    let first = world.server(&[]).await;
    let second = world.server(&[]).await;
    let _agent = world.agent("a", &[&first], &[]).await;
    let (rest, client) = (second.rest(), second.client());
    let script = r#"echo $$ > "$DIR/pid"; echo begun; sleep 600"#;
    let config = json!({"command": script, "environment": {"DIR": world.directory().display().to_string()}});
    let run = rest.trigger(&rest.create_manual("long", "shell", config).await).await;
    let child = pid_in(&world.path("pid")).await;
    let mut changes = client.watch_execution(WatchExecutionRequest { id: run.clone() }).await.unwrap();
    let mut entries =
        client.follow_execution_logs(FollowExecutionLogsRequest { id: run.clone(), after: 0 }).await.unwrap();
    let entry = tokio::time::timeout(SOON, entries.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(entry.text.trim(), "begun");

    let asked = Instant::now();
    rest.post(&format!("/executions/{run}/cancel"), json!({})).await.ok();
    let mut last = None;
    while let Some(execution) = tokio::time::timeout(SOON, changes.message()).await.unwrap().unwrap() {
        last = Some(execution.status());
    }
    assert_eq!(last, Some(ExecutionStatus::Cancelled));
    assert!(
        asked.elapsed() < Duration::from_secs(4),
        "the other coordinator was not told, it took {:?}",
        asked.elapsed()
    );
    dead(&[child]).await;
    while tokio::time::timeout(SOON, entries.message()).await.unwrap().unwrap().is_some() {}

    let worker = rest.workers().await[0]["id"].as_str().unwrap().to_owned();
    rest.post(&format!("/workers/{worker}/drain"), json!({})).await.ok();
    until_true("the agent drains", SOON, async || rest.workers().await[0]["state"] == "draining").await;
    let status = rest.get("/status").await.ok();
    assert_eq!(status["coordinators"].as_array().unwrap().len(), 2, "{status:#}");
}
