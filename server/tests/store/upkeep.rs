//! What keeps the store well.

use std::collections::BTreeMap;
use std::time::Duration;

use orrery_proto::v1::ExecutionStatus;
use orrery_server::store::*;
use uuid::Uuid;

use crate::support::*;

const NOTHING_KEPT: Retention = Retention {
    executions: Duration::ZERO,
    logs: Duration::ZERO,
    omissions: Duration::ZERO,
    idempotency: Duration::ZERO,
};

pub async fn upkeep_runs(store: DynStore) {
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    let done = run(&store, &job, &agent, report(ExecutionStatus::Completed)).await;
    let first = store.upkeep(2, &Retention::default()).await.unwrap();
    assert!(first.ran && first.partitions_dropped.is_empty() && first.rows_deleted == 0);
    let again = store.upkeep(2, &Retention::default()).await.unwrap();
    assert_eq!(again, UpkeepDone { ran: true, ..UpkeepDone::default() });
    assert_eq!(execution(&store, done.id).await.status(), ExecutionStatus::Completed);
}

pub async fn old_rows_go(store: DynStore) {
    let job = job(&store, "a").await;
    let with_key = || vec![Trigger { idempotency: key("k", 1), ..trigger_of(&job) }];
    let first = store.trigger(with_key(), &|_, _, _| Ok(())).await.unwrap().remove(0);
    let omit = |job: &orrery_server::job::Job, now| {
        Ok(JobChange { job: job.clone(), unplan: false, cancel: None, omission: Some(omission("paused", now)) })
    };
    store.change_job(TENANT, job.id, &omit).await.unwrap();
    assert!(store.upkeep(1, &NOTHING_KEPT).await.unwrap().rows_deleted >= 2);
    assert!(omissions(&store, &job).await.is_empty());
    let second = store.trigger(with_key(), &|_, _, _| Ok(())).await.unwrap().remove(0);
    assert_ne!(first.id, second.id);
    // Live executions and jobs are never old.
    assert_eq!(executions(&store).await.len(), 2);
    job_now(&store, job.id).await;
}

pub async fn one_coordinator_at_a_time(store: DynStore) {
    let calls = (0..6).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.upkeep(3, &Retention::default()).await.unwrap() })
    });
    let done: Vec<UpkeepDone> = futures_util::future::join_all(calls).await.into_iter().map(Result::unwrap).collect();
    assert!(done.iter().any(|d| d.ran));
    let mut made: Vec<&String> = done.iter().flat_map(|d| &d.partitions_made).collect();
    let count = made.len();
    made.sort_unstable();
    made.dedup();
    assert_eq!(made.len(), count, "nothing was made twice");
}

pub async fn coordinators_come_and_go(store: DynStore) {
    let row = |id, sessions, at| CoordinatorRow {
        id: Uuid::from_u128(id),
        version: "0.1.0".to_owned(),
        address: "127.0.0.1:1".to_owned(),
        started_at: at,
        last_seen_at: at,
        clock_offset_ms: -1.5,
        sessions,
        build: "abc123".to_owned(),
        leases: sessions * 10,
        draining: sessions > 4,
    };
    let at = seconds_from_now(&store, -1000).await;
    for (id, sessions) in [(1, 3), (2, 4), (1, 5)] {
        let told = store.beat(&row(id, sessions, at)).await.unwrap();
        assert!(told > at && told <= now(&store).await, "the database's clock");
    }
    let seen = store.coordinators().await.unwrap();
    assert_eq!(seen.iter().map(|c| c.sessions).collect::<Vec<_>>(), [5, 4]);
    assert!(seen.iter().all(|c| c.started_at == at && c.last_seen_at > at), "seen by the database's clock");
    assert_eq!(seen[0], CoordinatorRow { last_seen_at: seen[0].last_seen_at, ..row(1, 5, at) });
    store.retire(Uuid::from_u128(1)).await.unwrap();
    assert_eq!(store.coordinators().await.unwrap().len(), 1);
}

pub async fn metrics_are_recorded(store: DynStore) {
    let sample = BTreeMap::from([("queueLength".to_owned(), 3.0), ("errorRate".to_owned(), f64::NAN)]);
    for _ in 0..3 {
        store.record_metrics(Uuid::from_u128(1), &sample).await.unwrap();
    }
}
