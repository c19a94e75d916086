//! A queue that is drained: from pending to committed results, history and results kept.

use std::time::Duration;

use serde_json::json;
use sqlx::PgPool;
use tokio::time::Instant;
use uuid::Uuid;

use super::bed::Bed;
use super::database::Database;
use super::deployment::{Deployment, START};
use super::error::{Result, failed};
use super::figure::{Figure, Goal, medians};
use super::fill;
use super::procfs;
use super::progress::say;
use super::raw::{self, Ending};
use super::report::Case;
use super::settings::Engine;
use super::wait::until;
use super::worker::{MODULE, NOOP};
use super::workers::{Fleet, Workers};

/// The most executions that run before anything is measured.
const WARM_UP: u64 = 2000;

/// How long a drain may take.
const DRAIN: Duration = Duration::from_secs(1200);

/// All cases: each number of agents on PostgreSQL, and one on SQLite.
///
/// # Errors
/// Where one cannot be measured.
pub(super) async fn measure(bed: &Bed) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for engine in bed.settings.engines.clone() {
        let several = [1];
        let agents = if engine == Engine::Postgres { &bed.settings.agents[..] } else { &several };
        for agents in agents.iter().copied() {
            cases.push(case(bed, engine, agents).await?);
        }
        if engine == Engine::Postgres {
            cases.push(Box::pin(secured(bed)).await?);
        }
    }
    Ok(cases)
}

async fn case(bed: &Bed, engine: Engine, agents: usize) -> Result<Case> {
    let (store, executions) = match engine {
        Engine::Postgres => ("postgres", bed.settings.executions),
        Engine::Sqlite => ("sqlite", bed.settings.sqlite_executions),
    };
    let name = format!("{store}, {agents} agent{}", if agents == 1 { "" } else { "s" });
    let mut runs = Vec::new();
    for run in 1..=bed.settings.runs {
        say(format!("throughput: {name}, run {run} of {}", bed.settings.runs));
        runs.push(match engine {
            Engine::Postgres => on_postgres(bed, agents, executions).await?,
            Engine::Sqlite => on_sqlite(bed, executions).await?,
        });
        bed.drop_databases().await;
    }
    let per_run: Vec<f64> = runs.iter().filter_map(|run| Some(run.first()?.value)).collect();
    let queued = match engine {
        Engine::Postgres => "inserted into live_executions with the columns of a trigger",
        Engine::Sqlite => "batch triggers",
    };
    Ok(Case::new(name, medians(&runs))
        .with("executions", executions)
        .with("agents", agents)
        .with("queued_by", queued)
        .with("executions_per_second_by_run", json!(per_run)))
}

/// What is read before and after a drain.
struct Used {
    coordinator: f64,
    agents: f64,
    postgres: f64,
    at: Instant,
}

impl Used {
    fn now(bed: &Bed, deployment: &Deployment, workers: &Workers) -> Self {
        let unknown = |value: Option<f64>| value.unwrap_or(f64::NAN);
        Self {
            coordinator: unknown(procfs::cpu(deployment.pid())),
            agents: unknown(workers.cpu()),
            postgres: unknown(bed.postgres_cpu()),
            at: Instant::now(),
        }
    }

    /// What has been used since then: a rate first, then CPU by process.
    fn figures(&self, since: &Self, executions: u64, least: f64) -> Vec<Figure> {
        let rate = executions as f64 / (self.at - since.at).as_secs_f64();
        vec![
            Figure::new("executions_per_second", rate, "/s").goal(Goal::AtLeast(least)),
            Figure::new("cpu_coordinator", self.coordinator - since.coordinator, "s"),
            Figure::new("cpu_agents", self.agents - since.agents, "s"),
            Figure::new("cpu_postgres", self.postgres - since.postgres, "s"),
        ]
    }
}

fn peak(deployment: &Deployment) -> Figure {
    let peak = procfs::memory(deployment.pid()).map_or(f64::NAN, |(_, peak)| peak as f64 / 1e6);
    Figure::new("coordinator_memory_peak", peak, "MB").goal(Goal::Below(250.0))
}

/// Lets a first agent run a few, so that lanes exist and nothing is done for the first time while it counts.
pub(super) async fn warmed(bed: &Bed, deployment: &Deployment, executions: u64) -> Result<String> {
    let job = deployment.asked_job(&deployment.client, NOOP, NOOP).await?;
    let workers = Workers::attached(bed, deployment, Fleet::one(bed.settings.slots)).await?;
    deployment.trigger(&deployment.client, &job, executions.min(WARM_UP)).await?;
    deployment.is_idle(START, Duration::from_millis(50)).await?;
    workers.stop().await;
    deployment.has_agents(0, START).await?;
    Ok(job)
}

fn fleet(bed: &Bed, agents: usize) -> Fleet {
    let slots = bed.settings.slots / u32::try_from(agents).unwrap_or(1).max(1);
    Fleet { processes: agents, each: 1, slots: slots.max(1), has_journal: true }
}

/// A queue that has been drained.
struct Drained {
    /// The rate first.
    figures: Vec<Figure>,
    database: Database,
    job: String,
    lane: i64,
    ending: Ending,
}

async fn on_postgres(bed: &Bed, agents: usize, executions: u64) -> Result<Vec<Figure>> {
    let deployment = Deployment::start(bed, Engine::Postgres).await?;
    let Drained { mut figures, database, job, lane, ending } =
        Box::pin(drain(bed, deployment, agents, executions)).await?;
    figures.extend(raw_limit(bed, database.pool()?, &job, lane, &ending, executions, figures[0].value).await?);
    Ok(figures)
}

/// What TLS and agents known by certificates cost: each run beside one without, all else alike.
async fn secured(bed: &Bed) -> Result<Case> {
    let executions = bed.settings.executions;
    let mut runs = Vec::new();
    for run in 1..=bed.settings.runs {
        say(format!("throughput: with TLS and certificates, run {run} of {}", bed.settings.runs));
        let plain = Deployment::start(bed, Engine::Postgres).await?;
        let plain = Box::pin(drain(bed, plain, 1, executions)).await?;
        let deployment = Deployment::start_secured(bed, Engine::Postgres).await?;
        let mut figures = Box::pin(drain(bed, deployment, 1, executions)).await?.figures;
        figures[0].goal = None;
        let (rate, without) = (figures[0].value, plain.figures[0].value);
        figures.push(Figure::new("executions_per_second_without", without, "/s"));
        figures.push(Figure::new("of_without", rate / without, "").goal(Goal::AtLeast(0.9)));
        runs.push(figures);
        bed.drop_databases().await;
    }
    Ok(Case::new("postgres, 1 agent, mTLS", medians(&runs)).with("executions", executions))
}

async fn drain(bed: &Bed, deployment: Deployment, agents: usize, executions: u64) -> Result<Drained> {
    let pool = deployment.database.pool()?.clone();
    let job = warmed(bed, &deployment, executions).await?;
    let ending = Ending::newest(&pool).await?;
    let lane = fill::lane_of(&pool, &format!("function:{MODULE}#{NOOP}")).await?;
    fill::clear(&pool).await?;
    fill::pending(&pool, &job, lane, executions).await?;
    fill::settled(&pool).await?;
    let last = last_ids(&pool).await?;
    let (wal, disk) = (wal(&pool).await?, history_size(&pool).await?);

    let mut workers = Workers::start(bed, &deployment, fleet(bed, agents)).await?;
    let before = Used::now(bed, &deployment, &workers);
    say(format!("throughput: draining, coordinator {}, agents {:?}", deployment.pid(), workers.pids()));
    workers.go().await?;
    drained(&mut workers, &pool, executions, &last).await?;
    let after = Used::now(bed, &deployment, &workers);

    let mut figures = after.figures(&before, executions, 60_000.0);
    figures.push(peak(&deployment));
    figures.extend(sizes(&pool, executions, wal, disk).await?);
    all_kept(&pool, executions).await?;
    workers.stop().await;
    Ok(Drained { figures, database: deployment.stop().await, job, lane, ending })
}

/// WAL and disk, of each execution.
async fn sizes(pool: &PgPool, executions: u64, wal_before: i64, disk_before: i64) -> Result<Vec<Figure>> {
    let each = |bytes: i64| bytes as f64 / executions as f64;
    Ok(vec![
        Figure::new("wal_per_execution", each(wal(pool).await? - wal_before), "bytes"),
        Figure::new("disk_per_execution", each(history_size(pool).await? - disk_before), "bytes"),
    ])
}

pub(super) async fn wal(pool: &PgPool) -> Result<i64> {
    Ok(sqlx::query_scalar("select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint").fetch_one(pool).await?)
}

/// Bytes of history, with its indexes.
async fn history_size(pool: &PgPool) -> Result<i64> {
    let sum = "select coalesce(sum(pg_total_relation_size(relid)), 0)::bigint from pg_partition_tree('job_executions')";
    Ok(sqlx::query_scalar(sum).fetch_one(pool).await?)
}

/// The executions that are taken last.
async fn last_ids(pool: &PgPool) -> Result<Vec<Uuid>> {
    Ok(sqlx::query_scalar("select id from live_executions order by id desc limit 1000").fetch_all(pool).await?)
}

/// Waits until every result is committed. The handlers are counted first, then the last rows are looked at, so that looking costs next to
/// nothing.
async fn drained(workers: &mut Workers, pool: &PgPool, executions: u64, last: &[Uuid]) -> Result<()> {
    workers.have_started(executions, DRAIN).await?;
    until("all results are committed", DRAIN, Duration::from_millis(5), async || {
        let some = "select exists (select 1 from live_executions where id = any($1))";
        if sqlx::query_scalar::<_, bool>(some).bind(last).fetch_one(pool).await? {
            return Ok(None);
        }
        let any: bool = sqlx::query_scalar("select exists (select 1 from live_executions)").fetch_one(pool).await?;
        Ok((!any).then_some(()))
    })
    .await
}

/// Nothing is lost and nothing has failed, or the rate means nothing.
async fn all_kept(pool: &PgPool, executions: u64) -> Result<()> {
    let kept: i64 =
        sqlx::query_scalar("select count(*) from job_executions where status = 'completed' and result is not null")
            .fetch_one(pool)
            .await?;
    match u64::try_from(kept) == Ok(executions) {
        true => Ok(()),
        false => Err(failed(format!("{kept} of {executions} executions have completed with a result"))),
    }
}

/// The same rows through statements written by hand, where nothing else uses the machine.
async fn raw_limit(
    bed: &Bed,
    pool: &PgPool,
    job: &str,
    lane: i64,
    ending: &Ending,
    executions: u64,
    rate: f64,
) -> Result<Vec<Figure>> {
    fill::clear(pool).await?;
    fill::pending(pool, job, lane, executions).await?;
    fill::settled(pool).await?;
    let (cpu, wal_before) = (bed.postgres_cpu().unwrap_or(f64::NAN), wal(pool).await?);
    let (rows, seconds) = raw::claim_and_complete(pool, &raw::TWO_TABLES, lane, ending).await?;
    let cpu = bed.postgres_cpu().unwrap_or(f64::NAN) - cpu;
    if rows != executions {
        return Err(failed(format!("the raw limit was measured over {rows} of {executions} rows")));
    }
    let raw = rows as f64 / seconds;
    Ok(vec![
        Figure::new("raw_claim_complete_per_second", raw, "/s"),
        Figure::new("raw_cpu_postgres", cpu, "s"),
        Figure::new("raw_wal_per_execution", (wal(pool).await? - wal_before) as f64 / rows as f64, "bytes"),
        Figure::new("ratio", rate / raw, "").goal(Goal::AtLeast(0.9)),
    ])
}

async fn on_sqlite(bed: &Bed, executions: u64) -> Result<Vec<Figure>> {
    let deployment = Deployment::start(bed, Engine::Sqlite).await?;
    let job = warmed(bed, &deployment, executions).await?;
    deployment.trigger(&deployment.client, &job, executions).await?;
    let mut workers = Workers::start(bed, &deployment, fleet(bed, 1)).await?;
    let before = Used::now(bed, &deployment, &workers);
    workers.go().await?;
    workers.have_started(executions, DRAIN).await?;
    deployment.is_idle(DRAIN, Duration::from_millis(5)).await?;
    let after = Used::now(bed, &deployment, &workers);
    let mut figures = after.figures(&before, executions, 10_000.0);
    // There is none in it.
    figures.retain(|figure| figure.name != "cpu_postgres");
    figures.push(peak(&deployment));
    workers.stop().await;
    deployment.stop().await;
    Ok(figures)
}
