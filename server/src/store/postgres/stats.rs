//! Sums.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool, Postgres, QueryBuilder, Row};
use uuid::Uuid;

use super::PgStore;
use super::partitions::floor_id;
use crate::store::{Counts, Result, Stats};

/// What to sum up.
struct Range {
    tenant: Uuid,
    job: Option<Uuid>,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
}

impl Range {
    /// `where` of one tenant, one job if named, and the instants of `column`.
    fn push(&self, query: &mut QueryBuilder<Postgres>, column: &'static str) {
        query.push(" where tenant_id = ").push_bind(self.tenant);
        if let Some(job) = self.job {
            query.push(" and job_id = ").push_bind(job);
        }
        query.push(" and ").push(column).push(" >= ").push_bind(self.from);
        query.push(" and ").push(column).push(" < ").push_bind(self.to);
    }
}

/// Sums of one database.
pub(super) async fn read_stats(
    pool: &PgPool,
    tenant: Uuid,
    job: Option<Uuid>,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
) -> Result<Stats> {
    let range = Range { tenant, job, from, to };
    // One snapshot for all: an execution that ends meanwhile is either live or over in it, and never neither.
    let mut tx = pool.begin_with("begin isolation level repeatable read, read only").await?;
    let mut stats = done_stats(&mut tx, &range).await?;
    let mut query = QueryBuilder::new(
        "select count(*) filter (where state < 2 and not (state = 0 and attempt = 0 and trigger_type = 1)) as pending, count(*) filter (where state = 2) as running
         from live_executions",
    );
    range.push(&mut query, "scheduled_at");
    let row = query.build().fetch_one(&mut *tx).await?;
    stats.pending = row.try_get("pending")?;
    stats.running = row.try_get("running")?;
    let mut query = QueryBuilder::new("select coalesce(sum(count), 0)::bigint as omitted from fire_omissions");
    range.push(&mut query, "from_at");
    stats.omitted = query.build().fetch_one(&mut *tx).await?.try_get("omitted")?;
    tx.commit().await?;
    Ok(stats)
}

impl PgStore {
    pub(super) async fn read_counts(&self, tenant: Option<Uuid>) -> Result<Counts> {
        let mut query = QueryBuilder::new(
            "select count(*) as total, count(*) filter (where status = 'active') as active,
                count(*) filter (where status = 'paused') as paused,
                min(next_execution_at) filter (where status = 'active') as cursor
             from scheduled_jobs where deleted_at is null",
        );
        push_tenant(&mut query, tenant);
        let jobs = query.build().fetch_one(self.pool()).await?;
        // One query each, so that each is answered by its own partial index.
        let pending = self.count_live("count(*) as n", "state = 1", tenant).await?.try_get("n")?;
        let running = self.count_live("count(*) as n", "session_id is not null", tenant).await?.try_get("n")?;
        let planned = "state = 0 and attempt = 0 and trigger_type = 1";
        let planned: Option<DateTime<Utc>> =
            self.count_live("min(run_at) as n", planned, tenant).await?.try_get("n")?;
        let sessions: i64 = sqlx::query_scalar(
            "select count(*) from agent_sessions
             where expires_at > clock_timestamp() and ($1::uuid is null or tenant_id is null or tenant_id = $1)",
        )
        .bind(tenant)
        .fetch_one(self.pool())
        .await?;
        let mut fullest = QueryBuilder::new("select queue, count(*) from live_executions where state = 1");
        push_tenant(&mut fullest, tenant);
        fullest.push(" group by queue order by count(*) desc limit 100");
        let queues = fullest.build_query_as().fetch_all(self.pool()).await?;
        let cursor: Option<DateTime<Utc>> = jobs.try_get("cursor")?;
        Ok(Counts {
            total_jobs: jobs.try_get("total")?,
            active_jobs: jobs.try_get("active")?,
            paused_jobs: jobs.try_get("paused")?,
            pending,
            running,
            queues,
            sessions,
            next_fire: [cursor, planned].into_iter().flatten().min(),
        })
    }

    async fn count_live(
        &self,
        what: &'static str,
        which: &'static str,
        tenant: Option<Uuid>,
    ) -> Result<sqlx::postgres::PgRow> {
        let mut query = QueryBuilder::new("select ");
        query.push(what).push(" from live_executions where ").push(which);
        push_tenant(&mut query, tenant);
        Ok(query.build().fetch_one(self.pool()).await?)
    }
}

fn push_tenant(query: &mut QueryBuilder<Postgres>, tenant: Option<Uuid>) {
    if let Some(tenant) = tenant {
        query.push(" and tenant_id = ").push_bind(tenant);
    }
}

/// Of what is over.
async fn done_stats(connection: &mut PgConnection, range: &Range) -> Result<Stats> {
    let columns = "select status, error_type, retry_count, case when started_at is not null then duration_ms end as ms
         from job_executions";
    let mut query = QueryBuilder::new("with h as (");
    query.push(columns);
    range.push(&mut query, "scheduled_at");
    // Nearly all have their scheduled instant in their id, which is what history is ordered and partitioned by.
    query.push(" and not delayed and id >= ").push_bind(floor_id(range.from));
    query.push(" and id < ").push_bind(floor_id(range.to + chrono::Duration::milliseconds(1)));
    query.push(" union all ").push(columns);
    range.push(&mut query, "scheduled_at");
    query.push(
        " and delayed) select count(*) filter (where status = 'completed') as completed,
            count(*) filter (where status = 'failed') as failed,
            count(*) filter (where status = 'cancelled') as cancelled,
            count(*) filter (where error_type = 'TIMEOUT') as timed_out,
            count(*) filter (where retry_count > 0) as retried,
            coalesce(avg(ms), 0)::float8 as average, coalesce(max(ms), 0)::float8 as max,
            percentile_disc(array[0.5, 0.95, 0.99]) within group (order by ms::float8) as percentiles from h",
    );
    let row = query.build().fetch_one(connection).await?;
    let percentiles: Vec<Option<f64>> = row.try_get::<Option<_>, _>("percentiles")?.unwrap_or_default();
    let percentile = |index: usize| percentiles.get(index).copied().flatten().unwrap_or(0.0);
    Ok(Stats {
        completed: row.try_get("completed")?,
        failed: row.try_get("failed")?,
        cancelled: row.try_get("cancelled")?,
        timed_out: row.try_get("timed_out")?,
        retried: row.try_get("retried")?,
        average_ms: row.try_get("average")?,
        p50_ms: percentile(0),
        p95_ms: percentile(1),
        p99_ms: percentile(2),
        max_ms: row.try_get("max")?,
        ..Stats::default()
    })
}
