//! A history that has run long ago: finished executions by the million, with what statistics keep of them.

use std::time::Duration;

use chrono::{DateTime, Datelike as _, TimeDelta, Utc};
use sqlx::{AssertSqlSafe, PgPool};
use uuid::Uuid;

use super::error::Result;
use super::fill::{CHUNK, far};
use super::raw::Ending;
use super::wait::until;
use crate::auth::DEFAULT_TENANT;

/// How long a coordinator may take to add up what a history comes to.
const TOTALS: Duration = Duration::from_secs(1800);

/// What of a history is known.
pub(super) struct Written {
    pub(super) from: DateTime<Utc>,
    pub(super) to: DateTime<Utc>,
    /// Some of its executions.
    pub(super) ids: Vec<Uuid>,
}

/// Finished executions of jobs, one after the other from the first of the month on, or from yesterday, to now: of 100, three have failed
/// and one was cancelled; the others have ended like `ending`. The last job has never failed.
///
/// # Errors
/// Where they cannot be written.
pub(super) async fn write(pool: &PgPool, jobs: &[String], rows: u64, ending: &Ending) -> Result<Written> {
    let jobs: Vec<Uuid> = jobs.iter().filter_map(|id| id.parse().ok()).collect();
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
    total(pool).await?;
    sqlx::query("vacuum (analyze) job_executions").execute(pool).await?;
    let ids =
        "select id from job_executions where abs(hashtextextended(id::text, 0)) % greatest($1 / 500, 1) = 0 limit 1000";
    let ids = sqlx::query_scalar(ids).bind(rows).fetch_all(pool).await?;
    Ok(Written { from, to, ids })
}

/// What rows are that the bench writes itself: their totals are its own affair, as those of a history that is older than totals.
///
/// # Errors
/// Where the table cannot be changed.
pub(super) async fn counted(pool: &PgPool) -> Result<()> {
    let known = "select exists (select 1 from information_schema.columns
        where table_schema = current_schema and table_name = 'job_executions' and column_name = 'counted')";
    if sqlx::query_scalar(known).fetch_one(pool).await? {
        sqlx::query("alter table job_executions alter column counted set default true").execute(pool).await?;
    }
    Ok(())
}

/// Makes the totals by the statement by which a migration makes them of what it finds, and waits until the coordinator has added them up.
async fn total(pool: &PgPool) -> Result<()> {
    let migrations = sqlx::migrate!("../migrations/postgres");
    let Some(statement) = migrations.iter().find_map(|migration| statement_of_totals(migration.sql.as_str())) else {
        return Ok(());
    };
    sqlx::query(AssertSqlSafe(statement.to_owned())).execute(pool).await?;
    until("the totals are added up", TOTALS, Duration::from_millis(250), async || {
        let left = "select exists (select 1 from execution_tally_changes)";
        Ok((!sqlx::query_scalar::<_, bool>(left).fetch_one(pool).await?).then_some(()))
    })
    .await
}

fn statement_of_totals(migration: &str) -> Option<&str> {
    let from = migration.find("insert into execution_tally_changes")?;
    migration[from..].split(";\n").next()
}
