//! Fires that are granted ahead of their instant.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use orrery_proto::v1::{Delivery, ExecutionStatus, JobStatus, OverlapPolicy};
use orrery_server::concurrency::Concurrency;
use orrery_server::execution::{Event, Execution, State};
use orrery_server::firing;
use orrery_server::job::{Job, ScheduleKind};
use orrery_server::store::*;

use crate::support::*;

const REACH: Duration = Duration::from_secs(40);

/// A job that fires every second.
pub async fn every_second(store: &DynStore, name: &str, change: impl FnOnce(&mut Job)) -> Job {
    let cursor = Some(now(store).await);
    job_with(store, name, |job| {
        job.spec.schedule.kind = ScheduleKind::Every(1000);
        job.cursor = cursor;
        change(job);
    })
    .await
}

/// Plans fires so many seconds from now of every job.
pub async fn planned(store: &DynStore, seconds: &[i64]) -> Vec<DateTime<Utc>> {
    let start = seconds_from_now(store, 0).await;
    let fires: Vec<DateTime<Utc>> = seconds.iter().map(|n| start + TimeDelta::seconds(*n)).collect();
    plan(store, &fires, Some(start + TimeDelta::seconds(3600))).await;
    fires
}

async fn arm_within(store: &DynStore, session: &Session, least: Duration, tenant_limit: i64) -> Armed {
    let lanes = all_lanes(store).await;
    let arm = Arm { lanes: &lanes, least, ahead: REACH, limit: 100, tenant_limit, hourly: 0, timeouts: TIMEOUTS };
    let to =
        Assignment { session_id: session.id, attachment: session.attachment, worker_name: session.agent.name.clone() };
    store.arm(&arm, &firing::arm, &|candidates| vec![Some(to.clone()); candidates.len()]).await.unwrap()
}

pub async fn arm(store: &DynStore, session: &Session) -> Vec<Execution> {
    let armed = arm_within(store, session, Duration::ZERO, 0).await;
    armed.grants.into_iter().map(|grant| grant.execution).collect()
}

fn given_back(execution: &Execution) -> Event {
    let (session_id, epoch) = lease(execution);
    Event::Released { session_id, epoch }
}

/// Changes a job as people do: what is planned of it is taken back.
async fn change_of(store: &DynStore, job: &Job, change: impl Fn(&mut Job) + Send + Sync) -> Changed {
    let decide = |job: &Job, _: DateTime<Utc>| {
        let mut job = job.clone();
        change(&mut job);
        Ok(JobChange { job, unplan: true, cancel: None, omission: None })
    };
    store.change_job(job.tenant_id, job.id, &decide).await.unwrap()
}

/// Releases by the rules, until that instant is past.
async fn released_at(store: &DynStore, at: DateTime<Utc>) {
    loop {
        let past = now(store).await > at;
        store.release(100, &firing::judge).await.unwrap();
        if past {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn count(store: &DynStore, job: &Job) -> i64 {
    job_now(store, job.id).await.execution_count
}

pub async fn a_fire_that_is_too_near_is_not_passed_by_the_next_one(store: DynStore) {
    let agent = session(&store, "agent").await;
    every_second(&store, "alone", |job| job.spec.max_concurrent = 1).await;
    let fires = planned(&store, &[20, 30]).await;
    let near = Duration::from_secs(25);
    assert!(arm_within(&store, &agent, near, 0).await.grants.is_empty(), "the first would find its place taken");
    let armed = arm(&store, &agent).await;
    assert_eq!(armed.iter().map(|e| e.run_at).collect::<Vec<_>>(), fires[..1]);
}

pub async fn a_fire_is_granted_ahead_of_its_instant(store: DynStore) {
    let agent = session(&store, "a").await;
    let job = every_second(&store, "job", |job| job.spec.timeout_seconds = Some(30)).await;
    let at = planned(&store, &[30]).await[0];
    let armed = arm_within(&store, &agent, Duration::ZERO, 0).await;
    let execution = &armed.grants[0].execution;
    assert_eq!((armed.grants.len(), armed.more, armed.next), (1, false, None));
    assert_eq!((execution.run_at, execution.attempt, execution.epoch, execution.job_version), (at, 1, 1, 1));
    assert_eq!(execution.lease().unwrap().deadline, at + TimeDelta::seconds(30));
    assert_eq!(armed.grants[0].timeout, Duration::from_secs(30));
    let stored = self::execution(&store, execution.id).await;
    assert_eq!(&stored, execution);
    assert!(stored.is_armed(now(&store).await) && stored.status() == ExecutionStatus::Pending);
    let job = job_now(&store, job.id).await;
    assert_eq!((job.execution_count, job.last_execution_at), (1, Some(at)));
    // It is nobody else's, and nothing yet to those who look on.
    assert!(executions(&store).await.is_empty());
    assert_eq!((release(&store).await.released, claim(&store, &agent, 10).await.grants.len()), (0, 0));
    assert!(arm(&store, &agent).await.is_empty());
    let load = store.job_load(TENANT, job.id).await.unwrap();
    assert_eq!((load.active, load.leased), (0, 0));
    assert_eq!(store.reap(Duration::ZERO, 100).await.unwrap().executions.len(), 0);
}

pub async fn only_fires_within_reach_are_granted_ahead(store: DynStore) {
    let agent = session(&store, "a").await;
    let job = every_second(&store, "job", |_| {}).await;
    let fires = planned(&store, &[5, 30, 90]).await;
    let later = Trigger { run_at: Some(fires[1]), ..trigger_of(&job) };
    store.trigger(vec![later], &|_, _, _| Ok(())).await.unwrap();
    let armed = arm_within(&store, &agent, Duration::from_secs(15), 0).await;
    let granted: Vec<_> = armed.grants.iter().map(|grant| grant.execution.scheduled_at).collect();
    assert_eq!((granted, armed.next), (vec![fires[1]], Some(fires[2])));
    let none = Arm {
        lanes: &[],
        least: Duration::ZERO,
        ahead: REACH,
        limit: 9,
        tenant_limit: 0,
        hourly: 0,
        timeouts: TIMEOUTS,
    };
    let none = store.arm(&none, &firing::arm, &|_| panic!("nobody serves it")).await.unwrap();
    assert_eq!((none.grants.len(), none.next), (0, None));
}

pub async fn what_comes_back_before_its_instant_was_never_begun(store: DynStore) {
    let agent = session(&store, "a").await;
    every_second(&store, "job", |job| job.spec.delivery = Delivery::AtMostOnce).await;
    planned(&store, &[30]).await;
    // By its agent's word, by the end of its session, by its silence about it, and by its farewell.
    let first = arm(&store, &agent).await.remove(0);
    let back = apply(&store, &first, given_back(&first)).await.unwrap();
    assert_eq!((&back.state, back.attempt, back.epoch, back.job_version), (&State::Scheduled, 0, 1, 0));
    let second = arm(&store, &agent).await.remove(0);
    assert_eq!(second.epoch, 2);
    assert!(apply(&store, &second, given_back(&first)).await.is_err(), "an old epoch");
    kill(&store, &agent).await;
    let reaped = store.reap(MINUTE, 100).await.unwrap();
    assert_eq!(reaped.executions[0].1.state, State::Scheduled);
    let agent = session(&store, "b").await;
    assert_eq!(arm(&store, &agent).await.len(), 1);
    let held = Holding::default();
    let resumed = store.resume_session(agent.id, &agent.agent, &held, MINUTE).await.unwrap().unwrap();
    assert_eq!(resumed.taken_back[0].state, State::Scheduled);
    let agent = resumed.session;
    let last = arm(&store, &agent).await.remove(0);
    store.close_session(agent.id, agent.attachment).await.unwrap();
    let back = execution(&store, last.id).await;
    assert_eq!((&back.state, back.epoch, back.losses, back.attempts.len()), (&State::Scheduled, 4, 0, 0));
}

pub async fn what_is_granted_ahead_is_counted_once(store: DynStore) {
    let agent = session(&store, "a").await;
    let job = every_second(&store, "job", |job| job.spec.max_executions = Some(3)).await;
    let fires = planned(&store, &[3, 30, 31]).await;
    let armed = arm(&store, &agent).await;
    // The last one that it may have waits for its instant: it makes the job inactive.
    assert_eq!((armed.len(), count(&store, &job).await), (2, 2));
    for execution in &armed {
        apply(&store, execution, given_back(execution)).await.unwrap();
    }
    assert_eq!(count(&store, &job).await, 2);
    let again = arm(&store, &agent).await;
    assert_eq!((again.len(), count(&store, &job).await), (2, 2));
    let nearest = again.iter().find(|e| e.scheduled_at == fires[0]).unwrap();
    apply(&store, nearest, given_back(nearest)).await.unwrap();
    trigger(&store, &job).await;
    let full = job_now(&store, job.id).await;
    assert_eq!((full.status, full.execution_count), (JobStatus::Inactive, 3));
    // What has been counted happens, though its job has had all it may have.
    released_at(&store, fires[0]).await;
    let due = execution(&store, nearest.id).await;
    assert_eq!((&due.state, due.epoch, count(&store, &job).await), (&State::Pending, 2, 3));
    assert!(omissions(&store, &job).await.is_empty());
    let granted = claim(&store, &agent, 10).await.grants;
    assert_eq!(granted.len(), 2);
    assert!(granted.iter().any(|grant| (grant.execution.id, grant.execution.epoch) == (nearest.id, 3)));
}

pub async fn the_last_fire_is_left_to_its_release(store: DynStore) {
    let agent = session(&store, "a").await;
    let job = every_second(&store, "job", |_| {}).await;
    let at = seconds_from_now(&store, 2).await;
    plan(&store, &[at], None).await;
    assert!(arm(&store, &agent).await.is_empty());
    assert_eq!(job_now(&store, job.id).await.status, JobStatus::Active, "it can still be paused");
    released_at(&store, at).await;
    assert_eq!(job_now(&store, job.id).await.status, JobStatus::Inactive);
    assert_eq!((count(&store, &job).await, claim(&store, &agent, 10).await.grants.len()), (1, 1));
}

pub async fn a_job_with_a_limit_is_granted_ahead_once_and_alone(store: DynStore) {
    let agent = session(&store, "a").await;
    let forbids = |job: &mut Job| {
        (job.spec.max_concurrent, job.spec.overlap) = (1, OverlapPolicy::Forbid);
    };
    let job = every_second(&store, "job", forbids).await;
    planned(&store, &[20, 30]).await;
    let armed = arm(&store, &agent).await;
    assert_eq!(armed.len(), 1);
    assert!(arm(&store, &agent).await.is_empty());
    // Somebody may ask for it meanwhile, and it waits: there is one lease at most.
    let asked =
        store.trigger(vec![trigger_of(&job)], &|job, active, _| firing::admit_trigger(job, active, false)).await;
    assert_eq!(asked.unwrap()[0].state, State::Pending);
    assert!(claim(&store, &agent, 10).await.grants.is_empty());
    apply(&store, &armed[0], given_back(&armed[0])).await.unwrap();
    assert!(arm(&store, &agent).await.is_empty(), "one of its executions waits");
    let asked = claim(&store, &agent, 10).await.grants.remove(0).execution;
    assert!(arm(&store, &agent).await.is_empty(), "one of its executions runs");
    let running = apply(&store, &asked, started(&asked)).await.unwrap();
    apply(&store, &running, completed(&running)).await.unwrap();
    assert_eq!(arm(&store, &agent).await.len(), 1);
}

pub async fn limits_hold_for_what_is_granted_ahead(store: DynStore) {
    let agent = session(&store, "a").await;
    for n in 0..3 {
        every_second(&store, &format!("job {n}"), |_| {}).await;
    }
    planned(&store, &[30]).await;
    let all_back = async |armed: &[Execution]| {
        for execution in armed {
            apply(&store, execution, given_back(execution)).await.unwrap();
        }
    };
    let of_tenant = arm_within(&store, &agent, Duration::ZERO, 2).await;
    assert_eq!(of_tenant.grants.len(), 2);
    assert_eq!(arm_within(&store, &agent, Duration::ZERO, 2).await.grants.len(), 0);
    all_back(&of_tenant.grants.iter().map(|g| g.execution.clone()).collect::<Vec<_>>()).await;
    store.set_queue_limit(TENANT, "default", 1, USER).await.unwrap();
    let of_queue = arm(&store, &agent).await;
    assert_eq!((of_queue.len(), arm(&store, &agent).await.len()), (1, 0));
    let other = job(&store, "other").await;
    trigger(&store, &other).await;
    assert!(claim(&store, &agent, 10).await.grants.is_empty(), "the place is taken");
    all_back(&of_queue).await;
    assert_eq!(claim(&store, &agent, 10).await.grants.len(), 1);
    assert!(arm(&store, &agent).await.is_empty(), "and the other way round");
}

pub async fn keys_hold_for_what_is_granted_ahead(store: DynStore) {
    let agent = session(&store, "a").await;
    for (name, limit) in [("one", 2), ("two", 1), ("three", 2)] {
        let key = Concurrency { key: "k".to_owned(), limit };
        every_second(&store, name, |job| job.spec.concurrency = Some(key)).await;
    }
    planned(&store, &[30]).await;
    let armed = arm(&store, &agent).await;
    assert_eq!((armed.len(), arm(&store, &agent).await.len()), (1, 0), "the smallest limit of a key holds");
}

pub async fn a_change_of_the_job_calls_back_what_has_not_begun(store: DynStore) {
    let agent = session(&store, "a").await;
    let job = every_second(&store, "job", |_| {}).await;
    planned(&store, &[30]).await;
    let armed = arm(&store, &agent).await.remove(0);
    assert!(store.cancels(&[agent.id]).await.unwrap().is_empty());
    change_of(&store, &job, |job| job.spec.queue = "other".to_owned()).await;
    let wanted = store.cancels(&[agent.id]).await.unwrap();
    let lease = Held { session_id: agent.id, execution_id: armed.id, epoch: 1 };
    assert_eq!(wanted, [Wanted { lease, is_recall: true }]);
    let back = apply(&store, &armed, given_back(&armed)).await.unwrap();
    assert!(store.cancels(&[agent.id]).await.unwrap().is_empty());
    // It waits where the new version can run, and will run it.
    let lanes = store.lanes_after(0).await.unwrap();
    assert_eq!(lanes.iter().find(|lane| lane.id == back.lane_id).unwrap().queue, "other");
    let again = arm(&store, &agent).await.remove(0);
    assert_eq!((again.job_version, again.epoch, again.queue.as_str()), (2, 2, "other"));
    // What somebody wants to end is another matter.
    apply(&store, &again, cancel_requested()).await.unwrap();
    let wanted = store.cancels(&[agent.id]).await.unwrap();
    assert_eq!((wanted.len(), wanted[0].is_recall), (1, false));
    let ended = apply(&store, &again, given_back(&again)).await.unwrap();
    assert_eq!((ended.status(), ended.attempts.len()), (ExecutionStatus::Cancelled, 0));
}

pub async fn what_begins_is_called_back_no_more(store: DynStore) {
    let agent = session(&store, "a").await;
    let job = every_second(&store, "job", |_| {}).await;
    let at = planned(&store, &[2]).await[0];
    let armed = arm(&store, &agent).await.remove(0);
    change_of(&store, &job, |job| job.spec.priority = 3).await;
    released_at(&store, at).await;
    assert!(store.cancels(&[agent.id]).await.unwrap().is_empty(), "from its instant on it may have begun");
    let running = apply(&store, &armed, started(&armed)).await.unwrap();
    let lease = running.lease().unwrap();
    assert!(lease.started_at.unwrap() >= at && running.status() == ExecutionStatus::Running);
    assert_eq!(executions(&store).await.len(), 1);
    let done = apply(&store, &running, completed(&running)).await.unwrap();
    assert_eq!((done.status(), count(&store, &job).await), (ExecutionStatus::Completed, 1));
}

pub async fn a_pause_takes_back_what_is_not_due(store: DynStore) {
    let agent = session(&store, "a").await;
    let job = every_second(&store, "job", |_| {}).await;
    let fires = planned(&store, &[2, 30]).await;
    let armed = arm(&store, &agent).await;
    assert_eq!((armed.len(), count(&store, &job).await), (2, 2));
    let early = armed.iter().find(|e| e.scheduled_at == fires[1]).unwrap();
    apply(&store, early, given_back(early)).await.unwrap();
    // What is back when the job is paused goes at once, and the other at its instant. Neither counts.
    let since = now(&store).await;
    let paused = change_of(&store, &job, |job| {
        (job.status, job.halted_at, job.cursor) = (JobStatus::Paused, Some(since), None);
    });
    assert_eq!(paused.await.job.execution_count, 1);
    assert!(store.execution(TENANT, early.id).await.unwrap().is_none());
    let late = armed.iter().find(|e| e.scheduled_at == fires[0]).unwrap();
    apply(&store, late, given_back(late)).await.unwrap();
    released_at(&store, fires[0]).await;
    assert!(store.execution(TENANT, late.id).await.unwrap().is_none());
    let job = job_now(&store, job.id).await;
    assert_eq!((job.execution_count, job.status), (0, JobStatus::Paused));
}

pub async fn a_schedule_that_has_lost_an_instant_takes_its_fire_back(store: DynStore) {
    let agent = session(&store, "a").await;
    for (name, keeps) in [("keeps", true), ("loses", false)] {
        let job = every_second(&store, name, |_| {}).await;
        let at = planned(&store, &[2]).await[0];
        let armed = arm(&store, &agent).await.remove(0);
        let kind = if keeps { ScheduleKind::Every(500) } else { ScheduleKind::Once(at + TimeDelta::hours(1)) };
        change_of(&store, &job, |job| job.spec.schedule.kind = kind.clone()).await;
        apply(&store, &armed, given_back(&armed)).await.unwrap();
        released_at(&store, at).await;
        let due = store.execution(TENANT, armed.id).await.unwrap();
        assert_eq!(
            (due.map(|e| e.state), count(&store, &job).await),
            (keeps.then_some(State::Pending), i64::from(keeps))
        );
        delete(&store, &job).await;
    }
}

pub async fn nothing_is_granted_ahead_to_a_stream_that_is_lost(store: DynStore) {
    let job = every_second(&store, "job", |_| {}).await;
    planned(&store, &[30]).await;
    let dead = dead_session(&store, "dead").await;
    assert!(arm(&store, &dead).await.is_empty());
    let old = session(&store, "a").await;
    store.resume_session(old.id, &old.agent, &Holding::default(), MINUTE).await.unwrap().unwrap();
    assert!(arm(&store, &old).await.is_empty());
    assert_eq!(count(&store, &job).await, 0);
}

pub async fn two_that_arm_grant_a_fire_once(store: DynStore) {
    let agent = session(&store, "a").await;
    let mut jobs = Vec::new();
    for n in 0..10 {
        jobs.push(every_second(&store, &format!("job {n}"), |job| job.spec.max_concurrent = n % 2).await);
    }
    planned(&store, &[30]).await;
    let mut armed = Vec::new();
    // Each may leave what the other has locked.
    for _ in 0..5 {
        let (one, two) = tokio::join!(arm(&store, &agent), arm(&store, &agent));
        armed.extend(one.into_iter().chain(two).map(|e| e.id));
    }
    armed.sort();
    let all = armed.len();
    armed.dedup();
    assert_eq!((all, armed.len()), (10, 10));
    for job in &jobs {
        assert_eq!(count(&store, job).await, 1);
    }
}
