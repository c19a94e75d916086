//! The state machine against a plain model of it, under words that come late, twice and out of order.

use chrono::{DateTime, Duration, TimeZone, Utc};
use orrery_proto::v1::{Delivery, ErrorType, ExecutionStatus};
use proptest::prelude::*;
use uuid::Uuid;

use super::tests::{report, scheduled};
use super::*;
use crate::job::RetryPolicy;

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    Due,
    Grant {
        agent: u8,
    },
    Arm {
        agent: u8,
    },
    Cancel,
    /// The deadline of the newest lease, or of one so many before it.
    TimeOut {
        back: i64,
    },
    Expire {
        agent: u8,
        back: i64,
    },
    /// An agent says something of a lease; it is on its way from now on.
    Say {
        agent: u8,
        back: i64,
        word: Word,
    },
    /// Something that is on its way arrives. It may come again.
    Arrive {
        which: prop::sample::Index,
        again: bool,
    },
}

#[derive(Clone, Copy, Debug)]
enum Word {
    Started,
    Progressed,
    Completed,
    Failed,
    FailedForGood,
    Cancelled,
    Released,
}

const WORDS: [Word; 7] = [
    Word::Started,
    Word::Progressed,
    Word::Completed,
    Word::Failed,
    Word::FailedForGood,
    Word::Cancelled,
    Word::Released,
];

fn step() -> impl Strategy<Value = Step> {
    // Mostly the newest lease and its holder: what is refused at once tells little.
    let agent = || prop_oneof![6 => Just(0_u8), 1 => 1_u8..3];
    let back = || prop_oneof![6 => Just(0_i64), 2 => Just(1), 1 => -1_i64..4];
    prop_oneof![
        3 => Just(Step::Due),
        4 => agent().prop_map(|agent| Step::Grant { agent }),
        3 => agent().prop_map(|agent| Step::Arm { agent }),
        1 => Just(Step::Cancel),
        1 => back().prop_map(|back| Step::TimeOut { back }),
        1 => (agent(), back()).prop_map(|(agent, back)| Step::Expire { agent, back }),
        6 => (agent(), back(), prop::sample::select(WORDS.to_vec()))
            .prop_map(|(agent, back, word)| Step::Say { agent, back, word }),
        8 => (any::<prop::sample::Index>(), prop::bool::weighted(0.3))
            .prop_map(|(which, again)| Step::Arrive { which, again }),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Waiting,
    Ready,
    Held { agent: Uuid, begun: bool },
    Over(ExecutionStatus),
}

/// The rules once more, in the plainest form.
#[derive(Clone, Debug)]
struct Model {
    phase: Phase,
    epoch: i64,
    failures: i32,
    losses: i32,
    cancelled: bool,
    retries: i32,
    once: bool,
    /// The instant of the fire, as long as nothing of it can have begun.
    fresh: Option<DateTime<Utc>>,
    /// Its lease is ahead of that instant.
    ahead: bool,
}

impl Model {
    fn end_by_failure(&mut self, may_repeat: bool) {
        self.fresh = None;
        self.failures += 1;
        self.losses = 0;
        self.phase = if self.cancelled {
            Phase::Over(ExecutionStatus::Cancelled)
        } else if may_repeat && self.failures <= self.retries {
            Phase::Waiting
        } else {
            Phase::Over(ExecutionStatus::Failed)
        };
    }

    fn end_by_loss(&mut self) {
        self.losses += 1;
        self.phase = if self.cancelled {
            Phase::Over(ExecutionStatus::Cancelled)
        } else if self.once || self.losses >= 3 {
            Phase::Over(ExecutionStatus::Failed)
        } else {
            Phase::Ready
        };
    }

    /// A lease is given back: whether nothing of it can have begun.
    fn gives_back(&mut self, begun: bool, now: DateTime<Utc>) -> bool {
        let untouched = !begun && self.ahead && self.fresh.is_some_and(|at| now < at);
        if untouched {
            self.phase = if self.cancelled { Phase::Over(ExecutionStatus::Cancelled) } else { Phase::Waiting };
        }
        untouched
    }

    /// Whether the event counts, and what becomes of it.
    fn take(&mut self, event: &Event, now: DateTime<Utc>) -> bool {
        let begun = match (self.phase, spoken(event)) {
            (Phase::Over(_), _) => return false,
            // Whoever speaks of a lease must hold it, and it must be the newest.
            (Phase::Held { agent, begun }, Some((who, epoch))) => {
                if who.is_some_and(|who| who != agent) || epoch != self.epoch {
                    return false;
                }
                begun
            }
            (_, Some(_)) => return false,
            (_, None) => false,
        };
        match (event, self.phase) {
            (Event::Due, Phase::Waiting) => self.phase = Phase::Ready,
            (Event::Granted { session_id, .. }, Phase::Ready) => {
                (self.epoch, self.ahead) = (self.epoch + 1, false);
                self.phase = Phase::Held { agent: *session_id, begun: false };
            }
            (Event::Armed { session_id, .. }, Phase::Waiting) if self.fresh.is_some_and(|at| now < at) => {
                (self.epoch, self.ahead) = (self.epoch + 1, true);
                self.phase = Phase::Held { agent: *session_id, begun: false };
            }
            (Event::Due | Event::Granted { .. } | Event::Armed { .. }, _) => return false,
            (Event::CancelRequested { .. }, Phase::Held { .. }) => self.cancelled = true,
            (Event::CancelRequested { .. }, _) => self.phase = Phase::Over(ExecutionStatus::Cancelled),
            (Event::Started { session_id, .. }, _) if !begun => {
                self.phase = Phase::Held { agent: *session_id, begun: true };
            }
            (Event::Released { .. } | Event::LeaseExpired { .. }, _) if self.gives_back(begun, now) => {}
            (Event::Released { .. }, _) if !begun && self.cancelled => {
                self.phase = Phase::Over(ExecutionStatus::Cancelled);
            }
            (Event::Released { .. }, _) if !begun => self.phase = Phase::Ready,
            (Event::Started { .. } | Event::Released { .. }, _) => return false,
            (Event::Progressed { .. }, _) => {}
            (Event::LeaseExpired { .. }, _) => self.end_by_loss(),
            (Event::TimedOut { .. }, _) => self.end_by_failure(!self.once),
            (Event::Finished { report, .. }, _) => match report.status {
                ExecutionStatus::Failed => self.end_by_failure(report.retryable != Some(false)),
                status => (self.phase, self.losses) = (Phase::Over(status), 0),
            },
            // An event that is not among the steps above.
            #[allow(unreachable_patterns)]
            (other, _) => panic!("the model does not know {other:?}"),
        }
        true
    }

    fn agrees(&self, execution: &Execution) -> bool {
        let phase = match &execution.state {
            State::Scheduled => Phase::Waiting,
            State::Pending => Phase::Ready,
            State::Leased(lease) => Phase::Held { agent: lease.session_id, begun: false },
            State::Running(lease) => Phase::Held { agent: lease.session_id, begun: true },
            State::Done(outcome) => Phase::Over(outcome.status),
        };
        (phase, execution.epoch, execution.losses) == (self.phase, self.epoch, self.losses)
    }
}

/// The lease that an event speaks of: its holder, where it names one, and its epoch.
fn spoken(event: &Event) -> Option<(Option<Uuid>, i64)> {
    match event {
        Event::LeaseExpired { session_id, epoch } => Some((Some(*session_id), *epoch)),
        Event::TimedOut { epoch } => Some((None, *epoch)),
        other => other.spoken_for().map(|(session, epoch)| (Some(session), epoch)),
    }
}

fn word(word: Word, session_id: Uuid, epoch: i64) -> Event {
    let finished = |status, retryable| {
        let report = Box::new(Report { retryable, ..*report(status) });
        Event::Finished { session_id, epoch, report }
    };
    match word {
        Word::Started => Event::Started { session_id, epoch },
        Word::Progressed => Event::Progressed { session_id, epoch, percent: 40 },
        Word::Released => Event::Released { session_id, epoch },
        Word::Completed => finished(ExecutionStatus::Completed, None),
        Word::Cancelled => finished(ExecutionStatus::Cancelled, None),
        Word::Failed => finished(ExecutionStatus::Failed, None),
        Word::FailedForGood => finished(ExecutionStatus::Failed, Some(false)),
    }
}

fn agent(number: u8) -> Uuid {
    Uuid::from_u128(100 + u128::from(number))
}

fn instant(second: usize) -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 1, 1, 12, 0, 0).unwrap() + Duration::seconds(second as i64)
}

/// The event of a step, if it brings one about at once.
fn event_of(step: &Step, newest: i64, under_way: &mut Vec<Event>) -> Option<Event> {
    Some(match step {
        Step::Due => Event::Due,
        Step::Grant { agent: number } => Event::Granted {
            session_id: agent(*number),
            worker_name: "a".into(),
            timeout: Duration::seconds(60),
            job_version: 4,
        },
        Step::Arm { agent: number } => Event::Armed {
            session_id: agent(*number),
            worker_name: "a".into(),
            timeout: Duration::seconds(60),
            job_version: 4,
        },
        Step::Cancel => Event::CancelRequested { reason: "enough".into() },
        Step::TimeOut { back } => Event::TimedOut { epoch: newest - back },
        Step::Expire { agent: number, back } => {
            Event::LeaseExpired { session_id: agent(*number), epoch: newest - back }
        }
        Step::Say { agent: number, back, word: said } => {
            under_way.push(word(*said, agent(*number), newest - back));
            return None;
        }
        Step::Arrive { .. } if under_way.is_empty() => return None,
        Step::Arrive { which, again } => {
            let at = which.index(under_way.len());
            if *again { under_way[at].clone() } else { under_way.remove(at) }
        }
    })
}

/// What must hold between an execution and what an accepted event has made of it, whatever the model says.
fn check_step(before: &Execution, event: &Event, after: &Execution) -> Result<(), TestCaseError> {
    prop_assert!(!before.is_done(), "a terminal state has changed");
    let is_grant = matches!(event, Event::Granted { .. } | Event::Armed { .. });
    prop_assert_eq!(after.epoch, before.epoch + i64::from(is_grant));
    if let Some((_, epoch)) = spoken(event) {
        prop_assert_eq!(epoch, before.epoch, "an old epoch was heard");
    }
    // History is only ever added to.
    prop_assert!(after.attempts.starts_with(&before.attempts) && after.attempts.len() <= before.attempts.len() + 1);
    prop_assert!(after.attempts.windows(2).all(|two| two[0].epoch < two[1].epoch && two[0].number < two[1].number));
    prop_assert!(after.attempts.last().is_none_or(|last| last.epoch <= after.epoch && last.number <= after.attempt));
    prop_assert_eq!(after.attempt, after.attempts.len() as i32 + i32::from(after.lease().is_some()));
    let begun = after.lease().and_then(|lease| lease.started_at);
    prop_assert!(before.armed_for().is_none_or(|at| begun.is_none_or(|begun| begun >= at)), "it began early");
    Ok(())
}

fn check_budget(execution: &Execution, policy: &Policy) -> Result<(), TestCaseError> {
    let failed = execution.attempts.iter().filter(|a| a.outcome == AttemptOutcome::Failed).count();
    prop_assert!(failed <= policy.retry.max_retries as usize + 1, "{failed} attempts have failed");
    prop_assert!(execution.losses <= MAX_LOSSES);
    if policy.delivery == Delivery::AtMostOnce {
        // Whatever has begun is followed by another only where its own agent said that it had failed.
        let (last, earlier) = match execution.attempts.split_last() {
            Some((last, earlier)) if execution.is_done() => (Some(last), earlier),
            _ => (None, execution.attempts.as_slice()),
        };
        prop_assert!(
            earlier.iter().all(|a| a.outcome == AttemptOutcome::Failed && a.error_type != Some(ErrorType::Timeout))
        );
        prop_assert!(last.is_none_or(|last| last.outcome != AttemptOutcome::Lost || execution.is_done()));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn any_series_of_events_keeps_to_the_model(
        steps in proptest::collection::vec(step(), 1..60),
        retries in 0_i32..3,
        once in prop::bool::weighted(0.3),
        ahead in 0_usize..40,
    ) {
        let retry = RetryPolicy { max_retries: retries, delay_ms: 1000, ..RetryPolicy::default() };
        let delivery = if once { Delivery::AtMostOnce } else { Delivery::AtLeastOnce };
        let policy = Policy { retry, delivery, random: 0.5 };
        let (phase, fresh) = (Phase::Waiting, Some(instant(ahead)));
        let mut model =
            Model { phase, epoch: 0, failures: 0, losses: 0, cancelled: false, retries, once, fresh, ahead: false };
        let mut execution = Execution { run_at: instant(ahead), ..scheduled() };
        let (mut under_way, mut begun) = (Vec::new(), Vec::new());
        for (second, step) in steps.iter().enumerate() {
            let Some(event) = event_of(step, execution.epoch, &mut under_way) else { continue };
            let answer = apply(&execution, &event, &policy, instant(second));
            prop_assert_eq!(answer.is_ok(), model.take(&event, instant(second)), "{:?} answered {:?}", event, answer);
            if let Ok(after) = answer {
                check_step(&execution, &event, &after)?;
                if matches!(event, Event::Started { .. }) {
                    begun.push(after.epoch);
                }
                execution = after;
            }
            prop_assert!(model.agrees(&execution), "{:?} is {:?}", model, execution);
            check_budget(&execution, &policy)?;
        }
        if once && retries == 0 {
            prop_assert!(begun.len() <= 1, "it was begun under {begun:?}");
        }
        prop_assert!(begun.windows(2).all(|two| two[0] < two[1]), "begun twice under one epoch");
    }
}
