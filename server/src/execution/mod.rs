//! An execution: one run of a job, whatever the number of attempts. Its rules stand here, pure; [`crate::store`] keeps them.

mod armed;
mod id;
mod quarantine;
mod retry;
mod state;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use orrery_proto::v1::{ErrorType, ExecutionStatus, TriggerType};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::concurrency::Concurrency;
use crate::job::Job;

pub use id::{fire_id, instant_of, manual_id, month_bounds};
pub use retry::{delay, is_retried};
pub use state::{Event, Policy, Rejected, apply};

/// Anything by the id of an execution. Those ids are made here, so a quick hash will do, several times for each execution.
pub type ByExecution<T> = HashMap<Uuid, T, foldhash::fast::RandomState>;

/// Ids of executions.
pub type Executions = HashSet<Uuid, foldhash::fast::RandomState>;

/// How long after its instant something may come due and still be on time. What is later is caught up on, behind what is on time: in
/// planning, in coming due and in being granted.
pub const ON_TIME: Duration = Duration::from_secs(10);

/// How many leases in a row may be lost before an execution is given up as failed: work that kills its agents must not go round them all.
pub const MAX_LOSSES: i32 = 3;

/// An execution as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Execution {
    pub id: Uuid,
    pub tenant_id: Uuid,
    pub job_id: Uuid,
    pub job_name: String,
    pub trigger: TriggerType,
    /// Who asked for it; `None` for a schedule.
    pub triggered_by: Option<Uuid>,
    /// The lane it waits in: tenant, queue, executor and selector.
    pub lane_id: i64,
    pub queue: String,
    pub priority: i32,
    /// The instant of its fire.
    pub scheduled_at: DateTime<Utc>,
    /// When its next attempt may start; for what came due later than [`ON_TIME`], when it came due.
    pub run_at: DateTime<Utc>,
    /// When it must have begun, if it must; kept while it is live.
    pub start_by: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub state: State,
    /// Attempts begun.
    pub attempt: i32,
    /// The newest lease's epoch; 0 before the first.
    pub epoch: i64,
    /// Leases lost in a row.
    pub losses: i32,
    /// The job's version it runs; 0 before its first lease.
    pub job_version: i64,
    /// Percent.
    pub progress: i32,
    /// The attempts that have ended, the oldest first.
    pub attempts: Vec<Attempt>,
    /// JSON text.
    pub parameters: Option<String>,
    pub cancel_requested_at: Option<DateTime<Utc>>,
    pub cancel_reason: Option<String>,
    pub retry_of: Option<Uuid>,
    /// W3C trace context of the call or fire that made it.
    pub traceparent: Option<String>,
    /// Its concurrency key, while it is not over.
    pub concurrency: Option<Concurrency>,
}

/// Where an execution stands.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Not before `run_at`: a fire planned ahead, a delayed trigger, or the delay of a retry.
    Scheduled,
    /// Waits for an agent.
    Pending,
    /// An agent has been given it.
    Leased(Lease),
    /// An agent has begun it.
    Running(Lease),
    /// Ended, for ever.
    Done(Outcome),
}

/// The right of one agent session to run one attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Lease {
    pub session_id: Uuid,
    pub worker_name: String,
    pub granted_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    /// When the attempt's time is over.
    pub deadline: DateTime<Utc>,
}

/// How an execution ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Completed, failed or cancelled.
    pub status: ExecutionStatus,
    pub started_at: Option<DateTime<Utc>>,
    pub completed_at: DateTime<Utc>,
    /// Milliseconds, from start to end of the last attempt.
    pub duration_ms: Option<i64>,
    /// JSON text.
    pub result: Option<String>,
    pub error_type: Option<ErrorType>,
    pub error_message: String,
    pub error_stack: String,
    pub session_id: Option<Uuid>,
    pub worker_name: String,
    pub memory_peak_mb: Option<f64>,
    pub cpu_time_ms: Option<i64>,
}

/// What an agent says of an attempt's end.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Completed, failed or cancelled.
    pub status: ExecutionStatus,
    /// JSON text.
    pub result: Option<String>,
    pub error_type: Option<ErrorType>,
    pub error_message: String,
    pub error_stack: String,
    /// Overrides the retry policy's error types, where set.
    pub retryable: Option<bool>,
    pub duration_ms: i64,
    pub memory_peak_mb: Option<f64>,
    pub cpu_time_ms: Option<i64>,
}

/// An attempt that has ended, kept with its execution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    pub number: i32,
    pub epoch: i64,
    pub session_id: Uuid,
    pub worker_name: String,
    pub started_at: Option<DateTime<Utc>>,
    pub ended_at: DateTime<Utc>,
    pub outcome: AttemptOutcome,
    pub error_type: Option<ErrorType>,
    pub error_message: String,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptOutcome {
    Completed,
    Failed,
    Cancelled,
    /// Its agent vanished.
    Lost,
    /// Its agent ended, and stopped it before it was done.
    Interrupted,
    /// Its agent gave it back.
    Released,
}

impl Report {
    /// What it makes of its attempt.
    pub(crate) fn outcome(&self) -> AttemptOutcome {
        match self.status {
            ExecutionStatus::Completed => AttemptOutcome::Completed,
            ExecutionStatus::Cancelled => AttemptOutcome::Cancelled,
            _ => AttemptOutcome::Failed,
        }
    }
}

impl AttemptOutcome {
    /// The name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
            Self::Interrupted => "interrupted",
            Self::Released => "released",
        }
    }
}

impl Execution {
    /// The execution of a fire, made ahead of its instant.
    pub fn of_fire(job: &Job, at: DateTime<Utc>, lane_id: i64, now: DateTime<Utc>) -> Self {
        Self {
            id: fire_id(job.tenant_id, job.id, at),
            tenant_id: job.tenant_id,
            job_id: job.id,
            job_name: job.spec.name.clone(),
            trigger: TriggerType::Scheduled,
            triggered_by: None,
            lane_id,
            queue: job.spec.queue.clone(),
            priority: job.spec.priority,
            scheduled_at: at,
            run_at: at,
            start_by: job.spec.start_by(at),
            created_at: now,
            state: State::Scheduled,
            attempt: 0,
            epoch: 0,
            losses: 0,
            job_version: 0,
            progress: 0,
            attempts: Vec::new(),
            parameters: None,
            cancel_requested_at: None,
            cancel_reason: None,
            retry_of: None,
            traceparent: None,
            concurrency: job.spec.concurrency.as_ref().map(|concurrency| concurrency.of(None)),
        }
    }

    /// The documented status. What an agent holds ahead of its instant is pending until it has begun.
    pub fn status(&self) -> ExecutionStatus {
        match &self.state {
            State::Leased(_) if self.armed_for().is_some() => ExecutionStatus::Pending,
            State::Scheduled | State::Pending => ExecutionStatus::Pending,
            State::Leased(_) | State::Running(_) => ExecutionStatus::Running,
            State::Done(outcome) => outcome.status,
        }
    }

    /// Whether it is caught up on: a fire that came due late. It stands behind what is on time, as `live_executions.late` has it.
    pub fn is_late(&self) -> bool {
        self.trigger == TriggerType::Scheduled && self.attempt == 0 && self.run_at > self.scheduled_at
    }

    /// Its lease, if an agent holds one.
    pub fn lease(&self) -> Option<&Lease> {
        match &self.state {
            State::Leased(lease) | State::Running(lease) => Some(lease),
            _ => None,
        }
    }

    /// Whether this very end of an attempt has been written already: an agent repeats what nobody has acknowledged.
    pub fn has_heard(&self, event: &Event) -> bool {
        let (spoken, outcome, error) = match event {
            Event::Finished { session_id, epoch, report } => {
                ((*session_id, *epoch), report.outcome(), report.error_type)
            }
            Event::Interrupted { session_id, epoch } => {
                ((*session_id, *epoch), AttemptOutcome::Interrupted, Some(ErrorType::SystemError))
            }
            _ => return false,
        };
        self.attempts.iter().any(|attempt| {
            (attempt.session_id, attempt.epoch) == spoken && (attempt.outcome, attempt.error_type) == (outcome, error)
        })
    }

    /// The only attempt of an execution that is over, as far as its end tells it: history does not keep it twice.
    pub(crate) fn implied_attempt(&self) -> Option<Attempt> {
        let State::Done(outcome) = &self.state else { return None };
        let ended = match outcome.status {
            ExecutionStatus::Completed => AttemptOutcome::Completed,
            ExecutionStatus::Cancelled => AttemptOutcome::Cancelled,
            _ => AttemptOutcome::Failed,
        };
        Some(Attempt {
            number: self.attempt,
            epoch: self.epoch,
            session_id: outcome.session_id?,
            worker_name: outcome.worker_name.clone(),
            started_at: outcome.started_at,
            ended_at: outcome.completed_at,
            outcome: ended,
            error_type: outcome.error_type,
            error_message: outcome.error_message.clone(),
        })
    }

    /// Retries begun: attempts that failed and were followed by another. What was lost, interrupted or released used up none.
    pub fn retries(&self) -> i32 {
        let is_between = self.lease().is_none();
        let followed = self.attempts.len().saturating_sub(usize::from(is_between));
        let failed = self.attempts.iter().take(followed).filter(|a| a.outcome == AttemptOutcome::Failed).count();
        i32::try_from(failed).unwrap_or(i32::MAX)
    }

    /// Whether it is over.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done(_))
    }

    /// Whether it takes a place of its job: it is due and not over, or between two attempts.
    pub fn is_active(&self) -> bool {
        match self.state {
            State::Scheduled => self.attempt > 0,
            State::Pending | State::Leased(_) | State::Running(_) => true,
            State::Done(_) => false,
        }
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
pub(crate) mod tests;
