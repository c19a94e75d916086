//! What a tenant waits for while another one has a long queue.

use std::time::Duration;

use orrery_sdk::Client;
use tokio::time::Instant;

use super::bed::Bed;
use super::deployment::{Deployment, client};
use super::error::Result;
use super::figure::times;
use super::latency::{Probed, probe};
use super::progress::say;
use super::report::Case;
use super::settings::Engine;
use super::worker::NOOP;
use super::workers::{Fleet, Workers};

/// The most that another tenant's backlog may add, in milliseconds.
const MORE: f64 = 100.0;

/// Triggers between two looks at whether the backlog is still there.
const ROUND: u32 = 20;

/// # Errors
/// Where it cannot be measured.
pub(super) async fn measure(bed: &Bed) -> Result<Vec<Case>> {
    let backlog = bed.settings.fairness;
    say(format!("fairness: one tenant has {backlog} executions waiting, another one triggers"));
    let deployment = Deployment::start(bed, Engine::Postgres).await?;
    let other = client(&deployment.grpc, &deployment.database.keys.other)?;
    let job = deployment.asked_job(&deployment.client, NOOP, NOOP).await?;
    let of_other = deployment.asked_job(&other, NOOP, NOOP).await?;
    let mut workers = Workers::attached(bed, &deployment, Fleet::one(bed.settings.slots)).await?;
    probe(&other, &of_other, &mut workers, 50).await?;
    let idle = probe(&other, &of_other, &mut workers, bed.settings.triggers.min(300)).await?;
    workers.stop().await;
    deployment.has_agents(0, Duration::from_secs(60)).await?;

    deployment.trigger(&deployment.client, &job, backlog).await?;
    let mut workers = Workers::start(bed, &deployment, Fleet::one(bed.settings.slots)).await?;
    workers.go().await?;
    workers.have_started(1, Duration::from_secs(60)).await?;
    let beside = beside(&other, &of_other, &mut workers, backlog).await?;
    workers.stop().await;
    deployment.stop().await;

    let mut figures = times("idle_wait", &idle.to_start, [None, None]);
    let p99 = idle.to_start.percentile(99.0) + MORE;
    figures.extend(times("wait_beside_backlog", &beside.to_start, [None, Some(p99)]));
    Ok(vec![Case::new(format!("{backlog} of the other tenant"), figures).with("triggers", beside.to_start.len())])
}

/// Triggers until the backlog is gone.
async fn beside(client: &Client, job: &str, workers: &mut Workers, backlog: u64) -> Result<Probed> {
    let deadline = Instant::now() + Duration::from_secs(600);
    let mut all: Option<Probed> = None;
    let mut asked = 0;
    while Instant::now() < deadline {
        let round = probe(client, job, workers, ROUND).await?;
        asked += u64::from(ROUND);
        // What was asked for last may have run beside nothing.
        if workers.count().await?.0 >= backlog + asked && all.is_some() {
            break;
        }
        all = Some(match all {
            Some(before) => before.and(round),
            None => round,
        });
    }
    Ok(all.unwrap_or_default())
}
