//! Which pending executions a claim offers.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use sqlx::{Sqlite, Transaction};
use uuid::Uuid;

use super::gates::Rooms;
use super::rows::{self, micros, select_live};
use super::{SqliteStore, Work};
use crate::admission::Gate;
use crate::execution::Execution;
use crate::store::{Claim, Result};

/// Groups of one job and key that a claim looks at in all, and in one lane.
const GROUPS: usize = 4000;
const GROUPS_OF_LANE: (usize, usize) = (16, 1000);

/// What waits and has a place, and whether it is worth to look again at once.
pub(super) struct Offer {
    pub(super) executions: Vec<Execution>,
    /// Of their tenants.
    pub(super) weights: HashMap<Uuid, i32>,
    pub(super) more: bool,
    /// Whether something was passed over that waits still.
    pub(super) left: bool,
}

/// What a claim offers: the highest priority first and lanes in turns, within the limits. All that is offered counts, whether it is then
/// granted or not.
pub(super) async fn offer(store: &SqliteStore, work: &mut Work, claim: &Claim<'_>) -> Result<Offer> {
    let mut rooms = Rooms::default();
    let lanes = open_lanes(work, claim, &mut rooms).await?;
    let mut ranked = Vec::new();
    for lane in &lanes {
        let found = waiting(work, lane.id, claim.limit).await?;
        ranked.extend(found.into_iter().zip(lane.turns(store)));
    }
    let weights = lanes.iter().map(|lane| (lane.tenant, lane.weight)).collect();
    let heads = ordered(ranked, claim.limit);
    let is_full = heads.len() >= claim.limit;
    let mut offered = Vec::with_capacity(heads.len());
    let mut refused = false;
    for execution in heads {
        match rooms.admit(work, &Gate::of(&execution), claim.tenant_limit).await? {
            true => offered.push(execution),
            false => refused = true,
        }
    }
    // What is at its limit stands before more than was looked at.
    if !(refused && is_full && offered.len() < claim.limit.div_ceil(2)) {
        let left = refused || is_full || lanes.len() < claim.lanes.len();
        return Ok(Offer { executions: offered, weights, more: is_full, left });
    }
    let places = claim.limit - offered.len();
    let taken: BTreeSet<Uuid> = offered.iter().map(|e| e.id).collect();
    let found = beyond(store, work, (claim, places), &lanes, &taken, &mut rooms).await?;
    let found = ordered(found, places);
    let more = found.len() >= places;
    for execution in found {
        if rooms.admit(work, &Gate::of(&execution), claim.tenant_limit).await? {
            offered.push(execution);
        }
    }
    Ok(Offer { executions: offered, weights, more, left: true })
}

/// A lane that is worth to look into.
struct Open {
    id: i64,
    tenant: Uuid,
    /// Of its tenant.
    weight: i32,
}

impl Open {
    /// When what waits in it has its turns, by its tenant's clock.
    fn turns(&self, store: &SqliteStore) -> impl Iterator<Item = f64> + use<> {
        let (ahead, one) = (store.turns().ahead(self.tenant), 1.0 / f64::from(self.weight.max(1)));
        (0_u32..).map(move |turn| ahead + f64::from(turn) * one)
    }
}

/// The lanes of a claim but those of a tenant that is suspended, or of a queue or tenant at its limit.
async fn open_lanes(work: &mut Work, claim: &Claim<'_>, rooms: &mut Rooms) -> Result<Vec<Open>> {
    let mut open = Vec::with_capacity(claim.lanes.len());
    for id in claim.lanes.iter().copied().collect::<BTreeSet<i64>>() {
        let lane: Option<(Uuid, String, i32)> = sqlx::query_as(
            "select l.tenant_id, l.queue, coalesce(t.weight, 1) from lanes l left join tenants t on t.id = l.tenant_id \
             where l.id = ? and t.suspended_at is null",
        )
        .bind(id)
        .fetch_optional(&mut *work.tx)
        .await?;
        let Some((tenant, queue, weight)) = lane else { continue };
        let gates = [Gate::Tenant(tenant), Gate::Queue(tenant, queue)];
        if rooms.places(work, &gates, claim.tenant_limit, 1).await? > 0 {
            open.push(Open { id, tenant, weight });
        }
    }
    Ok(open)
}

/// The first of executions by priority, and within it by lanes in turns.
fn ordered(mut ranked: Vec<(Execution, f64)>, limit: usize) -> Vec<Execution> {
    ranked.sort_by(|(one, its_turn), (other, turn)| {
        let first = (Reverse(one.priority), one.is_late()).cmp(&(Reverse(other.priority), other.is_late()));
        let then = || (one.run_at, one.id).cmp(&(other.run_at, other.id));
        first.then(its_turn.total_cmp(turn)).then_with(then)
    });
    ranked.truncate(limit);
    ranked.into_iter().map(|(execution, _)| execution).collect()
}

/// The heads of the groups of one job and key that have free places, ranked within their lanes. Each group is looked at once, however much
/// of it waits. Where there are more groups than a claim looks at, the next one goes on from there.
async fn beyond(
    store: &SqliteStore,
    work: &mut Work,
    (claim, most): (&Claim<'_>, usize),
    lanes: &[Open],
    taken: &BTreeSet<Uuid>,
    rooms: &mut Rooms,
) -> Result<Vec<(Execution, f64)>> {
    let bound = (GROUPS / lanes.len().max(1)).clamp(GROUPS_OF_LANE.0, GROUPS_OF_LANE.1);
    let start = store.group_start();
    let mut next: Option<Uuid> = None;
    let mut ranked = Vec::new();
    for open in lanes {
        let (lane, tenant) = (open.id, open.tenant);
        let mut found = Vec::new();
        let mut group = first_group(&mut work.tx, lane, start).await?;
        let mut wrapped = start.is_nil();
        for looked_at in 1.. {
            let Some((job, key)) = group else {
                if wrapped {
                    break;
                }
                wrapped = true;
                group = first_group(&mut work.tx, lane, Uuid::nil()).await?;
                continue;
            };
            let mut gates = vec![Gate::Job(tenant, job)];
            gates.extend((!key.is_empty()).then(|| Gate::Key(tenant, key.clone())));
            let places = rooms.places(work, &gates, claim.tenant_limit, most).await?;
            if places > 0 {
                found.extend(heads_of(work, lane, job, &key, places, taken).await?);
            }
            if looked_at >= bound {
                next = Some(next.map_or(job, |next| next.min(job)));
                break;
            }
            group = next_group(&mut work.tx, lane, job, &key).await?;
        }
        found.sort_by_key(|e| (Reverse(e.priority), e.is_late(), e.run_at, e.id));
        found.dedup_by_key(|execution| execution.id);
        ranked.extend(found.into_iter().zip(open.turns(store)));
    }
    store.set_group_start(next.unwrap_or_default());
    Ok(ranked)
}

async fn first_group(tx: &mut Transaction<'static, Sqlite>, lane: i64, from: Uuid) -> Result<Option<(Uuid, String)>> {
    Ok(sqlx::query_as(
        "select job_id, concurrency_key from live_executions where lane_id = ? and state = 'pending' and job_id >= ? \
         order by job_id, concurrency_key limit 1",
    )
    .bind(lane)
    .bind(from)
    .fetch_optional(&mut **tx)
    .await?)
}

/// In two steps, for SQLite compares only the first of two columns by the index.
async fn next_group(
    tx: &mut Transaction<'static, Sqlite>,
    lane: i64,
    job: Uuid,
    key: &str,
) -> Result<Option<(Uuid, String)>> {
    let same_job = sqlx::query_as(
        "select job_id, concurrency_key from live_executions where lane_id = ? and state = 'pending' and job_id = ? \
         and concurrency_key > ? order by concurrency_key limit 1",
    )
    .bind(lane)
    .bind(job)
    .bind(key)
    .fetch_optional(&mut **tx)
    .await?;
    if same_job.is_some() {
        return Ok(same_job);
    }
    Ok(sqlx::query_as(
        "select job_id, concurrency_key from live_executions where lane_id = ? and state = 'pending' and job_id > ? \
         order by job_id, concurrency_key limit 1",
    )
    .bind(lane)
    .bind(job)
    .fetch_optional(&mut **tx)
    .await?)
}

/// The first that wait in a lane.
async fn waiting(work: &mut Work, lane: i64, limit: usize) -> Result<Vec<Execution>> {
    let found = sqlx::query(select_live!(
        "where lane_id = ?1 and state = 'pending' and (start_by is null or start_by > ?3) \
         order by priority desc, late, run_at, id limit ?2"
    ))
    .bind(lane)
    .bind(rows::count(limit))
    .bind(micros(work.now))
    .fetch_all(&mut *work.tx)
    .await?;
    found.iter().map(rows::live).collect()
}

/// The first of a group that wait and are not `taken` already.
async fn heads_of(
    work: &mut Work,
    lane: i64,
    job: Uuid,
    key: &str,
    limit: usize,
    taken: &BTreeSet<Uuid>,
) -> Result<Vec<Execution>> {
    let found = sqlx::query(select_live!(
        "where lane_id = ?1 and state = 'pending' and job_id = ?2 and concurrency_key = ?3 \
         and (start_by is null or start_by > ?5) order by priority desc, late, run_at, id limit ?4"
    ))
    .bind(lane)
    .bind(job)
    .bind(key)
    .bind(rows::count(limit.saturating_add(taken.len())))
    .bind(micros(work.now))
    .fetch_all(&mut *work.tx)
    .await?;
    let mut heads = found.iter().map(rows::live).collect::<Result<Vec<_>>>()?;
    heads.retain(|execution| !taken.contains(&execution.id));
    heads.truncate(limit);
    Ok(heads)
}
