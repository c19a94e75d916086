//! Executions that somebody asks for.

use std::sync::Mutex;

use orrery_proto::v1::{ExecutionStatus, JobStatus, TriggerType};
use orrery_server::error::{Error, Kind};
use orrery_server::execution::State;
use orrery_server::store::*;
use uuid::Uuid;

use crate::support::*;

fn yes(_: &orrery_server::job::Job, _: i64, _: &Trigger) -> Result<(), Error> {
    Ok(())
}

pub async fn a_trigger_waits_at_once(store: DynStore) {
    let job = job_with(&store, "a", |j| j.spec.priority = 4).await;
    let retry_of = Some(Uuid::new_v4());
    let wanted = Trigger {
        kind: TriggerType::Retry,
        parameters: Some(r#"{"n": 1.50}"#.to_owned()),
        retry_of,
        traceparent: Some("00-1-2-03".to_owned()),
        ..trigger_of(&job)
    };
    let before = now(&store).await;
    let made = store.trigger(vec![wanted], &yes).await.unwrap().remove(0);
    assert_eq!(made.state, State::Pending);
    assert_eq!((made.trigger, made.triggered_by, made.priority), (TriggerType::Retry, Some(USER), 4));
    assert_eq!((made.retry_of, made.traceparent.as_deref()), (retry_of, Some("00-1-2-03")));
    assert_eq!(made.parameters.as_deref(), Some(r#"{"n": 1.50}"#));
    assert!(made.run_at >= before && made.run_at == made.scheduled_at && made.run_at == made.created_at);
    assert_eq!(execution(&store, made.id).await, made);
    let job = job_now(&store, job.id).await;
    assert_eq!((job.execution_count, job.last_execution_at), (1, Some(made.created_at)));
}

pub async fn a_trigger_may_wait_for_its_time(store: DynStore) {
    let job = job(&store, "a").await;
    let (past, later) = (seconds_from_now(&store, -100).await, seconds_from_now(&store, 100).await);
    let of = |run_at| Trigger { run_at: Some(run_at), ..trigger_of(&job) };
    let made = store.trigger(vec![of(past), of(later)], &yes).await.unwrap();
    assert!(made[0].state == State::Pending && made[0].run_at > past);
    assert_eq!((&made[1].state, made[1].run_at, made[1].scheduled_at), (&State::Scheduled, later, later));
    assert!(made[0].id < made[1].id, "ids of one call rise");
    assert_eq!(release(&store).await.next_due, Some(later));
}

pub async fn missing_jobs_are_named(store: DynStore) {
    let (job, deleted) = (job(&store, "a").await, job(&store, "b").await);
    delete(&store, &deleted).await;
    let foreign = Trigger { tenant: OTHER_TENANT, ..trigger_of(&job) };
    for missing in [trigger_of(&deleted), foreign] {
        match store.trigger(vec![trigger_of(&job), missing.clone()], &yes).await {
            Err(StoreError::TriggerRefused { index: 1, job, reason }) => {
                assert_eq!((job, reason.code), (missing.job, "JOB_NOT_FOUND"));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(executions(&store).await.is_empty());
}

pub async fn a_refusal_undoes_the_call(store: DynStore) {
    let job = job(&store, "a").await;
    let calls = Mutex::new(0);
    let decide = |_: &_, _, _: &_| {
        *calls.lock().unwrap() += 1;
        if *calls.lock().unwrap() < 3 { Ok(()) } else { Err(Error::new(Kind::Conflict, "JOB_ALREADY_RUNNING", "no")) }
    };
    let with_key = Trigger { idempotency: key("k", 1), ..trigger_of(&job) };
    let three = vec![with_key.clone(), trigger_of(&job), trigger_of(&job)];
    assert!(matches!(store.trigger(three, &decide).await, Err(StoreError::TriggerRefused { index: 2, .. })));
    assert!(executions(&store).await.is_empty());
    assert_eq!(job_now(&store, job.id).await.execution_count, 0);
    // The key was not used up.
    store.trigger(vec![with_key], &yes).await.unwrap();
}

pub async fn active_executions_are_counted(store: DynStore) {
    let limited = |j: &mut orrery_server::job::Job| {
        (j.spec.max_concurrent, j.spec.overlap) = (10, orrery_proto::v1::OverlapPolicy::Forbid);
    };
    let (job, other) = (job_with(&store, "a", limited).await, job_with(&store, "b", limited).await);
    let agent = session(&store, "agent").await;
    run(&store, &job, &agent, report(ExecutionStatus::Completed)).await;
    leased(&store, &job, &agent).await;
    trigger(&store, &job).await;
    trigger(&store, &other).await;
    let later = Trigger { run_at: Some(seconds_from_now(&store, 100).await), ..trigger_of(&job) };
    let seen = Mutex::new(Vec::new());
    let decide = |_: &_, active, _: &_| {
        seen.lock().unwrap().push(active);
        Ok(())
    };
    let call = vec![trigger_of(&job), later, trigger_of(&other), trigger_of(&job)];
    store.trigger(call, &decide).await.unwrap();
    assert_eq!(seen.into_inner().unwrap(), [2, 3, 1, 3]);
}

pub async fn a_key_makes_one_execution(store: DynStore) {
    let job = job(&store, "a").await;
    let with_key = |request| Trigger { idempotency: key("k", request), ..trigger_of(&job) };
    let first = store.trigger(vec![with_key(1)], &yes).await.unwrap().remove(0);
    let never = |_: &_, _, _: &_| -> Result<(), Error> { panic!("it is decided already") };
    assert_eq!(store.trigger(vec![with_key(1)], &never).await.unwrap(), std::slice::from_ref(&first));
    let other = store.trigger(vec![trigger_of(&job), with_key(2)], &yes).await;
    assert!(matches!(other, Err(StoreError::IdempotencyKeyReused { index: 1 })));
    let with_other_key = |request| Trigger { idempotency: key("k2", request), ..trigger_of(&job) };
    let twice = store.trigger(vec![with_other_key(1), with_other_key(1)], &yes).await.unwrap();
    assert_eq!(twice[0], twice[1]);
    let twice = vec![
        Trigger { idempotency: key("k3", 1), ..trigger_of(&job) },
        Trigger { idempotency: key("k3", 2), ..trigger_of(&job) },
    ];
    assert!(matches!(store.trigger(twice, &yes).await, Err(StoreError::IdempotencyKeyReused { index: 1 })));
    assert_eq!(executions(&store).await.len(), 2);
    assert_eq!(job_now(&store, job.id).await.execution_count, 2);
}

pub async fn a_key_makes_one_execution_under_concurrency(store: DynStore) {
    let job = job(&store, "a").await;
    let tries = (0..8).map(|_| {
        let (store, trigger) = (store.clone(), Trigger { idempotency: key("k", 1), ..trigger_of(&job) });
        tokio::spawn(async move { store.trigger(vec![trigger], &yes).await.unwrap().remove(0).id })
    });
    let mut ids: Vec<Uuid> = futures_util::future::join_all(tries).await.into_iter().map(Result::unwrap).collect();
    ids.dedup();
    assert_eq!(ids.len(), 1);
    assert_eq!(job_now(&store, job.id).await.execution_count, 1);
}

pub async fn a_key_answers_from_history(store: DynStore) {
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    let with_key = Trigger { idempotency: key("k", 1), ..trigger_of(&job) };
    let made = store.trigger(vec![with_key.clone()], &yes).await.unwrap().remove(0);
    let granted = claim(&store, &agent, 1).await.grants.remove(0).execution;
    apply(&store, &granted, completed(&granted)).await.unwrap();
    let again = store.trigger(vec![with_key], &yes).await.unwrap().remove(0);
    assert_eq!((again.id, again.status()), (made.id, ExecutionStatus::Completed));
}

pub async fn triggers_use_up_the_maximum(store: DynStore) {
    let at = seconds_from_now(&store, 30).await;
    let job = job_with(&store, "a", |j| (j.cursor, j.spec.max_executions) = (Some(at), Some(2))).await;
    plan(&store, &[at], Some(at + MINUTE)).await;
    triggers(&store, &job, 2).await;
    let job = job_now(&store, job.id).await;
    assert_eq!((job.status, job.execution_count, job.next_execution_at), (JobStatus::Inactive, 2, None));
    assert_eq!(executions(&store).await.len(), 2, "the planned fire is taken back");
}

/// What one call asks for counts as if it had been asked for one by one.
pub async fn a_call_does_not_pass_the_maximum(store: DynStore) {
    let job = job_with(&store, "a", |j| j.spec.max_executions = Some(2)).await;
    let admit = |job: &orrery_server::job::Job, active, _: &_| orrery_server::firing::admit_trigger(job, active, false);
    match store.trigger(vec![trigger_of(&job); 3], &admit).await {
        Err(StoreError::TriggerRefused { index: 2, reason, .. }) => assert_eq!(reason.code, "JOB_INACTIVE"),
        other => panic!("{other:?}"),
    }
    store.trigger(vec![trigger_of(&job); 2], &admit).await.unwrap();
    assert_eq!(job_now(&store, job.id).await.status, JobStatus::Inactive);
}

pub async fn lanes_are_shared_and_listed(store: DynStore) {
    let one = job(&store, "one").await;
    let same = job(&store, "same").await;
    let long = "f".repeat(5000);
    let function = job_with(&store, "function", |j| {
        j.spec.job_type = orrery_proto::v1::JobType::Function;
        j.spec.config = format!(r#"{{"modulePath":"m","functionName":"{long}"}}"#);
        j.spec.selector = [("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())].into();
        j.spec.queue = "other".to_owned();
    })
    .await;
    let (first, second) = (trigger(&store, &one).await, trigger(&store, &same).await);
    let third = trigger(&store, &function).await;
    assert!(first.lane_id == second.lane_id && first.lane_id != third.lane_id);
    let lanes = store.lanes_after(third.lane_id - 1).await.unwrap();
    assert_eq!(lanes.len(), 1);
    assert_eq!((lanes[0].tenant_id, lanes[0].queue.as_str()), (TENANT, "other"));
    assert_eq!(lanes[0].executor, format!("function:m#{long}"));
    assert_eq!(lanes[0].selector, function.spec.selector);
    assert_eq!(store.lanes_after(0).await.unwrap().len(), 2);
    // Many at once, of one new lane.
    let new = job_with(&store, "new", |j| j.spec.queue = "new".to_owned()).await;
    let calls = (0..8).map(|_| {
        let (store, new) = (store.clone(), new.clone());
        tokio::spawn(async move { trigger(&store, &new).await.lane_id })
    });
    let mut ids: Vec<i64> = futures_util::future::join_all(calls).await.into_iter().map(Result::unwrap).collect();
    ids.dedup();
    assert_eq!((ids.len(), store.lanes_after(0).await.unwrap().len()), (1, 3));
}
