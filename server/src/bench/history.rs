//! Reads of a long history, over the API.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use orrery_sdk::Client;
use orrery_sdk::v1::{
    ExecutionStatus, GetExecutionRequest, GetExecutionStatsRequest, GetMetricsRequest, ListExecutionsRequest,
    ListQueuesRequest, TriggerType,
};
use rand::Rng as _;
use tokio::time::Instant;

use super::bed::Bed;
use super::deployment::{Deployment, START};
use super::error::Result;
use super::figure::times;
use super::past::{self, Written};
use super::progress::say;
use super::raw::Ending;
use super::report::Case;
use super::samples::Samples;
use super::settings::Engine;
use super::worker::NOOP;
use super::workers::{Fleet, Workers};

/// Jobs that the history is of.
const JOBS: usize = 100;

/// The most that a read may take, in milliseconds.
const MOST: f64 = 50.0;

/// What is read.
const KINDS: [&str; 15] = [
    "list_newest",
    "list_next_page",
    "list_deep_page",
    "list_failed",
    "list_of_job",
    "list_failed_of_job",
    "list_failed_of_job_that_never_failed",
    "list_scheduled",
    "list_of_an_hour",
    "list_failed_of_an_hour",
    "get",
    "stats_of_a_day",
    "stats_of_a_job",
    "stats_of_all_days",
    "metrics",
];

/// # Errors
/// Where it cannot be measured.
pub(super) async fn measure(bed: &Bed) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for rows in bed.settings.history.clone() {
        say(format!("history: {rows} rows"));
        cases.push(history(bed, rows).await?);
        bed.drop_databases().await;
    }
    Ok(cases)
}

async fn history(bed: &Bed, rows: u64) -> Result<Case> {
    let deployment = Deployment::start(bed, Engine::Postgres).await?;
    let mut jobs = Vec::new();
    for n in 0..JOBS {
        jobs.push(deployment.asked_job(&deployment.client, &format!("job-{n}"), NOOP).await?);
    }
    // One real end, for rows to be like it.
    let workers = Workers::attached(bed, &deployment, Fleet::one(10)).await?;
    deployment.trigger(&deployment.client, &jobs[0], 1).await?;
    deployment.is_idle(START, Duration::from_millis(50)).await?;
    workers.stop().await;
    let pool = deployment.database.pool()?;
    let written = past::write(pool, &jobs, rows, &Ending::newest(pool).await?).await?;
    let mut figures = Vec::new();
    for kind in KINDS {
        say(format!("history: {kind}"));
        let mut took = Vec::new();
        for _ in 0..bed.settings.reads {
            let read = Read { client: &deployment.client, jobs: &jobs, written: &written };
            took.push(read.timed(kind).await?);
        }
        let named = times(kind, &Samples::of_times(took), [None, Some(MOST)]);
        figures.extend(named.into_iter().filter(|figure| !figure.name.ends_with("_max")));
    }
    deployment.stop().await;
    Ok(Case::new(format!("{rows} rows"), figures).with("rows", rows).with("reads_of_each", bed.settings.reads))
}

/// Where reads go, and what there is to be read.
struct Read<'a> {
    client: &'a Client,
    jobs: &'a [String],
    written: &'a Written,
}

impl Read<'_> {
    /// A read of a random part, and how long it took; what had to be known before does not count.
    async fn timed(&self, kind: &str) -> Result<Duration> {
        match kind {
            "get" => self.get().await,
            "metrics" => {
                let began = Instant::now();
                self.client.get_metrics(GetMetricsRequest {}).await?;
                self.client.list_queues(ListQueuesRequest::default()).await?;
                Ok(began.elapsed())
            }
            stats if stats.starts_with("stats") => self.stats(stats).await,
            list => self.list(list).await,
        }
    }

    fn job(&self) -> String {
        self.jobs[rand::rng().random_range(0..self.jobs.len())].clone()
    }

    /// A random instant of the history.
    fn instant(&self) -> DateTime<Utc> {
        let span = (self.written.to - self.written.from).num_seconds().max(1);
        self.written.from + TimeDelta::seconds(rand::rng().random_range(0..span))
    }

    async fn get(&self) -> Result<Duration> {
        let id = self.written.ids[rand::rng().random_range(0..self.written.ids.len())].to_string();
        let began = Instant::now();
        self.client.get_execution(GetExecutionRequest { id }).await?;
        Ok(began.elapsed())
    }

    async fn list(&self, kind: &str) -> Result<Duration> {
        let failed = kind.contains("failed").then_some(ExecutionStatus::Failed.into());
        let mut request = ListExecutionsRequest { status: failed, ..ListExecutionsRequest::default() };
        if kind.contains("never_failed") {
            request.job_id = self.jobs.last().cloned().unwrap_or_default();
        } else if kind.contains("of_job") {
            request.job_id = self.job();
        }
        if kind.contains("scheduled") {
            request.trigger_type = Some(TriggerType::Scheduled.into());
        }
        if kind.contains("of_an_hour") {
            let from = self.instant();
            request.from = Some(from.into());
            request.to = Some((from + TimeDelta::hours(1)).into());
        }
        if kind.contains("deep") {
            // Keyset paging: what lies before an instant is as far away as many pages.
            request.to = Some(self.instant().into());
        }
        if kind.contains("page") {
            let page = self.client.list_executions(request.clone()).await?;
            request.page_token = page.next_page_token;
        }
        let began = Instant::now();
        self.client.list_executions(request).await?;
        Ok(began.elapsed())
    }

    async fn stats(&self, kind: &str) -> Result<Duration> {
        let mut request = GetExecutionStatsRequest::default();
        match kind {
            "stats_of_a_day" => {}
            "stats_of_a_job" => request.job_id = self.job(),
            _ => {
                request.from = Some(self.written.from.into());
                request.to = Some(self.written.to.into());
            }
        }
        let began = Instant::now();
        self.client.get_execution_stats(request).await?;
        Ok(began.elapsed())
    }
}
