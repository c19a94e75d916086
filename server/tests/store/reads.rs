//! What people ask.

use chrono::{DateTime, Utc};
use orrery_proto::v1::{ErrorType, ExecutionStatus, JobStatus, TriggerType};
use orrery_server::execution::{Event, Report};
use orrery_server::store::*;
use uuid::Uuid;

use crate::support::*;

async fn ids_of(store: &DynStore, filter: ExecutionFilter) -> Vec<Uuid> {
    let page = Page { after: None, limit: 1000 };
    store.executions(TENANT, &filter, &page).await.unwrap().iter().map(|e| e.id).collect()
}

pub async fn executions_page_without_gaps(store: DynStore) {
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    let mut wanted = Vec::new();
    for _ in 0..5 {
        wanted.extend(triggers(&store, &job, 6).await.into_iter().map(|e| e.id));
        // Some of each batch are over, some run, some wait.
        for (n, grant) in claim(&store, &agent, 4).await.grants.iter().enumerate() {
            if n % 2 == 0 {
                apply(&store, &grant.execution, completed(&grant.execution)).await.unwrap();
            }
        }
    }
    wanted.sort_unstable();
    wanted.reverse();
    for (limit, job) in [(1, None), (4, None), (7, Some(job.id)), (30, None), (100, Some(job.id))] {
        let mut seen = Vec::new();
        loop {
            let page = Page { after: seen.last().copied(), limit };
            let filter = ExecutionFilter { job, ..ExecutionFilter::default() };
            let found = store.executions(TENANT, &filter, &page).await.unwrap();
            seen.extend(found.iter().map(|e| e.id));
            if found.len() < usize::try_from(limit).unwrap() {
                break;
            }
        }
        assert_eq!(seen, wanted);
    }
}

pub async fn executions_are_filtered(store: DynStore) {
    let (one, two) = (job(&store, "one").await, job(&store, "two").await);
    let agent = session(&store, "agent").await;
    let done = run(&store, &one, &agent, report(ExecutionStatus::Completed)).await;
    let bad = run(&store, &two, &agent, report(ExecutionStatus::Failed)).await;
    let running = leased(&store, &one, &agent).await;
    let waiting = trigger(&store, &two).await;
    let at = seconds_from_now(&store, 500).await;
    let later = store
        .trigger(vec![Trigger { run_at: Some(at), ..trigger_of(&one) }], &|_, _, _| Ok(()))
        .await
        .unwrap()
        .remove(0);
    // Delayed, and over: its scheduled instant is not the one in its id.
    let ended = store
        .trigger(vec![Trigger { run_at: Some(at), ..trigger_of(&one) }], &|_, _, _| Ok(()))
        .await
        .unwrap()
        .remove(0);
    apply(&store, &ended, cancel_requested()).await.unwrap();
    let of = ExecutionFilter::default;
    let status = |status| ExecutionFilter { status: Some(status), ..of() };
    assert_eq!(ids_of(&store, status(ExecutionStatus::Completed)).await, [done.id]);
    assert_eq!(ids_of(&store, status(ExecutionStatus::Failed)).await, [bad.id]);
    assert_eq!(ids_of(&store, status(ExecutionStatus::Running)).await, [running.id]);
    assert_eq!(ids_of(&store, status(ExecutionStatus::Pending)).await, [later.id, waiting.id]);
    assert_eq!(ids_of(&store, status(ExecutionStatus::Cancelled)).await, [ended.id]);
    assert_eq!(ids_of(&store, ExecutionFilter { job: Some(two.id), ..of() }).await, [waiting.id, bad.id]);
    let among = |jobs: &[Uuid]| ExecutionFilter { jobs: Some(jobs.to_vec()), ..of() };
    assert_eq!(ids_of(&store, among(&[two.id])).await, [waiting.id, bad.id]);
    assert_eq!(
        ids_of(&store, ExecutionFilter { from: Some(at), ..among(&[two.id, one.id]) }).await,
        [ended.id, later.id]
    );
    assert!(ids_of(&store, ExecutionFilter { from: Some(at), ..among(&[two.id]) }).await.is_empty());
    assert_eq!(ids_of(&store, ExecutionFilter { trigger: Some(TriggerType::Manual), ..of() }).await.len(), 6);
    assert!(ids_of(&store, ExecutionFilter { trigger: Some(TriggerType::Scheduled), ..of() }).await.is_empty());
    assert_eq!(ids_of(&store, ExecutionFilter { from: Some(at), ..of() }).await, [ended.id, later.id]);
    assert_eq!(
        ids_of(&store, ExecutionFilter { to: Some(at), ..of() }).await,
        [waiting.id, running.id, bad.id, done.id]
    );
    let only = |at: DateTime<Utc>| ExecutionFilter {
        from: Some(at),
        to: Some(at + chrono::Duration::microseconds(1)),
        ..of()
    };
    assert_eq!(ids_of(&store, only(done.scheduled_at)).await, [done.id]);
    assert_eq!(ids_of(&store, only(waiting.scheduled_at)).await, [waiting.id]);
    assert!(ids_of(&store, ExecutionFilter { to: Some(done.scheduled_at), ..of() }).await.is_empty());
}

pub async fn statistics_add_up(store: DynStore) {
    let from = seconds_from_now(&store, -1).await;
    let job = job_with(&store, "a", |j| j.spec.retry.max_retries = 1).await;
    let other = crate::support::job(&store, "other").await;
    let agent = session(&store, "agent").await;
    for execution in triggers(&store, &job, 100).await {
        let leased = claim(&store, &agent, 1).await.grants.remove(0).execution;
        assert_eq!(leased.id, execution.id);
        let running = apply(&store, &leased, started(&leased)).await.unwrap();
        let n = store.stats(TENANT, None, from, from).await.unwrap().completed;
        assert_eq!(n, 0, "the end of a range is not in it");
        let ms = store.job_load(TENANT, job.id).await.unwrap().active;
        let said = Report { duration_ms: ms, ..report(ExecutionStatus::Completed) };
        apply(&store, &running, finished(&running, said)).await.unwrap();
    }
    run(&store, &other, &agent, report(ExecutionStatus::Failed)).await;
    let timed_out =
        Report { error_type: Some(ErrorType::Timeout), retryable: Some(false), ..report(ExecutionStatus::Failed) };
    run(&store, &other, &agent, timed_out).await;
    // Repeated once, then good; never started.
    let first = leased(&store, &job, &agent).await;
    apply(&store, &first, failed(&first, ErrorType::Timeout)).await.unwrap();
    release(&store).await;
    let second = claim(&store, &agent, 1).await.grants.remove(0).execution;
    apply(&store, &second, completed(&second)).await.unwrap();
    let cancelled = trigger(&store, &other).await;
    apply(&store, &cancelled, cancel_requested()).await.unwrap();
    leased(&store, &other, &agent).await;
    trigger(&store, &other).await;
    let omit = |job: &orrery_server::job::Job, now| {
        let omission = NewOmission { count: 7, ..omission("paused", now) };
        Ok(JobChange { job: job.clone(), unplan: false, cancel: None, omission: Some(omission) })
    };
    store.change_job(TENANT, other.id, &omit).await.unwrap();
    let to = seconds_from_now(&store, 2).await;
    let all = store.stats(TENANT, None, from, to).await.unwrap();
    assert_eq!((all.completed, all.failed, all.cancelled, all.pending, all.running), (101, 2, 1, 1, 1));
    assert_eq!((all.omitted, all.timed_out, all.retried), (7, 1, 1));
    let one = store.stats(TENANT, Some(job.id), from, to).await.unwrap();
    assert_eq!((one.completed, one.failed, one.omitted), (101, 0, 0));
    // Durations of 1 to 100 ms.
    assert!((one.average_ms - 50.5).abs() < 0.001, "{}", one.average_ms);
    assert_eq!((one.p50_ms, one.p95_ms, one.p99_ms, one.max_ms), (50.0, 95.0, 99.0, 100.0));
    assert_eq!(store.stats(TENANT, None, to, to + MINUTE).await.unwrap(), Stats::default());
}

pub async fn queues_are_counted(store: DynStore) {
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    let other = job_with(&store, "b", |j| j.spec.queue = "another".to_owned()).await;
    leased(&store, &job, &agent).await;
    let oldest = triggers(&store, &job, 3).await.remove(0);
    let at = seconds_from_now(&store, 100).await;
    store.trigger(vec![Trigger { run_at: Some(at), ..trigger_of(&other) }], &|_, _, _| Ok(())).await.unwrap();
    let another = QueueDepth { name: "another".to_owned(), scheduled: 1, ..QueueDepth::default() };
    let default = QueueDepth {
        name: "default".to_owned(),
        pending: 3,
        scheduled: 0,
        running: 1,
        oldest_pending: Some(oldest.run_at),
        max_concurrent: 0,
    };
    assert_eq!(store.queues(TENANT).await.unwrap(), [another, default]);
    assert!(store.queues(OTHER_TENANT).await.unwrap().is_empty());
}

pub async fn counts_are_by_tenant(store: DynStore) {
    let at = seconds_from_now(&store, 1000).await;
    let (job, agent) = (job_with(&store, "a", |j| j.cursor = Some(at)).await, session(&store, "agent").await);
    job_with(&store, "paused", |j| j.status = JobStatus::Paused).await;
    job_with(&store, "inactive", |j| j.status = JobStatus::Inactive).await;
    let deleted = crate::support::job(&store, "deleted").await;
    delete(&store, &deleted).await;
    leased(&store, &job, &agent).await;
    triggers(&store, &job, 2).await;
    store.open_session(&NewSession { tenant_id: None, ..crate::support::agent("shared") }, MINUTE).await.unwrap();
    dead_session(&store, "dead").await;
    let other = store.create_jobs(vec![new_job(job_of(OTHER_TENANT, spec("x")))], None).await.unwrap().remove(0);
    store.trigger(vec![trigger_of(&other)], &|_, _, _| Ok(())).await.unwrap();
    let counts = Counts {
        total_jobs: 3,
        active_jobs: 1,
        paused_jobs: 1,
        pending: 2,
        running: 1,
        queues: vec![("default".to_owned(), 2)],
        sessions: 2,
        next_fire: Some(at),
    };
    assert_eq!(store.counts(Some(TENANT)).await.unwrap(), counts);
    assert_eq!(
        store.counts(None).await.unwrap(),
        Counts { total_jobs: 4, active_jobs: 2, pending: 3, queues: vec![("default".to_owned(), 3)], ..counts }
    );
    let queues = vec![("default".to_owned(), 1)];
    let theirs = Counts { total_jobs: 1, active_jobs: 1, pending: 1, queues, sessions: 1, ..Counts::default() };
    assert_eq!(store.counts(Some(OTHER_TENANT)).await.unwrap(), theirs);
}

/// Beside somebody who looks, work is leased and given back: it waits or it runs, whenever one looks.
pub async fn counts_are_of_one_moment(store: DynStore) {
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    trigger(&store, &job).await;
    let moving = async {
        for _ in 0..200 {
            let leased = claim(&store, &agent, 1).await.grants.remove(0).execution;
            let (session_id, epoch) = lease(&leased);
            apply(&store, &leased, Event::Released { session_id, epoch }).await.unwrap();
        }
    };
    let looking = async {
        loop {
            let counts = store.counts(Some(TENANT)).await.unwrap();
            assert_eq!(counts.pending + counts.running, 1, "{counts:?}");
            let depth: i64 =
                store.queues(TENANT).await.unwrap().iter().map(|queue| queue.pending + queue.running).sum();
            assert_eq!(depth, 1);
        }
    };
    tokio::select! {
        () = moving => {}
        () = looking => {}
    }
}

pub async fn loads_are_counted(store: DynStore) {
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    assert_eq!(store.job_load(TENANT, job.id).await.unwrap(), JobLoad::default());
    leased(&store, &job, &agent).await;
    triggers(&store, &job, 2).await;
    let at = seconds_from_now(&store, 100).await;
    store.trigger(vec![Trigger { run_at: Some(at), ..trigger_of(&job) }], &|_, _, _| Ok(())).await.unwrap();
    assert_eq!(store.job_load(TENANT, job.id).await.unwrap(), JobLoad { active: 3, leased: 1 });
    assert_eq!(store.job_load(OTHER_TENANT, job.id).await.unwrap(), JobLoad::default());
}

pub async fn omissions_page(store: DynStore) {
    let job = job(&store, "a").await;
    for n in 0..5 {
        let omit = |job: &orrery_server::job::Job, now| {
            let omission = omission(&format!("reason {n}"), now);
            Ok(JobChange { job: job.clone(), unplan: false, cancel: None, omission: Some(omission) })
        };
        store.change_job(TENANT, job.id, &omit).await.unwrap();
        // Ids are of milliseconds: wait for the next one, so that the order is known.
        let before = now(&store).await.timestamp_millis();
        while now(&store).await.timestamp_millis() == before {}
    }
    let page = |after| Page { after, limit: 2 };
    let mut reasons = Vec::new();
    let mut after = None;
    loop {
        let rows = store.omissions(TENANT, job.id, &page(after)).await.unwrap();
        after = rows.last().map(|row| row.id);
        reasons.extend(rows.iter().map(|row| row.omission.reason.clone()));
        if rows.len() < 2 {
            break;
        }
    }
    assert_eq!(reasons, ["reason 4", "reason 3", "reason 2", "reason 1", "reason 0"]);
}

pub async fn other_tenants_see_nothing(store: DynStore) {
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    let done = run(&store, &job, &agent, report(ExecutionStatus::Completed)).await;
    let live = trigger(&store, &job).await;
    let omit = |job: &orrery_server::job::Job, now| {
        Ok(JobChange { job: job.clone(), unplan: false, cancel: None, omission: Some(omission("paused", now)) })
    };
    store.change_job(TENANT, job.id, &omit).await.unwrap();
    let page = Page { after: None, limit: 10 };
    for id in [done.id, live.id] {
        assert_eq!(store.execution(OTHER_TENANT, id).await.unwrap(), None);
    }
    assert!(store.executions(OTHER_TENANT, &ExecutionFilter::default(), &page).await.unwrap().is_empty());
    let of_job = ExecutionFilter { job: Some(job.id), ..ExecutionFilter::default() };
    assert!(store.executions(OTHER_TENANT, &of_job, &page).await.unwrap().is_empty());
    assert!(store.omissions(OTHER_TENANT, job.id, &page).await.unwrap().is_empty());
    let (from, to) = (DateTime::UNIX_EPOCH, now(&store).await + MINUTE);
    assert_eq!(store.stats(OTHER_TENANT, Some(job.id), from, to).await.unwrap(), Stats::default());
    assert!(store.sessions(OTHER_TENANT, &page).await.unwrap().is_empty());
}
