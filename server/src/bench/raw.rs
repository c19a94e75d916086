//! What the database itself can do: claim and completion written by hand, in the tables of the product with their indexes. Rows are found by
//! key and changed by place, as quick as it is known to go: a plain join of a thousand ids let the planner read the whole table (a seventh of the speed).

use sqlx::{PgConnection, PgPool, Row as _};
use tokio::time::Instant;
use uuid::Uuid;

use super::error::{Result, failed};

/// Rows that a claim takes, and a completion ends.
const BATCH: i64 = 1000;

/// The two statements of a layout of the tables.
pub(super) struct Layout {
    claim: &'static str,
    complete: &'static str,
}

/// A claim's statement: the same for both layouts but for its table.
macro_rules! claim_from {
    ($table:literal) => {
        concat!(
            "with picked as materialized (
            select ctid from ",
            $table,
            " where lane_id = $1 and state = 1
            order by priority desc, late, run_at, id limit $2 for update skip locked)
         update ",
            $table,
            " e set state = 2, session_id = $3, worker_name = $4, job_version = $5, epoch = e.epoch + 1,
            attempt = e.attempt + 1, granted_at = clock_timestamp(), deadline = clock_timestamp() + interval '1 hour'
         where e.ctid = any(array(select ctid from picked)) returning e.id, e.epoch"
        )
    };
}

/// The product's: what is done moves to history.
pub(super) const TWO_TABLES: Layout = Layout {
    claim: claim_from!("live_executions"),
    complete: "with gone as (
            delete from live_executions e where e.ctid = any(array(
                select l.ctid from unnest($1::uuid[], $2::bigint[]) as u(id, epoch) cross join lateral (
                    select l.ctid from live_executions l
                    where l.id = u.id and l.epoch = u.epoch and l.session_id is not distinct from $3 limit 1
                ) l)) returning e.*)
         insert into job_executions (id, job_id, tenant_id, trigger_type, triggered_by, status, progress, scheduled_at, run_at,
            created_at, started_at, completed_at, duration_ms, result, error_message, error_stack, retry_count, worker_id,
            worker_name, attempts, parameters, epoch, attempt, losses, queue, lane_id, priority, job_version, delayed, counted)
         select id, job_id, tenant_id, 'manual', triggered_by, 'completed', progress, scheduled_at, run_at, created_at, granted_at,
            clock_timestamp(), 0, $4::jsonb, '', '', 0, session_id, worker_name, $5::jsonb, parameters::jsonb, epoch, attempt,
            losses, queue, lane_id, priority, job_version, false, true
         from gone",
};

/// What is done stays where it is, in the table of [`super::layouts`].
pub(super) const ONE_TABLE: Layout = Layout {
    claim: claim_from!("bench_executions"),
    complete: "update bench_executions e set state = 3, status = 'completed', session_id = null, worker_id = e.session_id, started_at = e.granted_at,
            completed_at = clock_timestamp(), duration_ms = 0, result = $4::jsonb, attempts = $5, error_message = '', error_stack = '',
            retry_count = 0, counted = true
         where e.ctid = any(array(
            select l.ctid from unnest($1::uuid[], $2::bigint[]) as u(id, epoch) cross join lateral (
                select l.ctid from bench_executions l
                where l.id = u.id and l.epoch = u.epoch and l.session_id is not distinct from $3 limit 1
            ) l))",
};

/// What every row ends with, as an execution of the product ended with it.
pub(super) struct Ending {
    pub(super) result: Option<String>,
    pub(super) attempts: Option<String>,
    pub(super) worker_name: Option<String>,
    pub(super) job_version: i64,
}

impl Ending {
    /// That of the newest finished execution.
    ///
    /// # Errors
    /// Where there is none.
    pub(super) async fn newest(pool: &PgPool) -> Result<Self> {
        let newest =
            "select result::text as result, attempts::text as attempts, worker_name, job_version from job_executions
            where status = 'completed' order by id desc limit 1";
        let row =
            sqlx::query(newest).fetch_optional(pool).await?.ok_or_else(|| failed("no execution has completed"))?;
        Ok(Self {
            result: row.try_get("result")?,
            attempts: row.try_get("attempts")?,
            worker_name: row.try_get("worker_name")?,
            job_version: row.try_get("job_version")?,
        })
    }
}

/// Claims and completes all that waits in a lane, on one connection: two statements a batch, each a transaction of its own. Answers with
/// the rows and the seconds that it took.
///
/// # Errors
/// Where a statement fails.
pub(super) async fn claim_and_complete(
    pool: &PgPool,
    layout: &Layout,
    lane: i64,
    ending: &Ending,
) -> Result<(u64, f64)> {
    let mut connection = pool.acquire().await?;
    let session = Uuid::new_v4();
    let began = Instant::now();
    let mut rows = 0;
    loop {
        let claimed = claim(&mut connection, layout, lane, session, ending).await?;
        if claimed.is_empty() {
            break;
        }
        let done = complete(&mut connection, layout, &claimed, session, ending).await?;
        if done != claimed.len() as u64 {
            return Err(failed("somebody else has worked on the rows of the raw limit"));
        }
        rows += done;
    }
    Ok((rows, began.elapsed().as_secs_f64()))
}

async fn claim(
    c: &mut PgConnection,
    layout: &Layout,
    lane: i64,
    session: Uuid,
    ending: &Ending,
) -> Result<Vec<(Uuid, i64)>> {
    Ok(sqlx::query_as(layout.claim)
        .bind(lane)
        .bind(BATCH)
        .bind(session)
        .bind(&ending.worker_name)
        .bind(ending.job_version)
        .fetch_all(c)
        .await?)
}

async fn complete(
    c: &mut PgConnection,
    layout: &Layout,
    claimed: &[(Uuid, i64)],
    session: Uuid,
    ending: &Ending,
) -> Result<u64> {
    let (ids, epochs): (Vec<Uuid>, Vec<i64>) = claimed.iter().copied().unzip();
    let done = sqlx::query(layout.complete)
        .bind(ids)
        .bind(epochs)
        .bind(session)
        .bind(&ending.result)
        .bind(&ending.attempts)
        .execute(c)
        .await?;
    Ok(done.rows_affected())
}
