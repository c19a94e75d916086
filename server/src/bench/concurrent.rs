//! Many executions that run at the same time.

use std::time::Duration;

use tokio::time::Instant;

use super::bed::Bed;
use super::deployment::Deployment;
use super::error::{Result, failed};
use super::figure::{Figure, Goal};
use super::procfs;
use super::progress::say;
use super::report::Case;
use super::settings::Engine;
use super::worker::WAIT;
use super::workers::{Fleet, Workers};

/// How long it may take until all run, and until all are done.
const PATIENCE: Duration = Duration::from_secs(300);

/// # Errors
/// Where it cannot be measured.
pub(super) async fn measure(bed: &Bed) -> Result<Vec<Case>> {
    let wanted = bed.settings.concurrent;
    say(format!("concurrent: {wanted} executions at once"));
    let deployment = Deployment::start(bed, Engine::Postgres).await?;
    let job = deployment.asked_job(&deployment.client, WAIT, WAIT).await?;
    let slots = u32::try_from(wanted).map_err(|_| failed("there are no so many slots"))?;
    let mut workers = Workers::attached(bed, &deployment, Fleet::one(slots)).await?;
    let began = Instant::now();
    deployment.trigger(&deployment.client, &job, wanted).await?;
    workers.have_started(wanted, PATIENCE).await?;
    let all_run = began.elapsed();
    // Longer than a session lives: they are renewed.
    tokio::time::sleep(Duration::from_secs(bed.settings.hold_seconds.into())).await;
    let (started, ended) = workers.count().await?;
    let memory = procfs::memory(deployment.pid()).map_or(f64::NAN, |(now, _)| now as f64 / 1e6);
    let of_workers = workers.memory().map_or(f64::NAN, |bytes| bytes as f64 / 1e6);
    let began = Instant::now();
    workers.release().await?;
    deployment.is_idle(PATIENCE, Duration::from_millis(20)).await?;
    let all_done = began.elapsed();
    let lost = lost(&deployment, wanted).await?;
    workers.stop().await;
    deployment.stop().await;
    let figures = vec![
        Figure::new("running_at_once", (started - ended) as f64, "").goal(Goal::AtLeast(wanted as f64)),
        Figure::new("lost", lost, "").goal(Goal::Exactly(0.0)),
        Figure::new("all_run_after", all_run.as_secs_f64(), "s"),
        Figure::new("all_done_after", all_done.as_secs_f64(), "s"),
        Figure::new("coordinator_memory", memory, "MB"),
        Figure::new("agent_memory", of_workers, "MB"),
    ];
    Ok(vec![Case::new(format!("{wanted} executions"), figures).with("hold_seconds", bed.settings.hold_seconds)])
}

/// How many have not completed in their first attempt.
async fn lost(deployment: &Deployment, wanted: u64) -> Result<f64> {
    let pool = deployment.database.pool()?;
    let count = "select count(*) from job_executions where status = 'completed' and attempt = 1";
    let completed: i64 = sqlx::query_scalar(count).fetch_one(pool).await?;
    Ok(wanted as f64 - completed as f64)
}
