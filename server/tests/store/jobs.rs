//! Definitions.

use chrono::{DateTime, Utc};
use orrery_proto::v1::{ExecutionStatus, JobStatus, JobType};
use orrery_server::error::{Error, Kind};
use orrery_server::job::{Job, JobSpec};
use orrery_server::store::*;
use uuid::Uuid;

use crate::support::*;

pub async fn what_is_created_reads_back(store: DynStore) {
    let before = now(&store).await;
    let cursor = seconds_from_now(&store, 300).await;
    let wanted = job_of(TENANT, full_spec());
    let made =
        store.create_jobs(vec![new_job(Job { cursor: Some(cursor), ..wanted.clone() })], None).await.unwrap().remove(0);
    let read = job_now(&store, wanted.id).await;
    assert_eq!(made, read);
    assert_eq!(read.spec, wanted.spec);
    assert_eq!((read.version, read.cursor, read.next_execution_at), (1, Some(cursor), Some(cursor)));
    assert_eq!(read.created_by, USER);
    assert_eq!(read.created_at, wanted.created_at, "the caller's, since its cursor was counted from it");
    assert!(read.updated_at >= before);
}

/// A definition in which no field is at its default.
fn full_spec() -> JobSpec {
    let mut spec = spec("full");
    spec.config = r#"{"url": "http://x", "n": 123456789012345678901234567890, "x": 1.50}"#.to_owned();
    spec.retry.max_retries = 3;
    spec.retry.max_delay_ms = Some(1000);
    spec.timeout_seconds = Some(17);
    spec.max_concurrent = 4;
    spec.priority = -3;
    spec.start_date = Some(DateTime::UNIX_EPOCH);
    spec.end_date = Some(DateTime::UNIX_EPOCH + chrono::Duration::days(90_000));
    spec.max_executions = Some(5_000_000_000);
    spec.tags = vec!["a".to_owned(), "ü\"\\".to_owned()];
    spec.selector = [("zone".to_owned(), "b".to_owned())].into();
    spec
}

pub async fn names_are_unique_among_jobs_not_deleted(store: DynStore) {
    let first = job(&store, "one").await;
    let again = vec![new_job(job_of(TENANT, spec("two"))), new_job(job_of(TENANT, spec("one")))];
    assert!(matches!(store.create_jobs(again, None).await, Err(StoreError::NameTaken { index: 1 })));
    let twice = vec![
        new_job(job_of(TENANT, spec("x"))),
        new_job(job_of(TENANT, spec("y"))),
        new_job(job_of(TENANT, spec("x"))),
    ];
    assert!(matches!(store.create_jobs(twice, None).await, Err(StoreError::NameTaken { index: 2 })));
    let elsewhere = vec![new_job(job_of(OTHER_TENANT, spec("one")))];
    store.create_jobs(elsewhere, None).await.unwrap();
    delete(&store, &first).await;
    job(&store, "one").await;
}

pub async fn a_batch_is_created_whole_or_not_at_all(store: DynStore) {
    job(&store, "taken").await;
    let batch = ["a", "b", "taken", "c"].map(|name| new_job(job_of(TENANT, spec(name)))).to_vec();
    assert!(matches!(store.create_jobs(batch, None).await, Err(StoreError::NameTaken { index: 2 })));
    let page = Page { after: None, limit: 10 };
    assert_eq!(store.jobs(TENANT, &JobFilter::default(), &page).await.unwrap().len(), 1);
    let batch: Vec<NewJob> = (0..500).map(|n| new_job(job_of(TENANT, spec(&format!("job {n}"))))).collect();
    let made = store.create_jobs(batch.clone(), None).await.unwrap();
    assert!(made.iter().zip(&batch).all(|(made, wanted)| made.id == wanted.job.id));
}

pub async fn one_of_many_gets_a_name(store: DynStore) {
    let tries = (0..8).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.create_jobs(vec![new_job(job_of(TENANT, spec("same")))], None).await })
    });
    let mut made = 0;
    for done in futures_util::future::join_all(tries).await {
        match done.unwrap() {
            Ok(_) => made += 1,
            Err(StoreError::NameTaken { index: 0 }) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(made, 1);
}

pub async fn the_quota_holds(store: DynStore) {
    let batch = |names: &[&str]| names.iter().map(|n| new_job(job_of(TENANT, spec(n)))).collect::<Vec<_>>();
    store.create_jobs(batch(&["a", "b"]), Some(3)).await.unwrap();
    let refused = store.create_jobs(batch(&["c", "d"]), Some(3)).await;
    assert!(matches!(refused, Err(StoreError::QuotaExceeded { limit: 3, current: 2 })));
    let made = store.create_jobs(batch(&["c"]), Some(3)).await.unwrap();
    delete(&store, &made[0]).await;
    store.create_jobs(batch(&["d"]), Some(3)).await.unwrap();
    store.create_jobs(vec![new_job(job_of(OTHER_TENANT, spec("a")))], Some(1)).await.unwrap();
}

pub async fn the_quota_holds_under_concurrency(store: DynStore) {
    let tries = (0..12).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            store.create_jobs(vec![new_job(job_of(TENANT, spec(&format!("job {n}"))))], Some(5)).await.is_ok()
        })
    });
    let made = futures_util::future::join_all(tries).await.into_iter().filter(|made| *made.as_ref().unwrap()).count();
    assert_eq!(made, 5);
}

pub async fn a_key_makes_one_job(store: DynStore) {
    let with_key = |name: &str, request| NewJob { job: job_of(TENANT, spec(name)), idempotency: key("k", request) };
    let first = store.create_jobs(vec![with_key("a", 1)], Some(1)).await.unwrap().remove(0);
    let again = store.create_jobs(vec![with_key("a", 1)], Some(1)).await.unwrap().remove(0);
    assert_eq!(first, again);
    let other = vec![new_job(job_of(TENANT, spec("b"))), with_key("c", 2)];
    assert!(matches!(store.create_jobs(other, None).await, Err(StoreError::IdempotencyKeyReused { index: 1 })));
    let elsewhere = NewJob { job: job_of(OTHER_TENANT, spec("a")), idempotency: key("k", 2) };
    store.create_jobs(vec![elsewhere], None).await.unwrap();
    let twice = ["x", "y"].map(|n| NewJob { job: job_of(TENANT, spec(n)), idempotency: key("k2", 1) }).to_vec();
    let made = store.create_jobs(twice, None).await.unwrap();
    assert_eq!(made[0], made[1]);
}

/// What a key made may be deleted before the key is.
pub async fn a_key_outlives_its_job(store: DynStore) {
    let with_key = |n: usize, request| NewJob {
        idempotency: key("k", request),
        ..new_job(job_of(TENANT, spec(&format!("job {n}"))))
    };
    let made = store.create_jobs(vec![with_key(0, 1)], None).await.unwrap().remove(0);
    delete(&store, &made).await;
    assert_eq!(store.create_jobs(vec![with_key(0, 1)], None).await.unwrap()[0].id, made.id, "deleted, and still there");
    let nothing = Retention { executions: std::time::Duration::ZERO, ..Retention::default() };
    store.upkeep(0, &nothing).await.unwrap();
    let other = store.create_jobs(vec![with_key(0, 2)], None).await;
    assert!(matches!(other, Err(StoreError::IdempotencyKeyReused { index: 0 })), "{other:?}");
    let twice = store.create_jobs(vec![with_key(1, 1), with_key(2, 1)], None).await.unwrap();
    assert!(twice[0].id != made.id && twice[0] == twice[1]);
    assert_eq!(store.create_jobs(vec![with_key(3, 1)], None).await.unwrap()[0], twice[0]);
}

pub async fn a_key_makes_one_job_under_concurrency(store: DynStore) {
    let tries = (0..8).map(|_| {
        let store = store.clone();
        let new = NewJob { job: job_of(TENANT, spec("same")), idempotency: key("k", 1) };
        tokio::spawn(async move { store.create_jobs(vec![new], None).await.unwrap().remove(0).id })
    });
    let mut ids: Vec<Uuid> = futures_util::future::join_all(tries).await.into_iter().map(Result::unwrap).collect();
    ids.dedup();
    assert_eq!(ids.len(), 1);
}

pub async fn lists_filter(store: DynStore) {
    let names = |filter: JobFilter| {
        let store = store.clone();
        async move {
            let jobs = store.jobs(TENANT, &filter, &Page { after: None, limit: 10 }).await.unwrap();
            let mut names: Vec<String> = jobs.into_iter().map(|job| job.spec.name).collect();
            names.sort();
            names
        }
    };
    job_with(&store, "100% Backup", |j| j.spec.tags = vec!["nightly".to_owned(), "a".to_owned()]).await;
    job_with(&store, "Report_x", |j| j.spec.job_type = JobType::Command).await;
    job_with(&store, "Reportyx", |j| j.status = JobStatus::Paused).await;
    let of = JobFilter::default;
    assert_eq!(names(of()).await.len(), 3);
    assert_eq!(names(JobFilter { tag: Some("nightly".to_owned()), ..of() }).await, ["100% Backup"]);
    assert_eq!(names(JobFilter { tag: Some("night".to_owned()), ..of() }).await, [""; 0]);
    assert_eq!(names(JobFilter { name: Some("REPORT".to_owned()), ..of() }).await, ["Report_x", "Reportyx"]);
    assert_eq!(names(JobFilter { name: Some("t_x".to_owned()), ..of() }).await, ["Report_x"]);
    assert_eq!(names(JobFilter { name: Some("0%".to_owned()), ..of() }).await, ["100% Backup"]);
    assert_eq!(names(JobFilter { job_type: Some(JobType::Command), ..of() }).await, ["Report_x"]);
    assert_eq!(names(JobFilter { status: Some(JobStatus::Paused), ..of() }).await, ["Reportyx"]);
}

pub async fn lists_page_without_gaps(store: DynStore) {
    let batch: Vec<NewJob> = (0..25).map(|n| new_job(job_of(TENANT, spec(&format!("job {n}"))))).collect();
    let mut wanted: Vec<Uuid> = store.create_jobs(batch, None).await.unwrap().iter().map(|job| job.id).collect();
    wanted.sort_unstable();
    wanted.reverse();
    let mut seen = Vec::new();
    loop {
        let page = Page { after: seen.last().copied(), limit: 7 };
        let jobs = store.jobs(TENANT, &JobFilter::default(), &page).await.unwrap();
        seen.extend(jobs.iter().map(|job| job.id));
        if jobs.len() < 7 {
            break;
        }
    }
    assert_eq!(seen, wanted);
}

pub async fn a_change_raises_the_version(store: DynStore) {
    let job = job(&store, "a").await;
    let changed = edit(&store, &job, |job| {
        job.spec.priority = 9;
        job.status = JobStatus::Paused;
        job.version = 77;
    })
    .await;
    assert_eq!((changed.job.version, changed.job.spec.priority, changed.job.status), (2, 9, JobStatus::Paused));
    assert!(changed.job.updated_at > job.updated_at && changed.job.created_at == job.created_at);
    assert_eq!(job_now(&store, job.id).await, changed.job);
}

pub async fn a_change_may_be_refused(store: DynStore) {
    let job = job(&store, "a").await;
    let refuse = |_: &Job, _: DateTime<Utc>| Err(Error::new(Kind::Conflict, "VERSION_PASSED", "no"));
    match store.change_job(TENANT, job.id, &refuse).await {
        Err(StoreError::Refused(reason)) => assert_eq!(reason.code, "VERSION_PASSED"),
        other => panic!("{other:?}"),
    }
    assert_eq!(job_now(&store, job.id).await, job);
    let unseen = store.change_job(OTHER_TENANT, job.id, &refuse).await;
    assert!(matches!(unseen, Err(StoreError::NotFound)));
    assert!(matches!(store.change_job(TENANT, Uuid::new_v4(), &refuse).await, Err(StoreError::NotFound)));
}

pub async fn changes_do_not_overwrite_each_other(store: DynStore) {
    let job = job(&store, "a").await;
    let edits = (0..10).map(|_| {
        let (store, job) = (store.clone(), job.clone());
        tokio::spawn(async move { edit(&store, &job, |job| job.spec.priority += 1).await })
    });
    futures_util::future::join_all(edits).await;
    let after = job_now(&store, job.id).await;
    assert_eq!((after.version, after.spec.priority), (11, 10));
}

pub async fn a_rename_meets_a_taken_name(store: DynStore) {
    let (one, _) = (job(&store, "one").await, job(&store, "two").await);
    let rename = |job: &Job, _: DateTime<Utc>| {
        let mut job = job.clone();
        job.spec.name = "two".to_owned();
        Ok(JobChange { job, unplan: false, cancel: None, omission: None })
    };
    let taken = store.change_job(TENANT, one.id, &rename).await;
    assert!(matches!(taken, Err(StoreError::NameTaken { .. })));
    assert_eq!(job_now(&store, one.id).await, one);
}

pub async fn deleting_frees_the_name_and_keeps_history(store: DynStore) {
    let (one, agent) = (job(&store, "one").await, session(&store, "agent").await);
    let done = run(&store, &one, &agent, report(ExecutionStatus::Completed)).await;
    let waiting = trigger(&store, &one).await;
    let changed = delete(&store, &one).await;
    assert_eq!(changed.cancelled.iter().map(|e| e.id).collect::<Vec<_>>(), [waiting.id]);
    assert_eq!(store.job(TENANT, one.id).await.unwrap(), None);
    assert!(store.jobs(TENANT, &JobFilter::default(), &Page { after: None, limit: 9 }).await.unwrap().is_empty());
    assert_eq!(execution(&store, done.id).await.job_name, "one");
    assert_eq!(execution(&store, waiting.id).await.status(), ExecutionStatus::Cancelled);
    let again = store.change_job(TENANT, one.id, &|_, _| panic!("a deleted job is not changed")).await;
    assert!(matches!(again, Err(StoreError::NotFound)));
    job(&store, "one").await;
}

pub async fn tenants_do_not_see_each_other(store: DynStore) {
    let job = job(&store, "a").await;
    assert_eq!(store.job(OTHER_TENANT, job.id).await.unwrap(), None);
    let page = Page { after: None, limit: 10 };
    assert!(store.jobs(OTHER_TENANT, &JobFilter::default(), &page).await.unwrap().is_empty());
}
