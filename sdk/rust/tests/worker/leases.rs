//! From lease to acknowledged result.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use orrery_sdk::executor::StopReason;
use orrery_sdk::v1::agent_message::Kind as In;
use orrery_sdk::v1::coordinator_message::Kind as Out;
use orrery_sdk::v1::{Cancel, ErrorType, ExecutionStatus, Finished, HeldLease, Lease, LeaseBatch, Revoke};
use orrery_sdk::{FunctionContext, FunctionError, FunctionRegistry, Json, Worker};

use crate::executors::{Deaf, Echo, Panics, PanicsLate, computes, held};
use crate::fake::{Coordinator, Running, lease};

const TTL: u32 = 15_000;

fn cancel(execution_id: &str, epoch: i64, reason: &str) -> Out {
    Out::Cancel(Cancel { execution_id: execution_id.into(), epoch, reason: reason.into() })
}

#[tokio::test]
async fn a_worker_registers_and_runs_what_it_is_granted() {
    let mut coordinator = Coordinator::start().await;
    let builder = Worker::builder()
        .endpoint(coordinator.uri())
        .api_key("secret")
        .name("w1")
        .version("9.9")
        .label("zone", "a")
        .queue("reports")
        .slots(3)
        .executor("echo", Arc::new(Echo));
    let _worker = Running::start(builder);
    let (mut session, register) = coordinator.welcome("s1", TTL).await;
    assert_eq!(session.authorization.as_deref(), Some("Bearer secret"));
    assert_eq!((register.protocol_version, register.slots), (1, 3));
    assert_eq!((register.name.as_str(), register.version.as_str()), ("w1", "9.9"));
    assert_eq!((register.queues, register.executors), (vec!["reports".to_owned()], vec!["echo".to_owned()]));
    assert_eq!(register.labels["zone"], "a");
    assert_eq!((register.session_id.as_str(), register.held.len()), ("", 0));

    assert_eq!(session.credit().await, 3);
    let parameters = Some(Json::new("{\"exact\": 1.50}"));
    session.lease(Lease { parameters: parameters.clone(), ..lease("e1", 7, "echo") }).await;
    assert_eq!(session.started().await, "e1");
    let finished = session.finished().await;
    assert_eq!((finished.execution_id.as_str(), finished.epoch), ("e1", 7));
    assert_eq!((finished.status(), finished.result.clone()), (ExecutionStatus::Completed, parameters));
    assert_eq!(session.credit().await, 1, "the slot is free again");
    session.acknowledge(&finished).await;
}

#[tokio::test]
async fn no_more_is_granted_than_there_are_slots() {
    let mut coordinator = Coordinator::start().await;
    let (executor, holder) = held();
    let _worker = Running::start(Worker::builder().endpoint(coordinator.uri()).slots(2).executor("held", executor));
    let (mut session, _) = coordinator.welcome("s1", TTL).await;
    assert_eq!(session.credit().await, 2);
    let leases = ["a", "b", "c"].map(|id| lease(id, 1, "held"));
    session.send(Out::Leases(LeaseBatch { leases: leases.into(), works: vec![] })).await;
    match session.next().await {
        In::Release(release) => assert_eq!(release.leases, [HeldLease { execution_id: "c".into(), epoch: 1 }]),
        other => panic!("expected a release, got {other:?}"),
    }
    let mut started = [session.started().await, session.started().await];
    started.sort();
    assert_eq!(started, ["a", "b"]);
    holder.let_go();
    session.finished().await;
    assert_eq!(session.credit().await, 1);
}

#[tokio::test]
async fn a_cancelled_task_ends_cancelled_unless_it_was_done() {
    let mut coordinator = Coordinator::start().await;
    let (executor, mut holder) = held();
    let _worker = Running::start(Worker::builder().endpoint(coordinator.uri()).executor("held", executor));
    let (mut session, _) = coordinator.welcome("s1", TTL).await;
    session.credit().await;
    session.lease(lease("e1", 1, "held")).await;
    session.started().await;
    session.send(cancel("e1", 99, "cancelled")).await;
    session.send(cancel("e1", 1, "cancelled")).await;
    assert_eq!(holder.stopped().await, StopReason::Cancelled);
    assert_eq!(session.finished().await.status(), ExecutionStatus::Cancelled);
    assert_eq!(session.credit().await, 1);

    session.lease(lease("e2", 1, "held")).await;
    session.started().await;
    session.send(cancel("e2", 1, "timeout")).await;
    assert_eq!(holder.stopped().await, StopReason::TimedOut);
    assert_eq!(session.finished().await.error_type(), ErrorType::Timeout);
    assert_eq!(session.credit().await, 1);

    holder.succeed_when_stopped();
    session.lease(lease("e3", 1, "held")).await;
    session.started().await;
    session.send(cancel("e3", 1, "cancelled")).await;
    assert_eq!(session.finished().await.status(), ExecutionStatus::Completed);
}

#[tokio::test]
async fn a_task_that_takes_too_long_is_stopped() {
    let mut coordinator = Coordinator::start().await;
    let (executor, mut holder) = held();
    let builder = Worker::builder()
        .endpoint(coordinator.uri())
        .timeout_cap(Some(Duration::from_millis(30)))
        .executor("held", executor);
    let _worker = Running::start(builder);
    let (mut session, _) = coordinator.welcome("s1", TTL).await;
    session.credit().await;
    session.lease(Lease { timeout_ms: 20, ..lease("e1", 1, "held") }).await;
    session.started().await;
    assert_eq!(holder.stopped().await, StopReason::TimedOut);
    let finished = session.finished().await;
    assert_eq!((finished.status(), finished.error_type()), (ExecutionStatus::Failed, ErrorType::Timeout));
    assert_eq!(finished.error_message, "timed out after 20 ms");
    assert!(finished.duration_ms >= 20);
    assert_eq!(session.credit().await, 1);

    session.lease(lease("e2", 1, "held")).await;
    session.started().await;
    assert_eq!(session.finished().await.error_message, "timed out after 30 ms", "the worker's cap");
}

#[tokio::test]
async fn a_task_that_notices_no_stop_is_aborted() {
    let mut coordinator = Coordinator::start().await;
    let builder =
        Worker::builder().endpoint(coordinator.uri()).grace(Duration::from_millis(20)).executor("deaf", Arc::new(Deaf));
    let _worker = Running::start(builder);
    let (mut session, _) = coordinator.welcome("s1", TTL).await;
    session.credit().await;
    session.lease(Lease { timeout_ms: 20, ..lease("e1", 1, "deaf") }).await;
    session.started().await;
    assert_eq!(session.finished().await.error_type(), ErrorType::Timeout);
}

#[tokio::test]
async fn a_panic_and_an_unknown_executor_fail_only_their_attempt() {
    let mut coordinator = Coordinator::start().await;
    let builder = Worker::builder().endpoint(coordinator.uri()).executor("panics", Arc::new(Panics));
    let _worker = Running::start(builder.executor("late", Arc::new(PanicsLate)));
    let (mut session, _) = coordinator.welcome("s1", TTL).await;
    session.credit().await;
    session.lease(lease("e1", 1, "panics")).await;
    session.started().await;
    let finished = session.finished().await;
    assert_eq!((finished.status(), finished.error_type()), (ExecutionStatus::Failed, ErrorType::SystemError));
    assert_eq!(finished.error_message, "the executor panicked: boom");
    assert_eq!(session.credit().await, 1);
    session.lease(lease("e2", 1, "cobol")).await;
    session.started().await;
    let finished = session.finished().await;
    assert_eq!(finished.error_type(), ErrorType::ValidationError);
    assert_eq!(finished.error_message, "this agent has no executor \"cobol\"");
    assert_eq!(session.credit().await, 1);
    session.lease(lease("e3", 1, "late")).await;
    session.started().await;
    assert_eq!(session.finished().await.error_message, "the executor panicked: late boom");
}

#[tokio::test]
async fn a_revoked_task_is_stopped_and_says_nothing() {
    let mut coordinator = Coordinator::start().await;
    let (executor, mut holder) = held();
    let _worker = Running::start(Worker::builder().endpoint(coordinator.uri()).slots(1).executor("held", executor));
    let (mut session, _) = coordinator.welcome("s1", TTL).await;
    session.credit().await;
    session.lease(lease("e1", 1, "held")).await;
    session.started().await;
    session.send(Out::Revoke(Revoke { leases: vec![HeldLease { execution_id: "e1".into(), epoch: 1 }] })).await;
    assert_eq!(holder.stopped().await, StopReason::Revoked);
    assert_eq!(session.credit().await, 1, "the next message is the free slot, no result");
}

#[tokio::test]
async fn a_newer_grant_takes_the_place_of_the_older() {
    let mut coordinator = Coordinator::start().await;
    let (executor, mut holder) = held();
    let _worker = Running::start(Worker::builder().endpoint(coordinator.uri()).slots(2).executor("held", executor));
    let (mut session, _) = coordinator.welcome("s1", TTL).await;
    session.credit().await;
    session.lease(lease("e1", 1, "held")).await;
    session.started().await;
    session.lease(lease("e1", 1, "held")).await;
    assert_eq!(session.credit().await, 1, "the repeated grant is ignored, its credit given again");
    session.lease(lease("e1", 2, "held")).await;
    assert_eq!(holder.stopped().await, StopReason::Revoked);
    assert_eq!(session.credit().await, 1, "the older one's slot");
    assert_eq!(session.started().await, "e1");
    holder.let_go();
    let finished = session.finished().await;
    assert_eq!((finished.epoch, finished.status()), (2, ExecutionStatus::Completed));
}

#[tokio::test]
async fn registered_functions_are_run_by_name() {
    let mut coordinator = Coordinator::start().await;
    let mut functions = FunctionRegistry::new();
    functions.register("numbers", "double", |number: i64, _: FunctionContext| async move {
        Ok::<_, FunctionError>(number * 2)
    });
    let _worker = Running::start(Worker::builder().endpoint(coordinator.uri()).functions(functions));
    let (mut session, register) = coordinator.welcome("s1", TTL).await;
    assert_eq!(register.executors, ["function:numbers#double"]);
    session.credit().await;
    let config = Json::new("{\"modulePath\":\"numbers\",\"functionName\":\"double\",\"parameters\":20}");
    let job = Lease { config: Some(config), ..lease("e1", 1, "function") };
    session.lease(Lease { parameters: Some(Json::new("21")), ..job }).await;
    session.started().await;
    assert_eq!(session.finished().await.result, Some(Json::new("{\"success\":true,\"result\":42}")));
}

fn all(count: usize, executor: &str) -> Vec<Lease> {
    (0..count).map(|number| lease(&format!("{executor}{number}"), 1, executor)).collect()
}

#[tokio::test]
async fn what_is_granted_together_is_told_together() {
    let mut coordinator = Coordinator::start().await;
    let _worker =
        Running::start(Worker::builder().endpoint(coordinator.uri()).slots(500).executor("echo", Arc::new(Echo)));
    let (mut session, _) = coordinator.welcome("s1", TTL).await;
    session.credit().await;
    let frames = session.frames;
    session.send(Out::Leases(LeaseBatch { leases: all(500, "echo"), works: vec![] })).await;
    let (mut begun, mut ended) = (BTreeSet::new(), BTreeSet::new());
    while ended.len() < 500 {
        match session.next().await {
            In::Finished(Finished { execution_id, started, .. }) => {
                assert_ne!(begun.contains(&execution_id), started, "the beginning of {execution_id} is told once");
                assert!(ended.insert(execution_id));
            }
            In::Started(started) => assert!(begun.insert(started.execution_id)),
            In::Credit(_) => {}
            other => panic!("unexpected {other:?}"),
        }
    }
    assert!(session.frames - frames < 250, "{} frames", session.frames - frames);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_that_never_waits_holds_up_nobody() {
    let mut coordinator = Coordinator::start().await;
    let (executor, go) = computes();
    let builder = Worker::builder().endpoint(coordinator.uri()).slots(100).grace(Duration::from_millis(20));
    let _worker = Running::start(builder.executor("computes", executor).executor("echo", Arc::new(Echo)));
    let (mut session, _) = coordinator.welcome("s1", 3_000).await;
    session.credit().await;
    let mut leases = all(1, "computes");
    leases.extend(all(40, "echo"));
    session.send(Out::Leases(LeaseBatch { leases, works: vec![] })).await;
    let (mut ended, mut begun) = (0, false);
    while ended < 40 || !begun {
        match session.next().await {
            In::Finished(finished) => {
                assert_ne!(finished.execution_id, "computes0");
                ended += 1;
            }
            In::Started(started) => begun |= started.execution_id == "computes0",
            In::Credit(_) => {}
            other => panic!("unexpected {other:?}"),
        }
    }
    let heartbeats = session.heartbeats;
    while session.heartbeats == heartbeats {
        session.next_or_heartbeat().await;
    }
    // It notices no stop either, and is given up.
    session.send(cancel("computes0", 1, "cancelled")).await;
    let finished = session.finished().await;
    assert_eq!((finished.execution_id.as_str(), finished.status()), ("computes0", ExecutionStatus::Cancelled));
    assert_eq!(finished.error_message, "it did not stop in time and was given up");
    drop(go);
}
