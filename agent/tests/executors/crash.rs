//! What happens to processes when their agent dies or hangs. The agent is this test program, started once more.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use orrery_agent::executor::ExecutorSettings;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::support::{Run, eventually, runs, signal, supervised, task};

const FILE: &str = "EXECUTORS_TEST_PIDS";
/// Set where the run is under a lease that is renewed all the time.
const LEASED: &str = "EXECUTORS_TEST_LEASED";
/// How long the lease of the test is trusted after each renewal.
const TRUST: Duration = Duration::from_secs(3);

/// The part of the agent; it runs one process that ignores SIGTERM and writes its pids to a file.
#[tokio::test]
#[ignore = "started by the other tests of this module"]
async fn as_agent() {
    let Some(file) = std::env::var_os(FILE).map(PathBuf::from) else { return };
    let settings = ExecutorSettings { grace: Duration::ZERO, ..supervised() };
    let script = "trap '' TERM; setsid sleep 1000 & echo $$ $! > \"$1.part\"; mv \"$1.part\" \"$1\"; wait";
    let mut task = task(json!({"script": script, "args": [file]}));
    if std::env::var_os(LEASED).is_none() {
        task.timeout = Duration::from_secs(2);
        Run::start(&settings, "shell", task).outcome.await.unwrap();
        return;
    }
    task.timeout = Duration::from_secs(3600);
    let trust = watch::Sender::new(Instant::now() + TRUST);
    let run = Run::under(&settings, "shell", task, trust.subscribe());
    let renewing = async {
        for renewal in 1_u32.. {
            sleep(TRUST / 30).await;
            trust.send_replace(Instant::now() + TRUST);
            std::fs::write(file.with_extension("renewals"), renewal.to_string()).unwrap();
        }
    };
    tokio::select! {
        outcome = run.outcome => drop(outcome.unwrap()),
        () = renewing => {}
    }
}

/// An agent and the pids of what it runs.
async fn agent(dir: &Path, leased: bool) -> (Child, Vec<String>) {
    let file = dir.join("pids");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "crash::as_agent"]).env(FILE, &file);
    if leased {
        command.env(LEASED, "1");
    }
    let agent = command.spawn().unwrap();
    eventually("the process runs", || file.exists()).await;
    let pids: Vec<String> = std::fs::read_to_string(&file).unwrap().split_whitespace().map(Into::into).collect();
    assert_eq!(pids.len(), 2);
    (agent, pids)
}

#[tokio::test]
async fn a_killed_agent_leaves_no_process() {
    let dir = tempfile::tempdir().unwrap();
    let (mut agent, pids) = agent(dir.path(), false).await;
    agent.kill().unwrap();
    agent.wait().unwrap();
    eventually("all are gone", || !pids.iter().any(|pid| runs(pid))).await;
}

#[tokio::test]
async fn a_hanging_agents_processes_end_at_their_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let (mut agent, pids) = agent(dir.path(), false).await;
    signal(&agent.id().to_string(), "STOP");
    eventually("all are gone", || !pids.iter().any(|pid| runs(pid))).await;
    agent.kill().unwrap();
    agent.wait().unwrap();
}

#[tokio::test]
async fn a_frozen_agents_processes_end_with_their_lease() {
    let dir = tempfile::tempdir().unwrap();
    let (mut agent, pids) = agent(dir.path(), true).await;
    let renewals = || std::fs::read_to_string(dir.path().join("pids.renewals")).ok()?.parse::<u32>().ok();
    eventually("it outlives its first lease by far", || renewals().is_some_and(|renewals| renewals > 60)).await;
    assert!(pids.iter().all(|pid| runs(pid)), "they did not hear of the renewals");
    signal(&agent.id().to_string(), "STOP");
    // Its deadline is an hour away, and its socket is open.
    eventually("all are gone", || !pids.iter().any(|pid| runs(pid))).await;
    agent.kill().unwrap();
    agent.wait().unwrap();
}
