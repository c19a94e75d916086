//! [`Gates`]: what runs behind a gate, counted from live leases, and the locks under which it is counted.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use async_trait::async_trait;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::PgStore;
use super::audit::note;
use super::commit::commit;
use super::planner::leased;
use crate::admission::{Gate, Room};
use crate::audit::Deed;
use crate::store::{Gates, Result, text};

/// Locks that the gates of tenants, queues and keys share. Keys have no rows to lock, and there is no end to them: as many locks as keys
/// would fill PostgreSQL's table of locks. Two gates with one lock only wait for each other.
const STRIPES: i64 = 128;

#[async_trait]
impl Gates for PgStore {
    async fn rooms(&self, gates: &[Gate], tenant_limit: i64) -> Result<Vec<(Gate, Room)>> {
        let mut tx = self.begin_all(gates.iter().map(Gate::tenant)).await?;
        let limits = limits(&mut tx, gates, tenant_limit).await?;
        let rooms = counted(&mut tx, &limits).await?;
        // A key that nothing names now.
        Ok(rooms.into_iter().filter(|(_, room)| room.limit < i64::MAX).collect())
    }

    async fn set_queue_limit(&self, tenant: Uuid, queue: &str, limit: i32, by: Uuid) -> Result<()> {
        let notes = self.notes();
        let mut tx = self.begin_for(tenant).await?;
        let was = "select max_concurrent from queue_limits where tenant_id = $1 and name = $2 for update";
        let was: Option<i32> =
            sqlx::query_scalar(was).bind(tenant).bind(text::plain(queue)).fetch_optional(&mut *tx).await?;
        if limit <= 0 {
            let remove = "delete from queue_limits where tenant_id = $1 and name = $2";
            sqlx::query(remove).bind(tenant).bind(text::plain(queue)).execute(&mut *tx).await?;
        } else {
            sqlx::query(
                "insert into queue_limits (tenant_id, name, max_concurrent, updated_by) values ($1, $2, $3, $4)
                 on conflict (tenant_id, name) do update set max_concurrent = excluded.max_concurrent,
                    updated_at = clock_timestamp(), updated_by = excluded.updated_by",
            )
            .bind(tenant)
            .bind(text::plain(queue))
            .bind(limit)
            .bind(by)
            .execute(&mut *tx)
            .await?;
        }
        let deed = || Deed::queue_limited(tenant, queue, was.unwrap_or(0), limit);
        note(&mut tx, &notes.changed(0, deed)).await?;
        commit(tx).await
    }
}

/// Locks the gates of tenants, queues and keys until the transaction ends, in one order whoever does it. With `wait` it waits for those
/// who hold them, and all are locked; without, those that somebody holds are left out. A transaction waits once only, before it has
/// tried any: a ring of waiters cannot be.
pub(super) async fn lock_shared(
    tx: &mut PgConnection,
    scope: i64,
    gates: &BTreeSet<Gate>,
    wait: bool,
) -> Result<BTreeSet<Gate>> {
    let mut stripes: BTreeMap<i32, Vec<&Gate>> = BTreeMap::new();
    for gate in gates {
        stripes.entry(stripe(gate)).or_default().push(gate);
    }
    if stripes.is_empty() {
        return Ok(BTreeSet::new());
    }
    // Two numbers are another kind of lock than the one number that the rest of this store locks.
    let space = i32::try_from(scope.rem_euclid(i64::from(i32::MAX))).unwrap_or(0);
    let numbers: Vec<i32> = stripes.keys().copied().collect();
    if wait {
        let lock = "select pg_advisory_xact_lock($1, u.stripe) from unnest($2::integer[]) as u(stripe)";
        sqlx::query(lock).bind(space).bind(&numbers).execute(tx).await?;
        return Ok(gates.clone());
    }
    let lock = "select u.stripe from unnest($2::integer[]) as u(stripe) where pg_try_advisory_xact_lock($1, u.stripe)";
    let had: Vec<i32> = sqlx::query_scalar(lock).bind(space).bind(&numbers).fetch_all(tx).await?;
    Ok(had.iter().filter_map(|number| stripes.get(number)).flatten().map(|gate| (*gate).clone()).collect())
}

fn stripe(gate: &Gate) -> i32 {
    let (kind, tenant, name) = match gate {
        Gate::Tenant(tenant) => (1, tenant, ""),
        Gate::Queue(tenant, name) => (2, tenant, name.as_str()),
        Gate::Key(tenant, key) => (3, tenant, key.as_str()),
        Gate::Job(tenant, _) => (4, tenant, ""),
    };
    let number = super::number_of(&[&[kind][..], tenant.as_bytes(), name.as_bytes()].concat());
    i32::try_from(number.rem_euclid(STRIPES)).unwrap_or(0)
}

/// Locks the rows of jobs that nobody else has locked, and answers with their limits as they are now, by (tenant, job).
pub(super) async fn lock_jobs(tx: &mut PgConnection, jobs: &[Uuid]) -> Result<Vec<(Gate, i64)>> {
    if jobs.is_empty() {
        return Ok(Vec::new());
    }
    let held = sqlx::query(
        "select id, tenant_id, max_concurrent from scheduled_jobs where id = any($1) order by id for no key update skip locked",
    )
    .bind(jobs)
    .fetch_all(tx)
    .await?;
    let limit = |row: &sqlx::postgres::PgRow| {
        let gate = Gate::Job(row.try_get("tenant_id")?, row.try_get("id")?);
        Ok((gate, i64::from(row.try_get::<i32, _>("max_concurrent")?)))
    };
    held.iter().map(limit).collect()
}

/// The limits of those gates that have one. That of a key comes with its count.
async fn limits(connection: &mut PgConnection, gates: &[Gate], tenant_limit: i64) -> Result<Vec<(Gate, i64)>> {
    let mut limits = Vec::new();
    for gate in gates {
        let limit: Option<i64> = match gate {
            Gate::Key(..) => Some(0),
            Gate::Tenant(tenant) => {
                let own = "select max_concurrent::bigint from tenants where id = $1";
                let own: Option<Option<i64>> =
                    sqlx::query_scalar(own).bind(tenant).fetch_optional(&mut *connection).await?;
                Some(own.flatten().unwrap_or(tenant_limit)).filter(|limit| *limit > 0)
            }
            Gate::Queue(tenant, name) => {
                let own = "select max_concurrent::bigint from queue_limits where tenant_id = $1 and name = $2";
                sqlx::query_scalar(own).bind(tenant).bind(name).fetch_optional(&mut *connection).await?
            }
            Gate::Job(tenant, job) => {
                let own = "select max_concurrent::bigint from scheduled_jobs
                    where tenant_id = $1 and id = $2 and max_concurrent > 0";
                sqlx::query_scalar(own).bind(tenant).bind(job).fetch_optional(&mut *connection).await?
            }
        };
        limits.extend(limit.map(|limit| (gate.clone(), limit)));
    }
    Ok(limits)
}

/// The rooms of gates with these limits, from the leases that live. In statements of their own, whose snapshots are younger than the
/// locks that the caller holds.
pub(super) async fn counted(connection: &mut PgConnection, limits: &[(Gate, i64)]) -> Result<HashMap<Gate, Room>> {
    let mut rooms: HashMap<Gate, Room> =
        limits.iter().map(|(gate, limit)| (gate.clone(), Room { limit: *limit, running: 0 })).collect();
    let mut asked = Asked::default();
    for (gate, _) in limits {
        match gate {
            Gate::Tenant(tenant) => asked.tenants.push(*tenant),
            Gate::Queue(tenant, name) => asked.queues.push(*tenant, name.clone()),
            Gate::Key(tenant, key) => asked.keys.push(*tenant, key.clone()),
            Gate::Job(tenant, job) => asked.jobs.push(*tenant, *job),
        }
    }
    for (gate, running, limit) in asked.counts(connection).await? {
        if let Some(room) = rooms.get_mut(&gate) {
            room.running = running;
            room.limit = limit.unwrap_or(room.limit);
        }
    }
    Ok(rooms)
}

/// Columns of what is asked.
struct Of<T> {
    tenants: Vec<Uuid>,
    names: Vec<T>,
}

impl<T> Default for Of<T> {
    fn default() -> Self {
        Self { tenants: Vec::new(), names: Vec::new() }
    }
}

impl<T> Of<T> {
    fn push(&mut self, tenant: Uuid, name: T) {
        self.tenants.push(tenant);
        self.names.push(name);
    }
}

#[derive(Default)]
struct Asked {
    tenants: Vec<Uuid>,
    queues: Of<String>,
    keys: Of<String>,
    jobs: Of<Uuid>,
}

impl Asked {
    /// Leases behind each gate, and of keys their limit.
    async fn counts(self, connection: &mut PgConnection) -> Result<Vec<(Gate, i64, Option<i64>)>> {
        let mut counts = Vec::new();
        if !self.jobs.names.is_empty() {
            let found: Vec<(Uuid, Uuid, i64)> = sqlx::query_as(
                "select tenant_id, job_id, count(*) from live_executions
                 where (tenant_id, job_id) in (select * from unnest($1::uuid[], $2::uuid[])) and session_id is not null
                 group by tenant_id, job_id",
            )
            .bind(&self.jobs.tenants)
            .bind(&self.jobs.names)
            .fetch_all(&mut *connection)
            .await?;
            counts.extend(found.into_iter().map(|(tenant, job, running)| (Gate::Job(tenant, job), running, None)));
        }
        if !self.keys.names.is_empty() {
            let found: Vec<(Uuid, String, i64, Option<i32>)> = sqlx::query_as(
                "select u.tenant_id, u.key,
                    (select count(*) from live_executions e
                     where e.tenant_id = u.tenant_id and e.concurrency_key = u.key and e.concurrency_key <> ''
                       and e.session_id is not null),
                    (select min(e.key_limit) from live_executions e
                     where e.tenant_id = u.tenant_id and e.concurrency_key = u.key and e.concurrency_key <> '' and e.state > 0)
                 from unnest($1::uuid[], $2::text[]) as u(tenant_id, key)",
            )
            .bind(&self.keys.tenants)
            .bind(&self.keys.names)
            .fetch_all(&mut *connection)
            .await?;
            // Where nothing of a key waits or runs, there is nothing that a limit could hold back.
            let of = |(tenant, key, running, limit): (Uuid, String, i64, Option<i32>)| {
                (Gate::Key(tenant, key), running, Some(limit.map_or(i64::MAX, i64::from)))
            };
            counts.extend(found.into_iter().map(of));
        }
        if !self.queues.names.is_empty() {
            let found: Vec<(Uuid, String, i64)> = sqlx::query_as(concat!(
                "select u.tenant_id, u.name, (select count(*) from live_executions e
                    where e.tenant_id = u.tenant_id and e.queue = u.name and ",
                leased!("e"),
                ") from unnest($1::uuid[], $2::text[]) as u(tenant_id, name)",
            ))
            .bind(&self.queues.tenants)
            .bind(&self.queues.names)
            .fetch_all(&mut *connection)
            .await?;
            counts.extend(found.into_iter().map(|(tenant, name, running)| (Gate::Queue(tenant, name), running, None)));
        }
        if !self.tenants.is_empty() {
            let found: Vec<(Uuid, i64)> = sqlx::query_as(concat!(
                "select u.id, (select count(*) from live_executions e where e.tenant_id = u.id and ",
                leased!("e"),
                ") from unnest($1::uuid[]) as u(id)",
            ))
            .bind(&self.tenants)
            .fetch_all(&mut *connection)
            .await?;
            counts.extend(found.into_iter().map(|(tenant, running)| (Gate::Tenant(tenant), running, None)));
        }
        Ok(counts)
    }
}
