//! Rows as the product writes them, made in the database by the million.

use sqlx::PgPool;
use uuid::Uuid;

use super::error::{Result, failed};
use super::progress::say;
use crate::auth::DEFAULT_TENANT;

/// Rows of one statement.
pub(super) const CHUNK: i64 = 100_000;

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
pub(super) fn far(done: i64, rows: i64) {
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
