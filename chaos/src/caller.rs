//! A client that triggers and cancels while everything breaks, and repeats a call whose outcome it does not know until it does.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use orrery_proto::v1::{CancelExecutionRequest, TriggerJobRequest};
use orrery_sdk::client::Client;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::error::{Result, world};
use crate::workload::{ASKED, CANCELLED, Workload};
use crate::world::World;

/// How long one call may take before another coordinator is asked.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long one call is repeated, once everything is healed.
const AFTER: Duration = Duration::from_secs(30);

/// One trigger that was answered.
#[derive(Clone, Debug)]
pub struct Asked {
    pub key: String,
    /// Every execution that an answer to this key named.
    pub executions: Vec<Uuid>,
    /// How often the call was made.
    pub calls: u32,
    pub cancelled: bool,
}

#[derive(Default)]
struct Record {
    asked: Vec<Asked>,
    unanswered: Vec<String>,
    refused: Vec<String>,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    pub asked: Vec<Asked>,
    /// Keys that never got an answer, though everything was healed.
    pub unanswered: Vec<String>,
    /// Answers that no fault explains.
    pub refused: Vec<String>,
}

/// The client, while it calls.
pub struct Caller {
    record: Arc<Mutex<Record>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Clone)]
struct Line {
    clients: Vec<Client>,
    record: Arc<Mutex<Record>>,
}

impl Caller {
    /// Begins to call, about every `pause`, each fourth call to be cancelled.
    ///
    /// # Errors
    /// Where no client can be made.
    pub fn start(world: &World, workload: &Workload, pause: Duration, seed: u64) -> Result<Self> {
        let clients: Result<Vec<Client>> = (0..world.coordinators.len()).map(|n| world.client(n, PATIENCE)).collect();
        let line = Line { clients: clients?, record: Arc::default() };
        let (asked, cancelled) = (workload.id(ASKED)?, workload.id(CANCELLED)?);
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (record, stopping, tracker) = (line.record.clone(), stop.clone(), tasks.clone());
        tasks.spawn(async move {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut number = 0_u32;
            while !stopping.is_cancelled() {
                number += 1;
                let is_cancelled = number.is_multiple_of(4);
                let job = if is_cancelled { cancelled } else { asked };
                let call =
                    line.clone().call(job, format!("call-{number}"), is_cancelled, rng.random(), stopping.clone());
                tracker.spawn(call);
                tokio::select! {
                    () = stopping.cancelled() => {}
                    () = sleep(pause.mul_f64(rng.random_range(0.5..1.5))) => {}
                }
            }
        });
        Ok(Self { record, stop, tasks })
    }

    /// Stops to call, once every call under way has its answer.
    pub async fn finish(self) -> Answers {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        Answers { asked: record.asked.clone(), unanswered: record.unanswered.clone(), refused: record.refused.clone() }
    }
}

/// What is asked of a coordinator.
enum Call {
    Trigger(TriggerJobRequest),
    Cancel(CancelExecutionRequest),
}

impl Call {
    /// The execution's id.
    async fn made(&self, client: &Client) -> std::result::Result<String, orrery_sdk::Error> {
        match self {
            Self::Trigger(request) => client.trigger_job(request.clone()).await,
            Self::Cancel(request) => client.cancel_execution(request.clone()).await,
        }
        .map(|execution| execution.id)
    }
}

impl Line {
    async fn call(self, job: Uuid, key: String, cancel: bool, seed: u64, stopping: CancellationToken) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut asked = Asked { key: key.clone(), executions: Vec::new(), calls: 0, cancelled: cancel };
        let again = rng.random_bool(0.2);
        let request = TriggerJobRequest { id: job.to_string(), idempotency_key: key.clone(), ..Default::default() };
        // Some are asked twice though the first answer came: the second must be the same.
        for _ in 0..=usize::from(again) {
            let call = Call::Trigger(request.clone());
            match self.answered(&mut rng, &stopping, &mut asked.calls, call).await {
                Ok(id) => asked.executions.extend(id.parse::<Uuid>().ok()),
                Err(Some(error)) => return self.record().refused.push(format!("{key}: {error}")),
                Err(None) => return self.record().unanswered.push(key),
            }
        }
        if cancel {
            sleep(Duration::from_millis(rng.random_range(0..1500))).await;
            let id = asked.executions.first().map(Uuid::to_string).unwrap_or_default();
            let call = Call::Cancel(CancelExecutionRequest { id, ..Default::default() });
            let mut calls = 0;
            match self.answered(&mut rng, &stopping, &mut calls, call).await {
                // Repeated after an unknown outcome it may find the execution over.
                Ok(_) | Err(Some(_)) => {}
                Err(None) => self.record().unanswered.push(format!("cancel of {key}")),
            }
        }
        self.record().asked.push(asked);
    }

    /// Asks one coordinator after the other until one gives an answer: an error that is one, or a result.
    async fn answered(
        &self,
        rng: &mut StdRng,
        stopping: &CancellationToken,
        calls: &mut u32,
        call: Call,
    ) -> std::result::Result<String, Option<crate::error::Error>> {
        let mut end: Option<Instant> = None;
        loop {
            if stopping.is_cancelled() {
                let end = *end.get_or_insert_with(|| Instant::now() + AFTER);
                if Instant::now() > end {
                    return Err(None);
                }
            }
            *calls += 1;
            let Some(client) = self.clients.get(rng.random_range(0..self.clients.len())) else { return Err(None) };
            match call.made(client).await {
                Ok(answer) => return Ok(answer),
                Err(error) if is_unknown(&error) => sleep(Duration::from_millis(rng.random_range(50..300))).await,
                Err(error) => return Err(Some(world(error.to_string()))),
            }
        }
    }

    fn record(&self) -> std::sync::MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether nobody knows what the call has done, or it is to be made again.
fn is_unknown(error: &orrery_sdk::Error) -> bool {
    let ended_by_transport = matches!(error.code(), "CANCELLED" | "UNKNOWN");
    ended_by_transport || (error.is_transient() && error.code() != "EXECUTION_ALREADY_FINISHED")
}
