//! Executions that were given up because their agents were lost: dead letters.

use orrery_proto::v1::{DeadLetterReason, ExecutionStatus};

use super::{AttemptOutcome, Execution, MAX_LOSSES, State};

impl Execution {
    /// Why it is a dead letter; `None` where it is none. It is one where it failed by the loss of an agent: what fails by itself has said
    /// why, and a retry answers it.
    pub fn quarantine(&self) -> Option<DeadLetterReason> {
        let State::Done(outcome) = &self.state else { return None };
        let lost = self.attempts.last().is_some_and(|last| last.outcome == AttemptOutcome::Lost);
        match outcome.status {
            ExecutionStatus::Failed if lost && self.losses >= MAX_LOSSES => Some(DeadLetterReason::LeasesLost),
            ExecutionStatus::Failed if lost => Some(DeadLetterReason::MayHaveRun),
            _ => None,
        }
    }
}
