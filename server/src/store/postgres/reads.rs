//! [`Reads`].

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::bound::{Mode, Tx};
use super::lists::listed;
use super::rows::{armed, done_columns, live_columns};
use super::stats::read_stats;
use super::{PgStore, rows};
use crate::execution::Execution;
use crate::store::{
    CoordinatorRow, Counts, ExecutionFilter, JobLoad, NewOmission, OmissionRow, Page, QueueDepth, Reads, Result, Stats,
};

#[async_trait]
impl Reads for PgStore {
    async fn execution(&self, tenant: Uuid, id: Uuid) -> Result<Option<Execution>> {
        let of_tenant = |found: Vec<Execution>| found.into_iter().find(|e| e.tenant_id == tenant);
        // What is over changes no more, so that an old view of it is as good as a new one.
        let over =
            self.on_replica(tenant, Mode::Read, move |mut tx: Tx| async move { history(&mut tx, &[id]).await }).await;
        if let Some(over) = over.and_then(of_tenant) {
            return Ok(Some(over));
        }
        Ok(of_tenant(by_ids(&mut *self.read_for(tenant).await?, &[id]).await?))
    }

    async fn executions(&self, tenant: Uuid, filter: &ExecutionFilter, page: &Page) -> Result<Vec<Execution>> {
        let read = move |mut tx: Tx| async move { listed(&mut tx, tenant, filter, page).await };
        let found = self.on_replica(tenant, Mode::Read, read).await;
        match found.filter(|found| !found.is_empty()) {
            Some(found) => Ok(found),
            None => listed(&mut *self.read_for(tenant).await?, tenant, filter, page).await,
        }
    }

    async fn stats(&self, tenant: Uuid, job: Option<Uuid>, from: DateTime<Utc>, to: DateTime<Utc>) -> Result<Stats> {
        let read = move |mut tx: Tx| async move { read_stats(&mut tx, tenant, job, from, to).await };
        match self.on_replica(tenant, Mode::Snapshot, read).await {
            Some(stats) => Ok(stats),
            None => read_stats(&mut *self.snapshot_for(tenant).await?, tenant, job, from, to).await,
        }
    }

    async fn omissions(&self, tenant: Uuid, job: Uuid, page: &Page) -> Result<Vec<OmissionRow>> {
        let read = move |mut tx: Tx| async move { omitted(&mut tx, tenant, job, page).await };
        let found = self.on_replica(tenant, Mode::Read, read).await;
        match found.filter(|found| !found.is_empty()) {
            Some(found) => Ok(found),
            None => omitted(&mut *self.read_for(tenant).await?, tenant, job, page).await,
        }
    }

    async fn queues(&self, tenant: Uuid) -> Result<Vec<QueueDepth>> {
        self.read_queues(tenant).await
    }

    async fn counts(&self, tenant: Option<Uuid>) -> Result<Counts> {
        self.read_counts(tenant).await
    }

    async fn job_load(&self, tenant: Uuid, job: Uuid) -> Result<JobLoad> {
        let row = sqlx::query(concat!(
            "select count(*) as active, count(*) filter (where e.state = 2) as leased from live_executions e
             where e.tenant_id = $1 and e.job_id = $2 and (e.state > 0 or e.attempt > 0) and not ",
            armed!()
        ))
        .bind(tenant)
        .bind(job)
        .fetch_one(&mut *self.read_for(tenant).await?)
        .await?;
        Ok(JobLoad { active: row.try_get("active")?, leased: row.try_get("leased")? })
    }

    async fn coordinators(&self) -> Result<Vec<CoordinatorRow>> {
        let found = sqlx::query(
            "select id, version, address, started_at, last_seen_at, clock_offset_ms, sessions, build, leases, draining
             from coordinators
             where last_seen_at > clock_timestamp() - interval '1 minute' order by id",
        )
        .fetch_all(self.pool())
        .await?;
        let coordinator = |row: &sqlx::postgres::PgRow| {
            Ok(CoordinatorRow {
                id: row.try_get("id")?,
                version: row.try_get("version")?,
                address: row.try_get("address")?,
                started_at: row.try_get("started_at")?,
                last_seen_at: row.try_get("last_seen_at")?,
                clock_offset_ms: row.try_get("clock_offset_ms")?,
                sessions: row.try_get("sessions")?,
                build: row.try_get("build")?,
                leases: row.try_get("leases")?,
                draining: row.try_get("draining")?,
            })
        };
        found.iter().map(coordinator).collect()
    }
}

async fn omitted(connection: &mut PgConnection, tenant: Uuid, job: Uuid, page: &Page) -> Result<Vec<OmissionRow>> {
    let found = sqlx::query(
        "select id, job_id, reason, from_at, to_at, count, detail, created_at from fire_omissions
         where tenant_id = $1 and job_id = $2 and ($3::uuid is null or id < $3) order by id desc limit $4",
    )
    .bind(tenant)
    .bind(job)
    .bind(page.after)
    .bind(page.limit.max(0))
    .fetch_all(connection)
    .await?;
    let omission = |row: &sqlx::postgres::PgRow| {
        Ok(OmissionRow {
            id: row.try_get("id")?,
            job_id: row.try_get("job_id")?,
            created_at: row.try_get("created_at")?,
            omission: NewOmission {
                reason: row.try_get("reason")?,
                from: row.try_get("from_at")?,
                to: row.try_get("to_at")?,
                count: row.try_get("count")?,
                detail: row.try_get("detail")?,
            },
        })
    };
    found.iter().map(omission).collect()
}

/// Executions, live or from history. Live first, for what is over meanwhile is in history then, and never the other way.
pub(super) async fn by_ids(connection: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<Execution>> {
    let live = sqlx::query(concat!(
        "select ",
        live_columns!(),
        " from live_executions e join scheduled_jobs j on j.id = e.job_id where e.id = any($1)"
    ))
    .bind(ids)
    .fetch_all(&mut *connection)
    .await?;
    let mut found = live.iter().map(rows::live).collect::<Result<Vec<_>>>()?;
    let missing: Vec<Uuid> = ids.iter().filter(|id| found.iter().all(|e| e.id != **id)).copied().collect();
    found.extend(history(connection, &missing).await?);
    Ok(found)
}

/// Finished executions.
pub(super) async fn history(connection: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<Execution>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    // One by one, so that each id looks into its own partition only, and by its key: a join reads all history of the tenant while PostgreSQL has
    // not counted the rows of a new month.
    let found = sqlx::query(concat!(
        "select ",
        done_columns!(),
        " from (select distinct unnest($1::uuid[]) as id) u
         cross join lateral (select * from job_executions d where d.id = u.id limit 1) h
         left join scheduled_jobs j on j.id = h.job_id"
    ))
    .bind(ids)
    .fetch_all(connection)
    .await?;
    found.iter().map(rows::done).collect()
}
