//! A coordinator dies and comes back; an agent is asked to go.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::stopping::{dead, pid_in};
use crate::target::{Arrival, Target};
use crate::wait::{SOON, until_true};
use crate::world::World;

on_each_engine!(
    a_killed_coordinator_takes_up_where_it_was,
    an_agent_that_is_asked_to_go_finishes_its_work,
    what_agents_stop_at_their_end_begins_anew,
);

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

/// More often than leases may be lost: an interruption is no loss, and no retry.
async fn what_agents_stop_at_their_end_begins_anew(world: World) {
    let server = world.server(&[]).await;
    let rest = server.rest();
    let script = r#"echo $$ > "$DIR/$NAME-$ORRERY_EPOCH"; until [ -e "$DIR/go" ]; do sleep 0.05; done; echo whole"#;
    let job = async |name: &str, delivery: &str| {
        let environment = json!({"DIR": world.directory().display().to_string(), "NAME": name});
        let config = json!({"command": script, "environment": environment});
        let job = json!({"name": name, "manual": true, "jobType": "shell", "config": config, "delivery": delivery});
        rest.trigger(&rest.create(job).await).await
    };
    let (long, once) = (job("long", "at_least_once").await, job("once", "at_most_once").await);
    for round in 1..=4 {
        let mut agent = world.agent("a", &[&server], &["--drain-seconds", "0"]).await;
        let child = pid_in(&world.path(&format!("long-{round}"))).await;
        rest.running(&long).await;
        if round == 1 {
            pid_in(&world.path("once-1")).await;
            rest.running(&once).await;
        }
        agent.signal(Signal::TERM);
        let status = agent.ended(Duration::from_secs(15)).await;
        assert!(status.success(), "{status}: {}", agent.stderr());
        dead(&[child]).await;
        let run = rest.execution(&long).await;
        assert_eq!((&run["status"], &run["retryCount"]), (&json!("pending"), &json!(0)), "{run:#}");
    }
    std::fs::write(world.path("go"), "").unwrap();
    let _last = world.agent("b", &[&server], &[]).await;
    let run = rest.finished(&long).await;
    assert_eq!((&run["status"], &run["retryCount"]), (&json!("completed"), &json!(0)), "{run:#}");
    let outcomes: Vec<&str> =
        run["attempts"].as_array().unwrap().iter().map(|a| a["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["interrupted", "interrupted", "interrupted", "interrupted", "completed"]);

    let run = rest.finished(&once).await;
    assert_eq!((&run["status"], &run["attempts"][0]["outcome"]), (&json!("failed"), &json!("interrupted")), "{run:#}");
    assert!(run["errorMessage"].as_str().unwrap().contains("at_most_once forbids to repeat it"), "{run:#}");
    assert!(!world.path("once-2").exists(), "it was repeated");
}
