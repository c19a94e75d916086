//! Draining, and the way out.

use std::sync::Arc;
use std::time::Duration;

use orrery_sdk::Worker;
use orrery_sdk::executor::StopReason;
use orrery_sdk::v1::agent_message::Kind as In;
use orrery_sdk::v1::coordinator_message::Kind as Out;
use orrery_sdk::v1::{DrainRequest, ExecutionStatus, HeldLease};

use crate::executors::{Echo, held, lingers};
use crate::fake::{Coordinator, Running, lease};

const TTL: u32 = 15_000;

fn ids(held: &[HeldLease]) -> Vec<&str> {
    let mut ids: Vec<&str> = held.iter().map(|lease| lease.execution_id.as_str()).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn a_shutdown_waits_for_what_runs() {
    let mut coordinator = Coordinator::start().await;
    let (executor, holder) = held();
    let worker = Running::start(Worker::builder().endpoint(coordinator.uri()).executor("held", executor));
    let (mut session, _) = coordinator.welcome("s1", TTL).await;
    session.credit().await;
    session.lease(lease("e1", 1, "held")).await;
    session.started().await;
    worker.shutdown.cancel();
    assert!(matches!(session.next().await, In::Drain(_)));
    session.lease(lease("e2", 1, "held")).await;
    match session.next().await {
        In::Release(release) => assert_eq!(release.leases[0].execution_id, "e2"),
        other => panic!("expected a release, got {other:?}"),
    }
    holder.let_go();
    let finished = session.finished().await;
    assert_eq!(finished.status(), ExecutionStatus::Completed);
    session.acknowledge(&finished).await;
    assert!(matches!(session.next().await, In::Goodbye(_)));
    assert_eq!(session.maybe().await, None);
    drop(session);
    worker.ended().await;
}

#[tokio::test]
async fn what_a_shutdown_stops_is_told_to_be_interrupted() {
    let mut coordinator = Coordinator::start().await;
    let (executor, mut holder) = held();
    let (lingers, mut lingering) = lingers();
    let builder = Worker::builder().endpoint(coordinator.uri()).drain_timeout(Duration::from_millis(20));
    let worker = Running::start(builder.executor("held", executor).executor("lingers", lingers));
    let (mut session, _) = coordinator.welcome("s1", 600).await;
    session.credit().await;
    session.lease(lease("e1", 1, "held")).await;
    session.started().await;
    session.lease(lease("e2", 1, "lingers")).await;
    session.started().await;
    worker.shutdown.cancel();
    assert!(matches!(session.next().await, In::Drain(_)));
    assert_eq!(holder.stopped().await, StopReason::Cancelled);
    lingering.stopped().await;
    // What has stopped is free for others at once; what has not is held on.
    let first = session.finished().await;
    assert_eq!((first.execution_id.as_str(), first.interrupted), ("e1", true));
    session.acknowledge(&first).await;
    session.heartbeat().await;
    session.heartbeat().await;
    assert_eq!(ids(&session.held), ["e2"]);
    lingering.let_go();
    let second = session.finished().await;
    assert_eq!((second.execution_id.as_str(), second.interrupted), ("e2", true));
    session.acknowledge(&second).await;
    assert!(matches!(session.next().await, In::Goodbye(_)));
    assert_eq!(session.maybe().await, None);
    drop(session);
    worker.ended().await;
}

#[tokio::test]
async fn what_completes_in_spite_of_the_stop_is_told() {
    let mut coordinator = Coordinator::start().await;
    let (executor, mut holder) = held();
    holder.succeed_when_stopped();
    let builder = Worker::builder().endpoint(coordinator.uri()).executor("held", executor);
    let worker =
        Running::start(builder.drain_timeout(Duration::from_millis(20)).flush_timeout(Duration::from_millis(20)));
    let (mut session, _) = coordinator.welcome("s1", TTL).await;
    session.credit().await;
    session.lease(lease("e1", 1, "held")).await;
    session.started().await;
    worker.shutdown.cancel();
    assert!(matches!(session.next().await, In::Drain(_)));
    assert_eq!(holder.stopped().await, StopReason::Cancelled);
    assert_eq!(session.finished().await.status(), ExecutionStatus::Completed);
    assert!(matches!(session.next().await, In::Goodbye(_)), "unacknowledged or not, since it is in memory only");
    drop(session);
    worker.ended().await;
}

#[tokio::test]
async fn a_session_with_results_untold_is_left_to_the_next_process() {
    let directory = tempfile::tempdir().expect("directory");
    let mut coordinator = Coordinator::start().await;
    let builder = Worker::builder().endpoint(coordinator.uri()).executor("echo", Arc::new(Echo));
    let builder = builder.journal_in(directory.path()).expect("journal");
    let worker = Running::start(builder.flush_timeout(Duration::from_millis(20)));
    let (mut session, _) = coordinator.welcome("s1", TTL).await;
    session.credit().await;
    session.lease(lease("e1", 1, "echo")).await;
    session.started().await;
    session.finished().await;
    worker.shutdown.cancel();
    let last = session.maybe_through_credits().await;
    assert!(matches!(last, Some(In::Drain(_))));
    assert_eq!(session.maybe().await, None, "no farewell");
    drop(session);
    worker.ended().await;
    assert_eq!(std::fs::read_to_string(directory.path().join("session")).expect("a session"), "s1");
}

#[tokio::test]
async fn an_idle_worker_leaves_at_once() {
    let directory = tempfile::tempdir().expect("directory");
    let mut coordinator = Coordinator::start().await;
    let builder = Worker::builder().endpoint(coordinator.uri()).executor("echo", Arc::new(Echo));
    let builder = builder.journal_in(directory.path()).expect("journal");
    let worker = Running::start(builder.flush_timeout(Duration::from_secs(3600)));
    let (mut session, _) = coordinator.welcome("s1", 3_600_000).await;
    session.credit().await;
    worker.shutdown.cancel();
    assert!(matches!(session.next().await, In::Drain(_)));
    assert!(matches!(session.next().await, In::Goodbye(_)));
    drop(session);
    worker.ended().await;
    assert!(!directory.path().join("session").exists(), "it is over");
}

#[tokio::test]
async fn a_shutdown_without_a_coordinator_ends_too() {
    let (executor, _holder) = held();
    let worker = Running::start(Worker::builder().endpoint("http://127.0.0.1:1").executor("held", executor));
    worker.shutdown.cancel();
    worker.ended().await;
}

#[tokio::test]
async fn a_drained_worker_stays_and_says_so_again() {
    let mut coordinator = Coordinator::start().await;
    let (executor, holder) = held();
    let builder = Worker::builder().endpoint(coordinator.uri()).executor("held", executor);
    let _worker = Running::start(builder.backoff(Duration::from_millis(1), Duration::from_millis(20)));
    let (mut session, _) = coordinator.welcome("s1", TTL).await;
    session.credit().await;
    session.lease(lease("e1", 1, "held")).await;
    session.started().await;
    session.send(Out::Drain(DrainRequest { reconnect: false })).await;
    assert!(matches!(session.next().await, In::Drain(_)));
    holder.let_go();
    let finished = session.finished().await;
    session.acknowledge(&finished).await;
    session.cut().await;
    let mut session = coordinator.session().await;
    assert_eq!(session.register().await.session_id, "s1");
    session.registered("s1", 900, true).await;
    assert!(matches!(session.next().await, In::Drain(_)));
    session.heartbeat().await;
    session.heartbeat().await;
}
