//! Hints, and what keeps the store well.

use std::time::Duration;

/// What may have become possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wake {
    /// Jobs were made or changed: plan.
    Plan,
    /// Executions wait: claim.
    Work,
    /// An execution is over: who knows of one that waits for its place may claim.
    Room,
    /// Somebody wants executions to end.
    Cancel,
}

/// How long to keep what is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    pub executions: Duration,
    pub logs: Duration,
    pub omissions: Duration,
    pub idempotency: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        let day = Duration::from_secs(86_400);
        Self { executions: 90 * day, logs: 30 * day, omissions: 90 * day, idempotency: day }
    }
}

/// What upkeep did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpkeepDone {
    /// `false` where another coordinator was at it.
    pub ran: bool,
    pub partitions_made: Vec<String>,
    pub partitions_dropped: Vec<String>,
    pub rows_deleted: u64,
}
