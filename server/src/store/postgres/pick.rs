//! Which pending executions a claim looks at.

use std::collections::{BTreeMap, HashMap, HashSet};

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::apply::Locked;
use super::place::Place;
use super::planner::{leased, sorting};
use super::rows::own_columns;
use super::{limited, rows};
use crate::admission::{Admission, Gate};
use crate::execution::Execution;
use crate::store::{Claim, Result};

/// Groups of one job and key that a claim looks at in all, and in one lane.
const GROUPS: usize = 4000;
const GROUPS_OF_LANE: (usize, usize) = (16, 1000);

/// A pending execution, locked, with the limits that it may meet.
pub(super) struct Found {
    pub(super) locked: Locked,
    /// Those that have a limit, and their limits. That of a key is not known before it is counted.
    pub(super) gates: Vec<Gate>,
    pub(super) limits: Vec<(Gate, i64)>,
    /// Of its tenant.
    pub(super) weight: i32,
}

/// The lanes of a claim (`$1`) that are worth to look into: not those of a tenant that is suspended, or of a queue or tenant at its
/// limit (`$2` is the default of tenants).
macro_rules! open_lanes {
    () => {
        concat!(
            "select l.id, l.tenant_id, coalesce(t.weight, 1) as weight from lanes l
         left join queue_limits q on q.tenant_id = l.tenant_id and q.name = l.queue
         left join tenants t on t.id = l.tenant_id
         where l.id = any($1) and t.suspended_at is null
           and (q.max_concurrent is null or q.max_concurrent > (
                select count(*) from live_executions r
                where r.tenant_id = l.tenant_id and r.queue = l.queue and ",
            leased!("r"),
            "))
           and (coalesce(t.max_concurrent, $2) = 0 or coalesce(t.max_concurrent, $2) > (
                select count(*) from live_executions r where r.tenant_id = l.tenant_id and ",
            leased!("r"),
            "))"
        )
    };
}

/// The heads of the lanes, as far as a claim looks.
pub(super) struct Heads {
    pub(super) ids: Vec<Uuid>,
    /// How many were found in each lane that was looked into, up to the limit of the claim.
    pub(super) waiting: HashMap<i64, usize>,
}

/// The heads of the lanes: the highest priority first and in turns between lanes, by the weights of their tenants and how far these are
/// `ahead`. Not locked, for to lock within each lane would lock `limit` of every lane, and take them from the others for nothing.
pub(super) async fn heads(tx: &mut PgConnection, claim: &Claim<'_>, ahead: &[(Uuid, f64)]) -> Result<Heads> {
    let found: Vec<(Option<Uuid>, Option<i64>, Option<i64>)> = sqlx::query_as(concat!(
        "with open as materialized (",
        open_lanes!(),
        "), head as materialized (
            select n.*, lane.id as lane_id, lane.ahead
                + (row_number() over (partition by lane.id order by n.priority desc, n.late, n.run_at, n.id) - 1)::double precision / lane.weight as turn
            from (
                select o.id, o.weight, coalesce(a.ahead, 0) as ahead from open o left join unnest($4::uuid[], $5::double precision[]) as a(tenant_id, ahead) on a.tenant_id = o.tenant_id
            ) as lane cross join lateral (
                select e.id, e.priority, e.late, e.run_at from live_executions e
                where e.lane_id = lane.id and e.state = 1 and e.cancel_requested_at is null
                  and (e.start_by is null or e.start_by > statement_timestamp())
                order by e.priority desc, e.late, e.run_at, e.id limit $3
            ) n
         )
         (select h.id, null::bigint as lane_id, null::bigint as waiting from head h
            order by h.priority desc, h.late, h.turn, h.run_at, h.id limit $3)
         union all
         select null, o.id, coalesce(c.waiting, 0) from open o
            left join (select h.lane_id, count(*) as waiting from head h group by h.lane_id) c on c.lane_id = o.id"
    ))
    .bind(claim.lanes)
    .bind(claim.tenant_limit)
    .bind(limited(claim.limit))
    .bind(ahead.iter().map(|(tenant, _)| *tenant).collect::<Vec<_>>())
    .bind(ahead.iter().map(|(_, ahead)| *ahead).collect::<Vec<_>>())
    .fetch_all(tx)
    .await?;
    let (mut ids, mut waiting) = (Vec::with_capacity(found.len()), HashMap::new());
    for row in found {
        match row {
            (Some(id), ..) => ids.push(id),
            (None, Some(lane), count) => {
                let count = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
                waiting.insert(lane, count);
            }
            (None, None, _) => {}
        }
    }
    Ok(Heads { ids, waiting })
}

/// What one job, under one key, has waiting in a lane.
struct Group {
    lane: i64,
    tenant: Uuid,
    job: Uuid,
    key: String,
    /// Free places, as far as a look without locks tells.
    places: i64,
    /// Of its tenant.
    weight: i32,
}

/// Where the heads of lanes are taken by what is at its limit: the heads of the groups that have free places. Each group is looked at once,
/// however much of it waits. `taken` is what is offered already. Where there are more groups than a claim looks at, it goes on at `start`, which moves.
pub(super) async fn beyond(
    tx: &mut PgConnection,
    claim: &Claim<'_>,
    limit: usize,
    taken: (&[Uuid], &Admission),
    (start, ahead): (&mut Uuid, &[(Uuid, f64)]),
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
            select n.id, n.priority, n.late, n.run_at, g.ahead + (row_number() over (
                    partition by g.lane_id order by n.priority desc, n.late, n.run_at, n.id) - 1)::double precision / g.weight as turn
            from unnest($1::bigint[], $2::uuid[], $3::text[], $4::bigint[], $7::integer[], $8::double precision[])
                as g(lane_id, job_id, key, places, weight, ahead)
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
    .bind(groups.iter().map(|g| g.weight).collect::<Vec<_>>())
    .bind(groups.iter().map(|g| ahead_of(ahead, g.tenant)).collect::<Vec<_>>())
    .fetch_all(tx)
    .await?)
}

fn ahead_of(ahead: &[(Uuid, f64)], tenant: Uuid) -> f64 {
    ahead.iter().find(|(one, _)| *one == tenant).map_or(0.0, |(_, ahead)| *ahead)
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
///
/// A comparison of rows does not imply the condition of that index (`job_id is not null`), so the step says `job_id >= ...` as well: without
/// it the index would not be used.
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
                where e.lane_id = s.lane_id and e.state = 1
                  and e.job_id >= s.job_id and (e.job_id, e.concurrency_key) > (s.job_id, s.key)
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
         ) as places, lane.weight
         from step s join lane on lane.id = s.lane_id join scheduled_jobs j on j.id = s.job_id"
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
            weight: row.try_get("weight")?,
        })
    };
    found.iter().map(group).collect()
}

/// The columns of what is locked: an execution, and its place.
macro_rules! placed_columns {
    () => {
        concat!(own_columns!(), ", e.ctid::text as place")
    };
}

/// Locks what was picked and nobody else has locked, in the order of the picking. Each row is found by its key, whatever the planner believes of
/// the table's size: a statement that joined the ids would read all that waits where statistics are old. So would one that said `l.state = 1` as
/// the indexes of what waits do: they hold ids too, and while they are believed to be empty one is searched from end to end for each of them.
pub(super) async fn lock(tx: &mut PgConnection, picked: &[Uuid], tenant_limit: i64) -> Result<Vec<Found>> {
    if picked.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query(concat!(
        "select ",
        placed_columns!(),
        " from unnest($1::uuid[]) as p(id)
         cross join lateral (
            select l.*, l.ctid from live_executions l
            where l.id = p.id and +l.state = 1 and l.cancel_requested_at is null
              and (l.start_by is null or l.start_by > statement_timestamp())
            limit 1 for update skip locked
         ) e"
    ))
    .bind(picked)
    .fetch_all(&mut *tx)
    .await?;
    let mut by_id: HashMap<Uuid, Found> =
        found(tx, &rows, tenant_limit).await?.into_iter().map(|one| (one.locked.execution.id, one)).collect();
    let mut seen = HashSet::with_capacity(picked.len());
    Ok(picked.iter().filter(|id| seen.insert(**id)).filter_map(|id| by_id.remove(id)).collect())
}

/// Locks the heads of the only lane of a claim that nobody else has locked, in their order, in one look. What somebody else has locked
/// is passed over, for what waits behind it.
pub(super) async fn lock_heads(tx: &mut PgConnection, claim: &Claim<'_>) -> Result<Vec<Found>> {
    let rows = sqlx::query(concat!(
        "select ",
        placed_columns!(),
        " from (",
        open_lanes!(),
        ") as lane cross join lateral (
            select l.*, l.ctid from live_executions l
            where l.lane_id = lane.id and l.state = 1 and l.cancel_requested_at is null
              and (l.start_by is null or l.start_by > statement_timestamp())
            order by l.priority desc, l.late, l.run_at, l.id limit $3 for update skip locked
         ) e"
    ))
    .bind(claim.lanes)
    .bind(claim.tenant_limit)
    .bind(limited(claim.limit))
    .fetch_all(&mut *tx)
    .await?;
    found(tx, &rows, claim.tenant_limit).await
}

/// A job, its tenant, and a queue that executions of it wait in: all those of it have the same limits.
type Sort = (Uuid, Uuid, String);

/// What a claim needs to know of a sort.
struct Bounds {
    job_name: String,
    job_version: i64,
    limits: Vec<(Gate, i64)>,
    weight: i32,
}

/// Rows of [`placed_columns`], with what limits them. Those whose job is gone are left out.
async fn found(tx: &mut PgConnection, rows: &[PgRow], tenant_limit: i64) -> Result<Vec<Found>> {
    let mut executions = Vec::with_capacity(rows.len());
    let mut sorts: Vec<Sort> = Vec::new();
    for row in rows {
        let execution = rows::own(row)?;
        let is_of = |sort: &Sort| sort.0 == execution.job_id && sort.2 == execution.queue;
        // Mostly that of the row before.
        let number = sorts.iter().rposition(is_of).unwrap_or_else(|| {
            sorts.push((execution.job_id, execution.tenant_id, execution.queue.clone()));
            sorts.len() - 1
        });
        executions.push((Box::new(execution), Place::of(row, 31)?, number));
    }
    let bounds = bounds(tx, &sorts, tenant_limit).await?;
    let found = |(mut execution, place, number): (Box<Execution>, Place, usize)| {
        let of = bounds.get(number)?.as_ref()?;
        let key = execution.concurrency.as_ref().map(|c| (Gate::Key(execution.tenant_id, c.key.clone()), 0));
        let limits: Vec<(Gate, i64)> = of.limits.iter().cloned().chain(key).collect();
        let gates = limits.iter().map(|(gate, _)| gate.clone()).collect();
        execution.job_name.clone_from(&of.job_name);
        Some(Found { locked: Locked::at(place, execution, of.job_version), gates, limits, weight: of.weight })
    };
    Ok(executions.into_iter().filter_map(found).collect())
}

/// By sort; `None` where the job is gone.
async fn bounds(tx: &mut PgConnection, sorts: &[Sort], tenant_limit: i64) -> Result<Vec<Option<Bounds>>> {
    let mut bounds: Vec<Option<Bounds>> = sorts.iter().map(|_| None).collect();
    if sorts.is_empty() {
        return Ok(bounds);
    }
    let rows = sqlx::query(
        "select u.number, j.name, j.version, j.max_concurrent::bigint, coalesce(q.max_concurrent, 0)::bigint,
            coalesce(t.max_concurrent, $4)::bigint, coalesce(t.weight, 1)
         from unnest($1::uuid[], $2::uuid[], $3::text[]) with ordinality as u(job_id, tenant_id, queue, number)
         cross join lateral (select s.name, s.version, s.max_concurrent from scheduled_jobs s where s.id = u.job_id limit 1) j
         left join queue_limits q on q.tenant_id = u.tenant_id and q.name = u.queue
         left join tenants t on t.id = u.tenant_id",
    )
    .bind(column(sorts, |sort| sort.0))
    .bind(column(sorts, |sort| sort.1))
    .bind(column(sorts, |sort| sort.2.clone()))
    .bind(tenant_limit)
    .fetch_all(tx)
    .await?;
    for row in &rows {
        let number: i64 = row.try_get(0)?;
        let Some((at, (job, tenant, queue))) =
            usize::try_from(number - 1).ok().and_then(|at| Some((at, sorts.get(at)?)))
        else {
            continue;
        };
        let gates =
            [(Gate::Tenant(*tenant), 5), (Gate::Queue(*tenant, queue.clone()), 4), (Gate::Job(*tenant, *job), 3)];
        let mut limits = Vec::new();
        for (gate, column) in gates {
            let limit: i64 = row.try_get(column)?;
            limits.extend((limit > 0).then_some((gate, limit)));
        }
        bounds[at] =
            Some(Bounds { job_name: row.try_get(1)?, job_version: row.try_get(2)?, limits, weight: row.try_get(6)? });
    }
    Ok(bounds)
}

fn column<T>(sorts: &[Sort], of: impl Fn(&Sort) -> T) -> Vec<T> {
    sorts.iter().map(of).collect()
}
