//! Events of executions.

use orrery_proto::v1::{Delivery, ErrorType, ExecutionStatus};
use orrery_server::execution::{AttemptOutcome, Event, Rejected, Report, State};
use orrery_server::store::*;
use uuid::Uuid;

use crate::support::*;

pub async fn a_run_from_start_to_end(store: DynStore) {
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    let leased = leased(&store, &job, &agent).await;
    let running = apply(&store, &leased, started(&leased)).await.unwrap();
    assert!(matches!(&running.state, State::Running(lease) if lease.started_at.is_some()));
    assert_eq!(execution(&store, leased.id).await, running);
    let said = Report {
        result: Some(r#"{"success":true}"#.to_owned()),
        error_stack: "stack".to_owned(),
        error_message: "message".to_owned(),
        ..report(ExecutionStatus::Completed)
    };
    let done = apply(&store, &running, finished(&running, said)).await.unwrap();
    let kept = execution(&store, leased.id).await;
    let end = outcome(&kept);
    assert_eq!(
        (end.status, end.duration_ms, end.memory_peak_mb, end.cpu_time_ms),
        (ExecutionStatus::Completed, Some(12), Some(1.5), Some(3))
    );
    assert_eq!((end.session_id, end.worker_name.as_str()), (Some(agent.id), "agent"));
    assert_eq!((end.error_message.as_str(), end.error_stack.as_str()), ("message", "stack"));
    assert_eq!((kept.progress, kept.attempts.len(), kept.attempts[0].outcome), (100, 1, AttemptOutcome::Completed));
    let json = |text: &Option<String>| serde_json::from_str::<serde_json::Value>(text.as_ref().unwrap()).unwrap();
    assert_eq!(json(&end.result), json(&outcome(&done).result));
    let without_result = |mut e: orrery_server::execution::Execution| {
        if let State::Done(outcome) = &mut e.state {
            outcome.result = None;
        }
        e
    };
    assert_eq!(without_result(kept), without_result(done));
    assert!(store.held(agent.id).await.unwrap().is_empty());
}

pub async fn a_failed_run_is_repeated(store: DynStore) {
    let job = job_with(&store, "a", |j| {
        j.spec.retry.max_retries = 1;
        j.spec.retry.delay_ms = 60_000;
    })
    .await;
    let agent = session(&store, "agent").await;
    let first = leased(&store, &job, &agent).await;
    let waiting = apply(&store, &first, failed(&first, ErrorType::Timeout)).await.unwrap();
    assert_eq!((&waiting.state, waiting.attempt), (&State::Scheduled, 1));
    let wait = (waiting.run_at - now(&store).await).num_seconds();
    assert!((50..=60).contains(&wait), "{wait}");
    assert_eq!(execution(&store, first.id).await, waiting);
    assert!(claim(&store, &agent, 10).await.grants.is_empty());
    assert_eq!(store.job_load(TENANT, job.id).await.unwrap(), JobLoad { active: 1, leased: 0 });
}

pub async fn old_epochs_are_refused(store: DynStore) {
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    let first = leased(&store, &job, &agent).await;
    let waiting = apply(&store, &first, Event::Released { session_id: agent.id, epoch: 1 }).await.unwrap();
    let second = claim(&store, &agent, 1).await.grants.remove(0).execution;
    assert_eq!((second.id, second.epoch), (waiting.id, 2));
    for event in [started(&first), completed(&first), Event::Progressed { session_id: agent.id, epoch: 1, percent: 5 }]
    {
        assert_eq!(apply(&store, &first, event).await, Err(Rejected::StaleLease { epoch: 1, newest: 2 }));
    }
    let other = session(&store, "other").await;
    let foreign = Event::Started { session_id: other.id, epoch: 2 };
    assert_eq!(apply(&store, &second, foreign).await, Err(Rejected::LeaseOver { epoch: 2 }));
    assert_eq!(execution(&store, first.id).await, second);
    apply(&store, &second, completed(&second)).await.unwrap();
    assert!(matches!(
        apply(&store, &first, completed(&first)).await,
        Err(Rejected::StaleLease { epoch: 1, newest: 2 })
    ));
}

pub async fn an_interruption_costs_nothing(store: DynStore) {
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    let mut run = leased(&store, &job, &agent).await;
    for epoch in 1..=4 {
        apply(&store, &run, started(&run)).await.unwrap();
        let event = Event::Interrupted { session_id: agent.id, epoch };
        let waiting = apply(&store, &run, event.clone()).await.unwrap();
        assert_eq!((&waiting.state, waiting.losses, waiting.retries()), (&State::Pending, 0, 0));
        assert_eq!(apply(&store, &run, event).await, Err(Rejected::Repeated), "it is told twice");
        run = claim(&store, &agent, 1).await.grants.remove(0).execution;
        assert_eq!((run.epoch, run.attempts.len()), (epoch + 1, epoch as usize));
        assert_eq!(execution(&store, run.id).await, run);
    }
    let done = apply(&store, &run, completed(&run)).await.unwrap();
    assert_eq!((done.retries(), done.attempt), (0, 5));
    let outcomes: Vec<_> = execution(&store, run.id).await.attempts.iter().map(|a| a.outcome).collect();
    assert_eq!(outcomes[..4], [AttemptOutcome::Interrupted; 4]);

    let once = job_with(&store, "once", |j| j.spec.delivery = Delivery::AtMostOnce).await;
    let run = leased(&store, &once, &agent).await;
    apply(&store, &run, Event::Interrupted { session_id: agent.id, epoch: 1 }).await.unwrap();
    assert_eq!(execution(&store, run.id).await.status(), ExecutionStatus::Failed, "it may not be repeated");
}

pub async fn words_of_the_dead_are_refused(store: DynStore) {
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    let leased = leased(&store, &job, &agent).await;
    kill(&store, &agent).await;
    // Nobody has reaped it yet.
    for event in [
        started(&leased),
        completed(&leased),
        Event::Progressed { session_id: agent.id, epoch: 1, percent: 5 },
        Event::Released { session_id: agent.id, epoch: 1 },
        Event::Interrupted { session_id: agent.id, epoch: 1 },
    ] {
        assert_eq!(apply(&store, &leased, event).await, Err(Rejected::SessionOver { epoch: 1 }));
    }
    assert_eq!(execution(&store, leased.id).await, leased);
    apply(&store, &leased, cancel_requested()).await.unwrap();
}

pub async fn what_does_not_exist_is_unknown(store: DynStore) {
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    let done = run(&store, &job, &agent, report(ExecutionStatus::Completed)).await;
    let live = trigger(&store, &job).await;
    let of = |execution, tenant| Change { execution, tenant: Some(tenant), event: cancel_requested(), known: None };
    let answers = store
        .apply(vec![
            of(Uuid::new_v4(), TENANT),
            of(live.id, OTHER_TENANT),
            of(done.id, OTHER_TENANT),
            of(done.id, TENANT),
            of(live.id, TENANT),
        ])
        .await
        .unwrap();
    assert_eq!(answers[..3], [const { Err(Rejected::Unknown) }; 3]);
    assert_eq!(answers[3], Err(Rejected::AlreadyDone { status: "completed" }));
    assert!(answers[4].is_ok(), "those that failed did not hinder it");
    assert!(execution(&store, live.id).await.is_done());
    assert!(store.apply(vec![]).await.unwrap().is_empty());
}

pub async fn events_of_one_batch_go_in_order(store: DynStore) {
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    let (one, two) = (leased(&store, &job, &agent).await, leased(&store, &job, &agent).await);
    let half = || Event::Progressed { session_id: agent.id, epoch: 1, percent: 50 };
    let answers = store
        .apply(vec![
            change(&one, started(&one)),
            change(&two, started(&two)),
            change(&one, half()),
            change(&one, completed(&one)),
            change(&one, half()),
            change(&two, half()),
            change(&two, started(&two)),
        ])
        .await
        .unwrap();
    assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, true, true, false, true, false]);
    assert_eq!(answers[4], Err(Rejected::AlreadyDone { status: "completed" }));
    assert!(matches!(answers[6], Err(Rejected::Illegal { from: "running", event: "started" })));
    assert_eq!(execution(&store, one.id).await.status(), ExecutionStatus::Completed);
    let two = execution(&store, two.id).await;
    assert!(matches!(two.state, State::Running(_)) && two.progress == 50);
}

pub async fn one_end_is_reached_under_a_race(store: DynStore) {
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    for _ in 0..15 {
        let leased = leased(&store, &job, &agent).await;
        let events = [
            completed(&leased),
            failed(&leased, ErrorType::UserError),
            Event::TimedOut { epoch: 1 },
            Event::LeaseExpired { session_id: agent.id, epoch: 1 },
            cancel_requested(),
            completed(&leased),
        ];
        let tries = events.map(|event| {
            let (store, leased) = (store.clone(), leased.clone());
            tokio::spawn(async move { apply(&store, &leased, event).await })
        });
        let mut ends = Vec::new();
        for answer in futures_util::future::join_all(tries).await {
            match answer.unwrap() {
                Ok(after) if after.is_done() => ends.push(after.status()),
                Ok(_) | Err(_) => {}
            }
        }
        assert_eq!(ends.len(), 1, "one event ended it: {ends:?}");
        assert_eq!(execution(&store, leased.id).await.status(), ends[0]);
    }
    assert!(store.held(agent.id).await.unwrap().is_empty());
}

pub async fn a_cancel_of_what_waits_ends_it(store: DynStore) {
    let job = job(&store, "a").await;
    let waiting = trigger(&store, &job).await;
    let at = seconds_from_now(&store, 100).await;
    let later = store
        .trigger(vec![Trigger { run_at: Some(at), ..trigger_of(&job) }], &|_, _, _| Ok(()))
        .await
        .unwrap()
        .remove(0);
    for execution in [waiting, later] {
        let done = apply(&store, &execution, cancel_requested()).await.unwrap();
        assert_eq!((done.status(), done.cancel_reason.as_deref()), (ExecutionStatus::Cancelled, Some("enough")));
        assert_eq!(crate::support::execution(&store, execution.id).await, done);
    }
    assert_eq!(release(&store).await.next_due, None);
}

pub async fn a_cancel_of_what_runs_asks_the_agent(store: DynStore) {
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    let leased = leased(&store, &job, &agent).await;
    assert!(store.cancels(&[agent.id]).await.unwrap().is_empty());
    let asked = apply(&store, &leased, cancel_requested()).await.unwrap();
    assert!(matches!(asked.state, State::Leased(_)) && asked.cancel_requested_at.is_some());
    let lease = Held { session_id: agent.id, execution_id: leased.id, epoch: 1 };
    let wanted = [Wanted { lease, is_recall: false }];
    assert_eq!(store.cancels(&[agent.id, Uuid::new_v4()]).await.unwrap(), wanted);
    assert!(store.cancels(&[Uuid::new_v4()]).await.unwrap().is_empty());
    let done = apply(&store, &leased, failed(&leased, ErrorType::Timeout)).await.unwrap();
    assert_eq!(done.status(), ExecutionStatus::Cancelled);
    assert!(store.cancels(&[agent.id]).await.unwrap().is_empty());
}

pub async fn progress_is_kept(store: DynStore) {
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    let leased = leased(&store, &job, &agent).await;
    let percent = |percent| change(&leased, Event::Progressed { session_id: agent.id, epoch: 1, percent });
    let answers = store.apply(vec![percent(10), percent(40), percent(900)]).await.unwrap();
    assert_eq!(answers.iter().map(|a| a.as_ref().unwrap().progress).collect::<Vec<_>>(), [10, 40, 100]);
    assert_eq!(execution(&store, leased.id).await.progress, 100);
}

pub async fn a_released_lease_costs_no_attempt(store: DynStore) {
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    let leased = leased(&store, &job, &agent).await;
    let back = apply(&store, &leased, Event::Released { session_id: agent.id, epoch: 1 }).await.unwrap();
    assert_eq!((&back.state, back.attempt, back.epoch), (&State::Pending, 0, 1));
    assert_eq!(execution(&store, leased.id).await, back);
    let again = claim(&store, &agent, 1).await.grants.remove(0).execution;
    assert_eq!((again.id, again.attempt, again.epoch), (leased.id, 1, 2));
}

pub async fn what_is_over_stays_over(store: DynStore) {
    let (job, agent) = (job(&store, "a").await, session(&store, "agent").await);
    let leased = leased(&store, &job, &agent).await;
    apply(&store, &leased, completed(&leased)).await.unwrap();
    let kept = execution(&store, leased.id).await;
    assert_eq!(apply(&store, &leased, completed(&leased)).await, Err(Rejected::Repeated));
    let other = failed(&leased, ErrorType::UserError);
    for event in [other, started(&leased), cancel_requested(), Event::TimedOut { epoch: 1 }, Event::Due] {
        assert_eq!(apply(&store, &leased, event).await, Err(Rejected::AlreadyDone { status: "completed" }));
    }
    assert_eq!(execution(&store, leased.id).await, kept);
}
