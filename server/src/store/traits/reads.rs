use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::execution::Execution;
use crate::store::*;

/// What people ask.
#[async_trait]
pub trait Reads: Send + Sync {
    /// One execution, live or from history.
    async fn execution(&self, tenant: Uuid, id: Uuid) -> Result<Option<Execution>>;

    /// Executions, newest first by id, live and from history. Fires that are planned ahead and not yet due are left out.
    async fn executions(&self, tenant: Uuid, filter: &ExecutionFilter, page: &Page) -> Result<Vec<Execution>>;

    /// Totals and durations of executions scheduled in `from..to`. What is over is counted exactly; of what waits, an engine may estimate
    /// more than 10,000. Percentiles are within 1/128 of the true ones.
    async fn stats(&self, tenant: Uuid, job: Option<Uuid>, from: DateTime<Utc>, to: DateTime<Utc>) -> Result<Stats>;

    /// Omitted fires of a job, newest first.
    async fn omissions(&self, tenant: Uuid, job: Uuid, page: &Page) -> Result<Vec<OmissionRow>>;

    /// Depth by queue, by name. An engine may estimate what is more than 10,000.
    async fn queues(&self, tenant: Uuid) -> Result<Vec<QueueDepth>>;

    /// Counts of jobs and live executions: of one tenant, or of all. An engine may estimate more than 10,000 that wait in a queue.
    async fn counts(&self, tenant: Option<Uuid>) -> Result<Counts>;

    /// How many executions of a job are active (see [`Execution::is_active`]), and how many of them hold a lease.
    async fn job_load(&self, tenant: Uuid, job: Uuid) -> Result<JobLoad>;

    /// The coordinators seen in the last minute.
    async fn coordinators(&self) -> Result<Vec<CoordinatorRow>>;
}
