//! Tallies: totals by period, so that statistics over any range read few rows.
//!
//! The transaction that finishes executions writes with them what they add up to ([`note`]), a row for each job and minute. [`PgStore::add_up_changes`]
//! takes such changes away and adds them to the tallies, in one transaction. A change is thus committed with what it counts, and is
//! counted once, however late its transaction commits: there is no mark that something could fall behind.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Postgres, QueryBuilder, Row};
use uuid::Uuid;

use super::partitions::floor_id;
use super::{PgStore, rows};
use crate::execution::{Execution, State};
use crate::store::Result;
use crate::store::histogram::Histogram;
use crate::store::tally::{Cover, OF_JOB, OF_TENANT, Span, Tally, floor};

/// Changes, and rows of older versions, that one transaction adds up.
const BATCH: i64 = 5_000;
/// `execution_tallies.job_id` of all jobs of a tenant.
const ALL_JOBS: Uuid = Uuid::nil();

/// What has the tenant, job and minute of a change, or the tenant, job, width and begin of a tally.
type Changes = BTreeMap<(Uuid, Uuid, DateTime<Utc>), Tally>;
type Tallies = BTreeMap<(Uuid, Uuid, i32, DateTime<Utc>), Tally>;

macro_rules! totals {
    () => {
        "completed, failed, cancelled, timed_out, retried, total_ms, max_ms, durations"
    };
}

/// Writes down what finished executions add up to; in the transaction that finishes them.
pub(super) async fn note(connection: &mut PgConnection, executions: &[&Execution]) -> Result<()> {
    let mut changes = Changes::new();
    for execution in executions {
        if let State::Done(outcome) = &execution.state {
            let key = (execution.tenant_id, execution.job_id, floor(execution.scheduled_at, OF_TENANT[0]));
            changes.entry(key).or_default().count(execution, outcome);
        }
    }
    if changes.is_empty() {
        return Ok(());
    }
    let columns = Columns::of(changes.values());
    let key = |of: fn(&(Uuid, Uuid, DateTime<Utc>)) -> Uuid| changes.keys().map(of).collect::<Vec<_>>();
    let insert = sqlx::query(concat!(
        "insert into execution_tally_changes (tenant_id, job_id, at, ",
        totals!(),
        ") select * from unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
            $8::bigint[], $9::bigint[], $10::bigint[], $11::bytea[])"
    ));
    let insert = insert.bind(key(|k| k.0)).bind(key(|k| k.1)).bind(changes.keys().map(|k| k.2).collect::<Vec<_>>());
    columns.bind(insert).execute(connection).await?;
    Ok(())
}

/// Tallies as columns.
struct Columns {
    counts: [Vec<i64>; 7],
    durations: Vec<Vec<u8>>,
}

impl Columns {
    fn of<'a>(tallies: impl Iterator<Item = &'a Tally>) -> Self {
        let mut columns = Self { counts: Default::default(), durations: Vec::new() };
        for tally in tallies {
            let Tally { completed, failed, cancelled, timed_out, retried, total_ms, max_ms, durations } = tally;
            let counts = [completed, failed, cancelled, timed_out, retried, total_ms, max_ms];
            columns.counts.iter_mut().zip(counts).for_each(|(column, count)| column.push(*count));
            columns.durations.push(durations.to_bytes());
        }
        columns
    }

    fn bind<'q>(
        self,
        query: sqlx::query::Query<'q, Postgres, sqlx::postgres::PgArguments>,
    ) -> sqlx::query::Query<'q, Postgres, sqlx::postgres::PgArguments> {
        self.counts.into_iter().fold(query, |query, counts| query.bind(counts)).bind(self.durations)
    }
}

fn tally(row: &PgRow) -> Result<Tally> {
    let durations: &[u8] = row.try_get("durations")?;
    let broken = || rows::corrupt("execution_tallies", "durations", "no histogram");
    Ok(Tally {
        completed: row.try_get("completed")?,
        failed: row.try_get("failed")?,
        cancelled: row.try_get("cancelled")?,
        timed_out: row.try_get("timed_out")?,
        retried: row.try_get("retried")?,
        total_ms: row.try_get("total_ms")?,
        max_ms: row.try_get("max_ms")?,
        durations: Histogram::from_bytes(durations).ok_or_else(broken)?,
    })
}

fn summed(found: &[PgRow]) -> Result<Tally> {
    let mut sum = Tally::default();
    for row in found {
        sum.add(&tally(row)?);
    }
    Ok(sum)
}

/// Begins the sums over rows of history, which `from ... where ...` is to follow; [`end_sums`] ends them. One row for each
/// value of `keys`.
fn begin_sums(query: &mut QueryBuilder<Postgres>, keys: &'static str) {
    let comma = if keys.is_empty() { "" } else { ", " };
    query.push("select ").push(keys).push(comma).push(
        "coalesce(sum(completed), 0)::bigint as completed, coalesce(sum(failed), 0)::bigint as failed,
            coalesce(sum(cancelled), 0)::bigint as cancelled, coalesce(sum(timed_out), 0)::bigint as timed_out,
            coalesce(sum(retried), 0)::bigint as retried, coalesce(sum(total_ms), 0)::bigint as total_ms,
            coalesce(max(max_ms), 0)::bigint as max_ms, coalesce(string_agg(int2send(bucket::smallint) || int8send(measured), ''::bytea
                order by bucket) filter (where bucket is not null), ''::bytea) as durations
         from (select ",
    );
    query.push(keys).push(comma).push(
        "bucket, count(*) filter (where status = 'completed') as completed,
            count(*) filter (where status = 'failed') as failed, count(*) filter (where status = 'cancelled') as cancelled,
            count(*) filter (where error_type = 'TIMEOUT') as timed_out, count(*) filter (where retry_count > 0) as retried,
            count(ms) as measured, sum(ms) as total_ms, max(ms) as max_ms
         from (select *, case when ms < 128 then greatest(ms, 0) else (e - 6) * 64 + (ms >> (e - 6)) end as bucket
         from (select *, (((get_byte(f, 0) & 127) << 4) | (get_byte(f, 1) >> 4)) - 1023 as e
         from (select tenant_id, job_id, date_bin('1 minute', scheduled_at, 'epoch') as at, status, error_type, retry_count,
            case when started_at is not null then duration_ms end as ms,
            float8send(case when started_at is not null then duration_ms end) as f ",
    );
}

fn end_sums(query: &mut QueryBuilder<Postgres>, keys: &'static str) {
    query.push(") r) x) b group by ");
    if !keys.is_empty() {
        query.push(keys).push(", ");
    }
    query.push("bucket) g");
    if !keys.is_empty() {
        query.push(" group by ").push(keys);
    }
}

/// What statistics are asked of.
#[derive(Clone, Copy)]
pub(super) struct Scope {
    pub(super) tenant: Uuid,
    pub(super) job: Option<Uuid>,
}

impl Scope {
    fn widths(self) -> &'static [i32] {
        if self.job.is_some() { OF_JOB } else { OF_TENANT }
    }

    /// `where` of the tenant, and the job if one is named.
    pub(super) fn push(self, query: &mut QueryBuilder<Postgres>) {
        query.push(" where tenant_id = ").push_bind(self.tenant);
        if let Some(job) = self.job {
            query.push(" and job_id = ").push_bind(job);
        }
    }
}

/// The totals of what is over and scheduled in a range. The caller's transaction sees one snapshot.
pub(super) async fn over(
    connection: &mut PgConnection,
    scope: Scope,
    range: Span,
    now: DateTime<Utc>,
) -> Result<Tally> {
    let cover = Cover::of(range, now, scope.widths());
    let mut sum = periods(connection, scope, &cover).await?;
    if let Some(whole) = cover.whole() {
        sum.add(&changes(connection, scope, whole).await?);
        sum.add(&uncounted(connection, scope, whole).await?);
    }
    for span in &cover.add {
        sum.add(&plain(connection, scope, *span).await?);
    }
    for span in &cover.subtract {
        sum.subtract(&plain(connection, scope, *span).await?);
    }
    Ok(sum)
}

async fn periods(connection: &mut PgConnection, scope: Scope, cover: &Cover) -> Result<Tally> {
    let found = sqlx::query(concat!(
        // Each by a range of the key; joined as tables, all tallies of the tenant would be read.
        "select t.* from unnest($3::integer[], $4::timestamptz[], $5::timestamptz[]) as p(period, first, last)
         cross join lateral (select ",
        totals!(),
        " from execution_tallies where tenant_id = $1 and job_id = $2 and width = p.period and at >= p.first and at < p.last
            order by at offset 0) t"
    ))
    .bind(scope.tenant)
    .bind(scope.job.unwrap_or(ALL_JOBS))
    .bind(cover.periods.iter().map(|(width, _)| *width).collect::<Vec<_>>())
    .bind(cover.periods.iter().map(|(_, (first, _))| *first).collect::<Vec<_>>())
    .bind(cover.periods.iter().map(|(_, (_, last))| *last).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    summed(&found)
}

/// What is in no tally yet.
async fn changes(connection: &mut PgConnection, scope: Scope, (from, to): Span) -> Result<Tally> {
    let mut query = QueryBuilder::new(concat!("select ", totals!(), " from execution_tally_changes"));
    scope.push(&mut query);
    query.push(" and at >= ").push_bind(from).push(" and at < ").push_bind(to);
    summed(&query.build().fetch_all(connection).await?)
}

/// What a coordinator of an older version has finished.
async fn uncounted(connection: &mut PgConnection, scope: Scope, (from, to): Span) -> Result<Tally> {
    if !is_uncounted(connection).await? {
        return Ok(Tally::default());
    }
    let mut query = QueryBuilder::default();
    begin_sums(&mut query, "");
    query.push("from job_executions");
    scope.push(&mut query);
    query.push(" and not counted and scheduled_at >= ").push_bind(from);
    query.push(" and scheduled_at < ").push_bind(to);
    end_sums(&mut query, "");
    tally(&query.build().fetch_one(connection).await?)
}

/// Whether there is any such row. In the order of their index, so that it serves where PostgreSQL does not know yet how few they are.
async fn is_uncounted(connection: &mut PgConnection) -> Result<bool> {
    let first = "select exists (select 1 from job_executions where not counted order by tenant_id, id limit 1)";
    Ok(sqlx::query_scalar(first).fetch_one(connection).await?)
}

/// The totals of a span as history itself has them.
async fn plain(connection: &mut PgConnection, scope: Scope, (from, to): Span) -> Result<Tally> {
    let push = |query: &mut QueryBuilder<Postgres>| {
        scope.push(query);
        query.push(" and scheduled_at >= ").push_bind(from).push(" and scheduled_at < ").push_bind(to);
    };
    // Nearly all have their scheduled instant in their id, which is what history is ordered and partitioned by.
    let mut query = QueryBuilder::default();
    begin_sums(&mut query, "");
    query.push("from job_executions");
    push(&mut query);
    query.push(" and not delayed and id >= ").push_bind(floor_id(from));
    query.push(" and id < ").push_bind(floor_id(to + chrono::Duration::milliseconds(1)));
    // Of all of a status and trigger, so that the index by them serves.
    query.push(
        " and status in ('completed', 'failed', 'cancelled') and trigger_type in ('scheduled', 'manual', 'retry')",
    );
    end_sums(&mut query, "");
    let mut sum = tally(&query.build().fetch_one(&mut *connection).await?)?;
    let mut query = QueryBuilder::default();
    begin_sums(&mut query, "");
    query.push("from job_executions");
    push(&mut query);
    query.push(" and delayed");
    end_sums(&mut query, "");
    sum.add(&tally(&query.build().fetch_one(connection).await?)?);
    Ok(sum)
}

impl PgStore {
    /// Adds up what has been finished since; `false` where there was nothing left, or another coordinator is at it.
    pub(super) async fn add_up_changes(&self) -> Result<bool> {
        let mut tx = self.begin().await?;
        let ours: bool = sqlx::query_scalar("select pg_try_advisory_xact_lock($1)")
            .bind(self.inner.scope.wrapping_add(3))
            .fetch_one(&mut *tx)
            .await?;
        if !ours {
            return Ok(false);
        }
        let taken = sqlx::query(concat!(
            "delete from execution_tally_changes where ctid = any(array(select ctid from execution_tally_changes limit $1))
             returning tenant_id, job_id, at, ",
            totals!()
        ))
        .bind(BATCH)
        .fetch_all(&mut *tx)
        .await?;
        let late = count_uncounted(&mut tx).await?;
        let mut sums = Tallies::new();
        for row in taken.iter().chain(&late) {
            add_change(&mut sums, row)?;
        }
        if !sums.is_empty() {
            add_to_tallies(&mut tx, sums).await?;
        }
        tx.commit().await?;
        Ok(i64::try_from(taken.len()).is_ok_and(|taken| taken == BATCH) || !late.is_empty())
    }
}

/// Marks rows of older versions as counted, and answers with what they add up to.
async fn count_uncounted(connection: &mut PgConnection) -> Result<Vec<PgRow>> {
    const KEYS: &str = "tenant_id, job_id, at";
    if !is_uncounted(connection).await? {
        return Ok(Vec::new());
    }
    let mut query = QueryBuilder::new(
        "with counted as (
            update job_executions set counted = true where id = any(array(select id from job_executions where not counted limit ",
    );
    query.push_bind(BATCH).push(")) returning *) ");
    begin_sums(&mut query, KEYS);
    query.push("from counted");
    end_sums(&mut query, KEYS);
    Ok(query.build().fetch_all(connection).await?)
}

/// Adds a change to the sums of all periods that it is in.
fn add_change(sums: &mut Tallies, row: &PgRow) -> Result<()> {
    let (tenant, job): (Uuid, Uuid) = (row.try_get("tenant_id")?, row.try_get("job_id")?);
    let at: DateTime<Utc> = row.try_get("at")?;
    let change = tally(row)?;
    for (job, widths) in [(ALL_JOBS, OF_TENANT), (job, OF_JOB)] {
        for width in widths {
            sums.entry((tenant, job, *width, floor(at, *width))).or_default().add(&change);
        }
    }
    Ok(())
}

/// Reads the tallies of these periods, adds, and writes. Nobody else does meanwhile.
async fn add_to_tallies(connection: &mut PgConnection, mut sums: Tallies) -> Result<()> {
    type Key = (Uuid, Uuid, i32, DateTime<Utc>);
    fn keys<T>(sums: &Tallies, of: fn(&Key) -> T) -> Vec<T> {
        sums.keys().map(of).collect()
    }
    let found = sqlx::query(concat!(
        "select k.*, t.* from unnest($1::uuid[], $2::uuid[], $3::integer[], $4::timestamptz[]) as k(tenant_id, job_id, width, at)
         cross join lateral (select ",
        totals!(),
        " from execution_tallies t where t.tenant_id = k.tenant_id and t.job_id = k.job_id and t.width = k.width and t.at = k.at
            offset 0) t"
    ))
    .bind(keys(&sums, |k| k.0))
    .bind(keys(&sums, |k| k.1))
    .bind(keys(&sums, |k| k.2))
    .bind(keys(&sums, |k| k.3))
    .fetch_all(&mut *connection)
    .await?;
    for row in &found {
        let key = (row.try_get("tenant_id")?, row.try_get("job_id")?, row.try_get("width")?, row.try_get("at")?);
        sums.entry(key).or_default().add(&tally(row)?);
    }
    let write = sqlx::query(concat!(
        "insert into execution_tallies (tenant_id, job_id, width, at, ",
        totals!(),
        ") select * from unnest($1::uuid[], $2::uuid[], $3::integer[], $4::timestamptz[], $5::bigint[], $6::bigint[], $7::bigint[],
            $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bytea[])
         on conflict (tenant_id, job_id, width, at) do update set completed = excluded.completed, failed = excluded.failed,
            cancelled = excluded.cancelled, timed_out = excluded.timed_out, retried = excluded.retried,
            total_ms = excluded.total_ms, max_ms = excluded.max_ms, durations = excluded.durations"
    ));
    let write = write.bind(keys(&sums, |k| k.0)).bind(keys(&sums, |k| k.1));
    let write = write.bind(keys(&sums, |k| k.2)).bind(keys(&sums, |k| k.3));
    Columns::of(sums.values()).bind(write).execute(connection).await?;
    Ok(())
}
