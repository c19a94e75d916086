//! A coordinator dies and comes back; an agent is asked to go.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::stopping::{dead, pid_in};
use crate::target::{Arrival, Target};
use crate::wait::{SOON, until_true};
use crate::world::World;

on_each_engine!(a_killed_coordinator_takes_up_where_it_was, an_agent_that_is_asked_to_go_finishes_its_work);

async fn a_killed_coordinator_takes_up_where_it_was(world: World) {
    let mut server = world.server(&[]).await;
    let address = server.grpc.strip_prefix("http://").unwrap().to_owned();
    let agent = world.agent("a", &[&server], &[]).await;
    let rest = server.rest();
    let target = Target::start().await;
    let ticks = rest
        .create(json!({"name": "ticks", "intervalMs": 500, "jobType": "http", "config": {"url": target.url("/")}}))
        .await;
    let script = r#"echo $$ > "$DIR/pid"; until [ -e "$DIR/go" ]; do sleep 0.05; done; echo whole"#;
    let config = json!({"command": script, "environment": {"DIR": world.directory().display().to_string()}});
    let long = rest.trigger(&rest.create_manual("long", "shell", config).await).await;
    let child = pid_in(&world.path("pid")).await;
    rest.running(&long).await;
    target.after(2, SOON).await;
    server.process.kill();
    std::fs::write(world.path("go"), "").unwrap();
    dead(&[child]).await;
    let before = target.arrivals().len();

    // On the same port, which the agent knows.
    let server = world.server(&[("ORRERY_GRPC", &address)]).await;
    let rest = server.rest();
    let run = rest.finished(&long).await;
    assert_eq!((&run["status"], &run["epoch"]), (&json!("completed"), &json!(1)), "{run:#}");
    assert_eq!(run["result"]["result"]["stdout"], "whole\n", "{run:#}");
    target.after(before + 3, SOON).await;
    rest.post(&format!("/jobs/{ticks}/pause"), json!({})).await.ok();
    until_true("what has fired is over", SOON, async || {
        rest.executions(&ticks).await.iter().all(|e| e["status"] == "completed")
    })
    .await;
    let known: BTreeSet<String> = rest.executions(&ticks).await.iter().map(crate::rest::id).collect();
    let arrivals = target.arrivals();
    let arrived: BTreeSet<String> = arrivals.iter().map(Arrival::execution).collect();
    assert_eq!(arrived, known);
    assert_eq!(arrivals.len(), known.len(), "one arrived twice");
    drop(agent);
}

async fn an_agent_that_is_asked_to_go_finishes_its_work(world: World) {
    let server = world.server(&[]).await;
    let rest = server.rest();
    let mut leaving = world.agent("leaving", &[&server], &[]).await;
    let script = r#"echo $$ > "$DIR/pid"; until [ -e "$DIR/go" ]; do sleep 0.05; done"#;
    let config = json!({"command": script, "environment": {"DIR": world.directory().display().to_string()}});
    let job = rest
        .create(json!({"name": "long", "manual": true, "jobType": "shell", "maxConcurrent": 0, "config": config}))
        .await;
    let first = rest.trigger(&job).await;
    pid_in(&world.path("pid")).await;
    rest.running(&first).await;
    leaving.signal(Signal::TERM);
    until_true("it drains", SOON, async || rest.workers().await.iter().any(|w| w["state"] == "draining")).await;
    let second = rest.trigger(&job).await;
    let why = rest.get(&format!("/executions/{second}/explain")).await.ok();
    assert_eq!(why["reasons"][0]["code"], "NO_AGENT", "{why:#}");
    std::fs::write(world.path("go"), "").unwrap();
    let run = rest.finished(&first).await;
    assert_eq!((&run["status"], &run["epoch"]), (&json!("completed"), &json!(1)), "{run:#}");
    let status = leaving.ended(Duration::from_secs(15)).await;
    assert!(status.success(), "{status}: {}", leaving.stderr());
    // It has said goodbye: its session, which would live for 15 s, ends at once.
    until_true("its session is over", Duration::from_secs(5), async || rest.workers().await.is_empty()).await;
    let _next = world.agent("next", &[&server], &[]).await;
    assert_eq!(rest.finished(&second).await["workerName"], "next");
}
