//! What people ask.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use orrery_proto::v1::{ErrorType, ExecutionStatus};
use sqlx::{QueryBuilder, Row, Sqlite};
use uuid::Uuid;

use super::executions::{self, active, armed_at, planned};
use super::rows::{self, before, from_micros, instant, micros, select_finished, select_live};
use super::{SqliteStore, Work};
use crate::execution::Execution;
use crate::store::{
    CoordinatorRow, Counts, ExecutionFilter, JobLoad, OmissionRow, Page, QueueDepth, Reads, Result, Stats,
};

/// How long a coordinator that has not been heard of is still shown.
const SEEN: std::time::Duration = std::time::Duration::from_secs(60);

#[async_trait]
impl Reads for SqliteStore {
    async fn execution(&self, tenant: Uuid, id: Uuid) -> Result<Option<Execution>> {
        let mut work = self.read().await?;
        Ok(executions::any(&mut work.tx, id).await?.filter(|execution| execution.tenant_id == tenant))
    }

    async fn executions(&self, tenant: Uuid, filter: &ExecutionFilter, page: &Page) -> Result<Vec<Execution>> {
        // One transaction, so that what moves to history meanwhile is seen once.
        let mut work = self.read().await?;
        let states = match filter.status {
            None => Some(""),
            Some(ExecutionStatus::Pending) => Some(" and state in ('scheduled', 'pending')"),
            Some(ExecutionStatus::Running) => Some(" and state in ('leased', 'running')"),
            Some(_) => None,
        };
        let mut listed = Vec::new();
        if let Some(states) = states {
            let mut query = QueryBuilder::<Sqlite>::new(match filter.job {
                None => select_live!("where tenant_id = "),
                // The plus keeps the index of the tenant out: that of the job is the narrower one.
                Some(_) => select_live!("where +tenant_id = "),
            });
            query.push_bind(tenant).push(states);
            // Fires that are planned ahead and not yet due.
            query.push(" and not (state = 'scheduled' and attempt = 0 and trigger_type = 'scheduled')");
            query.push(" and not (state = 'leased' and run_at > ").push_bind(micros(self.clock())).push(")");
            let found = filtered(&mut query, filter, page).build().fetch_all(&mut *work.tx).await?;
            listed = found.iter().map(rows::live).collect::<Result<_>>()?;
        }
        if filter.status.is_none() || states.is_none() {
            let mut query = QueryBuilder::<Sqlite>::new(match filter.job {
                None => select_finished!("where tenant_id = "),
                // The plus keeps the index of the tenant out: that of the job is the narrower one.
                Some(_) => select_finished!("where +tenant_id = "),
            });
            query.push_bind(tenant);
            if let Some(status) = filter.status {
                query.push(" and status = ").push_bind(status.as_json_str());
            }
            let found = filtered(&mut query, filter, page).build().fetch_all(&mut *work.tx).await?;
            for row in &found {
                listed.push(rows::finished(row)?);
            }
        }
        listed.sort_by_key(|execution| std::cmp::Reverse(execution.id));
        listed.truncate(usize::try_from(page.limit).unwrap_or(0));
        Ok(listed)
    }

    async fn stats(&self, tenant: Uuid, job: Option<Uuid>, from: DateTime<Utc>, to: DateTime<Utc>) -> Result<Stats> {
        let mut work = self.read().await?;
        let mut stats = totals(&mut work, tenant, job, from, to).await?;
        let durations: Vec<i64> = sqlx::query_scalar(
            "select duration_ms from job_executions where tenant_id = ?1 and (?2 is null or job_id = ?2) \
             and scheduled_at >= ?3 and scheduled_at < ?4 and started_at is not null and duration_ms is not null order by duration_ms",
        )
        .bind(tenant)
        .bind(job)
        .bind(micros(from))
        .bind(micros(to))
        .fetch_all(&mut *work.tx)
        .await?;
        if let Some(longest) = durations.last() {
            stats.average_ms = durations.iter().map(|ms| *ms as f64).sum::<f64>() / durations.len() as f64;
            stats.p50_ms = percentile(&durations, 0.5);
            stats.p95_ms = percentile(&durations, 0.95);
            stats.p99_ms = percentile(&durations, 0.99);
            stats.max_ms = *longest as f64;
        }
        Ok(stats)
    }

    async fn omissions(&self, tenant: Uuid, job: Uuid, page: &Page) -> Result<Vec<OmissionRow>> {
        let found = sqlx::query(
            "select id, job_id, created_at, reason, from_at, to_at, count, detail from fire_omissions \
             where job_id = ?1 and tenant_id = ?2 and (?3 is null or id < ?3) order by id desc limit ?4",
        )
        .bind(job)
        .bind(tenant)
        .bind(page.after)
        .bind(page.limit.max(0))
        .fetch_all(&self.readers)
        .await?;
        found.iter().map(rows::omission).collect()
    }

    async fn queues(&self, tenant: Uuid) -> Result<Vec<QueueDepth>> {
        let found = sqlx::query(
            "select q.queue, coalesce(e.pending, 0) as pending, coalesce(e.scheduled, 0) as scheduled, \
             coalesce(e.running, 0) as running, e.oldest, coalesce((select l.max_concurrent from queue_limits l \
             where l.tenant_id = ?1 and l.name = q.queue), 0) as max_concurrent \
             from (select queue from lanes where tenant_id = ?1 union select name from queue_limits where tenant_id = ?1) q \
             left join (select queue, count(*) filter (where state = 'pending') as pending, \
             count(*) filter (where state = 'scheduled') as scheduled, \
             count(*) filter (where state in ('leased', 'running')) as running, \
             min(run_at) filter (where state = 'pending') as oldest \
             from live_executions where tenant_id = ?1 group by queue) e on e.queue = q.queue order by q.queue",
        )
        .bind(tenant)
        .fetch_all(&self.readers)
        .await?;
        let depth = |row: &sqlx::sqlite::SqliteRow| {
            Ok(QueueDepth {
                name: row.try_get("queue")?,
                pending: row.try_get("pending")?,
                scheduled: row.try_get("scheduled")?,
                running: row.try_get("running")?,
                oldest_pending: from_micros(row.try_get("oldest")?),
                max_concurrent: row.try_get("max_concurrent")?,
            })
        };
        found.iter().map(depth).collect()
    }

    async fn counts(&self, tenant: Option<Uuid>) -> Result<Counts> {
        let row = sqlx::query(
concat!("with j as (select status, next_execution_at from scheduled_jobs where deleted_at is null and (?1 is null or tenant_id = ?1)), \
             e as (select state, run_at, attempt, trigger_type from live_executions where ?1 is null or tenant_id = ?1) \
             select (select count(*) from j) as total, (select count(*) from j where status = 'active') as active, \
             (select count(*) from j where status = 'paused') as paused, \
             (select count(*) from e where state = 'pending') as pending, \
             (select count(*) from e where state in ('leased', 'running')) as running, \
             (select count(*) from agent_sessions where expires_at > ?2 \
             and (?1 is null or tenant_id is null or tenant_id = ?1)) as sessions, \
             (select min(next_execution_at) from j where status = 'active') as cursor, \
             (select min(run_at) from e where ",
            planned!(),
            ") as planned"
        ))
        .bind(tenant)
        .bind(micros(self.clock()))
        .fetch_one(&self.readers)
        .await?;
        let queues = sqlx::query_as(
            "select queue, count(*) as pending from live_executions \
             where state = 'pending' and (?1 is null or tenant_id = ?1) group by queue order by pending desc limit 100",
        )
        .bind(tenant)
        .fetch_all(&self.readers)
        .await?;
        let cursor = from_micros(row.try_get("cursor")?);
        let planned = from_micros(row.try_get("planned")?);
        Ok(Counts {
            total_jobs: row.try_get("total")?,
            active_jobs: row.try_get("active")?,
            paused_jobs: row.try_get("paused")?,
            pending: row.try_get("pending")?,
            running: row.try_get("running")?,
            queues,
            sessions: row.try_get("sessions")?,
            next_fire: cursor.into_iter().chain(planned).min(),
        })
    }

    async fn job_load(&self, tenant: Uuid, job: Uuid) -> Result<JobLoad> {
        let (active, leased) = sqlx::query_as(concat!(
            "select count(*), count(*) filter (where state in ('leased', 'running')) from live_executions \
             where job_id = ?1 and tenant_id = ?2 and ",
            active!(),
            " and not ",
            armed_at!("?3")
        ))
        .bind(job)
        .bind(tenant)
        .bind(micros(self.clock()))
        .fetch_one(&self.readers)
        .await?;
        Ok(JobLoad { active, leased })
    }

    async fn coordinators(&self) -> Result<Vec<CoordinatorRow>> {
        const TABLE: &str = "coordinators";
        let found = sqlx::query(
            "select id, version, address, started_at, last_seen_at, clock_offset_ms, sessions, build, leases, draining from coordinators \
             where last_seen_at > ? order by id",
        )
        .bind(micros(before(self.clock(), SEEN)))
        .fetch_all(&self.readers)
        .await?;
        let coordinator = |row: &sqlx::sqlite::SqliteRow| {
            Ok(CoordinatorRow {
                id: row.try_get("id")?,
                version: row.try_get("version")?,
                address: row.try_get("address")?,
                started_at: instant(row, TABLE, "started_at")?,
                last_seen_at: instant(row, TABLE, "last_seen_at")?,
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

/// That a column has one of these ids.
pub(super) fn among(query: &mut QueryBuilder<Sqlite>, column: &'static str, ids: &[Uuid]) {
    query.push(" and ").push(column).push(" in (");
    let mut list = query.separated(", ");
    for id in ids {
        list.push_bind(*id);
    }
    query.push(")");
}

/// What both tables of executions are filtered by, the order and the page.
fn filtered<'a>(
    query: &'a mut QueryBuilder<Sqlite>,
    filter: &ExecutionFilter,
    page: &Page,
) -> &'a mut QueryBuilder<Sqlite> {
    if let Some(after) = page.after {
        query.push(" and id < ").push_bind(after);
    }
    if let Some(job) = filter.job {
        query.push(" and job_id = ").push_bind(job);
    }
    if let Some(jobs) = &filter.jobs {
        among(query, "job_id", jobs);
    }
    if let Some(trigger) = filter.trigger {
        query.push(" and trigger_type = ").push_bind(trigger.as_json_str());
    }
    if let Some(from) = filter.from {
        query.push(" and scheduled_at >= ").push_bind(micros(from));
    }
    if let Some(to) = filter.to {
        query.push(" and scheduled_at < ").push_bind(micros(to));
    }
    query.push(" order by id desc limit ").push_bind(page.limit.max(0));
    query
}

async fn totals(
    work: &mut Work,
    tenant: Uuid,
    job: Option<Uuid>,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
) -> Result<Stats> {
    let row = sqlx::query(
        "with l as (select state from live_executions where tenant_id = ?1 and (?2 is null or job_id = ?2) \
         and scheduled_at >= ?3 and scheduled_at < ?4 \
         and not (state = 'scheduled' and attempt = 0 and trigger_type = 'scheduled')), \
         f as (select status, error_type, retry_count from job_executions where tenant_id = ?1 and (?2 is null or job_id = ?2) \
         and scheduled_at >= ?3 and scheduled_at < ?4) \
         select (select count(*) from l where state in ('scheduled', 'pending')) as pending, \
         (select count(*) from l where state in ('leased', 'running')) as running, \
         count(*) filter (where status = 'completed') as completed, count(*) filter (where status = 'failed') as failed, \
         count(*) filter (where status = 'cancelled') as cancelled, \
         count(*) filter (where error_type = ?5) as timed_out, count(*) filter (where retry_count > 0) as retried, \
         (select coalesce(sum(count), 0) from fire_omissions where tenant_id = ?1 and (?2 is null or job_id = ?2) \
         and from_at >= ?3 and from_at < ?4) as omitted from f",
    )
    .bind(tenant)
    .bind(job)
    .bind(micros(from))
    .bind(micros(to))
    .bind(ErrorType::Timeout.as_json_str())
    .fetch_one(&mut *work.tx)
    .await?;
    Ok(Stats {
        pending: row.try_get("pending")?,
        running: row.try_get("running")?,
        completed: row.try_get("completed")?,
        failed: row.try_get("failed")?,
        cancelled: row.try_get("cancelled")?,
        omitted: row.try_get("omitted")?,
        timed_out: row.try_get("timed_out")?,
        retried: row.try_get("retried")?,
        ..Stats::default()
    })
}

/// A percentile of sorted values: the first one that so many are not above.
fn percentile(sorted: &[i64], of: f64) -> f64 {
    let place = (of * sorted.len() as f64).ceil() as usize;
    sorted.get(place.saturating_sub(1)).map_or(0.0, |ms| *ms as f64)
}
