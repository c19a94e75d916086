//! Agents that die or freeze in the middle of their work: it is done elsewhere, and what they say too late counts for nothing.

use std::path::Path;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::journal::has_forgotten;
use crate::process::{Process, is_alive};
use crate::proxy::Proxy;
use crate::rest::{Rest, id};
use crate::stopping::{dead, pid_in};
use crate::token::token;
use crate::wait::{SOON, until, until_true};
use crate::world::{Server, World};

on_each_engine!(
    a_killed_agents_work_runs_elsewhere,
    a_frozen_agent_wakes_too_late,
    a_result_that_comes_too_late_is_refused_and_said,
    at_most_once_is_not_repeated,
);

/// Sessions that end soon, though not where a busy machine holds a living agent's heartbeats up for a second or two.
const SHORT: [(&str, &str); 1] = [("ORRERY_SESSION_TTL_MS", "5000")];
const SHORT_MS: i64 = 5000;

/// Says who it is; the first attempt waits for a file that may never come.
const SCRIPT: &str = r#"
    echo $$ > "$DIR/$NAME-$ORRERY_EPOCH"
    [ "$ORRERY_EPOCH" -gt 1 ] || until [ -e "$DIR/$NAME-go" ]; do sleep 0.05; done
    echo "epoch $ORRERY_EPOCH"
"#;

async fn job(rest: &Rest, name: &str, directory: &Path, delivery: &str) -> String {
    let environment = json!({"DIR": directory.display().to_string(), "NAME": name});
    let config = json!({"command": SCRIPT, "environment": environment});
    rest.create(json!({"name": name, "manual": true, "jobType": "shell", "config": config, "delivery": delivery})).await
}

async fn a_killed_agents_work_runs_elsewhere(world: World) {
    let server = world.server(&SHORT).await;
    let rest = server.rest();
    let mut first = world.agent("first", &[&server], &[]).await;
    let run = rest.trigger(&job(&rest, "work", world.directory(), "at_least_once").await).await;
    let child = pid_in(&world.path("work-1")).await;
    rest.running(&run).await;
    let _second = world.agent("second", &[&server], &[]).await;
    let killed_at = Utc::now();
    first.kill();
    dead(&[child]).await;

    let run = rest.finished(&run).await;
    assert_eq!((&run["status"], &run["epoch"], &run["workerName"]), (&json!("completed"), &json!(2), &json!("second")));
    assert_eq!(run["result"]["result"]["stdout"], "epoch 2\n", "{run:#}");
    assert_eq!(outcomes(&run), [("first", "lost"), ("second", "completed")], "{run:#}");
    assert_eq!(run["attempts"][0]["errorType"], "SYSTEM_ERROR", "{run:#}");
    let again: DateTime<Utc> = run["attempts"][1]["startedAt"].as_str().unwrap().parse().unwrap();
    let after = (again - killed_at).num_milliseconds();
    // The session's life, and two seconds; the rest is the machine's.
    assert!(after < SHORT_MS + 2000 + 1000, "it was taken over after {after} ms");
}

/// It is frozen for longer than its session lives.
async fn a_frozen_agent_wakes_too_late(world: World) {
    let server = world.server(&SHORT).await;
    let rest = server.rest();
    let frozen = world.agent("frozen", &[&server], &[]).await;
    let mut runs = Vec::new();
    for name in ["endless", "ending"] {
        runs.push(rest.trigger(&job(&rest, name, world.directory(), "at_least_once").await).await);
    }
    let endless = pid_in(&world.path("endless-1")).await;
    let ending = pid_in(&world.path("ending-1")).await;
    for run in &runs {
        rest.running(run).await;
    }
    let _other = world.agent("other", &[&server], &[]).await;
    frozen.signal(Signal::STOP);
    let stopped_at = Instant::now();
    // It cannot kill them, and somebody else will have the work at the end of its session: their supervisors do.
    dead(&[endless, ending]).await;
    let after = stopped_at.elapsed();
    assert!(after < Duration::from_millis(SHORT_MS.unsigned_abs()), "they went on for {after:?}");
    for run in &runs {
        taken_over(&rest.finished(run).await);
    }
    frozen.signal(Signal::CONT);

    returns(&server, &frozen).await;
    for run in &runs {
        // What it had to say of the first epoch has been said by now, or never will be.
        taken_over(&rest.execution(run).await);
    }
    let numbers = rest.get("/metrics").await.ok();
    assert_eq!((&numbers["successfulExecutions"], &numbers["totalExecutions"]), (&json!(2), &json!(2)), "{numbers:#}");
}

/// The agent is cut off while its work ends, and comes back when somebody else has done it.
async fn a_result_that_comes_too_late_is_refused_and_said(world: World) {
    let server = world.server(&SHORT).await;
    let rest = server.rest();
    let proxy = Proxy::to(&server.grpc).await;
    let far = world.start_agent_to("far", &proxy.url(), &[], &token());
    server.has_agent("far").await;
    let run = rest.trigger(&job(&rest, "work", world.directory(), "at_least_once").await).await;
    let child = pid_in(&world.path("work-1")).await;
    rest.running(&run).await;
    let _other = world.agent("other", &[&server], &[]).await;
    proxy.cut();
    std::fs::write(world.path("work-go"), "").unwrap();
    dead(&[child]).await;
    let done = rest.finished(&run).await;
    assert_eq!(outcomes(&done), [("far", "lost"), ("other", "completed")], "{done:#}");
    assert_eq!(refused(&server).await, 0.0);
    proxy.mend();

    until_true("the late result is refused", SOON + Duration::from_secs(10), async || refused(&server).await > 0.0)
        .await;
    let said = "a result of epoch 1 came from agent far after its lease was over, and was refused";
    until_true("the log says so", SOON, async || {
        let logs = rest.get(&format!("/executions/{run}/logs")).await.ok();
        logs["entries"].as_array().unwrap().iter().any(|entry| entry["text"].as_str().unwrap().trim() == said)
    })
    .await;
    assert_eq!(rest.execution(&run).await, done, "it changed what had happened");
    // It is acknowledged, and so told no more.
    let journal = world.path("agent-far");
    until_true("the agent forgets it", SOON, async || has_forgotten(&journal, &run, 1)).await;
    assert_eq!(refused(&server).await, 1.0, "{}", far.stderr());
}

/// Messages of agents that the server has refused, for whatever reason.
async fn refused(server: &Server) -> f64 {
    let text = server.rest().elsewhere(&server.metrics, "/metrics").await.text;
    let lines = text.lines().filter(|line| line.starts_with("scheduler_refused_writes_total{"));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

async fn at_most_once_is_not_repeated(world: World) {
    let server = world.server(&SHORT).await;
    let rest = server.rest();
    let mut first = world.agent("first", &[&server], &[]).await;
    let run = rest.trigger(&job(&rest, "once", world.directory(), "at_most_once").await).await;
    pid_in(&world.path("once-1")).await;
    rest.running(&run).await;
    let _second = world.agent("second", &[&server], &[]).await;
    first.kill();
    let run = rest.finished(&run).await;
    assert_eq!((&run["status"], &run["errorType"]), (&json!("failed"), &json!("SYSTEM_ERROR")), "{run:#}");
    assert_eq!(outcomes(&run), [("first", "lost")], "{run:#}");
    assert!(!world.path("once-2").exists(), "it was repeated");
}

fn taken_over(run: &Value) {
    assert_eq!((&run["status"], &run["workerName"]), (&json!("completed"), &json!("other")), "{}: {run:#}", id(run));
    assert_eq!(run["result"]["result"]["stdout"], "epoch 2\n", "{run:#}");
    assert_eq!(outcomes(run), [("frozen", "lost"), ("other", "completed")], "{run:#}");
}

fn outcomes(run: &Value) -> Vec<(&str, &str)> {
    let attempts = run["attempts"].as_array().unwrap().iter();
    attempts.map(|a| (a["workerName"].as_str().unwrap(), a["outcome"].as_str().unwrap())).collect()
}

/// Waits until the agent is connected with a new session, which has nothing of the old one.
async fn returns(server: &Server, agent: &Process) {
    assert!(is_alive(agent.pid()));
    let rest = server.rest();
    until("the agent has a new session", SOON + Duration::from_secs(10), async || {
        let workers = rest.workers().await;
        workers.into_iter().find(|w| w["name"] == "frozen" && w["state"] == "connected" && w["running"] == 0)
    })
    .await;
}
