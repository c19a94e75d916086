//! A steady rate for long: what grows.

use std::time::Duration;

use sqlx::PgPool;
use tokio::time::{Instant, interval};

use super::bed::Bed;
use super::commits::Commits;
use super::deployment::{Deployment, client};
use super::error::{Result, failed};
use super::figure::{Figure, Goal};
use super::load::Load;
use super::procfs;
use super::progress::say;
use super::report::Case;
use super::samples::Samples;
use super::settings::Engine;
use super::worker::NOOP;
use super::workers::{Fleet, Workers};

/// Executions in a second.
const RATE: u64 = 1200;

/// What the end may be of the beginning, where it should not grow.
const FLAT: f64 = 1.25;

/// Below so many seconds nothing has come to a balance yet, vacuum above all, and growth has no goal.
const LONG: u32 = 600;

/// Parts of the time; the first is for warming up, the second is the beginning, the last the end.
const PARTS: u32 = 10;

/// How things stand.
struct Look {
    /// From making to start, in milliseconds.
    lags: Samples,
    /// What a bare commit took, in milliseconds.
    commits: Samples,
    memory: f64,
    live_bytes: f64,
    dead_rows: f64,
}

impl Look {
    /// For those who watch.
    fn line(&self) -> String {
        let of = |samples: &Samples| [50.0, 99.0].map(|percentile| samples.percentile(percentile));
        let ([p50, p99], [commit_p50, commit_p99]) = (of(&self.lags), of(&self.commits));
        let (memory, table, dead) = (self.memory, self.live_bytes, self.dead_rows);
        format!(
            "lag p50 {p50:.1} ms, p99 {p99:.1} ms; a bare commit {commit_p50:.1}, {commit_p99:.1} ms; coordinator {memory:.1} MB; \
             live table {table:.1} MB, {dead} dead rows"
        )
    }
}

/// # Errors
/// Where it cannot be measured.
pub(super) async fn measure(bed: &Bed) -> Result<Vec<Case>> {
    let seconds = bed.settings.soak_seconds;
    say(format!("soak: {RATE} executions a second for {seconds} s"));
    let deployment = Deployment::start(bed, Engine::Postgres).await?;
    let job = deployment.asked_job(&deployment.client, NOOP, NOOP).await?;
    let mut workers = Workers::attached(bed, &deployment, Fleet::one(bed.settings.slots)).await?;
    let mut commits = Commits::start(deployment.database.pool()?).await?;
    let began = Instant::now();
    let load = Load::start(client(&deployment.grpc, &deployment.database.keys.caller)?, job, RATE);
    let mut ticks = interval(Duration::from_secs(seconds.into()) / PARTS);
    ticks.tick().await;
    let mut looks = Vec::new();
    for part in 1..=PARTS {
        ticks.tick().await;
        let look = look(&deployment, &mut workers, &mut commits).await?;
        say(format!("soak: {} s: {}", seconds * part / PARTS, look.line()));
        looks.push(look);
    }
    drop(commits);
    let asked = load.stop().await?;
    let rate = asked as f64 / began.elapsed().as_secs_f64();
    deployment.is_idle(Duration::from_secs(60), Duration::from_millis(50)).await?;
    let done = workers.count().await?.1;
    workers.stop().await;
    deployment.stop().await;
    let [_, first, .., last] = &looks[..] else { return Err(failed("the time is too short")) };
    let mut figures = vec![
        Figure::new("triggered_per_second", rate, "/s").goal(Goal::AtLeast(RATE as f64 * 0.99)),
        Figure::new("lost", asked as f64 - done as f64, "").goal(Goal::Exactly(0.0)),
    ];
    let lag = |look: &Look| look.lags.percentile(99.0);
    let most = |most: f64| (seconds >= LONG).then_some(most);
    figures.extend(grown("lag_p99", [lag(first), lag(last)], "ms", most(2.0)));
    let commit = |look: &Look| look.commits.percentile(99.0);
    figures.extend(grown("bare_commit_p99", [commit(first), commit(last)], "ms", None));
    figures.extend(grown("coordinator_memory", [first.memory, last.memory], "MB", most(FLAT)));
    figures.extend(grown("live_table", [first.live_bytes, last.live_bytes], "MB", most(FLAT)));
    figures.push(Figure::new("dead_rows_at_the_end", last.dead_rows, ""));
    Ok(vec![Case::new(format!("{seconds} s"), figures).with("executions", done)])
}

/// A value at the beginning and at the end, and how much it has grown.
fn grown(what: &str, [first, last]: [f64; 2], unit: &'static str, most: Option<f64>) -> [Figure; 3] {
    let growth = Figure::new(format!("{what}_growth"), last / first, "");
    [
        Figure::new(format!("{what}_at_the_beginning"), first, unit),
        Figure::new(format!("{what}_at_the_end"), last, unit),
        most.map_or(growth.clone(), |most| growth.goal(Goal::Below(most))),
    ]
}

async fn look(deployment: &Deployment, workers: &mut Workers, commits: &mut Commits) -> Result<Look> {
    let starts = workers.take().await?;
    let (live_bytes, dead_rows) = live_table(deployment.database.pool()?).await?;
    Ok(Look {
        lags: Samples::of(starts.iter().map(super::workers::Start::lag)),
        commits: commits.take().await?,
        memory: procfs::memory(deployment.pid()).map_or(f64::NAN, |(now, _)| now as f64 / 1e6),
        live_bytes: live_bytes as f64 / 1e6,
        dead_rows: dead_rows as f64,
    })
}

/// Bytes of the table of live executions with its indexes, and rows in it that are dead.
async fn live_table(pool: &PgPool) -> Result<(i64, i64)> {
    Ok(sqlx::query_as(
        "select pg_total_relation_size('live_executions')::bigint, coalesce((select n_dead_tup from pg_stat_user_tables
            where relname = 'live_executions'), 0)::bigint",
    )
    .fetch_one(pool)
    .await?)
}
