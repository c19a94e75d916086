use chrono::{DateTime, Duration, TimeZone, Utc};
use orrery_proto::v1::{Delivery, ErrorType, ExecutionStatus, TriggerType};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::job::RetryPolicy;

pub(crate) const SESSION: Uuid = Uuid::from_u128(7);

fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 1, 1, 12, 0, 0).unwrap()
}

fn policy(max_retries: i32) -> Policy {
    let retry = RetryPolicy { max_retries, delay_ms: 1000, ..RetryPolicy::default() };
    Policy { retry, delivery: Delivery::AtLeastOnce, random: 0.5 }
}

pub(super) fn scheduled() -> Execution {
    Execution {
        id: Uuid::from_u128(1),
        tenant_id: Uuid::from_u128(2),
        job_id: Uuid::from_u128(3),
        job_name: "job".into(),
        trigger: TriggerType::Scheduled,
        triggered_by: None,
        lane_id: 1,
        queue: "default".into(),
        priority: 0,
        scheduled_at: now(),
        run_at: now(),
        start_by: Some(now()),
        created_at: now(),
        state: State::Scheduled,
        attempt: 0,
        epoch: 0,
        losses: 0,
        job_version: 0,
        progress: 0,
        attempts: vec![],
        parameters: None,
        cancel_requested_at: None,
        cancel_reason: None,
        retry_of: None,
        traceparent: None,
        concurrency: None,
    }
}

pub(super) fn report(status: ExecutionStatus) -> Box<Report> {
    let error_type = (status == ExecutionStatus::Failed).then_some(ErrorType::NetworkError);
    Box::new(Report {
        status,
        result: Some("{\"n\":1.50}".into()),
        error_type,
        error_message: String::new(),
        error_stack: String::new(),
        retryable: None,
        duration_ms: 5,
        memory_peak_mb: None,
        cpu_time_ms: None,
    })
}

fn granted() -> Event {
    Event::Granted { session_id: SESSION, worker_name: "a".into(), timeout: Duration::seconds(60), job_version: 4 }
}

fn armed() -> Event {
    Event::Armed { session_id: SESSION, worker_name: "a".into(), timeout: Duration::seconds(60), job_version: 4 }
}

/// A planned fire, a second before its instant.
fn planned() -> Execution {
    Execution { run_at: now() + Duration::seconds(1), ..scheduled() }
}

/// All events, agents' words under the given epoch.
fn events(epoch: i64) -> Vec<(&'static str, Event)> {
    let session_id = SESSION;
    vec![
        ("due", Event::Due),
        ("granted", granted()),
        ("armed", armed()),
        ("started", Event::Started { session_id, epoch }),
        ("progressed", Event::Progressed { session_id, epoch, percent: 140 }),
        ("completed", Event::Finished { session_id, epoch, report: report(ExecutionStatus::Completed) }),
        ("failed", Event::Finished { session_id, epoch, report: report(ExecutionStatus::Failed) }),
        ("cancelled", Event::Finished { session_id, epoch, report: report(ExecutionStatus::Cancelled) }),
        ("released", Event::Released { session_id, epoch }),
        ("interrupted", Event::Interrupted { session_id, epoch }),
        ("lease_expired", Event::LeaseExpired { session_id, epoch }),
        ("cancel_requested", Event::CancelRequested { reason: "enough".into() }),
        ("timed_out", Event::TimedOut { epoch }),
        ("start_deadline_passed", Event::StartDeadlinePassed),
    ]
}

/// What an event does to an execution in each state: no epoch falls, and an end stays one.
pub(crate) fn in_every_state(event: &Event) {
    for (state, before) in states() {
        let Ok(after) = apply(&before, event, &policy(1), now()) else { continue };
        assert!(after.epoch >= before.epoch, "{state}: {event:?}");
        assert!(!before.is_done() && (0..=100).contains(&after.progress), "{state}: {event:?}");
    }
}

fn step(execution: &Execution, event: &Event) -> Execution {
    apply(execution, event, &policy(1), now()).unwrap()
}

fn states() -> Vec<(&'static str, Execution)> {
    let scheduled = scheduled();
    let pending = step(&scheduled, &Event::Due);
    let leased = step(&pending, &granted());
    let running = step(&leased, &Event::Started { session_id: SESSION, epoch: 1 });
    let stopping = step(&running, &Event::CancelRequested { reason: "enough".into() });
    let done =
        step(&running, &Event::Finished { session_id: SESSION, epoch: 1, report: report(ExecutionStatus::Completed) });
    let armed = step(&planned(), &armed());
    vec![
        ("scheduled", scheduled),
        ("planned", planned()),
        ("pending", pending),
        ("armed", armed),
        ("leased", leased),
        ("running", running),
        ("stopping", stopping),
        ("done", done),
    ]
}

fn shown(result: Result<Execution, Rejected>) -> String {
    match result {
        Ok(e) => {
            let end = match &e.state {
                State::Done(outcome) => format!(" {}", outcome.status.as_json_str()),
                _ => String::new(),
            };
            format!("{}{end} (attempt {}, epoch {}, {}%)", e.state.name(), e.attempt, e.epoch, e.progress)
        }
        Err(rejected) => format!("refused: {rejected}"),
    }
}

/// Every state with every event, under the newest epoch and one that is not.
#[test]
fn every_pair_of_state_and_event() {
    let mut table = String::new();
    for (state, execution) in states() {
        for (name, event) in events(1) {
            let line = shown(apply(&execution, &event, &policy(1), now()));
            table.push_str(&format!("{state:9} + {name:16} = {line}\n"));
        }
    }
    for (state, execution) in states() {
        for (name, event) in events(0).into_iter().filter(|(_, e)| e.spoken_for().is_some()) {
            let answer = apply(&execution, &event, &policy(1), now());
            assert!(
                matches!(
                    answer,
                    Err(Rejected::StaleLease { epoch: 0, .. }
                        | Rejected::LeaseOver { epoch: 0 }
                        | Rejected::AlreadyDone { .. })
                ),
                "{state} {name}"
            );
        }
    }
    insta::assert_snapshot!(table);
}

#[test]
fn another_session_is_not_heard_even_with_the_newest_epoch() {
    for (state, execution) in states() {
        let stranger =
            Event::Finished { session_id: Uuid::from_u128(99), epoch: 1, report: report(ExecutionStatus::Completed) };
        assert!(apply(&execution, &stranger, &policy(0), now()).is_err(), "{state}");
    }
}

#[test]
fn retries_wait_and_then_end() {
    let failed = |e: &Execution| Event::Finished {
        session_id: SESSION,
        epoch: e.epoch,
        report: report(ExecutionStatus::Failed),
    };
    let leased = step(&step(&scheduled(), &Event::Due), &granted());
    let waiting = step(&leased, &failed(&leased));
    assert_eq!(waiting.state, State::Scheduled);
    assert_eq!(waiting.run_at, now() + Duration::seconds(1));
    let again = step(&step(&waiting, &Event::Due), &granted());
    assert_eq!((again.attempt, again.epoch), (2, 2));
    let ended = step(&again, &failed(&again));
    assert_eq!(ended.status(), ExecutionStatus::Failed);
    assert_eq!(ended.attempts.len(), 2);
}

#[test]
fn lost_leases_cost_no_retry_and_end_after_three_in_a_row() {
    let mut e = step(&scheduled(), &Event::Due);
    for loss in 1..=MAX_LOSSES {
        e = step(&e, &granted());
        let event = Event::LeaseExpired { session_id: SESSION, epoch: e.epoch };
        e = apply(&e, &event, &policy(0), now()).unwrap();
        assert_eq!(e.is_done(), loss == MAX_LOSSES);
    }
    assert_eq!(e.status(), ExecutionStatus::Failed);
}

#[test]
fn interruptions_cost_neither_a_retry_nor_an_end() {
    let mut e = step(&scheduled(), &Event::Due);
    for _ in 0..=MAX_LOSSES {
        e = step(&e, &granted());
        e = apply(&e, &Event::Interrupted { session_id: SESSION, epoch: e.epoch }, &policy(0), now()).unwrap();
        assert_eq!((&e.state, e.losses, e.retries()), (&State::Pending, 0, 0));
        assert_eq!(e.attempts.last().unwrap().outcome, AttemptOutcome::Interrupted);
    }
    // The retry that the policy allows is still there.
    e = step(&e, &granted());
    let failed = Event::Finished { session_id: SESSION, epoch: e.epoch, report: report(ExecutionStatus::Failed) };
    e = step(&step(&step(&e, &failed), &Event::Due), &granted());
    assert_eq!((e.retries(), e.attempt), (1, MAX_LOSSES + 3));
}

#[test]
fn at_most_once_is_not_repeated_after_an_interruption() {
    let leased = step(&step(&scheduled(), &Event::Due), &granted());
    let policy = Policy { delivery: Delivery::AtMostOnce, ..policy(5) };
    let e = apply(&leased, &Event::Interrupted { session_id: SESSION, epoch: 1 }, &policy, now()).unwrap();
    let State::Done(outcome) = &e.state else { panic!("it goes on: {e:?}") };
    assert_eq!(outcome.status, ExecutionStatus::Failed);
    assert!(outcome.error_message.contains("at_most_once"), "{}", outcome.error_message);
}

#[test]
fn retries_count_failures_that_were_followed_by_an_attempt() {
    let failed = |e: &Execution| {
        step(e, &Event::Finished { session_id: SESSION, epoch: e.epoch, report: report(ExecutionStatus::Failed) })
    };
    let lost = |e: &Execution| step(e, &Event::LeaseExpired { session_id: SESSION, epoch: e.epoch });
    let first = step(&step(&scheduled(), &Event::Due), &granted());
    let first = step(&lost(&first), &granted());
    assert_eq!(first.retries(), 0, "a loss is none");
    let waiting = failed(&first);
    assert_eq!((waiting.retries(), waiting.attempts.len()), (0, 2), "it has not begun");
    let second = step(&step(&waiting, &Event::Due), &granted());
    assert_eq!(second.retries(), 1);
    assert_eq!(lost(&second).retries(), 1);
    assert_eq!(failed(&second).retries(), 1);
}

#[test]
fn at_most_once_is_not_repeated_after_a_loss() {
    let leased = step(&step(&scheduled(), &Event::Due), &granted());
    let policy = Policy { delivery: Delivery::AtMostOnce, ..policy(5) };
    let e = apply(&leased, &Event::LeaseExpired { session_id: SESSION, epoch: 1 }, &policy, now()).unwrap();
    assert_eq!(e.status(), ExecutionStatus::Failed);
}

#[test]
fn at_most_once_is_not_repeated_after_a_silent_time_out() {
    let leased = step(&step(&scheduled(), &Event::Due), &granted());
    let policy = Policy { delivery: Delivery::AtMostOnce, ..policy(5) };
    let e = apply(&leased, &Event::TimedOut { epoch: 1 }, &policy, now()).unwrap();
    assert_eq!(e.status(), ExecutionStatus::Failed);
}

#[test]
fn a_cancelled_execution_is_not_retried_and_counts_as_cancelled() {
    let (_, stopping) = states().remove(6);
    let event = Event::Finished { session_id: SESSION, epoch: 1, report: report(ExecutionStatus::Failed) };
    assert_eq!(step(&stopping, &event).status(), ExecutionStatus::Cancelled);
    let event = Event::Finished { session_id: SESSION, epoch: 1, report: report(ExecutionStatus::Completed) };
    assert_eq!(step(&stopping, &event).status(), ExecutionStatus::Completed, "it was faster");
}

#[test]
fn the_deadline_counts_from_the_start() {
    let leased = step(&step(&scheduled(), &Event::Due), &granted());
    let later = now() + Duration::seconds(20);
    let running = apply(&leased, &Event::Started { session_id: SESSION, epoch: 1 }, &policy(0), later).unwrap();
    assert_eq!(running.lease().unwrap().deadline, later + Duration::seconds(60));
}

proptest! {
    /// Whatever comes, in whatever order: one end, for ever; epochs rise; nothing old is accepted.
    #[test]
    fn random_events(choices in proptest::collection::vec((0_usize..13, -1_i64..=0), 1..60), retries in 0_i32..4) {
        let mut e = scheduled();
        for (choice, lag) in choices {
            let (_, event) = events(e.epoch + lag).remove(choice);
            let before = e.clone();
            match apply(&e, &event, &policy(retries), now()) {
                Ok(after) => {
                    prop_assert!(!before.is_done(), "an end was changed");
                    prop_assert!(after.epoch >= before.epoch);
                    prop_assert!(event.spoken_for().is_none_or(|(_, epoch)| epoch == before.epoch));
                    prop_assert!((0..=100).contains(&after.progress));
                    let failed = after.attempts.iter().filter(|a| a.outcome == AttemptOutcome::Failed).count();
                    prop_assert!(failed <= retries as usize + 1, "more attempts than the budget");
                    e = after;
                }
                Err(_) => prop_assert_eq!(&before, &e),
            }
        }
    }
}

/// What an outage has held up waits from now on, behind what is on time.
#[test]
fn what_comes_due_late_queues_from_then_on() {
    let on_time = apply(&scheduled(), &Event::Due, &policy(0), now() + Duration::seconds(10)).unwrap();
    assert_eq!(on_time.run_at, now());
    let then = now() + Duration::hours(6);
    let late = apply(&scheduled(), &Event::Due, &policy(0), then).unwrap();
    assert_eq!((late.run_at, late.scheduled_at), (then, now()));
}

/// What is given back before the instant, by whatever way, was never begun: no attempt, no loss, no epoch twice.
#[test]
fn what_is_given_back_before_its_instant_was_never_begun() {
    let at = planned().run_at;
    let epoch = 1;
    let ways = [
        Event::Released { session_id: SESSION, epoch },
        Event::LeaseExpired { session_id: SESSION, epoch },
        Event::Interrupted { session_id: SESSION, epoch },
    ];
    let once = Policy { delivery: Delivery::AtMostOnce, ..policy(0) };
    for way in ways {
        let armed = step(&planned(), &armed());
        assert_eq!((armed.armed_for(), armed.status()), (Some(at), ExecutionStatus::Pending));
        let back = apply(&armed, &way, &once, at - Duration::microseconds(1)).unwrap();
        assert_eq!((&back.state, back.attempt, back.losses, back.attempts.len()), (&State::Scheduled, 0, 0, 0));
        assert_eq!((back.epoch, back.job_version, back.was_armed()), (1, 0, true), "{way:?}");
        let asked = apply(&armed, &Event::CancelRequested { reason: "enough".into() }, &once, now()).unwrap();
        assert!(!asked.is_done(), "its agent must say so");
        let ended = apply(&asked, &way, &once, now()).unwrap();
        assert_eq!((ended.status(), ended.attempts.len()), (ExecutionStatus::Cancelled, 0), "{way:?}");
        // From the instant on it may have begun.
        let taken = apply(&armed, &way, &once, at).unwrap();
        let begun = !matches!(way, Event::Released { .. });
        assert_eq!((taken.is_done(), taken.losses > 0), (begun, matches!(way, Event::LeaseExpired { .. })), "{way:?}");
    }
}

#[test]
fn only_a_fire_is_armed_and_only_ahead_of_its_instant() {
    let refused = |e: &Execution, now| apply(e, &armed(), &policy(0), now).is_err();
    let at = planned().run_at;
    assert!(!refused(&planned(), at - Duration::microseconds(1)) && refused(&planned(), at));
    let asked = Execution { trigger: TriggerType::Manual, ..planned() };
    let again = Execution { attempt: 1, ..planned() };
    assert!(refused(&asked, now()) && refused(&again, now()));
}

#[test]
fn an_armed_attempt_counts_from_its_instant() {
    let e = step(&planned(), &armed());
    let at = e.run_at;
    assert_eq!(e.lease().unwrap().deadline, at + Duration::seconds(60));
    let started = |now| apply(&e, &Event::Started { session_id: SESSION, epoch: 1 }, &policy(0), now).unwrap();
    let lease = |e: &Execution| (e.lease().unwrap().started_at.unwrap(), e.lease().unwrap().deadline);
    let late = at + Duration::milliseconds(3);
    assert_eq!(lease(&started(late)), (late, late + Duration::seconds(60)));
    assert_eq!(lease(&started(now())), (at, at + Duration::seconds(60)), "a clock that was set back");
    assert!(!started(late).is_armed(now()));
}

#[test]
fn a_clock_that_was_set_back_makes_no_grant_an_armed_one() {
    let pending = step(&planned(), &Event::Due);
    let leased = step(&pending, &granted());
    assert_eq!((leased.armed_for(), leased.run_at), (None, now()));
}
