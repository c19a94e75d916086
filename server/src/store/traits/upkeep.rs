use std::collections::BTreeMap;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::store::*;

/// What keeps the store well.
#[async_trait]
pub trait Upkeep: Send + Sync {
    /// Makes the partitions of this month and `ahead` further ones; drops (or deletes, in batches) history, logs, omissions and keys of
    /// idempotency that are older than `retention` allows. Only one coordinator does it at a time.
    async fn upkeep(&self, ahead: u32, retention: &Retention) -> Result<UpkeepDone>;

    /// Adds a part of what has been finished since the last time to the totals that statistics are read from. They are complete at any
    /// moment; this keeps what they are read from small. Answers with whether there may be more. Only one coordinator does it at a time.
    async fn add_up(&self) -> Result<bool>;

    /// Says that a coordinator lives, and since when; answers with the database's clock.
    async fn beat(&self, coordinator: &CoordinatorRow) -> Result<DateTime<Utc>>;

    /// The coordinator has gone in good order.
    async fn retire(&self, coordinator: Uuid) -> Result<()>;

    /// Keeps a sample of the scheduler's own numbers; samples older than a week are dropped.
    async fn record_metrics(&self, coordinator: Uuid, sample: &BTreeMap<String, f64>) -> Result<()>;
}
