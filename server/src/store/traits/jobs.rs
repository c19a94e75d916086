use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::error::Error;
use crate::job::Job;
use crate::store::*;

/// Definitions.
#[async_trait]
pub trait Jobs: Send + Sync {
    /// Inserts jobs, all or none.
    ///
    /// # Errors
    /// [`StoreError::NameTaken`] with the index of the job; [`StoreError::QuotaExceeded`] where the tenant would have more than
    /// `quota` jobs; [`StoreError::IdempotencyKeyReused`] where a key came with another request. A key that came with the same request
    /// answers with the job that it made.
    async fn create_jobs(&self, jobs: Vec<NewJob>, quota: Option<i64>) -> Result<Vec<Job>>;

    /// One job, unless deleted or another tenant's.
    async fn job(&self, tenant: Uuid, id: Uuid) -> Result<Option<Job>>;

    /// Jobs, newest first.
    async fn jobs(&self, tenant: Uuid, filter: &JobFilter, page: &Page) -> Result<Vec<Job>>;

    /// The tags of those of these jobs that the tenant has, deleted ones included.
    async fn job_tags(&self, tenant: Uuid, jobs: &[Uuid]) -> Result<Vec<(Uuid, Vec<String>)>>;

    /// Jobs with any of these tags, deleted ones included, newest first.
    async fn jobs_tagged(&self, tenant: Uuid, tags: &[String], limit: i64) -> Result<Vec<Uuid>>;

    /// Reads a job under a lock, lets `change` decide, and writes what it says: the row (if its version is still the one read), the
    /// planned fires to take back, the executions to cancel, an omission. One transaction.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::NameTaken`]; [`StoreError::Refused`] with what `change` refused.
    async fn change_job(&self, tenant: Uuid, id: Uuid, change: &ChangeJob<'_>) -> Result<Changed>;
}

/// Decides over a change of a job: sees it as it stands and the database's clock.
pub type ChangeJob<'a> = dyn Fn(&Job, DateTime<Utc>) -> std::result::Result<JobChange, Error> + Send + Sync + 'a;
