//! Everything is restarted, one process after the other, under load: it costs nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::engine::Engine;
use crate::process::Process;
use crate::rest::{Rest, id};
use crate::wait::{SOON, until, until_true};
use crate::world::{Server, World};

const INTERVAL_MS: i64 = 400;

/// Leaves a line for each time it is begun.
const SCRIPT: &str = r#"echo "$ORRERY_EXECUTION_ID" >> "$LEDGER"; sleep "$1""#;

#[tokio::test]
async fn a_rolling_restart_of_everything_costs_nothing() {
    let world = World::alone(Engine::Postgres).await;
    let mut servers = [world.server(&[]).await, world.server(&[]).await];
    let mut agents = [start_agent(&world, "a", &servers).await, start_agent(&world, "b", &servers).await];
    let ledger = world.path("ledger");
    let mut jobs = Vec::new();
    for seconds in ["0.2", "0.6", "1"] {
        let environment = json!({"LEDGER": ledger.display().to_string()});
        let config = json!({"command": SCRIPT, "args": [seconds], "environment": environment});
        jobs.push(
            servers[0]
                .rest()
                .create(json!({
                    "name": format!("sleeps {seconds}"), "intervalMs": INTERVAL_MS, "maxConcurrent": 0,
                    "jobType": "shell", "config": config,
                }))
                .await,
        );
    }
    for _ in 0..3 {
        for index in [0, 1] {
            more_are_over(&servers[1 - index].rest(), &jobs[0]).await;
            restart_server(&world, &mut servers, index).await;
        }
        for (agent, name) in agents.iter_mut().zip(["a", "b"]) {
            more_are_over(&servers[0].rest(), &jobs[0]).await;
            agent.signal(Signal::TERM);
            let status = agent.ended(Duration::from_secs(30)).await;
            assert!(status.success(), "{status}: {}", agent.stderr());
            *agent = start_agent(&world, name, &servers).await;
        }
    }
    let rest = servers[0].rest();
    let mut begun: BTreeMap<String, usize> = BTreeMap::new();
    for job in &jobs {
        rest.post(&format!("/jobs/{job}/pause"), json!({})).await.ok();
    }
    let mut all = Vec::new();
    for job in &jobs {
        all.extend(one_attempt_each(&rest, job).await);
    }
    for line in std::fs::read_to_string(&ledger).unwrap().lines() {
        *begun.entry(line.to_owned()).or_default() += 1;
    }
    assert!(begun.values().all(|times| *times == 1), "one was begun twice: {begun:?}");
    all.sort();
    assert_eq!(all, begun.into_keys().collect::<Vec<_>>());
}

async fn start_agent(world: &World, name: &str, servers: &[Server; 2]) -> Process {
    let addresses = if name == "a" { [&servers[0], &servers[1]] } else { [&servers[1], &servers[0]] };
    world.agent(name, &addresses, &["--slots", "50"]).await
}

/// On the same ports, so that agents find it again, and awaited as a rolling upgrade does it.
async fn restart_server(world: &World, servers: &mut [Server; 2], index: usize) {
    let server = &mut servers[index];
    let addresses = [("ORRERY_GRPC", &server.grpc), ("ORRERY_HTTP", &server.http)]
        .map(|(name, url)| (name, url.strip_prefix("http://").unwrap().to_owned()));
    server.process.signal(Signal::TERM);
    let status = server.process.ended(Duration::from_secs(30)).await;
    assert!(status.success(), "{status}: {}", server.process.stderr());
    let addresses: Vec<(&str, &str)> = addresses.iter().map(|(name, address)| (*name, address.as_str())).collect();
    *server = world.server(&addresses).await;
    for name in ["a", "b"] {
        servers[index].has_agent(name).await;
    }
}

/// Waits until the load goes on.
async fn more_are_over(rest: &Rest, job: &str) {
    let completed = async || rest.get(&format!("/executions/stats?jobId={job}")).await.ok()["completed"].as_i64();
    let before = completed().await;
    until_true("work goes on", SOON, async || completed().await > before.map(|done| done + 2)).await;
}

/// The executions of a job: one for each instant of its interval, done at the first attempt.
async fn one_attempt_each(rest: &Rest, job: &str) -> Vec<String> {
    let executions = until("all of them are over", SOON, async || {
        Some(rest.executions(job).await).filter(|all| all.iter().all(crate::rest::is_over))
    })
    .await;
    for run in &executions {
        let attempts: Vec<&Value> = run["attempts"].as_array().unwrap().iter().map(|a| &a["outcome"]).collect();
        assert_eq!(
            (&run["status"], &run["retryCount"], attempts),
            (&json!("completed"), &json!(0), vec![&json!("completed")]),
            "{run:#}"
        );
    }
    let mut instants: Vec<DateTime<Utc>> = executions.iter().map(|run| time(&run["scheduledAt"])).collect();
    // What was due when the job was paused at the end, and had not been released.
    for omission in rest.omissions(job).await {
        assert_eq!(omission["reason"], "paused", "{omission:#}");
        let from = time(&omission["from"]);
        let count = omission["count"].as_i64().unwrap();
        instants.extend((0..count).map(|n| from + chrono::Duration::milliseconds(n * INTERVAL_MS)));
    }
    instants.sort();
    let is_gap = |pair: &&[DateTime<Utc>]| (pair[1] - pair[0]).num_milliseconds() != INTERVAL_MS;
    let gaps: Vec<&[DateTime<Utc>]> = instants.windows(2).filter(is_gap).collect();
    assert!(gaps.is_empty(), "of {} fires some are missing, or told twice: {gaps:?}", instants.len());
    executions.iter().map(id).collect()
}

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap().parse().unwrap()
}
