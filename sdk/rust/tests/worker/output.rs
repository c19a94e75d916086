//! Output and progress.

use std::collections::HashMap;
use std::sync::Arc;

use orrery_sdk::Worker;
use orrery_sdk::v1::agent_message::Kind as In;
use orrery_sdk::v1::{LogBatch, LogStream};
use tokio::sync::Semaphore;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::executors::Chatty;
use crate::fake::{Coordinator, Running, lease};

const TTL: u32 = 15_000;

fn text(batch: &LogBatch) -> String {
    batch.chunks.iter().map(|chunk| String::from_utf8_lossy(&chunk.data).into_owned()).collect()
}

#[tokio::test]
async fn output_is_stored_before_the_end_is_told() {
    let mut coordinator = Coordinator::start().await;
    let executor = Arc::new(Chatty { lines: 1, go: Arc::new(Semaphore::new(1)) });
    let _worker = Running::start(Worker::builder().endpoint(coordinator.uri()).executor("chatty", executor));
    let (mut session, _) = coordinator.welcome("s1", TTL).await;
    session.credit().await;
    session.lease(lease("e1", 5, "chatty")).await;
    session.started().await;
    let mut logs = coordinator.logs().await;
    let batch = logs.batch().await;
    assert_eq!((batch.session_id.as_str(), batch.sequence), ("s1", 1));
    let chunk = &batch.chunks[0];
    assert_eq!((chunk.execution_id.as_str(), chunk.epoch, chunk.attempt), ("e1", 5, 1));
    assert_eq!((chunk.stream(), text(&batch)), (LogStream::Stdout, "line 0\n".into()));
    logs.acknowledge(1).await;
    session.finished().await;
}

#[tokio::test]
async fn output_is_sent_again_until_it_is_acknowledged() {
    let mut coordinator = Coordinator::start().await;
    let go = Arc::new(Semaphore::new(0));
    let executor = Arc::new(Chatty { lines: 4, go: go.clone() });
    let _worker = Running::start(Worker::builder().endpoint(coordinator.uri()).executor("chatty", executor));
    let (mut session, _) = coordinator.welcome("s1", TTL).await;
    session.credit().await;
    session.lease(lease("e1", 1, "chatty")).await;
    let mut logs = coordinator.logs().await;
    let first = logs.batch().await;
    drop(logs);
    let mut logs = coordinator.logs().await;
    let again = logs.batch().await;
    assert_eq!(again, first);
    assert_eq!(text(&again), "line 0\nline 1\nline 2\nline 3\n");
    let streams: Vec<LogStream> = again.chunks.iter().map(|chunk| chunk.stream()).collect();
    assert_eq!(streams, [LogStream::Stdout, LogStream::Stderr, LogStream::Stdout, LogStream::Stderr]);
    logs.acknowledge(1).await;
    go.add_permits(1);
    session.started().await;
    session.finished().await;
}

#[tokio::test]
async fn what_does_not_fit_is_dropped_and_told() {
    let mut coordinator = Coordinator::start().await;
    let executor = Arc::new(Chatty { lines: 10, go: Arc::new(Semaphore::new(1)) });
    let builder = Worker::builder().endpoint(coordinator.uri()).log_budget(21, 1 << 20);
    let _worker = Running::start(builder.executor("chatty", executor));
    let (mut session, _) = coordinator.welcome("s1", TTL).await;
    session.credit().await;
    session.lease(lease("e1", 1, "chatty")).await;
    let mut logs = coordinator.logs().await;
    let mut all = String::new();
    for sequence in 1.. {
        let batch = logs.batch().await;
        assert_eq!(batch.sequence, sequence);
        all.push_str(&text(&batch));
        logs.acknowledge(sequence).await;
        if batch.chunks.iter().any(|chunk| chunk.stream() == LogStream::System) {
            break;
        }
    }
    assert_eq!(all, "line 0\nline 1\nline 2\n49 bytes of output were dropped\n");
    session.started().await;
    session.finished().await;
}

#[tokio::test]
async fn progress_is_joined_and_its_last_value_told() {
    let mut coordinator = Coordinator::start().await;
    let executor = Arc::new(Chatty { lines: 1000, go: Arc::new(Semaphore::new(1)) });
    let builder = Worker::builder().endpoint(coordinator.uri()).log_budget(0, 0);
    let _worker = Running::start(builder.executor("chatty", executor));
    let (mut session, _) = coordinator.welcome("s1", TTL).await;
    session.credit().await;
    session.lease(lease("e1", 1, "chatty")).await;
    session.started().await;
    let mut percents = Vec::new();
    let mut logs = coordinator.logs().await;
    let note = logs.batch().await;
    assert!(text(&note).ends_with("bytes of output were dropped\n"));
    logs.acknowledge(1).await;
    loop {
        match session.next().await {
            In::Progress(progress) => percents.push(progress.percent),
            In::Finished(_) => break,
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(percents.last(), Some(&100));
    assert!(percents.len() < 50, "{percents:?}");
}

#[tokio::test]
async fn output_waits_for_its_session_to_be_attached() {
    let mut coordinator = Coordinator::start().await;
    let executor = Arc::new(Chatty { lines: 1, go: Arc::new(Semaphore::new(0)) });
    let _worker = Running::start(Worker::builder().endpoint(coordinator.uri()).executor("chatty", executor));
    let (mut session, _) = coordinator.welcome("s1", TTL).await;
    session.credit().await;
    session.lease(lease("e1", 1, "chatty")).await;
    let details = ErrorDetails::with_error_info("SESSION_NOT_ATTACHED", "orrery", HashMap::new());
    let elsewhere = Status::with_error_details(Code::Aborted, "no such session is attached here", details);
    for _ in 0..4 {
        let mut logs = coordinator.logs().await;
        logs.batch().await;
        logs.refuse(elsewhere.clone()).await;
    }
    let mut logs = coordinator.logs().await;
    assert_eq!(text(&logs.batch().await), "line 0\n", "that is no refusal of the output");
}

#[tokio::test]
async fn output_that_is_refused_is_counted() {
    let mut coordinator = Coordinator::start().await;
    let go = Arc::new(Semaphore::new(0));
    let executor = Arc::new(Chatty { lines: 1, go: go.clone() });
    let _worker = Running::start(Worker::builder().endpoint(coordinator.uri()).executor("chatty", executor));
    let (mut session, _) = coordinator.welcome("s1", TTL).await;
    session.credit().await;
    session.lease(lease("e1", 1, "chatty")).await;
    for _ in 0..3 {
        let mut logs = coordinator.logs().await;
        assert_eq!(text(&logs.batch().await), "line 0\n");
        logs.refuse(Status::invalid_argument("not so")).await;
    }
    go.add_permits(1);
    let mut logs = coordinator.logs().await;
    assert_eq!(text(&logs.batch().await), "7 bytes of output were dropped\n");
}
