//! Executions that were given up because their agents were lost.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use orrery_proto::v1::{
    DeadLetterReason, DeadLetterState, Delivery, ErrorType, ExecutionStatus, OverlapPolicy, TriggerType,
};
use orrery_server::error::{Error, Kind};
use orrery_server::execution::{Execution, State};
use orrery_server::job::Job;
use orrery_server::store::*;
use uuid::Uuid;

use crate::support::*;

/// Loses agents with what waits of a job until it is over.
pub(crate) async fn poisoned(store: &DynStore, job: &Job) -> Execution {
    let made = trigger(store, job).await;
    for n in 1..=3 {
        let agent = session(store, &format!("agent {n}")).await;
        assert_eq!(claim(store, &agent, 100).await.grants.len(), 1);
        kill(store, &agent).await;
        store.reap(Duration::ZERO, 100).await.unwrap();
        let now = execution(store, made.id).await;
        if now.is_done() {
            return now;
        }
    }
    panic!("it is not over");
}

async fn letters(store: &DynStore, filter: DeadLetterFilter) -> Vec<DeadLetter> {
    store.dead_letters(TENANT, &filter, &Page { after: None, limit: 1000 }).await.unwrap()
}

pub(crate) fn release_of(execution: &Execution) -> Trigger {
    Trigger {
        tenant: execution.tenant_id,
        job: execution.job_id,
        kind: TriggerType::Retry,
        by: USER,
        author: None,
        parameters: execution.parameters.clone(),
        run_at: None,
        retry_of: Some(execution.id),
        idempotency: None,
        traceparent: None,
    }
}

async fn released(store: &DynStore, execution: &Execution) -> Result<Execution> {
    store.release_dead_letter(&release_of(execution), &|_, _, _| Ok(())).await
}

fn discard_of(execution: &Execution, note: &str) -> Discard {
    Discard { tenant: execution.tenant_id, execution: execution.id, by: USER, note: note.to_owned() }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T>, code: &str) {
    match answer {
        Err(StoreError::Refused(error)) => assert_eq!(error.code, code),
        other => panic!("{other:?}"),
    }
}

pub async fn lost_work_is_a_dead_letter(store: DynStore) {
    let job_a = job(&store, "a").await;
    let before = now(&store).await;
    let poison = poisoned(&store, &job_a).await;
    assert_eq!((poison.status(), poison.quarantine()), (ExecutionStatus::Failed, Some(DeadLetterReason::LeasesLost)));
    let letter = store.dead_letter(TENANT, poison.id).await.unwrap().unwrap();
    assert_eq!((letter.execution_id, letter.job_id, letter.job_name.as_str()), (poison.id, job_a.id, "a"));
    assert_eq!((letter.reason, letter.state), (DeadLetterReason::LeasesLost, DeadLetterState::Open));
    assert_eq!((letter.losses, letter.last_worker.as_str()), (3, "agent 3"));
    assert_eq!(letter.message, outcome(&poison).error_message);
    assert_eq!((letter.released_as, letter.decided_by, letter.decided_at), (None, None, None));
    assert!(letter.created_at >= before && letter.created_at <= now(&store).await);
    let once = job_with(&store, "once", |j| j.spec.delivery = Delivery::AtMostOnce).await;
    let once = poisoned(&store, &once).await;
    let letter = store.dead_letter(TENANT, once.id).await.unwrap().unwrap();
    assert_eq!((letter.reason, letter.losses), (DeadLetterReason::MayHaveRun, 1));
}

/// What fails by itself, or is cancelled while its agent is lost, is none.
pub async fn other_ends_are_no_dead_letters(store: DynStore) {
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    let leased_one = leased(&store, &job, &agent).await;
    let done = apply(&store, &leased_one, failed(&leased_one, ErrorType::UserError)).await.unwrap();
    assert_eq!((done.status(), done.quarantine()), (ExecutionStatus::Failed, None));
    let once = job_with(&store, "once", |j| j.spec.delivery = Delivery::AtMostOnce).await;
    let cancelled = leased(&store, &once, &agent).await;
    apply(&store, &cancelled, cancel_requested()).await.unwrap();
    kill(&store, &agent).await;
    store.reap(Duration::ZERO, 100).await.unwrap();
    assert_eq!(execution(&store, cancelled.id).await.status(), ExecutionStatus::Cancelled);
    assert!(letters(&store, DeadLetterFilter::default()).await.is_empty());
}

pub async fn dead_letters_page_and_filter(store: DynStore) {
    let once = |name: &'static str| job_with(&store, name, |j| j.spec.delivery = Delivery::AtMostOnce);
    let (a, b) = (once("a").await, once("b").await);
    let mut made = Vec::new();
    for job in [&a, &b, &a, &b, &a] {
        made.push(poisoned(&store, job).await);
    }
    let all = letters(&store, DeadLetterFilter::default()).await;
    let newest_first: Vec<Uuid> = made.iter().rev().map(|e| e.id).collect();
    assert_eq!(all.iter().map(|l| l.execution_id).collect::<Vec<_>>(), newest_first);
    let (mut pages, mut after) = (Vec::new(), None);
    loop {
        let page = Page { after, limit: 2 };
        let found = store.dead_letters(TENANT, &DeadLetterFilter::default(), &page).await.unwrap();
        let Some(last) = found.last() else { break };
        after = Some(last.id);
        pages.push(found);
    }
    assert_eq!((pages.len(), pages.concat()), (3, all));
    let of_b = letters(&store, DeadLetterFilter { job: Some(b.id), ..DeadLetterFilter::default() }).await;
    assert!(of_b.len() == 2 && of_b.iter().all(|l| l.job_id == b.id));
    store.discard_dead_letter(&discard_of(&made[0], "")).await.unwrap();
    released(&store, &made[1]).await.unwrap();
    for (state, count) in [(DeadLetterState::Open, 3), (DeadLetterState::Discarded, 1), (DeadLetterState::Released, 1)]
    {
        assert_eq!(
            letters(&store, DeadLetterFilter { state: Some(state), ..DeadLetterFilter::default() }).await.len(),
            count
        );
    }
}

pub async fn dead_letters_are_the_tenants(store: DynStore) {
    let poison = poisoned(&store, &job(&store, "a").await).await;
    let page = Page { after: None, limit: 10 };
    assert!(store.dead_letters(OTHER_TENANT, &DeadLetterFilter::default(), &page).await.unwrap().is_empty());
    assert_eq!(store.dead_letter(OTHER_TENANT, poison.id).await.unwrap(), None);
    let foreign = Discard { tenant: OTHER_TENANT, ..discard_of(&poison, "") };
    assert!(matches!(store.discard_dead_letter(&foreign).await, Err(StoreError::NotFound)));
    let foreign = Trigger { tenant: OTHER_TENANT, ..release_of(&poison) };
    let answer = store.release_dead_letter(&foreign, &|_, _, _| Ok(())).await;
    assert!(matches!(answer, Err(StoreError::NotFound)));
    assert_eq!(letters(&store, DeadLetterFilter::default()).await[0].state, DeadLetterState::Open);
}

pub async fn a_discard_is_kept(store: DynStore) {
    let poison = poisoned(&store, &job(&store, "a").await).await;
    let letter = store.discard_dead_letter(&discard_of(&poison, "a broken\0host")).await.unwrap();
    assert_eq!((letter.state, letter.decided_by), (DeadLetterState::Discarded, Some(USER)));
    assert_eq!(letter.note, "a broken\u{2400}host");
    assert!(letter.decided_at.is_some_and(|at| at >= letter.created_at));
    let again = store.discard_dead_letter(&discard_of(&poison, "another")).await.unwrap();
    assert_eq!(again, letter, "the first decision stays");
    refused(released(&store, &poison).await, "DEAD_LETTER_DISCARDED");
    assert_eq!(executions(&store).await.len(), 1);
}

pub async fn a_release_makes_one_execution(store: DynStore) {
    let job = job(&store, "a").await;
    let poison = poisoned(&store, &job).await;
    let calls = (0..8).map(|_| {
        let (store, poison) = (store.clone(), poison.clone());
        tokio::spawn(async move { released(&store, &poison).await.unwrap() })
    });
    let made: Vec<Execution> = futures_util::future::join_all(calls).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(made.iter().map(|e| e.id).collect::<BTreeSet<_>>().len(), 1);
    assert_eq!(executions(&store).await.len(), 2);
    assert_eq!(
        (&made[0].state, made[0].retry_of, made[0].trigger),
        (&State::Pending, Some(poison.id), TriggerType::Retry)
    );
    assert_eq!((made[0].losses, made[0].epoch, made[0].triggered_by), (0, 0, Some(USER)));
    let letter = store.dead_letter(TENANT, poison.id).await.unwrap().unwrap();
    assert_eq!((letter.state, letter.released_as), (DeadLetterState::Released, Some(made[0].id)));
    assert_eq!(letter.decided_by, Some(USER));
    refused(store.discard_dead_letter(&discard_of(&poison, "")).await, "DEAD_LETTER_RELEASED");
    let agent = session(&store, "agent").await;
    let granted = claim(&store, &agent, 10).await.grants.remove(0).execution;
    assert_eq!(granted.id, made[0].id);
    apply(&store, &granted, completed(&granted)).await.unwrap();
    assert_eq!(released(&store, &poison).await.unwrap().status(), ExecutionStatus::Completed);
    assert_eq!(execution(&store, poison.id).await, poison, "its own end stays what it was");
}

pub async fn a_refused_release_changes_nothing(store: DynStore) {
    let once = |j: &mut Job| (j.spec.max_concurrent, j.spec.overlap) = (1, OverlapPolicy::Forbid);
    let job = job_with(&store, "a", once).await;
    let poison = poisoned(&store, &job).await;
    trigger(&store, &job).await;
    let decide = |_: &Job, active: i64, _: &Trigger| match active {
        0 => Ok(()),
        _ => Err(Error::new(Kind::Conflict, "JOB_ALREADY_RUNNING", "one is active")),
    };
    match store.release_dead_letter(&release_of(&poison), &decide).await {
        Err(StoreError::TriggerRefused { reason, .. }) => assert_eq!(reason.code, "JOB_ALREADY_RUNNING"),
        other => panic!("{other:?}"),
    }
    let letter = store.dead_letter(TENANT, poison.id).await.unwrap().unwrap();
    assert_eq!((letter.state, letter.released_as), (DeadLetterState::Open, None));
    assert_eq!(executions(&store).await.len(), 2);
}

/// Whoever sees the end sees the dead letter.
pub async fn a_dead_letter_comes_with_the_end(store: DynStore) {
    const COUNT: usize = 60;
    let once = job_with(&store, "once", |j| j.spec.delivery = Delivery::AtMostOnce).await;
    let agent = session(&store, "agent").await;
    triggers(&store, &once, COUNT).await;
    assert_eq!(claim(&store, &agent, COUNT).await.grants.len(), COUNT);
    kill(&store, &agent).await;
    let over = Arc::new(AtomicBool::new(false));
    let reader = {
        let (store, over) = (store.clone(), over.clone());
        tokio::spawn(async move {
            let filter = ExecutionFilter { status: Some(ExecutionStatus::Failed), ..ExecutionFilter::default() };
            let page = Page { after: None, limit: 1000 };
            while !over.load(Ordering::SeqCst) {
                let ended = store.executions(TENANT, &filter, &page).await.unwrap();
                let letters = letters(&store, DeadLetterFilter::default()).await;
                let known: BTreeSet<Uuid> = letters.iter().map(|l| l.execution_id).collect();
                assert!(ended.iter().all(|e| known.contains(&e.id)), "{} of {}", known.len(), ended.len());
            }
        })
    };
    for _ in 0..COUNT / 5 {
        store.reap(Duration::ZERO, 5).await.unwrap();
    }
    over.store(true, Ordering::SeqCst);
    reader.await.unwrap();
    assert_eq!(letters(&store, DeadLetterFilter::default()).await.len(), COUNT);
}

pub async fn dead_letters_go_with_history(store: DynStore) {
    let poison = poisoned(&store, &job(&store, "a").await).await;
    let kept = store.upkeep(1, &Retention::default()).await.unwrap();
    assert_eq!((kept.rows_deleted, letters(&store, DeadLetterFilter::default()).await.len()), (0, 1));
    let nothing = Retention { executions: Duration::ZERO, ..Retention::default() };
    store.upkeep(1, &nothing).await.unwrap();
    assert_eq!(store.dead_letter(TENANT, poison.id).await.unwrap(), None);
}
