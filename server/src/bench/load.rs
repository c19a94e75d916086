//! A steady rate of executions.

use std::time::Duration;

use orrery_sdk::Client;
use orrery_sdk::v1::{BatchTriggerJobsRequest, TriggerJobRequest};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::error::{Result, failed};

/// Calls in a second.
const CALLS: u64 = 50;

/// Triggers a job at a rate until it is told to stop.
pub(super) struct Load {
    task: AbortOnDropHandle<Result<u64>>,
    stop: CancellationToken,
}

impl Load {
    /// Begins; `rate` is a second's.
    pub(super) fn start(client: Client, job: String, rate: u64) -> Self {
        let stop = CancellationToken::new();
        let task = AbortOnDropHandle::new(tokio::spawn(steady(client, job, rate, stop.clone())));
        Self { task, stop }
    }

    /// Ends it; answers with how often it has triggered.
    ///
    /// # Errors
    /// Where a call has failed.
    pub(super) async fn stop(self) -> Result<u64> {
        self.stop.cancel();
        self.task.await.map_err(|error| failed(error.to_string()))?
    }
}

async fn steady(client: Client, job: String, rate: u64, stop: CancellationToken) -> Result<u64> {
    let mut ticks = interval(Duration::from_secs(1) / u32::try_from(CALLS).unwrap_or(1));
    // What is late is caught up on: the rate holds.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let one = TriggerJobRequest { id: job, ..TriggerJobRequest::default() };
    let mut asked = 0;
    for call in 1.. {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        let due = call * rate / CALLS;
        let triggers = std::iter::repeat_n(one.clone(), usize::try_from(due - asked).unwrap_or(0)).collect();
        client.batch_trigger_jobs(BatchTriggerJobsRequest { triggers }).await?;
        asked = due;
    }
    Ok(asked)
}
