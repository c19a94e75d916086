//! Executions that were given up because their agents were lost.

use chrono::{DateTime, Utc};
use orrery_proto::v1::{DeadLetterReason, DeadLetterState};
use uuid::Uuid;

use crate::error::Error;
use crate::execution::{Execution, State, manual_id};

/// An execution that waits for somebody's decision.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// UUIDv7 of the moment it was made: lists go by it.
    pub id: Uuid,
    pub execution_id: Uuid,
    pub tenant_id: Uuid,
    pub job_id: Uuid,
    pub job_name: String,
    pub reason: DeadLetterReason,
    /// For people.
    pub message: String,
    /// Leases lost in a row.
    pub losses: i32,
    pub last_worker: String,
    pub created_at: DateTime<Utc>,
    pub state: DeadLetterState,
    /// The execution that it was released as.
    pub released_as: Option<Uuid>,
    /// Who discarded or released it, and when.
    pub decided_by: Option<Uuid>,
    pub decided_at: Option<DateTime<Utc>>,
    /// Why it was discarded.
    pub note: String,
}

/// Which dead letters to list.
#[derive(Clone, Debug, Default)]
pub struct DeadLetterFilter {
    pub job: Option<Uuid>,
    /// Only of these jobs.
    pub jobs: Option<Vec<Uuid>>,
    pub state: Option<DeadLetterState>,
}

/// Puts a dead letter aside.
#[derive(Clone, Debug)]
pub struct Discard {
    pub tenant: Uuid,
    pub execution: Uuid,
    pub by: Uuid,
    pub note: String,
}

impl DeadLetter {
    /// The dead letter that an execution becomes by its end, if it is one.
    pub(in crate::store) fn of(execution: &Execution) -> Option<Self> {
        let reason = execution.quarantine()?;
        let State::Done(outcome) = &execution.state else { return None };
        Some(Self {
            id: manual_id(outcome.completed_at),
            execution_id: execution.id,
            tenant_id: execution.tenant_id,
            job_id: execution.job_id,
            job_name: execution.job_name.clone(),
            reason,
            message: outcome.error_message.clone(),
            losses: execution.losses,
            last_worker: outcome.worker_name.clone(),
            created_at: outcome.completed_at,
            state: DeadLetterState::Open,
            released_as: None,
            decided_by: None,
            decided_at: None,
            note: String::new(),
        })
    }

    /// What refuses to discard it, if anything.
    pub(in crate::store) fn undiscardable(&self) -> Option<Error> {
        self.released_as.map(|run| Error::dead_letter_released(self.execution_id, run))
    }

    /// What refuses to release it, if anything.
    pub(in crate::store) fn unreleasable(&self) -> Option<Error> {
        (self.state == DeadLetterState::Discarded).then(|| Error::dead_letter_discarded(self.execution_id))
    }
}
