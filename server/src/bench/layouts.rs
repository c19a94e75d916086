//! The two ways to keep executions: a small table of what lives beside a history that is only appended to, which is the product's, and one table
//! of all, whose indexes are partial, of what lives and of what is done. Both get the same rows, by the same kind of statements.

use sqlx::{AssertSqlSafe, PgPool};
use tokio::time::Instant;

use super::bed::Bed;
use super::deployment::Deployment;
use super::error::{Result, failed};
use super::figure::Figure;
use super::progress::say;
use super::raw::{self, Ending};
use super::report::Case;
use super::settings::Engine;
use super::throughput::{wal, warmed};
use super::worker::{MODULE, NOOP};
use super::{fill, past};

/// One month of one table: partitions do not come into it, for what lives is of this month or the last.
const ONE_TABLE: &[&str] = &[
    "create table bench_executions (like live_executions including defaults including generated, status text not null,
        error_type text, error_message text, error_stack text, retry_count integer, worker_id uuid, completed_at timestamptz,
        duration_ms bigint, result jsonb, memory_peak_mb double precision, cpu_time_ms bigint, counted boolean)",
    "create unique index on bench_executions (id)",
    "create index on bench_executions (lane_id, priority desc, late, run_at, id) where state = 1",
    "create index on bench_executions (lane_id, job_id, concurrency_key, priority desc, late, run_at, id) where state = 1",
    "create index on bench_executions (tenant_id, job_id, session_id) where state <= 2",
    "create index on bench_executions (session_id) where session_id is not null",
    "create index on bench_executions (run_at) where state = 0",
    "create index on bench_executions (job_id, run_at) where state = 0",
    "create index on bench_executions (tenant_id, concurrency_key) where session_id is not null and concurrency_key <> ''",
    "create index on bench_executions (job_id, status, trigger_type, id) where state = 3",
    "create index on bench_executions (tenant_id, status, trigger_type, id) where state = 3",
    "create index on bench_executions (tenant_id, id) where not counted",
    "insert into bench_executions (id, tenant_id, job_id, lane_id, epoch, job_version, scheduled_at, run_at, created_at, granted_at,
        started_at, priority, attempt, losses, state, trigger_type, queue, worker_name, attempts, status, error_type, error_message,
        error_stack, retry_count, worker_id, completed_at, duration_ms, result, counted)
     select id, tenant_id, job_id, lane_id, epoch, job_version, scheduled_at, run_at, created_at, started_at, started_at, priority,
        attempt, losses, 3, 2, queue, worker_name, attempts::text, status, error_type, error_message, error_stack, retry_count,
        worker_id, completed_at, duration_ms, result, true
     from job_executions",
    "insert into bench_executions (id, tenant_id, job_id, lane_id, scheduled_at, run_at, created_at, priority, state, trigger_type,
        triggered_by, queue, status)
     select id, tenant_id, job_id, lane_id, scheduled_at, run_at, created_at, priority, state, trigger_type, triggered_by, queue, 'live'
     from live_executions",
    "truncate live_executions",
    "vacuum (analyze) bench_executions",
];

/// What is measured of a layout.
struct Measured {
    statements: &'static raw::Layout,
    size: &'static str,
    /// What brings back the space of rows that are gone; history is only appended to.
    vacuum: &'static str,
}

const TWO: Measured = Measured {
    statements: &raw::TWO_TABLES,
    size: "select (pg_total_relation_size('live_executions') + coalesce(sum(pg_total_relation_size(relid)), 0))::bigint
        from pg_partition_tree('job_executions')",
    vacuum: "vacuum live_executions",
};

const ONE: Measured = Measured {
    statements: &raw::ONE_TABLE,
    size: "select pg_total_relation_size('bench_executions')::bigint",
    vacuum: "vacuum bench_executions",
};

/// Both layouts, without a history and with one.
///
/// # Errors
/// Where one cannot be measured.
pub(super) async fn measure(bed: &Bed) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for rows in [0].into_iter().chain(bed.settings.history.first().copied()) {
        say(format!("layouts: beside {rows} rows of history"));
        let deployment = Deployment::start(bed, Engine::Postgres).await?;
        let job = warmed(bed, &deployment, 100).await?;
        let pool = deployment.database.pool()?.clone();
        let ending = Ending::newest(&pool).await?;
        let lane = fill::lane_of(&pool, &format!("function:{MODULE}#{NOOP}")).await?;
        fill::clear(&pool).await?;
        if rows > 0 {
            past::write(&pool, std::slice::from_ref(&job), rows, &ending).await?;
        }
        // It would take back leases of a session that it does not know.
        let database = deployment.stop().await;
        let pool = database.pool()?;
        fill::pending(pool, &job, lane, bed.settings.executions).await?;
        for statement in ONE_TABLE {
            sqlx::query(AssertSqlSafe((*statement).to_owned())).execute(pool).await?;
        }
        let one = drained(bed, pool, &ONE, (lane, &ending)).await?;
        fill::pending(pool, &job, lane, bed.settings.executions).await?;
        let mut two = drained(bed, pool, &TWO, (lane, &ending)).await?;
        two.push(Figure::new("of_one_table", two[0].value / one[0].value, ""));
        let case =
            |name: &str, figures| Case::new(format!("{name}, {rows} rows of history"), figures).with("rows", rows);
        cases.extend([case("two tables", two), case("one table", one)]);
        bed.drop_databases().await;
    }
    Ok(cases)
}

/// Claims and completes all that waits, and clears up; the rate first.
async fn drained(bed: &Bed, pool: &PgPool, layout: &Measured, (lane, ending): (i64, &Ending)) -> Result<Vec<Figure>> {
    fill::settled(pool).await?;
    let size = async || sqlx::query_scalar::<_, i64>(layout.size).fetch_one(pool).await;
    let (cpu, disk, wal_before) = (bed.postgres_cpu(), size().await?, wal(pool).await?);
    let (rows, seconds) = raw::claim_and_complete(pool, layout.statements, lane, ending).await?;
    if rows != bed.settings.executions {
        return Err(failed(format!("{rows} of {} rows were there to be drained", bed.settings.executions)));
    }
    let cpu = bed.postgres_cpu().zip(cpu).map_or(f64::NAN, |(after, before)| after - before);
    let (disk, written) = (size().await? - disk, wal(pool).await? - wal_before);
    let began = Instant::now();
    sqlx::query(layout.vacuum).execute(pool).await?;
    let vacuum = began.elapsed().as_secs_f64();
    let each = |total: f64| total / rows as f64;
    Ok(vec![
        Figure::new("claim_complete_per_second", rows as f64 / seconds, "/s"),
        Figure::new("cpu_postgres_per_execution", each(cpu * 1e6), "us"),
        Figure::new("wal_per_execution", each(written as f64), "bytes"),
        Figure::new("disk_per_execution", each(disk as f64), "bytes"),
        Figure::new("vacuum_per_execution", each(vacuum * 1e6), "us"),
    ])
}
