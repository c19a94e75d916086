//! How much there is. Live executions are counted up to a bound, beyond which PostgreSQL's own statistics tell: a call costs the same however
//! much waits.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, PgConnection, PgPool, QueryBuilder, Row};
use uuid::Uuid;

use super::partitions::floor_id;
use super::tallies::Scope;
use super::{PgStore, snapshot};
use crate::store::{Counts, QueueDepth, Result};

/// What waits is counted exactly up to so many of a lane or a range.
const EXACT: i64 = 10_000;
/// And up to so many over all lanes: where there are many, each gets its share.
const BUDGET: i64 = 50_000;
/// Priorities of a lane that are looked through for what has waited longest.
const PRIORITIES: i64 = 1_000;
/// Queues that [`Counts`] names.
const QUEUES: usize = 100;

/// What waits in a queue.
struct Waiting {
    queue: String,
    lanes: Vec<i64>,
    pending: i64,
    oldest: Option<DateTime<Utc>>,
}

/// What waits, by queue; lanes that hold nothing are counted too. Each lane is looked into by its index: as far as the bound, and at the head of
/// each priority for the oldest.
async fn waiting(connection: &mut PgConnection, engine: &PgPool, tenant: Option<Uuid>) -> Result<Vec<Waiting>> {
    let found = sqlx::query(
        "with recursive l as materialized (select id, queue from lanes where $1::uuid is null or tenant_id = $1),
         bound as materialized (select greatest(100, least($2, $3 / greatest(count(*), 1))) as most from l),
         heads as (
            select l.id as lane, h.* from l cross join lateral (
                select priority, late, run_at from live_executions where lane_id = l.id and state = 1
                order by priority desc, late, run_at, id limit 1) h
            union all
            select heads.lane, h.* from heads cross join lateral (
                (select priority, late, run_at from live_executions
                 where lane_id = heads.lane and state = 1 and priority = heads.priority and late > heads.late
                 order by priority desc, late, run_at, id limit 1)
                union all
                (select priority, late, run_at from live_executions
                 where lane_id = heads.lane and state = 1 and priority < heads.priority
                 order by priority desc, late, run_at, id limit 1)
                limit 1) h
         ),
         oldest as (select lane, min(run_at) as at from (select * from heads limit $4 + (select count(*) from l)) h group by lane)
         select l.queue, array_agg(l.id) as lanes, sum(least(c.n, b.most))::bigint as pending, bool_or(c.n > b.most) as more,
            min(o.at) as oldest
         from l cross join bound b cross join lateral (
            select count(*) as n from (
                select 1 from live_executions e where e.lane_id = l.id and e.state = 1 limit (select most + 1 from bound)) f) c
         left join oldest o on o.lane = l.id
         group by l.queue",
    )
    .bind(tenant)
    .bind(EXACT)
    .bind(BUDGET)
    .bind(PRIORITIES)
    .fetch_all(&mut *connection)
    .await?;
    let mut queues = Vec::with_capacity(found.len());
    for row in &found {
        let lanes: Vec<i64> = row.try_get("lanes")?;
        let mut pending = row.try_get("pending")?;
        if row.try_get("more")? {
            pending = estimate_lanes(engine, &lanes, 1).await?.max(pending);
        }
        queues.push(Waiting { queue: row.try_get("queue")?, lanes, pending, oldest: row.try_get("oldest")? });
    }
    Ok(queues)
}

/// As the coordinator's own role, for no row is read: for a tenant the planner would take lanes and tenant for independent of each other, and
/// estimate a tenant's share of its own lanes.
async fn estimate_lanes(engine: &PgPool, lanes: &[i64], state: i16) -> Result<i64> {
    let lanes: Vec<String> = lanes.iter().map(i64::to_string).collect();
    estimate(&mut *engine.acquire().await?, &format!("state = {state} and lane_id = any ('{{{}}}')", lanes.join(",")))
        .await
}

/// How many live executions there are, as the planner takes it.
async fn estimate(connection: &mut PgConnection, condition: &str) -> Result<i64> {
    let explain = format!("explain select 1 from live_executions where {condition}");
    let row = sqlx::query(AssertSqlSafe(explain)).persistent(false).fetch_one(connection).await?;
    // "Seq Scan on ...  (cost=0.00..1.50 rows=50 width=4)"
    let plan: &str = row.try_get(0)?;
    let rows = plan.split_once("rows=").and_then(|(_, rest)| rest.split_once(' '));
    Ok(rows.and_then(|(rows, _)| rows.parse().ok()).unwrap_or(0))
}

/// Live executions that are waiting and scheduled in a range.
pub(super) async fn waiting_in(
    connection: &mut PgConnection,
    scope: Scope,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
) -> Result<i64> {
    let mut which = format!("tenant_id = '{}'", scope.tenant);
    if let Some(job) = scope.job {
        which.push_str(&format!(" and job_id = '{job}'"));
    }
    let range = format!("scheduled_at >= '{}' and scheduled_at < '{}'", from.to_rfc3339(), to.to_rfc3339());
    which.push_str(&format!(" and state < 2 and not (state = 0 and attempt = 0 and trigger_type = 1) and {range}"));
    // An id is never younger than its scheduled instant; the few with an older one have an index.
    let first = floor_id(from);
    let last = floor_id(to + chrono::Duration::milliseconds(1));
    let by_id = format!("{which} and id >= '{first}' and id < '{last}'");
    let delayed = format!("{which} and id < '{first}' and trigger_type <> 1 and scheduled_at > created_at");
    let mut sum = 0;
    for condition in [&by_id, &delayed] {
        let count =
            format!("select count(*) from (select 1 from live_executions where {condition} limit {}) f", EXACT + 1);
        sum += sqlx::query_scalar::<_, i64>(AssertSqlSafe(count)).persistent(false).fetch_one(&mut *connection).await?;
    }
    if sum > EXACT {
        return Ok(estimate(connection, &which).await?.max(EXACT));
    }
    Ok(sum)
}

impl PgStore {
    pub(super) async fn read_counts(&self, tenant: Option<Uuid>) -> Result<Counts> {
        // One snapshot for all: what is leased meanwhile waits or runs in it, and is never neither.
        let mut tx = match tenant {
            Some(tenant) => self.snapshot_for(tenant).await?,
            None => snapshot(self.pool()).await?,
        };
        let of_tenant = |query: &mut QueryBuilder<sqlx::Postgres>| {
            if let Some(tenant) = tenant {
                query.push(" and tenant_id = ").push_bind(tenant);
            }
        };
        let mut query = QueryBuilder::new(
            "select count(*) as total, count(*) filter (where status = 'active') as active,
                count(*) filter (where status = 'paused') as paused,
                min(next_execution_at) filter (where status = 'active') as cursor
             from scheduled_jobs where deleted_at is null",
        );
        of_tenant(&mut query);
        let jobs = query.build().fetch_one(&mut *tx).await?;
        // By the partial indexes of what is leased, and of what is planned.
        let mut query = QueryBuilder::new("select count(*) from live_executions where session_id is not null");
        of_tenant(&mut query);
        let running = query.build_query_scalar().fetch_one(&mut *tx).await?;
        let mut query = QueryBuilder::new(
            "select min(run_at) from live_executions where state = 0 and attempt = 0 and trigger_type = 1",
        );
        of_tenant(&mut query);
        let planned: Option<DateTime<Utc>> = query.build_query_scalar().fetch_one(&mut *tx).await?;
        let sessions: i64 = sqlx::query_scalar(
            "select count(*) from agent_sessions
             where expires_at > clock_timestamp() and ($1::uuid is null or tenant_id is null or tenant_id = $1)",
        )
        .bind(tenant)
        .fetch_one(&mut *tx)
        .await?;
        let mut queues: Vec<(String, i64)> =
            waiting(&mut tx, self.pool(), tenant).await?.into_iter().map(|w| (w.queue, w.pending)).collect();
        let pending = queues.iter().map(|(_, pending)| pending).sum();
        queues.retain(|(_, pending)| *pending > 0);
        queues.sort_by(|(a_name, a), (b_name, b)| b.cmp(a).then_with(|| a_name.cmp(b_name)));
        queues.truncate(QUEUES);
        let cursor: Option<DateTime<Utc>> = jobs.try_get("cursor")?;
        Ok(Counts {
            total_jobs: jobs.try_get("total")?,
            active_jobs: jobs.try_get("active")?,
            paused_jobs: jobs.try_get("paused")?,
            pending,
            running,
            queues,
            sessions,
            next_fire: cursor.into_iter().chain(planned).min(),
        })
    }

    pub(super) async fn read_queues(&self, tenant: Uuid) -> Result<Vec<QueueDepth>> {
        let mut tx = self.snapshot_for(tenant).await?;
        let mut depths: BTreeMap<String, QueueDepth> = BTreeMap::new();
        let limits: Vec<(String, i32)> =
            sqlx::query_as("select name, max_concurrent from queue_limits where tenant_id = $1")
                .bind(tenant)
                .fetch_all(&mut *tx)
                .await?;
        for (name, max_concurrent) in limits {
            of(&mut depths, name).max_concurrent = max_concurrent;
        }
        let running: Vec<(String, i64)> = sqlx::query_as(
            "select queue, count(*) from live_executions where session_id is not null and tenant_id = $1 group by queue",
        )
        .bind(tenant)
        .fetch_all(&mut *tx)
        .await?;
        for (name, running) in running {
            of(&mut depths, name).running = running;
        }
        let (scheduled, all) = scheduled(&mut tx, tenant).await?;
        for (name, scheduled) in scheduled {
            of(&mut depths, name).scheduled = scheduled;
        }
        for waiting in waiting(&mut tx, self.pool(), Some(tenant)).await? {
            let depth = of(&mut depths, waiting.queue);
            (depth.pending, depth.oldest_pending) = (waiting.pending, waiting.oldest);
            if !all {
                depth.scheduled = estimate_lanes(self.pool(), &waiting.lanes, 0).await?.max(depth.scheduled);
            }
        }
        Ok(depths.into_values().collect())
    }
}

fn of(depths: &mut BTreeMap<String, QueueDepth>, name: String) -> &mut QueueDepth {
    depths.entry(name.clone()).or_insert_with(|| QueueDepth { name, ..QueueDepth::default() })
}

/// What a tenant has that is not due yet, by queue, and whether that is all of it.
async fn scheduled(connection: &mut PgConnection, tenant: Uuid) -> Result<(Vec<(String, i64)>, bool)> {
    let found: Vec<(String, i64, i64)> = sqlx::query_as(
        "select queue, count(*) filter (where tenant_id = $1), count(*) from (
            select tenant_id, queue from live_executions where state = 0 limit $2) s group by queue",
    )
    .bind(tenant)
    .bind(BUDGET)
    .fetch_all(connection)
    .await?;
    let looked_at: i64 = found.iter().map(|(_, _, all)| all).sum();
    let ours = found.into_iter().filter(|(_, ours, _)| *ours > 0).map(|(queue, ours, _)| (queue, ours)).collect();
    Ok((ours, looked_at < BUDGET))
}
