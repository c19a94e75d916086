//! From executions to their end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::execution::{Event, Execution};
use crate::job::{JobSpec, Timeouts};
use crate::store::Assign;

/// Where an execution waits: those of one lane can be taken by the same agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    pub id: i64,
    pub tenant_id: Uuid,
    pub queue: String,
    /// `http`, `command`, ..., or `function:MODULE#NAME`.
    pub executor: String,
    /// Labels that an agent must carry.
    pub selector: BTreeMap<String, String>,
}

/// What to claim.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    pub lanes: &'a [i64],
    pub limit: usize,
    /// Executions of a tenant that may run at once, where it has no limit of its own; 0 is no limit.
    pub tenant_limit: i64,
    pub timeouts: Timeouts,
}

/// A pending execution that may be granted.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    pub execution: &'a Execution,
}

/// Who gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    pub session_id: Uuid,
    /// The stream that is to carry it. Where the session has moved to another one meanwhile, nothing is granted.
    pub attachment: i64,
    pub worker_name: String,
}

/// How what is asked for may be granted in the transaction that makes it.
#[derive(Clone, Copy)]
pub struct AtOnce<'a> {
    /// Gives what is being made to sessions that have a free place for it; `None` leaves it to a claim.
    pub assign: &'a Assign<'a>,
    /// As [`Claim::tenant_limit`].
    pub tenant_limit: i64,
    pub timeouts: Timeouts,
}

/// What a claim got.
#[derive(Clone, Debug, Default)]
pub struct Claimed {
    pub grants: Vec<Grant>,
    /// Whether it is worth to look again at once: as much was found as was asked for, or others were at some of it.
    pub more: bool,
    /// Whether anything waits still, as far as was looked: what is at its limit, or was given to nobody. Where nothing does, a place that
    /// becomes free is no reason to look again.
    pub left: bool,
    /// Where more waits than was asked for: lanes of the claim in which nothing did but what it has granted. There may be others.
    pub drained: Vec<i64>,
}

/// A lease to hand over.
#[derive(Clone, Debug)]
pub struct Grant {
    /// In state Leased.
    pub execution: Execution,
    /// Of the version that the execution runs.
    pub spec: Arc<JobSpec>,
    /// How long the attempt may take from its start.
    pub timeout: Duration,
    /// The stream that is to carry it.
    pub attachment: i64,
}

/// A lease, named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Held {
    pub session_id: Uuid,
    pub execution_id: Uuid,
    pub epoch: i64,
}

/// What an agent says it holds when it resumes its session.
#[derive(Clone, Copy, Debug, Default)]
pub struct Holding<'a> {
    /// (execution, epoch).
    pub leases: &'a [(Uuid, i64)],
    /// The process that has held the session all along says so: a lease that it does not name, and has not told the beginning of, it never
    /// began, and may be given to others whatever the delivery.
    pub continued: bool,
}

/// A lease that its agent is to be told about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Wanted {
    pub lease: Held,
    /// Nobody wants the execution to end: it was granted ahead of its instant, its job has changed since, and it is wanted back unless it has
    /// begun.
    pub is_recall: bool,
}

/// What the reaper did.
#[derive(Clone, Debug, Default)]
pub struct Reaped {
    /// Sessions that are over.
    pub sessions: Vec<Uuid>,
    /// Executions after their event, with the leases they lost.
    pub executions: Vec<(Held, Execution)>,
    /// Executions that had not begun by their start deadline, ended.
    pub unstarted: Vec<Execution>,
    /// The nearest expiry of a living session, deadline with its slack, or start deadline.
    pub next: Option<DateTime<Utc>>,
}

/// One event for one execution.
#[derive(Clone, Debug)]
pub struct Change {
    pub execution: Uuid,
    /// Only where the execution is this tenant's.
    pub tenant: Option<Uuid>,
    pub event: Event,
    /// The execution as the sender knows it since it was granted or last changed, if it does. An engine may decide on it instead of reading,
    /// and then compares when it writes; what it is wrong about costs time, never truth.
    pub known: Option<Arc<Execution>>,
}
