//! Which pending executions a claim looks at.

use std::collections::{BTreeMap, HashMap, HashSet};

use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::apply::Locked;
use super::limited;
use super::rows::live_columns;
use crate::admission::{Admission, Gate};
use crate::store::{Claim, Result};

/// Groups of one job and key that a claim looks at in all, and in one lane.
const GROUPS: usize = 4000;
const GROUPS_OF_LANE: (usize, usize) = (16, 1000);

/// A pending execution, locked, with the limits that it may meet.
pub(super) struct Found {
    pub(super) locked: Locked,
    pub(super) gates: Vec<Gate>,
    /// Those of its gates that have a limit. That of a key is not known before it is counted.
    pub(super) limits: Vec<(Gate, i64)>,
}

/// The lanes of a claim (`$1`) that are worth to look into: not those of a queue or tenant at its limit (`$2` is the default of tenants).
macro_rules! open_lanes {
    () => {
        "select l.id from lanes l
         left join queue_limits q on q.tenant_id = l.tenant_id and q.name = l.queue
         left join tenants t on t.id = l.tenant_id
         where l.id = any($1)
           and (q.max_concurrent is null or q.max_concurrent > (
                select count(*) from live_executions r
                where r.tenant_id = l.tenant_id and r.queue = l.queue and r.session_id is not null))
           and (coalesce(t.max_concurrent, $2) = 0 or coalesce(t.max_concurrent, $2) > (
                select count(*) from live_executions r where r.tenant_id = l.tenant_id and r.session_id is not null))"
    };
}

/// The heads of the lanes: the highest priority first and in turns between lanes. Not locked, for to lock within each lane would lock
/// `limit` of every lane, and take them from the others for nothing.
pub(super) async fn heads(tx: &mut PgConnection, claim: &Claim<'_>) -> Result<Vec<Uuid>> {
    Ok(sqlx::query_scalar(concat!(
        "select p.id from (",
        open_lanes!(),
        ") as lane cross join lateral (
            select n.id, n.priority, n.late, n.run_at,
                row_number() over (order by n.priority desc, n.late, n.run_at, n.id) as turn from (
                select e.id, e.priority, e.late, e.run_at from live_executions e
                where e.lane_id = lane.id and e.state = 1 and e.cancel_requested_at is null
                  and (e.start_by is null or e.start_by > statement_timestamp())
                order by e.priority desc, e.late, e.run_at, e.id limit $3
            ) n
         ) p order by p.priority desc, p.late, p.turn, p.run_at, p.id limit $3"
    ))
    .bind(claim.lanes)
    .bind(claim.tenant_limit)
    .bind(limited(claim.limit))
    .fetch_all(tx)
    .await?)
}

/// What one job, under one key, has waiting in a lane.
struct Group {
    lane: i64,
    tenant: Uuid,
    job: Uuid,
    key: String,
    /// Free places, as far as a look without locks tells.
    places: i64,
}

/// Where the heads of lanes are taken by what is at its limit: the heads of the groups that have free places. Each group is looked at once,
/// however much of it waits. `taken` is what is offered already. Where there are more groups than a claim looks at, it goes on at `start`, which moves.
pub(super) async fn beyond(
    tx: &mut PgConnection,
    claim: &Claim<'_>,
    limit: usize,
    taken: (&[Uuid], &Admission),
    start: &mut Uuid,
) -> Result<Vec<Uuid>> {
    // Without statistics, as of a backlog that has just come, the planner would sort a lane's rows for each of its groups: seconds instead
    // of milliseconds. The index has them in order.
    sorting(tx, "off").await?;
    let bound = (GROUPS / claim.lanes.len().max(1)).clamp(GROUPS_OF_LANE.0, GROUPS_OF_LANE.1);
    let mut groups = groups(tx, claim, *start, bound).await?;
    let mut next = cut_at(&groups, bound);
    if next.is_none() && !start.is_nil() {
        // Round to the beginning.
        let from = *start;
        let rest = self::groups(tx, claim, Uuid::nil(), bound).await?;
        next = cut_at(&rest, bound);
        groups.extend(rest.into_iter().filter(|group| group.job < from));
    }
    sorting(tx, "on").await?;
    *start = next.unwrap_or_default();
    for group in &mut groups {
        // Beside what is offered already.
        let gates = [Gate::Job(group.tenant, group.job), Gate::Key(group.tenant, group.key.clone())];
        group.places = taken.1.places(&gates).map_or(group.places, |free| free.min(group.places));
    }
    groups.retain(|group| group.places > 0);
    if groups.is_empty() {
        return Ok(Vec::new());
    }
    Ok(sqlx::query_scalar(
        "select c.id from (
            select n.id, n.priority, n.late, n.run_at,
                row_number() over (partition by g.lane_id order by n.priority desc, n.late, n.run_at, n.id) as turn
            from unnest($1::bigint[], $2::uuid[], $3::text[], $4::bigint[]) as g(lane_id, job_id, key, places)
            cross join lateral (
                select e.id, e.priority, e.late, e.run_at from live_executions e
                where e.lane_id = g.lane_id and e.job_id = g.job_id and e.concurrency_key = g.key and e.state = 1
                  and e.cancel_requested_at is null and e.id <> all($5)
                  and (e.start_by is null or e.start_by > statement_timestamp())
                order by e.priority desc, e.late, e.run_at, e.id limit least(g.places, $6)
            ) n
         ) c order by c.priority desc, c.late, c.turn, c.run_at, c.id limit $6",
    )
    .bind(groups.iter().map(|g| g.lane).collect::<Vec<_>>())
    .bind(groups.iter().map(|g| g.job).collect::<Vec<_>>())
    .bind(groups.iter().map(|g| g.key.clone()).collect::<Vec<_>>())
    .bind(groups.iter().map(|g| g.places).collect::<Vec<_>>())
    .bind(taken.0)
    .bind(limited(limit))
    .fetch_all(tx)
    .await?)
}

/// Whether the planner may sort, in this transaction.
async fn sorting(tx: &mut PgConnection, value: &'static str) -> Result<()> {
    let set = "select set_config('enable_sort', $1, true), set_config('enable_incremental_sort', $1, true)";
    sqlx::query(set).bind(value).execute(tx).await?;
    Ok(())
}

/// The job at which a lane was cut, where one had more groups than the bound.
fn cut_at(groups: &[Group], bound: usize) -> Option<Uuid> {
    let mut by_lane: BTreeMap<i64, (usize, Uuid)> = BTreeMap::new();
    for group in groups {
        let (count, last) = by_lane.entry(group.lane).or_default();
        *count += 1;
        *last = group.job.max(*last);
    }
    by_lane.into_values().filter(|(count, _)| *count >= bound).map(|(_, last)| last).min()
}

/// The groups of the lanes from a job on, each found by a step in the index, with their free places.
async fn groups(tx: &mut PgConnection, claim: &Claim<'_>, start: Uuid, bound: usize) -> Result<Vec<Group>> {
    let found = sqlx::query(concat!(
        "with recursive lane as (",
        open_lanes!(),
        "), step(lane_id, job_id, key, n) as (
            select lane.id, f.job_id, f.concurrency_key, 1::bigint from lane cross join lateral (
                select e.job_id, e.concurrency_key from live_executions e
                where e.lane_id = lane.id and e.state = 1 and e.job_id >= $3
                order by e.job_id, e.concurrency_key limit 1
            ) f
            union all
            select s.lane_id, f.job_id, f.concurrency_key, s.n + 1 from step s cross join lateral (
                select e.job_id, e.concurrency_key from live_executions e
                where e.lane_id = s.lane_id and e.state = 1 and (e.job_id, e.concurrency_key) > (s.job_id, s.key)
                order by e.job_id, e.concurrency_key limit 1
            ) f where s.n < $4
         )
         select s.lane_id, j.tenant_id, s.job_id, s.key, least(
            case when j.max_concurrent > 0 then j.max_concurrent - (
                select count(*) from live_executions r
                where r.tenant_id = j.tenant_id and r.job_id = j.id and r.session_id is not null) else $5 end,
            case when s.key <> '' then (
                select min(r.key_limit) from live_executions r
                where r.tenant_id = j.tenant_id and r.concurrency_key = s.key and r.concurrency_key <> '' and r.state > 0
            ) - (
                select count(*) from live_executions r
                where r.tenant_id = j.tenant_id and r.concurrency_key = s.key and r.concurrency_key <> ''
                  and r.session_id is not null) else $5 end
         ) as places
         from step s join scheduled_jobs j on j.id = s.job_id"
    ))
    .bind(claim.lanes)
    .bind(claim.tenant_limit)
    .bind(start)
    .bind(limited(bound))
    .bind(limited(claim.limit))
    .fetch_all(tx)
    .await?;
    let group = |row: &sqlx::postgres::PgRow| {
        Ok(Group {
            lane: row.try_get("lane_id")?,
            tenant: row.try_get("tenant_id")?,
            job: row.try_get("job_id")?,
            key: row.try_get("key")?,
            places: row.try_get("places")?,
        })
    };
    found.iter().map(group).collect()
}

/// Locks what was picked and nobody else has locked, in the order of the picking. Each row is found by its key, whatever the planner believes of
/// the table's size: a statement that joined the ids would read all that waits where statistics are old.
pub(super) async fn lock(tx: &mut PgConnection, picked: &[Uuid], tenant_limit: i64) -> Result<Vec<Found>> {
    if picked.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query(concat!(
        "select ",
        live_columns!(),
        ", j.max_concurrent::bigint, coalesce(q.max_concurrent, 0)::bigint, coalesce(t.max_concurrent, $2)::bigint
         from unnest($1::uuid[]) as p(id)
         cross join lateral (
            select * from live_executions l
            where l.id = p.id and l.state = 1 and l.cancel_requested_at is null
              and (l.start_by is null or l.start_by > statement_timestamp())
            limit 1 for update skip locked
         ) e
         join scheduled_jobs j on j.id = e.job_id
         left join queue_limits q on q.tenant_id = e.tenant_id and q.name = e.queue
         left join tenants t on t.id = e.tenant_id"
    ))
    .bind(picked)
    .bind(tenant_limit)
    .fetch_all(tx)
    .await?;
    let mut found = HashMap::with_capacity(rows.len());
    for row in &rows {
        let locked = Locked::of(row)?;
        let of: [i64; 3] = [row.try_get(33)?, row.try_get(34)?, row.try_get(35)?];
        let gates = Gate::of(&locked.execution);
        let limit = |gate: &Gate| match gate {
            Gate::Job(..) => Some(of[0]).filter(|limit| *limit > 0),
            Gate::Queue(..) => Some(of[1]).filter(|limit| *limit > 0),
            Gate::Tenant(_) => Some(of[2]).filter(|limit| *limit > 0),
            Gate::Key(..) => Some(0),
        };
        let limits = gates.iter().filter_map(|gate| Some((gate.clone(), limit(gate)?))).collect();
        found.insert(locked.execution.id, Found { locked, gates, limits });
    }
    let mut seen = HashSet::with_capacity(picked.len());
    Ok(picked.iter().filter(|id| seen.insert(**id)).filter_map(|id| found.remove(id)).collect())
}
