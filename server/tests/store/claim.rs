//! From pending executions to leases.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use orrery_proto::v1::ExecutionStatus;
use orrery_server::execution::{Execution, State};
use orrery_server::store::*;
use uuid::Uuid;

use crate::support::*;

fn ids(claimed: &Claimed) -> Vec<Uuid> {
    claimed.grants.iter().map(|g| g.execution.id).collect()
}

pub async fn a_claim_grants_leases(store: DynStore) {
    let job = job_with(&store, "a", |j| j.spec.timeout_seconds = Some(90)).await;
    let agent = session(&store, "agent").await;
    let waiting = trigger(&store, &job).await;
    let before = now(&store).await;
    let claimed = claim(&store, &agent, 10).await;
    assert!(!claimed.more);
    let grant = &claimed.grants[0];
    assert_eq!((grant.execution.id, claimed.grants.len()), (waiting.id, 1));
    assert_eq!((*grant.spec).clone(), job.spec);
    assert_eq!(grant.timeout, Duration::from_secs(90));
    assert_eq!((grant.execution.epoch, grant.execution.attempt, grant.execution.job_version), (1, 1, 1));
    let State::Leased(lease) = &grant.execution.state else { panic!("{:?}", grant.execution.state) };
    assert_eq!((lease.session_id, lease.worker_name.as_str(), lease.started_at), (agent.id, "agent", None));
    assert_eq!(lease.deadline, lease.granted_at + Duration::from_secs(90));
    assert!(lease.granted_at >= before);
    assert_eq!(execution(&store, waiting.id).await, grant.execution);
    let held = Held { session_id: agent.id, execution_id: waiting.id, epoch: 1 };
    assert_eq!(store.held(agent.id).await.unwrap(), [held]);
    assert!(claim(&store, &agent, 10).await.grants.is_empty());
}

pub async fn higher_priorities_go_first(store: DynStore) {
    let agent = session(&store, "agent").await;
    let mut waiting = BTreeMap::new();
    for priority in [0, 5, -5, 2_000_000_000] {
        let job = job_with(&store, &format!("job {priority}"), |j| j.spec.priority = priority).await;
        waiting.insert(-i64::from(priority), triggers(&store, &job, 2).await);
    }
    let wanted: Vec<Uuid> = waiting.values().flatten().map(|e| e.id).collect();
    let claimed = claim(&store, &agent, 5).await;
    assert_eq!(ids(&claimed), wanted[..5]);
    assert!(claimed.more);
    assert_eq!(ids(&claim(&store, &agent, 5).await), wanted[5..]);
}

pub async fn lanes_take_turns(store: DynStore) {
    let agent = session(&store, "agent").await;
    let mut of_lane = HashMap::new();
    for queue in ["a", "b", "c"] {
        let job = job_with(&store, queue, |j| j.spec.queue = queue.to_owned()).await;
        let count = if queue == "a" { 50 } else { 3 };
        for execution in triggers(&store, &job, count).await {
            of_lane.insert(execution.id, execution.lane_id);
        }
    }
    let claimed = claim(&store, &agent, 9).await;
    let mut counts: HashMap<i64, usize> = HashMap::new();
    for id in ids(&claimed) {
        *counts.entry(of_lane[&id]).or_default() += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [3, 3, 3]);
    let first: BTreeSet<i64> = ids(&claimed)[..3].iter().map(|id| of_lane[id]).collect();
    assert_eq!(first.len(), 3, "the first turn is one of each lane");
    assert_eq!(claim(&store, &agent, 9).await.grants.len(), 9, "a lane alone has all the turns");
}

pub async fn what_is_not_given_still_waits(store: DynStore) {
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    let waiting = triggers(&store, &job, 3).await;
    let lanes = all_lanes(&store).await;
    let wanted = Claim { lanes: &lanes, limit: 10, tenant_limit: 0, timeouts: TIMEOUTS };
    let to = Assignment { session_id: agent.id, attachment: agent.attachment, worker_name: "agent".to_owned() };
    let middle = |candidates: &[Candidate]| {
        let ids: Vec<Uuid> = candidates.iter().map(|c| c.execution.id).collect();
        assert_eq!(ids, waiting.iter().map(|e| e.id).collect::<Vec<_>>());
        assert!(candidates.iter().all(|c| c.execution.state == State::Pending));
        vec![None, Some(to.clone()), None]
    };
    assert_eq!(ids(&store.claim(&wanted, &middle).await.unwrap()), [waiting[1].id]);
    assert_eq!(ids(&claim(&store, &agent, 10).await), [waiting[0].id, waiting[2].id]);
}

pub async fn only_named_lanes_are_claimed(store: DynStore) {
    let (one, two) = (job(&store, "one").await, job_with(&store, "two", |j| j.spec.queue = "q".to_owned()).await);
    let agent = session(&store, "agent").await;
    trigger(&store, &one).await;
    let wanted = trigger(&store, &two).await;
    let cancelled = trigger(&store, &two).await;
    apply(&store, &cancelled, cancel_requested()).await.unwrap();
    assert_eq!(ids(&claim_of(&store, &agent, &[wanted.lane_id], 10).await), [wanted.id]);
    assert!(claim_of(&store, &agent, &[], 10).await.grants.is_empty());
    assert!(claim_of(&store, &agent, &[-1], 10).await.grants.is_empty());
}

pub async fn dead_sessions_get_nothing(store: DynStore) {
    let job = job(&store, "a").await;
    let (dead, closed) = (dead_session(&store, "dead").await, session(&store, "closed").await);
    store.close_session(closed.id, closed.attachment).await.unwrap();
    let waiting = trigger(&store, &job).await;
    assert!(claim(&store, &dead, 10).await.grants.is_empty());
    assert!(claim(&store, &closed, 10).await.grants.is_empty());
    assert_eq!(execution(&store, waiting.id).await, waiting);
}

/// Where more waits than it was asked for.
pub async fn a_claim_says_in_which_lanes_nothing_waits(store: DynStore) {
    let agent = session(&store, "agent").await;
    let of_queue = async |queue: &str, count: usize| {
        let job = job_with(&store, queue, |j| j.spec.queue = queue.to_owned()).await;
        triggers(&store, &job, count).await[0].lane_id
    };
    let (long, one, two) = (of_queue("long", 30).await, of_queue("one", 1).await, of_queue("two", 2).await);
    let lanes = [long, one, two];
    let drained = async |limit: usize| {
        let claimed = claim_of(&store, &agent, &lanes, limit).await;
        let mut drained = claimed.drained;
        drained.sort_unstable();
        (claimed.grants.len(), claimed.more, drained)
    };
    let known = |lanes: &[i64]| if store.engine() == "sqlite" { Vec::new() } else { lanes.to_vec() };
    // The first of each.
    assert_eq!(drained(3).await, (3, true, known(&[one])));
    assert_eq!(drained(3).await, (3, true, known(&[one, two])));
    assert_eq!(drained(1).await, (1, true, known(&[one, two])));
    assert_eq!(drained(100).await, (26, false, vec![]), "then nothing waits in any");
}

pub async fn a_run_keeps_its_version(store: DynStore) {
    let job = job_with(&store, "a", |j| j.spec.retry.max_retries = 1).await;
    let agent = session(&store, "agent").await;
    let waiting = trigger(&store, &job).await;
    edit(&store, &job, |j| j.spec.config = "{\"v\":2}".to_owned()).await;
    let grant = claim(&store, &agent, 10).await.grants.remove(0);
    assert_eq!((grant.execution.id, grant.execution.job_version), (waiting.id, 2));
    assert_eq!(grant.spec.config, "{\"v\":2}");
    edit(&store, &job, |j| {
        j.spec.config = "{\"v\":3}".to_owned();
        j.spec.retry.max_retries = 0;
    })
    .await;
    let repeated =
        apply(&store, &grant.execution, failed(&grant.execution, orrery_proto::v1::ErrorType::Timeout)).await;
    assert_eq!(repeated.unwrap().state, State::Scheduled, "the policy is the one of its start");
    release(&store).await;
    let again = claim(&store, &agent, 10).await.grants.remove(0);
    assert_eq!((again.execution.job_version, again.spec.config.as_str()), (2, "{\"v\":2}"));
}

pub async fn what_waits_moves_with_its_job(store: DynStore) {
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    let begun = leased(&store, &job, &agent).await;
    let queued = trigger(&store, &job).await;
    edit(&store, &job, |j| {
        j.spec.queue = "elsewhere".to_owned();
        j.spec.priority = 7;
    })
    .await;
    let moved = store.execution(TENANT, queued.id).await.unwrap().unwrap();
    assert_eq!((moved.queue.as_str(), moved.priority), ("elsewhere", 7));
    assert_ne!(moved.lane_id, queued.lane_id);
    let kept = store.execution(TENANT, begun.id).await.unwrap().unwrap();
    assert_eq!((kept.queue.as_str(), kept.lane_id), ("default", begun.lane_id));
}

pub async fn limits_hold(store: DynStore) {
    let limited = job_with(&store, "limited", |j| j.spec.max_concurrent = 2).await;
    let agent = session(&store, "agent").await;
    let waiting = triggers(&store, &limited, 4).await;
    let claimed = claim(&store, &agent, 10).await;
    assert_eq!(ids(&claimed), [waiting[0].id, waiting[1].id]);
    let claimed = claim(&store, &agent, 10).await;
    assert_eq!((claimed.grants.len(), claimed.more), (0, false));
    let first = execution(&store, waiting[0].id).await;
    apply(&store, &first, completed(&first)).await.unwrap();
    assert_eq!(ids(&claim(&store, &agent, 1).await), [waiting[2].id]);
}

pub async fn unlimited_jobs_have_no_limit(store: DynStore) {
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    triggers(&store, &job, 300).await;
    let claimed = claim(&store, &agent, 1000).await;
    assert_eq!((claimed.grants.len(), claimed.more), (300, false));
}

/// Four agents claim and finish at once; at no moment are more leases live than the limit, by what the agents themselves see.
pub async fn limits_hold_under_concurrency(store: DynStore) {
    const LIMIT: usize = 3;
    const RUNS: usize = 60;
    let limited = job_with(&store, "limited", |j| j.spec.max_concurrent = LIMIT as i32).await;
    triggers(&store, &limited, RUNS).await;
    let (running, worst, done) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let counters = Arc::new((running, worst, done));
    let agents = (0..4).map(|n| {
        let (store, counters) = (store.clone(), counters.clone());
        tokio::spawn(async move {
            let (running, worst, done) = &*counters;
            let agent = session(&store, &format!("agent {n}")).await;
            while done.load(Ordering::SeqCst) < RUNS {
                let claimed = claim(&store, &agent, 5).await;
                let now = running.fetch_add(claimed.grants.len(), Ordering::SeqCst) + claimed.grants.len();
                worst.fetch_max(now, Ordering::SeqCst);
                for grant in claimed.grants {
                    // Counted as over before it is, so that the count is never too high.
                    running.fetch_sub(1, Ordering::SeqCst);
                    apply(&store, &grant.execution, completed(&grant.execution)).await.unwrap();
                    done.fetch_add(1, Ordering::SeqCst);
                }
            }
        })
    });
    for agent in futures_util::future::join_all(agents).await {
        agent.unwrap();
    }
    assert!(counters.1.load(Ordering::SeqCst) <= LIMIT);
    assert!(executions(&store).await.iter().all(|e| e.status() == ExecutionStatus::Completed && e.epoch == 1));
}

pub async fn nothing_is_granted_twice(store: DynStore) {
    for queue in ["a", "b", "c"] {
        let job = job_with(&store, queue, |j| j.spec.queue = queue.to_owned()).await;
        triggers(&store, &job, 100).await;
    }
    let agents = (0..4).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            let agent = session(&store, &format!("agent {n}")).await;
            let mut granted: Vec<Execution> = Vec::new();
            loop {
                let claimed = claim(&store, &agent, 17).await;
                if claimed.grants.is_empty() && !claimed.more {
                    return granted;
                }
                granted.extend(claimed.grants.into_iter().map(|g| g.execution));
            }
        })
    });
    let mut seen = BTreeSet::new();
    for granted in futures_util::future::join_all(agents).await {
        for execution in granted.unwrap() {
            assert!(seen.insert(execution.id), "granted twice");
            assert_eq!(execution.epoch, 1);
        }
    }
    assert_eq!(seen.len(), 300);
}
