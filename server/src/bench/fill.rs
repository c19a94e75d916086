//! Rows as the product writes them, made in the database by the million.

use chrono::{DateTime, Datelike as _, TimeDelta, Utc};
use sqlx::PgPool;
use uuid::Uuid;

use super::error::{Result, failed};
use super::progress::say;
use super::raw::Ending;
use crate::auth::DEFAULT_TENANT;

/// Rows of one statement.
const CHUNK: i64 = 100_000;

/// Rises with `n` (`$1` is the first millisecond, `$2` the rows of each): UUIDv7.
macro_rules! rising_id {
    () => {
        "(lpad(to_hex($1 + n / $2), 12, '0') || '7' || lpad(to_hex(n % $2), 3, '0') || '8' || substr(md5(n::text), 1, 15))::uuid"
    };
}

/// The lane that a job's executions have waited in.
///
/// # Errors
/// Where it has had none.
pub(super) async fn lane_of(pool: &PgPool, executor: &str) -> Result<i64> {
    let found: Option<i64> = sqlx::query_scalar("select id from lanes where tenant_id = $1 and executor = $2")
        .bind(DEFAULT_TENANT)
        .bind(executor)
        .fetch_optional(pool)
        .await?;
    found.ok_or_else(|| failed(format!("nothing has ever waited for {executor}")))
}

/// Pending executions of a job, with the columns that a trigger writes; answers with the last ids.
///
/// # Errors
/// Where they cannot be written.
pub(super) async fn pending(pool: &PgPool, job: &str, lane: i64, rows: u64) -> Result<()> {
    let job: Uuid = job.parse().map_err(|_| failed(format!("{job} is no id")))?;
    let rows = i64::try_from(rows).unwrap_or(i64::MAX);
    let now: i64 =
        sqlx::query_scalar("select (extract(epoch from clock_timestamp()) * 1000)::bigint").fetch_one(pool).await?;
    let first = now - rows / 1000 - 1;
    let mut from = 0;
    while from < rows {
        let to = (from + CHUNK).min(rows);
        sqlx::query(concat!(
            "insert into live_executions (id, tenant_id, job_id, lane_id, scheduled_at, run_at, created_at, priority, state,
                trigger_type, triggered_by, queue)
             select ",
            rising_id!(),
            ", $3, $4, $5, now(), now(), now(), 0, 1, 2, $3, 'default' from generate_series($6::bigint, $7::bigint - 1) as n"
        ))
        .bind(first)
        .bind(1000_i64)
        .bind(DEFAULT_TENANT)
        .bind(job)
        .bind(lane)
        .bind(from)
        .bind(to)
        .execute(pool)
        .await?;
        from = to;
        far(from, rows);
    }
    Ok(())
}

/// Says how far it is, where that takes long.
fn far(done: i64, rows: i64) {
    if done % 1_000_000 == 0 {
        say(format!("{done} of {rows} rows are written"));
    }
}

/// Empties the tables of executions, and lets nothing of what was be seen by what comes next.
///
/// # Errors
/// Where the tables are in use for too long.
pub(super) async fn clear(pool: &PgPool) -> Result<()> {
    sqlx::query("truncate live_executions, job_executions").execute(pool).await?;
    Ok(())
}

/// What a server that has held these rows for a while has done of itself: statistics, and no pages left to be written.
///
/// # Errors
/// Where the statistics cannot be made.
pub(super) async fn settled(pool: &PgPool) -> Result<()> {
    sqlx::query("vacuum (analyze) live_executions").execute(pool).await?;
    sqlx::query("analyze job_executions").execute(pool).await?;
    // Not everybody may; then a checkpoint comes when it comes.
    let _ = sqlx::query("checkpoint").execute(pool).await;
    Ok(())
}

/// What of a history is known.
pub(super) struct Written {
    pub(super) from: DateTime<Utc>,
    pub(super) to: DateTime<Utc>,
    /// Some of its executions.
    pub(super) ids: Vec<Uuid>,
}

/// Finished executions of jobs, one after the other from the first of the month on, or from yesterday, to now: of 100, three have failed
/// and one was cancelled; the others are like the newest one that has completed. The last job has never failed.
///
/// # Errors
/// Where they cannot be written, or nothing has completed.
pub(super) async fn history(pool: &PgPool, jobs: &[String], rows: u64) -> Result<Written> {
    let jobs: Vec<Uuid> = jobs.iter().filter_map(|id| id.parse().ok()).collect();
    let ending = Ending::newest(pool).await?;
    let to: DateTime<Utc> = sqlx::query_scalar("select clock_timestamp()").fetch_one(pool).await?;
    let first_of_month = to.date_naive().with_day(1).and_then(|day| day.and_hms_opt(0, 0, 0)).map(|at| at.and_utc());
    let from = first_of_month.unwrap_or(to).min(to - TimeDelta::days(1));
    let rows = i64::try_from(rows).unwrap_or(i64::MAX);
    // A millisecond has several rows, or a row several milliseconds.
    let span = (to - from).num_milliseconds().max(1);
    let mut done = 0;
    while done < rows {
        let until = (done + CHUNK).min(rows);
        let insert = "with row as (
                select n, $1::timestamptz + (n::float8 / $2 * $3) * interval '1 millisecond' as at
                from generate_series($4::bigint, $5::bigint - 1) as n)
             insert into job_executions (id, job_id, tenant_id, trigger_type, triggered_by, status, progress, scheduled_at, run_at,
                created_at, started_at, completed_at, duration_ms, result, error_type, error_message, error_stack, retry_count,
                worker_id, worker_name, attempts, epoch, attempt, losses, queue, lane_id, priority, job_version, delayed)
             select (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || '7000' || '8' || substr(md5(n::text), 1, 15))::uuid,
                $6[1 + (n / 100 + n) % cardinality($6)], $7, case when n % 4 = 0 then 'manual' else 'scheduled' end, null,
                case when n % 100 < 3 and (n / 100 + n + 1) % cardinality($6) <> 0 then 'failed' when n % 100 = 3 then 'cancelled' else 'completed' end, 0, at, at, at,
                at + interval '1 millisecond', at + interval '1 millisecond' * (5 + n % 1000), 4 + n % 1000, $8::jsonb,
                case when n % 100 < 3 and (n / 100 + n + 1) % cardinality($6) <> 0 then 'USER_ERROR' end, '', '', 0, $7, $9, $10::jsonb, 1, 1, 0, 'default', 1, 0, $11, false
             from row";
        sqlx::query(insert)
            .bind(from)
            .bind(rows as f64)
            .bind(span as f64)
            .bind(done)
            .bind(until)
            .bind(&jobs)
            .bind(DEFAULT_TENANT)
            .bind(&ending.result)
            .bind(&ending.worker_name)
            .bind(&ending.attempts)
            .bind(ending.job_version)
            .execute(pool)
            .await?;
        done = until;
        far(done, rows);
    }
    sqlx::query("vacuum (analyze) job_executions").execute(pool).await?;
    let ids =
        "select id from job_executions where abs(hashtextextended(id::text, 0)) % greatest($1 / 500, 1) = 0 limit 1000";
    let ids = sqlx::query_scalar(ids).bind(rows).fetch_all(pool).await?;
    Ok(Written { from, to, ids })
}
