//! From planned executions to pending ones.

use std::collections::BTreeSet;
use std::sync::Mutex;

use chrono::{DateTime, Utc};
use orrery_proto::v1::{ErrorType, ExecutionStatus, JobStatus};
use orrery_server::execution::{Execution, State, fire_id};
use orrery_server::job::{Job, ScheduleKind};
use orrery_server::store::*;

use crate::support::*;

/// A job with these instants planned, in seconds from now.
async fn planned(
    store: &DynStore,
    name: &str,
    seconds: &[i64],
    change: impl FnOnce(&mut Job),
) -> (Job, Vec<DateTime<Utc>>) {
    let mut fires = Vec::new();
    for s in seconds {
        fires.push(seconds_from_now(store, *s).await);
    }
    let job = job_with(store, name, |j| {
        j.cursor = fires.first().copied();
        change(j);
    })
    .await;
    let id = job.id;
    let decide = |c: &PlanCandidate| match c.job.id == id {
        true => JobPlan { fires: fires.clone(), omissions: vec![], cursor: Some(c.now + chrono::Duration::days(1)) },
        false => JobPlan { fires: vec![], omissions: vec![], cursor: c.job.cursor },
    };
    store.plan(MINUTE, 1000, &decide).await.unwrap();
    (job, fires)
}

async fn states(store: &DynStore) -> Vec<State> {
    executions(store).await.into_iter().map(|e| e.state).collect()
}

pub async fn due_fires_become_pending_and_are_counted(store: DynStore) {
    let (job, fires) = planned(&store, "a", &[-3, -2, 30], |_| {}).await;
    let released = release(&store).await;
    assert_eq!((released.released, released.omitted), (2, 0));
    assert_eq!(released.next_due, Some(fires[2]));
    assert!(released.worst_lag.as_millis() >= 2000 && released.worst_lag.as_secs() < 30);
    assert_eq!(states(&store).await, [State::Pending, State::Pending]);
    let ahead = orrery_server::execution::fire_id(TENANT, job.id, fires[2]);
    assert_eq!(execution(&store, ahead).await.state, State::Scheduled);
    let job = job_now(&store, job.id).await;
    assert_eq!((job.execution_count, job.last_execution_at, job.version), (2, Some(released.now), 1));
    assert_eq!(release(&store).await.released, 0);
    assert_eq!(job_now(&store, job.id).await.execution_count, 2);
}

pub async fn nothing_is_released_early(store: DynStore) {
    planned(&store, "a", &[20], |_| {}).await;
    let never = |_: &[DueFire], _: DateTime<Utc>| -> Vec<DueVerdict> { vec![] };
    assert_eq!(store.release(10, &never).await.unwrap().released, 0);
}

pub async fn fires_are_told_what_is_active(store: DynStore) {
    let (job, fires) = planned(&store, "a", &[-3, -2], |_| {}).await;
    let agent = session(&store, "agent").await;
    leased(&store, &job, &agent).await;
    trigger(&store, &job).await;
    let (other, _) = planned(&store, "b", &[-1], |_| {}).await;
    let seen = Mutex::new(Vec::new());
    let decide = |due: &[DueFire], _: DateTime<Utc>| {
        seen.lock().unwrap().extend(due.iter().map(|d| (d.execution.id, d.job.id, d.active, d.waiting)));
        vec![DueVerdict::Admit; due.len()]
    };
    store.release(10, &decide).await.unwrap();
    let wanted = [
        (fire_id(TENANT, job.id, fires[0]), job.id, 2, 1),
        (fire_id(TENANT, job.id, fires[1]), job.id, 2, 1),
        (seen.lock().unwrap()[2].0, other.id, 0, 0),
    ];
    assert_eq!(*seen.lock().unwrap(), wanted);
}

pub async fn an_omitted_fire_leaves_a_row(store: DynStore) {
    let (job, fires) = planned(&store, "a", &[-3, -2], |_| {}).await;
    let decide = |due: &[DueFire], _: DateTime<Utc>| {
        vec![DueVerdict::Admit, DueVerdict::Omit(omission("overlap", due[1].execution.scheduled_at))]
    };
    let released = store.release(10, &decide).await.unwrap();
    assert_eq!((released.released, released.omitted), (1, 1));
    assert_eq!(executions(&store).await.len(), 1);
    assert_eq!(omissions(&store, &job).await, [omission("overlap", fires[1])]);
    assert_eq!(job_now(&store, job.id).await.execution_count, 1);
}

fn replace(due: &[DueFire], _: DateTime<Utc>) -> Vec<DueVerdict> {
    vec![DueVerdict::Replace("replaced".to_owned()); due.len()]
}

pub async fn a_replacement_ends_the_others(store: DynStore) {
    let (job, _) = planned(&store, "a", &[-3], |_| {}).await;
    let other = job_with(&store, "other", |_| {}).await;
    let agent = session(&store, "agent").await;
    let running = leased(&store, &job, &agent).await;
    let (waiting, untouched) = (trigger(&store, &job).await, trigger(&store, &other).await);
    let released = store.release(10, &replace).await.unwrap();
    assert_eq!(released.released, 1);
    let ended: BTreeSet<_> = released.cancelled.iter().map(|e| e.id).collect();
    assert_eq!(ended, [running.id, waiting.id].into());
    assert_eq!(execution(&store, waiting.id).await.status(), ExecutionStatus::Cancelled);
    assert_eq!(execution(&store, untouched.id).await.state, State::Pending);
    let running = execution(&store, running.id).await;
    assert_eq!((running.status(), running.cancel_reason.as_deref()), (ExecutionStatus::Running, Some("replaced")));
    assert_eq!(store.cancels(&[agent.id]).await.unwrap().len(), 1);
    assert_eq!(job_now(&store, job.id).await.execution_count, 3);
}

pub async fn a_replacement_ends_earlier_fires_of_its_batch(store: DynStore) {
    let (_, fires) = planned(&store, "a", &[-3, -2, -1], |_| {}).await;
    let released = store.release(10, &replace).await.unwrap();
    assert_eq!((released.released, released.cancelled.len()), (3, 2));
    let all: Vec<Execution> = executions(&store).await;
    assert_eq!((all[0].scheduled_at, &all[0].state), (fires[2], &State::Pending));
    assert!(all[1..].iter().all(|e| e.status() == ExecutionStatus::Cancelled));
}

pub async fn two_releases_count_once(store: DynStore) {
    let mut wanted = 0;
    for n in 0..30 {
        planned(&store, &format!("job {n}"), &[-3, -2, -1], |_| {}).await;
        wanted += 3;
    }
    let releases = (0..4).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut released = 0;
            loop {
                let admit = |due: &[DueFire], _: DateTime<Utc>| vec![DueVerdict::Admit; due.len()];
                let round = store.release(7, &admit).await.unwrap();
                released += round.released;
                if round.next_due.is_none() {
                    return released;
                }
            }
        })
    });
    let released: usize = futures_util::future::join_all(releases).await.into_iter().map(Result::unwrap).sum();
    assert_eq!(released, wanted);
    let jobs = store.jobs(TENANT, &JobFilter::default(), &Page { after: None, limit: 100 }).await.unwrap();
    assert!(jobs.iter().all(|job| job.execution_count == 3));
}

pub async fn retries_are_not_offered_and_not_counted(store: DynStore) {
    let job = job_with(&store, "a", |j| j.spec.retry.max_retries = 1).await;
    let agent = session(&store, "agent").await;
    let first = leased(&store, &job, &agent).await;
    let waiting = apply(&store, &first, failed(&first, ErrorType::Timeout)).await.unwrap();
    assert_eq!(waiting.state, State::Scheduled);
    let decide = |due: &[DueFire], _: DateTime<Utc>| {
        assert!(due.is_empty());
        vec![]
    };
    assert_eq!(store.release(10, &decide).await.unwrap().released, 1);
    assert_eq!(job_now(&store, job.id).await.execution_count, 1);
    let second = claim(&store, &agent, 10).await.grants.remove(0).execution;
    assert_eq!((second.id, second.attempt, second.epoch), (first.id, 2, 2));
}

pub async fn the_maximum_makes_inactive(store: DynStore) {
    let (job, _) = planned(&store, "a", &[-3, -2, -1, 30], |j| j.spec.max_executions = Some(2)).await;
    let released = release(&store).await;
    assert_eq!((released.released, released.next_due), (2, None));
    let job = job_now(&store, job.id).await;
    assert_eq!((job.execution_count, job.status, job.next_execution_at), (2, JobStatus::Inactive, None));
    assert_eq!(states(&store).await, [State::Pending, State::Pending]);
    assert!(omissions(&store, &job).await.is_empty());
}

pub async fn the_last_fire_makes_inactive(store: DynStore) {
    let (first, last) = (seconds_from_now(&store, -3).await, seconds_from_now(&store, -2).await);
    let job =
        job_with(&store, "a", |j| (j.cursor, j.spec.schedule.kind) = (Some(first), ScheduleKind::Once(last))).await;
    plan(&store, &[first, last], None).await;
    let admit = |due: &[DueFire], _: DateTime<Utc>| vec![DueVerdict::Admit; due.len()];
    store.release(1, &admit).await.unwrap();
    assert_eq!(job_now(&store, job.id).await.status, JobStatus::Active);
    store.release(1, &admit).await.unwrap();
    assert_eq!(job_now(&store, job.id).await.status, JobStatus::Inactive);
    let omitted = job_with(&store, "b", |j| j.cursor = Some(first)).await;
    plan(&store, &[first], None).await;
    let omit = |due: &[DueFire], _: DateTime<Utc>| vec![DueVerdict::Omit(omission("misfire", first)); due.len()];
    store.release(1, &omit).await.unwrap();
    assert_eq!(job_now(&store, omitted.id).await.status, JobStatus::Inactive);
}

pub async fn manual_jobs_stay_active(store: DynStore) {
    let at = seconds_from_now(&store, -3).await;
    let job = job_with(&store, "a", |j| j.cursor = Some(at)).await;
    plan(&store, &[at], None).await;
    edit(&store, &job, |j| j.spec.schedule.kind = ScheduleKind::Manual).await;
    release(&store).await;
    assert_eq!(job_now(&store, job.id).await.status, JobStatus::Active);
}

pub async fn a_delayed_trigger_counts_once(store: DynStore) {
    let job = job(&store, "a").await;
    // So near that it may have come when the call returns.
    let soon = now(&store).await + chrono::Duration::milliseconds(150);
    let later = Trigger { run_at: Some(soon), ..trigger_of(&job) };
    let made = store.trigger(vec![later], &|_, _, _| Ok(())).await.unwrap().remove(0);
    assert_eq!((made.state, job_now(&store, job.id).await.execution_count), (State::Scheduled, 0));
    let refuse = |due: &[DueFire], _: DateTime<Utc>| {
        assert!(due.is_empty(), "what somebody asked for is not offered");
        vec![]
    };
    let mut released = 0;
    while released == 0 {
        released = store.release(10, &refuse).await.unwrap().released;
    }
    assert_eq!(execution(&store, made.id).await.state, State::Pending);
    let job = job_now(&store, job.id).await;
    assert_eq!((job.execution_count, job.status), (1, JobStatus::Active));
}
