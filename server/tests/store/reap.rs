//! What is taken back.

use std::time::Duration;

use orrery_proto::v1::{Delivery, ErrorType, ExecutionStatus};
use orrery_server::execution::{AttemptOutcome, State};
use orrery_server::store::*;

use crate::support::*;

async fn reap(store: &DynStore) -> Reaped {
    store.reap(Duration::ZERO, 100).await.unwrap()
}

pub async fn lost_leases_are_taken_back(store: DynStore) {
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    let leased = leased(&store, &job, &agent).await;
    let running = apply(&store, &leased, started(&leased)).await.unwrap();
    kill(&store, &agent).await;
    let reaped = reap(&store).await;
    assert_eq!(reaped.sessions, [agent.id]);
    let (held, back) = &reaped.executions[0];
    assert_eq!(*held, Held { session_id: agent.id, execution_id: running.id, epoch: 1 });
    assert_eq!((&back.state, back.losses, back.attempts[0].outcome), (&State::Pending, 1, AttemptOutcome::Lost));
    assert_eq!(execution(&store, leased.id).await, *back);
    assert!(store.held(agent.id).await.unwrap().is_empty());
    assert_eq!(store.resume_session(agent.id, &agent.agent, &Holding::default(), MINUTE).await.unwrap(), None);
    let other = session(&store, "other").await;
    let again = claim(&store, &other, 1).await.grants.remove(0).execution;
    assert_eq!((again.epoch, again.attempt), (2, 2));
}

pub async fn at_most_once_is_not_repeated(store: DynStore) {
    let job = job_with(&store, "a", |j| j.spec.delivery = Delivery::AtMostOnce).await;
    let agent = session(&store, "agent").await;
    let leased = leased(&store, &job, &agent).await;
    kill(&store, &agent).await;
    assert_eq!(reap(&store).await.executions.len(), 1);
    let done = execution(&store, leased.id).await;
    assert_eq!((done.status(), outcome(&done).error_type), (ExecutionStatus::Failed, Some(ErrorType::SystemError)));
}

pub async fn three_losses_are_enough(store: DynStore) {
    let job = job(&store, "a").await;
    let waiting = trigger(&store, &job).await;
    for n in 1..=3 {
        let agent = session(&store, &format!("agent {n}")).await;
        assert_eq!(claim(&store, &agent, 1).await.grants[0].execution.epoch, n);
        kill(&store, &agent).await;
        reap(&store).await;
    }
    let done = execution(&store, waiting.id).await;
    assert_eq!((done.status(), done.losses, done.attempts.len()), (ExecutionStatus::Failed, 3, 3));
}

pub async fn overdue_attempts_time_out(store: DynStore) {
    let job = job_with(&store, "a", |j| {
        j.spec.config = r#"{"timeout": 1}"#.to_owned();
        j.spec.retry.max_retries = 1;
        j.spec.retry.delay_ms = 60_000;
    })
    .await;
    let agent = session(&store, "agent").await;
    let leased = leased(&store, &job, &agent).await;
    let deadline = leased.lease().unwrap().deadline;
    while now(&store).await <= deadline {}
    let early = store.reap(Duration::from_secs(30), 100).await.unwrap();
    assert!(early.executions.is_empty());
    assert_eq!(early.next, Some(deadline + chrono::Duration::seconds(30)));
    let reaped = reap(&store).await;
    assert!(reaped.sessions.is_empty());
    let (held, after) = &reaped.executions[0];
    assert_eq!((held.execution_id, held.epoch), (leased.id, 1));
    assert_eq!((&after.state, after.attempts[0].error_type), (&State::Scheduled, Some(ErrorType::Timeout)));
    assert_eq!(execution(&store, leased.id).await, *after);
}

pub async fn living_sessions_are_left_alone(store: DynStore) {
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    let leased = leased(&store, &job, &agent).await;
    let reaped = reap(&store).await;
    assert!(reaped.sessions.is_empty() && reaped.executions.is_empty());
    assert_eq!(execution(&store, leased.id).await, leased);
}

pub async fn two_reapers_take_back_once(store: DynStore) {
    let job = job(&store, "a").await;
    for n in 0..10 {
        let agent = session(&store, &format!("agent {n}")).await;
        triggers(&store, &job, 5).await;
        assert_eq!(claim(&store, &agent, 5).await.grants.len(), 5);
        kill(&store, &agent).await;
    }
    let reapers = (0..4).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut reaped = (0, 0);
            loop {
                let round = store.reap(Duration::ZERO, 7).await.unwrap();
                reaped = (reaped.0 + round.sessions.len(), reaped.1 + round.executions.len());
                if round.next.is_none() {
                    return reaped;
                }
            }
        })
    });
    let mut total = (0, 0);
    for reaped in futures_util::future::join_all(reapers).await {
        let (sessions, executions) = reaped.unwrap();
        total = (total.0 + sessions, total.1 + executions);
    }
    assert_eq!(total, (10, 50));
    assert!(executions(&store).await.iter().all(|e| e.state == State::Pending && e.losses == 1));
}

pub async fn what_is_next_is_told(store: DynStore) {
    assert_eq!(reap(&store).await.next, None);
    let agent = session(&store, "agent").await;
    let expires = reap(&store).await.next.unwrap();
    assert_eq!(expires, agent.expires_at);
    let job = job_with(&store, "a", |j| j.spec.timeout_seconds = Some(5)).await;
    let leased = leased(&store, &job, &agent).await;
    let deadline = leased.lease().unwrap().deadline;
    let reaped = store.reap(Duration::from_secs(2), 10).await.unwrap();
    assert_eq!(reaped.next, Some(deadline + chrono::Duration::seconds(2)));
}

pub async fn what_has_not_begun_by_its_start_deadline_ends(store: DynStore) {
    let job = job_with(&store, "a", |j| j.spec.start_deadline_seconds = Some(1)).await;
    let patient = self::job(&store, "patient").await;
    let agent = session(&store, "agent").await;
    let begun = leased(&store, &job, &agent).await;
    let (waiting, other) = (trigger(&store, &job).await, trigger(&store, &patient).await);
    let by = waiting.start_by.unwrap();
    assert_eq!(by, waiting.scheduled_at + chrono::Duration::seconds(1));
    let early = reap(&store).await;
    assert!(early.unstarted.is_empty() && early.next.is_some_and(|next| next <= by), "{early:?}");
    while now(&store).await <= by {}
    assert_eq!(claim(&store, &agent, 10).await.grants.len(), 1, "only the one that may wait is given away");
    let reaped = reap(&store).await;
    assert_eq!(reaped.unstarted.iter().map(|e| e.id).collect::<Vec<_>>(), [waiting.id]);
    let ended = execution(&store, waiting.id).await;
    assert_eq!(ended, reaped.unstarted[0]);
    assert_eq!((ended.status(), outcome(&ended).error_type), (ExecutionStatus::Failed, Some(ErrorType::Timeout)));
    assert!(outcome(&ended).error_message.contains("start deadline"), "{ended:?}");
    // What has begun in time, or may wait for ever, goes on; also where its agent is lost.
    assert!(execution(&store, other.id).await.lease().is_some());
    kill(&store, &agent).await;
    let reaped = reap(&store).await;
    assert!(reaped.unstarted.is_empty());
    assert_eq!(execution(&store, begun.id).await.state, State::Pending);
    assert!(reap(&store).await.unstarted.is_empty());
}
