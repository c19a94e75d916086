//! [`Reads`].

use std::collections::BTreeMap;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use orrery_proto::v1::ExecutionStatus;
use sqlx::{PgConnection, PgPool, Postgres, QueryBuilder, Row};
use uuid::Uuid;

use super::partitions::floor_id;
use super::rows::{done_columns, live_columns};
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
        let over = self.on_replica(async |pool| history(&mut *pool.acquire().await?, &[id]).await).await;
        if let Some(over) = over.and_then(of_tenant) {
            return Ok(Some(over));
        }
        let mut connection = self.pool().acquire().await?;
        Ok(of_tenant(by_ids(&mut connection, &[id]).await?))
    }

    async fn executions(&self, tenant: Uuid, filter: &ExecutionFilter, page: &Page) -> Result<Vec<Execution>> {
        let found = self.on_replica(async |pool| listed(pool, tenant, filter, page).await).await;
        match found.filter(|found| !found.is_empty()) {
            Some(found) => Ok(found),
            None => listed(self.pool(), tenant, filter, page).await,
        }
    }

    async fn stats(&self, tenant: Uuid, job: Option<Uuid>, from: DateTime<Utc>, to: DateTime<Utc>) -> Result<Stats> {
        match self.on_replica(async |pool| read_stats(pool, tenant, job, from, to).await).await {
            Some(stats) => Ok(stats),
            None => read_stats(self.pool(), tenant, job, from, to).await,
        }
    }

    async fn omissions(&self, tenant: Uuid, job: Uuid, page: &Page) -> Result<Vec<OmissionRow>> {
        let found = self.on_replica(async |pool| omitted(pool, tenant, job, page).await).await;
        match found.filter(|found| !found.is_empty()) {
            Some(found) => Ok(found),
            None => omitted(self.pool(), tenant, job, page).await,
        }
    }

    async fn queues(&self, tenant: Uuid) -> Result<Vec<QueueDepth>> {
        let found = sqlx::query(
            "select q.queue, coalesce(e.pending, 0) as pending, coalesce(e.scheduled, 0) as scheduled,
                coalesce(e.running, 0) as running, e.oldest, coalesce(l.max_concurrent, 0) as max_concurrent
             from (select queue from lanes where tenant_id = $1 union select name from queue_limits where tenant_id = $1) q
             left join queue_limits l on l.tenant_id = $1 and l.name = q.queue
             left join (
                select queue, count(*) filter (where state = 1) as pending, count(*) filter (where state = 0) as scheduled,
                    count(*) filter (where state = 2) as running, min(run_at) filter (where state = 1) as oldest
                from live_executions where tenant_id = $1 group by queue
             ) e on e.queue = q.queue order by q.queue",
        )
        .bind(tenant)
        .fetch_all(self.pool())
        .await?;
        let depth = |row: &sqlx::postgres::PgRow| {
            Ok(QueueDepth {
                name: row.try_get("queue")?,
                pending: row.try_get("pending")?,
                scheduled: row.try_get("scheduled")?,
                running: row.try_get("running")?,
                oldest_pending: row.try_get("oldest")?,
                max_concurrent: row.try_get("max_concurrent")?,
            })
        };
        found.iter().map(depth).collect()
    }

    async fn counts(&self, tenant: Option<Uuid>) -> Result<Counts> {
        self.read_counts(tenant).await
    }

    async fn job_load(&self, tenant: Uuid, job: Uuid) -> Result<JobLoad> {
        let row = sqlx::query(
            "select count(*) as active, count(*) filter (where state = 2) as leased from live_executions
             where tenant_id = $1 and job_id = $2 and (state > 0 or attempt > 0)",
        )
        .bind(tenant)
        .bind(job)
        .fetch_one(self.pool())
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

/// Executions from one database, newest first.
async fn listed(pool: &PgPool, tenant: Uuid, filter: &ExecutionFilter, page: &Page) -> Result<Vec<Execution>> {
    let mut connection = pool.acquire().await?;
    let mut found: BTreeMap<Uuid, Execution> = BTreeMap::new();
    // Live first: one that moves to history meanwhile is then read twice rather than not at all.
    if let Some(mut query) = live_query(tenant, filter, page) {
        for row in query.build().fetch_all(&mut *connection).await? {
            let execution = rows::live(&row)?;
            found.insert(execution.id, execution);
        }
    }
    for mut query in done_queries(tenant, filter, page) {
        for row in query.build().fetch_all(&mut *connection).await? {
            let execution = rows::done(&row)?;
            found.insert(execution.id, execution);
        }
    }
    let limit = usize::try_from(page.limit).unwrap_or(0);
    Ok(found.into_values().rev().take(limit).collect())
}

async fn omitted(pool: &PgPool, tenant: Uuid, job: Uuid, page: &Page) -> Result<Vec<OmissionRow>> {
    let found = sqlx::query(
        "select id, job_id, reason, from_at, to_at, count, detail, created_at from fire_omissions
         where tenant_id = $1 and job_id = $2 and ($3::uuid is null or id < $3) order by id desc limit $4",
    )
    .bind(tenant)
    .bind(job)
    .bind(page.after)
    .bind(page.limit.max(0))
    .fetch_all(pool)
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
    // By a join, so that each id looks into its own partition only.
    let found = sqlx::query(concat!(
        "select ",
        done_columns!(),
        " from (select distinct unnest($1::uuid[]) as id) u join job_executions h on h.id = u.id
         left join scheduled_jobs j on j.id = h.job_id"
    ))
    .bind(ids)
    .fetch_all(connection)
    .await?;
    found.iter().map(rows::done).collect()
}

/// `None` where the filter asks for finished ones only.
fn live_query(tenant: Uuid, filter: &ExecutionFilter, page: &Page) -> Option<QueryBuilder<Postgres>> {
    let states = match filter.status {
        None => "",
        Some(ExecutionStatus::Pending) => " and e.state < 2",
        Some(ExecutionStatus::Running) => " and e.state = 2",
        Some(_) => return None,
    };
    let mut query = QueryBuilder::new(concat!(
        "select ",
        live_columns!(),
        " from live_executions e join scheduled_jobs j on j.id = e.job_id where e.tenant_id = "
    ));
    query.push_bind(tenant).push(states);
    // Fires that are planned ahead and not yet due.
    query.push(" and not (e.state = 0 and e.attempt = 0 and e.trigger_type = 1)");
    if let Some(trigger) = filter.trigger {
        query.push(" and e.trigger_type = ").push_bind(rows::trigger_number(trigger));
    }
    push_common(&mut query, "e", filter, page);
    Some(query)
}

/// Which part of history a query looks through.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    All,
    /// Those whose scheduled instant is the one in their id: a range of instants is a range of ids.
    ByTheirId,
    /// The few that somebody asked to run later; an index finds them by their scheduled instant.
    Delayed,
}

fn done_queries(tenant: Uuid, filter: &ExecutionFilter, page: &Page) -> Vec<QueryBuilder<Postgres>> {
    let is_live = matches!(filter.status, Some(ExecutionStatus::Pending | ExecutionStatus::Running));
    let parts: &[Part] = match filter.from {
        _ if is_live => &[],
        Some(_) => &[Part::ByTheirId, Part::Delayed],
        None => &[Part::All],
    };
    parts.iter().map(|part| done_query(tenant, filter, page, *part)).collect()
}

fn done_query(tenant: Uuid, filter: &ExecutionFilter, page: &Page, part: Part) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new(concat!(
        "select ",
        done_columns!(),
        " from job_executions h left join scheduled_jobs j on j.id = h.job_id where h.tenant_id = "
    ));
    query.push_bind(tenant);
    match part {
        Part::All => {}
        Part::ByTheirId => {
            query.push(" and not h.delayed");
            if let Some(from) = filter.from {
                query.push(" and h.id >= ").push_bind(floor_id(from));
            }
        }
        Part::Delayed => {
            query.push(" and h.delayed");
        }
    }
    if let Some(to) = filter.to {
        // No id is younger than its scheduled instant.
        query.push(" and h.id < ").push_bind(floor_id(to + chrono::Duration::milliseconds(1)));
    }
    if let Some(status) = filter.status {
        query.push(" and h.status = ").push_bind(status.as_json_str());
    }
    if let Some(trigger) = filter.trigger {
        query.push(" and h.trigger_type = ").push_bind(trigger.as_json_str());
    }
    push_common(&mut query, "h", filter, page);
    query
}

fn push_common(query: &mut QueryBuilder<Postgres>, table: &'static str, filter: &ExecutionFilter, page: &Page) {
    let push = |query: &mut QueryBuilder<Postgres>, column: &str| {
        query.push(" and ").push(table).push(column);
    };
    if let Some(job) = filter.job {
        push(query, ".job_id = ");
        query.push_bind(job);
    }
    if let Some(from) = filter.from {
        push(query, ".scheduled_at >= ");
        query.push_bind(from);
    }
    if let Some(to) = filter.to {
        push(query, ".scheduled_at < ");
        query.push_bind(to);
    }
    if let Some(after) = page.after {
        push(query, ".id < ");
        query.push_bind(after);
    }
    query.push(" order by ").push(table).push(".id desc limit ").push_bind(page.limit.max(0));
}
