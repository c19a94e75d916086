//! What calls of the API take while executions run.

use std::time::Duration;

use http::Method;
use orrery_sdk::v1::{GetExecutionRequest, GetJobRequest, ListExecutionsRequest, ListJobsRequest, TriggerJobRequest};
use serde_json::json;
use tokio::time::Instant;

use super::bed::Bed;
use super::deployment::{Deployment, client};
use super::error::{Result, failed};
use super::figure::{Figure, Goal, times};
use super::load::Load;
use super::progress::say;
use super::report::Case;
use super::rest::Rest;
use super::samples::Samples;
use super::settings::Engine;
use super::worker::NOOP;
use super::workers::{Fleet, Workers};

/// Executions in a second meanwhile.
const RATE: u64 = 1000;

/// Between two rounds of calls.
const PAUSE: Duration = Duration::from_millis(20);

/// # Errors
/// Where it cannot be measured.
pub(super) async fn measure(bed: &Bed) -> Result<Vec<Case>> {
    let seconds = bed.settings.api_seconds;
    say(format!("api: calls beside {RATE} executions a second, for {seconds} s"));
    let deployment = Deployment::start(bed, Engine::Postgres).await?;
    let job = deployment.asked_job(&deployment.client, NOOP, NOOP).await?;
    let mut workers = Workers::attached(bed, &deployment, Fleet::one(bed.settings.slots)).await?;
    let load = Load::start(client(&deployment.grpc, &deployment.database.keys.caller)?, job.clone(), RATE);
    workers.have_started(RATE, Duration::from_secs(60)).await?;
    let (before, began) = (workers.count().await?.1, Instant::now());
    let (grpc, rest) = calls(&deployment, &job, began + Duration::from_secs(seconds.into())).await?;
    let rate = (workers.count().await?.1 - before) as f64 / began.elapsed().as_secs_f64();
    load.stop().await?;
    workers.stop().await;
    deployment.stop().await;
    let case = |name: &str, took: &[Vec<Duration>; KINDS.len()]| {
        let mut figures =
            vec![Figure::new("executions_per_second", rate, "/s").goal(Goal::AtLeast(0.95 * RATE as f64))];
        figures.extend(times("call", &Samples::of_times(took.iter().flatten().copied()), [None, Some(10.0)]));
        for (kind, took) in KINDS.iter().zip(took) {
            let p99 = Samples::of_times(took.iter().copied()).percentile(99.0);
            figures.push(Figure::new(format!("{kind}_p99"), p99, "ms").goal(Goal::Below(10.0)));
        }
        Case::new(name, figures).with("calls", took.iter().map(Vec::len).sum::<usize>())
    };
    Ok(vec![case("grpc", &grpc), case("rest", &rest)])
}

/// What is called in each round.
const KINDS: [&str; 5] = ["get_job", "list_jobs", "trigger", "get_execution", "list_executions"];

type Took = [Vec<Duration>; KINDS.len()];

/// Rounds of calls, by gRPC and by REST in turns.
async fn calls(deployment: &Deployment, job: &str, until: Instant) -> Result<(Took, Took)> {
    let rest = Rest::new(&deployment.http, &deployment.database.keys.caller)?;
    let (mut of_grpc, mut of_rest) = (Took::default(), Took::default());
    let mut execution = deployment.client.trigger_job(trigger(job)).await?.id;
    while Instant::now() < until {
        for kind in 0..KINDS.len() {
            let began = Instant::now();
            if let Some(made) = by_grpc(deployment, KINDS[kind], job, &execution).await? {
                execution = made;
            }
            of_grpc[kind].push(began.elapsed());
            let began = Instant::now();
            by_rest(&rest, KINDS[kind], job, &execution).await?;
            of_rest[kind].push(began.elapsed());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok((of_grpc, of_rest))
}

fn trigger(job: &str) -> TriggerJobRequest {
    TriggerJobRequest { id: job.to_owned(), ..TriggerJobRequest::default() }
}

/// A call; answers with the execution that it made.
async fn by_grpc(deployment: &Deployment, kind: &str, job: &str, execution: &str) -> Result<Option<String>> {
    let client = &deployment.client;
    match kind {
        "get_job" => drop(client.get_job(GetJobRequest { id: job.to_owned() }).await?),
        "list_jobs" => drop(client.list_jobs(ListJobsRequest::default()).await?),
        "trigger" => return Ok(Some(client.trigger_job(trigger(job)).await?.id)),
        "get_execution" => drop(client.get_execution(GetExecutionRequest { id: execution.to_owned() }).await?),
        "list_executions" => drop(client.list_executions(ListExecutionsRequest::default()).await?),
        other => return Err(failed(format!("{other} is no call"))),
    }
    Ok(None)
}

async fn by_rest(rest: &Rest, kind: &str, job: &str, execution: &str) -> Result<()> {
    match kind {
        "get_job" => rest.call(Method::GET, &format!("/jobs/{job}"), None).await,
        "list_jobs" => rest.call(Method::GET, "/jobs", None).await,
        "trigger" => rest.call(Method::POST, &format!("/jobs/{job}/trigger"), Some(&json!({}))).await,
        "get_execution" => rest.call(Method::GET, &format!("/executions/{execution}"), None).await,
        "list_executions" => rest.call(Method::GET, "/executions", None).await,
        other => Err(failed(format!("{other} is no call"))),
    }
}
