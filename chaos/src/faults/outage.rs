use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use orrery_proto::Json;
use orrery_proto::v1::{BatchCreateJobsRequest, CreateJobRequest, JobType};
use orrery_sdk::{FunctionContext, FunctionError, FunctionRegistry, Worker};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Fault, Figure, Notes, Stage};
use crate::error::{Result, world};
use crate::evidence::{Evidence, percentile};
use crate::journal::{BY_SCHEDULE, PENDING};
use crate::wait::until;
use crate::world::{START, World};

/// Six hours without any coordinator, in which ten thousand jobs have come due.
pub(super) struct Outage;

const JOBS: usize = 10_000;
const A_CALL: usize = 1000;
const QUEUE: &str = "bulk";

/// How long all of them may take to be done.
const PATIENCE: Duration = Duration::from_secs(240);

#[async_trait(?Send)]
impl Fault for Outage {
    fn name(&self) -> &'static str {
        "outage"
    }

    fn goal(&self) -> &'static str {
        "500 fires/s, on-time lag p99 < 1 s"
    }

    async fn prepare(&self, world: &mut World) -> Result<()> {
        define(world, Utc::now()).await
    }

    async fn inject(&self, stage: &mut Stage<'_>) -> Result<()> {
        let shutdown = CancellationToken::new();
        let worker = worker(stage.world)?;
        let working = tokio::spawn(worker.run(shutdown.clone()));
        let done = outage(stage).await;
        shutdown.cancel();
        let _ = tokio::time::timeout(Duration::from_secs(20), working).await;
        done
    }

    fn figure(&self, evidence: &Evidence, _: &Notes) -> Figure {
        let own: HashMap<Uuid, _> = evidence.workload.jobs.iter().map(|(id, plan)| (*id, plan)).collect();
        let caught: Vec<DateTime<Utc>> = evidence
            .changes
            .iter()
            .filter(|c| c.source == "live" && c.new_state == Some(PENDING) && c.trigger_type == Some(BY_SCHEDULE))
            .filter(|c| c.job.is_some_and(|job| !own.contains_key(&job)))
            .map(|c| c.committed)
            .collect();
        let (Some(first), Some(last)) = (caught.iter().min(), caught.iter().max()) else {
            return Figure { text: "nothing was caught up with".into(), met: false };
        };
        let took = (*last - *first).num_milliseconds().max(1);
        let rate = i64::try_from(caught.len()).unwrap_or_default() * 1000 / took;
        // What came due while they caught up.
        let on_time: Vec<i64> = evidence
            .changes
            .iter()
            .filter(|c| c.source == "live" && c.old_state == Some(0) && c.new_state == Some(PENDING))
            .filter(|c| c.attempt == Some(0) && c.job.is_some_and(|job| own.contains_key(&job)))
            .filter(|c| c.scheduled_at.is_some_and(|at| at > *first && at < *last))
            .filter_map(|c| Some((c.committed - c.scheduled_at?).num_milliseconds()))
            .collect();
        let (late, count) = (percentile(&on_time, 99.0), on_time.len());
        let once = evidence.past.iter().filter(|p| !own.contains_key(&p.job_id)).count();
        let text = format!("{once} of {JOBS} done, {rate} fires/s, on-time p99 {late} ms of {count}");
        // Without a fire that came due meanwhile nothing is known of those.
        Figure { text, met: once == JOBS && caught.len() == JOBS && rate >= 500 && late < 1000 && count > 0 }
    }
}

async fn outage(stage: &mut Stage<'_>) -> Result<()> {
    for number in 0..stage.world.coordinators.len() {
        stage.world.kill_coordinator(number).await;
    }
    let away = tokio::time::Instant::now();
    // As if the cursors had stood there for six hours.
    let backdated = "update scheduled_jobs set next_execution_at = start_date where queue = $1";
    let done = sqlx::query(backdated).bind(QUEUE).execute(&stage.world.pool).await?;
    if done.rows_affected() != JOBS as u64 {
        return Err(world(format!("{} jobs were backdated", done.rows_affected())));
    }
    for number in 0..stage.world.coordinators.len() {
        stage.world.begin_coordinator(number)?;
    }
    for number in 0..stage.world.coordinators.len() {
        stage.world.finish_coordinator(number, START).await?;
    }
    stage.notes.outages += away.elapsed();
    stage.notes.injections = JOBS as u64;
    until("everything has been caught up with", PATIENCE, async || {
        let counted: i64 = sqlx::query_scalar("select count(*) from job_executions where queue = $1")
            .bind(QUEUE)
            .fetch_one(&stage.world.pool)
            .await?;
        Ok((counted >= JOBS as i64).then_some(()))
    })
    .await?;
    // Their next fires are days away; they are not what is waited for at the end.
    sqlx::query("update scheduled_jobs set status = 'paused' where queue = $1")
        .bind(QUEUE)
        .execute(&stage.world.pool)
        .await?;
    Ok(())
}

/// Daily jobs whose first fire was some time in the last six hours.
async fn define(world: &World, now: DateTime<Utc>) -> Result<()> {
    let client = world.client(0, Duration::from_secs(60))?;
    let config = json!({"modulePath": "chaos", "functionName": "nothing"}).to_string();
    for call in 0..JOBS / A_CALL {
        let job = |number: usize| {
            let seconds = i64::try_from(number * 2).unwrap_or_default() % (6 * 3600) + 120;
            let due = now - TimeDelta::seconds(seconds);
            CreateJobRequest {
                name: format!("bulk-{number}"),
                job_type: JobType::Function.into(),
                config: Some(Json::new(config.clone())),
                interval_ms: Some(24 * 3600 * 1000),
                start_date: Some(due.into()),
                max_concurrent: Some(0),
                queue: QUEUE.into(),
                ..CreateJobRequest::default()
            }
        };
        let jobs = (call * A_CALL..(call + 1) * A_CALL).map(job).collect();
        client.batch_create_jobs(BatchCreateJobsRequest { jobs }).await?;
    }
    Ok(())
}

/// One worker in this process, so that what is measured is the scheduler.
fn worker(world: &World) -> Result<Worker> {
    let mut functions = FunctionRegistry::new();
    functions.register("chaos", "nothing", async |_: serde_json::Value, _: FunctionContext| Ok::<_, FunctionError>(()));
    let addresses: Vec<String> = world.coordinators.iter().map(|c| c.from_clients.url()).collect();
    let builder = Worker::builder().endpoints(addresses).api_key(world.token()).name("bulk").queue(QUEUE);
    builder.slots(500).functions(functions).build().map_err(|error| crate::error::world(error.to_string()))
}
