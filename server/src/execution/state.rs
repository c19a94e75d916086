//! The state machine of an execution, without I/O.
//!
//! ```text
//!             Due              Granted             Started
//! Scheduled ──────▶ Pending ───────────▶ Leased ───────────▶ Running
//!     ▲                ▲                   │  │                │  │
//!     │                ├── Released ───────┘  │                │  │
//!     │                ├── Interrupted ───────┼────────────────┤  │
//!     │                ├── LeaseExpired ──────┴────────────────┤  │
//!     └── Finished or TimedOut, where retried ─────────────────┘  │
//!  CancelRequested (nothing runs), Finished, TimedOut  ──────▶ Done
//!  StartDeadlinePassed (pending, never begun)  ──────────────▶ Done
//!
//! Before the instant of a fire:  Scheduled ── Armed ──▶ Leased
//!                                Scheduled ◀── Released, LeaseExpired, Interrupted ── Leased
//! ```

use chrono::{DateTime, SecondsFormat, Utc};
use orrery_proto::v1::{Delivery, ErrorType, ExecutionStatus};
use uuid::Uuid;

use super::{
    Attempt, AttemptOutcome, Execution, Lease, MAX_LOSSES, ON_TIME, Outcome, Report, State, armed, delay, is_retried,
};
use crate::job::RetryPolicy;

/// Something that happens to an execution.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Its `run_at` has come.
    Due,
    /// An agent is given it, for `timeout` from now.
    Granted { session_id: Uuid, worker_name: String, timeout: chrono::Duration, job_version: i64 },
    /// An agent is given a fire ahead of its instant, for `timeout` from then.
    Armed { session_id: Uuid, worker_name: String, timeout: chrono::Duration, job_version: i64 },
    /// The agent has begun.
    Started { session_id: Uuid, epoch: i64 },
    /// The agent has got so far, in percent.
    Progressed { session_id: Uuid, epoch: i64, percent: i32 },
    /// The attempt is over, says the agent.
    Finished { session_id: Uuid, epoch: i64, report: Box<Report> },
    /// The agent gives it back, not begun.
    Released { session_id: Uuid, epoch: i64 },
    /// The agent ends, and has stopped it before it was done. Nothing of it goes on.
    Interrupted { session_id: Uuid, epoch: i64 },
    /// The agent's session is over.
    LeaseExpired { session_id: Uuid, epoch: i64 },
    /// Somebody wants it to end.
    CancelRequested { reason: String },
    /// The attempt's deadline has passed and the agent has not said so.
    TimedOut { epoch: i64 },
    /// It has not begun by its start deadline.
    StartDeadlinePassed,
}

/// Why an event changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// It speaks of a lease that is not the newest.
    #[error("the lease is stale: epoch {epoch} was named, {newest} is the newest")]
    StaleLease { epoch: i64, newest: i64 },
    /// It speaks of the newest lease, which is nobody's any more, or is another session's.
    #[error("the lease of epoch {epoch} is over, or is not this session's")]
    LeaseOver { epoch: i64 },
    /// The session that it speaks for is over, and with it the lease.
    #[error("the session is over that held the lease of epoch {epoch}")]
    SessionOver { epoch: i64 },
    /// The execution is over.
    #[error("the execution is over: {status}")]
    AlreadyDone { status: &'static str },
    /// The event has no meaning in this state.
    #[error("{event} has no meaning in state {from}")]
    Illegal { from: &'static str, event: &'static str },
    /// The agent has said this before, and it counted: the answer was lost, or the repeat came by another coordinator.
    #[error("it was said before, and counted")]
    Repeated,
    /// There is no such execution.
    #[error("there is no such execution")]
    Unknown,
}

/// What of a job decides over its executions, and a random number in 0..1 for jitter.
#[derive(Clone, Debug)]
pub struct Policy {
    pub retry: RetryPolicy,
    pub delivery: Delivery,
    pub random: f64,
}

/// The execution after an event.
///
/// # Errors
/// [`Rejected`] where the event changes nothing; the execution stays as it is.
pub fn apply(execution: &Execution, event: &Event, policy: &Policy, now: DateTime<Utc>) -> Result<Execution, Rejected> {
    if let State::Done(outcome) = &execution.state {
        return Err(match event {
            Event::Started { epoch, .. }
            | Event::Progressed { epoch, .. }
            | Event::Finished { epoch, .. }
            | Event::Interrupted { epoch, .. }
                if *epoch != execution.epoch =>
            {
                Rejected::StaleLease { epoch: *epoch, newest: execution.epoch }
            }
            _ => Rejected::AlreadyDone { status: outcome.status.as_json_str() },
        });
    }
    let mut next = execution.clone();
    match event {
        Event::Due => due(&mut next, event, now)?,
        Event::Granted { session_id, worker_name, timeout, job_version } => {
            let lease = Lease {
                session_id: *session_id,
                worker_name: worker_name.clone(),
                granted_at: now,
                started_at: None,
                deadline: now + *timeout,
            };
            granted(&mut next, event, lease, *job_version)?;
        }
        Event::Armed { session_id, worker_name, timeout, job_version } => {
            let lease = Lease {
                session_id: *session_id,
                worker_name: worker_name.clone(),
                granted_at: now,
                started_at: None,
                deadline: next.run_at + *timeout,
            };
            armed::arm(&mut next, event, lease, *job_version)?;
        }
        Event::Started { session_id, epoch } => {
            let lease = held(execution, *session_id, *epoch)?;
            if matches!(execution.state, State::Running(_)) {
                return Err(illegal(execution, event));
            }
            next.state = State::Running(started(execution, lease, now));
        }
        Event::Progressed { session_id, epoch, percent } => {
            held(execution, *session_id, *epoch)?;
            next.progress = (*percent).clamp(0, 100);
        }
        Event::Finished { session_id, epoch, report } => {
            let lease = held(execution, *session_id, *epoch)?;
            finished(&mut next, &lease, report, policy, now);
        }
        Event::Released { session_id, epoch } => {
            held(execution, *session_id, *epoch)?;
            let State::Leased(lease) = &execution.state else { return Err(illegal(execution, event)) };
            match execution.is_armed(now) {
                true => armed::disarm(&mut next, lease, now),
                false => released(&mut next, lease, now),
            }
        }
        Event::Interrupted { session_id, epoch } => {
            let lease = held(execution, *session_id, *epoch)?;
            match execution.is_armed(now) {
                true => armed::disarm(&mut next, &lease, now),
                false => interrupted(&mut next, &lease, policy, now),
            }
        }
        Event::LeaseExpired { session_id, epoch } => {
            let lease = held(execution, *session_id, *epoch)?;
            match execution.is_armed(now) {
                true => armed::disarm(&mut next, &lease, now),
                false => lost(&mut next, &lease, policy, now),
            }
        }
        Event::CancelRequested { reason } => cancel(&mut next, reason, now),
        Event::TimedOut { epoch } => {
            let lease = execution.lease().ok_or_else(|| illegal(execution, event))?.clone();
            if *epoch != execution.epoch {
                return Err(Rejected::StaleLease { epoch: *epoch, newest: execution.epoch });
            }
            let mut report = overdue(&lease, execution.counts_from(&lease), now);
            if policy.delivery == Delivery::AtMostOnce {
                // Nobody knows whether the agent has stopped.
                report.retryable = Some(false);
            }
            finished(&mut next, &lease, &report, policy, now);
        }
        Event::StartDeadlinePassed => unstarted(&mut next, event, now)?,
    }
    if next.is_done() {
        next.start_by = None;
    }
    Ok(next)
}

/// The lease that an agent speaks of, if it holds it.
fn held(execution: &Execution, session_id: Uuid, epoch: i64) -> Result<Lease, Rejected> {
    match execution.lease() {
        Some(lease) if epoch == execution.epoch && lease.session_id == session_id => Ok(lease.clone()),
        _ if epoch == execution.epoch => Err(Rejected::LeaseOver { epoch }),
        _ => Err(Rejected::StaleLease { epoch, newest: execution.epoch }),
    }
}

fn due(next: &mut Execution, event: &Event, now: DateTime<Utc>) -> Result<(), Rejected> {
    if next.state != State::Scheduled {
        return Err(illegal(next, event));
    }
    if (now - next.run_at).to_std().is_ok_and(|late| late > ON_TIME) {
        // What an outage has left behind queues from now on: its age is not to put it before what is on time.
        next.run_at = now;
    }
    next.state = State::Pending;
    Ok(())
}

fn granted(next: &mut Execution, event: &Event, lease: Lease, job_version: i64) -> Result<(), Rejected> {
    if next.state != State::Pending {
        return Err(illegal(next, event));
    }
    next.epoch += 1;
    next.attempt += 1;
    next.progress = 0;
    if next.job_version == 0 {
        next.job_version = job_version;
    }
    // A clock that was set back is not to make it look like one that is granted ahead.
    next.run_at = next.run_at.min(lease.granted_at);
    next.state = State::Leased(lease);
    Ok(())
}

/// The attempt's time counts from its start; until then the grant's holds. A word of a start is never from before the instant, whatever a
/// clock that was set back may say.
fn started(execution: &Execution, lease: Lease, now: DateTime<Utc>) -> Lease {
    let begun = now.max(execution.armed_for().unwrap_or(now));
    let deadline = begun + (lease.deadline - execution.counts_from(&lease));
    Lease { deadline, started_at: Some(begun), ..lease }
}

fn finished(next: &mut Execution, lease: &Lease, report: &Report, policy: &Policy, now: DateTime<Utc>) {
    let outcome = report.outcome();
    end_attempt(next, lease, outcome, report.error_type, &report.error_message, now);
    next.losses = 0;
    let error = report.error_type.unwrap_or(ErrorType::SystemError);
    let retries = retries_made(next);
    let cancelled = next.cancel_requested_at.is_some();
    if outcome == AttemptOutcome::Failed && !cancelled && is_retried(&policy.retry, error, report.retryable, retries) {
        let delay = chrono::Duration::from_std(delay(&policy.retry, retries, policy.random)).unwrap_or_default();
        next.run_at = now + delay;
        next.state = State::Scheduled;
        return;
    }
    if outcome == AttemptOutcome::Completed {
        next.progress = 100;
    }
    let status = match outcome {
        AttemptOutcome::Completed => ExecutionStatus::Completed,
        AttemptOutcome::Cancelled => ExecutionStatus::Cancelled,
        // It was asked to stop and did so by failing: what people asked for is what it is called.
        _ if cancelled => ExecutionStatus::Cancelled,
        _ => ExecutionStatus::Failed,
    };
    next.state = State::Done(Outcome {
        status,
        started_at: lease.started_at,
        completed_at: now,
        duration_ms: Some(report.duration_ms.max(0)),
        result: report.result.clone(),
        error_type: report.error_type,
        error_message: report.error_message.clone(),
        error_stack: report.error_stack.clone(),
        session_id: Some(lease.session_id),
        worker_name: lease.worker_name.clone(),
        memory_peak_mb: report.memory_peak_mb,
        cpu_time_ms: report.cpu_time_ms,
    });
}

/// Retries made so far: attempts that failed before this one. What was lost or released used up no retry.
fn retries_made(execution: &Execution) -> i32 {
    let failed = execution.attempts.iter().filter(|a| a.outcome == AttemptOutcome::Failed).count();
    i32::try_from(failed).unwrap_or(i32::MAX).saturating_sub(1).max(0)
}

fn released(next: &mut Execution, lease: &Lease, now: DateTime<Utc>) {
    // Not begun, so it cost no attempt; the epoch stays used up.
    next.attempt -= 1;
    match next.cancel_requested_at {
        Some(_) => next.state = State::Done(without_result(next, ExecutionStatus::Cancelled, None, lease, now)),
        None => next.state = State::Pending,
    }
}

/// Nobody's fault, and its agent promises that nothing of it goes on: neither a retry is used up, nor does it count as a loss.
fn interrupted(next: &mut Execution, lease: &Lease, policy: &Policy, now: DateTime<Utc>) {
    let message = format!("agent {} ended, and stopped it before it was done", lease.worker_name);
    end_attempt(next, lease, AttemptOutcome::Interrupted, Some(ErrorType::SystemError), &message, now);
    let once = policy.delivery == Delivery::AtMostOnce;
    next.state = match next.cancel_requested_at {
        Some(_) => State::Done(without_result(next, ExecutionStatus::Cancelled, None, lease, now)),
        None if once => {
            let why = format!("{message}; it had begun, and at_most_once forbids to repeat it");
            State::Done(without_result(next, ExecutionStatus::Failed, Some(why), lease, now))
        }
        None => State::Pending,
    };
}

fn lost(next: &mut Execution, lease: &Lease, policy: &Policy, now: DateTime<Utc>) {
    let message = format!("agent {} was lost", lease.worker_name);
    end_attempt(next, lease, AttemptOutcome::Lost, Some(ErrorType::SystemError), &message, now);
    next.losses += 1;
    let given_up = if policy.delivery == Delivery::AtMostOnce {
        Some(format!("{message}; it may have run, and at_most_once forbids to repeat it"))
    } else if next.losses >= MAX_LOSSES {
        Some(format!("{message}; {} leases in a row were lost, so it is given up", next.losses))
    } else {
        None
    };
    next.state = match (next.cancel_requested_at, given_up) {
        (Some(_), _) => State::Done(without_result(next, ExecutionStatus::Cancelled, None, lease, now)),
        (None, Some(why)) => State::Done(without_result(next, ExecutionStatus::Failed, Some(why), lease, now)),
        (None, None) => State::Pending,
    };
}

fn cancel(next: &mut Execution, reason: &str, now: DateTime<Utc>) {
    if next.cancel_requested_at.is_none() {
        next.cancel_requested_at = Some(now);
        next.cancel_reason = Some(reason.to_owned());
    }
    if next.lease().is_none() {
        next.state = State::Done(never_run(ExecutionStatus::Cancelled, reason.to_owned(), now));
    }
}

/// Only what nobody has begun: one that lost its agent has begun in time.
fn unstarted(next: &mut Execution, event: &Event, now: DateTime<Utc>) -> Result<(), Rejected> {
    let by = match next.start_by {
        Some(by) if by <= now && next.state == State::Pending && next.attempt == 0 => by,
        _ => return Err(illegal(next, event)),
    };
    next.state = State::Done(Outcome {
        error_type: Some(ErrorType::Timeout),
        ..never_run(
            ExecutionStatus::Failed,
            format!("it had not begun by its start deadline, {}", by.to_rfc3339_opts(SecondsFormat::Millis, true)),
            now,
        )
    });
    Ok(())
}

/// The end of what no agent holds.
fn never_run(status: ExecutionStatus, message: String, now: DateTime<Utc>) -> Outcome {
    Outcome {
        status,
        started_at: None,
        completed_at: now,
        duration_ms: None,
        result: None,
        error_type: None,
        error_message: message,
        error_stack: String::new(),
        session_id: None,
        worker_name: String::new(),
        memory_peak_mb: None,
        cpu_time_ms: None,
    }
}

fn overdue(lease: &Lease, given: DateTime<Utc>, now: DateTime<Utc>) -> Report {
    let started = lease.started_at.unwrap_or(given);
    let allowed = (lease.deadline - started).num_milliseconds();
    Report {
        status: ExecutionStatus::Failed,
        result: None,
        error_type: Some(ErrorType::Timeout),
        error_message: format!("timed out after {allowed} ms, and agent {} did not say so", lease.worker_name),
        error_stack: String::new(),
        retryable: None,
        duration_ms: (now - started).num_milliseconds(),
        memory_peak_mb: None,
        cpu_time_ms: None,
    }
}

pub(super) fn without_result(
    next: &Execution,
    status: ExecutionStatus,
    why: Option<String>,
    lease: &Lease,
    now: DateTime<Utc>,
) -> Outcome {
    Outcome {
        status,
        started_at: lease.started_at,
        completed_at: now,
        duration_ms: lease.started_at.map(|started| (now - started).num_milliseconds()),
        result: None,
        error_type: (status == ExecutionStatus::Failed).then_some(ErrorType::SystemError),
        error_message: why.or_else(|| next.cancel_reason.clone()).unwrap_or_default(),
        error_stack: String::new(),
        session_id: Some(lease.session_id),
        worker_name: lease.worker_name.clone(),
        memory_peak_mb: None,
        cpu_time_ms: None,
    }
}

fn end_attempt(
    next: &mut Execution,
    lease: &Lease,
    outcome: AttemptOutcome,
    error_type: Option<ErrorType>,
    message: &str,
    now: DateTime<Utc>,
) {
    next.attempts.push(Attempt {
        number: next.attempt,
        epoch: next.epoch,
        session_id: lease.session_id,
        worker_name: lease.worker_name.clone(),
        started_at: lease.started_at,
        ended_at: now,
        outcome,
        error_type,
        error_message: message.to_owned(),
    });
}

pub(super) fn illegal(execution: &Execution, event: &Event) -> Rejected {
    Rejected::Illegal { from: execution.state.name(), event: event.name() }
}

impl Rejected {
    /// Why nothing counts that is said for a session which is over.
    pub fn of_dead_session(execution: &Execution, epoch: i64) -> Self {
        if epoch == execution.epoch {
            return Self::SessionOver { epoch };
        }
        Self::StaleLease { epoch, newest: execution.epoch }
    }
}

impl State {
    /// The state's name in messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Pending => "pending",
            Self::Leased(_) => "leased",
            Self::Running(_) => "running",
            Self::Done(_) => "done",
        }
    }
}

impl Event {
    /// The event's name in messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Due => "due",
            Self::Granted { .. } => "granted",
            Self::Armed { .. } => "armed",
            Self::Started { .. } => "started",
            Self::Progressed { .. } => "progressed",
            Self::Finished { .. } => "finished",
            Self::Released { .. } => "released",
            Self::Interrupted { .. } => "interrupted",
            Self::LeaseExpired { .. } => "lease_expired",
            Self::CancelRequested { .. } => "cancel_requested",
            Self::TimedOut { .. } => "timed_out",
            Self::StartDeadlinePassed => "start_deadline_passed",
        }
    }

    /// The epoch and session that an agent speaks for, where it is an agent's word.
    pub fn spoken_for(&self) -> Option<(Uuid, i64)> {
        match self {
            Self::Started { session_id, epoch }
            | Self::Progressed { session_id, epoch, .. }
            | Self::Finished { session_id, epoch, .. }
            | Self::Interrupted { session_id, epoch }
            | Self::Released { session_id, epoch } => Some((*session_id, *epoch)),
            _ => None,
        }
    }
}
