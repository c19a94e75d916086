//! What a lost stream, a lost session and a lost process do.

use std::sync::Arc;
use std::time::Duration;

use orrery_sdk::executor::StopReason;
use orrery_sdk::v1::agent_message::Kind as In;
use orrery_sdk::v1::coordinator_message::Kind as Out;
use orrery_sdk::v1::{DrainRequest, ExecutionStatus, Finished, HeldLease, ResultAck};
use orrery_sdk::worker::journal::{FileJournal, Journal as _};
use orrery_sdk::{Worker, WorkerBuilder};
use tonic::Status;

use crate::executors::{Echo, held};
use crate::fake::{Coordinator, Running, lease};

const TTL: u32 = 15_000;

fn one(execution_id: &str) -> Vec<HeldLease> {
    held_at(execution_id, 1)
}

fn held_at(execution_id: &str, epoch: i64) -> Vec<HeldLease> {
    vec![HeldLease { execution_id: execution_id.into(), epoch }]
}

fn quick(builder: WorkerBuilder) -> WorkerBuilder {
    builder.backoff(Duration::from_millis(1), Duration::from_millis(20))
}

#[tokio::test]
async fn work_goes_on_over_a_cut_stream() {
    let mut coordinator = Coordinator::start().await;
    let (executor, holder) = held();
    let _worker = Running::start(quick(Worker::builder().endpoint(coordinator.uri()).executor("held", executor)));
    let (mut session, _) = coordinator.welcome("s1", TTL).await;
    session.credit().await;
    session.lease(lease("e1", 1, "held")).await;
    session.started().await;
    session.cut().await;

    let mut session = coordinator.session().await;
    let register = session.register().await;
    assert_eq!((register.session_id.as_str(), register.held), ("s1", one("e1")));
    session.registered("s1", TTL, true).await;
    session.heartbeat().await;
    assert_eq!(session.held, one("e1"));
    assert_eq!(session.started().await, "e1", "the first may be lost with the stream");
    assert_eq!(session.credit().await, 9);
    holder.let_go();
    assert_eq!(session.finished().await.status(), ExecutionStatus::Completed);
}

#[tokio::test]
async fn a_result_is_told_until_it_is_acknowledged() {
    let mut coordinator = Coordinator::start().await;
    let builder = Worker::builder().endpoint(coordinator.uri()).resend_after(Duration::ZERO);
    let _worker = Running::start(quick(builder.executor("echo", Arc::new(Echo))));
    let (mut session, _) = coordinator.welcome("s1", 600).await;
    session.credit().await;
    session.lease(lease("e1", 1, "echo")).await;
    session.started().await;
    let first = session.finished().await;
    assert_eq!(session.finished().await, first, "again on the same stream");
    session.cut().await;

    let mut session = coordinator.session().await;
    assert_eq!(session.register().await.held, one("e1"), "what is untold is still held");
    session.registered("s1", 600, true).await;
    assert_eq!(session.finished().await, first, "again on the next");
    session.acknowledge(&first).await;
    while !session.held.is_empty() {
        if let In::Finished(again) = session.next_or_heartbeat().await {
            assert_eq!(Finished { started: false, ..again }, first, "was under way");
        }
    }
}

#[tokio::test]
async fn a_session_that_is_not_renewed_takes_its_work_with_it() {
    let mut coordinator = Coordinator::start().await;
    let (executor, mut holder) = held();
    let _worker = Running::start(quick(Worker::builder().endpoint(coordinator.uri()).executor("held", executor)));
    let (mut session, _) = coordinator.welcome("s1", 600).await;
    session.credit().await;
    session.lease(lease("e1", 1, "held")).await;
    session.started().await;
    session.acknowledges = false;
    assert_eq!(session.maybe().await, None, "it leaves a coordinator that does not acknowledge");
    assert_eq!(holder.stopped().await, StopReason::Revoked);
    // Attempts to resume stay unanswered; the one after them is for a new session.
    let mut unanswered = Vec::new();
    loop {
        let mut session = coordinator.session().await;
        let register = session.register().await;
        unanswered.push(session);
        if register.session_id.is_empty() {
            assert!(register.held.is_empty());
            return;
        }
        assert_eq!((register.session_id.as_str(), register.held), ("s1", one("e1")));
    }
}

#[tokio::test]
async fn a_session_that_the_coordinator_lost_takes_its_work_with_it() {
    let mut coordinator = Coordinator::start().await;
    let (executor, mut holder) = held();
    let _worker = Running::start(quick(Worker::builder().endpoint(coordinator.uri()).executor("held", executor)));
    let (mut session, _) = coordinator.welcome("s1", TTL).await;
    session.credit().await;
    session.lease(lease("e1", 1, "held")).await;
    session.started().await;
    session.cut().await;
    let mut session = coordinator.session().await;
    assert_eq!(session.register().await.session_id, "s1");
    session.registered("s2", TTL, false).await;
    assert_eq!(holder.stopped().await, StopReason::Revoked);
    let mut granted = 0;
    while granted < 10 {
        granted += session.credit().await;
    }
    assert_eq!(granted, 10);
}

#[tokio::test]
async fn results_outlive_the_process() {
    let directory = tempfile::tempdir().expect("directory");
    let mut coordinator = Coordinator::start().await;
    let builder = || {
        let builder = Worker::builder().endpoint(coordinator.uri()).executor("echo", Arc::new(Echo));
        quick(builder.journal_in(directory.path()).expect("journal"))
    };
    let worker = Running::start(builder());
    let uri = coordinator.uri();
    let (mut session, _) = coordinator.welcome("s1", TTL).await;
    session.credit().await;
    session.lease(lease("e1", 4, "echo")).await;
    session.started().await;
    let first = session.finished().await;
    until("the session's id", async || directory.path().join("session").exists()).await;
    drop(worker);
    assert_eq!(session.maybe_through_credits().await, None);

    let again = || {
        let builder = Worker::builder().endpoint(uri.clone()).executor("echo", Arc::new(Echo));
        builder.journal_in(directory.path())
    };
    let worker = Running::start(quick(retried(again).await));
    let mut session = coordinator.session().await;
    let register = session.register().await;
    assert_eq!((register.session_id.as_str(), register.held), ("s1", held_at("e1", 4)));
    session.registered("s1", TTL, true).await;
    assert_eq!(session.finished().await, first);
    session.acknowledge(&first).await;
    // That was all the session was resumed for.
    assert!(matches!(session.next().await, In::Goodbye(_)));
    let (mut session, register) = coordinator.welcome("s2", TTL).await;
    assert_eq!((register.session_id.as_str(), register.held), ("", Vec::new()));
    assert_eq!(session.credit().await, 10);
    worker.shutdown.cancel();
    assert!(matches!(session.next().await, In::Drain(_)));
    assert!(matches!(session.next().await, In::Goodbye(_)));
    drop(session);
    worker.ended().await;

    let _worker = Running::start(quick(retried(again).await));
    let (mut session, register) = coordinator.welcome("s3", TTL).await;
    assert_eq!((register.session_id.as_str(), register.held), ("", Vec::new()));
    assert_eq!(session.credit().await, 10, "nothing is told any more");
}

#[tokio::test]
async fn results_of_a_session_that_is_over_are_told_and_forgotten() {
    let directory = tempfile::tempdir().expect("directory");
    let journal = FileJournal::open(directory.path()).expect("journal");
    journal.keep_session(Some("s1")).await.expect("kept");
    let status = ExecutionStatus::Completed.into();
    let finished = Finished { execution_id: "e1".into(), epoch: 4, status, ..Finished::default() };
    journal.record(&finished).await.expect("recorded");
    let mut coordinator = Coordinator::start().await;
    let builder = Worker::builder().endpoint(coordinator.uri()).executor("echo", Arc::new(Echo));
    let _worker = Running::start(quick(builder.journal(Arc::new(journal.clone()))));
    let (mut session, register) = coordinator.welcome("s2", TTL).await;
    assert_eq!((register.session_id.as_str(), register.held), ("s1", held_at("e1", 4)));
    let late = session.finished().await;
    assert_eq!((late.execution_id.as_str(), late.epoch), ("e1", 4));
    let reason = "stale_lease".into();
    let ack = ResultAck { execution_id: late.execution_id, epoch: 4, accepted: false, reason };
    session.send(Out::ResultAck(ack)).await;
    assert_eq!(session.credit().await, 10);
    until("its removal", async || journal.load().await.expect("read").is_empty()).await;
    until("the new session", async || journal.session().await.expect("read").as_deref() == Some("s2")).await;
}

/// Looks again and again: what it waits for is written by a thread that tells nobody.
async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    crate::fake::soon(what, async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// The journal of a worker that was dropped is free once its last write is done.
async fn retried<T, E>(open: impl Fn() -> Result<T, E>) -> T {
    crate::fake::soon("the journal", async {
        loop {
            if let Ok(value) = open() {
                return value;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

#[tokio::test]
async fn the_next_coordinator_is_tried() {
    let mut coordinator = Coordinator::start().await;
    let dead = { std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address") };
    let refusing = Coordinator::refusing(Some(Status::unauthenticated("no such key"))).await;
    let builder = Worker::builder()
        .endpoint(format!("http://{dead}"))
        .endpoints([refusing.uri(), coordinator.uri()])
        .keep_order();
    let _worker = Running::start(quick(builder.executor("echo", Arc::new(Echo))));
    let (mut session, _) = coordinator.welcome("s1", TTL).await;
    assert_eq!(session.credit().await, 10);
}

#[tokio::test]
async fn a_coordinator_that_goes_away_is_left_for_another() {
    let mut first = Coordinator::start().await;
    let mut second = Coordinator::start().await;
    let (executor, holder) = held();
    let builder = Worker::builder().endpoints([first.uri(), second.uri()]).keep_order().executor("held", executor);
    let _worker = Running::start(quick(builder));
    let (mut session, _) = first.welcome("s1", TTL).await;
    session.credit().await;
    session.lease(lease("e1", 1, "held")).await;
    session.started().await;
    session.send(Out::Drain(DrainRequest { reconnect: true })).await;
    let mut moved = second.session().await;
    let register = moved.register().await;
    assert_eq!((register.session_id.as_str(), register.held), ("s1", one("e1")));
    moved.registered("s1", TTL, true).await;
    moved.started().await;
    moved.credit().await;
    holder.let_go();
    assert_eq!(moved.finished().await.status(), ExecutionStatus::Completed);
}
