//! From cursors to planned executions.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use orrery_proto::v1::{ExecutionStatus, JobStatus, TriggerType};
use orrery_server::execution::{State, fire_id};
use orrery_server::job::{Job, ScheduleKind};
use orrery_server::store::*;

use crate::support::*;

pub async fn fires_are_made_and_the_cursor_moves(store: DynStore) {
    let (at, next) = (seconds_from_now(&store, 10).await, seconds_from_now(&store, 300).await);
    let job = job_with(&store, "a", |j| {
        j.cursor = Some(at);
        j.spec.priority = 5;
        j.spec.queue = "slow".to_owned();
    })
    .await;
    let planned = plan(&store, &[at], Some(next)).await;
    assert_eq!((planned.jobs, planned.fires, planned.omissions), (1, 1, 0));
    assert_eq!((planned.next_cursor, planned.next_run_at), (Some(next), Some(at)));
    let made = execution(&store, fire_id(TENANT, job.id, at)).await;
    assert_eq!((made.scheduled_at, made.run_at, made.priority, made.queue.as_str()), (at, at, 5, "slow"));
    assert_eq!((made.state, made.trigger, made.triggered_by), (State::Scheduled, TriggerType::Scheduled, None));
    assert_eq!((made.job_name.as_str(), made.job_version, made.epoch), ("a", 0, 0));
    assert_eq!(plan(&store, &[next], None).await.jobs, 0);
    assert_eq!(job_now(&store, job.id).await.cursor, Some(next));
}

pub async fn two_planners_make_a_fire_once(store: DynStore) {
    let first = seconds_from_now(&store, -1000).await;
    let mut wanted = BTreeSet::new();
    for n in 0..20 {
        let job = job_with(&store, &format!("job {n}"), |j| j.cursor = Some(first)).await;
        wanted.extend((0..30).map(|n| fire_id(TENANT, job.id, first + chrono::Duration::seconds(n))));
    }
    // Each call makes the fire at the cursor and moves it by a second.
    let decide = move |candidate: &PlanCandidate| {
        let at = candidate.job.cursor.unwrap();
        let next = at + chrono::Duration::seconds(1);
        let is_last = next >= first + chrono::Duration::seconds(30);
        JobPlan { fires: vec![at], omissions: vec![], cursor: (!is_last).then_some(next) }
    };
    let planners = (0..4).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut fires = 0;
            loop {
                let planned = store.plan(MINUTE, 5, &decide).await.unwrap();
                fires += planned.fires;
                if planned.next_cursor.is_none() {
                    return fires;
                }
            }
        })
    });
    let made: usize = futures_util::future::join_all(planners).await.into_iter().map(Result::unwrap).sum();
    assert_eq!(made, wanted.len());
    for id in wanted {
        execution(&store, id).await;
    }
}

pub async fn only_active_jobs_near_their_cursor_are_planned(store: DynStore) {
    let (soon, later) = (seconds_from_now(&store, 30).await, seconds_from_now(&store, 90).await);
    job_with(&store, "later", |j| j.cursor = Some(later)).await;
    job_with(&store, "paused", |j| (j.cursor, j.status) = (Some(soon), JobStatus::Paused)).await;
    job_with(&store, "inactive", |j| (j.cursor, j.status) = (Some(soon), JobStatus::Inactive)).await;
    job_with(&store, "never", |_| {}).await;
    let deleted = job_with(&store, "deleted", |j| j.cursor = Some(soon)).await;
    delete(&store, &deleted).await;
    let planned = plan(&store, &[], None).await;
    assert_eq!((planned.jobs, planned.next_cursor, planned.next_run_at), (0, Some(later), None));
    assert!(planned.now <= now(&store).await);
    for n in 0..5 {
        job_with(&store, &format!("job {n}"), |j| j.cursor = Some(soon)).await;
    }
    let keep = |_: &PlanCandidate| JobPlan { fires: vec![], omissions: vec![], cursor: Some(later) };
    assert_eq!(store.plan(MINUTE, 3, &keep).await.unwrap().jobs, 3);
    assert_eq!(store.plan(MINUTE, 3, &keep).await.unwrap().jobs, 2);
}

/// A job waits for what becomes of the fires that may be its last, and others are planned meanwhile.
pub async fn waiting_for_the_last_fires_holds_nobody_up(store: DynStore) {
    let (due, ahead) = (seconds_from_now(&store, -5).await, seconds_from_now(&store, 20).await);
    for n in 0..3 {
        job_with(&store, &format!("limited {n}"), |j| (j.cursor, j.spec.max_executions) = (Some(due), Some(1))).await;
    }
    let fire = |c: &PlanCandidate| JobPlan { fires: vec![due], omissions: vec![], cursor: c.job.cursor };
    assert_eq!(store.plan(MINUTE, 3, &fire).await.unwrap().fires, 3);
    let other = job_with(&store, "other", |j| j.cursor = Some(ahead)).await;
    let seen = std::sync::Mutex::new(Vec::new());
    let look = |c: &PlanCandidate| {
        seen.lock().unwrap().push(c.job.id);
        JobPlan { cursor: c.job.cursor, ..JobPlan::default() }
    };
    assert_eq!(store.plan(MINUTE, 3, &look).await.unwrap().next_cursor, Some(ahead));
    assert_eq!(std::mem::take(&mut *seen.lock().unwrap()), [other.id]);
    let omit = |fires: &[DueFire], _: DateTime<Utc>| vec![DueVerdict::Omit(omission("overlap", due)); fires.len()];
    store.release(1, &omit).await.unwrap();
    assert_eq!(store.plan(MINUTE, 3, &look).await.unwrap().next_cursor, Some(due));
    assert_eq!(seen.lock().unwrap().len(), 2);
    // One that has had all its executions, with nothing outstanding, is looked at: it ends.
    let spent = job_with(&store, "spent", |j| (j.cursor, j.spec.max_executions) = (Some(due), Some(0))).await;
    plan(&store, &[], None).await;
    assert_eq!(job_now(&store, spent.id).await.status, JobStatus::Inactive);
}

pub async fn planned_fires_are_told_of(store: DynStore) {
    let (at, next) = (seconds_from_now(&store, 10).await, seconds_from_now(&store, 20).await);
    let job = job_with(&store, "a", |j| (j.cursor, j.spec.max_executions) = (Some(at), Some(5))).await;
    trigger(&store, &job).await;
    plan(&store, &[at], Some(next)).await;
    let seen = std::sync::Mutex::new(Vec::new());
    let decide = |c: &PlanCandidate| {
        seen.lock().unwrap().push((c.outstanding, c.job.cursor, c.horizon - c.now));
        JobPlan { cursor: Some(next), ..JobPlan::default() }
    };
    store.plan(MINUTE, 10, &decide).await.unwrap();
    assert_eq!(seen.into_inner().unwrap(), [(1, Some(next), chrono::Duration::minutes(1))]);
}

/// The cursor alone keeps a fire from being made again; but even where a caller sets it back, what is in history stays there.
pub async fn a_fire_in_history_is_refused(store: DynStore) {
    let at = seconds_from_now(&store, -5).await;
    let job = job_with(&store, "a", |j| j.cursor = Some(at)).await;
    let agent = session(&store, "agent").await;
    plan(&store, &[at], Some(at)).await;
    release(&store).await;
    let granted = claim(&store, &agent, 10).await.grants.remove(0).execution;
    apply(&store, &granted, completed(&granted)).await.unwrap();
    assert_eq!(plan(&store, &[at], None).await.fires, 0);
    let all = executions(&store).await;
    assert_eq!((all.len(), all[0].status()), (1, ExecutionStatus::Completed));
    assert_eq!(job_now(&store, job.id).await.execution_count, 1);
}

pub async fn omissions_are_written(store: DynStore) {
    let at = seconds_from_now(&store, -500).await;
    let job = job_with(&store, "a", |j| j.cursor = Some(at)).await;
    let wanted = NewOmission { to: at + chrono::Duration::seconds(100), count: 11, ..omission("misfire", at) };
    let decide = |_: &PlanCandidate| JobPlan {
        fires: vec![],
        omissions: vec![wanted.clone(), omission("coalesced", at)],
        cursor: Some(at + chrono::Duration::days(1)),
    };
    assert_eq!(store.plan(MINUTE, 10, &decide).await.unwrap().omissions, 2);
    let rows = store.omissions(TENANT, job.id, &Page { after: None, limit: 10 }).await.unwrap();
    assert_eq!(rows.iter().map(|r| r.omission.reason.as_str()).collect::<Vec<_>>(), ["coalesced", "misfire"]);
    assert_eq!(rows[1].omission, wanted);
    assert!(rows.iter().all(|r| r.job_id == job.id && r.created_at > at));
}

pub async fn a_job_without_a_future_becomes_inactive(store: DynStore) {
    let at = seconds_from_now(&store, -5).await;
    let over = job_with(&store, "over", |j| j.cursor = Some(at)).await;
    plan(&store, &[], None).await;
    assert_eq!(job_now(&store, over.id).await.status, JobStatus::Inactive);
    let firing = job_with(&store, "firing", |j| j.cursor = Some(at)).await;
    plan(&store, &[at], None).await;
    assert_eq!(job_now(&store, firing.id).await.status, JobStatus::Active);
    let manual =
        job_with(&store, "manual", |j| (j.cursor, j.spec.schedule.kind) = (Some(at), ScheduleKind::Manual)).await;
    plan(&store, &[], None).await;
    assert_eq!(job_now(&store, manual.id).await.status, JobStatus::Active);
}

pub async fn the_next_fire_is_shown(store: DynStore) {
    let (at, next) = (seconds_from_now(&store, 10).await, seconds_from_now(&store, 20).await);
    let job = job_with(&store, "a", |j| j.cursor = Some(at)).await;
    assert_eq!(job_now(&store, job.id).await.next_execution_at, Some(at));
    plan(&store, &[at], Some(next)).await;
    let read = job_now(&store, job.id).await;
    assert_eq!((read.cursor, read.next_execution_at), (Some(next), Some(at)));
    assert_eq!(store.counts(Some(TENANT)).await.unwrap().next_fire, Some(at));
    let listed = store.jobs(TENANT, &JobFilter::default(), &Page { after: None, limit: 1 }).await.unwrap();
    assert_eq!(listed[0].next_execution_at, Some(at));
}

pub async fn what_is_not_due_is_not_listed(store: DynStore) {
    let at = seconds_from_now(&store, 3).await;
    let job = job_with(&store, "a", |j| j.cursor = Some(at)).await;
    let planned = store.plan(MINUTE, 10, &|_| JobPlan { fires: vec![at], ..JobPlan::default() }).await.unwrap();
    assert_eq!(planned.fires, 1);
    let page = Page { after: None, limit: 10 };
    for status in [None, Some(orrery_proto::v1::ExecutionStatus::Pending)] {
        let filter = ExecutionFilter { status, ..ExecutionFilter::default() };
        assert!(store.executions(TENANT, &filter, &page).await.unwrap().is_empty());
    }
    let hour = chrono::Duration::hours(1);
    assert_eq!(store.stats(TENANT, Some(job.id), at - hour, at + hour).await.unwrap().pending, 0);
    let id = orrery_server::execution::fire_id(TENANT, job.id, at);
    assert!(store.execution(TENANT, id).await.unwrap().is_some(), "whoever knows its id may read it");
}

pub async fn pausing_takes_back_what_is_not_due(store: DynStore) {
    let (due, ahead) = (seconds_from_now(&store, -2).await, seconds_from_now(&store, 30).await);
    let job = job_with(&store, "a", |j| j.cursor = Some(due)).await;
    plan(&store, &[due, ahead], Some(ahead + Duration::from_secs(300))).await;
    let later = Trigger { run_at: Some(ahead), ..trigger_of(&job) };
    let later = store.trigger(vec![later], &|_, _, _| Ok(())).await.unwrap().remove(0);
    let waiting = trigger(&store, &job).await;
    let pause = |job: &Job, _: DateTime<Utc>| {
        let job = Job { status: JobStatus::Paused, cursor: None, ..job.clone() };
        Ok(JobChange { job, unplan: true, cancel: None, omission: Some(omission("paused", ahead)) })
    };
    let changed = store.change_job(TENANT, job.id, &pause).await.unwrap();
    assert!(changed.cancelled.is_empty());
    for left in [fire_id(TENANT, job.id, due), later.id, waiting.id] {
        execution(&store, left).await;
    }
    assert_eq!(store.execution(TENANT, fire_id(TENANT, job.id, ahead)).await.unwrap(), None);
    assert_eq!(omissions(&store, &job).await, [omission("paused", ahead)]);
    // Resumed, the same instant can be planned again.
    edit(&store, &job, |j| (j.status, j.cursor) = (JobStatus::Active, Some(ahead))).await;
    assert_eq!(plan(&store, &[ahead], None).await.fires, 1);
}

pub async fn stopping_cancels_what_waits_and_runs(store: DynStore) {
    let (due, ahead) = (seconds_from_now(&store, -2).await, seconds_from_now(&store, 30).await);
    let job = job_with(&store, "a", |j| j.cursor = Some(due)).await;
    let agent = session(&store, "agent").await;
    let running = leased(&store, &job, &agent).await;
    let waiting = trigger(&store, &job).await;
    plan(&store, &[due, ahead], None).await;
    let stop = |job: &Job, _: DateTime<Utc>| {
        let job = Job { status: JobStatus::Inactive, cursor: None, ..job.clone() };
        Ok(JobChange { job, unplan: true, cancel: Some("stopped".to_owned()), omission: None })
    };
    let changed = store.change_job(TENANT, job.id, &stop).await.unwrap();
    let ids: BTreeSet<_> = changed.cancelled.iter().map(|e| e.id).collect();
    assert_eq!(ids, [running.id, waiting.id, fire_id(TENANT, job.id, due)].into());
    let waiting = execution(&store, waiting.id).await;
    assert_eq!((waiting.status(), waiting.cancel_reason.as_deref()), (ExecutionStatus::Cancelled, Some("stopped")));
    let running = execution(&store, running.id).await;
    assert_eq!(running.status(), ExecutionStatus::Running);
    assert!(running.cancel_requested_at.is_some());
    assert_eq!(store.execution(TENANT, fire_id(TENANT, job.id, ahead)).await.unwrap(), None, "it was not due");
}
