//! What keeps the store well.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::SqliteStore;
use super::rows::{before, micros, to_json};
use crate::store::text::{jsonb, plain};
use crate::store::{CoordinatorRow, Result, Retention, Upkeep, UpkeepDone};

/// Rows deleted in a transaction, so that nobody waits long for the writer.
const BATCH: u64 = 1000;

/// How long the scheduler's own numbers are kept.
const METRICS: Duration = Duration::from_secs(7 * 86_400);

/// How long a coordinator that has not been heard of is kept.
const COORDINATORS: Duration = Duration::from_secs(86_400);

/// What ages, in the order in which it is deleted; each deletes at most so many rows (?2) from before an instant (?1), or, of executions
/// and their logs, from before an id (?3): the age of an execution is that of the instant in its id.
const HISTORY: &str =
    "delete from job_executions where id in (select id from job_executions where id < ?3 order by id limit ?2)";
/// With the history of their executions.
const DEAD_LETTERS: &str = "delete from dead_letters where execution_id in (select execution_id from dead_letters \
     where execution_id < ?3 order by execution_id limit ?2)";
const LOGS: &str = "delete from execution_logs where (execution_id, sequence) in (select execution_id, sequence from execution_logs l \
     where execution_id < ?3 and not exists (select 1 from live_executions e where e.id = l.execution_id) limit ?2)";
const LOG_SIZES: &str = "delete from execution_log_sizes where execution_id in (select execution_id from execution_log_sizes s \
     where execution_id < ?3 and not exists (select 1 from live_executions e where e.id = s.execution_id) limit ?2)";
const OMISSIONS: &str =
    "delete from fire_omissions where rowid in (select rowid from fire_omissions where created_at < ?1 limit ?2)";
const KEYS: &str = "delete from idempotency_keys where (tenant_id, scope, key) in \
     (select tenant_id, scope, key from idempotency_keys where created_at < ?1 limit ?2)";
/// Deleted jobs go when no execution names them any more; what they would run goes first.
const VERSIONS: &str = "delete from job_versions where rowid in (select v.rowid from scheduled_jobs j \
     join job_versions v on v.job_id = j.id where j.deleted_at < ?1 \
     and not exists (select 1 from live_executions e where e.job_id = j.id) \
     and not exists (select 1 from job_executions e where e.job_id = j.id) limit ?2)";
const JOBS: &str = "delete from scheduled_jobs where rowid in (select j.rowid from scheduled_jobs j where j.deleted_at < ?1 \
     and not exists (select 1 from job_versions v where v.job_id = j.id) \
     and not exists (select 1 from live_executions e where e.job_id = j.id) limit ?2)";

const LOCKS: &str =
    "delete from scheduler_locks where rowid in (select rowid from scheduler_locks where expires_at < ?1 limit ?2)";

const HOURS: &str = "delete from tenant_hours where (tenant_id, hour) in \
     (select tenant_id, hour from tenant_hours where hour < ?1 limit ?2)";

/// How long it is known what tenants began in an hour.
const HOURS_KEPT: Duration = Duration::from_secs(7 * 86_400);

#[async_trait]
impl Upkeep for SqliteStore {
    async fn upkeep(&self, _ahead: u32, retention: &Retention) -> Result<UpkeepDone> {
        let Ok(_guard) = self.tidying.try_lock() else { return Ok(UpkeepDone::default()) };
        let mut rows_deleted = 0;
        for (statement, age) in [
            (HISTORY, retention.executions),
            (DEAD_LETTERS, retention.executions),
            (LOGS, retention.logs),
            (LOG_SIZES, retention.logs),
            (OMISSIONS, retention.omissions),
            (KEYS, retention.idempotency),
            (VERSIONS, retention.executions),
            (JOBS, retention.executions),
            (LOCKS, Duration::ZERO),
            (HOURS, HOURS_KEPT),
        ] {
            rows_deleted += self.delete_older(statement, age).await?;
        }
        Ok(UpkeepDone { ran: true, rows_deleted, ..UpkeepDone::default() })
    }

    async fn add_up(&self) -> Result<bool> {
        // Statistics are read from history itself: a file of one coordinator is small enough.
        Ok(false)
    }

    async fn beat(&self, coordinator: &CoordinatorRow) -> Result<DateTime<Utc>> {
        let mut work = self.write().await?;
        sqlx::query(
            "insert into coordinators (id, version, address, started_at, last_seen_at, clock_offset_ms, sessions, build, leases, draining) \
             values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) on conflict (id) do update set version = excluded.version, \
             address = excluded.address, last_seen_at = excluded.last_seen_at, clock_offset_ms = excluded.clock_offset_ms, \
             sessions = excluded.sessions, build = excluded.build, leases = excluded.leases, draining = excluded.draining",
        )
        .bind(coordinator.id)
        .bind(plain(&coordinator.version))
        .bind(plain(&coordinator.address))
        .bind(micros(coordinator.started_at))
        .bind(micros(work.now))
        .bind(coordinator.clock_offset_ms)
        .bind(coordinator.sessions)
        .bind(plain(&coordinator.build))
        .bind(coordinator.leases)
        .bind(coordinator.draining)
        .execute(&mut *work.tx)
        .await?;
        sqlx::query("delete from coordinators where last_seen_at < ?")
            .bind(micros(before(work.now, COORDINATORS)))
            .execute(&mut *work.tx)
            .await?;
        let now = work.now;
        work.commit().await?;
        Ok(now)
    }

    async fn retire(&self, coordinator: Uuid) -> Result<()> {
        let mut work = self.write().await?;
        sqlx::query("delete from coordinators where id = ?").bind(coordinator).execute(&mut *work.tx).await?;
        work.commit().await
    }

    async fn record_metrics(&self, coordinator: Uuid, sample: &BTreeMap<String, f64>) -> Result<()> {
        let mut work = self.write().await?;
        // What is no number (NaN) becomes null.
        let sample = to_json("scheduler_metrics", sample)?;
        sqlx::query("insert or replace into scheduler_metrics (coordinator_id, at, sample) values (?, ?, ?)")
            .bind(coordinator)
            .bind(micros(work.now))
            .bind(jsonb(&sample))
            .execute(&mut *work.tx)
            .await?;
        sqlx::query("delete from scheduler_metrics where at < ?")
            .bind(micros(before(work.now, METRICS)))
            .execute(&mut *work.tx)
            .await?;
        work.commit().await
    }
}

impl SqliteStore {
    /// Repeats a statement that deletes a batch of what is older, until nothing of it is left.
    async fn delete_older(&self, statement: &'static str, age: Duration) -> Result<u64> {
        let mut deleted = 0;
        loop {
            let mut work = self.write().await?;
            let oldest = before(work.now, age);
            let done = sqlx::query(statement)
                .bind(micros(oldest))
                .bind(i64::try_from(BATCH).unwrap_or(i64::MAX))
                .bind(lowest_id(oldest))
                .execute(&mut *work.tx)
                .await?;
            work.commit().await?;
            deleted += done.rows_affected();
            if done.rows_affected() < BATCH {
                return Ok(deleted);
            }
        }
    }
}

/// The lowest id of an instant, to the millisecond.
fn lowest_id(at: DateTime<Utc>) -> Uuid {
    let milliseconds = u128::try_from(at.timestamp_millis()).unwrap_or(0);
    Uuid::from_u128((milliseconds & 0xffff_ffff_ffff) << 80)
}
