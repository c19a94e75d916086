//! What runs can be stopped: by a call, by its time-out, with its job; with all processes that it has started.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::process::is_alive;
use crate::rest::{Rest, id};
use crate::wait::{SOON, until, until_true};
use crate::world::World;

on_each_engine!(
    cancelling_ends_the_whole_group,
    what_traps_the_signal_is_killed,
    time_runs_out,
    stopping_a_job_cancels_its_runs,
    what_waits_is_cancelled_at_once,
);

async fn cancelling_ends_the_whole_group(world: World) {
    let system = world.system().await;
    let rest = system.rest();
    let script = r#"
        trap 'echo told >> "$DIR/told"; exit 3' TERM
        sh -c 'echo $$ > "$DIR/child"; sleep 600 & echo $! > "$DIR/grandchild"; wait' &
        wait
    "#;
    let run = rest.trigger(&shell(&rest, "group", script, world.directory()).await).await;
    let (child, grandchild) = (pid_in(&world.path("child")).await, pid_in(&world.path("grandchild")).await);
    rest.running(&run).await;
    let told = rest.post(&format!("/executions/{run}/cancel"), json!({"reason": "enough"})).await.ok();
    assert!(!told["cancelRequestedAt"].is_null(), "{told:#}");
    let run = rest.finished(&run).await;
    assert_eq!((&run["status"], &run["retryCount"]), (&json!("cancelled"), &json!(0)), "{run:#}");
    assert!(world.path("told").exists(), "SIGTERM did not arrive");
    dead(&[child, grandchild]).await;

    let over = rest.post(&format!("/executions/{}/cancel", id(&run)), json!({})).await;
    over.refused(409, "EXECUTION_ALREADY_FINISHED");
}

async fn what_traps_the_signal_is_killed(world: World) {
    let system = world.system().await;
    let rest = system.rest();
    // It takes SIGTERM and goes on; so does what it has started.
    let script = r#"
        trap '' TERM
        sh -c 'echo $$ > "$DIR/grandchild"; while :; do sleep 0.1; done' &
        echo $$ > "$DIR/child"
        while :; do sleep 0.1; done
    "#;
    let run = rest.trigger(&shell(&rest, "stubborn", script, world.directory()).await).await;
    let (child, grandchild) = (pid_in(&world.path("child")).await, pid_in(&world.path("grandchild")).await);
    rest.running(&run).await;
    rest.post(&format!("/executions/{run}/cancel"), json!({})).await.ok();
    let run = rest.finished(&run).await;
    assert_eq!(run["status"], "cancelled", "{run:#}");
    dead(&[child, grandchild]).await;
}

async fn time_runs_out(world: World) {
    let system = world.system().await;
    let rest = system.rest();
    let job = rest.create_manual("slow", "command", json!({"command": "sleep", "args": ["600"], "timeout": 700})).await;
    let run = rest.run(&job).await;
    assert_eq!((&run["status"], &run["errorType"]), (&json!("failed"), &json!("TIMEOUT")), "{run:#}");
    let took = run["durationMs"].as_i64().unwrap();
    assert!((700..5000).contains(&took), "{took} ms");
}

async fn stopping_a_job_cancels_its_runs(world: World) {
    let system = world.system().await;
    let rest = system.rest();
    let job = rest
        .create(json!({
            "name": "two", "manual": true, "jobType": "command", "maxConcurrent": 2,
            "config": {"command": "sleep", "args": ["600"]},
        }))
        .await;
    let runs = [rest.trigger(&job).await, rest.trigger(&job).await];
    for run in &runs {
        rest.running(run).await;
    }
    let stopped = rest.post(&format!("/jobs/{job}/stop"), json!({})).await.ok();
    assert_eq!(stopped["status"], "inactive");
    for run in &runs {
        assert_eq!(rest.finished(run).await["status"], "cancelled");
    }
}

async fn what_waits_is_cancelled_at_once(world: World) {
    let system = world.system().await;
    let rest = system.rest();
    let job = rest
        .create(json!({
            "name": "nowhere", "manual": true, "queue": "nobody-serves-it", "jobType": "command", "config": {"command": "true"},
        }))
        .await;
    let run = rest.trigger(&job).await;
    let answer = rest.post(&format!("/executions/{run}/cancel"), json!({})).await.ok();
    assert_eq!(answer["status"], "cancelled", "{answer:#}");
    assert_eq!(answer["attempts"], json!([]));
}

/// A job whose script finds this directory in DIR.
async fn shell(rest: &Rest, name: &str, script: &str, directory: &Path) -> String {
    let config: Value = json!({"command": script, "environment": {"DIR": directory.display().to_string()}});
    rest.create_manual(name, "shell", config).await
}

/// The number that a process writes into a file.
pub(crate) async fn pid_in(file: &Path) -> i32 {
    let what = format!("a process writes its id to {}", file.display());
    until(&what, SOON, async || std::fs::read_to_string(file).ok()?.strip_suffix('\n')?.parse().ok()).await
}

pub(crate) async fn dead(pids: &[i32]) {
    let what = format!("{pids:?} are gone");
    until_true(&what, Duration::from_secs(5), async || !pids.iter().any(|pid| is_alive(*pid))).await;
}
