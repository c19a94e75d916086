use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::CoordinatorInfo;
use crate::clock::DatabaseClock;
use crate::dispatch::Dispatch;
use crate::lock::{self, Locks};
use crate::store::{CoordinatorRow, DynStore, Retention, StoreError};
use crate::telemetry::{Gauges, Metrics};

/// Months of partitions made ahead, beside this one.
const MONTHS_AHEAD: u32 = 2;
const BEAT: Duration = Duration::from_secs(5);
const GAUGES: Duration = Duration::from_secs(30);
const RETENTION: Duration = Duration::from_secs(3600);
/// When to look again where another coordinator was at it.
const AGAIN: Duration = Duration::from_secs(60);

/// What a coordinator does for the store and for those who look on: says that it lives, keeps numbers, makes and drops partitions.
pub struct Upkeep {
    pub store: DynStore,
    pub clock: Arc<DatabaseClock>,
    pub dispatch: Arc<Dispatch>,
    pub info: Arc<CoordinatorInfo>,
    pub address: String,
    pub retention: Retention,
    pub metrics: Metrics,
    /// Cancelled when the coordinator begins to shut down.
    pub leaving: CancellationToken,
    pub locks: Locks,
}

impl Upkeep {
    /// Goes on until the end.
    pub async fn run(self, shutdown: CancellationToken) {
        let (mut next_gauges, mut next_retention) = (Instant::now(), Instant::now());
        loop {
            let now = Instant::now();
            if let Err(error) = self.beat().await {
                tracing::warn!(%error, "this coordinator could not say that it lives");
            }
            if now >= next_gauges {
                next_gauges = now + GAUGES;
                if let Err(error) = self.gauges().await {
                    tracing::warn!(%error, "the gauges could not be read");
                }
            }
            if now >= next_retention {
                next_retention = now + if self.retain().await { RETENTION } else { AGAIN };
            }
            let was_leaving = self.leaving.is_cancelled();
            tokio::select! {
                () = shutdown.cancelled() => break,
                // Others are to see at once that it drains.
                () = self.leaving.cancelled(), if !was_leaving => {}
                () = tokio::time::sleep(BEAT) => {}
            }
        }
        let _ = self.store.retire(self.info.id).await;
    }

    async fn beat(&self) -> Result<(), StoreError> {
        let now = match self.clock.now() {
            Some(now) => now,
            None => self.observed(self.store.now()).await?,
        };
        let uptime = chrono::Duration::from_std(self.info.started_at.elapsed()).unwrap_or_default();
        let row = CoordinatorRow {
            id: self.info.id,
            version: self.info.version.clone(),
            address: self.address.clone(),
            started_at: now - uptime,
            last_seen_at: now,
            clock_offset_ms: self.clock.offset_ms(),
            sessions: i64::try_from(self.dispatch.sessions()).unwrap_or(i64::MAX),
            build: self.info.build.clone(),
            leases: i64::try_from(self.dispatch.running()).unwrap_or(i64::MAX),
            draining: self.leaving.is_cancelled(),
        };
        self.observed(self.store.beat(&row)).await?;
        Ok(())
    }

    /// Takes the database's clock from an answer of it.
    async fn observed(
        &self,
        answer: impl Future<Output = Result<DateTime<Utc>, StoreError>>,
    ) -> Result<DateTime<Utc>, StoreError> {
        let asked = Instant::now();
        let now = answer.await?;
        self.clock.observe(asked, now);
        Ok(now)
    }

    async fn gauges(&self) -> Result<(), StoreError> {
        let counts = self.store.counts(None).await?;
        let agents = i64::try_from(self.dispatch.sessions()).unwrap_or(i64::MAX);
        self.metrics.set_gauges(&Gauges {
            jobs: counts.total_jobs,
            active_jobs: counts.active_jobs,
            queues: counts.queues.into_iter().collect(),
            agents,
            error_rate: self.metrics.error_rate(),
            active_connections: agents,
        });
        self.store.record_metrics(self.info.id, &self.metrics.sample()).await
    }

    /// `false` where another coordinator is at it, or was when it died. The lock only spares the store the question.
    async fn retain(&self) -> bool {
        let Ok(_held) = self.locks.acquire(lock::UPKEEP, Duration::ZERO).await else { return false };
        match self.store.upkeep(MONTHS_AHEAD, &self.retention).await {
            Ok(done) if done.ran => {
                tracing::info!(made = ?done.partitions_made, dropped = ?done.partitions_dropped, rows = done.rows_deleted, "upkeep");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "upkeep failed; it is tried again in an hour"),
        }
        true
    }
}
