//! [`Upkeep`].

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use super::PgStore;
use super::commit::in_time;
use super::partitions::{EXECUTIONS, LOGS, floor_id};
use crate::execution::{instant_of, month_bounds};
use crate::store::{CoordinatorRow, Result, Retention, Upkeep, UpkeepDone, text};

/// Rows that one statement deletes.
const BATCH: i64 = 5_000;
/// Statements of one round for one table; the next round goes on.
const ROUNDS: usize = 20;

#[async_trait]
impl Upkeep for PgStore {
    async fn upkeep(&self, ahead: u32, retention: &Retention) -> Result<UpkeepDone> {
        // The lock belongs to a transaction that does nothing else, so that it goes with this call, however that ends.
        let mut guard = self.begin().await?;
        let ours: bool = sqlx::query_scalar(
            "select pg_try_advisory_xact_lock($1) from set_config('idle_in_transaction_session_timeout', '0', true)",
        )
        .bind(self.inner.scope.wrapping_add(2))
        .fetch_one(&mut *guard)
        .await?;
        if !ours {
            return Ok(UpkeepDone::default());
        }
        let now = super::clock(&mut guard).await?;
        let mut done =
            UpkeepDone { ran: true, partitions_made: self.make_partitions(ahead).await?, ..UpkeepDone::default() };
        let before = |kept: Duration| now - chrono::Duration::from_std(kept).unwrap_or(chrono::Duration::days(36_500));
        for (table, column) in EXECUTIONS {
            self.forget(table, column, before(retention.executions), &mut done).await?;
        }
        for (table, column) in LOGS {
            self.forget(table, column, before(retention.logs), &mut done).await?;
        }
        // With the months that they are of: what a month holds is counted until it is dropped as a whole.
        let (month, _) = month_bounds(before(retention.executions));
        done.rows_deleted += self.delete(OLD_TALLIES, instant_of(month)).await?;
        done.rows_deleted += self.delete(OLD_OMISSIONS, before(retention.omissions)).await?;
        let oldest = floor_id(before(retention.executions));
        done.rows_deleted += self.delete_by_id(OLD_DEAD_LETTERS, oldest).await?;
        done.rows_deleted += self.delete(OLD_KEYS, before(retention.idempotency)).await?;
        done.rows_deleted += self.delete(DELETED_JOBS, before(retention.executions)).await?;
        done.rows_deleted += self.delete(OLD_HOURS, before(Duration::from_secs(7 * 86_400))).await?;
        done.rows_deleted += self.delete(EXPIRED_LOCKS, before(Duration::ZERO)).await?;
        done.rows_deleted += self.delete(GONE_COORDINATORS, before(Duration::from_secs(86_400))).await?;
        guard.commit().await?;
        Ok(done)
    }

    async fn add_up(&self) -> Result<bool> {
        self.add_up_changes().await
    }

    async fn beat(&self, coordinator: &CoordinatorRow) -> Result<DateTime<Utc>> {
        let query = sqlx::query_as(
            "insert into coordinators (id, version, address, started_at, last_seen_at, clock_offset_ms, sessions, build, leases,
                draining)
             values ($1, $2, $3, $4, clock_timestamp(), $5, $6, $7, $8, $9)
             on conflict (id) do update set version = excluded.version, address = excluded.address,
                last_seen_at = excluded.last_seen_at, clock_offset_ms = excluded.clock_offset_ms, sessions = excluded.sessions,
                build = excluded.build, leases = excluded.leases, draining = excluded.draining
             returning last_seen_at, exists (
                select 1 from coordinators other
                where other.id <> $1 and other.last_seen_at > clock_timestamp() - interval '1 minute')",
        )
        .bind(coordinator.id)
        .bind(text::plain(&coordinator.version))
        .bind(text::plain(&coordinator.address))
        .bind(coordinator.started_at)
        .bind(coordinator.clock_offset_ms)
        .bind(coordinator.sessions)
        .bind(text::plain(&coordinator.build))
        .bind(coordinator.leases)
        .bind(coordinator.draining);
        let (now, beside_others) = in_time(async { Ok(query.fetch_one(self.pool()).await?) }).await?;
        self.inner.hints.beside_others(beside_others);
        Ok(now)
    }

    async fn retire(&self, coordinator: Uuid) -> Result<()> {
        sqlx::query("delete from coordinators where id = $1").bind(coordinator).execute(self.pool()).await?;
        Ok(())
    }

    async fn record_metrics(&self, coordinator: Uuid, sample: &BTreeMap<String, f64>) -> Result<()> {
        // What is no number (NaN) becomes null.
        let sample = serde_json::to_string(sample).unwrap_or_else(|_| "{}".to_owned());
        sqlx::query(
            "with old as (delete from scheduler_metrics where at < clock_timestamp() - interval '7 days')
             insert into scheduler_metrics (coordinator_id, at, sample) values ($1, clock_timestamp(), $2::text::jsonb)",
        )
        .bind(coordinator)
        .bind(text::jsonb(&sample))
        .execute(self.pool())
        .await?;
        Ok(())
    }
}

const OLD_TALLIES: &str = "delete from execution_tallies where ctid = any(array(
    select ctid from execution_tallies where at < $1 limit $2))";
const OLD_HOURS: &str = "delete from tenant_hours where ctid = any(array(
    select ctid from tenant_hours where hour < $1 limit $2))";
const OLD_OMISSIONS: &str = "delete from fire_omissions where id in (
    select id from fire_omissions where created_at < $1 limit $2)";
/// With the history of their executions.
const OLD_DEAD_LETTERS: &str = "delete from dead_letters where execution_id in (
    select execution_id from dead_letters where execution_id < $1 limit $2)";
const OLD_KEYS: &str = "delete from idempotency_keys where (tenant_id, kind, key) in (
    select tenant_id, kind, key from idempotency_keys where created_at < $1 limit $2)";
/// Jobs that were deleted before the oldest history, with all their definitions.
const DELETED_JOBS: &str = "with gone as (
        delete from scheduled_jobs where id in (
            select j.id from scheduled_jobs j where j.deleted_at < $1 and not exists (
                select 1 from live_executions e where e.tenant_id = j.tenant_id and e.job_id = j.id) limit $2)
        returning id
    ), versions as (delete from job_versions v using gone where v.job_id = gone.id)
    select id from gone";
const EXPIRED_LOCKS: &str = "delete from scheduler_locks where lock_key in (
    select lock_key from scheduler_locks where expires_at < $1 limit $2) and expires_at < $1";
const GONE_COORDINATORS: &str = "delete from coordinators where id in (
    select id from coordinators where last_seen_at < $1 limit $2)";

impl PgStore {
    /// Drops the months that are over, and deletes what is as old in the default partition.
    async fn forget(&self, table: &str, column: &str, before: DateTime<Utc>, done: &mut UpkeepDone) -> Result<()> {
        done.partitions_dropped.extend(self.drop_partitions(table, before).await?);
        let delete = format!(
            "delete from {table}_default where ctid = any(array(
                select ctid from {table}_default where {column} < '{}' limit $1))",
            floor_id(before)
        );
        for _ in 0..ROUNDS {
            let mut connection = self.pool().acquire().await?;
            let rows = delete_default(&mut connection, &delete).await?;
            done.rows_deleted += rows;
            if rows < BATCH.unsigned_abs() {
                break;
            }
        }
        Ok(())
    }

    /// Deletes in batches by a statement that takes an instant and a number of rows.
    async fn delete(&self, statement: &'static str, before: DateTime<Utc>) -> Result<u64> {
        let mut deleted = 0;
        for _ in 0..ROUNDS {
            let rows = sqlx::query(statement).bind(before).bind(BATCH).execute(self.pool()).await?.rows_affected();
            deleted += rows;
            if rows < BATCH.unsigned_abs() {
                break;
            }
        }
        Ok(deleted)
    }

    /// The same, by a statement that takes the lowest id that is kept.
    async fn delete_by_id(&self, statement: &'static str, oldest: Uuid) -> Result<u64> {
        let mut deleted = 0;
        for _ in 0..ROUNDS {
            let rows = sqlx::query(statement).bind(oldest).bind(BATCH).execute(self.pool()).await?.rows_affected();
            deleted += rows;
            if rows < BATCH.unsigned_abs() {
                break;
            }
        }
        Ok(deleted)
    }
}

async fn delete_default(connection: &mut PgConnection, delete: &str) -> Result<u64> {
    let done = sqlx::query(AssertSqlSafe(delete)).persistent(false).bind(BATCH).execute(connection).await?;
    Ok(done.rows_affected())
}
