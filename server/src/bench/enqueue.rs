//! How fast executions are queued, one by one and in batches, where nobody runs them.

use std::time::Duration;

use http::Method;
use orrery_sdk::v1::{BatchTriggerJobsRequest, TriggerJobRequest};
use orrery_sdk::{Client, Json};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::bed::Bed;
use super::deployment::{Deployment, client};
use super::error::{Result, failed};
use super::figure::{Figure, Goal, times};
use super::fill;
use super::progress::say;
use super::report::Case;
use super::rest::Rest;
use super::samples::Samples;
use super::settings::Engine;
use super::worker::NOOP;

/// Callers that call at the same time.
const MANY: usize = 32;

/// A caller, by either way.
#[derive(Clone)]
enum Caller {
    Grpc(Box<Client>),
    Rest(Rest),
}

/// What is called.
#[derive(Clone)]
struct Call {
    job: String,
    /// Triggers in a call; 1 is a single trigger.
    batch: usize,
}

/// # Errors
/// Where it cannot be measured.
pub(super) async fn measure(bed: &Bed) -> Result<Vec<Case>> {
    let deployment = Deployment::start(bed, Engine::Postgres).await?;
    let job = deployment.asked_job(&deployment.client, NOOP, NOOP).await?;
    deployment.trigger(&deployment.client, &job, 1000).await?;
    let mut cases = Vec::new();
    for (name, is_rest, callers, batch, least) in [
        ("grpc, single, 1 caller", false, 1, 1, Some(2500.0)),
        ("rest, single, 1 caller", true, 1, 1, Some(2500.0)),
        ("grpc, single, 32 callers", false, MANY, 1, None),
        ("rest, single, 32 callers", true, MANY, 1, None),
        ("grpc, batches of 1000", false, 1, 1000, Some(100_000.0)),
        ("rest, batches of 1000", true, 1, 1000, None),
        ("grpc, batches of 10000", false, 1, 10_000, Some(100_000.0)),
        ("grpc, batches of 1000, 4 callers", false, 4, 1000, Some(100_000.0)),
    ] {
        say(format!("enqueue: {name}"));
        let call = Call { job: job.clone(), batch };
        let figures = rate(bed, &deployment, is_rest, callers, call, least).await?;
        cases.push(Case::new(name, figures).with("callers", callers).with("batch", batch));
        fill::clear(deployment.database.pool()?).await?;
    }
    deployment.stop().await;
    Ok(cases)
}

async fn rate(
    bed: &Bed,
    deployment: &Deployment,
    is_rest: bool,
    callers: usize,
    call: Call,
    least: Option<f64>,
) -> Result<Vec<Figure>> {
    let key = &deployment.database.keys.caller;
    let caller = || match is_rest {
        true => Ok(Caller::Rest(Rest::new(&deployment.http, key)?)),
        false => Ok(Caller::Grpc(Box::new(client(&deployment.grpc, key)?))),
    };
    let callers = (0..callers).map(|_| caller()).collect::<Result<Vec<Caller>>>()?;
    for caller in &callers {
        // Connected before it counts.
        caller.call(&Call { batch: 1, ..call.clone() }, 0).await?;
    }
    let began = Instant::now();
    let until = began + Duration::from_secs(bed.settings.enqueue_seconds.into());
    let mut calling = JoinSet::new();
    for caller in callers {
        calling.spawn(calls(caller, call.clone(), until));
    }
    let mut all = Vec::new();
    while let Some(done) = calling.join_next().await {
        all.extend(done.map_err(|error| failed(error.to_string()))??);
    }
    let triggers = (all.len() * call.batch) as f64;
    let rate = Figure::new("triggers_per_second", triggers / began.elapsed().as_secs_f64(), "/s");
    let mut figures = vec![least.map_or(rate.clone(), |least| rate.goal(Goal::AtLeast(least)))];
    figures.extend(times("call", &Samples::of_times(all), [None, None]));
    Ok(figures)
}

/// Calls one after the other until an instant; answers with how long each took.
async fn calls(caller: Caller, call: Call, until: Instant) -> Result<Vec<Duration>> {
    let mut took = Vec::new();
    let mut number = 0_u64;
    while Instant::now() < until {
        let began = Instant::now();
        caller.call(&call, number).await?;
        took.push(began.elapsed());
        number += 1;
    }
    Ok(took)
}

/// Parameters as a program would send them.
fn parameters(number: u64) -> Value {
    json!({"order": number, "region": "eu-west", "dryRun": false})
}

impl Caller {
    async fn call(&self, call: &Call, number: u64) -> Result<()> {
        let of = |n: usize| parameters(number * call.batch as u64 + n as u64);
        match self {
            Self::Grpc(client) => {
                let trigger = |n| TriggerJobRequest {
                    id: call.job.clone(),
                    parameters: Some(Json::new(of(n).to_string())),
                    ..TriggerJobRequest::default()
                };
                if call.batch == 1 {
                    client.trigger_job(trigger(0)).await?;
                } else {
                    let triggers = (0..call.batch).map(trigger).collect();
                    client.batch_trigger_jobs(BatchTriggerJobsRequest { triggers }).await?;
                }
                Ok(())
            }
            Self::Rest(rest) if call.batch == 1 => {
                let path = format!("/jobs/{}/trigger", call.job);
                rest.call(Method::POST, &path, Some(&json!({"parameters": of(0)}))).await
            }
            Self::Rest(rest) => {
                let trigger = |n| json!({"id": call.job, "parameters": of(n)});
                let triggers: Vec<Value> = (0..call.batch).map(trigger).collect();
                rest.call(Method::POST, "/jobs/batch-trigger", Some(&json!({"triggers": triggers}))).await
            }
        }
    }
}
