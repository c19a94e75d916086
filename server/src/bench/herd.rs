//! Many jobs that are due in the same second.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use orrery_sdk::v1::CreateJobRequest;
use tokio::time::Instant;

use super::bed::Bed;
use super::crons::{create, job, once_a_year, second_after};
use super::deployment::{BATCH, Deployment, client, function_job};
use super::error::{Result, failed};
use super::figure::{Figure, Goal};
use super::procfs;
use super::progress::say;
use super::report::Case;
use super::samples::Samples;
use super::worker::NOOP;
use super::workers::{Fleet, Workers};
use crate::reconcile::plan_ahead;

/// From the end of the making of jobs to the planning of their instant: the planner is done with what lies behind, and sleeps.
const AHEAD: TimeDelta = TimeDelta::seconds(6);

/// How much longer than expected the making may take; where it took longer still, all is made anew with more time.
const ALLOWANCES: [i32; 3] = [2, 5, 15];

/// How long it may take until all have started.
const PATIENCE: Duration = Duration::from_secs(300);

/// # Errors
/// Where it cannot be measured.
pub(super) async fn measure(bed: &Bed) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for jobs in bed.settings.herd.clone() {
        say(format!("herd: {jobs} jobs in the same second"));
        cases.push(herd(bed, jobs).await?);
        bed.drop_databases().await;
    }
    Ok(cases)
}

/// The most slots that a worker of a herd is given.
const MOST_SLOTS: u64 = 100_000;

/// How long before their instant fires are handed to agents: as long as planning and granting all of them takes.
fn armed_ahead(jobs: u64) -> Duration {
    Duration::from_millis(match jobs {
        0..=1000 => 1500,
        1001..=10_000 => 5000,
        _ => 40_000,
    })
}

/// Workers whose slots are enough for all of the herd, and for the quarter that is never granted ahead.
fn fleet(jobs: u64, least: u32) -> Fleet {
    let slots = (jobs * 3 / 2).max(least.into());
    let each = slots.div_ceil(MOST_SLOTS);
    let of_one = u32::try_from(slots / each).unwrap_or(least);
    Fleet { each: usize::try_from(each).unwrap_or(1), ..Fleet::one(of_one) }
}

async fn herd(bed: &Bed, jobs: u64) -> Result<Case> {
    for allowance in ALLOWANCES {
        if let Some(case) = tried(bed, jobs, allowance).await? {
            return Ok(case);
        }
        bed.drop_databases().await;
    }
    Err(failed("the jobs are not made before they have to be planned: the machine is too busy"))
}

/// `None` where the jobs were not made in time.
async fn tried(bed: &Bed, jobs: u64, allowance: i32) -> Result<Option<Case>> {
    let ahead = armed_ahead(jobs);
    let deployment = Deployment::start_armed(bed, ahead).await?;
    let mut workers = Workers::attached(bed, &deployment, fleet(jobs, bed.settings.slots)).await?;
    let warm = deployment.asked_job(&deployment.client, "warm", NOOP).await?;
    deployment.trigger(&deployment.client, &warm, 1000).await?;
    workers.have_started(1000, PATIENCE).await?;
    let began = Instant::now();
    let Some(instant) = made(&deployment, jobs, (allowance, ahead)).await? else {
        workers.stop().await;
        deployment.stop().await;
        return Ok(None);
    };
    let making = began.elapsed();
    workers.take().await?;
    let memory = procfs::memory(deployment.pid());
    workers.have_started(1000 + jobs, PATIENCE).await?;
    let starts = workers.take().await?;
    workers.stop().await;
    deployment.stop().await;

    let of_herd = u64::try_from(instant.timestamp_millis()).unwrap_or(0);
    let lags = Samples::of(starts.iter().filter(|start| start.instant_ms() == of_herd).map(|start| start.lag()));
    if lags.len() as u64 != jobs {
        return Err(failed(format!("{} of {jobs} jobs have fired at {instant}", lags.len())));
    }
    let case = Case::new(format!("{jobs} jobs"), figures(jobs, &lags, memory));
    let case = case.with("jobs", jobs).with("making_seconds", making.as_secs_f64());
    Ok(Some(case.with("arm_ahead_seconds", ahead.as_secs_f64())))
}

fn figures(jobs: u64, lags: &Samples, memory: Option<(u64, u64)>) -> Vec<Figure> {
    let p99 = Figure::new("lag_p99", lags.percentile(99.0), "ms");
    let all = Figure::new("all_started_within", lags.max() / 1e3, "s");
    let resident = Figure::new("coordinator_memory", memory.map_or(f64::NAN, |(now, _)| now as f64 / 1e6), "MB");
    let (p99, all) = match jobs {
        0..=1000 => (p99.goal(Goal::Below(10.0)), all),
        1001..=10_000 => (p99.goal(Goal::Below(100.0)), all),
        _ => (p99, all.goal(Goal::Below(3.0))),
    };
    vec![
        Figure::new("lag_p50", lags.percentile(50.0), "ms"),
        p99,
        Figure::new("lag_max", lags.max(), "ms"),
        Figure::new("earliest_start", lags.min(), "ms").goal(Goal::AtLeast(0.0)),
        all,
        resident.goal(Goal::Below(100.0)),
    ]
}

/// Makes jobs that are all due at the answered instant, which lies ahead when it answers; `None` where it does not.
async fn made(
    deployment: &Deployment,
    jobs: u64,
    (allowance, ahead): (i32, Duration),
) -> Result<Option<DateTime<Utc>>> {
    // How long that takes is not known before some have been made: manual jobs of another tenant, that do nothing.
    let other = client(&deployment.grpc, &deployment.database.keys.other)?;
    let began = Instant::now();
    let idle = |n: u64| CreateJobRequest { manual: true, ..function_job(&format!("idle-{n}"), NOOP) };
    create(&other, (0..BATCH).map(idle).collect()).await?;
    let batches = i32::try_from(jobs.div_ceil(BATCH)).unwrap_or(i32::MAX);
    let expected = TimeDelta::from_std(began.elapsed()).unwrap_or_default() * batches;
    let planned = TimeDelta::from_std(plan_ahead(ahead)).unwrap_or_default();
    let instant = second_after(Utc::now(), expected * allowance + planned + AHEAD);
    let expression = once_a_year(instant);
    create(&deployment.client, (0..jobs).map(|n| job(format!("herd-{n}"), expression.clone(), None)).collect()).await?;
    Ok((Utc::now() + planned + TimeDelta::milliseconds(500) < instant).then_some(instant))
}
