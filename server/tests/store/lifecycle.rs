//! The whole way of many executions, and what belongs to no single part.

use std::collections::BTreeMap;

use orrery_proto::v1::{ErrorType, ExecutionStatus};
use orrery_server::store::*;

use crate::support::*;

pub async fn the_clock_is_the_databases(store: DynStore) {
    let (first, second) = (now(&store).await, now(&store).await);
    assert!(first <= second && first.timestamp_subsec_nanos() % 1000 == 0);
    assert!(["postgres", "sqlite"].contains(&store.engine()));
}

pub async fn hints_reach_everybody_here(store: DynStore) {
    let (mut one, mut two) = (store.hints(), store.hints());
    let hints = [Wake::Plan, Wake::Work, Wake::Room, Wake::Cancel];
    for hint in hints {
        store.wake(hint).await.unwrap();
    }
    for receiver in [&mut one, &mut two] {
        let mut missing = hints.to_vec();
        // What other coordinators say may come in between.
        while !missing.is_empty() {
            let hint = receiver.recv().await.unwrap();
            missing.retain(|m| *m != hint);
        }
    }
}

pub async fn watchers_hear_what_has_changed(store: DynStore) {
    let id = uuid::Uuid::from_u128;
    // Before anybody watches: nobody hears of it later.
    store.changed(&[id(1)]);
    let (mut one, mut two) = (store.changes(), store.changes());
    store.changed(&[]);
    store.changed(&[id(2), id(3)]);
    for receiver in [&mut one, &mut two] {
        assert_eq!(*receiver.recv().await.unwrap(), [id(2), id(3)]);
        assert!(receiver.try_recv().is_err());
    }
}

/// Agents that finish, fail and vanish, and people who cancel, all at once: in the end each execution has one terminal state, and the job
/// has counted each once.
pub async fn many_workers_and_cancels_reach_one_end_each(store: DynStore) {
    const RUNS: usize = 120;
    let job = job_with(&store, "a", |j| j.spec.retry.max_retries = 2).await;
    let made = triggers(&store, &job, RUNS).await;
    let workers = (0..4).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            for round in 0.. {
                let agent = session(&store, &format!("agent {n} {round}")).await;
                let grants = claim(&store, &agent, 11).await.grants;
                for (k, grant) in grants.iter().enumerate() {
                    let e = &grant.execution;
                    match (k + round) % 5 {
                        0 => drop(apply(&store, e, failed(e, ErrorType::Timeout)).await),
                        // Left to the reaper.
                        1 => {}
                        _ => drop(apply(&store, e, completed(e)).await),
                    }
                }
                kill(&store, &agent).await;
                store.reap(std::time::Duration::ZERO, 5).await.unwrap();
                release(&store).await;
                let counts = store.counts(Some(TENANT)).await.unwrap();
                let queues = store.queues(TENANT).await.unwrap();
                if counts.pending + counts.running + queues[0].scheduled == 0 {
                    return;
                }
            }
        })
    });
    let canceller = {
        let (store, made) = (store.clone(), made.clone());
        tokio::spawn(async move {
            for execution in made.iter().step_by(7) {
                drop(apply(&store, execution, cancel_requested()).await);
            }
        })
    };
    for worker in futures_util::future::join_all(workers.chain([canceller])).await {
        worker.unwrap();
    }
    let mut ends: BTreeMap<&str, usize> = BTreeMap::new();
    let all = executions(&store).await;
    for execution in &all {
        assert!(execution.is_done());
        *ends.entry(execution.status().as_json_str()).or_default() += 1;
    }
    assert_eq!(all.len(), RUNS);
    assert!(ends[ExecutionStatus::Completed.as_json_str()] > 0, "{ends:?}");
    assert_eq!(job_now(&store, job.id).await.execution_count, RUNS as i64);
}
