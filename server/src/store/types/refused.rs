use chrono::{DateTime, Utc};
use orrery_proto::v1::LogStream;
use uuid::Uuid;

use super::LogLine;
use crate::execution::{AttemptOutcome, Execution};

/// Where such a line stands in the log of its attempt: behind all that the attempt can print.
const LAST: i64 = 0xffff_ffff;

/// A result that came too late.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedResult {
    pub execution: Uuid,
    pub epoch: i64,
    /// The agent that told it.
    pub worker_name: String,
    /// Its tenant; `None` where it serves all.
    pub tenant: Option<Uuid>,
}

impl RefusedResult {
    /// What is said of it in the execution's log, at most once for each lost lease. `None` where the agent may not speak of the execution,
    /// or never lost a lease of that epoch: a result that is told twice is nothing to know of.
    pub fn line(&self, execution: &Execution, now: DateTime<Utc>) -> Option<LogLine> {
        if execution.id != self.execution || self.tenant.is_some_and(|tenant| tenant != execution.tenant_id) {
            return None;
        }
        let attempt = execution.attempts.iter().find(|attempt| {
            attempt.epoch == self.epoch
                && attempt.worker_name == self.worker_name
                && attempt.outcome == AttemptOutcome::Lost
        })?;
        let Self { epoch, worker_name, .. } = self;
        let text = format!(
            "a result of epoch {epoch} came from agent {worker_name} after its lease was over, and was refused\n"
        );
        Some(LogLine {
            execution_id: execution.id,
            sequence: (epoch << 32) | LAST,
            epoch: *epoch,
            attempt: attempt.number,
            stream: LogStream::System,
            at: now,
            text,
        })
    }
}
