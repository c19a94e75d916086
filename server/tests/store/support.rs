//! Jobs, sessions and steps that tests are made of.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};
use orrery_proto::v1::{
    Delivery, DstGap, DstOverlap, ErrorType, ExecutionStatus, JobStatus, JobType, MisfirePolicy, OverlapPolicy,
    TriggerType,
};
use orrery_server::execution::{Event, Execution, Outcome, Rejected, Report, State};
use orrery_server::job::{Job, JobSpec, MisfireSpec, RetryPolicy, ScheduleKind, ScheduleSpec, Timeouts};
use orrery_server::store::*;
use uuid::Uuid;

pub const TENANT: Uuid = Uuid::from_u128(1);
pub const OTHER_TENANT: Uuid = Uuid::from_u128(2);
pub const USER: Uuid = Uuid::from_u128(7);
pub const MINUTE: Duration = Duration::from_secs(60);
pub const TIMEOUTS: Timeouts = Timeouts { default: Duration::from_secs(300), cap: Duration::from_secs(600) };

/// What the successor of a process names.
pub fn holding(leases: &[(Uuid, i64)]) -> Holding<'_> {
    Holding { leases, continued: false }
}

pub fn spec(name: &str) -> JobSpec {
    JobSpec {
        name: name.to_owned(),
        description: "a description".to_owned(),
        schedule: ScheduleSpec {
            kind: ScheduleKind::Cron("*/5 * * * *".to_owned()),
            timezone: "Europe/Berlin".to_owned(),
            dst_gap: DstGap::Auto,
            dst_overlap: DstOverlap::Auto,
        },
        job_type: JobType::Http,
        config: r#"{"url":"http://localhost"}"#.to_owned(),
        sensitive: vec![],
        sealed: vec![],
        retry: RetryPolicy::default(),
        timeout_seconds: None,
        max_concurrent: 0,
        priority: 0,
        start_date: None,
        end_date: None,
        max_executions: None,
        tags: vec![],
        queue: "default".to_owned(),
        selector: BTreeMap::new(),
        overlap: OverlapPolicy::Allow,
        misfire: MisfireSpec {
            policy: MisfirePolicy::FireOnce,
            grace_seconds: 60,
            max_count: 10,
            max_lateness_seconds: None,
        },
        delivery: Delivery::AtLeastOnce,
        start_deadline_seconds: None,
        concurrency: None,
    }
}

pub fn job_of(tenant: Uuid, spec: JobSpec) -> Job {
    let long_ago = DateTime::UNIX_EPOCH;
    Job {
        id: Uuid::now_v7(),
        tenant_id: tenant,
        spec,
        status: JobStatus::Active,
        version: 1,
        cursor: None,
        execution_count: 0,
        last_execution_at: None,
        halted_at: None,
        tenant_suspended_at: None,
        created_by: USER,
        created_at: long_ago,
        updated_at: long_ago,
        deleted_at: None,
        next_execution_at: None,
    }
}

pub fn new_job(job: Job) -> NewJob {
    NewJob { job, idempotency: None }
}

/// Creates a job of [`TENANT`] after some changes to it.
pub async fn job_with(store: &DynStore, name: &str, change: impl FnOnce(&mut Job)) -> Job {
    let mut job = job_of(TENANT, spec(name));
    change(&mut job);
    store.create_jobs(vec![new_job(job)], None).await.unwrap().remove(0)
}

pub async fn job(store: &DynStore, name: &str) -> Job {
    job_with(store, name, |_| {}).await
}

pub async fn now(store: &DynStore) -> DateTime<Utc> {
    store.now().await.unwrap()
}

/// An instant some seconds before (or after) now, on a whole second.
pub async fn seconds_from_now(store: &DynStore, seconds: i64) -> DateTime<Utc> {
    (now(store).await + chrono::Duration::seconds(seconds)).trunc_subsecs(0)
}

pub fn key(key: &str, request: u8) -> Option<Idempotency> {
    Some(Idempotency { key: key.to_owned(), request_hash: [request; 32] })
}

/// Plans these instants of every candidate, whose cursor then is `cursor`.
pub async fn plan(store: &DynStore, fires: &[DateTime<Utc>], cursor: Option<DateTime<Utc>>) -> Planned {
    let fires = fires.to_vec();
    let decide = move |_: &PlanCandidate| JobPlan { fires: fires.clone(), omissions: vec![], cursor };
    store.plan(MINUTE, 1000, &decide).await.unwrap()
}

pub async fn release(store: &DynStore) -> Releases {
    store.release(1000, &|due, _| vec![DueVerdict::Admit; due.len()]).await.unwrap()
}

pub fn trigger_of(job: &Job) -> Trigger {
    Trigger {
        tenant: job.tenant_id,
        job: job.id,
        kind: TriggerType::Manual,
        by: USER,
        author: None,
        parameters: None,
        run_at: None,
        retry_of: None,
        idempotency: None,
        traceparent: None,
    }
}

pub async fn trigger(store: &DynStore, job: &Job) -> Execution {
    triggers(store, job, 1).await.remove(0)
}

pub async fn triggers(store: &DynStore, job: &Job, count: usize) -> Vec<Execution> {
    store.trigger(vec![trigger_of(job); count], &|_, _, _| Ok(())).await.unwrap()
}

pub fn agent(name: &str) -> NewSession {
    NewSession {
        tenant_id: Some(TENANT),
        agent_id: None,
        name: name.to_owned(),
        version: "1.0".to_owned(),
        labels: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
        queues: vec!["default".to_owned()],
        executors: vec!["http".to_owned()],
        slots: 10,
        coordinator_id: Uuid::from_u128(99),
        address: "127.0.0.1:1".to_owned(),
    }
}

pub async fn session(store: &DynStore, name: &str) -> Session {
    store.open_session(&agent(name), MINUTE).await.unwrap()
}

/// A session that is over already.
pub async fn dead_session(store: &DynStore, name: &str) -> Session {
    store.open_session(&agent(name), Duration::ZERO).await.unwrap()
}

/// Ends a session without a word, as the passing of time does.
pub async fn kill(store: &DynStore, session: &Session) {
    let renewed = store.renew_sessions(&[(session.id, session.attachment)], Duration::ZERO).await.unwrap();
    assert_eq!(renewed.renewed, [session.id]);
}

pub async fn all_lanes(store: &DynStore) -> Vec<i64> {
    store.lanes_after(0).await.unwrap().into_iter().map(|lane| lane.id).collect()
}

/// Claims from all lanes for one session.
pub async fn claim(store: &DynStore, session: &Session, limit: usize) -> Claimed {
    let lanes = all_lanes(store).await;
    claim_of(store, session, &lanes, limit).await
}

pub async fn claim_of(store: &DynStore, session: &Session, lanes: &[i64], limit: usize) -> Claimed {
    claim_within(store, session, lanes, limit, 0).await
}

/// The same where each tenant may have so many leases, if it has no limit of its own.
pub async fn claim_within(
    store: &DynStore,
    session: &Session,
    lanes: &[i64],
    limit: usize,
    tenant_limit: i64,
) -> Claimed {
    let claim = Claim { lanes, limit, tenant_limit, timeouts: TIMEOUTS };
    let to =
        Assignment { session_id: session.id, attachment: session.attachment, worker_name: session.agent.name.clone() };
    store.claim(&claim, &|candidates| vec![Some(to.clone()); candidates.len()]).await.unwrap()
}

/// A fresh execution of a job, leased to a session.
pub async fn leased(store: &DynStore, job: &Job, session: &Session) -> Execution {
    let execution = trigger(store, job).await;
    let claimed = claim(store, session, 100).await;
    claimed.grants.into_iter().map(|g| g.execution).find(|e| e.id == execution.id).expect("it is granted")
}

pub fn change(execution: &Execution, event: Event) -> Change {
    // What the sender knows may be stale: an engine that decides on it must compare.
    Change { execution: execution.id, tenant: None, event, known: Some(std::sync::Arc::new(execution.clone())) }
}

pub async fn apply(store: &DynStore, execution: &Execution, event: Event) -> Result<Execution, Rejected> {
    store.apply(vec![change(execution, event)]).await.unwrap().remove(0)
}

/// The session and epoch of an execution's lease.
pub fn lease(execution: &Execution) -> (Uuid, i64) {
    (execution.lease().expect("it has a lease").session_id, execution.epoch)
}

pub fn started(execution: &Execution) -> Event {
    let (session_id, epoch) = lease(execution);
    Event::Started { session_id, epoch }
}

pub fn report(status: ExecutionStatus) -> Report {
    Report {
        status,
        result: None,
        error_type: (status == ExecutionStatus::Failed).then_some(ErrorType::UserError),
        error_message: String::new(),
        error_stack: String::new(),
        retryable: None,
        duration_ms: 12,
        memory_peak_mb: Some(1.5),
        cpu_time_ms: Some(3),
    }
}

pub fn finished(execution: &Execution, report: Report) -> Event {
    let (session_id, epoch) = lease(execution);
    Event::Finished { session_id, epoch, report: Box::new(report) }
}

pub fn completed(execution: &Execution) -> Event {
    finished(execution, report(ExecutionStatus::Completed))
}

pub fn failed(execution: &Execution, error: ErrorType) -> Event {
    finished(execution, Report { error_type: Some(error), ..report(ExecutionStatus::Failed) })
}

pub fn cancel_requested() -> Event {
    Event::CancelRequested { reason: "enough".to_owned() }
}

/// Runs a fresh execution of a job to its end.
pub async fn run(store: &DynStore, job: &Job, session: &Session, report: Report) -> Execution {
    let execution = leased(store, job, session).await;
    let running = apply(store, &execution, started(&execution)).await.unwrap();
    apply(store, &running, finished(&running, report)).await.unwrap()
}

pub fn outcome(execution: &Execution) -> &Outcome {
    match &execution.state {
        State::Done(outcome) => outcome,
        other => panic!("it is {other:?}"),
    }
}

pub async fn execution(store: &DynStore, id: Uuid) -> Execution {
    store.execution(TENANT, id).await.unwrap().expect("it exists")
}

pub async fn job_now(store: &DynStore, id: Uuid) -> Job {
    store.job(TENANT, id).await.unwrap().expect("it exists")
}

/// All executions of [`TENANT`], newest first.
pub async fn executions(store: &DynStore) -> Vec<Execution> {
    let page = Page { after: None, limit: 10_000 };
    store.executions(TENANT, &ExecutionFilter::default(), &page).await.unwrap()
}

pub async fn omissions(store: &DynStore, job: &Job) -> Vec<NewOmission> {
    let page = Page { after: None, limit: 1000 };
    store.omissions(job.tenant_id, job.id, &page).await.unwrap().into_iter().map(|row| row.omission).collect()
}

pub fn omission(reason: &str, at: DateTime<Utc>) -> NewOmission {
    NewOmission { reason: reason.to_owned(), from: at, to: at, count: 1, detail: "why".to_owned() }
}

/// Changes a job without any further effect.
pub async fn edit(store: &DynStore, job: &Job, edit: impl Fn(&mut Job) + Send + Sync) -> Changed {
    let change = |job: &Job, _: DateTime<Utc>| {
        let mut job = job.clone();
        edit(&mut job);
        Ok(JobChange { job, unplan: false, cancel: None, omission: None })
    };
    store.change_job(job.tenant_id, job.id, &change).await.unwrap()
}

pub async fn delete(store: &DynStore, job: &Job) -> Changed {
    let change = |job: &Job, now: DateTime<Utc>| {
        let job = Job { deleted_at: Some(now), status: JobStatus::Inactive, cursor: None, ..job.clone() };
        Ok(JobChange { job, unplan: true, cancel: Some("deleted".to_owned()), omission: None })
    };
    store.change_job(job.tenant_id, job.id, &change).await.unwrap()
}

/// Limits what of a tenant may run at once: 0 is no limit, `None` the deployment's default.
pub async fn limit_tenant(store: &DynStore, tenant: Uuid, limit: Option<i32>) {
    crate::tenants::changed(store, tenant, |tenant| tenant.quotas.max_concurrent = limit).await;
}
