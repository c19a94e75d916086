use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::CoordinatorInfo;
use crate::clock::DatabaseClock;
use crate::dispatch::Dispatch;
use crate::store::{CoordinatorRow, DynStore, Retention, StoreError};
use crate::telemetry::{Gauges, Metrics};

/// Months of partitions made ahead, beside this one.
const MONTHS_AHEAD: u32 = 2;
const BEAT: Duration = Duration::from_secs(5);
const GAUGES: Duration = Duration::from_secs(30);
const RETENTION: Duration = Duration::from_secs(3600);

/// What a coordinator does for the store and for those who look on: says that it lives, keeps numbers, makes and drops partitions.
pub struct Upkeep {
    pub store: DynStore,
    pub clock: Arc<DatabaseClock>,
    pub dispatch: Arc<Dispatch>,
    pub info: Arc<CoordinatorInfo>,
    pub address: String,
    pub retention: Retention,
    pub metrics: Metrics,
}

impl Upkeep {
    /// Goes on until the end.
    pub async fn run(self, shutdown: CancellationToken) {
        let started_at = Utc::now();
        let (mut next_gauges, mut next_retention) = (Instant::now(), Instant::now());
        loop {
            let now = Instant::now();
            if let Err(error) = self.beat(started_at).await {
                tracing::warn!(%error, "this coordinator could not say that it lives");
            }
            if now >= next_gauges {
                next_gauges = now + GAUGES;
                if let Err(error) = self.gauges().await {
                    tracing::warn!(%error, "the gauges could not be read");
                }
            }
            if now >= next_retention {
                next_retention = now + RETENTION;
                self.retain().await;
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(BEAT) => {}
            }
        }
        let _ = self.store.retire(self.info.id).await;
    }

    async fn beat(&self, started_at: chrono::DateTime<Utc>) -> Result<(), StoreError> {
        let asked = Instant::now();
        let now = self.store.now().await?;
        self.clock.observe(asked, now);
        let row = CoordinatorRow {
            id: self.info.id,
            version: self.info.version.clone(),
            address: self.address.clone(),
            started_at,
            last_seen_at: now,
            clock_offset_ms: self.clock.offset_ms(),
            sessions: i64::try_from(self.dispatch.sessions()).unwrap_or(i64::MAX),
        };
        self.store.beat(&row).await
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

    async fn retain(&self) {
        match self.store.upkeep(MONTHS_AHEAD, &self.retention).await {
            Ok(done) if done.ran => {
                tracing::info!(made = ?done.partitions_made, dropped = ?done.partitions_dropped, rows = done.rows_deleted, "upkeep");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "upkeep failed; it is tried again in an hour"),
        }
    }
}
