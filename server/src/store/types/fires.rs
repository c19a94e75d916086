//! From schedules to executions.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, DurationRound, SubsecRound, Utc};
use orrery_proto::v1::TriggerType;
use uuid::Uuid;

use super::{Grant, Idempotency};
use crate::audit::Author;
use crate::execution::{Execution, State};
use crate::job::{Job, Timeouts};

/// Fires that did not happen: one, or a range with its count.
#[derive(Clone, Debug, PartialEq)]
pub struct NewOmission {
    /// misfire, coalesced, max_lateness, max_count, paused, stopped, overlap, ...
    pub reason: String,
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    pub count: i64,
    /// More on the reason, for people.
    pub detail: String,
}

/// A stored omission.
#[derive(Clone, Debug, PartialEq)]
pub struct OmissionRow {
    /// UUIDv7.
    pub id: Uuid,
    pub job_id: Uuid,
    pub created_at: DateTime<Utc>,
    pub omission: NewOmission,
}

/// A job whose cursor is near.
#[derive(Clone, Debug)]
pub struct PlanCandidate {
    pub job: Job,
    pub now: DateTime<Utc>,
    /// Plan fires up to here, inclusive.
    pub horizon: DateTime<Utc>,
    /// Fires made and not yet due; they count towards the maximum of executions. Where the job has none they need not be counted.
    pub outstanding: i64,
}

/// Which fires of a job to make, and where its cursor goes.
#[derive(Clone, Debug, Default)]
pub struct JobPlan {
    pub fires: Vec<DateTime<Utc>>,
    pub omissions: Vec<NewOmission>,
    /// `None`: it never fires again by itself.
    pub cursor: Option<DateTime<Utc>>,
}

/// What planning did.
#[derive(Clone, Debug, Default)]
pub struct Planned {
    pub jobs: usize,
    /// Of `jobs`, those whose cursor was later than [`crate::execution::ON_TIME`].
    pub late: usize,
    pub fires: usize,
    pub omissions: usize,
    /// The nearest cursor of an active job afterwards (it may lie in the past, where more is to be planned).
    pub next_cursor: Option<DateTime<Utc>>,
    /// The nearest `run_at` among the executions that were made.
    pub next_run_at: Option<DateTime<Utc>>,
    pub now: DateTime<Utc>,
}

/// A scheduled execution that has come due.
#[derive(Clone, Debug)]
pub struct DueFire {
    pub execution: Execution,
    /// The job as it stands; deleted ones included.
    pub job: Job,
    /// Other active executions of the job, before any of this batch.
    pub active: i64,
    /// Of `active`, those that are due and wait for their first lease.
    pub waiting: i64,
    /// What its tenant may still begin in this hour, before any of this batch; `None` where it has no quota.
    pub room: Option<i64>,
}

/// What becomes of a due execution.
#[derive(Clone, Debug, PartialEq)]
pub enum DueVerdict {
    Admit,
    /// It does not happen, for this reason.
    Omit(NewOmission),
    /// It was counted when it was granted ahead, and came back; the definition has no such fire any more. It is taken back with its count,
    /// as other planned fires were when the definition changed.
    Unplan,
    /// It waits, and the job's other active executions are asked to end, for this reason.
    Replace(String),
}

/// Which fires to grant ahead of their instant.
#[derive(Clone, Debug)]
pub struct Arm<'a> {
    pub lanes: &'a [i64],
    /// Those that are due in more than this: what is nearer is left for its release.
    pub least: Duration,
    /// And in no more than this.
    pub ahead: Duration,
    pub limit: usize,
    /// As in [`super::Claim`].
    pub tenant_limit: i64,
    /// As in [`crate::store::Fires::release_within`].
    pub hourly: i64,
    pub timeouts: Timeouts,
}

/// What was granted ahead.
#[derive(Clone, Debug, Default)]
pub struct Armed {
    pub grants: Vec<Grant>,
    /// Whether as many were found as were asked for.
    pub more: bool,
    /// The nearest fire of these lanes that is planned and has not been granted, beyond `least`.
    pub next: Option<DateTime<Utc>>,
    pub now: DateTime<Utc>,
}

/// How many rows a round looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    pub all: usize,
    /// How many of those may be later than [`crate::execution::ON_TIME`], so that what is late holds up nothing that is on time.
    pub late: usize,
}

impl Places {
    /// Half of them for what is late, at most.
    pub fn of(all: usize) -> Self {
        Self { all, late: all.div_ceil(2) }
    }
}

/// What releasing did.
#[derive(Clone, Debug, Default)]
pub struct Releases {
    pub released: usize,
    /// Executions looked at that were later than [`crate::execution::ON_TIME`].
    pub late: usize,
    pub omitted: usize,
    /// Executions that were cancelled, or asked to end, by a replacement.
    pub cancelled: Vec<Execution>,
    /// The nearest `run_at` that has not come.
    pub next_due: Option<DateTime<Utc>>,
    /// How long after their instants the released fires came, the longest.
    pub worst_lag: Duration,
    pub now: DateTime<Utc>,
}

/// Executions that were counted before they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetAside {
    pub granted: i64,
    /// How long the hour goes on that they count in.
    pub ends_in: Duration,
}

impl SetAside {
    /// What was granted in the hour that begins at an instant.
    pub(in crate::store) fn of(granted: i64, hour: DateTime<Utc>, now: DateTime<Utc>) -> Self {
        let end = hour.duration_trunc(chrono::TimeDelta::hours(1)).unwrap_or(hour) + chrono::TimeDelta::hours(1);
        Self { granted, ends_in: (end - now).to_std().unwrap_or_default() }
    }
}

/// An execution that somebody asks for.
#[derive(Clone, Debug)]
pub struct Trigger {
    pub tenant: Uuid,
    pub job: Uuid,
    pub kind: TriggerType,
    pub by: Uuid,
    /// For the audit log; nothing is written there without one.
    pub author: Option<Arc<Author>>,
    /// JSON text.
    pub parameters: Option<String>,
    /// Now, where absent or past.
    pub run_at: Option<DateTime<Utc>>,
    pub retry_of: Option<Uuid>,
    pub idempotency: Option<Idempotency>,
    pub traceparent: Option<String>,
}

/// What a trigger made.
#[derive(Clone, Debug)]
pub struct Made {
    /// As it was made: Pending, or Scheduled; for a key that has been used, as it stands.
    pub execution: Execution,
    /// Where somebody was given it in the same transaction: what is to be handed over.
    pub grant: Option<Grant>,
}

impl From<Execution> for Made {
    fn from(execution: Execution) -> Self {
        Self { execution, grant: None }
    }
}

impl Trigger {
    /// The execution that is asked for: Pending, or Scheduled where its `run_at` lies ahead of `now`.
    pub(in crate::store) fn execution(&self, id: Uuid, job: &Job, lane_id: i64, now: DateTime<Utc>) -> Execution {
        // As exact as databases keep it.
        let later = self.run_at.map(|at| at.trunc_subsecs(6)).filter(|at| *at > now);
        Execution {
            id,
            trigger: self.kind,
            triggered_by: Some(self.by),
            state: if later.is_some() { State::Scheduled } else { State::Pending },
            parameters: self.parameters.clone(),
            retry_of: self.retry_of,
            traceparent: self.traceparent.clone(),
            concurrency: job.spec.concurrency.as_ref().map(|c| c.of(self.parameters.as_deref())),
            ..Execution::of_fire(job, later.unwrap_or(now), lane_id, now)
        }
    }
}
