//! What people ask.

use chrono::{DateTime, Utc};
use orrery_proto::v1::{ExecutionStatus, LogStream, TriggerType};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Which executions to list.
#[derive(Clone, Debug, Default)]
pub struct ExecutionFilter {
    pub job: Option<Uuid>,
    /// Only of these jobs, which must be few: each is looked through for itself.
    pub jobs: Option<Vec<Uuid>>,
    pub status: Option<ExecutionStatus>,
    pub trigger: Option<TriggerType>,
    /// Scheduled at this instant or later.
    pub from: Option<DateTime<Utc>>,
    /// Scheduled before this instant.
    pub to: Option<DateTime<Utc>>,
}

/// A keyset page: rows beyond `after` in the listing's order (for descending lists: with a smaller id).
#[derive(Clone, Debug, Default)]
pub struct Page {
    pub after: Option<Uuid>,
    pub limit: i64,
}

/// One piece of output.
#[derive(Clone, Debug, PartialEq)]
pub struct LogLine {
    pub execution_id: Uuid,
    /// `epoch << 32 | n`, n counting from 1 within the attempt.
    pub sequence: i64,
    pub epoch: i64,
    pub attempt: i32,
    pub stream: LogStream,
    pub at: DateTime<Utc>,
    pub text: String,
}

/// Totals over a range.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    pub pending: i64,
    pub running: i64,
    pub completed: i64,
    pub failed: i64,
    pub cancelled: i64,
    /// Fires that did not happen.
    pub omitted: i64,
    /// Ended by a time-out.
    pub timed_out: i64,
    /// Ended with at least one retry.
    pub retried: i64,
    /// Milliseconds, of those ended with a start.
    pub average_ms: f64,
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

/// How full a queue is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueueDepth {
    pub name: String,
    pub pending: i64,
    pub scheduled: i64,
    pub running: i64,
    pub oldest_pending: Option<DateTime<Utc>>,
    /// 0: no limit.
    pub max_concurrent: i32,
}

/// How much there is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    pub total_jobs: i64,
    pub active_jobs: i64,
    pub paused_jobs: i64,
    pub pending: i64,
    pub running: i64,
    /// Due executions that wait, by queue; of the hundred fullest.
    pub queues: Vec<(String, i64)>,
    pub sessions: i64,
    pub next_fire: Option<DateTime<Utc>>,
}

/// How busy a job is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobLoad {
    pub active: i64,
    pub leased: i64,
}

/// A coordinator that lives.
#[derive(Clone, Debug, PartialEq)]
pub struct CoordinatorRow {
    pub id: Uuid,
    pub version: String,
    pub address: String,
    pub started_at: DateTime<Utc>,
    pub last_seen_at: DateTime<Utc>,
    /// Its clock minus the database's, in milliseconds.
    pub clock_offset_ms: f64,
    pub sessions: i64,
    /// The revision it was built from; empty where its build named none.
    pub build: String,
    /// Leases that its agents hold.
    pub leases: i64,
    /// Whether it shuts down.
    pub draining: bool,
}
