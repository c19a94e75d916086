//! From a trigger to the start of its handler, on an idle system.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use orrery_sdk::Client;
use orrery_sdk::v1::TriggerJobRequest;
use tokio::time::{Instant, MissedTickBehavior, interval};
use uuid::Uuid;

use super::bed::Bed;
use super::deployment::{Deployment, START};
use super::error::{Result, failed};
use super::figure::times;
use super::progress::say;
use super::report::Case;
use super::samples::Samples;
use super::settings::Engine;
use super::worker::NOOP;
use super::workers::{Fleet, Start, Workers, lag};

/// Between two triggers.
const PAUSE: Duration = Duration::from_millis(10);

/// Triggers before those that count.
const WARM_UP: u32 = 100;

/// # Errors
/// Where it cannot be measured.
pub(super) async fn measure(bed: &Bed) -> Result<Vec<Case>> {
    say(format!("latency: {} triggers", bed.settings.triggers));
    let deployment = Deployment::start(bed, Engine::Postgres).await?;
    let job = deployment.asked_job(&deployment.client, NOOP, NOOP).await?;
    let mut workers = Workers::attached(bed, &deployment, Fleet::one(100)).await?;
    probe(&deployment.client, &job, &mut workers, WARM_UP).await?;
    let found = probe(&deployment.client, &job, &mut workers, bed.settings.triggers).await?;
    workers.stop().await;
    deployment.stop().await;
    let mut figures = times("trigger_to_start", &found.to_start, [Some(1.0), Some(2.3)]);
    figures.extend(times("trigger_call", &found.calls, [None, None]));
    Ok(vec![Case::new("idle", figures).with("triggers", bed.settings.triggers)])
}

/// What triggers one after the other took.
#[derive(Default)]
pub(super) struct Probed {
    /// From the call to the start of the handler.
    pub(super) to_start: Samples,
    /// From the call to its answer.
    pub(super) calls: Samples,
}

impl Probed {
    /// Both together.
    pub(super) fn and(self, other: Self) -> Self {
        Self { to_start: self.to_start.and(other.to_start), calls: self.calls.and(other.calls) }
    }
}

/// Triggers a job so often, 10 ms apart, and asks the workers when each began.
///
/// # Errors
/// Where a call fails or a handler does not start.
pub(super) async fn probe(client: &Client, job: &str, workers: &mut Workers, triggers: u32) -> Result<Probed> {
    let mut called = HashMap::new();
    let mut calls = Vec::new();
    let mut ticks = interval(PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for _ in 0..triggers {
        ticks.tick().await;
        let (at, began) = (wall_clock(), Instant::now());
        let request = TriggerJobRequest { id: job.to_owned(), ..TriggerJobRequest::default() };
        let id: Uuid = client.trigger_job(request).await?.id.parse().map_err(|_| failed("a trigger without an id"))?;
        calls.push(began.elapsed());
        called.insert(id, at);
    }
    let starts = starts_of(&called, workers).await?;
    let to_start = Samples::of(starts.iter().filter_map(|start| Some(lag(*called.get(&start.execution)?, start.at))));
    Ok(Probed { to_start, calls: Samples::of_times(calls) })
}

/// The starts of these executions, once all of them have begun.
async fn starts_of(called: &HashMap<Uuid, u128>, workers: &mut Workers) -> Result<Vec<Start>> {
    let deadline = Instant::now() + START;
    let mut found: Vec<Start> = Vec::new();
    while found.len() < called.len() {
        if Instant::now() > deadline {
            return Err(failed(format!("{} of {} executions have started", found.len(), called.len())));
        }
        let starts = workers.take().await?;
        found.extend(starts.into_iter().filter(|start| called.contains_key(&start.execution)));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(found)
}

/// Nanoseconds of the wall clock, which workers on this machine share.
pub(super) fn wall_clock() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()
}
